//! The kernel's NBD client: `/dev/nbdN` over connections to a front end.
//!
//! - The kernel holds device and connections: both outlive the driver.
//! - A device tells by its backend's identifier which volume it is, in which publication.
//! - IO that a front end has not answered is sent again over new connections: it waits, and does not fail,
//!   while a front end is started again.
//!
//! ```text
//! attach:  handshake on each socket ── NBD_CMD_CONNECT ── /dev/nbdN
//! watcher: a connection died ── handshake ── NBD_CMD_RECONFIGURE
//! detach:  flush ── NBD_CMD_DISCONNECT
//! ```

mod control;
mod devices;
mod handshake;
mod watcher;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ashlar_proto::{Address, VolumeId};
use nix::errno::Errno;
use tokio::time::Instant;
use tonic::Status;

use self::control::Control;
use self::devices::{Backend, DeviceIndex, NbdDevice};
use self::handshake::{CAN_MULTI_CONN, Connection, ExportFacts, HandshakeError, READ_ONLY};
use super::fuse_loop::NbdServer;
use super::{Attacher, Export, flush, refuse_mounted};
use crate::command;
use crate::handle::VolumeHandle;
use crate::netlink::NetlinkError;

/// Where the kernel lists block devices.
const SYS_BLOCK: &str = "/sys/block";
/// Connections of a device at most: one thread serves them all.
const CONNECTIONS_MAX: usize = 4;
/// How long each answer of a handshake may take; the first one attaches the volume.
const HANDSHAKE_MAX: Duration = Duration::from_secs(30);
/// How long a device may take to show, and to go.
const SETTLE_MAX: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The attacher.
#[derive(Debug)]
pub struct NbdKernel {
    server: NbdServer,
    timeout: Duration,
}

impl NbdKernel {
    /// Volumes of a server. A request that it does not answer within `timeout`, whole seconds, is sent
    /// again over another connection. Devices that are there already are taken over.
    ///
    /// # Errors
    /// Where the host gives no thread.
    pub fn new(server: NbdServer, timeout: Duration) -> std::io::Result<Self> {
        watcher::start(server.0.clone())?;
        Ok(Self { server, timeout })
    }

    /// Connects a new device.
    async fn connect(&self, export: &Export) -> Result<DeviceIndex, Status> {
        load_module().await?;
        let backend = Backend {
            volume: export.volume.id,
            export: export.name().to_string(),
        };
        let (server, timeout_s) = (self.server.0.clone(), self.timeout.as_secs().max(1));
        let read_only = export.read_only;
        blocking(move || {
            let connections = connections(&server, &backend.export).map_err(refused)?;
            let mut facts: ExportFacts = connections[0].export;
            if read_only {
                facts.flags |= READ_ONLY;
            }
            let mut control = Control::open().map_err(failed)?;
            let index = control.connect(&backend, &facts, timeout_s, &connections);
            index.map_err(failed)
        })
        .await
    }

    /// Waits until a device has its node and its size.
    async fn settle(&self, volume: VolumeId, index: DeviceIndex) -> Result<PathBuf, Status> {
        let end = Instant::now() + SETTLE_MAX;
        loop {
            let devices = of_volume(volume)?;
            let device = devices.iter().find(|device| device.index == index);
            let path = index.path();
            if device.is_some_and(|device| device.size_bytes > 0) && path.exists() {
                return Ok(path);
            }
            if Instant::now() >= end {
                return Err(Status::deadline_exceeded(format!(
                    "{} did not show in time: /dev must be the host's",
                    path.display()
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

#[tonic::async_trait]
impl Attacher for NbdKernel {
    async fn attach(&self, export: &Export) -> Result<PathBuf, Status> {
        end_earlier(export).await?;
        if let Some(device) = living(export).await? {
            if device.read_only != export.read_only {
                return Err(Status::already_exists(format!(
                    "the volume is attached as {} with other rights: unstage it first",
                    device.index
                )));
            }
            return self.settle(export.volume.id, device.index).await;
        }
        let index = self.connect(export).await?;
        // A driver that was killed in the middle of its last call may have made one at the same time.
        let first = of_export(export)?.first().map(|device| device.index);
        if let Some(first) = first
            && first != index
        {
            disconnect(index).await?;
            return self.settle(export.volume.id, first).await;
        }
        self.settle(export.volume.id, index).await
    }

    async fn find(&self, volume: &VolumeHandle) -> Result<Option<PathBuf>, Status> {
        let device = of_volume(volume.id)?.into_iter().next();
        Ok(device.map(|device| device.index.path()))
    }

    async fn refresh(&self, volume: &VolumeHandle) -> Result<(), Status> {
        let Some(device) = of_volume(volume.id)?.into_iter().next() else {
            return Ok(());
        };
        let server = self.server.0.clone();
        blocking(move || {
            let export = &device.backend.export;
            let connection = Connection::open(&server, export, HANDSHAKE_MAX).map_err(refused)?;
            let size_bytes = connection.export.size_bytes;
            connection.close();
            if size_bytes <= device.size_bytes {
                return Ok(());
            }
            let mut control = Control::open().map_err(failed)?;
            let resized = control.resize(device.index, &device.backend, size_bytes);
            resized.map_err(failed)
        })
        .await
    }

    async fn detach(&self, volume: &VolumeHandle) -> Result<(), Status> {
        for device in of_volume(volume.id)? {
            let path = device.index.path();
            refuse_mounted(&path)?;
            flush(&path).await?;
            disconnect(device.index).await?;
            wait_gone(&device).await?;
        }
        Ok(())
    }
}

/// Loads the kernel's client, where it is not.
async fn load_module() -> Result<(), Status> {
    let missing = |error: &NetlinkError| matches!(error, NetlinkError::Refused(Errno::ENOENT));
    match blocking(|| Ok(Control::open())).await? {
        Ok(_) => Ok(()),
        Err(error) if missing(&error) => {
            command::check("modprobe", ["nbd"]).await.map_err(|error| {
                Status::failed_precondition(format!(
                    "this host has no NBD client: load the kernel's module `nbd`, or use another attacher \
                     ({})",
                    error.message()
                ))
            })?;
            Ok(())
        }
        Err(error) => Err(failed(error)),
    }
}

/// As many as the server lets be one device's, and this host has use for.
fn connections(server: &Address, export: &str) -> Result<Vec<Connection>, HandshakeError> {
    let first = Connection::open(server, export, HANDSHAKE_MAX)?;
    // The kernel has a queue for each connection, and no more than processors.
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let count = match first.export.flags & CAN_MULTI_CONN {
        0 => 1,
        _ => processors.min(CONNECTIONS_MAX),
    };
    let mut all = vec![first];
    while all.len() < count {
        all.push(Connection::open(server, export, HANDSHAKE_MAX)?);
    }
    Ok(all)
}

/// The devices of a volume: one, but for the moment after a driver was killed.
fn of_volume(volume: VolumeId) -> Result<Vec<NbdDevice>, Status> {
    let mut listed = devices::list(Path::new(SYS_BLOCK))
        .map_err(|error| Status::internal(format!("{SYS_BLOCK} cannot be read: {error}")))?;
    listed.retain(|device| device.backend.volume == volume);
    Ok(listed)
}

/// Those of them that are of this publication.
fn of_export(export: &Export) -> Result<Vec<NbdDevice>, Status> {
    let name = export.name().to_string();
    let mut listed = of_volume(export.volume.id)?;
    listed.retain(|device| device.backend.export == name);
    Ok(listed)
}

/// Ends devices of earlier publications: what was written to them and not sent cannot be sent any more.
async fn end_earlier(export: &Export) -> Result<(), Status> {
    let name = export.name().to_string();
    for device in of_volume(export.volume.id)? {
        if device.backend.export != name {
            refuse_mounted(&device.index.path())?;
            disconnect(device.index).await?;
            wait_gone(&device).await?;
        }
    }
    Ok(())
}

/// The device of a volume; one that is being ended is waited for.
async fn living(export: &Export) -> Result<Option<NbdDevice>, Status> {
    let Some(device) = of_export(export)?.into_iter().next() else {
        return Ok(None);
    };
    let asked = device.clone();
    let lives = blocking(move || {
        let mut control = Control::open().map_err(failed)?;
        control.lives(asked.index, &asked.backend).map_err(failed)
    });
    if lives.await? {
        return Ok(Some(device));
    }
    wait_gone(&device).await?;
    Ok(None)
}

async fn disconnect(index: DeviceIndex) -> Result<(), Status> {
    blocking(move || {
        let mut control = Control::open().map_err(failed)?;
        match control.disconnect(index) {
            // It has been ended meanwhile.
            Err(NetlinkError::Refused(Errno::EINVAL)) => Ok(()),
            done => done.map_err(failed),
        }
    })
    .await
}

/// Waits until a device that was ended is no volume's any more.
async fn wait_gone(device: &NbdDevice) -> Result<(), Status> {
    let end = Instant::now() + SETTLE_MAX;
    while of_volume(device.backend.volume)?
        .iter()
        .any(|one| one.index == device.index)
    {
        if Instant::now() >= end {
            return Err(Status::failed_precondition(format!(
                "{} is disconnected, and a process keeps it open: end that first",
                device.index.path().display()
            )));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Runs what waits for the kernel or a server.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Status::internal(error.to_string()))?
}

fn refused(error: HandshakeError) -> Status {
    let text = error.to_string();
    match error {
        HandshakeError::Silent { .. } | HandshakeError::Refused { .. } => Status::unavailable(text),
        HandshakeError::Unknown { .. } => Status::not_found(text),
        HandshakeError::Forbidden { .. } => Status::failed_precondition(text),
        HandshakeError::Strange { .. } | HandshakeError::WantsTls => {
            Status::failed_precondition(text)
        }
    }
}

fn failed(error: NetlinkError) -> Status {
    match error {
        NetlinkError::Refused(Errno::EPERM) => Status::internal(
            "the kernel's NBD client needs CAP_SYS_ADMIN in the host's user namespace: run the driver \
             privileged",
        ),
        error => Status::internal(format!("the kernel's NBD client: {error}")),
    }
}
