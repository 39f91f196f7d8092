//! Repair of a bad copy: what a good replica shows is written again, under the same seq, so that
//! nothing newer can be outranked.

use std::rc::Rc;

use ashlar_proto::message::BlockKind;
use ashlar_proto::{BlockCount, Seq, Status};

use crate::quorum::{Mask, Slot};
use crate::read::{Blocks, Shown, verify};
use crate::shard::{Replica, Shard};
use crate::volume::Core;
use crate::wire::Body;
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
        run(&core, &shard, span, bad, source).await;
        core.repairs.set(core.repairs.get() - 1);
    }));
}

/// Repairs `span` on those in `bad` from `source`.
pub(crate) async fn run(core: &Rc<Core>, shard: &Shard, span: Span, bad: Mask, source: Slot) {
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
                repair_block(core, shard, block, bad, &good).await;
                core.repairing.borrow_mut().remove(&copy);
            }
        }
        rest = rest.skip(BlockCount::new(1));
    }
}

/// A replica, and the slot that it had when the repair began.
type Copy = (Slot, Rc<Replica>);

async fn repair_block(core: &Rc<Core>, shard: &Shard, block: Span, bad: &Copy, good: &Copy) {
    let counts = |copy: &Copy| {
        let may_be_read = shard.log.borrow().readable(block).has(copy.0);
        may_be_read && Rc::ptr_eq(&shard.replica(copy.0), &copy.1)
    };
    // Who has left is caught up as a whole.
    if !counts(bad) || !counts(good) || show(core, shard, block, &bad.1).await.is_some() {
        return;
    }
    let Some(good) = show(core, shard, block, &good.1).await else {
        return;
    };
    let entry = good.entries[0];
    let is_durable_truth = !shard.log.borrow().is_unacked(entry.seq) && entry.seq != Seq::NONE;
    if !is_durable_truth {
        return;
    }
    let body = match (entry.kind, Blocks::new(&good.data).next()) {
        (BlockKind::Data, Some(data)) => Body::with_checksums(&[entry.crc], vec![data]),
        (BlockKind::Zero, _) => Body::Zeroes,
        _ => return,
    };
    let stamp = shard.stamp(core).without_stable();
    let frame = stamp.version(core.layer, block, entry.seq, &body);
    let replica = &bad.1;
    let written = replica.peer.call(frame).await;
    let accepted = matches!(&written, Ok(reply) if reply.header.status == Status::Ok);
    if accepted && show(core, shard, block, replica).await.is_some() {
        core.counters.blocks_repaired.add();
        tracing::info!(volume = %core.name, shard = %shard.index, block = %block.block,
            replica = %replica.id, "bad copy repaired");
    }
}

/// What a replica shows of one block, if that is good.
async fn show(core: &Core, shard: &Shard, block: Span, replica: &Replica) -> Option<Shown> {
    let request = shard.stamp(core).read(core.layer, block);
    let reply = replica.peer.call(request).await.ok()?;
    let issued = core.seqs.borrow().last();
    let good = reply.header.status == Status::Ok;
    good.then(|| verify(reply, block.count, issued)).flatten()
}
