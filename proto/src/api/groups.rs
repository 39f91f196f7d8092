//! Groups of snapshots: several volumes kept as they are at one moment, and what their owners say while
//! that is made.

use serde::{Deserialize, Serialize};

use super::Snapshot;
use crate::ids::{Generation, GroupId, Layer, VolumeId};

/// `POST /v1/snapshot-groups`: a snapshot of each volume, all of one moment, or of none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshotGroup {
    /// The name that each of the snapshots gets: 1 to 63 of `a-z 0-9 . _ -`, beginning with a letter
    /// or digit; unique within each volume.
    pub name: String,
    /// The volumes, from 2 to [`crate::limits::GROUP_VOLUMES_MAX`], none twice.
    pub volumes: Vec<String>,
}

/// A group of snapshots that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SnapshotGroup {
    /// Its id.
    pub group: GroupId,
    /// The snapshots, in the order in which their volumes were given. One that was deleted since is
    /// left out.
    pub snapshots: Vec<Snapshot>,
}

/// What the map of a volume says of a group in the making, to the owner of the generation that it was
/// asked of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VolumeHold {
    /// The group.
    pub group: GroupId,
    /// The layer that was sealed for it, once it is: then writes go on above it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Layer>,
}

/// What an owner says of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum HoldWord {
    /// From now on it gives no write a seq until it learns of the seal or its patience ends.
    Held,
    /// It gave no write a seq between its hold and the moment at which it learned of the seal.
    Kept,
    /// It did, or may have: the group is not of one moment.
    Broken,
}

/// `POST /v1/volumes/{volume}/hold`: what an owner says of a hold. Taken if the name is still that of
/// the volume, `generation` its current one, and the group in the making.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReportHold {
    /// The volume that was attached.
    pub volume: VolumeId,
    /// The owner's generation.
    pub generation: Generation,
    /// The group.
    pub group: GroupId,
    /// What it says.
    pub word: HoldWord,
}

/// What has become of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum HoldOutcome {
    /// Others have yet to hold.
    Waiting,
    /// The layer is sealed: writes go on above it.
    Sealed,
    /// There is no such group any more: writes go on as before.
    Over,
}

/// The answer to [`ReportHold`]; to [`HoldWord::Held`] it comes when the hold may end, or after a
/// second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HoldAnswer {
    /// What has become of it.
    pub outcome: HoldOutcome,
    /// The layer that writes go to.
    pub head_layer: Layer,
}
