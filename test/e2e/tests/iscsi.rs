//! Volumes over iSCSI: stock initiators, targets with access lists and secrets, and reservations that
//! outlive the processes.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::iscsi::Initiator;
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Cluster, Tool, image};
use std::time::Duration;

const NAME: &str = "iqn.2026-11.io.ashlar";
const ALICE: &str = "iqn.2026-01.test:alice";
const BOB: &str = "iqn.2026-01.test:bob";
const LIMIT: Duration = Duration::from_secs(60);
const CONFLICT: u8 = 0x18;

fn url(cluster: &Cluster, volume: &str) -> String {
    format!("iscsi://{}/{NAME}:{volume}/1", cluster.iscsi_address())
}

fn listed(cluster: &Cluster) -> Result<String> {
    let portal = format!("iscsi://{}/", cluster.iscsi_address());
    Tool::new("iscsi-ls").arg("-s").arg(portal).check()
}

#[test]
fn every_volume_is_a_target_for_stock_initiators() -> Result<()> {
    let cluster = Cluster::up()?;
    let source = image::ext4_of_real_files()?;
    let size = format!("{}MiB", image::size_mib(&source)?);
    cluster.create_volume("v", &size, 3)?;
    cluster.create_volume("w", "64MiB", 1)?;
    let list = listed(&cluster)?;
    ensure!(
        list.contains(&format!("Target:{NAME}:v")) && list.contains(&format!("Target:{NAME}:w")),
        "{list}"
    );
    let inquiry = Tool::new("iscsi-inq").arg(url(&cluster, "v")).check()?;
    ensure!(inquiry.to_lowercase().contains("ashlar"), "{inquiry}");

    let convert = ["convert", "-n", "-f", "raw", "-O", "raw"];
    let there = Tool::new("qemu-img").args(convert).arg(&source);
    there.arg(url(&cluster, "v")).check()?;
    let compare = ["compare", "-f", "raw", "-F", "raw"];
    let compared = Tool::new("qemu-img").args(compare).arg(&source);
    compared.arg(url(&cluster, "v")).check()?;
    // What came over iSCSI is there over NBD.
    let compared = Tool::new("qemu-img").args(compare).arg(&source);
    compared.arg(cluster.uri("v")).check()?;

    let commands = [
        "write -P 0x5a 1M 3M",
        "flush",
        "discard 2M 1M",
        "write -z 8M 64k",
        "read -P 0x5a 1M 1M",
        "read -P 0 2M 1M",
        "read -P 0x5a 3M 1M",
        "write -f -P 0x77 513k 4k",
        "read -P 0x77 513k 4k",
    ];
    let mut tool = Tool::new("qemu-io").args(["-f", "raw"]);
    for command in commands {
        tool = tool.args(["-c", command]);
    }
    let output = tool.arg(url(&cluster, "w")).check()?;
    ensure!(!output.contains("failed"), "{output}");
    Ok(())
}

#[test]
fn a_target_lets_in_whom_it_names_with_the_right_secret() -> Result<()> {
    let cluster = Cluster::up()?;
    cluster.create_volume("v", "64MiB", 1)?;
    let target = "iqn.2026-01.test:database";
    cluster.ashlar(["target", "create", target]).check()?;
    let map = ["target", "map", target, "v", "--lun", "5"];
    cluster.ashlar(map).check()?;
    cluster
        .ashlar(["target", "acl", target, "allow", ALICE])
        .check()?;
    let address = cluster.iscsi_address();
    let login = |name| Initiator::login(&address, name, 1, target);
    let mut alice = wait_for("the target", LIMIT, || login(ALICE))?;
    alice.settled(5, &[0; 6], &[], 0)?.good()?;
    let refused = login(BOB).err().context("bob is let in")?.to_string();
    ensure!(refused.contains("020"), "{refused}");
    // A mapped volume is no target of its own any more.
    let own = Initiator::login(&address, ALICE, 1, &format!("{NAME}:v"));
    ensure!(own.is_err(), "it is offered twice");

    let secret = cluster.path().join("secret");
    std::fs::write(&secret, "a secret of alice")?;
    let secret = secret.to_str().context("a path is text")?;
    let chap = [
        "target",
        "chap",
        target,
        "set",
        "--user",
        "alice",
        "--secret-file",
        secret,
    ];
    cluster.ashlar(chap).check()?;
    let shown = cluster
        .ashlar(["target", "show", target, "--json"])
        .check()?;
    ensure!(!shown.contains("a secret"), "the secret is shown: {shown}");
    wait_for("the secret to be asked for", LIMIT, || {
        ensure!(login(ALICE).is_err(), "alice is let in without a secret");
        Ok(())
    })?;
    let with = |user: &str, secret: &str| {
        let place = format!("{user}%{secret}@{address}/{target}/5");
        let tool = Tool::new("iscsi-inq").args(["-i", ALICE]);
        tool.arg(format!("iscsi://{place}")).run()
    };
    let good = with("alice", "a secret of alice")?;
    ensure!(good.status.success(), "{good:?}");
    let bad = with("alice", "a secret of bobby")?;
    ensure!(!bad.status.success(), "{bad:?}");

    // A volume that is mapped is not deleted by accident.
    drop(alice);
    wait_for("a refusal that names the target", LIMIT, || {
        let refused = cluster.ashlar(["volume", "delete", "v"]).run()?;
        assert!(!refused.status.success(), "a mapped volume is deleted");
        ensure!(refused.stderr.contains(target), "{refused:?}");
        Ok(())
    })
}

#[test]
fn reservations_outlive_the_target_and_the_conductor() -> Result<()> {
    const REGISTER: u8 = 0;
    const RESERVE: u8 = 1;
    const PREEMPT: u8 = 4;
    const WRITE_EXCLUSIVE_REGISTRANTS: u8 = 5;
    let mut cluster = Cluster::up()?;
    cluster.create_volume("v", "64MiB", 3)?;
    let target = format!("{NAME}:v");
    let address = cluster.iscsi_address();
    let login = |name: &str| Initiator::login(&address, name, 1, &target);
    let (mut alice, mut bob) = (login(ALICE)?, login(BOB)?);
    ensure!(alice.reserve_out(REGISTER, 0, (0, 0xa), true)? == 0);
    let kind = WRITE_EXCLUSIVE_REGISTRANTS;
    ensure!(alice.reserve_out(RESERVE, kind, (0xa, 0), false)? == 0);
    ensure!(alice.write_first(7)? == 0 && bob.write_first(8)? == CONFLICT);
    ensure!(bob.read_first()? == [7; 512]);

    // All of it dies: conductor, owner, target, stores.
    cluster.kill();
    cluster.restart()?;
    let (mut alice, mut bob) = wait_for("the target", LIMIT, || Ok((login(ALICE)?, login(BOB)?)))?;
    ensure!(
        bob.write_first(9)? == CONFLICT,
        "the reservation is forgotten"
    );
    ensure!(alice.write_first(10)? == 0, "the registration is forgotten");
    let shown = cluster.json(["volume", "reservations", "v"])?.to_string();
    ensure!(shown.contains(ALICE) && !shown.contains(BOB), "{shown}");

    // Bob may take it over, as cluster managers do with one that is dead.
    ensure!(bob.reserve_out(REGISTER, 0, (0, 0xb), true)? == 0);
    ensure!(bob.reserve_out(PREEMPT, kind, (0xb, 0xa), false)? == 0);
    ensure!(bob.write_first(11)? == 0 && alice.write_first(12)? == CONFLICT);
    ensure!(alice.read_first()? == [11; 512]);
    Ok(())
}
