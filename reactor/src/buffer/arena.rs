//! Where the memory of buffers comes from: regions mapped once, cut into slots of one class.
//!
//! ```text
//! class 0 … 10 = 4 KiB … 4 MiB: region (2 MiB or one slot) ─cut→ slots ─free list of the class
//! larger: a region of its own, unmapped when it is released
//! ```

use super::PAGE_BYTES;
use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::rc::Rc;

/// Classes of pooled sizes: 4 KiB doubled up to ten times.
const CLASSES: usize = 11;
const LARGEST_CLASS_BYTES: usize = PAGE_BYTES << (CLASSES - 1);
/// Least size of a region: one huge page, where the system grants these.
const REGION_BYTES: usize = 2 << 20;
/// A class that has more than this free gives the pages of further slots back to the system.
const FREE_BYTES_MAX: usize = 64 << 20;

const _: () = assert!(LARGEST_CLASS_BYTES == 4 << 20);
const _: () = assert!(REGION_BYTES.is_multiple_of(PAGE_BYTES));

/// Names a pooled region of an arena, counting from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RegionId(pub(crate) u32);

/// What is known of one piece of memory.
pub(crate) struct Slot {
    memory: NonNull<u8>,
    capacity: usize,
    /// `None` for a region of its own.
    region: Option<RegionId>,
    references: Cell<u32>,
    /// Held while in use, so that neither memory nor slot go away.
    arena: Cell<Option<Rc<Arena>>>,
}

impl Slot {
    pub(crate) fn memory(&self) -> NonNull<u8> {
        self.memory
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn region(&self) -> Option<RegionId> {
        self.region
    }

    pub(crate) fn references(&self) -> &Cell<u32> {
        &self.references
    }
}

/// The regions of a pool and the free lists of its classes.
pub(crate) struct Arena {
    free: [RefCell<Vec<NonNull<Slot>>>; CLASSES],
    regions: RefCell<Vec<Region>>,
    /// Regions that [`Arena::take_new_regions`] has told of.
    regions_told: Cell<usize>,
    regions_len: Cell<usize>,
    mapped_bytes: Cell<usize>,
}

struct Region {
    memory: NonNull<u8>,
    bytes: usize,
    /// Keeps the slots alive and in place: free lists and handles point into it.
    _slots: Box<[Slot]>,
    pinned: bool,
}

impl Arena {
    pub(crate) fn new() -> Self {
        Self {
            free: Default::default(),
            regions: RefCell::default(),
            regions_told: Cell::new(0),
            regions_len: Cell::new(0),
            mapped_bytes: Cell::new(0),
        }
    }

    pub(crate) fn mapped_bytes(&self) -> usize {
        self.mapped_bytes.get()
    }

    /// A slot of at least `len` bytes with one reference.
    pub(crate) fn take(this: &Rc<Self>, len: usize) -> NonNull<Slot> {
        let slot = if len > LARGEST_CLASS_BYTES {
            this.map_single(len)
        } else {
            let class = class_of(len);
            let free = this.free[class].borrow_mut().pop();
            free.unwrap_or_else(|| this.map_class(class))
        };
        // SAFETY: slots of a region live as long as the arena, a single one until its release.
        let slot_ref = unsafe { slot.as_ref() };
        slot_ref.references.set(1);
        slot_ref.arena.set(Some(Rc::clone(this)));
        slot
    }

    /// Drops one reference; the last one returns the slot.
    pub(crate) fn release(slot: NonNull<Slot>) {
        // SAFETY: the caller holds a reference, so the slot is in use and alive.
        let slot_ref = unsafe { slot.as_ref() };
        let references = slot_ref.references.get();
        slot_ref.references.set(references - 1);
        if references > 1 {
            return;
        }
        let arena = slot_ref.arena.take().expect("slot in use has its arena");
        if slot_ref.region.is_some() {
            arena.give_back(slot, slot_ref);
        } else {
            arena.unmap_single(slot);
        }
    }

    fn give_back(&self, slot: NonNull<Slot>, slot_ref: &Slot) {
        let class = class_of(slot_ref.capacity);
        let mut free = self.free[class].borrow_mut();
        if free.len() * slot_ref.capacity >= FREE_BYTES_MAX && !self.is_pinned(slot_ref) {
            // SAFETY: the range is this slot's own memory, private and anonymous, with no other
            // handle on it; it reads as zeroes afterwards, so it stays initialised.
            unsafe {
                libc::madvise(
                    slot_ref.memory.as_ptr().cast(),
                    slot_ref.capacity,
                    libc::MADV_DONTNEED,
                );
            }
        }
        free.push(slot);
    }

    /// Pages that the kernel has pinned must not be dropped: it would go on with the old ones.
    fn is_pinned(&self, slot: &Slot) -> bool {
        slot.region
            .is_some_and(|region| self.regions.borrow()[region.0 as usize].pinned)
    }

    /// Maps a region of `class`, keeps all its slots but one free and returns that.
    fn map_class(&self, class: usize) -> NonNull<Slot> {
        let slot_bytes = PAGE_BYTES << class;
        let bytes = REGION_BYTES.max(slot_bytes);
        let memory = take_spare(bytes).unwrap_or_else(|| map(bytes));
        let mut regions = self.regions.borrow_mut();
        let region = RegionId(u32::try_from(regions.len()).expect("regions are counted in u32"));
        let slots: Box<[Slot]> = (0..bytes / slot_bytes)
            .map(|index| Slot {
                // SAFETY: the offset lies within the mapping of `bytes`.
                memory: unsafe { memory.add(index * slot_bytes) },
                capacity: slot_bytes,
                region: Some(region),
                references: Cell::new(0),
                arena: Cell::new(None),
            })
            .collect();
        let mut pointers = slots.iter().rev().map(NonNull::from);
        let mut free = self.free[class].borrow_mut();
        free.extend(&mut pointers);
        let slot = free.pop().expect("a region has a slot");
        regions.push(Region {
            memory,
            bytes,
            _slots: slots,
            pinned: false,
        });
        self.regions_len.set(regions.len());
        self.mapped_bytes.set(self.mapped_bytes.get() + bytes);
        slot
    }

    fn map_single(&self, len: usize) -> NonNull<Slot> {
        let bytes = len.next_multiple_of(PAGE_BYTES);
        self.mapped_bytes.set(self.mapped_bytes.get() + bytes);
        let slot = Box::new(Slot {
            memory: map(bytes),
            capacity: bytes,
            region: None,
            references: Cell::new(0),
            arena: Cell::new(None),
        });
        NonNull::from(Box::leak(slot))
    }

    fn unmap_single(&self, slot: NonNull<Slot>) {
        // SAFETY: the slot came from `map_single` and its last reference is gone.
        let slot = unsafe { Box::from_raw(slot.as_ptr()) };
        self.mapped_bytes
            .set(self.mapped_bytes.get() - slot.capacity);
        unmap(slot.memory, slot.capacity);
    }

    pub(crate) fn has_new_regions(&self) -> bool {
        self.regions_told.get() != self.regions_len.get()
    }

    pub(crate) fn take_new_regions(&self) -> Vec<(RegionId, NonNull<u8>, usize)> {
        let regions = self.regions.borrow();
        let told = self.regions_told.replace(regions.len());
        (0..)
            .map(RegionId)
            .zip(regions.iter())
            .skip(told)
            .map(|(id, region)| (id, region.memory, region.bytes))
            .collect()
    }

    pub(crate) fn pin_region(&self, region: RegionId) {
        self.regions.borrow_mut()[region.0 as usize].pinned = true;
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for region in self.regions.get_mut() {
            if region.pinned || !keep_spare(region.memory, region.bytes) {
                unmap(region.memory, region.bytes);
            }
        }
    }
}

/// Regions of pools that ended on this thread, for those that begin: simulated processes come and
/// go by the hundred, and fresh memory is what they would spend most of their time on.
struct Spare(Vec<(NonNull<u8>, usize)>);

impl Drop for Spare {
    fn drop(&mut self) {
        for (memory, bytes) in self.0.drain(..) {
            unmap(memory, bytes);
        }
    }
}

/// Regions kept for reuse on one thread.
const SPARE_MAX: usize = 64;

thread_local! {
    static SPARE: RefCell<Spare> = const { RefCell::new(Spare(Vec::new())) };
}

fn take_spare(bytes: usize) -> Option<NonNull<u8>> {
    let taken = SPARE.try_with(|spare| {
        let spare = &mut spare.borrow_mut().0;
        let at = spare.iter().rposition(|&(_, size)| size == bytes)?;
        Some(spare.swap_remove(at).0)
    });
    taken.ok().flatten()
}

/// Keeps a region that nobody uses any more, unless there are enough or the thread ends.
fn keep_spare(memory: NonNull<u8>, bytes: usize) -> bool {
    let kept = SPARE.try_with(|spare| {
        let spare = &mut spare.borrow_mut().0;
        let is_kept = spare.len() < SPARE_MAX;
        if is_kept {
            spare.push((memory, bytes));
        }
        is_kept
    });
    kept.unwrap_or(false)
}

/// The class of the smallest slots that hold `len` bytes.
fn class_of(len: usize) -> usize {
    let pages = len.div_ceil(PAGE_BYTES).max(1);
    pages.next_power_of_two().trailing_zeros() as usize
}

/// Maps zeroed memory, aligned to a huge page where it is at least as long.
fn map(bytes: usize) -> NonNull<u8> {
    let slack = if bytes >= REGION_BYTES {
        REGION_BYTES
    } else {
        0
    };
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing of ours.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes + slack,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    assert!(
        start != libc::MAP_FAILED,
        "cannot map {bytes} bytes for buffers: {}",
        std::io::Error::last_os_error()
    );
    let start = NonNull::new(start.cast::<u8>()).expect("a mapping is never at null");
    if slack == 0 {
        return start;
    }
    let skip = start.as_ptr().align_offset(REGION_BYTES);
    // SAFETY: `skip <= slack`, so the aligned address and its `bytes` lie within the mapping; the
    // parts before and after it are whole pages that nobody uses.
    unsafe {
        let aligned = start.add(skip);
        if skip > 0 {
            unmap(start, skip);
        }
        if slack > skip {
            unmap(aligned.add(bytes), slack - skip);
        }
        aligned
    }
}

fn unmap(memory: NonNull<u8>, bytes: usize) {
    // SAFETY: the callers own the range and drop every way to it.
    unsafe {
        libc::munmap(memory.as_ptr().cast(), bytes);
    }
}
