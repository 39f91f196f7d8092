//! The CSI driver under test, and what it may leave on a host: mounts and loop devices.

use crate::binary;
use crate::cluster::Cluster;
use crate::process::{Service, wait_for};
use crate::tool::Tool;
use anyhow::{Context, Result, ensure};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The protocol, as `build.rs` makes it of the specification.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated; the specification documents it"
)]
pub mod protocol {
    tonic::include_proto!("csi.v1");
}

/// How long it may take to start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// `ashlar csi` beside a cluster, in a directory of the cluster's.
#[derive(Debug)]
pub struct Driver {
    directory: PathBuf,
    arguments: Vec<String>,
    service: Service,
}

impl Driver {
    /// Controller and node in one process; the node attaches by nbdfuse and loop devices.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        Self::start_as(cluster, &[])
    }

    /// The same with more arguments.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn start_as(cluster: &Cluster, more: &[&str]) -> Result<Self> {
        let state = cluster.path().join("csi").join("state");
        let node = [
            "--node-id=node-a".to_owned(),
            "--attacher=fuse-loop".to_owned(),
            format!("--nbd={}", cluster.nbd_address()),
            format!("--state={}", state.display()),
        ];
        let more = more.iter().map(|one| (*one).to_owned());
        Self::start_with(cluster, &node.into_iter().chain(more).collect::<Vec<_>>())
    }

    /// A controller alone.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn start_controller(cluster: &Cluster) -> Result<Self> {
        Self::start_with(cluster, &["--mode=controller".to_owned()])
    }

    fn start_with(cluster: &Cluster, more: &[String]) -> Result<Self> {
        let directory = cluster.path().join("csi");
        std::fs::create_dir_all(&directory)?;
        let socket = directory.join("csi.sock");
        let mut arguments = vec![
            "csi".to_owned(),
            format!("--endpoint=unix://{}", socket.display()),
            format!("--conductor=http://{}", cluster.api_address()),
        ];
        arguments.extend_from_slice(more);
        let service = run(&directory, &arguments)?;
        Ok(Self {
            directory,
            arguments,
            service,
        })
    }

    /// The socket that it serves at.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join("csi.sock")
    }

    /// Its directory: everything of it lies below.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its process.
    pub fn service(&mut self) -> &mut Service {
        &mut self.service
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.service.log()
    }

    /// Kills it with SIGKILL and starts it again. What it attaches through outlives it.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn kill_and_restart(&mut self) -> Result<()> {
        self.service.kill();
        self.service = run(&self.directory, &self.arguments)?;
        Ok(())
    }

    /// What is mounted or looped from below its directory.
    ///
    /// # Errors
    ///
    /// If the host cannot tell.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        let place = self.directory.to_string_lossy().into_owned();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let listed = ["--list", "--noheadings", "--output", "NAME,BACK-FILE"];
        let loops = Tool::new("losetup").args(listed).check()?;
        let lines = mounts.lines().chain(loops.lines());
        Ok(lines
            .filter(|line| line.contains(&place))
            .map(str::to_owned)
            .collect())
    }

    /// Fails if anything is left.
    ///
    /// # Errors
    ///
    /// With what is left.
    pub fn check_clean(&self) -> Result<()> {
        let left = self.leftovers()?;
        ensure!(
            left.is_empty(),
            "the driver left behind:\n{}",
            left.join("\n")
        );
        Ok(())
    }
}

impl Drop for Driver {
    /// Takes away what a failed test has left mounted, so that its directory can go.
    fn drop(&mut self) {
        self.service.kill();
        // First: a loop device whose file is unmounted no longer tells where that was.
        let left = self.leftovers().unwrap_or_default();
        let place = self.directory.to_string_lossy().into_owned();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts
            .lines()
            .rev()
            .filter_map(|line| line.split(' ').nth(4));
        for point in points.filter(|point| point.contains(&place)) {
            let _ = Tool::new("umount").args(["--lazy", point]).run();
        }
        for line in left.iter().filter(|line| line.starts_with("/dev/")) {
            if let Some(device) = line.split_whitespace().next() {
                let _ = Tool::new("losetup").args(["--detach", device]).run();
            }
        }
    }
}

fn run(directory: &Path, arguments: &[String]) -> Result<Service> {
    let log = directory.join("csi.log");
    let service = Service::start("csi", &log, binary::ashlar(), arguments)?;
    let socket = directory.join("csi.sock");
    wait_for("the CSI driver", START_LIMIT, || {
        UnixStream::connect(&socket).map(drop).context("its socket")
    })?;
    Ok(service)
}
