//! A single value from one task to another on the same thread.

use super::Closed;
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A channel for one value.
#[must_use]
pub fn oneshot<T>() -> (OneshotSender<T>, OneshotReceiver<T>) {
    let shared = Rc::new(RefCell::new(State {
        value: None,
        closed: false,
        waker: None,
    }));
    let sender = OneshotSender {
        shared: Rc::clone(&shared),
    };
    (sender, OneshotReceiver { shared })
}

struct State<T> {
    value: Option<T>,
    /// One of the ends is gone.
    closed: bool,
    waker: Option<Waker>,
}

/// Sends the value; dropping it unsent closes the channel.
pub struct OneshotSender<T> {
    shared: Rc<RefCell<State<T>>>,
}

impl<T> OneshotSender<T> {
    /// Sends the value.
    ///
    /// # Errors
    /// Gives it back if the receiver is gone.
    pub fn send(self, value: T) -> Result<(), T> {
        let mut state = self.shared.borrow_mut();
        if state.closed {
            return Err(value);
        }
        state.value = Some(value);
        Ok(()) // dropping `self` wakes the receiver
    }

    /// Whether the receiver is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.borrow().closed
    }
}

impl<T> Drop for OneshotSender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.shared.borrow_mut();
            state.closed = true;
            state.waker.take()
        };
        super::wait::wake(waker);
    }
}

/// Waits for the value: a future.
pub struct OneshotReceiver<T> {
    shared: Rc<RefCell<State<T>>>,
}

impl<T> Future for OneshotReceiver<T> {
    type Output = Result<T, Closed>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.shared.borrow_mut();
        if let Some(value) = state.value.take() {
            return Poll::Ready(Ok(value));
        }
        if state.closed {
            return Poll::Ready(Err(Closed));
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl<T> Drop for OneshotReceiver<T> {
    fn drop(&mut self) {
        let value = {
            let mut state = self.shared.borrow_mut();
            state.closed = true;
            // The two may be of different processes of a simulation: who is gone is not woken.
            state.waker = None;
            state.value.take()
        };
        drop(value);
    }
}

impl<T> fmt::Debug for OneshotSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneshotSender")
    }
}

impl<T> fmt::Debug for OneshotReceiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneshotReceiver")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// 1. A simulated process waits for another's answer, and crashes.
    /// 2. A new process, of this world or of one on another thread, gets its number.
    /// 3. The other drops the sender. The waker that it found there woke whatever had the number
    ///    then, so two runs of one seed took different steps.
    #[test]
    fn a_receiver_that_is_gone_is_not_woken() {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let (sender, mut receiver) = oneshot::<()>();
        let polled = Pin::new(&mut receiver).poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        drop(receiver);
        drop(sender);
        assert!(!woken.0.load(Ordering::Relaxed));
    }
}
