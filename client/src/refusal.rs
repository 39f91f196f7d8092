//! What becomes of a write that a replica has no room for.
//!
//! Invariant: a write fails for want of room only if it has never been anywhere: every replica
//! that it was sent to said so, or is gone for good, and nobody was told that it is kept. Any other
//! is sent again until a replica takes it.
//!
//! One that is gone for good may have shown such a write to a read that waits for its outcome:
//! that read asks another, see [`Shard::vanished`].
//!
//! ```text
//! refused ─┬─ somebody holds it ─────────────────────▶ who refused is behind
//!          ├─ all refused, at the first time of asking ▶ fails with NoSpace
//!          └─ else ──────────────────────────────────▶ sent again after a pause
//! ```

use std::rc::{Rc, Weak};

use ashlar_proto::{Seq, Status};

use crate::block_device::BlockError;
use crate::membership::{PAUSE_MAX, PAUSE_MIN};
use crate::quorum::{Mask, Slot};
use crate::shard::{Pending, Shard};
use crate::volume::Core;
use crate::write_log::Entry;

/// What is known of the replicas that a write was sent to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    /// Sent, and not answered yet.
    unanswered: Mask,
    /// Kept it once, or may have: an answer never came.
    maybe_kept: Mask,
    /// Had no room for it the last time.
    refused: Mask,
    /// May have been shown by a replica that is gone since.
    is_gone_with: bool,
}

impl Sent {
    /// It is sent to `slot`.
    pub(crate) fn note_sent(&mut self, slot: Slot) {
        self.note_lost(slot);
        self.unanswered = self.unanswered.with(slot);
        self.refused = self.refused.without(slot);
    }

    /// An answer of `slot` that is still open does not count any more: it may be kept there.
    pub(crate) fn note_lost(&mut self, slot: Slot) {
        if self.unanswered.has(slot) {
            self.unanswered = self.unanswered.without(slot);
            self.maybe_kept = self.maybe_kept.with(slot);
        }
    }

    /// `slot` keeps it. Gives those who had no room for it, where that decides: a replica that
    /// only catches up does not.
    pub(crate) fn note_kept(&mut self, slot: Slot, decides: bool) -> Mask {
        self.unanswered = self.unanswered.without(slot);
        // Also if a restart costs the replica its memory of it.
        self.maybe_kept = self.maybe_kept.with(slot);
        if decides {
            std::mem::take(&mut self.refused)
        } else {
            Mask::EMPTY
        }
    }

    /// `slot` kept nothing of what it was sent last.
    pub(crate) fn note_not_kept(&mut self, slot: Slot) {
        self.unanswered = self.unanswered.without(slot);
    }

    fn note_refused(&mut self, slot: Slot) {
        self.note_not_kept(slot);
        self.refused = self.refused.with(slot);
    }

    /// The replica in `slot` is gone for good, with whatever it kept.
    pub(crate) fn vacate(&mut self, slot: Slot) {
        self.is_gone_with |= self.unanswered.or(self.maybe_kept).has(slot);
        for mask in [
            &mut self.unanswered,
            &mut self.maybe_kept,
            &mut self.refused,
        ] {
            *mask = mask.without(slot);
        }
    }

    /// Whether `slot` kept it once, or may have.
    pub(crate) fn may_be_kept_by(&self, slot: Slot) -> bool {
        self.maybe_kept.has(slot)
    }

    fn has_never_been(self, targets: Mask) -> bool {
        self.refused.covers(targets) && self.unanswered.or(self.maybe_kept).is_empty()
    }
}

impl Shard {
    /// A replica had no room.
    pub(crate) fn refused(&self, core: &Rc<Core>, slot: Slot, seq: Seq) {
        let mut log = self.log.borrow_mut();
        let Some(pending) = log.payload_mut(seq) else {
            return;
        };
        pending.sent.note_refused(slot);
        let targets = log.quorum().targets();
        let entry = log.get(seq);
        let is_held = entry.is_some_and(|entry| !entry.held().and(targets).is_empty());
        let must_stay = entry.is_some_and(must_stay);
        drop(log);
        if is_held {
            self.set_behind(core, slot, true);
        } else if must_stay {
            self.retry_refused(core);
        } else {
            self.fail_if_never_been(core, seq);
        }
    }

    /// A replica that does not count any more has answered: what it keeps or does not decides
    /// whether a write that all others refuse may fail.
    pub(crate) fn answered_late(&self, core: &Rc<Core>, slot: Slot, seq: Seq, status: Status) {
        let mut log = self.log.borrow_mut();
        let Some(pending) = log.payload_mut(seq) else {
            return;
        };
        let sent = &mut pending.sent;
        match status {
            Status::NoSpace => sent.note_not_kept(slot),
            _ => sent.note_lost(slot),
        }
        drop(log);
        self.fail_if_never_been(core, seq);
        if self.log.borrow().unheld().any(is_undecided) {
            self.retry_refused(core);
        }
    }

    /// No answer of `slot` to what it was sent so far comes any more, if its session has ended.
    pub(crate) fn note_unanswered(&self, core: &Rc<Core>, slot: Slot) {
        if self.replica(slot).peer.is_up() {
            return;
        }
        for pending in self.log.borrow_mut().payloads_mut() {
            pending.sent.note_lost(slot);
        }
        let is_undecided = self.log.borrow().unheld().any(is_undecided);
        if is_undecided {
            self.retry_refused(core);
        }
    }

    /// Fails a write that every replica has refused and none may have kept.
    pub(crate) fn fail_if_never_been(&self, core: &Rc<Core>, seq: Seq) {
        let mut log = self.log.borrow_mut();
        let targets = log.quorum().targets();
        let has_never_been = log
            .get(seq)
            .is_some_and(|entry| !entry.is_acked() && entry.payload.sent.has_never_been(targets));
        if !has_never_been {
            return;
        }
        let removed = log.remove_refused(seq);
        drop(log);
        if let Some(entry) = removed {
            if entry.payload.sent.is_gone_with {
                self.vanished.set(self.vanished.get() + 1);
            }
            core.acks.raise();
            core.note_freed(entry.bytes);
            if let Some(group) = entry.payload.group {
                group.end_one(Err(BlockError::NoSpace));
            }
        }
    }

    /// Runs the task that sends refused writes again.
    fn retry_refused(&self, core: &Rc<Core>) {
        if let Some(this) = self.this.upgrade()
            && !self.retries.replace(true)
        {
            let retries = retry(Rc::downgrade(core), this);
            drop(core.reactor.spawn(retries));
        }
    }

    fn send_refused(&self, core: &Core) {
        let mut again = Vec::new();
        let log = self.log.borrow();
        let targets = log.quorum().targets().and(log.live());
        for entry in log.unheld().filter(|entry| is_undecided(entry)) {
            let refused = entry.payload.sent.refused.and(targets);
            again.extend(refused.slots().map(|slot| (slot, entry.seq)));
        }
        drop(log);
        for (slot, seq) in again {
            self.send_again(core, slot, seq);
        }
    }
}

/// Whether a write may be somewhere, or somebody was told that it is.
fn must_stay(entry: &Entry<Pending>) -> bool {
    entry.is_acked() || !entry.payload.sent.maybe_kept.is_empty()
}

/// Whether a write that nobody holds waits for room.
fn is_undecided(entry: &Entry<Pending>) -> bool {
    let sent = entry.payload.sent;
    must_stay(entry) && !sent.refused.or(sent.unanswered).is_empty()
}

/// Sends again what can neither fail nor was taken, until there is nothing of the kind.
async fn retry(core: Weak<Core>, shard: Rc<Shard>) {
    let mut pause = PAUSE_MIN;
    while let Some(strong) = core.upgrade().filter(|core| core.is_running()) {
        if !shard.log.borrow().unheld().any(is_undecided) {
            break;
        }
        let reactor = strong.reactor.clone();
        drop(strong);
        reactor.sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
        let Some(strong) = core.upgrade().filter(|core| core.is_running()) else {
            break;
        };
        shard.expire(&strong);
        shard.send_refused(&strong);
    }
    shard.retries.set(false);
}

#[cfg(test)]
mod tests {
    use super::Sent;
    use crate::quorum::{Mask, Slot};

    /// A copy that only a replica which is gone may have had was perhaps shown; one that every
    /// replica refused was not.
    #[test]
    fn what_is_gone_with_a_replica_was_perhaps_shown() {
        let (member, moving) = (Slot::new(0), Slot::new(1));
        let mut sent = Sent::default();
        sent.note_sent(member);
        sent.note_sent(moving);
        sent.note_refused(member);
        sent.note_kept(moving, false);
        let targets = Mask::EMPTY.with(member);
        assert!(!sent.has_never_been(targets), "one may show it still");
        sent.vacate(moving);
        assert!(sent.has_never_been(targets) && sent.is_gone_with);

        let mut refused = Sent::default();
        refused.note_sent(member);
        refused.note_sent(moving);
        refused.note_refused(moving);
        refused.vacate(moving);
        refused.note_refused(member);
        assert!(refused.has_never_been(targets) && !refused.is_gone_with);
    }
}
