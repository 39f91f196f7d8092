//! A volume's map as its owner follows it.

use ashlar_proto::VolumeId;
use ashlar_proto::api::{AskedMap, DiskLocation, Revision, VolumeMap, VolumeMaps};
use ashlar_proto::limits::MAPS_ANSWERED_MAX;

use super::ClusterState;

/// An answer that has as many shards gets no more maps.
const SHARDS_MAX: usize = 16 << 10;

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
        let mapped = self.mapped.get(&row.id).copied();
        let mapped = mapped.unwrap_or(self.revision);
        Some(mapped.max(self.settings_changed(row.id)))
    }

    /// Of those that are asked for, the maps that have changed and the volumes that are gone, as far as
    /// fits into one answer; empty where none has.
    pub(crate) fn changed_maps(&self, asked: &[AskedMap]) -> VolumeMaps {
        let mut answer = VolumeMaps::default();
        let mut shards = 0;
        for AskedMap { name, after } in asked {
            match self.map_changed(name) {
                // Of what may be behind nobody is told, nor that it is gone.
                None if self.is_recovering() => {}
                Some(_) if self.refuse_held_back(name).is_err() => {}
                None => answer.gone.push(name.clone()),
                Some(at) if !self.is_newer(at, *after) => {}
                Some(_) if answer.maps.len() >= MAPS_ANSWERED_MAX || shards >= SHARDS_MAX => {}
                Some(_) => {
                    let map = self.map(name);
                    shards += map.as_ref().map_or(0, |map| map.volume.shards.len());
                    answer.maps.extend(map);
                }
            }
        }
        answer
    }

    /// Whether a map that changed at `at` is news to who knows it as of `after`. A revision that lies
    /// ahead is of other metadata.
    pub(crate) fn is_newer(&self, at: Revision, after: Revision) -> bool {
        at > after || after > self.revision
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
                node_name: Some(node.name.clone()),
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
