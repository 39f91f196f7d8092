//! Tells tasks of one thread that something has changed.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Something to wait for. Clones are handles on the same one.
///
/// On one thread nothing happens between a look at the state and the wait for its change, so a
/// loop `while !condition() { notify.notified().await }` misses nothing.
#[derive(Clone, Default)]
pub struct Notify {
    shared: Rc<Shared>,
}

#[derive(Default)]
struct Shared {
    waiting: RefCell<VecDeque<Rc<Waiter>>>,
    /// [`Notify::notify_one`] came when nobody waited.
    stored: Cell<bool>,
}

struct Waiter {
    notified: Cell<bool>,
    waker: RefCell<Waker>,
}

impl Notify {
    /// With nobody waiting.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes the task that has waited longest; if none waits, the next to wait goes right on.
    pub fn notify_one(&self) {
        let first = self.shared.waiting.borrow_mut().pop_front();
        match first {
            Some(waiter) => waiter.notify(),
            None => self.shared.stored.set(true),
        }
    }

    /// Wakes all tasks that wait now.
    pub fn notify_all(&self) {
        let waiting = self.shared.waiting.take();
        for waiter in waiting {
            waiter.notify();
        }
    }

    /// Waits for a notification.
    pub async fn notified(&self) {
        let mut guard = Waiting {
            notify: self,
            waiter: None,
        };
        poll_fn(|context| {
            if let Some(waiter) = &guard.waiter {
                if waiter.notified.get() {
                    guard.waiter = None;
                    return Poll::Ready(());
                }
                waiter.waker.borrow_mut().clone_from(context.waker());
                return Poll::Pending;
            }
            if self.shared.stored.replace(false) {
                return Poll::Ready(());
            }
            let waiter = Rc::new(Waiter {
                notified: Cell::new(false),
                waker: RefCell::new(context.waker().clone()),
            });
            self.shared
                .waiting
                .borrow_mut()
                .push_back(Rc::clone(&waiter));
            guard.waiter = Some(waiter);
            Poll::Pending
        })
        .await;
    }
}

impl Waiter {
    fn notify(&self) {
        self.notified.set(true);
        let waker = self.waker.borrow().clone();
        waker.wake();
    }
}

struct Waiting<'a> {
    notify: &'a Notify,
    waiter: Option<Rc<Waiter>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(waiter) = self.waiter.take() else {
            return;
        };
        if waiter.notified.get() {
            // It was told, but will not act on it: tell the next.
            if !self.notify.shared.waiting.borrow().is_empty() {
                self.notify.notify_one();
            }
        } else {
            let mut waiting = self.notify.shared.waiting.borrow_mut();
            waiting.retain(|other| !Rc::ptr_eq(other, &waiter));
        }
    }
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Notify({} waiting)", self.shared.waiting.borrow().len())
    }
}
