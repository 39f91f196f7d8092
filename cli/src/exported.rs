//! What a front end, an export or a diff reads: a volume that is attached, or one of its snapshots.

use ashlar_client::{BlockDevice, BlockError, Durability, Geometry, Snapshot, Volume, ZeroMode};
use ashlar_proto::message::Extent;
use ashlar_proto::{Layer, VolumeId};
use ashlar_reactor::{Buffer, SharedBuffer};

/// See the module. Clones are handles on the same.
#[derive(Clone, Debug)]
pub enum Exported {
    /// A volume: this process owns it.
    Volume(Volume),
    /// A snapshot: it can only be read.
    Snapshot(Snapshot),
}

impl Exported {
    /// Whether it can be used no more: attached elsewhere, or deleted.
    pub fn is_over(&self) -> bool {
        match self {
            Self::Volume(volume) => volume.health().fenced,
            Self::Snapshot(snapshot) => snapshot.is_gone(),
        }
    }

    /// The volume.
    pub fn id(&self) -> VolumeId {
        match self {
            Self::Volume(volume) => volume.id(),
            Self::Snapshot(snapshot) => snapshot.info().volume,
        }
    }

    /// What content it is of its volume: that of an attachment, or of a layer. Another one may differ.
    pub fn version(&self) -> u32 {
        match self {
            Self::Volume(volume) => volume.generation().get(),
            Self::Snapshot(snapshot) => snapshot.info().layer.get(),
        }
    }

    /// The layer that it is read at.
    pub fn layer(&self) -> Layer {
        match self {
            Self::Volume(volume) => volume.head_layer(),
            Self::Snapshot(snapshot) => snapshot.info().layer,
        }
    }

    /// Detaches a volume.
    ///
    /// # Errors
    /// As [`Volume::detach`].
    pub async fn let_go(&self) -> Result<(), BlockError> {
        match self {
            Self::Volume(volume) => volume.detach().await,
            Self::Snapshot(_) => Ok(()),
        }
    }

    /// The kinds of the blocks that were written since the snapshot of that layer; the others are absent.
    ///
    /// # Errors
    /// As [`Volume::changed_since`].
    pub async fn changed_since(
        &self,
        layer: Layer,
        offset: u64,
        len: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>, BlockError> {
        match self {
            Self::Volume(volume) => volume.changed_since(layer, offset, len, extents_max).await,
            Self::Snapshot(snapshot) => {
                snapshot
                    .changed_since(layer, offset, len, extents_max)
                    .await
            }
        }
    }
}

impl BlockDevice for Exported {
    fn geometry(&self) -> Geometry {
        match self {
            Self::Volume(volume) => volume.geometry(),
            Self::Snapshot(snapshot) => snapshot.geometry(),
        }
    }

    async fn read(&self, offset: u64, len: u32) -> Result<Vec<SharedBuffer>, BlockError> {
        match self {
            Self::Volume(volume) => volume.read(offset, len).await,
            Self::Snapshot(snapshot) => snapshot.read(offset, len).await,
        }
    }

    async fn write(
        &self,
        offset: u64,
        data: Buffer,
        durability: Durability,
    ) -> Result<(), BlockError> {
        match self {
            Self::Volume(volume) => volume.write(offset, data, durability).await,
            Self::Snapshot(snapshot) => snapshot.write(offset, data, durability).await,
        }
    }

    async fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        mode: ZeroMode,
        durability: Durability,
    ) -> Result<(), BlockError> {
        match self {
            Self::Volume(volume) => volume.write_zeroes(offset, len, mode, durability).await,
            Self::Snapshot(snapshot) => snapshot.write_zeroes(offset, len, mode, durability).await,
        }
    }

    async fn trim(&self, offset: u64, len: u64, durability: Durability) -> Result<(), BlockError> {
        match self {
            Self::Volume(volume) => volume.trim(offset, len, durability).await,
            Self::Snapshot(snapshot) => snapshot.trim(offset, len, durability).await,
        }
    }

    async fn flush(&self) -> Result<(), BlockError> {
        match self {
            Self::Volume(volume) => volume.flush().await,
            Self::Snapshot(snapshot) => snapshot.flush().await,
        }
    }

    async fn extents(
        &self,
        offset: u64,
        len: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>, BlockError> {
        match self {
            Self::Volume(volume) => volume.extents(offset, len, extents_max).await,
            Self::Snapshot(snapshot) => snapshot.extents(offset, len, extents_max).await,
        }
    }
}
