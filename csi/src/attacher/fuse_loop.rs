//! The test attacher: nbdfuse shows the export as a file, a loop device shows the file as a device. For
//! hosts whose kernel has no NBD client; slow, and a device keeps the size that it was attached with.
//!
//! ```text
//! STATE/VOLUME.PUBLICATION/ ── FUSE mount of nbdfuse ── disk ── loop device
//! ```
//!
//! nbdfuse outlives the driver, so a driver that is started again finds the device by its file.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ashlar_proto::{Address, PublicationId};
use tokio::process::Command;
use tokio::time::Instant;
use tonic::Status;

use super::{Attacher, Export, refuse_mounted};
use crate::handle::VolumeHandle;
use crate::{command, mount_table};

/// How long nbdfuse may take to show the file, and to go.
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The file in the FUSE mount.
const FILE: &str = "disk";

/// Where the exports are served.
#[derive(Clone, Debug)]
pub struct NbdServer(pub Address);

impl NbdServer {
    /// The URI of an export, whose name needs no escapes.
    fn uri(&self, export: &str) -> String {
        match &self.0 {
            Address::Unix(path) => format!("nbd+unix:///{export}?socket={}", path.display()),
            address => format!("nbd://{address}/{export}"),
        }
    }
}

/// The attacher.
#[derive(Debug)]
pub struct FuseLoop {
    server: NbdServer,
    state: PathBuf,
}

impl FuseLoop {
    /// Volumes of a server, mounted below `state`, a directory that is this driver's alone.
    #[must_use]
    pub fn new(server: NbdServer, state: PathBuf) -> Self {
        Self { server, state }
    }

    fn directory(&self, export: &Export) -> PathBuf {
        let (volume, publication) = (export.volume.id, export.publication);
        self.state.join(format!("{volume}.{publication}"))
    }

    /// The directories of a volume: one, unless it was published to this node anew.
    fn directories(&self, volume: &VolumeHandle) -> Result<Vec<PathBuf>, Status> {
        let entries = match std::fs::read_dir(&self.state) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries,
        };
        let prefix = format!("{}.", volume.id);
        let is_of_volume = |name: &str| {
            let publication = name.strip_prefix(&prefix).map(str::parse::<PublicationId>);
            matches!(publication, Some(Ok(_)))
        };
        let of_volume = |entry: std::io::Result<std::fs::DirEntry>| {
            let entry = entry?;
            Ok(is_of_volume(&entry.file_name().to_string_lossy()).then(|| entry.path()))
        };
        let found = entries.and_then(|entries| entries.map(of_volume).collect());
        let found: Vec<Option<PathBuf>> = found.map_err(|error: std::io::Error| {
            Status::internal(format!("{}: {error}", self.state.display()))
        })?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The device over the file in a directory.
    async fn device(&self, directory: &Path) -> Result<Option<PathBuf>, Status> {
        let file = directory.join(FILE);
        // Without its nbdfuse the device is dead.
        if tokio::fs::metadata(&file).await.is_err() {
            return Ok(None);
        }
        Ok(self.loops(&file).await?.into_iter().next())
    }

    /// Shows the export as a file; nbdfuse that ends at once says why.
    async fn show(&self, export: &Export, directory: &Path) -> Result<(), Status> {
        tokio::fs::create_dir_all(directory)
            .await
            .map_err(|error| {
                Status::internal(format!("{} cannot be made: {error}", directory.display()))
            })?;
        let mut nbdfuse = Command::new("nbdfuse");
        if export.read_only {
            nbdfuse.arg("--readonly");
        }
        let mut child = nbdfuse
            .arg(directory.join(FILE))
            .arg(self.server.uri(&export.name().to_string()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A signal for the driver's group is not for it.
            .process_group(0)
            .spawn()
            .map_err(|error| Status::internal(format!("nbdfuse cannot be run: {error}")))?;
        let end = Instant::now() + SETTLE_MAX;
        while mount_table::at(directory)?.is_none() {
            let ended = child.try_wait().unwrap_or_default();
            if let Some(ended) = ended {
                return Err(Status::unavailable(format!(
                    "nbdfuse cannot show export `{}` ({ended}): it is attached elsewhere, or the NBD \
                     server does not answer",
                    export.volume.name
                )));
            }
            if Instant::now() >= end {
                let _ = child.start_kill();
                return Err(Status::deadline_exceeded(
                    "nbdfuse did not show the export in time",
                ));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        // It is waited for in the background, so that its end leaves nothing.
        tokio::spawn(async move {
            let ended = child.wait().await;
            let signal = ended.ok().and_then(|ended| ended.signal());
            tracing::debug!(?signal, "nbdfuse ended");
        });
        Ok(())
    }

    /// Ends what is in a directory, and the directory.
    async fn end(&self, directory: &Path) -> Result<(), Status> {
        for device in self.loops(&directory.join(FILE)).await? {
            refuse_mounted(&device)?;
            let arguments = [OsStr::new("--detach"), device.as_os_str()];
            command::check("losetup", arguments).await?;
        }
        // umount(8) ends nbdfuse, which disconnects once all is written.
        let end = Instant::now() + SETTLE_MAX;
        while mount_table::at(directory)?.is_some() {
            let output = command::run("umount", [directory.as_os_str()]).await?;
            if !output.status.success() && Instant::now() >= end {
                return Err(command::failed("umount", &output));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        match tokio::fs::remove_dir(directory).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Status::internal(
                format!("{} cannot be removed: {error}", directory.display()),
            )),
            _ => Ok(()),
        }
    }

    /// Loop devices over the file.
    async fn loops(&self, file: &Path) -> Result<Vec<PathBuf>, Status> {
        let listed = ["--list", "--noheadings", "--output", "NAME,BACK-FILE"];
        let listed = command::check("losetup", listed).await?;
        let of_file = |line: &str| {
            let (device, backing) = line.split_once(char::is_whitespace)?;
            (Path::new(backing.trim()) == file).then(|| PathBuf::from(device))
        };
        Ok(listed.lines().filter_map(of_file).collect())
    }
}

#[tonic::async_trait]
impl Attacher for FuseLoop {
    async fn attach(&self, export: &Export) -> Result<PathBuf, Status> {
        let directory = self.directory(export);
        for earlier in self.directories(&export.volume)? {
            if earlier != directory {
                self.end(&earlier).await?;
            }
        }
        if let Some(device) = self.device(&directory).await? {
            return Ok(device);
        }
        self.end(&directory).await?;
        self.show(export, &directory).await?;
        let mut arguments = vec![OsStr::new("--find"), OsStr::new("--show")];
        if export.read_only {
            arguments.push(OsStr::new("--read-only"));
        }
        let file = directory.join(FILE);
        arguments.push(file.as_os_str());
        match command::check("losetup", arguments).await {
            Ok(device) => Ok(PathBuf::from(device.trim())),
            Err(error) => {
                self.end(&directory).await?;
                Err(error)
            }
        }
    }

    async fn find(&self, volume: &VolumeHandle) -> Result<Option<PathBuf>, Status> {
        for directory in self.directories(volume)? {
            if let Some(device) = self.device(&directory).await? {
                return Ok(Some(device));
            }
        }
        Ok(None)
    }

    async fn refresh(&self, _: &VolumeHandle) -> Result<(), Status> {
        Ok(())
    }

    async fn detach(&self, volume: &VolumeHandle) -> Result<(), Status> {
        for directory in self.directories(volume)? {
            self.end(&directory).await?;
        }
        Ok(())
    }
}
