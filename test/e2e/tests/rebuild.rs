//! What it costs to bring a replica back: what it missed, and not what it has.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::ledger::{BLOCK, Content, pattern};
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Cluster, ClusterOptions};
use std::time::Duration;

/// Blocks of the volume, and of what changes while a store is away: more than its owner keeps of it.
const BLOCKS: u64 = 256 << 10;
const CHANGED: u64 = 80 << 10;
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
    let mut cluster = Cluster::start(ClusterOptions {
        separate: true,
        ..ClusterOptions::default()
    })?;
    let size = BLOCKS * BLOCK as u64;
    cluster.create_volume("v", &size.to_string(), 3)?;
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    for first in (0..BLOCKS).step_by(usize::try_from(STEP)?) {
        write(&mut client, first, 1)?;
    }
    ensure!(client.call(Command::Flush, 0, 0, &[])? == 0, "flush failed");
    // What an owner has not settled yet counts as missed: let it.
    std::thread::sleep(Duration::from_secs(8));
    let before = fetched(&mut cluster);
    cluster.service("store-1").kill();
    for first in (0..CHANGED).step_by(usize::try_from(STEP)?) {
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
    eprintln!("{CHANGED} of {BLOCKS} blocks changed, {fetched} fetched");
    ensure!(
        (CHANGED - KEPT_MAX..=CHANGED + CHANGED / 10).contains(&fetched),
        "{fetched} blocks were fetched for {CHANGED} that changed"
    );
    // It has them: it and one more are enough to read all.
    cluster.service("store-0").kill();
    for first in (0..BLOCKS).step_by(usize::try_from(16 * STEP)?) {
        let data = client.read(first * BLOCK as u64, usize::try_from(STEP)? * BLOCK)?;
        let version = if first < CHANGED { 2 } else { 1 };
        let expected: Vec<u8> = (first..first + STEP)
            .flat_map(|block| pattern(block, Content::Version(version)))
            .collect();
        ensure!(data == expected, "wrong data at block {first}");
    }
    client.disconnect().context("disconnecting")
}
