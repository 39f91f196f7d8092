//! `ashlar volume import` and `ashlar volume export`: image files into volumes and back.
//!
//! ```text
//! import   file ─▶ reader thread: read, unpack, hash ─▶ pieces ─▶ reactor: many writes in flight
//!                          marks: offset and digest ─────────────▶ flush, then the journal
//! export   reactor: extents, many reads in flight ─▶ pieces, in order ─▶ writer thread: hash, write
//!                                                                        at marks: fdatasync, journal
//! ```
//!
//! Invariants: what the journal says is done is durable; content is hashed in order from its first
//! byte to its last, holes included; no file is touched on the reactor's thread.

mod checksum;
mod export;
mod file;
mod import;
mod journal;
mod place;
mod plan;
mod progress;
mod reader;
mod reading;
pub mod session;
mod writer;
mod writing;

use anyhow::bail;

pub use export::run as export;
pub use import::run as import;

/// Most bytes of one request.
const REQUEST_BYTES_MAX: u64 = 1 << 20;

/// Bytes of requests in flight.
const IN_FLIGHT_BYTES_MAX: u64 = 16 << 20;

/// Requests in flight.
const IN_FLIGHT_MAX: usize = 256;

/// Pieces on their way between the threads: beside the requests in flight, the memory that is used.
const PIECES_MAX: usize = 8;

/// Bytes of data after which the journal is written.
const MARK_DATA_BYTES: u64 = 64 << 20;

/// Bytes after which it is where most of them are holes.
const MARK_BYTES: u64 = 4 << 30;

/// The transfer was asked to stop; what it has done is kept.
#[derive(Debug, thiserror::Error)]
#[error("interrupted at {} of {}", crate::output::bytes(*.done), crate::output::bytes(*.total))]
pub struct Interrupted {
    /// How far it came.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// When the next mark is due.
#[derive(Default)]
struct MarkClock {
    bytes: u64,
    data_bytes: u64,
}

impl MarkClock {
    /// Counts a piece; whether a mark is due after it.
    fn count(&mut self, bytes: u64, data_bytes: u64) -> bool {
        self.bytes += bytes;
        self.data_bytes += data_bytes;
        let due = self.bytes >= MARK_BYTES || self.data_bytes >= MARK_DATA_BYTES;
        if due {
            *self = Self::default();
        }
        due
    }
}

/// A volume's name as it was given.
fn volume_name(text: &str) -> anyhow::Result<&str> {
    if text.contains('@') {
        bail!("`{text}`: a volume's name has no @");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_come_with_data_and_seldom_in_holes() {
        let mut clock = MarkClock::default();
        assert!(!clock.count(MARK_DATA_BYTES, MARK_DATA_BYTES - 1));
        assert!(clock.count(1, 1));
        assert!(!clock.count(MARK_BYTES - 1, 0));
        assert!(clock.count(1, 0));
        assert!(!clock.count(1, 1));
    }

    #[test]
    fn names_are_of_volumes_alone() {
        assert_eq!(volume_name("data").unwrap(), "data");
        assert!(volume_name("data@monday").is_err());
    }
}
