//! What people change, by the revision of its row: so that nobody overwrites what he has not seen.

use ashlar_proto::api::Revision;
use ashlar_proto::{DiskId, IscsiName};

use super::ClusterState;
use crate::meta::Key;
use crate::row::{
    discovery_key, disk_key, node_key, pool_settings_key, snapshot_key, space_key, target_key,
    volume_key,
};

/// Something that has a row of its own, as a request names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    /// A volume by name.
    Volume(String),
    /// A snapshot by the names of its volume and its own.
    Snapshot(String, String),
    /// An iSCSI target.
    Target(IscsiName),
    /// A node by name or id.
    Node(String),
    /// A disk.
    Disk(DiskId),
    /// The rules of space.
    Space,
    /// What discovery asks for.
    Discovery,
    /// The settings of a pool, whose labels are written as [`crate::settings::pool_named`] does.
    Pool(String),
}

impl ClusterState {
    /// The revision that last changed the row of an object; 0 where what there is without a row was never
    /// changed, `None` where there is no such object.
    pub(crate) fn revision_of(&self, object: &Object) -> Option<Revision> {
        let key = self.key_of(object)?;
        let modified = self.modified.get(&key).copied();
        match object {
            Object::Space | Object::Discovery | Object::Pool(_) => {
                Some(modified.unwrap_or_default())
            }
            _ => modified,
        }
    }

    fn key_of(&self, object: &Object) -> Option<Key> {
        match object {
            Object::Volume(name) => self.volume_named(name).map(|row| volume_key(row.id)),
            Object::Snapshot(volume, snapshot) => {
                let volume = self.volume_named(volume)?;
                let row = self.snapshots.named(volume.id, snapshot)?;
                Some(snapshot_key(volume.id, row.layer))
            }
            Object::Target(name) => Some(target_key(name)),
            Object::Node(node) => self.require_node(node).ok().map(|row| node_key(row.id)),
            Object::Disk(disk) => Some(disk_key(*disk)),
            Object::Space => Some(space_key()),
            Object::Discovery => Some(discovery_key()),
            Object::Pool(pool) => Some(pool_settings_key(pool)),
        }
    }
}
