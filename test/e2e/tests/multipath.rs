//! Two iSCSI servers offer one volume: one serves it, the other is on standby, and takes it over when an
//! initiator asks for that or the first one is gone.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::iscsi::{Answer, Initiator};
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Cluster, ClusterOptions, Tool};
use std::time::{Duration, Instant};

const TARGET: &str = "iqn.2026-11.io.ashlar:v";
const ALICE: &str = "iqn.2026-01.test:alice";
const BOB: &str = "iqn.2026-01.test:bob";
const LIMIT: Duration = Duration::from_secs(60);
const READY: [u8; 6] = [0; 6];
const STANDBY: (u8, u8, u8) = (2, 4, 0x0b);
const CONFLICT: u8 = 0x18;
const OPTIMIZED: u8 = 0;
const ON_STANDBY: u8 = 2;
const UNAVAILABLE: u8 = 3;

/// A cluster with two iSCSI servers and a volume.
fn cluster() -> Result<Cluster> {
    let mut cluster = Cluster::start(ClusterOptions {
        separate: true,
        disk_size: "512MiB".to_owned(),
        ..ClusterOptions::default()
    })?;
    cluster.create_volume("v", "64MiB", 3)?;
    cluster.start_service("iscsi-0")?;
    wait_for("the first server", LIMIT, || {
        ensure!(servers(&cluster)? == 1);
        Ok(())
    })?;
    cluster.start_service("iscsi-1")?;
    wait_for("the second server", LIMIT, || {
        ensure!(servers(&cluster)? == 2);
        Ok(())
    })?;
    Ok(cluster)
}

fn servers(cluster: &Cluster) -> Result<usize> {
    let list = cluster.json(["target", "servers"])?;
    Ok(list.as_array().context("no list of servers")?.len())
}

fn login(cluster: &Cluster, server: usize, initiator: &str) -> Result<Initiator> {
    let address = cluster.iscsi_server_address(server);
    wait_for("a login", LIMIT, || {
        Initiator::login(&address, initiator, 1, TARGET)
    })
}

fn write(session: &mut Initiator, block: u8, byte: u8) -> Result<Answer> {
    let cdb = [0x2a, 0, 0, 0, 0, block, 0, 0, 1, 0];
    session.settled(1, &cdb, &[byte; 512], 0)
}

fn read(session: &mut Initiator, block: u8) -> Result<Vec<u8>> {
    let cdb = [0x28, 0, 0, 0, 0, block, 0, 0, 1, 0];
    session.settled(1, &cdb, &[], 512)?.good()
}

/// REPORT TARGET PORT GROUPS: each group with its state.
fn groups(session: &mut Initiator) -> Result<Vec<(u16, u8)>> {
    let cdb = [0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    let told = session.settled(1, &cdb, &[], 256)?.good()?;
    let group = |part: &[u8]| (u16::from_be_bytes([part[2], part[3]]), part[0] & 0x0f);
    Ok(told[4..].chunks_exact(12).map(group).collect())
}

/// SET TARGET PORT GROUPS: that one is to be active.
fn activate(session: &mut Initiator, group: u8) -> Result<Answer> {
    let cdb = [0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0];
    session.settled(1, &cdb, &[0, 0, 0, 0, 0, 0, 0, group], 0)
}

#[test]
fn a_volume_is_served_by_one_server_and_moves_when_an_initiator_asks_for_it() -> Result<()> {
    let cluster = cluster()?;
    let (mut first, mut second) = (login(&cluster, 0, ALICE)?, login(&cluster, 1, ALICE)?);
    // Whoever is asked first serves it.
    write(&mut first, 0, 1)?.good()?;
    wait_for("standby", LIMIT, || {
        ensure!(second.settled(1, &READY, &[], 0)?.code() == Some(STANDBY));
        Ok(())
    })?;
    ensure!(write(&mut second, 0, 2)?.code() == Some(STANDBY));
    let expected = [(1, OPTIMIZED), (2, ON_STANDBY)];
    wait_for("both to tell the same", LIMIT, || {
        let told = (groups(&mut first)?, groups(&mut second)?);
        ensure!(told.0 == expected && told.1 == expected, "{told:?}");
        Ok(())
    })?;
    let capacity = second.settled(1, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 8)?;
    ensure!(capacity.good()?[..4] == [0, 1, 0xff, 0xff], "64 MiB");

    // Any of them tells of both.
    let portal = format!("iscsi://{}/", cluster.iscsi_server_address(1));
    let listed = Tool::new("iscsi-ls").arg(portal).check()?;
    for server in 0..2 {
        let place = format!("{},{}", cluster.iscsi_server_address(server), server + 1);
        ensure!(listed.contains(&place), "{listed}");
    }

    activate(&mut second, 2)?.good()?;
    ensure!(read(&mut second, 0)? == [1; 512]);
    write(&mut second, 0, 3)?.good()?;
    let told = first.command(1, &READY, &[], 0)?.code();
    ensure!(
        told == Some((6, 0x2a, 6)) || told == Some(STANDBY),
        "{told:?}"
    );
    wait_for("the first one on standby", LIMIT, || {
        ensure!(write(&mut first, 0, 4)?.code() == Some(STANDBY));
        let expected = [(1, ON_STANDBY), (2, OPTIMIZED)];
        ensure!(groups(&mut first)? == expected && groups(&mut second)? == expected);
        Ok(())
    })?;
    ensure!(read(&mut second, 0)? == [3; 512]);
    // And back.
    activate(&mut first, 1)?.good()?;
    ensure!(read(&mut first, 0)? == [3; 512]);
    Ok(())
}

#[test]
fn a_server_that_is_killed_loses_its_volume_and_no_write_that_it_acknowledged() -> Result<()> {
    let mut cluster = cluster()?;
    let (mut first, mut second) = (login(&cluster, 0, ALICE)?, login(&cluster, 1, ALICE)?);
    for block in 0..100 {
        write(&mut first, block, block ^ 0x55)?.good()?;
    }
    wait_for("standby", LIMIT, || {
        ensure!(write(&mut second, 0, 2)?.code() == Some(STANDBY));
        Ok(())
    })?;
    cluster.service("iscsi-0").kill();
    // Nobody asks for it: the one that is left takes it once the other is not heard any more.
    let killed = Instant::now();
    wait_for("the other server", LIMIT, || {
        ensure!(write(&mut second, 200, 7)?.status == 0);
        Ok(())
    })?;
    eprintln!("taken over {:?} after the kill", killed.elapsed());
    for block in 0..100 {
        ensure!(read(&mut second, block)? == [block ^ 0x55; 512], "{block}");
    }
    ensure!(groups(&mut second)? == [(1, UNAVAILABLE), (2, OPTIMIZED)]);
    // It comes back as the server that it was, on standby.
    cluster.start_service("iscsi-0")?;
    let mut first = login(&cluster, 0, ALICE)?;
    wait_for("standby", LIMIT, || {
        ensure!(write(&mut first, 0, 2)?.code() == Some(STANDBY));
        ensure!(groups(&mut second)? == [(1, ON_STANDBY), (2, OPTIMIZED)]);
        Ok(())
    })
}

#[test]
fn what_a_paused_server_was_given_has_no_effect_once_its_volume_has_moved() -> Result<()> {
    let mut cluster = cluster()?;
    let (mut first, mut second) = (login(&cluster, 0, ALICE)?, login(&cluster, 1, ALICE)?);
    write(&mut first, 0, 1)?.good()?;
    cluster.service("iscsi-0").pause();
    let (sent, answers) = std::sync::mpsc::channel();
    let late = std::thread::spawn(move || {
        let _ = sent.send(());
        let written = write(&mut first, 0, 2);
        (first, written)
    });
    answers.recv()?;
    // The write lies in the socket of the paused server.
    std::thread::sleep(Duration::from_millis(300));
    activate(&mut second, 2)?.good()?;
    write(&mut second, 0, 3)?.good()?;
    cluster.service("iscsi-0").resume();
    let (mut first, written) = late.join().expect("the thread ends");
    ensure!(
        written?.status != 0,
        "a write of an owner that was replaced is acknowledged"
    );
    ensure!(read(&mut first, 0).is_err(), "it still reads");
    ensure!(read(&mut second, 0)? == [3; 512], "it was overwritten");
    wait_for("standby", LIMIT, || {
        ensure!(groups(&mut first)? == [(1, ON_STANDBY), (2, OPTIMIZED)]);
        Ok(())
    })
}

/// PERSISTENT RESERVE OUT.
fn reserve(session: &mut Initiator, action: u8, kind: u8, keys: (u64, u64)) -> Result<u8> {
    let cdb = [0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0];
    let mut list = Vec::new();
    list.extend(keys.0.to_be_bytes());
    list.extend(keys.1.to_be_bytes());
    list.extend([0; 8]);
    Ok(session.settled(1, &cdb, &list, 0)?.status)
}

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const PREEMPT_AND_ABORT: u8 = 5;
const WRITE_EXCLUSIVE_REGISTRANTS: u8 = 5;

#[test]
fn who_is_preempted_through_one_server_cannot_write_through_the_other() -> Result<()> {
    let cluster = cluster()?;
    let kind = WRITE_EXCLUSIVE_REGISTRANTS;
    let (mut alice, mut bob) = (login(&cluster, 0, ALICE)?, login(&cluster, 1, BOB)?);
    ensure!(reserve(&mut alice, REGISTER, 0, (0, 0xa))? == 0);
    ensure!(reserve(&mut alice, RESERVE, kind, (0xa, 0))? == 0);
    write(&mut alice, 0, 1)?.good()?;
    wait_for("standby", LIMIT, || {
        ensure!(bob.settled(1, &READY, &[], 0)?.code() == Some(STANDBY));
        Ok(())
    })?;
    alice.settled(1, &READY, &[], 0)?.good()?;
    // Both of them without the device; what the first one serves goes by it.
    ensure!(reserve(&mut bob, REGISTER, 0, (0, 0xb))? == 0);
    ensure!(reserve(&mut bob, PREEMPT_AND_ABORT, kind, (0xb, 0xa))? == 0);
    // From the moment of that answer on.
    let cdb = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    let told = alice.command(1, &cdb, &[9; 512], 0)?;
    ensure!(
        told.code() == Some((6, 0x2a, 5)),
        "registrations preempted: {told:x?}"
    );
    ensure!(write(&mut alice, 0, 9)?.status == CONFLICT);
    ensure!(read(&mut alice, 0)? == [1; 512]);
    activate(&mut bob, 2)?.good()?;
    write(&mut bob, 0, 2)?.good()?;
    let expected = [(1, ON_STANDBY), (2, OPTIMIZED)];
    wait_for("standby", LIMIT, || {
        ensure!(groups(&mut alice)? == expected);
        Ok(())
    })
}

#[test]
fn a_preempt_does_not_wait_for_a_server_that_hangs() -> Result<()> {
    let mut cluster = cluster()?;
    let kind = WRITE_EXCLUSIVE_REGISTRANTS;
    let (mut alice, mut bob) = (login(&cluster, 0, ALICE)?, login(&cluster, 1, BOB)?);
    ensure!(reserve(&mut alice, REGISTER, 0, (0, 0xa))? == 0);
    ensure!(reserve(&mut alice, RESERVE, kind, (0xa, 0))? == 0);
    write(&mut alice, 0, 1)?.good()?;
    ensure!(reserve(&mut bob, REGISTER, 0, (0, 0xb))? == 0);
    cluster.service("iscsi-0").pause();
    ensure!(reserve(&mut bob, PREEMPT_AND_ABORT, kind, (0xb, 0xa))? == 0);
    write(&mut bob, 0, 2)?.good()?;
    cluster.service("iscsi-0").resume();
    ensure!(
        write(&mut alice, 0, 9)?.status != 0,
        "who was preempted writes"
    );
    ensure!(read(&mut bob, 0)? == [2; 512]);
    Ok(())
}
