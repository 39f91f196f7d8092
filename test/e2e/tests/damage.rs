//! One bit flipped on one replica's disk: reads stay right, the damage is counted and shown, the
//! process lives.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::inspect::{self, Replicas};
use ashlar_e2e::ledger::{BLOCK, Content, pattern};
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::process::wait_for;
use ashlar_e2e::raw_disk::{self, Entry, Kind};
use ashlar_e2e::{Cluster, ClusterOptions};
use std::path::Path;
use std::time::Duration;

/// Blocks of the volume: enough log for the map to be written out.
const BLOCKS: u64 = 128 << 8;
/// Blocks of one request.
const STEP: u64 = 64;

/// A cluster whose volume holds `Version(1)` everywhere, flushed.
fn filled() -> Result<(Cluster, Replicas)> {
    filled_with(&[])
}

/// The same, with more arguments for `ashlar up`.
fn filled_with(arguments: &[&str]) -> Result<(Cluster, Replicas)> {
    let options = ClusterOptions {
        disk_size: "1GiB".to_owned(),
        up_arguments: arguments.iter().map(|&one| one.to_owned()).collect(),
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options)?;
    cluster.create_volume("v", &(BLOCKS * BLOCK as u64).to_string(), 3)?;
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    for first in (0..BLOCKS).step_by(usize::try_from(STEP)?) {
        write(&mut client, first, STEP, 1)?;
    }
    ensure!(client.call(Command::Flush, 0, 0, &[])? == 0, "flush failed");
    client.disconnect()?;
    let replicas = Replicas::of(&cluster, "v")?;
    Ok((cluster, replicas))
}

fn bytes(first: u64, blocks: u64, version: u64) -> Vec<u8> {
    (first..first + blocks)
        .flat_map(|block| pattern(block, Content::Version(version)))
        .collect()
}

fn write(client: &mut NbdClient, first: u64, blocks: u64, version: u64) -> Result<()> {
    let length = u32::try_from(blocks * BLOCK as u64)?;
    let data = bytes(first, blocks, version);
    let error = client.call(Command::Write, first * BLOCK as u64, length, &data)?;
    ensure!(error == 0, "write at block {first}: error {error}");
    Ok(())
}

/// Reads `blocks` twice, so that more than one replica has its turn.
fn read_right(cluster: &Cluster, first: u64, blocks: u64, version: u64) -> Result<()> {
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    for _ in 0..2 {
        for first in (first..first + blocks).step_by(usize::try_from(STEP)?) {
            let count = STEP.min(blocks);
            let data = client.read(first * BLOCK as u64, usize::try_from(count)? * BLOCK)?;
            ensure!(
                data == bytes(first, count, version),
                "wrong bytes in blocks from {first}"
            );
        }
    }
    client.disconnect()
}

/// Reads on until `status` and `disk list` show damage for a disk: the replica there may be the
/// slower one, which is read only now and then.
fn damage_found(cluster: &Cluster, disk: &Path) -> Result<()> {
    wait_for("damage in status", Duration::from_secs(120), || {
        damage_shown(cluster, disk).or_else(|_| {
            read_right(cluster, 0, BLOCKS, 1)?;
            damage_shown(cluster, disk)
        })
    })
}

/// Whether `status` and `disk list` show damage for a disk.
fn damage_shown(cluster: &Cluster, disk: &Path) -> Result<()> {
    let total = |counts: &serde_json::Value| -> u64 {
        counts
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(_, n)| n.as_u64())
            .sum()
    };
    let status = cluster.json(["status"])?;
    ensure!(total(&status["damage"]) > 0, "no damage shown: {status}");
    let disks = cluster.json(["disk", "list"])?;
    let disks = disks.as_array().context("no list")?;
    let one = disks
        .iter()
        .find(|entry| entry["path"].as_str().map(Path::new) == Some(disk));
    let one = one.with_context(|| format!("{} is not in the list", disk.display()))?;
    ensure!(total(&one["damage"]) > 0, "no damage at the disk: {one}");
    Ok(())
}

fn still_serves(cluster: &mut Cluster) -> Result<()> {
    let up = cluster.service("up");
    ensure!(
        up.is_running() && !up.log().contains("panicked"),
        "{}",
        up.log_tail()
    );
    // And takes writes, all over.
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    for first in (0..BLOCKS).step_by(usize::try_from(STEP)?) {
        write(&mut client, first, STEP, 3)?;
    }
    ensure!(client.call(Command::Flush, 0, 0, &[])? == 0, "flush failed");
    client.disconnect()?;
    read_right(cluster, 0, BLOCKS, 3)
}

/// The newest data of a block on a disk.
fn data_of(disk: &Path, block: u32) -> Result<Entry> {
    let entries = raw_disk::entries(disk)?;
    let found = entries.iter().rfind(|entry| {
        entry.kind == Kind::Data && (entry.first..entry.first + entry.count).contains(&block)
    });
    found
        .copied()
        .with_context(|| format!("no block {block} in {} entries", entries.len()))
}

#[test]
fn a_flipped_bit_in_data_is_answered_from_another_replica() -> Result<()> {
    let (mut cluster, replicas) = filled()?;
    cluster.stop()?;
    // Another block on each disk, so that no choice of replica passes by all three.
    for (index, disk) in replicas.disks().iter().enumerate() {
        let block = u32::try_from(1000 + 3000 * index)?;
        let entry = data_of(disk, block)?;
        let payload = entry.payload + u64::from(block - entry.first) * BLOCK as u64;
        raw_disk::flip_bit(disk, payload + 1234, 3)?;
        ensure!(
            inspect::damage(disk, "data")? == 1,
            "the inspector finds no damage"
        );
    }
    cluster.restart()?;
    read_right(&cluster, 0, BLOCKS, 1)?;
    for disk in replicas.disks() {
        damage_found(&cluster, disk)?;
    }
    still_serves(&mut cluster)
}

/// A flipped bit that nobody reads: the scrub of the attached volume finds and repairs it.
#[test]
fn a_flipped_bit_that_nobody_reads_is_repaired_by_a_scrub() -> Result<()> {
    let (mut cluster, replicas) =
        filled_with(&["--scrub-interval", "24s", "--scrub-rate", "256MiB"])?;
    cluster.stop()?;
    for (index, disk) in replicas.disks().iter().enumerate() {
        let block = u32::try_from(2000 + 3000 * index)?;
        let entry = data_of(disk, block)?;
        let payload = entry.payload + u64::from(block - entry.first) * BLOCK as u64;
        raw_disk::flip_bit(disk, payload + 77, 1)?;
        ensure!(inspect::damage(disk, "data")? == 1, "no damage was done");
    }
    cluster.restart()?;
    // Attached, and left alone.
    let client = NbdClient::connect(cluster.nbd_port(), "v")?;
    let up = cluster.service("up");
    wait_for("repairs", Duration::from_secs(60), || {
        let repaired = up.log().matches("bad copy repaired").count();
        ensure!(repaired == 3, "{repaired} copies are repaired");
        Ok(())
    })?;
    client.disconnect()?;
    cluster.stop()?;
    for disk in replicas.disks() {
        ensure!(
            inspect::damage(disk, "data")? == 0,
            "{} is still damaged",
            disk.display()
        );
    }
    cluster.restart()?;
    read_right(&cluster, 0, BLOCKS, 1)?;
    still_serves(&mut cluster)
}

#[test]
fn a_flipped_bit_in_a_batch_header_is_found_at_start() -> Result<()> {
    let (mut cluster, replicas) = filled()?;
    // A fresh batch, and a later one that says it was durable; then no clean stop.
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    write(&mut client, 640, STEP, 2)?;
    ensure!(client.call(Command::Flush, 0, 0, &[])? == 0, "flush failed");
    write(&mut client, 6400, STEP, 2)?;
    ensure!(client.call(Command::Flush, 0, 0, &[])? == 0, "flush failed");
    drop(client);
    let disk = &replicas.disks()[1];
    // It is acknowledged without this replica, which has it soon.
    wait_for("a later batch on the disk", Duration::from_secs(30), || {
        let entry = data_of(disk, 640)?;
        let durable = raw_disk::entries(disk)?.into_iter();
        let later = durable.map(|entry| entry.durable).max();
        ensure!(
            later >= Some(entry.lsn),
            "{entry:?} is not below durable {later:?}"
        );
        Ok(())
    })?;
    cluster.kill();
    let entry = data_of(disk, 640)?;
    raw_disk::flip_bit(disk, entry.header + 25, 0)?;
    ensure!(
        inspect::damage(disk, "batch")? > 0,
        "the inspector finds no damage"
    );
    cluster.restart()?;
    read_right(&cluster, 640, STEP, 2)?;
    read_right(&cluster, 6400, STEP, 2)?;
    read_right(&cluster, 0, 640, 1)?;
    wait_for("damage in status", Duration::from_secs(30), || {
        damage_shown(&cluster, disk)
    })?;
    still_serves(&mut cluster)
}

#[test]
fn a_flipped_bit_in_a_leaf_is_found_and_survived() -> Result<()> {
    let (mut cluster, replicas) = filled()?;
    cluster.stop()?;
    let disk = &replicas.disks()[2];
    // The map may not have come to the last leaves yet: any that was written will do.
    let entries = raw_disk::entries(disk)?;
    let newest = raw_disk::newest(&entries, Kind::Leaf);
    let leaf = newest
        .values()
        .max_by_key(|entry| entry.lsn)
        .context("no leaf was written")?;
    raw_disk::flip_bit(disk, leaf.payload + 100, 1)?;
    ensure!(
        inspect::damage(disk, "leaf")? > 0,
        "the inspector finds no damage"
    );
    cluster.restart()?;
    read_right(&cluster, 0, BLOCKS, 1)?;
    damage_found(&cluster, disk)?;
    still_serves(&mut cluster)
}

#[test]
fn a_flipped_bit_in_a_superblock_is_repaired_from_the_other() -> Result<()> {
    let (mut cluster, replicas) = filled()?;
    let disk = replicas.disks()[0].clone();
    let end = std::fs::metadata(&disk)?.len();
    // The first one, then the last one: never both at once.
    for offset in [20, end - (1 << 20) + 20] {
        cluster.stop()?;
        raw_disk::flip_bit(&disk, offset, 5)?;
        ensure!(
            inspect::damage(&disk, "superblock")? == 1,
            "the inspector finds no damage"
        );
        cluster.restart()?;
        read_right(&cluster, 0, 1024, 1)?;
        wait_for("damage in status", Duration::from_secs(30), || {
            damage_shown(&cluster, &disk)
        })?;
    }
    still_serves(&mut cluster)
}
