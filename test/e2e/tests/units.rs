//! systemd: the units are well-formed and harden what they run, and a process tells the service manager
//! when it serves, that it lives, and that it stops.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::binary;
use ashlar_e2e::cluster::free_port;
use ashlar_e2e::{Service, Tool};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const HARDENED: [&str; 4] = ["conductor", "store", "nbd", "iscsi"];

/// The units with this build's binary in them.
fn units(directory: &Path) -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/systemd");
    for role in HARDENED.into_iter().chain(["csi"]) {
        let name = format!("ashlar-{role}.service");
        let unit = std::fs::read_to_string(source.join(&name))?;
        let own = binary::ashlar().display().to_string();
        std::fs::write(directory.join(name), unit.replace("/usr/bin/ashlar", &own))?;
    }
    Ok(())
}

#[test]
fn units_are_accepted_and_leave_little_open() -> Result<()> {
    let directory = tempfile::tempdir_in(binary::work_dir())?;
    units(directory.path())?;
    for role in HARDENED.into_iter().chain(["csi"]) {
        let unit = directory.path().join(format!("ashlar-{role}.service"));
        let verified = Tool::new("systemd-analyze")
            .arg("verify")
            .arg(&unit)
            .run()?;
        let own = format!("ashlar-{role}");
        let complaints: Vec<&str> = verified
            .stderr
            .lines()
            .filter(|l| l.contains(&own))
            .collect();
        ensure!(complaints.is_empty(), "{complaints:?}");
    }
    for role in HARDENED {
        let unit = directory.path().join(format!("ashlar-{role}.service"));
        Tool::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", "--threshold=20"])
            .arg(&unit)
            .check()
            .with_context(|| format!("{role} is exposed by more than 2.0"))?;
    }
    Ok(())
}

#[test]
fn the_service_manager_hears_that_a_process_serves_lives_and_stops() -> Result<()> {
    let directory = tempfile::tempdir_in(binary::work_dir())?;
    let socket = directory.path().join("notify");
    let manager = UnixDatagram::bind(&socket)?;
    manager.set_read_timeout(Some(Duration::from_secs(1)))?;
    let address = |port: u16| format!("127.0.0.1:{port}");
    let arguments = [
        format!("NOTIFY_SOCKET={}", socket.display()),
        "WATCHDOG_USEC=1000000".to_owned(),
        binary::ashlar().display().to_string(),
        "up".to_owned(),
        "--data".to_owned(),
        directory.path().join("data").display().to_string(),
        "--disk-size=256MiB".to_owned(),
        format!("--api={}", address(free_port()?)),
        format!("--nbd={}", address(free_port()?)),
        "--iscsi=none".to_owned(),
    ];
    let log = directory.path().join("up.log");
    let mut up = Service::start("up", &log, Path::new("env"), arguments)?;
    let hear = |wanted: &str| -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            let mut words = [0; 256];
            if let Ok(len) = manager.recv(&mut words)
                && words[..len].starts_with(wanted.as_bytes())
            {
                return Ok(());
            }
        }
        anyhow::bail!("{wanted} was not heard")
    };
    // The watchdog is fed from the start: what recovers lives, too.
    hear("READY=1")?;
    hear("WATCHDOG=1")?;
    hear("WATCHDOG=1")?;
    up.signal(nix::sys::signal::Signal::SIGTERM);
    hear("STOPPING=1")?;
    let status = up.wait(LIMIT)?;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[test]
fn settings_are_checked_without_starting_anything() -> Result<()> {
    let directory = tempfile::tempdir_in(binary::work_dir())?;
    let file = directory.path().join("store.toml");
    std::fs::write(
        &file,
        "disk = [\"/does/not/exist\"]\nconductor = \"ftp://a\"\nthreads = 0\ncolour = \"red\"\n",
    )?;
    let checked = Tool::new(binary::ashlar())
        .args(["store", "--check-config", "--config"])
        .arg(&file)
        .run()?;
    ensure!(checked.code() == Some(2), "{checked:?}");
    for expected in ["threads", "colour: there is no such setting"] {
        ensure!(checked.stderr.contains(expected), "{}", checked.stderr);
    }
    std::fs::write(
        &file,
        "disk = [\"/dev/null\"]\nconductor = \"http://127.0.0.1:1\"\n",
    )?;
    let checked = Tool::new(binary::ashlar())
        .args(["store", "--check-config", "--config"])
        .arg(&file)
        .check()?;
    ensure!(checked.contains("the settings are right"), "{checked}");
    Ok(())
}
