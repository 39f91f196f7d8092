//! What it costs to bring a replica back: what it missed, and not what it has.
//!
//! `ASHLAR_REBUILD_GIB=20` runs it with 1 GiB changed of a volume of 20 GiB with two replicas, which
//! takes 52 GB of disk.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::ledger::{BLOCK, Content, pattern};
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Cluster, ClusterOptions};
use std::time::Duration;

/// How large it is.
struct Scale {
    stores: usize,
    disk_gib: u64,
    /// Blocks of the volume, and of what changes while a store is away: more than its owner keeps of
    /// it.
    blocks: u64,
    changed: u64,
}

impl Scale {
    fn asked_for() -> Result<Self> {
        let Ok(gib) = std::env::var("ASHLAR_REBUILD_GIB") else {
            return Ok(Self {
                stores: 3,
                disk_gib: 4,
                blocks: 256 << 10,
                changed: 80 << 10,
            });
        };
        let gib: u64 = gib.parse().context("ASHLAR_REBUILD_GIB")?;
        Ok(Self {
            stores: 2,
            disk_gib: gib + gib / 5,
            blocks: gib << 18,
            changed: 1 << 18,
        })
    }
}

/// Blocks of what changed that an owner keeps to send them again itself, at most.
const KEPT_MAX: u64 = 48 << 10;
/// Blocks of one request.
const STEP: u64 = 256;

fn write(client: &mut NbdClient, first: u64, version: u64) -> Result<()> {
    let data: Vec<u8> = (first..first + STEP)
        .flat_map(|block| pattern(block, Content::Version(version)))
        .collect();
    let length = u32::try_from(data.len())?;
    let error = client.call(Command::Write, first * BLOCK as u64, length, &data)?;
    ensure!(error == 0, "write at block {first}: error {error}");
    Ok(())
}

/// Blocks that catch-ups have fetched so far, as the owner tells.
fn fetched(cluster: &mut Cluster) -> u64 {
    let log = cluster.service("nbd").log();
    let lines = log
        .lines()
        .filter(|line| line.contains("replica has caught up"));
    let count = |line: &str| {
        let text = line.split(" blocks=").nth(1)?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    lines.filter_map(count).sum()
}

#[test]
fn a_store_that_comes_back_fetches_only_what_changed() -> Result<()> {
    let scale = Scale::asked_for()?;
    let Scale {
        blocks, changed, ..
    } = scale;
    let mut cluster = Cluster::start(ClusterOptions {
        separate: true,
        stores: scale.stores,
        disk_size: format!("{}GiB", scale.disk_gib),
        ..ClusterOptions::default()
    })?;
    let size = blocks * BLOCK as u64;
    cluster.create_volume("v", &size.to_string(), u8::try_from(scale.stores)?)?;
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    for first in (0..blocks).step_by(usize::try_from(STEP)?) {
        write(&mut client, first, 1)?;
    }
    ensure!(client.call(Command::Flush, 0, 0, &[])? == 0, "flush failed");
    // What an owner has not settled yet counts as missed: let it.
    std::thread::sleep(Duration::from_secs(8));
    let before = fetched(&mut cluster);
    cluster.service("store-1").kill();
    for first in (0..changed).step_by(usize::try_from(STEP)?) {
        write(&mut client, first, 2)?;
    }
    wait_for("the loss to be noticed", Duration::from_secs(60), || {
        let status = cluster.json(["status"])?;
        ensure!(status["health"] != "healthy", "{status}");
        Ok(())
    })?;
    cluster.start_service("store-1")?;
    wait_for("the replica to come back", Duration::from_secs(120), || {
        let status = cluster.json(["status"])?;
        ensure!(status["health"] == "healthy", "{status}");
        Ok(())
    })?;
    let fetched = fetched(&mut cluster) - before;
    eprintln!("{changed} of {blocks} blocks changed, {fetched} fetched");
    ensure!(
        (changed - KEPT_MAX..=changed + changed / 10).contains(&fetched),
        "{fetched} blocks were fetched for {changed} that changed"
    );
    // It has them: it and one more are enough to read all.
    cluster.service("store-0").kill();
    for first in (0..blocks).step_by(usize::try_from(16 * STEP)?) {
        let data = client.read(first * BLOCK as u64, usize::try_from(STEP)? * BLOCK)?;
        let version = if first < changed { 2 } else { 1 };
        let expected: Vec<u8> = (first..first + STEP)
            .flat_map(|block| pattern(block, Content::Version(version)))
            .collect();
        ensure!(data == expected, "wrong data at block {first}");
    }
    client.disconnect().context("disconnecting")
}
