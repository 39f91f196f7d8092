//! What a recovery keeps from happening: while the metadata may be behind what stores hold, stores are told
//! nothing, so that they remove nothing, and a volume is given to no owner before it was decided who holds
//! its writes.

use std::collections::BTreeSet;

use ashlar_proto::api::VolumeState;
use ashlar_proto::{DiskId, NodeId, VolumeId};

use super::resize::shard_count;
use super::{ClusterState, Plan};
use crate::recovery::Known;
use crate::refusal::VolumeRefusal;
use crate::row::{AnyRow, RecoveryCause, RecoveryRow, VolumeRow};

impl ClusterState {
    /// Whether the metadata are to be compared with what stores hold.
    pub(crate) fn is_recovering(&self) -> bool {
        self.recovery.is_some()
    }

    /// Whether a volume is given to nobody until then.
    pub(super) fn is_held_back(&self, volume: VolumeId) -> bool {
        let recovery = self.recovery.as_ref();
        recovery.is_some_and(|recovery| recovery.holds_back(volume))
    }

    /// Refuses what rests on rows of a volume that may be behind.
    pub(crate) fn refuse_held_back(&self, name: &str) -> Result<(), VolumeRefusal> {
        let volume = self.volume_named(name);
        match volume.filter(|row| self.is_held_back(row.id)) {
            Some(_) => Err(VolumeRefusal::Recovering {
                name: name.to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// Refuses what waits for stores, as these are told nothing.
    pub(super) fn refuse_recovering(&self, name: &str) -> Result<(), VolumeRefusal> {
        if !self.is_recovering() {
            return Ok(());
        }
        let name = name.to_owned();
        Err(VolumeRefusal::Recovering { name })
    }

    /// Begins a recovery where rows are missing that a conductor only ever writes together.
    pub(crate) fn plan_recovery(&self) -> Plan<()> {
        if self.is_recovering() || !self.lacks_rows() {
            return Plan::nothing(());
        }
        let row = RecoveryRow::begun(RecoveryCause::RowsLost, 0);
        Plan {
            reads: Vec::new(),
            changes: vec![AnyRow::Recovery(row).put()],
            answer: (),
        }
    }

    /// Whether a volume lacks shards, or shards or a name their volume.
    fn lacks_rows(&self) -> bool {
        let has_shards = |row: &VolumeRow| {
            if row.state != VolumeState::Ready || row.shard_bytes.get() == 0 {
                return true;
            }
            let served = shard_count(row, row.size_bytes);
            let next = self.shards_of(row.id).zip(0..).take(served as usize);
            next.filter(|(shard, index)| shard.index.get() == *index)
                .count()
                == served as usize
        };
        let is_known = |volume: &VolumeId| self.volumes.contains_key(volume);
        !self.volumes.values().all(has_shards)
            || !self.shards.keys().all(|(volume, _)| is_known(volume))
            || !self.names.values().all(is_known)
    }

    /// All nodes.
    pub(crate) fn node_ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// The disks of a node, if there is such a node.
    pub(crate) fn disks_on(&self, node: NodeId) -> Option<BTreeSet<DiskId>> {
        self.nodes.get(&node)?;
        let disks = self.disks.iter().filter(|(_, row)| row.node == node);
        Some(disks.map(|(disk, _)| *disk).collect())
    }

    /// What the metadata say, to be compared with what stores hold.
    pub(crate) fn to_compare(&self) -> Known {
        Known {
            cluster: self.cluster.clone(),
            volumes: self.volumes.clone(),
            names: self.names.clone(),
            shards: self.shards.clone(),
            snapshots: self.snapshots.all().cloned().collect(),
            disks: self
                .disks
                .iter()
                .map(|(disk, row)| (*disk, row.node))
                .collect(),
            recovery: self.recovery.clone(),
        }
    }
}
