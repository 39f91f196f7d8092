//! Opening a disk: lock, both superblocks, repair of a bad copy from the good one.

use ashlar_proto::limits::BLOCK_BYTES_U64;
use ashlar_proto::{BLOCK_BYTES, ByteCount, ClusterId, DiskId, LaneIndex};
use ashlar_reactor::{Disk, DiskError, DiskOptions, Reactor};

use crate::disk::format::{write_superblock, write_superblocks};
use crate::disk::layout::SUPERBLOCK_AREA_BYTES;
use crate::disk::superblock::{Superblock, SuperblockFault};
use crate::lane::UnrecoveredLane;
use crate::lane::scan_device;

/// A disk could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DiskOpenError {
    /// It holds no superblock.
    #[error("the disk is not formatted; `ashlar disk format` does that")]
    NotFormatted,
    /// Both copies of its superblock are damaged.
    #[error("both copies of the superblock are damaged")]
    Damaged,
    /// It was formatted by a newer version.
    #[error("the disk has format version {0}, which this build does not know")]
    Version(u32),
    /// It is smaller than it was when it was formatted.
    #[error("the disk has {available} bytes and was formatted with {formatted}")]
    Shrunk {
        /// Its size now.
        available: u64,
        /// Its size then.
        formatted: u64,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// A disk that is locked and known, its lanes not recovered yet.
#[derive(Debug)]
pub struct UnrecoveredDisk {
    reactor: Reactor,
    disk: Disk,
    superblock: Superblock,
    damaged_copies: u64,
}

/// Opens a disk and repairs its superblocks; a read-only one is left as it is.
///
/// # Errors
/// [`DiskOpenError`].
pub async fn open_disk(
    reactor: &Reactor,
    options: DiskOptions,
) -> Result<UnrecoveredDisk, DiskOpenError> {
    let disk = reactor.open_disk(options).await?;
    let available = disk.geometry().size_bytes;
    let first = read_copy(reactor, &disk, 0).await;
    let last = match &first {
        Ok(found) => found.layout.superblock_copy_offset(),
        // The copy tells where it is by lying there: at the end of the device.
        Err(_) => {
            (available / BLOCK_BYTES_U64 * BLOCK_BYTES_U64).saturating_sub(SUPERBLOCK_AREA_BYTES)
        }
    };
    let second = read_copy(reactor, &disk, last).await;
    let superblock = choose(&first, &second)?;
    if superblock.layout.size_bytes > available {
        return Err(DiskOpenError::Shrunk {
            available,
            formatted: superblock.layout.size_bytes,
        });
    }
    let copy = superblock.layout.superblock_copy_offset();
    let mut damaged_copies = 0;
    for (found, offset) in [(&first, 0), (&second, copy)] {
        if found.as_ref() == Ok(&superblock) {
            continue;
        }
        // An older revision is what a crash between the two writes leaves, not damage.
        damaged_copies += u64::from(found.is_err());
        if !disk.options().read_only {
            tracing::warn!(
                offset,
                "repairing a copy of the superblock from the other one"
            );
            write_superblock(reactor, &disk, &superblock, offset).await?;
        }
    }
    Ok(UnrecoveredDisk {
        reactor: reactor.clone(),
        disk,
        superblock,
        damaged_copies,
    })
}

async fn read_copy(
    reactor: &Reactor,
    disk: &Disk,
    offset: u64,
) -> Result<Superblock, SuperblockFault> {
    let (block, result) = disk.read(offset, reactor.buffer(BLOCK_BYTES)).await;
    match result {
        Ok(()) => Superblock::decode(&block),
        Err(_) => Err(SuperblockFault::Damaged),
    }
}

fn choose(
    first: &Result<Superblock, SuperblockFault>,
    second: &Result<Superblock, SuperblockFault>,
) -> Result<Superblock, DiskOpenError> {
    match (first, second) {
        (Ok(first), Ok(second)) if second.revision > first.revision => Ok(second.clone()),
        (Ok(found), _) | (_, Ok(found)) => Ok(found.clone()),
        (Err(SuperblockFault::Version(version)), _)
        | (_, Err(SuperblockFault::Version(version))) => Err(DiskOpenError::Version(*version)),
        (Err(SuperblockFault::Foreign), Err(SuperblockFault::Foreign)) => {
            Err(DiskOpenError::NotFormatted)
        }
        (Err(_), Err(_)) => Err(DiskOpenError::Damaged),
    }
}

impl UnrecoveredDisk {
    /// The name of the disk.
    #[must_use]
    pub fn disk(&self) -> DiskId {
        self.superblock.disk
    }

    /// The cluster that it belongs to, once that is set.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.superblock.cluster
    }

    /// The part of the device that is used.
    #[must_use]
    pub fn size(&self) -> ByteCount {
        ByteCount::new(self.superblock.layout.size_bytes)
    }

    /// Bytes of one segment.
    #[must_use]
    pub fn segment_size(&self) -> ByteCount {
        ByteCount::new(self.superblock.layout.segment_bytes_each())
    }

    /// How many lanes it has.
    #[must_use]
    pub fn lanes(&self) -> u16 {
        self.superblock.layout.lanes
    }

    /// Copies of the superblock that were damaged when it was opened.
    #[must_use]
    pub fn damaged_superblocks(&self) -> u64 {
        self.damaged_copies
    }

    /// Whether the device loses completed writes at power loss unless they are flushed.
    #[must_use]
    pub fn has_volatile_cache(&self) -> bool {
        self.disk.geometry().volatile_cache
    }

    /// Makes it a member of a cluster, for ever. Durable on return.
    ///
    /// # Errors
    /// [`DiskOpenError::Disk`] when the device fails.
    ///
    /// # Panics
    /// When it belongs to another cluster already.
    pub async fn set_cluster(&mut self, cluster: ClusterId) -> Result<(), DiskOpenError> {
        let same = self.superblock.cluster.is_none_or(|known| known == cluster);
        assert!(same, "a disk never changes its cluster");
        let next = Superblock {
            cluster: Some(cluster),
            revision: self.superblock.revision + 1,
            ..self.superblock.clone()
        };
        write_superblocks(&self.reactor, &self.disk, &next).await?;
        self.superblock = next;
        Ok(())
    }

    /// One of its lanes.
    ///
    /// # Panics
    /// When the disk does not have it.
    #[must_use]
    pub fn lane(&self, lane: LaneIndex) -> UnrecoveredLane {
        let layout = self.superblock.layout.lane(lane.get());
        scan_device(&self.reactor, &self.disk, layout, lane)
    }
}
