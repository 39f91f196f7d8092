//! A store on several threads: its disks' lanes are spread over them, and none is lost in a crash
//! or a stop.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::ledger::Ledger;
use ashlar_e2e::nbd::NbdClient;
use ashlar_e2e::{Cluster, ClusterOptions, Tool};
use std::time::Duration;

const STORES: usize = 3;
/// Enough for every lane of a disk to hold some of them, by all likelihood.
const VOLUMES: usize = 6;

fn cluster(engine: &str, threads: &str) -> Result<Cluster> {
    Cluster::start(ClusterOptions {
        stores: STORES,
        separate: true,
        disks: 2,
        disk_size: "1GiB".to_owned(),
        disk_lanes: 2,
        engine: Some(engine.to_owned()),
        store_arguments: vec!["--threads".to_owned(), threads.to_owned()],
        ..ClusterOptions::default()
    })
}

/// How often the IO threads of each store but its first have waited, all together.
fn waits(cluster: &mut Cluster) -> Result<u64> {
    let mut waits = 0;
    for store in 0..STORES {
        let threads = cluster.service(&format!("store-{store}")).threads()?;
        let io: Vec<_> = threads
            .iter()
            .filter(|(name, _)| name.starts_with("ashlar-io-"))
            .collect();
        let names: Vec<&str> = io.iter().map(|(name, _)| name.as_str()).collect();
        ensure!(names == ["ashlar-io-1", "ashlar-io-2"], "{threads:?}");
        waits += io.iter().map(|(_, waits)| waits).sum::<u64>();
    }
    Ok(waits)
}

fn verify(cluster: &Cluster, ledgers: &mut [(String, Ledger)]) -> Result<()> {
    for (volume, ledger) in ledgers {
        let mut client = NbdClient::connect(cluster.nbd_port(), volume)?;
        ledger
            .verify(&mut client)
            .with_context(|| format!("volume {volume}"))?;
        client.disconnect()?;
    }
    Ok(())
}

fn volumes_survive(engine: &str) -> Result<()> {
    let mut cluster = cluster(engine, "3")?;
    let before = waits(&mut cluster)?;
    let mut ledgers = Vec::new();
    for number in 0..VOLUMES {
        let volume = format!("v{number}");
        cluster.create_volume(&volume, "64MiB", 3)?;
        ledgers.push((volume, Ledger::new(0, 64 * 256, 31 + number as u64)));
    }
    for (volume, ledger) in &mut ledgers {
        let mut client = NbdClient::connect(cluster.nbd_port(), volume)?;
        let limit = Duration::from_millis(500);
        ensure!(ledger.run(&mut client, 16, limit)?, "a connection was lost");
        client.disconnect()?;
    }
    let waited = waits(&mut cluster)? - before;
    ensure!(
        waited > 500,
        "the threads beside the first did nothing: {waited} waits"
    );
    let disks = cluster.json(["disk", "list"])?;
    for disk in disks.as_array().context("no list of disks")? {
        ensure!(disk["lanes"] == 2, "{disk}");
    }

    // All of them die while all volumes are written to.
    let (port, kill) = (cluster.nbd_port(), cluster.killer());
    std::thread::scope(|scope| -> Result<()> {
        let writers: Vec<_> = ledgers
            .iter_mut()
            .map(|(volume, ledger)| {
                scope.spawn(move || -> Result<bool> {
                    let mut client = NbdClient::connect(port, volume)?;
                    ledger.run(&mut client, 16, Duration::from_secs(30))
                })
            })
            .collect();
        std::thread::sleep(Duration::from_secs(1));
        kill();
        for writer in writers {
            let finished = writer.join().expect("a writer does not panic")?;
            ensure!(!finished, "a writer saw no crash");
        }
        Ok(())
    })?;
    cluster.restart()?;
    verify(&cluster, &mut ledgers)?;

    // A clean stop: success, and nothing is left to replay or missing.
    cluster.stop()?;
    cluster.restart()?;
    verify(&cluster, &mut ledgers)?;
    let health = cluster.json(["status"])?["health"].clone();
    ensure!(health == "healthy", "{health}");
    for store in 0..STORES {
        let log = cluster.service(&format!("store-{store}")).log();
        ensure!(!log.contains("panicked"), "{log}");
    }
    cluster.stop()
}

#[test]
fn volumes_on_several_threads_survive_sigkill_and_stop_with_io_uring() -> Result<()> {
    volumes_survive("io_uring")
}

#[test]
fn volumes_on_several_threads_survive_sigkill_and_stop_with_aio() -> Result<()> {
    volumes_survive("aio")
}

#[test]
fn more_threads_than_lanes_are_told_of_and_stop_all_the_same() -> Result<()> {
    let mut cluster = cluster("aio", "6")?;
    let store = cluster.service("store-0");
    let log = store.log();
    ensure!(log.contains("some threads have nothing to do"), "{log}");
    ensure!(
        store
            .threads()?
            .iter()
            .any(|(name, _)| name == "ashlar-io-5")
    );
    cluster.create_volume("v", "64MiB", 3)?;
    Tool::new("nbdinfo").arg(cluster.uri("v")).check()?;
    cluster.stop()
}

#[test]
fn a_number_of_threads_out_of_range_is_wrong_usage() -> Result<()> {
    for number in ["0", "65", "many"] {
        let refused = Tool::new(ashlar_e2e::binary::ashlar())
            .args(["store", "--disk", "none", "--conductor", "http://127.0.0.1"])
            .args(["--threads", number])
            .run()?;
        ensure!(refused.code() == Some(2), "{refused:?}");
        ensure!(refused.stderr.contains("--threads"), "{refused:?}");
    }
    Ok(())
}
