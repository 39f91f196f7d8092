//! Snapshots as a user has them: made at any moment, read while the volume is written, kept through the
//! loss of stores, gone back to, deleted.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::ledger::{BLOCK as BLOCK_BYTES, Content, Ledger, Random, pattern};
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Cluster, ClusterOptions, Tool};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const BLOCK: u64 = BLOCK_BYTES as u64;
const LIMIT: Duration = Duration::from_secs(120);
/// What a server answers to who writes what can only be read.
const EPERM: u32 = 1;

/// What blocks hold, as far as the test has written them.
type Held = BTreeMap<u64, u64>;

fn write(client: &mut NbdClient, held: &mut Held, block: u64, version: u64) -> Result<()> {
    let data = pattern(block, Content::Version(version));
    let length = u32::try_from(data.len())?;
    let error = client.call(Command::Write, block * BLOCK, length, &data)?;
    ensure!(error == 0, "write of block {block}: errno {error}");
    held.insert(block, version);
    Ok(())
}

fn check(client: &mut NbdClient, held: &Held, blocks: u64) -> Result<()> {
    for block in 0..blocks {
        let content = held
            .get(&block)
            .map_or(Content::Zero, |v| Content::Version(*v));
        let data = client.read(block * BLOCK, BLOCK_BYTES)?;
        ensure!(
            data == pattern(block, content),
            "block {block} is not {content:?}"
        );
    }
    Ok(())
}

fn snapshot(cluster: &Cluster, name: &str) -> Result<Value> {
    let snapshot = cluster.json(["snapshot", "create", name])?;
    ensure!(snapshot["state"] == "ready", "{snapshot}");
    Ok(snapshot)
}

#[test]
fn a_snapshot_is_read_while_its_volume_is_written() -> Result<()> {
    const BLOCKS: u64 = 512;
    let cluster = Cluster::up()?;
    cluster.create_volume("v", "64MiB", 3)?;
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    let mut random = Random(3);
    let mut held = Held::new();
    let mut known: Vec<(String, Held)> = Vec::new();
    for round in 1..=5 {
        for _ in 0..100 {
            write(&mut client, &mut held, random.below(BLOCKS), round)?;
        }
        let name = format!("v@s{round}");
        snapshot(&cluster, &name)?;
        known.push((name, held.clone()));
    }
    for block in 0..BLOCKS {
        write(&mut client, &mut held, block, 77)?;
    }
    for (name, held) in &known {
        let mut reader = NbdClient::connect(cluster.nbd_port(), name)?;
        check(&mut reader, held, BLOCKS)?;
        let block = vec![0; BLOCK_BYTES];
        let refused = reader.call(Command::Write, 0, u32::try_from(BLOCK)?, &block)?;
        ensure!(refused == EPERM, "a snapshot takes a write: {refused}");
        reader.disconnect()?;
    }
    // With stock tools, and as a file.
    let (copied, exported) = (
        cluster.path().join("copy"),
        cluster.path().join("export.qcow2"),
    );
    let uri = cluster.uri("v@s3");
    let info = Tool::new("nbdinfo").args(["--json", &uri]).check()?;
    let info: Value = serde_json::from_str(&info)?;
    ensure!(info["exports"][0]["is_read_only"] == true, "{info}");
    Tool::new("nbdcopy").arg(&uri).arg(&copied).check()?;
    let target = exported.display().to_string();
    cluster
        .ashlar(["volume", "export", "v@s3", &target])
        .check()?;
    let compared = Tool::new("qemu-img").args(["compare", "-f", "raw", "-F", "qcow2"]);
    compared.arg(&copied).arg(&exported).check()?;
    let listed = Tool::new("nbdinfo").args(["--list", "--json"]);
    let listed = listed
        .arg(format!("nbd://{}", cluster.nbd_address()))
        .check()?;
    ensure!(listed.contains("v@s5"), "{listed}");

    differences(&cluster, &known)?;
    deletes_and_rollbacks(&cluster, client, &known, &held, BLOCKS)
}

fn differences(cluster: &Cluster, known: &[(String, Held)]) -> Result<()> {
    let (older, newer) = (&known[1], &known[3]);
    let ranges = cluster.json(["snapshot", "diff", &older.0, &newer.0])?;
    let mut changed = Vec::new();
    for range in ranges.as_array().context("no list")? {
        let number = |field: &str| range[field].as_u64().context("no number");
        let first = number("offset_bytes")? / BLOCK;
        changed.extend(first..first + number("length_bytes")? / BLOCK);
    }
    let expected: Vec<u64> = newer
        .1
        .iter()
        .filter(|(block, version)| older.1.get(block) != Some(version))
        .map(|(block, _)| *block)
        .collect();
    ensure!(
        changed == expected,
        "told as changed: {changed:?}, were: {expected:?}"
    );
    let wrong = cluster
        .ashlar(["snapshot", "diff", &newer.0, &older.0])
        .run()?;
    ensure!(!wrong.status.success(), "the newer one is told as older");
    // Every block was written again since: the newest shows what it alone holds, and shares the rest.
    let newest = known.last().context("there are some")?;
    let shown = cluster.json(["snapshot", "show", &newest.0])?;
    ensure!(
        shown["shown_bytes"] == newest.1.len() as u64 * BLOCK,
        "{shown}"
    );
    let own = newest.1.values().filter(|version| **version == 5).count();
    ensure!(shown["exclusive_bytes"] == own as u64 * BLOCK, "{shown}");
    Ok(())
}

fn deletes_and_rollbacks(
    cluster: &Cluster,
    client: NbdClient,
    known: &[(String, Held)],
    held: &Held,
    blocks: u64,
) -> Result<()> {
    cluster
        .ashlar(["snapshot", "delete", "v@s2", "--wait"])
        .check()?;
    let gone = NbdClient::connect(cluster.nbd_port(), "v@s2");
    ensure!(gone.is_err(), "a deleted snapshot is served");
    for (name, held) in known.iter().filter(|(name, _)| name != "v@s2") {
        let mut reader = NbdClient::connect(cluster.nbd_port(), name)?;
        check(&mut reader, held, blocks)?;
        reader.disconnect()?;
    }
    let refused = cluster.ashlar(["snapshot", "rollback", "v@s4"]).run()?;
    ensure!(!refused.status.success(), "newer ones are deleted unasked");
    let refused = cluster.ashlar(["snapshot", "rollback", "v@s5"]).run()?;
    ensure!(!refused.status.success(), "it is taken from who writes it");
    let mut client = client;
    check(&mut client, held, blocks)?;
    client.disconnect()?;
    cluster
        .ashlar(["snapshot", "rollback", "v@s4", "--delete-newer"])
        .limit(LIMIT)
        .check()?;
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    check(&mut client, &known[3].1, blocks)?;
    let mut held = known[3].1.clone();
    write(&mut client, &mut held, 5, 99)?;
    // By force, under a client.
    cluster
        .ashlar(["snapshot", "rollback", "v@s1", "--delete-newer", "--force"])
        .limit(LIMIT)
        .check()?;
    drop(client);
    // Who had it may take a moment to see that it is out.
    wait_for("the volume", LIMIT, || {
        let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
        check(&mut client, &known[0].1, blocks)?;
        client.disconnect()
    })?;
    let list = cluster.json(["snapshot", "list", "v"])?;
    let names: Vec<_> = list
        .as_array()
        .context("no list")?
        .iter()
        .map(|s| &s["name"])
        .collect();
    ensure!(names == ["s1"], "{list}");
    let refused = cluster.ashlar(["volume", "delete", "v"]).run()?;
    ensure!(
        !refused.status.success(),
        "a volume with a snapshot is deleted unasked"
    );
    cluster
        .ashlar(["snapshot", "delete", "v@s1", "--wait"])
        .limit(LIMIT)
        .check()?;
    cluster.ashlar(["volume", "delete", "v"]).check()?;
    Ok(())
}

/// What was made on another store in place of a lost replica has all snapshots, as has one that was
/// away while some were made and others deleted.
#[test]
fn snapshots_outlive_the_stores_that_they_were_made_on() -> Result<()> {
    const BLOCKS: u64 = 400;
    let mut cluster = Cluster::start(ClusterOptions {
        stores: 4,
        separate: true,
        disk_size: "1GiB".to_owned(),
        conductor_arguments: ["--rebuild-after", "2s"].map(str::to_owned).into(),
        ..ClusterOptions::default()
    })?;
    cluster.create_volume("v", "64MiB", 3)?;
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    let (mut held, mut known) = (Held::new(), Vec::new());
    let mut random = Random(11);
    let mut round = |cluster: &Cluster, client: &mut NbdClient, number: u64| -> Result<()> {
        for _ in 0..120 {
            write(client, &mut held, random.below(BLOCKS), number)?;
        }
        snapshot(cluster, &format!("v@s{number}"))?;
        known.push((format!("v@s{number}"), held.clone()));
        Ok(())
    };
    round(&cluster, &mut client, 1)?;
    round(&cluster, &mut client, 2)?;
    let holders = in_sync(&cluster)?;
    cluster.service(&holders[0]).kill();
    round(&cluster, &mut client, 3)?;
    cluster.ashlar(["snapshot", "delete", "v@s1"]).check()?;
    wait_for("the lost replica to be replaced", LIMIT, || {
        let now = in_sync(&cluster)?;
        ensure!(now.len() == 3 && !now.contains(&holders[0]), "{now:?}");
        Ok(())
    })?;
    round(&cluster, &mut client, 4)?;
    client.disconnect()?;
    let fresh = in_sync(&cluster)?;
    let fresh = fresh.iter().find(|name| !holders.contains(name));
    let fresh = fresh.context("one was made elsewhere")?.clone();
    for name in in_sync(&cluster)?.iter().filter(|name| **name != fresh) {
        cluster.service(name).kill();
    }
    for (name, held) in known.iter().skip(1) {
        let mut reader = NbdClient::connect(cluster.nbd_port(), name)?;
        check(&mut reader, held, BLOCKS).with_context(|| name.clone())?;
        reader.disconnect()?;
    }
    Ok(())
}

fn in_sync(cluster: &Cluster) -> Result<Vec<String>> {
    let volume = cluster.json(["volume", "show", "v"])?;
    let nodes = cluster.json(["node", "list"])?;
    let nodes = nodes.as_array().context("no nodes")?;
    let replicas = volume["shards"][0]["replicas"].as_array();
    let mut names = Vec::new();
    for replica in replicas.context("no replicas")? {
        let node = nodes.iter().find(|node| node["id"] == replica["node"]);
        let name = node.and_then(|node| node["name"].as_str());
        if replica["in_sync"] == true {
            names.push(name.context("no such node")?.to_owned());
        }
    }
    Ok(names)
}

/// Snapshots in a row: `ASHLAR_SNAPSHOTS=1000` for the longer run.
fn snapshots_wanted() -> u64 {
    let wanted = std::env::var("ASHLAR_SNAPSHOTS");
    wanted
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(200)
}

#[test]
fn many_snapshots_of_one_volume_stay_apart() -> Result<()> {
    let total = snapshots_wanted();
    const BLOCKS: u64 = 256;
    let cluster = Cluster::up()?;
    cluster.create_volume("v", "64MiB", 3)?;
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    let mut held = Held::new();
    let mut known = Vec::new();
    let started = Instant::now();
    for number in 1..=total {
        // Each differs from the one before in one block.
        write(&mut client, &mut held, number % BLOCKS, number)?;
        snapshot(&cluster, &format!("v@s{number}"))?;
        if number % 31 == 0 {
            known.push((number, held.clone()));
        }
    }
    let mean = started.elapsed() / u32::try_from(total)?;
    println!("{total} snapshots in a row: {mean:?} each, the command's start included");
    check(&mut client, &held, BLOCKS)?;
    for (number, held) in &known {
        let mut reader = NbdClient::connect(cluster.nbd_port(), &format!("v@s{number}"))?;
        check(&mut reader, held, BLOCKS).with_context(|| format!("snapshot {number}"))?;
        reader.disconnect()?;
    }
    // A good part of them goes again, from the middle.
    for number in (1..=total)
        .filter(|number| number % 31 != 0)
        .take(usize::try_from(total / 3)?)
    {
        cluster
            .ashlar(["snapshot", "delete", &format!("v@s{number}")])
            .check()?;
    }
    for (number, held) in &known {
        let mut reader = NbdClient::connect(cluster.nbd_port(), &format!("v@s{number}"))?;
        check(&mut reader, held, BLOCKS).with_context(|| format!("snapshot {number}"))?;
        reader.disconnect()?;
    }
    check(&mut client, &held, BLOCKS)?;
    client.disconnect()
}

/// Whoever copies snapshots by what has changed needs no more than that, however busy the volume is.
#[test]
fn a_copy_follows_its_volume_from_snapshot_to_snapshot() -> Result<()> {
    let cluster = Cluster::up()?;
    cluster.create_volume("v", "64MiB", 2)?;
    let mut ledger = Ledger::new(0, 64 * 256, 17);
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    let copy = cluster.path().join("copy");
    let mut older: Option<String> = None;
    for round in 0..4 {
        let name = format!("v@s{round}");
        // The snapshot is made while writes go on.
        let made = std::thread::scope(|scope| {
            let making = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(700));
                snapshot(&cluster, &name)
            });
            ledger.run(&mut client, 16, Duration::from_millis(1500))?;
            making.join().expect("it does not panic")
        });
        made?;
        match &older {
            None => {
                let copied = Tool::new("nbdcopy").arg(cluster.uri(&name)).arg(&copy);
                copied.check()?;
            }
            Some(older) => follow(&cluster, older, &name, &copy)?,
        }
        let whole = cluster.path().join(format!("whole-{round}"));
        Tool::new("nbdcopy")
            .arg(cluster.uri(&name))
            .arg(&whole)
            .check()?;
        Tool::new("cmp")
            .arg(&copy)
            .arg(&whole)
            .check()
            .with_context(|| name.clone())?;
        older = Some(name);
    }
    ledger.verify(&mut client)?;
    client.disconnect()
}

fn follow(cluster: &Cluster, older: &str, newer: &str, copy: &PathBuf) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(copy)?;
    let mut reader = NbdClient::connect(cluster.nbd_port(), newer)?;
    let ranges = cluster.json(["snapshot", "diff", older, newer])?;
    let ranges = ranges.as_array().context("no list")?.clone();
    for range in &ranges {
        let number = |field: &str| range[field].as_u64().context("no number");
        let (mut at, end) = (number("offset_bytes")?, number("length_bytes")?);
        let end = at + end;
        while at < end {
            let length = (end - at).min(1 << 20);
            let data = reader.read(at, usize::try_from(length)?)?;
            file.write_all_at(&data, at)?;
            at += length;
        }
    }
    reader.disconnect()
}
