//! What a front end sees of a volume: a block device that several requests may be in flight on.
//!
//! Invariants: offsets and lengths are bytes; every operation is one future, and dropping it
//! before it completes leaves the request to run its course (a write may or may not take effect,
//! once). Completed writes are visible to every read issued afterwards. Overlapping requests in
//! flight together take effect in some order, block by block.

use ashlar_proto::message::Extent;
use ashlar_reactor::{Buffer, SharedBuffer};

/// Whether blocks of zeroes may give their space back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroMode {
    /// The range reads as zeroes and its space is free again.
    Unmap,
    /// The range reads as zeroes and keeps its space: zeroes are stored as data.
    Allocate,
}

/// Whether an operation must be durable when it completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A later flush makes it durable.
    Accepted,
    /// Durable on completion, by the volume's acknowledgement rule (FUA).
    Durable,
}

/// What a device says of itself. Constant while it is attached, but for the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size in bytes, a multiple of `block_bytes_min`.
    pub size_bytes: u64,
    /// Requests must be multiples of this (512).
    pub block_bytes_min: u32,
    /// Requests of multiples of this need no read-modify-write (4096).
    pub block_bytes_preferred: u32,
    /// Longest read or write, in bytes (32 MiB).
    pub request_bytes_max: u32,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// Why an operation failed. Each has one errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The range is not aligned to `block_bytes_min`, or empty where it must not be (EINVAL).
    #[error("range is not aligned to the device's sectors")]
    Unaligned,
    /// The range goes beyond the end (EINVAL for reads, ENOSPC for writes, as the front end says).
    #[error("range goes beyond the end of the device")]
    OutOfRange,
    /// The device is read-only (EPERM).
    #[error("device is read-only")]
    ReadOnly,
    /// The cluster is out of space (ENOSPC). Nothing of the request was stored where there was no
    /// room; a request that spans several shards, or zeroes parts of blocks, may have been stored
    /// in part.
    #[error("no space left in the cluster: free or add disks, then retry")]
    NoSpace,
    /// Another owner attached the volume: this one can do nothing more (ESHUTDOWN).
    #[error("volume is attached elsewhere: this attachment is fenced")]
    Fenced,
    /// Too few replicas answered within the bound (EIO).
    #[error("too few replicas answer")]
    Unavailable,
    /// No replica holds a good copy of a block (EIO).
    #[error("no replica holds a good copy of a block")]
    Corrupt,
    /// The device is being detached (ESHUTDOWN).
    #[error("device is being detached")]
    Detached,
}

/// An attached volume, or anything that behaves like one.
///
/// Cheap to clone: clones are handles on the same device. Single-threaded: it lives on one
/// reactor.
#[expect(
    async_fn_in_trait,
    reason = "devices live on one thread: no Send bound is wanted"
)]
pub trait BlockDevice: Clone + 'static {
    /// Size, granularity and limits.
    fn geometry(&self) -> Geometry;

    /// Reads `len` bytes at `offset`: buffers that together hold exactly that many.
    ///
    /// Never-written ranges read as zeroes. Each block was checked against its checksum.
    ///
    /// # Errors
    /// [`BlockError::Unaligned`], [`BlockError::OutOfRange`], [`BlockError::Unavailable`],
    /// [`BlockError::Corrupt`], [`BlockError::Fenced`], [`BlockError::Detached`].
    async fn read(&self, offset: u64, len: u32) -> Result<Vec<SharedBuffer>, BlockError>;

    /// Writes `data` at `offset`; its length is a multiple of `block_bytes_min`.
    ///
    /// Best when the buffer is page-aligned, as the pool gives it: then nothing is copied.
    ///
    /// # Errors
    /// Any [`BlockError`] but [`BlockError::Corrupt`] where the range is block-aligned.
    async fn write(
        &self,
        offset: u64,
        data: Buffer,
        durability: Durability,
    ) -> Result<(), BlockError>;

    /// Makes `len` bytes at `offset` read as zeroes. Any length up to the device's size.
    ///
    /// # Errors
    /// As [`BlockDevice::write`].
    async fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        mode: ZeroMode,
        durability: Durability,
    ) -> Result<(), BlockError>;

    /// Gives back the space of the whole blocks in the range, which then read as zeroes; edges
    /// that cover a block in part are left as they are.
    ///
    /// # Errors
    /// As [`BlockDevice::write`].
    async fn trim(&self, offset: u64, len: u64, durability: Durability) -> Result<(), BlockError>;

    /// Makes every write that completed before this call durable.
    ///
    /// # Errors
    /// [`BlockError::Unavailable`], [`BlockError::Fenced`], [`BlockError::Detached`].
    async fn flush(&self) -> Result<(), BlockError>;

    /// The kinds of the blocks from `offset` (rounded down to a block) on, at most `extents_max`
    /// runs, covering at most `len` bytes (rounded up to a block), at least one run.
    ///
    /// # Errors
    /// [`BlockError::OutOfRange`], [`BlockError::Unavailable`], [`BlockError::Fenced`],
    /// [`BlockError::Detached`].
    async fn extents(
        &self,
        offset: u64,
        len: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>, BlockError>;
}
