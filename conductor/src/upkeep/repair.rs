//! Rows put right where it is certain how they must be.
//!
//! Pure. Invariants: nothing is invented; what is derived from other rows is derived anew, and a replica is
//! said to be where it was found, if it was found in one place. No replica comes in sync, and none leaves a
//! set: who holds every write is known to owners alone, so what a disk does not hold any more is left to
//! the cluster, which replaces it as it does a disk that was lost. A row that cannot be read is removed, and
//! a recovery begins: the conductor makes it anew from what stores hold, where that suffices.

use std::collections::BTreeMap;

use ashlar_proto::DiskId;

use super::Rows;
use super::check::references::used;
use super::check::{Decoded, Finding, Flaw, check, decode};
use super::held::{Held, HeldReplica};
use crate::meta::{Change, Key};
use crate::row::{
    AnyRow, NameRow, RecoveryCause, RecoveryRow, RowError, ShardRow, cluster_key, disk_key,
    name_key, recovery_key, shard_key, volume_key,
};

/// What is to be done.
#[derive(Debug, Default)]
pub struct Repair {
    /// The changes.
    pub changes: Vec<Change>,
    /// What is wrong now, and will be no more.
    pub mended: Vec<Finding>,
    /// What stays wrong.
    pub left: Vec<Finding>,
}

/// What is wrong with the rows, and with what disks hold of them.
#[must_use]
pub fn check_held(rows: &Rows, held: &Held) -> Vec<Finding> {
    let (decoded, _) = decode(rows);
    let mut findings = check(rows);
    let mut named = BTreeMap::new();
    for row in decoded.values() {
        let AnyRow::Shard(row) = row else { continue };
        for replica in &row.replicas {
            named.insert(of(row, replica.id), replica.disk);
            findings.extend(misheld(row, replica.id, replica.disk, held));
        }
    }
    for (disk, replica) in held.all() {
        if !named.contains_key(&replica) {
            let HeldReplica {
                volume,
                shard,
                replica,
            } = replica;
            let key = shard_key(volume, shard);
            let flaw = Flaw::HeldUnnamed {
                disk,
                replica,
                volume,
                shard,
            };
            findings.push(Finding { key, flaw });
        }
    }
    findings.sort_by(|a, b| a.key.cmp(&b.key));
    findings
}

fn of(row: &ShardRow, replica: ashlar_proto::ReplicaId) -> HeldReplica {
    HeldReplica {
        volume: row.volume,
        shard: row.index,
        replica,
    }
}

fn misheld(
    row: &ShardRow,
    replica: ashlar_proto::ReplicaId,
    said: DiskId,
    held: &Held,
) -> Option<Finding> {
    let key = shard_key(row.volume, row.index);
    let found = held.disks_of(of(row, replica));
    if found.contains(&said) {
        return None;
    }
    let flaw = match found.first() {
        Some(&found) => Flaw::HeldElsewhere {
            replica,
            said,
            found,
        },
        // One that is fresh may not have been made yet.
        None if held.knows(said) && !is_fresh(row, replica) => Flaw::NotHeld {
            replica,
            disk: said,
        },
        None => return None,
    };
    Some(Finding { key, flaw })
}

fn is_fresh(row: &ShardRow, replica: ashlar_proto::ReplicaId) -> bool {
    let is_it = |it: &&ashlar_proto::api::Replica| it.id == replica;
    row.replicas.iter().find(is_it).is_some_and(|it| it.fresh)
}

/// Plans what can be put right.
#[must_use]
pub fn plan(rows: &Rows, held: &Held) -> Repair {
    let (mut decoded, flaws) = decode(rows);
    let before = decoded.clone();
    let unreadable = unreadable(flaws);
    if !unreadable.is_empty() {
        let begun = RecoveryRow::begun(RecoveryCause::RowsLost, 0);
        let row = decoded.entry(recovery_key());
        row.or_insert(AnyRow::Recovery(begun));
    }
    names(&mut decoded);
    locations(&mut decoded, held);
    counters(&mut decoded);
    let mut changes = Vec::new();
    let mut after = rows.clone();
    for (key, row) in &decoded {
        if before.get(key) != Some(row) {
            let change = row.put();
            if let Change::Put { key, value } = &change {
                after.insert(key.clone(), value.clone());
            }
            changes.push(change);
        }
    }
    for key in before.keys().filter(|key| !decoded.contains_key(*key)) {
        after.remove(key);
        changes.push(Change::Delete { key: key.clone() });
    }
    for key in unreadable {
        after.remove(&key);
        changes.push(Change::Delete { key });
    }
    let left = check_held(&after, held);
    let stays = |one: &Finding| {
        left.iter()
            .any(|other| one.to_string() == other.to_string())
    };
    let mended = check_held(rows, held).into_iter().filter(|one| !stays(one));
    Repair {
        changes,
        mended: mended.collect(),
        left,
    }
}

/// Rows of volumes, names and shards that are garbled: no conductor starts on them, and without them it
/// has stores say what they hold. A row of a newer version is none of these.
fn unreadable(flaws: Vec<Finding>) -> Vec<Key> {
    let garbled = flaws.into_iter().filter(|finding| {
        matches!(
            finding.flaw,
            Flaw::Unreadable(RowError::Malformed { .. }) | Flaw::Misplaced { .. }
        )
    });
    let keys = garbled.map(|finding| finding.key);
    keys.filter(|key| {
        let kind = key.as_str().split('/').next().unwrap_or_default();
        matches!(kind, "volume" | "name" | "shard")
    })
    .collect()
}

/// Names lead to volumes that have them.
fn names(rows: &mut Decoded) {
    let is_lost = |key: &Key, row: &AnyRow, rows: &Decoded| match row {
        AnyRow::Name(name) => {
            let volume = rows.get(&volume_key(name.volume));
            !matches!(volume, Some(AnyRow::Volume(row)) if name_key(&row.name) == *key)
        }
        _ => false,
    };
    let lost = rows.iter().filter(|(key, row)| is_lost(key, row, rows));
    let lost: Vec<Key> = lost.map(|(key, _)| key.clone()).collect();
    for key in lost {
        rows.remove(&key);
    }
    let volumes = rows.values().filter_map(|row| match row {
        AnyRow::Volume(row) => Some((row.name.clone(), row.id)),
        _ => None,
    });
    for (name, volume) in volumes.collect::<Vec<_>>() {
        let key = name_key(&name);
        // Of two volumes with one name the first has it.
        rows.entry(key)
            .or_insert(AnyRow::Name(NameRow { name, volume }));
    }
}

/// Replicas are where they were found, and on the nodes of their disks.
fn locations(rows: &mut Decoded, held: &Held) {
    let nodes: BTreeMap<DiskId, _> = rows
        .iter()
        .filter_map(|(key, row)| match row {
            AnyRow::Disk(row) if *key == disk_key(row.report.id) => Some((row.report.id, row.node)),
            _ => None,
        })
        .collect();
    for row in rows.values_mut() {
        let AnyRow::Shard(shard) = row else { continue };
        let taken: Vec<DiskId> = shard.replicas.iter().map(|it| it.disk).collect();
        let (volume, index) = (shard.volume, shard.index);
        for it in &mut shard.replicas {
            let wanted = HeldReplica {
                volume,
                shard: index,
                replica: it.id,
            };
            if let [found] = held.disks_of(wanted)[..]
                && nodes.contains_key(&found)
                && !taken.contains(&found)
            {
                it.disk = found;
            }
            if let Some(node) = nodes.get(&it.disk) {
                it.node = *node;
            }
        }
    }
}

/// No id is given out twice.
fn counters(rows: &mut Decoded) {
    let used = used(rows);
    if let Some(AnyRow::Cluster(row)) = rows.get_mut(&cluster_key()) {
        let beyond = |next: &mut u64, used: Option<u64>| {
            if let Some(used) = used {
                *next = (*next).max(used.saturating_add(1));
            }
        };
        beyond(&mut row.next_volume, used.volume);
        beyond(&mut row.next_replica, used.replica);
        beyond(&mut row.next_node, used.node);
        beyond(&mut row.next_group, used.group);
    }
}
