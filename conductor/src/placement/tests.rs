//! What placement promises, on small clusters made by hand.

use std::collections::{BTreeMap, BTreeSet};

use ashlar_proto::ByteCount;

use super::*;

const GIB: u64 = 1 << 30;
const SHARD: u64 = 4 * GIB;

fn disk(disk: u128, node: u64, usable_gib: u64) -> Candidate {
    Candidate {
        disk: DiskId::new(disk),
        node: NodeId::new(node),
        labels: BTreeMap::new(),
        load: Load {
            usable: ByteCount::new(usable_gib * GIB),
            used: ByteCount::new(0),
            ..Load::default()
        },
    }
}

fn in_zone(mut candidate: Candidate, zone: &str) -> Candidate {
    candidate.labels.insert("zone".to_owned(), zone.to_owned());
    candidate
}

fn thin(bytes: u64) -> Want {
    Want {
        bytes: ByteCount::new(bytes),
        ..Want::default()
    }
}

fn place_shards(
    replicas: usize,
    shards: usize,
    candidates: &[Candidate],
) -> Result<Vec<Vec<(NodeId, DiskId)>>, PlacementError> {
    let lengths = vec![thin(SHARD); shards];
    let first = ShardIndex::new(0);
    place_by(
        &Rules::default(),
        VolumeId::new(9),
        replicas,
        first,
        &lengths,
        candidates,
    )
}

fn counts(placed: &[Vec<(NodeId, DiskId)>]) -> BTreeMap<u128, usize> {
    let mut counts = BTreeMap::new();
    for (_, disk) in placed.iter().flatten() {
        *counts.entry(disk.get()).or_default() += 1;
    }
    counts
}

#[test]
fn replicas_lie_on_distinct_nodes() {
    let disks: Vec<_> = (0..12).map(|i| disk(u128::from(i), i / 4, 100)).collect();
    for replicas in place_shards(3, 50, &disks).unwrap() {
        let nodes: BTreeSet<_> = replicas.iter().map(|(node, _)| *node).collect();
        assert_eq!(nodes.len(), 3);
    }
}

#[test]
fn too_few_nodes_says_how_many() {
    let disks = [disk(1, 1, 100), disk(2, 2, 100), disk(3, 2, 100)];
    let error = place_shards(3, 1, &disks).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("3 replicas need 3 nodes with room, 2 are up"),
        "{error}"
    );
    let error = place_shards(1, 1, &[]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("1 replica needs 1 node with room, 0 are up"),
        "{error}"
    );
}

#[test]
fn zones_are_distinct_where_there_are_enough() {
    let zones = ["a", "a", "a", "b", "b", "c"];
    let disks: Vec<_> = (0u64..)
        .zip(zones)
        .map(|(i, z)| in_zone(disk(u128::from(i), i, 100), z))
        .collect();
    for replicas in place_shards(3, 40, &disks).unwrap() {
        let used: BTreeSet<_> = replicas
            .iter()
            .map(|(node, _)| zones[usize::try_from(node.get()).unwrap()])
            .collect();
        assert_eq!(used.len(), 3);
    }
}

#[test]
fn with_two_zones_three_replicas_use_both() {
    let disks = [
        in_zone(disk(1, 1, 900), "a"),
        in_zone(disk(2, 2, 900), "a"),
        in_zone(disk(3, 3, 900), "a"),
        in_zone(disk(4, 4, 100), "b"),
    ];
    for replicas in place_shards(3, 10, &disks).unwrap() {
        assert!(replicas.iter().any(|(node, _)| node.get() == 4));
    }
}

#[test]
fn shards_are_spread_by_free_space() {
    let disks = [disk(1, 1, 100), disk(2, 2, 200), disk(3, 3, 400)];
    let counts = counts(&place_shards(1, 70, &disks).unwrap());
    assert_eq!(counts, BTreeMap::from([(1, 10), (2, 20), (3, 40)]));
}

#[test]
fn an_empty_disk_does_not_take_a_whole_volume() {
    let mut disks: Vec<_> = (1..=4).map(|i| disk(u128::from(i), i, 100)).collect();
    for candidate in &mut disks[1..] {
        candidate.load.used = ByteCount::new(50 * GIB);
        candidate.load.promised = ByteCount::new(50 * GIB);
    }
    let counts = counts(&place_shards(1, 10, &disks).unwrap());
    assert_eq!(counts[&1], 4);
    assert!((2..=4).all(|d| counts[&d] == 2), "{counts:?}");
}

#[test]
fn promises_weigh_but_do_not_bar() {
    let mut disks = [disk(1, 1, 100), disk(2, 2, 100)];
    disks[0].load.promised = ByteCount::new(100 * GIB);
    let counts = counts(&place_shards(1, 30, &disks).unwrap());
    assert_eq!(counts, BTreeMap::from([(1, 10), (2, 20)]));
}

#[test]
fn full_and_overpromised_disks_have_no_room() {
    let mut disks = [disk(1, 1, 100), disk(2, 2, 100), disk(3, 3, 100)];
    disks[0].load.used = ByteCount::new(95 * GIB);
    disks[1].load.promised = ByteCount::new(20 * 100 * GIB - SHARD);
    let error = place_shards(2, 2, &disks).unwrap_err();
    let shard = ShardIndex::new(1);
    assert_eq!(
        error,
        PlacementError::TooLittleRoom {
            replicas: 2,
            up: 3,
            with_room: 1,
            shard,
            rules: SpaceRules::default(),
        }
    );
    assert!(
        error.to_string().contains("1 has room for shard 1"),
        "{error}"
    );
}

#[test]
fn a_disk_that_reports_no_space_is_no_division_by_zero() {
    let error = place_shards(1, 1, &[disk(1, 1, 0)]).unwrap_err();
    assert!(matches!(
        error,
        PlacementError::TooLittleRoom { with_room: 0, .. }
    ));
}

#[test]
fn a_hard_rule_is_kept_and_its_want_of_places_is_named() {
    let disks = [
        in_zone(disk(1, 1, 100), "a"),
        in_zone(disk(2, 2, 100), "a"),
        in_zone(disk(3, 3, 100), "b"),
    ];
    let rules = Rules {
        spread: Some("zone".to_owned()),
        is_hard: true,
        ..Rules::default()
    };
    let place = |replicas| {
        let (wants, first) = ([thin(SHARD); 20], ShardIndex::new(0));
        place_by(&rules, VolumeId::new(9), replicas, first, &wants, &disks)
    };
    for shard in place(2).unwrap() {
        assert!(shard.iter().any(|(node, _)| node.get() == 3), "{shard:?}");
    }
    let expected = PlacementError::Rules {
        replicas: 3,
        found: 2,
        shard: ShardIndex::new(0),
    };
    assert_eq!(place(3), Err(expected));
}

#[test]
fn the_same_input_gives_the_same_places() {
    let disks: Vec<_> = (1..=6).map(|i| disk(u128::from(i), i, 100)).collect();
    assert_eq!(place_shards(3, 20, &disks), place_shards(3, 20, &disks));
}

#[test]
fn small_volumes_share_equal_disks() {
    let disks: Vec<_> = (1..=4).map(|i| disk(u128::from(i), i, 100)).collect();
    let mut firsts: BTreeMap<u128, usize> = BTreeMap::new();
    for volume in 0..200 {
        let shards = [thin(SHARD)];
        let (rules, first) = (Rules::default(), ShardIndex::new(0));
        let placed = place_by(&rules, VolumeId::new(volume), 1, first, &shards, &disks).unwrap();
        *firsts.entry(placed[0][0].1.get()).or_default() += 1;
    }
    assert!(firsts.values().all(|&n| n > 25), "{firsts:?}");
}
