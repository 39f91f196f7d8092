//! What a cluster has around it: a clock, a timer, and somewhere to run what must be finished.
//!
//! Tokio stands behind it in a conductor; the simulator puts its virtual time and its own tasks
//! there, so that the same code runs in both.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Something to run to its end, or to wait for.
pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where a cluster runs.
pub trait Runtime: Send + Sync + 'static {
    /// The time since some moment, always the same one; never goes back.
    fn elapsed(&self) -> Duration;

    /// Milliseconds since 1970-01-01 UTC, for people: nothing is decided by it.
    fn wall_ms(&self) -> u64;

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

    fn wall_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
    }

    fn sleep(&self, duration: Duration) -> Work {
        Box::pin(tokio::time::sleep(duration))
    }

    fn spawn(&self, work: Work) {
        drop(tokio::spawn(work));
    }
}
