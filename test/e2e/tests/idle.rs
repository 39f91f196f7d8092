//! What a cluster costs while nobody asks anything of it.

use anyhow::{Result, ensure};
use ashlar_e2e::nbd::NbdClient;
use ashlar_e2e::{Cluster, Tool};
use std::time::{Duration, Instant};

#[test]
fn an_idle_cluster_uses_less_than_one_percent_of_a_core() -> Result<()> {
    let mut cluster = Cluster::up()?;
    cluster.create_volume("v", "256MiB", 3)?;
    // After work, with a client attached.
    Tool::new("fio")
        .args([
            "--name=load",
            "--ioengine=nbd",
            "--rw=randwrite",
            "--bs=4k",
            "--iodepth=16",
        ])
        .args(["--size=256M", "--time_based", "--runtime=2"])
        .arg(format!("--uri={}", cluster.uri("v")))
        .check()?;
    let _client = NbdClient::connect(cluster.nbd_port(), "v")?;
    // Flushes and checkpoints that the load left to do end by themselves.
    std::thread::sleep(Duration::from_secs(6));

    let (start, before) = (Instant::now(), cluster.service("up").cpu_time()?);
    std::thread::sleep(Duration::from_secs(10));
    let used = cluster.service("up").cpu_time()?.saturating_sub(before);
    let percent = used.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0;
    println!("idle: {percent:.2} % of a core");
    ensure!(percent < 1.0, "{percent:.2} % of a core while idle");
    Ok(())
}
