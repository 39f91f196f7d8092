//! What a CO calls volumes, snapshots and groups by: `NAME:ID`, `NAME:ID:LAYER`, `NAME:GROUP`.
//!
//! The name finds the row at once; the id, which is never given again, tells that it is the same one.
//! A handle that cannot be read is that of nothing.

use std::fmt;

use ashlar_proto::api::{Snapshot, Volume};
use ashlar_proto::{GroupId, Layer, VolumeId};

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeHandle {
    /// Its id.
    pub id: VolumeId,
    /// Its name.
    pub name: String,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SnapshotHandle {
    /// Its volume.
    pub volume: VolumeHandle,
    /// Its layer, which no other snapshot of the volume ever has.
    pub layer: Layer,
}

/// A group of snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupHandle {
    /// The name that its snapshots have.
    pub name: String,
    /// Its id; 0 stands for the one snapshot of a group of one, for which there is no group.
    pub id: GroupId,
}

impl VolumeHandle {
    /// That of a row.
    pub(crate) fn of(volume: &Volume) -> Self {
        Self {
            id: volume.id,
            name: volume.name.clone(),
        }
    }

    /// Reads one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (name, id) = text.rsplit_once(':')?;
        let named = !name.is_empty() && !name.contains(':');
        named.then_some(Self {
            id: id.parse().ok()?,
            name: name.to_owned(),
        })
    }
}

impl SnapshotHandle {
    /// That of a row.
    pub fn of(snapshot: &Snapshot) -> Self {
        Self {
            volume: VolumeHandle {
                id: snapshot.volume,
                name: snapshot.volume_name.clone(),
            },
            layer: snapshot.layer,
        }
    }

    /// Reads one.
    pub fn parse(text: &str) -> Option<Self> {
        let (volume, layer) = text.rsplit_once(':')?;
        Some(Self {
            volume: VolumeHandle::parse(volume)?,
            layer: Layer::new(layer.parse().ok()?),
        })
    }
}

impl GroupHandle {
    /// Reads one.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, id) = text.rsplit_once(':')?;
        let named = !name.is_empty() && !name.contains(':');
        named.then_some(Self {
            name: name.to_owned(),
            id: GroupId::new(id.parse().ok()?),
        })
    }
}

impl fmt::Display for VolumeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.id)
    }
}

impl fmt::Display for SnapshotHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.volume, self.layer)
    }
}

impl fmt::Display for GroupHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_survive_text() {
        let volume = VolumeHandle {
            id: VolumeId::new(0xabc),
            name: "pvc-1".to_owned(),
        };
        assert_eq!(volume.to_string(), "pvc-1:0000000000000abc");
        assert_eq!(
            VolumeHandle::parse(&volume.to_string()),
            Some(volume.clone())
        );
        let snapshot = SnapshotHandle {
            volume,
            layer: Layer::new(7),
        };
        assert_eq!(SnapshotHandle::parse(&snapshot.to_string()), Some(snapshot));
        let group = GroupHandle {
            name: "g".to_owned(),
            id: GroupId::new(3),
        };
        assert_eq!(GroupHandle::parse(&group.to_string()), Some(group));
    }

    #[test]
    fn the_longest_handle_fits_the_specifications_128_bytes() {
        let name = "a".repeat(ashlar_proto::limits::NAME_BYTES_MAX);
        let volume = VolumeHandle {
            id: VolumeId::new(u64::MAX),
            name,
        };
        let layer = Layer::new(u32::MAX);
        assert!(SnapshotHandle { volume, layer }.to_string().len() <= 128);
    }

    #[test]
    fn what_is_no_handle_is_none() {
        for text in [
            "",
            ":",
            "a",
            "a:b",
            ":0000000000000abc",
            "a:abc",
            "a:b:0000000000000abc",
        ] {
            assert_eq!(VolumeHandle::parse(text), None, "{text}");
            assert_eq!(SnapshotHandle::parse(text), None, "{text}");
        }
        assert_eq!(SnapshotHandle::parse("a:0000000000000abc:-1"), None);
    }
}
