//! A volume's map as its owner follows it.

use ashlar_proto::VolumeId;
use ashlar_proto::api::{DiskLocation, Revision, VolumeMap};

use super::ClusterState;

impl ClusterState {
    /// The map of the volume of that name, as it stands.
    pub(crate) fn map(&self, name: &str) -> Option<VolumeMap> {
        let row = self.volume_named(name)?;
        Some(VolumeMap {
            volume: self.show_volume(row, true),
            disks: self.locations(row.id),
            revision: self.revision,
        })
    }

    /// The revision that last changed the map of the volume of that name, or a later one.
    pub(crate) fn map_changed(&self, name: &str) -> Option<Revision> {
        let row = self.volume_named(name)?;
        Some(self.mapped.get(&row.id).copied().unwrap_or(self.revision))
    }

    /// Where the disks of a volume are.
    pub(super) fn locations(&self, volume: VolumeId) -> Vec<DiskLocation> {
        let location = |disk| {
            let row = self.disks.get(&disk)?;
            let node = self.nodes.get(&row.node)?;
            let (lanes, address) = (row.report.lanes, node.address.clone());
            Some(DiskLocation {
                disk,
                node: row.node,
                lanes,
                address,
            })
        };
        self.disks_of(volume)
            .into_iter()
            .filter_map(location)
            .collect()
    }
}
