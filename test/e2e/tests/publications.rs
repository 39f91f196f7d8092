//! Volumes that are one node's: attached by who shows the publication, through front ends that hang, die
//! and are shared with other nodes.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::cluster::free_port;
use ashlar_e2e::ledger::{BLOCK, Ledger};
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::process::{Service, wait_for};
use ashlar_e2e::{Cluster, ClusterOptions, binary};
use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const BLOCKS: usize = 64 * 256;
/// The last block, which a ledger leaves to writes that must fail.
const LAST: u64 = (BLOCKS as u64 - 1) * BLOCK as u64;
/// `NBD_REP_ERR_POLICY`: the export is this client's no more.
const POLICY: &str = "0x80000002";
/// `NBD_FLAG_READ_ONLY`.
const READ_ONLY: u16 = 1 << 1;
/// The error of a write to what is read-only.
const EPERM: u32 = 1;

/// One more front end of the cluster, which takes nothing by force.
struct FrontEnd {
    port: u16,
    service: Service,
}

impl FrontEnd {
    fn start(cluster: &Cluster, port: u16) -> Result<Self> {
        let api = format!("http://{}", cluster.api_address());
        let listen = format!("127.0.0.1:{port}");
        let arguments = ["nbd", "--conductor", &api, "--listen", &listen];
        let log = cluster.path().join("second-nbd.log");
        let service = Service::start("second nbd", &log, binary::ashlar(), arguments)?;
        wait_for("the second front end", LIMIT, || {
            // A process that was killed may still be accepting, but it greets nobody.
            let mut greeting = [0; 8];
            TcpStream::connect(("127.0.0.1", port))?.read_exact(&mut greeting)?;
            Ok(())
        })?;
        Ok(Self { port, service })
    }
}

/// Publishes the volume; gives what front ends call it.
fn publish(cluster: &Cluster, node: &str, more: &[&str]) -> Result<String> {
    let command = ["volume", "publish", "v", "--node", node];
    let volume = cluster.json(command.into_iter().chain(more.iter().copied()))?;
    let id = volume["publication"]["id"].as_str().context("no id")?;
    Ok(format!("v:{id}"))
}

fn unpublish(cluster: &Cluster, node: &str) -> Result<()> {
    let volume = cluster.json(["volume", "unpublish", "v", "--node", node])?;
    ensure!(volume.get("publication").is_none(), "{volume}");
    Ok(())
}

fn refused(port: u16, export: &str) -> Result<String> {
    match NbdClient::connect(port, export) {
        Ok(_) => anyhow::bail!("{export} is served"),
        Err(error) => Ok(error.to_string()),
    }
}

fn write_fails(client: &mut NbdClient) -> Result<()> {
    // A connection that is closed answers as well.
    let answer = client.call(Command::Write, LAST, u32::try_from(BLOCK)?, &[9; BLOCK]);
    ensure!(
        !matches!(answer, Ok(0)),
        "a write of a former node succeeded"
    );
    Ok(())
}

#[test]
fn the_next_node_has_the_volume_at_once_and_the_former_writes_nothing() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions {
        separate: true,
        ..ClusterOptions::default()
    })?;
    cluster.create_volume("v", "64MiB", 3)?;
    let first = publish(&cluster, "a", &[])?;
    let plain = refused(cluster.nbd_port(), "v")?;
    ensure!(plain.contains("published to node `a`"), "{plain}");
    let elsewhere = cluster
        .ashlar(["volume", "publish", "v", "--node", "b"])
        .run()?;
    ensure!(!elsewhere.status.success(), "one node at a time");

    let mut ledger = Ledger::new(0, BLOCKS - 1, 37);
    let mut client = NbdClient::connect(cluster.nbd_port(), &first)?;
    ensure!(ledger.run(&mut client, 16, Duration::from_secs(1))?);
    cluster.service("nbd").pause();
    client.submit(
        Command::Write,
        1 << 40,
        LAST,
        u32::try_from(BLOCK)?,
        &[9; BLOCK],
    )?;

    let began = Instant::now();
    unpublish(&cluster, "a")?;
    let second = publish(&cluster, "b", &[])?;
    let front_end = FrontEnd::start(&cluster, free_port()?)?;
    let over = refused(front_end.port, &first)?;
    ensure!(over.contains(POLICY), "{over}");
    let mut heir = NbdClient::connect(front_end.port, &second)?;
    println!("had by the next node {:?} after", began.elapsed());
    ledger.verify(&mut heir)?;
    ensure!(ledger.run(&mut heir, 16, Duration::from_secs(1))?);

    cluster.service("nbd").resume();
    if let Ok((reply, _)) = client.reply(|_| 0) {
        ensure!(reply.error != 0, "a zombie's write succeeded");
    }
    let over = refused(cluster.nbd_port(), &first)?;
    ensure!(over.contains(POLICY), "{over}");
    ensure!(ledger.run(&mut heir, 16, Duration::from_secs(1))?);
    ledger.verify(&mut heir)?;
    ensure!(
        heir.read(LAST, BLOCK)? == [0; BLOCK],
        "the zombie has written"
    );
    heir.disconnect()?;
    unpublish(&cluster, "b")?;
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    ledger.verify(&mut client)?;
    client.disconnect()?;
    drop(front_end);
    cluster.stop()
}

#[test]
fn one_front_end_keeps_its_nodes_apart() -> Result<()> {
    let mut cluster = Cluster::up()?;
    cluster.create_volume("v", "64MiB", 3)?;
    let first = publish(&cluster, "a", &[])?;
    let mut ledger = Ledger::new(0, BLOCKS - 1, 41);
    let mut former = NbdClient::connect(cluster.nbd_port(), &first)?;
    ensure!(ledger.run(&mut former, 16, Duration::from_secs(1))?);
    unpublish(&cluster, "a")?;
    let second = publish(&cluster, "b", &[])?;
    let mut heir = NbdClient::connect(cluster.nbd_port(), &second)?;
    ledger.verify(&mut heir)?;
    write_fails(&mut former)?;
    ensure!(ledger.run(&mut heir, 16, Duration::from_secs(1))?);
    ledger.verify(&mut heir)?;
    heir.disconnect()?;
    unpublish(&cluster, "b")?;

    let third = publish(&cluster, "b", &["--read-only"])?;
    ensure!(third != second, "each publication is another one");
    let mut reader = NbdClient::connect(cluster.nbd_port(), &third)?;
    ensure!(reader.flags() & READ_ONLY != 0, "{:#x}", reader.flags());
    let length = u32::try_from(BLOCK)?;
    let error = reader.call(Command::Write, LAST, length, &[9; BLOCK])?;
    ensure!(
        error == EPERM,
        "a write to a read-only publication: {error}"
    );
    ledger.verify(&mut reader)?;
    reader.disconnect()?;
    let kept = cluster.ashlar(["volume", "delete", "v"]).run()?;
    ensure!(!kept.status.success(), "a published volume is kept");
    unpublish(&cluster, "b")?;
    cluster.ashlar(["volume", "delete", "v"]).check()?;
    cluster.stop()
}

#[test]
fn a_nodes_front_end_that_dies_has_its_volume_back_without_waiting() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions {
        separate: true,
        ..ClusterOptions::default()
    })?;
    cluster.create_volume("v", "64MiB", 3)?;
    let export = publish(&cluster, "a", &[])?;
    let mut front_end = FrontEnd::start(&cluster, free_port()?)?;
    let mut ledger = Ledger::new(0, BLOCKS, 43);
    let mut client = NbdClient::connect(front_end.port, &export)?;
    ensure!(ledger.run(&mut client, 16, Duration::from_secs(1))?);
    front_end.service.kill();
    let began = Instant::now();
    let again = FrontEnd::start(&cluster, front_end.port)?;
    let mut client = NbdClient::connect(again.port, &export)?;
    let back = began.elapsed();
    println!("back after {back:?}");
    // An owner that is silent counts as gone after 30 s.
    ensure!(back < Duration::from_secs(15), "back only after {back:?}");
    ledger.verify(&mut client)?;
    client.disconnect()?;
    cluster.stop()
}
