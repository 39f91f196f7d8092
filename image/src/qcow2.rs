//! QEMU's qcow2, versions 2 and 3 (`docs/interop/qcow2.rst` of QEMU).
//!
//! ```text
//! header ─▶ L1 table ─▶ L2 tables ─▶ clusters of data, plain or compressed
//!       └─▶ refcount table ─▶ refcount blocks      one count for each cluster of the file
//! ```

mod compressed;
mod header;
mod read;
mod write;

pub use header::MAGIC;
pub use read::Qcow2Image;
pub use write::Qcow2Target;

/// Bits of an entry of an L1 or L2 table that say where in the file: cluster-aligned.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// The cluster or table has one user: it may be written in place.
const COPIED: u64 = 1 << 63;
/// The cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeroes (version 3).
const ZERO: u64 = 1;

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(word)
}

fn half(bytes: &[u8], at: usize) -> u32 {
    let mut half = [0; 4];
    half.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(half)
}
