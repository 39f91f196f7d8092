//! What a cluster has around it: a clock, a timer, and somewhere to run what must be finished.
//!
//! Tokio stands behind it in a conductor; the simulator puts its virtual time and its own tasks
//! there, so that the same code runs in both.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::Instant;

/// Something to run to its end, or to wait for.
pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where a cluster runs.
pub trait Runtime: Send + Sync + 'static {
    /// The time since some moment, always the same one; never goes back.
    fn elapsed(&self) -> Duration;

    /// Waits for `duration`.
    fn sleep(&self, duration: Duration) -> Work;

    /// Runs `work` to its end, whoever waits for it or not.
    fn spawn(&self, work: Work);
}

/// The tokio runtime that this is called in.
#[derive(Clone, Copy, Debug)]
pub struct TokioRuntime {
    started: Instant,
}

impl TokioRuntime {
    /// Its clock begins now.
    #[must_use]
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
        }
    }
}

impl Runtime for TokioRuntime {
    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn sleep(&self, duration: Duration) -> Work {
        Box::pin(tokio::time::sleep(duration))
    }

    fn spawn(&self, work: Work) {
        drop(tokio::spawn(work));
    }
}
