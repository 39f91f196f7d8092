//! Whether a disk is known to hold nothing: as blkid(8), its ends, and the kernel have it.
//!
//! Partition tables, file systems, members of arrays and volume groups write to the first or the last MiB
//! of a disk; VMFS begins at the second. Zeroes there, nothing that blkid knows, and nobody who holds the
//! device: only all of these together are emptiness.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

use nix::fcntl::OFlag;
use thiserror::Error;

/// What is read of each end.
const END_BYTES: u64 = 4 << 20;
/// What is read at once.
const READ_BYTES: usize = 64 << 10;
/// blkid(8): nothing was found.
const BLKID_NOTHING: i32 = 2;

/// Why a disk is not known to be empty.
#[derive(Debug, Error)]
pub enum NotEmpty {
    /// It has something with a name.
    #[error("it holds `{0}`, which is not touched")]
    Known(String),
    /// It has something else.
    #[error(
        "it holds data that have no name, which are not touched: clear it with `wipefs --all` and `dd` if it is to be used"
    )]
    Unknown,
    /// Something uses it: a mount, an array, a volume group, swap.
    #[error("it, or a partition of it, is in use")]
    InUse,
    /// blkid says neither.
    #[error("blkid(8) does not say what it holds: {0}")]
    Unclear(String),
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] std::io::Error),
}

/// Makes sure that nothing is on a device or file.
///
/// # Errors
/// [`NotEmpty`].
pub fn check(path: &Path) -> Result<(), NotEmpty> {
    let mut disk = claim(path)?;
    if !ends_are_zero(&mut disk)? {
        return Err(probe(path).err().unwrap_or(NotEmpty::Unknown));
    }
    probe(path)
}

/// Opens it so that nothing else can come to use it meanwhile.
fn claim(path: &Path) -> Result<File, NotEmpty> {
    let is_device = std::fs::metadata(path)?.file_type().is_block_device();
    let exclusive = if is_device {
        OFlag::O_EXCL
    } else {
        OFlag::empty()
    };
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(exclusive.bits())
        .open(path);
    opened.map_err(|error| match error.kind() {
        std::io::ErrorKind::ResourceBusy => NotEmpty::InUse,
        _ => NotEmpty::Read(error),
    })
}

fn ends_are_zero(disk: &mut File) -> Result<bool, NotEmpty> {
    let size = disk.seek(SeekFrom::End(0))?;
    let mut bytes = vec![0; READ_BYTES];
    for start in [0, size.saturating_sub(END_BYTES)] {
        disk.seek(SeekFrom::Start(start))?;
        let mut end = Read::by_ref(disk).take(END_BYTES);
        loop {
            let len = end.read(&mut bytes)?;
            if len == 0 {
                break;
            }
            if bytes[..len].iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// What blkid finds, read from the device itself and not from its cache.
fn probe(path: &Path) -> Result<(), NotEmpty> {
    let answered = Command::new("blkid")
        .args(["-p", "-o", "export"])
        .arg(path)
        .output();
    let answered =
        answered.map_err(|error| NotEmpty::Unclear(format!("it cannot be run: {error}")))?;
    match answered.status.code() {
        Some(BLKID_NOTHING) if answered.stdout.is_empty() => Ok(()),
        Some(0) => Err(named(&String::from_utf8_lossy(&answered.stdout))),
        _ => {
            let said = String::from_utf8_lossy(&answered.stderr);
            Err(NotEmpty::Unclear(format!(
                "{}, {}",
                answered.status,
                said.trim()
            )))
        }
    }
}

/// What blkid's answer names.
fn named(answer: &str) -> NotEmpty {
    let value = |key: &str| {
        let mut lines = answer.lines();
        lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    };
    match value("TYPE").or_else(|| value("PTTYPE")) {
        Some(name) => NotEmpty::Known(name.to_owned()),
        None => NotEmpty::Unknown,
    }
}
