//! Mounting and unmounting by mount(8) and umount(8).

use std::ffi::{OsStr, OsString};
use std::path::Path;

use tonic::Status;

use crate::{command, mount_table};

/// Most mounts over each other at one path that are taken away.
const STACKED_MAX: usize = 16;

/// Mounts a file system.
///
/// # Errors
/// INTERNAL with the tool's complaint.
pub(super) async fn mount(
    device: &Path,
    point: &Path,
    fs: &str,
    options: &[String],
) -> Result<(), Status> {
    let mut arguments: Vec<OsString> = vec!["-t".into(), fs.into()];
    if !options.is_empty() {
        arguments.extend(["-o".into(), options.join(",").into()]);
    }
    arguments.extend([device.into(), point.into()]);
    command::check("mount", arguments).await.map(drop)
}

/// Shows what is at `source` at `point` as well.
///
/// # Errors
/// As [`mount()`].
pub(super) async fn bind(source: &Path, point: &Path, read_only: bool) -> Result<(), Status> {
    let arguments = [OsStr::new("--bind"), source.as_os_str(), point.as_os_str()];
    command::check("mount", arguments).await?;
    if !read_only {
        return Ok(());
    }
    let options = ["-o", "remount,bind,ro"].map(OsStr::new);
    let made = command::check("mount", options.into_iter().chain([point.as_os_str()])).await;
    if made.is_err() {
        // Else a repeated call would find a mount that can be written.
        unmount(point).await?;
    }
    made.map(drop)
}

/// Takes away whatever is mounted there.
///
/// # Errors
/// INTERNAL with the tool's complaint, as where it is in use.
pub(super) async fn unmount(point: &Path) -> Result<(), Status> {
    for _ in 0..STACKED_MAX {
        if mount_table::at(point)?.is_none() {
            return Ok(());
        }
        command::check("umount", [point.as_os_str()]).await?;
    }
    Err(Status::internal(format!(
        "{} is mounted again and again",
        point.display()
    )))
}

/// Makes a directory, if it is not there.
///
/// # Errors
/// INTERNAL where it cannot be made.
pub(super) fn make_directory(path: &Path) -> Result<(), Status> {
    std::fs::create_dir_all(path)
        .map_err(|error| Status::internal(format!("{} cannot be made: {error}", path.display())))
}
