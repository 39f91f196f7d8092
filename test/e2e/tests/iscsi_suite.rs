//! libiscsi's own suite, unchanged, against a volume and, in the same run, against tgt: more of it must
//! pass here, and less be skipped. What does not pass, and what is skipped, is listed with its reason.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Cluster, Service, Tool, binary};
use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

/// The suite takes less than two minutes; machines under load take longer.
const LIMIT: Duration = Duration::from_secs(600);

/// What fails, and why it may.
const KNOWN_FAILURES: [(&str, &str); 2] = [
    (
        "Suite GetLBAStatus, Test UnmapSingle",
        "asks for LBA n + 1 and expects the answer to begin at n + 8 where a physical block has 8 \
         logical ones",
    ),
    (
        "Suite WriteSame10, Test UnmapUntilEnd",
        "writes a block of 0xff with UNMAP and expects zeroes: with LBPRZ a block that is not zero is \
         written (SBC-3, 5.41)",
    ),
];

/// Fails, for it needs a sanitize that takes longer than three seconds.
const LONG_SANITIZE: &str = "Suite Sanitize, Test Reset";

/// What is skipped, and why it may be.
const KNOWN_SKIPS: [(&str, &str); 6] = [
    ("not removable", "a volume is no removable medium"),
    (
        "not write-protected",
        "the suite runs on a volume that can be written",
    ),
    ("--allow-sanitize", "SANITIZE is run apart, see below"),
    (
        "WRITEATOMIC16",
        "several blocks are not written as one: not offered",
    ),
    (
        "COLD_RESET",
        "ends the sessions of all initiators: not offered",
    ),
    ("ColdReset", "the same"),
];

/// How a run of the suite went.
#[derive(Debug)]
struct Outcome {
    passed: u32,
    failed: u32,
    skipped: Vec<String>,
    failures: BTreeSet<String>,
}

fn run(url: &str, arguments: &[&str]) -> Result<Outcome> {
    let tool = Tool::new("iscsi-test-cu").args(["--dataloss", "--normal", "--fail"]);
    // The same unit twice: tests of several paths have two sessions to it.
    let finished = tool.args(arguments).args([url, url]).limit(LIMIT).run()?;
    let output = format!("{}{}", finished.stdout, finished.stderr);
    let summary = output.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "tests").then(|| words.map(str::to_owned).collect::<Vec<_>>())
    });
    let summary = summary.with_context(|| format!("no summary:\n{output}"))?;
    let failures = output.lines().filter_map(|line| {
        let line = line.trim();
        line.strip_suffix(" had failures:").map(str::to_owned)
    });
    let skipped = output.lines().filter(|line| line.contains("SKIPPED"));
    Ok(Outcome {
        passed: summary[2].parse()?,
        failed: summary[3].parse()?,
        skipped: skipped.map(|line| line.trim().to_owned()).collect(),
        failures: failures.collect(),
    })
}

/// tgt with one unit of 256 MiB in a file.
fn tgt(directory: &Path) -> Result<(Service, String)> {
    const TARGET: &str = "iqn.2026-01.test:tgt";
    let disk = directory.join("tgt.disk");
    std::fs::File::create(&disk)?.set_len(256 << 20)?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let portal = format!("portal=127.0.0.1:{port}");
    // It is told by a number which of several it is.
    let control = (port % 10_000).to_string();
    let arguments = ["-f", "-C", &control, "--iscsi", &portal];
    let log = directory.join("tgt.log");
    let service = Service::start("tgtd", &log, Path::new("/usr/sbin/tgtd"), arguments)?;
    let tell = |words: &str| {
        let tool = Tool::new("tgtadm").args(["-C", &control, "--lld", "iscsi"]);
        tool.args(words.split(' ')).check()
    };
    wait_for("tgt", Duration::from_secs(20), || {
        TcpStream::connect(("127.0.0.1", port))?;
        tell("--mode target --op show")
    })?;
    tell(&format!("--mode target --op new --tid 1 -T {TARGET}"))?;
    let disk = disk.display();
    tell(&format!(
        "--mode logicalunit --op new --tid 1 --lun 1 -b {disk}"
    ))?;
    tell("--mode target --op bind --tid 1 -I ALL")?;
    Ok((service, format!("iscsi://127.0.0.1:{port}/{TARGET}/1")))
}

fn url(cluster: &Cluster, volume: &str) -> String {
    let address = cluster.iscsi_address();
    format!("iscsi://{address}/iqn.2026-11.io.ashlar:{volume}/1")
}

#[test]
fn more_of_libiscsis_suite_passes_than_with_tgt() -> Result<()> {
    let cluster = Cluster::up()?;
    cluster.create_volume("v", "256MiB", 3)?;
    let directory = tempfile::tempdir_in(binary::work_dir())?;
    let (mut service, peer) = tgt(directory.path())?;
    let own = url(&cluster, "v");
    // They wait more than they work.
    let (ours, theirs) = std::thread::scope(|scope| {
        let ours = scope.spawn(|| run(&own, &[]));
        let theirs = run(&peer, &[]);
        (ours.join().expect("the thread ends"), theirs)
    });
    let (ours, theirs) = (ours?, theirs?);
    service.kill();
    for (name, outcome) in [("ashlar", &ours), ("tgt", &theirs)] {
        println!(
            "{name}: {} passed, {} failed, {} lines of skips; failures: {:?}",
            outcome.passed,
            outcome.failed,
            outcome.skipped.len(),
            outcome.failures
        );
    }
    for (test, reason) in KNOWN_FAILURES {
        println!("  {test}: {reason}");
    }
    let known = KNOWN_FAILURES.map(|(test, _)| test);
    let new: Vec<_> = ours
        .failures
        .iter()
        .filter(|f| !known.contains(&f.as_str()))
        .collect();
    ensure!(new.is_empty(), "failures with no reason: {new:?}");
    let is_known = |skip: &&String| KNOWN_SKIPS.iter().any(|(text, _)| skip.contains(text));
    let new: Vec<_> = ours.skipped.iter().filter(|skip| !is_known(skip)).collect();
    ensure!(new.is_empty(), "skips with no reason: {new:?}");
    let sanitized = run(&own, &["--allow-sanitize", "--test", "SCSI.Sanitize"])?;
    println!("SANITIZE: {sanitized:?}");
    let is_known = |failure: &String| failure == LONG_SANITIZE;
    ensure!(
        sanitized.passed >= 10 && sanitized.failures.iter().all(is_known),
        "SANITIZE fails"
    );
    ensure!(
        ours.passed > theirs.passed && ours.skipped.len() < theirs.skipped.len(),
        "tgt does better"
    );
    Ok(())
}
