//! How a volume becomes a block device of this host.
//!
//! - Attaching what is attached, and detaching what is not, changes nothing.
//! - What is attached is found by looking, not by memory: the driver may have died since.

mod fuse_loop;
mod nbd_kernel;

use std::fmt;
use std::path::PathBuf;

use ashlar_proto::VolumeId;
use tonic::Status;

pub use fuse_loop::{FuseLoop, NbdServer};
pub use nbd_kernel::NbdKernel;

/// A volume to attach.
#[derive(Clone, Debug)]
pub struct Export {
    /// Its id.
    pub volume: VolumeId,
    /// What front ends call it.
    pub name: String,
    /// Nobody is to write.
    pub read_only: bool,
}

/// One way to attach volumes.
#[tonic::async_trait]
pub trait Attacher: fmt::Debug + Send + Sync {
    /// The device of a volume, new or there already.
    ///
    /// # Errors
    /// A status for the CO: ALREADY_EXISTS where it is attached with other rights.
    async fn attach(&self, export: &Export) -> Result<PathBuf, Status>;

    /// The device of a volume that is attached.
    ///
    /// # Errors
    /// A status where that cannot be found out.
    async fn find(&self, volume: VolumeId) -> Result<Option<PathBuf>, Status>;

    /// Gives the device of a volume the size that the volume has.
    ///
    /// # Errors
    /// A status where the device cannot change its size while it is used.
    async fn refresh(&self, volume: VolumeId) -> Result<(), Status>;

    /// Ends the attach; on return nothing that was written is on its way any more.
    ///
    /// # Errors
    /// A status where the device is in use.
    async fn detach(&self, volume: VolumeId) -> Result<(), Status>;
}
