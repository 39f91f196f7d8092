//! What a store tells of its disks.

use std::collections::BTreeMap;

use crate::lane::DamageCounts;
use crate::worker::LaneReport;

/// Adds up the damage of a disk, by the names that reports use; kinds without any are left out.
pub(crate) fn damage(lanes: &[LaneReport]) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for LaneReport { stats, missing, .. } in lanes {
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
            ("missing-replica", *missing),
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
        let mut one = LaneReport::default();
        one.stats.damage.data = 2;
        one.stats.read_errors = 1;
        let mut two = LaneReport::default();
        two.stats.damage.data = 3;
        two.missing = 1;
        let expected = [("data", 5), ("missing-replica", 1), ("read-error", 1)];
        let expected = expected.map(|(kind, count)| (kind.to_owned(), count));
        assert_eq!(damage(&[one, two]), BTreeMap::from(expected));
    }
}
