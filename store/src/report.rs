//! What a store tells of its disks.

use std::collections::BTreeMap;

use crate::lane::{DamageCounts, LaneStats};

/// Adds up the damage of a disk, by the names that reports use; kinds without any are left out.
pub(crate) fn damage<'a>(lanes: impl Iterator<Item = &'a LaneStats>) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for stats in lanes {
        let DamageCounts {
            data,
            batch,
            leaf,
            root,
            superblock,
            slot,
            summary,
        } = stats.damage;
        let counts = [
            ("batch", batch),
            ("data", data),
            ("leaf", leaf),
            ("read-error", stats.read_errors),
            ("root", root),
            ("slot", slot),
            ("summary", summary),
            ("superblock", superblock),
            ("write-error", stats.write_errors),
        ];
        for (kind, count) in counts.into_iter().filter(|&(_, count)| count > 0) {
            *sums.entry(kind.to_owned()).or_insert(0) += count;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_summed_by_kind() {
        let mut one = LaneStats::default();
        one.damage.data = 2;
        one.read_errors = 1;
        let mut two = LaneStats::default();
        two.damage.data = 3;
        let sums = damage([one, two].iter());
        let expected = [("data".to_owned(), 5), ("read-error".to_owned(), 1)];
        assert_eq!(sums, BTreeMap::from(expected));
    }
}
