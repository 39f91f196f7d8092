//! Whose appearance a changed row may change, for those who watch.

use ashlar_proto::{DiskId, NodeId, VolumeId};

use super::ClusterState;
use crate::meta::Key;

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
