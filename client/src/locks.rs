//! Overlap ordering for tasks: a guard on blocks of the volume, waited for where another holds
//! some of them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use ashlar_proto::planted::{Planted, is_planted};

use crate::overlap::{BlockRange, Overlap, Ticket};
use crate::signal::Promise;

/// The ranges of one volume's writes.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    overlap: RefCell<Overlap>,
    waiting: RefCell<HashMap<Ticket, Promise<()>>>,
}

/// Blocks held until it is dropped.
#[derive(Debug)]
pub(crate) struct RangeGuard {
    locks: Rc<Locks>,
    range: BlockRange,
}

impl Drop for RangeGuard {
    fn drop(&mut self) {
        let granted = self.locks.overlap.borrow_mut().release(self.range);
        self.locks.wake(&granted);
    }
}

/// A ticket that is given up when its future is dropped.
struct Waiter {
    locks: Rc<Locks>,
    ticket: Ticket,
    range: BlockRange,
    promise: Promise<()>,
    settled: bool,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let still_waiting = self.locks.waiting.borrow_mut().remove(&self.ticket);
        let mut overlap = self.locks.overlap.borrow_mut();
        let granted = if still_waiting.is_some() {
            overlap.give_up(self.ticket)
        } else {
            // Granted, but nobody came for it.
            overlap.release(self.range)
        };
        drop(overlap);
        self.locks.wake(&granted);
    }
}

impl Locks {
    /// Holds `range`, once no earlier request holds or waits for a block of it.
    pub(crate) async fn acquire(self: &Rc<Self>, range: BlockRange) -> RangeGuard {
        let range = if is_planted(Planted::NoOverlapOrder) {
            self.overlap.borrow_mut().aside()
        } else {
            range
        };
        let ticket = self.overlap.borrow_mut().acquire(range);
        if let Some(ticket) = ticket {
            let promise = Promise::new();
            self.waiting.borrow_mut().insert(ticket, promise.clone());
            let mut waiter = Waiter {
                locks: Rc::clone(self),
                ticket,
                range,
                promise,
                settled: false,
            };
            waiter.promise.kept().await;
            waiter.settled = true;
        }
        RangeGuard {
            locks: Rc::clone(self),
            range,
        }
    }

    fn wake(&self, granted: &[Ticket]) {
        for ticket in granted {
            let promise = self.waiting.borrow_mut().remove(ticket);
            if let Some(promise) = promise {
                promise.keep(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Waker};

    #[test]
    fn guards_pass_on_even_when_a_waiter_has_gone() {
        let locks = Rc::new(Locks::default());
        let mut context = Context::from_waker(Waker::noop());
        let range = BlockRange::new(0, 4);
        let mut first = pin!(locks.acquire(range));
        let std::task::Poll::Ready(guard) = first.as_mut().poll(&mut context) else {
            panic!("free");
        };
        let mut gone = Box::pin(locks.acquire(range));
        assert!(gone.as_mut().poll(&mut context).is_pending());
        let mut last = pin!(locks.acquire(BlockRange::new(3, 5)));
        assert!(last.as_mut().poll(&mut context).is_pending());
        drop(guard);
        drop(gone);
        assert!(last.as_mut().poll(&mut context).is_ready());
    }
}
