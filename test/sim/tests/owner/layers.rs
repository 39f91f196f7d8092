//! Snapshots, deletes and rollbacks, by stories.

use std::time::Duration;

use ashlar_client::conformance::{bytes_of, pattern};
use ashlar_client::{BlockDevice, BlockError, Durability, Snapshot, Volume, ZeroMode};
use ashlar_proto::Layer;
use ashlar_proto::api::AckRule;
use ashlar_proto::message::BlockKind;
use ashlar_reactor::Reactor;
use ashlar_reactor::sim::DiskSpec;

use super::cluster::{Cluster, VOLUME_BYTES};
use super::{holds, write};

async fn shows(snapshot: &Snapshot, block: u64, seed: Option<u64>) -> bool {
    let pieces = snapshot.read(block * 4096, 4096).await.unwrap();
    let expected = seed.map_or(vec![0; 4096], |seed| pattern(seed, 4096));
    bytes_of(&pieces) == expected
}

/// Seals the head, and waits until that layer is ready.
async fn snapshot(cluster: &Cluster, reactor: &Reactor) -> Layer {
    let layer = cluster.conductor.seal();
    cluster.settled(reactor, layer).await;
    layer
}

async fn trim(volume: &Volume, block: u64, count: u64) {
    let trimmed = volume.trim(block * 4096, count * 4096, Durability::Accepted);
    trimmed.await.unwrap();
}

#[test]
fn a_snapshot_stays_as_it_was_on_every_replica() {
    for (seed, spec) in [
        (200, DiskSpec::new as fn(u64) -> DiskSpec),
        (201, DiskSpec::write_through),
    ] {
        let cluster = Cluster::new(seed, 3, AckRule::Majority, spec);
        let owner = cluster.owner();
        let reactor = owner.reactor().clone();
        cluster.run(async {
            let volume = cluster.attach(&reactor).await.unwrap();
            for block in 0..40 {
                write(&reactor, &volume, block * 100, block).await;
            }
            let first = snapshot(&cluster, &reactor).await;
            for block in 0..20 {
                write(&reactor, &volume, block * 100, block + 1000).await;
            }
            trim(&volume, 3000, 101).await;
            let second = snapshot(&cluster, &reactor).await;
            let zeroed = volume.write_zeroes(0, 500 * 4096, ZeroMode::Unmap, Durability::Accepted);
            zeroed.await.unwrap();
            write(&reactor, &volume, 7, 7).await;
            volume.flush().await.unwrap();
            reactor.sleep(Duration::from_secs(8)).await;
            // One replica after the other has to show it alone.
            for away in [[0, 1], [1, 2], [0, 2]] {
                for number in away {
                    cluster.sites[number].kill();
                }
                let (one, two) = (
                    cluster.open(&reactor, first).await,
                    cluster.open(&reactor, second).await,
                );
                for block in 0..40 {
                    assert!(
                        shows(&one, block * 100, Some(block)).await,
                        "{seed} {block}"
                    );
                    let later = match block {
                        0..20 => Some(block + 1000),
                        30 | 31 => None,
                        _ => Some(block),
                    };
                    assert!(shows(&two, block * 100, later).await, "{seed} {block}");
                }
                assert!(shows(&one, 7, None).await && shows(&two, 7, None).await);
                let refused = one.trim(0, 4096, Durability::Accepted).await;
                assert_eq!(refused, Err(BlockError::ReadOnly));
                for number in away {
                    cluster.restart(number).await;
                }
                reactor.sleep(Duration::from_secs(10)).await;
            }
            assert!(holds(&volume, 7, 7).await && holds(&volume, 700, 7 + 1000).await);
        });
    }
}

#[test]
fn what_changed_between_two_snapshots_is_told() {
    let cluster = Cluster::new(210, 2, AckRule::Majority, DiskSpec::write_through);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        for block in 0..10 {
            write(&reactor, &volume, block, block).await;
        }
        let first = snapshot(&cluster, &reactor).await;
        write(&reactor, &volume, 3, 33).await;
        write(&reactor, &volume, 4, 44).await;
        trim(&volume, 8, 2).await;
        let second = snapshot(&cluster, &reactor).await;
        write(&reactor, &volume, 4000, 1).await;
        let opened = cluster.open(&reactor, second).await;
        let runs = opened
            .changed_since(first, 0, VOLUME_BYTES, 100)
            .await
            .unwrap();
        let runs: Vec<_> = runs.iter().map(|run| (run.kind, run.count.get())).collect();
        let blocks = u32::try_from(VOLUME_BYTES / 4096).unwrap();
        let (absent, data, zero) = (BlockKind::Absent, BlockKind::Data, BlockKind::Zero);
        let expected = [
            (absent, 3),
            (data, 2),
            (absent, 3),
            (zero, 2),
            (absent, blocks - 10),
        ];
        assert_eq!(runs, expected);
        let runs = volume.changed_since(second, 4000 * 4096, 8192, 100).await;
        let runs: Vec<_> = runs.unwrap().iter().map(|run| run.kind).collect();
        assert_eq!(runs, [data, absent]);
        let all = opened.extents(0, 16 * 4096, 100).await.unwrap();
        let all: Vec<_> = all.iter().map(|run| (run.kind, run.count.get())).collect();
        assert_eq!(all, [(data, 8), (zero, 2), (absent, 6)]);
    });
}

/// A replica lacks a write that was acknowledged before the snapshot: it is not ready before that
/// replica is out of the set, for until then it may be asked to show it.
#[test]
fn a_snapshot_is_ready_once_its_writes_are_on_all_in_sync() {
    let cluster = Cluster::new(220, 3, AckRule::Majority, DiskSpec::write_through);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 1, 1).await;
        volume.flush().await.unwrap();
        cluster.sites[2].kill();
        write(&reactor, &volume, 1, 2).await;
        let layer = cluster.conductor.seal();
        write(&reactor, &volume, 1, 3).await;
        while !cluster.conductor.is_settled(layer) {
            assert_eq!(cluster.conductor.in_sync(0), [0, 1, 2]);
            while cluster.conductor.in_sync(0).len() == 3 && !cluster.conductor.is_settled(layer) {
                reactor.sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(
                cluster.conductor.in_sync(0),
                [0, 1],
                "ready with one that lacks it"
            );
            cluster.settled(&reactor, layer).await;
        }
        let opened = cluster.open(&reactor, layer).await;
        let seen = bytes_of(&opened.read(4096, 4096).await.unwrap());
        let is_before_or_after = seen == pattern(2, 4096) || seen == pattern(3, 4096);
        assert!(is_before_or_after);
        // The other one comes back with all of it.
        cluster.restart(2).await;
        reactor.sleep(Duration::from_secs(20)).await;
        assert_eq!(cluster.conductor.in_sync(0), [0, 1, 2]);
        cluster.sites[0].kill();
        cluster.sites[1].kill();
        let again = bytes_of(&opened.read(4096, 4096).await.unwrap());
        assert!(seen == again);
    });
}

#[test]
fn a_deleted_snapshot_is_read_no_more_and_the_others_stay() {
    let cluster = Cluster::new(230, 3, AckRule::Majority, DiskSpec::new);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        for round in 0..4 {
            for block in 0..30 {
                if block % (round + 1) == 0 {
                    write(&reactor, &volume, block, 100 * round + block).await;
                }
            }
            if round < 3 {
                snapshot(&cluster, &reactor).await;
            }
        }
        let seed_at = |round: u64, block: u64| {
            let last = (0..=round)
                .rev()
                .find(|r| block.is_multiple_of(r + 1))
                .unwrap();
            100 * last + block
        };
        // A replica is away while the snapshot in the middle is deleted.
        cluster.sites[1].kill();
        cluster.conductor.set_table(&[(1, 1), (2, 3), (4, 4)], &[]);
        reactor.sleep(Duration::from_secs(5)).await;
        cluster.restart(1).await;
        cluster.settled(&reactor, Layer::new(3)).await;
        reactor.sleep(Duration::from_secs(40)).await;
        assert_eq!(cluster.conductor.in_sync(0), [0, 1, 2]);
        for away in [[0, 1], [1, 2], [0, 2]] {
            for number in away {
                cluster.sites[number].kill();
            }
            for (layer, round) in [(1, 0), (3, 2)] {
                let opened = cluster.open(&reactor, Layer::new(layer)).await;
                for block in 0..30 {
                    let seed = seed_at(round, block);
                    assert!(shows(&opened, block, Some(seed)).await, "{layer} {block}");
                }
            }
            for number in away {
                cluster.restart(number).await;
            }
            reactor.sleep(Duration::from_secs(20)).await;
        }
        for block in 0..30 {
            assert!(holds(&volume, block, seed_at(3, block)).await, "{block}");
        }
        let gone = cluster.open(&reactor, Layer::new(2)).await;
        let read = gone.read(0, 4096).await;
        assert_eq!(read.err(), Some(BlockError::Unavailable));
    });
}

#[test]
fn a_rollback_drops_what_is_newer_for_good() {
    let cluster = Cluster::new(240, 3, AckRule::Majority, DiskSpec::write_through);
    let first = cluster.owner();
    let reactor = first.reactor().clone();
    let sealed = cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        for block in 0..30 {
            write(&reactor, &volume, block, block).await;
        }
        let sealed = snapshot(&cluster, &reactor).await;
        for block in 10..40 {
            write(&reactor, &volume, block, block + 500).await;
        }
        snapshot(&cluster, &reactor).await;
        write(&reactor, &volume, 11, 1111).await;
        // One is away and knows nothing of what follows.
        cluster.sites[0].kill();
        reactor.sleep(Duration::from_secs(5)).await;
        cluster.conductor.roll_back(sealed);
        reactor.sleep(Duration::from_secs(2)).await;
        assert!(volume.health().fenced, "the old owner goes on");
        sealed
    });
    let second = cluster.owner();
    let reactor = second.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        cluster.settled(&reactor, sealed).await;
        write(&reactor, &volume, 12, 77).await;
        cluster.restart(0).await;
        reactor.sleep(Duration::from_secs(20)).await;
        assert_eq!(cluster.conductor.in_sync(0), [0, 1, 2]);
        // The snapshot goes, too: its interval reaches over what was dropped.
        cluster.conductor.set_table(&[(1, 4)], &[(2, 3)]);
        cluster.settled(&reactor, sealed).await;
        write(&reactor, &volume, 13, 78).await;
        for away in [1, 2] {
            cluster.sites[away].kill();
            reactor.sleep(Duration::from_secs(4)).await;
        }
        assert_eq!(cluster.conductor.in_sync(0), [0]);
        for block in 0..30 {
            let seed = match block {
                12 => 77,
                13 => 78,
                _ => block,
            };
            assert!(holds(&volume, block, seed).await, "{block}");
        }
        let dropped = bytes_of(&volume.read(30 * 4096, 10 * 4096).await.unwrap());
        assert!(dropped.iter().all(|&byte| byte == 0));
    });
}

/// The owner dies between the seal and the word that it is settled: the next one gives it.
#[test]
fn the_next_owner_finishes_a_snapshot() {
    let cluster = Cluster::new(250, 3, AckRule::Majority, DiskSpec::new);
    let first = cluster.owner();
    let reactor = first.reactor().clone();
    let sealed = cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 5, 5).await;
        volume.flush().await.unwrap();
        cluster.conductor.seal()
    });
    first.crash();
    let second = cluster.owner();
    let reactor = second.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 5, 6).await;
        cluster.settled(&reactor, sealed).await;
        let opened = cluster.open(&reactor, sealed).await;
        assert!(shows(&opened, 5, Some(5)).await);
    });
}
