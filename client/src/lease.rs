//! The read lease: an owner shows what it read only while it is sure that nobody has taken over.
//!
//! A replica that answers in the owner's generation shows that at the time of asking it had seen no
//! higher one. Whoever takes over needs `n − a + 1` replicas of the in-sync set (and of one
//! proposed, once that is committed), so if `a` of the set have answered what was asked since some
//! moment, no take-over was complete then. Who takes over without some of the set waits
//! [`READ_LEASE_WAIT`](ashlar_proto::limits::READ_LEASE_WAIT) after its last answer, in which time
//! every older lease ends. So a cut-off owner reads nothing stale, even from a replica that nobody
//! else reaches.
//!
//! Every answer renews the lease, of writes as of reads: replicas are asked only where reads go on
//! and neither reached enough of them lately. An idle owner sends nothing.

use std::rc::Rc;
use std::time::Duration;

use ashlar_proto::limits::{READ_LEASE, SLOTS_MAX};
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_proto::{FrameHeader, Status};
use ashlar_reactor::Instant;

use crate::block_device::BlockError;
use crate::quorum::{Mask, Slot};
use crate::shard::Shard;
use crate::volume::Core;

/// How long a read waits before it asks again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// When each replica was last asked what it has since answered in the owner's generation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease([Option<Instant>; SLOTS_MAX]);

impl Lease {
    /// Nobody has answered yet.
    pub(crate) const NONE: Self = Self([None; SLOTS_MAX]);

    /// `slot` has answered what it was asked at `asked_at`.
    pub(crate) fn note(&mut self, slot: Slot, asked_at: Instant) {
        let last = &mut self.0[slot.get()];
        *last = (*last).max(Some(asked_at));
    }

    /// What `slot` has answered is of no use any more.
    pub(crate) fn forget(&mut self, slot: Slot) {
        self.0[slot.get()] = None;
    }

    /// Those that have answered what they were asked less than `within` before `now`.
    pub(crate) fn confirmed(&self, now: Instant, within: Duration) -> Mask {
        let asked = self.0.iter().enumerate();
        asked
            .filter(|(_, asked_at)| asked_at.is_some_and(|at| now - at < within))
            .map(|(slot, _)| Slot::new(slot))
            .collect()
    }
}

impl Shard {
    /// Takes note of an answer: whoever carried out a request was not fenced when it was sent.
    pub(crate) fn note_confirmed(
        &self,
        core: &Core,
        slot: Slot,
        asked_at: Instant,
        header: &FrameHeader,
    ) {
        if header.status == Status::Ok && header.generation == core.generation {
            let mut lease = self.lease.get();
            lease.note(slot, asked_at);
            self.lease.set(lease);
        }
    }

    /// Whether enough replicas have confirmed the owner within `within`.
    fn is_confirmed(&self, core: &Core, within: Duration) -> bool {
        let confirmed = self.lease.get().confirmed(core.reactor.now(), within);
        self.log.borrow().quorum().acknowledged_by(confirmed)
    }
}

/// Asks those whose last answer is getting old, well before the lease ends.
pub(crate) fn keep(core: &Rc<Core>, shard: &Rc<Shard>) {
    if !shard.is_confirmed(core, READ_LEASE / 2) {
        ask(core, shard);
    }
}

/// Waits until what was read may be shown.
pub(crate) async fn hold(core: &Rc<Core>, shard: &Rc<Shard>) -> Result<(), BlockError> {
    if shard.is_confirmed(core, READ_LEASE) || is_planted(Planted::NoLease) {
        return core.check();
    }
    let deadline = core.reactor.now() + core.options.io_timeout;
    loop {
        core.check()?;
        let moment = core.progress.moment();
        if shard.is_confirmed(core, READ_LEASE) {
            return Ok(());
        }
        let now = core.reactor.now();
        if now >= deadline {
            return Err(BlockError::Unavailable);
        }
        ask(core, shard);
        let pause = (deadline - now).min(RETRY_PAUSE);
        let raised = core.progress.raised_since(moment);
        let _elapsed = core.reactor.timeout(pause, raised).await;
    }
}

/// Asks every replica of the sets that has a session and is not being asked, whether it is behind
/// or not: it need not hold what others hold to tell who owns it.
fn ask(core: &Rc<Core>, shard: &Rc<Shard>) {
    let now = core.reactor.now();
    let confirmed = shard.lease.get().confirmed(now, READ_LEASE / 2);
    let targets = shard.log.borrow().quorum().targets().minus(confirmed);
    for slot in targets.minus(shard.renewing.get()).slots() {
        if !shard.replica(slot).peer.is_up() {
            continue;
        }
        shard.renewing.set(shard.renewing.get().with(slot));
        let (weak, shard) = (Rc::downgrade(core), Rc::clone(shard));
        let request = shard.stamp(core).without_stable().renew();
        drop(core.reactor.spawn(async move {
            let reply = shard.replica(slot).peer.call(request).await;
            shard.renewing.set(shard.renewing.get().without(slot));
            let Some(core) = weak.upgrade() else { return };
            let Ok(reply) = reply else { return };
            if reply.header.status == Status::Fenced && reply.header.generation > core.generation {
                core.fence();
            }
            shard.note_confirmed(&core, slot, now, &reply.header);
            core.progress.raise();
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quorum::Quorum;
    use ashlar_proto::api::AckRule;

    fn at(seconds: u64) -> Instant {
        Instant::EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_time_of_asking_counts_and_never_goes_back() {
        let mut lease = Lease::NONE;
        let slot = Slot::new(1);
        assert!(lease.confirmed(at(0), READ_LEASE).is_empty());
        lease.note(slot, at(10));
        lease.note(slot, at(8));
        assert!(lease.confirmed(at(13), READ_LEASE).has(slot));
        assert!(!lease.confirmed(at(14), READ_LEASE).has(slot));
    }

    /// Who took over holds `n − a + 1` that answer nothing older any more: the rest is no lease.
    #[test]
    fn no_lease_is_left_where_a_take_over_was_complete() {
        for rule in [AckRule::Majority, AckRule::All] {
            for count in 1..=SLOTS_MAX {
                let quorum = Quorum::new(rule, Mask::first(count));
                for taken in 0..1 << count {
                    let slots = (0..count).map(Slot::new);
                    let (gone, left): (Vec<_>, Vec<_>) =
                        slots.partition(|slot| taken >> slot.get() & 1 == 1);
                    if gone.len() >= quorum.takeover_count() {
                        let left: Mask = left.into_iter().collect();
                        assert!(!quorum.acknowledged_by(left), "{rule:?} {taken:b}");
                    }
                }
            }
        }
    }
}
