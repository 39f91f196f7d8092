//! A volume gets larger under its clients, and smaller without them.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::ledger::Ledger;
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Cluster, ClusterOptions, Tool};
use std::thread;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The volume at first: a part of one shard.
const SMALL: u64 = 64 * MIB;
/// Three shards.
const LARGE: u64 = 9 * GIB;
/// A part of the second is cut off.
const MIDDLE: u64 = 6 * GIB;

fn told(cluster: &Cluster) -> Result<u64> {
    let uri = cluster.uri("data");
    let size = Tool::new("nbdinfo").args(["--size", &uri]).check()?;
    Ok(size.trim().parse()?)
}

fn qemu_io(cluster: &Cluster, commands: &[&str]) -> Result<String> {
    let mut tool = Tool::new("qemu-io").args(["-f", "raw"]);
    for command in commands {
        tool = tool.args(["-c", command]);
    }
    let text = tool.arg(cluster.uri("data")).check()?;
    ensure!(!text.contains("failed"), "{text}");
    Ok(text)
}

/// The first client goes on all the while, and can use what is new once it knows of it.
fn grow_under_load(cluster: &Cluster, ledger: &mut Ledger) -> Result<()> {
    let mut client = NbdClient::connect(cluster.nbd_port(), "data")?;
    thread::scope(|scope| {
        let load = scope.spawn(|| ledger.run(&mut client, 16, Duration::from_secs(5)));
        thread::sleep(Duration::from_secs(1));
        let size = LARGE.to_string();
        let grown = cluster.json(["volume", "resize", "data", &size])?;
        ensure!(grown["size_bytes"] == LARGE, "{grown}");
        ensure!(
            grown["shards"].as_array().context("shards")?.len() == 3,
            "{grown}"
        );
        wait_for("the new size", Duration::from_secs(20), || {
            let size = told(cluster)?;
            ensure!(size == LARGE, "{size}");
            Ok(())
        })?;
        let text = qemu_io(
            cluster,
            &[
                "read -P 0 64M 4M",
                "read -P 0 9215M 1M",
                "write -P 7 60M 8M",
                "write -P 8 4090M 12M",
                "write -P 9 9200M 16M",
                "read -P 8 4090M 12M",
                "flush",
            ],
        );
        let lost = load.join().expect("the load does not panic")?;
        ensure!(lost, "the first connection was lost");
        text.map(drop)
    })?;
    ensure!(client.size() == SMALL);
    let new = client.read(SMALL, 4096)?;
    ensure!(new == [7; 4096], "what is new is not served");
    let beyond = client.call(Command::Trim, LARGE, 4096, &[])?;
    ensure!(beyond != 0, "a request beyond the end is answered");
    client.disconnect()
}

fn is_refused(cluster: &Cluster, arguments: &[&str], why: &str) -> Result<()> {
    let all = ["volume", "resize", "data"];
    let refused = cluster.ashlar(all.iter().chain(arguments).copied()).run()?;
    ensure!(refused.code() != Some(0), "{arguments:?} is not refused");
    ensure!(refused.stderr.contains(why), "{}", refused.stderr);
    Ok(())
}

fn shrink(cluster: &Cluster) -> Result<()> {
    let size = MIDDLE.to_string();
    is_refused(cluster, &[&size], "--shrink")?;
    let client = NbdClient::connect(cluster.nbd_port(), "data")?;
    is_refused(cluster, &[&size, "--shrink"], "attached by")?;
    client.disconnect()?;
    is_refused(cluster, &[&size, "--shrink"], "--discard-data")?;
    cluster
        .ashlar(["snapshot", "create", "data@kept"])
        .check()?;
    is_refused(
        cluster,
        &[&size, "--shrink", "--discard-data"],
        "has a snapshot",
    )?;
    qemu_io(cluster, &["read -P 9 9200M 16M"])?;
    cluster
        .ashlar(["snapshot", "delete", "data@kept", "--wait"])
        .check()?;
    let cut = cluster.json([
        "volume",
        "resize",
        "data",
        &size,
        "--shrink",
        "--discard-data",
    ])?;
    ensure!(cut["size_bytes"] == MIDDLE, "{cut}");
    ensure!(told(cluster)? == MIDDLE);
    Ok(())
}

#[test]
fn a_volume_grows_under_its_clients_and_shrinks_without_them() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions {
        disk_size: "2GiB".to_owned(),
        ..ClusterOptions::default()
    })?;
    cluster.create_volume("data", "64MiB", 3)?;
    // Up to where the second client writes.
    let mut ledger = Ledger::new(0, 60 * 256, 41);
    grow_under_load(&cluster, &mut ledger)?;
    let check = |cluster: &Cluster, ledger: &mut Ledger| -> Result<()> {
        let mut client = NbdClient::connect(cluster.nbd_port(), "data")?;
        ledger.verify(&mut client)?;
        client.disconnect()
    };
    check(&cluster, &mut ledger)?;
    qemu_io(&cluster, &["write -P 6 6150M 2M", "read -P 9 9200M 16M"])?;
    shrink(&cluster)?;
    qemu_io(&cluster, &["read -P 7 60M 8M", "read -P 8 4090M 12M"])?;
    check(&cluster, &mut ledger)?;
    // What was cut off does not come back, neither in the shard that was kept nor beyond.
    let size = LARGE.to_string();
    let again = cluster.json(["volume", "resize", "data", &size])?;
    ensure!(again["size_bytes"] == LARGE, "{again}");
    // Who has had it attached until now may take a moment to hear of it.
    wait_for("the new size", Duration::from_secs(20), || {
        let size = told(&cluster)?;
        ensure!(size == LARGE, "{size}");
        Ok(())
    })?;
    qemu_io(
        &cluster,
        &[
            "read -P 8 4090M 12M",
            "read -P 0 6144M 16M",
            "read -P 0 9200M 16M",
        ],
    )?;
    check(&cluster, &mut ledger)
}
