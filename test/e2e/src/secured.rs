//! A cluster whose processes know each other by certificates, on loopback as on a network.

use crate::cluster::free_port;
use crate::process::wait_for;
use crate::tool::Finished;
use crate::{Service, Tool, binary};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

const READY_LIMIT: Duration = Duration::from_secs(60);

/// Conductor, three stores and an NBD server, each with a certificate of its own.
pub struct Secured {
    directory: tempfile::TempDir,
    api: u16,
    /// Where the NBD server listens.
    pub nbd: u16,
    /// Where the iSCSI server listens.
    pub iscsi: u16,
    /// Where the stores listen.
    pub stores: Vec<u16>,
    /// `conductor`, `store-0` and so on, `nbd`, `iscsi`.
    pub services: Vec<(String, Service)>,
}

impl Secured {
    /// Starts them; certificates are good for `ttl`, such as `24h`.
    ///
    /// # Errors
    ///
    /// If they do not get ready.
    pub fn start(ttl: &str) -> Result<Self> {
        let directory = tempfile::tempdir_in(binary::work_dir())?;
        let stores = (0..3).map(|_| free_port()).collect::<Result<_>>()?;
        let mut made = Self {
            directory,
            api: free_port()?,
            nbd: free_port()?,
            iscsi: free_port()?,
            stores,
            services: Vec::new(),
        };
        made.init("ca")?;
        made.issue("ca", "client", "admin", "24h", "admin")?;
        let (data, listen) = (made.text("meta"), format!("127.0.0.1:{}", made.api));
        let arguments = [
            "conductor",
            "--data",
            &data,
            "--listen",
            &listen,
            "--certificate-ttl",
            ttl,
        ];
        made.run("conductor", "ca", &arguments)?;
        wait_for("the conductor", READY_LIMIT, || made.json(&["status"]))?;
        for store in 0..3 {
            made.start_store(store)?;
        }
        let listen = format!("127.0.0.1:{}", made.nbd);
        made.join(
            "nbd",
            "front-end",
            &["nbd", "--listen", &listen, "--force-attach"],
        )?;
        let listen = format!("127.0.0.1:{}", made.iscsi);
        made.join(
            "iscsi",
            "front-end",
            &["iscsi", "--listen", &listen, "--name", "iscsi"],
        )?;
        wait_for("all stores", READY_LIMIT, || {
            let status = made.json(&["status"])?;
            ensure!(status["nodes_up"] == 3, "{status}");
            std::net::TcpStream::connect(("127.0.0.1", made.nbd))?;
            Ok(())
        })?;
        Ok(made)
    }

    /// A path in its directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The address of the API.
    #[must_use]
    pub fn api(&self) -> String {
        format!("https://127.0.0.1:{}", self.api)
    }

    /// The port of the API.
    #[must_use]
    pub fn api_port(&self) -> u16 {
        self.api
    }

    /// Makes another authority in the directory `name`.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn init(&self, name: &str) -> Result<()> {
        let init = Tool::new(binary::ashlar()).args(["cluster", "init", "--dir"]);
        init.arg(self.path(name)).check().map(drop)
    }

    /// Issues an identity by the authority in `by`, into the directory `out`.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn issue(&self, by: &str, role: &str, name: &str, ttl: &str, out: &str) -> Result<()> {
        let issue = Tool::new(binary::ashlar()).args(["cluster", "issue", "--dir"]);
        let issue = issue
            .arg(self.path(by))
            .args(["--role", role, "--name", name]);
        let issue = issue.args(["--ttl", ttl, "--out"]).arg(self.path(out));
        issue.check().map(drop)
    }

    /// `ashlar` with the identity in the directory `who`.
    pub fn ashlar(&self, who: &str, arguments: &[&str]) -> Tool {
        Tool::new(binary::ashlar())
            .env("ASHLAR_API", self.api())
            .env("ASHLAR_IDENTITY_DIR", self.path(who))
            .env("ASHLAR_TLS_LOOPBACK", "1")
            .args(arguments)
    }

    /// `ashlar … --json` by who administers, parsed.
    ///
    /// # Errors
    ///
    /// If it fails or prints no JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.ashlar("admin", arguments).arg("--json").check()?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    /// Makes a token, and a file with it; gives the file.
    ///
    /// # Errors
    ///
    /// If the conductor refuses.
    pub fn token(&self, role: &str, ttl: &str, file: &str) -> Result<PathBuf> {
        let arguments = ["node", "token", "create", "--role", role, "--ttl", ttl];
        let token = self.ashlar("admin", &arguments).check()?;
        let path = self.path(file);
        std::fs::write(&path, token)?;
        Ok(path)
    }

    /// Formats the disk of a store and starts it, with a token the first time.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start_store(&mut self, store: usize) -> Result<()> {
        let name = format!("store-{store}");
        let disk = self.path(&format!("{name}.disk"));
        if !disk.exists() {
            let format = Tool::new(binary::ashlar()).args(["disk", "format"]);
            format.arg(&disk).args(["--size", "1GiB"]).check()?;
        }
        let (disk, listen) = (
            disk.display().to_string(),
            format!("127.0.0.1:{}", self.stores[store]),
        );
        let arguments = [
            "store", "--disk", &disk, "--listen", &listen, "--name", &name,
        ];
        self.join(&name, "store", &arguments)
    }

    fn join(&mut self, name: &str, role: &str, arguments: &[&str]) -> Result<()> {
        let token = self.token(role, "1h", &format!("{name}.token"))?;
        let token = token.display().to_string();
        let api = self.api();
        let more = ["--join-token-file", &token, "--conductor", &api];
        let identity = format!("{name}.identity");
        self.run(name, &identity, &[arguments, &more].concat())
    }

    /// Starts a process with the identity in the directory `identity`.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn run(&mut self, name: &str, identity: &str, arguments: &[&str]) -> Result<()> {
        let identity = self.text(identity);
        let mut line: Vec<&str> = arguments.to_vec();
        line.extend(["--tls-loopback", "--identity-dir", &identity]);
        let log = self.path(&format!("{name}.log"));
        let service = Service::start(name, &log, binary::ashlar(), line)?;
        self.services.retain(|(known, _)| known != name);
        self.services.push((name.to_owned(), service));
        Ok(())
    }

    /// A process by its name.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn service(&mut self, name: &str) -> &mut Service {
        let found = self.services.iter_mut().find(|(known, _)| known == name);
        &mut found.unwrap_or_else(|| panic!("there is no {name}")).1
    }

    /// Asks the API with curl: `who` is a directory with a certificate, if one is to be shown.
    ///
    /// # Errors
    ///
    /// If curl does not run.
    pub fn curl(&self, who: Option<&Path>, path: &str, more: &[&str]) -> Result<Finished> {
        let curl = Tool::new("curl").args(["--silent", "--show-error", "--max-time", "20"]);
        let curl = curl.arg("--cacert").arg(self.path("ca/ca-cert.pem"));
        let curl = match who {
            Some(who) => {
                let curl = curl.arg("--cert").arg(who.join("cert.pem"));
                curl.arg("--key").arg(who.join("key.pem"))
            }
            None => curl,
        };
        curl.args(more).arg(format!("{}{path}", self.api())).run()
    }

    /// The status and the code of the problem that curl is answered with.
    ///
    /// # Errors
    ///
    /// If it is answered with none.
    pub fn problem(&self, who: Option<&Path>, path: &str, more: &[&str]) -> Result<(u64, String)> {
        let asked = self.curl(who, path, more)?;
        let answer: Value = serde_json::from_str(&asked.stdout)
            .with_context(|| format!("no problem: {asked:?}"))?;
        let code = answer["code"].as_str().context("no code")?.to_owned();
        Ok((answer["status"].as_u64().context("no status")?, code))
    }
}
