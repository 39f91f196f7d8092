//! An owner that stops answering under load: another front end has the volume at once, with all that
//! was acknowledged, and the first can do nothing more when it comes to life again.

use anyhow::{Result, ensure};
use ashlar_e2e::cluster::free_port;
use ashlar_e2e::ledger::{BLOCK, Ledger};
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::process::{Service, wait_for};
use ashlar_e2e::{Cluster, ClusterOptions, binary};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const BLOCKS: usize = 64 * 256;

/// One more front end of the cluster, which takes volumes from others, and its port.
fn second_front_end(cluster: &Cluster) -> Result<(Service, u16)> {
    let port = free_port()?;
    let (api, listen) = (
        format!("http://{}", cluster.api_address()),
        format!("127.0.0.1:{port}"),
    );
    let arguments = [
        "nbd",
        "--conductor",
        &api,
        "--listen",
        &listen,
        "--force-attach",
    ];
    let log = cluster.path().join("second-nbd.log");
    let service = Service::start("second nbd", &log, binary::ashlar(), arguments)?;
    wait_for("the second front end", LIMIT, || {
        std::net::TcpStream::connect(("127.0.0.1", port))?;
        Ok(())
    })?;
    Ok((service, port))
}

#[test]
fn a_front_end_that_hangs_is_replaced_and_fenced() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions {
        separate: true,
        ..ClusterOptions::default()
    })?;
    cluster.create_volume("v", "64MiB", 3)?;
    let (_second, port) = second_front_end(&cluster)?;
    // The last block is left to those writes that must fail.
    let mut ledger = Ledger::new(0, BLOCKS - 1, 29);
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    ensure!(ledger.run(&mut client, 16, Duration::from_secs(1))?);
    // Requests that its server has not looked at when it hangs, and will when it goes on.
    let (last, length) = ((BLOCKS as u64 - 1) * BLOCK as u64, u32::try_from(BLOCK)?);
    cluster.service("nbd").pause();
    client.submit(Command::Write, 1 << 40, last, length, &[9; BLOCK])?;
    client.submit(Command::Read, 2 << 40, last, length, &[])?;

    let began = Instant::now();
    let mut other = NbdClient::connect(port, "v")?;
    let ready = began.elapsed();
    ledger.verify(&mut other)?;
    ensure!(ledger.run(&mut other, 16, Duration::from_secs(1))?);
    eprintln!("ready after {ready:?}");
    ensure!(
        ready < Duration::from_secs(10),
        "ready only after {ready:?}"
    );

    cluster.service("nbd").resume();
    let payload = |cookie| if cookie == 2 << 40 { BLOCK } else { 0 };
    for _ in 0..2 {
        // A connection that is closed answers as well.
        let Ok((reply, _)) = client.reply(payload) else {
            break;
        };
        ensure!(reply.error != 0, "a zombie's request succeeded");
    }
    ensure!(ledger.run(&mut other, 16, Duration::from_secs(1))?);
    ledger.verify(&mut other)?;
    let untouched = other.read(last, BLOCK)?;
    ensure!(
        untouched.iter().all(|byte| *byte == 0),
        "a zombie's write is there"
    );
    other.disconnect()
}
