//! Changed blocks for backups: stock NBD clients are told which blocks were written between two
//! snapshots, and a copy that takes only these is the whole copy.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::{Cluster, ClusterOptions, Tool};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;
const SIZE: u64 = 64 * MIB;
/// From here on a writer is at work all the time.
const BUSY: u64 = 48 * MIB;

/// A range of the volume: offset and length, in bytes.
type Range = (u64, u64);

fn small() -> Result<Cluster> {
    Cluster::start(ClusterOptions {
        disk_size: "1GiB".to_owned(),
        ..ClusterOptions::default()
    })
}

fn context(bitmap: &str) -> String {
    format!("qemu:dirty-bitmap:{bitmap}")
}

/// The options by which qemu's tools open an export with one of its bitmaps in place of its
/// allocation.
fn qemu_options(cluster: &Cluster, export: &str, bitmap: &str) -> String {
    let (port, context) = (cluster.nbd_port(), context(bitmap));
    format!(
        "driver=nbd,server.type=inet,server.host=127.0.0.1,server.port={port},export={export},\
         x-dirty-bitmap={context}"
    )
}

/// Joins ranges that touch.
fn joined(ranges: impl IntoIterator<Item = Range>) -> Vec<Range> {
    let mut all: Vec<Range> = Vec::new();
    for (offset, length) in ranges {
        match all.last_mut() {
            Some(last) if last.0 + last.1 == offset => last.1 += length,
            _ => all.push((offset, length)),
        }
    }
    all
}

/// The extents of a map that `is_dirty`, and that they all cover the volume.
fn dirty_of(text: &str, start: &str, is_dirty: impl Fn(&Value) -> bool) -> Result<Vec<Range>> {
    let map: Value = serde_json::from_str(text)?;
    let (mut dirty, mut end) = (Vec::new(), 0);
    for extent in map.as_array().context("no map")? {
        let (offset, length) = (extent[start].as_u64(), extent["length"].as_u64());
        let (offset, length) = offset.zip(length).context("no numbers")?;
        ensure!(offset == end && length > 0, "{text}");
        end += length;
        if is_dirty(extent) {
            dirty.push((offset, length));
        }
    }
    ensure!(end == SIZE, "{text}");
    Ok(joined(dirty))
}

/// What changed, as nbdinfo says.
fn by_nbdinfo(cluster: &Cluster, export: &str, bitmap: &str) -> Result<Vec<Range>> {
    let text = Tool::new("nbdinfo")
        .arg(format!("--map={}", context(bitmap)))
        .args(["--json", &cluster.uri(export)])
        .check()?;
    dirty_of(&text, "offset", |extent| extent["type"] == 1)
}

/// What changed, as qemu says: it takes the flag of a dirty block for that of a hole.
fn by_qemu(cluster: &Cluster, export: &str, bitmap: &str) -> Result<Vec<Range>> {
    let text = Tool::new("qemu-img")
        .args(["map", "--output=json", "--image-opts"])
        .arg(qemu_options(cluster, export, bitmap))
        .check()?;
    dirty_of(&text, "start", |extent| extent["data"] == false)
}

/// What changed below the writer's part, on which all clients agree.
fn changed(cluster: &Cluster, export: &str, bitmap: &str) -> Result<Vec<Range>> {
    let told = by_nbdinfo(cluster, export, bitmap)?;
    let quiet = |ranges: &[Range]| -> Vec<Range> {
        let below = ranges.iter().filter(|range| range.0 < BUSY);
        below.map(|&(at, len)| (at, len.min(BUSY - at))).collect()
    };
    let by_qemu = by_qemu(cluster, export, bitmap)?;
    ensure!(quiet(&by_qemu) == quiet(&told), "{by_qemu:?}, {told:?}");
    if export.contains('@') {
        ensure!(by_qemu == told, "{by_qemu:?}, {told:?}");
    }
    Ok(quiet(&told))
}

/// The contexts that nbdinfo lists.
fn contexts(cluster: &Cluster, export: &str) -> Result<Vec<String>> {
    let text = Tool::new("nbdinfo")
        .args(["--json", &cluster.uri(export)])
        .check()?;
    let told: Value = serde_json::from_str(&text)?;
    let contexts = told["exports"][0]["contexts"].as_array().cloned();
    let contexts = contexts.context("no contexts")?.into_iter();
    let name = |context: Value| context.as_str().map(str::to_owned).context("no name");
    contexts.map(name).collect()
}

fn snapshot(cluster: &Cluster, name: &str) -> Result<()> {
    let finished = cluster.ashlar(["snapshot", "create", name]).check()?;
    ensure!(finished.contains("created"), "{finished}");
    Ok(())
}

/// Commands of qemu-io against the volume.
fn qemu_io(cluster: &Cluster, commands: &[&str]) -> Result<()> {
    let mut tool = Tool::new("qemu-io").args(["-f", "raw"]);
    for command in commands {
        tool = tool.args(["-c", command]);
    }
    let printed = tool.arg(cluster.uri("data")).check()?;
    ensure!(!printed.contains("failed"), "{printed}");
    Ok(())
}

/// Writes without pause to the end of the volume, which stays attached, until told to stop.
fn write_until(cluster: &Cluster, stop: &AtomicBool) -> Result<()> {
    let mut client = NbdClient::connect(cluster.nbd_port(), "data")?;
    let mut word = 1u64;
    while !stop.load(Ordering::Relaxed) {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let block = (word >> 33) % ((SIZE - BUSY) / 4096);
        let data = word.to_le_bytes().repeat(512);
        let error = client.call(Command::Write, BUSY + block * 4096, 4096, &data)?;
        ensure!(error == 0, "a write failed: {error}");
    }
    client.disconnect()
}

/// An export's content.
fn copy_of(cluster: &Cluster, export: &str, path: &Path) -> Result<Vec<u8>> {
    Tool::new("nbdcopy")
        .arg(cluster.uri(export))
        .arg(path)
        .check()?;
    Ok(fs::read(path)?)
}

/// A full copy of `older`, brought to `newer` by what changed alone.
fn incremental(
    cluster: &Cluster,
    older: &str,
    newer: &str,
    dirty: &[Range],
    directory: &Path,
) -> Result<Vec<u8>> {
    let path = directory.join("backup");
    copy_of(cluster, &format!("data@{older}"), &path)?;
    let file = fs::OpenOptions::new().write(true).open(&path)?;
    let mut client = NbdClient::connect(cluster.nbd_port(), &format!("data@{newer}"))?;
    for &(offset, length) in dirty {
        let mut at = offset;
        while at < offset + length {
            let piece = (offset + length - at).min(4 * MIB);
            let data = client.read(at, usize::try_from(piece)?)?;
            file.write_all_at(&data, at)?;
            at += piece;
        }
    }
    client.disconnect()?;
    Ok(fs::read(&path)?)
}

#[test]
fn backups_are_told_what_changed_between_snapshots() -> Result<()> {
    let cluster = small()?;
    cluster.create_volume("data", "64MiB", 3)?;
    ensure!(contexts(&cluster, "data")? == ["base:allocation"]);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| write_until(&cluster, &stop));
        let checked = write_and_compare(&cluster);
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("the writer does not panic")?;
        checked
    })
}

fn write_and_compare(cluster: &Cluster) -> Result<()> {
    qemu_io(cluster, &["write -P 1 0 16M", "write -P 2 32M 1M", "flush"])?;
    snapshot(cluster, "data@a")?;
    qemu_io(
        cluster,
        &[
            "write -P 3 1M 64k",
            "write -P 4 5000k 512",
            "write -z -u 8M 1M",
            "discard 10M 128k",
            "write -P 5 32M 4k",
        ],
    )?;
    snapshot(cluster, "data@b")?;
    qemu_io(cluster, &["write -P 6 20M 1M", "write -P 7 1M 4k"])?;
    snapshot(cluster, "data@c")?;
    qemu_io(cluster, &["write -P 8 40M 8k"])?;

    let to_b = [
        (MIB, 64 * KIB),
        (5000 * KIB, 4 * KIB),
        (8 * MIB, MIB),
        (10 * MIB, 128 * KIB),
        (32 * MIB, 4 * KIB),
    ];
    let to_c = [(MIB, 4 * KIB), (20 * MIB, MIB)];
    let last = (40 * MIB, 8 * KIB);
    let mut a_to_c = [&to_b[..], &[(20 * MIB, MIB)]].concat();
    a_to_c.sort_unstable();
    let mut a_to_now = [&a_to_c[..], &[last]].concat();
    a_to_now.sort_unstable();
    let mut b_to_now = to_c.to_vec();
    b_to_now.push(last);
    for (export, bitmap, expected) in [
        ("data@b", "a", &to_b[..]),
        ("data@c", "b", &to_c),
        ("data@c", "a", &a_to_c),
        ("data", "c", &[last]),
        ("data", "b", &b_to_now),
        ("data", "a", &a_to_now),
    ] {
        let told = changed(cluster, export, bitmap)?;
        ensure!(told == expected, "{export} since {bitmap}: {told:?}");
    }
    contexts_are_told(cluster)?;
    copies_are_whole(cluster)?;
    deletions_leave_what_is_right(cluster, &a_to_c)
}

/// Each export has those of its older snapshots, and takes no others.
fn contexts_are_told(cluster: &Cluster) -> Result<()> {
    for (export, bitmaps) in [
        ("data", &["a", "b", "c"][..]),
        ("data@c", &["a", "b"]),
        ("data@b", &["a"]),
        ("data@a", &[]),
    ] {
        let mut expected = vec!["base:allocation".to_owned()];
        expected.extend(bitmaps.iter().map(|bitmap| context(bitmap)));
        let told = contexts(cluster, export)?;
        ensure!(told == expected, "{export}: {told:?}");
    }
    for (export, bitmap) in [("data@a", "b"), ("data@b", "b"), ("data", "other")] {
        let refused = Tool::new("nbdinfo")
            .arg(format!("--map={}", context(bitmap)))
            .arg(cluster.uri(export))
            .run()?;
        ensure!(!refused.status.success(), "{export} since {bitmap}");
    }
    // Several on one connection, beside each other.
    let script = format!(
        "h.add_meta_context('base:allocation')\n\
         h.add_meta_context('{}')\n\
         h.add_meta_context('{}')\n\
         h.connect_uri('{}')\n\
         told = {{}}\n\
         h.block_status(20 << 20, 1 << 20, lambda c, o, e, r: told.update({{c: e}}), nbd.CMD_FLAG_REQ_ONE)\n\
         print(sorted(told.items()))",
        context("a"),
        context("b"),
        cluster.uri("data@c")
    );
    let printed = Tool::new("nbdsh").args(["-c", &script]).check()?;
    let expected = "[('base:allocation', [7340032, 0]), ('qemu:dirty-bitmap:a', [65536, 1]), \
                    ('qemu:dirty-bitmap:b', [4096, 1])]";
    ensure!(printed.trim() == expected, "{printed}");
    Ok(())
}

/// What changed, written over a copy of the older snapshot, makes the newer one.
fn copies_are_whole(cluster: &Cluster) -> Result<()> {
    let directory = tempfile::tempdir_in(cluster.path())?;
    let path = directory.path().join("whole");
    for (older, newer) in [("a", "b"), ("b", "c"), ("a", "c")] {
        let export = format!("data@{newer}");
        let whole = copy_of(cluster, &export, &path)?;
        let dirty = by_nbdinfo(cluster, &export, older)?;
        let total: u64 = dirty.iter().map(|range| range.1).sum();
        ensure!(total < SIZE / 2, "{total} bytes are more than what changed");
        let copied = incremental(cluster, older, newer, &dirty, directory.path())?;
        ensure!(copied == whole, "{older} to {newer}: the copies differ");
    }
    Ok(())
}

/// Without a snapshot in between nothing changes for the others. A client that has its bitmap open
/// gets an error, not an answer for something else, even where the name is there again.
fn deletions_leave_what_is_right(cluster: &Cluster, a_to_c: &[Range]) -> Result<()> {
    let script = format!(
        "import subprocess, sys\n\
         h.add_meta_context('{}')\n\
         h.connect_uri('{}')\n\
         def ask():\n\
         \x20   told = []\n\
         \x20   h.block_status(20 << 20, 1 << 20, lambda c, o, e, r: told.append(e), nbd.CMD_FLAG_REQ_ONE)\n\
         \x20   return told\n\
         print(ask())\n\
         def run(*words):\n\
         \x20   subprocess.run([r'{}', 'snapshot', *words], check=True, stdout=subprocess.DEVNULL)\n\
         run('delete', 'data@b', '--wait')\n\
         run('create', 'data@b')\n\
         for round in range(2):\n\
         \x20   try:\n\
         \x20       print(ask())\n\
         \x20   except nbd.Error as error:\n\
         \x20       print(error.errno)",
        context("b"),
        cluster.uri("data"),
        ashlar_e2e::binary::ashlar().display()
    );
    let printed = Tool::new("nbdsh")
        .env("ASHLAR_API", format!("http://{}", cluster.api_address()))
        .args(["-c", &script])
        .check()?;
    let lines: Vec<_> = printed.lines().collect();
    ensure!(lines == ["[[4096, 1]]", "EINVAL", "EINVAL"], "{printed}");
    let told = changed(cluster, "data@c", "a")?;
    ensure!(told == a_to_c, "a to c without b: {told:?}");
    let told = changed(cluster, "data", "b")?;
    ensure!(told.is_empty(), "since the new b: {told:?}");
    Ok(())
}
