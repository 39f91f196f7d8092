//! What a connection is watched for: initiators that are gone or hold back, memory that others
//! wait for, and the end of the server.

use super::jobs::Job;
use super::{Connection, ConnectionError};
use crate::catalog::TargetCatalog;
use crate::framing::Segment;
use crate::link::Close;
use crate::pdu::{AsyncEvent, NO_TAG, NopIn, Response};
use ashlar_front_end::{Budget, Stop};
use ashlar_reactor::Instant;
use std::time::Duration;

/// How often is looked.
const TICK: Duration = Duration::from_secs(5);
/// After this long without a word an initiator is asked whether it is there.
const PING_AFTER: Duration = Duration::from_secs(30);
/// How long it may take to answer that.
const PONG_TIMEOUT: Duration = Duration::from_secs(30);
/// How long data that was asked for, or the rest of a PDU, may take from one piece to the next.
const DATA_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a target is looked up while it has sessions: it may be gone, or have other units.
const LOOK_UP_EVERY: Duration = Duration::from_secs(10);
/// How long an initiator may take to log out of a target that is gone.
const WITHDRAWAL_GRACE: Duration = Duration::from_secs(10);
/// An initiator that does nothing is given this long to log out when the server stops.
const LOGOUT_GRACE: Duration = Duration::from_secs(2);

impl<C: TargetCatalog> Connection<'_, C> {
    /// Ends when the initiator does not do what it has to.
    pub(super) async fn watch(&self) -> ConnectionError {
        let reactor = &self.registry.reactor;
        loop {
            reactor.sleep(TICK).await;
            let now = reactor.now();
            if self
                .reading_since
                .get()
                .is_some_and(|since| now - since > DATA_TIMEOUT)
            {
                return ConnectionError::Silent("send the rest of a PDU");
            }
            if now - self.asked.get() > DATA_TIMEOUT && self.session.waits_for_data(&self.link) {
                return ConnectionError::Silent("send data that was asked for");
            }
            self.look_after_target(now);
            match self.pinged.get() {
                Some(since) if self.heard.get() > since => self.pinged.set(None),
                Some(since) if now - since > PONG_TIMEOUT => {
                    return ConnectionError::Silent("answer a ping");
                }
                None if now - self.heard.get() > PING_AFTER => self.ping(),
                _ => {}
            }
        }
    }

    /// Has the target looked up from time to time; once it is gone, gives the initiator time to log
    /// out.
    fn look_after_target(&self, now: Instant) {
        if let Some(since) = self.withdrawn.get() {
            if now - since >= WITHDRAWAL_GRACE {
                self.session.close(Close::Withdrawn);
            }
        } else if now - self.looked_up.get() >= LOOK_UP_EVERY && self.session.is_first(&self.link) {
            self.looked_up.set(now);
            self.put_job(Job::LookUp);
        }
    }

    pub(super) fn looked_up(&self, withdrawn: bool) {
        if withdrawn && self.withdrawn.get().is_none() {
            self.withdrawn.set(Some(self.registry.reactor.now()));
            let seconds = u16::try_from(WITHDRAWAL_GRACE.as_secs()).unwrap_or(u16::MAX);
            self.say(
                &Response::Async(AsyncEvent::LogoutRequested(seconds)),
                &Segment::NONE,
            );
        }
    }

    fn ping(&self) {
        self.pinged.set(Some(self.registry.reactor.now()));
        let ping = NopIn {
            lun: [0; 8],
            itt: NO_TAG,
            ttt: self.session.ttt(),
        };
        self.say(&Response::NopIn(ping), &Segment::NONE);
    }

    /// Ends when the initiator has had something to do for a while, did not, and another
    /// connection waits for the memory that this one keeps.
    pub(super) async fn stall(&self, budget: &Budget) {
        let limits = self.registry.options.limits;
        loop {
            budget.contended().await;
            let before = self.transferred.get();
            self.registry.reactor.sleep(limits.stall).await;
            let is_its_turn = self.transfers.get() > 0
                || self.session.has_gap()
                || self.session.waits_for_data(&self.link);
            let stalled = is_its_turn && self.transferred.get() == before;
            if stalled && self.ration.borrows() && budget.is_contended() {
                return;
            }
        }
    }

    /// Once the server is to stop, asks the initiator to log out; ends when it has nothing in
    /// flight, or its time is over.
    pub(super) async fn stopping(&self, stop: &Stop) {
        let reactor = &self.registry.reactor;
        let drain = self.registry.options.limits.drain;
        stop.requested().await;
        let event = AsyncEvent::LogoutRequested(u16::try_from(drain.as_secs()).unwrap_or(u16::MAX));
        self.say(&Response::Async(event), &Segment::NONE);
        let deadline = reactor.now() + drain;
        loop {
            reactor.sleep(LOGOUT_GRACE.min(drain)).await;
            let is_busy = self.jobs_running.get() > 0 || !self.is_flushed();
            if !is_busy || reactor.now() >= deadline {
                return;
            }
        }
    }
}
