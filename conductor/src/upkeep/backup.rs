//! A backup file: all rows at one revision, versioned and checksummed. `docs/format.md` has its bytes.
//!
//! Invariant: a file whose bytes changed anywhere is refused as a whole; what is read from it was written
//! so. It holds secrets (those of CHAP), as the metadata do.

use ashlar_proto::ClusterId;
use ashlar_proto::api::Revision;
use ashlar_proto::crc::crc32c;

use super::Rows;
use super::snapshot::Snapshot;
use crate::meta::Key;

/// What a file begins with.
const MAGIC: [u8; 8] = *b"ASHLMETA";

/// The format that this version writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// Bytes of the header with its checksum, and of what stands before each row and after all of them.
const HEADER_BYTES: usize = 56;
const ROW_HEAD_BYTES: usize = 8;
const CRC_BYTES: usize = 4;

/// Longest key and value that are believed: longer ones are in no store.
const KEY_BYTES_MAX: usize = 4096;
const VALUE_BYTES_MAX: usize = 64 << 20;

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// The cluster.
    pub cluster: ClusterId,
    /// When it was taken: milliseconds since 1970-01-01 UTC.
    pub taken_ms: u64,
    /// The rows, and their revision in the store that they are from.
    pub snapshot: Snapshot,
}

/// A file is no backup that can be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// It begins as no backup does.
    #[error("this is no backup of metadata")]
    NoBackup,
    /// A newer version wrote it.
    #[error("the backup has format {found}, this version reads up to {FORMAT}: upgrade ashlar")]
    Format {
        /// Its format.
        found: u32,
    },
    /// It ends too early.
    #[error(
        "the backup ends after {bytes} bytes, in the middle: it was not written or copied whole"
    )]
    Cut {
        /// How long it is.
        bytes: usize,
    },
    /// Its bytes are not those that were written.
    #[error("the backup is damaged at byte {at}: take another one")]
    Damaged {
        /// Where that shows.
        at: usize,
    },
}

/// The bytes of a file.
#[must_use]
pub fn write(backup: &Backup) -> Vec<u8> {
    let rows = &backup.snapshot.rows;
    let of_rows: usize = rows
        .iter()
        .map(|(key, value)| ROW_HEAD_BYTES + key.as_str().len() + value.len() + CRC_BYTES)
        .sum();
    let mut out = Vec::with_capacity(HEADER_BYTES + of_rows + CRC_BYTES);
    out.extend(MAGIC);
    out.extend(FORMAT.to_le_bytes());
    out.extend([0; 4]);
    out.extend(backup.cluster.get().to_le_bytes());
    out.extend(backup.snapshot.revision.0.to_le_bytes());
    out.extend(backup.taken_ms.to_le_bytes());
    out.extend(length(rows.len()));
    out.extend(crc32c(&out).to_le_bytes());
    for (key, value) in rows {
        let start = out.len();
        out.extend(length(key.as_str().len()));
        out.extend(length(value.len()));
        out.extend(key.as_str().as_bytes());
        out.extend(value);
        let crc = crc32c(&out[start..]);
        out.extend(crc.to_le_bytes());
    }
    let crc = crc32c(&out);
    out.extend(crc.to_le_bytes());
    out
}

/// Rows, and their bytes, are far fewer than 2^32.
fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes()
}

/// What the bytes of a file hold.
///
/// # Errors
/// [`BackupError`]: then nothing of it is to be used.
pub fn read(bytes: &[u8]) -> Result<Backup, BackupError> {
    let mut reader = Reader { bytes, at: 0 };
    if !bytes.starts_with(&MAGIC) {
        return Err(BackupError::NoBackup);
    }
    reader.take(MAGIC.len())?;
    let found = reader.u32()?;
    if found != FORMAT {
        return Err(BackupError::Format { found });
    }
    reader.u32()?;
    let cluster = ClusterId::new(u128::from_le_bytes(reader.array()?));
    let revision = Revision(u64::from_le_bytes(reader.array()?));
    let taken_ms = u64::from_le_bytes(reader.array()?);
    let count = reader.u32()?;
    reader.checksum(0)?;
    let mut rows = Rows::new();
    for _ in 0..count {
        let (key, value) = reader.row()?;
        if rows.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err(BackupError::Damaged { at: reader.at });
        }
        rows.insert(key, value);
    }
    reader.checksum(0)?;
    if reader.at != bytes.len() {
        return Err(BackupError::Damaged { at: reader.at });
    }
    let snapshot = Snapshot { revision, rows };
    Ok(Backup {
        cluster,
        taken_ms,
        snapshot,
    })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], BackupError> {
        let bytes = self.bytes.len();
        let end = self.at.checked_add(count).filter(|end| *end <= bytes);
        let end = end.ok_or(BackupError::Cut { bytes })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BackupError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, BackupError> {
        self.array().map(u32::from_le_bytes)
    }

    /// A length that is believed.
    fn length(&mut self, most: usize) -> Result<usize, BackupError> {
        let at = self.at;
        let length = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        if length > most {
            return Err(BackupError::Damaged { at });
        }
        Ok(length)
    }

    fn row(&mut self) -> Result<(Key, Vec<u8>), BackupError> {
        let start = self.at;
        let (key, value) = (self.length(KEY_BYTES_MAX)?, self.length(VALUE_BYTES_MAX)?);
        let (key, value) = (self.take(key)?, self.take(value)?);
        self.checksum(start)?;
        let key = std::str::from_utf8(key).map_err(|_| BackupError::Damaged { at: start })?;
        Ok((Key::new(key), value.to_vec()))
    }

    /// The checksum of everything from `start` to here.
    fn checksum(&mut self, start: usize) -> Result<(), BackupError> {
        let at = self.at;
        let is = crc32c(&self.bytes[start..at]);
        if self.u32()? != is {
            return Err(BackupError::Damaged { at: start });
        }
        Ok(())
    }
}
