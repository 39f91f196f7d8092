//! Files as a transfer sees them: which file it is, and whether it is still the same.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use ashlar_image::Format;
use serde::{Deserialize, Serialize};

/// Which file it is, and of when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub device: u64,
    pub inode: u64,
    pub size_bytes: u64,
    /// Nanoseconds since 1970.
    pub modified_ns: i128,
}

impl Identity {
    /// Of an open file, or none of a pipe.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn of(file: &File) -> io::Result<Option<Self>> {
        let metadata = file.metadata()?;
        Ok(is_seekable(&metadata).then(|| Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.size(),
            modified_ns: i128::from(metadata.mtime()) * 1_000_000_000
                + i128::from(metadata.mtime_nsec()),
        }))
    }
}

/// Whether it is a file or a block device, and no pipe.
pub fn is_seekable(metadata: &Metadata) -> bool {
    metadata.is_file() || metadata.file_type().is_block_device()
}

/// Whether `path` is a block device.
pub fn is_block_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// Whether `path` stands for standard input or output.
pub fn is_dash(path: &Path) -> bool {
    path == Path::new("-")
}

/// A format as people write it.
pub fn word(format: Format) -> &'static str {
    match format {
        Format::Raw => "raw",
        Format::Qcow2 => "qcow2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_that_was_written_is_another_one() {
        let mut file = tempfile::tempfile().unwrap();
        let before = Identity::of(&file).unwrap().unwrap();
        assert_eq!(Identity::of(&file).unwrap().unwrap(), before);
        file.write_all(b"x").unwrap();
        assert_ne!(Identity::of(&file).unwrap().unwrap(), before);
        let text = serde_json::to_string(&before).unwrap();
        assert_eq!(serde_json::from_str::<Identity>(&text).unwrap(), before);
    }
}
