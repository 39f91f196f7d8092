//! Whose appearance a changed row may change, for those who watch.

use ashlar_proto::{DiskId, IscsiName, Layer, NodeId, PortalGroup, VolumeId};

use super::ClusterState;
use crate::meta::{Event, Key};
use crate::row::{AnyRow, RowError, VolumeRow};

/// What a changed row means to those who watch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Volume(VolumeId),
    Node(NodeId),
    Disk(DiskId),
    Snapshot(VolumeId, Layer),
    Target(IscsiName),
    Server(PortalGroup),
    Denied(String),
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
            "snapshot" => subjects_of_snapshot(rest).into_iter().flatten().collect(),
            "node" => u64::from_str_radix(rest, 16)
                .map(|raw| self.subjects_of_node(NodeId::new(raw)))
                .unwrap_or_default(),
            "disk" => rest
                .parse()
                .map(|disk| self.subjects_of_disk(disk))
                .unwrap_or_default(),
            "target" => rest.parse().map(Subject::Target).into_iter().collect(),
            "iscsi-server" => {
                let group = u16::from_str_radix(rest, 16).ok();
                let group = group.and_then(PortalGroup::new);
                group.map(Subject::Server).into_iter().collect()
            }
            "denied" => vec![Subject::Denied(rest.to_owned())],
            _ => Vec::new(),
        }
    }

    /// The snapshots whose appearance follows from a row that is not theirs: their layer was settled,
    /// their group confirmed, or a clone of them was made or is gone.
    pub(crate) fn snapshots_touched(&self, event: &Event) -> Result<Vec<Subject>, RowError> {
        let row = |value: &Option<Vec<u8>>| {
            let value = value.as_deref();
            value
                .map(|value| AnyRow::decode(&event.key, value))
                .transpose()
        };
        if event.key.as_str().starts_with("volume/") {
            let (before, after) = (row(&event.before)?, row(&event.value)?);
            return Ok(self.touched_by_volume(before.as_ref(), after.as_ref()));
        }
        if !event.key.as_str().starts_with("group/") {
            return Ok(Vec::new());
        }
        let Some(AnyRow::Group(group)) = row(&event.before)? else {
            return Ok(Vec::new());
        };
        let sealed = group.members.iter().filter_map(|member| {
            let layer = member.sealed?;
            Some(Subject::Snapshot(member.volume, layer))
        });
        Ok(sealed.collect())
    }

    fn touched_by_volume(&self, before: Option<&AnyRow>, after: Option<&AnyRow>) -> Vec<Subject> {
        let volume = |row: Option<&AnyRow>| match row {
            Some(AnyRow::Volume(row)) => Some(row.clone()),
            _ => None,
        };
        let (before, after) = (volume(before), volume(after));
        let origin = |row: &Option<VolumeRow>| row.as_ref().and_then(|row| row.origin);
        let mut touched = Vec::new();
        if origin(&before) != origin(&after) {
            let origins = [origin(&before), origin(&after)].into_iter().flatten();
            touched.extend(origins.map(|of| Subject::Snapshot(of.volume, of.layer)));
        }
        let settled = |row: &Option<VolumeRow>| row.as_ref().map(|row| row.settled_layer);
        if let (Some(from), Some(to), Some(row)) = (settled(&before), settled(&after), &after) {
            let newly = self.snapshots.above(row.id, from);
            let newly = newly.take_while(|snapshot| snapshot.layer <= to);
            touched.extend(newly.map(|one| Subject::Snapshot(one.volume, one.layer)));
        }
        touched
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

/// A snapshot, and the volume that counts it.
fn subjects_of_snapshot(rest: &str) -> Option<[Subject; 2]> {
    let (volume, layer) = rest.split_once('/')?;
    let volume = volume.parse().ok()?;
    let layer = Layer::new(u32::from_str_radix(layer, 16).ok()?);
    Some([Subject::Snapshot(volume, layer), Subject::Volume(volume)])
}
