//! The header of a qcow2 file: checked against what is read here and against the file's length.

use super::{half, word};
use crate::{ImageError, ReadAt};

/// How each qcow2 file begins.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Bytes of the header of version 2, and of the fields of version 3 that every file has.
const V2_BYTES: usize = 72;
const V3_BYTES: usize = 104;
/// Where version 3 has the compression's type, if its header is long enough.
const COMPRESSION_AT: usize = 104;

/// 512 bytes to 2 MiB.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Most bytes of an L1 table; QEMU's own limit.
const L1_BYTES_MAX: u64 = 32 << 20;

/// Refcounts may be wrong, the mapping is not: harmless to a reader.
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

/// How compressed clusters are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Deflate,
    Zstd,
}

/// What a reader needs of the header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) size_bytes: u64,
    pub(super) l1_offset: u64,
    /// Entries that cover the size.
    pub(super) l1_entries: usize,
    pub(super) compression: Compression,
}

impl Header {
    pub(super) fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of the disk that one L2 table covers.
    pub(super) fn l2_covers(&self) -> u64 {
        self.cluster_bytes() * (self.cluster_bytes() / 8)
    }

    /// Reads and checks it.
    pub(super) fn read(file: &impl ReadAt) -> Result<Self, ImageError> {
        let mut bytes = [0; COMPRESSION_AT + 8];
        let count = file.fill(&mut bytes, 0)?;
        if !bytes.starts_with(&MAGIC) || count < MAGIC.len() {
            return Err(ImageError::NotQcow2);
        }
        let file_bytes = file.len_bytes()?;
        let truncated = |what, offset| ImageError::Truncated {
            what,
            offset,
            file_bytes,
        };
        if count < V2_BYTES {
            return Err(truncated("its header", 0));
        }
        let version = half(&bytes, 4);
        let compression = match version {
            2 => Compression::Deflate,
            3 if count < V3_BYTES => return Err(truncated("its header", 0)),
            3 => features(&bytes)?,
            _ => return Err(unsupported("is of a version other than 2 and 3")),
        };
        if word(&bytes, 8) != 0 {
            return Err(unsupported("has a backing file"));
        }
        if half(&bytes, 32) != 0 {
            return Err(unsupported("is encrypted"));
        }
        let cluster_bits = half(&bytes, 20);
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(damaged("an impossible cluster size", 20));
        }
        let mut header = Self {
            version,
            cluster_bits,
            size_bytes: word(&bytes, 24),
            l1_offset: word(&bytes, 40),
            l1_entries: 0,
            compression,
        };
        let needed = header.size_bytes.div_ceil(header.l2_covers());
        let l1_bytes = needed.saturating_mul(8);
        if l1_bytes > L1_BYTES_MAX {
            return Err(damaged("an impossible size of the disk", 24));
        }
        if u64::from(half(&bytes, 36)) < needed {
            return Err(damaged("an L1 table too short for the disk", 36));
        }
        if !header.l1_offset.is_multiple_of(header.cluster_bytes()) {
            return Err(damaged("an L1 table that is not aligned", 40));
        }
        let end = header.l1_offset.checked_add(l1_bytes);
        if end.is_none_or(|end| end > file_bytes) {
            return Err(truncated("its L1 table", header.l1_offset));
        }
        header.l1_entries = usize::try_from(needed).unwrap_or(usize::MAX);
        Ok(header)
    }
}

/// What version 3 says of its features.
fn features(bytes: &[u8]) -> Result<Compression, ImageError> {
    let incompatible = word(bytes, 72);
    let known = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2;
    if incompatible & !known != 0 {
        return Err(unsupported("needs features that are not known here"));
    }
    if incompatible & CORRUPT != 0 {
        return Err(damaged("it is marked as corrupt", 72));
    }
    if incompatible & EXTERNAL_DATA != 0 {
        return Err(unsupported("keeps its data in another file"));
    }
    if incompatible & EXTENDED_L2 != 0 {
        return Err(unsupported("has extended L2 tables (subclusters)"));
    }
    if incompatible & COMPRESSION_TYPE == 0 {
        return Ok(Compression::Deflate);
    }
    let header_bytes = usize::try_from(half(bytes, 100)).unwrap_or(0);
    if header_bytes <= COMPRESSION_AT {
        return Err(damaged(
            "a header without the compression that it names",
            100,
        ));
    }
    match bytes[COMPRESSION_AT] {
        0 => Ok(Compression::Deflate),
        1 => Ok(Compression::Zstd),
        _ => Err(unsupported("is compressed in a way not known here")),
    }
}

fn unsupported(feature: &'static str) -> ImageError {
    ImageError::Unsupported { feature }
}

fn damaged(what: &'static str, offset: u64) -> ImageError {
    ImageError::Damaged { what, offset }
}
