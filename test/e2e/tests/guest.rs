//! A Linux kernel attaches volumes through its own NBD driver and keeps file systems on them.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::inspect::{Block, Replicas};
use ashlar_e2e::ledger::BLOCK;
use ashlar_e2e::{Cluster, ClusterOptions, Guest, Tool, image};
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// The guest boots in about 4 s and needs about 15 s; machines under load take longer.
const GUEST_LIMIT: Duration = Duration::from_secs(240);

#[test]
fn a_kernel_keeps_ext4_and_xfs_on_volumes() -> Result<()> {
    let cluster = Cluster::up()?;
    cluster.create_volume("ext", "1GiB", 3)?;
    cluster.create_volume("x", "1GiB", 3)?;

    let console = boot(
        &cluster,
        "ashlar.exports=ext:ext4:1,x:xfs:4,ext:xfs:2,x:ext4:2",
    )?;
    let steps = console
        .lines()
        .filter(|line| line.contains("GUEST ok"))
        .count();
    ensure!(steps == 1 + 4 * 5, "{steps} steps:\n{console}");

    // What the guest left is good for the host's tools, too.
    let copy = cluster.path().join("x.image");
    Tool::new("nbdcopy")
        .arg(cluster.uri("x"))
        .arg(&copy)
        .check()?;
    image::check_ext4(&copy)
}

/// What a file system gives back, every replica gives back.
#[test]
fn fstrim_frees_the_same_on_all_replicas() -> Result<()> {
    let mut cluster = Cluster::up()?;
    cluster.create_volume("ext", "1GiB", 3)?;
    let replicas = Replicas::of(&cluster, "ext")?;
    boot(&cluster, "ashlar.fill=ext")?;
    let before = mapped(&mut cluster, &replicas)?;
    let console = boot(&cluster, "ashlar.trim=ext")?;
    let after = mapped(&mut cluster, &replicas)?;
    let said = console.lines().find(|line| line.contains("/mnt:"));
    println!("mapped on each replica: {before:?}, then {after:?}; {said:?}");
    for (before, after) in before.iter().zip(&after) {
        // Files of 64 MiB stay; the file system's own blocks are a few more.
        ensure!(*before >= 192 * MIB, "{before} bytes for 192 MiB of files");
        ensure!(
            before - after >= 128 * MIB && *after >= 64 * MIB,
            "{before} bytes before 128 MiB of files were removed, {after} after"
        );
    }
    let is_same = |all: &[u64]| all.windows(2).all(|pair| pair[0] == pair[1]);
    ensure!(
        is_same(&before) && is_same(&after),
        "replicas differ: {before:?}, {after:?}"
    );
    Ok(())
}

/// Linux's own initiator: discovery, CHAP both ways, digests, a file system that grows while it is mounted.
#[test]
fn open_iscsi_keeps_a_file_system_on_a_volume() -> Result<()> {
    const TARGET: &str = "iqn.2026-01.test:guest";
    let mut cluster = Cluster::start(ClusterOptions {
        separate: true,
        ..ClusterOptions::default()
    })?;
    cluster.create_volume("v", "512MiB", 3)?;
    let secret = |name: &str, text: &str| -> Result<String> {
        let path = cluster.path().join(name);
        std::fs::write(&path, text)?;
        path.to_str().context("a path is text").map(str::to_owned)
    };
    let theirs = secret("theirs", "a-secret-of-guests")?;
    let ours = secret("ours", "a-secret-of-servers")?;
    let theirs = ["set", "--user", "guest", "--secret-file", theirs.as_str()];
    let ours = [
        "set",
        "--user",
        "server",
        "--mutual",
        "--secret-file",
        &ours,
    ];
    let chap = ["chap", TARGET].as_slice();
    for command in [
        &[&["create", TARGET][..]][..],
        &[&["map", TARGET, "v", "--lun", "0"]],
        &[&["acl", TARGET, "allow", "iqn.2026-11.io.ashlar:guest"]],
        &[chap, &theirs],
        &[chap, &ours],
        &[&["discovery-chap"], &theirs],
        &[&["discovery-chap"], &ours],
    ] {
        let words = ["target"].into_iter().chain(command.concat());
        cluster.ashlar(words).check()?;
    }
    cluster.start_service("iscsi")?;
    let port = cluster.iscsi_port();
    let api = cluster.api_port();
    let orders = format!(
        "ashlar.iscsi={port} ashlar.target={TARGET} ashlar.user=guest \
         ashlar.secret=a-secret-of-guests ashlar.own_user=server \
         ashlar.own_secret=a-secret-of-servers ashlar.resize=http://10.0.2.2:{api}/v1/volumes/v/resize"
    );
    let console = boot(&cluster, &orders)?;
    let steps = console.lines().filter(|line| line.contains("GUEST ok"));
    ensure!(steps.count() == 1 + 1 + 5, "{console}");
    cluster.stop()
}

/// Bytes of data that each replica has, by its own map; the cluster is stopped for it.
fn mapped(cluster: &mut Cluster, replicas: &Replicas) -> Result<Vec<u64>> {
    cluster.stop()?;
    let data = |block: &&Block| matches!(block, Block::Data { .. });
    let maps = replicas.maps()?;
    let blocks = maps.iter().map(|map| map.values().filter(data).count());
    let bytes = blocks.map(|blocks| (blocks * BLOCK) as u64).collect();
    cluster.restart()?;
    Ok(bytes)
}

/// Boots a guest with orders for its `init`; gives what it printed.
fn boot(cluster: &Cluster, orders: &str) -> Result<String> {
    let orders = format!("ashlar.port={} {orders}", cluster.nbd_port());
    let console = Guest::boot(cluster.path(), &orders)?.done(GUEST_LIMIT)?;
    println!("{console}");
    Ok(console)
}
