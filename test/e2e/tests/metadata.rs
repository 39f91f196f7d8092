//! The metadata of a cluster through a backup, into etcd and back, with the data of its volumes intact.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::cluster::free_port;
use ashlar_e2e::ledger::Ledger;
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::process::{Service, wait_for};
use ashlar_e2e::{Tool, binary};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);
const STORES: usize = 3;
/// Blocks of the volume that are written.
const BLOCKS: usize = 2048;

struct Bench {
    directory: TempDir,
    api: String,
    etcd: (u16, u16),
    nbd_port: u16,
    running: Vec<(String, Service)>,
}

impl Bench {
    fn new() -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("metadata-")
            .tempdir_in(binary::work_dir())?;
        Ok(Self {
            directory,
            api: format!("127.0.0.1:{}", free_port()?),
            etcd: (free_port()?, free_port()?),
            nbd_port: free_port()?,
            running: Vec::new(),
        })
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn run(&mut self, name: &str, program: &str, arguments: &[&str]) -> Result<()> {
        let log = PathBuf::from(self.path(&format!("{name}.log")));
        let program = match program {
            "ashlar" => binary::ashlar().to_owned(),
            other => PathBuf::from(other),
        };
        let service = Service::start(name, &log, &program, arguments.iter().copied())?;
        self.running.push((name.to_owned(), service));
        Ok(())
    }

    fn stop(&mut self, prefix: &str) -> Result<()> {
        for (name, service) in &mut self.running {
            if name.starts_with(prefix) {
                service.stop(LIMIT)?;
            }
        }
        self.running.retain(|(name, _)| !name.starts_with(prefix));
        Ok(())
    }

    fn etcd_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.etcd.0)
    }

    fn start_etcd(&mut self) -> Result<()> {
        let (client, peer) = (self.etcd_url(), format!("http://127.0.0.1:{}", self.etcd.1));
        let (data, all) = (self.path("etcd"), format!("m={peer}"));
        let mut arguments = vec!["--name", "m", "--data-dir", &data];
        arguments.extend(["--listen-client-urls", &client]);
        arguments.extend(["--advertise-client-urls", &client]);
        arguments.extend(["--listen-peer-urls", &peer]);
        arguments.extend(["--initial-advertise-peer-urls", &peer]);
        arguments.extend(["--initial-cluster", &all]);
        self.run("etcd", "etcd", &arguments)
    }

    fn start_conductor(&mut self, place: [&str; 2]) -> Result<()> {
        let listen = self.api.clone();
        let arguments = ["conductor", place[0], place[1], "--listen", &listen];
        self.run("conductor", "ashlar", &arguments)
    }

    fn start_stores(&mut self) -> Result<()> {
        for index in 0..STORES {
            let (name, disk) = (
                format!("store-{index}"),
                self.path(&format!("disk-{index}")),
            );
            if !PathBuf::from(&disk).exists() {
                let format = ["disk", "format", &disk, "--size", "1GiB"];
                Tool::new(binary::ashlar()).args(format).check()?;
            }
            let (api, listen) = (self.api.clone(), format!("127.0.0.1:{}", free_port()?));
            let mut arguments = vec!["store", "--conductor", &api, "--listen", &listen];
            arguments.extend(["--name", &name, "--disk", &disk]);
            self.run(&name, "ashlar", &arguments)?;
        }
        Ok(())
    }

    fn start_nbd(&mut self) -> Result<()> {
        self.start_nbd_named("nbd", &[])
    }

    fn start_nbd_named(&mut self, name: &str, more: &[&str]) -> Result<()> {
        let (api, listen) = (self.api.clone(), format!("127.0.0.1:{}", self.nbd_port));
        let arguments = ["nbd", "--conductor", &api, "--listen", &listen];
        self.run(name, "ashlar", &[&arguments, more].concat())
    }

    /// Compares the metadata with what stores hold until nothing is wrong any more, and vouches for the
    /// volumes that no row knows.
    fn repaired(&self) -> Result<()> {
        wait_for("the repair", LIMIT, || {
            let found = self.ashlar(&["meta", "check", "--json"]).run()?;
            let found: Value = serde_json::from_str(&found.stdout)?;
            let findings = found["stores"]["findings"].as_array();
            let findings = findings.context("no findings")?.iter();
            let lost = findings.filter(|it| it["code"] == "volume-row-lost");
            let lost = lost.filter_map(|it| it["volume"].as_str());
            let accept = lost.flat_map(|volume| ["--accept", volume]);
            let repair = ["meta", "check", "--repair", "--all-disks"].into_iter();
            self.json(&repair.chain(accept).collect::<Vec<_>>())
        })?;
        let checked = self.json(&["meta", "check"])?;
        ensure!(checked["stores"]["recovering"] == false, "{checked}");
        Ok(())
    }

    fn ashlar(&self, arguments: &[&str]) -> Tool {
        let tool = Tool::new(binary::ashlar()).env("ASHLAR_API", &self.api);
        tool.args(arguments).limit(LIMIT)
    }

    fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.ashlar(arguments).arg("--json").check()?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    /// Waits until all stores are up, and a new volume can be made and removed.
    fn serves(&self, name: &str) -> Result<()> {
        wait_for("the stores", LIMIT, || {
            let status = self.json(&["status"])?;
            ensure!(status["nodes_up"] == STORES, "{status}");
            Ok(())
        })?;
        let made = self.json(&["volume", "create", name, "--size", "16MiB"])?;
        ensure!(made["state"] == "ready", "{made}");
        Ok(())
    }

    /// What was written is there, and more can be written.
    fn goes_on(&self, ledger: &mut Ledger) -> Result<()> {
        self.goes_on_with("v", ledger)
    }

    fn goes_on_with(&self, volume: &str, ledger: &mut Ledger) -> Result<()> {
        let mut client = wait_for("the volume", LIMIT, || {
            NbdClient::connect(self.nbd_port, volume)
        })?;
        ledger.verify(&mut client)?;
        ensure!(
            ledger.run(&mut client, 4, Duration::from_secs(1))?,
            "the volume was gone"
        );
        ledger.verify(&mut client)?;
        client.disconnect()
    }

    fn names(&self) -> Result<Vec<String>> {
        let volumes = self.json(&["volume", "list"])?;
        let list = volumes.as_array().context("no list")?.iter();
        let names = list.map(|volume| volume["name"].as_str().unwrap_or_default().to_owned());
        let mut names: Vec<String> = names.collect();
        names.sort();
        Ok(names)
    }
}

#[test]
fn metadata_go_into_etcd_and_back_and_return_from_a_backup() -> Result<()> {
    let mut it = Bench::new()?;
    let (data, backup) = (it.path("meta"), it.path("backup"));
    it.start_conductor(["--data", &data])?;
    it.start_stores()?;
    it.start_nbd()?;
    it.serves("first")?;
    it.json(&["volume", "create", "v", "--size", "64MiB"])?;
    let mut ledger = Ledger::new(0, BLOCKS, 5);
    it.goes_on(&mut ledger)?;

    // While it runs: by the API, whose file nobody else can open.
    let told = it.json(&["meta", "backup", &backup])?;
    ensure!(told["rows"].as_u64() > Some(8), "{told}");
    ensure!(it.ashlar(&["meta", "backup", &backup]).run()?.code() == Some(1));
    ensure!(it.json(&["meta", "check"])?["wrong"] == Value::Array(Vec::new()));
    it.json(&["meta", "check", &backup])?;
    let in_use = it.ashlar(&["meta", "check", "--data", &data]).run()?;
    ensure!(in_use.stderr.contains("in use"), "{}", in_use.stderr);

    // Into etcd. IO goes on, as without a conductor, and so does everything with the new one.
    it.start_etcd()?;
    let etcd = it.etcd_url();
    it.stop("conductor")?;
    let migrate = |to| {
        [
            "meta", "migrate", "--data", &data, "--etcd", &etcd, "--to", to,
        ]
    };
    wait_for("etcd", LIMIT, || it.json(&migrate("etcd")))?;
    let again = it.ashlar(&migrate("etcd")).run()?;
    ensure!(again.stderr.contains("--force"), "{}", again.stderr);
    it.start_conductor(["--etcd", &etcd])?;
    it.serves("second")?;
    it.goes_on(&mut ledger)?;
    let led = it.ashlar(&migrate("file")).run()?;
    ensure!(led.stderr.contains("stop all conductors"), "{}", led.stderr);
    it.json(&["meta", "check", "--etcd", &etcd])?;

    // And back.
    it.stop("conductor")?;
    let back = [migrate("file").as_slice(), &["--force"]].concat();
    it.json(&back)?;
    it.start_conductor(["--data", &data])?;
    it.serves("third")?;
    it.goes_on(&mut ledger)?;
    ensure!(
        it.names()? == ["first", "second", "third", "v"],
        "{:?}",
        it.names()?
    );

    // The backup, into a new place: what was made after it is gone, the data are all there.
    for role in ["nbd", "store", "conductor"] {
        it.stop(role)?;
    }
    let restored = it.path("restored");
    it.json(&["meta", "restore", &backup, "--data", &restored])?;
    let mut check = vec!["meta", "check", "--data", &restored, "--disk-report"];
    let reports: Vec<String> = (0..STORES)
        .map(|index| {
            let inspect = [
                "disk",
                "inspect",
                "--no-verify",
                &it.path(&format!("disk-{index}")),
            ];
            let text = it.ashlar(&inspect).arg("--json").check()?;
            let path = it.path(&format!("disk-{index}.json"));
            std::fs::write(&path, text)?;
            Ok(path)
        })
        .collect::<Result<_>>()?;
    check.extend(reports.iter().map(String::as_str));
    let unnamed = it.ashlar(&check).run()?;
    let found = unnamed.stdout.matches("which no row names").count();
    // The replicas of the two volumes that were made later, and nothing else.
    ensure!(found == 2 * STORES, "{}", unnamed.stdout);
    ensure!(
        unnamed.stdout.lines().count() == found,
        "{}",
        unnamed.stdout
    );
    it.start_conductor(["--data", &restored])?;
    it.start_stores()?;
    it.repaired()?;
    it.start_nbd()?;
    it.serves("fourth")?;
    it.goes_on(&mut ledger)?;
    let names = it.names()?;
    // Those that the backup does not know are there under other names.
    ensure!(names.len() == 5, "{names:?}");
    ensure!(
        names[..2] == ["first", "fourth"] && names[4] == "v",
        "{names:?}"
    );
    ensure!(
        names[2..4]
            .iter()
            .all(|name| name.starts_with("recovered-")),
        "{names:?}"
    );
    Ok(())
}

/// A backup, then what it cannot know: a volume with data, and an owner that was replaced by another while
/// it could not be asked. The first owner is only paused; it goes on once all was repaired.
#[test]
fn a_backup_older_than_a_volume_and_a_failover_is_repaired_from_what_stores_hold() -> Result<()> {
    let mut it = Bench::new()?;
    let (data, backup, restored) = (it.path("meta"), it.path("backup"), it.path("restored"));
    it.start_conductor(["--data", &data])?;
    it.start_stores()?;
    it.serves("first")?;
    it.json(&["volume", "create", "v", "--size", "64MiB"])?;
    it.json(&["meta", "backup", &backup])?;

    it.start_nbd()?;
    let mut ledger = Ledger::new(0, BLOCKS, 5);
    it.goes_on(&mut ledger)?;
    let mut zombie = NbdClient::connect(it.nbd_port, "v")?;
    let old = it.running.iter_mut().find(|(name, _)| name == "nbd");
    old.context("no server")?.1.pause();
    it.nbd_port = free_port()?;
    it.start_nbd_named("second-nbd", &["--force-attach"])?;
    it.goes_on(&mut ledger)?;
    it.json(&["volume", "create", "late", "--size", "64MiB"])?;
    let mut late = Ledger::new(0, BLOCKS, 6);
    it.goes_on_with("late", &mut late)?;
    it.stop("second-nbd")?;
    let generation = it.json(&["volume", "show", "v"])?["generation"].clone();
    let generation = generation.as_u64().context("no generation")?;
    it.stop("conductor")?;

    // Stores and the paused owner stay.
    it.json(&["meta", "restore", &backup, "--data", &restored])?;
    it.start_conductor(["--data", &restored])?;
    wait_for("what is behind to be found", LIMIT, || {
        let found = it.ashlar(&["meta", "check"]).run()?;
        ensure!(found.stdout.contains("volume-row-lost"), "{}", found.stdout);
        ensure!(!found.stdout.contains("disk-unheard"), "{}", found.stdout);
        Ok(())
    })?;
    it.nbd_port = free_port()?;
    it.start_nbd_named("third-nbd", &[])?;
    ensure!(
        NbdClient::connect(it.nbd_port, "v").is_err(),
        "a volume was given away before it was compared"
    );
    it.repaired()?;
    let names = it.names()?;
    let recovered = names.iter().find(|name| name.starts_with("recovered-"));
    let recovered = recovered.with_context(|| format!("{names:?}"))?;
    it.goes_on(&mut ledger)?;
    it.goes_on_with(recovered, &mut late)?;
    let after = it.json(&["volume", "show", "v"])?["generation"].clone();
    ensure!(after.as_u64() > Some(generation), "{after}");

    // Whoever had it before changes nothing any more.
    let old = it.running.iter_mut().find(|(name, _)| name == "nbd");
    old.context("no server")?.1.resume();
    let written = zombie.call(Command::Write, 0, 4096, &[0xee; 4096]);
    ensure!(!matches!(written, Ok(0)), "a fenced owner wrote");
    it.goes_on(&mut ledger)
}
