//! What the loss of a store costs: the longest pause, and that all heals by itself.
//!
//! The pauses are printed; the limits here are what a loaded machine still keeps.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::ledger::{Delays, Ledger};
use ashlar_e2e::nbd::NbdClient;
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Cluster, ClusterOptions};
use serde_json::Value;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

fn cluster(stores: usize) -> Result<Cluster> {
    Cluster::start(ClusterOptions {
        stores,
        separate: true,
        disk_size: "1GiB".to_owned(),
        conductor_arguments: ["--rebuild-after", "2s"].map(str::to_owned).into(),
        ..ClusterOptions::default()
    })
}

fn run(ledger: &mut Ledger, client: &mut NbdClient, seconds: u64) -> Result<()> {
    let connected = ledger.run(client, 16, Duration::from_secs(seconds))?;
    ensure!(connected, "the connection was lost");
    Ok(())
}

/// Waits until every replica of every volume is in sync.
fn wait_until_healthy(cluster: &Cluster) -> Result<Value> {
    wait_for("all to heal", LIMIT, || {
        let status = cluster.json(["status"])?;
        ensure!(status["health"] == "healthy", "{status}");
        Ok(status)
    })
}

/// The nodes of a volume's replicas that are in sync, by name.
fn in_sync(cluster: &Cluster, volume: &str) -> Result<Vec<String>> {
    let volume = cluster.json(["volume", "show", volume])?;
    let nodes = cluster.json(["node", "list"])?;
    let nodes = nodes.as_array().context("no list of nodes")?;
    let replicas = volume["shards"][0]["replicas"].as_array();
    let in_sync = replicas
        .context("no replicas")?
        .iter()
        .filter(|replica| replica["in_sync"] == true);
    let mut names = Vec::new();
    for replica in in_sync {
        let node = nodes.iter().find(|node| node["id"] == replica["node"]);
        let name = node.and_then(|node| node["name"].as_str());
        names.push(name.context("no such node")?.to_owned());
    }
    names.sort();
    Ok(names)
}

#[test]
fn a_store_that_is_killed_or_hangs_is_hardly_felt() -> Result<()> {
    for (replicas, ack, limit) in [
        (3, "majority", Duration::from_secs(1)),
        (2, "majority", Duration::from_secs(5)),
        (3, "all", Duration::from_secs(5)),
    ] {
        let mut cluster = cluster(replicas)?;
        let count = replicas.to_string();
        cluster.json([
            "volume",
            "create",
            "v",
            "--size",
            "64MiB",
            "--replicas",
            &count,
            "--ack",
            ack,
        ])?;
        let mut client = wait_for("the volume", LIMIT, || {
            NbdClient::connect(cluster.nbd_port(), "v")
        })?;
        let mut ledger = Ledger::new(0, 64 * 256, 29);
        run(&mut ledger, &mut client, 2)?;
        let before = std::mem::take(&mut ledger.delays);
        eprintln!("R={replicas} {ack}: before: {before}");
        for signal in ["SIGKILL", "SIGSTOP"] {
            let victim = cluster.service("store-1").pid();
            let pauses = signal == "SIGSTOP";
            let hand = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_secs(1));
                if pauses {
                    ashlar_e2e::process::pause_group(victim);
                } else {
                    ashlar_e2e::process::kill_group(victim);
                }
            });
            run(&mut ledger, &mut client, 6)?;
            hand.join().expect("the hand does not panic");
            let delays: Delays = std::mem::take(&mut ledger.delays);
            eprintln!("R={replicas} {ack}: {signal}: {delays}");
            ensure!(delays.longest < limit, "{signal}: {delays}");
            if pauses {
                cluster.service("store-1").resume();
            } else {
                cluster.start_service("store-1")?;
            }
            wait_until_healthy(&cluster)?;
            ledger.delays = Delays::default();
        }
        ledger.verify(&mut client)?;
        client.disconnect()?;
    }
    Ok(())
}

/// One volume is in use, another is not: both get their replicas back, elsewhere.
#[test]
fn a_store_that_is_lost_for_good_is_replaced() -> Result<()> {
    let mut cluster = cluster(4)?;
    cluster.create_volume("used", "64MiB", 3)?;
    cluster.create_volume("idle", "64MiB", 3)?;
    let mut idle = Ledger::new(0, 64 * 256, 31);
    let mut client = NbdClient::connect(cluster.nbd_port(), "idle")?;
    run(&mut idle, &mut client, 1)?;
    client.disconnect()?;
    let mut used = Ledger::new(0, 64 * 256, 37);
    let mut client = NbdClient::connect(cluster.nbd_port(), "used")?;
    run(&mut used, &mut client, 1)?;
    let holders = in_sync(&cluster, "used")?;
    let victim = &holders[0];
    cluster.service(victim).kill();
    for _ in 0..30 {
        run(&mut used, &mut client, 1)?;
        let status = cluster.json(["status"])?;
        let is_amiss = status["health"] != "healthy";
        if !is_amiss && !in_sync(&cluster, "used")?.contains(victim) {
            break;
        }
    }
    let status = wait_until_healthy(&cluster)?;
    ensure!(status["nodes_up"] == 3, "{status}");
    for volume in ["used", "idle"] {
        let now = in_sync(&cluster, volume)?;
        ensure!(now.len() == 3 && !now.contains(victim), "{volume}: {now:?}");
    }
    used.verify(&mut client)?;
    // What was made anew is good: the owner goes on with it when another one is lost.
    let other = in_sync(&cluster, "used")?;
    let other = other.iter().find(|name| holders.contains(name));
    cluster
        .service(other.context("one of the first stays")?)
        .kill();
    run(&mut used, &mut client, 4)?;
    used.verify(&mut client)?;
    client.disconnect()?;
    let mut client = NbdClient::connect(cluster.nbd_port(), "idle")?;
    idle.verify(&mut client)?;
    Ok(())
}

#[test]
fn a_node_is_drained_under_load_and_removed() -> Result<()> {
    let mut cluster = cluster(4)?;
    cluster.create_volume("v", "64MiB", 3)?;
    let mut ledger = Ledger::new(0, 64 * 256, 41);
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    run(&mut ledger, &mut client, 1)?;
    let victim = in_sync(&cluster, "v")?[0].clone();
    let refused = cluster.ashlar(["node", "remove", &victim]).run()?;
    ensure!(
        !refused.status.success(),
        "removed although it holds replicas"
    );
    cluster.ashlar(["node", "drain", &victim]).check()?;
    let mut drained = false;
    for _ in 0..60 {
        run(&mut ledger, &mut client, 1)?;
        let now = in_sync(&cluster, "v")?;
        ensure!(now.len() >= 3, "fewer copies than before: {now:?}");
        drained = !now.contains(&victim);
        if drained {
            break;
        }
    }
    ensure!(drained, "{victim} still holds a replica");
    cluster.service(&victim).kill();
    run(&mut ledger, &mut client, 2)?;
    wait_for("the node to go", LIMIT, || {
        cluster.ashlar(["node", "remove", &victim]).check()
    })?;
    let status = wait_until_healthy(&cluster)?;
    ensure!(status["nodes"] == 3, "{status}");
    ledger.verify(&mut client)?;
    client.disconnect()?;
    Ok(())
}
