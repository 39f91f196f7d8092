//! Clones as a user has them: made of a snapshot at once, written like any volume, read while stores and
//! front ends die, made independent, and in nobody's way when their origin is deleted.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::ledger::{BLOCK as BLOCK_BYTES, Content, Random, pattern};
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Cluster, ClusterOptions, Tool};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const BLOCK: u64 = BLOCK_BYTES as u64;
const LIMIT: Duration = Duration::from_secs(120);

/// What blocks hold, as far as the test has written them.
type Held = BTreeMap<u64, Content>;

fn write(client: &mut NbdClient, held: &mut Held, block: u64, version: u64) -> Result<()> {
    let content = Content::Version(version);
    let data = pattern(block, content);
    let length = u32::try_from(data.len())?;
    let error = client.call(Command::Write, block * BLOCK, length, &data)?;
    ensure!(error == 0, "write of block {block}: errno {error}");
    held.insert(block, content);
    Ok(())
}

fn trim(client: &mut NbdClient, held: &mut Held, block: u64) -> Result<()> {
    let length = u32::try_from(BLOCK)?;
    let error = client.call(Command::Trim, block * BLOCK, length, &[])?;
    ensure!(error == 0, "trim of block {block}: errno {error}");
    held.insert(block, Content::Zero);
    Ok(())
}

fn flush(client: &mut NbdClient) -> Result<()> {
    let error = client.call(Command::Flush, 0, 0, &[])?;
    ensure!(error == 0, "flush: errno {error}");
    Ok(())
}

fn check(client: &mut NbdClient, held: &Held, blocks: u64) -> Result<()> {
    for block in 0..blocks {
        let content = held.get(&block).copied().unwrap_or(Content::Zero);
        let data = client.read(block * BLOCK, BLOCK_BYTES)?;
        ensure!(
            data == pattern(block, content),
            "block {block} is not {content:?}"
        );
    }
    Ok(())
}

fn snapshot(cluster: &Cluster, name: &str) -> Result<()> {
    let snapshot = cluster.json(["snapshot", "create", name])?;
    ensure!(snapshot["state"] == "ready", "{snapshot}");
    Ok(())
}

fn compare(cluster: &Cluster, one: &str, other: &str) -> Result<()> {
    let uris = [cluster.uri(one), cluster.uri(other)];
    let compared = Tool::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw"]);
    compared
        .args([uris[0].as_str(), uris[1].as_str()])
        .check()?;
    Ok(())
}

#[test]
fn a_clone_begins_as_its_snapshot_and_goes_its_own_way() -> Result<()> {
    const BLOCKS: u64 = 600;
    let cluster = Cluster::up()?;
    cluster.create_volume("v", "64MiB", 3)?;
    let mut random = Random(5);
    let mut parent = Held::new();
    let mut writer = NbdClient::connect(cluster.nbd_port(), "v")?;
    for _ in 0..400 {
        write(&mut writer, &mut parent, random.below(BLOCKS), 1)?;
    }
    snapshot(&cluster, "v@s")?;
    let at_snapshot = parent.clone();
    let started = Instant::now();
    let made = cluster.json(["volume", "clone", "v@s", "c"])?;
    println!("a clone takes {:?}", started.elapsed());
    ensure!(made["origin"]["snapshot"] == "s", "{made}");
    compare(&cluster, "v@s", "c")?;
    // Nothing was copied: the clone maps what its origin does, and has nothing of its own.
    let map = |name: &str| -> Result<String> {
        let uri = cluster.uri(name);
        Tool::new("nbdinfo")
            .args(["--map", "--totals", &uri])
            .check()
    };
    ensure!(map("c")? == map("v@s")?, "{}\n{}", map("c")?, map("v@s")?);
    // Both are written at once, and parts of blocks, too.
    let mut client = NbdClient::connect(cluster.nbd_port(), "c")?;
    let mut clone = parent.clone();
    for _ in 0..200 {
        write(&mut writer, &mut parent, random.below(BLOCKS), 2)?;
        write(&mut client, &mut clone, random.below(BLOCKS), 3)?;
        trim(&mut client, &mut clone, random.below(BLOCKS))?;
    }
    check(&mut client, &clone, BLOCKS)?;
    check(&mut writer, &parent, BLOCKS)?;
    let whole = *at_snapshot
        .iter()
        .find(|(block, content)| clone.get(block) == Some(content))
        .context("some block is as it was")?
        .0;
    let mut expected = client.read(whole * BLOCK, BLOCK_BYTES)?;
    expected[1024..1536].fill(7);
    let error = client.call(Command::Write, whole * BLOCK + 1024, 512, &[7; 512])?;
    ensure!(error == 0, "write of a part of a block: errno {error}");
    let merged = client.read(whole * BLOCK, BLOCK_BYTES)?;
    ensure!(merged == expected, "the rest of the block is the origin's");
    write(&mut client, &mut clone, whole, 4)?;
    // Snapshots of clones, and clones of those.
    snapshot(&cluster, "c@t")?;
    cluster
        .ashlar(["volume", "clone", "c@t", "d", "--size", "96MiB"])
        .check()?;
    let mut second = NbdClient::connect(cluster.nbd_port(), "d")?;
    check(&mut second, &clone, BLOCKS)?;
    let beyond = second.read((96 << 20) - BLOCK, BLOCK_BYTES)?;
    ensure!(beyond.iter().all(|byte| *byte == 0), "beyond its origin");
    let mut grandchild = clone.clone();
    for _ in 0..50 {
        write(&mut second, &mut grandchild, random.below(BLOCKS), 5)?;
    }
    check(&mut client, &clone, BLOCKS)?;
    check(&mut second, &grandchild, BLOCKS)?;
    for client in [writer, client, second] {
        client.disconnect()?;
    }
    origins_stay(&cluster, &clone, &grandchild, BLOCKS)
}

fn origins_stay(cluster: &Cluster, clone: &Held, grandchild: &Held, blocks: u64) -> Result<()> {
    let refused = cluster.ashlar(["snapshot", "delete", "v@s"]).run()?;
    let said = refused.stderr.clone();
    ensure!(!refused.status.success() && said.contains("`c`"), "{said}");
    let refused = cluster.ashlar(["volume", "delete", "v", "--force"]).run()?;
    ensure!(!refused.status.success(), "it is deleted under its clone");
    cluster
        .ashlar(["snapshot", "delete", "v@s", "--when-unused"])
        .check()?;
    let list = |all: &[&'static str]| -> Result<usize> {
        let arguments = [&["snapshot", "list", "v"], all].concat();
        let list = cluster.json(arguments)?;
        Ok(list.as_array().context("no list")?.len())
    };
    ensure!(
        list(&[])? == 0 && list(&["--deleted"])? == 1,
        "out of sight"
    );
    let gone = NbdClient::connect(cluster.nbd_port(), "v@s");
    ensure!(gone.is_err(), "a deleted snapshot is served");
    let verify = |name: &str, held: &Held| -> Result<()> {
        let mut client = NbdClient::connect(cluster.nbd_port(), name)?;
        check(&mut client, held, blocks).with_context(|| name.to_owned())?;
        client.disconnect()
    };
    verify("c", clone)?;
    verify("d", grandchild)?;
    // The clone becomes independent of `v`; its snapshot `t` does not.
    cluster
        .ashlar(["volume", "flatten", "c"])
        .limit(LIMIT)
        .check()?;
    let flat = cluster.json(["volume", "show", "c"])?;
    ensure!(flat["origin"].is_null(), "{flat}");
    verify("c", clone)?;
    verify("d", grandchild)?;
    ensure!(list(&["--deleted"])? == 1, "`c@t` still shows it");
    cluster
        .ashlar(["volume", "flatten", "d"])
        .limit(LIMIT)
        .check()?;
    cluster
        .ashlar(["snapshot", "delete", "c@t", "--wait"])
        .check()?;
    wait_for("the origin to be let go of", LIMIT, || {
        let left = list(&["--deleted"])?;
        ensure!(left == 0, "{left} left");
        Ok(())
    })?;
    wait_for("v to be deleted", LIMIT, || {
        cluster.ashlar(["volume", "delete", "v"]).check().map(drop)
    })?;
    verify("c", clone)?;
    verify("d", grandchild)
}

/// While a clone is flattened its front end is killed, and a store: a store goes on with it, and nothing
/// of what was written meanwhile is copied over.
#[test]
fn a_flatten_outlives_who_does_it() -> Result<()> {
    const BLOCKS: u64 = 60 << 8;
    let mut cluster = Cluster::start(ClusterOptions {
        stores: 4,
        separate: true,
        disk_size: "1GiB".to_owned(),
        conductor_arguments: ["--rebuild-after", "5m", "--owner-silence", "8s"]
            .map(str::to_owned)
            .into(),
        ..ClusterOptions::default()
    })?;
    cluster.create_volume("v", "64MiB", 3)?;
    let mut held = Held::new();
    let mut writer = NbdClient::connect(cluster.nbd_port(), "v")?;
    for first in (0..BLOCKS).step_by(256) {
        let blocks = first..first + 256;
        let data: Vec<u8> = blocks
            .clone()
            .flat_map(|block| pattern(block, Content::Version(1)))
            .collect();
        let length = u32::try_from(data.len())?;
        let error = writer.call(Command::Write, first * BLOCK, length, &data)?;
        ensure!(error == 0, "write: errno {error}");
        held.extend(blocks.map(|block| (block, Content::Version(1))));
    }
    writer.disconnect()?;
    snapshot(&cluster, "v@s")?;
    cluster.ashlar(["volume", "clone", "v@s", "c"]).check()?;
    let mut client = NbdClient::connect(cluster.nbd_port(), "c")?;
    let mut random = Random(9);
    for _ in 0..100 {
        write(&mut client, &mut held, random.below(BLOCKS), 2)?;
        trim(&mut client, &mut held, random.below(BLOCKS))?;
    }
    flush(&mut client)?;
    cluster
        .ashlar(["volume", "flatten", "c", "--no-wait"])
        .check()?;
    for _ in 0..50 {
        write(&mut client, &mut held, random.below(BLOCKS), 3)?;
    }
    flush(&mut client)?;
    cluster.service("nbd").kill();
    drop(client);
    cluster.service("store-1").kill();
    wait_for("a store to finish it", LIMIT, || {
        let clone = cluster.json(["volume", "show", "c"])?;
        ensure!(clone["origin"].is_null(), "{}", clone["flattening"]);
        Ok(())
    })?;
    cluster.start_service("nbd")?;
    cluster
        .ashlar(["snapshot", "delete", "v@s", "--wait"])
        .check()?;
    cluster.ashlar(["volume", "delete", "v"]).check()?;
    wait_for("the clone", LIMIT, || {
        let mut client = NbdClient::connect(cluster.nbd_port(), "c")?;
        check(&mut client, &held, BLOCKS)?;
        client.disconnect()
    })
}
