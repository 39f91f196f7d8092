//! A bounded queue between threads, whatever runs on them: reactors, other async runtimes, or
//! nothing.
//!
//! Both ends have a method that waits asynchronously (on any executor), one that blocks the
//! thread (never on a reactor), and one that does not wait. A reactor that sleeps is woken.

use super::wait::{Place, WaitLine, wake, wake_all};
use super::{Closed, TrySendError};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

/// A channel that holds at most `capacity` values.
///
/// # Panics
/// If `capacity` is 0.
#[must_use]
pub fn bounded<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a channel holds at least one value");
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            values: VecDeque::new(),
            capacity,
            senders: 1,
            receivers: 1,
            closed: false,
            sending: WaitLine::default(),
            receiving: WaitLine::default(),
        }),
        room: Condvar::new(),
        arrival: Condvar::new(),
    });
    let sender = Sender {
        shared: Arc::clone(&shared),
    };
    (sender, Receiver { shared })
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// For threads that block: there may be room.
    room: Condvar,
    /// For threads that block: there may be a value.
    arrival: Condvar,
}

struct State<T> {
    values: VecDeque<T>,
    capacity: usize,
    senders: usize,
    receivers: usize,
    closed: bool,
    sending: WaitLine,
    receiving: WaitLine,
}

impl<T> State<T> {
    fn has_room(&self) -> bool {
        self.values.len() < self.capacity
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let mut wakers = state.sending.all();
        wakers.append(&mut state.receiving.all());
        drop(state);
        self.room.notify_all();
        self.arrival.notify_all();
        wake_all(wakers);
    }

    /// Puts a value in, given there is room, and wakes whom that concerns.
    fn push(&self, mut state: MutexGuard<'_, State<T>>, value: T) {
        state.values.push_back(value);
        let receiver = state.receiving.first();
        let next = state.has_room().then(|| state.sending.first()).flatten();
        drop(state);
        self.arrival.notify_one();
        wake(receiver);
        wake(next);
    }

    /// Takes a value out, if there is one, and wakes whom that concerns.
    fn pop(&self, mut state: MutexGuard<'_, State<T>>) -> Option<T> {
        let value = state.values.pop_front()?;
        let sender = state.sending.first();
        let next = (!state.values.is_empty())
            .then(|| state.receiving.first())
            .flatten();
        drop(state);
        self.room.notify_one();
        wake(sender);
        wake(next);
        Some(value)
    }
}

/// The sending end. Clones send into the same channel.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T: Send> Sender<T> {
    /// Sends `value` as soon as there is room.
    ///
    /// # Errors
    /// [`Closed`]: nobody will receive it; it was dropped.
    pub async fn send(&self, value: T) -> Result<(), Closed> {
        let mut guard = InLine {
            shared: &self.shared,
            place: None,
            line: |state| &mut state.sending,
            passable: State::has_room,
        };
        let mut value = Some(value);
        poll_fn(|context| {
            let mut state = self.shared.lock();
            if state.closed {
                return Poll::Ready(Err(Closed));
            }
            if state.has_room() && state.sending.may_pass(guard.place) {
                state.sending.leave(&mut guard.place);
                let value = value.take().expect("polled after its end");
                self.shared.push(state, value);
                return Poll::Ready(Ok(()));
            }
            state.sending.enroll(&mut guard.place, context.waker());
            Poll::Pending
        })
        .await
    }

    /// Sends `value`, blocking this thread while there is no room. Not on a reactor.
    ///
    /// # Errors
    /// [`Closed`]: nobody will receive it; it was dropped.
    pub fn send_blocking(&self, value: T) -> Result<(), Closed> {
        let mut state = self.shared.lock();
        while !state.closed && !state.has_room() {
            state = self
                .shared
                .room
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return Err(Closed);
        }
        self.shared.push(state, value);
        Ok(())
    }

    /// Sends `value` if there is room now.
    ///
    /// # Errors
    /// [`TrySendError`] with the value.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        let state = self.shared.lock();
        if state.closed {
            return Err(TrySendError::Closed(value));
        }
        if !state.has_room() {
            return Err(TrySendError::Full(value));
        }
        self.shared.push(state, value);
        Ok(())
    }

    /// Closes the channel: what it holds can still be received, then receivers see the end.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Whether the channel was closed, at either end.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.lock().closed
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.lock().senders += 1;
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let last = {
            let mut state = self.shared.lock();
            state.senders -= 1;
            state.senders == 0
        };
        if last {
            self.shared.close();
        }
    }
}

/// The receiving end. Clones share the values: each goes to one of them.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

impl<T: Send> Receiver<T> {
    /// The next value; `None` when the channel is closed and empty.
    pub async fn recv(&self) -> Option<T> {
        let mut guard = InLine {
            shared: &self.shared,
            place: None,
            line: |state| &mut state.receiving,
            passable: |state| !state.values.is_empty(),
        };
        poll_fn(|context| {
            let mut state = self.shared.lock();
            if !state.values.is_empty() && state.receiving.may_pass(guard.place) {
                state.receiving.leave(&mut guard.place);
                return Poll::Ready(self.shared.pop(state));
            }
            if state.closed && state.values.is_empty() {
                return Poll::Ready(None);
            }
            state.receiving.enroll(&mut guard.place, context.waker());
            Poll::Pending
        })
        .await
    }

    /// The next value, blocking this thread until there is one; `None` when the channel is
    /// closed and empty. Not on a reactor.
    #[must_use]
    pub fn recv_blocking(&self) -> Option<T> {
        let mut state = self.shared.lock();
        while !state.closed && state.values.is_empty() {
            state = self
                .shared
                .arrival
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.shared.pop(state)
    }

    /// The next value if there is one now.
    #[must_use]
    pub fn try_recv(&self) -> Option<T> {
        self.shared.pop(self.shared.lock())
    }

    /// Refuses further values; those within can still be received.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Whether the channel was closed, at either end.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.lock().closed
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.lock().receivers += 1;
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let last = {
            let mut state = self.shared.lock();
            state.receivers -= 1;
            state.receivers == 0
        };
        if last {
            self.shared.close();
            let values = std::mem::take(&mut self.shared.lock().values);
            drop(values);
        }
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
        let mut state = self.shared.lock();
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
        f.write_str("remote::Sender")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("remote::Receiver")
    }
}
