//! Stock NBD clients against a replicated volume: what they are told, what they copy, what they
//! get where they ask for the impossible.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::{Cluster, ClusterOptions, Tool, binary, image};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// `ashlar up` with little space: these tests run beside others.
fn small(arguments: &[&str]) -> Result<Cluster> {
    let arguments = arguments.iter();
    Cluster::start(ClusterOptions {
        disk_size: "1GiB".to_owned(),
        up_arguments: arguments.map(|&argument| argument.to_owned()).collect(),
        ..ClusterOptions::default()
    })
}

/// An image of `mib` MiB with data here and there, holes between.
fn sparse_image(path: &Path, mib: u64) -> Result<()> {
    let file = fs::File::create(path)?;
    file.set_len(mib * MIB)?;
    let mut word: u64 = 0x9e37_79b9_7f4a_7c15;
    for (at, len) in [
        (0, 64 << 10),
        (3, 5 * MIB),
        (17, MIB),
        (40, 300 << 10),
        (mib - 1, MIB),
    ] {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < len {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            bytes.extend(word.to_le_bytes());
        }
        file.write_all_at(&bytes, at * MIB)?;
    }
    Ok(())
}

fn info(uri: &str) -> Result<Value> {
    let text = Tool::new("nbdinfo").args(["--json", uri]).check()?;
    Ok(serde_json::from_str(&text)?)
}

#[test]
fn clients_are_told_sizes_flags_and_contexts() -> Result<()> {
    let cluster = small(&[])?;
    cluster.create_volume("data", "1GiB", 3)?;
    let uri = cluster.uri("data");
    let told = info(&uri)?;
    ensure!(told["protocol"] == "newstyle-fixed", "{told}");
    ensure!(told["structured"] == true, "{told}");
    let export = &told["exports"][0];
    ensure!(export["export-size"] == 1 << 30, "{told}");
    ensure!(export["contexts"][0] == "base:allocation", "{told}");
    for flag in [
        "can_cache",
        "can_df",
        "can_fast_zero",
        "can_flush",
        "can_fua",
        "can_multi_conn",
        "can_trim",
        "can_zero",
    ] {
        ensure!(export[flag] == true, "{flag}: {told}");
    }
    for flag in ["is_read_only", "is_rotational"] {
        ensure!(export[flag] == false, "{flag}: {told}");
    }
    ensure!(export["block_size_minimum"] == 512, "{told}");
    ensure!(export["block_size_preferred"] == 4096, "{told}");
    ensure!(export["block_size_maximum"] == 32 << 20, "{told}");

    // The only volume is what a client without a name gets; with two there is no such thing.
    let nameless = cluster.uri("");
    ensure!(info(&nameless)?["exports"][0]["export-size"] == 1 << 30);
    cluster.create_volume("other", "64MiB", 1)?;
    ensure!(info(&nameless).is_err(), "two volumes have no default");
    let listed = Tool::new("nbdinfo")
        .args(["--list", "--json", &nameless])
        .check()?;
    let listed: Value = serde_json::from_str(&listed)?;
    let exports = listed["exports"].as_array().context("no exports")?;
    let names: Vec<_> = exports.iter().map(|e| &e["export-name"]).collect();
    ensure!(names == ["data", "other"], "{listed}");
    ensure!(info(&cluster.uri("none")).is_err(), "an unknown export");
    Ok(())
}

#[test]
fn images_are_copied_compared_and_mapped() -> Result<()> {
    for engine in ["io_uring", "aio"] {
        let directory = tempfile::tempdir_in(binary::work_dir())?;
        let socket = directory.path().join("nbd.sock");
        let listen = format!("unix:{}", socket.display());
        let cluster = small(&["--engine", engine, "--nbd", &listen])?;
        cluster.create_volume("data", "128MiB", 3)?;
        let source = directory.path().join("source");
        sparse_image(&source, 128)?;
        let sum = image::sha256(&source)?;
        let source = source.to_str().context("a path of text")?;
        let tcp = cluster.uri("data");
        let unix = format!("nbd+unix:///data?socket={}", socket.display());

        // In by many connections, out by many, over either kind of socket.
        for (to, from) in [(&tcp, &unix), (&unix, &tcp)] {
            Tool::new("nbdcopy")
                .args(["--connections=8", "--flush", source, to])
                .check()?;
            let target = directory.path().join("target");
            Tool::new("nbdcopy")
                .args(["--connections=8", from])
                .arg(&target)
                .check()?;
            ensure!(image::sha256(&target)? == sum, "{engine}: {to} to {from}");
        }
        Tool::new("qemu-img")
            .args(["compare", "-f", "raw", "-F", "raw", source, &tcp])
            .check()?;
        Tool::new("qemu-img")
            .args(["convert", "-n", "-f", "raw", "-O", "raw", source, &unix])
            .check()?;
        Tool::new("qemu-img")
            .args(["compare", "-f", "raw", "-F", "raw", source, &unix])
            .check()?;
        holes_are_told(&tcp)?;
    }
    Ok(())
}

/// The map of the copied image: data where it is, holes where nothing was written.
fn holes_are_told(uri: &str) -> Result<()> {
    let text = Tool::new("nbdinfo")
        .args(["--map", "--json", uri])
        .check()?;
    let map: Value = serde_json::from_str(&text)?;
    let map = map.as_array().context("no map")?;
    let mut end = 0;
    let mut data = 0;
    for extent in map {
        let (offset, length) = (&extent["offset"], &extent["length"]);
        let (offset, length) = offset.as_u64().zip(length.as_u64()).context("no numbers")?;
        ensure!(offset == end && length > 0, "{text}");
        end += length;
        if extent["type"] == 0 {
            data += length;
        } else {
            ensure!(extent["type"] == 3, "{text}");
        }
    }
    ensure!(end == 128 * MIB, "{text}");
    ensure!(
        (7 * MIB..16 * MIB).contains(&data),
        "{data} bytes of data: {text}"
    );
    let text = Tool::new("qemu-img")
        .args(["map", "--output=json", "-f", "raw", uri])
        .check()?;
    ensure!(
        text.contains("\"data\": true") && text.contains("\"zero\": true"),
        "{text}"
    );
    Ok(())
}

/// The commands that qemu's own tests are made of.
#[test]
fn qemu_io_reads_what_it_wrote() -> Result<()> {
    let cluster = small(&[])?;
    cluster.create_volume("data", "64MiB", 3)?;
    let commands = [
        "write -P 0xaa 1M 64k",
        "read -P 0xaa 1M 64k",
        "write -P 0x11 100k 3k",
        "read -P 0x11 100k 3k",
        "read -P 0 96k 4k",
        "write -f -P 0x22 512 512",
        "read -P 0x22 512 512",
        "read -P 0 0 512",
        "write -z 1M 32k",
        "read -P 0 1M 32k",
        "read -P 0xaa 1056k 32k",
        "write -zu 1056k 32k",
        "read -P 0 1M 64k",
        "write -P 0x33 8M 8M",
        "discard 9M 1M",
        "read -P 0x33 8M 1M",
        "read -P 0x33 10M 6M",
        "aio_write -P 0x44 20M 1M",
        "aio_write -P 0x55 21M 1M",
        "aio_flush",
        "read -P 0x44 20M 1M",
        "read -P 0x55 21M 1M",
        "write -P 0x66 63M 1M",
        "read -P 0x66 63M 1M",
        "writev -P 0x77 30M 4k 8k 512 16k",
        "read -P 0x77 30M 28k",
        "flush",
    ];
    let uri = cluster.uri("data");
    let mut tool = Tool::new("qemu-io").args(["-f", "raw"]);
    for command in commands {
        tool = tool.args(["-c", command]);
    }
    let printed = tool.arg(&uri).check()?;
    ensure!(!printed.contains("failed"), "{printed}");
    ensure!(!printed.contains("verification"), "{printed}");
    Ok(())
}

/// Every error that the protocol's specification names for a request that cannot be carried out.
#[test]
fn impossible_requests_get_the_errors_of_the_specification() -> Result<()> {
    let cluster = small(&[])?;
    cluster.create_volume("data", "64MiB", 3)?;
    let script = include_str!("nbd_errors.py");
    let printed = Tool::new("python3")
        .args(["-", &cluster.nbd_port().to_string(), "data"])
        .stdin(script)
        .check()?;
    ensure!(
        printed.trim_end().ends_with("all as specified"),
        "{printed}"
    );
    Ok(())
}

/// Checksummed random writes by many jobs, each with a connection of its own.
#[test]
fn fio_verifies_what_many_connections_wrote() -> Result<()> {
    let cluster = small(&[])?;
    cluster.create_volume("data", "256MiB", 3)?;
    let uri = cluster.uri("data");
    Tool::new("fio")
        .args(["--name=verify", "--ioengine=nbd", "--rw=randwrite"])
        .arg(format!("--uri={uri}"))
        .args(["--bsrange=4k-64k", "--bs_unaligned=0", "--iodepth=16"])
        .args(["--numjobs=4", "--size=48M", "--offset_increment=64M"])
        .args([
            "--fsync=50",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_backlog=256",
            "--verify_state_save=0",
        ])
        .limit(Duration::from_secs(240))
        .check()?;
    Ok(())
}
