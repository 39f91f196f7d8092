//! Random runs: writers with blocks of their own, stores that die and return, owners that follow
//! one another; no acknowledged and flushed write may be lost, and no write come and go.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use ashlar_proto::api::AckRule;
use ashlar_reactor::Reactor;

use super::cluster::Cluster;
use crate::conformance::{Dice, buffer_of, bytes_of, pattern};
use crate::{BlockDevice, BlockError, Durability, Volume, ZeroMode};

const BLOCKS: u64 = 12;

/// What a block may hold: the last content that is known to be there, and those that may be.
#[derive(Clone, Debug, Default)]
struct Expected {
    sure: u64,
    maybe: Vec<u64>,
}

type Model = Rc<RefCell<BTreeMap<u64, Expected>>>;

fn content(value: u64) -> Vec<u8> {
    if value == 0 {
        vec![0; 4096]
    } else {
        pattern(value, 4096)
    }
}

/// The block's place: spread over all shards.
fn offset_of(block: u64) -> u64 {
    block * (3 << 20) + 4096 * 17
}

async fn write_value(
    reactor: &Reactor,
    volume: &Volume,
    block: u64,
    value: u64,
    durability: Durability,
) -> Result<(), BlockError> {
    if value == 0 {
        let mode = ZeroMode::Unmap;
        return volume
            .write_zeroes(offset_of(block), 4096, mode, durability)
            .await;
    }
    let buffer = buffer_of(reactor, &content(value));
    volume.write(offset_of(block), buffer, durability).await
}

/// Writes blocks of its own, durably, until it fails, and reads them back.
async fn run_writer(reactor: Reactor, volume: Volume, model: Model, seed: u64, blocks: Vec<u64>) {
    let mut dice = Dice::new(seed);
    loop {
        let pause = Duration::from_micros(dice.below(8_000));
        reactor.sleep(pause).await;
        let block = blocks[usize::try_from(dice.below(blocks.len() as u64)).unwrap()];
        let value = if dice.below(5) == 0 {
            0
        } else {
            dice.roll() | 1
        };
        if dice.below(3) == 0 {
            let Ok(pieces) = volume.read(offset_of(block), 4096).await else {
                return;
            };
            let bytes = bytes_of(&pieces);
            let mut model = model.borrow_mut();
            let expected = model.entry(block).or_default();
            let mut allowed = expected.maybe.clone();
            allowed.push(expected.sure);
            let shown = allowed.into_iter().find(|&value| content(value) == bytes);
            let shown = shown.unwrap_or_else(|| panic!("block {block} shows what it must not"));
            // What was read once stays: nothing that competed can come any more.
            expected.sure = shown;
            expected.maybe.clear();
            continue;
        }
        model
            .borrow_mut()
            .entry(block)
            .or_default()
            .maybe
            .push(value);
        let durability = Durability::Durable;
        if write_value(&reactor, &volume, block, value, durability)
            .await
            .is_err()
        {
            return;
        }
        let mut model = model.borrow_mut();
        let expected = model.entry(block).or_default();
        expected.sure = value;
        expected.maybe.clear();
    }
}

fn walk(seed: u64) {
    let mut dice = Dice::new(seed);
    let replicas = [1, 2, 3, 3, 3][usize::try_from(dice.below(5)).unwrap()];
    let ack = [AckRule::Majority, AckRule::All][usize::try_from(dice.below(2)).unwrap()];
    let volatile = dice.below(2) == 0;
    let cluster = Cluster::new(seed, replicas, ack, volatile);
    let model: Model = Rc::default();
    for owner_number in 0..5 {
        let owner = cluster.owner();
        let reactor = owner.reactor().clone();
        let attached = cluster.run(cluster.attach(&reactor));
        let Ok(volume) = attached else {
            for store in &cluster.stores {
                store.kill();
                store.start(&cluster.world);
            }
            continue;
        };
        for writer in 0..3 {
            let blocks = (0..BLOCKS).filter(|block| block % 3 == writer).collect();
            let model = Rc::clone(&model);
            let seed = seed * 100 + owner_number * 10 + writer;
            let writer = run_writer(reactor.clone(), volume.clone(), model, seed, blocks);
            drop(reactor.spawn(writer));
        }
        for _ in 0..dice.below(4) {
            let nap = Duration::from_micros(dice.below(900_000));
            cluster.world.run_for(nap);
            let store = &cluster.stores[usize::try_from(dice.below(replicas.into())).unwrap()];
            match dice.below(4) {
                0 => store.kill(),
                1 => store.lose_power(),
                _ => {
                    store.lose_power();
                    cluster
                        .world
                        .run_for(Duration::from_micros(dice.below(600_000)));
                    store.start(&cluster.world);
                }
            }
        }
        cluster
            .world
            .run_for(Duration::from_micros(dice.below(3_000_000)));
        owner.crash();
        drop(volume);
        for store in &cluster.stores {
            store.kill();
            store.start(&cluster.world);
        }
    }
    check_all(&cluster, &model, seed);
}

fn check_all(cluster: &Cluster, model: &Model, seed: u64) {
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        let model = model.take();
        for (block, expected) in model {
            let pieces = volume.read(offset_of(block), 4096).await.unwrap();
            let bytes = bytes_of(&pieces);
            let mut allowed = expected.maybe.clone();
            allowed.push(expected.sure);
            let is_allowed = allowed.iter().any(|&value| content(value) == bytes);
            assert!(is_allowed, "seed {seed}: block {block} lost its content");
        }
        volume.detach().await.unwrap();
    });
}

#[test]
fn acknowledged_and_flushed_writes_are_never_lost() {
    let walks = std::env::var("ASHLAR_WALKS")
        .ok()
        .and_then(|text| text.parse().ok());
    let first = std::env::var("ASHLAR_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let first = first.unwrap_or(1);
    for seed in first..first + walks.unwrap_or(40) {
        walk(seed);
    }
}
