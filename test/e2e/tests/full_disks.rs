//! What becomes of a volume when the disk of one replica is full, or the disks of all of them.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::filler::{Filler, Outcome, verify};
use ashlar_e2e::inspect::Replicas;
use ashlar_e2e::ledger::BLOCK;
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Cluster, ClusterOptions};
use serde_json::Value;
use std::thread;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const BLOCKS_PER_MIB: u64 = MIB / BLOCK as u64;
/// What a front end keeps in flight.
const DEPTH: usize = 32;
/// How long it may take until room is seen again, or a replica is back.
const RECOVERY_LIMIT: Duration = Duration::from_secs(120);

fn cluster(first: &str, others: &str) -> Result<Cluster> {
    Cluster::start(ClusterOptions {
        separate: true,
        disk_size: others.to_owned(),
        first_disk_sizes: vec![first.to_owned()],
        ..ClusterOptions::default()
    })
}

fn create(cluster: &Cluster, name: &str, size: &str, (replicas, ack): (u8, &str)) -> Result<()> {
    let replicas = replicas.to_string();
    cluster
        .ashlar(["volume", "create", name, "--size", size])
        .args(["--replicas", &replicas, "--ack", ack])
        .check()?;
    wait_for("the volume", RECOVERY_LIMIT, || {
        let volume = cluster.json(["volume", "show", name])?;
        ensure!(volume["state"] == "ready", "{volume}");
        Ok(())
    })
}

/// Used and usable bytes of each store's disk, by the stores' names.
fn fills(cluster: &Cluster) -> Result<Vec<(u64, u64)>> {
    let list = cluster.json(["disk", "list"])?;
    let mut disks: Vec<&Value> = list.as_array().context("no list")?.iter().collect();
    disks.sort_by_key(|disk| disk["node_name"].to_string());
    let bytes = |disk: &Value, name: &str| disk[name].as_u64().context("no bytes");
    let fill = |disk| Ok((bytes(disk, "used_bytes")?, bytes(disk, "usable_bytes")?));
    disks.into_iter().map(fill).collect()
}

fn show_fills(what: &str, cluster: &Cluster) -> Result<()> {
    let fills: Vec<String> = fills(cluster)?
        .iter()
        .map(|(used, usable)| format!("{} of {} MiB", used / MIB, usable / MIB))
        .collect();
    println!("{what}: {}", fills.join(", "));
    Ok(())
}

fn health(cluster: &Cluster) -> Result<String> {
    let status = cluster.json(["status"])?;
    ensure!(
        status["disks_failed"] == 0 && status["disks_ailing"] == 0,
        "a full disk is no failed one: {status}"
    );
    Ok(status["health"].as_str().context("no health")?.to_owned())
}

/// How many replicas of the first shard are in sync.
fn in_sync(cluster: &Cluster, volume: &str) -> Result<usize> {
    let volume = cluster.json(["volume", "show", volume])?;
    let replicas = volume["shards"][0]["replicas"].as_array();
    let replicas = replicas.with_context(|| format!("{volume}"))?;
    Ok(replicas
        .iter()
        .filter(|replica| replica["in_sync"] == true)
        .count())
}

fn wait_healthy(cluster: &Cluster) -> Result<Duration> {
    let since = Instant::now();
    wait_for("all replicas in sync", RECOVERY_LIMIT, || {
        let health = health(cluster)?;
        ensure!(health == "healthy", "{health}");
        Ok(())
    })?;
    Ok(since.elapsed())
}

/// Stops all, and reads every block of every replica.
fn compare(mut cluster: Cluster, volume: &str) -> Result<()> {
    let replicas = Replicas::of(&cluster, volume)?;
    cluster.stop()?;
    let blocks = replicas.agree_undamaged()?;
    println!("replicas agree in {blocks} blocks of data");
    Ok(())
}

/// All disks fill up at once: the client hears ENOSPC and nothing else; whatever makes room works.
fn all_disks(ack: &str) -> Result<()> {
    let cluster = cluster("256MiB", "256MiB")?;
    create(&cluster, "v", "1GiB", (3, ack))?;
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    let blocks = client.size() / BLOCK as u64;
    let mut filler = Filler::new(blocks, 5);

    // Large writes at depth: more is in flight than lies between the soft mark and the end.
    let filled = filler.write_through(&mut client, (DEPTH, BLOCKS_PER_MIB), (0, blocks))?;
    println!("{ack}, all disks: {filled:?}");
    show_fills("full", &cluster)?;
    ensure!(filled.refused > 0, "1 GiB fits on 256 MiB");
    ensure!(in_sync(&cluster, "v")? == 3, "full disks cost a replica");
    let end = filler.data_blocks();
    ensure!(end > 150 * BLOCKS_PER_MIB, "full after {end} blocks");
    filler.verify(&mut client)?;

    // Where nothing holds the old blocks, overwriting needs no room.
    let over = filler.overwrite(&mut client, DEPTH, end, 20_000)?;
    println!("overwrites: {over:?}");
    ensure!(over.refused == 0, "an overwrite was refused: {over:?}");
    ensure!(client.call(Command::Flush, 0, 0, &[])? == 0, "flush");

    // A snapshot holds what is overwritten: that takes room.
    cluster.ashlar(["snapshot", "create", "v@held"]).check()?;
    let held = filler.contents();
    let over = filler.overwrite(&mut client, DEPTH, end, end)?;
    println!("overwrites under a snapshot: {over:?}");
    show_fills("full of a snapshot", &cluster)?;
    ensure!(over.refused > 0, "a snapshot holds nothing: {over:?}");
    ensure!(client.call(Command::Flush, 0, 0, &[])? == 0, "flush");
    filler.verify(&mut client)?;
    cluster.ashlar(["snapshot", "create", "v@more"]).check()?;
    ensure!(in_sync(&cluster, "v")? == 3, "full disks cost a replica");

    // A trim of what the snapshot holds frees nothing, but it is done.
    filler.trim(&mut client, (0, 8 * BLOCKS_PER_MIB))?;
    verify(
        &mut NbdClient::connect(cluster.nbd_port(), "v@held")?,
        &held[..16 * 256],
    )?;

    // The snapshots go, and writes go on.
    for name in ["v@held", "v@more"] {
        let deleted = cluster.ashlar(["snapshot", "delete", name, "--wait"]);
        deleted.check()?;
    }
    filler.trim(&mut client, (8 * BLOCKS_PER_MIB, 64 * BLOCKS_PER_MIB))?;
    let since = Instant::now();
    wait_for("room", RECOVERY_LIMIT, || {
        let range = (0, 48 * BLOCKS_PER_MIB);
        let again = filler.write_through(&mut client, (DEPTH, BLOCKS_PER_MIB), range)?;
        ensure!(again.refused == 0, "{again:?}");
        Ok(())
    })?;
    println!(
        "48 MiB written again {:?} after the deletions",
        since.elapsed()
    );
    show_fills("after the deletions", &cluster)?;
    filler.verify(&mut client)?;
    client.disconnect()?;
    wait_healthy(&cluster)?;
    compare(cluster, "v")
}

#[test]
fn all_disks_full_and_a_majority_acknowledges() -> Result<()> {
    all_disks("majority")
}

#[test]
fn all_disks_full_and_all_acknowledge() -> Result<()> {
    all_disks("all")
}

/// Only one disk of three is full.
fn one_disk(ack: &str) -> Result<()> {
    let cluster = cluster("256MiB", "512MiB")?;
    create(&cluster, "v", "1GiB", (3, ack))?;
    // The other volume is to stay where it is put.
    cluster.ashlar(["rebalance", "pause"]).check()?;
    for other in ["store-1", "store-2"] {
        cluster.ashlar(["node", "cordon", other]).check()?;
    }
    create(&cluster, "other", "1GiB", (1, "majority"))?;
    for other in ["store-1", "store-2"] {
        cluster.ashlar(["node", "uncordon", other]).check()?;
    }
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    let blocks = client.size() / BLOCK as u64;
    let mut filler = Filler::new(blocks, 6);
    let begun = 48 * BLOCKS_PER_MIB;
    filler.write_through(&mut client, (DEPTH, BLOCKS_PER_MIB), (0, begun))?;

    // Somebody else's volume fills the small disk, while this one writes nothing.
    let mut elsewhere = NbdClient::connect(cluster.nbd_port(), "other")?;
    let mut other = Filler::new(blocks, 7);
    let filled = other.write_through(&mut elsewhere, (DEPTH, BLOCKS_PER_MIB), (0, blocks))?;
    println!("{ack}, one disk: the other volume {filled:?}");
    ensure!(filled.refused > 0, "1 GiB fits on 256 MiB");
    show_fills("full", &cluster)?;

    // It hears ENOSPC for new blocks, though two of three disks have room, and loses no replica.
    let more = filler.write_through(&mut client, (DEPTH, BLOCKS_PER_MIB), (begun, blocks))?;
    println!("this one: {more:?}");
    ensure!(more.refused > 0, "a full disk took more");
    let over = filler.overwrite(&mut client, DEPTH, begun, 10_000)?;
    ensure!(over.refused == 0, "an overwrite was refused: {over:?}");
    cluster.ashlar(["snapshot", "create", "v@s"]).check()?;
    let over = filler.overwrite(&mut client, DEPTH, begun, 10_000)?;
    println!("overwrites under a snapshot: {over:?}");
    ensure!(over.refused > 0, "a snapshot holds nothing: {over:?}");
    ensure!(client.call(Command::Flush, 0, 0, &[])? == 0, "flush");
    ensure!(health(&cluster)? == "healthy", "not healthy");
    ensure!(in_sync(&cluster, "v")? == 3, "a full disk cost a replica");
    filler.verify(&mut client)?;

    // The other volume makes room.
    other.trim(&mut elsewhere, (0, blocks))?;
    let since = Instant::now();
    wait_for("room", RECOVERY_LIMIT, || {
        let range = (begun, 2 * begun);
        let more = filler.write_through(&mut client, (DEPTH, BLOCKS_PER_MIB), range)?;
        ensure!(more.refused == 0, "{more:?}");
        Ok(())
    })?;
    println!("48 MiB written {:?} after the trim", since.elapsed());
    show_fills("after the trim", &cluster)?;
    let more = filler.overwrite(&mut client, DEPTH, begun, 10_000)?;
    println!("{more:?}");
    ensure!(more.refused == 0, "{more:?}");
    filler.verify(&mut client)?;
    client.disconnect()?;
    elsewhere.disconnect()?;
    compare(cluster, "v")
}

#[test]
fn one_disk_full_and_a_majority_acknowledges() -> Result<()> {
    one_disk("majority")
}

#[test]
fn one_disk_full_and_all_acknowledge() -> Result<()> {
    one_disk("all")
}

/// Fills volumes at once, each from its own connection, until each hears ENOSPC.
fn fill_together(cluster: &Cluster, names: &[String]) -> Result<Vec<(Filler, Outcome)>> {
    thread::scope(|scope| {
        let fill = |(seed, name): (u64, &String)| -> Result<(Filler, Outcome)> {
            let mut client = NbdClient::connect(cluster.nbd_port(), name)?;
            let blocks = client.size() / BLOCK as u64;
            let mut filler = Filler::new(blocks, seed);
            let step = (DEPTH, BLOCKS_PER_MIB);
            let filled = filler.write_through(&mut client, step, (0, blocks))?;
            client.disconnect()?;
            Ok((filler, filled))
        };
        let threads: Vec<_> = (10..)
            .zip(names)
            .map(|numbered| scope.spawn(move || fill(numbered)))
            .collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        let ended = ended.map(|end| end.map_err(|_| anyhow::anyhow!("a writer panicked"))?);
        ended.collect()
    })
}

/// Many writes of several volumes are on their way when the mark is passed: all disks get them in
/// another order. Nobody falls behind for that.
fn several_volumes(first: &str, others: &str) -> Result<()> {
    let cluster = cluster(first, others)?;
    let names: Vec<String> = (0..3).map(|number| format!("v{number}")).collect();
    for name in &names {
        create(&cluster, name, "512MiB", (3, "majority"))?;
    }
    let mut filled = fill_together(&cluster, &names)?;
    show_fills("full", &cluster)?;
    for (name, (_, outcome)) in names.iter().zip(&filled) {
        let in_sync = in_sync(&cluster, name)?;
        println!("{name}: {outcome:?}, {in_sync} in sync");
        ensure!(outcome.refused > 0, "more fits than there is: {outcome:?}");
        ensure!(in_sync == 3, "full disks cost a replica");
    }
    let written: u64 = filled.iter().map(|(_, outcome)| outcome.written).sum();
    ensure!(written > 120, "full after {written} MiB");
    for (name, (filler, _)) in names.iter().zip(&filled) {
        let mut client = NbdClient::connect(cluster.nbd_port(), name)?;
        filler.verify(&mut client)?;
        ensure!(client.call(Command::Flush, 0, 0, &[])? == 0, "flush");
        client.disconnect()?;
    }

    let last = names.last().context("no volume")?;
    wait_for("the volume to be let go", RECOVERY_LIMIT, || {
        cluster.ashlar(["volume", "delete", last]).check()
    })?;
    let since = Instant::now();
    let (filler, _) = filled.first_mut().context("no volume")?;
    let mut client = NbdClient::connect(cluster.nbd_port(), &names[0])?;
    let (first, end) = (
        filler.data_blocks(),
        filler.data_blocks() + 16 * BLOCKS_PER_MIB,
    );
    wait_for("room", RECOVERY_LIMIT, || {
        let more = filler.write_through(&mut client, (4, BLOCKS_PER_MIB), (first, end))?;
        ensure!(more.refused == 0, "{more:?}");
        Ok(())
    })?;
    println!("writes go on {:?} after one was deleted", since.elapsed());
    filler.verify(&mut client)?;
    client.disconnect()?;
    ensure!(health(&cluster)? == "healthy", "not healthy");
    compare(cluster, &names[0])
}

#[test]
fn several_volumes_fill_all_disks_at_once() -> Result<()> {
    several_volumes("512MiB", "512MiB")
}

#[test]
fn several_volumes_fill_one_disk_at_once() -> Result<()> {
    several_volumes("512MiB", "1GiB")
}
