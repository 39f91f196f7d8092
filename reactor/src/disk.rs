//! A disk: a block device or a preallocated file, opened for direct IO and locked.
//!
//! Offsets are bytes; offset and length of every operation are multiples of 4096 and every
//! buffer is page-aligned (asserted: callers lay data out in blocks). Ranges are checked here, so
//! drivers may trust them.

use crate::driver::{DiskHandle, Op, Outcome};
use crate::meters::{Measure, Operation as Counted, Stage};
use crate::operations::Operation;
use crate::reactor::Core;
use crate::{Buffer, DiskError, DiskOperation, PAGE_BYTES, SharedBuffer};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

/// Whether the device may lose acknowledged writes that no flush followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CachePolicy {
    /// Ask the kernel (the queue's write_cache); what it does not know counts as volatile.
    #[default]
    Detect,
    /// It may, whatever the kernel says.
    Volatile,
    /// It does not: the operator knows that its cache is protected against loss of power.
    WriteThrough,
}

/// Which disk to open, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskOptions {
    /// A block device or a regular file.
    pub path: PathBuf,
    /// Refuse writes, and lock shared with other readers.
    pub read_only: bool,
    /// What to believe of its write cache.
    pub cache: CachePolicy,
}

impl DiskOptions {
    /// For reading and writing, with the cache detected.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            read_only: false,
            cache: CachePolicy::Detect,
        }
    }
}

/// What an open disk is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskGeometry {
    /// Size in bytes, rounded down to a multiple of 4096.
    pub size_bytes: u64,
    /// Granularity of operations in bytes: 4096.
    pub block_bytes: u32,
    /// Whether completed writes need a flush to be durable.
    pub volatile_cache: bool,
    /// A block device, not a file.
    pub is_block_device: bool,
    /// Whether [`Disk::discard`] does anything.
    pub supports_discard: bool,
}

/// An open disk. Clones are handles on the same one; it is closed and unlocked with the last.
#[derive(Clone)]
pub struct Disk {
    inner: Rc<Inner>,
}

struct Inner {
    core: Rc<Core>,
    handle: DiskHandle,
    geometry: DiskGeometry,
    options: DiskOptions,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.core.driver().close_disk(self.handle);
    }
}

impl Disk {
    pub(crate) fn new(
        core: &Rc<Core>,
        handle: DiskHandle,
        geometry: DiskGeometry,
        options: DiskOptions,
    ) -> Self {
        Self {
            inner: Rc::new(Inner {
                core: Rc::clone(core),
                handle,
                geometry,
                options,
            }),
        }
    }

    /// Size, granularity, cache and kind.
    #[must_use]
    pub fn geometry(&self) -> DiskGeometry {
        self.inner.geometry
    }

    /// What it was opened with.
    #[must_use]
    pub fn options(&self) -> &DiskOptions {
        &self.inner.options
    }

    /// Another handle on this disk, for a reactor on another thread. The disk stays open and
    /// locked until the last handle on any reactor is gone.
    ///
    /// # Errors
    /// [`DiskError::Open`]: the process has too many open files.
    pub fn share(&self) -> Result<DetachedDisk, DiskError> {
        let shared = self.inner.core.driver().share_disk(self.inner.handle);
        let handle = shared.map_err(|error| DiskError::Open {
            path: self.inner.options.path.clone(),
            error,
        })?;
        Ok(DetachedDisk {
            handle,
            geometry: self.inner.geometry,
            options: self.inner.options.clone(),
        })
    }

    /// Reads from `offset` on until the buffer is full, or fails.
    ///
    /// # Errors
    /// [`DiskError::OutOfRange`], [`DiskError::Io`]; the buffer comes back with whatever is in it.
    ///
    /// # Panics
    /// If offset or length are not multiples of 4096.
    pub async fn read(&self, offset: u64, buffer: Buffer) -> (Buffer, Result<(), DiskError>) {
        if let Err(error) = self.check_range(offset, buffer.len() as u64) {
            return (buffer, Err(error));
        }
        if buffer.is_empty() {
            return (buffer, Ok(()));
        }
        let measure = self.measure(Counted::Read, buffer.len() as u64);
        let op = Op::Read {
            disk: self.inner.handle,
            offset,
            buffer,
        };
        match Operation::submit(&self.inner.core, op).await {
            Outcome::Read(buffer, result) => {
                let result = result.map_err(|error| DiskError::Io {
                    operation: DiskOperation::Read,
                    offset,
                    error,
                });
                (buffer, measure.end(result))
            }
            outcome => unreachable!("a read ended as {outcome:?}"),
        }
    }

    /// Writes all pieces one after another from `offset` on, as one device write where it fits
    /// into one. Completed is accepted: durable only by a [`Disk::flush`] where the cache is
    /// volatile. Dropping the future lets the write run its course.
    ///
    /// # Errors
    /// [`DiskError::OutOfRange`], [`DiskError::ReadOnly`], [`DiskError::Io`]: any part of it may
    /// have been written.
    ///
    /// # Panics
    /// If offset or a piece is not aligned to 4096.
    pub async fn write(&self, offset: u64, buffers: Vec<SharedBuffer>) -> Result<(), DiskError> {
        if self.inner.options.read_only {
            return Err(DiskError::ReadOnly);
        }
        assert!(
            buffers.iter().all(SharedBuffer::is_aligned),
            "pieces of a disk write must be page-aligned"
        );
        let len: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        self.check_range(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let op = Op::Write {
            disk: self.inner.handle,
            offset,
            buffers,
        };
        let measure = self.measure(Counted::Write, len);
        measure.end(self.run(DiskOperation::Write, offset, op).await)
    }

    /// Makes every write that completed before this call durable: the flush reaches the device.
    ///
    /// # Errors
    /// [`DiskError::Io`]: what was not durable before may be lost.
    pub async fn flush(&self) -> Result<(), DiskError> {
        let op = Op::Flush {
            disk: self.inner.handle,
        };
        let measure = self.measure(Counted::Flush, 0);
        measure.end(self.run(DiskOperation::Flush, 0, op).await)
    }

    /// Tells the device that a range holds nothing of use: it reads as anything afterwards.
    /// Does nothing to a file or where the device cannot.
    ///
    /// # Errors
    /// [`DiskError::OutOfRange`], [`DiskError::ReadOnly`], [`DiskError::Io`].
    ///
    /// # Panics
    /// If offset or length are not multiples of 4096.
    pub async fn discard(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        if self.inner.options.read_only {
            return Err(DiskError::ReadOnly);
        }
        self.check_range(offset, len)?;
        if len == 0 || !self.inner.geometry.supports_discard {
            return Ok(());
        }
        let op = Op::Discard {
            disk: self.inner.handle,
            offset,
            len,
        };
        let measure = self.measure(Counted::Discard, len);
        measure.end(self.run(DiskOperation::Discard, offset, op).await)
    }

    fn measure(&self, operation: Counted, bytes: u64) -> Measure<'_> {
        Measure::begin(&self.inner.core, Stage::Disk, operation, bytes)
    }

    async fn run(&self, operation: DiskOperation, offset: u64, op: Op) -> Result<(), DiskError> {
        match Operation::submit(&self.inner.core, op).await {
            Outcome::Disk(result) => result.map_err(|error| DiskError::Io {
                operation,
                offset,
                error,
            }),
            outcome => unreachable!("a {operation} ended as {outcome:?}"),
        }
    }

    fn check_range(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        let block = PAGE_BYTES as u64;
        assert!(
            offset.is_multiple_of(block) && len.is_multiple_of(block),
            "disk range {offset}+{len} is not aligned to {block}"
        );
        let size = self.inner.geometry.size_bytes;
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(()),
            _ => Err(DiskError::OutOfRange { offset, len, size }),
        }
    }
}

/// A handle on an open disk, on its way to another reactor. It keeps the disk locked.
#[derive(Debug)]
pub struct DetachedDisk {
    pub(crate) handle: DetachedHandle,
    pub(crate) geometry: DiskGeometry,
    pub(crate) options: DiskOptions,
}

/// What a driver hands out for a disk.
#[derive(Debug)]
pub(crate) enum DetachedHandle {
    /// Of the operating system.
    Os(OwnedFd),
    /// Of the simulator, by number.
    Simulated(usize),
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Disk({})", self.inner.options.path.display())
    }
}
