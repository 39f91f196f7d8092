//! Repair of a bad copy: what a good replica shows is written again, under the same seq, so that
//! nothing newer can be outranked, and in the layer that wrote it.

use std::rc::Rc;

use ashlar_proto::message::{BlockKind, decode_tail};
use ashlar_proto::{BlockCount, Layer, Seq, Status};

use crate::quorum::{Mask, Slot};
use crate::read::{Blocks, Shown, verify};
use crate::shard::{Replica, Shard};
use crate::volume::Core;
use crate::wire::{self, Body};
use crate::write_log::Span;

/// Repairs in flight at once; a disk that fails everywhere is not worth more.
const REPAIRS_MAX: usize = 8;

/// Repairs `span` on those in `bad` from `source`, in the background; nothing where many repairs
/// are under way.
pub(crate) fn start(core: &Rc<Core>, shard: &Rc<Shard>, span: Span, bad: Mask, source: Slot) {
    if core.repairs.get() >= REPAIRS_MAX {
        return;
    }
    core.repairs.set(core.repairs.get() + 1);
    let (core, shard) = (Rc::clone(core), Rc::clone(shard));
    let reactor = core.reactor.clone();
    drop(reactor.spawn(async move {
        let layer = core.layers.head();
        run(&core, &shard, layer, span, bad, source).await;
        core.repairs.set(core.repairs.get() - 1);
    }));
}

/// Repairs what `span` shows at a layer on those in `bad` from `source`.
pub(crate) async fn run(
    core: &Rc<Core>,
    shard: &Shard,
    layer: Layer,
    span: Span,
    bad: Mask,
    source: Slot,
) {
    // One of them may have gone for good since it was asked.
    let bad = bad.and(shard.occupied());
    if bad.is_empty() || !shard.occupied().has(source) {
        return;
    }
    let copies: Vec<_> = bad
        .slots()
        .map(|slot| (slot, shard.replica(slot)))
        .collect();
    let good = (source, shard.replica(source));
    let mut rest = span;
    while rest.count.get() > 0 && core.is_running() {
        let block = Span {
            block: rest.block,
            count: BlockCount::new(1),
        };
        for bad in &copies {
            let copy = (shard.index, block.block, bad.0);
            if core.repairing.borrow_mut().insert(copy) {
                repair_block(core, shard, (layer, block), bad, &good).await;
                core.repairing.borrow_mut().remove(&copy);
            }
        }
        rest = rest.skip(BlockCount::new(1));
    }
}

/// A replica, and the slot that it had when the repair began.
type Copy = (Slot, Rc<Replica>);

async fn repair_block(
    core: &Rc<Core>,
    shard: &Shard,
    (layer, block): (Layer, Span),
    bad: &Copy,
    good: &Copy,
) {
    let counts = |copy: &Copy| {
        let may_be_read = shard.log.borrow().readable(block).has(copy.0);
        may_be_read && Rc::ptr_eq(&shard.replica(copy.0), &copy.1)
    };
    // Who has left is caught up as a whole.
    let at = (layer, block);
    if !counts(bad) || !counts(good) || show(core, shard, at, &bad.1).await.is_some() {
        return;
    }
    let Some(shown) = show(core, shard, at, &good.1).await else {
        return;
    };
    let entry = shown.entries[0];
    let is_durable_truth = !shard.log.borrow().is_unacked(entry.seq) && entry.seq != Seq::NONE;
    if !is_durable_truth {
        return;
    }
    let body = match (entry.kind, Blocks::new(&shown.data).next()) {
        (BlockKind::Data, Some(data)) => Body::with_checksums(&[entry.crc], vec![data]),
        // Of what is absent only a void has a seq.
        (BlockKind::Zero | BlockKind::Absent, _) => Body::Zeroes,
        (BlockKind::Data, None) => return,
    };
    let Some(written_in) = layer_of(core, shard, (block, entry.seq), &good.1).await else {
        return;
    };
    let stamp = shard.stamp(core).without_stable();
    let frame = stamp.version(written_in, block, entry.seq, &body);
    let replica = &bad.1;
    let written = replica.peer.call(frame).await;
    let accepted = matches!(&written, Ok(reply) if reply.header.status == Status::Ok);
    if accepted && show(core, shard, at, replica).await.is_some() {
        core.counters.blocks_repaired.add();
        tracing::info!(volume = %core.name, shard = %shard.index, block = %block.block,
            replica = %replica.id, "bad copy repaired");
    }
}

/// The layer that has the version of a block with this seq.
async fn layer_of(
    core: &Core,
    shard: &Shard,
    (block, seq): (Span, Seq),
    replica: &Replica,
) -> Option<Layer> {
    if !core.layers.has_sealed() {
        return Some(core.layers.head());
    }
    let above = Seq::from_raw(seq.get() - 1)?;
    let stamp = shard.stamp(core).without_stable();
    let request = stamp.tail_of(above, block, Layer::default());
    let reply = replica.peer.call(request).await.ok()?;
    let tail = decode_tail(wire::meta_of(&reply)?).ok()?;
    let found = tail.entries.iter().rev().find(|entry| entry.seq == seq);
    found.map(|entry| entry.layer)
}

/// What a replica shows of one block at a layer, if that is good.
async fn show(
    core: &Core,
    shard: &Shard,
    (layer, block): (Layer, Span),
    replica: &Replica,
) -> Option<Shown> {
    let request = shard.stamp(core).read(layer, block);
    let reply = replica.peer.call(request).await.ok()?;
    let issued = core.seqs.borrow().last();
    let good = reply.header.status == Status::Ok;
    good.then(|| verify(reply, block.count, issued)).flatten()
}
