//! A Linux kernel joins paths to one volume with dm-multipath, and writes on while paths come and go.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::{Cluster, ClusterOptions, Guest};
use std::path::Path;
use std::time::Duration;

const TARGET: &str = "iqn.2026-01.test:paths";
const GUEST: &str = "iqn.2026-11.io.ashlar:guest";
/// Each step takes some seconds; machines under load take longer.
const STEP_LIMIT: Duration = Duration::from_secs(150);

/// A cluster of a process for each role, with a target for the guest.
fn cluster_with_target(iscsi_arguments: Vec<String>) -> Result<Cluster> {
    let cluster = Cluster::start(ClusterOptions {
        separate: true,
        iscsi_arguments,
        ..ClusterOptions::default()
    })?;
    cluster.create_volume("v", "256MiB", 3)?;
    for command in [
        &["create", TARGET, "--allow", GUEST][..],
        &["map", TARGET, "v", "--lun", "0"],
    ] {
        let words = ["target"].iter().chain(command).copied();
        cluster.ashlar(words).check()?;
    }
    Ok(cluster)
}

fn boot(cluster: &Cluster, ports: [u16; 2]) -> Result<Guest> {
    let orders = format!(
        "ashlar.port={} ashlar.paths={},{} ashlar.unit={TARGET}",
        cluster.nbd_port(),
        ports[0],
        ports[1]
    );
    let writer = Path::new(env!("CARGO_BIN_EXE_checked-writer"));
    Guest::boot_with_multipath(cluster.path(), writer, &orders)
}

/// Prints what the guest did, and gives what its writer told at the end.
fn finish(guest: Guest) -> Result<String> {
    let console = guest.done(STEP_LIMIT)?;
    println!("{console}");
    let told = console.lines().find(|line| line.contains("longest pause"));
    let told = told.context("the writer told nothing")?;
    ensure!(told.contains("blocks as written"), "{told}");
    Ok(told.to_owned())
}

/// Two portals of one server: both paths go, writes wait, both come back.
#[test]
fn writes_wait_out_the_death_of_the_only_server() -> Result<()> {
    let port = ashlar_e2e::cluster::free_port()?;
    let more = [
        "--listen".to_owned(),
        format!("127.0.0.1:{port}"),
        "--portal".to_owned(),
        format!("10.0.2.2:{port}"),
    ];
    let mut cluster = cluster_with_target(more.to_vec())?;
    cluster.start_service("iscsi")?;
    let mut guest = boot(&cluster, [cluster.iscsi_port(), port])?;
    guest.step("writes go over", STEP_LIMIT)?;
    cluster.service("iscsi").kill();
    guest.step("a path is lost", STEP_LIMIT)?;
    cluster.start_service("iscsi")?;
    guest.step("all paths are back", STEP_LIMIT)?;
    println!("one server: {}", finish(guest)?);
    cluster.stop()
}

/// Two servers: the one that writes go through dies, the other one takes over.
#[test]
fn writes_go_on_over_another_server() -> Result<()> {
    let mut cluster = cluster_with_target(Vec::new())?;
    cluster.start_service("iscsi")?;
    cluster.start_service("iscsi-second")?;
    let ports = [cluster.iscsi_port(), cluster.iscsi_second_port()];
    let mut guest = boot(&cluster, ports)?;
    let over = guest.step("writes go over", STEP_LIMIT)?;
    let over: u16 = over.split(' ').next().context("no port")?.parse()?;
    let active = if over == ports[0] {
        "iscsi"
    } else {
        "iscsi-second"
    };
    cluster.service(active).kill();
    guest.step("a path is lost", STEP_LIMIT)?;
    // The other one has to carry the writes by itself for a while.
    std::thread::sleep(Duration::from_secs(10));
    cluster.start_service(active)?;
    guest.step("all paths are back", STEP_LIMIT)?;
    println!("two servers: {}", finish(guest)?);
    cluster.stop()
}
