//! What must stay cheap when a lane is large.

use std::time::Duration;

use ashlar_proto::{BlockCount, BlockIndex};
use ashlar_reactor::sim::DiskSpec;

use super::bench::{Bench, joined, key, layer, seq};

const GIB: u64 = 1 << 30;

#[test]
fn discarding_terabytes_takes_no_data_and_little_memory() {
    let mut bench = Bench::new(1, DiskSpec::write_through(4 * GIB), None);
    bench.options.map_bytes = 8 << 20;
    let lane = bench.start();
    let blocks = 1 << 20;
    for volume in 0..256 {
        bench.create(&lane, volume, blocks);
        let zero = lane.zero(
            key(volume),
            layer(1),
            BlockIndex::new(0),
            BlockCount::new(blocks),
            seq(9),
        );
        bench.run(zero).unwrap();
    }
    bench.run(bench.world.sleep(Duration::from_secs(2)));
    let stats = lane.stats();
    assert!(stats.map.overlay_bytes <= 8 << 20, "{stats:?}");
    assert_eq!(stats.leaves_written, 0);
    drop(lane);
    let lane = bench.restart(true);
    let shown = bench
        .run(Bench::read(&lane, key(255), blocks - 1, 1))
        .unwrap();
    assert_eq!(shown, [Some((9, true))]);
    let extents = lane.extents(
        key(3),
        (layer(0), layer(1)),
        BlockIndex::new(0),
        BlockCount::new(blocks),
        8,
    );
    assert_eq!(bench.run(extents).unwrap().len(), 1);
}

/// Start-up reads slots, root pages and the log behind the last checkpoint, and no leaf.
#[test]
fn a_start_reads_no_leaf() {
    let mut bench = Bench::new(2, DiskSpec::write_through(4 * GIB), None);
    let lane = bench.start();
    let shard = bench.create(&lane, 1, 1 << 20);
    // One block of each of 4,096 leaves: a map of 4 GiB.
    for leaf in 0..4096 {
        bench
            .run(bench.write(&lane, shard, leaf * 256, 1, 1))
            .unwrap();
    }
    let core = lane.core().clone();
    bench.run(core.fold_all());
    bench.run(lane.clone().close());
    assert_eq!(lane.stats().leaves_written, 4096);
    drop((lane, core));
    bench.stop(false);
    let before = bench.disk.counters().reads;
    let lane = bench.start();
    let reads = bench.disk.counters().reads - before;
    assert!(reads < 600, "{reads} reads");
    let shown = bench.run(Bench::read(&lane, shard, 4095 * 256, 1)).unwrap();
    assert_eq!(shown, [Some((1, false))]);
}

#[test]
fn the_space_of_a_volume_that_left_comes_back() {
    let mut bench = Bench::new(3, DiskSpec::write_through(128 << 20), None);
    bench.options.leaves_max = 16;
    let lane = bench.start();
    let blocks = u32::try_from(lane.usage().usable.get() / 4096 * 8 / 10).unwrap();
    let mut raw = 0;
    for volume in 0..5 {
        let shard = bench.create(&lane, volume, blocks);
        for block in (0..blocks - 256).step_by(256) {
            raw += 1;
            bench
                .run(bench.write(&lane, shard, block, 256, raw))
                .unwrap();
        }
        if volume == 2 {
            let core = lane.core().clone();
            bench.run(core.fold_all());
        }
        bench.run(lane.remove_shards(&[shard])).unwrap();
        bench.run(bench.world.sleep(Duration::from_secs(1)));
        assert!(lane.usage().used.get() < 1 << 20, "{:?}", lane.usage());
    }
}

/// A deleted snapshot's interval joins the one above it. What was written at both is in leaves of
/// both labels, and counted twice, until they are merged.
#[test]
fn the_space_of_a_deleted_snapshot_comes_back() {
    let mut bench = Bench::new(5, DiskSpec::write_through(128 << 20), None);
    bench.options.leaves_max = 16;
    let lane = bench.start();
    let shard = bench.create(&lane, 1, 1 << 20);
    let blocks = u32::try_from(lane.usage().usable.get() / 4096 * 3 / 10).unwrap();
    for label in 1..=2 {
        for block in (0..blocks - 256).step_by(256) {
            let write = bench.write_at(&lane, shard, label, (block, 256), u64::from(label));
            bench.run(write).unwrap();
        }
        let core = lane.core().clone();
        bench.run(core.fold_all());
    }
    let both = lane.usage().used.get();
    bench.run(lane.set_layers(shard, joined(1, 2))).unwrap();
    bench.run(bench.world.sleep(Duration::from_secs(1)));
    let one = lane.usage().used.get();
    assert!(one < both * 51 / 100, "{one} of {both}");
    let shown = bench
        .run(Bench::read(&lane, shard, 0, blocks - 512))
        .unwrap();
    assert!(shown.iter().all(|shown| *shown == Some((2, false))));
}
