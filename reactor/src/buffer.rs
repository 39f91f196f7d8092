//! Page-aligned memory for disks and sockets, pooled by size class.
//!
//! A [`Buffer`] is unique and writable; [`Buffer::freeze`] makes it a [`SharedBuffer`], counted
//! without atomics and sliced without copying. Both return their memory to the pool that gave it
//! when the last handle goes, without a call to the allocator on the way.
//!
//! Invariants:
//!
//! - Memory of the pool is never unmapped while a handle on it exists: each slot in use holds its
//!   pool.
//! - Contents are whatever the last user left, zeroes where there was none: never uninitialised.
//! - Handles stay on their thread (`!Send`).

mod arena;

use arena::{Arena, Slot};
use std::cell::Cell;
use std::fmt;
use std::ops::{Bound, Deref, DerefMut, RangeBounds};
use std::ptr::NonNull;
use std::rc::Rc;

pub(crate) use arena::RegionId;

/// The alignment of every buffer, and of everything on a disk, in bytes.
pub const PAGE_BYTES: usize = 4096;

/// A pool of page-aligned memory for one thread.
#[derive(Clone)]
pub struct BufferPool {
    arena: Rc<Arena>,
}

impl BufferPool {
    /// An empty pool: memory is mapped when first asked for.
    #[must_use]
    pub fn new() -> Self {
        Self {
            arena: Rc::new(Arena::new()),
        }
    }

    /// A buffer of `len` bytes with arbitrary contents.
    ///
    /// # Panics
    /// If the system is out of address space.
    #[must_use]
    pub fn buffer(&self, len: usize) -> Buffer {
        Buffer {
            slot: Arena::take(&self.arena, len),
            len,
        }
    }

    /// Bytes of memory mapped so far, in use or not.
    #[must_use]
    pub fn mapped_bytes(&self) -> usize {
        self.arena.mapped_bytes()
    }

    /// The regions mapped since the last call, for a driver that registers them.
    pub(crate) fn take_new_regions(&self) -> Vec<(RegionId, NonNull<u8>, usize)> {
        self.arena.take_new_regions()
    }

    /// Tells the pool that the kernel has pinned a region: its pages must stay.
    pub(crate) fn pin_region(&self, region: RegionId) {
        self.arena.pin_region(region);
    }

    /// Whether regions were mapped since they were last taken.
    pub(crate) fn has_new_regions(&self) -> bool {
        self.arena.has_new_regions()
    }
}

impl Default for BufferPool {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferPool({} bytes mapped)", self.mapped_bytes())
    }
}

/// Unique, writable, page-aligned memory of a pool. Dereferences to its bytes.
pub struct Buffer {
    slot: NonNull<Slot>,
    len: usize,
}

impl Buffer {
    /// Bytes that [`Buffer::resize`] may grow to.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.slot().capacity()
    }

    /// Keeps the first `len` bytes; longer than the buffer changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Sets the length, up to the capacity. Bytes gained hold arbitrary contents.
    ///
    /// # Panics
    /// If `len` exceeds the capacity.
    pub fn resize(&mut self, len: usize) {
        assert!(len <= self.capacity(), "buffer cannot grow to {len} bytes");
        self.len = len;
    }

    /// Makes it immutable and shareable. Costs nothing.
    #[must_use]
    pub fn freeze(self) -> SharedBuffer {
        let shared = SharedBuffer {
            slot: self.slot,
            start: 0,
            len: self.len,
        };
        // The one reference that this buffer holds passes to the shared one.
        std::mem::forget(self);
        shared
    }

    /// Where its memory begins, for the kernel.
    pub(crate) fn memory(&self) -> NonNull<u8> {
        self.slot().memory()
    }

    /// The region of the arena that it lies in, if any.
    pub(crate) fn region(&self) -> Option<RegionId> {
        self.slot().region()
    }

    fn slot(&self) -> &Slot {
        // SAFETY: a slot outlives every handle on it: it lives in the arena that it holds while
        // in use, and this handle keeps it in use.
        unsafe { self.slot.as_ref() }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the memory is mapped, initialised (by zeroes at least), at least `len` long
        // and, as this handle is the only one, written by nobody else.
        unsafe { std::slice::from_raw_parts(self.memory().as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`; the handle is borrowed mutably and unique.
        unsafe { std::slice::from_raw_parts_mut(self.memory().as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        Arena::release(self.slot);
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.len)
    }
}

/// Immutable, counted memory of a pool, or a part of it. Dereferences to its bytes.
pub struct SharedBuffer {
    slot: NonNull<Slot>,
    start: usize,
    len: usize,
}

impl SharedBuffer {
    /// The bytes in `range`, sharing the memory.
    ///
    /// # Panics
    /// If the range does not lie within the buffer.
    #[must_use]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Self {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&end) => end + 1,
            Bound::Excluded(&end) => end,
            Bound::Unbounded => self.len,
        };
        assert!(
            start <= end && end <= self.len,
            "slice {start}..{end} of {} bytes",
            self.len
        );
        let mut part = self.clone();
        part.start += start;
        part.len = end - start;
        part
    }

    /// Whether both its address and its length are multiples of [`PAGE_BYTES`], as a disk needs.
    #[must_use]
    pub fn is_aligned(&self) -> bool {
        self.start.is_multiple_of(PAGE_BYTES) && self.len.is_multiple_of(PAGE_BYTES)
    }

    /// Makes it writable again if this is the only handle on its memory and covers it from the
    /// start.
    ///
    /// # Errors
    /// Gives it back unchanged if it is shared or begins within its memory.
    pub fn try_thaw(self) -> Result<Buffer, Self> {
        if self.start != 0 || self.references().get() != 1 {
            return Err(self);
        }
        let buffer = Buffer {
            slot: self.slot,
            len: self.len,
        };
        std::mem::forget(self);
        Ok(buffer)
    }

    /// The region of the arena that it lies in, if any.
    pub(crate) fn region(&self) -> Option<RegionId> {
        // SAFETY: as for `Buffer::slot`.
        unsafe { self.slot.as_ref() }.region()
    }

    fn references(&self) -> &Cell<u32> {
        // SAFETY: as for `Buffer::slot`.
        unsafe { self.slot.as_ref() }.references()
    }
}

impl Clone for SharedBuffer {
    fn clone(&self) -> Self {
        let references = self.references();
        references.set(
            references
                .get()
                .checked_add(1)
                .expect("buffer shared too often"),
        );
        Self {
            slot: self.slot,
            start: self.start,
            len: self.len,
        }
    }
}

impl Drop for SharedBuffer {
    fn drop(&mut self) {
        Arena::release(self.slot);
    }
}

impl Deref for SharedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start + len` lies within the slot's memory (checked when sliced), which is
        // mapped and initialised; no writable handle exists while a shared one does.
        unsafe {
            let slot = self.slot.as_ref();
            std::slice::from_raw_parts(slot.memory().as_ptr().add(self.start), self.len)
        }
    }
}

impl AsRef<[u8]> for SharedBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Buffer> for SharedBuffer {
    fn from(buffer: Buffer) -> Self {
        buffer.freeze()
    }
}

impl fmt::Debug for SharedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedBuffer({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests;
