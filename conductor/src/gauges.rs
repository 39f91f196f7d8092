//! What can be observed of a conductor that runs: its part, its cluster, and how long its work took.
//!
//! Counted on the control side, where a lock costs nothing that matters.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ashlar_proto::api::ClusterStatus;

use crate::cluster::{Cluster, ClusterError};
use crate::meta::MetaStore;

/// Bounds of the buckets that times are counted in, in milliseconds.
const BOUNDS_MS: [u64; 14] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000,
];

/// Times, counted in buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    buckets: [u64; BOUNDS_MS.len() + 1],
    sum: Duration,
}

impl Tally {
    fn note(&mut self, took: Duration) {
        let within = |bound: &u64| took <= Duration::from_millis(*bound);
        let bucket = BOUNDS_MS.iter().position(within);
        self.buckets[bucket.unwrap_or(BOUNDS_MS.len())] += 1;
        self.sum += took;
    }

    /// Each bucket's bound, if it has one, and what it holds without those below.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> + '_ {
        let bounds = BOUNDS_MS.iter().map(|ms| Some(Duration::from_millis(*ms)));
        bounds.chain([None]).zip(self.buckets.iter().copied())
    }

    /// All times together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        self.sum
    }
}

/// What a conductor counts since it started.
#[derive(Debug, Default)]
pub(crate) struct Tallies(Mutex<Counted>);

#[derive(Clone, Debug, Default)]
struct Counted {
    commits: Tally,
    commits_failed: u64,
    requests: Tally,
    requests_failed: u64,
}

impl Tallies {
    /// A transaction has ended.
    pub(crate) fn note_commit(&self, took: Duration, is_done: bool) {
        self.change(|counted| {
            counted.commits.note(took);
            counted.commits_failed += u64::from(!is_done);
        });
    }

    /// A request of the API was answered.
    pub(crate) fn note_request(&self, took: Duration, has_failed: bool) {
        self.change(|counted| {
            counted.requests.note(took);
            counted.requests_failed += u64::from(has_failed);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Counted)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn read(&self) -> Counted {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A conductor at a moment.
#[derive(Clone, Debug)]
pub struct Gauges {
    /// Whether it leads.
    pub leads: bool,
    /// In which term, if it leads.
    pub term: Option<u64>,
    /// Whether it leads or knows who does.
    pub leader_known: bool,
    /// The cluster as it sees it: of a follower, what is in the metadata.
    pub status: ClusterStatus,
    /// How long its transactions took.
    pub commits: Tally,
    /// Those that failed, or found the term over.
    pub commits_failed: u64,
    /// How long its API took to answer.
    pub requests: Tally,
    /// Answers with a status of 500 or more.
    pub requests_failed: u64,
}

/// A view on a conductor as long as that runs: it keeps nothing open. Clones are the same.
#[derive(Clone)]
pub struct Observer(Weak<dyn Observed>);

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

trait Observed: Send + Sync {
    fn gauges(&self) -> Gauges;
    fn leader(&self) -> Result<(), String>;
}

impl Observer {
    pub(crate) fn of<M: MetaStore>(cluster: &Arc<Cluster<M>>) -> Self {
        let cluster: Weak<Cluster<M>> = Arc::downgrade(cluster);
        Self(cluster)
    }

    /// All that there is to see; nothing when it has stopped.
    #[must_use]
    pub fn gauges(&self) -> Option<Gauges> {
        self.0.upgrade().map(|cluster| cluster.gauges())
    }

    /// Whether requests are carried out, by this conductor or by one that it knows.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn leader(&self) -> Result<(), String> {
        match self.0.upgrade() {
            Some(cluster) => cluster.leader(),
            None => Err("the conductor has stopped".to_owned()),
        }
    }
}

impl<M: MetaStore> Observed for Cluster<M> {
    fn gauges(&self) -> Gauges {
        let term = self.leads().ok();
        let now = self.now();
        let counted = self.tallies().read();
        Gauges {
            leads: term.is_some(),
            term: term.map(|term| term.0),
            leader_known: self.leader().is_ok(),
            status: self.read(|view| view.state.status(&view.live, now)),
            commits: counted.commits,
            commits_failed: counted.commits_failed,
            requests: counted.requests,
            requests_failed: counted.requests_failed,
        }
    }

    fn leader(&self) -> Result<(), String> {
        match self.leads() {
            Ok(_) | Err(ClusterError::NotLeader { leader: Some(_) }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_the_bucket_that_holds_them() {
        let mut tally = Tally::default();
        for ms in [0, 1, 2, 3, 60_000] {
            tally.note(Duration::from_millis(ms));
        }
        let counts: Vec<u64> = tally.buckets().map(|(_, count)| count).collect();
        assert_eq!((counts[0], counts[1], counts[2]), (2, 1, 1));
        assert_eq!(tally.buckets().last(), Some((None, 1)));
        assert_eq!(tally.sum(), Duration::from_millis(60_006));
    }

    #[test]
    fn failures_are_counted_beside_the_times() {
        let tallies = Tallies::default();
        tallies.note_commit(Duration::from_millis(1), true);
        tallies.note_commit(Duration::from_millis(1), false);
        tallies.note_request(Duration::from_millis(1), true);
        let counted = tallies.read();
        assert_eq!((counted.commits_failed, counted.requests_failed), (1, 1));
        let count: u64 = counted.commits.buckets().map(|(_, count)| count).sum();
        assert_eq!(count, 2);
    }
}
