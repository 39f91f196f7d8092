//! Who answers: heartbeats judged against a clock value that the caller passes in.
//!
//! Pure. Invariant: a node is silent when nothing was heard of it for the timeout *while the
//! conductor itself was running*; a conductor that was paused blames nobody for its own absence.

use std::collections::BTreeMap;
use std::time::Duration;

use ashlar_proto::NodeId;

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

    /// From `earlier` to this one; zero where it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// When each node was last heard of.
#[derive(Clone, Debug)]
pub struct Membership {
    timeout: Duration,
    /// The last look at the clock.
    judged: Moment,
    heard: BTreeMap<NodeId, Heard>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    /// The base of the silence; moved on when the conductor was paused.
    from: Moment,
    /// The last heartbeat, if there was one since the start.
    heartbeat: Option<Moment>,
}

impl Membership {
    /// Nobody heard yet; who is silent for `timeout` is down.
    #[must_use]
    pub fn new(timeout: Duration, now: Moment) -> Self {
        Self {
            timeout,
            judged: now,
            heard: BTreeMap::new(),
        }
    }

    /// Begins to expect a node that was up before the conductor started.
    pub fn expect(&mut self, node: NodeId, now: Moment) {
        self.heard.entry(node).or_insert(Heard {
            from: now,
            heartbeat: None,
        });
    }

    /// A node was heard of.
    pub fn heard(&mut self, node: NodeId, now: Moment) {
        self.heard.insert(
            node,
            Heard {
                from: now,
                heartbeat: Some(now),
            },
        );
    }

    /// How long ago its last heartbeat was, if there was one.
    #[must_use]
    pub fn heartbeat_age(&self, node: NodeId, now: Moment) -> Option<Duration> {
        self.heard
            .get(&node)
            .and_then(|heard| heard.heartbeat)
            .map(|at| now.since(at))
    }

    /// The nodes that have been silent for the timeout. Call it several times per timeout: a
    /// longer gap between two calls is taken as a pause of the conductor.
    pub fn silent(&mut self, now: Moment) -> Vec<NodeId> {
        let gap = now.since(self.judged);
        if gap >= self.timeout {
            for heard in self.heard.values_mut() {
                heard.from = heard.from.max(now);
            }
        }
        self.judged = self.judged.max(now);
        let silent = |(node, heard): (&NodeId, &Heard)| {
            (now.since(heard.from) >= self.timeout).then_some(*node)
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
        }
        members.heard(a, at(4));
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
