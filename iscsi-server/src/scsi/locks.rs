//! Who may touch which bytes of a logical unit at once.
//!
//! Reads and writes share; what reads, decides and writes back is alone on its range. A claim waits
//! for those that are granted or came before it and that it conflicts with: nobody starves, and
//! where nobody is alone nothing is looked at.

use ashlar_reactor::channel::Notify;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

struct Claim {
    ticket: u64,
    first: u64,
    end: u64,
    alone: bool,
    granted: bool,
}

impl Claim {
    fn conflicts(&self, other: &Self) -> bool {
        (self.alone || other.alone) && self.first < other.end && other.first < self.end
    }
}

/// The claims on one logical unit.
#[derive(Default)]
pub(crate) struct RangeLocks {
    claims: RefCell<Vec<Claim>>,
    tickets: Cell<u64>,
    /// Claims of those that want to be alone.
    alone: Cell<usize>,
    waiting: Cell<usize>,
    changed: Notify,
}

/// A claim, until it is dropped.
pub(crate) struct RangeGuard {
    locks: Rc<RangeLocks>,
    ticket: u64,
}

impl RangeLocks {
    /// Bytes `first..end`, together with others that do not want to be alone.
    pub(crate) async fn share(self: &Rc<Self>, first: u64, end: u64) -> RangeGuard {
        self.claim(first, end, false).await
    }

    /// Bytes `first..end`, alone.
    pub(crate) async fn alone(self: &Rc<Self>, first: u64, end: u64) -> RangeGuard {
        self.claim(first, end, true).await
    }

    async fn claim(self: &Rc<Self>, first: u64, end: u64, alone: bool) -> RangeGuard {
        let ticket = self.tickets.get();
        self.tickets.set(ticket + 1);
        if alone {
            self.alone.set(self.alone.get() + 1);
        }
        self.claims.borrow_mut().push(Claim {
            ticket,
            first,
            end,
            alone,
            granted: false,
        });
        let guard = RangeGuard {
            locks: Rc::clone(self),
            ticket,
        };
        while !self.grant(ticket) {
            self.waiting.set(self.waiting.get() + 1);
            let waiting = Waiting(&self.waiting);
            self.changed.notified().await;
            drop(waiting);
        }
        guard
    }

    fn grant(&self, ticket: u64) -> bool {
        let mut claims = self.claims.borrow_mut();
        let Some(position) = claims.iter().rposition(|claim| claim.ticket == ticket) else {
            return false;
        };
        let free = self.alone.get() == 0
            || claims.iter().all(|other| {
                let before = other.granted || other.ticket < ticket;
                other.ticket == ticket || !before || !other.conflicts(&claims[position])
            });
        claims[position].granted = free;
        free
    }
}

struct Waiting<'a>(&'a Cell<usize>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Drop for RangeGuard {
    fn drop(&mut self) {
        let mut claims = self.locks.claims.borrow_mut();
        let position = claims.iter().position(|claim| claim.ticket == self.ticket);
        let claim = position.map(|position| claims.swap_remove(position));
        drop(claims);
        if claim.is_some_and(|claim| claim.alone) {
            self.locks.alone.set(self.locks.alone.get() - 1);
        }
        if self.locks.waiting.get() > 0 {
            self.locks.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn sharers_overlap_and_one_alone_waits_for_them() {
        let locks = Rc::new(RangeLocks::default());
        let Poll::Ready(one) = poll(pin!(locks.share(0, 8))) else {
            panic!("free");
        };
        let Poll::Ready(two) = poll(pin!(locks.share(4, 12))) else {
            panic!("shared");
        };
        let mut alone = pin!(locks.alone(6, 7));
        assert!(poll(alone.as_mut()).is_pending());
        let mut later = pin!(locks.share(6, 7));
        assert!(poll(later.as_mut()).is_pending(), "it came after");
        assert!(poll(pin!(locks.share(100, 101))).is_ready(), "elsewhere");
        drop(one);
        assert!(poll(alone.as_mut()).is_pending());
        drop(two);
        let Poll::Ready(guard) = poll(alone.as_mut()) else {
            panic!("its turn");
        };
        assert!(poll(later.as_mut()).is_pending());
        drop(guard);
        assert!(poll(later.as_mut()).is_ready());
    }

    #[test]
    fn waiter_that_goes_lets_others_pass() {
        let locks = Rc::new(RangeLocks::default());
        let Poll::Ready(_held) = poll(pin!(locks.share(0, 8))) else {
            panic!("free");
        };
        let mut gone = Box::pin(locks.alone(0, 8));
        assert!(poll(gone.as_mut()).is_pending());
        let mut later = pin!(locks.share(0, 8));
        assert!(poll(later.as_mut()).is_pending());
        drop(gone);
        assert!(poll(later.as_mut()).is_ready());
    }
}
