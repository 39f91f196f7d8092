//! The owner over real stores, in one simulated world: what a user is promised, by stories.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;
mod layers;
mod resize;

use std::net::IpAddr;
use std::time::Duration;

use ashlar_client::conformance::{self, Dice, buffer_of, bytes_of, pattern};
use ashlar_client::{BlockDevice, BlockError, Durability, Volume, ZeroMode};
use ashlar_proto::api::AckRule;
use ashlar_proto::message::BlockKind;
use ashlar_reactor::Reactor;
use ashlar_reactor::sim::DiskSpec;
use cluster::{Cluster, VOLUME_BYTES};

async fn write(reactor: &Reactor, volume: &Volume, block: u64, seed: u64) {
    let buffer = buffer_of(reactor, &pattern(seed, 4096));
    let written = volume.write(block * 4096, buffer, Durability::Accepted);
    written.await.unwrap();
}

async fn holds(volume: &Volume, block: u64, seed: u64) -> bool {
    let pieces = volume.read(block * 4096, 4096).await.unwrap();
    bytes_of(&pieces) == pattern(seed, 4096)
}

#[test]
fn volume_conforms_over_real_stores() {
    for (replicas, spec) in [
        (1, DiskSpec::new as fn(u64) -> DiskSpec),
        (3, DiskSpec::new),
        (2, DiskSpec::write_through),
    ] {
        let cluster = Cluster::new(u64::from(replicas), replicas, AckRule::Majority, spec);
        let owner = cluster.owner();
        let reactor = owner.reactor().clone();
        cluster.run(async {
            let volume = cluster.attach(&reactor).await.unwrap();
            conformance::run(&reactor, &volume).await;
            let health = volume.health();
            assert_eq!((health.shards_degraded, health.damage_seen), (0, 0));
            volume.detach().await.unwrap();
        });
    }
}

#[test]
fn a_store_dies_and_the_next_owner_finds_everything() {
    let cluster = Cluster::new(2, 3, AckRule::Majority, DiskSpec::new);
    let first = cluster.owner();
    let reactor = first.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        for block in 0..200 {
            write(&reactor, &volume, block * 23, block).await;
        }
        cluster.sites[1].kill();
        for block in 100..250 {
            write(&reactor, &volume, block * 19, block + 1000).await;
        }
        for block in 100..250 {
            assert!(holds(&volume, block * 19, block + 1000).await);
        }
        volume.flush().await.unwrap();
        reactor.sleep(Duration::from_secs(3)).await;
        for shard in 0..3 {
            assert_eq!(cluster.conductor.in_sync(shard), [0, 2]);
        }
    });
    first.crash();
    cluster.lose_power(0);
    cluster.lose_power(2);
    for number in 0..3 {
        cluster.start(number);
    }
    let second = cluster.owner();
    let reactor = second.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        for block in 100..250 {
            assert!(holds(&volume, block * 19, block + 1000).await, "{block}");
        }
        volume.detach().await.unwrap();
    });
}

/// Writes go on while it is away and while it catches up; afterwards it holds all of them, alone.
#[test]
fn a_store_that_returns_catches_up_under_writes() {
    for seed in 0..4 {
        let spec = [DiskSpec::new, DiskSpec::write_through][usize::try_from(seed % 2).unwrap()];
        let cluster = Cluster::new(60 + seed, 3, AckRule::Majority, spec);
        let owner = cluster.owner();
        let reactor = owner.reactor().clone();
        let mut dice = Dice::new(seed);
        cluster.run(async {
            let volume = cluster.attach(&reactor).await.unwrap();
            let mut last = std::collections::BTreeMap::new();
            for round in 0..400 {
                let block = dice.below(3000);
                write(&reactor, &volume, block, round).await;
                last.insert(block, round);
            }
            cluster.sites[1].kill();
            for round in 400..800 {
                let block = dice.below(3000);
                write(&reactor, &volume, block, round).await;
                last.insert(block, round);
            }
            let zeroed = volume.write_zeroes(0, 64 * 4096, ZeroMode::Unmap, Durability::Accepted);
            zeroed.await.unwrap();
            last.retain(|&block, _| block >= 64);
            reactor.sleep(Duration::from_secs(2)).await;
            assert_eq!(cluster.conductor.in_sync(0), [0, 2]);
            cluster.restart(1).await;
            let mut round = 800;
            while cluster.conductor.in_sync(0).len() < 3 {
                let block = 64 + dice.below(2900);
                write(&reactor, &volume, block, round).await;
                last.insert(block, round);
                round += 1;
                assert!(round < 100_000, "it does not come back");
            }
            volume.flush().await.unwrap();
            reactor.sleep(Duration::from_secs(30)).await;
            let health = volume.health();
            assert_eq!((health.shards_degraded, health.damage_seen), (0, 0));
            for away in [0, 2] {
                cluster.sites[away].kill();
                reactor.sleep(Duration::from_secs(4)).await;
            }
            assert_eq!(cluster.conductor.in_sync(0), [1]);
            for (&block, &round) in &last {
                assert!(
                    holds(&volume, block, round).await,
                    "seed {seed} block {block}"
                );
            }
            let zeroed = bytes_of(&volume.read(0, 64 * 4096).await.unwrap());
            assert!(zeroed.iter().all(|&byte| byte == 0));
        });
    }
}

/// A replica that is left out at an attach has writes that nobody else has: they are buried, under data,
/// under zeroes that are not nothing, and under nothing that is not zeroes, as under a clone.
#[test]
fn an_orphan_is_buried_when_its_replica_catches_up() {
    let cluster = Cluster::new(70, 3, AckRule::Majority, DiskSpec::write_through);
    let first = cluster.owner();
    let reactor = first.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        for block in 0..20 {
            write(&reactor, &volume, block, block).await;
        }
        let trimmed = volume.trim(5 * 4096, 4096, Durability::Accepted);
        trimmed.await.unwrap();
        volume.flush().await.unwrap();
        for away in [0, 1] {
            cluster.sites[away].kill();
        }
        for block in [3, 5, 50] {
            let (here, other) = (reactor.clone(), volume.clone());
            drop(reactor.spawn(async move {
                let buffer = buffer_of(&here, &pattern(99, 4096));
                let at = block * 4096;
                let _ = other.write(at, buffer, Durability::Accepted).await;
            }));
        }
        reactor.sleep(Duration::from_millis(200)).await;
    });
    first.crash();
    cluster.sites[2].kill();
    for number in [0, 1] {
        cluster.start(number);
    }
    let second = cluster.owner();
    let reactor = second.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        assert_eq!(cluster.conductor.in_sync(0), [0, 1]);
        write(&reactor, &volume, 4, 104).await;
        cluster.restart(2).await;
        reactor.sleep(Duration::from_secs(20)).await;
        assert_eq!(cluster.conductor.in_sync(0), [0, 1, 2]);
        for away in [0, 1] {
            cluster.sites[away].kill();
            reactor.sleep(Duration::from_secs(4)).await;
        }
        assert_eq!(cluster.conductor.in_sync(0), [2]);
        assert!(holds(&volume, 3, 3).await, "the orphan shows");
        assert!(holds(&volume, 4, 104).await);
        for (block, is_absent) in [(5, false), (50, true)] {
            let shown = bytes_of(&volume.read(block * 4096, 4096).await.unwrap());
            assert!(shown.iter().all(|byte| *byte == 0), "the orphan shows");
            let runs = volume.extents(block * 4096, 4096, 1).await.unwrap();
            assert_eq!(runs[0].kind == BlockKind::Absent, is_absent, "{block}");
        }
    });
}

/// A batch header of store 0 rots: it can trust none of its older blocks, not even that those never
/// written are absent. It must not become the only replica so, and is made whole from the other.
#[test]
fn a_replica_that_lost_a_batch_is_made_whole() {
    let cluster = Cluster::new(71, 2, AckRule::Majority, DiskSpec::write_through);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        for block in 0..40 {
            write(&reactor, &volume, block, block).await;
        }
        volume.flush().await.unwrap();
        reactor.sleep(Duration::from_secs(1)).await;
        cluster.sites[0].kill();
        let places = cluster.sites[0].find(&pattern(36, 4096));
        cluster.sites[0].disk.flip(places[0] - 4096, 300);
        cluster.restart(0).await;
        reactor.sleep(Duration::from_secs(30)).await;
        assert!(cluster.damage(0).await > 0);
        assert_eq!(cluster.conductor.in_sync(0), [0, 1]);
        cluster.sites[1].kill();
        reactor.sleep(Duration::from_secs(5)).await;
        assert_eq!(cluster.conductor.in_sync(0), [0]);
        for block in 0..40 {
            assert!(holds(&volume, block, block).await, "{block}");
        }
        let absent = bytes_of(&volume.read(50 * 4096, 8192).await.unwrap());
        assert!(absent.iter().all(|&byte| byte == 0));
    });
}

/// The same, and the other replica goes before it can be made whole: writes wait for it.
#[test]
fn a_replica_that_lost_a_batch_is_not_left_alone() {
    let cluster = Cluster::new(72, 2, AckRule::Majority, DiskSpec::write_through);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        for block in 0..40 {
            write(&reactor, &volume, block, block).await;
        }
        volume.flush().await.unwrap();
        reactor.sleep(Duration::from_secs(1)).await;
        cluster.sites[0].kill();
        cluster.sites[1].kill();
        let places = cluster.sites[0].find(&pattern(36, 4096));
        cluster.sites[0].disk.flip(places[0] - 4096, 300);
        cluster.restart(0).await;
        reactor.sleep(Duration::from_secs(10)).await;
        assert_eq!(cluster.conductor.in_sync(0), [0, 1]);
        cluster.restart(1).await;
        reactor.sleep(Duration::from_secs(30)).await;
        for block in 0..40 {
            assert!(holds(&volume, block, block).await, "{block}");
        }
        assert_eq!(cluster.conductor.in_sync(0), [0, 1]);
    });
}

#[test]
fn a_power_loss_everywhere_loses_nothing_flushed() {
    for seed in 0..6 {
        let cluster = Cluster::new(100 + seed, 3, AckRule::Majority, DiskSpec::new);
        let first = cluster.owner();
        let reactor = first.reactor().clone();
        let mut dice = Dice::new(seed);
        cluster.run(async {
            let volume = cluster.attach(&reactor).await.unwrap();
            for round in 0..300 {
                write(&reactor, &volume, round * 17 % 5000, round).await;
            }
            volume.flush().await.unwrap();
            for round in 0..dice.below(100) {
                write(&reactor, &volume, 5001 + round % 7, round).await;
            }
        });
        for number in 0..3 {
            cluster.lose_power(number);
        }
        first.crash();
        for number in 0..3 {
            cluster.start(number);
        }
        let second = cluster.owner();
        let reactor = second.reactor().clone();
        cluster.run(async {
            let volume = cluster.attach(&reactor).await.unwrap();
            for round in 0..300 {
                assert!(
                    holds(&volume, round * 17 % 5000, round).await,
                    "seed {seed}"
                );
            }
            volume.detach().await.unwrap();
        });
    }
}

#[test]
fn divergent_tails_are_made_equal() {
    let cluster = Cluster::new(3, 3, AckRule::Majority, DiskSpec::write_through);
    let first = cluster.owner();
    let reactor = first.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        for block in 0..50 {
            write(&reactor, &volume, block, block).await;
        }
        let host = IpAddr::from([10, 0, 2, 1]);
        cluster.world.partition(host, cluster.sites[2].host());
        for block in 30..80 {
            write(&reactor, &volume, block, block + 500).await;
        }
        let zeroed = volume.write_zeroes(0, 5 * 4096, ZeroMode::Unmap, Durability::Accepted);
        zeroed.await.unwrap();
    });
    first.crash();
    cluster.world.heal();
    let second = cluster.owner();
    let reactor = second.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        // Whoever answers, the answer is the same: leave each alone in turn.
        for away in 0..2 {
            for block in 30..80 {
                assert!(holds(&volume, block, block + 500).await, "{block}");
            }
            for block in 5..30 {
                assert!(holds(&volume, block, block).await, "{block}");
            }
            let zeroed = bytes_of(&volume.read(0, 5 * 4096).await.unwrap());
            assert!(zeroed.iter().all(|&byte| byte == 0));
            cluster.sites[away].kill();
            reactor.sleep(Duration::from_secs(4)).await;
        }
        assert_eq!(cluster.conductor.in_sync(0), [2]);
        for block in 30..80 {
            assert!(holds(&volume, block, block + 500).await, "{block}");
        }
    });
}

#[test]
fn a_fenced_owner_is_refused_by_real_stores() {
    let cluster = Cluster::new(4, 3, AckRule::Majority, DiskSpec::new);
    let (first, second) = (cluster.owner(), cluster.owner());
    cluster.run(async {
        let old = cluster.attach(first.reactor()).await.unwrap();
        write(first.reactor(), &old, 1, 1).await;
        let new = cluster.attach(second.reactor()).await.unwrap();
        let fenced = Err(BlockError::Fenced);
        let buffer = buffer_of(first.reactor(), &pattern(2, 4096));
        let written = old.write(4096, buffer, Durability::Accepted).await;
        assert_eq!(written, fenced);
        assert_eq!(old.read(4096, 4096).await.map(|_| ()), fenced);
        assert!(holds(&new, 1, 1).await);
        new.detach().await.unwrap();
    });
}

/// A store is gone for good: its replicas are made anew elsewhere, under writes, and the volume
/// does without it from then on.
#[test]
fn replicas_are_made_anew_elsewhere() {
    let cluster = Cluster::with_spare(46, 3, 1, AckRule::Majority, DiskSpec::new);
    let (first, second) = (cluster.owner(), cluster.owner());
    cluster.run(async {
        let reactor = first.reactor().clone();
        let volume = cluster.attach(&reactor).await.unwrap();
        for block in 0..400 {
            write(&reactor, &volume, block * 11, block).await;
        }
        cluster.sites[1].kill();
        reactor.sleep(Duration::from_secs(5)).await;
        for shard in 0..3 {
            assert_eq!(cluster.conductor.in_sync(shard), [0, 2]);
            cluster.conductor.replace(shard, 1, 3, false);
        }
        cluster.assign(3).await;
        for block in 300..600 {
            write(&reactor, &volume, block * 7, block + 1000).await;
            reactor.sleep(Duration::from_millis(10)).await;
        }
        reactor.sleep(Duration::from_secs(20)).await;
        for shard in 0..3 {
            assert_eq!(cluster.conductor.in_sync(shard), [0, 2, 3]);
        }
        assert_eq!(volume.health().shards_degraded, 0);
        // What is made anew is all there is: the others go.
        cluster.sites[0].kill();
        cluster.sites[2].kill();
        cluster.restart(0).await;
        for block in 300..600 {
            assert!(holds(&volume, block * 7, block + 1000).await, "{block}");
        }
        first.crash();
        let reactor = second.reactor().clone();
        let volume = cluster.attach(&reactor).await.unwrap();
        for block in 300..600 {
            assert!(holds(&volume, block * 7, block + 1000).await, "{block}");
        }
        assert!(holds(&volume, 11, 1).await);
        volume.detach().await.unwrap();
    });
}

/// A replica is moved while it is read and written: there are never fewer than three.
#[test]
fn a_replica_is_moved_under_writes() {
    let cluster = Cluster::with_spare(47, 3, 1, AckRule::Majority, DiskSpec::new);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        for block in 0..400 {
            write(&reactor, &volume, block * 11, block).await;
        }
        for (from, to) in [(1, 3), (3, 1), (1, 3), (2, 1), (1, 2)] {
            for shard in 0..3 {
                cluster.conductor.replace(shard, from, to, true);
            }
            cluster.assign(to.into()).await;
            let until = reactor.now() + Duration::from_secs(60);
            let is_moved = || (0..3).all(|shard| !cluster.conductor.in_sync(shard).contains(&from));
            let mut round = 0;
            while !is_moved() {
                assert!(reactor.now() < until, "moves {from} to {to}");
                round += 1;
                write(&reactor, &volume, round % 400 * 11, round % 400).await;
                assert!(holds(&volume, round % 400 * 11, round % 400).await);
                for shard in 0..3 {
                    assert!(cluster.conductor.in_sync(shard).len() >= 3);
                }
                reactor.sleep(Duration::from_millis(5)).await;
            }
            cluster.assign(usize::try_from(from).unwrap()).await;
        }
        for block in 0..400 {
            assert!(holds(&volume, block * 11, block).await, "{block}");
        }
        assert_eq!(volume.health().shards_degraded, 0);
        volume.detach().await.unwrap();
    });
}

/// One replica is left to the old owner and reached by nobody else: it has not been fenced, and what
/// it holds is old.
#[test]
fn a_cut_off_owner_shows_nothing_stale() {
    let cluster = Cluster::new(44, 3, AckRule::Majority, DiskSpec::new);
    let (first, second) = (cluster.owner(), cluster.owner());
    let [first_host, second_host] = [1, 2].map(|number| IpAddr::from([10, 0, 2, number]));
    cluster.run(async {
        let road = cluster.road();
        let old = cluster.attach_over(first.reactor(), road.clone());
        let old = old.await.unwrap();
        write(first.reactor(), &old, 1, 1).await;
        let world = &cluster.world;
        road.is_cut.set(true);
        world.partition(second_host, cluster.sites[0].host());
        for site in &cluster.sites[1..] {
            world.partition(first_host, site.host());
        }
        // What it was told within the lease may still be shown: nobody serves before that ends.
        assert!(holds(&old, 1, 1).await);
        let asked = first.reactor().spawn({
            let (old, reactor) = (old.clone(), first.reactor().clone());
            async move {
                let mut shown = 0;
                while let Ok(pieces) = old.read(4096, 4096).await {
                    assert!(bytes_of(&pieces) == pattern(1, 4096));
                    shown += 1;
                    reactor.sleep(Duration::from_millis(20)).await;
                }
                shown
            }
        });
        let new = cluster.attach(second.reactor()).await.unwrap();
        assert!(holds(&new, 1, 1).await);
        write(second.reactor(), &new, 1, 2).await;
        let shown = asked.await;
        assert!(shown > 20, "it goes on for as long as it may: {shown}");
        let unavailable = Err(BlockError::Unavailable);
        assert_eq!(old.read(4096, 4096).await.map(|_| ()), unavailable);
        world.heal();
        road.is_cut.set(false);
        let fenced = Err(BlockError::Fenced);
        first.reactor().sleep(Duration::from_secs(5)).await;
        assert_eq!(old.read(4096, 4096).await.map(|_| ()), fenced);
        assert!(holds(&new, 1, 2).await);
        new.detach().await.unwrap();
    });
}

/// Reads alone keep the lease; a long rest costs nothing but a question.
#[test]
fn reads_alone_keep_the_lease() {
    let cluster = Cluster::new(45, 3, AckRule::Majority, DiskSpec::new);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 1, 1).await;
        for pause in [10_000, 0, 1, 3999, 4000, 4001, 60_000] {
            reactor.sleep(Duration::from_millis(pause)).await;
            let before = reactor.now();
            assert!(holds(&volume, 1, 1).await);
            let took = reactor.now() - before;
            assert!(took < Duration::from_millis(50), "{pause}: {took:?}");
        }
        for _ in 0..2000 {
            reactor.sleep(Duration::from_millis(10)).await;
            assert!(holds(&volume, 1, 1).await);
        }
    });
}

#[test]
fn bit_rot_on_one_replica_is_answered_around_and_repaired() {
    for replicas in [2, 3] {
        let cluster = Cluster::new(5, replicas, AckRule::Majority, DiskSpec::new);
        let owner = cluster.owner();
        let reactor = owner.reactor().clone();
        cluster.run(async {
            let volume = cluster.attach(&reactor).await.unwrap();
            for block in 0..64 {
                write(&reactor, &volume, block, block + 7000).await;
            }
            volume.flush().await.unwrap();
            reactor.sleep(Duration::from_secs(1)).await;
            let rotten = cluster.sites[0].find(&pattern(7010, 4096));
            assert!(!rotten.is_empty(), "the block is on the media");
            for offset in rotten {
                cluster.sites[0].disk.flip(offset + 99, 3);
            }
            for _ in 0..200 {
                for block in [9, 10, 11] {
                    assert!(holds(&volume, block, block + 7000).await);
                }
            }
            reactor.sleep(Duration::from_secs(1)).await;
            let health = volume.health();
            assert_eq!(health.blocks_repaired, 1, "R={replicas} {health:?}");
            assert!(health.damage_seen >= 1 && health.shards_degraded == 0);
            assert!(cluster.damage(0).await >= 1, "the store counts it too");
            volume.flush().await.unwrap();
            let again = cluster.sites[0].find(&pattern(7010, 4096));
            assert!(!again.is_empty(), "a good copy is on the media again");
        });
    }
}

#[test]
fn bit_rot_that_nobody_reads_is_found_and_repaired() {
    let cluster = Cluster::new(48, 3, AckRule::Majority, DiskSpec::new);
    cluster.scrub_interval.set(Duration::from_secs(20));
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        for block in 0..600 {
            write(&reactor, &volume, block * 7, block + 9000).await;
        }
        volume.flush().await.unwrap();
        reactor.sleep(Duration::from_secs(6)).await;
        for (site, block) in [(0, 9010), (1, 9400), (2, 9599)] {
            for offset in cluster.sites[site].find(&pattern(block, 4096)) {
                cluster.sites[site].disk.flip(offset + 99, 3);
            }
        }
        reactor.sleep(Duration::from_secs(60)).await;
        let health = volume.health();
        assert_eq!(health.blocks_repaired, 3, "{health:?}");
        assert_eq!(health.shards_degraded, 0);
        for (site, block) in [(0, 9010), (1, 9400), (2, 9599)] {
            assert!(cluster.damage(site).await >= 1);
            let again = cluster.sites[site].find(&pattern(block, 4096));
            assert!(!again.is_empty(), "a good copy is on the media again");
        }
        volume.detach().await.unwrap();
    });
}

#[test]
fn the_whole_volume_is_written_read_and_settled() {
    let cluster = Cluster::new(6, 3, AckRule::All, DiskSpec::new);
    let first = cluster.owner();
    let reactor = first.reactor().clone();
    let bytes = pattern(6, usize::try_from(VOLUME_BYTES).unwrap());
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        let buffer = buffer_of(&reactor, &bytes);
        volume.write(0, buffer, Durability::Durable).await.unwrap();
        volume.detach().await.unwrap();
    });
    first.crash();
    for number in 0..3 {
        cluster.lose_power(number);
        cluster.start(number);
    }
    let second = cluster.owner();
    let reactor = second.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        let len = u32::try_from(VOLUME_BYTES).unwrap();
        assert!(bytes_of(&volume.read(0, len).await.unwrap()) == bytes);
    });
}
