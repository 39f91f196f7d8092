//! A bounded queue between tasks of one thread, with several senders.

use super::wait::{Place, WaitLine, wake, wake_all};
use super::{Closed, TrySendError};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

/// A channel that holds at most `capacity` values.
///
/// # Panics
/// If `capacity` is 0.
#[must_use]
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a channel holds at least one value");
    let shared = Rc::new(RefCell::new(State {
        values: VecDeque::new(),
        capacity,
        senders: 1,
        closed: false,
        sending: WaitLine::default(),
        receiving: WaitLine::default(),
    }));
    let sender = Sender {
        shared: Rc::clone(&shared),
    };
    (sender, Receiver { shared })
}

struct State<T> {
    values: VecDeque<T>,
    capacity: usize,
    senders: usize,
    /// No value goes in any more; those within may still be taken out.
    closed: bool,
    sending: WaitLine,
    receiving: WaitLine,
}

type Shared<T> = Rc<RefCell<State<T>>>;

fn close<T>(shared: &Shared<T>) {
    let mut state = shared.borrow_mut();
    state.closed = true;
    let mut wakers = state.sending.all();
    wakers.append(&mut state.receiving.all());
    drop(state);
    wake_all(wakers);
}

/// The sending end. Clones send into the same channel.
pub struct Sender<T> {
    shared: Shared<T>,
}

impl<T> Sender<T> {
    /// Sends `value` as soon as there is room.
    ///
    /// # Errors
    /// [`Closed`]: nobody will receive it; it was dropped.
    pub async fn send(&self, value: T) -> Result<(), Closed> {
        let mut guard = InLine {
            shared: &self.shared,
            place: None,
            line: |state| &mut state.sending,
            passable: |state| state.values.len() < state.capacity,
        };
        let mut value = Some(value);
        poll_fn(|context| {
            let mut state = self.shared.borrow_mut();
            if state.closed {
                return Poll::Ready(Err(Closed));
            }
            if state.values.len() < state.capacity && state.sending.may_pass(guard.place) {
                state.sending.leave(&mut guard.place);
                let value = value.take().expect("polled after its end");
                state.values.push_back(value);
                let receiver = state.receiving.first();
                let next = (state.values.len() < state.capacity)
                    .then(|| state.sending.first())
                    .flatten();
                drop(state);
                wake(receiver);
                wake(next);
                return Poll::Ready(Ok(()));
            }
            state.sending.enroll(&mut guard.place, context.waker());
            Poll::Pending
        })
        .await
    }

    /// Sends `value` if there is room now and nobody waits for it.
    ///
    /// # Errors
    /// [`TrySendError`] with the value.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        let mut state = self.shared.borrow_mut();
        if state.closed {
            return Err(TrySendError::Closed(value));
        }
        if state.values.len() >= state.capacity || !state.sending.may_pass(None) {
            return Err(TrySendError::Full(value));
        }
        state.values.push_back(value);
        let receiver = state.receiving.first();
        drop(state);
        wake(receiver);
        Ok(())
    }

    /// Closes the channel: what it holds can still be received, then receivers see the end.
    pub fn close(&self) {
        close(&self.shared);
    }

    /// Whether the channel was closed, at either end.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.borrow().closed
    }

    /// Values in the channel.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.borrow().values.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.borrow_mut().senders += 1;
        Self {
            shared: Rc::clone(&self.shared),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let last = {
            let mut state = self.shared.borrow_mut();
            state.senders -= 1;
            state.senders == 0
        };
        if last {
            close(&self.shared);
        }
    }
}

/// The receiving end.
pub struct Receiver<T> {
    shared: Shared<T>,
}

impl<T> Receiver<T> {
    /// The next value; `None` when the channel is closed and empty.
    pub async fn recv(&self) -> Option<T> {
        let mut guard = InLine {
            shared: &self.shared,
            place: None,
            line: |state| &mut state.receiving,
            passable: |state| !state.values.is_empty(),
        };
        poll_fn(|context| {
            let mut state = self.shared.borrow_mut();
            if state.receiving.may_pass(guard.place)
                && let Some(value) = state.values.pop_front()
            {
                state.receiving.leave(&mut guard.place);
                let sender = state.sending.first();
                let next = (!state.values.is_empty())
                    .then(|| state.receiving.first())
                    .flatten();
                drop(state);
                wake(sender);
                wake(next);
                return Poll::Ready(Some(value));
            }
            if state.closed && state.values.is_empty() {
                return Poll::Ready(None);
            }
            state.receiving.enroll(&mut guard.place, context.waker());
            Poll::Pending
        })
        .await
    }

    /// The next value if there is one now.
    #[must_use]
    pub fn try_recv(&self) -> Option<T> {
        let mut state = self.shared.borrow_mut();
        if !state.receiving.may_pass(None) {
            return None;
        }
        let value = state.values.pop_front()?;
        let sender = state.sending.first();
        drop(state);
        wake(sender);
        Some(value)
    }

    /// Refuses further values; those within can still be received.
    pub fn close(&self) {
        close(&self.shared);
    }

    /// Whether the channel was closed, at either end.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.borrow().closed
    }

    /// Values in the channel.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.borrow().values.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        close(&self.shared);
        let values = std::mem::take(&mut self.shared.borrow_mut().values);
        drop(values);
    }
}

/// A place in one of the lines, given up when dropped; then the next may be able to pass.
struct InLine<'a, T> {
    shared: &'a Shared<T>,
    place: Place,
    line: fn(&mut State<T>) -> &mut WaitLine,
    passable: fn(&State<T>) -> bool,
}

impl<T> Drop for InLine<'_, T> {
    fn drop(&mut self) {
        if self.place.is_none() {
            return;
        }
        let mut state = self.shared.borrow_mut();
        (self.line)(&mut state).leave(&mut self.place);
        let next = (self.passable)(&state)
            .then(|| (self.line)(&mut state).first())
            .flatten();
        drop(state);
        wake(next);
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sender({} waiting)", self.len())
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receiver({} waiting)", self.len())
    }
}
