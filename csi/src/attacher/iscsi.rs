//! Linux's iSCSI initiator, open-iscsi: a disk over one portal, a multipath map over several.
//!
//! - A volume is found by the name of its target, in sysfs: sessions outlive the driver. Each publication of a
//!   volume is a target of its own.
//! - Once a publication is over its target has no unit: what is still to be written fails at once, and does not
//!   wait for the session.
//! - Secrets are none of the driver's: node records take them from `iscsid.conf`, as they are made.
//!
//! ```text
//! attach:  a node record for each portal ── login ── sdX ── (several portals) multipathd ── dm-M
//! detach:  flush ── remove the map ── logout ── remove the records
//! ```

mod sessions;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ashlar_proto::PublicationId;
use tokio::time::Instant;
use tonic::Status;

use self::sessions::Sessions;
use super::{Attacher, Export, flush, refuse_mounted};
use crate::handle::VolumeHandle;
use crate::{command, mount_table};

/// What the names of targets begin with that are a published volume each (`ashlar iscsi --all-volumes`): its
/// publication and its name follow.
const TARGET_PREFIX: &str = "iqn.2026-11.io.ashlar.publications:";
/// Where the kernel shows sessions.
const SYS: &str = "/sys";
/// How long disks and maps may take to show, and to go.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long requests of a disk without a map wait for its session, in seconds: for the server to come
/// back. After that they fail, and what was written and not synced is lost.
const ONE_PATH_WAIT_S: &str = "3600";
/// The same for one of several paths: the map has the others.
const MANY_PATHS_WAIT_S: &str = "5";

/// iscsiadm(8): there is such a session already.
const SESSION_EXISTS: i32 = 15;
/// There is no such record, or session.
const NOTHING_FOUND: i32 = 21;

/// The attacher.
#[derive(Debug)]
pub struct Iscsi {
    portals: Vec<String>,
}

impl Iscsi {
    /// Volumes that are targets of their own at each of the portals, `HOST:PORT`.
    #[must_use]
    pub fn new(portals: Vec<String>) -> Self {
        Self { portals }
    }

    /// Makes the record of one portal and logs in.
    async fn log_in(&self, target: &str, portal: &str) -> Result<(), Status> {
        let at = ["-p", portal];
        iscsiadm(&node(target, &[&at[..], &["-o", "new"]].concat()), &[]).await?;
        let wait = if self.portals.len() > 1 {
            MANY_PATHS_WAIT_S
        } else {
            ONE_PATH_WAIT_S
        };
        let setting = "node.session.timeo.replacement_timeout";
        let update = ["-o", "update", "-n", setting, "-v", wait];
        iscsiadm(&node(target, &[&at[..], &update].concat()), &[]).await?;
        iscsiadm(
            &node(target, &[&at[..], &["--login"]].concat()),
            &[SESSION_EXISTS],
        )
        .await
    }

    /// Waits until the device is there that workloads are to have.
    async fn settle(&self, target: &str) -> Result<PathBuf, Status> {
        let end = Instant::now() + SETTLE_MAX;
        loop {
            let sessions = look(target)?;
            if let Some(device) = self.device(&sessions) {
                return Ok(device);
            }
            if Instant::now() >= end {
                return Err(Status::unavailable(if sessions.disks.is_empty() {
                    format!(
                        "the host was logged in to {target} and saw no disk: is the volume still published to this \
                         node? Try again"
                    )
                } else {
                    format!(
                        "no multipath map shows over {}: multipathd must run, with a \
                         configuration that takes disks of ASHLAR",
                        sessions.disks.join(", ")
                    )
                }));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Ends the sessions with a target, and forgets it.
    async fn end(&self, target: &str, unsent: Unsent) -> Result<(), Status> {
        let sessions = look(target)?;
        if let Some(device) = self.device(&sessions) {
            refuse_mounted(&device)?;
            if unsent == Unsent::Sent {
                flush(&device).await?;
            }
        }
        if let Some((_, map)) = &sessions.map {
            command::check("multipath", ["-f", map]).await?;
        }
        if sessions.count > 0 {
            iscsiadm(&node(target, &["--logout"]), &[NOTHING_FOUND]).await?;
        }
        let end = Instant::now() + SETTLE_MAX;
        while look(target)?.count > 0 {
            if Instant::now() >= end {
                return Err(Status::unavailable(format!(
                    "the session with {target} does not end: try again"
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        // As long as there is a record, the host logs in again when it starts.
        iscsiadm(&node(target, &["-o", "delete"]), &[NOTHING_FOUND]).await
    }

    fn device(&self, sessions: &Sessions) -> Option<PathBuf> {
        let name = match (&sessions.map, sessions.disks.as_slice()) {
            (Some((map, _)), _) => map,
            (None, [disk, ..]) if self.portals.len() == 1 => disk,
            _ => return None,
        };
        let path = Path::new("/dev").join(name);
        // Its node, and its size, come after it.
        mount_table::device_number(&path).map(|_| path)
    }
}

#[tonic::async_trait]
impl Attacher for Iscsi {
    async fn attach(&self, export: &Export) -> Result<PathBuf, Status> {
        let target = target_of(export);
        for earlier in targets(&export.volume).await? {
            if earlier != target {
                self.end(&earlier, Unsent::Dropped).await?;
            }
        }
        let mut failed = None;
        if look(&target)?.count < self.portals.len() {
            for portal in &self.portals {
                failed = self.log_in(&target, portal).await.err().or(failed);
            }
        }
        // One path is enough.
        match failed {
            Some(error) if look(&target)?.count == 0 => return Err(error),
            Some(error) => tracing::warn!(target, error = error.message(), "a path is missing"),
            None => {}
        }
        let device = match self.settle(&target).await {
            Ok(device) => device,
            Err(error) => {
                // Where the volume was not this node's at the time of the login, only another one helps.
                if look(&target)?.disks.is_empty() {
                    self.end(&target, Unsent::Dropped).await?;
                }
                return Err(error);
            }
        };
        set_read_only(&device, export.read_only).await?;
        Ok(device)
    }

    async fn find(&self, volume: &VolumeHandle) -> Result<Option<PathBuf>, Status> {
        for target in sessions_with(volume)? {
            if let Some(device) = self.device(&look(&target)?) {
                return Ok(Some(device));
            }
        }
        Ok(None)
    }

    async fn refresh(&self, volume: &VolumeHandle) -> Result<(), Status> {
        for target in sessions_with(volume)? {
            iscsiadm(&node(&target, &["--rescan"]), &[]).await?;
            if let Some((_, map)) = look(&target)?.map {
                command::check("multipathd", ["resize", "map", &map]).await?;
            }
        }
        Ok(())
    }

    async fn detach(&self, volume: &VolumeHandle) -> Result<(), Status> {
        for target in targets(volume).await? {
            self.end(&target, Unsent::Sent).await?;
        }
        Ok(())
    }
}

/// What becomes of what was written and is not yet sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsent {
    /// It is sent first.
    Sent,
    /// It cannot be sent any more.
    Dropped,
}

fn target_of(export: &Export) -> String {
    let (id, volume) = (export.publication, export.volume.name.replace('/', ":"));
    format!("{TARGET_PREFIX}{id}:{volume}")
}

/// Whether a target is a publication of a volume.
fn is_of(target: &str, volume: &VolumeHandle) -> bool {
    let rest = target.strip_prefix(TARGET_PREFIX);
    let parts = rest.and_then(|rest| rest.split_once(':'));
    parts.is_some_and(|(id, name)| {
        id.parse::<PublicationId>().is_ok() && name == volume.name.replace('/', ":")
    })
}

/// The targets of a volume that this host has sessions with.
fn sessions_with(volume: &VolumeHandle) -> Result<BTreeSet<String>, Status> {
    let listed = sessions::targets(Path::new(SYS)).map_err(|error| unlisted(&error))?;
    let of_volume = listed.into_iter().filter(|target| is_of(target, volume));
    Ok(of_volume.collect())
}

/// The targets of a volume that this host has sessions with or records of.
async fn targets(volume: &VolumeHandle) -> Result<BTreeSet<String>, Status> {
    let mut found = sessions_with(volume)?;
    let output = command::run("iscsiadm", ["-m", "node"]).await?;
    match output.status.code() {
        Some(0 | NOTHING_FOUND) => {}
        _ => return Err(command::failed("iscsiadm", &output)),
    }
    // `PORTAL,GROUP TARGET`
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let recorded = listed
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1));
    let of_volume = recorded.filter(|target| is_of(target, volume));
    found.extend(of_volume.map(str::to_owned));
    Ok(found)
}

fn unlisted(error: &std::io::Error) -> Status {
    Status::internal(format!("iSCSI sessions cannot be listed: {error}"))
}

/// Arguments about a target's records.
fn node<'a>(target: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["-m", "node", "-T", target], more].concat()
}

fn look(target: &str) -> Result<Sessions, Status> {
    sessions::of_target(Path::new(SYS), target).map_err(|error| unlisted(&error))
}

/// Runs iscsiadm; some of its codes mean that all is well.
async fn iscsiadm(arguments: &[&str], well: &[i32]) -> Result<(), Status> {
    let output = command::run("iscsiadm", arguments).await?;
    match output.status.code() {
        Some(code) if code == 0 || well.contains(&code) => Ok(()),
        _ => {
            let failed = command::failed("iscsiadm", &output);
            Err(Status::unavailable(failed.message().to_owned()))
        }
    }
}

/// Has the kernel refuse writes to a device, or take them; not where somebody uses it otherwise.
async fn set_read_only(device: &Path, read_only: bool) -> Result<(), Status> {
    if mount_table::is_read_only(device) == read_only {
        return Ok(());
    }
    if !mount_table::of_device(device)?.is_empty() {
        return Err(Status::already_exists(
            "the volume is attached with other rights: unstage it first",
        ));
    }
    let way = if read_only { "--setro" } else { "--setrw" };
    let arguments = [OsStr::new(way), device.as_os_str()];
    command::check("blockdev", arguments).await.map(drop)
}

#[cfg(test)]
mod tests {
    use ashlar_proto::VolumeId;

    use super::*;

    #[test]
    fn targets_tell_whose_they_are() {
        let export = |name: &str| Export {
            volume: VolumeHandle {
                id: VolumeId::new(7),
                name: name.to_owned(),
            },
            publication: PublicationId::new(0xab),
            read_only: false,
            attach: None,
        };
        let (plain, of_project) = (export("v"), export("shop/v"));
        let target = "iqn.2026-11.io.ashlar.publications:00000000000000ab:v";
        assert_eq!(target_of(&plain), target);
        assert!(is_of(target, &plain.volume) && !is_of(target, &of_project.volume));
        let target = target_of(&of_project);
        assert!(is_of(&target, &of_project.volume) && !is_of(&target, &plain.volume));
        for other in [
            "iqn.2026-11.io.ashlar:v",
            "iqn.2026-11.io.ashlar.publications:v",
        ] {
            assert!(!is_of(other, &plain.volume), "{other}");
        }
    }
}
