//! Repair of a bad copy: what a good replica shows is written again, under the same seq, so that
//! nothing newer can be outranked.

use std::rc::Rc;

use ashlar_proto::message::BlockKind;
use ashlar_proto::{BlockCount, Seq, Status};

use crate::quorum::{Mask, Slot};
use crate::read::{Blocks, Shown, verify};
use crate::shard::Shard;
use crate::volume::Core;
use crate::wire::Body;
use crate::write_log::Span;

/// Repairs in flight at once; a disk that fails everywhere is not worth more.
const REPAIRS_MAX: usize = 8;

/// Repairs `span` on those in `bad` from `source`, in the background.
pub(crate) fn start(core: &Rc<Core>, shard: &Rc<Shard>, span: Span, bad: Mask, source: Slot) {
    if core.repairs.get() >= REPAIRS_MAX {
        return;
    }
    core.repairs.set(core.repairs.get() + 1);
    let (core, shard) = (Rc::clone(core), Rc::clone(shard));
    let reactor = core.reactor.clone();
    // Held: their slots do not change hands meanwhile.
    let held: Vec<_> = bad
        .with(source)
        .slots()
        .map(|slot| shard.replica(slot))
        .collect();
    drop(reactor.spawn(async move {
        let mut rest = span;
        while rest.count.get() > 0 && core.is_running() {
            let block = Span {
                block: rest.block,
                count: BlockCount::new(1),
            };
            for slot in bad.slots() {
                let copy = (shard.index, block.block, slot);
                if core.repairing.borrow_mut().insert(copy) {
                    repair_block(&core, &shard, block, slot, source).await;
                    core.repairing.borrow_mut().remove(&copy);
                }
            }
            rest = rest.skip(BlockCount::new(1));
        }
        drop(held);
        core.repairs.set(core.repairs.get() - 1);
    }));
}

async fn repair_block(core: &Rc<Core>, shard: &Shard, block: Span, bad: Slot, source: Slot) {
    let is_counted = {
        let log = shard.log.borrow();
        log.quorum().targets().and(log.live()).has(bad)
    };
    if !is_counted {
        // Who has left is caught up as a whole.
        return;
    }
    if show(core, shard, block, bad).await.is_some() {
        return;
    }
    let Some(good) = show(core, shard, block, source).await else {
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
    let frame = shard
        .stamp(core)
        .without_stable()
        .version(core.layer, block, entry.seq, &body);
    let replica = shard.replica(bad);
    let written = replica.peer.call(frame).await;
    let accepted = matches!(&written, Ok(reply) if reply.header.status == Status::Ok);
    if accepted && show(core, shard, block, bad).await.is_some() {
        core.counters.blocks_repaired.add();
        tracing::info!(volume = %core.name, shard = %shard.index, block = %block.block,
            replica = %replica.id, "bad copy repaired");
    }
}

/// What a replica shows of one block, if that is good.
async fn show(core: &Core, shard: &Shard, block: Span, slot: Slot) -> Option<Shown> {
    let request = shard.stamp(core).read(core.layer, block);
    let reply = shard.replica(slot).peer.call(request).await.ok()?;
    let issued = core.seqs.borrow().last();
    let good = reply.header.status == Status::Ok;
    good.then(|| verify(reply, block.count, issued)).flatten()
}
