//! A disk that goes bad little by little loses its replicas to others, by itself.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::ledger::{BLOCK, Content, pattern};
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::process::wait_for;
use ashlar_e2e::raw_disk::{self, Kind};
use ashlar_e2e::{Cluster, ClusterOptions, inspect};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
/// Blocks of the volume.
const BLOCKS: u64 = 16 << 8;
/// Blocks of one request.
const STEP: u64 = 64;
/// Blocks that go bad: more than a disk may lose within an hour.
const DAMAGED: u32 = 14;

fn bytes(first: u64) -> Vec<u8> {
    (first..first + STEP)
        .flat_map(|block| pattern(block, Content::Version(1)))
        .collect()
}

fn fill(cluster: &Cluster) -> Result<()> {
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    for first in (0..BLOCKS).step_by(usize::try_from(STEP)?) {
        let length = u32::try_from(STEP * BLOCK as u64)?;
        let error = client.call(Command::Write, first * BLOCK as u64, length, &bytes(first))?;
        ensure!(error == 0, "write at block {first}: error {error}");
    }
    ensure!(client.call(Command::Flush, 0, 0, &[])? == 0, "flush failed");
    client.disconnect()
}

fn verify(client: &mut NbdClient) -> Result<()> {
    for first in (0..BLOCKS).step_by(usize::try_from(STEP)?) {
        let data = client.read(first * BLOCK as u64, usize::try_from(STEP)? * BLOCK)?;
        ensure!(data == bytes(first), "wrong bytes in blocks from {first}");
    }
    Ok(())
}

/// A disk as `ashlar disk list` shows it.
fn disk_at(cluster: &Cluster, path: &Path) -> Result<Value> {
    let list = cluster.json(["disk", "list"])?;
    let disks = list.as_array().context("no list of disks")?;
    let mut disks = disks.iter();
    let found = disks.find(|disk| disk["path"].as_str().map(Path::new) == Some(path));
    Ok(found.context("the disk is not in the list")?.clone())
}

/// A disk that holds a replica.
fn used_disk(cluster: &Cluster) -> Result<PathBuf> {
    let list = cluster.json(["disk", "list"])?;
    let disks = list.as_array().context("no list of disks")?;
    let used = disks.iter().find(|disk| disk["replicas"] == 1);
    let path = used.and_then(|disk| disk["path"].as_str());
    Ok(path.context("no disk holds a replica")?.into())
}

fn damage(disk: &Path) -> Result<()> {
    let entries = raw_disk::entries(disk)?;
    for number in 0..DAMAGED {
        let block = 100 + number * 250;
        let mut found = entries.iter();
        let entry = found.rfind(|entry| {
            entry.kind == Kind::Data && (entry.first..entry.first + entry.count).contains(&block)
        });
        let entry = entry.with_context(|| format!("no block {block}"))?;
        let payload = entry.payload + u64::from(block - entry.first) * BLOCK as u64;
        raw_disk::flip_bit(disk, payload + 99, 2)?;
    }
    ensure!(
        inspect::damage(disk, "data")? == u64::from(DAMAGED),
        "no damage was done"
    );
    Ok(())
}

#[test]
fn replicas_leave_a_disk_whose_blocks_go_bad() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions {
        stores: 4,
        disk_size: "512MiB".to_owned(),
        up_arguments: ["--scrub-interval", "24s", "--scrub-rate", "256MiB"]
            .map(str::to_owned)
            .to_vec(),
        ..ClusterOptions::default()
    })?;
    cluster.create_volume("v", &(BLOCKS * BLOCK as u64).to_string(), 3)?;
    fill(&cluster)?;
    let bad = used_disk(&cluster)?;
    cluster.stop()?;
    damage(&bad)?;
    cluster.restart()?;
    // Attached, and read by its scrub.
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    wait_for("the disk to be empty", LIMIT, || {
        let disk = disk_at(&cluster, &bad)?;
        ensure!(
            disk["replicas"] == 0 && disk["evacuation"] == "done",
            "{disk}"
        );
        Ok(())
    })?;
    let disk = disk_at(&cluster, &bad)?;
    ensure!(disk["schedulable"] == "open", "{disk}");
    let why = disk["ailing"]["reason"].as_str().context("no reason")?;
    ensure!(why.contains("damaged places"), "{why}");
    let volume = cluster.json(["volume", "show", "v"])?;
    ensure!(volume["health"] == "healthy", "{volume}");
    let status = cluster.json(["status"])?;
    ensure!(status["disks_ailing"] == 1, "{status}");
    verify(&mut client)?;
    client.disconnect()?;

    // It is as people say from then on.
    let id = disk["id"].as_str().context("no id")?.to_owned();
    cluster.ashlar(["disk", "clear", &id]).check()?;
    let disk = disk_at(&cluster, &bad)?;
    ensure!(disk["evacuation"] == "cleared", "{disk}");
    let list = cluster.ashlar(["disk", "list"]).check()?;
    ensure!(list.contains("(cleared)"), "{list}");
    cluster.stop()
}
