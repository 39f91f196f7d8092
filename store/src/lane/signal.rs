//! Waiting within one thread: an event that wakes all who listen, and the reply of a request.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::lane::error::LaneError;

/// Wakes every listener that began to listen before it was raised.
#[derive(Debug, Default)]
pub(crate) struct Event {
    raised: Cell<u64>,
    wakers: RefCell<Vec<Waker>>,
}

impl Event {
    /// Wakes all who wait.
    pub(crate) fn raise(&self) {
        self.raised.set(self.raised.get() + 1);
        for waker in self.wakers.take() {
            waker.wake();
        }
    }

    /// A mark to wait from: an event between the mark and the wait is not missed.
    pub(crate) fn mark(&self) -> u64 {
        self.raised.get()
    }

    /// Waits until the event was raised after `mark`.
    pub(crate) async fn after(&self, mark: u64) {
        poll_fn(|context| {
            if self.raised.get() != mark {
                return Poll::Ready(());
            }
            self.wakers.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// One turn at a time: whoever holds the guard.
#[derive(Debug, Default)]
pub(crate) struct Turnstile {
    held: Cell<bool>,
    freed: Event,
}

/// Holds a [`Turnstile`]; dropping it lets the next one in.
#[derive(Debug)]
pub(crate) struct Turn<'a>(&'a Turnstile);

impl Turnstile {
    /// Waits for the turn.
    pub(crate) async fn enter(&self) -> Turn<'_> {
        while self.held.get() {
            let mark = self.freed.mark();
            self.freed.after(mark).await;
        }
        self.held.set(true);
        Turn(self)
    }
}

impl Turnstile {
    /// Whether somebody holds it.
    pub(crate) fn is_held(&self) -> bool {
        self.held.get()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.held.set(false);
        self.0.freed.raise();
    }
}

#[derive(Debug, Default)]
struct ReplyState {
    pending: Cell<u32>,
    error: Cell<Option<LaneError>>,
    waker: RefCell<Option<Waker>>,
}

/// The outcome of a request whose parts may complete one by one.
#[derive(Debug)]
pub(crate) struct Reply(Rc<ReplyState>);

/// Whoever waits for a [`Reply`].
#[derive(Debug)]
pub(crate) struct Waiter(Rc<ReplyState>);

impl Reply {
    /// A reply and who waits for it.
    pub(crate) fn new() -> (Self, Waiter) {
        let state = Rc::new(ReplyState::default());
        state.pending.set(1);
        (Self(state.clone()), Waiter(state))
    }

    /// One more part of the same request.
    pub(crate) fn part(&self) -> Self {
        self.0.pending.set(self.0.pending.get() + 1);
        Self(self.0.clone())
    }

    /// This part is done. The first error is what the waiter sees.
    pub(crate) fn finish(self, outcome: Result<(), LaneError>) {
        if let Err(error) = outcome {
            let first = self.0.error.take().unwrap_or(error);
            self.0.error.set(Some(first));
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.0.pending.set(self.0.pending.get() - 1);
        if self.0.pending.get() == 0
            && let Some(waker) = self.0.waker.take()
        {
            waker.wake();
        }
    }
}

impl Waiter {
    /// Waits until every part is done.
    pub(crate) async fn wait(self) -> Result<(), LaneError> {
        poll_fn(|context| {
            if self.0.pending.get() == 0 {
                return Poll::Ready(());
            }
            *self.0.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
        self.0.error.take().map_or(Ok(()), Err)
    }
}
