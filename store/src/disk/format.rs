//! Formatting: the slots of every lane, then the superblocks, so that a disk which was cut short
//! is not taken for a formatted one.

use ashlar_proto::{BLOCK_BYTES, ByteCount, DiskId};
use ashlar_reactor::{Disk, DiskError, DiskOptions, Reactor};

use crate::disk::layout::Layout;
use crate::disk::superblock::{Superblock, SuperblockFault};
use crate::lane::format_lane;

/// How a disk is formatted.
#[derive(Clone, Debug)]
pub struct FormatOptions {
    /// The part of the disk to use, from its start; none: all of it.
    pub size: Option<ByteCount>,
    /// Lanes: as many logs that run beside each other. Fixed for the life of the disk.
    pub lanes: u16,
    /// Its name for ever.
    pub disk: DiskId,
    /// Segment size; none: by the size of a lane, 1 to 32 MiB.
    pub segment: Option<ByteCount>,
    /// Format even if the disk holds a superblock, or what is left of one.
    pub force: bool,
}

impl FormatOptions {
    /// One lane over the whole disk.
    #[must_use]
    pub fn new(disk: DiskId) -> Self {
        Self {
            size: None,
            lanes: 1,
            disk,
            segment: None,
            force: false,
        }
    }
}

/// A disk was not formatted.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It belongs to Ashlar already.
    #[error("the disk is already formatted as {0}; format it again with force to lose its data")]
    AlreadyFormatted(DiskId),
    /// It holds a superblock that cannot be read.
    #[error("the disk holds a damaged or newer superblock; format it with force to lose its data")]
    Occupied,
    /// It is too small, or the options do not fit it.
    #[error(
        "{size} bytes are too small for {lanes} lanes: 64 MiB for each and 2 MiB are the least"
    )]
    Size {
        /// The size that was to be used.
        size: u64,
        /// Lanes asked for.
        lanes: u16,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Formats a disk. A file must exist and have its size.
///
/// # Errors
/// [`FormatError`]; unless it is `Disk`, nothing was written.
pub async fn format_disk(
    reactor: &Reactor,
    disk: DiskOptions,
    options: FormatOptions,
) -> Result<(), FormatError> {
    let disk = reactor.open_disk(disk).await?;
    let available = disk.geometry().size_bytes;
    let size = options.size.map_or(available, ByteCount::get);
    let segment = options.segment.map(ByteCount::get);
    let layout = Layout::plan(
        size.min(available),
        options.lanes,
        segment,
        reactor.random_u64(),
    );
    let Some(layout) = layout.filter(|_| size <= available) else {
        return Err(FormatError::Size {
            size,
            lanes: options.lanes,
        });
    };
    if !options.force {
        check_vacant(reactor, &disk, 0).await?;
        check_vacant(reactor, &disk, layout.superblock_copy_offset()).await?;
    }
    let superblock = Superblock {
        cluster: None,
        disk: options.disk,
        revision: 1,
        layout,
    };
    for lane in 0..layout.lanes {
        format_lane(reactor, &disk, layout.lane(lane)).await?;
    }
    write_superblocks(reactor, &disk, &superblock).await?;
    Ok(())
}

async fn check_vacant(reactor: &Reactor, disk: &Disk, offset: u64) -> Result<(), FormatError> {
    let (block, result) = disk.read(offset, reactor.buffer(BLOCK_BYTES)).await;
    result?;
    match Superblock::decode(&block) {
        Ok(found) => Err(FormatError::AlreadyFormatted(found.disk)),
        Err(SuperblockFault::Foreign) => Ok(()),
        Err(SuperblockFault::Damaged | SuperblockFault::Version(_)) => Err(FormatError::Occupied),
    }
}

/// Writes both copies, the first one flushed before the second.
pub(crate) async fn write_superblocks(
    reactor: &Reactor,
    disk: &Disk,
    superblock: &Superblock,
) -> Result<(), DiskError> {
    for offset in [0, superblock.layout.superblock_copy_offset()] {
        write_superblock(reactor, disk, superblock, offset).await?;
    }
    Ok(())
}

/// Writes one copy and flushes it.
pub(crate) async fn write_superblock(
    reactor: &Reactor,
    disk: &Disk,
    superblock: &Superblock,
    offset: u64,
) -> Result<(), DiskError> {
    let mut block = reactor.buffer(BLOCK_BYTES);
    block.copy_from_slice(&superblock.encode());
    disk.write(offset, vec![block.freeze()]).await?;
    disk.flush().await
}
