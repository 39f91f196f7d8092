//! The word that a server is to stop, for all its tasks.

use ashlar_reactor::channel::Notify;
use ashlar_reactor::future::{Either, race};
use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;

/// Whether the server is to stop. Clones are handles on the same word.
#[derive(Clone, Default)]
pub struct Stop {
    requested: Rc<Cell<bool>>,
    notify: Notify,
}

impl Stop {
    /// Gives the word.
    pub fn request(&self) {
        self.requested.set(true);
        self.notify.notify_all();
    }

    /// Whether the word was given.
    pub fn is_requested(&self) -> bool {
        self.requested.get()
    }

    /// Waits for the word.
    pub async fn requested(&self) {
        while !self.is_requested() {
            self.notify.notified().await;
        }
    }

    /// The output of `future`, unless the word comes first.
    pub async fn or<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        match race(future, self.requested()).await {
            Either::First(output) => Some(output),
            Either::Second(()) => None,
        }
    }
}
