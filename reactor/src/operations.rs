//! Operations in flight of one reactor: who waits for which, and what came of them.
//!
//! An entry lives from submission until the driver completes it, whether or not anybody still
//! waits: so a token is never reused while the driver knows it, and what a dropped future would
//! have got (a buffer, a connection) is given back in order.

use crate::driver::{Completion, Connected, Op, Outcome, Token};
use crate::reactor::Core;
use slab::Slab;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The operations in flight.
#[derive(Default)]
pub(crate) struct Operations {
    entries: Slab<Entry>,
}

enum Entry {
    Waiting(Option<Waker>),
    Ended(Outcome),
    /// Its future was dropped.
    Orphaned,
}

impl Operations {
    fn insert(&mut self) -> Token {
        let key = self.entries.insert(Entry::Waiting(None));
        Token(u32::try_from(key).expect("operations are counted in u32"))
    }

    /// Takes a completion in; gives back what nobody waits for.
    fn complete(&mut self, completion: Completion) -> (Option<Waker>, Option<Outcome>) {
        let key = completion.token.0 as usize;
        match &mut self.entries[key] {
            Entry::Waiting(waker) => {
                let waker = waker.take();
                self.entries[key] = Entry::Ended(completion.outcome);
                (waker, None)
            }
            Entry::Orphaned => {
                self.entries.remove(key);
                (None, Some(completion.outcome))
            }
            Entry::Ended(_) => unreachable!("driver completed {:?} twice", completion.token),
        }
    }
}

impl Core {
    /// Hands a completion to the task that waits for it.
    pub(crate) fn complete(&self, completion: Completion) {
        let (waker, unwanted) = self.operations().borrow_mut().complete(completion);
        if let Some(waker) = waker {
            waker.wake();
        }
        if let Some(outcome) = unwanted {
            self.discard(outcome);
        }
    }

    fn discard(&self, outcome: Outcome) {
        if let Outcome::Connected(Ok(Connected { socket, .. })) = outcome {
            self.driver().close_socket(socket);
        }
    }
}

/// An operation of the driver, submitted when it is made.
pub(crate) struct Operation {
    core: Rc<Core>,
    token: Option<Token>,
    /// Whether dropping this asks the driver to end it.
    cancel: bool,
}

impl Operation {
    pub(crate) fn submit(core: &Rc<Core>, op: Op) -> Self {
        let cancel = matches!(op, Op::Accept { .. } | Op::Connect { .. } | Op::Recv { .. });
        let token = core.operations().borrow_mut().insert();
        core.driver().submit(token, op);
        Self {
            core: Rc::clone(core),
            token: Some(token),
            cancel,
        }
    }
}

impl Future for Operation {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let token = self.token.expect("operation polled after its end");
        let key = token.0 as usize;
        let outcome = {
            let mut operations = self.core.operations().borrow_mut();
            match &mut operations.entries[key] {
                Entry::Waiting(Some(waker)) => {
                    waker.clone_from(context.waker());
                    return Poll::Pending;
                }
                Entry::Waiting(waker) => {
                    *waker = Some(context.waker().clone());
                    return Poll::Pending;
                }
                Entry::Ended(_) => match operations.entries.remove(key) {
                    Entry::Ended(outcome) => outcome,
                    _ => unreachable!("matched above"),
                },
                Entry::Orphaned => unreachable!("its future is alive"),
            }
        };
        self.token = None;
        Poll::Ready(outcome)
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let Some(token) = self.token else { return };
        let key = token.0 as usize;
        let mut operations = self.core.operations().borrow_mut();
        if let Entry::Ended(_) = operations.entries[key] {
            let Entry::Ended(outcome) = operations.entries.remove(key) else {
                unreachable!("matched above")
            };
            drop(operations);
            self.core.discard(outcome);
            return;
        }
        operations.entries[key] = Entry::Orphaned;
        drop(operations);
        if self.cancel {
            self.core.driver().cancel(token);
        }
    }
}
