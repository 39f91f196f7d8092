//! What a lane does when all goes well, and after restarts.

use std::time::Duration;

use ashlar_proto::{BlockCount, BlockIndex, RoomHint, Seq, Window};
use ashlar_reactor::sim::DiskSpec;

use super::bench::{Bench, describe, joined, key, layer, seq};
use crate::lane::{Lane, LaneError, ShardKey, StateChange};

const MIB: u64 = 1 << 20;

#[test]
fn written_blocks_are_read_and_survive_restarts() {
    for (volatile, power) in [(true, true), (true, false), (false, true), (false, false)] {
        let spec = if volatile {
            DiskSpec::new(128 * MIB)
        } else {
            DiskSpec::write_through(128 * MIB)
        };
        let mut bench = Bench::new(1, spec, None);
        let lane = bench.start();
        assert_eq!(bench.disk.spec().volatile_cache, lane.has_volatile_cache());
        let shard = bench.create(&lane, 5, 1 << 20);
        bench.run(bench.write(&lane, shard, 250, 300, 7)).unwrap();
        bench.run(bench.write(&lane, shard, 300, 1, 8)).unwrap();
        let zero = lane.zero(
            shard,
            layer(1),
            BlockIndex::new(310),
            BlockCount::new(2),
            seq(9),
        );
        bench.run(zero).unwrap();
        bench.run(lane.flush()).unwrap();
        let incarnation = lane.incarnation();
        let check = |bench: &Bench, lane: &crate::lane::Lane| {
            let shown = bench.run(Bench::read(lane, shard, 248, 304)).unwrap();
            for (block, found) in (248..).zip(shown) {
                let expected = match block {
                    248..250 | 550.. => None,
                    300 => Some((8, false)),
                    310..312 => Some((9, true)),
                    _ => Some((7, false)),
                };
                assert_eq!(found, expected, "block {block}");
            }
        };
        check(&bench, &lane);
        drop(lane);
        let lane = bench.restart(power);
        assert!(lane.incarnation() > incarnation);
        check(&bench, &lane);
        let (_, state) = lane.shard_state(shard).unwrap();
        assert_eq!(state.may_have_lost, volatile);
        assert_eq!((state.highest, state.damaged), (seq(9), false));
        let tail = bench.run(lane.tail(
            shard,
            seq(7),
            (BlockIndex::new(0), layer(0)),
            BlockCount::new(0),
            100,
        ));
        assert_eq!(tail.unwrap().entries.len(), 3);
        bench.run(lane.clone().close());
        drop(lane);
        let lane = bench.restart(power);
        check(&bench, &lane);
        assert_eq!(lane.stats().damage.total(), 0);
    }
}

/// The last leaf of the shard has 44 blocks: zeroes over all of them say nothing of what it grows by.
#[test]
fn a_shard_that_has_grown_stays_so_and_its_new_blocks_are_absent() {
    for power in [false, true] {
        let mut bench = Bench::new(3, DiskSpec::new(128 * MIB), None);
        let lane = bench.start();
        let shard = bench.create(&lane, 5, 300);
        bench.run(bench.write(&lane, shard, 290, 10, 7)).unwrap();
        let zero = |lane: &Lane, seq| {
            let (at, count) = (BlockIndex::new(256), BlockCount::new(44));
            bench.run(lane.zero(shard, layer(1), at, count, seq))
        };
        zero(&lane, seq(8)).unwrap();
        let beyond = bench.run(bench.write(&lane, shard, 299, 2, 9));
        assert_eq!(beyond, Err(LaneError::OutOfRange));
        bench.run(bench.write(&lane, shard, 10, 1, 3)).unwrap();
        let blocks = |lane: &Lane| lane.shards()[0].2;
        let (larger, smaller) = (BlockCount::new(700), BlockCount::new(100));
        bench.run(lane.grow_shards(&[(shard, larger)])).unwrap();
        assert_eq!(blocks(&lane), larger);
        bench.run(lane.grow_shards(&[(shard, smaller)])).unwrap();
        assert_eq!(blocks(&lane), larger, "no shard gets smaller");
        drop(lane);
        let lane = bench.restart(power);
        assert_eq!(blocks(&lane), larger);
        let shown = bench.run(Bench::read(&lane, shard, 296, 404)).unwrap();
        assert!(shown[..4].iter().all(|found| *found == Some((8, true))));
        assert!(shown[4..].iter().all(Option::is_none));
        bench.run(bench.write(&lane, shard, 299, 300, 10)).unwrap();
        bench.run(lane.flush()).unwrap();
        bench.run(lane.clone().close());
        drop(lane);
        let lane = bench.restart(power);
        assert_eq!(blocks(&lane), larger);
        let shown = bench.run(Bench::read(&lane, shard, 298, 302)).unwrap();
        assert_eq!((shown[0], shown[301]), (Some((8, true)), None));
        assert!(
            shown[1..301]
                .iter()
                .all(|found| *found == Some((10, false)))
        );
        let far = bench.run(bench.write(&lane, shard, 700, 1, 11));
        assert_eq!(far, Err(LaneError::OutOfRange));
    }
}

#[test]
fn state_of_a_shard_is_durable_and_only_grows() {
    let mut bench = Bench::new(2, DiskSpec::new(128 * MIB), None);
    let lane = bench.start();
    let shard = bench.create(&lane, 5, 1 << 20);
    let change = StateChange {
        generation: Some(ashlar_proto::Generation::new(3)),
        stable: Some(seq(40)),
        settle: true,
        ..StateChange::default()
    };
    let state = bench.run(lane.advance_state(shard, change)).unwrap();
    assert_eq!(state.generation.get(), 3);
    let lower = StateChange {
        generation: Some(ashlar_proto::Generation::new(2)),
        ..StateChange::default()
    };
    bench.run(lane.advance_state(shard, lower)).unwrap();
    drop(lane);
    let lane = bench.restart(true);
    let (replica, state) = lane.shard_state(shard).unwrap();
    assert_eq!(replica.get(), 5);
    assert_eq!((state.generation.get(), state.stable), (3, seq(40)));
    assert!(state.may_have_lost, "this restart may have cost writes");
    bench.run(lane.remove_shards(&[shard])).unwrap();
    assert!(lane.shards().is_empty());
    drop(lane);
    let lane = bench.restart(true);
    assert!(lane.shards().is_empty());
    let read = bench.run(Bench::read(&lane, key(5), 0, 1));
    assert_eq!(read, Err(LaneError::NoSuchShard));
}

#[test]
fn random_overwrites_at_80_percent_go_on_for_ever() {
    let bench = Bench::new(3, DiskSpec::write_through(128 * MIB), None);
    let (lane, shard, blocks) = overwritten(&bench, 80, 1500);
    assert_eq!(lane.room(), RoomHint::Scarce);
    let stats = lane.stats();
    assert!(stats.segments_collected > 0);
    let shown = bench.run(Bench::read(&lane, shard, 0, blocks)).unwrap();
    assert!(shown.iter().all(Option::is_some));
}

/// The smallest lanes leave the least to spare.
#[test]
fn random_overwrites_of_all_that_is_usable_go_on_for_ever() {
    for (size, segment, volatile) in [
        (52 * MIB, MIB, true),
        (52 * MIB, MIB, false),
        (128 * MIB, MIB, true),
    ] {
        let spec = DiskSpec {
            volatile_cache: volatile,
            ..DiskSpec::new(size)
        };
        let bench = Bench::new(8, spec, Some(segment));
        let (lane, shard, blocks) = overwritten(&bench, 98, 500);
        let shown = bench.run(Bench::read(&lane, shard, 0, blocks)).unwrap();
        assert!(shown.iter().all(Option::is_some));
    }
}

/// A lane that is filled to some percent of what is usable, and then overwritten at random.
fn overwritten(bench: &Bench, percent: u64, rounds: u32) -> (Lane, ShardKey, u32) {
    let lane = bench.start();
    let usable = lane.usage().usable.get() / 4096;
    // Of a hundred blocks one or two are pages of the map.
    let blocks = u32::try_from(usable * percent / 100).unwrap();
    let shard = bench.create(&lane, 1, blocks);
    let mut raw = 0;
    for block in (0..blocks).step_by(64) {
        raw += 1;
        let count = 64.min(blocks - block);
        let write = bench.write(&lane, shard, block, count, raw);
        let done = bench.world.run(Duration::from_secs(100), write);
        done.unwrap_or_else(|error| panic!("{error}: {}", describe(&lane)))
            .unwrap();
    }
    let mut rng = bench.world.fork_rng();
    for _ in 0..rounds {
        let mut writes = Vec::new();
        let mut taken = Vec::new();
        for _ in 0..16 {
            let block = u32::try_from(rng.below(u64::from(blocks))).unwrap();
            if taken.contains(&block) {
                continue;
            }
            taken.push(block);
            raw += 1;
            writes.push(bench.write(&lane, shard, block, 1, raw));
        }
        let all = ashlar_reactor::future::join_all(writes);
        let done = bench.world.run(Duration::from_secs(100), all);
        let done = done.unwrap_or_else(|error| panic!("{error}: {}", describe(&lane)));
        assert!(done.iter().all(Result::is_ok), "{done:?}");
    }
    (lane, shard, blocks)
}

#[test]
fn a_full_lane_refuses_writes_and_takes_them_again_after_a_trim() {
    let bench = Bench::new(4, DiskSpec::new(128 * MIB), None);
    let lane = bench.start();
    let blocks = u32::try_from(128 * MIB / 4096).unwrap();
    let shard = bench.create(&lane, 1, blocks);
    let mut raw = 0;
    let mut block = 0;
    let refused = loop {
        raw += 1;
        match bench.run(bench.write(&lane, shard, block, 32, raw)) {
            Ok(()) => block += 32,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, LaneError::NoSpace);
    assert!(lane.room() >= RoomHint::Soft);
    let usage = lane.usage();
    assert!(
        usage.used.get() > usage.usable.get() * 95 / 100,
        "{usage:?}"
    );
    bench.run(Bench::read(&lane, shard, 0, block)).unwrap();
    let zero = lane.zero(
        shard,
        layer(1),
        BlockIndex::new(0),
        BlockCount::new(1024),
        seq(raw + 1),
    );
    bench.run(zero).unwrap();
    raw += 2;
    bench.run(bench.write(&lane, shard, 5, 32, raw)).unwrap();
    bench.run(bench.world.sleep(Duration::from_secs(1)));
    bench.run(Bench::read(&lane, shard, 0, block)).unwrap();
}

/// A replica whose table was the older one took a version again at the next label, as catch-up
/// sent it: both labels have it in a leaf. Their intervals are joined. A lookup shows the block of
/// the higher label, so that the other one's segment may be collected and opened again; a merge
/// that kept the other one would name what is not there any more.
#[test]
fn of_equal_versions_a_merge_keeps_the_one_that_a_lookup_shows() {
    let mut bench = Bench::new(6, DiskSpec::write_through(128 * MIB), None);
    bench.options.leaf_pause = Duration::from_millis(5);
    bench.options.leaves_max = 0;
    let lane = bench.start();
    let shard = bench.create(&lane, 1, 1 << 20);
    let mut offsets = Vec::new();
    for label in 1..=2 {
        let write = bench.write_at(&lane, shard, label, (0, 3), 7);
        bench.run(write).unwrap();
        let core = lane.core().clone();
        bench.run(core.fold_all());
        offsets.push(bench.data_offset(&lane, label, 0));
    }
    assert_ne!(offsets[0], offsets[1]);
    bench.run(lane.set_layers(shard, joined(1, 2))).unwrap();
    bench.run(bench.world.sleep(Duration::from_secs(1)));
    assert_eq!(bench.data_offset(&lane, 2, 0), offsets[1]);
}

/// A replica could not read a leaf of label 1 when it was caught up, so its blocks were buried under the
/// last seq of the window, in which label 2 went on. Then their intervals are joined.
#[test]
fn a_grave_lies_under_the_labels_above_it() {
    let bench = Bench::new(6, DiskSpec::write_through(128 * MIB), None);
    let lane = bench.start();
    let shard = bench.create(&lane, 1, 1 << 20);
    let window = Window::new(1);
    let (start, grave) = (window.start().get(), window.burial().get());
    let later = Window::new(2).start().get() + 1;
    // Label 1: buried all of them; one was never written above, one in the same window, one later.
    bench
        .run(bench.write_at(&lane, shard, 1, (0, 3), grave))
        .unwrap();
    bench
        .run(bench.write_at(&lane, shard, 2, (1, 1), start + 9))
        .unwrap();
    bench
        .run(bench.write_at(&lane, shard, 3, (2, 1), later))
        .unwrap();
    // A copy of what was at label 1, sent at the top label of an interval.
    bench
        .run(bench.write_at(&lane, shard, 2, (2, 1), start + 4))
        .unwrap();
    let expected = [
        Some((grave, false)),
        Some((start + 9, false)),
        Some((later, false)),
    ];
    let check = |lane: &Lane| {
        let shown = bench.run(Bench::read(lane, shard, 0, 3)).unwrap();
        assert_eq!(shown, expected);
    };
    check(&lane);
    bench.run(lane.set_layers(shard, joined(1, 3))).unwrap();
    check(&lane);
    let tail = bench.run(lane.tail(
        shard,
        Seq::NONE,
        (BlockIndex::new(0), layer(0)),
        BlockCount::new(0),
        9,
    ));
    let told = tail
        .unwrap()
        .entries
        .into_iter()
        .map(|entry| entry.seq.get());
    assert_eq!(told.collect::<Vec<_>>(), [grave, start + 9, later]);
    let core = lane.core().clone();
    bench.run(core.fold_all());
    bench.run(bench.world.sleep(Duration::from_secs(1)));
    check(&lane);
}

/// The first version of a block is durable, the second one lies in the cache: the leaf counts as due,
/// and there is nothing to fold. A lane that is short of segments takes no writes, so nobody else
/// would flush.
#[test]
fn what_was_written_again_is_flushed_to_be_folded() {
    let bench = Bench::new(8, DiskSpec::new(128 * MIB), None);
    let lane = bench.start();
    let shard = bench.create(&lane, 1, 1 << 20);
    bench.run(bench.write(&lane, shard, 3, 1, 7)).unwrap();
    bench.run(lane.flush()).unwrap();
    bench.run(bench.write(&lane, shard, 3, 1, 8)).unwrap();
    let core = lane.core().clone();
    let began = bench.world.now();
    bench.run(core.fold_all());
    let took = bench.world.now() - began;
    assert!(took < Duration::from_millis(100), "{took:?}");
}

/// The collector moved a block: its delta hides what the leaf says, and the old place is another's.
/// A read waits for the leaf; meanwhile the shard leaves, and with it the delta.
#[test]
fn a_read_that_waited_for_a_leaf_sees_that_its_shard_has_left() {
    let mut bench = Bench::new(7, DiskSpec::write_through(128 * MIB), None);
    bench.options.leaves_max = 0;
    bench.options.leaf_pause = Duration::from_millis(50);
    let lane = bench.start();
    let shard = bench.create(&lane, 1, 1 << 20);
    for (block, count, raw) in [(0, 1, 1), (512, 256, 2), (1, 1, 3), (512, 256, 4)] {
        let write = bench.write(&lane, shard, block, count, raw);
        bench.run(write).unwrap();
    }
    let core = lane.core().clone();
    bench.run(core.fold_all());
    bench.run(lane.checkpoint()).unwrap();
    let old = bench.data_offset(&lane, 1, 0);
    bench.run(core.collect_one());
    assert_ne!(bench.data_offset(&lane, 1, 0), old, "moved");
    bench.disk.poke(old, &[0xee; 4096]);
    let reader = lane.clone();
    let read = async move { Bench::read(&reader, shard, 0, 1).await };
    let read = bench.process.reactor().spawn(read);
    bench.run(lane.remove_shards(&[shard])).unwrap();
    assert_eq!(bench.run(read), Err(LaneError::NoSuchShard));
    assert_eq!(lane.stats().damage.total(), 0);
}
