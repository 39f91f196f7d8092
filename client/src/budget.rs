//! Back-pressure: a bounded number of bytes and requests in flight, given out in order of arrival.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// What a volume may have in flight.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_max: u64,
    bytes: Cell<u64>,
    requests: Cell<usize>,
    queue: RefCell<VecDeque<(u64, Option<Waker>)>>,
    next_place: Cell<u64>,
}

/// Bytes and one request of the budget, given back on drop.
#[derive(Debug)]
pub(crate) struct Permit {
    budget: Rc<Budget>,
    bytes: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let budget = &self.budget;
        budget.bytes.set(budget.bytes.get() + self.bytes);
        budget.requests.set(budget.requests.get() + 1);
        budget.wake_first();
    }
}

/// A place in the queue, given up on drop.
struct Place<'a> {
    budget: &'a Budget,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut queue = self.budget.queue.borrow_mut();
        queue.retain(|&(number, _)| number != self.number);
        drop(queue);
        self.budget.wake_first();
    }
}

impl Budget {
    /// A budget of `bytes` and `requests`.
    pub(crate) fn new(bytes: u64, requests: usize) -> Rc<Self> {
        Rc::new(Self {
            bytes_max: bytes,
            bytes: Cell::new(bytes),
            requests: Cell::new(requests),
            queue: RefCell::default(),
            next_place: Cell::new(0),
        })
    }

    /// One request and `bytes` (at most all there are), now or when earlier ones have gone.
    pub(crate) async fn acquire(self: &Rc<Self>, bytes: u64) -> Permit {
        let bytes = bytes.min(self.bytes_max);
        if self.queue.borrow().is_empty()
            && let Some(permit) = self.take(bytes)
        {
            return permit;
        }
        let number = self.next_place.get();
        self.next_place.set(number + 1);
        self.queue.borrow_mut().push_back((number, None));
        let _place = Place {
            budget: self,
            number,
        };
        poll_fn(|context| {
            let mut queue = self.queue.borrow_mut();
            let is_first = queue.front().is_some_and(|&(first, _)| first == number);
            if is_first && let Some(permit) = self.take(bytes) {
                return Poll::Ready(permit);
            }
            if let Some(place) = queue.iter_mut().find(|place| place.0 == number) {
                place.1 = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    fn take(self: &Rc<Self>, bytes: u64) -> Option<Permit> {
        let fits = self.bytes.get() >= bytes && self.requests.get() > 0;
        fits.then(|| {
            self.bytes.set(self.bytes.get() - bytes);
            self.requests.set(self.requests.get() - 1);
            Permit {
                budget: Rc::clone(self),
                bytes,
            }
        })
    }

    fn wake_first(&self) {
        let waker = self.queue.borrow_mut().front_mut().and_then(|p| p.1.take());
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::Context;

    #[test]
    fn waiters_are_served_in_order_and_large_ones_are_capped() {
        let budget = Budget::new(100, 10);
        let mut context = Context::from_waker(Waker::noop());
        let mut whole = pin!(budget.acquire(1000));
        let Poll::Ready(held) = whole.as_mut().poll(&mut context) else {
            panic!("an idle budget gives all it has");
        };
        let mut first = pin!(budget.acquire(60));
        let mut second = pin!(budget.acquire(10));
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        drop(held);
        assert!(second.as_mut().poll(&mut context).is_pending(), "in order");
        let Poll::Ready(first) = first.as_mut().poll(&mut context) else {
            panic!("the first is served");
        };
        assert!(second.as_mut().poll(&mut context).is_ready());
        drop(first);
        assert_eq!((budget.bytes.get(), budget.requests.get()), (100, 10));
    }

    #[test]
    fn a_waiter_that_goes_away_does_not_block_the_queue() {
        let budget = Budget::new(100, 10);
        let mut context = Context::from_waker(Waker::noop());
        let held = budget.take(90).unwrap();
        {
            let mut gone = Box::pin(budget.acquire(50));
            assert!(gone.as_mut().poll(&mut context).is_pending());
        }
        let mut next = pin!(budget.acquire(10));
        assert!(next.as_mut().poll(&mut context).is_ready());
        drop(held);
    }
}
