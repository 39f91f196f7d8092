//! Clones: volumes that begin as a snapshot of another.

use serde::{Deserialize, Serialize};

use super::{AckRule, is_false};
use crate::ids::{ByteCount, Generation, Layer, VolumeId};

/// `POST /v1/volumes/{volume}/snapshots/{snapshot}/clone`: a new volume with what the snapshot shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CloneSnapshot {
    /// The new volume's name, as in [`CreateVolume::name`](super::CreateVolume::name).
    pub name: String,
    /// Its size: at least the snapshot's, which it is if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<ByteCount>,
    /// 1, 2 or 3; as many as the snapshot's volume has if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u8>,
    /// The acknowledgement rule; that of the snapshot's volume if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack: Option<AckRule>,
}

/// The snapshot that a clone shows wherever nothing was written to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Origin {
    /// The snapshot's volume.
    pub volume: VolumeId,
    /// That volume's name; blank for those who do not see its project, as the snapshot's.
    pub volume_name: String,
    /// The snapshot's layer.
    pub layer: Layer,
    /// The snapshot's name.
    pub snapshot: String,
    /// The clone shows it up to here, and zeroes beyond: a multiple of 4 KiB.
    pub bytes: ByteCount,
}

impl Origin {
    /// For people: `VOLUME@SNAPSHOT`, or that it is none of theirs where the names are blank.
    #[must_use]
    pub fn text(&self) -> String {
        if self.volume_name.is_empty() {
            return "a snapshot of another project".to_owned();
        }
        format!("{}@{}", self.volume_name, self.snapshot)
    }

    /// The name under which its map is asked for, whatever becomes of the snapshot's own.
    #[must_use]
    pub fn snapshot_by_layer(&self) -> String {
        snapshot_by_layer(self.layer)
    }
}

/// A name that stands for the snapshot of a layer, whatever it is called: no snapshot is made under it.
#[must_use]
pub fn snapshot_by_layer(layer: Layer) -> String {
    format!("~{layer}")
}

/// The layer that such a name stands for.
#[must_use]
pub fn layer_of_snapshot(name: &str) -> Option<Layer> {
    let layer = name.strip_prefix('~')?.parse().ok()?;
    Some(Layer::new(layer))
}

/// How far a clone has come with copying what it has of its origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Flattening {
    /// What lies below is copied.
    pub done_bytes: ByteCount,
}

/// `POST /v1/volumes/{volume}/flatten`: has whoever owns the volume copy what it shows of its origin,
/// so that it needs that no more. Repeating it changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FlattenVolume {
    /// Stop a copy that is under way instead: the volume keeps its origin.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stop: bool,
}

/// `POST /v1/volumes/{volume}/flattened`: how far an owner has come. Taken if the name is still that of
/// the volume, `generation` its current one and `origin_*` its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReportFlatten {
    /// The volume that was attached.
    pub volume: VolumeId,
    /// The owner's generation.
    pub generation: Generation,
    /// The origin's volume.
    pub origin_volume: VolumeId,
    /// The origin's layer.
    pub origin_layer: Layer,
    /// All below is copied, durably; the whole volume, if it is as large: then the volume needs its
    /// origin no more.
    pub done_bytes: ByteCount,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_layers() {
        let layer = Layer::new(7);
        assert_eq!(layer_of_snapshot(&snapshot_by_layer(layer)), Some(layer));
        for name in ["7", "~", "~x", "~-1", "~99999999999"] {
            assert_eq!(layer_of_snapshot(name), None, "{name}");
        }
    }
}
