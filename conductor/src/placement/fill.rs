//! How full a disk is: one measure for where replicas are placed, and whence and where they move.
//!
//! ```text
//!          free            what is used, and what is promised but not written yet
//! 1 − ──────────────── = ────────────────────────────────────────────────────────
//!     usable + unwritten                   usable + unwritten
//! ```
//!
//! Pure. Placement gives disks shares in proportion to usable · (1 − fill), which makes their fills
//! alike; rebalance moves replicas until they are. So neither undoes what the other did.

use ashlar_proto::ByteCount;

use super::{FULL_PERCENT, OVERCOMMIT_MAX};

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

/// What lies on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Bytes that volumes can use.
    pub usable: ByteCount,
    /// Bytes used.
    pub used: ByteCount,
    /// Bytes of the replicas that it holds, written or not.
    pub promised: ByteCount,
}

impl Load {
    /// The free space, shared with what is promised but not written yet.
    #[must_use]
    pub fn weight(&self) -> u128 {
        let free = u128::from(self.usable.get().saturating_sub(self.used.get()));
        free * u128::from(self.usable.get()) / self.shared().max(1)
    }

    /// How full the disk is.
    #[must_use]
    pub fn fill(&self) -> Fill {
        let free = u128::from(self.usable.get().saturating_sub(self.used.get()));
        let empty = free * u128::from(WHOLE) / self.shared().max(1);
        Fill(WHOLE.saturating_sub(u32::try_from(empty).unwrap_or(WHOLE)))
    }

    fn shared(&self) -> u128 {
        let unwritten = self.promised.get().saturating_sub(self.used.get());
        u128::from(self.usable.get()) + u128::from(unwritten)
    }

    /// Whether a replica of that length may be placed here.
    #[must_use]
    pub fn has_room(&self, bytes: ByteCount) -> bool {
        let usable = u128::from(self.usable.get());
        let full = usable * u128::from(FULL_PERCENT) / 100;
        let most = usable * u128::from(OVERCOMMIT_MAX);
        self.weight() > 0
            && u128::from(self.used.get()) < full
            && u128::from(self.promised.get()) + u128::from(bytes.get()) <= most
    }

    /// With one more replica, of which so much is written.
    #[must_use]
    pub fn with(self, bytes: ByteCount, written: ByteCount) -> Self {
        let sum = |a: ByteCount, b: ByteCount| ByteCount::new(a.get().saturating_add(b.get()));
        Self {
            usable: self.usable,
            used: sum(self.used, written),
            promised: sum(self.promised, bytes),
        }
    }

    /// Without a replica, of which so much is written.
    #[must_use]
    pub fn without(self, bytes: ByteCount, written: ByteCount) -> Self {
        let rest = |a: ByteCount, b: ByteCount| ByteCount::new(a.get().saturating_sub(b.get()));
        Self {
            usable: self.usable,
            used: rest(self.used, written),
            promised: rest(self.promised, bytes),
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

/// What a store's report of a disk tells of one replica: it counts all of them together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// If all others are full.
    pub least: ByteCount,
    /// If all are written alike.
    pub likely: ByteCount,
    /// If all others are empty.
    pub most: ByteCount,
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
        let four = ByteCount::new(4);
        assert!(load(100, 94, 94).has_room(four));
        assert!(!load(100, 95, 95).has_room(four));
        assert!(!load(100, 0, 1997).has_room(four));
        assert!(!load(0, 0, 0).has_room(ByteCount::new(0)));
    }
}
