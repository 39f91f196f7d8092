//! How a volume becomes a block device of this host.
//!
//! - Attaching what is attached, and detaching what is not, changes nothing.
//! - What is attached is found by looking, not by memory: the driver may have died since.

mod by_way;
mod fuse_loop;
mod iscsi;
mod nbd_kernel;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use ashlar_proto::PublicationId;
use ashlar_proto::api::PublishedName;
use tonic::Status;

use crate::handle::VolumeHandle;
use crate::mount_table;

pub use by_way::ByWay;
pub use fuse_loop::{FuseLoop, NbdServer};
pub use iscsi::Iscsi;
pub use nbd_kernel::NbdKernel;

pub use crate::parameters::Attach;

/// How long what was written may take to reach the front end before a detach is given up.
const FLUSH_MAX: Duration = Duration::from_secs(30);

/// How long a file system may take to let go of its device.
const BUSY_MAX: Duration = Duration::from_secs(10);
/// Between two looks whether it has.
const BUSY_LOOK_EVERY: Duration = Duration::from_millis(50);

/// A volume to attach.
#[derive(Clone, Debug)]
pub struct Export {
    /// Which.
    pub volume: VolumeHandle,
    /// Its publication to this node: one that a device has from an earlier publication is of no use.
    pub publication: PublicationId,
    /// Nobody is to write.
    pub read_only: bool,
    /// By what, if that is said.
    pub attach: Option<Attach>,
}

impl Export {
    /// What front ends call it.
    fn name(&self) -> PublishedName {
        PublishedName {
            volume: self.volume.name.clone(),
            publication: self.publication,
        }
    }
}

/// One way to attach volumes.
#[tonic::async_trait]
pub trait Attacher: fmt::Debug + Send + Sync {
    /// The device of a volume, new or there already. One of an earlier publication is ended first.
    ///
    /// # Errors
    /// A status for the CO: ALREADY_EXISTS where it is attached with other rights.
    async fn attach(&self, export: &Export) -> Result<PathBuf, Status>;

    /// The device of a volume that is attached.
    ///
    /// # Errors
    /// A status where that cannot be found out.
    async fn find(&self, volume: &VolumeHandle) -> Result<Option<PathBuf>, Status>;

    /// Gives the device of a volume the size that the volume has.
    ///
    /// # Errors
    /// A status where the device cannot change its size while it is used.
    async fn refresh(&self, volume: &VolumeHandle) -> Result<(), Status>;

    /// Ends the attach; on return nothing that was written is on its way any more.
    ///
    /// # Errors
    /// A status where the device is in use.
    async fn detach(&self, volume: &VolumeHandle) -> Result<(), Status>;
}

/// Waits until no file system has the device any more, and has it send what it keeps. A mount that is
/// gone from the table may still be writing: umount(8), whose driver was killed, goes on by itself. That
/// the device cannot send, since the volume is another node's now, ends nothing but the attach.
async fn flush(path: &Path) -> Result<(), Status> {
    let of = path.to_owned();
    let synced = tokio::task::spawn_blocking(move || claim(&of)?.sync_all());
    match tokio::time::timeout(FLUSH_MAX, synced).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(error))) if error.kind() == io::ErrorKind::ResourceBusy => {
            Err(Status::failed_precondition(format!(
                "{} is in use by a file system or another device: unmount it first",
                path.display()
            )))
        }
        Ok(Ok(Err(error))) => {
            tracing::warn!(device = %path.display(), %error, "the device could not be flushed");
            Ok(())
        }
        Ok(Err(error)) => Err(Status::internal(error.to_string())),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "{} was not flushed within {} s: is its front end away? What was written is kept, try again",
            path.display(),
            FLUSH_MAX.as_secs()
        ))),
    }
}

/// Opens a device as its only user of the kind that mounts are.
fn claim(path: &Path) -> io::Result<File> {
    let end = Instant::now() + BUSY_MAX;
    loop {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_EXCL)
            .open(path);
        match opened {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => {
                thread::sleep(BUSY_LOOK_EVERY);
            }
            opened => return opened,
        }
    }
}

/// A device that shows somewhere is in use.
fn refuse_mounted(device: &Path) -> Result<(), Status> {
    if mount_table::of_device(device)?.is_empty() {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "{} is mounted: the volume is in use",
        device.display()
    )))
}
