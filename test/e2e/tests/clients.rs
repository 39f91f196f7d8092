//! A client that is denied loses its volume: its requests fail, even if it hears nothing of it, and
//! nothing that was acknowledged is lost.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::ledger::{BLOCK, Ledger};
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Cluster, ClusterOptions};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const BLOCKS: usize = 16 * 256;

fn cluster(isolated: bool) -> Result<Cluster> {
    let cluster = Cluster::start(ClusterOptions {
        separate: true,
        isolated,
        disk_size: "512MiB".to_owned(),
        ..ClusterOptions::default()
    })?;
    cluster.create_volume("v", "16MiB", 3)?;
    Ok(cluster)
}

/// Writes for a moment; what is acknowledged is in the ledger.
fn write(ledger: &mut Ledger, client: &mut NbdClient) -> Result<()> {
    let connected = ledger.run(client, 8, Duration::from_millis(500))?;
    ensure!(connected, "the connection was lost");
    Ok(())
}

/// The owner of the volume without its process: `nbd@HOST`.
fn owner(cluster: &Cluster) -> Result<String> {
    let volume = cluster.json(["volume", "show", "v"])?;
    let owner = volume["attached_by"].as_str().context("not attached")?;
    let name = owner.split(' ').next().context("no name")?;
    Ok(name.to_owned())
}

/// Waits until a write of the client is not acknowledged.
fn loses_its_volume(mut client: NbdClient) -> Result<()> {
    wait_for("its writes to fail", LIMIT, || {
        ensure!(!is_acknowledged(&mut client), "a write was acknowledged");
        Ok(())
    })
}

/// Whether a write of the last block, of which the ledger does not know, is acknowledged.
fn is_acknowledged(client: &mut NbdClient) -> bool {
    let offset = (BLOCKS as u64 - 1) * BLOCK as u64;
    let length = u32::try_from(BLOCK).expect("a block is small");
    matches!(
        client.call(Command::Write, offset, length, &[7; BLOCK]),
        Ok(0)
    )
}

fn comes_back(cluster: &Cluster, name: &str, ledger: &mut Ledger) -> Result<()> {
    ensure!(
        NbdClient::connect_to(&cluster.nbd_address(), "v").is_err(),
        "a denied client is served"
    );
    let list = cluster.json(["client", "list"])?;
    ensure!(list[0]["client"] == name, "{list}");
    cluster.ashlar(["client", "allow", name]).check()?;
    let mut client = NbdClient::connect_to(&cluster.nbd_address(), "v")?;
    ledger.verify(&mut client)?;
    write(ledger, &mut client)?;
    ledger.verify(&mut client)?;
    client.disconnect()
}

#[test]
fn a_denied_front_end_loses_its_volume_until_it_is_allowed() -> Result<()> {
    let mut cluster = cluster(false)?;
    // The last block is left to the write that is to fail.
    let mut ledger = Ledger::new(0, BLOCKS - 1, 11);
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    write(&mut ledger, &mut client)?;
    let name = owner(&cluster)?;
    let denied = cluster.json(["client", "deny", &name, "--reason", "a test"])?;
    ensure!(denied["taken"][0] == "v", "{denied}");
    ensure!(
        denied["unfenced"].as_array().is_some_and(Vec::is_empty),
        "{denied}"
    );
    loses_its_volume(client)?;
    comes_back(&cluster, &name, &mut ledger)?;
    let log = cluster.service("nbd").log();
    ensure!(
        log.contains("a test") && log.contains("ashlar client allow"),
        "{log}"
    );
    cluster.stop()
}

#[test]
fn a_denied_front_end_that_hears_nothing_of_it_is_fenced_by_the_replicas() -> Result<()> {
    let cluster = cluster(true)?;
    let mut ledger = Ledger::new(0, BLOCKS - 1, 12);
    let mut client = NbdClient::connect_to(&cluster.nbd_address(), "v")?;
    write(&mut ledger, &mut client)?;
    let name = owner(&cluster)?;
    cluster.network().part("nbd", "conductor")?;
    let denied = cluster.json(["client", "deny", &name])?;
    ensure!(
        denied["unfenced"].as_array().is_some_and(Vec::is_empty),
        "{denied}"
    );
    // From the answer on, not one more.
    ensure!(!is_acknowledged(&mut client), "a write was acknowledged");
    drop(client);
    cluster.network().heal()?;
    comes_back(&cluster, &name, &mut ledger)
}
