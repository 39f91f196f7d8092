//! iSCSI from processes of their own: reservations that hold while the iSCSI server or the conductor dies
//! alone, QEMU's disks under load, and portals.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::cluster::free_port;
use ashlar_e2e::iscsi::Initiator;
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Cluster, ClusterOptions, Service, Tool, image};
use std::path::Path;
use std::time::Duration;

const NAME: &str = "iqn.2026-11.io.ashlar";
const TARGET: &str = "iqn.2026-01.test:processes";
const ALICE: &str = "iqn.2026-01.test:alice";
const BOB: &str = "iqn.2026-01.test:bob";
const LIMIT: Duration = Duration::from_secs(60);
const CONFLICT: u8 = 0x18;
const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const WRITE_EXCLUSIVE_REGISTRANTS: u8 = 5;

/// A process for each role, and a volume as LUN 1 of a target for everybody.
fn cluster(size: &str) -> Result<Cluster> {
    let mut cluster = Cluster::start(ClusterOptions {
        separate: true,
        ..ClusterOptions::default()
    })?;
    cluster.create_volume("v", size, 3)?;
    for command in [
        &["create", TARGET, "--allow", "*"][..],
        &["map", TARGET, "v", "--lun", "1"],
    ] {
        let words = ["target"].iter().chain(command).copied();
        cluster.ashlar(words).check()?;
    }
    cluster.start_service("iscsi")?;
    Ok(cluster)
}

fn login(cluster: &Cluster, name: &str) -> Result<Initiator> {
    let address = cluster.iscsi_address();
    wait_for("the target", LIMIT, || {
        Initiator::login(&address, name, 1, TARGET)
    })
}

fn reserved_for_alice(cluster: &Cluster) -> Result<(Initiator, Initiator)> {
    let (mut alice, mut bob) = (login(cluster, ALICE)?, login(cluster, BOB)?);
    let kind = WRITE_EXCLUSIVE_REGISTRANTS;
    ensure!(alice.reserve_out(REGISTER, 0, (0, 0xa), true)? == 0);
    ensure!(alice.reserve_out(RESERVE, kind, (0xa, 0), false)? == 0);
    ensure!(alice.write_first(1)? == 0 && bob.write_first(2)? == CONFLICT);
    Ok((alice, bob))
}

#[test]
fn reservations_hold_while_the_iscsi_server_dies() -> Result<()> {
    let mut cluster = cluster("64MiB")?;
    let sessions = reserved_for_alice(&cluster)?;
    for round in 0..2 {
        cluster.service("iscsi").kill();
        cluster.start_service("iscsi")?;
        // Who is not registered comes first: nobody else has made the server read what it knows.
        let mut bob = login(&cluster, BOB)?;
        ensure!(bob.write_first(9)? == CONFLICT, "round {round}: forgotten");
        let mut alice = login(&cluster, ALICE)?;
        ensure!(alice.write_first(3 + round)? == 0, "round {round}");
        ensure!(bob.read_first()? == [3 + round; 512]);
    }
    drop(sessions);
    cluster.stop()
}

#[test]
fn reservations_hold_while_the_conductor_is_away() -> Result<()> {
    let mut cluster = cluster("64MiB")?;
    let (mut alice, mut bob) = reserved_for_alice(&cluster)?;
    cluster.service("conductor").kill();
    // What was known goes on to count, and what cannot be kept is not promised.
    ensure!(alice.write_first(4)? == 0 && bob.write_first(5)? == CONFLICT);
    ensure!(bob.read_first()? == [4; 512]);
    let kind = WRITE_EXCLUSIVE_REGISTRANTS;
    let released = alice.reserve_out(RELEASE, kind, (0xa, 0), false)?;
    ensure!(
        released != 0,
        "a release that nobody keeps is answered with GOOD"
    );
    let registered = bob.reserve_out(REGISTER, 0, (0, 0xb), true)?;
    ensure!(
        registered != 0,
        "a registration that nobody keeps is answered with GOOD"
    );
    ensure!(bob.write_first(6)? == CONFLICT, "bob is let in");

    cluster.start_service("conductor")?;
    cluster.wait_ready()?;
    ensure!(alice.write_first(7)? == 0 && bob.write_first(8)? == CONFLICT);
    wait_for("the release", LIMIT, || {
        let released = alice.reserve_out(RELEASE, kind, (0xa, 0), false)?;
        ensure!(released == 0, "status {released:x}");
        Ok(())
    })?;
    ensure!(bob.write_first(9)? == 0, "the release has no effect");
    // Another server knows of it, too.
    cluster.service("iscsi").kill();
    cluster.start_service("iscsi")?;
    let mut bob = login(&cluster, BOB)?;
    ensure!(bob.write_first(10)? == 0 && bob.read_first()? == [10; 512]);
    cluster.stop()
}

const TEST_UNIT_READY: [u8; 6] = [0; 6];

/// Nobody is let in to a volume that cannot be attached, and nobody waits long to hear so.
/// One conductor that is gone, and one that hangs. Each has a cluster of its own: what a host has asked for
/// meanwhile may be attached as soon as the conductor is back, and then the next login is let in.
#[test]
fn logins_are_refused_soon_while_the_conductor_is_away() -> Result<()> {
    for hangs in [false, true] {
        refuse_soon(hangs)?;
    }
    Ok(())
}

fn refuse_soon(hangs: bool) -> Result<()> {
    // Two seconds for a login and five for a command are meant; machines under load take longer.
    const SOON: Duration = Duration::from_secs(25);
    let mut cluster = cluster("64MiB")?;
    let address = cluster.iscsi_address();
    // Logged in before, but never used: nothing is attached.
    let mut alice = login(&cluster, ALICE)?;
    let conductor = cluster.service("conductor");
    if hangs {
        conductor.pause();
    } else {
        conductor.kill();
    }
    let began = std::time::Instant::now();
    let refused = Initiator::login(&address, BOB, 1, TARGET).err();
    let refused = refused.context("bob is let in")?.to_string();
    let login_took = began.elapsed();
    ensure!(refused.contains("0301"), "{refused}");
    let answer = alice.settled(1, &TEST_UNIT_READY, &[], 0)?;
    let all_took = began.elapsed();
    println!("hangs {hangs}: login refused after {login_took:?}, both after {all_took:?}");
    ensure!(answer.code() == Some((2, 4, 1)), "{answer:?}");
    ensure!(all_took < SOON, "both took {all_took:?}");
    if hangs {
        cluster.service("conductor").resume();
    } else {
        cluster.start_service("conductor")?;
    }
    cluster.wait_ready()?;
    let mut bob = login(&cluster, BOB)?;
    wait_for("the volume", LIMIT, || {
        ensure!(bob.write_first(1)? == 0, "not ready yet");
        Ok(())
    })?;
    ensure!(alice.read_first()? == [1; 512]);
    // What is attached is open to more, conductor or not.
    cluster.service("conductor").kill();
    let mut carol = Initiator::login(&address, "iqn.2026-01.test:carol", 1, TARGET)?;
    ensure!(carol.read_first()? == [1; 512]);
    Ok(())
}

/// Who does not know the secret is not even told what there is.
#[test]
fn discovery_asks_for_a_secret() -> Result<()> {
    let cluster = cluster("64MiB")?;
    let secret = cluster.path().join("secret");
    std::fs::write(&secret, "a secret of hosts")?;
    let secret = secret.to_str().context("a path is text")?;
    let address = cluster.iscsi_address();
    let told = wait_for("the server", LIMIT, || portals(&address))?;
    ensure!(told.contains(TARGET), "{told}");
    let set = ["target", "discovery-chap", "set", "--user", "hosts"];
    let set = set.iter().copied().chain(["--secret-file", secret]);
    cluster.ashlar(set).check()?;
    let shown = cluster.json(["target", "discovery-chap", "show"])?;
    ensure!(shown["chap"][0]["user"] == "hosts", "{shown}");
    ensure!(!shown.to_string().contains("a secret"), "{shown}");
    wait_for("the secret to be asked for", LIMIT, || {
        ensure!(
            portals(&address).is_err(),
            "targets are told without a secret"
        );
        Ok(())
    })?;
    let told = portals(&format!("hosts%a secret of hosts@{address}"))?;
    ensure!(told.contains(TARGET), "{told}");
    let wrong = portals(&format!("hosts%a secret of others@{address}"));
    ensure!(wrong.is_err(), "{wrong:?}");
    // Logins go by the target's secrets, of which there are none.
    login(&cluster, ALICE)?;
    let clear = ["target", "discovery-chap", "clear", "--all"];
    cluster.ashlar(clear).check()?;
    wait_for("discovery without a secret", LIMIT, || portals(&address))?;
    Ok(())
}

/// QEMU's own initiator with the disk of a virtual machine, as NBD on a Unix socket for fio.
fn qemu_disk(directory: &Path, url: &str) -> Result<(Service, String)> {
    let socket = directory.join("disk.sock");
    let server = format!("addr.type=unix,addr.path={}", socket.display());
    let arguments = [
        "--blockdev".to_owned(),
        format!(
            "driver=iscsi,node-name=disk,{url},initiator-name=iqn.2026-01.test:qemu,cache.direct=on"
        ),
        "--nbd-server".to_owned(),
        server,
        "--export".to_owned(),
        "type=nbd,id=disk,node-name=disk,writable=on".to_owned(),
    ];
    let log = directory.join("qemu.log");
    let program = Path::new("/usr/bin/qemu-storage-daemon");
    let mut service = Service::start("qemu-storage-daemon", &log, program, arguments)?;
    wait_for("QEMU's disk", LIMIT, || {
        assert!(service.is_running(), "{}", service.log_tail());
        ensure!(socket.exists(), "no socket yet");
        Ok(())
    })?;
    Ok((
        service,
        format!("nbd+unix:///disk?socket={}", socket.display()),
    ))
}

#[test]
fn a_disk_of_qemu_works_on_over_the_death_of_the_iscsi_server() -> Result<()> {
    let mut cluster = cluster("256MiB")?;
    let portal = cluster.iscsi_address();
    let url = format!("transport=tcp,portal={portal},target={TARGET},lun=1");
    let (mut qemu, uri) = qemu_disk(cluster.path(), &url)?;
    // Every block is written once, in no order, and read back.
    let load = Tool::new("fio").args([
        "--name=load",
        "--ioengine=nbd",
        &format!("--uri={uri}"),
        "--rw=randwrite",
        "--bs=4k",
        "--iodepth=16",
        "--size=64M",
        "--rate_iops=3000",
        "--verify=crc32c",
        "--verify_state_save=0",
        "--verify_fatal=1",
        "--output-format=json",
    ]);
    let load = std::thread::spawn(move || load.limit(Duration::from_secs(240)).check());
    std::thread::sleep(Duration::from_secs(2));
    cluster.service("iscsi").kill();
    std::thread::sleep(Duration::from_secs(1));
    ensure!(!load.is_finished(), "the load ended before the server died");
    cluster.start_service("iscsi")?;
    let report = load.join().expect("the thread ends")?;
    let report: serde_json::Value = serde_json::from_str(
        report
            .get(report.find('{').context("no report")?..)
            .context("cut")?,
    )?;
    let job = &report["jobs"][0];
    let blocks = Some((64 << 20) / 4096);
    ensure!(
        job["error"] == 0
            && job["write"]["total_ios"].as_u64() == blocks
            && job["read"]["total_ios"].as_u64() == blocks,
        "{job}"
    );
    println!(
        "longest request: {} ms",
        job["write"]["clat_ns"]["max"].as_u64().unwrap_or(0) / 1_000_000
    );
    qemu.stop(LIMIT)?;
    Ok(())
}

#[test]
fn qemu_img_copies_to_and_from_a_target() -> Result<()> {
    let source = image::ext4_of_real_files()?;
    let cluster = cluster(&format!("{}MiB", image::size_mib(&source)?))?;
    // The server has just been started, and qemu-img does not wait for it.
    drop(login(&cluster, ALICE)?);
    let url = format!("iscsi://{}/{TARGET}/1", cluster.iscsi_address());
    let tool = |words: &[&str]| Tool::new("qemu-img").args(words);
    let raw = ["-f", "raw", "-O", "raw"];
    let parallel = ["-m", "8", "-W", "-n"];
    let there = tool(&["convert"]).args(raw).args(parallel);
    there.arg(&source).arg(&url).check()?;
    let back = cluster.path().join("back.raw");
    tool(&["convert"]).args(raw).arg(&url).arg(&back).check()?;
    for copy in [Path::new(&url), &back] {
        let compare = tool(&["compare", "-f", "raw", "-F", "raw"]);
        compare.arg(&source).arg(copy).check()?;
    }
    image::check_ext4(&back)
}

/// Each of them, as iscsi-ls tells it.
fn portals(address: &str) -> Result<String> {
    let tool = Tool::new("iscsi-ls").arg(format!("iscsi://{address}/"));
    tool.check()
}

#[test]
fn a_server_listens_at_several_portals_and_tells_each_its_own() -> Result<()> {
    let (second, sixth) = (free_port()?, free_port()?);
    let addresses = [format!("127.0.0.1:{second}"), format!("[::1]:{sixth}")];
    let mut up_arguments = Vec::new();
    for address in &addresses {
        up_arguments.extend(["--iscsi".to_owned(), address.clone()]);
    }
    let cluster = Cluster::start(ClusterOptions {
        up_arguments,
        ..ClusterOptions::default()
    })?;
    cluster.create_volume("v", "64MiB", 1)?;
    let target = format!("{NAME}:v");
    let all = [
        cluster.iscsi_address(),
        addresses[0].clone(),
        addresses[1].clone(),
    ];
    for (number, address) in (1u8..).zip(&all) {
        let told = portals(address)?;
        ensure!(
            told.contains(&format!("Target:{target} Portal:{address},1")),
            "at {address}: {told}"
        );
        let mut session = Initiator::login(address, ALICE, number, &target)?;
        ensure!(session.write_first(number)? == 0);
        let inquiry = Tool::new("iscsi-inq").arg(format!("iscsi://{address}/{target}/1"));
        ensure!(inquiry.check()?.contains("ASHLAR"));
        // What was written through one portal is there through the others.
        for other in &all {
            let mut other = Initiator::login(other, BOB, number, &target)?;
            ensure!(other.read_first()? == [number; 512]);
        }
    }
    Ok(())
}

#[test]
fn portals_that_are_given_are_told_instead_of_its_own() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions {
        separate: true,
        iscsi_arguments: ["--portal", "[fd00::3]:3260", "--all-volumes"]
            .map(str::to_owned)
            .to_vec(),
        ..ClusterOptions::default()
    })?;
    cluster.create_volume("v", "64MiB", 1)?;
    cluster.start_service("iscsi")?;
    let port = cluster.iscsi_port();
    let told = wait_for("the server", LIMIT, || portals(&cluster.iscsi_address()))?;
    ensure!(
        told.contains(&format!("Portal:10.0.2.2:{port},"))
            && told.contains("Portal:[fd00::3]:3260,"),
        "{told}"
    );
    cluster.stop()
}
