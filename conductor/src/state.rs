//! The cluster's state, made from rows: volumes, nodes, disks, shards and who holds what.
//!
//! Pure: rows are applied to it, plans are made from it, and a plan takes effect only by being
//! committed as rows and applied like any others.
//!
//! ```text
//! request ──▶ plan (pure) ──▶ MetaStore::commit ──▶ apply (pure) ──▶ answers, watches
//!                 ▲   checked by the revisions of the rows it read       │
//!                 └──────────────────────────────────────────────────────┘
//! ```

mod nodes;
mod view;
mod volumes;

use std::collections::BTreeMap;

use ashlar_proto::api::{Assignment, Revision, VolumeState};
use ashlar_proto::limits::BLOCK_BYTES_U64;
use ashlar_proto::{ByteCount, ClusterId, DiskId, NodeId, ReplicaId, ShardIndex, VolumeId};

use crate::meta::{Change, Expect, Key, Transaction};
use crate::row::{AnyRow, ClusterRow, DiskRow, NodeRow, RowError, ShardRow, VolumeRow};

/// Changes to commit, the rows that the decision rests on, and what to answer once they are.
#[derive(Debug)]
pub(crate) struct Plan<T> {
    /// Rows that must not have changed meanwhile, beside those that are changed.
    pub(crate) reads: Vec<Key>,
    /// The changes; none where things already are as asked.
    pub(crate) changes: Vec<Change>,
    /// The answer.
    pub(crate) answer: T,
}

impl<T> Plan<T> {
    /// Nothing to change.
    pub(crate) fn nothing(answer: T) -> Self {
        Self {
            reads: Vec::new(),
            changes: Vec::new(),
            answer,
        }
    }
}

/// The state at one revision.
#[derive(Clone, Debug)]
pub(crate) struct ClusterState {
    revision: Revision,
    /// The revision that last changed each row.
    modified: BTreeMap<Key, Revision>,
    cluster: ClusterRow,
    volumes: BTreeMap<VolumeId, VolumeRow>,
    names: BTreeMap<String, VolumeId>,
    shards: BTreeMap<(VolumeId, ShardIndex), ShardRow>,
    nodes: BTreeMap<NodeId, NodeRow>,
    disks: BTreeMap<DiskId, DiskRow>,
    /// What lies on each disk.
    holds: BTreeMap<DiskId, BTreeMap<(VolumeId, ShardIndex), ReplicaId>>,
    /// The revision at which each node's assignments last changed.
    assigned: BTreeMap<NodeId, Revision>,
}

impl ClusterState {
    /// The state before any row, of a cluster that has yet to be made.
    pub(crate) fn empty() -> Self {
        let id = ClusterId::default();
        Self {
            revision: Revision(0),
            modified: BTreeMap::new(),
            cluster: ClusterRow {
                id,
                next_volume: 0,
                next_replica: 0,
                next_node: 0,
            },
            volumes: BTreeMap::new(),
            names: BTreeMap::new(),
            shards: BTreeMap::new(),
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            holds: BTreeMap::new(),
            assigned: BTreeMap::new(),
        }
    }

    /// The change that makes a new cluster.
    pub(crate) fn found(id: ClusterId) -> Plan<()> {
        let row = ClusterRow {
            id,
            next_volume: 1,
            next_replica: 1,
            next_node: 1,
        };
        Plan {
            reads: Vec::new(),
            changes: vec![AnyRow::Cluster(row).put()],
            answer: (),
        }
    }

    /// The revision that it stands for.
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// The cluster's id; 0 before it was made.
    pub(crate) fn cluster(&self) -> ClusterId {
        self.cluster.id
    }

    /// Whether no row was ever applied.
    pub(crate) fn is_empty(&self) -> bool {
        self.modified.is_empty()
    }

    /// Notes that the state is complete up to `revision`.
    pub(crate) fn reached(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }

    /// After a start nobody can tell which assignments a node has seen: all count as new.
    pub(crate) fn renew_assignments(&mut self) {
        let revision = self.revision;
        self.assigned = self.nodes.keys().map(|node| (*node, revision)).collect();
    }

    /// The transaction that carries out a plan if the rows that it rests on are unchanged.
    pub(crate) fn transaction(&self, reads: &[Key], changes: Vec<Change>) -> Transaction {
        let keys = reads.iter().chain(changes.iter().map(Change::key));
        let expect = keys.map(|key| Expect {
            key: key.clone(),
            modified: self.modified.get(key).copied(),
        });
        Transaction {
            expect: expect.collect(),
            changes,
        }
    }

    /// Applies a row as it stands from `revision` on, or its removal.
    pub(crate) fn apply(
        &mut self,
        revision: Revision,
        key: &Key,
        value: Option<&[u8]>,
    ) -> Result<(), RowError> {
        match value {
            Some(value) => {
                let row = AnyRow::decode(key, value)?;
                self.modified.insert(key.clone(), revision);
                self.put(revision, row);
            }
            None => {
                self.modified.remove(key);
                self.remove(revision, key)?;
            }
        }
        self.reached(revision);
        Ok(())
    }

    fn put(&mut self, revision: Revision, row: AnyRow) {
        match row {
            AnyRow::Cluster(row) => self.cluster = row,
            AnyRow::Name(row) => {
                self.names.insert(row.name, row.volume);
            }
            AnyRow::Volume(row) => {
                let id = row.id;
                let leaving = row.state == VolumeState::Deleting;
                self.volumes.insert(id, row);
                if leaving {
                    self.touch_volume(id, revision);
                }
            }
            AnyRow::Shard(row) => {
                let at = (row.volume, row.index);
                let disks = |row: &ShardRow| row.replicas.iter().map(|r| (r.id, r.disk)).collect();
                let after: Vec<_> = disks(&row);
                let before: Vec<_> = self.shards.insert(at, row).as_ref().map_or(vec![], disks);
                if before != after {
                    self.replace_holds(at, &before, &after, revision);
                }
            }
            AnyRow::Node(row) => {
                self.assigned.entry(row.id).or_insert(revision);
                self.nodes.insert(row.id, row);
            }
            AnyRow::Disk(row) => {
                let (disk, node) = (row.report.id, row.node);
                let before = self.disks.insert(disk, row);
                if before.is_none_or(|before| before.node != node) {
                    self.assigned.insert(node, revision);
                }
            }
        }
    }

    fn remove(&mut self, revision: Revision, key: &Key) -> Result<(), RowError> {
        let unknown = || RowError::Unknown { key: key.clone() };
        let (kind, rest) = key.as_str().split_once('/').ok_or_else(unknown)?;
        match kind {
            "name" => {
                self.names.remove(rest);
            }
            "volume" => {
                self.volumes.remove(&rest.parse().map_err(|_| unknown())?);
            }
            "shard" => {
                let (volume, index) = rest.split_once('/').ok_or_else(unknown)?;
                let volume = volume.parse().map_err(|_| unknown())?;
                let index = u32::from_str_radix(index, 16).map_err(|_| unknown())?;
                let at = (volume, ShardIndex::new(index));
                if let Some(row) = self.shards.remove(&at) {
                    let before: Vec<_> = row.replicas.iter().map(|r| (r.id, r.disk)).collect();
                    self.replace_holds(at, &before, &[], revision);
                }
            }
            _ => return Err(unknown()),
        }
        Ok(())
    }

    fn replace_holds(
        &mut self,
        at: (VolumeId, ShardIndex),
        before: &[(ReplicaId, DiskId)],
        after: &[(ReplicaId, DiskId)],
        revision: Revision,
    ) {
        for (_, disk) in before {
            if let Some(held) = self.holds.get_mut(disk) {
                held.remove(&at);
            }
        }
        for (replica, disk) in after {
            self.holds.entry(*disk).or_default().insert(at, *replica);
        }
        for (_, disk) in before.iter().chain(after) {
            self.touch_disk(*disk, revision);
        }
    }

    fn touch_disk(&mut self, disk: DiskId, revision: Revision) {
        if let Some(row) = self.disks.get(&disk) {
            self.assigned.insert(row.node, revision);
        }
    }

    fn touch_volume(&mut self, volume: VolumeId, revision: Revision) {
        for disk in self.disks_of(volume) {
            self.touch_disk(disk, revision);
        }
    }

    /// The shards of a volume, in order.
    fn shards_of(&self, volume: VolumeId) -> impl Iterator<Item = &ShardRow> {
        let first = (volume, ShardIndex::new(0));
        let last = (volume, ShardIndex::new(u32::MAX));
        self.shards.range(first..=last).map(|(_, row)| row)
    }

    fn disks_of(&self, volume: VolumeId) -> std::collections::BTreeSet<DiskId> {
        self.shards_of(volume)
            .flat_map(|s| s.replicas.iter().map(|r| r.disk))
            .collect()
    }

    /// The nodes that hold replicas of a volume.
    fn nodes_of(&self, volume: VolumeId) -> impl Iterator<Item = &NodeRow> {
        let disks = self.disks_of(volume);
        let nodes: std::collections::BTreeSet<NodeId> = disks
            .iter()
            .filter_map(|disk| self.disks.get(disk))
            .map(|row| row.node)
            .collect();
        nodes.into_iter().filter_map(|node| self.nodes.get(&node))
    }

    /// The revision of a node's assignments, if there is such a node.
    pub(crate) fn assigned(&self, node: NodeId) -> Option<Revision> {
        self.nodes.get(&node)?;
        Some(self.assigned.get(&node).copied().unwrap_or(self.revision))
    }

    /// Every replica that a node must hold.
    pub(crate) fn assignments(&self, node: NodeId) -> Vec<Assignment> {
        let mut list = Vec::new();
        for (disk, _) in self.disks.iter().filter(|(_, row)| row.node == node) {
            for ((volume, shard), replica) in self.holds.get(disk).into_iter().flatten() {
                let Some(row) = self.volumes.get(volume) else {
                    continue;
                };
                if row.state != VolumeState::Deleting {
                    let blocks = blocks(row, *shard);
                    let (volume, shard, replica, disk) = (*volume, *shard, *replica, *disk);
                    let may_create = row.state == VolumeState::Creating;
                    list.push(Assignment {
                        volume,
                        shard,
                        replica,
                        disk,
                        blocks,
                        may_create,
                    });
                }
            }
        }
        list
    }

    /// Bytes of all replicas on a disk, written or not.
    fn promised(&self, disk: DiskId) -> ByteCount {
        let held = self.holds.get(&disk).into_iter().flatten();
        let bytes = held.map(|((volume, shard), _)| {
            self.volumes
                .get(volume)
                .map_or(0, |row| shard_bytes(row, *shard))
        });
        ByteCount::new(bytes.fold(0, u64::saturating_add))
    }

    fn modified(&self, key: &Key) -> Revision {
        self.modified.get(key).copied().unwrap_or_default()
    }

    fn volume_named(&self, name: &str) -> Option<&VolumeRow> {
        self.volumes.get(self.names.get(name)?)
    }
}

/// Bytes of one shard of a volume.
fn shard_bytes(volume: &VolumeRow, shard: ShardIndex) -> u64 {
    let start = u64::from(shard.get()).saturating_mul(volume.shard_bytes.get());
    volume
        .size_bytes
        .get()
        .saturating_sub(start)
        .min(volume.shard_bytes.get())
}

fn blocks(volume: &VolumeRow, shard: ShardIndex) -> u32 {
    u32::try_from(shard_bytes(volume, shard).div_ceil(BLOCK_BYTES_U64)).unwrap_or(u32::MAX)
}

/// What a changed row means to those who watch volumes, nodes or disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Volume(VolumeId),
    Node(NodeId),
    Disk(DiskId),
}

impl ClusterState {
    /// Whose appearance a change of that row may change.
    pub(crate) fn subjects(&self, key: &Key) -> Vec<Subject> {
        let Some((kind, rest)) = key.as_str().split_once('/') else {
            return Vec::new();
        };
        match kind {
            "volume" => rest.parse().map(Subject::Volume).into_iter().collect(),
            "shard" => {
                let volume = rest.split('/').next().unwrap_or_default();
                volume.parse().map(Subject::Volume).into_iter().collect()
            }
            "node" => u64::from_str_radix(rest, 16)
                .map(|raw| self.subjects_of_node(NodeId::new(raw)))
                .unwrap_or_default(),
            "disk" => rest
                .parse()
                .map(|disk| self.subjects_of_disk(disk))
                .unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    fn subjects_of_node(&self, node: NodeId) -> Vec<Subject> {
        let disks = self.disks.iter().filter(|(_, row)| row.node == node);
        let held = disks.flat_map(|(disk, _)| self.subjects_of_disk(*disk));
        std::iter::once(Subject::Node(node)).chain(held).collect()
    }

    fn subjects_of_disk(&self, disk: DiskId) -> Vec<Subject> {
        let node = self.disks.get(&disk).map(|row| Subject::Node(row.node));
        let held = self.holds.get(&disk).into_iter().flatten();
        let volumes = held.map(|((volume, _), _)| Subject::Volume(*volume));
        node.into_iter()
            .chain([Subject::Disk(disk)])
            .chain(volumes)
            .collect()
    }
}

#[cfg(test)]
mod tests;
