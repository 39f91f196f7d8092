//! What a node is told: every replica that it must hold, every volume that it must repair.

use ashlar_proto::NodeId;
use ashlar_proto::api::{Assignment, RepairTask, Revision, VolumeState};

use super::resize::is_served;
use super::space::reserve_blocks;
use super::{ClusterState, blocks};

impl ClusterState {
    /// The revision of a node's assignments, if there is such a node.
    pub(crate) fn assigned(&self, node: NodeId) -> Option<Revision> {
        self.nodes.get(&node)?;
        Some(self.assigned.get(&node).copied().unwrap_or(self.revision))
    }

    /// Every replica that a node must hold.
    pub(crate) fn assignments(&self, node: NodeId) -> Vec<Assignment> {
        let mut list = Vec::new();
        for (disk, _) in self.disks.iter().filter(|(_, row)| row.node == node) {
            for (&(volume, shard), held) in self.holds.get(disk).into_iter().flatten() {
                let Some(row) = self.volumes.get(&volume) else {
                    continue;
                };
                if row.state != VolumeState::Deleting {
                    list.push(Assignment {
                        volume,
                        shard,
                        replica: held.replica,
                        disk: *disk,
                        blocks: blocks(row, shard),
                        reserve_blocks: reserve_blocks(row, shard),
                        may_create: row.state == VolumeState::Creating
                            || !is_served(row, shard)
                            || self.unmade.contains_key(&held.replica),
                    });
                }
            }
        }
        list
    }

    /// Every volume that a node attaches as its repair owner.
    pub(crate) fn repairs(&self, node: NodeId) -> Vec<RepairTask> {
        let given = self.volumes_to_do();
        let given = given.filter(|row| row.repairer == Some(node));
        let ready = given.filter(|row| row.state == VolumeState::Ready);
        let task = |row: &crate::row::VolumeRow| RepairTask {
            volume: row.id,
            name: row.name.clone(),
            fence: row.unfenced,
        };
        ready.map(task).collect()
    }
}
