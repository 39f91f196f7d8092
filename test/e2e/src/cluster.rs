//! A real cluster on this machine: one process, or one for each role.
//!
//! Its directory and its ports stay the same over kills and restarts, as they do for a user.

use crate::binary;
use crate::namespaces::Namespaces;
use crate::process::{Service, kill_group, wait_for};
use crate::tool::Tool;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// How long a cluster may take until all of its stores are there.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long a clean stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Store nodes.
    pub stores: usize,
    /// Disks of each store; more than one only where it is a process of its own.
    pub disks: usize,
    /// `--engine`, if any.
    pub engine: Option<String>,
    /// A process for each role instead of `ashlar up`.
    pub separate: bool,
    /// A network namespace for each process, which must be separate.
    pub isolated: bool,
    /// Size of each disk.
    pub disk_size: String,
    /// The size of each disk of the first stores, where it is another one; these must be separate.
    pub first_disk_sizes: Vec<String>,
    /// `--lanes` of each disk of a store that is a process of its own.
    pub disk_lanes: u16,
    /// More arguments for each `ashlar store`.
    pub store_arguments: Vec<String>,
    /// More arguments for `ashlar conductor`.
    pub conductor_arguments: Vec<String>,
    /// More arguments for `ashlar nbd`.
    pub nbd_arguments: Vec<String>,
    /// More arguments for each `ashlar iscsi`.
    pub iscsi_arguments: Vec<String>,
    /// More arguments for `ashlar up`.
    pub up_arguments: Vec<String>,
    /// `--metrics` for each process, at a port of its own.
    pub metrics: bool,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            stores: 3,
            disks: 1,
            engine: None,
            separate: false,
            isolated: false,
            disk_size: "2GiB".to_owned(),
            first_disk_sizes: Vec::new(),
            disk_lanes: 1,
            store_arguments: Vec::new(),
            conductor_arguments: Vec::new(),
            nbd_arguments: Vec::new(),
            iscsi_arguments: Vec::new(),
            up_arguments: Vec::new(),
            metrics: false,
        }
    }
}

/// A cluster with its directory, ports and processes.
#[derive(Debug)]
pub struct Cluster {
    options: ClusterOptions,
    directory: TempDir,
    api: u16,
    nbd: u16,
    iscsi: u16,
    iscsi_second: u16,
    /// Of `ashlar iscsi` as `iscsi-0` and `iscsi-1`.
    iscsi_servers: [u16; 2],
    store_ports: Vec<u16>,
    /// Where processes tell how they are, by their names.
    metrics: Vec<(String, u16)>,
    services: Vec<(String, Service)>,
    /// Goes after the services.
    network: Option<Namespaces>,
    /// A killer has been at work: what it killed may take a moment to end.
    killed: Arc<AtomicBool>,
}

impl Cluster {
    /// `ashlar up` with three stores, ready.
    ///
    /// # Errors
    ///
    /// If it does not get ready.
    pub fn up() -> Result<Self> {
        Self::start(ClusterOptions::default())
    }

    /// A cluster as told, ready.
    ///
    /// # Errors
    ///
    /// If it does not get ready.
    pub fn start(options: ClusterOptions) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("cluster-")
            .tempdir_in(binary::work_dir())?;
        let stores = if options.separate { options.stores } else { 0 };
        let network = if options.isolated {
            ensure!(options.separate, "only processes of their own are isolated");
            let mut network = Namespaces::new()?;
            network.add("conductor")?;
            network.add("nbd")?;
            (0..stores).try_for_each(|store| network.add(&format!("store-{store}")))?;
            Some(network)
        } else {
            None
        };
        let mut cluster = Self {
            directory,
            api: free_port()?,
            nbd: free_port()?,
            iscsi: free_port()?,
            iscsi_second: free_port()?,
            iscsi_servers: [free_port()?, free_port()?],
            store_ports: (0..stores).map(|_| free_port()).collect::<Result<_>>()?,
            metrics: metrics_ports(stores)?,
            services: Vec::new(),
            network,
            killed: Arc::default(),
            options,
        };
        if cluster.options.separate {
            for store in 0..stores {
                cluster.format_disks(store)?;
            }
        }
        cluster.restart()?;
        Ok(cluster)
    }

    /// One more store, a process of its own, with empty disks; it is there on return. Gives its name.
    ///
    /// # Errors
    ///
    /// If it does not get ready.
    pub fn add_store(&mut self) -> Result<String> {
        ensure!(self.options.separate, "`ashlar up` has all of its stores");
        let store = self.options.stores;
        self.options.stores += 1;
        self.store_ports.push(free_port()?);
        self.format_disks(store)?;
        let name = format!("store-{store}");
        if let Some(network) = &mut self.network {
            network.add(&name)?;
        }
        self.start_service(&name)?;
        self.wait_ready()?;
        Ok(name)
    }

    /// One more disk, empty, in each store: they are started again with it, one after another, each
    /// once the cluster is healthy again.
    ///
    /// # Errors
    ///
    /// If one does not get ready.
    pub fn add_disks(&mut self) -> Result<()> {
        ensure!(self.options.separate, "`ashlar up` has all of its disks");
        self.options.disks += 1;
        for store in 0..self.options.stores {
            self.format_disks(store)?;
            let name = format!("store-{store}");
            let named = |(known, _): &(String, Service)| *known == name;
            let at = self.services.iter().position(named);
            let (_, mut service) = self.services.remove(at.context("no such store")?);
            let status = service.stop(STOP_LIMIT)?;
            ensure!(status.success(), "{name} ended with {status}");
            self.start_service(&name)?;
            self.wait_ready()?;
            wait_for("healthy volumes", READY_LIMIT, || {
                let status = self.json(["status"])?;
                ensure!(status["health"] == "healthy", "{status}");
                Ok(())
            })?;
        }
        Ok(())
    }

    fn format_disks(&self, store: usize) -> Result<()> {
        for path in self.separate_disks(store) {
            if path.exists() {
                continue;
            }
            std::fs::create_dir_all(path.parent().context("a disk lies in a directory")?)?;
            let lanes = self.options.disk_lanes.to_string();
            let own_size = self.options.first_disk_sizes.get(store);
            let size = own_size.unwrap_or(&self.options.disk_size);
            self.ashlar(["disk", "format"])
                .arg(&path)
                .args(["--size", size, "--lanes", &lanes])
                .check()?;
        }
        Ok(())
    }

    /// Starts every process that does not run, and waits until all stores are there.
    ///
    /// # Errors
    ///
    /// If they do not get ready.
    pub fn restart(&mut self) -> Result<()> {
        if self.killed.swap(false, Ordering::SeqCst) {
            self.kill();
        }
        if self.options.separate {
            self.start_service("conductor")?;
            for store in 0..self.options.stores {
                self.start_service(&format!("store-{store}"))?;
            }
            self.start_service("nbd")?;
        } else {
            self.start_service("up")?;
        }
        self.wait_ready()
    }

    /// Waits until all stores are up and the NBD server accepts.
    ///
    /// # Errors
    ///
    /// If they do not get ready, or a process ends.
    pub fn wait_ready(&mut self) -> Result<()> {
        let stores = self.options.stores;
        wait_for("all stores", READY_LIMIT, || {
            for (name, service) in &mut self.services {
                // A process that has ended will not get ready: no use to wait.
                assert!(
                    service.is_running(),
                    "{name} has ended:\n{}",
                    service.log_tail()
                );
            }
            let status = self.json(["status"])?;
            ensure!(
                status["nodes_up"].as_u64() == u64::try_from(stores).ok(),
                "{status}"
            );
            // A process that was killed may still be accepting, but it greets nobody.
            let mut magic = [0; 8];
            let mut stream = TcpStream::connect(self.nbd_address())?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.read_exact(&mut magic)?;
            ensure!(&magic == b"NBDMAGIC", "no NBD server: {magic:?}");
            Ok(())
        })
    }

    /// Starts one process by its name (`up`, `conductor`, `store-0`…, `nbd`, `iscsi`, `iscsi-0`, `iscsi-1`), if it does not run.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start_service(&mut self, name: &str) -> Result<()> {
        if let Some((_, service)) = self.services.iter_mut().find(|(n, _)| n == name)
            && service.is_running()
        {
            return Ok(());
        }
        self.services.retain(|(n, _)| n != name);
        let arguments = self.arguments(name)?;
        let log = self.path().join(format!("{name}.log"));
        let (program, mut line) = match &self.network {
            Some(network) => network.inside(name, binary::ashlar()),
            None => (binary::ashlar().to_owned(), Vec::new()),
        };
        line.extend(arguments);
        let service = Service::start(name, &log, &program, line)?;
        self.services.push((name.to_owned(), service));
        Ok(())
    }

    /// Where a process is.
    fn host(&self, name: &str) -> String {
        let network = self.network.as_ref();
        network.map_or_else(
            || "127.0.0.1".to_owned(),
            |network| network.address_of(name),
        )
    }

    /// Where the conductor is reached: HOST:PORT.
    #[must_use]
    pub fn api_address(&self) -> String {
        format!("{}:{}", self.host("conductor"), self.api)
    }

    /// Where the NBD server is.
    #[must_use]
    pub fn nbd_address(&self) -> String {
        format!("{}:{}", self.host("nbd"), self.nbd)
    }

    /// Where a store that is a process of its own takes connections of the data plane.
    #[must_use]
    pub fn store_address(&self, store: usize) -> String {
        let host = self.host(&format!("store-{store}"));
        format!("{host}:{}", self.store_ports[store])
    }

    /// The port of the iSCSI server.
    #[must_use]
    pub fn iscsi_port(&self) -> u16 {
        self.iscsi
    }

    /// The port of the second iSCSI server, the service `iscsi-second` of separate processes.
    #[must_use]
    pub fn iscsi_second_port(&self) -> u16 {
        self.iscsi_second
    }

    /// Where the iSCSI server is: in `ashlar up`, or the service `iscsi` of separate processes, once that
    /// is started.
    #[must_use]
    pub fn iscsi_address(&self) -> String {
        format!("127.0.0.1:{}", self.iscsi)
    }

    /// Where one of two iSCSI servers is: the service `iscsi-0` or `iscsi-1`, once it is started.
    #[must_use]
    pub fn iscsi_server_address(&self, server: usize) -> String {
        format!("127.0.0.1:{}", self.iscsi_servers[server])
    }

    /// Where a process tells how it is, if the cluster was asked for that.
    ///
    /// # Errors
    ///
    /// If there is no such process.
    pub fn metrics_address(&self, name: &str) -> Result<String> {
        let known = self.metrics.iter().find(|(known, _)| known == name);
        let (_, port) = known.with_context(|| format!("{name} tells nothing"))?;
        Ok(format!("127.0.0.1:{port}"))
    }

    /// The network of an isolated cluster.
    ///
    /// # Panics
    ///
    /// If it is none.
    #[must_use]
    pub fn network(&self) -> &Namespaces {
        self.network.as_ref().expect("the cluster is isolated")
    }

    fn arguments(&self, name: &str) -> Result<Vec<String>> {
        let data = self.data_path().display().to_string();
        let (api, nbd) = (self.api_address(), self.nbd_address());
        let conductor = format!("http://{api}");
        let mut arguments: Vec<String> = Vec::new();
        let mut push = |parts: &[&str]| arguments.extend(parts.iter().map(|&part| part.to_owned()));
        match name {
            "up" => {
                let stores = self.options.stores.to_string();
                push(&[
                    "up", "--data", &data, "--stores", &stores, "--api", &api, "--nbd", &nbd,
                ]);
                push(&["--iscsi", &self.iscsi_address()]);
                push(&["--disk-size", &self.options.disk_size]);
            }
            "conductor" => {
                push(&["conductor", "--data", &data, "--listen", &api]);
                // Its stores are on other machines than it.
                if self.network.is_some() {
                    push(&["--auth", "off"]);
                }
            }
            "iscsi" | "iscsi-second" => {
                let port = match name {
                    "iscsi" => self.iscsi,
                    _ => self.iscsi_second,
                };
                let listen = format!("127.0.0.1:{port}");
                push(&["iscsi", "--conductor", &conductor, "--listen", &listen]);
                push(&["--name", name]);
                // A guest reaches this machine by another address than this one knows.
                push(&["--portal", &format!("10.0.2.2:{port}")]);
                push(&["--force-attach"]);
            }
            "iscsi-0" | "iscsi-1" => {
                let listen = self.iscsi_server_address(usize::from(name == "iscsi-1"));
                push(&["iscsi", "--conductor", &conductor, "--listen", &listen]);
                push(&["--name", name, "--all-volumes"]);
            }
            // Killed and started again, it takes back what its last run had attached.
            "nbd" => {
                push(&[
                    "nbd",
                    "--conductor",
                    &conductor,
                    "--listen",
                    &nbd,
                    "--force-attach",
                ]);
            }
            _ => {
                let store: usize = name
                    .strip_prefix("store-")
                    .context("no such role")?
                    .parse()?;
                let listen = format!("{}:{}", self.host(name), self.store_ports[store]);
                push(&["store", "--conductor", &conductor, "--listen", &listen]);
                push(&["--name", name, "--label", &format!("zone={store}")]);
                push(&["--disk"]);
                for disk in self.separate_disks(store) {
                    push(&[&disk.display().to_string()]);
                }
            }
        }
        if let Some(engine) = &self.options.engine
            && name != "conductor"
        {
            arguments.extend(["--engine".to_owned(), engine.clone()]);
        }
        let more = match name {
            "up" => self.options.up_arguments.as_slice(),
            "conductor" => self.options.conductor_arguments.as_slice(),
            "nbd" => &self.options.nbd_arguments,
            "iscsi" | "iscsi-second" => &self.options.iscsi_arguments,
            "iscsi-0" | "iscsi-1" => &[],
            _ => &self.options.store_arguments,
        };
        arguments.extend(more.iter().cloned());
        if self.options.metrics {
            let address = self.metrics_address(name)?;
            arguments.extend(["--metrics".to_owned(), address]);
        }
        Ok(arguments)
    }

    /// Kills every process with SIGKILL.
    pub fn kill(&mut self) {
        for (_, service) in &mut self.services {
            service.kill();
        }
    }

    /// Stops every process with SIGTERM, front ends first.
    ///
    /// # Errors
    ///
    /// If one does not end, or not with success.
    pub fn stop(&mut self) -> Result<()> {
        for (name, service) in self.services.iter_mut().rev() {
            if !service.is_running() {
                continue;
            }
            let status = service.stop(STOP_LIMIT)?;
            ensure!(
                status.success(),
                "{name} ended with {status}:\n{}",
                service.log_tail()
            );
        }
        self.services.clear();
        Ok(())
    }

    /// A running process by its name.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn service(&mut self, name: &str) -> &mut Service {
        let found = self.services.iter_mut().find(|(n, _)| n == name);
        &mut found.unwrap_or_else(|| panic!("there is no {name}")).1
    }

    /// `ashlar` with this cluster's address in its environment.
    pub fn ashlar<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Tool {
        let api = format!("http://{}", self.api_address());
        Tool::new(binary::ashlar())
            .env("ASHLAR_API", api)
            .args(arguments)
    }

    /// `ashlar … --json`, parsed.
    ///
    /// # Errors
    ///
    /// If it fails or prints no JSON.
    pub fn json<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Value> {
        let text = self.ashlar(arguments).arg("--json").check()?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    /// Creates a volume and waits until it can be attached.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn create_volume(&self, name: &str, size: &str, replicas: u8) -> Result<()> {
        let replicas = replicas.to_string();
        self.ashlar([
            "volume",
            "create",
            name,
            "--size",
            size,
            "--replicas",
            &replicas,
        ])
        .check()?;
        wait_for("the volume", READY_LIMIT, || {
            let volume = self.json(["volume", "show", name])?;
            ensure!(volume["state"] == "ready", "{volume}");
            Ok(())
        })
    }

    /// An export's URI.
    #[must_use]
    pub fn uri(&self, volume: &str) -> String {
        format!("nbd://{}/{volume}", self.nbd_address())
    }

    /// The NBD server's port on loopback.
    #[must_use]
    pub fn nbd_port(&self) -> u16 {
        self.nbd
    }

    /// The API's port on loopback.
    #[must_use]
    pub fn api_port(&self) -> u16 {
        self.api
    }

    /// Its directory: logs, and what a test wants to keep beside them.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// What `--data` names.
    #[must_use]
    pub fn data_path(&self) -> PathBuf {
        self.path().join("data")
    }

    fn separate_disks(&self, store: usize) -> Vec<PathBuf> {
        (0..self.options.disks)
            .map(|disk| self.path().join(format!("store-{store}/disk-{disk}")))
            .collect()
    }

    /// Every disk's path, in the order of their nodes' names. The cluster must run.
    ///
    /// # Errors
    ///
    /// If the list cannot be had.
    pub fn disk_paths(&self) -> Result<Vec<PathBuf>> {
        let list = self.json(["disk", "list"])?;
        let disks = list.as_array().context("no list of disks")?;
        let mut named: Vec<(String, PathBuf)> = disks
            .iter()
            .map(|disk| {
                let path = disk["path"].as_str().context("a disk has no path")?;
                Ok((disk["node_name"].to_string(), PathBuf::from(path)))
            })
            .collect::<Result<_>>()?;
        named.sort();
        let disks = self.options.stores * self.options.disks;
        ensure!(named.len() == disks, "disks: {named:?}");
        Ok(named.into_iter().map(|(_, path)| path).collect())
    }

    /// A function that kills every process with SIGKILL, to be called from another thread.
    pub fn killer(&self) -> impl FnOnce() + Send + 'static {
        let pids: Vec<u32> = self
            .services
            .iter()
            .map(|(_, service)| service.pid())
            .collect();
        let killed = Arc::clone(&self.killed);
        move || {
            killed.store(true, Ordering::SeqCst);
            pids.into_iter().for_each(kill_group);
        }
    }
}

/// A port for each process that may be started.
fn metrics_ports(stores: usize) -> Result<Vec<(String, u16)>> {
    let roles = ["up", "conductor", "nbd", "iscsi"].map(str::to_owned);
    let stores = (0..stores).map(|store| format!("store-{store}"));
    let names = roles.into_iter().chain(stores);
    names.map(|name| Ok((name, free_port()?))).collect()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // What a failed test left is worth a look.
        if std::env::var_os("ASHLAR_E2E_KEEP").is_some() {
            self.directory.disable_cleanup(true);
            eprintln!("--- kept {}", self.directory.path().display());
        }
        // Each shows its log, which goes with the directory.
        self.services.clear();
    }
}

/// A TCP port that nobody listens on, given once in this process.
///
/// It lies below what Linux gives to outgoing connections (32768 and up): a server that is killed
/// finds its port again when it starts anew.
///
/// # Errors
///
/// If none is free.
pub fn free_port() -> Result<u16> {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 18_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test binaries that run at the same time start far from each other.
    let start = std::process::id().wrapping_mul(641);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_add(step) % COUNT;
        let port = u16::try_from(port).expect("below 30000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("every port from {FIRST} on is taken");
}
