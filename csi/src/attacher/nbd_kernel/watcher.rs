//! Gives devices of ours new connections in the place of dead ones, so that IO waits and goes on when a
//! front end is started again.
//!
//! The kernel tells of each connection that dies. What was told while nobody listened is made up for by
//! offering new ones to every device, at the start and after messages were lost: a device takes as many
//! as it lacks.
//!
//! A device whose export is this host's no more is ended: its volume was published to another node.
//!
//! ```text
//! whole ──(a connection died)──▶ suspect ──(new ones offered and taken, or the device gone)──▶ whole
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ashlar_proto::Address;
use nix::poll::PollTimeout;

use super::control::Control;
use super::devices::{self, DeviceIndex, NbdDevice};
use super::handshake::{Connection, HandshakeError};
use super::{HANDSHAKE_MAX, SYS_BLOCK};
use crate::netlink::{GenericSocket, NetlinkError};

/// Between two tries to give a device connections, and between two looks whether the module is there.
const TRY_EVERY: Duration = Duration::from_millis(500);
/// Between two looks at what is told while all is well.
const IDLE: PollTimeout = PollTimeout::NONE;

/// Why a device still lacks connections.
#[derive(Debug, thiserror::Error)]
enum ReviveError {
    /// There is no connection to be had.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The kernel does not take it.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The devices cannot be listed.
    #[error("the devices cannot be listed")]
    Devices(#[source] std::io::Error),
    /// It is not the same volume.
    #[error(
        "export `{export}` has {size_bytes} bytes and {device} has more: it is another volume of that \
         name, the device stays without a connection"
    )]
    OtherVolume {
        /// The export.
        export: String,
        /// Its size.
        size_bytes: u64,
        /// The device.
        device: DeviceIndex,
    },
}

/// Watches for as long as the process lives.
///
/// # Errors
/// Where the host gives no thread.
pub(super) fn start(server: Address) -> std::io::Result<()> {
    let run = move || Watcher::new(server).run();
    let thread = thread::Builder::new().name("nbd-watch".to_owned());
    thread.spawn(run).map(drop)
}

/// What is known of devices that lack connections.
struct Watcher {
    server: Address,
    /// Since when, and whether that was told.
    suspects: BTreeMap<DeviceIndex, (Instant, bool)>,
}

impl Watcher {
    fn new(server: Address) -> Self {
        Self {
            server,
            suspects: BTreeMap::new(),
        }
    }

    fn run(mut self) {
        loop {
            // Until the first attach the module may not be loaded.
            let ended = Control::open().and_then(|control| {
                let group = control.listen()?;
                self.watch(control, &group)
            });
            if let Err(error) = ended {
                tracing::debug!(%error, "the kernel's NBD client cannot be watched");
            }
            thread::sleep(TRY_EVERY);
        }
    }

    /// Ends with the error of the group's socket: what was told may be lost.
    fn watch(&mut self, mut control: Control, group: &GenericSocket) -> Result<(), NetlinkError> {
        for device in devices::list(Path::new(SYS_BLOCK)).unwrap_or_default() {
            self.suspect(device.index);
        }
        loop {
            self.try_all(&mut control);
            let limit = if self.suspects.is_empty() {
                IDLE
            } else {
                PollTimeout::try_from(TRY_EVERY).unwrap_or(IDLE)
            };
            if let Some(heard) = group.hear(limit)? {
                for index in control.dead(&heard) {
                    self.suspect(index);
                }
            }
        }
    }

    fn suspect(&mut self, index: DeviceIndex) {
        self.suspects
            .entry(index)
            .or_insert_with(|| (Instant::now(), false));
    }

    fn try_all(&mut self, control: &mut Control) {
        let server = &self.server;
        self.suspects.retain(|index, (since, told)| {
            match revive(control, server, *index) {
                Ok(connections) => {
                    if connections > 0 {
                        let seconds = since.elapsed().as_secs_f32();
                        tracing::info!(device = %index, connections, seconds, "connections offered");
                    }
                    false
                }
                // It waits for nothing: who uses it is to hear that, and not in an hour.
                Err(ReviveError::Handshake(error @ HandshakeError::Forbidden { .. })) => {
                    tracing::warn!(device = %index, %error, "the volume was taken from this node: its device is ended");
                    if let Err(error) = control.disconnect(*index) {
                        tracing::warn!(device = %index, %error, "the device could not be ended");
                    }
                    false
                }
                Err(error) => {
                    if !*told {
                        tracing::warn!(device = %index, %error, "no connection yet: IO waits");
                    }
                    *told = true;
                    true
                }
            }
        });
    }
}

/// Offers a device as many connections as it has; gives their number, 0 where it is gone or not ours.
fn revive(
    control: &mut Control,
    server: &Address,
    index: DeviceIndex,
) -> Result<usize, ReviveError> {
    let listed = devices::list(Path::new(SYS_BLOCK)).map_err(ReviveError::Devices)?;
    let Some(device) = listed.into_iter().find(|device| device.index == index) else {
        return Ok(0);
    };
    let offered = offer(server, &device)?;
    match control.reconnect(index, &device.backend, &offered) {
        Ok(()) => Ok(offered.len()),
        Err(error) => match control.lives(index, &device.backend) {
            // It is being ended.
            Ok(false) => Ok(0),
            _ => Err(error.into()),
        },
    }
}

fn offer(server: &Address, device: &NbdDevice) -> Result<Vec<Connection>, ReviveError> {
    let mut offered = Vec::with_capacity(device.connections);
    for _ in 0..device.connections.max(1) {
        let connection = Connection::open(server, &device.backend.export, HANDSHAKE_MAX)?;
        if connection.export.size_bytes < device.size_bytes {
            return Err(ReviveError::OtherVolume {
                export: device.backend.export.clone(),
                size_bytes: connection.export.size_bytes,
                device: device.index,
            });
        }
        offered.push(connection);
    }
    Ok(offered)
}
