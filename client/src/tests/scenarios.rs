//! Each rule of the owner, by a story.

use std::rc::Rc;
use std::time::Duration;

use ashlar_proto::api::AckRule;
use ashlar_proto::{BlockIndex, Layer, RoomHint, ShardIndex, Status};
use ashlar_reactor::Reactor;
use ashlar_reactor::sim::World;

use super::cluster::{Cluster, options};
use crate::conformance::{self, buffer_of, bytes_of, pattern};
use crate::{AttachError, BlockDevice, BlockError, Durability, MemoryDevice, Volume, ZeroMode};

pub(super) async fn write(
    reactor: &Reactor,
    volume: &Volume,
    block: u64,
    seed: u64,
) -> Result<(), BlockError> {
    let buffer = buffer_of(reactor, &pattern(seed, 4096));
    volume
        .write(block * 4096, buffer, Durability::Accepted)
        .await
}

pub(super) async fn holds(volume: &Volume, block: u64, seed: u64) -> bool {
    let pieces = volume.read(block * 4096, 4096).await.unwrap();
    bytes_of(&pieces) == pattern(seed, 4096)
}

#[test]
fn memory_device_conforms() {
    let world = World::new(1);
    let process = world.process("device", [10, 0, 0, 1].into());
    let reactor = process.reactor().clone();
    let device = MemoryDevice::new(&reactor, 40 << 20);
    let limit = Duration::from_secs(600);
    world
        .run(limit, conformance::run(&reactor, &device))
        .unwrap();
    assert!(device.flushes() > 0);
}

#[test]
fn volume_conforms_with_any_number_of_replicas() {
    for (replicas, ack, volatile) in [
        (1, AckRule::Majority, true),
        (1, AckRule::Majority, false),
        (2, AckRule::Majority, true),
        (3, AckRule::Majority, true),
        (3, AckRule::Majority, false),
        (3, AckRule::All, true),
    ] {
        let cluster = Cluster::new(u64::from(replicas), replicas, ack, volatile);
        let owner = cluster.owner();
        let reactor = owner.reactor().clone();
        cluster.run(async {
            let volume = cluster.attach(&reactor).await.unwrap();
            conformance::run(&reactor, &volume).await;
            let health = volume.health();
            assert_eq!((health.shards_degraded, health.damage_seen), (0, 0));
            volume.detach().await.unwrap();
            assert_eq!(volume.flush().await, Err(BlockError::Detached));
        });
        let contents: Vec<_> = cluster.stores.iter().map(|s| s.contents()).collect();
        assert!(
            contents.windows(2).all(|pair| pair[0] == pair[1]),
            "replicas equal"
        );
        let stable = cluster.stores[0].state(0).stable;
        let highest = contents[0].iter().filter(|((s, _), _)| s.get() == 0);
        assert!(
            highest.map(|(_, v)| v.seq).max().unwrap() <= stable,
            "settled to the end: {replicas} {ack:?} {volatile}"
        );
    }
}

#[test]
fn one_of_three_dies_and_io_goes_on() {
    let cluster = Cluster::new(5, 3, AckRule::Majority, true);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        for block in 0..20 {
            write(&reactor, &volume, block, block).await.unwrap();
        }
        cluster.stores[1].lose_power();
        let started = reactor.now();
        for block in 0..20 {
            write(&reactor, &volume, block, block + 100).await.unwrap();
            assert!(holds(&volume, block, block + 100).await);
        }
        volume.flush().await.unwrap();
        assert!(
            reactor.now() - started < Duration::from_millis(300),
            "no pause"
        );
        reactor.sleep(Duration::from_secs(3)).await;
        for shard in 0..3 {
            assert_eq!(cluster.conductor.in_sync(shard), [0, 2], "proposed away");
        }
        assert_eq!(volume.health().shards_degraded, 3);
        assert_eq!(volume.health().replicas_dropped, 3);
        // The set of two needs both: the next death stops writes, but loses nothing.
        assert!(holds(&volume, 7, 107).await);
        volume.detach().await.unwrap();
    });
}

#[test]
fn with_two_or_all_acknowledgements_wait_for_the_commit() {
    for (replicas, ack) in [(2, AckRule::Majority), (3, AckRule::All)] {
        let cluster = Cluster::new(6, replicas, ack, false);
        let owner = cluster.owner();
        let reactor = owner.reactor().clone();
        cluster.run(async {
            let volume = cluster.attach(&reactor).await.unwrap();
            write(&reactor, &volume, 1, 1).await.unwrap();
            cluster.conductor.loses_answers.set(true);
            cluster.stores[0].kill();
            let (handle, other) = (reactor.clone(), volume.clone());
            let waiting = reactor.spawn(async move { write(&handle, &other, 1, 2).await });
            reactor.sleep(Duration::from_secs(2)).await;
            assert!(
                !waiting.is_finished(),
                "the outcome of the proposal is not known"
            );
            cluster.conductor.loses_answers.set(false);
            waiting.await.unwrap();
            assert!(holds(&volume, 1, 2).await);
        });
    }
}

#[test]
fn losing_the_conductor_and_one_of_three_stops_nothing() {
    let cluster = Cluster::new(7, 3, AckRule::Majority, false);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        cluster.conductor.down.set(true);
        cluster.stores[2].kill();
        for round in 0..50 {
            write(&reactor, &volume, round % 4, round).await.unwrap();
            reactor.sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(cluster.conductor.in_sync(0), [0, 1, 2]);
        cluster.conductor.down.set(false);
        reactor.sleep(Duration::from_secs(3)).await;
        assert_eq!(cluster.conductor.in_sync(0), [0, 1]);
    });
}

#[test]
fn a_replica_that_returns_in_time_is_brought_up_from_the_log() {
    for volatile in [false, true] {
        let cluster = Cluster::new(8, 3, AckRule::Majority, volatile);
        let owner = cluster.owner();
        let reactor = owner.reactor().clone();
        cluster.run(async {
            let volume = cluster.attach(&reactor).await.unwrap();
            for block in 0..30 {
                write(&reactor, &volume, block, block).await.unwrap();
            }
            cluster.stores[1].lose_power();
            for block in 10..40 {
                write(&reactor, &volume, block, block + 50).await.unwrap();
            }
            cluster.stores[1].start(&cluster.world);
            reactor.sleep(Duration::from_secs(2)).await;
            assert_eq!(cluster.conductor.in_sync(0), [0, 1, 2]);
            assert_eq!(volume.health().shards_degraded, 0);
            volume.flush().await.unwrap();
            reactor.sleep(Duration::from_secs(12)).await;
            assert!(!cluster.stores[1].state(0).may_have_lost, "made whole");
            volume.detach().await.unwrap();
        });
        let contents: Vec<_> = cluster.stores.iter().map(|s| s.contents()).collect();
        assert_eq!(contents[0], contents[1]);
        assert_eq!(contents[0], contents[2]);
    }
}

#[test]
fn flushed_writes_survive_the_power_of_all() {
    let cluster = Cluster::new(9, 3, AckRule::Majority, true);
    let first = cluster.owner();
    let reactor = first.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        for block in 0..50 {
            write(&reactor, &volume, block * 100, block).await.unwrap();
        }
        volume.flush().await.unwrap();
        write(&reactor, &volume, 0, 999).await.unwrap();
        let sector = buffer_of(&reactor, &[7; 512]);
        volume
            .write(4096, sector, Durability::Durable)
            .await
            .unwrap();
        for store in &cluster.stores {
            store.lose_power();
        }
    });
    first.crash();
    for store in &cluster.stores {
        store.start(&cluster.world);
    }
    let second = cluster.owner();
    let reactor = second.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        for block in 1..50 {
            assert!(holds(&volume, block * 100, block).await, "block {block}");
        }
        let sector = bytes_of(&volume.read(4096, 512).await.unwrap());
        assert_eq!(sector, [7; 512]);
    });
}

/// 1. The first owner writes; store 2 is cut off and misses some, store 0 alone has one more.
/// 2. It dies. 3. The next one makes all equal, and every acknowledged write is there.
#[test]
fn divergent_tails_are_reconciled() {
    let cluster = Cluster::new(10, 3, AckRule::Majority, false);
    let first = cluster.owner();
    let host = std::net::IpAddr::from([10, 0, 2, 1]);
    let reactor = first.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 1, 1).await.unwrap();
        cluster.world.partition(host, cluster.stores[2].host);
        for block in 2..10 {
            write(&reactor, &volume, block, block).await.unwrap();
        }
        let zeroed = volume.write_zeroes(8192, 4096, ZeroMode::Unmap, Durability::Accepted);
        zeroed.await.unwrap();
        cluster.world.partition(host, cluster.stores[1].host);
        let (handle, other) = (reactor.clone(), volume.clone());
        drop(reactor.spawn(async move { write(&handle, &other, 20, 20).await }));
        reactor.sleep(Duration::from_millis(200)).await;
    });
    first.crash();
    cluster.world.heal();
    let contents: Vec<_> = cluster.stores.iter().map(|s| s.contents()).collect();
    assert!(
        contents[0] != contents[1] && contents[1] != contents[2],
        "tails differ"
    );
    let second = cluster.owner();
    let reactor = second.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        for block in 3..10 {
            assert!(holds(&volume, block, block).await);
        }
        assert!(holds(&volume, 1, 1).await && holds(&volume, 20, 20).await);
        let zeroed = bytes_of(&volume.read(8192, 4096).await.unwrap());
        assert!(zeroed.iter().all(|&b| b == 0));
        let health = volume.health();
        assert_eq!((health.shards_degraded, health.may_have_lost), (0, false));
    });
    let contents: Vec<_> = cluster.stores.iter().map(|s| s.contents()).collect();
    assert!(
        contents[0] == contents[1] && contents[1] == contents[2],
        "equal again"
    );
}

/// O1's write reaches one store only; the next owner attaches without that store and must commit
/// it away before it serves, or the one after would bring the write back.
#[test]
fn who_does_not_answer_is_committed_away_before_service() {
    let cluster = Cluster::new(11, 3, AckRule::Majority, false);
    let first = cluster.owner();
    let reactor = first.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 1, 1).await.unwrap();
        cluster.stores[1].faults.hangs.set(true);
        cluster.stores[2].faults.hangs.set(true);
        let (handle, other) = (reactor.clone(), volume.clone());
        drop(reactor.spawn(async move { write(&handle, &other, 1, 2).await }));
        reactor.sleep(Duration::from_millis(200)).await;
    });
    first.crash();
    for store in &cluster.stores {
        store.faults.hangs.set(false);
    }
    cluster.stores[0].kill();
    let second = cluster.owner();
    let reactor = second.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        assert_eq!(cluster.conductor.in_sync(0), [1, 2]);
        assert!(holds(&volume, 1, 1).await);
    });
    second.crash();
    cluster.stores[0].start(&cluster.world);
    let third = cluster.owner();
    let reactor = third.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        assert!(holds(&volume, 1, 1).await, "the orphan stays away");
    });
}

#[test]
fn too_few_answers_are_not_served() {
    let cluster = Cluster::new(12, 3, AckRule::Majority, false);
    cluster.stores[0].kill();
    cluster.stores[1].kill();
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let attached = cluster.attach(&reactor).await.map(|_| ());
        let shard = ShardIndex::new(0);
        assert_eq!(attached, Err(AttachError::Unavailable { shard }));
        cluster.stores[1].start(&cluster.world);
        let volume = cluster.attach(&reactor).await.unwrap();
        assert_eq!(cluster.conductor.in_sync(0), [1, 2]);
        write(&reactor, &volume, 1, 1).await.unwrap();
    });
}

#[test]
fn a_fenced_owner_stops_for_good() {
    let cluster = Cluster::new(13, 3, AckRule::Majority, true);
    let (first, second) = (cluster.owner(), cluster.owner());
    cluster.run(async {
        let old = cluster.attach(first.reactor()).await.unwrap();
        write(first.reactor(), &old, 1, 1).await.unwrap();
        let new = cluster.attach(second.reactor()).await.unwrap();
        let fenced = Err(BlockError::Fenced);
        assert_eq!(write(first.reactor(), &old, 1, 2).await, fenced);
        assert_eq!(old.read(4096, 4096).await.map(|_| ()), fenced);
        assert_eq!(old.flush().await, fenced);
        assert!(old.health().fenced);
        assert!(holds(&new, 1, 1).await);
        assert_eq!(old.detach().await, fenced);
        write(second.reactor(), &new, 1, 3).await.unwrap();
        new.detach().await.unwrap();
    });
}

#[test]
fn a_fenced_owner_reads_nothing_either() {
    let cluster = Cluster::new(14, 1, AckRule::Majority, true);
    let (first, second) = (cluster.owner(), cluster.owner());
    cluster.run(async {
        let old = cluster.attach(first.reactor()).await.unwrap();
        let _new = cluster.attach(second.reactor()).await.unwrap();
        let read = old.read(4096, 4096).await.map(|_| ());
        assert_eq!(read, Err(BlockError::Fenced));
    });
}

#[test]
fn a_bad_copy_is_answered_from_another_and_repaired() {
    let cluster = Cluster::new(15, 3, AckRule::Majority, false);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        for block in 0..64 {
            write(&reactor, &volume, block, block).await.unwrap();
        }
        let zeroed = volume.write_zeroes(0, 4096, ZeroMode::Unmap, Durability::Accepted);
        zeroed.await.unwrap();
        reactor.sleep(Duration::from_millis(50)).await;
        for (store, block) in [(0, 3), (1, 30), (2, 31), (1, 0)] {
            let key = (ShardIndex::new(0), BlockIndex::new(block));
            cluster.stores[store]
                .faults
                .damaged
                .borrow_mut()
                .insert(key);
        }
        for _ in 0..12 {
            let all = bytes_of(&volume.read(4096, 63 * 4096).await.unwrap());
            for block in 1..64 {
                let at = (block - 1) * 4096;
                assert!(
                    all[at..at + 4096] == pattern(block as u64, 4096),
                    "block {block}"
                );
            }
            volume.read(0, 4096).await.unwrap();
            reactor.sleep(Duration::from_millis(200)).await;
        }
        for store in &cluster.stores {
            assert!(store.faults.damaged.borrow().is_empty(), "repaired");
        }
        let health = volume.health();
        assert_eq!(health.blocks_repaired, 4);
        assert!(health.damage_seen >= 3 && health.reads_retried >= 3);
        assert_eq!(health.shards_degraded, 0);
    });
    let contents: Vec<_> = cluster.stores.iter().map(|s| s.contents()).collect();
    assert!(contents[0] == contents[1] && contents[1] == contents[2]);
}

#[test]
fn a_payload_that_fails_its_checksum_is_never_returned() {
    for replicas in [1, 2] {
        let cluster = Cluster::new(16, replicas, AckRule::Majority, false);
        let owner = cluster.owner();
        let reactor = owner.reactor().clone();
        cluster.run(async {
            let volume = cluster.attach(&reactor).await.unwrap();
            write(&reactor, &volume, 5, 5).await.unwrap();
            let key = (ShardIndex::new(0), BlockIndex::new(5));
            cluster.stores[0].faults.corrupt.borrow_mut().insert(key);
            for _ in 0..8 {
                let read = volume.read(5 * 4096, 4096).await;
                match read {
                    Ok(pieces) => assert!(bytes_of(&pieces) == pattern(5, 4096)),
                    Err(error) => assert_eq!((error, replicas), (BlockError::Corrupt, 1)),
                }
            }
            assert!(volume.health().damage_seen > 0);
        });
    }
}

#[test]
fn no_space_everywhere_fails_the_write_and_leaves_nothing() {
    let cluster = Cluster::new(17, 3, AckRule::Majority, false);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 1, 1).await.unwrap();
        // Until the last of them has it, too.
        reactor.sleep(Duration::from_millis(100)).await;
        for store in &cluster.stores {
            store.faults.writes.set(Some(Status::NoSpace));
        }
        assert_eq!(
            write(&reactor, &volume, 1, 2).await,
            Err(BlockError::NoSpace)
        );
        assert!(holds(&volume, 1, 1).await);
        assert_eq!(volume.health().shards_degraded, 0);
        for store in &cluster.stores {
            store.faults.writes.set(None);
        }
        write(&reactor, &volume, 1, 3).await.unwrap();
        assert!(holds(&volume, 1, 3).await);
    });
}

#[test]
fn who_alone_has_no_room_is_behind() {
    let cluster = Cluster::new(18, 3, AckRule::Majority, false);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        cluster.stores[0].faults.writes.set(Some(Status::NoSpace));
        write(&reactor, &volume, 1, 2).await.unwrap();
        assert!(holds(&volume, 1, 2).await);
        reactor.sleep(Duration::from_secs(2)).await;
        assert_eq!(cluster.conductor.in_sync(0), [1, 2]);
        assert_eq!(cluster.conductor.in_sync(1), [0, 1, 2]);
    });
}

#[test]
fn above_the_soft_mark_only_overwrites_go_on() {
    let cluster = Cluster::new(19, 3, AckRule::Majority, false);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 1, 1).await.unwrap();
        cluster.stores[1].faults.room.set(RoomHint::Soft);
        write(&reactor, &volume, 1, 2).await.unwrap();
        reactor.sleep(Duration::from_millis(50)).await;
        let seen = cluster.stores[0].writes_seen.get();
        assert_eq!(
            write(&reactor, &volume, 2, 2).await,
            Err(BlockError::NoSpace)
        );
        assert_eq!(
            cluster.stores[0].writes_seen.get(),
            seen,
            "nothing was sent"
        );
        write(&reactor, &volume, 1, 3).await.unwrap();
        assert!(holds(&volume, 1, 3).await);
        volume.trim(4096, 4096, Durability::Accepted).await.unwrap();
        cluster.stores[1].faults.room.set(RoomHint::Ample);
        volume.trim(4096, 4096, Durability::Accepted).await.unwrap();
        reactor.sleep(Duration::from_millis(50)).await;
        write(&reactor, &volume, 2, 2).await.unwrap();
    });
}

/// Writes blocks all at once while no store answers; then the soft mark is passed: what was not sent is
/// refused, what was sent is taken. Gives how many were.
async fn burst(
    cluster: &Cluster,
    reactor: &Reactor,
    volume: &Volume,
    blocks: std::ops::RangeInclusive<u64>,
) -> u64 {
    for store in &cluster.stores {
        store.faults.hangs.set(true);
    }
    let mut writing = Vec::new();
    for block in blocks {
        let (handle, other) = (reactor.clone(), volume.clone());
        let write = async move { write(&handle, &other, block, block).await };
        writing.push(reactor.spawn(write));
    }
    reactor.sleep(Duration::from_millis(100)).await;
    for store in &cluster.stores {
        store.faults.room.set(RoomHint::Soft);
        store.faults.hangs.set(false);
    }
    let mut sent = 0;
    for write in writing {
        match write.await {
            Ok(()) => sent += 1,
            Err(error) => assert_eq!(error, BlockError::NoSpace),
        }
    }
    sent
}

/// With a lot under way when the soft mark was passed, each full replica took another part of it and
/// refused the rest: all but one fell behind, and a write that only one had taken hung.
#[test]
fn little_is_in_flight_where_room_is_scarce() {
    let cluster = Cluster::new(33, 3, AckRule::Majority, false);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        for store in &cluster.stores {
            store.faults.room.set(RoomHint::Scarce);
        }
        write(&reactor, &volume, 0, 1).await.unwrap();
        reactor.sleep(Duration::from_millis(50)).await;
        let blocks_max = options().scarce_bytes / 4096;
        let sent = burst(&cluster, &reactor, &volume, 1..=blocks_max + 20).await;
        assert_eq!(sent, blocks_max);
        assert_eq!(volume.health().shards_degraded, 0);
    });
}

/// Another volume filled the disk while this one rested: all that its host then gave it was sent on the
/// word of an answer of long ago, and what did not fit cost it the replica.
#[test]
fn who_has_not_heard_for_a_while_asks_with_little() {
    let cluster = Cluster::new(34, 3, AckRule::Majority, false);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 0, 1).await.unwrap();
        let blocks_max = options().scarce_bytes / 4096;
        reactor.sleep(Duration::from_secs(2)).await;
        let sent = burst(&cluster, &reactor, &volume, 1..=2 * blocks_max).await;
        assert_eq!(sent, blocks_max);
        for store in &cluster.stores {
            store.faults.room.set(RoomHint::Ample);
        }
        // Once it has heard, as much as there is.
        write(&reactor, &volume, 0, 2).await.unwrap();
        reactor.sleep(Duration::from_millis(50)).await;
        let more = 2 * blocks_max + 1..=4 * blocks_max;
        let sent = burst(&cluster, &reactor, &volume, more).await;
        assert_eq!(sent, 2 * blocks_max);
    });
}

/// A snapshot holds what is overwritten, so an overwrite took room on disks that had none left: they
/// refused it one after another, and a full cluster was left with one replica of the volume in sync.
#[test]
fn above_the_soft_mark_overwrites_of_what_a_snapshot_shows_are_refused() {
    let cluster = Cluster::new(32, 3, AckRule::Majority, false);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 1, 1).await.unwrap();
        write(&reactor, &volume, 2, 1).await.unwrap();
        volume.detach().await.unwrap();
        cluster.conductor.seal(Layer::new(1));
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 2, 2).await.unwrap();
        cluster.stores[1].faults.room.set(RoomHint::Soft);
        // Heard of with the answer.
        write(&reactor, &volume, 2, 3).await.unwrap();
        reactor.sleep(Duration::from_millis(50)).await;
        let refused = write(&reactor, &volume, 1, 4).await;
        assert_eq!(refused, Err(BlockError::NoSpace));
        write(&reactor, &volume, 2, 5).await.unwrap();
        assert!(holds(&volume, 1, 1).await);
        assert!(holds(&volume, 2, 5).await);
        assert_eq!(volume.health().shards_degraded, 0);
    });
}

#[test]
fn without_a_quorum_requests_fail_in_time_and_resume() {
    let cluster = Cluster::new(20, 3, AckRule::Majority, true);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 1, 1).await.unwrap();
        volume.flush().await.unwrap();
        for store in &cluster.stores {
            store.lose_power();
        }
        let started = reactor.now();
        let failed = Err(BlockError::Unavailable);
        assert_eq!(write(&reactor, &volume, 1, 2).await, failed);
        assert_eq!(volume.read(4096, 4096).await.map(|_| ()), failed);
        assert!(reactor.now() - started < Duration::from_secs(25));
        assert_eq!(volume.health().shards_unavailable, 3);
        for store in &cluster.stores {
            store.start(&cluster.world);
        }
        reactor.sleep(Duration::from_secs(3)).await;
        write(&reactor, &volume, 1, 3).await.unwrap();
        assert!(holds(&volume, 1, 3).await);
        volume.flush().await.unwrap();
        assert_eq!(volume.health().shards_degraded, 0);
        volume.detach().await.unwrap();
    });
}

#[test]
fn a_store_that_hangs_is_given_up() {
    let cluster = Cluster::new(21, 3, AckRule::Majority, true);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        cluster.stores[2].faults.hangs.set(true);
        for block in 0..20 {
            write(&reactor, &volume, block, block).await.unwrap();
            assert!(holds(&volume, block, block).await);
        }
        reactor.sleep(Duration::from_secs(8)).await;
        assert_eq!(cluster.conductor.in_sync(0), [0, 1]);
        volume.flush().await.unwrap();
    });
}

/// A replica that takes no writes must not make the owner keep them without bound.
#[test]
fn memory_kept_for_a_slow_replica_is_bounded() {
    let cluster = Cluster::new(22, 3, AckRule::Majority, false);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    let small = crate::VolumeOptions {
        retained_bytes_max: 4 << 20,
        flush_bytes: 1 << 20,
        replica_grace: Duration::from_secs(1000),
        request_timeout: Duration::from_secs(1000),
        ..options()
    };
    cluster.run(async {
        let conductor = Rc::clone(&cluster.conductor);
        let volume = Volume::attach(&reactor, conductor, "v", small)
            .await
            .unwrap();
        cluster.stores[1].faults.hangs.set(true);
        for round in 0..40 {
            let buffer = buffer_of(&reactor, &pattern(round, 256 << 10));
            let offset = (round % 8) * (256 << 10);
            volume
                .write(offset, buffer, Durability::Accepted)
                .await
                .unwrap();
        }
        assert!(volume.core.retained.get() <= 5 << 20);
        reactor.sleep(Duration::from_secs(2)).await;
        assert_eq!(cluster.conductor.in_sync(0), [0, 2]);
        volume.flush().await.unwrap();
    });
}

#[test]
fn idle_owners_flush_and_record_how_far_they_are_settled() {
    let cluster = Cluster::new(23, 3, AckRule::Majority, true);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 1, 1).await.unwrap();
        let before = cluster.stores[0].state(0).stable;
        reactor.sleep(Duration::from_secs(7)).await;
        for store in &cluster.stores {
            assert!(store.state(0).stable > before, "settled by itself");
        }
        assert_eq!(volume.core.retained.get(), 0);
    });
}

#[test]
fn an_owner_that_is_dropped_lets_everything_go() {
    let cluster = Cluster::new(24, 3, AckRule::Majority, true);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 1, 1).await.unwrap();
        let weak = Rc::downgrade(&volume.core);
        drop(volume);
        reactor.sleep(Duration::from_secs(30)).await;
        assert!(weak.upgrade().is_none(), "no task keeps the owner");
    });
}

#[test]
fn a_used_up_window_is_followed_by_a_recorded_one() {
    let cluster = Cluster::new(25, 3, AckRule::Majority, true);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 1, 1).await.unwrap();
        volume.flush().await.unwrap();
        let window = volume.core.seqs.borrow().last().window();
        cluster.stores[2].kill();
        volume.core.seqs.borrow_mut().skip_to_last(3);
        for block in 0..10 {
            write(&reactor, &volume, block, block).await.unwrap();
        }
        assert_eq!(volume.core.seqs.borrow().last().window(), window.next());
        for store in &cluster.stores[..2] {
            assert_eq!(
                store.state(0).window,
                window.next(),
                "recorded before it was used"
            );
        }
        // Who was away for it is told of it before it gets writes of it.
        cluster.stores[2].start(&cluster.world);
        reactor.sleep(Duration::from_secs(1)).await;
        assert_eq!(volume.health().shards_degraded, 0);
        assert_eq!(cluster.stores[2].state(0).window, window.next());
        for block in 0..10 {
            assert!(holds(&volume, block, block).await);
        }
        volume.detach().await.unwrap();
        let volume = cluster.attach(&reactor).await.unwrap();
        assert_eq!(
            volume.core.seqs.borrow().last().window(),
            window.next().next()
        );
    });
}

/// A read that shows a write in flight must not end before that write is acknowledged: the next
/// read, elsewhere, would not show it.
#[test]
fn a_read_waits_for_the_write_that_it_shows() {
    let cluster = Cluster::new(26, 3, AckRule::Majority, false);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 1, 1).await.unwrap();
        reactor.sleep(Duration::from_millis(10)).await;
        cluster.stores[1].faults.hangs.set(true);
        cluster.stores[2].faults.hangs.set(true);
        let (handle, other) = (reactor.clone(), volume.clone());
        let writing = reactor.spawn(async move { write(&handle, &other, 1, 2).await });
        reactor.sleep(Duration::from_millis(10)).await;
        let mut reads = Vec::new();
        for _ in 0..8 {
            let other = volume.clone();
            reads.push(reactor.spawn(async move { holds(&other, 1, 2).await }));
        }
        reactor.sleep(Duration::from_millis(300)).await;
        assert!(!writing.is_finished());
        assert!(reads.iter().all(|read| !read.is_finished()), "held");
        cluster.stores[1].faults.hangs.set(false);
        cluster.stores[2].faults.hangs.set(false);
        writing.await.unwrap();
        for read in reads {
            assert!(read.await, "shows what was acknowledged");
        }
    });
}

#[test]
fn a_replica_that_keeps_failing_is_not_given_its_grace_for_ever() {
    let cluster = Cluster::new(27, 3, AckRule::Majority, false);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        cluster.stores[1]
            .faults
            .writes
            .set(Some(Status::Unavailable));
        for round in 0..40 {
            write(&reactor, &volume, round % 4, round).await.unwrap();
            reactor.sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(cluster.conductor.in_sync(0), [0, 2]);
        assert_eq!(cluster.conductor.in_sync(1), [0, 1, 2]);
    });
}

/// Waiting in a long queue is not hanging.
#[test]
fn a_slow_store_that_answers_is_kept() {
    let cluster = Cluster::new(28, 2, AckRule::Majority, false);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        let slow = Duration::from_millis(300);
        cluster.stores[1].faults.slow.set(slow);
        let started = reactor.now();
        let mut writing = Vec::new();
        for block in 0..16 {
            let (handle, other) = (reactor.clone(), volume.clone());
            let write = async move { write(&handle, &other, block, block).await };
            writing.push(reactor.spawn(write));
        }
        for write in writing {
            write.await.unwrap();
        }
        assert!(reactor.now() - started > options().request_timeout);
        assert_eq!(cluster.conductor.in_sync(0), [0, 1]);
        assert_eq!(volume.health().shards_degraded, 0);
    });
}

#[test]
fn an_attach_that_is_dropped_leaves_no_session() {
    let cluster = Cluster::new(29, 3, AckRule::Majority, false);
    cluster.stores[2].kill();
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let nap = Duration::from_millis(500);
        let attached = reactor.timeout(nap, cluster.attach(&reactor)).await;
        assert!(attached.is_err(), "dropped while it waits for the third");
        reactor.sleep(Duration::from_secs(1)).await;
        assert_eq!(cluster.stores[0].sessions.get(), 0);
    });
}
