//! A cluster whose API lets nobody in unasked: stores and front ends show keys, people too, and each that
//! is not let in, or may not do what it asks for, is refused with its code and stands in the audit log.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::cluster::free_port;
use ashlar_e2e::nbd::NbdClient;
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Service, Tool, binary};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);

/// The exit code of what is not let in, or not permitted.
const NOT_PERMITTED: i32 = 6;
/// That of what is refused as things stand.
const REFUSED: i32 = 4;

/// The processes of a small cluster, each with a key of its own.
struct Guarded {
    directory: TempDir,
    api: u16,
    nbd: u16,
    services: Vec<Service>,
}

impl Guarded {
    /// Makes users and keys while the conductor lets in who is on its machine, then starts it anew: now
    /// everybody has to show who it is.
    fn start() -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("access-")
            .tempdir_in(binary::work_dir())?;
        let (api, nbd) = (free_port()?, free_port()?);
        let services = Vec::new();
        let mut cluster = Self {
            directory,
            api,
            nbd,
            services,
        };
        cluster.service("conductor", &cluster.conductor("loopback-free"))?;
        wait_for("the conductor", LIMIT, || {
            cluster.tool(None, &["user", "list"]).check()
        })?;
        for (user, role) in [("ada", "admin"), ("store", "store"), ("nbd", "front-end")] {
            cluster
                .tool(None, &["user", "create", user, "--role", role])
                .check()?;
            cluster.key(None, user)?;
        }
        for mut service in cluster.services.drain(..) {
            ensure!(service.stop(LIMIT)?.success(), "the conductor ends badly");
        }
        cluster.service("conductor", &cluster.conductor("required"))?;
        let disk = cluster.path("disk");
        let disk = disk.to_str().context("a path")?.to_owned();
        Tool::new(binary::ashlar())
            .args(["disk", "format", &disk, "--size", "512MiB"])
            .check()?;
        let url = cluster.url();
        let listen = format!("127.0.0.1:{}", free_port()?);
        let store = [
            "store",
            "--conductor",
            &url,
            "--listen",
            &listen,
            "--disk",
            &disk,
        ];
        cluster.service_showing("store", &store)?;
        std::fs::write(cluster.path("volume-keys"), "# none yet\n")?;
        let (listen, keys) = (format!("127.0.0.1:{nbd}"), cluster.text("volume-keys"));
        let nbd = [
            "nbd",
            "--conductor",
            &url,
            "--listen",
            &listen,
            "--volume-keys",
            &keys,
        ];
        cluster.service_showing("nbd", &nbd)?;
        wait_for("the store", LIMIT, || {
            let nodes = cluster.json("ada", &["node", "list"])?;
            ensure!(nodes[0]["state"] == "up", "{nodes}");
            Ok(())
        })?;
        Ok(cluster)
    }

    fn conductor(&self, auth: &str) -> Vec<String> {
        let listen = format!("127.0.0.1:{}", self.api);
        let (data, audit) = (self.text("meta"), self.text("audit.log"));
        let place = ["conductor", "--data", &data, "--listen", &listen];
        let gate = ["--auth", auth, "--audit-log", &audit];
        let words = place.iter().chain(&gate);
        words.map(|word| (*word).to_owned()).collect()
    }

    fn service<S: AsRef<str>>(&mut self, name: &str, words: &[S]) -> Result<()> {
        let log = self.path(&format!("{name}.log"));
        let words = words.iter().map(AsRef::as_ref);
        self.services
            .push(Service::start(name, &log, binary::ashlar(), words)?);
        Ok(())
    }

    /// A role that shows the key of the user of its name.
    fn service_showing(&mut self, name: &str, words: &[&str]) -> Result<()> {
        let file = self.text(&format!("{name}.key"));
        let words = [words, &["--token-file", &file]].concat();
        self.service(name, &words)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.api)
    }

    /// A command that shows the key of a user, or nothing.
    fn tool(&self, user: Option<&str>, words: &[&str]) -> Tool {
        let tool = Tool::new(binary::ashlar())
            .env("ASHLAR_API", self.url())
            .env("XDG_CONFIG_HOME", self.directory.path())
            .args(words);
        match user {
            Some(user) => tool.env("ASHLAR_TOKEN_FILE", self.text(&format!("{user}.key"))),
            None => tool,
        }
    }

    fn json(&self, user: &str, words: &[&str]) -> Result<Value> {
        let text = self.tool(Some(user), words).arg("--json").check()?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    /// Makes a key of a user and keeps it in a file of that name.
    fn key(&self, by: Option<&str>, user: &str) -> Result<()> {
        let key = self.tool(by, &["key", "create", user]).check()?;
        std::fs::write(self.path(&format!("{user}.key")), key)?;
        Ok(())
    }

    /// A user with a key of its own.
    fn user(&self, words: &[&str]) -> Result<()> {
        let create = [&["user", "create"][..], words].concat();
        self.tool(Some("ada"), &create).check()?;
        self.key(Some("ada"), words[0])
    }

    fn refuses(&self, user: Option<&str>, words: &[&str], code: i32, says: &str) -> Result<()> {
        let ended = self.tool(user, words).run()?;
        ensure!(ended.code() == Some(code), "{words:?}: {ended:?}");
        ensure!(ended.stderr.contains(says), "{words:?}: {}", ended.stderr);
        Ok(())
    }

    /// The entries with that code.
    fn entries(&self, code: &str) -> Result<Vec<Value>> {
        let all = self.json("ada", &["audit", "list", "--last", "1000"])?;
        let all = all.as_array().context("a list")?.clone();
        Ok(all
            .into_iter()
            .filter(|entry| entry["code"] == code)
            .collect())
    }

    /// The status of a request that shows a token.
    fn status(&self, token: &str) -> Result<u16> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.api))?;
        stream.set_read_timeout(Some(LIMIT))?;
        write!(
            stream,
            "GET /v1/whoami HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).context("no status")?;
        Ok(status.parse()?)
    }
}

fn has_no_secret(path: &Path, secrets: &[String]) -> Result<()> {
    let bytes = std::fs::read(path)?;
    let text = String::from_utf8_lossy(&bytes);
    for secret in secrets {
        ensure!(
            !text.contains(secret.as_str()),
            "{} has a secret",
            path.display()
        );
    }
    Ok(())
}

#[test]
fn who_is_not_let_in_is_refused_by_its_code_and_stands_in_the_audit_log() -> Result<()> {
    let cluster = Guarded::start()?;
    cluster.refuses(
        None,
        &["volume", "list"],
        NOT_PERMITTED,
        "who asks is not known",
    )?;
    std::fs::write(
        cluster.path("wrong.key"),
        format!("ashlar_{0}_{0}{0}{0}{0}", "0".repeat(16)),
    )?;
    cluster.refuses(
        Some("wrong"),
        &["volume", "list"],
        NOT_PERMITTED,
        "not one of this cluster",
    )?;
    // Roles.
    cluster.user(&["vera", "--role", "viewer"])?;
    cluster.tool(Some("vera"), &["status"]).check()?;
    let create = [
        "volume",
        "create",
        "a",
        "--size",
        "16MiB",
        "--replicas",
        "1",
    ];
    cluster.refuses(Some("vera"), &create, NOT_PERMITTED, "is a viewer")?;
    cluster.refuses(Some("nbd"), &create, NOT_PERMITTED, "is a front-end")?;
    cluster.refuses(
        Some("store"),
        &["user", "list"],
        NOT_PERMITTED,
        "is a store",
    )?;
    // Projects and quotas.
    let project = [
        "project",
        "create",
        "shop",
        "--bytes",
        "32MiB",
        "--volumes",
        "2",
    ];
    cluster.tool(Some("ada"), &project).check()?;
    cluster.user(&["shop", "--role", "operator", "--project", "shop"])?;
    cluster.refuses(Some("shop"), &create, NOT_PERMITTED, "in project `default`")?;
    let size = |name, size| ["volume", "create", name, "--size", size, "--replicas", "1"];
    cluster
        .tool(Some("shop"), &size("shop/a", "16MiB"))
        .check()?;
    cluster.refuses(
        Some("shop"),
        &size("shop/b", "32MiB"),
        REFUSED,
        "raise its quota",
    )?;
    let grow = ["volume", "resize", "shop/a", "64MiB"];
    cluster.refuses(Some("shop"), &grow, REFUSED, "raise its quota")?;
    // Revoked, denied.
    let keys = cluster.json("ada", &["key", "list", "vera"])?;
    let id = keys[0]["id"].as_str().context("an id")?;
    cluster.tool(Some("ada"), &["key", "revoke", id]).check()?;
    cluster.refuses(Some("vera"), &["status"], NOT_PERMITTED, "was revoked")?;
    cluster
        .tool(Some("ada"), &["user", "deny", "shop"])
        .check()?;
    cluster.refuses(
        Some("shop"),
        &["volume", "list"],
        NOT_PERMITTED,
        "is denied",
    )?;
    for (code, least) in [
        ("not-authenticated", 1),
        ("credentials-refused", 1),
        ("not-permitted", 3),
        ("project-not-permitted", 1),
        ("quota-exceeded", 2),
        ("credentials-revoked", 1),
        ("user-denied", 1),
    ] {
        let entries = cluster.entries(code)?;
        ensure!(entries.len() >= least, "{code}: {entries:?}");
        ensure!(
            entries.iter().all(|entry| entry["outcome"] == "refused"),
            "{entries:?}"
        );
    }
    let file = std::fs::read_to_string(cluster.path("audit.log"))?;
    ensure!(
        file.lines()
            .all(|line| serde_json::from_str::<Value>(line).is_ok()),
        "{file}"
    );
    ensure!(
        file.contains("quota-exceeded") && file.contains("\"who\":\"ada\""),
        "{file}"
    );
    Ok(())
}

#[test]
fn tokens_that_are_touched_expired_or_revoked_are_refused() -> Result<()> {
    let cluster = Guarded::start()?;
    let made = cluster.json("ada", &["token", "create", "--ttl", "5m"])?;
    let token = made["token"].as_str().context("a token")?.to_owned();
    ensure!(cluster.status(&token)? == 200, "a good token is refused");
    let parts: Vec<&str> = token.split('.').collect();
    let [head, claims, signature] = parts[..] else {
        anyhow::bail!("three parts: {token}")
    };
    let none = format!("eyJhbGciOiJub25lIn0.{claims}.");
    let other = cluster.json("ada", &["token", "create", "--ttl", "6m"])?;
    let other = other["token"].as_str().context("a token")?;
    let foreign = other.rsplit('.').next().context("a signature")?;
    for touched in [
        none,
        format!("{head}.{claims}."),
        format!("{head}.{claims}.{foreign}"),
        format!("{claims}.{claims}.{signature}"),
    ] {
        ensure!(cluster.status(&touched)? == 401, "{touched}");
    }
    let short = cluster.json("ada", &["token", "create", "--ttl", "1s"])?;
    let short = short["token"].as_str().context("a token")?.to_owned();
    wait_for("the end of a token", LIMIT, || {
        ensure!(cluster.status(&short)? == 401, "still good");
        Ok(())
    })?;
    let id = made["id"].as_str().context("an id")?;
    cluster
        .tool(Some("ada"), &["token", "revoke", id])
        .check()?;
    ensure!(cluster.status(&token)? == 401, "a revoked token is good");
    cluster
        .tool(Some("ada"), &["token", "rotate", "--forget"])
        .check()?;
    ensure!(
        cluster.status(other)? == 401,
        "a token of a forgotten key is good"
    );
    ensure!(
        !cluster.entries("credentials-expired")?.is_empty(),
        "no entry"
    );
    ensure!(
        !cluster.entries("credentials-revoked")?.is_empty(),
        "no entry"
    );
    Ok(())
}

#[test]
fn a_front_end_attaches_a_volume_with_a_key_once_it_is_given_that() -> Result<()> {
    let mut cluster = Guarded::start()?;
    let create = [
        "volume",
        "create",
        "data",
        "--size",
        "16MiB",
        "--replicas",
        "1",
    ];
    cluster.tool(Some("ada"), &create).check()?;
    let key = cluster
        .tool(Some("ada"), &["volume", "key", "set", "data"])
        .check()?;
    let key = key.trim().to_owned();
    ensure!(
        NbdClient::connect(cluster.nbd, "data").is_err(),
        "it needs no key"
    );
    ensure!(
        !cluster.entries("volume-key-needed")?.is_empty(),
        "no entry"
    );
    std::fs::write(cluster.path("volume-keys"), format!("data {key}\n"))?;
    let mut client = wait_for("the key to be read", LIMIT, || {
        NbdClient::connect(cluster.nbd, "data")
    })?;
    ensure!(client.read(0, 4096)? == [0; 4096], "not zeroes");
    client.disconnect()?;
    let mut secrets = vec![key];
    for user in ["ada", "store", "nbd"] {
        let text = std::fs::read_to_string(cluster.path(&format!("{user}.key")))?;
        secrets.push(text.trim().to_owned());
    }
    for mut service in cluster.services.drain(..).rev() {
        ensure!(service.stop(LIMIT)?.success(), "a role ends badly");
    }
    for log in ["conductor.log", "store.log", "nbd.log", "audit.log"] {
        has_no_secret(&cluster.path(log), &secrets)?;
    }
    for entry in std::fs::read_dir(cluster.path("meta"))? {
        has_no_secret(&entry?.path(), &secrets)?;
    }
    Ok(())
}

#[test]
fn who_guesses_keys_is_slowed_down_and_costs_little() -> Result<()> {
    let mut cluster = Guarded::start()?;
    let key = std::fs::read_to_string(cluster.path("ada.key"))?;
    let (id, _) = key.trim().rsplit_once('_').context("a key")?;
    let before = cluster.services[0].cpu_time()?;
    let (begun, mut stopped) = (Instant::now(), 0);
    for guess in 0..300_u32 {
        match cluster.status(&format!("{id}_{guess:064x}"))? {
            429 => stopped += 1,
            status => ensure!(status == 401, "{status}"),
        }
    }
    let spent = cluster.services[0].cpu_time()?.saturating_sub(before);
    eprintln!(
        "300 guesses took {:?} and {spent:?} of a processor, {stopped} were stopped",
        begun.elapsed()
    );
    ensure!(stopped > 200, "{stopped} of 300 were stopped");
    let resident = cluster.services[0].resident_bytes()?;
    ensure!(resident < 512 << 20, "{resident} bytes");
    // The cluster goes on for those whose keys are known.
    cluster.tool(Some("ada"), &["status"]).check()?;
    let entries = cluster.entries("too-many-failures")?;
    ensure!(
        !entries.is_empty() && entries.len() <= 200,
        "{} entries",
        entries.len()
    );
    ensure!(
        cluster.services.iter_mut().all(Service::is_running),
        "something has ended"
    );
    Ok(())
}
