//! Many volumes at once: made, listed, labelled and deleted; the rates are printed.
//!
//! `ASHLAR_API_VOLUMES=1000` makes as many of three replicas each; without it there are few, enough to see
//! that it goes through.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ashlar_e2e::{Cluster, ClusterOptions, Tool};
use serde_json::Value;

/// Requests under way at a time.
const PARALLEL: usize = 16;

fn count() -> usize {
    let given = std::env::var("ASHLAR_API_VOLUMES").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(60)
}

/// Sends one request for each line of a configuration of curl, some at a time; all must succeed.
fn send(requests: &[String]) -> Result<Duration> {
    let start = Instant::now();
    let mut config = requests.join("next\n");
    config.insert_str(0, "parallel\n");
    Tool::new("curl")
        .args(["--silent", "--show-error", "--fail-early", "--parallel-max"])
        .arg(PARALLEL.to_string())
        .args(["--config", "-"])
        .stdin(config.into_bytes())
        .limit(Duration::from_secs(900))
        .check()?;
    Ok(start.elapsed())
}

fn request(url: &str, method: &str, key: &str, body: Option<&Value>) -> String {
    let mut lines = format!(
        "url = \"{url}\"\nrequest = {method}\nfail\noutput = /dev/null\nheader = \"idempotency-key: {key}\"\n"
    );
    if let Some(body) = body {
        let body = body.to_string().replace('\\', "\\\\").replace('"', "\\\"");
        lines += &format!("header = \"content-type: application/json\"\ndata = \"{body}\"\n");
    }
    lines
}

fn print(what: &str, count: usize, elapsed: Duration) {
    let rate = count as f64 / elapsed.as_secs_f64();
    println!(
        "{what:<8} {count} volumes in {:.2} s: {rate:.0} a second",
        elapsed.as_secs_f64()
    );
}

#[test]
fn many_volumes_are_made_listed_labelled_and_deleted() -> Result<()> {
    let count = count();
    let disk_size = if count > 500 { "8GiB" } else { "1GiB" };
    let cluster = Cluster::start(ClusterOptions {
        disk_size: disk_size.to_owned(),
        ..ClusterOptions::default()
    })?;
    let url = |rest: &str| format!("http://{}/v1/volumes{rest}", cluster.api_address());
    let name = |number: usize| format!("v{number:05}");
    let made: Vec<String> = (0..count)
        .map(|number| {
            let body = serde_json::json!({
                "name": name(number),
                "size_bytes": 1 << 20,
                "replicas": 3,
                "labels": {"batch": (number % 10).to_string()},
            });
            request(&url(""), "POST", &format!("make-{number}"), Some(&body))
        })
        .collect();
    print("made", count, send(&made)?);

    let start = Instant::now();
    let list = cluster.json(["volume", "list"])?;
    print("listed", count, start.elapsed());
    let list = list.as_array().context("no list")?;
    ensure!(list.len() == count, "{} of {count} are listed", list.len());
    ensure!(
        list.iter().all(|volume| volume["state"] == "ready"),
        "not all are ready"
    );
    let batch = cluster.json(["volume", "list", "--labels", "batch=3"])?;
    let batch = batch.as_array().context("no list")?.len();
    ensure!(
        batch == count / 10,
        "{batch} have a label of a tenth of {count}"
    );

    let labels = serde_json::json!({"set": {"seen": "yes"}});
    let labelled: Vec<String> = (0..count)
        .map(|number| {
            let url = url(&format!("/{}/label", name(number)));
            request(&url, "POST", &format!("label-{number}"), Some(&labels))
        })
        .collect();
    print("labelled", count, send(&labelled)?);
    let seen = cluster.json(["volume", "list", "--labels", "seen=yes"])?;
    ensure!(
        seen.as_array().map(Vec::len) == Some(count),
        "not all are labelled"
    );

    // Made once more, with the same keys: nothing happens.
    print("again", count, send(&made)?);
    let list = cluster.json(["volume", "list"])?;
    ensure!(list.as_array().map(Vec::len) == Some(count), "made twice");

    let deleted: Vec<String> = (0..count)
        .map(|number| {
            let url = url(&format!("/{}", name(number)));
            request(&url, "DELETE", &format!("delete-{number}"), None)
        })
        .collect();
    print("deleted", count, send(&deleted)?);
    let list = cluster.json(["volume", "list"])?;
    ensure!(
        list.as_array().is_some_and(Vec::is_empty),
        "not all are gone"
    );
    Ok(())
}

/// The measurement of a conductor that has many of everything goes through, with few of them.
#[test]
fn a_conductor_of_simulated_stores_is_measured() -> Result<()> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/bench-conductor");
    let few = "--quick --volumes 200 --stores 10 --watches 5";
    let told = Tool::new("python3")
        .arg(script)
        .args(few.split(' '))
        .env("ASHLAR_BIN", ashlar_e2e::binary::ashlar())
        .limit(Duration::from_secs(180))
        .check()?;
    println!("{told}");
    for what in ["fan-out", "start-up, full", "node failure"] {
        ensure!(told.contains(what), "nothing of {what}: {told}");
    }
    Ok(())
}
