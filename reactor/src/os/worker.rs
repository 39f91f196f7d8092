//! A thread for the one system call that has no asynchronous form everywhere: discard.
//!
//! It is started by the first job and ends with the driver. Jobs are few and bounded by the
//! store's segments, so the queue needs no limit of its own.

use crate::OsError;
use crate::driver::Token;
use crate::remote::Unpark;
use std::cell::RefCell;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};

type Job = Box<dyn FnOnce() -> Result<(), OsError> + Send>;
type Results = Arc<Mutex<Vec<(Token, Result<(), OsError>)>>>;

/// The handle of the driver on its thread.
pub(crate) struct Worker {
    unpark: Arc<dyn Unpark>,
    jobs: RefCell<Option<mpsc::Sender<(Token, Job)>>>,
    results: Results,
    running: std::cell::Cell<usize>,
}

impl Worker {
    /// `unpark` makes the driver look at the results.
    pub(crate) fn new(unpark: Arc<dyn Unpark>) -> Self {
        Self {
            unpark,
            jobs: RefCell::new(None),
            results: Results::default(),
            running: std::cell::Cell::new(0),
        }
    }

    /// Runs `job` on the thread; its result comes by [`Worker::take`].
    pub(crate) fn submit(&self, token: Token, job: Job) {
        let mut jobs = self.jobs.borrow_mut();
        let sender = jobs.get_or_insert_with(|| self.start());
        self.running.set(self.running.get() + 1);
        if sender.send((token, job)).is_err() {
            self.lock().push((token, Err(OsError::IO)));
            self.unpark.unpark();
        }
    }

    /// Whether jobs were given whose results were not taken.
    pub(crate) fn is_busy(&self) -> bool {
        self.running.get() > 0
    }

    /// Takes the results that have come in.
    pub(crate) fn take(&self) -> Vec<(Token, Result<(), OsError>)> {
        let results = std::mem::take(&mut *self.lock());
        self.running.set(self.running.get() - results.len());
        results
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Token, Result<(), OsError>)>> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self) -> mpsc::Sender<(Token, Job)> {
        let (sender, jobs) = mpsc::channel::<(Token, Job)>();
        let results = Arc::clone(&self.results);
        let unpark = Arc::clone(&self.unpark);
        let body = move || {
            for (token, job) in jobs {
                let result = job();
                results
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push((token, result));
                unpark.unpark();
            }
        };
        // Without a thread the receiver is dropped and every job fails with EIO.
        let thread = std::thread::Builder::new().name("ashlar-discard".into());
        if let Err(error) = thread.spawn(body) {
            tracing::warn!(%error, "cannot start the thread that discards");
        }
        sender
    }
}
