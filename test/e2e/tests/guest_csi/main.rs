//! The CSI driver on a Linux kernel: it attaches through the kernel's own clients, and what workloads
//! write outlives drivers and front ends that are killed.

mod bench;

use anyhow::{Result, ensure};
use ashlar_e2e::csi::protocol as csi;
use ashlar_e2e::{Cluster, ClusterOptions};
use bench::{Bench, DOWN, Source, Step, UP, Volume, clean};
use csi::volume_content_source::{SnapshotSource, VolumeSource};
use std::time::{Duration, Instant};

const MIB: i64 = 1 << 20;

/// A workload that writes and syncs files one after another until it is told to stop.
const WRITER: &str = r#"
    mkdir -p $target/w; rm -f /tmp/stop /tmp/failed
    i=0
    while [ ! -e /tmp/stop ]; do
        i=$((i + 1))
        dd if=/dev/urandom of=$target/w/$((i % 16)) bs=64k count=16 conv=fsync 2>/tmp/said || {
            cat /tmp/said >/tmp/failed; break
        }
        echo $i >/tmp/written
    done
    touch /tmp/stopped
"#;

fn start_writer(bench: &Bench, target: &str) -> Result<()> {
    let script = format!(
        "rm -f /tmp/stopped /tmp/written; echo 0 >/tmp/written; ( target={target}; {WRITER} ) >/dev/null 2>&1 &"
    );
    bench.guest.sh(&script).map(drop)
}

/// Waits until it has written more, which it cannot while nothing is answered.
fn await_writes(bench: &Bench) -> Result<()> {
    let script = "before=$(cat /tmp/written); tries=0
        until [ $(cat /tmp/written) -ge $((before + 3)) ]; do
            tries=$((tries + 1)); [ $tries -lt 300 ] && [ ! -e /tmp/failed ] || {
                cat /tmp/failed; dmesg | tail -20; tail -5 /tmp/csi.log; exit 1; }
            usleep 200000
        done";
    bench.guest.sh(script).map(drop)
}

fn stop_writer(bench: &Bench) -> Result<String> {
    let script = "touch /tmp/stop; until [ -e /tmp/stopped ]; do usleep 50000; done
        [ ! -e /tmp/failed ] || { cat /tmp/failed; exit 1; }; cat /tmp/written";
    bench.guest.sh(script)
}

/// The sum of all that a volume's file system holds.
fn sum(bench: &Bench, volume: &Volume) -> Result<String> {
    let place = volume.target();
    let script = format!("cd {place} && find . -type f | sort | xargs sha256sum | sha256sum");
    bench.guest_of(volume).sh(&script)
}

/// From an empty volume to copies of it: format, expand under IO while servers die, snapshot, restore,
/// clone, raw block; nothing is left.
fn life(mut bench: Bench, attach: &str, front_end: &str) -> Result<()> {
    let volume = bench.create("first", 192 * MIB, "ext4", attach, None)?;
    bench.steps(&UP, &volume)?;
    start_writer(&bench, &volume.target())?;
    await_writes(&bench)?;
    bench.expand(&volume, 320 * MIB)?;
    let blocks = bench
        .guest
        .sh(&format!("df -k {} | tail -1", volume.target()))?;
    println!("grown under IO: {}", blocks.trim());
    await_writes(&bench)?;

    bench.cluster.service(front_end).kill();
    std::thread::sleep(Duration::from_secs(1));
    bench.cluster.start_service(front_end)?;
    await_writes(&bench)?;
    println!("writes go on over the next front end");

    bench.kill_node()?;
    bench.cluster.service(front_end).kill();
    std::thread::sleep(Duration::from_secs(1));
    bench.cluster.start_service(front_end)?;
    bench.start_node()?;
    await_writes(&bench)?;
    let written = stop_writer(&bench)?;
    println!(
        "writes go on with driver and front end started again: {} files",
        written.trim()
    );

    bench.guest.sh("sync")?;
    let before = sum(&bench, &volume)?;
    let snapshot_id = bench.snapshot(&volume, "moment")?;
    bench
        .guest
        .sh(&format!("rm -r {}/w; sync", volume.target()))?;
    let restored = Source::Snapshot(SnapshotSource { snapshot_id });
    let restored = bench.create("restored", 320 * MIB, "ext4", attach, Some(restored))?;
    bench.steps(&UP, &restored)?;
    ensure!(
        sum(&bench, &restored)? == before,
        "the snapshot holds something else"
    );
    let clone = Source::Volume(VolumeSource {
        volume_id: restored.id.clone(),
    });
    let clone = bench.create("clone", 320 * MIB, "ext4", attach, Some(clone))?;
    bench.steps(&UP, &clone)?;
    ensure!(
        sum(&bench, &clone)? == before,
        "the clone holds something else"
    );
    println!("snapshot, restore and clone hold what was written");

    let raw = bench.create("raw", 64 * MIB, "", attach, None)?;
    bench.steps(&UP, &raw)?;
    let place = raw.target();
    let written = bench.guest.sh(&format!(
        "dd if=/dev/urandom of=/tmp/random bs=1M count=8 2>/dev/null
         dd if=/tmp/random of={place} bs=1M seek=3 conv=notrunc 2>/dev/null && sha256sum </tmp/random"
    ))?;
    bench.steps(&DOWN, &raw)?;
    bench.steps(&UP, &raw)?;
    let read = bench.guest.sh(&format!(
        "dd if={place} bs=1M skip=3 count=8 2>/dev/null | sha256sum"
    ))?;
    ensure!(read == written, "the device holds something else");
    println!("a raw block volume holds what was written");

    for volume in [&volume, &restored, &clone, &raw] {
        bench.steps(&DOWN, volume)?;
        // Once more changes nothing.
        bench.steps(&DOWN, volume)?;
    }
    bench.check_clean()?;
    bench.guest.finish().map(drop)
}

/// Driver, or front end, or both are killed in the middle of each step; the same calls come to the same
/// end, and what was written is there.
fn deaths(mut bench: Bench, attach: &str, front_end: &str) -> Result<()> {
    let volume = bench.create("mortal", 64 * MIB, "ext4", attach, None)?;
    for (round, delay_ms) in [30, 300].into_iter().enumerate() {
        for step in UP.into_iter().chain(DOWN) {
            if step == Step::NodeUnpublish {
                let (place, mark) = (volume.target(), format!("mark-{round}"));
                let script =
                    format!("echo {mark} >{place}/{mark} && sync && cat {place}/mark-* | wc -l");
                let marks = bench.guest.sh(&script)?;
                ensure!(
                    marks.trim() == (round + 1).to_string(),
                    "{marks} marks are left"
                );
            }
            let (links, of) = (bench.links.clone(), volume.clone());
            let call = bench
                .runtime
                .spawn(async move { links.call(step, &of).await });
            std::thread::sleep(Duration::from_millis(delay_ms));
            bench.cluster.service(front_end).kill();
            bench.kill_node()?;
            call.abort();
            bench.start_node()?;
            bench.cluster.start_service(front_end)?;
            bench.step(step, &volume)?;
        }
        bench.check_clean()?;
        println!("killed after {delay_ms} ms of each step: the same end, nothing left");
    }
    bench.guest.finish().map(drop)
}

/// A node hangs with its volume in use. The volume is used on another node at once; the first one comes to
/// life again and can write nothing, lets go as it is asked to, and may have the volume once more. With
/// `dies`, that front end is killed and started again meanwhile: the node finds its connections dead.
fn hang(mut bench: Bench, attach: &str, dies: Option<&str>) -> Result<()> {
    let here = bench.create("wanted", 128 * MIB, "ext4", attach, None)?;
    let there = here.on(1);
    bench.add_node()?;
    bench.steps(&UP, &here)?;
    let place = here.target();
    bench.guest.sh(&format!(
        "echo kept >{place}/mark && sync && sha256sum {place}/mark"
    ))?;
    start_writer(&bench, &place)?;
    await_writes(&bench)?;

    bench.guest.service().pause();
    let began = Instant::now();
    let refused = bench
        .runtime
        .block_on(bench.links.call(Step::Publish, &there));
    let refused = refused.map_err(|status| status.code());
    ensure!(
        refused == Err(tonic::Code::FailedPrecondition),
        "one node at a time: {refused:?}"
    );
    // What the CO does with a node that was lost.
    bench.step(Step::Unpublish, &here)?;
    bench.steps(&UP, &there)?;
    let moved = began.elapsed();
    println!("used on another node {:.1} s after", moved.as_secs_f32());
    ensure!(moved < Duration::from_secs(10), "only after {moved:?}");
    let mark = bench.guest_of(&there).sh(&format!("cat {place}/mark"))?;
    ensure!(mark.trim() == "kept", "the other node finds {mark:?}");
    let fill = format!(
        "rm -r {place}/w; dd if=/dev/urandom of={place}/mine bs=1M count=8 2>/dev/null && sync"
    );
    bench.guest_of(&there).sh(&fill)?;
    let before = sum(&bench, &there)?;

    if let Some(front_end) = dies {
        bench.cluster.service(front_end).kill();
        bench.cluster.start_service(front_end)?;
    }
    bench.guest.service().resume();
    // Its file system, and its device past that.
    bench.guest.sh(&format!(
        "tries=0; until [ -e /tmp/failed ]; do
             tries=$((tries + 1)); [ $tries -lt 300 ] || {{ echo it writes; exit 1; }}
             usleep 100000
         done
         device=$(grep ' {place} ' /proc/mounts | cut -d' ' -f1)
         if dd if=/dev/zero of=$device bs=4096 count=1 seek=9 oflag=direct conv=notrunc 2>/dev/null; then
             echo the device took a write; exit 1
         fi"
    ))?;
    bench
        .guest_of(&there)
        .sh("echo 3 >/proc/sys/vm/drop_caches")?;
    ensure!(sum(&bench, &there)? == before, "the zombie has written");
    bench.steps(&[Step::NodeUnpublish, Step::Unstage], &here)?;
    bench.check_clean()?;
    println!("the node that hung wrote nothing, and let go");

    bench.steps(&DOWN, &there)?;
    bench.steps(&UP, &here)?;
    ensure!(sum(&bench, &here)? == before, "what the other node wrote");
    bench.steps(&DOWN, &here)?;
    bench.check_clean()?;
    if let Some(other) = bench.other.take() {
        clean(&other)?;
        other.finish()?;
    }
    // Its kernel has told of failed writes, which is as it should be.
    Ok(())
}

#[test]
fn a_node_that_hangs_loses_its_volume_over_nbd() -> Result<()> {
    hang(nbd()?, "nbd", None)
}

#[test]
fn a_node_that_hangs_loses_its_volume_over_iscsi() -> Result<()> {
    hang(iscsi()?, "iscsi", None)
}

#[test]
fn a_node_that_hangs_while_its_nbd_server_dies_lets_go() -> Result<()> {
    hang(nbd()?, "nbd", Some("nbd"))
}

#[test]
fn a_node_that_hangs_while_its_iscsi_server_dies_lets_go() -> Result<()> {
    hang(iscsi()?, "iscsi", Some("iscsi"))
}

fn nbd() -> Result<Bench> {
    Bench::start(ClusterOptions::default(), |cluster: &Cluster| {
        format!(
            "--attacher nbd --nbd 10.0.2.2:{} --nbd-timeout 3s",
            cluster.nbd_port()
        )
    })
}

fn iscsi() -> Result<Bench> {
    let options = ClusterOptions {
        iscsi_arguments: vec!["--all-volumes".to_owned()],
        ..ClusterOptions::default()
    };
    let mut bench = Bench::start(options, |cluster| {
        format!(
            "--attacher nbd,iscsi --iscsi 10.0.2.2:{}",
            cluster.iscsi_port()
        )
    })?;
    bench.cluster.start_service("iscsi")?;
    Ok(bench)
}

#[test]
fn volumes_live_on_open_iscsi() -> Result<()> {
    life(iscsi()?, "iscsi", "iscsi")
}

#[test]
fn iscsi_volumes_come_through_deaths_in_every_step() -> Result<()> {
    deaths(iscsi()?, "iscsi", "iscsi")
}

#[test]
fn volumes_live_on_the_kernels_nbd_client() -> Result<()> {
    life(nbd()?, "nbd", "nbd")
}

#[test]
fn nbd_volumes_come_through_deaths_in_every_step() -> Result<()> {
    deaths(nbd()?, "nbd", "nbd")
}
