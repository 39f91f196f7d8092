//! What is on a device, and file systems on it.
//!
//! A device is formatted only if it is known to be empty: blkid finds nothing on it, and its first and
//! last MiB hold zeroes. That blkid fails is an error, not a sign of emptiness.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use tonic::Status;

use crate::command;
use crate::mount_table::Mount;
use crate::parameters::FileSystem;

/// What is read of each end.
const END_BYTES: u64 = 1 << 20;
/// blkid(8): nothing was found.
const BLKID_NOTHING: i32 = 2;
/// e2fsck(8), as bits: errors were corrected.
const FSCK_CORRECTED: i32 = 1;

/// What a device holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Nothing.
    Empty,
    /// Something that has a name: a file system, a partition table.
    Known(String),
    /// Something that has none.
    Unknown,
}

/// Looks at a device.
///
/// # Errors
/// INTERNAL where it cannot be read, or blkid cannot say what is there.
pub(crate) async fn probe(device: &Path) -> Result<Content, Status> {
    let arguments = ["-p", "-o", "export"].map(std::ffi::OsStr::new);
    let output = command::run("blkid", arguments.into_iter().chain([device.as_os_str()])).await?;
    match output.status.code() {
        Some(0) => Ok(named(&String::from_utf8_lossy(&output.stdout))),
        Some(BLKID_NOTHING) => {
            let path = device.to_owned();
            let read = tokio::task::spawn_blocking(move || ends_are_zero(&path)).await;
            let read = read.map_err(|error| Status::internal(error.to_string()))?;
            let zero = read.map_err(|error| {
                Status::internal(format!("{} cannot be read: {error}", device.display()))
            })?;
            Ok(if zero {
                Content::Empty
            } else {
                Content::Unknown
            })
        }
        _ => Err(command::failed("blkid", &output)),
    }
}

/// What blkid's answer names.
fn named(answer: &str) -> Content {
    let value = |key: &str| {
        let mut lines = answer.lines();
        lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    };
    match value("TYPE").or_else(|| value("PTTYPE")) {
        Some(name) => Content::Known(name.to_owned()),
        None => Content::Unknown,
    }
}

fn ends_are_zero(path: &Path) -> std::io::Result<bool> {
    let mut device = File::open(path)?;
    let size = device.seek(SeekFrom::End(0))?;
    for start in [0, size.saturating_sub(END_BYTES)] {
        device.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        Read::by_ref(&mut device)
            .take(END_BYTES)
            .read_to_end(&mut bytes)?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Looks for a file system on the device, and brings it in order; `wanted` is what it must be, if that
/// was said. None where the device is empty: it is to be formatted.
///
/// # Errors
/// FAILED_PRECONDITION where something else is there, or nothing and it cannot be written; INTERNAL
/// where a tool fails.
pub(crate) async fn find(
    device: &Path,
    wanted: Option<FileSystem>,
    read_only: bool,
) -> Result<Option<FileSystem>, Status> {
    match probe(device).await? {
        Content::Empty if read_only => Err(Status::failed_precondition(
            "the volume is empty and attached read-only: it cannot be formatted",
        )),
        Content::Empty => Ok(None),
        Content::Known(name) => {
            let found = name.parse::<FileSystem>().ok();
            let fits = found.filter(|found| wanted.is_none_or(|wanted| wanted == *found));
            let fs = fits.ok_or_else(|| holds_other(&name, wanted))?;
            if !read_only {
                repair(device, fs).await?;
            }
            Ok(Some(fs))
        }
        Content::Unknown => Err(Status::failed_precondition(
            "the volume holds data that is no known file system: it is not formatted; use it as a block \
             volume, or clear it first",
        )),
    }
}

fn holds_other(found: &str, wanted: Option<FileSystem>) -> Status {
    let wanted = wanted.map_or_else(|| "a file system".to_owned(), |wanted| wanted.to_string());
    Status::failed_precondition(format!(
        "the volume holds `{found}`, and {wanted} is asked for: it is not formatted"
    ))
}

/// Makes a file system on a device of which the caller knows that nothing is lost.
///
/// # Errors
/// INTERNAL where the tool fails.
pub(crate) async fn format(device: &Path, fs: FileSystem) -> Result<(), Status> {
    // Each is forced: there may be the half of one whose making was cut short.
    let (program, arguments): (_, &[&str]) = match fs {
        // No reserved blocks: the volume is one user's.
        FileSystem::Ext4 => ("mkfs.ext4", &["-q", "-F", "-m", "0"]),
        FileSystem::Xfs => ("mkfs.xfs", &["-q", "-f"]),
        FileSystem::Btrfs => ("mkfs.btrfs", &["-q", "-f"]),
    };
    let arguments = arguments.iter().map(std::ffi::OsStr::new);
    let made = command::check(program, arguments.chain([device.as_os_str()])).await;
    made.map(drop)
}

/// What a crash left is brought in order. XFS and Btrfs do that as they are mounted.
async fn repair(device: &Path, fs: FileSystem) -> Result<(), Status> {
    if fs != FileSystem::Ext4 {
        return Ok(());
    }
    let output = command::run("e2fsck", [std::ffi::OsStr::new("-p"), device.as_os_str()]).await?;
    match output.status.code() {
        Some(code) if code & !FSCK_CORRECTED == 0 => Ok(()),
        _ => Err(command::failed("e2fsck", &output)),
    }
}

/// Makes a mounted file system as large as its device.
///
/// # Errors
/// INTERNAL where the tool fails.
pub(crate) async fn grow(device: &Path, mount: &Mount) -> Result<(), Status> {
    let point = mount.point.as_os_str();
    match mount.fs.as_str() {
        "ext4" => command::check("resize2fs", [device.as_os_str()]).await,
        "xfs" => command::check("xfs_growfs", [point]).await,
        "btrfs" => {
            let words = ["filesystem", "resize", "max"].map(std::ffi::OsStr::new);
            command::check("btrfs", words.into_iter().chain([point])).await
        }
        other => {
            return Err(Status::internal(format!(
                "`{other}` is no file system that can grow"
            )));
        }
    }
    .map(drop)
}

/// Options that a mount needs beside those that are asked for.
pub(crate) fn mount_options(fs: FileSystem) -> &'static [&'static str] {
    match fs {
        // A clone has the UUID of what it was made from, and both may be mounted here.
        FileSystem::Xfs => &["nouuid"],
        FileSystem::Ext4 | FileSystem::Btrfs => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn prepare(device: &Path, wanted: Option<FileSystem>) -> Result<FileSystem, Status> {
        match find(device, wanted, false).await? {
            Some(fs) => Ok(fs),
            None => {
                let fs = wanted.unwrap_or_default();
                format(device, fs).await.map(|()| fs)
            }
        }
    }

    /// A file stands for a device: blkid, mkfs and e2fsck take both.
    async fn prepared(
        bytes: &[(u64, &[u8])],
        wanted: Option<FileSystem>,
    ) -> Result<FileSystem, Status> {
        use std::os::unix::fs::FileExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        for (offset, bytes) in bytes {
            file.as_file().write_all_at(bytes, *offset).unwrap();
        }
        let first = prepare(file.path(), wanted).await?;
        let second = prepare(file.path(), wanted).await?;
        assert_eq!(first, second, "what was made is found");
        Ok(first)
    }

    #[tokio::test]
    async fn an_empty_device_is_formatted_once() {
        assert_eq!(prepared(&[], None).await.unwrap(), FileSystem::Ext4);
    }

    #[tokio::test]
    async fn data_at_either_end_is_not_formatted_over() {
        for offset in [5, (64 << 20) - 1] {
            let refused = prepared(&[(offset, b"x")], None).await.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{offset}");
        }
    }

    #[tokio::test]
    async fn what_is_there_must_be_what_is_asked_for() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        prepare(file.path(), Some(FileSystem::Ext4)).await.unwrap();
        let other = prepare(file.path(), Some(FileSystem::Xfs))
            .await
            .unwrap_err();
        assert_eq!(other.code(), tonic::Code::FailedPrecondition);
        assert_eq!(
            probe(file.path()).await.unwrap(),
            Content::Known("ext4".to_owned())
        );
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_no_empty_device() {
        assert!(probe(Path::new("/nowhere")).await.is_err());
    }

    #[test]
    fn names_come_from_types_and_partition_tables() {
        assert_eq!(
            named("DEVNAME=/dev/x\nTYPE=xfs\n"),
            Content::Known("xfs".to_owned())
        );
        assert_eq!(named("PTTYPE=gpt\n"), Content::Known("gpt".to_owned()));
        assert_eq!(named("DEVNAME=/dev/x\n"), Content::Unknown);
    }
}
