//! Fencing and field checks, without a lane.

use super::*;
use ashlar_proto::{BlockIndex, Epoch, ShardIndex, VolumeId};

const GENERATION: Generation = Generation::new(5);

fn gate() -> Rc<Gate> {
    let key = ShardKey {
        volume: VolumeId::new(1),
        shard: ShardIndex::new(0),
    };
    let state = ShardState {
        generation: GENERATION,
        epoch: Epoch::new(3),
        window: Window::new(9),
        stable: Window::new(8).burial(),
        ..ShardState::default()
    };
    Gate::new(key, ReplicaId::new(7), BlockCount::new(1000), state)
}

fn write() -> FrameHeader {
    FrameHeader {
        generation: GENERATION,
        epoch: Epoch::new(3),
        layer: Layer::new(1),
        block: BlockIndex::new(10),
        count: BlockCount::new(2),
        data_blocks: 2,
        seq: Window::new(9).start().next_in_window().unwrap(),
        ..FrameHeader::request(FrameKind::Write, 1)
    }
}

fn verdict(change: impl FnOnce(&mut FrameHeader)) -> Status {
    let mut header = write();
    change(&mut header);
    gate().admit(&header).map_or_else(|s| s, |_| Status::Ok)
}

fn seq(window: u32, number: u64) -> Seq {
    Seq::from_raw(Window::new(window).start().get() + number).unwrap()
}

#[test]
fn write_at_another_generation_is_fenced() {
    assert_eq!(verdict(|_| {}), Status::Ok);
    assert_eq!(
        verdict(|h| h.generation = Generation::new(4)),
        Status::Fenced
    );
    assert_eq!(
        verdict(|h| h.generation = Generation::new(6)),
        Status::Fenced
    );
    let fresh = Gate::new(
        gate().key,
        ReplicaId::new(7),
        BlockCount::new(9),
        ShardState::default(),
    );
    let mut header = write();
    header.generation = Generation::new(0);
    assert_eq!(fresh.admit(&header).unwrap_err(), Status::Fenced);
    assert_eq!(
        fresh.begin_open(&header, ReplicaId::new(7)).unwrap_err(),
        Status::Malformed
    );
}

#[test]
fn lower_epochs_are_stale_and_higher_ones_adopted() {
    assert_eq!(verdict(|h| h.epoch = Epoch::new(2)), Status::StaleEpoch);
    let gate = gate();
    let mut header = write();
    header.epoch = Epoch::new(4);
    drop(gate.admit(&header).unwrap());
    let noted = gate.note(&header);
    assert!(noted.epoch && !noted.stable);
    assert_eq!(gate.admit(&write()).unwrap_err(), Status::StaleEpoch);
}

#[test]
fn ranges_beyond_the_shard_are_malformed() {
    for (block, count) in [
        (0u64, 0u32),
        (999, 2),
        (1000, 1),
        (0xffff_ffff, 2),
        (0, 257),
    ] {
        for kind in [
            FrameKind::Write,
            FrameKind::Zeroes,
            FrameKind::Read,
            FrameKind::Extents,
        ] {
            let fits = block + u64::from(count) <= 1000 && count > 0;
            let limited = matches!(kind, FrameKind::Write | FrameKind::Read);
            let expected = if fits && !(limited && count > 256) {
                Status::Ok
            } else {
                Status::Malformed
            };
            let got = verdict(|h| {
                h.kind = kind;
                h.block = BlockIndex::new(u32::try_from(block).unwrap());
                h.count = BlockCount::new(count);
                h.data_blocks = u16::try_from(count).unwrap();
            });
            assert_eq!(got, expected, "{kind:?} {block}+{count}");
        }
    }
    assert_eq!(verdict(|h| h.layer = Layer::new(0)), Status::Malformed);
    assert_eq!(verdict(|h| h.data_blocks = 1), Status::Malformed);
}

#[test]
fn a_shard_that_has_grown_takes_what_lies_in_its_new_blocks() {
    let gate = gate();
    let mut header = write();
    header.block = BlockIndex::new(1000);
    assert_eq!(gate.admit(&header).unwrap_err(), Status::Malformed);
    gate.grow(BlockCount::new(1200));
    gate.grow(BlockCount::new(1100));
    assert!(gate.admit(&header).is_ok());
    header.block = BlockIndex::new(1200);
    assert_eq!(gate.admit(&header).unwrap_err(), Status::Malformed);
}

#[test]
fn seqs_lie_in_recorded_windows_and_within_reach() {
    let reach = SEQ_AHEAD_MAX;
    assert_eq!(verdict(|h| h.seq = seq(10, 1)), Status::SeqOutOfWindow);
    assert_eq!(verdict(|h| h.seq = seq(9, 0)), Status::SeqOutOfWindow);
    assert_eq!(verdict(|h| h.seq = Seq::NONE), Status::SeqOutOfWindow);
    assert_eq!(verdict(|h| h.seq = seq(9, reach - 1)), Status::Ok);
    assert_eq!(verdict(|h| h.seq = seq(9, reach)), Status::SeqOutOfWindow);
    let ahead = verdict(|h| (h.seq, h.stable) = (seq(9, reach), seq(9, 1)));
    assert_eq!(ahead, Status::Ok);
    // What reconciliation copies, and what buries orphans.
    assert_eq!(verdict(|h| h.seq = seq(2, 77)), Status::Ok);
    assert_eq!(verdict(|h| h.seq = Window::new(9).burial()), Status::Ok);
    assert_eq!(verdict(|h| h.stable = seq(10, 1)), Status::SeqOutOfWindow);
}

#[test]
fn an_opening_waits_for_older_changes_and_yields_to_newer_ones() {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    let gate = gate();
    let under_way = gate.admit(&write()).unwrap();
    let mut header = write();
    header.generation = Generation::new(6);
    assert_eq!(
        gate.begin_open(&header, ReplicaId::new(8)).unwrap_err(),
        Status::NoSuchReplica
    );
    let opening = gate.begin_open(&header, ReplicaId::new(7)).unwrap();
    assert_eq!(gate.admit(&write()).unwrap_err(), Status::Fenced);
    let mut context = Context::from_waker(Waker::noop());
    let mut settled = pin!(opening.settled());
    assert!(settled.as_mut().poll(&mut context).is_pending());
    drop(under_way);
    let Poll::Ready(Ok(admitted)) = settled.as_mut().poll(&mut context) else {
        panic!("nothing is under way any more");
    };
    assert_eq!(opening.confirm(), Ok(()));
    header.generation = Generation::new(7);
    let newer = gate.begin_open(&header, ReplicaId::new(7)).unwrap();
    assert_eq!(opening.confirm(), Err(Status::Fenced));
    header.generation = Generation::new(6);
    assert_eq!(
        gate.begin_open(&header, ReplicaId::new(7)).unwrap_err(),
        Status::Fenced
    );
    drop((admitted, newer));
}
