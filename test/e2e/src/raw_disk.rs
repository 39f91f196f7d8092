//! Finds things on a disk that nobody has open, to damage them: a reading of docs/format.md that
//! owes nothing to the store's code.

use anyhow::{Context, Result, ensure};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

const BLOCK: usize = 4096;
const BATCH_MAGIC: &[u8; 4] = b"ASHB";
/// Bytes of a batch header before its entries.
const FIXED: usize = 64;
/// Bytes of an entry before its checksums.
const ENTRY: usize = 24;
/// Blocks read at once.
const CHUNK: usize = 1024;

/// What a batch's entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Blocks of data.
    Data,
    /// A leaf of the map.
    Leaf,
    /// A root page of the map.
    Root,
    /// Zeroes, records: nothing that has a payload.
    Other,
}

/// An entry of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// The shard's handle.
    pub handle: u32,
    /// Its first block, or the index of the page.
    pub first: u32,
    /// Blocks that it concerns.
    pub count: u32,
    /// Where its payload begins, in bytes.
    pub payload: u64,
    /// Where its batch's header is, in bytes.
    pub header: u64,
    /// Its batch's number in the log.
    pub lsn: u64,
    /// Up to which number the log was durable when it was written.
    pub durable: u64,
}

/// Every entry of every batch that lies on the disk, in the order of the log; some are dead.
///
/// # Errors
///
/// If the disk cannot be read.
pub fn entries(path: &Path) -> Result<Vec<Entry>> {
    let file = File::open(path)?;
    let blocks = file.metadata()?.len() / BLOCK as u64;
    let mut found = Vec::new();
    let mut chunk = vec![0; CHUNK * BLOCK];
    let mut first = 0;
    while first < blocks {
        let count = usize::try_from((blocks - first).min(CHUNK as u64))?;
        let bytes = &mut chunk[..count * BLOCK];
        file.read_exact_at(bytes, first * BLOCK as u64)?;
        for (address, block) in (first..).zip(bytes.chunks(BLOCK)) {
            if block.starts_with(BATCH_MAGIC) && u64_at(block, 16) == Some(address) {
                // A header may go on in the next chunk.
                let header_blocks = u32_at(block, 48).context("a block is short")?.clamp(1, 4);
                let mut header = vec![0; usize::try_from(header_blocks)? * BLOCK];
                file.read_exact_at(&mut header, address * BLOCK as u64)?;
                found.extend(batch(&header, address).unwrap_or_default());
            }
        }
        first += count as u64;
    }
    found.sort_by_key(|entry| entry.lsn);
    Ok(found)
}

/// The entries of one batch; none if it is no batch after all.
fn batch(header: &[u8], address: u64) -> Option<Vec<Entry>> {
    let (lsn, durable) = (u64_at(header, 24)?, u64_at(header, 32)?);
    let mut payload = address + (header.len() / BLOCK) as u64;
    let mut at = FIXED;
    let mut entries = Vec::new();
    for _ in 0..u32_at(header, 56)? {
        let word = u64_at(header, at)?;
        let count = u32_at(header, at + 8)?;
        let (kind, payload_blocks, more) = match (word >> 48) & 0xff {
            1 => (
                Kind::Data,
                u64::from(count),
                usize::try_from(count).ok()? * 4,
            ),
            4 => (Kind::Leaf, 1, 4),
            5 => (Kind::Root, 1, 4),
            2 | 3 => (Kind::Other, 0, 0),
            _ => {
                let bytes = usize::try_from(u32_at(header, at + ENTRY)?).ok()?;
                (Kind::Other, 0, 4 + bytes.next_multiple_of(4))
            }
        };
        entries.push(Entry {
            kind,
            handle: u32_at(header, at + 12)?,
            first: u32_at(header, at + 20)?,
            count,
            payload: payload * BLOCK as u64,
            header: address * BLOCK as u64,
            lsn,
            durable,
        });
        payload += payload_blocks;
        at += ENTRY + more;
    }
    Some(entries)
}

/// The newest entry of a kind for each (handle, first block or page index).
#[must_use]
pub fn newest(entries: &[Entry], kind: Kind) -> HashMap<(u32, u32), Entry> {
    let of_kind = entries.iter().filter(|entry| entry.kind == kind);
    // In the order of the log: the last one stays.
    of_kind
        .map(|entry| ((entry.handle, entry.first), *entry))
        .collect()
}

/// Flips one bit.
///
/// # Errors
///
/// If the disk cannot be read or written there.
pub fn flip_bit(path: &Path, offset: u64, bit: u8) -> Result<()> {
    ensure!(bit < 8, "a byte has no bit {bit}");
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    byte[0] ^= 1 << bit;
    file.write_all_at(&byte, offset)?;
    file.sync_all()?;
    Ok(())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
