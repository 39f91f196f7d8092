//! Volumes that grow while they are used, by stories.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use ashlar_client::conformance::{Dice, bytes_of};
use ashlar_client::{BlockDevice, BlockError, Durability, Volume};
use ashlar_proto::api::AckRule;
use ashlar_reactor::Reactor;
use ashlar_reactor::future::join_all;
use ashlar_reactor::sim::DiskSpec;

use super::cluster::{Cluster, VOLUME_BYTES};
use super::{holds, write};

/// The last shard of 8 MiB is filled up, and there are two more, of which the last is short.
const GROWN_BYTES: u64 = 37 << 20;

fn blocks(bytes: u64) -> u64 {
    bytes / 4096
}

async fn reads_zeroes(volume: &Volume, block: u64) -> bool {
    let pieces = volume.read(block * 4096, 4096).await.unwrap();
    bytes_of(&pieces).iter().all(|byte| *byte == 0)
}

async fn served(reactor: &Reactor, volume: &Volume, bytes: u64) {
    let mut waited = Duration::ZERO;
    while volume.geometry().size_bytes < bytes {
        reactor.sleep(Duration::from_millis(5)).await;
        waited += Duration::from_millis(5);
        assert!(
            waited < Duration::from_secs(120),
            "the size is never served"
        );
    }
}

/// Writes all over the volume as it is, one worker a residue, until told to stop.
async fn work(
    reactor: &Reactor,
    volume: &Volume,
    (worker, seed): (u64, u64),
    stop: &Cell<bool>,
    written: &RefCell<BTreeMap<u64, u64>>,
) {
    let mut dice = Dice::new(seed * 100 + worker);
    while !stop.get() {
        let slots = blocks(volume.geometry().size_bytes) / 8;
        let block = dice.below(slots) * 8 + worker;
        let value = dice.below(1 << 30);
        write(reactor, volume, block, value).await;
        written.borrow_mut().insert(block, value);
        assert!(holds(volume, block, value).await);
    }
}

/// Power fails everywhere; the next owner finds the new size and all that was written.
fn survives(cluster: &Cluster, written: &BTreeMap<u64, u64>) {
    for number in 0..3 {
        cluster.lose_power(number);
        cluster.start(number);
    }
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        assert_eq!(volume.geometry().size_bytes, GROWN_BYTES);
        for (block, value) in written {
            assert!(holds(&volume, *block, *value).await, "block {block}");
        }
        write(&reactor, &volume, blocks(GROWN_BYTES) - 1, 5).await;
        volume.detach().await.unwrap();
    });
}

#[test]
fn a_volume_grows_under_its_writers() {
    for seed in 300..304 {
        let cluster = Cluster::new(seed, 3, AckRule::Majority, DiskSpec::new);
        let owner = cluster.owner();
        let reactor = owner.reactor().clone();
        let written = RefCell::new(BTreeMap::new());
        cluster.run(async {
            let volume = cluster.attach(&reactor).await.unwrap();
            let stop = Cell::new(false);
            let workers = (0..8).map(|worker| {
                let which = (worker, seed);
                work(&reactor, &volume, which, &stop, &written)
            });
            let growing = async {
                reactor.sleep(Duration::from_millis(50)).await;
                cluster.conductor.begin_growth(GROWN_BYTES);
                for number in 0..3 {
                    cluster.assign(number).await;
                    let beyond = volume.read(VOLUME_BYTES, 4096).await;
                    assert_eq!(beyond.unwrap_err(), BlockError::OutOfRange);
                    reactor.sleep(Duration::from_millis(20)).await;
                }
                // The head is sealed at about the same time: new shards go by it.
                let layer = cluster.conductor.seal();
                cluster.conductor.finish_growth();
                served(&reactor, &volume, GROWN_BYTES).await;
                reactor.sleep(Duration::from_millis(200)).await;
                stop.set(true);
                cluster.settled(&reactor, layer).await;
            };
            let ((), _) = futures_join(growing, join_all(workers)).await;
            let written = written.borrow().clone();
            assert!(written.keys().any(|block| *block >= blocks(32 << 20)));
            for (block, value) in &written {
                assert!(holds(&volume, *block, *value).await);
            }
            let untouched = (blocks(VOLUME_BYTES)..blocks(GROWN_BYTES)).step_by(97);
            for block in untouched.filter(|block| !written.contains_key(block)) {
                assert!(reads_zeroes(&volume, block).await);
            }
            assert_eq!(volume.health().shards, 5);
            volume.flush().await.unwrap();
        });
        owner.crash();
        survives(&cluster, &written.take());
    }
}

/// Runs both to their ends.
async fn futures_join<A, B>(
    one: impl Future<Output = A>,
    other: impl Future<Output = B>,
) -> (A, B) {
    let (mut left, mut right) = (None, None);
    let one = async { left = Some(one.await) };
    let other = async { right = Some(other.await) };
    let both: Vec<std::pin::Pin<Box<dyn Future<Output = ()> + '_>>> =
        vec![Box::pin(one), Box::pin(other)];
    join_all(both).await;
    (left.unwrap(), right.unwrap())
}

/// Store 2 dies and is proposed away; the others grow, and the owner with them. Then store 2 is back with
/// replicas of the former size: it lacks what it cannot hold, and must not count. Told what it has to
/// hold, it grows and catches up.
#[test]
fn a_store_that_was_away_grows_when_it_is_back() {
    let cluster = Cluster::new(310, 3, AckRule::Majority, DiskSpec::new);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    let mut written = BTreeMap::new();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 3, 3).await;
        cluster.sites[2].kill();
        for block in (0..blocks(VOLUME_BYTES)).step_by(512) {
            write(&reactor, &volume, block, block + 1).await;
            written.insert(block, block + 1);
        }
        written.insert(3, 3);
        reactor.sleep(Duration::from_secs(3)).await;
        cluster.conductor.begin_growth(GROWN_BYTES);
        cluster.assign(0).await;
        cluster.assign(1).await;
        cluster.conductor.finish_growth();
        served(&reactor, &volume, GROWN_BYTES).await;
        for block in (blocks(VOLUME_BYTES)..blocks(GROWN_BYTES)).step_by(61) {
            write(&reactor, &volume, block, block + 2).await;
            written.insert(block, block + 2);
        }
        cluster.restart(2).await;
        reactor.sleep(Duration::from_secs(10)).await;
        assert_eq!(cluster.conductor.in_sync(2), [0, 1]);
        for (block, value) in &written {
            assert!(holds(&volume, *block, *value).await);
        }
        cluster.assign(2).await;
        cluster.sites[0].kill();
        reactor.sleep(Duration::from_secs(30)).await;
        assert_eq!(cluster.conductor.in_sync(2), [1, 2]);
        for (block, value) in &written {
            assert!(holds(&volume, *block, *value).await);
        }
        volume.flush().await.unwrap();
    });
    owner.crash();
    survives(&cluster, &written);
}

/// A replica of a new shard does not answer the owner: it goes on without, as an attach would.
#[test]
fn new_shards_are_served_without_a_store_that_has_just_died() {
    let cluster = Cluster::new(320, 3, AckRule::Majority, DiskSpec::new);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    let mut written = BTreeMap::new();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        cluster.conductor.begin_growth(GROWN_BYTES);
        for number in 0..3 {
            cluster.assign(number).await;
        }
        cluster.sites[1].kill();
        cluster.conductor.finish_growth();
        served(&reactor, &volume, GROWN_BYTES).await;
        for block in (blocks(VOLUME_BYTES)..blocks(GROWN_BYTES)).step_by(61) {
            write(&reactor, &volume, block, block + 2).await;
            written.insert(block, block + 2);
        }
        assert_eq!(cluster.conductor.in_sync(4), [0, 2]);
        cluster.restart(1).await;
        reactor.sleep(Duration::from_secs(20)).await;
        assert_eq!(cluster.conductor.in_sync(4), [0, 1, 2]);
        let trimmed = volume.trim(GROWN_BYTES - 4096, 4096, Durability::Accepted);
        trimmed.await.unwrap();
        volume.flush().await.unwrap();
    });
    owner.crash();
    written.remove(&(blocks(GROWN_BYTES) - 1));
    survives(&cluster, &written);
}

/// The growth is durable before it is told: nobody has to tell the stores again.
#[test]
fn a_detached_volume_grows_and_stays_so_through_power_loss() {
    let cluster = Cluster::new(330, 3, AckRule::Majority, DiskSpec::new);
    cluster.run(async {
        cluster.conductor.begin_growth(GROWN_BYTES);
        for number in 0..3 {
            cluster.assign(number).await;
        }
        cluster.conductor.finish_growth();
    });
    survives(&cluster, &BTreeMap::new());
    let last = BTreeMap::from([(blocks(GROWN_BYTES) - 1, 5)]);
    survives(&cluster, &last);
}
