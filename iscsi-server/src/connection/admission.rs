//! Memory for commands: granted at once where it is free, in turn where it is not.
//!
//! A command that came alone is parked until there is memory; the reader goes on. With one whose
//! data follows at once the reader waits, unless something that holds memory waits for what comes
//! behind it: then the command is refused with TASK SET FULL, and its data forgotten.

use super::Connection;
use crate::catalog::TargetCatalog;
use crate::task::{Phase, Refusal, Task};
use std::convert::Infallible;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

impl<C: TargetCatalog> Connection<'_, C> {
    /// Grants memory to a task if that takes no waiting.
    pub(super) fn try_admit(&self, task: &Rc<Task>) -> bool {
        let cost = task.cost.get();
        if cost > 0 {
            let is_first = self.parked.borrow().is_empty();
            if !is_first || !self.fits(cost) || !self.ration.try_take(cost) {
                return false;
            }
        }
        self.grant(task);
        true
    }

    /// Whether the connection's own limit allows it.
    fn fits(&self, cost: u64) -> bool {
        let held = self.ration.held();
        let limit = self.registry.options.limits.bytes_in_flight_max;
        held == 0 || held.saturating_add(cost) <= limit
    }

    fn grant(&self, task: &Rc<Task>) {
        task.admitted.set(true);
        let wanted = task.transfer.borrow().wanted() as usize;
        if wanted > 0 && task.refusal.get().is_none() {
            let buffer = self.registry.reactor.buffer(wanted);
            *task.buffer.borrow_mut() = Some(buffer);
        }
    }

    /// Puts a task in the line for memory.
    pub(super) fn park(&self, task: &Rc<Task>) {
        self.parked.borrow_mut().push_back(Rc::clone(task));
        self.changed();
    }

    /// Gives the memory of a task back that will not be answered.
    pub(super) fn release(&self, task: &Task) {
        if task.admitted.replace(false) {
            self.ration.give_back(task.cost.get());
        }
        task.buffer.take();
        self.changed();
    }

    /// Has memory for a task before its data is received; or refuses it.
    pub(super) async fn admit_for_data(&self, task: &Rc<Task>, may_wait: bool) {
        if self.try_admit(task) {
            return;
        }
        if may_wait {
            self.park(task);
            // The connection's task polls this again after every change: no waker is needed.
            poll_fn(|_| {
                let is_decided = task.admitted.get() || task.is_aborted();
                match is_decided || self.session.waits_for_data(&self.link) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            })
            .await;
            if task.admitted.get() || task.is_aborted() {
                return;
            }
            self.parked
                .borrow_mut()
                .retain(|other| !Rc::ptr_eq(other, task));
        }
        self.refuse_unadmitted(task, Refusal::TaskSetFull);
    }

    /// Refuses a task that holds no memory and is to get none.
    pub(super) fn refuse_unadmitted(&self, task: &Rc<Task>, refusal: Refusal) {
        task.refuse(refusal);
        task.cost.set(0);
        self.grant(task);
    }

    /// Grants memory to those that are parked, in turn.
    pub(super) async fn admit_in_turn(&self) -> Infallible {
        loop {
            let task = poll_fn(|_| self.first_parked()).await;
            let cost = task.cost.get();
            let has_taken = poll_fn(|_| {
                if !self.is_first(&task) {
                    return Poll::Ready(None);
                }
                let held = self.ration.held();
                if !self.fits(cost) {
                    return Poll::Pending;
                }
                match self.ration.try_take(cost) {
                    true => Poll::Ready(Some(true)),
                    // Others have it all. While it holds nothing, none of them waits for this one.
                    false if held == 0 => Poll::Ready(Some(false)),
                    false => Poll::Pending,
                }
            })
            .await;
            match has_taken {
                None => continue,
                Some(true) => {}
                Some(false) => self.ration.take_in_turn(cost).await,
            }
            self.admit_first(&task, cost);
        }
    }

    /// The first of the line that is still wanted.
    fn first_parked(&self) -> Poll<Rc<Task>> {
        let mut parked = self.parked.borrow_mut();
        while parked.front().is_some_and(|task| task.is_aborted()) {
            parked.pop_front();
        }
        parked
            .front()
            .map_or(Poll::Pending, |task| Poll::Ready(Rc::clone(task)))
    }

    fn is_first(&self, task: &Rc<Task>) -> bool {
        let parked = self.parked.borrow();
        !task.is_aborted() && parked.front().is_some_and(|first| Rc::ptr_eq(first, task))
    }

    /// Memory was taken for the first of the line, if it still is the first.
    fn admit_first(&self, task: &Rc<Task>, cost: u64) {
        if self.is_first(task) {
            self.parked.borrow_mut().pop_front();
            self.grant(task);
            if task.phase() == Phase::Collecting {
                self.advance(task);
            }
        } else {
            self.ration.give_back(cost);
        }
        self.changed();
    }
}
