//! The map under a budget: what is kept in memory, and that the rest is read again.

use std::time::Duration;

use ashlar_proto::{BlockCount, BlockIndex};
use ashlar_reactor::sim::DiskSpec;

use super::bench::{Bench, layer, seq};
use crate::lane::leaf_cache::LEAF_BYTES;
use crate::lane::{Lane, ShardKey};

const GIB: u64 = 1 << 30;

/// One block of each of so many leaves, folded.
fn one_block_a_leaf(bench: &Bench, lane: &Lane, leaves: u32) -> ShardKey {
    let shard = bench.create(lane, 1, leaves * 256);
    for leaf in 0..leaves {
        bench
            .run(bench.write(lane, shard, leaf * 256, 1, 1))
            .unwrap();
    }
    let core = lane.core().clone();
    bench.run(core.fold_all());
    shard
}

/// Five thousandths of the blocks, all of their leaves: 12 times what the budget can hold.
#[test]
fn scattered_blocks_are_all_there_and_their_map_stays_within_its_memory() {
    const LEAVES: u32 = 4096;
    let mut bench = Bench::new(1, DiskSpec::write_through(4 * GIB), None);
    bench.options.map_bytes = 1 << 20;
    let lane = bench.start();
    let shard = bench.create(&lane, 1, LEAVES * 256);
    let block = |number: u32| (number.wrapping_mul(2_654_435_761)) % (LEAVES * 256);
    let most = bench.options.map_bytes as u64 + 64 * LEAF_BYTES as u64;
    for raw in 1..=5000 {
        bench
            .run(bench.write(&lane, shard, block(raw), 1, u64::from(raw)))
            .unwrap();
        let map = lane.stats().map;
        assert!(map.leaf_bytes + map.overlay_bytes <= most, "{map:?}");
    }
    for raw in 1..=5000 {
        let shown = bench.run(Bench::read(&lane, shard, block(raw), 1)).unwrap();
        assert_eq!(shown, [Some((u64::from(raw), false))]);
    }
    let map = lane.stats().map;
    assert!(
        map.misses > 1000 && map.evictions > 1000 && map.hits > 0,
        "{map:?}"
    );
    assert!(map.load_nanos > 0 && map.root_bytes > 0, "{map:?}");
}

/// What owners read again and again stays in memory while a tail or a scrub passes over the shard.
#[test]
fn a_pass_over_all_leaves_displaces_little_of_what_is_in_use() {
    const HOT: u32 = 64;
    let mut bench = Bench::new(2, DiskSpec::write_through(4 * GIB), None);
    bench.options.leaves_max = 100;
    let lane = bench.start();
    let shard = one_block_a_leaf(&bench, &lane, 2048);
    let read_hot = |times| {
        let before = lane.stats().map.misses;
        for leaf in (0..HOT).cycle().take(HOT as usize * times) {
            bench.run(Bench::read(&lane, shard, leaf * 256, 1)).unwrap();
        }
        lane.stats().map.misses - before
    };
    read_hot(3);
    assert_eq!(read_hot(1), 0);
    let all = (BlockIndex::new(0), layer(0));
    let tail = lane.tail(shard, seq(0), all, BlockCount::new(0), 1 << 20);
    assert_eq!(bench.run(tail).unwrap().entries.len(), 2048);
    let core = lane.core().clone();
    let handle = core.state.borrow().shards.handle_of(shard).unwrap();
    let verified = bench.run(core.verify_range(handle, 0, 2048 * 256)).unwrap();
    assert_eq!(verified, 2048);
    assert_eq!(read_hot(1), 0);
    assert!(lane.stats().map.scanned > 3000, "{:?}", lane.stats().map);
}

/// Writing a leaf that is in use again leaves it in memory, in its new version.
#[test]
fn a_leaf_in_use_stays_in_memory_when_it_is_folded_anew() {
    let mut bench = Bench::new(3, DiskSpec::write_through(4 * GIB), None);
    bench.options.leaves_max = 32;
    let lane = bench.start();
    let shard = one_block_a_leaf(&bench, &lane, 256);
    for _ in 0..2 {
        bench.run(Bench::read(&lane, shard, 0, 1)).unwrap();
    }
    bench.run(bench.write(&lane, shard, 0, 1, 2)).unwrap();
    let core = lane.core().clone();
    bench.run(core.fold_all());
    for leaf in 100..120 {
        bench
            .run(bench.write(&lane, shard, leaf * 256, 1, 2))
            .unwrap();
    }
    bench.run(core.fold_all());
    bench.run(bench.world.sleep(Duration::from_millis(1)));
    let before = lane.stats().map.misses;
    let shown = bench.run(Bench::read(&lane, shard, 0, 1)).unwrap();
    assert_eq!(
        (shown, lane.stats().map.misses),
        (vec![Some((2, false))], before)
    );
}
