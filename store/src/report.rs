//! What a store tells of its disks.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use ashlar_proto::api::{MapReport, ReplicaUse, WriteReport};
use ashlar_proto::limits::{MISSING_REPORTED_MAX, USES_REPORTED_MAX};
use ashlar_proto::{BLOCK_BYTES, ByteCount, ReplicaId};

use crate::lane::{DamageCounts, LaneStats, MapCounts};
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
            ("missing-replica", missing.len() as u64),
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

/// How the maps of a disk's lanes use their memory; none where no lane is served.
pub(crate) fn map(lanes: &[LaneReport]) -> Option<MapReport> {
    if lanes.is_empty() {
        return None;
    }
    let sum = |count: fn(&MapCounts) -> u64| lanes.iter().map(|lane| count(&lane.stats.map)).sum();
    let bytes = |count| ByteCount::new(sum(count));
    Some(MapReport {
        budget_bytes: bytes(|map| map.budget_bytes),
        leaf_bytes: bytes(|map| map.leaf_bytes),
        overlay_bytes: bytes(|map| map.overlay_bytes),
        root_bytes: bytes(|map| map.root_bytes),
        hits: sum(|map| map.hits),
        misses: sum(|map| map.misses),
        scanned: sum(|map| map.scanned),
        evictions: sum(|map| map.evictions),
        load_ns: sum(|map| map.load_nanos),
    })
}

/// What the replicas of a disk take that take the most.
pub(crate) fn largest(lanes: &[LaneReport]) -> Vec<ReplicaUse> {
    let uses = lanes.iter().flat_map(|lane| &lane.largest);
    let mut uses: Vec<ReplicaUse> = uses
        .map(|&(replica, used_bytes)| ReplicaUse {
            replica,
            used_bytes,
        })
        .collect();
    uses.sort_unstable_by_key(|of| (Reverse(of.used_bytes), of.replica));
    uses.truncate(USES_REPORTED_MAX);
    uses
}

/// What the lanes of a disk have written; none where no lane is served.
pub(crate) fn writes(lanes: &[LaneReport]) -> Option<WriteReport> {
    if lanes.is_empty() {
        return None;
    }
    let bytes = |blocks: fn(&LaneStats) -> u64| {
        let sum: u64 = lanes.iter().map(|lane| blocks(&lane.stats)).sum();
        ByteCount::new(sum * BLOCK_BYTES as u64)
    };
    Some(WriteReport {
        request_bytes: bytes(|stats| stats.blocks_written),
        device_bytes: bytes(|stats| stats.blocks_logged),
        moved_bytes: bytes(|stats| stats.blocks_moved),
        leaf_bytes: bytes(|stats| stats.leaves_written),
    })
}

/// The replicas that should be on a disk and are not, the first ones by id.
pub(crate) fn missing(lanes: &[LaneReport]) -> Vec<ReplicaId> {
    let mut all: Vec<ReplicaId> = lanes.iter().flat_map(|l| l.missing.clone()).collect();
    all.sort_unstable();
    all.truncate(MISSING_REPORTED_MAX);
    all
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
        two.missing = vec![ReplicaId::new(7)];
        let expected = [("data", 5), ("missing-replica", 1), ("read-error", 1)];
        let expected = expected.map(|(kind, count)| (kind.to_owned(), count));
        assert_eq!(damage(&[one, two]), BTreeMap::from(expected));
    }

    #[test]
    fn the_maps_of_a_disk_are_those_of_its_lanes() {
        assert_eq!(map(&[]), None);
        let mut lane = LaneReport::default();
        lane.stats.map.budget_bytes = 1 << 20;
        lane.stats.map.misses = 3;
        lane.stats.map.scanned = 2;
        lane.stats.map.load_nanos = 500;
        let sum = map(&[lane.clone(), lane]).unwrap();
        assert_eq!((sum.budget_bytes.get(), sum.misses), (2 << 20, 6));
        assert_eq!(sum.load_ns_mean(), 100);
    }

    #[test]
    fn what_takes_the_most_comes_first() {
        let lane = |largest: &[(u64, u64)]| {
            let of = |&(id, bytes): &(u64, u64)| (ReplicaId::new(id), ByteCount::new(bytes));
            LaneReport {
                largest: largest.iter().map(of).collect(),
                ..LaneReport::default()
            }
        };
        let shown = largest(&[lane(&[(1, 60), (2, 30)]), lane(&[(3, 40)])]);
        let shown: Vec<u64> = shown.iter().map(|of| of.replica.get()).collect();
        assert_eq!(shown, [1, 3, 2]);
    }

    #[test]
    fn write_amplification_is_that_of_all_lanes() {
        assert_eq!(writes(&[]), None);
        let mut lane = LaneReport::default();
        assert_eq!(
            writes(&[lane.clone()]).unwrap().amplification_percent(),
            None
        );
        lane.stats.blocks_written = 100;
        lane.stats.blocks_logged = 150;
        let mut other = LaneReport::default();
        other.stats.blocks_logged = 100;
        other.stats.blocks_moved = 80;
        let sum = writes(&[lane, other]).unwrap();
        assert_eq!(sum.amplification_percent(), Some(250));
        assert_eq!(sum.moved_bytes.get(), 80 * 4096);
    }

    #[test]
    fn missing_replicas_are_named_in_order_and_not_too_many() {
        let lane = |ids: std::ops::Range<u64>| LaneReport {
            missing: ids.map(ReplicaId::new).collect(),
            ..LaneReport::default()
        };
        let few = missing(&[lane(5..7), lane(1..2)]);
        assert_eq!(few, [1, 5, 6].map(ReplicaId::new));
        let many = missing(&[lane(0..MISSING_REPORTED_MAX as u64), lane(900..901)]);
        assert_eq!(many.len(), MISSING_REPORTED_MAX);
        assert!(!many.contains(&ReplicaId::new(900)));
    }
}
