//! Stores and owners tell the conductor of each other: a store that only the conductor does not hear is
//! left its replicas, and what an owner that died left behind is repaired.

use anyhow::{Result, ensure};
use ashlar_e2e::ledger::{BLOCK, Content, pattern};
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Cluster, ClusterOptions};
use std::time::{Duration, Instant};

const BLOCKS: u64 = 16 << 10;
/// Blocks of one request.
const STEP: u64 = 64;
const LIMIT: Duration = Duration::from_secs(90);

fn write(client: &mut NbdClient, version: u64) -> Result<()> {
    for first in (0..BLOCKS).step_by(usize::try_from(STEP)?) {
        let data: Vec<u8> = (first..first + STEP)
            .flat_map(|block| pattern(block, Content::Version(version)))
            .collect();
        let length = u32::try_from(data.len())?;
        let error = client.call(Command::Write, first * BLOCK as u64, length, &data)?;
        ensure!(error == 0, "write at block {first}: error {error}");
    }
    let error = client.call(Command::Flush, 0, 0, &[])?;
    ensure!(error == 0, "flush: error {error}");
    Ok(())
}

/// The ids of all replicas, and of those that are in sync.
fn replicas(cluster: &Cluster) -> Result<(Vec<String>, usize)> {
    let volume = cluster.json(["volume", "show", "v"])?;
    let shards = volume["shards"].as_array().cloned().unwrap_or_default();
    let all: Vec<_> = shards
        .iter()
        .filter_map(|shard| shard["replicas"].as_array())
        .flatten()
        .collect();
    let in_sync = all.iter().filter(|r| r["in_sync"] == true).count();
    let ids = all.iter().map(|replica| replica["id"].to_string());
    Ok((ids.collect(), in_sync))
}

fn node(cluster: &Cluster, name: &str) -> Result<serde_json::Value> {
    let nodes = cluster.json(["node", "list"])?;
    let found = nodes
        .as_array()
        .into_iter()
        .flatten()
        .find(|n| n["name"] == name);
    found
        .cloned()
        .ok_or_else(|| anyhow::anyhow!("no node {name}"))
}

#[test]
fn the_word_of_stores_and_owners_counts() -> Result<()> {
    let impatient = |rebuild: &str| {
        let arguments = ["--rebuild-after", rebuild, "--owner-silence", "8s"];
        arguments.map(str::to_owned).to_vec()
    };
    let mut cluster = Cluster::start(ClusterOptions {
        stores: 4,
        isolated: true,
        separate: true,
        disk_size: "1GiB".to_owned(),
        conductor_arguments: impatient("4s"),
        ..ClusterOptions::default()
    })?;
    cluster.create_volume("v", &(BLOCKS * BLOCK as u64).to_string(), 3)?;
    let mut client = NbdClient::connect_to(&cluster.nbd_address(), "v")?;
    write(&mut client, 1)?;
    let (before, _) = replicas(&cluster)?;
    let volume = cluster.json(["volume", "show", "v"])?;
    let held = volume["shards"][0]["replicas"][1]["node"].clone();
    let nodes = cluster.json(["node", "list"])?;
    let held = nodes
        .as_array()
        .into_iter()
        .flatten()
        .find(|n| n["id"] == held);
    let held = held
        .and_then(|n| n["name"].as_str())
        .unwrap_or_default()
        .to_owned();

    // The conductor does not hear it, all others do: for much longer than a rebuild waits.
    cluster.network().part("conductor", &held)?;
    wait_for("the node to be down", LIMIT, || {
        let node = node(&cluster, &held)?;
        ensure!(node["state"] == "down", "{node}");
        Ok(())
    })?;
    let until = Instant::now() + Duration::from_secs(12);
    let mut version = 1;
    while Instant::now() < until {
        version += 1;
        write(&mut client, version)?;
        let node = node(&cluster, &held)?;
        ensure!(
            node["reached_by"].as_u64() > Some(0),
            "nobody reaches it: {node}"
        );
    }
    let (now, in_sync) = replicas(&cluster)?;
    ensure!(
        now == before && in_sync == 3,
        "replicas were made elsewhere: {now:?}, {before:?}"
    );
    cluster.network().heal()?;
    wait_for("the node to be up", LIMIT, || {
        let status = cluster.json(["status"])?;
        ensure!(status["health"] == "healthy", "{status}");
        Ok(())
    })?;

    // A store is away for a moment and its volume's owner dies: nobody attaches the volume again.
    cluster.service(&held).kill();
    version += 1;
    write(&mut client, version)?;
    wait_for("the replica to be out of the set", LIMIT, || {
        let (_, in_sync) = replicas(&cluster)?;
        ensure!(in_sync == 2, "{in_sync} are in sync");
        Ok(())
    })?;
    cluster.service("nbd").kill();
    drop(client);
    cluster.start_service(&held)?;
    let began = Instant::now();
    wait_for("the volume to be repaired", LIMIT, || {
        let (_, in_sync) = replicas(&cluster)?;
        ensure!(in_sync == 3, "{in_sync} are in sync");
        Ok(())
    })?;
    eprintln!("repaired {:?} after its owner died", began.elapsed());
    cluster.start_service("nbd")?;
    cluster.wait_ready()?;
    let mut client = NbdClient::connect_to(&cluster.nbd_address(), "v")?;
    for first in (0..BLOCKS).step_by(usize::try_from(STEP)?) {
        let data = client.read(first * BLOCK as u64, usize::try_from(STEP)? * BLOCK)?;
        let expected: Vec<u8> = (first..first + STEP)
            .flat_map(|block| pattern(block, Content::Version(version)))
            .collect();
        ensure!(data == expected, "wrong data at block {first}");
    }
    client.disconnect()
}
