//! Waiting within one thread: a signal that wakes all who wait, and a promise kept once.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Wakes everybody who waits; a raise between looking and waiting is not missed.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    raised: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

/// A moment in a signal's life, to wait from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(u64);

impl Signal {
    /// Now: look at the state after taking it, then wait from it.
    pub(crate) fn moment(&self) -> Moment {
        Moment(self.raised.get())
    }

    /// Wakes all who wait.
    pub(crate) fn raise(&self) {
        self.raised.set(self.raised.get() + 1);
        if !self.waiting.borrow().is_empty() {
            for waker in self.waiting.take() {
                waker.wake();
            }
        }
    }

    /// Waits until it is raised after `moment`.
    pub(crate) async fn raised_since(&self, moment: Moment) {
        poll_fn(|context| {
            if self.raised.get() != moment.0 {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

#[derive(Debug)]
enum Kept<T> {
    Open(Option<Waker>),
    Done(T),
    Taken,
}

/// A value that one side gives once and the other awaits.
#[derive(Debug)]
pub(crate) struct Promise<T> {
    state: Rc<RefCell<Kept<T>>>,
}

impl<T> Clone for Promise<T> {
    fn clone(&self) -> Self {
        Self {
            state: Rc::clone(&self.state),
        }
    }
}

impl<T> Promise<T> {
    /// A promise not kept yet.
    pub(crate) fn new() -> Self {
        Self {
            state: Rc::new(RefCell::new(Kept::Open(None))),
        }
    }

    /// Gives the value; a second one is dropped.
    pub(crate) fn keep(&self, value: T) {
        let mut state = self.state.borrow_mut();
        if let Kept::Open(waker) = &mut *state {
            let waker = waker.take();
            *state = Kept::Done(value);
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// The value, once it is given. Await it once.
    pub(crate) async fn kept(&self) -> T {
        poll_fn(|context| {
            let mut state = self.state.borrow_mut();
            match &mut *state {
                Kept::Open(waker) => {
                    *waker = Some(context.waker().clone());
                    Poll::Pending
                }
                done => match std::mem::replace(done, Kept::Taken) {
                    Kept::Done(value) => Poll::Ready(value),
                    _ => Poll::Pending,
                },
            }
        })
        .await
    }
}
