//! The CSI community's own suite, csi-sanity, unchanged, against the driver with a real conductor, real
//! stores and real mounts. What is skipped is listed with its reason; nothing may fail.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::csi::Driver;
use ashlar_e2e::{Cluster, Tool};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// The suite takes some seconds; machines under load take longer.
const LIMIT: Duration = Duration::from_secs(600);

/// What the suite runs, at least: less would mean that it no longer sees what the driver can do.
const PASSED_MIN: usize = 97;

/// What the suite skips, and why it may.
const KNOWN_SKIPS: [(&str, &str); 6] = [
    (
        "pagination should detect volumes added between pages",
        "the suite itself has it switched off",
    ),
    (
        "should fail when publishing more volumes than the node max attach limit",
        "nodes have no limit",
    ),
    (
        "should succeed when creating a snapshot with accessibility requirements",
        "there is no topology",
    ),
    (
        "NodeGetVolumeHealth should fail",
        "nodes do not say how volumes are",
    ),
    ("NodeGetVolumeHealth should return", "the same"),
    (
        "NodeGetStorageHealth should return",
        "nodes do not say how the cluster is",
    ),
];

fn csi_sanity() -> PathBuf {
    let path = std::env::var_os("ASHLAR_CSI_SANITY");
    path.map_or_else(
        || ashlar_e2e::binary::target_dir().join("csi/csi-sanity"),
        PathBuf::from,
    )
}

/// Runs the suite, and fails where a test of it fails or is skipped without a reason.
fn suite(driver: &Driver, arguments: &[&str]) -> Result<()> {
    let directory = driver.directory();
    let report = directory.join("report.json");
    let finished = Tool::new(csi_sanity())
        .arg(format!("-csi.endpoint={}", driver.socket().display()))
        .arg(format!(
            "-csi.mountdir={}",
            directory.join("target").display()
        ))
        .arg(format!(
            "-csi.stagingdir={}",
            directory.join("staging").display()
        ))
        .args([
            "-csi.testvolumesize=67108864",
            "-csi.testvolumeexpandsize=134217728",
        ])
        .arg(format!("-ginkgo.json-report={}", report.display()))
        .arg("-ginkgo.no-color")
        .args(arguments)
        .limit(LIMIT)
        .run()?;
    let output = || {
        format!(
            "{}{}\nthe driver:\n{}",
            finished.stdout,
            finished.stderr,
            driver.log()
        )
    };
    ensure!(finished.status.success(), "csi-sanity:\n{}", output());
    let report: Value = serde_json::from_slice(&std::fs::read(&report)?)?;
    let tests = report[0]["SpecReports"]
        .as_array()
        .context("no tests in the report")?;
    let tests = tests.iter().filter(|test| test["LeafNodeType"] == "It");
    let (passed, others): (Vec<&Value>, Vec<&Value>) =
        tests.partition(|test| test["State"] == "passed");
    for other in others {
        let parts = other["ContainerHierarchyTexts"]
            .as_array()
            .into_iter()
            .flatten();
        let parts = parts
            .chain([&other["LeafNodeText"]])
            .filter_map(Value::as_str);
        let name = parts.collect::<Vec<_>>().join(" ");
        let known = KNOWN_SKIPS
            .iter()
            .any(|(skipped, _)| name.contains(skipped));
        ensure!(known, "`{name}` is {} without a reason", other["State"]);
    }
    let passed = passed.len();
    ensure!(
        passed >= PASSED_MIN,
        "only {passed} tests passed:\n{}",
        output()
    );
    Ok(())
}

#[test]
fn the_suite_passes_with_file_systems() -> Result<()> {
    let cluster = Cluster::up()?;
    let driver = Driver::start(&cluster)?;
    suite(&driver, &[])?;
    driver.check_clean()
}

#[test]
fn the_suite_passes_with_block_volumes() -> Result<()> {
    let cluster = Cluster::up()?;
    let driver = Driver::start(&cluster)?;
    suite(&driver, &["-csi.testvolumeaccesstype=block"])?;
    driver.check_clean()
}

#[test]
fn the_suite_passes_with_parameters() -> Result<()> {
    let cluster = Cluster::up()?;
    let driver = Driver::start(&cluster)?;
    let directory = driver.directory();
    std::fs::write(
        directory.join("class.yaml"),
        "replicas: \"2\"\nack: all\nfsType: ext4\n",
    )?;
    std::fs::write(directory.join("mutable.yaml"), "reserve: all\n")?;
    let class = format!(
        "-csi.testvolumeparameters={}",
        directory.join("class.yaml").display()
    );
    let mutable = directory.join("mutable.yaml");
    let mutable = format!("-csi.testvolumemutableparameters={}", mutable.display());
    suite(&driver, &[&class, &mutable])?;
    driver.check_clean()
}
