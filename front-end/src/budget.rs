//! The memory that requests of all connections may take together.
//!
//! ```text
//! total ─┬─ half: a reserve for each connection that there may be, its own at any time
//!        └─ half: common, for what exceeds the reserves
//! ```
//!
//! Invariants:
//!
//! - What is taken does not exceed the total, whatever clients do.
//! - Within its reserve a connection waits for nobody else.
//! - One that holds nothing gets its turn at the common half, first come, first served. One that
//!   holds something is given more only while several times as much stays free, so that a few
//!   connections whose volume hangs cannot take it all.

use crate::limits::Limits;
use ashlar_reactor::channel::{Notify, Permit, Semaphore};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

/// A connection may hold this part of the common half that is free, beside its first request.
const FREE_SHARE: u64 = 4;

/// The memory of a server's requests.
pub struct Budget {
    reserve: u64,
    common: Semaphore,
    common_bytes: u64,
    /// Connections that wait for their turn.
    waiting: Cell<usize>,
    contended: Notify,
}

impl Budget {
    /// By `bytes_in_flight_all` and `connections_max`.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let connections = u64::try_from(limits.connections_max).unwrap_or(u64::MAX);
        let common_bytes = limits.bytes_in_flight_all / 2;
        Self {
            reserve: common_bytes / connections.max(1),
            common: Semaphore::new(permits(common_bytes)),
            common_bytes,
            waiting: Cell::new(0),
            contended: Notify::new(),
        }
    }

    /// Whether a connection waits for what others hold.
    pub fn is_contended(&self) -> bool {
        self.waiting.get() > 0
    }

    /// Waits until one does.
    pub async fn contended(&self) {
        while !self.is_contended() {
            self.contended.notified().await;
        }
    }
}

/// Byte counts are below what this machine can address.
fn permits(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// What one connection holds of it; given back when dropped.
pub struct Ration<'a> {
    budget: &'a Budget,
    held: Cell<u64>,
    /// Of the common half; together at least what `held` exceeds the reserve by.
    borrowed: RefCell<VecDeque<Permit>>,
    borrowed_bytes: Cell<u64>,
}

impl<'a> Ration<'a> {
    /// One that holds nothing.
    #[must_use]
    pub fn new(budget: &'a Budget) -> Self {
        Self {
            budget,
            held: Cell::new(0),
            borrowed: RefCell::default(),
            borrowed_bytes: Cell::new(0),
        }
    }

    /// Bytes held.
    pub fn held(&self) -> u64 {
        self.held.get()
    }

    /// Whether some of it could be another's.
    pub fn borrows(&self) -> bool {
        self.borrowed_bytes.get() > 0
    }

    /// What has to be borrowed for holding `bytes`. A request longer than all of the common half
    /// takes all of it.
    fn beyond_reserve(&self, bytes: u64) -> u64 {
        let beyond = bytes.saturating_sub(self.budget.reserve);
        beyond.min(self.budget.common_bytes)
    }

    /// Takes `bytes` more if that takes no waiting.
    pub fn try_take(&self, bytes: u64) -> bool {
        let after = self.held.get().saturating_add(bytes);
        let borrowed = self.borrowed_bytes.get();
        let borrow = self.beyond_reserve(after).saturating_sub(borrowed);
        if borrow > 0 {
            let free = u64::try_from(self.budget.common.free()).unwrap_or(u64::MAX);
            if self.held.get() > 0 && borrowed + borrow > free / FREE_SHARE {
                return false;
            }
            let Some(permit) = self.budget.common.try_acquire(permits(borrow)) else {
                return false;
            };
            self.note(permit, borrow);
        }
        self.held.set(after);
        true
    }

    /// Takes `bytes` when it is this connection's turn, which holds nothing.
    pub async fn take_in_turn(&self, bytes: u64) {
        assert_eq!(self.held.get(), 0, "who waits must not be waited for");
        let borrow = self.beyond_reserve(bytes);
        let waiting = Waiting::new(self.budget);
        let permit = self.budget.common.acquire(permits(borrow)).await;
        drop(waiting);
        self.note(permit, borrow);
        self.held.set(bytes);
    }

    fn note(&self, permit: Permit, borrowed: u64) {
        self.borrowed.borrow_mut().push_back(permit);
        self.borrowed_bytes
            .set(self.borrowed_bytes.get() + borrowed);
    }

    /// Gives `bytes` back.
    pub fn give_back(&self, bytes: u64) {
        self.held.set(self.held.get() - bytes);
        let needed = self.beyond_reserve(self.held.get());
        let mut borrowed = self.borrowed.borrow_mut();
        while let Some(first) = borrowed.front() {
            let left = self.borrowed_bytes.get() - first.permits() as u64;
            if left < needed {
                return;
            }
            self.borrowed_bytes.set(left);
            drop(borrowed.pop_front());
        }
    }
}

/// Counts a connection among those that wait.
struct Waiting<'a>(&'a Budget);

impl<'a> Waiting<'a> {
    fn new(budget: &'a Budget) -> Self {
        budget.waiting.set(budget.waiting.get() + 1);
        budget.contended.notify_all();
        Self(budget)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    /// 100 bytes of reserve for each of 10 connections, 1000 in common.
    fn budget() -> Budget {
        Budget::new(&Limits {
            connections_max: 10,
            bytes_in_flight_all: 2000,
            ..Limits::default()
        })
    }

    fn poll(future: std::pin::Pin<&mut impl Future<Output = ()>>) -> Poll<()> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn reserves_are_there_when_all_else_is_taken() {
        let budget = budget();
        let rations: Vec<_> = (0..10).map(|_| Ration::new(&budget)).collect();
        assert!(rations[0].try_take(1100));
        for ration in &rations[1..] {
            assert!(!ration.try_take(101));
            assert!(ration.try_take(60) && ration.try_take(40));
            assert!(!ration.try_take(1), "no more than its reserve");
        }
        assert_eq!(budget.common.free(), 0);
        drop(rations);
        assert_eq!(budget.common.free(), 1000);
    }

    #[test]
    fn who_has_something_leaves_several_times_as_much_to_others() {
        let budget = budget();
        let greedy = Ration::new(&budget);
        while greedy.try_take(10) {}
        assert_eq!(greedy.held(), 300, "200 + 4 × 200 are 1000");
        assert!(Ration::new(&budget).try_take(900), "alone it may take all");
    }

    #[test]
    fn what_is_given_back_passes_to_who_waits() {
        let budget = budget();
        let (first, second) = (Ration::new(&budget), Ration::new(&budget));
        assert!(first.try_take(1000));
        assert!(!second.try_take(500));
        {
            let mut waiting = pin!(second.take_in_turn(500));
            assert!(poll(waiting.as_mut()).is_pending());
            assert!(budget.is_contended());
            first.give_back(1000);
            assert!(!first.borrows());
            assert!(poll(waiting.as_mut()).is_ready());
        }
        assert!(!budget.is_contended());
        assert_eq!((second.held(), budget.common.free()), (500, 600));
        second.give_back(500);
        assert_eq!(budget.common.free(), 1000);
    }

    #[test]
    fn what_exceeds_everything_takes_all_of_it() {
        let budget = budget();
        let ration = Ration::new(&budget);
        assert!(ration.try_take(1 << 40));
        assert_eq!(budget.common.free(), 0);
        ration.give_back(1 << 40);
        assert_eq!(budget.common.free(), 1000);
    }
}
