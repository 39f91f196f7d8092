//! The API against its own document: Schemathesis makes requests from it, right ones and wrong ones, and
//! nothing that comes back may be a failure of the server or an answer that the document does not know.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ashlar_e2e::{Cluster, Tool};

/// The run is bounded by the number of requests; machines under load take longer.
const LIMIT: Duration = Duration::from_secs(600);

/// Requests to each operation and of each sort.
const EXAMPLES_MAX: &str = "12";

/// The same requests each time.
const SEED: &str = "2611";

/// What is sent to all operations: no watch, which does not end, and no waiting. What is refused for want
/// of space is an answer like any other, though its status begins with a 5.
const CONFIG: &str = r#"
[parameters]
"query.watch" = false
"query.wait_ms" = 0

[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "507"]
"#;

/// What is checked of each answer.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
     response_schema_conformance,response_headers_conformance";

fn schemathesis() -> PathBuf {
    let path = std::env::var_os("ASHLAR_SCHEMATHESIS");
    path.map_or_else(
        || ashlar_e2e::binary::target_dir().join("schemathesis/bin/schemathesis"),
        PathBuf::from,
    )
}

#[test]
fn no_answer_is_a_failure_or_unknown_to_the_document() -> Result<()> {
    let cluster = Cluster::up()?;
    for name in ["1", "0", "data"] {
        cluster.json(["volume", "create", name, "--size", "8MiB"])?;
    }
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("schemathesis.toml");
    std::fs::write(&config, CONFIG)?;
    let finished = Tool::new(schemathesis())
        .arg("--config-file")
        .arg(&config)
        .args(["run", "--no-color", "--seed", SEED])
        .args(["--checks", CHECKS, "--max-examples", EXAMPLES_MAX])
        .args(["--phases", "examples,coverage,fuzzing"])
        .args(["--request-timeout", "20", "--generation-database", "none"])
        .args(["--continue-on-failure", "--suppress-health-check", "all"])
        .arg(format!("http://{}/v1/openapi.json", cluster.api_address()))
        .current_dir(directory.path())
        .limit(LIMIT)
        .run()
        .context("run scripts/setup for Schemathesis")?;
    println!("{}", finished.stdout);
    ensure!(
        finished.status.success(),
        "Schemathesis found:\n{}\n{}",
        finished.stdout,
        finished.stderr
    );
    // The conductor is as it was.
    cluster.json(["status"])?;
    Ok(())
}
