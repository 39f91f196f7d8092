//! Timers of one reactor, ordered by moment and then by creation.

use crate::{Elapsed, Instant, Reactor};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Names a pending timer: its moment and its number.
pub(crate) type TimerKey = (Instant, u64);

/// The pending timers. Cancelled ones are taken out, so their number is that of live sleeps.
#[derive(Default)]
pub(crate) struct Timers {
    pending: BTreeMap<TimerKey, Waker>,
    created: u64,
}

impl Timers {
    pub(crate) fn add(&mut self, at: Instant, waker: Waker) -> TimerKey {
        let key = (at, self.created);
        self.created += 1;
        self.pending.insert(key, waker);
        key
    }

    pub(crate) fn set_waker(&mut self, key: TimerKey, waker: &Waker) {
        if let Some(current) = self.pending.get_mut(&key) {
            current.clone_from(waker);
        }
    }

    pub(crate) fn remove(&mut self, key: TimerKey) {
        self.pending.remove(&key);
    }

    /// When the next timer fires.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.pending.first_key_value().map(|(key, _)| key.0)
    }

    /// Takes one timer out that is due at `now`.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Waker> {
        let entry = self.pending.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
}

/// Waits for a moment. Made by [`Reactor::sleep`].
#[must_use = "futures do nothing unless awaited"]
pub struct Sleep {
    reactor: Reactor,
    at: Instant,
    key: Option<TimerKey>,
}

impl Sleep {
    pub(crate) fn new(reactor: Reactor, at: Instant) -> Self {
        Self {
            reactor,
            at,
            key: None,
        }
    }

    /// The moment it waits for.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.at
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.reactor.now() >= self.at {
            return Poll::Ready(());
        }
        let mut timers = self.reactor.core().timers().borrow_mut();
        if let Some(key) = self.key {
            timers.set_waker(key, context.waker());
            return Poll::Pending;
        }
        let key = timers.add(self.at, context.waker().clone());
        drop(timers);
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.reactor.core().timers().borrow_mut().remove(key);
        }
    }
}

impl std::fmt::Debug for Sleep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sleep(until {:?})", self.at)
    }
}

/// Runs `future` until `deadline`; its result wins a tie.
pub(crate) async fn until<T>(
    mut sleep: Sleep,
    future: impl Future<Output = T>,
) -> Result<T, Elapsed> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(move |context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut sleep).poll(context).map(|()| Err(Elapsed))
    })
    .await
}
