//! SIGKILL of every process: what was acknowledged is there afterwards, and the replicas agree.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::inspect::Replicas;
use ashlar_e2e::ledger::{Ledger, Random};
use ashlar_e2e::nbd::NbdClient;
use ashlar_e2e::{Cluster, ClusterOptions, Tool, image};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Copies an ext4 image of real files in, kills everything, starts again, reads it back.
fn files_survive(engine: &str) -> Result<()> {
    let source = image::ext4_of_real_files()?;
    let options = ClusterOptions {
        engine: Some(engine.to_owned()),
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::start(options)?;
    let size = format!("{}MiB", image::size_mib(&source)?);
    cluster.create_volume("files", &size, 3)?;
    Tool::new("nbdcopy")
        .args(["--flush", "--connections=4"])
        .arg(&source)
        .arg(cluster.uri("files"))
        .limit(Duration::from_secs(300))
        .check()?;
    cluster.kill();
    cluster.restart()?;
    let log = cluster.service("up").log();
    ensure!(!log.contains("panicked"), "{log}");

    let copy = cluster.path().join("copy");
    Tool::new("nbdcopy")
        .arg(cluster.uri("files"))
        .arg(&copy)
        .check()?;
    ensure!(
        image::sha256(&copy)? == image::sha256(&source)?,
        "the bytes changed"
    );
    image::check_ext4(&copy)?;

    let replicas = Replicas::of(&cluster, "files")?;
    cluster.stop()?;
    replicas.agree()?;
    Ok(())
}

#[test]
fn real_files_survive_sigkill_with_io_uring() -> Result<()> {
    files_survive("io_uring")
}

#[test]
fn real_files_survive_sigkill_with_aio() -> Result<()> {
    files_survive("aio")
}

/// Rounds of random writes, SIGKILL at a random moment, restart and check; 5 here, as many as
/// `ASHLAR_CRASH_ROUNDS` says in a long run.
#[test]
fn acknowledged_writes_survive_sigkill_at_random_moments() -> Result<()> {
    let rounds: u64 = match std::env::var("ASHLAR_CRASH_ROUNDS") {
        Ok(text) => text.parse().context("ASHLAR_CRASH_ROUNDS")?,
        Err(_) => 5,
    };
    let seed = match std::env::var("ASHLAR_SEED") {
        Ok(text) => text.parse().context("ASHLAR_SEED")?,
        Err(_) => u64::from(std::process::id()),
    };
    println!("ASHLAR_SEED={seed}");
    let mut random = Random(seed);
    let mut cluster = Cluster::up()?;
    cluster.create_volume("v", "128MiB", 3)?;
    let replicas = Replicas::of(&cluster, "v")?;
    // fio has the first half, the ledger's blocks are the second.
    fio(&cluster, &["--rw=write", "--do_verify=1"])?;
    let mut ledger = Ledger::new(64 * MIB / 4096, 4096, seed);

    for round in 0..rounds {
        let lifetime = Duration::from_millis(300 + random.below(2500));
        let port = cluster.nbd_port();
        let finished = std::thread::scope(|scope| -> Result<bool> {
            let cluster = &cluster;
            let fio = scope.spawn(move || {
                // It ends with an error when the server dies: expected.
                let arguments = [
                    "--rw=randwrite",
                    "--do_verify=0",
                    "--fsync=32",
                    "--loops=1000",
                ];
                fio(cluster, &arguments)
            });
            let kill = cluster.killer();
            let killer = scope.spawn(move || {
                std::thread::sleep(lifetime);
                kill();
            });
            let mut client = NbdClient::connect(port, "v")?;
            let finished = ledger.run(&mut client, 32, Duration::from_secs(60))?;
            killer.join().expect("the killer does not panic");
            ensure!(
                fio.join().expect("fio's thread does not panic").is_err(),
                "fio saw no crash"
            );
            Ok(finished)
        })?;
        ensure!(!finished, "the writer saw no crash");
        cluster.restart()?;
        let mut client = NbdClient::connect(port, "v")?;
        let older = ledger.verify(&mut client)?;
        client.disconnect()?;
        fio(&cluster, &["--rw=read", "--do_verify=1"]).with_context(|| format!("round {round}"))?;
        println!(
            "round {round}: killed after {lifetime:?}, {older} blocks older, {:?}",
            ledger.tally
        );

        cluster.stop()?;
        replicas.agree().with_context(|| format!("round {round}"))?;
        cluster.restart()?;
    }
    ensure!(
        ledger.tally.writes > 100 * rounds,
        "hardly anything was written: {:?}",
        ledger.tally
    );
    ensure!(
        ledger.tally.flushes > rounds,
        "hardly any flush: {:?}",
        ledger.tally
    );
    Ok(())
}

/// fio on the first half of the volume; every block that it writes carries its own CRC.
fn fio(cluster: &Cluster, arguments: &[&str]) -> Result<()> {
    let report = Tool::new("fio")
        .args([
            "--name=crash",
            "--ioengine=nbd",
            "--bs=4k",
            "--iodepth=16",
            "--verify=crc32c",
        ])
        .args([
            "--verify_fatal=1",
            "--output-format=json",
            "--verify_state_save=0",
        ])
        .arg(format!("--uri={}", cluster.uri("v")))
        .arg(format!("--size={}", 64 * MIB))
        .args(arguments)
        .current_dir(cluster.path())
        .check()?;
    let start = report.find('{').context("fio printed no report")?;
    let report: serde_json::Value = serde_json::from_str(&report[start..])?;
    let job = &report["jobs"][0];
    // Against a server that is gone fio has been seen to report nothing done and no error.
    let done = ["read", "write"]
        .iter()
        .filter_map(|side| job[side]["total_ios"].as_u64())
        .sum::<u64>();
    ensure!(done > 0 && job["error"] == 0, "fio did nothing: {report}");
    Ok(())
}
