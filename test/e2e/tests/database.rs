//! What a database sees of snapshots: one that counts, on a file system, on a volume, is found in each
//! of them whole and with all that it had committed before the snapshot was asked for.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::ledger::Random;
use ashlar_e2e::process::{Service, wait_for};
use ashlar_e2e::{Cluster, Tool};
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const SNAPSHOTS: usize = 8;

/// A device of the host with a file system, mounted until it is dropped.
struct Mounted {
    device: String,
    at: PathBuf,
}

impl Mounted {
    fn new(file: &Path, at: PathBuf) -> Result<Self> {
        let device = Tool::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .check()?;
        let device = device.trim().to_owned();
        std::fs::create_dir_all(&at)?;
        let mounted = Self { device, at };
        Ok(mounted)
    }

    fn mount(&self) -> Result<()> {
        Tool::new("mount").arg(&self.device).arg(&self.at).check()?;
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Whatever of it is there.
        let _ = Tool::new("umount").arg(&self.at).run();
        let _ = Tool::new("losetup").arg("--detach").arg(&self.device).run();
    }
}

/// A volume as a file of the host, until it is dropped.
struct Fuse {
    directory: PathBuf,
    file: PathBuf,
    service: Service,
}

impl Fuse {
    fn new(cluster: &Cluster, volume: &str) -> Result<Self> {
        let directory = cluster.path().join(format!("fuse-{volume}"));
        std::fs::create_dir_all(&directory)?;
        let log = cluster.path().join(format!("nbdfuse-{volume}.log"));
        let arguments = [directory.display().to_string(), cluster.uri(volume)];
        let program = Path::new("/usr/bin/nbdfuse");
        let service = Service::start("nbdfuse", &log, program, &arguments)?;
        let file = directory.join("nbd");
        let fuse = Self {
            directory,
            file,
            service,
        };
        wait_for("nbdfuse", LIMIT, || {
            ensure!(
                std::fs::metadata(&fuse.file)?.len() == 128 << 20,
                "not there yet"
            );
            Ok(())
        })?;
        Ok(fuse)
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        // Its file is unmounted by now.
        let _ = Tool::new("umount").arg(&self.directory).run();
        self.service.kill();
    }
}

fn script() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/database.py")
}

/// The last number that the writer says is committed.
fn committed(log: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(log)?;
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let last = whole.rsplit('\n').next().unwrap_or_default();
    last.parse()
        .with_context(|| format!("the writer says: {last}"))
}

#[test]
fn a_database_is_whole_in_every_snapshot() -> Result<()> {
    let cluster = Cluster::up()?;
    cluster.create_volume("v", "128MiB", 3)?;
    let fuse = Fuse::new(&cluster, "v")?;
    let done = count_and_snapshot(&cluster, &fuse.file);
    drop(fuse);
    let asked = done?;
    for (number, before) in asked.iter().enumerate() {
        // A clone can be written, as a file system that was not unmounted must be.
        let (snapshot, clone) = (format!("v@s{number}"), format!("c{number}"));
        cluster
            .ashlar(["volume", "clone", &snapshot, &clone])
            .check()?;
        let fuse = Fuse::new(&cluster, &clone)?;
        let mounted = Mounted::new(&fuse.file, cluster.path().join(format!("mount-{number}")))?;
        mounted.mount()?;
        let database = mounted.at.join("database");
        let rows = Tool::new("python3")
            .args([script(), "check"])
            .arg(&database)
            .check()?;
        let rows: u64 = rows.trim().parse()?;
        println!("snapshot {number}: {before} committed before it was asked for, {rows} in it");
        ensure!(
            rows >= *before,
            "snapshot {number} lacks what was committed"
        );
        drop(mounted);
        drop(fuse);
    }
    Ok(())
}

/// Makes snapshots at random moments; what had been committed before each was asked for.
fn count_and_snapshot(cluster: &Cluster, file: &Path) -> Result<Vec<u64>> {
    let mounted = Mounted::new(file, cluster.path().join("mount"))?;
    Tool::new("mkfs.ext4")
        .args(["-q", "-E", "nodiscard"])
        .arg(&mounted.device)
        .check()?;
    mounted.mount()?;
    let database = mounted.at.join("database");
    let log = cluster.path().join("counts.log");
    let arguments = [
        script().to_owned(),
        "write".to_owned(),
        database.display().to_string(),
    ];
    let mut writer = Service::start("database", &log, Path::new("/usr/bin/python3"), &arguments)?;
    wait_for("the database", LIMIT, || committed(&log))?;
    let mut random = Random(5);
    let mut asked = Vec::new();
    for number in 0..SNAPSHOTS {
        std::thread::sleep(Duration::from_millis(100 + random.below(900)));
        asked.push(committed(&log)?);
        let snapshot = cluster.json(["snapshot", "create", &format!("v@s{number}")])?;
        ensure!(snapshot["state"] == "ready", "{snapshot}");
    }
    ensure!(
        writer.is_running(),
        "the database gave up: {}",
        writer.log_tail()
    );
    ensure!(
        asked.windows(2).all(|pair| pair[0] < pair[1]),
        "it does not count: {asked:?}"
    );
    writer.kill();
    Ok(asked)
}
