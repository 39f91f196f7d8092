//! What is trusted and what is left alone: rows and disks of one volume with three replicas on three disks.

mod volumes;

use std::collections::BTreeMap;

use ashlar_proto::api::{AckRule, FindingKind, FoundReplica, Replica, Reserve, VolumeState};
use ashlar_proto::{
    BlockCount, ByteCount, ClusterId, DiskId, Epoch, Generation, Layer, LayerTable, NodeId,
    ReplicaId, ShardIndex, VolumeId, Window,
};

use super::*;
use crate::row::RecoveryCause;

const V: VolumeId = VolumeId::new(1);
const FIRST: ShardIndex = ShardIndex::new(0);
const BLOCKS: u32 = 1024;

fn volume_row() -> VolumeRow {
    VolumeRow {
        id: V,
        name: "v".to_owned(),
        labels: BTreeMap::new(),
        size_bytes: ByteCount::new(u64::from(BLOCKS) * 4096),
        shard_bytes: ByteCount::new(4 << 30),
        replicas: 3,
        ack: AckRule::Majority,
        state: VolumeState::Ready,
        generation: Generation::new(7),
        head_layer: Layer::new(1),
        attached_by: None,
        attached_as: None,
        attached_under: None,
        publication: None,
        attached_for_repair: false,
        repairer: None,
        unfenced: false,
        layers: LayerTable::default(),
        layers_applied: 0,
        settled_layer: Layer::new(0),
        settled: true,
        grows_to: None,
        kept_bytes: ByteCount::new(0),
        reserve: Reserve::None,
        origin: None,
        flattened_to: None,
        served_by: None,
        wanted_by: None,
        key_hash: None,
    }
}

fn member(number: u64) -> Replica {
    Replica {
        id: ReplicaId::new(number),
        node: NodeId::new(number),
        disk: DiskId::new(u128::from(number)),
        in_sync: true,
        fresh: false,
        leaving: false,
    }
}

fn shard_row(members: &[u64]) -> ShardRow {
    ShardRow {
        volume: V,
        index: FIRST,
        epoch: Epoch::new(5),
        replicas: members.iter().map(|number| member(*number)).collect(),
        made: Vec::new(),
        rebalancing: false,
    }
}

/// Four disks on as many nodes; the replicas of the volume are 1, 2 and 3, on the disks of these numbers.
fn known() -> Known {
    Known {
        cluster: ClusterRow {
            id: ClusterId::new(1),
            next_volume: 2,
            next_replica: 10,
            next_node: 5,
            next_group: 1,
        },
        volumes: BTreeMap::from([(V, volume_row())]),
        names: BTreeMap::from([("v".to_owned(), V)]),
        shards: BTreeMap::from([((V, FIRST), shard_row(&[1, 2, 3]))]),
        snapshots: Vec::new(),
        disks: (1..=4)
            .map(|number| {
                (
                    DiskId::new(number),
                    NodeId::new(u64::try_from(number).unwrap()),
                )
            })
            .collect(),
        recovery: None,
    }
}

fn recovering(cause: RecoveryCause, epochs_skipped: u32) -> Known {
    Known {
        recovery: Some(RecoveryRow::begun(cause, epochs_skipped)),
        ..known()
    }
}

/// The metadata of a backup, as a restore leaves them.
fn restored() -> Known {
    let mut known = recovering(RecoveryCause::Restored, EPOCHS_SKIPPED);
    known.shards.get_mut(&(V, FIRST)).unwrap().epoch = Epoch::new(5 + EPOCHS_SKIPPED);
    let volume = known.volumes.get_mut(&V).unwrap();
    volume.generation = Generation::new(7 + GENERATIONS_SKIPPED);
    known
}

/// One that holds every write, as a clean detach leaves it.
fn clean(number: u64) -> FoundReplica {
    FoundReplica {
        disk: DiskId::new(u128::from(number)),
        volume: V,
        shard: FIRST,
        replica: ReplicaId::new(number),
        blocks: BlockCount::new(BLOCKS),
        generation: Generation::new(7),
        epoch: Epoch::new(5),
        window: Window::new(7),
        stable: 100,
        highest: 100,
        doubtful: false,
        top: Layer::new(1),
        layers: Some(LayerTable::default()),
    }
}

/// All four disks, with these replicas.
fn found(replicas: Vec<FoundReplica>) -> Found {
    Found {
        disks: (1..=4).map(DiskId::new).collect(),
        replicas,
        all_disks: true,
        ..Found::default()
    }
}

fn all_clean() -> Found {
    found((1..=3).map(clean).collect())
}

fn codes(outcome: &Outcome) -> Vec<&str> {
    let mut codes: Vec<&str> = outcome.findings.iter().map(|it| it.code.as_str()).collect();
    codes.sort_unstable();
    codes
}

fn shard_put(outcome: &Outcome) -> Option<&ShardRow> {
    outcome.puts.values().flatten().find_map(|row| match row {
        AnyRow::Shard(row) => Some(row),
        _ => None,
    })
}

fn volume_put(outcome: &Outcome) -> Option<&VolumeRow> {
    outcome.puts.values().flatten().find_map(|row| match row {
        AnyRow::Volume(row) => Some(row),
        _ => None,
    })
}

fn members_put(outcome: &Outcome) -> Vec<u64> {
    let row = shard_put(outcome).expect("the shard is rebuilt");
    assert!(row.replicas.iter().all(|it| it.in_sync && !it.fresh));
    row.replicas.iter().map(|it| it.id.get()).collect()
}

/// The metadata without the row of the shard.
fn without_shard() -> Known {
    let mut known = recovering(RecoveryCause::RowsLost, 0);
    known.shards.clear();
    known
}

#[test]
fn rows_and_disks_that_agree_are_left_alone() {
    for known in [known(), restored()] {
        let outcome = compare(&known, &all_clean());
        assert_eq!(codes(&outcome), [""; 0]);
        assert!(outcome.puts.is_empty() && outcome.complete);
    }
}

#[test]
fn a_lost_row_is_made_of_those_who_hold_every_write_and_fences_who_was_there() {
    let outcome = compare(&without_shard(), &all_clean());
    assert_eq!(codes(&outcome), ["shard-row-lost"]);
    assert_eq!(members_put(&outcome), [1, 2, 3]);
    assert!(shard_put(&outcome).unwrap().epoch > Epoch::new(5 + EPOCHS_SKIPPED - 1));
    let volume = volume_put(&outcome).unwrap();
    assert!(volume.generation > Generation::new(7));
    assert!(volume.unfenced && !volume.settled && volume.attached_by.is_none());
}

/// Replica 3 was replaced by 4: its disk was away. It comes back with all that it had then.
#[test]
fn a_replica_that_was_replaced_is_no_member() {
    let stale = FoundReplica {
        epoch: Epoch::new(3),
        stable: 60,
        highest: 60,
        ..clean(3)
    };
    let older_generation = FoundReplica {
        generation: Generation::new(6),
        ..clean(3)
    };
    for stale in [stale, older_generation] {
        let outcome = compare(
            &without_shard(),
            &found(vec![clean(1), clean(2), stale, clean(4)]),
        );
        assert_eq!(members_put(&outcome), [1, 2, 4]);
        assert_eq!(codes(&outcome), ["replica-unnamed", "shard-row-lost"]);
    }
}

/// Replica 3 is being brought up: it hears generation and epoch, but its horizon stays.
#[test]
fn a_replica_that_is_being_brought_up_is_no_member() {
    let behind = FoundReplica {
        stable: 40,
        ..clean(3)
    };
    let outcome = compare(&without_shard(), &found(vec![clean(1), clean(2), behind]));
    assert_eq!(members_put(&outcome), [1, 2]);
}

#[test]
fn a_replica_of_which_something_was_lost_is_no_member() {
    let doubtful = FoundReplica {
        doubtful: true,
        ..clean(2)
    };
    let outcome = compare(&without_shard(), &found(vec![clean(1), doubtful, clean(3)]));
    assert_eq!(members_put(&outcome), [1, 3]);
}

/// A write above the horizon of everybody may have been acknowledged by whoever has it.
#[test]
fn after_a_crash_nobody_is_trusted_unless_somebody_vouches_for_those_who_agree() {
    let crashed = |number| FoundReplica {
        highest: 100 + number,
        ..clean(number)
    };
    let mut all = found((1..=3).map(crashed).collect());
    let outcome = compare(&without_shard(), &all);
    assert_eq!(codes(&outcome), ["shard-unclean"]);
    assert!(outcome.puts.is_empty() && outcome.undecided.contains(&V));
    all.accepted.insert(V);
    assert_eq!(members_put(&compare(&without_shard(), &all)), [1, 2, 3]);
    // Of those who differ nobody can vouch.
    all.replicas[2].stable = 90;
    let outcome = compare(&without_shard(), &all);
    assert_eq!(codes(&outcome), ["shard-unclean"]);
}

/// Two wrote on without the others, cleanly for all that the others know.
#[test]
fn a_write_that_a_replica_of_an_older_epoch_has_keeps_the_others_from_being_trusted() {
    let orphan = FoundReplica {
        generation: Generation::new(6),
        highest: 120,
        ..clean(3)
    };
    let outcome = compare(&without_shard(), &found(vec![clean(1), clean(2), orphan]));
    assert_eq!(codes(&outcome), ["shard-unclean"]);
}

/// Of the disks that are known, and of others that may have been added.
#[test]
fn no_set_is_made_while_newer_replicas_may_be_elsewhere() {
    let some = found(vec![clean(1), clean(2)]);
    for (mut found, whole) in [(some, false), (all_clean(), true)] {
        assert_eq!(compare(&without_shard(), &found).puts.len(), 1);
        found.all_disks = false;
        let outcome = compare(&without_shard(), &found);
        assert_eq!(outcome.puts.is_empty(), !whole, "a whole set is the newest");
        assert!(outcome.recovery_after(&begun()).is_some());
        found.all_disks = true;
        found.disks.remove(&DiskId::new(4));
        let outcome = compare(&without_shard(), &found);
        assert_eq!(codes(&outcome), ["disk-unheard", "too-few-replicas"]);
        assert!(outcome.puts.is_empty());
        found.gone.insert(DiskId::new(4));
        let outcome = compare(&without_shard(), &found);
        assert_eq!(codes(&outcome), ["shard-row-lost"]);
        found.unregistered.insert(DiskId::new(9));
        let outcome = compare(&without_shard(), &found);
        assert_eq!(codes(&outcome), ["disk-unregistered", "too-few-replicas"]);
        assert!(outcome.recovery_after(&begun()).is_some());
    }
}

/// A volume of one replica was moved since: its old place has heard nothing of that.
#[test]
fn a_lone_replica_is_trusted_only_if_there_are_no_other_disks() {
    let mut known = without_shard();
    known.volumes.get_mut(&V).unwrap().replicas = 1;
    let mut lone = found(vec![clean(1)]);
    lone.all_disks = false;
    let outcome = compare(&known, &lone);
    assert_eq!(codes(&outcome), ["disks-not-vouched", "too-few-replicas"]);
    lone.all_disks = true;
    assert_eq!(members_put(&compare(&known, &lone)), [1]);
}

/// It may have been made to replace who is gone.
#[test]
fn a_replica_without_a_write_is_trusted_only_if_somebody_vouches() {
    let empty = |number| FoundReplica {
        stable: 0,
        highest: 0,
        ..clean(number)
    };
    let mut some = found(vec![empty(1), empty(2)]);
    let outcome = compare(&without_shard(), &some);
    assert_eq!(codes(&outcome), ["shard-empty"]);
    assert!(outcome.puts.is_empty());
    some.accepted.insert(V);
    assert_eq!(members_put(&compare(&without_shard(), &some)), [1, 2]);
    let all = found((1..=3).map(empty).collect());
    assert_eq!(members_put(&compare(&without_shard(), &all)), [1, 2, 3]);
}

/// Since the backup 1 was replaced by 4, then 3 by 5, and the disks of 4 and 5 are away: 2 alone would know,
/// and it is away as well.
#[test]
fn a_restored_set_stands_only_if_all_of_it_or_all_disks_were_looked_at() {
    let mut some = found(vec![clean(1), clean(3)]);
    some.disks.remove(&DiskId::new(2));
    let outcome = compare(&restored(), &some);
    assert_eq!(codes(&outcome), ["disk-unheard", "set-unwitnessed"]);
    assert!(outcome.recovery_after(&begun()).unwrap().holds_back(V));
    some.gone.insert(DiskId::new(2));
    let outcome = compare(&restored(), &some);
    assert!(!outcome.undecided.contains(&V), "{outcome:?}");
    some.all_disks = false;
    let outcome = compare(&restored(), &some);
    assert!(outcome.undecided.contains(&V));
    // All of the set say that it is the newest.
    let mut all = all_clean();
    all.disks.remove(&DiskId::new(4));
    let outcome = compare(&restored(), &all);
    assert_eq!(codes(&outcome), ["disk-unheard"]);
    assert!(!outcome.recovery_after(&begun()).unwrap().holds_back(V));
}

/// Whoever gives a volume up gets it as its rows are, but no generation and no epoch twice.
#[test]
fn who_may_have_a_volume_that_is_given_up_is_fenced() {
    let newer = FoundReplica {
        generation: Generation::new(7 + GENERATIONS_SKIPPED),
        epoch: Epoch::new(9 + EPOCHS_SKIPPED),
        highest: 900,
        ..clean(2)
    };
    let outcome = compare(&restored(), &found(vec![clean(1), newer]));
    assert!(outcome.undecided.contains(&V) && outcome.puts.is_empty());
    let guards = &outcome.guards[&V];
    let [AnyRow::Shard(shard), AnyRow::Volume(volume)] = guards.as_slice() else {
        panic!("{guards:?}");
    };
    assert!(shard.epoch > Epoch::new(9 + EPOCHS_SKIPPED));
    assert_eq!(shard.replicas, shard_row(&[1, 2, 3]).replicas);
    assert!(volume.generation > Generation::new(7 + GENERATIONS_SKIPPED));
    assert!(volume.unfenced && volume.attached_by.is_none());
    // An owner that the rows know keeps what it has.
    let outcome = compare(&recovering(RecoveryCause::RowsLost, 0), &all_clean());
    assert!(outcome.guards[&V].is_empty());
}

#[test]
fn a_volume_that_was_being_made_at_the_backup_and_was_used_since_is_undecided() {
    let mut known = restored();
    known.volumes.get_mut(&V).unwrap().state = VolumeState::Creating;
    let outcome = compare(&known, &all_clean());
    assert_eq!(codes(&outcome), ["volume-unfinished"]);
    let unused = |number| FoundReplica {
        generation: Generation::new(0),
        ..clean(number)
    };
    let outcome = compare(&known, &found((1..=3).map(unused).collect()));
    assert_eq!(codes(&outcome), [""; 0]);
}

#[test]
fn nothing_is_decided_while_the_owner_writes() {
    let mut owned = all_clean();
    owned.owned.insert(V);
    let outcome = compare(&without_shard(), &owned);
    assert_eq!(codes(&outcome), ["volume-owned"]);
    assert!(outcome.puts.is_empty());
}

/// A backup of before the set changed, twice: 3 was replaced by 4.
#[test]
fn a_row_of_before_a_change_of_the_set_is_made_anew() {
    let known = restored();
    let newer = |number| FoundReplica {
        epoch: Epoch::new(7),
        ..clean(number)
    };
    let outcome = compare(&known, &found(vec![newer(1), newer(2), clean(3), newer(4)]));
    assert_eq!(codes(&outcome), ["replica-unnamed", "shard-behind"]);
    assert_eq!(members_put(&outcome), [1, 2, 4]);
    assert!(shard_put(&outcome).unwrap().epoch > Epoch::new(EPOCHS_SKIPPED + 5));
}

/// The set in the row is the newest that any disk has seen: the next owner makes its members equal, as
/// after any crash.
#[test]
fn a_row_that_no_disk_contradicts_stands_even_after_a_crash() {
    let known = restored();
    let crashed = |number| FoundReplica {
        highest: 100 + number,
        ..clean(number)
    };
    let outcome = compare(&known, &found((1..=3).map(crashed).collect()));
    assert_eq!(codes(&outcome), [""; 0]);
    let row = known.recovery.unwrap();
    assert_eq!(outcome.recovery_after(&row), None);
}

/// Once it was compared an attached volume goes on: its disks see epochs that the restore skipped.
#[test]
fn a_volume_that_was_decided_is_not_taken_for_one_of_before_the_backup() {
    let mut known = restored();
    known.recovery.as_mut().unwrap().compared = true;
    let newer = |number| FoundReplica {
        epoch: Epoch::new(5 + EPOCHS_SKIPPED),
        highest: 500,
        ..clean(number)
    };
    let outcome = compare(&known, &found((1..=3).map(newer).collect()));
    assert_eq!(codes(&outcome), [""; 0]);
}

#[test]
fn what_is_missing_on_a_disk_that_was_looked_at_heals_and_what_is_elsewhere_is_found() {
    let moved = FoundReplica {
        disk: DiskId::new(4),
        ..clean(3)
    };
    let outcome = compare(&known(), &found(vec![clean(1), moved]));
    assert_eq!(codes(&outcome), ["replica-elsewhere", "replica-not-held"]);
    let row = shard_put(&outcome).unwrap();
    let place = row.replicas[2].clone();
    assert_eq!((place.disk, place.node), (DiskId::new(4), NodeId::new(4)));
    assert_eq!(row.replicas.len(), 3);
}

#[test]
fn a_set_of_which_nobody_is_left_is_not_made_up() {
    let outcome = compare(&known(), &found(Vec::new()));
    assert!(codes(&outcome).contains(&"no-member-held"));
    let mut lost = without_shard();
    let outcome = compare(&lost, &found(Vec::new()));
    assert_eq!(codes(&outcome), ["shard-lost"]);
    lost.recovery = None;
    assert!(compare(&lost, &found(Vec::new())).puts.is_empty());
}

#[test]
fn a_recovery_is_over_once_all_disks_were_heard_and_nothing_is_undecided() {
    let begun = begun();
    let over = compare(&without_shard(), &all_clean());
    assert_eq!(over.recovery_after(&begun), None);
    let mut some = all_clean();
    some.all_disks = false;
    let goes_on = compare(&without_shard(), &some).recovery_after(&begun);
    let goes_on = goes_on.expect("there may be other disks");
    assert!(goes_on.compared && !goes_on.holds_back(V));
    let undecided = compare(&without_shard(), &found(Vec::new())).recovery_after(&begun);
    assert!(undecided.unwrap().holds_back(V));
}

fn begun() -> RecoveryRow {
    RecoveryRow::begun(RecoveryCause::RowsLost, 0)
}

#[test]
fn each_code_is_told_apart_and_says_what_to_do() {
    let outcome = compare(&without_shard(), &found(Vec::new()));
    let finding = &outcome.findings[0];
    assert_eq!(finding.kind, FindingKind::Undecided);
    assert_eq!((finding.volume, finding.shard), (Some(V), Some(FIRST)));
    assert!(finding.detail.contains("start the stores"), "{finding:?}");
}
