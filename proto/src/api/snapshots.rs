//! Snapshots of volumes, and what owners say of a volume's layers.

use serde::{Deserialize, Serialize};

use super::{DiskLocation, Origin, Revision, Volume, is_false, is_zero};
use crate::ids::{ByteCount, ClusterId, Generation, GroupId, Layer, VolumeId};

/// `POST /v1/volumes/{volume}/snapshots`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshot {
    /// 1 to 63 of `a-z 0-9 . _ -`, beginning with a letter or digit; unique within the volume.
    pub name: String,
}

/// Where a snapshot is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum SnapshotState {
    /// Its layer is sealed; writes of that layer may still be on their way, or its group is not
    /// confirmed yet.
    Sealing,
    /// It never changes any more, and can be read.
    Ready,
}

/// A snapshot of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Snapshot {
    /// The volume.
    pub volume: VolumeId,
    /// The volume's name.
    pub volume_name: String,
    /// Its name, unique within the volume.
    pub name: String,
    /// The layer that it is read at.
    pub layer: Layer,
    /// The size that the volume had.
    pub size_bytes: ByteCount,
    /// When it was asked for: milliseconds since 1970-01-01 UTC, by the conductor's clock.
    pub created_ms: u64,
    /// Where it is in its life.
    pub state: SnapshotState,
    /// What it shows wherever its volume was not written: it is one of a clone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Clones that show it, and snapshots of clones that do.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub clones: u32,
    /// It was deleted and waits for the last of its clones to go.
    #[serde(default, skip_serializing_if = "is_false")]
    pub deleted: bool,
    /// The snapshots of other volumes that are of the same moment have the same group, if there are
    /// any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
}

/// `POST /v1/volumes/{volume}/snapshots/{snapshot}/rollback`: the volume is as it was then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RollbackVolume {
    /// Take the volume from an owner that has it attached.
    #[serde(default, skip_serializing_if = "is_false")]
    pub force: bool,
    /// Delete the snapshots that are newer than the one gone back to; else they refuse it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub delete_newer: bool,
}

/// `GET /v1/volumes/{volume}/snapshots/{snapshot}/map`: what a reader of a snapshot needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SnapshotMap {
    /// The cluster.
    pub cluster: ClusterId,
    /// The snapshot; readable once it is ready.
    pub snapshot: Snapshot,
    /// The volume, with its shards.
    pub volume: Volume,
    /// Where each disk of its shards is.
    pub disks: Vec<DiskLocation>,
    /// The other snapshots of the volume, by layer.
    pub others: Vec<Snapshot>,
    /// The metadata's revision.
    pub revision: Revision,
}

/// `POST /v1/volumes/{volume}/layers`: how far an owner has brought its replicas. Taken if the name is
/// still that of the volume and `generation` its current one; each part only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReportLayers {
    /// The volume that was attached.
    pub volume: VolumeId,
    /// The owner's generation.
    pub generation: Generation,
    /// Every in-sync replica holds every write of this layer and those below, durably, and none
    /// follows.
    pub settled: Layer,
    /// Every in-sync replica goes by the table of this version, durably.
    pub table: u32,
}
