//! Room that is kept for one shard, whatever others write.

use std::time::Duration;

use ashlar_proto::{BlockCount, BlockIndex, RoomHint, reserved_blocks};
use ashlar_reactor::sim::DiskSpec;

use super::bench::{Bench, key, layer, seq};
use crate::lane::slot::SlotHead;
use crate::lane::{Lane, LaneError, ShardKey};

const MIB: u64 = 1 << 20;
const RESERVE: u32 = 4096;
const BLOCKS: u32 = 32 << 10;

fn filled(bench: &Bench, lane: &Lane, shard: ShardKey, raw: &mut u64) -> u32 {
    for block in (0..BLOCKS).step_by(32) {
        *raw += 1;
        if let Err(error) = bench.run(bench.write(lane, shard, block, 32, *raw)) {
            assert_eq!(error, LaneError::NoSpace);
            return block;
        }
    }
    panic!("it was never full");
}

fn reserve(bench: &Bench, lane: &Lane, shard: ShardKey, blocks: u32) {
    let kept = [(shard, BlockCount::new(blocks))];
    bench.run(lane.reserve_shards(&kept)).unwrap();
}

fn blocks_of(bytes: ashlar_proto::ByteCount) -> u64 {
    bytes.get() / 4096
}

#[test]
fn what_is_reserved_is_left_by_others_and_filled_by_its_shard() {
    let mut bench = Bench::new(4, DiskSpec::new(128 * MIB), None);
    let lane = bench.start();
    let (thick, thin) = (
        bench.create(&lane, 1, BLOCKS),
        bench.create(&lane, 2, BLOCKS),
    );
    reserve(&bench, &lane, thick, RESERVE);
    let all = reserved_blocks(BlockCount::new(RESERVE), BlockCount::new(BLOCKS));
    let usage = lane.usage();
    assert_eq!(
        (blocks_of(usage.reserved), blocks_of(usage.unfilled)),
        (all, all)
    );

    let mut raw = 0;
    filled(&bench, &lane, thin, &mut raw);
    let usage = lane.usage();
    assert!(
        blocks_of(usage.usable) - blocks_of(usage.used) >= all,
        "{usage:?}"
    );
    assert_eq!(lane.room_of(thick), RoomHint::Ample);
    assert!(lane.room_of(thin) >= RoomHint::Soft);
    assert!(lane.room() >= RoomHint::Soft, "for whom nothing is kept");

    // After a power loss before the owner or the conductor has said anything.
    let before = lane.stats().refused;
    assert!(before > 0);
    drop(lane);
    let lane = bench.restart(true);
    assert_eq!(lane.reserves(), [(thick, BlockCount::new(RESERVE))]);
    raw += 1;
    let refused = bench.run(bench.write(&lane, thin, 20_000, 32, raw));
    assert_eq!(refused, Err(LaneError::NoSpace));

    // All of it, wherever it lies: each block in a leaf of its own first.
    let scattered = (0..128).map(|leaf| leaf * 256);
    for block in scattered {
        raw += 1;
        bench
            .run(bench.write(&lane, thick, block, 32, raw))
            .unwrap();
    }
    let core = lane.core().clone();
    bench.run(core.fold_all());
    assert!(blocks_of(lane.usage().unfilled) <= 16, "{:?}", lane.usage());
    let last = (0..40).map(|turn| {
        raw += 1;
        bench.run(bench.write(&lane, thick, turn * 256 + 64, 32, raw))
    });
    assert!(last.collect::<Vec<_>>().contains(&Err(LaneError::NoSpace)));
    bench.run(Bench::read(&lane, thin, 0, 4096)).unwrap();
}

#[test]
fn what_is_trimmed_is_kept_again_and_what_is_given_up_is_anybodys() {
    let bench = Bench::new(5, DiskSpec::new(128 * MIB), None);
    let lane = bench.start();
    let (thick, thin) = (
        bench.create(&lane, 1, BLOCKS),
        bench.create(&lane, 2, BLOCKS),
    );
    reserve(&bench, &lane, thick, RESERVE);
    let mut raw = 0;
    for block in (0..RESERVE).step_by(256) {
        raw += 1;
        bench
            .run(bench.write(&lane, thick, block, 256, raw))
            .unwrap();
    }
    filled(&bench, &lane, thin, &mut raw);
    let all = BlockCount::new(RESERVE);
    let zero = lane.zero(thick, layer(1), BlockIndex::new(0), all, seq(raw + 1));
    bench.run(zero).unwrap();
    let core = lane.core().clone();
    bench.run(core.fold_all());
    raw += 2;
    let refused = bench.run(bench.write(&lane, thin, 20_000, 32, raw));
    assert_eq!(refused, Err(LaneError::NoSpace));
    raw += 1;
    bench.run(bench.write(&lane, thick, 0, 256, raw)).unwrap();

    reserve(&bench, &lane, thick, 0);
    raw += 1;
    bench
        .run(bench.write(&lane, thin, 20_000, 32, raw))
        .unwrap();
    assert_eq!(lane.reserves(), []);
    let usage = lane.usage();
    assert_eq!((usage.reserved.get(), usage.unfilled.get()), (0, 0));
}

#[test]
fn snapshots_count_and_a_shard_that_leaves_keeps_nothing() {
    let bench = Bench::new(6, DiskSpec::new(128 * MIB), None);
    let lane = bench.start();
    let thick = bench.create(&lane, 1, BLOCKS);
    reserve(&bench, &lane, thick, RESERVE);
    let unfilled = || blocks_of(lane.usage().unfilled);
    let start = unfilled();
    for (raw, label) in [(1, 1), (2, 2), (3, 3)] {
        let write = bench.write_at(&lane, thick, label, (0, 256), raw);
        bench.run(write).unwrap();
    }
    let core = lane.core().clone();
    bench.run(core.fold_all());
    // A leaf and a root page each.
    assert_eq!(start - unfilled(), 3 * (256 + 2));
    let taken = lane.largest(9);
    assert_eq!(taken.len(), 1);
    assert_eq!(blocks_of(taken[0].1), 3 * (256 + 2));
    bench.run(lane.remove_shards(&[thick])).unwrap();
    assert_eq!(unfilled(), 0);
    bench.run(bench.world.sleep(Duration::from_secs(1)));
    assert_eq!(lane.usage().used.get(), 0);
}

/// Slots of earlier builds do not say what each shard takes: all leaves are read then, once.
#[test]
fn a_slot_that_counts_no_shards_is_counted_at_the_start() {
    let mut bench = Bench::new(7, DiskSpec::new(128 * MIB), None);
    let lane = bench.start();
    let shards = [
        bench.create(&lane, 1, BLOCKS),
        bench.create(&lane, 2, BLOCKS),
    ];
    for (raw, block) in (1..).zip((0..3000).step_by(300)) {
        let shard = shards[usize::try_from(raw % 2).unwrap()];
        bench
            .run(bench.write(&lane, shard, block, 100, raw))
            .unwrap();
    }
    let taken = |lane: &Lane| lane.largest(9);
    let core = lane.core().clone();
    bench.run(core.fold_all());
    let before = taken(&lane);
    assert_eq!(before.len(), 2);
    let offsets = core.layout.slot_offsets;
    drop(core);
    bench.run(lane.close());
    for offset in offsets {
        let mut first = vec![0; 4096];
        bench.disk.peek(offset, &mut first);
        let head = SlotHead::decode(&first).unwrap();
        let mut rest = vec![0; usize::try_from(head.rest_bytes()).unwrap()];
        bench.disk.peek(offset + 4096, &mut rest);
        let mut slot = head.slot(&rest).unwrap();
        slot.spaces.clear();
        bench.disk.poke(offset, &slot.encode());
    }
    let lane = bench.restart(false);
    assert_eq!(taken(&lane), before);
    assert_eq!(lane.reserves(), []);
    assert_eq!(lane.shards().len(), 2);
    assert!(lane.shard_state(key(1)).is_some());
}
