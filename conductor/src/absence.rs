//! Since when each disk does not serve, judged against a clock value that the caller passes in.
//!
//! Pure. Invariant: only time during which the conductor itself was running counts. One that was
//! paused for an hour finds no disk an hour older; one that was restarted begins anew.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ashlar_proto::DiskId;

use crate::looks::Looks;
use crate::membership::Moment;

/// The disks that do not serve.
#[derive(Clone, Debug)]
pub(crate) struct Absence {
    /// Who is away for this long is not waited for any more.
    grace: Duration,
    looks: Looks,
    /// For how long each disk has been away.
    away: BTreeMap<DiskId, Duration>,
}

impl Absence {
    /// Nobody away yet.
    pub(crate) fn new(grace: Duration, pause: Duration, now: Moment) -> Self {
        Self {
            grace,
            looks: Looks::new(pause, now),
            away: BTreeMap::new(),
        }
    }

    /// Waits that long from now on, also for those that are away.
    pub(crate) fn set_grace(&mut self, grace: Duration) {
        self.grace = grace;
    }

    /// Notes which disks do not serve now. Call it several times per pause.
    pub(crate) fn note(&mut self, now: Moment, away: &BTreeSet<DiskId>) {
        let passed = self.looks.passed(now).unwrap_or_default();
        self.away.retain(|disk, _| away.contains(disk));
        for age in self.away.values_mut() {
            *age = age.saturating_add(passed);
        }
        for disk in away {
            self.away.entry(*disk).or_default();
        }
    }

    /// Whether a disk has been away for the grace time.
    pub(crate) fn is_over(&self, disk: DiskId) -> bool {
        self.away.get(&disk).is_some_and(|age| *age >= self.grace)
    }

    /// Whether every disk serves, as far as was noted.
    pub(crate) fn is_empty(&self) -> bool {
        self.away.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    fn absence() -> Absence {
        Absence::new(Duration::from_secs(10), Duration::from_secs(5), at(0))
    }

    fn set(disks: &[u128]) -> BTreeSet<DiskId> {
        disks.iter().copied().map(DiskId::new).collect()
    }

    #[test]
    fn grace_is_over_after_its_time_without_a_break() {
        let mut absence = absence();
        let disk = DiskId::new(1);
        for second in 1..=10 {
            absence.note(at(second), &set(&[1]));
            assert!(!absence.is_over(disk), "{second}");
        }
        absence.note(at(11), &set(&[1, 2]));
        assert!(absence.is_over(disk) && !absence.is_over(DiskId::new(2)));
        // Back for a moment: it begins again.
        absence.note(at(12), &set(&[]));
        assert!(absence.is_empty());
        absence.note(at(13), &set(&[1]));
        absence.note(at(14), &set(&[1]));
        assert!(!absence.is_over(disk));
    }

    #[test]
    fn a_pause_of_the_conductor_is_no_absence() {
        let mut absence = absence();
        absence.note(at(1), &set(&[1]));
        absence.note(at(3600), &set(&[1]));
        assert!(!absence.is_over(DiskId::new(1)));
        for second in 3601..3610 {
            absence.note(at(second), &set(&[1]));
            assert!(!absence.is_over(DiskId::new(1)), "{second}");
        }
        absence.note(at(3610), &set(&[1]));
        assert!(absence.is_over(DiskId::new(1)));
    }
}
