//! For how long each fresh replica has been filled, judged against a clock value that the caller
//! passes in: who takes too long holds nobody up.
//!
//! Pure. How far a replica has been filled only its owner knows, so time decides. Invariant: only time
//! counts during which the conductor itself was running and somebody could fill the replica; a conductor
//! that was restarted begins anew.

use std::collections::BTreeMap;
use std::time::Duration;

use ashlar_proto::{ByteCount, ReplicaId};

use crate::looks::Looks;
use crate::membership::Moment;

/// What any replica may take.
pub(crate) const FILL_BASE: Duration = Duration::from_secs(600);

/// And a second more for each of these bytes of its shard, written or not: half of what a scrub reads
/// in that time beside everything else.
pub(crate) const FILL_BYTES_PER_SECOND: u64 = 4 << 20;

/// The fresh replicas that somebody can fill.
#[derive(Clone, Debug)]
pub(crate) struct Fills {
    looks: Looks,
    /// For how long each has been filled, and for how long it may be.
    ages: BTreeMap<ReplicaId, (Duration, Duration)>,
}

impl Fills {
    /// None yet.
    pub(crate) fn new(pause: Duration, now: Moment) -> Self {
        Self {
            looks: Looks::new(pause, now),
            ages: BTreeMap::new(),
        }
    }

    /// Notes which are filled now, and how large each is. Call it several times per pause.
    pub(crate) fn note(&mut self, now: Moment, filled: &BTreeMap<ReplicaId, ByteCount>) {
        let passed = self.looks.passed(now).unwrap_or_default();
        self.ages.retain(|id, _| filled.contains_key(id));
        for (age, _) in self.ages.values_mut() {
            *age = age.saturating_add(passed);
        }
        for (id, bytes) in filled {
            let more = Duration::from_secs(bytes.get() / FILL_BYTES_PER_SECOND);
            let most = FILL_BASE.saturating_add(more);
            self.ages.entry(*id).or_insert((Duration::ZERO, most));
        }
    }

    /// Whether none is filled.
    pub(crate) fn is_empty(&self) -> bool {
        self.ages.is_empty()
    }

    /// Whether a replica has had its time.
    pub(crate) fn is_over(&self, replica: ReplicaId) -> bool {
        let known = self.ages.get(&replica);
        known.is_some_and(|(age, most)| age >= most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: u64 = 4;

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    fn set(list: &[(u64, u64)]) -> BTreeMap<ReplicaId, ByteCount> {
        let entry = |&(id, bytes): &(u64, u64)| (ReplicaId::new(id), ByteCount::new(bytes));
        list.iter().map(entry).collect()
    }

    /// Looks every few seconds after `from`, until `to`.
    fn look(fills: &mut Fills, from: u64, to: u64, filled: &[(u64, u64)]) {
        let mut second = from + STEP;
        while second <= to {
            fills.note(at(second), &set(filled));
            second += STEP;
        }
    }

    #[test]
    fn a_larger_replica_has_more_time() {
        let mut fills = Fills::new(Duration::from_secs(5), at(0));
        let both = [(1, 0), (2, 400 * FILL_BYTES_PER_SECOND)];
        fills.note(at(0), &set(&both));
        let is_over = |fills: &Fills| [1, 2].map(|id| fills.is_over(ReplicaId::new(id)));
        look(&mut fills, 0, 596, &both);
        assert_eq!(is_over(&fills), [false, false]);
        look(&mut fills, 596, 600, &both);
        assert_eq!(is_over(&fills), [true, false]);
        look(&mut fills, 600, 1000, &both);
        assert_eq!(is_over(&fills), [true, true]);
        // One that is no longer filled begins anew when it is.
        look(&mut fills, 1000, 1004, &both[..1]);
        look(&mut fills, 1004, 1100, &both);
        assert_eq!(is_over(&fills), [true, false]);
    }

    #[test]
    fn a_pause_of_the_conductor_does_not_count() {
        let mut fills = Fills::new(Duration::from_secs(5), at(0));
        fills.note(at(0), &set(&[(1, 0)]));
        fills.note(at(3600), &set(&[(1, 0)]));
        assert!(!fills.is_over(ReplicaId::new(1)));
    }
}
