//! Calls for one thing go one after the other: who comes second is told ABORTED and what is pending, as
//! the specification's section on concurrency asks.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tonic::Status;

/// What is being done to what.
#[derive(Clone, Debug, Default)]
pub(crate) struct InProgress {
    held: Arc<Mutex<HashMap<String, &'static str>>>,
}

/// One call's hold on its subject; ends with the value, also when the caller hangs up.
#[derive(Debug)]
pub(crate) struct Hold {
    held: Arc<Mutex<HashMap<String, &'static str>>>,
    subject: String,
}

impl InProgress {
    /// Begins to do `what` to `subject`.
    ///
    /// # Errors
    /// ABORTED where something is being done to it.
    pub fn begin(&self, subject: String, what: &'static str) -> Result<Hold, Status> {
        match lock(&self.held).entry(subject.clone()) {
            Entry::Occupied(held) => Err(Status::aborted(format!(
                "{} of `{subject}` is pending: {what} has to wait, try again",
                held.get()
            ))),
            Entry::Vacant(free) => {
                free.insert(what);
                let held = Arc::clone(&self.held);
                Ok(Hold { held, subject })
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        lock(&self.held).remove(&self.subject);
    }
}

/// No holder panics between two changes of the table, so it is whole also after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_call_is_told_what_is_pending() {
        let calls = InProgress::default();
        let first = calls.begin("v".to_owned(), "CreateVolume").unwrap();
        let refused = calls.begin("v".to_owned(), "DeleteVolume").unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Aborted);
        assert!(refused.message().contains("CreateVolume of `v` is pending"));
        calls.begin("w".to_owned(), "DeleteVolume").unwrap();
        drop(first);
        calls.begin("v".to_owned(), "DeleteVolume").unwrap();
    }
}
