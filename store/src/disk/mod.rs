//! A disk: superblocks in its first and last MiB, and its lanes between them.

mod format;
pub(crate) mod layout;
mod open;
mod superblock;

pub use format::{FormatError, FormatOptions, format_disk};
pub use open::{DiskOpenError, UnrecoveredDisk, open_disk};
pub(crate) use superblock::Superblock;
