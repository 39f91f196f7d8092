//! How full each disk is by the rules of space, judged look by look.
//!
//! ```text
//!          used ≥ soft        used ≥ hard        refuses writes
//!  Ample ─────────────▶ Soft ─────────────▶ Hard ─────────────▶ Full
//!        ◀───────────── [`BACK_PERCENT`] below, for [`BACK_LOOKS`] looks
//! ```
//!
//! Pure. Invariants: a level is raised at once and lowered only by hysteresis, so a disk at a threshold
//! does not go back and forth; a disk that does not report keeps its level.

use std::collections::BTreeMap;

use ashlar_proto::DiskId;
use ashlar_proto::api::{DiskLevel, DiskReport, EventKind, SpaceRules};

/// So far below a threshold a disk counts as below, in percent of the disk.
pub(crate) const BACK_PERCENT: u8 = 3;

/// For so many looks it must have been there.
pub(crate) const BACK_LOOKS: u32 = 10;

/// What is known of a disk.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    level: DiskLevel,
    /// Looks since which it is lower.
    lower_for: u32,
    /// Writes that its store had refused at the last look.
    refused: Option<u64>,
}

/// The levels of all disks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Levels {
    known: BTreeMap<DiskId, Known>,
}

impl Levels {
    /// How full a disk is.
    pub(crate) fn of(&self, disk: DiskId) -> DiskLevel {
        self.known
            .get(&disk)
            .map_or(DiskLevel::Ample, |known| known.level)
    }

    /// Looks at a report; tells what has happened by it, in order.
    pub(crate) fn look(&mut self, report: &DiskReport, rules: &SpaceRules) -> Vec<EventKind> {
        let known = self.known.entry(report.id).or_default();
        let refused = report.refused_writes;
        let has_refused = known.refused.is_some_and(|before| refused > before);
        known.refused = Some(refused);
        let next = judge(known.level, report, rules, has_refused);
        if next < known.level {
            known.lower_for += 1;
            if known.lower_for < BACK_LOOKS {
                return Vec::new();
            }
        }
        known.lower_for = 0;
        let before = std::mem::replace(&mut known.level, next);
        crossed(before, next)
    }

    /// Forgets the disks that are no more.
    pub(crate) fn retain(&mut self, is_there: impl Fn(DiskId) -> bool) {
        self.known.retain(|disk, _| is_there(*disk));
    }
}

fn judge(now: DiskLevel, report: &DiskReport, rules: &SpaceRules, has_refused: bool) -> DiskLevel {
    let used = u128::from(report.used_bytes.get()) * 100;
    let usable = u128::from(report.usable_bytes.get());
    let above = |percent: u8, level: DiskLevel| {
        let back = if now >= level { BACK_PERCENT } else { 0 };
        used >= usable * u128::from(percent.saturating_sub(back))
    };
    if report.full || has_refused {
        DiskLevel::Full
    } else if above(rules.hard_percent, DiskLevel::Hard) {
        DiskLevel::Hard
    } else if above(rules.soft_percent, DiskLevel::Soft) {
        DiskLevel::Soft
    } else {
        DiskLevel::Ample
    }
}

/// Every threshold between two levels. One that no longer refuses writes, but is above the hard
/// threshold, is no news.
fn crossed(from: DiskLevel, to: DiskLevel) -> Vec<EventKind> {
    use DiskLevel::{Full, Hard, Soft};
    let up = [
        (Soft, EventKind::DiskAboveSoft),
        (Hard, EventKind::DiskAboveHard),
        (Full, EventKind::DiskFull),
    ];
    let down = [
        (Hard, EventKind::DiskBelowHard),
        (Soft, EventKind::DiskBelowSoft),
    ];
    let rising = up
        .into_iter()
        .filter(|(level, _)| from < *level && *level <= to);
    let falling = down
        .into_iter()
        .filter(|(level, _)| to < *level && *level <= from);
    rising.chain(falling).map(|(_, kind)| kind).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_proto::ByteCount;

    fn report(used: u64) -> DiskReport {
        DiskReport {
            usable_bytes: ByteCount::new(1000),
            used_bytes: ByteCount::new(used),
            ..DiskReport::default()
        }
    }

    fn look(levels: &mut Levels, used: u64) -> Vec<EventKind> {
        levels.look(&report(used), &SpaceRules::default())
    }

    #[test]
    fn each_threshold_is_told_once_on_the_way_up_and_once_on_the_way_down() {
        let mut levels = Levels::default();
        let disk = report(0).id;
        assert_eq!(look(&mut levels, 799), []);
        assert_eq!(look(&mut levels, 800), [EventKind::DiskAboveSoft]);
        assert_eq!(look(&mut levels, 850), []);
        assert_eq!(look(&mut levels, 900), [EventKind::DiskAboveHard]);
        // At the threshold it goes back and forth: nothing happens.
        for used in [899, 901, 880, 875, 905].repeat(9) {
            assert_eq!(look(&mut levels, used), []);
        }
        let down: Vec<EventKind> = (0..40).flat_map(|_| look(&mut levels, 100)).collect();
        assert_eq!(down, [EventKind::DiskBelowHard, EventKind::DiskBelowSoft]);
        assert_eq!(levels.of(disk), DiskLevel::Ample);
        let up = [EventKind::DiskAboveSoft, EventKind::DiskAboveHard];
        assert_eq!(look(&mut levels, 950), up);
    }

    #[test]
    fn a_disk_that_refuses_writes_is_full_until_it_has_refused_none_for_a_while() {
        let mut levels = Levels::default();
        let with = |refused_writes, full| DiskReport {
            refused_writes,
            full,
            ..report(500)
        };
        let rules = SpaceRules::default();
        // What it refused before the first look is of another day.
        assert_eq!(levels.look(&with(7, false), &rules), []);
        let all = [
            EventKind::DiskAboveSoft,
            EventKind::DiskAboveHard,
            EventKind::DiskFull,
        ];
        assert_eq!(levels.look(&with(8, false), &rules), all);
        for _ in 1..BACK_LOOKS {
            assert_eq!(levels.look(&with(8, false), &rules), []);
        }
        assert_eq!(levels.of(report(0).id), DiskLevel::Full);
        let down = [EventKind::DiskBelowHard, EventKind::DiskBelowSoft];
        assert_eq!(levels.look(&with(8, false), &rules), down);
        assert_eq!(levels.look(&with(8, true), &rules), all);
        levels.retain(|_| false);
        assert_eq!(levels.of(report(0).id), DiskLevel::Ample);
    }
}
