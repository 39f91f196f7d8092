//! The volumes and snapshots that there are, as the conductor said last.
//!
//! Invariants: one question is under way at a time, however many want to know; while the conductor is
//! away what it said last counts.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use ashlar_reactor::channel::Notify;
use ashlar_reactor::{Instant, Reactor};

use super::PATIENCE;
use super::offer::Listed;
use crate::cluster_source::HttpClusterSource;

/// How long an answer counts for those who look again whether something is still there.
const FRESH: Duration = Duration::from_secs(1);

/// Whom it asks.
pub trait Lists {
    /// What there is now; nothing where that cannot be told.
    async fn list(&self) -> Option<Listed>;
}

impl Lists for HttpClusterSource {
    async fn list(&self) -> Option<Listed> {
        let (volumes, snapshots) = HttpClusterSource::list(self).await.ok()?;
        Some(Listed::new(volumes, snapshots))
    }
}

/// See the module.
pub struct Listing<S = HttpClusterSource> {
    reactor: Reactor,
    source: S,
    last: RefCell<Rc<Listed>>,
    /// When that was said, unless it is in doubt.
    said: Cell<Option<Instant>>,
    /// Questions that have begun, and the last of them that has ended.
    begun: Cell<u64>,
    ended: Cell<u64>,
    is_asking: Cell<bool>,
    rings: Notify,
}

/// A question is under way while this lives.
struct Asking<'a, S>(&'a Listing<S>);

impl<'a, S> Asking<'a, S> {
    fn begin(listing: &'a Listing<S>) -> Self {
        listing.begun.set(listing.begun.get() + 1);
        listing.is_asking.set(true);
        Self(listing)
    }
}

impl<S> Drop for Asking<'_, S> {
    fn drop(&mut self) {
        self.0.is_asking.set(false);
        self.0.rings.notify_all();
    }
}

impl<S: Lists> Listing<S> {
    /// One that knows nothing yet.
    pub fn new(reactor: &Reactor, source: S) -> Self {
        Self {
            reactor: reactor.clone(),
            source,
            last: RefCell::default(),
            said: Cell::new(None),
            begun: Cell::new(0),
            ended: Cell::new(0),
            is_asking: Cell::new(false),
            rings: Notify::new(),
        }
    }

    /// What was said a moment ago, if anything was.
    pub fn fresh(&self) -> Option<Rc<Listed>> {
        let said = self.said.get()?;
        (self.reactor.now() - said < FRESH).then(|| self.last.borrow().clone())
    }

    /// What was said turned out to be wrong.
    pub fn doubt(&self) {
        self.said.set(None);
    }

    /// What the conductor says now; if it does not answer soon, what it said last.
    pub async fn renewed(&self) -> Rc<Listed> {
        // One that is under way may have been answered before what the caller is after was made.
        let wanted = self.begun.get() + 1;
        while self.ended.get() < wanted {
            if self.is_asking.get() {
                let waited = self.reactor.timeout(PATIENCE, self.rings.notified());
                if waited.await.is_err() {
                    break;
                }
            } else {
                self.ask().await;
            }
        }
        self.last.borrow().clone()
    }

    async fn ask(&self) {
        let asking = Asking::begin(self);
        let number = self.begun.get();
        let asked = self.reactor.timeout(PATIENCE, self.source.list()).await;
        if let Ok(Some(listed)) = asked {
            *self.last.borrow_mut() = Rc::new(listed);
            self.said.set(Some(self.reactor.now()));
        }
        self.ended.set(number);
        drop(asking);
    }
}

#[cfg(test)]
mod tests;
