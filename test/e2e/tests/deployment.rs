//! A process for each role, as in production; and the death of one store under load.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::ledger::{Delays, Ledger};
use ashlar_e2e::nbd::NbdClient;
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Cluster, ClusterOptions, Tool};
use std::fs;
use std::time::Duration;

const MIB: u64 = 1 << 20;

fn separate() -> Result<Cluster> {
    Cluster::start(ClusterOptions {
        separate: true,
        ..ClusterOptions::default()
    })
}

#[test]
fn roles_in_processes_of_their_own_serve_a_volume() -> Result<()> {
    let mut cluster = separate()?;
    cluster.create_volume("v", "64MiB", 3)?;
    let volume = cluster.json(["volume", "show", "v"])?;
    let replicas = volume["shards"][0]["replicas"]
        .as_array()
        .context("no replicas")?;
    let mut nodes: Vec<_> = replicas
        .iter()
        .map(|replica| replica["node"].to_string())
        .collect();
    nodes.sort();
    nodes.dedup();
    ensure!(
        nodes.len() == 3,
        "replicas are not on distinct nodes: {volume}"
    );

    let source = cluster.path().join("in");
    let mut bytes = Vec::new();
    for block in 0..64 * MIB / 4096 {
        let content = ashlar_e2e::ledger::Content::Version(1);
        bytes.extend(ashlar_e2e::ledger::pattern(block, content));
    }
    fs::write(&source, &bytes)?;
    Tool::new("nbdcopy")
        .arg("--flush")
        .arg(&source)
        .arg(cluster.uri("v"))
        .check()?;

    cluster.stop()?;
    cluster.restart()?;
    let copy = cluster.path().join("out");
    let uri = cluster.uri("v");
    Tool::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "raw", &uri])
        .arg(&copy)
        .check()?;
    ensure!(
        fs::read(&copy)? == bytes,
        "the bytes changed over a clean restart"
    );

    cluster.kill();
    cluster.restart()?;
    Tool::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "raw", &uri])
        .arg(&copy)
        .check()?;
    ensure!(
        fs::read(&copy)? == bytes,
        "the bytes changed over SIGKILL of every process"
    );
    Ok(())
}

#[test]
fn io_goes_on_when_a_store_dies() -> Result<()> {
    let mut cluster = separate()?;
    cluster.create_volume("v", "64MiB", 3)?;
    let mut ledger = Ledger::new(0, 64 * 256, 7);
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    ensure!(
        ledger.run(&mut client, 16, Duration::from_secs(1))?,
        "the connection was lost"
    );
    ensure!(
        cluster.json(["status"])?["health"] == "healthy",
        "not healthy to begin with"
    );

    // One dies in the middle of it; the connection stays, no request fails.
    let victim = cluster.service("store-1").pid();
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        ashlar_e2e::process::kill_group(victim);
    });
    let before = ledger.tally;
    ensure!(
        ledger.run(&mut client, 16, Duration::from_secs(4))?,
        "the connection was lost"
    );
    killer.join().expect("the killer does not panic");
    let writes = ledger.tally.writes - before.writes;
    ensure!(
        writes > 500,
        "only {writes} writes in 4 s around the death of a store"
    );

    let status = wait_for("degraded", Duration::from_secs(20), || {
        let status = cluster.json(["status"])?;
        ensure!(status["health"] == "degraded", "{status}");
        ensure!(status["volumes_degraded"] == 1, "{status}");
        Ok(status)
    })?;
    ensure!(status["volumes_unavailable"] == 0, "{status}");
    wait_for("the node to be down", Duration::from_secs(60), || {
        let status = cluster.json(["status"])?;
        ensure!(status["nodes_up"] == 2, "{status}");
        Ok(())
    })?;
    let text = cluster.ashlar(["status"]).check()?;
    ensure!(
        text.contains("degraded") && text.contains("2 of 3 up"),
        "{text}"
    );
    client.disconnect()?;

    // It comes back with old data: the volume must not read from it before it has caught up.
    cluster.start_service("store-1")?;
    cluster.wait_ready()?;
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    ledger.verify(&mut client)?;
    ensure!(
        ledger.run(&mut client, 16, Duration::from_secs(2))?,
        "the connection was lost"
    );
    wait_for("it to catch up", Duration::from_secs(60), || {
        let status = cluster.json(["status"])?;
        ensure!(status["health"] == "healthy", "{status}");
        Ok(())
    })?;
    ledger.verify(&mut client)?;
    // Now the others go, and it has everything.
    for (other, left) in [("store-0", 2), ("store-2", 1)] {
        cluster.service(other).kill();
        ensure!(
            ledger.run(&mut client, 16, Duration::from_secs(1))?,
            "the connection was lost"
        );
        wait_for_in_sync(&cluster, left)?;
    }
    ledger.verify(&mut client)?;
    client.disconnect()?;

    // And after SIGKILL of all, with the front end attaching anew.
    cluster.kill();
    cluster.restart()?;
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    ledger.verify(&mut client)?;
    Ok(())
}

/// Waits until so many replicas of the volume's first shard are in sync.
fn wait_for_in_sync(cluster: &Cluster, left: usize) -> Result<()> {
    wait_for("the set to change", Duration::from_secs(20), || {
        let volume = cluster.json(["volume", "show", "v"])?;
        let replicas = volume["shards"][0]["replicas"]
            .as_array()
            .context("no replicas")?;
        let in_sync = replicas
            .iter()
            .filter(|replica| replica["in_sync"] == true)
            .count();
        ensure!(in_sync == left, "{volume}");
        Ok(())
    })
}

#[test]
fn a_second_death_of_three_stops_writes_until_the_set_has_changed_or_for_good() -> Result<()> {
    let mut cluster = separate()?;
    cluster.create_volume("v", "64MiB", 3)?;
    let mut ledger = Ledger::new(0, 64 * 256, 11);
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    ensure!(
        ledger.run(&mut client, 8, Duration::from_secs(1))?,
        "the connection was lost"
    );
    // One after the other: each time the owner shrinks the set before the next one dies.
    for (store, left) in [("store-0", 2), ("store-1", 1)] {
        cluster.service(store).kill();
        ensure!(
            ledger.run(&mut client, 8, Duration::from_secs(2))?,
            "the connection was lost"
        );
        wait_for_in_sync(&cluster, left)?;
    }
    client.disconnect()?;
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    ledger.verify(&mut client)?;
    Ok(())
}

/// Nor does it feel a store that dies meanwhile. `ASHLAR_CONDUCTOR_AWAY_SECONDS` says how long the
/// conductor is away.
#[test]
fn io_goes_on_without_the_conductor() -> Result<()> {
    let away = std::env::var("ASHLAR_CONDUCTOR_AWAY_SECONDS").unwrap_or("8".to_owned());
    let away = Duration::from_secs(away.parse()?);
    let mut cluster = separate()?;
    cluster.create_volume("v", "64MiB", 3)?;
    let mut ledger = Ledger::new(0, 64 * 256, 13);
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    ensure!(
        ledger.run(&mut client, 16, Duration::from_secs(1))?,
        "the connection was lost"
    );
    cluster.service("conductor").kill();
    let before = ledger.tally.writes;
    for (half, dies) in [(away / 2, true), (away - away / 2, false)] {
        ledger.delays = Delays::default();
        ensure!(
            ledger.run(&mut client, 16, half)?,
            "the connection was lost"
        );
        eprintln!("without a conductor: {}", ledger.delays);
        if dies {
            cluster.service("store-2").kill();
        }
    }
    ensure!(
        ledger.tally.writes - before > 1000,
        "writes stalled: {:?}",
        ledger.tally
    );
    cluster.restart()?;
    ensure!(
        ledger.run(&mut client, 16, Duration::from_secs(1))?,
        "the connection was lost"
    );
    wait_for("all replicas", Duration::from_secs(30), || {
        let status = cluster.json(["status"])?;
        ensure!(status["health"] == "healthy", "{status}");
        Ok(())
    })?;
    client.disconnect()?;
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    ledger.verify(&mut client)?;
    Ok(())
}

#[test]
fn with_ack_all_a_death_is_survived_once_the_set_has_changed() -> Result<()> {
    let mut cluster = separate()?;
    cluster.json(["volume", "create", "v", "--size", "64MiB", "--ack", "all"])?;
    let mut client = wait_for("the volume", Duration::from_secs(20), || {
        NbdClient::connect(cluster.nbd_port(), "v")
    })?;
    let mut ledger = Ledger::new(0, 64 * 256, 17);
    ensure!(
        ledger.run(&mut client, 16, Duration::from_secs(1))?,
        "the connection was lost"
    );
    cluster.service("store-2").kill();
    let before = ledger.tally.writes;
    ensure!(
        ledger.run(&mut client, 16, Duration::from_secs(5))?,
        "the connection was lost"
    );
    ensure!(
        ledger.tally.writes - before > 500,
        "writes stalled: {:?}",
        ledger.tally
    );
    ensure!(
        cluster.json(["status"])?["health"] == "degraded",
        "not degraded"
    );
    client.disconnect()?;
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    ledger.verify(&mut client)?;
    Ok(())
}

#[test]
fn a_hung_store_stops_no_io() -> Result<()> {
    let mut cluster = separate()?;
    cluster.create_volume("v", "64MiB", 3)?;
    let mut ledger = Ledger::new(0, 64 * 256, 19);
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    ensure!(
        ledger.run(&mut client, 16, Duration::from_secs(1))?,
        "the connection was lost"
    );
    cluster.service("store-0").pause();
    // Reads that are under way at the hung store may wait until it is given up, writes and flushes
    // go on by majority; all in all much gets done.
    let before = ledger.tally;
    ensure!(
        ledger.run(&mut client, 16, Duration::from_secs(20))?,
        "the connection was lost"
    );
    let writes = ledger.tally.writes - before.writes;
    ensure!(
        writes > 1000,
        "only {writes} writes in 20 s beside a hung store"
    );
    wait_for("degraded", Duration::from_secs(30), || {
        let status = cluster.json(["status"])?;
        ensure!(status["health"] == "degraded", "{status}");
        Ok(())
    })?;
    cluster.service("store-0").resume();
    ensure!(
        ledger.run(&mut client, 16, Duration::from_secs(2))?,
        "the connection was lost"
    );
    client.disconnect()?;
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    ledger.verify(&mut client)?;
    Ok(())
}

#[test]
fn a_front_end_that_was_killed_takes_its_volumes_again() -> Result<()> {
    let mut cluster = separate()?;
    cluster.create_volume("v", "64MiB", 3)?;
    let mut ledger = Ledger::new(0, 64 * 256, 23);
    for round in 0..3 {
        let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
        ensure!(
            ledger.run(&mut client, 16, Duration::from_millis(700))?,
            "lost in round {round}"
        );
        // With a writer in the middle of its work.
        let victim = cluster.service("nbd").pid();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            ashlar_e2e::process::kill_group(victim);
        });
        ensure!(
            !ledger.run(&mut client, 16, Duration::from_secs(5))?,
            "the kill went unnoticed"
        );
        killer.join().expect("the killer does not panic");
        cluster.restart()?;
        let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
        ledger.verify(&mut client)?;
        client.disconnect()?;
    }
    let status = cluster.json(["status"])?;
    ensure!(status["health"] == "healthy", "{status}");
    Ok(())
}
