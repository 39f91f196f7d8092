//! Who answers: heartbeats judged against a clock value that the caller passes in.
//!
//! Pure. Invariant: a node is silent when nothing was heard of it for its timeout *while the
//! conductor itself was running*; a conductor that was paused blames nobody for its own absence.
//! Slow is not dead: a node whose heartbeats came late of late is given longer.

use std::collections::BTreeMap;
use std::time::Duration;

use ashlar_proto::NodeId;

use crate::looks::Looks;

/// A moment of the conductor's monotonic clock, since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// The moment that long after the start.
    #[must_use]
    pub const fn after_start(since: Duration) -> Self {
        Self(since)
    }

    /// The moment that long after this one.
    #[must_use]
    pub const fn later(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }

    /// The moment that long before this one, or the start.
    #[must_use]
    pub const fn earlier(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(time))
    }

    /// From `earlier` to this one; zero where it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// A node may be silent for so many times the longest time between its heartbeats of late,
const SLOWEST_TIMES: u32 = 3;

/// and for so many timeouts at most.
pub(crate) const TIMEOUTS_MAX: u32 = 3;

/// What is forgotten of that longest time at each heartbeat that comes sooner: a part in so many.
const FORGOTTEN: u32 = 32;

/// When each node, or whoever else sends heartbeats, was last heard of.
#[derive(Clone, Debug)]
pub struct Membership<K = NodeId> {
    timeout: Duration,
    looks: Looks,
    heard: BTreeMap<K, Heard>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    /// The base of the silence; moved on when the conductor was paused.
    from: Moment,
    /// The last heartbeat, if there was one since the start.
    heartbeat: Option<Moment>,
    /// The longest time between two heartbeats, of late.
    slowest: Duration,
}

impl Heard {
    /// The silence that takes the node down.
    fn allowance(&self, timeout: Duration) -> Duration {
        let usual = self.slowest.saturating_mul(SLOWEST_TIMES);
        usual.clamp(timeout, timeout.saturating_mul(TIMEOUTS_MAX))
    }
}

impl<K: Copy + Ord> Membership<K> {
    /// Nobody heard yet; who is silent for `timeout`, or longer where it is slow, is down.
    #[must_use]
    pub fn new(timeout: Duration, now: Moment) -> Self {
        Self {
            timeout,
            looks: Looks::new(timeout, now),
            heard: BTreeMap::new(),
        }
    }

    /// The silence that takes those down who are not slow.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Begins to expect a node that was up before the conductor started.
    pub fn expect(&mut self, node: K, now: Moment) {
        self.heard.entry(node).or_insert(Heard {
            from: now,
            heartbeat: None,
            slowest: Duration::ZERO,
        });
    }

    /// A node was heard of.
    pub fn heard(&mut self, node: K, now: Moment) {
        let timeout = self.timeout;
        let heard = self.heard.entry(node).or_insert(Heard {
            from: now,
            heartbeat: None,
            slowest: Duration::ZERO,
        });
        let gap = now.since(heard.from);
        // One that was down was not slow.
        if heard.heartbeat.is_some() && gap < heard.allowance(timeout) {
            heard.slowest = (heard.slowest - heard.slowest / FORGOTTEN).max(gap);
        }
        heard.from = heard.from.max(now);
        heard.heartbeat = Some(now);
    }

    /// How long ago its last heartbeat was, if there was one.
    #[must_use]
    pub fn heartbeat_age(&self, node: K, now: Moment) -> Option<Duration> {
        self.heard
            .get(&node)
            .and_then(|heard| heard.heartbeat)
            .map(|at| now.since(at))
    }

    /// The nodes that have been silent for their timeout. Call it several times per timeout: a
    /// longer gap between two calls is taken as a pause of the conductor.
    pub fn silent(&mut self, now: Moment) -> Vec<K> {
        if self.looks.passed(now).is_none() {
            for heard in self.heard.values_mut() {
                heard.from = heard.from.max(now);
            }
        }
        let silent = |(node, heard): (&K, &Heard)| {
            (now.since(heard.from) >= heard.allowance(self.timeout)).then_some(*node)
        };
        self.heard.iter().filter_map(silent).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    #[test]
    fn silence_for_the_timeout_is_down() {
        let (a, b) = (NodeId::new(1), NodeId::new(2));
        let mut members = Membership::new(TIMEOUT, at(0));
        members.heard(a, at(0));
        members.expect(b, at(0));
        for second in 1..5 {
            assert_eq!(members.silent(at(second)), []);
            members.heard(a, at(second));
        }
        assert_eq!(members.silent(at(5)), [b]);
        members.heard(b, at(6));
        assert_eq!(members.silent(at(8)), []);
        assert_eq!(members.silent(at(9)), [a]);
        assert_eq!(
            members.heartbeat_age(a, at(9)),
            Some(Duration::from_secs(5))
        );
    }

    #[test]
    fn a_node_that_is_slow_is_given_longer_but_not_for_ever() {
        let node = NodeId::new(1);
        let mut members = Membership::new(TIMEOUT, at(0));
        for second in [0, 1, 5] {
            members.heard(node, at(second));
            assert_eq!(members.silent(at(second)), []);
        }
        // It once took 4 s: now it may take 12.
        for second in 6..17 {
            assert_eq!(members.silent(at(second)), [], "{second}");
        }
        assert_eq!(members.silent(at(17)), [node]);
        // That it was down does not make it slower, and that it was slow is forgotten.
        for second in 17..200 {
            members.silent(at(second));
            members.heard(node, at(second));
        }
        for second in 200..204 {
            assert_eq!(members.silent(at(second)), []);
        }
        assert_eq!(members.silent(at(204)), [node]);
    }

    #[test]
    fn a_paused_conductor_blames_nobody() {
        let node = NodeId::new(1);
        let mut members = Membership::new(TIMEOUT, at(0));
        members.heard(node, at(1));
        assert_eq!(members.silent(at(2)), []);
        // Suspended for an hour: no heartbeat could be heard.
        assert_eq!(members.silent(at(3602)), []);
        assert_eq!(members.silent(at(3605)), []);
        assert_eq!(members.silent(at(3607)), [node]);
    }

    #[test]
    fn a_node_expected_but_not_heard_has_no_age() {
        let mut members = Membership::new(TIMEOUT, at(0));
        members.expect(NodeId::new(1), at(0));
        assert_eq!(members.heartbeat_age(NodeId::new(1), at(1)), None);
    }
}
