//! The chart of deploy/helm/ashlar: rendered by helm, judged by kubeconform, read as JSON.
//!
//! Both, Kubernetes' schemas and a Python that reads YAML lie in `ASHLAR_KUBERNETES`; `scripts/setup` puts
//! them there.

use crate::{Finished, Tool, binary};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The oldest Kubernetes that the chart is for, and a recent one.
pub const OLDEST: &str = "1.29.0";
/// See [`OLDEST`].
pub const RECENT: &str = "1.34.0";

const READ_YAML: &str = "import json, sys, yaml
print(json.dumps([one for one in yaml.safe_load_all(sys.stdin) if one]))";

/// The root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where the tools are.
#[must_use]
pub fn tools() -> PathBuf {
    let path = std::env::var_os("ASHLAR_KUBERNETES");
    path.map_or_else(|| binary::target_dir().join("kubernetes"), PathBuf::from)
}

/// helm with a command, for the chart with these values.
///
/// # Errors
///
/// If it cannot be run.
pub fn helm(command: &[&str], values: &[&str]) -> Result<Finished> {
    let helm = tools().join("bin/helm");
    ensure!(
        helm.exists(),
        "there is no {}: run scripts/setup",
        helm.display()
    );
    Tool::new(helm)
        .current_dir(&root())
        .args(command)
        .args(values)
        .run()
}

/// The manifests with these values, as YAML.
///
/// # Errors
///
/// If helm refuses.
pub fn render(version: &str, values: &[&str]) -> Result<String> {
    let version = format!("--kube-version={version}");
    let command = [
        "template",
        "ashlar",
        "deploy/helm/ashlar",
        "--namespace=ashlar-system",
        &version,
    ];
    let rendered = helm(&command, values)?;
    ensure!(rendered.status.success(), "{values:?}: {rendered:?}");
    Ok(rendered.stdout)
}

/// The documents of a YAML text.
///
/// # Errors
///
/// If it is none.
pub fn read(yaml: &str) -> Result<Vec<Value>> {
    let json = Tool::new(tools().join("python/bin/python"))
        .args(["-c", READ_YAML])
        .stdin(yaml)
        .check()?;
    serde_json::from_str(&json).context("not JSON")
}

/// Holds manifests against the schemas of a version of Kubernetes and of the CRDs of snapshots; how many
/// there were.
///
/// # Errors
///
/// Which are wrong, and how.
pub fn judge(version: &str, yaml: &str) -> Result<usize> {
    let schemas = tools().join("schemas");
    let kinds = "{{.NormalizedKubernetesVersion}}/{{.ResourceKind}}{{.KindSuffix}}.json";
    let judged = Tool::new(tools().join("bin/kubeconform"))
        .args(["-summary", "-output=json", "-verbose"])
        // The Prometheus operator's, whose schemas come with nothing that is installed here.
        .arg("-skip=PodMonitor")
        .arg(format!("-kubernetes-version={version}"))
        .arg(format!("-schema-location={}/{kinds}", schemas.display()))
        .stdin(yaml)
        .run()?;
    let report: Value = serde_json::from_str(&judged.stdout).context("no report")?;
    let wrong: Vec<&Value> = report["resources"]
        .as_array()
        .context("no resources")?
        .iter()
        .filter(|one| {
            !["statusValid", "statusSkipped"].contains(&one["status"].as_str().unwrap_or(""))
        })
        .collect();
    ensure!(wrong.is_empty() && judged.status.success(), "{wrong:#?}");
    let valid = report["summary"]["valid"].as_u64().context("no summary")?;
    Ok(usize::try_from(valid)?)
}

/// The template of the pods of a manifest, if it has one.
#[must_use]
pub fn pod(manifest: &Value) -> Option<&Value> {
    let pod = &manifest["spec"]["template"]["spec"];
    pod["containers"].is_array().then_some(pod)
}

/// Containers of a pod; those that initialise it first.
#[must_use]
pub fn containers(pod: &Value) -> Vec<&Value> {
    let of = |kind: &str| pod[kind].as_array().into_iter().flatten();
    of("initContainers").chain(of("containers")).collect()
}

/// A list of texts.
#[must_use]
pub fn texts(list: &Value) -> Vec<String> {
    let texts = list.as_array().into_iter().flatten();
    texts
        .filter_map(|text| text.as_str().map(str::to_owned))
        .collect()
}
