//! Thin pools: what may be promised, what is kept for whom, and disks that run full.

use anyhow::{Context, Result, bail, ensure};
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Cluster, ClusterOptions};
use serde_json::Value;
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// NBD's word for no space.
const ENOSPC: u32 = 28;

/// The volume that others fill the disks beside, all of it reserved.
const THICK: u64 = 96 * MIB;

/// Of each volume that is put on one disk: four of them fill 93 % of it.
const PART: u64 = 102 * MIB;

const LIMIT: Duration = Duration::from_secs(60);

fn content(volume: u8, at: u64) -> Vec<u8> {
    let number = at / MIB;
    let mut bytes = vec![volume; usize::try_from(MIB).expect("a MiB fits")];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    // Each block of another content.
    for (block, bytes) in bytes.chunks_mut(4096).enumerate() {
        bytes[8..12].copy_from_slice(&u32::try_from(block).unwrap_or(0).to_le_bytes());
    }
    bytes
}

fn write(client: &mut NbdClient, volume: u8, at: u64) -> Result<u32> {
    let data = content(volume, at);
    client.call(Command::Write, at, u32::try_from(MIB)?, &data)
}

fn verify(client: &mut NbdClient, volume: u8, range: std::ops::Range<u64>) -> Result<()> {
    for at in range.step_by(usize::try_from(MIB)?) {
        let found = client.read(at, usize::try_from(MIB)?)?;
        ensure!(found == content(volume, at), "at {at} of volume {volume}");
    }
    Ok(())
}

fn kinds(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let events = cluster.json(["events"])?;
    let events = events.as_array().context("a list of events")?.iter();
    let text = |event: &Value, field| event[field].as_str().unwrap_or_default().to_owned();
    let kinds = events.map(|event| (text(event, "kind"), text(event, "subject")));
    Ok(kinds.collect())
}

fn refused(cluster: &Cluster, arguments: &[&str], why: &str) -> Result<()> {
    let refused = cluster.ashlar(arguments.iter().copied()).run()?;
    ensure!(
        refused.code() == Some(4),
        "{arguments:?}: {:?}",
        refused.code()
    );
    ensure!(refused.stderr.contains(why), "{}", refused.stderr);
    Ok(())
}

fn promises(cluster: &Cluster) -> Result<()> {
    let space = cluster.json(["space", "set", "--over-commit", "2"])?;
    let capacity = space["capacity_bytes"].as_u64().context("a capacity")?;
    ensure!(capacity > 3 * 300 * MIB, "{space}");
    cluster.create_volume("thin", "600MiB", 3)?;
    let why = "at most 2 times";
    refused(
        cluster,
        &["volume", "create", "more", "--size", "600MiB"],
        why,
    )?;
    refused(cluster, &["volume", "resize", "thin", "1GiB"], why)?;
    cluster.json(["space", "set", "--over-commit", "unlimited"])?;
    cluster.create_volume("more", "600MiB", 3)?;
    let shown = cluster.json(["status"])?;
    let promised = shown["space"]["provisioned_bytes"].as_u64();
    ensure!(promised == Some(3600 * MIB), "{shown}");
    Ok(())
}

/// Writes until there is no room. Gives where that was.
fn fill(client: &mut NbdClient) -> Result<u64> {
    for at in (0..client.size()).step_by(usize::try_from(MIB)?) {
        match write(client, 1, at)? {
            0 => {}
            ENOSPC => return Ok(at),
            error => bail!("a full disk is answered with {error}"),
        }
    }
    bail!("the disks were never full")
}

fn reservation_holds(cluster: &Cluster) -> Result<()> {
    let size = THICK.to_string();
    let create = [
        "volume",
        "create",
        "thick",
        "--size",
        &size,
        "--reserve",
        "all",
    ];
    let volume = cluster.json(create)?;
    ensure!(volume["reserve"] == "all", "{volume}");
    let space = cluster.json(["space"])?;
    let unfilled = space["unfilled_bytes"].as_u64().context("what is kept")?;
    ensure!(unfilled >= 3 * THICK, "{space}");
    // More than any disk has.
    let too_much = ["volume", "set", "thin", "--reserve", "all"];
    refused(cluster, &too_much, "cannot be kept")?;

    let mut thin = NbdClient::connect(cluster.nbd_port(), "thin")?;
    let filled = fill(&mut thin)?;
    println!("thin: {} MiB until no space", filled / MIB);
    let mut thick = NbdClient::connect(cluster.nbd_port(), "thick")?;
    // From the end: each MiB is a leaf of the map of its own.
    for at in (0..THICK / MIB).rev().map(|number| number * MIB) {
        let error = write(&mut thick, 2, at)?;
        ensure!(
            error == 0,
            "what was reserved is refused with {error} at {at}"
        );
    }
    ensure!(thick.call(Command::Flush, 0, 0, &[])? == 0);
    ensure!(
        write(&mut thin, 1, filled)? == ENOSPC,
        "there is room again"
    );
    verify(&mut thick, 2, 0..THICK)?;
    verify(&mut thin, 1, 0..filled)?;
    wait_for("full disks", LIMIT, || {
        let kinds = kinds(cluster)?;
        for kind in ["disk-above-soft", "disk-above-hard", "disk-full"] {
            let count = kinds.iter().filter(|(k, _)| k == kind).count();
            ensure!(count == 3, "{kind} of {count} disks: {kinds:?}");
        }
        Ok(())
    })?;
    recovers(cluster, thin, thick, filled)
}

/// A full disk takes reads, trims and deletions, and then writes again.
fn recovers(
    cluster: &Cluster,
    mut thin: NbdClient,
    mut thick: NbdClient,
    filled: u64,
) -> Result<()> {
    let half = filled / 2 / MIB * MIB;
    let trimmed = thin.call(Command::Trim, 0, u32::try_from(half)?, &[])?;
    ensure!(trimmed == 0, "a trim is refused with {trimmed}");
    wait_for("room after the trim", LIMIT, || {
        let error = write(&mut thin, 1, filled)?;
        ensure!(error == 0, "{error}");
        Ok(())
    })?;
    verify(&mut thick, 2, 0..THICK)?;
    verify(&mut thin, 1, half..filled + MIB)?;
    thin.disconnect()?;
    thick.disconnect()?;
    cluster.ashlar(["volume", "delete", "thin"]).check()?;
    wait_for("disks below the thresholds", LIMIT, || {
        let kinds = kinds(cluster)?;
        for kind in ["disk-below-hard", "disk-below-soft"] {
            let count = kinds.iter().filter(|(k, _)| k == kind).count();
            ensure!(count == 3, "{kind} of {count} disks: {kinds:?}");
        }
        Ok(())
    })?;
    let status = cluster.json(["status"])?;
    ensure!(
        status["health"] == "healthy" && status["disks_failed"] == 0,
        "{status}"
    );
    let volume = cluster.json(["volume", "set", "thick", "--reserve", "none"])?;
    ensure!(volume.get("reserve").is_none(), "{volume}");
    let space = cluster.json(["space"])?;
    ensure!(
        space["rules"].is_null() && space["soft_percent"] == 80,
        "{space}"
    );
    Ok(())
}

#[test]
fn what_is_reserved_is_there_when_others_have_filled_the_disks() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions {
        disk_size: "512MiB".to_owned(),
        ..ClusterOptions::default()
    })?;
    promises(&cluster)?;
    reservation_holds(&cluster)?;
    cluster.stop()
}

fn level_of(cluster: &Cluster, node: &str) -> Result<(String, u64, String)> {
    let disks = cluster.json(["disk", "list"])?;
    let disks = disks.as_array().context("a list of disks")?;
    let disk = disks.iter().find(|disk| disk["node_name"] == node);
    let disk = disk.with_context(|| format!("no disk of {node}"))?;
    let used = disk["used_bytes"].as_u64().context("used")?;
    let usable = disk["usable_bytes"].as_u64().context("usable")?;
    let id = disk["id"].as_str().context("an id")?.to_owned();
    let level = disk["level"].as_str().context("a level")?.to_owned();
    Ok((id, used * 100 / usable, level))
}

#[test]
fn replicas_move_off_a_disk_that_runs_full() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions {
        stores: 4,
        disk_size: "512MiB".to_owned(),
        ..ClusterOptions::default()
    })?;
    let nodes = cluster.json(["node", "list"])?;
    let nodes = nodes.as_array().context("a list of nodes")?.iter();
    let names: Vec<String> = nodes
        .map(|node| node["name"].as_str().unwrap_or_default().to_owned())
        .collect();
    // All volumes on one disk, and nothing moves before it is full.
    cluster.ashlar(["rebalance", "pause"]).check()?;
    for name in &names[1..] {
        cluster.ashlar(["node", "cordon", name]).check()?;
    }
    let volumes: Vec<(u8, String)> = (1..=4).map(|n| (n, format!("v{n}"))).collect();
    for (_, volume) in &volumes {
        cluster.create_volume(volume, &PART.to_string(), 1)?;
    }
    for name in &names[1..] {
        cluster.ashlar(["node", "uncordon", name]).check()?;
    }
    let mut clients = Vec::new();
    for (number, volume) in &volumes {
        let mut client = NbdClient::connect(cluster.nbd_port(), volume)?;
        for at in (0..PART).step_by(usize::try_from(MIB)?) {
            let error = write(&mut client, *number, at)?;
            ensure!(error == 0, "{volume} at {at}: {error}");
        }
        ensure!(client.call(Command::Flush, 0, 0, &[])? == 0);
        clients.push(client);
    }
    let disk = wait_for("a disk above the hard threshold", LIMIT, || {
        let (disk, percent, level) = level_of(&cluster, &names[0])?;
        ensure!(level == "hard" && percent >= 90, "{percent} % {level}");
        Ok(format!("disk {disk}"))
    })?;
    let has_told = |kind: &str| -> Result<bool> {
        let kinds = kinds(&cluster)?;
        Ok(kinds.contains(&(kind.to_owned(), disk.clone())))
    };
    ensure!(has_told("disk-above-soft")? && has_told("disk-above-hard")?);
    // Nothing new is placed there: one replica more than there are other disks finds no place.
    let create = [
        "volume",
        "create",
        "three",
        "--size",
        "16MiB",
        "--replicas",
        "3",
    ];
    let three = cluster.json(create)?;
    let text = three.to_string();
    let id = disk.trim_start_matches("disk ");
    ensure!(!text.contains(id), "{text}");

    cluster.ashlar(["rebalance", "resume"]).check()?;
    wait_for(
        "a disk below the hard threshold",
        Duration::from_secs(120),
        || {
            let (_, percent, level) = level_of(&cluster, &names[0])?;
            ensure!(percent < 80 && level == "ample", "{percent} % {level}");
            ensure!(has_told("disk-below-hard")? && has_told("disk-below-soft")?);
            Ok(())
        },
    )?;
    for name in &names[1..] {
        let (_, percent, level) = level_of(&cluster, name)?;
        ensure!(
            percent < 80 && level == "ample",
            "{name}: {percent} % {level}"
        );
    }
    wait_for("the end of all moves", Duration::from_secs(120), || {
        let status = cluster.json(["status"])?;
        ensure!(status["rebalance"]["state"] == "idle", "{status}");
        ensure!(
            status["health"] == "healthy" && status["disks_failed"] == 0,
            "{status}"
        );
        Ok(())
    })?;
    for ((number, volume), client) in volumes.iter().zip(&mut clients) {
        verify(client, *number, 0..PART).with_context(|| volume.clone())?;
    }
    let above = kinds(&cluster)?;
    let count = above
        .iter()
        .filter(|(kind, _)| kind == "disk-above-soft")
        .count();
    ensure!(
        count == 1,
        "no other disk has crossed a threshold: {above:?}"
    );
    for client in clients {
        client.disconnect()?;
    }
    cluster.stop()
}

/// How long some small writes take, one after the other.
fn take(client: &mut NbdClient) -> Result<Duration> {
    let began = std::time::Instant::now();
    for at in 0..WRITES {
        let error = client.call(Command::Write, at * 4096, 4096, &[7; 4096])?;
        ensure!(error == 0, "a write is refused with {error}");
    }
    Ok(began.elapsed())
}

/// Writes of one measurement. At five a second, of which one may come at once, they take 1.7 s.
const WRITES: u64 = 10;

/// Between what they take with that limit and without.
const LIMITED: Duration = Duration::from_millis(1200);

fn becomes_limited(client: &mut NbdClient) -> Result<()> {
    wait_for("a limit", LIMIT, || {
        let took = take(client)?;
        ensure!(took > LIMITED, "{took:?}");
        Ok(())
    })
}

fn becomes_free(client: &mut NbdClient) -> Result<()> {
    wait_for("no limit", LIMIT, || {
        let took = take(client)?;
        ensure!(took < LIMITED, "{took:?}");
        Ok(())
    })
}

fn configure(cluster: &Cluster, arguments: &[&str]) -> Result<()> {
    let arguments = ["config"].iter().chain(arguments).copied();
    cluster.ashlar(arguments).check()?;
    Ok(())
}

/// What holds for a volume, and where that is set.
fn limit_of(cluster: &Cluster, volume: &str) -> Result<(String, String)> {
    let shown = cluster.json(["config", "get", "iops-max", "--volume", volume])?;
    let text = |field: &str| shown[field].as_str().unwrap_or_default().to_owned();
    Ok((text("value"), text("source")))
}

fn create_in(cluster: &Cluster, volume: &str, replicas: &str, pool: &str) -> Result<Value> {
    let size = (64 * MIB).to_string();
    let create = [
        "volume",
        "create",
        volume,
        "--size",
        &size,
        "--replicas",
        replicas,
        "--pool",
        pool,
    ];
    cluster.json(create)
}

/// The limit of a pool, of a volume of it, and of none, each while the volumes are in use.
fn limits_of_pools(cluster: &Cluster) -> Result<()> {
    let mut fast = NbdClient::connect(cluster.nbd_port(), "fast")?;
    let mut slow = NbdClient::connect(cluster.nbd_port(), "slow")?;
    becomes_free(&mut fast)?;
    configure(
        cluster,
        &["set", "iops-max=5", "--pool", "bay=1,media=nvme"],
    )?;
    becomes_limited(&mut fast)?;
    becomes_free(&mut slow)?;
    let of = |value: &str, source: &str| (value.to_owned(), source.to_owned());
    ensure!(limit_of(cluster, "fast")? == of("5", "pool"));
    ensure!(limit_of(cluster, "slow")? == of("unlimited", "default"));
    let text = ["config", "explain", "iops-max", "--volume", "fast"];
    let text = cluster.ashlar(text).check()?;
    let now = "now 5  (set for the pool bay=1,media=nvme)";
    ensure!(text.contains(now), "{text}");

    configure(cluster, &["set", "iops-max=unlimited", "--volume", "fast"])?;
    becomes_free(&mut fast)?;
    ensure!(limit_of(cluster, "fast")? == of("unlimited", "volume"));
    configure(cluster, &["unset", "iops-max", "--volume", "fast"])?;
    becomes_limited(&mut fast)?;
    configure(
        cluster,
        &["unset", "iops-max", "--pool", "media=nvme,bay=1"],
    )?;
    becomes_free(&mut fast)?;
    ensure!(limit_of(cluster, "fast")? == of("unlimited", "default"));
    let pools = cluster.json(["config", "pools"])?;
    let pools = pools.as_array().context("a list of pools")?.iter();
    let pools: Vec<_> = pools
        .map(|pool| (pool["pool"].as_str(), pool["volumes"].as_u64()))
        .collect();
    let expected = [
        (Some("bay=1,media=nvme"), Some(1)),
        (Some("media=hdd"), Some(1)),
    ];
    ensure!(pools == expected, "{pools:?}");
    fast.disconnect()?;
    slow.disconnect()
}

#[test]
fn what_is_set_for_a_pool_holds_for_its_volumes_and_labels_move_disks_into_it() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::default())?;
    let disks = cluster.json(["disk", "list"])?;
    let disks = disks.as_array().context("a list of disks")?.iter();
    let disks: Vec<String> = disks
        .map(|disk| disk["id"].as_str().unwrap_or_default().to_owned())
        .collect();
    ensure!(disks.len() == 3, "{disks:?}");
    let label = |disk: &str, labels: &[&str]| -> Result<()> {
        let arguments = ["disk", "label", disk]
            .into_iter()
            .chain(labels.iter().copied());
        cluster.ashlar(arguments).check()?;
        Ok(())
    };
    label(&disks[0], &["media=nvme", "bay=1"])?;
    label(&disks[1], &["media=hdd"])?;
    create_in(&cluster, "fast", "1", "media=nvme,bay=1")?;
    create_in(&cluster, "slow", "1", "media=hdd")?;
    limits_of_pools(&cluster)?;

    let two = [
        "volume",
        "create",
        "two",
        "--size",
        "64MiB",
        "--replicas",
        "2",
    ];
    let pool = ["--pool", "media=nvme"];
    refused(&cluster, &[&two[..], &pool[..]].concat(), "rules allow")?;
    label(&disks[2], &["media=nvme"])?;
    let nvme = cluster.json(["disk", "list", "--label", "media=nvme"])?;
    ensure!(nvme.as_array().map(Vec::len) == Some(2), "{nvme}");
    create_in(&cluster, "two", "2", "media=nvme")?;
    let made = cluster.json(["volume", "show", "two"])?.to_string();
    let lies_on = |disk: &String| made.contains(disk.as_str());
    ensure!(
        lies_on(&disks[0]) && lies_on(&disks[2]) && !lies_on(&disks[1]),
        "{made}"
    );
    cluster.stop()
}
