//! What every [`BlockDevice`] must do, as one suite that runs against any of them.
//!
//! The device must be empty and at least 8 MiB; it is left full of the suite's data. A case that
//! does not hold panics with its story.

use std::rc::Rc;

use ashlar_proto::message::BlockKind;
use ashlar_reactor::{Buffer, Reactor, SharedBuffer};

use crate::block_device::{BlockDevice, BlockError, Durability, ZeroMode};

const BLOCK: u64 = 4096;
const MODEL_BYTES: usize = 4 << 20;

/// Runs all cases, one after the other.
///
/// # Panics
/// When the device does not conform.
pub async fn run<D: BlockDevice>(reactor: &Reactor, device: &D) {
    unwritten_reads_as_zeroes(device).await;
    refuses_what_is_out_of_line(reactor, device).await;
    written_bytes_come_back(reactor, device).await;
    sectors_keep_their_neighbours(reactor, device).await;
    zeroes_of_every_kind(reactor, device).await;
    trim_leaves_edges(reactor, device).await;
    extents_cover_the_range(reactor, device).await;
    largest_request_round_trips(reactor, device).await;
    overlapping_writes_settle_block_by_block(reactor, device).await;
    completed_writes_are_seen(reactor, device).await;
}

/// A buffer that holds `bytes`.
#[must_use]
pub fn buffer_of(reactor: &Reactor, bytes: &[u8]) -> Buffer {
    let mut buffer = reactor.buffer(bytes.len());
    buffer.copy_from_slice(bytes);
    buffer
}

/// The bytes of what a read gave, in one piece.
#[must_use]
pub fn bytes_of(pieces: &[SharedBuffer]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.extend_from_slice(piece);
    }
    bytes
}

/// Bytes that depend on `seed` and nothing else.
#[must_use]
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&dice.roll().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A small generator of its own, so that a run depends on its seed alone.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Seeded; any number will do.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        (self.roll() >> 11) % bound.max(1)
    }
}

async fn read<D: BlockDevice>(device: &D, offset: u64, len: u64) -> Vec<u8> {
    let len = u32::try_from(len).expect("reads of the suite are short");
    let pieces = device.read(offset, len).await.expect("read succeeds");
    let bytes = bytes_of(&pieces);
    assert_eq!(bytes.len(), len as usize, "a read gives what was asked for");
    bytes
}

async fn write<D: BlockDevice>(reactor: &Reactor, device: &D, offset: u64, bytes: &[u8]) {
    let buffer = buffer_of(reactor, bytes);
    let done = device.write(offset, buffer, Durability::Accepted).await;
    assert_eq!(done, Ok(()), "write of {} bytes at {offset}", bytes.len());
}

async fn unwritten_reads_as_zeroes<D: BlockDevice>(device: &D) {
    let geometry = device.geometry();
    assert!(geometry.size_bytes >= 8 << 20, "the suite needs 8 MiB");
    for offset in [0, 512, geometry.size_bytes - 8192] {
        let bytes = read(device, offset, 8192).await;
        assert!(bytes.iter().all(|&b| b == 0), "unwritten at {offset}");
    }
}

async fn refuses_what_is_out_of_line<D: BlockDevice>(reactor: &Reactor, device: &D) {
    let size = device.geometry().size_bytes;
    let unaligned = Err(BlockError::Unaligned);
    let beyond = Err(BlockError::OutOfRange);
    let nothing = |pieces: Vec<SharedBuffer>| assert!(pieces.is_empty());
    assert_eq!(device.read(1, 512).await.map(nothing), unaligned);
    assert_eq!(device.read(0, 0).await.map(nothing), unaligned);
    assert_eq!(device.read(0, 513).await.map(nothing), unaligned);
    assert_eq!(device.read(size, 512).await.map(nothing), beyond);
    assert_eq!(device.read(size - 512, 1024).await.map(nothing), beyond);
    assert_eq!(device.read(u64::MAX - 511, 512).await.map(nothing), beyond);
    let accepted = Durability::Accepted;
    let sector = || buffer_of(reactor, &[1; 512]);
    assert_eq!(device.write(100, sector(), accepted).await, unaligned);
    assert_eq!(device.write(size, sector(), accepted).await, beyond);
    assert_eq!(device.trim(size, 512, accepted).await, beyond);
    assert_eq!(device.trim(3, 512, accepted).await, unaligned);
    let zeroed = device.write_zeroes(512, size, ZeroMode::Unmap, accepted);
    assert_eq!(zeroed.await, beyond);
    assert!(read(device, size - 512, 512).await.iter().all(|&b| b == 0));
}

async fn written_bytes_come_back<D: BlockDevice>(reactor: &Reactor, device: &D) {
    let mut model = vec![0; MODEL_BYTES];
    let mut dice = Dice::new(7);
    for round in 0..64 {
        let len = (1 + dice.below(64)) * 512;
        let offset = dice.below((MODEL_BYTES as u64 - len) / 512) * 512;
        let bytes = pattern(round, usize::try_from(len).expect("short"));
        write(reactor, device, offset, &bytes).await;
        let at = usize::try_from(offset).expect("short");
        model[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    assert_eq!(device.flush().await, Ok(()));
    assert!(read(device, 0, MODEL_BYTES as u64).await == model, "model");
    for _ in 0..32 {
        let len = (1 + dice.below(100)) * 512;
        let offset = dice.below((MODEL_BYTES as u64 - len) / 512) * 512;
        let at = usize::try_from(offset).expect("short");
        let expected = &model[at..at + usize::try_from(len).expect("short")];
        assert!(read(device, offset, len).await == expected, "at {offset}");
    }
}

async fn sectors_keep_their_neighbours<D: BlockDevice>(reactor: &Reactor, device: &D) {
    let mut expected = pattern(1, 8192);
    write(reactor, device, 0, &expected).await;
    let sector = pattern(2, 512);
    write(reactor, device, 3584, &sector).await;
    write(reactor, device, 4096, &sector).await;
    expected[3584..4096].copy_from_slice(&sector);
    expected[4096..4608].copy_from_slice(&sector);
    assert!(read(device, 0, 8192).await == expected);
    assert!(read(device, 3584, 1024).await == expected[3584..4608]);
}

async fn zeroes_of_every_kind<D: BlockDevice>(reactor: &Reactor, device: &D) {
    for mode in [ZeroMode::Unmap, ZeroMode::Allocate] {
        for (offset, len) in [(512, 512), (3584, 1024), (4096, 8192), (512, 20_480)] {
            let mut expected = pattern(offset, 32_768);
            write(reactor, device, 0, &expected).await;
            let zeroed = device.write_zeroes(offset, len, mode, Durability::Durable);
            assert_eq!(zeroed.await, Ok(()));
            let (from, len) = (
                usize::try_from(offset).expect("short"),
                usize::try_from(len).expect("short"),
            );
            expected[from..from + len].fill(0);
            assert!(read(device, 0, 32_768).await == expected, "{mode:?} {from}");
        }
    }
    let size = device.geometry().size_bytes;
    let all = device.write_zeroes(0, size, ZeroMode::Unmap, Durability::Accepted);
    assert_eq!(all.await, Ok(()));
    assert!(read(device, 0, 1 << 20).await.iter().all(|&b| b == 0));
}

async fn trim_leaves_edges<D: BlockDevice>(reactor: &Reactor, device: &D) {
    let mut expected = pattern(5, 32_768);
    write(reactor, device, 0, &expected).await;
    let accepted = Durability::Accepted;
    assert_eq!(device.trim(512, 2048, accepted).await, Ok(()));
    assert!(read(device, 0, 32_768).await == expected, "no whole block");
    assert_eq!(device.trim(3584, 10_240, accepted).await, Ok(()));
    expected[4096..12_288].fill(0);
    assert!(read(device, 0, 32_768).await == expected, "edges stay");
    let size = device.geometry().size_bytes;
    assert_eq!(device.trim(0, size, accepted).await, Ok(()));
    assert!(read(device, 0, 32_768).await.iter().all(|&b| b == 0));
}

async fn extents_cover_the_range<D: BlockDevice>(reactor: &Reactor, device: &D) {
    write(reactor, device, 16 * BLOCK, &pattern(6, 8192)).await;
    let extents = device.extents(0, 64 * BLOCK, 64).await.expect("extents");
    let mut kinds = Vec::new();
    for extent in &extents {
        kinds.extend(vec![extent.kind; extent.count.get() as usize]);
    }
    assert_eq!(kinds.len(), 64, "extents cover what was asked for");
    let data: Vec<usize> = (0..64).filter(|&i| kinds[i] == BlockKind::Data).collect();
    assert_eq!(data, [16, 17]);
    let one = device.extents(0, 64 * BLOCK, 1).await.expect("extents");
    assert_eq!(one.len(), 1, "no more runs than asked for");
    let size = device.geometry().size_bytes;
    let whole = device.extents(0, size, 100_000).await.expect("extents");
    let blocks: u64 = whole.iter().map(|e| e.count.bytes()).sum();
    assert_eq!(blocks, size, "extents of the whole device");
    let beyond = device.extents(size, 4096, 1).await;
    assert_eq!(beyond, Err(BlockError::OutOfRange));
}

async fn largest_request_round_trips<D: BlockDevice>(reactor: &Reactor, device: &D) {
    let geometry = device.geometry();
    let len = u64::from(geometry.request_bytes_max).min(geometry.size_bytes) - 512;
    let bytes = pattern(8, usize::try_from(len).expect("fits"));
    write(reactor, device, 512, &bytes).await;
    assert!(read(device, 512, len).await == bytes);
}

/// Each block must hold one writer's bytes in whole sectors of that writer.
async fn overlapping_writes_settle_block_by_block<D: BlockDevice>(reactor: &Reactor, device: &D) {
    let cleared = device.write_zeroes(0, 32_768, ZeroMode::Unmap, Durability::Accepted);
    assert_eq!(cleared.await, Ok(()));
    let mut writers = Vec::new();
    for writer in 0..24u8 {
        let (device, handle) = (device.clone(), reactor.clone());
        writers.push(reactor.spawn(async move {
            let sectors = 4 + usize::from(writer) % 13;
            let offset = u64::from(writer % 5) * 1536;
            let bytes = vec![writer + 1; sectors * 512];
            write(&handle, &device, offset, &bytes).await;
        }));
    }
    for writer in writers {
        writer.await;
    }
    let bytes = read(device, 0, 32_768).await;
    for sector in bytes.chunks(512) {
        let whole = sector.iter().all(|&b| b == sector[0]);
        assert!(whole, "a sector holds one writer's bytes");
    }
    assert!(bytes[..2048].iter().all(|&b| b > 0));
}

/// Concurrent writers on blocks of their own, each reading back what it wrote.
async fn completed_writes_are_seen<D: BlockDevice>(reactor: &Reactor, device: &D) {
    let mut writers = Vec::new();
    let flushes = Rc::new(std::cell::Cell::new(0));
    for writer in 0..16u64 {
        let (device, handle, flushes) = (device.clone(), reactor.clone(), Rc::clone(&flushes));
        writers.push(reactor.spawn(async move {
            let mut dice = Dice::new(100 + writer);
            for round in 0..12 {
                let offset = (dice.below(16) * 16 + writer) * BLOCK;
                let bytes = pattern(dice.roll(), 4096);
                write(&handle, &device, offset, &bytes).await;
                assert!(read(&device, offset, BLOCK).await == bytes, "own write");
                if round % 4 == 3 {
                    assert_eq!(device.flush().await, Ok(()));
                    flushes.set(flushes.get() + 1);
                }
                assert!(read(&device, offset, BLOCK).await == bytes, "own write");
            }
        }));
    }
    for writer in writers {
        writer.await;
    }
    assert_eq!(flushes.get(), 48);
}
