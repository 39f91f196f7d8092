//! A block device in memory: the reference that `Volume` is held against, and what front ends are
//! tested on.
//!
//! Every operation takes effect at once, so requests never overlap. Nothing survives it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use ashlar_proto::limits::{BLOCK_BYTES, BLOCK_BYTES_U64};
use ashlar_proto::message::{BlockKind, Extent};
use ashlar_reactor::{Buffer, Reactor, SharedBuffer};

use crate::block_device::{BlockDevice, BlockError, Durability, Geometry, ZeroMode};
use crate::range::{SECTOR_BYTES, check_range, check_sized, touched_blocks, whole_blocks};

/// Longest read or write, in bytes.
const REQUEST_BYTES_MAX: u32 = 32 << 20;

type Block = Box<[u8]>;

/// A block device whose blocks are kept in memory; clones are handles on the same one.
#[derive(Clone)]
pub struct MemoryDevice {
    shared: Rc<Shared>,
}

struct Shared {
    reactor: Reactor,
    geometry: Geometry,
    blocks: RefCell<BTreeMap<u64, Option<Block>>>,
    flushes: Cell<u64>,
}

impl std::fmt::Debug for MemoryDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryDevice")
            .field("geometry", &self.shared.geometry)
            .finish_non_exhaustive()
    }
}

impl MemoryDevice {
    /// A device of `size_bytes` (rounded down to whole sectors) that reads as zeroes.
    #[must_use]
    pub fn new(reactor: &Reactor, size_bytes: u64) -> Self {
        Self::with_geometry(
            reactor,
            Geometry {
                size_bytes: size_bytes / SECTOR_BYTES * SECTOR_BYTES,
                block_bytes_min: 512,
                block_bytes_preferred: 4096,
                request_bytes_max: REQUEST_BYTES_MAX,
                read_only: false,
            },
        )
    }

    /// A device that says `geometry` of itself.
    #[must_use]
    pub fn with_geometry(reactor: &Reactor, geometry: Geometry) -> Self {
        let shared = Shared {
            reactor: reactor.clone(),
            geometry,
            blocks: RefCell::new(BTreeMap::new()),
            flushes: Cell::new(0),
        };
        Self {
            shared: Rc::new(shared),
        }
    }

    /// How many flushes (and durable writes) it has carried out.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        self.shared.flushes.get()
    }

    fn note_durability(&self, durability: Durability) {
        if durability == Durability::Durable {
            self.shared.flushes.set(self.shared.flushes.get() + 1);
        }
    }

    fn check_write(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        if self.shared.geometry.read_only {
            return Err(BlockError::ReadOnly);
        }
        check_range(&self.shared.geometry, offset, len)
    }

    fn store(&self, offset: u64, bytes: &[u8]) {
        let mut blocks = self.shared.blocks.borrow_mut();
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let within = in_block(at);
            let take = rest.len().min(BLOCK_BYTES - within);
            let block = blocks.entry(at / BLOCK_BYTES_U64).or_default();
            let block = block.get_or_insert_with(|| vec![0; BLOCK_BYTES].into());
            block[within..within + take].copy_from_slice(&rest[..take]);
            rest = &rest[take..];
            at += take as u64;
        }
    }

    fn zero_edge(&self, offset: u64, len: u64) {
        let mut blocks = self.shared.blocks.borrow_mut();
        let within = in_block(offset);
        if let Some(Some(block)) = blocks.get_mut(&(offset / BLOCK_BYTES_U64)) {
            let len = usize::try_from(len).unwrap_or(BLOCK_BYTES);
            block[within..within + len].fill(0);
        }
    }

    fn unmap(&self, first: u64, end: u64) {
        let mut blocks = self.shared.blocks.borrow_mut();
        let held: Vec<u64> = blocks.range(first..end).map(|(&block, _)| block).collect();
        for block in held {
            blocks.insert(block, None);
        }
    }
}

fn in_block(offset: u64) -> usize {
    usize::try_from(offset % BLOCK_BYTES_U64).unwrap_or(0)
}

impl BlockDevice for MemoryDevice {
    fn geometry(&self) -> Geometry {
        self.shared.geometry
    }

    async fn read(&self, offset: u64, len: u32) -> Result<Vec<SharedBuffer>, BlockError> {
        check_sized(&self.shared.geometry, offset, u64::from(len))?;
        let mut buffer = self
            .shared
            .reactor
            .buffer(usize::try_from(len).unwrap_or(0));
        let blocks = self.shared.blocks.borrow();
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let within = in_block(at);
            let take = (buffer.len() - done).min(BLOCK_BYTES - within);
            let target = &mut buffer[done..done + take];
            match blocks.get(&(at / BLOCK_BYTES_U64)) {
                Some(Some(block)) => target.copy_from_slice(&block[within..within + take]),
                _ => target.fill(0),
            }
            done += take;
        }
        Ok(vec![buffer.freeze()])
    }

    async fn write(
        &self,
        offset: u64,
        data: Buffer,
        durability: Durability,
    ) -> Result<(), BlockError> {
        self.check_write(offset, data.len() as u64)?;
        check_sized(&self.shared.geometry, offset, data.len() as u64)?;
        self.store(offset, &data);
        self.note_durability(durability);
        Ok(())
    }

    async fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        mode: ZeroMode,
        durability: Durability,
    ) -> Result<(), BlockError> {
        self.check_write(offset, len)?;
        let (first, end) = whole_blocks(offset, len);
        if mode == ZeroMode::Allocate {
            let zeroes = [0; BLOCK_BYTES];
            let mut at = offset;
            while at < offset + len {
                let take = (offset + len - at).min(BLOCK_BYTES_U64 - at % BLOCK_BYTES_U64);
                self.store(at, &zeroes[..usize::try_from(take).unwrap_or(0)]);
                at += take;
            }
        } else if first >= end {
            let mut at = offset;
            while at < offset + len {
                let take = (offset + len - at).min(BLOCK_BYTES_U64 - at % BLOCK_BYTES_U64);
                self.zero_edge(at, take);
                at += take;
            }
        } else {
            self.zero_edge(offset, first * BLOCK_BYTES_U64 - offset);
            self.unmap(first, end);
            self.zero_edge(end * BLOCK_BYTES_U64, offset + len - end * BLOCK_BYTES_U64);
        }
        self.note_durability(durability);
        Ok(())
    }

    async fn trim(&self, offset: u64, len: u64, durability: Durability) -> Result<(), BlockError> {
        self.check_write(offset, len)?;
        let (first, end) = whole_blocks(offset, len);
        if first < end {
            self.unmap(first, end);
        }
        self.note_durability(durability);
        Ok(())
    }

    async fn flush(&self) -> Result<(), BlockError> {
        self.note_durability(Durability::Durable);
        Ok(())
    }

    async fn extents(
        &self,
        offset: u64,
        len: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>, BlockError> {
        let geometry = &self.shared.geometry;
        let size = geometry.size_bytes;
        if offset >= size || len == 0 || len > size - offset {
            return Err(BlockError::OutOfRange);
        }
        let (first, end) = touched_blocks(offset, len);
        let blocks = self.shared.blocks.borrow();
        let mut runs = Runs::new(extents_max);
        let mut next = first;
        for (&block, held) in blocks.range(first..end) {
            let kind = match held {
                Some(_) => BlockKind::Data,
                None => BlockKind::Zero,
            };
            if !(runs.push(block - next, BlockKind::Absent) && runs.push(1, kind)) {
                return Ok(runs.extents);
            }
            next = block + 1;
        }
        runs.push(end - next, BlockKind::Absent);
        Ok(runs.extents)
    }
}

/// Gathers blocks into runs of one kind, up to a number of runs.
struct Runs {
    extents: Vec<Extent>,
    extents_max: usize,
}

impl Runs {
    fn new(extents_max: usize) -> Self {
        Self {
            extents: Vec::new(),
            extents_max: extents_max.max(1),
        }
    }

    /// Adds `count` blocks; false when there was no room for all of them.
    fn push(&mut self, count: u64, kind: BlockKind) -> bool {
        crate::range::push_run(&mut self.extents, self.extents_max, count, kind)
    }
}
