//! The sweep: folds what has been in the overlay for a window of log, oldest first.
//!
//! Age instead of a walk round the keys: every leaf is folded at most once per window and no delta
//! stays longer, with fewer folds for leaves that change seldom.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use ashlar_proto::{Handle, Layer, Lsn, RoomHint};
use ashlar_reactor::future::{Either, race};

use crate::lane::core::{Core, CoreRc};

/// Leaves that are folded together.
const FOLDS_TOGETHER: usize = 128;
/// Pause when nothing could be folded although something should be.
const PAUSE: Duration = Duration::from_millis(20);
/// So many pauses in a row are told: 2 s.
const STUCK_PAUSES: u32 = 100;
/// Pause between two folds of everything near the soft mark.
const RELIEF_PAUSE: Duration = Duration::from_millis(250);

/// What came of waiting for the sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Swept {
    /// Everything that was wanted has been folded.
    All,
    /// Some of it may have been.
    Some,
    /// The sweep ended no step for a while.
    None,
}

impl Core {
    /// Folds as needed for as long as the lane runs.
    pub(crate) async fn run_sweep(self: Rc<Self>) {
        let mut idle: u32 = 0;
        loop {
            let mark = self.events.sweep_wanted.mark();
            if self.is_closing() {
                return;
            }
            match self.sweep_some().await {
                None => self.events.sweep_wanted.after(mark).await,
                Some(0) => {
                    idle += 1;
                    if idle.is_multiple_of(STUCK_PAUSES) {
                        self.warn_stuck(PAUSE * idle);
                    }
                    self.reactor.sleep(PAUSE).await;
                    continue;
                }
                Some(_) => {}
            }
            idle = 0;
        }
    }

    /// Whether anything has completed that is not durable.
    fn has_undurable(&self) -> bool {
        let state = self.state.borrow();
        state.lsns.done_through() > state.lsns.durable()
    }

    /// Says what a lane that gets nowhere waits for.
    fn warn_stuck(&self, since: Duration) {
        let state = self.state.borrow();
        let queued: Vec<usize> = state.queues.iter().map(VecDeque::len).collect();
        let urgent: Vec<usize> = state.urgent.iter().map(VecDeque::len).collect();
        tracing::warn!(lane = %self.index, ?since, durable = %state.lsns.durable(),
            next = %state.lsns.next(), from = %state.slot_from,
            oldest = state.overlay.oldest().map(|lsn| lsn.get()),
            in_flight = ?state.in_flight, ?queued, ?urgent, folding = state.folding.len(),
            free = state.segments.free_count(), free_soon = state.segments.free_soon_count(),
            admitted = state.admitted, room = ?state.room(),
            "the lane folds nothing though it should");
    }

    /// Above the soft mark folds what the overlay holds, for as long as the lane runs.
    ///
    /// Until it is folded an overwrite may count as a new block, and what a trim gave back still
    /// counts. The owner goes by the count: it would refuse what fits, and as it then sends no
    /// writes, nothing else would ever put the count right.
    pub(crate) async fn run_relief(self: Rc<Self>) {
        loop {
            let mark = self.events.relief_wanted.mark();
            if self.is_closing() {
                return;
            }
            let wanted = {
                let state = self.state.borrow();
                state.room() >= RoomHint::Soft && !state.overlay.is_empty()
            };
            if wanted {
                self.fold_all().await;
                self.reactor.sleep(RELIEF_PAUSE).await;
            } else {
                self.events.relief_wanted.after(mark).await;
            }
        }
    }

    /// Everything below this LSN is to be folded now, durable or not.
    pub(crate) fn fold_target(&self) -> Lsn {
        let state = self.state.borrow();
        let aged = state.lsn_before(self.window_blocks());
        aged.max(Lsn::new(self.fold_through.get()))
    }

    /// Whether something has been in the overlay for long enough, or too much is in it.
    pub(crate) fn is_sweep_due(&self) -> bool {
        let state = self.state.borrow();
        let crowded = state.is_overlay_large();
        let aged = state.lsn_before(self.window_blocks());
        crowded || state.overlay.oldest().is_some_and(|oldest| oldest < aged)
    }

    /// Folds the oldest leaves that are due. `None` when none is.
    async fn sweep_some(self: &CoreRc) -> Option<usize> {
        let target = self.fold_target();
        let (due, undurable) = {
            let state = self.state.borrow();
            let crowded = state.is_overlay_large();
            let oldest = state.overlay.oldest()?;
            if oldest >= target && !crowded {
                return None;
            }
            let durable = state.lsns.durable();
            let undurable = oldest > durable;
            let due: Vec<(Handle, Layer, u32)> = state
                .overlay
                .by_age()
                .take_while(|(lsn, _)| (*lsn < target || crowded) && *lsn <= durable)
                .map(|(_, key)| (key.handle, key.label, key.leaf))
                .take(FOLDS_TOGETHER)
                .collect();
            (due, undurable)
        };
        if undurable {
            // In a volatile cache: nothing is folded before it was flushed.
            if self.flush().await.is_err() {
                return Some(0);
            }
            return Some(usize::from(self.volatile));
        }
        let folded = self.fold_many(&due).await;
        if folded == 0 && self.volatile && self.has_undurable() {
            // What is due was written again since, and that lies in the cache. Who waits for room
            // flushes nothing, so nobody else does.
            let flushed = self.flush().await.is_ok();
            return Some(usize::from(flushed));
        }
        Some(folded)
    }

    /// Has everything folded that was logged until now, and waits for it. For accurate counts of
    /// space, and to move `from` on when segments are short.
    pub(crate) async fn fold_all(self: &CoreRc) {
        let target = self.state.borrow().lsns.next();
        while self.fold_some_below(target).await != Swept::All {}
    }

    /// Has everything folded below an LSN, and waits for the next step of the sweep.
    pub(crate) async fn fold_some_below(self: &CoreRc, target: Lsn) -> Swept {
        let mark = self.events.sweep_ended.mark();
        self.fold_through
            .set(self.fold_through.get().max(target.get()));
        let oldest = self.state.borrow().overlay.oldest();
        if oldest.is_none_or(|oldest| oldest >= target) || self.is_closing() {
            return Swept::All;
        }
        self.events.sweep_wanted.raise();
        let ended = self.events.sweep_ended.after(mark);
        match race(ended, self.reactor.sleep(PAUSE)).await {
            Either::First(()) => Swept::Some,
            Either::Second(()) => Swept::None,
        }
    }
}
