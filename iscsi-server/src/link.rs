//! What others may do to a connection: hand it work, tell it of tasks that ended, close it.
//!
//! The connection's task looks at all of this when it is woken.

use crate::task::Task;
use crate::work::Work;
use ashlar_reactor::channel::Notify;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Waker};

/// Why a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// The initiator logged in again.
    Reinstated,
    /// It, or another connection of the session, logged the session out.
    LoggedOut,
    /// Another connection of the session failed.
    SessionFailed,
    /// A target cold reset that another session asked for.
    Reset,
    /// One that this session asked for.
    OwnReset,
    /// The target is no more, or not for this initiator.
    Withdrawn,
}

/// A handle on a connection of a session.
pub(crate) struct Link {
    pub(crate) cid: u16,
    delivered: RefCell<VecDeque<Work>>,
    abandoned: RefCell<VecDeque<Rc<Task>>>,
    close: Cell<Option<Close>>,
    /// A task has ended that others may have waited for.
    task_ended: Cell<bool>,
    waker: RefCell<Waker>,
    left: Cell<bool>,
    leaving: Notify,
}

impl Link {
    pub(crate) fn new(cid: u16) -> Rc<Self> {
        Rc::new(Self {
            cid,
            delivered: RefCell::default(),
            abandoned: RefCell::default(),
            close: Cell::new(None),
            task_ended: Cell::new(false),
            waker: RefCell::new(Waker::noop().clone()),
            left: Cell::new(false),
            leaving: Notify::new(),
        })
    }

    fn wake(&self) {
        let waker = self.waker.borrow().clone();
        waker.wake();
    }

    /// Who is to be woken: the connection's task.
    pub(crate) fn attend(&self, context: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.will_wake(context.waker()) {
            waker.clone_from(context.waker());
        }
    }

    /// Something of this connection has its turn.
    pub(crate) fn deliver(&self, work: Work) {
        self.delivered.borrow_mut().push_back(work);
        self.wake();
    }

    pub(crate) fn take_delivered(&self) -> Option<Work> {
        self.delivered.borrow_mut().pop_front()
    }

    pub(crate) fn close(&self, why: Close) {
        if self.close.get().is_none() {
            self.close.set(Some(why));
        }
        self.wake();
    }

    pub(crate) fn is_closing(&self) -> Option<Close> {
        self.close.get()
    }

    pub(crate) fn task_ended(&self) {
        self.task_ended.set(true);
        self.wake();
    }

    pub(crate) fn take_task_ended(&self) -> bool {
        self.task_ended.take()
    }

    /// A task of this connection was aborted before it began: its memory is free again.
    pub(crate) fn abandon(&self, task: &Rc<Task>) {
        self.abandoned.borrow_mut().push_back(Rc::clone(task));
        self.wake();
    }

    pub(crate) fn take_abandoned(&self) -> Option<Rc<Task>> {
        self.abandoned.borrow_mut().pop_front()
    }

    /// The connection is gone.
    pub(crate) fn leave(&self) {
        self.left.set(true);
        self.leaving.notify_all();
    }

    /// Waits until the connection is gone.
    pub(crate) async fn gone(&self) {
        while !self.left.get() {
            self.leaving.notified().await;
        }
    }
}
