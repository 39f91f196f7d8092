//! How full a disk is: one measure for where replicas are placed, and whence and where they move.
//!
//! ```text
//!          free            what is used, and what is promised but not written yet
//! 1 − ──────────────── = ────────────────────────────────────────────────────────
//!     usable + unwritten                   usable + unwritten
//! ```
//!
//! What is kept for replicas that have reservations counts as used. Pure. Placement gives disks shares in proportion to usable · (1 − fill), which makes their fills
//! alike; rebalance moves replicas until they are. So neither undoes what the other did.

use ashlar_proto::ByteCount;
use ashlar_proto::api::{DiskLevel, SpaceRules};

/// A part of a disk, in billionths: with 4 GiB shards, a petabyte still has steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fill(u32);

/// The whole of a disk.
const WHOLE: u32 = 1_000_000_000;

impl Fill {
    /// That many hundredths, at most 100.
    #[must_use]
    pub const fn percent(percent: u8) -> Self {
        assert!(percent <= 100);
        Self(percent as u32 * (WHOLE / 100))
    }

    /// In thousandths.
    #[must_use]
    pub fn permille(self) -> u16 {
        u16::try_from(self.0 / (WHOLE / 1000)).unwrap_or(u16::MAX)
    }

    /// How far it lies above another; nothing if below.
    #[must_use]
    pub fn above(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Half of it.
    #[must_use]
    pub fn half(self) -> Self {
        Self(self.0 / 2)
    }
}

/// What a replica wants of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// Its length, written or not.
    pub bytes: ByteCount,
    /// What is kept for it.
    pub reserve: ByteCount,
}

/// What lies on a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Bytes that volumes can use.
    pub usable: ByteCount,
    /// Bytes used.
    pub used: ByteCount,
    /// Bytes that are kept for replicas here and that these have not taken yet.
    pub kept: ByteCount,
    /// Bytes of the replicas that it holds, written or not.
    pub promised: ByteCount,
    /// How full it was found to be.
    pub level: DiskLevel,
    /// The rules of space.
    pub rules: SpaceRules,
}

impl Load {
    /// Bytes that nobody else can have: used, or kept.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.used.get().saturating_add(self.kept.get())
    }

    /// Bytes up to the soft threshold.
    #[must_use]
    pub fn soft(&self) -> u64 {
        part(self.usable, self.rules.soft_percent)
    }

    /// Whether more than that is taken.
    #[must_use]
    pub fn is_above_soft(&self) -> bool {
        self.taken() >= self.soft().max(1)
    }

    /// Bytes that can still be kept: below the hard threshold.
    #[must_use]
    pub fn keepable(&self) -> ByteCount {
        let hard = part(self.usable, self.rules.hard_percent);
        ByteCount::new(hard.saturating_sub(self.taken()))
    }

    /// Whether so much more can be kept.
    #[must_use]
    pub fn can_keep(&self, bytes: ByteCount) -> bool {
        bytes <= self.keepable()
    }

    /// The free space, shared with what is promised but not written yet.
    #[must_use]
    pub fn weight(&self) -> u128 {
        let free = u128::from(self.usable.get().saturating_sub(self.taken()));
        free * u128::from(self.usable.get()) / self.shared().max(1)
    }

    /// How full the disk is.
    #[must_use]
    pub fn fill(&self) -> Fill {
        let free = u128::from(self.usable.get().saturating_sub(self.taken()));
        let empty = free * u128::from(WHOLE) / self.shared().max(1);
        Fill(WHOLE.saturating_sub(u32::try_from(empty).unwrap_or(WHOLE)))
    }

    fn shared(&self) -> u128 {
        let unwritten = self.promised.get().saturating_sub(self.taken());
        u128::from(self.usable.get()) + u128::from(unwritten)
    }

    /// Whether a replica may be placed here.
    #[must_use]
    pub fn has_room(&self, want: Want) -> bool {
        let percent = self.rules.over_commit_percent;
        let most = u128::from(self.usable.get()) * u128::from(percent) / 100;
        let promised = u128::from(self.promised.get()) + u128::from(want.bytes.get());
        self.weight() > 0
            && self.level < DiskLevel::Hard
            && self.keepable() > ByteCount::default()
            && self.can_keep(want.reserve)
            && (percent == 0 || promised <= most)
    }

    /// With one more replica, of which nothing is written.
    #[must_use]
    pub fn with_want(self, want: Want) -> Self {
        let kept = self.kept.get().saturating_add(want.reserve.get());
        Self {
            kept: ByteCount::new(kept),
            ..self.with(want.bytes, ByteCount::default())
        }
    }

    /// With one more replica, of which so much is written.
    #[must_use]
    pub fn with(self, bytes: ByteCount, written: ByteCount) -> Self {
        let sum = |a: ByteCount, b: ByteCount| ByteCount::new(a.get().saturating_add(b.get()));
        Self {
            used: sum(self.used, written),
            promised: sum(self.promised, bytes),
            ..self
        }
    }

    /// Without a replica, of which so much is written.
    #[must_use]
    pub fn without(self, bytes: ByteCount, written: ByteCount) -> Self {
        let rest = |a: ByteCount, b: ByteCount| ByteCount::new(a.get().saturating_sub(b.get()));
        Self {
            used: rest(self.used, written),
            promised: rest(self.promised, bytes),
            ..self
        }
    }

    /// How much of a replica of that length, one of those here, may be written.
    #[must_use]
    pub fn written(&self, bytes: ByteCount) -> Written {
        let (used, bytes) = (self.used.get(), bytes.get());
        let others = self.promised.get().saturating_sub(bytes);
        let most = used.min(bytes);
        let least = used.saturating_sub(others).min(most);
        let share = u128::from(used) * u128::from(bytes) / u128::from(self.promised.get().max(1));
        let likely = u64::try_from(share).unwrap_or(u64::MAX).clamp(least, most);
        Written {
            least: ByteCount::new(least),
            likely: ByteCount::new(likely),
            most: ByteCount::new(most),
        }
    }
}

fn part(bytes: ByteCount, percent: u8) -> u64 {
    let part = u128::from(bytes.get()) * u128::from(percent) / 100;
    u64::try_from(part).unwrap_or(u64::MAX)
}

/// What of one replica is written. What a store reports to be used of a disk counts all of them together
/// and leaves bounds; of those that take the most it says how much each takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Written {
    /// If all others are full.
    pub least: ByteCount,
    /// If all are written alike.
    pub likely: ByteCount,
    /// If all others are empty.
    pub most: ByteCount,
}

impl Written {
    /// What a store says of the replica itself.
    #[must_use]
    pub const fn exactly(bytes: ByteCount) -> Self {
        Self {
            least: bytes,
            likely: bytes,
            most: bytes,
        }
    }

    /// It is known to be no more than that.
    #[must_use]
    pub fn at_most(self, bytes: ByteCount) -> Self {
        Self {
            least: self.least.min(bytes),
            likely: self.likely.min(bytes),
            most: self.most.min(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(usable: u64, used: u64, promised: u64) -> Load {
        let [usable, used, promised] = [usable, used, promised].map(ByteCount::new);
        Load {
            usable,
            used,
            promised,
            ..Load::default()
        }
    }

    fn thin(bytes: u64) -> Want {
        Want {
            bytes: ByteCount::new(bytes),
            ..Want::default()
        }
    }

    #[test]
    fn fill_is_what_placement_weighs() {
        for load in [
            load(1000, 0, 0),
            load(1000, 300, 300),
            load(1000, 100, 1100),
            load(1000, 950, 20),
            load(1000, 1200, 1200),
        ] {
            let empty = load.weight() * 1000 / 1000;
            let filled = 1000 - u128::from(load.fill().permille());
            assert!(empty.abs_diff(filled) <= 1, "{load:?}: {empty} {filled}");
        }
        assert_eq!(load(0, 0, 0).fill(), Fill::percent(100));
        assert_eq!(load(1000, 0, 1000).fill(), Fill::percent(50));
    }

    #[test]
    fn a_report_bounds_what_one_replica_holds() {
        let all = |written: Written| [written.least, written.likely, written.most];
        let of = |load: Load, bytes| all(load.written(ByteCount::new(bytes))).map(ByteCount::get);
        assert_eq!(of(load(1000, 40, 80), 40), [0, 20, 40]);
        assert_eq!(of(load(1000, 60, 80), 40), [20, 30, 40]);
        assert_eq!(of(load(1000, 40, 40), 40), [40, 40, 40]);
        assert_eq!(of(load(1000, 0, 80), 40), [0, 0, 0]);
        // Stores count their maps too.
        assert_eq!(of(load(1000, 90, 80), 40), [40, 40, 40]);
    }

    #[test]
    fn what_is_full_takes_nothing() {
        let four = thin(4);
        assert!(load(100, 89, 89).has_room(four));
        assert!(!load(100, 90, 90).has_room(four));
        assert!(!load(100, 0, 1997).has_room(four));
        assert!(!load(0, 0, 0).has_room(thin(0)));
        let rules = SpaceRules {
            over_commit_percent: 0,
            ..SpaceRules::default()
        };
        let unlimited = Load {
            rules,
            ..load(100, 0, 1997)
        };
        assert!(unlimited.has_room(four));
        let still_full = Load {
            level: DiskLevel::Hard,
            ..load(100, 88, 88)
        };
        assert!(!still_full.has_room(four));
    }

    #[test]
    fn what_is_kept_counts_as_used() {
        let kept = Load {
            kept: ByteCount::new(300),
            ..load(1000, 300, 600)
        };
        assert_eq!(kept.fill(), load(1000, 600, 600).fill());
        assert_eq!((kept.taken(), kept.is_above_soft()), (600, false));
        let want = |reserve| Want {
            bytes: ByteCount::new(400),
            reserve: ByteCount::new(reserve),
        };
        assert!(kept.has_room(want(300)) && !kept.has_room(want(301)));
        assert!(kept.with_want(want(200)).is_above_soft());
        assert!(!kept.with_want(want(300)).has_room(thin(1)));
    }
}
