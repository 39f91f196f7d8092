//! What processes tell of themselves: metrics that Prometheus's own tool accepts and that count what was
//! done, and whether they live and serve.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Cluster, ClusterOptions, Tool};
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const ROLES: [&str; 6] = ["conductor", "store-0", "store-1", "store-2", "nbd", "iscsi"];

fn get(cluster: &Cluster, name: &str, path: &str) -> Result<String> {
    let url = format!("http://{}{path}", cluster.metrics_address(name)?);
    Tool::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "10",
            &url,
        ])
        .check()
}

/// The status that a path is answered with, and the text.
fn status(cluster: &Cluster, name: &str, path: &str) -> Result<(u16, String)> {
    let url = format!("http://{}{path}", cluster.metrics_address(name)?);
    let answer = Tool::new("curl")
        .args([
            "--silent",
            "--max-time",
            "10",
            "--write-out",
            "\n%{http_code}",
            &url,
        ])
        .check()?;
    let (text, code) = answer.rsplit_once('\n').context("no status")?;
    Ok((code.trim().parse()?, text.trim().to_owned()))
}

/// The sum of all samples of a family that have these words in their labels.
fn sum(metrics: &str, family: &str, labels: &[&str]) -> f64 {
    let of_family = metrics.lines().filter(|line| {
        let rest = line.strip_prefix(family);
        rest.is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
    });
    let wanted = of_family.filter(|line| labels.iter().all(|label| line.contains(label)));
    let values = wanted.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}

fn cluster() -> Result<Cluster> {
    let mut cluster = Cluster::start(ClusterOptions {
        separate: true,
        metrics: true,
        disk_size: "1GiB".to_owned(),
        ..ClusterOptions::default()
    })?;
    cluster.start_service("iscsi")?;
    Ok(cluster)
}

/// So many MiB of something to the front of a volume.
fn write(cluster: &Cluster, volume: &str, mebibytes: u32) -> Result<()> {
    let file = cluster.path().join("source");
    std::fs::write(&file, vec![7; usize::try_from(mebibytes)? << 20])?;
    Tool::new("nbdcopy")
        .arg(&file)
        .arg(cluster.uri(volume))
        .check()?;
    Ok(())
}

#[test]
fn promtool_accepts_what_every_process_tells() -> Result<()> {
    let cluster = cluster()?;
    cluster.create_volume("v", "64MiB", 3)?;
    write(&cluster, "v", 64)?;
    for name in ROLES {
        let metrics = wait_for("metrics", LIMIT, || get(&cluster, name, "/metrics"))?;
        let checked = Tool::new("promtool")
            .args(["check", "metrics"])
            .stdin(metrics.clone().into_bytes())
            .run()?;
        ensure!(
            checked.status.success() && checked.stderr.is_empty(),
            "{name}: {}\n{metrics}",
            checked.stderr
        );
    }
    Ok(())
}

#[test]
fn what_was_written_is_counted_at_every_stage() -> Result<()> {
    const MEBIBYTES: u32 = 32;
    let cluster = cluster()?;
    cluster.create_volume("v", "64MiB", 3)?;
    write(&cluster, "v", MEBIBYTES)?;
    let bytes = |name: &str, stage: &str| -> Result<f64> {
        let metrics = get(&cluster, name, "/metrics")?;
        let labels = [stage, "operation=\"write\""];
        let timed = sum(&metrics, "ashlar_io_duration_seconds_count", &labels);
        ensure!(timed > 0.0, "{stage} of {name} is not timed\n{metrics}");
        let failed = sum(&metrics, "ashlar_io_errors_total", &labels);
        ensure!(failed == 0.0, "{metrics}");
        Ok(sum(&metrics, "ashlar_io_bytes_total", &labels))
    };
    let written = f64::from(MEBIBYTES << 20);
    ensure!(bytes("nbd", "stage=\"front_end\"")? == written);
    ensure!(bytes("nbd", "stage=\"owner\"")? == written);
    let of_stores = |stage: &str| -> Result<f64> {
        let stores = ["store-0", "store-1", "store-2"];
        stores.iter().map(|name| bytes(name, stage)).sum()
    };
    // Two of three replicas have each write when it is answered; one may be sent again.
    ensure!(of_stores("stage=\"store\"")? >= 2.0 * written);
    ensure!(of_stores("stage=\"log\"")? >= 2.0 * written);
    // Headers and zeroed segments come on top.
    ensure!(of_stores("stage=\"disk\"")? > of_stores("stage=\"log\"")?);
    let conductor = get(&cluster, "conductor", "/metrics")?;
    ensure!(sum(&conductor, "ashlar_conductor_leads", &[]) == 1.0);
    ensure!(sum(&conductor, "ashlar_cluster_nodes", &["state=\"up\""]) == 3.0);
    ensure!(sum(&conductor, "ashlar_cluster_volumes", &["healthy"]) == 1.0);
    let store = get(&cluster, "store-0", "/metrics")?;
    ensure!(sum(&store, "ashlar_disk_live_bytes", &[]) > 0.0);
    Ok(())
}

#[test]
fn a_store_without_a_conductor_lives_but_is_not_ready_and_says_why() -> Result<()> {
    let mut cluster = cluster()?;
    for name in ROLES {
        wait_for("all to be ready", LIMIT, || {
            let (code, text) = status(&cluster, name, "/readyz")?;
            ensure!(code == 200, "{name}: {text}");
            Ok(())
        })?;
        ensure!(status(&cluster, name, "/healthz")? == (200, "ok".to_owned()));
    }
    // Who served goes on serving.
    cluster.service("conductor").kill();
    ensure!(status(&cluster, "store-0", "/readyz")?.0 == 200);
    let stopped = cluster.service("store-0").stop(LIMIT)?;
    ensure!(stopped.success(), "{stopped}");
    cluster.start_service("store-0")?;
    wait_for("the reason", LIMIT, || {
        let (code, text) = status(&cluster, "store-0", "/readyz")?;
        ensure!(code == 503, "{text}");
        let reason = "not ready: no conductor has taken this store in yet";
        ensure!(text == reason, "{text}");
        Ok(())
    })?;
    ensure!(status(&cluster, "store-0", "/healthz")?.0 == 200);
    cluster.start_service("conductor")?;
    wait_for("the store to be ready", LIMIT, || {
        let (code, text) = status(&cluster, "store-0", "/readyz")?;
        ensure!(code == 200, "{text}");
        Ok(())
    })
}

#[test]
fn alerts_and_dashboard_ask_for_what_is_told() -> Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    let alerts = directory.join("prometheus/alerts.yaml");
    let promtool = |what: &str, file: &Path| {
        let checked = Tool::new("promtool").args([what, "rules"]).arg(file);
        checked.check()
    };
    promtool("check", &alerts)?;
    promtool("test", &directory.join("prometheus/alerts-test.yaml"))?;
    let cluster = cluster()?;
    cluster.create_volume("v", "64MiB", 3)?;
    write(&cluster, "v", 1)?;
    let mut told = String::new();
    for name in ROLES {
        told += &wait_for("metrics", LIMIT, || get(&cluster, name, "/metrics"))?;
    }
    // Those of a volume are told while it is attached, others when they first happen.
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cli/src/telemetry");
    told += &std::fs::read_to_string(sources.join("owners.rs"))?;
    let dashboard = std::fs::read_to_string(directory.join("grafana/ashlar.json"))?;
    let asked = dashboard + &std::fs::read_to_string(alerts)?;
    let words = asked.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let mut names = words.filter(|w| w.starts_with("ashlar_") || w.starts_with("process_"));
    let untold = names.find(|name| !told.contains(name));
    ensure!(untold.is_none(), "nobody tells {untold:?}");
    Ok(())
}
