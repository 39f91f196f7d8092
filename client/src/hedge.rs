//! Hedged reads: one that takes longer than nearly all do is asked of another replica as well.
//!
//! So a store that hangs holds a read up for milliseconds, not until it is found dead. Bounded: a
//! cluster that is slow as a whole is not asked twice for everything.

use std::cell::Cell;
use std::rc::Rc;

use ashlar_proto::{Epoch, Status};
use ashlar_reactor::Instant;
use ashlar_reactor::future::{Either, race};
use ashlar_reactor::link::Frame;

use crate::peer::PeerLost;
use crate::quorum::{Mask, Slot};
use crate::read::{Shown, verify};
use crate::repair;
use crate::shard::{Replica, Shard};
use crate::signal::Promise;
use crate::volume::Core;
use crate::write_log::Span;

/// Reads that earn one more hedge.
const READS_PER_HEDGE: u32 = 16;

/// Hedges that may be saved up: a store that hangs with a deep queue costs one for each read there.
const SAVED_MAX: u32 = 64;

/// How many reads may be asked a second time.
#[derive(Debug)]
pub(crate) struct HedgeBudget {
    /// In parts of a hedge, [`READS_PER_HEDGE`] of them to one.
    saved: Cell<u32>,
}

impl HedgeBudget {
    /// With all that may be saved.
    pub(crate) fn full() -> Self {
        Self {
            saved: Cell::new(SAVED_MAX * READS_PER_HEDGE),
        }
    }

    /// A read was begun.
    pub(crate) fn earn(&self) {
        self.saved
            .set((self.saved.get() + 1).min(SAVED_MAX * READS_PER_HEDGE));
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&self) -> bool {
        let left = self.saved.get().checked_sub(READS_PER_HEDGE);
        if let Some(left) = left {
            self.saved.set(left);
        }
        left.is_some()
    }
}

/// What one attempt at a replica came to.
pub(crate) enum Attempt {
    Shown(Shown),
    /// Damaged, or not what was asked for: its copy is bad.
    Bad,
    /// No answer that tells of its copy.
    Failed,
    /// Ask again: it has taken note of the newer epoch, or soon will.
    Again,
}

/// What asking one replica, and perhaps another one too, came to.
pub(crate) enum Outcome {
    /// The only answer, or the first one, which shows the blocks.
    One(Slot, Attempt),
    /// The first one showed nothing; the other.
    Both((Slot, Attempt), Slot, Attempt),
}

/// Asks `slot`, and where that takes longer than it nearly always does, the best of the others too.
pub(crate) async fn read_hedged(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    slot: Slot,
    others: Mask,
    span: Span,
) -> Outcome {
    core.hedges.earn();
    let original = ask(core, shard, slot, span);
    if others.is_empty() {
        return Outcome::One(slot, original.outcome(core, shard, span).await);
    }
    let usual = shard.replica(slot).peer.hedge_after();
    let outcome = original.outcome(core, shard, span);
    if let Ok(attempt) = core.reactor.timeout(usual, outcome).await {
        return Outcome::One(slot, attempt);
    }
    let other = quickest(shard, others.and(shard.log.borrow().readable(span)));
    let Some(other) = other.filter(|_| core.hedges.take()) else {
        return Outcome::One(slot, original.outcome(core, shard, span).await);
    };
    core.counters.reads_hedged.add();
    let hedge = ask(core, shard, other, span);
    let first = race(
        original.outcome(core, shard, span),
        hedge.outcome(core, shard, span),
    )
    .await;
    match first {
        Either::First(shown @ Attempt::Shown(_)) => {
            look_at_late(core, shard, span, hedge, slot);
            Outcome::One(slot, shown)
        }
        Either::Second(shown @ Attempt::Shown(_)) => {
            look_at_late(core, shard, span, original, other);
            Outcome::One(other, shown)
        }
        Either::First(attempt) => {
            let hedged = hedge.outcome(core, shard, span).await;
            Outcome::Both((slot, attempt), other, hedged)
        }
        Either::Second(attempt) => {
            let awaited = original.outcome(core, shard, span).await;
            Outcome::Both((other, attempt), slot, awaited)
        }
    }
}

/// Looks at the answer that came too late all the same: a copy that is bad may take long to say so.
fn look_at_late(core: &Rc<Core>, shard: &Rc<Shard>, span: Span, late: Asked, source: Slot) {
    let (weak, shard) = (Rc::downgrade(core), Rc::clone(shard));
    drop(core.reactor.spawn(async move {
        let reply = late.reply.kept().await;
        let Some(core) = weak.upgrade().filter(|core| core.is_running()) else {
            return;
        };
        if let Attempt::Bad = late.judge(&core, &shard, span, reply) {
            let (mut bad, mut failed) = (Mask::EMPTY, Mask::EMPTY);
            let masks = (&mut bad, &mut failed);
            note_attempt(&core, &shard, span, (late.slot, Attempt::Bad), masks);
            repair::start(&core, &shard, span, bad, source);
        }
    }));
}

/// Notes who has a bad copy, and who did not answer.
pub(crate) fn note_attempt(
    core: &Core,
    shard: &Shard,
    span: Span,
    (slot, attempt): (Slot, Attempt),
    (bad, failed): (&mut Mask, &mut Mask),
) {
    match attempt {
        Attempt::Bad => {
            core.counters.damage_seen.add();
            core.counters.reads_retried.add();
            tracing::warn!(volume = %core.name, shard = %shard.index, block = %span.block,
                replica = %shard.replica(slot).id, "replica shows a bad copy");
            *bad = bad.with(slot);
        }
        Attempt::Failed => {
            core.counters.reads_retried.add();
            *failed = failed.with(slot);
        }
        Attempt::Again | Attempt::Shown(_) => {}
    }
}

/// A read on its way.
struct Asked {
    slot: Slot,
    replica: Rc<Replica>,
    epoch: Epoch,
    at: Instant,
    reply: Promise<Result<Frame, PeerLost>>,
}

fn ask(core: &Core, shard: &Shard, slot: Slot, span: Span) -> Asked {
    let stamp = shard.stamp(core);
    let request = stamp.read(core.layers.head(), span);
    let replica = shard.replica(slot);
    Asked {
        slot,
        epoch: stamp.epoch,
        at: core.reactor.now(),
        reply: replica.peer.ask(request),
        replica,
    }
}

impl Asked {
    async fn outcome(&self, core: &Rc<Core>, shard: &Rc<Shard>, span: Span) -> Attempt {
        let reply = self.reply.kept().await;
        self.judge(core, shard, span, reply)
    }

    fn judge(
        &self,
        core: &Rc<Core>,
        shard: &Rc<Shard>,
        span: Span,
        reply: Result<Frame, PeerLost>,
    ) -> Attempt {
        let slot = self.slot;
        let Ok(reply) = reply else {
            return Attempt::Failed;
        };
        shard.note_confirmed(core, slot, self.at, &reply.header);
        match reply.header.status {
            Status::Ok => {
                let issued = core.seqs.borrow().last();
                verify(reply, span.count, issued).map_or(Attempt::Bad, Attempt::Shown)
            }
            Status::Damaged | Status::BadChecksum => {
                // Else its quick refusals would draw the reads of all that it cannot give.
                self.replica.peer.note_read_refused();
                Attempt::Bad
            }
            Status::Device => {
                note_failed(core, shard, slot, Status::Device);
                Attempt::Bad
            }
            Status::StaleEpoch if self.epoch < shard.epoch.get() => Attempt::Again,
            Status::Fenced if reply.header.generation > core.generation => {
                core.fence();
                Attempt::Failed
            }
            Status::Fenced | Status::NoSuchReplica | Status::StaleEpoch => {
                shard.set_behind(core, slot, false);
                Attempt::Failed
            }
            status => {
                note_failed(core, shard, slot, status);
                Attempt::Failed
            }
        }
    }
}

/// A replica cannot give what it holds: others are asked first for a while. Where its device fails
/// again and again it counts as one that failed a write, if another is there to go on with.
pub(crate) fn note_failed(core: &Rc<Core>, shard: &Shard, slot: Slot, status: Status) {
    let replica = shard.replica(slot);
    if status != Status::Device {
        replica.peer.note_read_failed();
        return;
    }
    let is_too_often = replica.peer.note_read_fault();
    let log = shard.log.borrow();
    let others = log.live().and(log.quorum().readable()).without(slot);
    let goes = is_too_often && log.live().has(slot) && !others.is_empty();
    drop(log);
    if goes {
        tracing::warn!(volume = %core.name, shard = %shard.index, replica = %replica.id,
            "the device of a replica fails reads again and again");
        shard.set_behind(core, slot, true);
    }
}

/// The candidate that is expected to answer first.
pub(crate) fn quickest(shard: &Shard, candidates: Mask) -> Option<Slot> {
    let expected = |slot: &Slot| shard.replica(*slot).peer.expected_read_ns();
    candidates.slots().min_by_key(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hedges_are_a_small_part_of_the_reads() {
        let budget = HedgeBudget::full();
        let saved = (0..1000).filter(|_| budget.take()).count();
        assert_eq!(saved, SAVED_MAX as usize);
        let taken = (0..16_000).filter(|_| {
            budget.earn();
            budget.take()
        });
        assert_eq!(taken.count(), 16_000 / READS_PER_HEDGE as usize);
    }
}
