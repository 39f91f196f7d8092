//! Damage of each kind: found, counted, confined, survived, and repaired where the data comes back.

use std::time::Duration;

use ashlar_proto::message::TailKind;
use ashlar_proto::{BLOCK_BYTES, BlockCount, BlockIndex, LaneIndex, Seq};
use ashlar_reactor::DiskOptions;
use ashlar_reactor::sim::{DiskSpec, fault::FaultAccess};

use super::bench::{Bench, PATH, key, layer, seq};
use crate::disk::open_disk;
use crate::lane::{DamageCounts, Lane, LaneError, SlotReport, StateChange, VerifyReport};

const MIB: u64 = 1 << 20;

/// A lane with a shard of which blocks 0 to 599 are written, all of it in leaves.
fn folded(seed: u64) -> (Bench, Lane) {
    folded_on(seed, DiskSpec::write_through(128 * MIB))
}

fn folded_on(seed: u64, spec: DiskSpec) -> (Bench, Lane) {
    let mut bench = Bench::new(seed, spec, None);
    bench.options.leaves_max = 0;
    let lane = bench.start();
    bench.create(&lane, 1, 1 << 20);
    bench.run(bench.write(&lane, key(1), 0, 600, 5)).unwrap();
    let core = lane.core().clone();
    bench.run(core.fold_all());
    bench.run(lane.checkpoint()).unwrap();
    (bench, lane)
}

/// Where a leaf lies.
fn leaf_offset(lane: &Lane, leaf: u32) -> u64 {
    let state = lane.core().state.borrow();
    let handle = state.shards.handle_of(key(1)).unwrap();
    let entry = state.shards.get(handle).unwrap().leaf_entry(layer(1), leaf);
    entry.address() * BLOCK_BYTES as u64
}

fn damage(lane: &Lane) -> DamageCounts {
    lane.stats().damage
}

fn tail(bench: &Bench, lane: &Lane) -> Vec<(u32, Seq, TailKind)> {
    let from = (BlockIndex::new(0), layer(1));
    let tail = bench
        .run(lane.tail(key(1), Seq::NONE, from, BlockCount::new(0), 1 << 20))
        .unwrap();
    tail.entries
        .iter()
        .map(|e| (e.block.get(), e.seq, e.kind))
        .collect()
}

#[test]
fn a_flipped_bit_of_data_is_refused_counted_and_repaired() {
    let (mut bench, lane) = folded(1);
    let offset = bench.data_offset(&lane, 1, 7);
    bench.disk.flip(offset, 12345);
    let read = bench.run(Bench::read(&lane, key(1), 0, 20));
    assert_eq!(read, Err(LaneError::Damaged(BlockIndex::new(7))));
    bench.run(Bench::read(&lane, key(1), 8, 500)).unwrap();
    bench.run(Bench::read(&lane, key(1), 0, 20)).unwrap_err();
    assert_eq!(damage(&lane).data, 1, "one place counts once");
    // The repair carries the seq that the block has.
    bench.run(bench.write(&lane, key(1), 7, 1, 5)).unwrap();
    bench.run(Bench::read(&lane, key(1), 0, 20)).unwrap();
    drop(lane);
    let lane = bench.restart(true);
    bench.run(Bench::read(&lane, key(1), 0, 600)).unwrap();
    assert_eq!(damage(&lane).total(), 0);
}

#[test]
fn a_block_that_is_hidden_once_is_read_again() {
    // Only what a volatile cache holds can be hidden.
    let (bench, lane) = folded_on(2, DiskSpec::new(128 * MIB));
    bench.run(bench.write(&lane, key(1), 7, 1, 6)).unwrap();
    let offset = bench.data_offset(&lane, 1, 7);
    assert!(bench.disk.hide_once(offset));
    let faults = bench.disk.counters().faults;
    let shown = bench.run(Bench::read(&lane, key(1), 7, 1)).unwrap();
    assert_eq!(shown, [Some((6, false))]);
    assert_eq!(bench.disk.counters().faults, faults + 1);
    assert_eq!(damage(&lane).total(), 0);
}

#[test]
fn a_damaged_leaf_refuses_its_blocks_until_they_are_written_again() {
    let (mut bench, lane) = folded(3);
    bench.disk.flip(leaf_offset(&lane, 0), 77);
    let read = bench.run(Bench::read(&lane, key(1), 3, 1));
    assert_eq!(read, Err(LaneError::Damaged(BlockIndex::new(3))));
    bench.run(Bench::read(&lane, key(1), 256, 344)).unwrap();
    assert_eq!(damage(&lane).leaf, 1);
    // Folding anew has confined the damage by now: single blocks can be repaired.
    bench.run(bench.world.sleep(Duration::from_millis(100)));
    bench.run(bench.write(&lane, key(1), 3, 1, 5)).unwrap();
    assert_eq!(
        bench.run(Bench::read(&lane, key(1), 3, 1)).unwrap(),
        [Some((5, false))]
    );
    bench.run(Bench::read(&lane, key(1), 4, 1)).unwrap_err();
    let kinds: Vec<_> = tail(&bench, &lane).iter().map(|entry| entry.2).collect();
    assert_eq!(
        kinds[2..5],
        [TailKind::Damaged, TailKind::Data, TailKind::Damaged]
    );
    assert_eq!(kinds[256..], [TailKind::Data; 344]);
    bench.run(bench.write(&lane, key(1), 0, 256, 6)).unwrap();
    bench.run(Bench::read(&lane, key(1), 0, 600)).unwrap();
    drop(lane);
    let lane = bench.restart(true);
    bench.run(Bench::read(&lane, key(1), 0, 600)).unwrap();
}

#[test]
fn a_damaged_root_page_refuses_its_blocks_and_takes_new_ones() {
    let (mut bench, lane) = folded(4);
    let place = {
        let state = lane.core().state.borrow();
        let handle = state.shards.handle_of(key(1)).unwrap();
        let shard = state.shards.get(handle).unwrap();
        shard.labels[&layer(1)].0[&0].place.unwrap()
    };
    drop(lane);
    bench.stop(false);
    bench.disk.flip(place.address * BLOCK_BYTES as u64, 9);
    let lane = bench.start();
    assert_eq!(damage(&lane).root, 1);
    bench.run(Bench::read(&lane, key(1), 0, 1)).unwrap_err();
    bench.run(bench.write(&lane, key(1), 0, 1, 5)).unwrap();
    bench.run(Bench::read(&lane, key(1), 0, 1)).unwrap();
    let core = lane.core().clone();
    bench.run(core.fold_all());
    bench.run(Bench::read(&lane, key(1), 0, 1)).unwrap();
    bench.run(Bench::read(&lane, key(1), 1, 1)).unwrap_err();
}

#[test]
fn a_damaged_slot_costs_nothing() {
    for place in 0..2 {
        let (mut bench, lane) = folded(5);
        let offset = lane.core().layout.slot_offsets[place];
        bench.run(bench.write(&lane, key(1), 0, 10, 8)).unwrap();
        drop(lane);
        bench.stop(true);
        bench.disk.flip(offset, 40);
        let lane = bench.start();
        assert_eq!(
            damage(&lane),
            DamageCounts {
                slot: 1,
                ..DamageCounts::default()
            }
        );
        bench.run(Bench::read(&lane, key(1), 0, 600)).unwrap();
    }
}

#[test]
fn a_damaged_superblock_is_repaired_from_its_copy() {
    for offset in [0, 127 * MIB] {
        let (mut bench, lane) = folded(6);
        drop(lane);
        bench.stop(true);
        bench.disk.flip(offset, 200);
        for damaged in [1, 0] {
            let reactor = bench.process.reactor().clone();
            let disk = bench
                .run(open_disk(&reactor, DiskOptions::new(PATH)))
                .unwrap();
            assert_eq!(disk.damaged_superblocks(), damaged);
        }
    }
}

/// A lost header below what was durable names no blocks: everything is suspect until it is written
/// again, and a later fold does not make it trusted.
#[test]
fn a_lost_batch_header_makes_old_blocks_suspect_and_new_ones_not() {
    let mut bench = Bench::new(7, DiskSpec::write_through(128 * MIB), None);
    let lane = bench.start();
    bench.create(&lane, 1, 1 << 20);
    bench.run(bench.write(&lane, key(1), 0, 4, 5)).unwrap();
    let header = bench.data_offset(&lane, 1, 0) - BLOCK_BYTES as u64;
    bench.run(bench.write(&lane, key(1), 300, 4, 6)).unwrap();
    bench.run(bench.world.sleep(Duration::from_secs(1)));
    drop(lane);
    bench.stop(true);
    bench.disk.flip(header, 300);
    let lane = bench.start();
    assert_eq!(damage(&lane).batch, 1);
    assert!(lane.shard_state(key(1)).unwrap().1.damaged);
    for block in [0, 300, 1000] {
        bench.run(Bench::read(&lane, key(1), block, 1)).unwrap_err();
    }
    let damaged = |block, raw| (block, seq(raw), TailKind::Damaged);
    let suspect: Vec<_> = (300..304).map(|block| damaged(block, 6)).collect();
    assert_eq!(tail(&bench, &lane), suspect);
    let settle = StateChange {
        settle: true,
        ..StateChange::default()
    };
    let settled = bench.run(lane.advance_state(key(1), settle)).unwrap();
    assert!(!settled.damaged, "an owner knows now what is missing");
    bench.run(bench.write(&lane, key(1), 300, 1, 6)).unwrap();
    assert_eq!(tail(&bench, &lane)[0], (300, seq(6), TailKind::Data));
    bench.run(bench.write(&lane, key(1), 0, 1, 7)).unwrap();
    for fold in [false, true] {
        if fold {
            let core = lane.core().clone();
            bench.run(core.fold_all());
        }
        for block in [0, 300] {
            bench.run(Bench::read(&lane, key(1), block, 1)).unwrap();
        }
        bench.run(Bench::read(&lane, key(1), 301, 1)).unwrap_err();
    }
    drop(lane);
    let lane = bench.restart(true);
    bench.run(Bench::read(&lane, key(1), 0, 1)).unwrap();
    bench.run(Bench::read(&lane, key(1), 301, 1)).unwrap_err();
    assert_eq!(damage(&lane).total(), 0, "the gap is on record");
    assert!(!lane.shard_state(key(1)).unwrap().1.damaged);
}

/// A segment whose header rots keeps what lies in it: the first batch carries the nonce as well.
#[test]
fn a_lost_segment_header_costs_nothing() {
    let mut bench = Bench::new(11, DiskSpec::write_through(128 * MIB), None);
    let lane = bench.start();
    bench.create(&lane, 1, 1 << 20);
    bench.run(bench.write(&lane, key(1), 0, 4, 5)).unwrap();
    let data = bench.data_offset(&lane, 1, 0) / BLOCK_BYTES as u64;
    let layout = lane.core().layout;
    let segment = layout.segment_of(data).unwrap();
    bench.run(bench.world.sleep(Duration::from_secs(1)));
    drop(lane);
    bench.stop(true);
    let header = layout.segment_address(segment) * BLOCK_BYTES as u64;
    bench.disk.flip(header, 300);
    for _ in 0..2 {
        let lane = bench.start();
        assert_eq!(
            bench.run(Bench::read(&lane, key(1), 0, 4)).unwrap(),
            [Some((5, false)); 4]
        );
        assert_eq!(damage(&lane).total(), 0);
        drop(lane);
        bench.stop(true);
    }
}

/// What was flushed last may be above every `durable` on the disk: where the device cannot read it,
/// nobody may take it for a write that never completed.
#[test]
fn an_end_of_the_log_that_cannot_be_read_makes_old_blocks_suspect() {
    for hole in ["header", "payload", "segment"] {
        let mut bench = Bench::new(12, DiskSpec::new(128 * MIB), None);
        let lane = bench.start();
        bench.create(&lane, 1, 1 << 20);
        bench.run(bench.write(&lane, key(1), 0, 4, 5)).unwrap();
        bench.run(lane.flush()).unwrap();
        let data = bench.data_offset(&lane, 1, 0);
        let block = BLOCK_BYTES as u64;
        let layout = lane.core().layout;
        let segment = layout.segment_of(data / block).unwrap();
        drop(lane);
        bench.stop(true);
        let (from, blocks) = match hole {
            "header" => (data - block, 1),
            "payload" => (data + block, 1),
            _ => (layout.segment_address(segment) * block, 8),
        };
        bench
            .disk
            .faults(|faults| faults.fail(FaultAccess::Read, from..from + blocks * block));
        let lane = bench.start();
        assert!(damage(&lane).batch >= 1, "{hole}");
        let read = bench.run(Bench::read(&lane, key(1), 0, 4));
        // Where its creation is lost as well, the shard is not there at all.
        match lane.shard_state(key(1)) {
            Some((_, state)) => assert!(state.damaged && state.suspect, "{hole}"),
            None => assert_eq!(hole, "segment"),
        }
        read.unwrap_err();
        drop(lane);
        bench.stop(true);
        // It is on record: not found anew at each start.
        let lane = bench.start();
        assert_eq!(damage(&lane).batch, 0, "{hole}");
    }
}

/// The batch with the record that created a shard rots before the next checkpoint. If the shard's
/// handle, which only that record and the shard's own entries name, were given out once more, the
/// entries of the lost shard would be those of the next one.
#[test]
fn a_handle_whose_creation_was_lost_is_not_given_out_again() {
    let mut bench = Bench::new(10, DiskSpec::write_through(128 * MIB), None);
    let lane = bench.start();
    bench.create(&lane, 1, 1 << 20);
    bench.run(bench.write(&lane, key(1), 0, 4, 5)).unwrap();
    let handle_of = |lane: &Lane, volume| {
        let state = lane.core().state.borrow();
        state.shards.handle_of(key(volume)).unwrap()
    };
    let lost = handle_of(&lane, 1);
    let creation = bench.data_offset(&lane, 1, 0) - 2 * BLOCK_BYTES as u64;
    bench.run(bench.world.sleep(Duration::from_secs(1)));
    drop(lane);
    bench.stop(true);
    bench.disk.flip(creation, 300);
    let lane = bench.start();
    assert_eq!((damage(&lane).batch, lane.shards()), (1, Vec::new()));
    bench.create(&lane, 2, 1 << 20);
    assert!(handle_of(&lane, 2) > lost);
    drop(lane);
    let lane = bench.restart(true);
    assert_eq!(lane.shard_state(key(2)).unwrap().1.highest, Seq::NONE);
}

#[test]
fn a_damaged_header_behind_a_summary_costs_nothing() {
    let (mut bench, lane) = folded(8);
    // Blocks up to 600 and more fill segments of 1 MiB: the first is sealed and has its summary.
    for raw in 10..14 {
        bench
            .run(bench.write(&lane, key(1), 1000, 256, raw))
            .unwrap();
    }
    bench.run(bench.world.sleep(Duration::from_secs(1)));
    let header = bench.data_offset(&lane, 1, 0) - BLOCK_BYTES as u64;
    bench.disk.flip(header, 300);
    drop(lane);
    let lane = bench.restart(true);
    bench.run(Bench::read(&lane, key(1), 0, 600)).unwrap();
    assert_eq!(damage(&lane).batch, 0);
}

#[test]
fn the_inspector_sees_damage_and_changes_nothing() {
    let (mut bench, lane) = folded(9);
    let zero = lane.zero(
        key(1),
        layer(1),
        BlockIndex::new(5),
        BlockCount::new(1),
        seq(6),
    );
    bench.run(zero).unwrap();
    let offset = bench.data_offset(&lane, 1, 7);
    drop(lane);
    bench.stop(true);
    bench.disk.flip(offset, 5);
    let before = bench.disk.counters();
    let options = DiskOptions {
        read_only: true,
        ..DiskOptions::new(PATH)
    };
    let reactor = bench.process.reactor().clone();
    let report = bench.run(async {
        let disk = open_disk(&reactor, options).await.unwrap();
        let mut report = disk.lane(LaneIndex::new(0)).inspect().await.unwrap();
        let mut blocks = Vec::new();
        let each = |block| blocks.push(block);
        report.map(key(1), layer(1), each).await;
        assert_eq!(blocks.len(), 600);
        assert_eq!((blocks[5].seq, blocks[7].offset), (seq(6), offset));
        assert!(
            report
                .slots()
                .iter()
                .all(|slot| matches!(slot, SlotReport::Valid { .. }))
        );
        assert_eq!(report.shards().len(), 1);
        assert!(report.segments().any(|segment| segment.live.get() > 0));
        report.verify().await
    });
    let expected = VerifyReport {
        data_good: 598,
        leaves_good: 3,
        damage: DamageCounts {
            data: 1,
            ..DamageCounts::default()
        },
        damaged_blocks: vec![(key(1), BlockIndex::new(7))],
    };
    assert_eq!(report, expected);
    assert_eq!(bench.disk.counters().writes, before.writes);
}
