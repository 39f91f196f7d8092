//! What is no more, as its row last said, for those who watch.

use ashlar_proto::ByteCount;
use ashlar_proto::api::{
    Disk, DiskLevel, Evacuation, Node, NodeState, Snapshot, SnapshotState, Volume,
};

use super::ClusterState;
use crate::row::{DiskRow, NodeRow, SnapshotRow, VolumeRow};

impl ClusterState {
    /// A volume that is no more, as its row last said.
    pub(crate) fn show_removed(&self, row: &VolumeRow) -> Volume {
        self.show_volume(row, false)
    }

    /// A snapshot that is no more; the name of its volume is as it was, where that is no more, too. It is empty
    /// where an older build made the snapshot: only who sees all projects hears of that one.
    pub(crate) fn removed_snapshot(&self, row: SnapshotRow) -> Snapshot {
        let volume = self.volumes.get(&row.volume);
        Snapshot {
            volume: row.volume,
            volume_name: volume.map_or(row.volume_name, |volume| volume.name.clone()),
            name: row.name,
            layer: row.layer,
            size_bytes: row.size_bytes,
            created_ms: row.created_ms,
            state: SnapshotState::Ready,
            origin: self.show_origin(row.origin),
            clones: 0,
            deleted: row.deleted,
            group: row.group,
        }
    }

    /// A disk that is no more; the name of its node is empty where that is no more, too.
    pub(crate) fn removed_disk(&self, row: DiskRow) -> Disk {
        let node = self.nodes.get(&row.node);
        Disk {
            node: row.node,
            node_name: node.map(|node| node.name.clone()).unwrap_or_default(),
            state: NodeState::Down,
            schedulable: row.schedulable,
            evacuation: Evacuation::None,
            report: row.report,
            replicas: 0,
            provisioned_bytes: ByteCount::default(),
            level: DiskLevel::default(),
            labels: row.labels,
        }
    }
}

/// A node that is no more.
pub(crate) fn removed_node(row: NodeRow) -> Node {
    Node {
        id: row.id,
        name: row.name,
        address: row.address,
        labels: row.labels,
        state: NodeState::Down,
        schedulable: row.schedulable,
        heartbeat_age_ms: None,
        reached_by: 0,
        missed_by: 0,
        disks: Vec::new(),
        replicas: 0,
    }
}
