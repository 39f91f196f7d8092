//! Full disks: the collector keeps up at 80 %, and at 100 % the writer hears ENOSPC and can go on
//! after a trim.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::ledger::{BLOCK, Content, Random, pattern, recognise};
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Cluster, ClusterOptions, Tool};
use std::fs;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const ENOSPC: u32 = 28;
/// Blocks of one write.
const STEP: u64 = 64;

fn small_disks(stores: usize) -> Result<Cluster> {
    Cluster::start(ClusterOptions {
        stores,
        disk_size: "1GiB".to_owned(),
        ..ClusterOptions::default()
    })
}

fn usable_bytes(cluster: &Cluster) -> Result<u64> {
    let disks = cluster.json(["disk", "list"])?;
    disks[0]["usable_bytes"]
        .as_u64()
        .with_context(|| format!("{disks}"))
}

/// Bytes that a process has had written to disks.
fn written_bytes(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(line.context("no write_bytes")?.parse()?)
}

#[test]
fn random_overwrites_at_80_percent_full_go_on_for_ever() -> Result<()> {
    let mut cluster = small_disks(1)?;
    let size = usable_bytes(&cluster)? / MIB * 8 / 10;
    cluster.create_volume("v", &format!("{size}MiB"), 1)?;
    let uri = cluster.uri("v");
    let fio = || {
        Tool::new("fio")
            .args([
                "--name=space",
                "--ioengine=nbd",
                "--output-format=json",
                "--fsync=4096",
            ])
            .args([format!("--uri={uri}"), format!("--size={size}M")])
            .limit(Duration::from_secs(400))
    };
    fio()
        .args(["--rw=write", "--bs=1M", "--iodepth=4"])
        .check()?;
    let pid_written = |cluster: &mut Cluster| written_bytes(cluster.service("up").pid());

    // The disk is written over more than twice with data alone.
    let overwritten = 2200 * MIB;
    let before = pid_written(&mut cluster)?;
    let report = fio()
        .args([
            "--rw=randwrite",
            "--bs=4k",
            "--iodepth=32",
            "--norandommap",
            "--randrepeat=0",
        ])
        .arg(format!("--io_size={overwritten}"))
        .check()?;
    let report: serde_json::Value =
        serde_json::from_str(&report[report.find('{').context("fio printed no report")?..])?;
    let job = &report["jobs"][0];
    ensure!(
        job["error"] == 0 && job["write"]["total_ios"] == overwritten / 4096,
        "{report}"
    );
    let device = pid_written(&mut cluster)? - before;
    // In hundredths, because floats compare badly.
    let amplification = device * 100 / overwritten;
    println!(
        "write amplification {}.{:02} at 80 % full, {:.0} IOPS",
        amplification / 100,
        amplification % 100,
        job["write"]["iops"].as_f64().unwrap_or_default()
    );
    ensure!(
        amplification >= 100,
        "fewer bytes reached the disk than were written"
    );
    ensure!(
        amplification < 800,
        "write amplification of {amplification} hundredths"
    );
    let status = cluster.json(["status"])?;
    ensure!(status["health"] == "healthy", "{status}");
    Ok(())
}

#[test]
fn a_full_disk_refuses_writes_cleanly_and_recovers_by_a_trim() -> Result<()> {
    let cluster = small_disks(3)?;
    // Thin: the volume promises more than there is.
    cluster.create_volume("v", "2GiB", 3)?;
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    let step_bytes = u32::try_from(STEP * BLOCK as u64)?;
    let bytes = |first: u64, version: u64| -> Vec<u8> {
        (first..first + STEP)
            .flat_map(|block| pattern(block, Content::Version(version)))
            .collect()
    };
    let mut full_at = None;
    for first in (0..client.size() / BLOCK as u64).step_by(usize::try_from(STEP)?) {
        let data = bytes(first, 1);
        match client.call(Command::Write, first * BLOCK as u64, step_bytes, &data)? {
            0 => {}
            ENOSPC => {
                full_at = Some(first);
                break;
            }
            error => anyhow::bail!("write at block {first}: error {error}, expected ENOSPC"),
        }
    }
    let full_at = full_at.context("2 GiB fit on a disk of 1 GiB")?;
    let written = full_at * BLOCK as u64;
    println!("full after {} MiB", written / MIB);
    ensure!(
        written > 700 * MIB,
        "full after {} MiB of 1 GiB",
        written / MIB
    );
    ensure!(
        client.call(Command::Flush, 0, 0, &[])? == 0,
        "flush fails on a full disk"
    );

    // Nothing else suffers.
    let check = |client: &mut NbdClient, block: u64, expected: Content| -> Result<()> {
        let found = recognise(block, &client.read(block * BLOCK as u64, BLOCK)?)?;
        ensure!(
            found == expected,
            "block {block}: {found:?}, expected {expected:?}"
        );
        Ok(())
    };
    let mut random = Random(3);
    for _ in 0..500 {
        check(&mut client, random.below(full_at), Content::Version(1))?;
    }
    let status = cluster.json(["status"])?;
    ensure!(
        status["health"] == "healthy",
        "a full disk cost a replica: {status}"
    );
    ensure!(status["disks_failed"] == 0, "{status}");

    // A trim makes room; that it takes a moment is fine.
    let trimmed = 256 * MIB;
    let error = client.call(Command::Trim, 0, u32::try_from(trimmed)?, &[])?;
    ensure!(error == 0, "trim on a full disk: error {error}");
    check(&mut client, 0, Content::Zero)?;
    wait_for("room after a trim", Duration::from_secs(60), || {
        let data = bytes(full_at, 2);
        let error = client.call(Command::Write, full_at * BLOCK as u64, step_bytes, &data)?;
        ensure!(error == 0, "write: error {error}");
        Ok(())
    })?;
    check(&mut client, full_at, Content::Version(2))?;
    for first in (full_at + STEP..).step_by(usize::try_from(STEP)?).take(512) {
        let error = client.call(
            Command::Write,
            first * BLOCK as u64,
            step_bytes,
            &bytes(first, 3),
        )?;
        ensure!(
            error == 0,
            "write at block {first} after the trim: error {error}"
        );
    }
    check(&mut client, full_at + STEP, Content::Version(3))?;
    check(&mut client, trimmed / BLOCK as u64, Content::Version(1))?;
    ensure!(
        cluster.json(["status"])?["health"] == "healthy",
        "not healthy at the end"
    );
    Ok(())
}
