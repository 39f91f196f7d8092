//! Ten stores with four disks each and two hundred volumes that nobody has attached: one store is lost
//! for good, and what it held is made anew on all the others.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::ledger::{BLOCK, Content, pattern};
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Cluster, ClusterOptions};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const STORES: usize = 10;
const DISKS: usize = 4;
const VOLUMES: u64 = 200;
/// Bytes of each volume, and blocks of it that are written.
const VOLUME_BYTES: u64 = 16 << 20;
const BLOCKS: u64 = 512;
/// Blocks of one request.
const STEP: u64 = 128;
/// Volumes that are made or looked at at once.
const AT_ONCE: usize = 8;
const LIMIT: Duration = Duration::from_secs(240);
/// What the busiest store may have to take, in times the mean.
const SPREAD_MAX: f64 = 1.6;

fn name(volume: u64) -> String {
    format!("v{volume}")
}

fn content(volume: u64, first: u64) -> Vec<u8> {
    let blocks = first..first + STEP;
    let of_block = |block| pattern(block, Content::Version(volume + 1));
    blocks.flat_map(of_block).collect()
}

/// Does something with every volume, some at a time.
fn for_each_volume(deed: impl Fn(u64) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            loop {
                let volume = next.fetch_add(1, Ordering::Relaxed);
                if volume >= VOLUMES {
                    return Ok(());
                }
                deed(volume).with_context(|| name(volume))?;
            }
        };
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().expect("no worker panics")?;
        }
        Ok(())
    })
}

fn fill(cluster: &Cluster, volume: u64) -> Result<()> {
    cluster.create_volume(&name(volume), &VOLUME_BYTES.to_string(), 3)?;
    let mut client = NbdClient::connect(cluster.nbd_port(), &name(volume))?;
    for first in (0..BLOCKS).step_by(usize::try_from(STEP)?) {
        let data = content(volume, first);
        let length = u32::try_from(data.len())?;
        let error = client.call(Command::Write, first * BLOCK as u64, length, &data)?;
        ensure!(error == 0, "write at block {first}: error {error}");
    }
    client.disconnect()
}

fn verify(cluster: &Cluster, volume: u64) -> Result<()> {
    let mut client = NbdClient::connect(cluster.nbd_port(), &name(volume))?;
    for first in (0..BLOCKS).step_by(usize::try_from(STEP)?) {
        let data = client.read(first * BLOCK as u64, usize::try_from(STEP)? * BLOCK)?;
        ensure!(
            data == content(volume, first),
            "wrong data at block {first}"
        );
    }
    client.disconnect()
}

/// Bytes in use on each store.
fn used(cluster: &Cluster) -> Result<BTreeMap<String, f64>> {
    let disks = cluster.json(["disk", "list"])?;
    let mut used = BTreeMap::new();
    for disk in disks.as_array().context("no list of disks")? {
        let node = disk["node_name"].as_str().context("no name")?;
        let bytes = disk["used_bytes"].as_f64().context("no count")?;
        *used.entry(node.to_owned()).or_default() += bytes;
    }
    Ok(used)
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

#[test]
fn what_a_lost_store_held_is_made_anew_on_all_others() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions {
        stores: STORES,
        disks: DISKS,
        separate: true,
        disk_size: "128MiB".to_owned(),
        conductor_arguments: vec!["--rebuild-after".to_owned(), "3s".to_owned()],
        ..ClusterOptions::default()
    })?;
    let began = Instant::now();
    for_each_volume(|volume| fill(&cluster, volume))?;
    eprintln!("{VOLUMES} volumes made and filled in {:?}", began.elapsed());
    // All detached, and told.
    std::thread::sleep(Duration::from_secs(3));
    let before = used(&cluster)?;
    let lost = "store-3";
    cluster.service(lost).kill();
    let began = Instant::now();
    wait_for("the loss to be noticed", LIMIT, || {
        let status = cluster.json(["status"])?;
        ensure!(count(&status["volumes_degraded"]) > 0, "{status}");
        Ok(())
    })?;
    let mut told = false;
    wait_for("all to be healthy", LIMIT, || {
        let status = cluster.json(["status"])?;
        told |= !status["healing"]["progress_percent"].is_null();
        ensure!(
            count(&status["volumes_degraded"]) == 0,
            "{}",
            status["healing"]
        );
        ensure!(count(&status["volumes_unavailable"]) == 0, "{status}");
        Ok(())
    })?;
    let took = began.elapsed();
    ensure!(told, "the progress was never told");
    std::thread::sleep(Duration::from_secs(3));
    let after = used(&cluster)?;
    let grown = |(node, bytes): (&String, &f64)| bytes - before.get(node).unwrap_or(&0.0);
    let others = after.iter().filter(|(node, _)| *node != lost);
    let taken: Vec<f64> = others.map(grown).collect();
    ensure!(taken.len() == STORES - 1, "{after:?}");
    let most = taken.iter().copied().fold(0.0, f64::max);
    #[expect(clippy::cast_precision_loss, reason = "nine stores")]
    let mean = taken.iter().sum::<f64>() / taken.len() as f64;
    let mib = f64::from(1 << 20);
    eprintln!(
        "healthy {took:?} after the loss; each store took {:.1} MiB, the busiest {:.1}: {:.2} times",
        mean / mib,
        most / mib,
        most / mean
    );
    ensure!(mean > mib, "nothing was made anew: {taken:?}");
    ensure!(most <= SPREAD_MAX * mean, "uneven: {taken:?}");
    for_each_volume(|volume| verify(&cluster, volume))
}
