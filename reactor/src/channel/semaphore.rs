//! A bounded number of permits for tasks of one thread: how queues push back.

use super::wait::{Place, WaitLine, wake};
use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

/// Permits, given out first come, first served. Clones are handles on the same ones.
#[derive(Clone)]
pub struct Semaphore {
    shared: Rc<RefCell<State>>,
}

struct State {
    free: usize,
    waiting: WaitLine,
}

impl Semaphore {
    /// With `permits` free permits.
    #[must_use]
    pub fn new(permits: usize) -> Self {
        Self {
            shared: Rc::new(RefCell::new(State {
                free: permits,
                waiting: WaitLine::default(),
            })),
        }
    }

    /// Waits for `permits` permits. More than there ever are wait for ever.
    pub async fn acquire(&self, permits: usize) -> Permit {
        let mut guard = InLine {
            semaphore: self,
            place: None,
        };
        poll_fn(|context| {
            let mut state = self.shared.borrow_mut();
            if state.free >= permits && state.waiting.may_pass(guard.place) {
                state.free -= permits;
                state.waiting.leave(&mut guard.place);
                let next = state.waiting.first();
                drop(state);
                wake(next);
                return Poll::Ready(());
            }
            state.waiting.enroll(&mut guard.place, context.waker());
            Poll::Pending
        })
        .await;
        Permit {
            semaphore: self.clone(),
            permits,
        }
    }

    /// Takes `permits` permits if they are free and nobody waits.
    #[must_use]
    pub fn try_acquire(&self, permits: usize) -> Option<Permit> {
        let mut state = self.shared.borrow_mut();
        if state.free < permits || !state.waiting.may_pass(None) {
            return None;
        }
        state.free -= permits;
        Some(Permit {
            semaphore: self.clone(),
            permits,
        })
    }

    /// Permits that nobody holds.
    #[must_use]
    pub fn free(&self) -> usize {
        self.shared.borrow().free
    }

    fn release(&self, permits: usize) {
        let mut state = self.shared.borrow_mut();
        state.free += permits;
        let first = state.waiting.first();
        drop(state);
        wake(first);
    }
}

/// Permits of a [`Semaphore`], given back when dropped.
#[must_use = "a permit that is dropped is given back"]
pub struct Permit {
    semaphore: Semaphore,
    permits: usize,
}

impl Permit {
    /// How many.
    #[must_use]
    pub fn permits(&self) -> usize {
        self.permits
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.semaphore.release(self.permits);
    }
}

struct InLine<'a> {
    semaphore: &'a Semaphore,
    place: Place,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        if self.place.is_none() {
            return;
        }
        let mut state = self.semaphore.shared.borrow_mut();
        state.waiting.leave(&mut self.place);
        let next = state.waiting.first();
        drop(state);
        wake(next);
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Semaphore({} free)", self.free())
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({})", self.permits)
    }
}
