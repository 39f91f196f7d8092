//! The command line, as people and scripts use it: exit codes, JSON, messages, help.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::{Cluster, ClusterOptions, Finished, Tool, binary};
use std::fs;
use std::net::TcpListener;
use std::time::Duration;

fn code(finished: &Finished, expected: i32) -> Result<()> {
    ensure!(
        finished.code() == Some(expected),
        "`{}` ended with {}, expected {expected}\n{}\n{}",
        finished.line,
        finished.status,
        finished.stdout,
        finished.stderr
    );
    Ok(())
}

#[test]
fn volumes_are_created_listed_shown_and_deleted() -> Result<()> {
    let cluster = Cluster::up()?;
    let created = cluster.json(["volume", "create", "data", "--size", "1GiB", "--ack", "all"])?;
    ensure!(
        created["size_bytes"] == 1 << 30 && created["replicas"] == 3,
        "{created}"
    );
    ensure!(created["ack"] == "all", "{created}");
    cluster.create_volume("other", "64MiB", 1)?;

    let list = cluster.json(["volume", "list"])?;
    let names: Vec<_> = list
        .as_array()
        .context("no list")?
        .iter()
        .map(|v| &v["name"])
        .collect();
    ensure!(names == ["data", "other"], "{list}");
    let table = cluster.ashlar(["volume", "list"]).check()?;
    ensure!(
        table.contains("NAME") && table.contains("data") && table.contains("1.0 GiB"),
        "{table}"
    );
    let shown = cluster.ashlar(["volume", "show", "other"]).check()?;
    ensure!(shown.contains("in sync") && shown.contains("64"), "{shown}");

    // What goes wrong has a code of its own and says what, to what.
    let again = cluster
        .ashlar(["volume", "create", "data", "--size", "1GiB"])
        .run()?;
    code(&again, 4)?;
    ensure!(again.stderr.contains("data"), "{}", again.stderr);
    let missing = cluster.ashlar(["volume", "show", "nothing"]).run()?;
    code(&missing, 3)?;
    ensure!(missing.stderr.contains("nothing"), "{}", missing.stderr);
    code(&cluster.ashlar(["volume", "delete", "nothing"]).run()?, 3)?;
    code(
        &cluster
            .ashlar(["volume", "create", "x", "--size", "lots"])
            .run()?,
        2,
    )?;
    code(
        &cluster
            .ashlar(["volume", "create", "x", "--size", "1GiB", "--replicas", "4"])
            .run()?,
        2,
    )?;
    code(&cluster.ashlar(["volume", "create", "x"]).run()?, 2)?;
    for (name, size) in [("Not/A/Name", "1GiB"), ("x", "1000"), ("x", "4097")] {
        let refused = cluster
            .ashlar(["volume", "create", name, "--size", size])
            .run()?;
        ensure!(!refused.status.success(), "{name} of {size} was accepted");
        ensure!(!refused.stderr.contains("panicked"), "{}", refused.stderr);
    }

    cluster.ashlar(["volume", "delete", "other"]).check()?;
    code(&cluster.ashlar(["volume", "show", "other"]).run()?, 3)?;
    // The name is free again.
    cluster.create_volume("other", "64MiB", 2)
}

#[test]
fn nodes_disks_and_status_are_shown() -> Result<()> {
    let cluster = Cluster::up()?;
    let status = cluster.json(["status"])?;
    ensure!(
        status["health"] == "healthy" && status["nodes"] == 3,
        "{status}"
    );
    ensure!(
        status["disks"] == 3 && status["disks_failed"] == 0,
        "{status}"
    );
    ensure!(
        status["usable_bytes"].as_u64().context("no usable")? > 4 << 30,
        "{status}"
    );
    let text = cluster.ashlar(["status"]).check()?;
    ensure!(
        text.contains("healthy") && text.contains("3 of 3 up"),
        "{text}"
    );
    let nodes = cluster.json(["node", "list"])?;
    ensure!(
        nodes.as_array().is_some_and(|nodes| nodes.len() == 3),
        "{nodes}"
    );
    ensure!(
        cluster.ashlar(["node", "list"]).check()?.contains("up"),
        "no state"
    );
    let disks = cluster.ashlar(["disk", "list"]).check()?;
    ensure!(disks.contains("none"), "damage on new disks? {disks}");
    Ok(())
}

#[test]
fn nobody_there_is_told_from_not_found() -> Result<()> {
    let port = ashlar_e2e::cluster::free_port()?;
    let api = format!("http://127.0.0.1:{port}");
    let status = Tool::new(binary::ashlar())
        .args(["status", "--api", &api])
        .run()?;
    code(&status, 5)?;
    ensure!(
        status.stderr.contains(&port.to_string()),
        "{}",
        status.stderr
    );
    Ok(())
}

#[test]
fn a_taken_port_is_named() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let free = format!("127.0.0.1:{}", ashlar_e2e::cluster::free_port()?);
    let directory = tempfile::tempdir_in(binary::work_dir())?;
    for (api, nbd) in [(&address, &free), (&free, &address)] {
        let up = Tool::new(binary::ashlar())
            .args(["up", "--stores", "1", "--disk-size", "2GiB", "--data"])
            .arg(directory.path())
            .args(["--api", api, "--nbd", nbd])
            .limit(Duration::from_secs(20))
            .run()?;
        code(&up, 1)?;
        ensure!(
            up.stderr.contains(&address),
            "the taken address is not named: {}",
            up.stderr
        );
        ensure!(!up.stderr.contains("panicked"), "{}", up.stderr);
    }
    Ok(())
}

#[test]
fn a_data_directory_serves_one_process() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions {
        stores: 1,
        ..ClusterOptions::default()
    })?;
    let second = Tool::new(binary::ashlar())
        .args(["up", "--stores", "1", "--data"])
        .arg(cluster.data_path())
        .args([
            "--api",
            &format!("127.0.0.1:{}", ashlar_e2e::cluster::free_port()?),
        ])
        .args([
            "--nbd",
            &format!("127.0.0.1:{}", ashlar_e2e::cluster::free_port()?),
        ])
        .limit(Duration::from_secs(20))
        .run()?;
    code(&second, 1)?;
    ensure!(!second.stderr.contains("panicked"), "{}", second.stderr);
    ensure!(
        cluster.json(["status"])?["nodes_up"] == 1,
        "the first one was disturbed"
    );
    Ok(())
}

#[test]
fn a_formatted_disk_is_not_formatted_again() -> Result<()> {
    let directory = tempfile::tempdir_in(binary::work_dir())?;
    let disk = directory.path().join("disk");
    let format = || {
        Tool::new(binary::ashlar())
            .args(["disk", "format"])
            .arg(&disk)
    };
    format().args(["--size", "2GiB"]).check()?;
    let before = fs::read(&disk)?;
    let again = format().args(["--size", "2GiB"]).run()?;
    ensure!(!again.status.success(), "it was formatted again");
    ensure!(
        again.stderr.contains("force"),
        "no way out is named: {}",
        again.stderr
    );
    ensure!(
        fs::read(&disk)? == before,
        "a refused format changed the disk"
    );
    let inspected = Tool::new(binary::ashlar())
        .args(["disk", "inspect"])
        .arg(&disk)
        .check()?;
    ensure!(!inspected.is_empty(), "the inspector says nothing");
    format().args(["--size", "2GiB", "--force"]).check()?;

    let nothing = directory.path().join("nothing");
    fs::write(&nothing, vec![0; 4 << 20])?;
    let inspected = Tool::new(binary::ashlar())
        .args(["disk", "inspect"])
        .arg(&nothing)
        .run()?;
    code(&inspected, 1)?;
    ensure!(inspected.stderr.contains("nothing"), "{}", inspected.stderr);
    ensure!(
        !inspected.stderr.contains("panicked"),
        "{}",
        inspected.stderr
    );
    Ok(())
}

#[test]
fn every_command_has_help_with_an_example() -> Result<()> {
    let help = Tool::new(binary::ashlar()).arg("--help").check()?;
    for command in [
        "up",
        "conductor",
        "store",
        "nbd",
        "iscsi",
        "volume",
        "target",
        "node",
        "disk",
        "status",
        "bench",
    ] {
        ensure!(help.contains(command), "{command} is not in the help");
    }
    let commands = [
        "up",
        "conductor",
        "store",
        "nbd",
        "iscsi",
        "status",
        "bench",
        "volume create",
        "volume list",
        "volume show",
        "volume delete",
        "volume reservations",
        "target create",
        "target map",
        "node list",
        "disk list",
        "disk format",
        "disk inspect",
    ];
    for command in commands {
        let help = Tool::new(binary::ashlar())
            .args(command.split(' '))
            .arg("--help")
            .check()?;
        ensure!(
            help.contains("Example"),
            "{command} --help has no example:\n{help}"
        );
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = Tool::new(binary::ashlar())
            .args(["completions", shell])
            .check()?;
        ensure!(script.contains("ashlar"), "no completions for {shell}");
    }
    Ok(())
}

#[test]
fn the_built_in_load_reports_latency_and_cpu() -> Result<()> {
    let cluster = Cluster::up()?;
    cluster.create_volume("v", "64MiB", 3)?;
    for pattern in ["randwrite", "randread", "write", "read"] {
        let arguments = [
            "bench", "v", "--rw", pattern, "--depth", "8", "--time", "1s",
        ];
        let report = cluster.json(arguments)?;
        ensure!(
            report["iops"].as_f64().context("no IOPS")? > 100.0,
            "{report}"
        );
        let latency = &report["latency_us"];
        for (lower, upper) in [("p50", "p99"), ("p99", "p99_9"), ("p99_9", "max")] {
            ensure!(
                latency[lower].as_f64() <= latency[upper].as_f64(),
                "{report}"
            );
        }
        ensure!(
            report["cpu_us_per_request"].as_f64().context("no CPU")? > 0.0,
            "{report}"
        );
    }
    Ok(())
}

#[test]
fn the_same_data_directory_gives_the_same_volumes() -> Result<()> {
    let mut cluster = Cluster::up()?;
    cluster.create_volume("v", "64MiB", 3)?;
    let before = cluster.json(["volume", "show", "v"])?;
    let nodes = cluster.json(["node", "list"])?;
    cluster.stop()?;
    cluster.restart()?;
    let after = cluster.json(["volume", "show", "v"])?;
    for field in ["id", "name", "size_bytes", "replicas", "ack", "shards"] {
        ensure!(
            before[field] == after[field],
            "{field}: {before} and {after}"
        );
    }
    let ids = |list: &serde_json::Value| -> Vec<String> {
        list.as_array()
            .into_iter()
            .flatten()
            .map(|node| node["id"].to_string())
            .collect()
    };
    ensure!(
        ids(&nodes) == ids(&cluster.json(["node", "list"])?),
        "nodes changed their ids"
    );
    Ok(())
}
