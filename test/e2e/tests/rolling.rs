//! A rolling restart: every process of a cluster is stopped and started again, one at a time, while fio
//! writes, reads and verifies.
//!
//! An NBD client that loses its server reports errors by itself: of the stock ones neither libnbd nor
//! QEMU without `reconnect-delay` nor the kernel without `-persist` waits. So fio's requests go through
//! nbdkit with its retry filter, a stock client that opens the export anew and repeats what failed.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Cluster, ClusterOptions, Service, Tool};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
/// What a process may take to stop.
const STOP_MAX: Duration = Duration::from_secs(20);
/// How long fio runs: longer than all the restarts.
const SECONDS: u64 = 75;

/// nbdkit in front of the cluster's NBD server, at a socket.
fn retrying(cluster: &Cluster, socket: &Path) -> Result<Service> {
    let arguments = [
        "--foreground".to_owned(),
        format!("--unix={}", socket.display()),
        "--filter=retry".to_owned(),
        "nbd".to_owned(),
        format!("uri={}", cluster.uri("v")),
        "retries=120".to_owned(),
        "retry-delay=1".to_owned(),
        "retry-exponential=no".to_owned(),
    ];
    let log = cluster.path().join("nbdkit.log");
    let service = Service::start("nbdkit", &log, Path::new("nbdkit"), arguments)?;
    wait_for("nbdkit", LIMIT, || {
        ensure!(socket.exists());
        Ok(())
    })?;
    Ok(service)
}

fn fio(directory: &Path, socket: &Path) -> Tool {
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let seconds = SECONDS.to_string();
    Tool::new("fio")
        .limit(Duration::from_secs(SECONDS) + LIMIT)
        .args([
            "--name=rolling",
            "--ioengine=nbd",
            "--rw=randrw",
            "--rwmixread=30",
        ])
        .args(["--bs=4k", "--iodepth=8", "--size=64m", "--verify=crc32c"])
        .args([
            "--verify_backlog=256",
            "--verify_fatal=1",
            "--serialize_overlap=1",
        ])
        .args([
            "--verify_state_save=0",
            "--time_based",
            "--runtime",
            &seconds,
        ])
        .args(["--output-format=json", "--uri", &uri])
        .arg(format!("--aux-path={}", directory.display()))
}

/// Stops a process and starts it again; ready and in sync on return. How long the stop took.
fn restart(cluster: &mut Cluster, name: &str) -> Result<Duration> {
    let began = Instant::now();
    let status = cluster.service(name).stop(STOP_MAX)?;
    let took = began.elapsed();
    ensure!(status.success(), "{name} ended with {status}");
    cluster.start_service(name)?;
    cluster.wait_ready()?;
    wait_for("all to be in sync", LIMIT, || {
        let status = cluster.json(["status"])?;
        ensure!(status["health"] == "healthy", "{status}");
        ensure!(status["healing"]["out_of_sync"] == 0, "{status}");
        Ok(())
    })?;
    Ok(took)
}

fn check_report(report: &str) -> Result<()> {
    let from = report.find('{').context("fio prints no JSON")?;
    let report: Value = serde_json::from_str(&report[from..])?;
    let job = &report["jobs"][0];
    ensure!(job["error"] == 0, "{job}");
    let total = |what: &str| job[what].as_u64().unwrap_or(0);
    ensure!(total("total_err") == 0, "{job}");
    let requests = |side: &str| job[side]["total_ios"].as_u64().unwrap_or(0);
    let (reads, writes) = (requests("read"), requests("write"));
    ensure!(reads > 100 && writes > 100, "{job}");
    eprintln!("{reads} reads and {writes} writes, none failed");
    Ok(())
}

#[test]
fn a_rolling_restart_of_every_process_costs_no_request() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions {
        separate: true,
        disk_size: "1GiB".to_owned(),
        ..ClusterOptions::default()
    })?;
    cluster.create_volume("v", "64MiB", 3)?;
    let socket = cluster.path().join("retry.sock");
    let _nbdkit = retrying(&cluster, &socket)?;
    let work = fio(cluster.path(), &socket);
    let running = std::thread::spawn(move || work.check());
    for name in ["conductor", "store-0", "store-1", "store-2", "nbd", "nbd"] {
        std::thread::sleep(Duration::from_secs(2));
        ensure!(
            !running.is_finished(),
            "fio ended before {name} was restarted"
        );
        let took = restart(&mut cluster, name)?;
        eprintln!("{name} stopped within {took:.1?}");
    }
    ensure!(!running.is_finished(), "fio was not there for all restarts");
    let report = running.join().map_err(|_| anyhow::anyhow!("a panic"))??;
    check_report(&report)?;
    cluster.stop()
}
