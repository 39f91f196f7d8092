//! A store that joins gets its share of what is there: by itself, under load, and as was planned.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::ledger::Ledger;
use ashlar_e2e::nbd::NbdClient;
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Cluster, ClusterOptions};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(90);
const VOLUMES: usize = 8;
/// Blocks of each volume.
const BLOCKS: usize = 64 * 256;

/// Three stores whose disks are more than half full of the replicas of [`VOLUMES`] volumes, with
/// data. What they hold is what the ledgers know.
fn filled() -> Result<(Cluster, Vec<Ledger>)> {
    let cluster = Cluster::start(ClusterOptions {
        separate: true,
        disk_size: "1GiB".to_owned(),
        ..ClusterOptions::default()
    })?;
    let mut ledgers = Vec::new();
    for number in 0..VOLUMES {
        cluster.create_volume(&name(number), "64MiB", 3)?;
        let seed = 43 + u64::try_from(number)?;
        let mut ledger = Ledger::new(0, BLOCKS, seed);
        let mut client = NbdClient::connect(cluster.nbd_port(), &name(number))?;
        run(&mut ledger, &mut client, Duration::from_millis(500))?;
        client.disconnect()?;
        ledgers.push(ledger);
    }
    Ok((cluster, ledgers))
}

fn name(number: usize) -> String {
    format!("v{number}")
}

fn run(ledger: &mut Ledger, client: &mut NbdClient, time: Duration) -> Result<()> {
    let connected = ledger.run(client, 16, time)?;
    ensure!(connected, "the connection was lost");
    Ok(())
}

fn verify(cluster: &Cluster, ledgers: &mut [Ledger]) -> Result<()> {
    for (number, ledger) in ledgers.iter_mut().enumerate() {
        let mut client = NbdClient::connect(cluster.nbd_port(), &name(number))?;
        let verified = ledger.verify(&mut client);
        verified.with_context(|| name(number))?;
        client.disconnect()?;
    }
    Ok(())
}

fn count(value: &Value) -> Result<u64> {
    value.as_u64().with_context(|| format!("no count: {value}"))
}

/// The replicas in sync of every volume, as (volume, disk). No volume has fewer than it asks for.
fn in_sync(cluster: &Cluster) -> Result<BTreeSet<(String, String)>> {
    let mut all = BTreeSet::new();
    for number in 0..VOLUMES {
        let volume = cluster.json(["volume", "show", &name(number)])?;
        ensure!(volume["health"] == "healthy", "{volume}");
        let replicas = volume["shards"][0]["replicas"].as_array();
        let replicas = replicas.context("no replicas")?.iter();
        let disks: Vec<&str> = replicas
            .filter(|replica| replica["in_sync"] == true)
            .filter_map(|replica| replica["disk"].as_str())
            .collect();
        ensure!(disks.len() >= 3, "fewer copies than before: {volume}");
        all.extend(disks.iter().map(|disk| (name(number), (*disk).to_owned())));
    }
    Ok(all)
}

/// What has moved.
#[derive(Debug, Default, PartialEq, Eq)]
struct Moved {
    volumes: BTreeSet<String>,
    /// Replicas that each disk has lost.
    from: BTreeMap<String, usize>,
}

impl Moved {
    fn between(before: &BTreeSet<(String, String)>, after: &BTreeSet<(String, String)>) -> Self {
        let mut moved = Self::default();
        for (volume, disk) in before.difference(after) {
            moved.volumes.insert(volume.clone());
            *moved.from.entry(disk.clone()).or_default() += 1;
        }
        moved
    }
}

/// Replicas that the store of that name holds.
fn held_by(cluster: &Cluster, store: &str) -> Result<u64> {
    let nodes = cluster.json(["node", "list"])?;
    let mut nodes = nodes.as_array().context("no list of nodes")?.iter();
    let node = nodes.find(|node| node["name"] == store);
    count(&node.context("no such node")?["replicas"])
}

/// Watches until nothing moves any more and disks are even.
fn watch_until_even(cluster: &Cluster) -> Result<()> {
    let start = Instant::now();
    loop {
        in_sync(cluster)?;
        let status = cluster.json(["rebalance", "status"])?;
        if status["state"] == "idle" && count(&status["spread_permille"])? <= 30 {
            eprintln!("even after {:?}: {status}", start.elapsed());
            return Ok(());
        }
        ensure!(start.elapsed() < LIMIT, "still uneven: {status}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Of eight volumes two are written to and read all the time, the others are used by nobody.
#[test]
fn a_store_that_joins_under_load_gets_its_share() -> Result<()> {
    let (mut cluster, mut ledgers) = filled()?;
    let done = AtomicBool::new(false);
    let port = cluster.nbd_port();
    let (used, _) = ledgers.split_at_mut(2);
    std::thread::scope(|scope| -> Result<()> {
        let mut users = Vec::new();
        for (number, ledger) in used.iter_mut().enumerate() {
            let done = &done;
            users.push(scope.spawn(move || -> Result<()> {
                let mut client = NbdClient::connect(port, &name(number))?;
                while !done.load(Ordering::SeqCst) {
                    run(ledger, &mut client, Duration::from_millis(500))?;
                }
                eprintln!("{}: {}", name(number), ledger.delays);
                client.disconnect()
            }));
        }
        let moved = cluster.add_store().and_then(|joined| {
            watch_until_even(&cluster)?;
            let held = held_by(&cluster, &joined)?;
            ensure!((5..=7).contains(&held), "{joined} holds {held} of 24");
            Ok(())
        });
        done.store(true, Ordering::SeqCst);
        for user in users {
            user.join().expect("a user does not panic")?;
        }
        moved
    })?;
    let status = cluster.ashlar(["status"]).check()?;
    ensure!(status.contains("rebalance  idle"), "{status}");
    verify(&cluster, &mut ledgers)
}

/// No node can give anything away to another, for each has a replica of every volume.
#[test]
fn disks_that_are_added_to_every_node_get_their_share() -> Result<()> {
    let (mut cluster, mut ledgers) = filled()?;
    let before = in_sync(&cluster)?;
    let port = cluster.nbd_port();
    let done = AtomicBool::new(false);
    let (used, _) = ledgers.split_at_mut(1);
    std::thread::scope(|scope| -> Result<()> {
        let user = scope.spawn(|| -> Result<()> {
            let mut client = NbdClient::connect(port, &name(0))?;
            while !done.load(Ordering::SeqCst) {
                run(&mut used[0], &mut client, Duration::from_millis(500))?;
            }
            eprintln!("{}: {}", name(0), used[0].delays);
            client.disconnect()
        });
        let moved = cluster
            .add_disks()
            .and_then(|()| watch_until_even(&cluster));
        done.store(true, Ordering::SeqCst);
        user.join().expect("a user does not panic")?;
        moved
    })?;
    let after = in_sync(&cluster)?;
    let moved = after.difference(&before).count();
    ensure!((9..=15).contains(&moved), "{moved} of 24 have moved");
    verify(&cluster, &mut ledgers)
}

#[test]
fn paused_nothing_begins_and_what_was_planned_is_what_happens() -> Result<()> {
    let (mut cluster, mut ledgers) = filled()?;
    cluster.ashlar(["rebalance", "pause"]).check()?;
    let joined = cluster.add_store()?;
    let before = in_sync(&cluster)?;
    // Front ends let go of their volumes, and stores tell what was written last.
    std::thread::sleep(Duration::from_secs(3));
    let plan = cluster.json(["rebalance", "--dry-run"])?;
    ensure!(held_by(&cluster, &joined)? == 0, "moved while paused");
    let moves = plan["moves"].as_array().context("no moves")?;
    ensure!((5..=7).contains(&moves.len()), "{plan}");
    // Of disks that are as full as each other, another may be the first to give.
    let mut expected = Moved::default();
    for planned in moves {
        ensure!(planned["to"]["node_name"] == joined.as_str(), "{planned}");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        expected.volumes.insert(text(&planned["volume_name"]));
        let from = text(&planned["from"]["disk"]);
        *expected.from.entry(from).or_default() += 1;
    }
    let bytes = u64::try_from(moves.len())? << 26;
    ensure!(count(&plan["bytes"])? == bytes, "{plan}");
    for disk in plan["disks"].as_array().context("no disks")? {
        eprintln!(
            "{} → {}",
            disk["fill_permille"], disk["fill_permille_after"]
        );
    }
    let text = cluster.ashlar(["rebalance", "--dry-run"]).check()?;
    ensure!(text.contains(&format!("moves: {}", moves.len())), "{text}");

    // A pause between lets those end that have begun.
    cluster.ashlar(["rebalance", "resume"]).check()?;
    wait_for("a move", LIMIT, || {
        let status = cluster.json(["status"])?;
        ensure!(status["rebalance"]["moving"] != 0, "{status}");
        Ok(())
    })?;
    let paused = cluster.json(["rebalance", "pause"])?;
    ensure!(paused["state"] == "paused", "{paused}");
    let begun = count(&paused["moving"])?;
    ensure!(begun > 0, "{paused}");
    wait_for("the moves that have begun", LIMIT, || {
        let status = cluster.json(["rebalance"])?;
        ensure!(status["moving"] == 0, "{status}");
        Ok(())
    })?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(held_by(&cluster, &joined)? == begun, "moves began");
    cluster.ashlar(["rebalance", "resume"]).check()?;
    watch_until_even(&cluster)?;
    let after = in_sync(&cluster)?;
    let moved = Moved::between(&before, &after);
    ensure!(moved == expected, "{moved:?}, not as planned: {expected:?}");
    ensure!(held_by(&cluster, &joined)? == u64::try_from(moves.len())?);
    verify(&cluster, &mut ledgers)
}
