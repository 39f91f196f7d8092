//! A deployment with several conductors: three members of etcd, three conductors, three stores, one NBD
//! server, each a process that can be killed, stopped and started again.

use crate::cluster::free_port;
use crate::process::{Service, wait_for};
use crate::{Tool, binary};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// Longest that anything here may take.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Of each kind.
pub const MEMBERS: usize = 3;

/// All of its processes.
#[derive(Debug)]
pub struct Deployment {
    directory: TempDir,
    /// For clients, and for each other.
    etcd_ports: Vec<(u16, u16)>,
    conductor_ports: Vec<u16>,
    /// The members of etcd.
    pub etcd: Vec<Service>,
    /// The conductors.
    pub conductors: Vec<Service>,
    stores: Vec<Service>,
    nbd: Option<Service>,
    /// Where the NBD server listens.
    pub nbd_port: u16,
}

impl Deployment {
    /// Starts all, and waits until the stores are there.
    ///
    /// # Errors
    /// If some process does not start.
    pub fn start() -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("conductors-")
            .tempdir_in(binary::work_dir())?;
        let ports = || -> Result<Vec<u16>> { (0..MEMBERS).map(|_| free_port()).collect() };
        let (clients, peers) = (ports()?, ports()?);
        let mut it = Self {
            directory,
            etcd_ports: clients.into_iter().zip(peers).collect(),
            conductor_ports: ports()?,
            etcd: Vec::new(),
            conductors: Vec::new(),
            stores: Vec::new(),
            nbd: None,
            nbd_port: free_port()?,
        };
        for index in 0..MEMBERS {
            it.etcd.push(it.start_etcd(index)?);
        }
        it.etcd_leader()?;
        for index in 0..MEMBERS {
            it.conductors.push(it.start_conductor(index)?);
        }
        it.leader()?;
        for index in 0..MEMBERS {
            it.stores.push(it.start_store(index)?);
        }
        let listen = format!("127.0.0.1:{}", it.nbd_port);
        let api = it.api();
        let arguments = ["nbd", "--conductor", &api, "--listen", &listen];
        it.nbd = Some(it.service("nbd", binary::ashlar(), &arguments)?);
        it.await_stores()?;
        Ok(it)
    }

    /// Waits until all stores are up.
    ///
    /// # Errors
    /// If they are not within [`LIMIT`].
    pub fn await_stores(&self) -> Result<()> {
        wait_for("three stores", LIMIT, || {
            let status = self.json(&["status"])?;
            ensure!(status["nodes_up"] == MEMBERS, "{status}");
            Ok(())
        })
    }

    fn service(&self, name: &str, program: &Path, arguments: &[&str]) -> Result<Service> {
        let log = self.directory.path().join(format!("{name}.log"));
        Service::start(name, &log, program, arguments.iter().copied())
    }

    /// A member of etcd, for the first time or again.
    ///
    /// # Errors
    /// If there is no etcd on this machine.
    pub fn start_etcd(&self, index: usize) -> Result<Service> {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let (client, peer) = self.etcd_ports[index];
        let (client, peer) = (url(client), url(peer));
        let name = format!("m{index}");
        let directory = self.directory.path().join(&name).display().to_string();
        let all: Vec<String> = (0..MEMBERS)
            .map(|i| format!("m{i}={}", url(self.etcd_ports[i].1)))
            .collect();
        let all = all.join(",");
        let mut arguments = vec!["--name", &name, "--data-dir", &directory];
        arguments.extend(["--listen-client-urls", &client]);
        arguments.extend(["--advertise-client-urls", &client]);
        arguments.extend(["--listen-peer-urls", &peer]);
        arguments.extend(["--initial-advertise-peer-urls", &peer]);
        arguments.extend(["--initial-cluster", &all]);
        // As for members that are near each other.
        arguments.extend(["--heartbeat-interval", "100", "--election-timeout", "500"]);
        self.service(&format!("etcd-{index}"), Path::new("etcd"), &arguments)
    }

    /// All members of etcd, as a conductor is told.
    #[must_use]
    pub fn etcd_urls(&self) -> String {
        let ports = self.etcd_ports.iter();
        let all: Vec<String> = ports
            .map(|(port, _)| format!("http://127.0.0.1:{port}"))
            .collect();
        all.join(",")
    }

    /// A conductor, for the first time or again.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_conductor(&self, index: usize) -> Result<Service> {
        let (etcd, listen) = (
            self.etcd_urls(),
            format!("127.0.0.1:{}", self.conductor_ports[index]),
        );
        let arguments = ["conductor", "--etcd", &etcd, "--listen", &listen];
        let arguments = arguments.into_iter().chain(["--etcd-lease", "1"]);
        let arguments: Vec<&str> = arguments.collect();
        self.service(&format!("conductor-{index}"), binary::ashlar(), &arguments)
    }

    fn start_store(&self, index: usize) -> Result<Service> {
        let disk = self.directory.path().join(format!("disk-{index}"));
        let disk = disk.display().to_string();
        let format = ["disk", "format", &disk, "--size", "2GiB"];
        Tool::new(binary::ashlar()).args(format).check()?;
        let (api, listen) = (self.api(), format!("127.0.0.1:{}", free_port()?));
        let name = format!("store-{index}");
        let mut arguments = vec!["store", "--conductor", &api, "--listen", &listen];
        arguments.extend(["--name", &name, "--disk", &disk]);
        self.service(&name, binary::ashlar(), &arguments)
    }

    /// All conductors, as clients are told.
    #[must_use]
    pub fn api(&self) -> String {
        let all: Vec<String> = (0..MEMBERS).map(|index| self.url(index)).collect();
        all.join(",")
    }

    /// One of them.
    #[must_use]
    pub fn url(&self, index: usize) -> String {
        format!("http://127.0.0.1:{}", self.conductor_ports[index])
    }

    /// A directory that goes with it.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A command of `ashlar`, for all conductors.
    #[must_use]
    pub fn ashlar(&self, arguments: &[&str]) -> Tool {
        let tool = Tool::new(binary::ashlar()).env("ASHLAR_API", self.api());
        tool.args(arguments).limit(LIMIT)
    }

    /// What a command says with `--json`.
    ///
    /// # Errors
    /// If it fails.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.ashlar(arguments).arg("--json").check()?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    /// Asks one conductor; gives the status and the body.
    ///
    /// # Errors
    /// If it does not answer within two seconds.
    pub fn curl(&self, index: usize, arguments: &[&str], path: &str) -> Result<(u16, Value)> {
        let url = format!("{}{path}", self.url(index));
        let tool = Tool::new("curl").args(["-s", "--max-time", "2", "-w", "\n%{http_code}"]);
        let text = tool.args(arguments).arg(url).check()?;
        let (body, status) = text.trim_end().rsplit_once('\n').unwrap_or(("", &text));
        let body = serde_json::from_str(body).unwrap_or(Value::Null);
        Ok((status.trim().parse()?, body))
    }

    /// The conductor that leads, of those that answer.
    ///
    /// # Errors
    /// If none does within [`LIMIT`].
    pub fn leader(&self) -> Result<usize> {
        wait_for("a leader", LIMIT, || {
            let leads = |index: &usize| {
                let answer = self.curl(*index, &[], "/v1/leader");
                answer.is_ok_and(|(_, it)| it["leads"] == true)
            };
            (0..MEMBERS).find(leads).context("nobody leads")
        })
    }

    /// The member that leads etcd, of those that answer.
    ///
    /// # Errors
    /// If none does within [`LIMIT`].
    pub fn etcd_leader(&self) -> Result<usize> {
        wait_for("a leader of etcd", LIMIT, || {
            for (index, (port, _)) in self.etcd_ports.iter().enumerate() {
                let endpoint = format!("http://127.0.0.1:{port}");
                let tool = Tool::new("etcdctl").env("ETCDCTL_API", "3");
                let tool = tool.args(["--endpoints", &endpoint, "--command-timeout", "1s"]);
                let answer = tool.args(["endpoint", "status", "-w", "json"]).run()?;
                let status: Value = serde_json::from_str(&answer.stdout).unwrap_or_default();
                let status = &status[0]["Status"];
                let (own, leader) = (&status["header"]["member_id"], &status["leader"]);
                if own.is_u64() && own == leader {
                    return Ok(index);
                }
            }
            anyhow::bail!("the members elect nobody")
        })
    }
}
