//! The limits of a volume: requests and bytes a second that its owner takes from clients.
//!
//! Two buckets that fill at those rates, each up to what [`BURST`] brings. A request passes when neither is
//! in debt, and then takes what it costs, into debt if it must: so one that is larger than a bucket passes,
//! too, and those behind it pay. They pass in the order in which they came. Nothing is lost but time, and
//! where there is no limit nothing is counted.

use std::cell::Cell;
use std::time::Duration;

use ashlar_reactor::channel::Semaphore;
use ashlar_reactor::{Instant, Reactor};

use crate::signal::Signal;

/// What a bucket holds at most, in the time that fills it: what comes after a pause may come at once.
const BURST: Duration = Duration::from_millis(250);

/// The longest wait without a look at the limits, which may have changed.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// See the module.
pub(crate) struct Throttle {
    requests: Bucket,
    bytes: Bucket,
    /// Who is next holds it.
    turn: Semaphore,
    changed: Signal,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            requests: Bucket::default(),
            bytes: Bucket::default(),
            turn: Semaphore::new(1),
            changed: Signal::default(),
        }
    }
}

impl Throttle {
    /// Goes by these limits a second from now on; who waits looks again.
    pub(crate) fn limit(&self, requests: Option<u64>, bytes: Option<u64>) {
        let requests = self.requests.set_rate(requests);
        let bytes = self.bytes.set_rate(bytes);
        if requests || bytes {
            self.changed.raise();
        }
    }

    /// Whether there is no limit, and nobody waits for what was one.
    pub(crate) fn is_open(&self) -> bool {
        self.requests.rate.get().is_none()
            && self.bytes.rate.get().is_none()
            && self.turn.free() == 1
    }

    /// Waits until a request of so many bytes may pass.
    pub(crate) async fn pass(&self, reactor: &Reactor, bytes: u64) {
        let _turn = self.turn.acquire(1).await;
        loop {
            let moment = self.changed.moment();
            let now = reactor.now();
            let wait = self.requests.wait(now).max(self.bytes.wait(now));
            if wait.is_zero() {
                self.requests.take(1);
                self.bytes.take(bytes);
                return;
            }
            let changed = self.changed.raised_since(moment);
            let _elapsed = reactor.timeout(wait.min(LOOK_AGAIN), changed).await;
        }
    }
}

/// A bucket of tokens, in billionths, so that slow rates fill it evenly.
#[derive(Debug, Default)]
struct Bucket {
    /// Tokens a second; none for no limit.
    rate: Cell<Option<u64>>,
    level: Cell<i128>,
    looked_at: Cell<Instant>,
}

const TOKEN: i128 = 1_000_000_000;

impl Bucket {
    /// Whether that is another rate than before. The debt of before is forgiven.
    fn set_rate(&self, rate: Option<u64>) -> bool {
        let rate = rate.map(|rate| rate.max(1));
        if self.rate.replace(rate) == rate {
            return false;
        }
        self.level.set(0);
        true
    }

    /// How long until it is out of debt.
    fn wait(&self, now: Instant) -> Duration {
        let Some(rate) = self.rate.get().map(i128::from) else {
            return Duration::ZERO;
        };
        let passed = now - self.looked_at.replace(now);
        let nanos = |time: Duration| i128::try_from(time.as_nanos()).unwrap_or(i128::MAX);
        let more = rate.saturating_mul(nanos(passed));
        // At least one token fits, however slow it fills.
        let full = rate.saturating_mul(nanos(BURST)).max(TOKEN);
        let level = self.level.get().saturating_add(more).min(full);
        self.level.set(level);
        if level >= 0 {
            return Duration::ZERO;
        }
        let nanos = (-level).unsigned_abs().div_ceil(rate.unsigned_abs());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn take(&self, tokens: u64) {
        if self.rate.get().is_some() {
            let cost = i128::from(tokens).saturating_mul(TOKEN);
            self.level.set(self.level.get().saturating_sub(cost));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::EPOCH + Duration::from_millis(ms)
    }

    /// How many requests of so many tokens pass in a time, one after another, without a pause.
    fn passed(bucket: &Bucket, cost: u64, from_ms: u64, for_ms: u64) -> u64 {
        let (mut now, end, mut count) = (at(from_ms), at(from_ms + for_ms), 0);
        loop {
            let wait = bucket.wait(now);
            now += wait;
            if now > end {
                return count;
            }
            if wait.is_zero() {
                bucket.take(cost);
                count += 1;
            }
        }
    }

    #[test]
    fn what_passes_in_the_long_run_is_what_the_rate_says() {
        let bucket = Bucket::default();
        bucket.set_rate(Some(1000));
        bucket.wait(at(0));
        let count = passed(&bucket, 1, 0, 10_000);
        assert!((10_000..=10_002).contains(&count), "{count}");
        // After a pause a quarter of a second's worth comes at once, and no more.
        let count = passed(&bucket, 1, 60_000, 0);
        assert!((250..=252).contains(&count), "{count}");
    }

    #[test]
    fn one_that_is_larger_than_the_bucket_passes_and_those_behind_it_pay() {
        let bucket = Bucket::default();
        bucket.set_rate(Some(100));
        bucket.wait(at(0));
        bucket.take(1000);
        assert_eq!(bucket.wait(at(0)), Duration::from_secs(10));
        assert_eq!(bucket.wait(at(9_990)), Duration::from_millis(10));
        assert_eq!(bucket.wait(at(10_000)), Duration::ZERO);
    }

    #[test]
    fn without_a_rate_nothing_waits_and_nothing_is_owed() {
        let bucket = Bucket::default();
        bucket.take(u64::MAX);
        assert_eq!(bucket.wait(at(0)), Duration::ZERO);
        assert!(bucket.set_rate(Some(1)) && !bucket.set_rate(Some(1)));
        assert_eq!(bucket.wait(at(1)), Duration::ZERO);
        bucket.take(u64::MAX);
        assert!(bucket.wait(at(1)) > Duration::from_secs(1 << 34));
        assert!(bucket.set_rate(None));
        assert_eq!(bucket.wait(at(1)), Duration::ZERO);
    }
}
