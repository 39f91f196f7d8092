//! Generations, layers, counters, and volumes that no row knows.

use ashlar_proto::LayerRange;

use super::*;
use crate::row::SnapshotRow;

/// Nothing of the volume in the rows, as in a backup of before it was made.
fn without_volume() -> Known {
    let mut known = recovering(RecoveryCause::Restored, EPOCHS_SKIPPED);
    known.volumes.clear();
    known.shards.clear();
    known.names.clear();
    known
}

fn table(version: u32, tops: &[u32]) -> LayerTable {
    let lows = std::iter::once(1).chain(tops.iter().map(|top| top + 1));
    let range = |(low, top): (u32, &u32)| LayerRange::new(Layer::new(low), Layer::new(*top));
    LayerTable {
        version,
        live: lows.zip(tops).map(range).collect(),
        dropped: Vec::new(),
    }
}

fn snapshot(layer: u32) -> SnapshotRow {
    SnapshotRow {
        volume: V,
        layer: Layer::new(layer),
        name: format!("s{layer}"),
        size_bytes: ByteCount::new(1 << 20),
        created_ms: 0,
        volume_name: String::new(),
        origin: None,
        deleted: false,
        group: None,
    }
}

#[test]
fn a_generation_that_a_disk_has_seen_is_left_far_behind() {
    let seen = FoundReplica {
        generation: Generation::new(9),
        ..clean(2)
    };
    let outcome = compare(&known(), &found(vec![clean(1), seen, clean(3)]));
    assert_eq!(codes(&outcome), ["generation-behind"]);
    let volume = volume_put(&outcome).unwrap();
    assert_eq!(volume.generation, Generation::new(9 + GENERATIONS_SKIPPED));
    assert!(shard_put(&outcome).is_none(), "its set stands");
}

#[test]
fn a_volume_of_after_the_backup_is_made_anew_under_a_name_of_its_own() {
    let mut all = all_clean();
    let outcome = compare(&without_volume(), &all);
    assert_eq!(codes(&outcome), ["shard-row-lost", "volume-row-lost"]);
    assert!(outcome.puts.is_empty(), "nobody says that this is its size");
    all.accepted.insert(V);
    let outcome = compare(&without_volume(), &all);
    assert_eq!(members_put(&outcome), [1, 2, 3]);
    let volume = volume_put(&outcome).unwrap();
    assert_eq!(volume.name, format!("recovered-{V}"));
    assert_eq!(volume.size_bytes, ByteCount::new(u64::from(BLOCKS) * 4096));
    assert_eq!((volume.replicas, volume.state), (3, VolumeState::Ready));
    assert!(volume.generation > Generation::new(7) && volume.unfenced);
    let is_name = |row: &AnyRow| matches!(row, AnyRow::Name(row) if row.name == volume.name);
    assert!(outcome.puts[&V].iter().any(is_name));
}

#[test]
fn a_volume_whose_name_is_known_keeps_it() {
    let mut known = without_volume();
    known.names.insert("mine".to_owned(), V);
    let mut all = all_clean();
    all.accepted.insert(V);
    let outcome = compare(&known, &all);
    assert_eq!(volume_put(&outcome).unwrap().name, "mine");
}

/// Somebody recovered it before, or likes the name.
#[test]
fn a_volume_that_is_made_anew_takes_no_name_that_another_has() {
    let mut known = without_volume();
    let taken = format!("recovered-{V}");
    known.names.insert(taken.clone(), VolumeId::new(99));
    let mut all = all_clean();
    all.accepted.insert(V);
    let outcome = compare(&known, &all);
    assert_eq!(volume_put(&outcome).unwrap().name, format!("{taken}-2"));
}

/// Stores are about to remove what a deleted volume has left.
#[test]
fn without_a_recovery_an_unknown_volume_is_a_deleted_one() {
    let known = Known {
        recovery: None,
        ..without_volume()
    };
    let outcome = compare(&known, &all_clean());
    assert_eq!(codes(&outcome), ["volume-deleted"]);
    assert!(outcome.puts.is_empty() && outcome.undecided.is_empty());
}

#[test]
fn a_volume_is_not_made_anew_from_a_part() {
    let at = |shard: u32, blocks: u32| FoundReplica {
        shard: ShardIndex::new(shard),
        blocks: BlockCount::new(blocks),
        ..clean(1)
    };
    let size = |replicas: Vec<FoundReplica>| {
        let mut found = found(replicas);
        found.accepted.insert(V);
        let outcome = compare(&without_volume(), &found);
        let volume = volume_put(&outcome);
        volume.map(|volume| {
            (
                volume.size_bytes.get() >> 12,
                volume.shard_bytes.get() >> 12,
            )
        })
    };
    assert_eq!(size(vec![at(0, 512), at(1, 100)]), Some((612, 512)));
    assert_eq!(size(vec![at(1, 512)]), None);
    assert_eq!(size(vec![at(0, 512), at(2, 512)]), None);
    assert_eq!(size(vec![at(0, 100), at(1, 512)]), None);
    let mut some = all_clean();
    some.disks.remove(&DiskId::new(4));
    let outcome = compare(&without_volume(), &some);
    assert!(outcome.puts.is_empty() && outcome.undecided.contains(&V));
}

#[test]
fn a_volume_with_snapshots_is_not_made_anew_without_them() {
    let snapped = FoundReplica {
        top: Layer::new(2),
        ..clean(1)
    };
    let outcome = compare(&without_volume(), &found(vec![snapped]));
    assert_eq!(codes(&outcome), ["shard-row-lost", "volume-unknown"]);
    assert!(outcome.puts.is_empty());
}

/// A snapshot was made after the backup: what was written since is in layer 2.
#[test]
fn writes_above_the_head_of_the_rows_stay_visible() {
    let newer = |number| FoundReplica {
        top: Layer::new(2),
        ..clean(number)
    };
    let outcome = compare(&known(), &found((1..=3).map(newer).collect()));
    assert_eq!(codes(&outcome), ["layers-behind"]);
    assert_eq!(volume_put(&outcome).unwrap().head_layer, Layer::new(2));
}

#[test]
fn a_newer_table_is_taken_if_all_snapshots_can_be_read_by_it() {
    let newer = |number| FoundReplica {
        top: Layer::new(4),
        layers: Some(table(1, &[2, 4])),
        ..clean(number)
    };
    let all = found((1..=3).map(newer).collect());
    let mut known = known();
    known.snapshots = vec![snapshot(2)];
    let outcome = compare(&known, &all);
    let volume = volume_put(&outcome).unwrap();
    assert_eq!(
        (volume.layers.version, volume.head_layer),
        (1, Layer::new(4))
    );
    // Snapshot 1 was deleted since: its layer can be read no more.
    known.snapshots = vec![snapshot(1)];
    let outcome = compare(&known, &all);
    assert_eq!(codes(&outcome), ["layers-unknown"]);
    assert!(outcome.puts.is_empty());
}

#[test]
fn a_table_that_is_not_sound_or_not_told_decides_nothing() {
    let mut unsound = table(1, &[2]);
    unsound
        .live
        .push(LayerRange::new(Layer::new(9), Layer::new(3)));
    for layers in [None, Some(unsound)] {
        let odd = |number| FoundReplica {
            top: Layer::new(3),
            layers: layers.clone(),
            ..clean(number)
        };
        let outcome = compare(&known(), &found((1..=3).map(odd).collect()));
        assert_eq!(codes(&outcome), ["layers-unknown"]);
    }
}

#[test]
fn shards_beyond_the_size_of_the_rows_are_not_given_up() {
    let beyond = FoundReplica {
        shard: ShardIndex::new(1),
        ..clean(1)
    };
    let mut all = all_clean();
    all.replicas.push(beyond);
    let outcome = compare(&known(), &all);
    assert!(codes(&outcome).contains(&"beyond-end"));
    assert!(outcome.puts.is_empty() && outcome.undecided.contains(&V));
}

#[test]
fn ids_that_disks_have_are_not_given_out_again() {
    let mut known = known();
    known.cluster.next_replica = 2;
    let outcome = compare(&known, &all_clean());
    assert_eq!(codes(&outcome), ["counter-behind"]);
    assert!(outcome.counters.unwrap().next_replica > 3 + IDS_SKIPPED);
}

/// Replicas on a disk that no node has registered tell nothing that could be acted on.
#[test]
fn a_disk_that_no_row_knows_is_not_looked_at() {
    let mut all = all_clean();
    all.disks.insert(DiskId::new(9));
    all.replicas.push(FoundReplica {
        disk: DiskId::new(9),
        generation: Generation::new(900),
        ..clean(9)
    });
    let outcome = compare(&known(), &all);
    assert_eq!(codes(&outcome), ["disk-unregistered"]);
    assert!(outcome.puts.is_empty() && !outcome.all_heard);
}

/// What is shown of such a volume before all disks are there is no promise.
#[test]
fn a_volume_without_a_row_is_told_of_before_all_disks_are_there() {
    let mut some = all_clean();
    some.all_disks = false;
    some.accepted.insert(V);
    let outcome = compare(&without_volume(), &some);
    assert_eq!(codes(&outcome), ["disks-not-vouched", "volume-row-lost"]);
    assert!(outcome.puts.is_empty() && outcome.undecided.contains(&V));
}
