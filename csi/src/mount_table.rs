//! What is mounted, as the kernel has it (`/proc/self/mountinfo`, proc(5)): no note of ours can be as true.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tonic::Status;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// `MAJOR:MINOR` of the file system's device.
    pub device: String,
    /// Where it is.
    pub point: PathBuf,
    /// This mount, or its file system, takes no writes.
    pub read_only: bool,
    /// The file system's type.
    pub fs: String,
    /// What it was mounted from: for most a device.
    pub source: PathBuf,
}

/// All mounts, later ones over earlier ones.
///
/// # Errors
/// INTERNAL where the table cannot be read.
pub(crate) fn read() -> Result<Vec<Mount>, Status> {
    let text = std::fs::read("/proc/self/mountinfo");
    let text =
        text.map_err(|error| Status::internal(format!("the mounts cannot be read: {error}")))?;
    Ok(text
        .split(|byte| *byte == b'\n')
        .filter_map(parse)
        .collect())
}

/// What is mounted at a path, on top.
///
/// # Errors
/// As [`read`].
pub(crate) fn at(path: &Path) -> Result<Option<Mount>, Status> {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mounts = read()?;
    Ok(mounts.into_iter().rev().find(|mount| mount.point == path))
}

/// Whether a mount shows a block device, as its file system or as the device itself.
pub(crate) fn is_of(mount: &Mount, device: &Path) -> bool {
    let number = device_number(device);
    number.is_some()
        && (Some(&mount.device) == number.as_ref()
            || device_number(&mount.point) == number
            // Btrfs, which may have several devices, shows a number of its own.
            || mount.fs == "btrfs" && device_number(&mount.source) == number)
}

/// Where a block device shows: as its file system, or as the device itself.
///
/// # Errors
/// As [`read`].
pub(crate) fn of_device(device: &Path) -> Result<Vec<Mount>, Status> {
    let mounts = read()?.into_iter();
    Ok(mounts.filter(|mount| is_of(mount, device)).collect())
}

/// `MAJOR:MINOR` of a block device.
pub(crate) fn device_number(path: &Path) -> Option<String> {
    let found = std::fs::metadata(path).ok()?;
    if !found.file_type().is_block_device() {
        return None;
    }
    let number = found.rdev();
    // As glibc's gnu_dev_major and gnu_dev_minor divide it.
    let major = ((number >> 8) & 0xfff) | ((number >> 32) & !0xfff);
    let minor = (number & 0xff) | ((number >> 12) & !0xff);
    Some(format!("{major}:{minor}"))
}

/// Whether the kernel refuses writes to a block device.
pub(crate) fn is_read_only(device: &Path) -> bool {
    let number = device_number(device).unwrap_or_default();
    let flag = std::fs::read_to_string(format!("/sys/dev/block/{number}/ro"));
    flag.is_ok_and(|flag| flag.trim() == "1")
}

/// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG…] - TYPE SOURCE SUPER_OPTIONS`
fn parse(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    // Before it there are at least six fields: none of them is taken for one of those behind.
    let dash = 6 + fields.get(6..)?.iter().position(|field| *field == b"-")?;
    let is_read_only = |field: &[u8]| field.split(|byte| *byte == b',').any(|one| one == b"ro");
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    Some(Mount {
        device: text(fields.get(2)?),
        point: PathBuf::from(OsString::from_vec(unescape(fields.get(4)?))),
        read_only: is_read_only(fields.get(5)?) || is_read_only(fields.get(dash + 3)?),
        fs: text(fields.get(dash + 1)?),
        source: PathBuf::from(OsString::from_vec(unescape(fields.get(dash + 2)?))),
    })
}

/// Blanks and backslashes are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = |digit: &u8| (b'0'..=b'7').contains(digit);
        match tail.get(..3) {
            Some(digits) if byte == b'\\' && digits.iter().all(octal) => {
                let value = digits
                    .iter()
                    .fold(0u32, |sum, digit| sum * 8 + u32::from(digit - b'0'));
                bytes.push(u8::try_from(value).unwrap_or(b'?'));
                rest = &tail[3..];
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let line = br"36 35 98:0 /a /mnt/a\040b\134c rw,noatime master:1 shared:2 - ext4 /dev/x ro,errors=continue";
        let mount = parse(line).unwrap();
        assert_eq!(mount.device, "98:0");
        assert_eq!(mount.point, Path::new(r"/mnt/a b\c"));
        assert_eq!(mount.fs, "ext4");
        assert!(mount.read_only, "the file system is");
        let line = b"25 1 0:5 / /dev ro,nosuid - devtmpfs udev rw,size=1k";
        assert!(parse(line).unwrap().read_only, "the mount is");
        for line in [&b""[..], b"1 2 3", b"25 1 0:5 / /dev rw -", b"a b - c d e"] {
            assert_eq!(parse(line), None);
        }
    }

    #[test]
    fn the_root_is_mounted_and_a_new_directory_is_not() {
        assert!(at(Path::new("/")).unwrap().is_some());
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(at(directory.path()).unwrap(), None);
        assert_eq!(device_number(directory.path()), None);
    }
}
