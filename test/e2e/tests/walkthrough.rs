//! The walkthrough of docs/kubernetes.md, as it is written: every block of `sh` in its order.
//!
//! A stand-in for kubectl keeps secrets as files, what is applied as manifests, and runs what is to run in
//! the conductor's pod beside it; helm renders. The conductor, the stores that join with the tokens, and
//! both parts of the driver are real.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::cluster::free_port;
use ashlar_e2e::manifests::{RECENT, judge, read, root, tools};
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Service, Tool, binary};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

const KUBECTL: &str = r#"#!/usr/bin/env bash
set -euo pipefail
[ "$1" != ashlar ] || exec kubectl-ashlar "${@:2}"
case "$*" in
    *"create secret generic"* | *"create configmap"*)
        while [ "$1" != generic ] && [ "$1" != configmap ]; do shift; done
        mkdir -p "secrets/$2"
        for from in "${@:3}"; do
            from=${from#--from-file=}
            if [ -d "$from" ]; then cp "$from"/* "secrets/$2/"; else cp "$from" "secrets/$2/"; fi
        done ;;
    exec*)
        while [ "$1" != -- ]; do shift; done
        exec env ASHLAR_API="$POD_API" ASHLAR_IDENTITY_DIR=identity "${@:2}" ;;
    "apply -f -") { echo ---; cat; } >>applied.yaml ;;
    "create namespace "* | "label node "* | "wait --for="*) ;;
    *) echo "kubectl $* is not stood in for" >&2; exit 9 ;;
esac
"#;

const HELM: &str = r#"#!/usr/bin/env bash
set -euo pipefail
[ "$1" = install ]
"$HELM" template --kube-version 1.34.0 "${@:2}" >>rendered.yaml
"#;

/// The blocks of `sh` of the walkthrough.
fn blocks() -> Result<Vec<String>> {
    let page = fs::read_to_string(root().join("docs/kubernetes.md"))?;
    let begun = page.split("```sh\n").skip(1);
    Ok(begun
        .filter_map(|text| Some(text.split_once("\n```")?.0.to_owned()))
        .collect())
}

/// A directory in which the commands of the page find what they name.
struct Desk {
    directory: tempfile::TempDir,
    api: u16,
}

impl Desk {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir_in(binary::work_dir())?;
        let path = directory.path();
        let bin = path.join("bin");
        fs::create_dir(&bin)?;
        for (name, text) in [("kubectl", KUBECTL), ("helm", HELM)] {
            fs::write(bin.join(name), text)?;
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755))?;
        }
        for name in ["ashlar", "kubectl-ashlar"] {
            symlink(fs::canonicalize(binary::ashlar())?, bin.join(name))?;
        }
        symlink(
            fs::canonicalize(root())?.join("deploy"),
            path.join("deploy"),
        )?;
        let api = free_port()?;
        Ok(Self { directory, api })
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    fn api(&self) -> String {
        format!("https://127.0.0.1:{}", self.api)
    }

    /// A command of a shell at this desk.
    fn shell(&self, text: &str) -> Tool {
        let path = format!(
            "{}:{}",
            self.path("bin").display(),
            std::env::var("PATH").unwrap_or_default()
        );
        Tool::new("env")
            .args(["-u", "ASHLAR_API"])
            .arg(format!("PATH={path}"))
            .args(["bash", "-euo", "pipefail", "-c", text])
            .current_dir(self.directory.path())
            .env("POD_API", self.api())
            .env("HELM", tools().join("bin/helm"))
    }

    fn start(&self, name: &str, arguments: &[String]) -> Result<Service> {
        let log = self.path(format!("{name}.log"));
        Service::start(name, &log, binary::ashlar(), arguments)
    }

    /// The conductor with the identity that its pod makes, by the very script of the manifest.
    fn conductor(&self) -> Result<Service> {
        let manifests = read(&fs::read_to_string(self.path("rendered.yaml"))?)?;
        let set = manifests.iter().find(|one| one["kind"] == "StatefulSet");
        let set = set.context("no conductor was rendered")?;
        let script = set["spec"]["template"]["spec"]["initContainers"][0]["command"][2].as_str();
        let script = script
            .context("no script")?
            .replace("/authority/", "secrets/ashlar-authority/")
            .replace("/identity", "identity");
        fs::create_dir(self.path("identity"))?;
        let pod = "export POD_NAME=ashlar-conductor-0 NAMESPACE=ashlar-system\n";
        self.shell(&format!("{pod}{script}")).check()?;
        let conductor = self.start(
            "conductor",
            &[
                "conductor".to_owned(),
                format!("--data={}", self.path("metadata").display()),
                format!("--listen=127.0.0.1:{}", self.api),
                format!("--identity-dir={}", self.path("identity").display()),
            ],
        )?;
        wait_for("the conductor", LIMIT, || {
            self.shell("kubectl ashlar status").check()
        })?;
        Ok(conductor)
    }

    /// A store that joins with its token, and finds an empty disk.
    fn store(&self, node: &str) -> Result<Service> {
        let disk = self.path(format!("{node}-disk"));
        fs::File::create(&disk)?.set_len(1 << 30)?;
        self.start(
            node,
            &[
                "store".to_owned(),
                format!("--name={node}"),
                format!("--listen=127.0.0.1:{}", free_port()?),
                format!("--conductor={}", self.api()),
                format!(
                    "--disk-filter={}",
                    self.path(format!("{node}-d*")).display()
                ),
                "--disk-format-empty".to_owned(),
                format!(
                    "--identity-dir={}",
                    self.path(format!("{node}-identity")).display()
                ),
                format!(
                    "--join-token-file={}",
                    self.path("secrets/ashlar-store-tokens")
                        .join(node)
                        .display()
                ),
            ],
        )
    }

    /// A part of the driver, as the chart runs it.
    fn driver(&self, mode: &str, more: &[String]) -> Result<Service> {
        let name = format!("csi-{mode}");
        let mut arguments = vec![
            "csi".to_owned(),
            format!("--mode={mode}"),
            format!(
                "--endpoint=unix://{}",
                self.path(format!("{mode}.sock")).display()
            ),
            format!("--conductor={}", self.api()),
        ];
        arguments.extend_from_slice(more);
        let mut driver = self.start(&name, &arguments)?;
        wait_for(&name, LIMIT, || {
            ensure!(driver.is_running(), "{}", driver.log());
            ensure!(
                driver.log().contains("CSI driver serves"),
                "{}",
                driver.log()
            );
            Ok(())
        })?;
        Ok(driver)
    }

    fn status(&self) -> Result<Value> {
        let status = self.shell("kubectl ashlar --json status").check()?;
        Ok(serde_json::from_str(&status)?)
    }
}

#[test]
fn the_walkthrough_runs_as_it_is_written() -> Result<()> {
    let desk = Desk::new()?;
    let mut services = Vec::new();
    let blocks = blocks()?;
    ensure!(blocks.len() == 6, "{} blocks", blocks.len());
    for block in &blocks {
        desk.shell(block).check().with_context(|| block.clone())?;
        if block.contains("helm install") {
            services.push(desk.conductor()?);
        }
        if block.contains("create secret generic ashlar-store-tokens") {
            for node in NODES {
                services.push(desk.store(node)?);
            }
            wait_for("all stores", LIMIT, || {
                let status = desk.status()?;
                ensure!(status["nodes_up"] == 3, "{status}");
                Ok(())
            })?;
        }
    }
    let made =
        desk.shell("kubectl ashlar volume create v --size 64MiB && kubectl ashlar volume list");
    ensure!(made.check()?.contains("64"), "no volume");

    // What was applied is right, and names classes that the chart has made.
    let applied = fs::read_to_string(desk.path("applied.yaml"))?;
    ensure!(judge(RECENT, &applied)? == 4, "{applied}");
    let rendered = fs::read_to_string(desk.path("rendered.yaml"))?;
    judge(RECENT, &rendered)?;
    for class in ["StorageClass", "VolumeSnapshotClass"] {
        let is_there = |one: &Value| one["kind"] == class && one["metadata"]["name"] == "ashlar";
        ensure!(read(&rendered)?.iter().any(is_there), "no {class}");
    }

    // The controller with the identity that was issued, the node with none.
    let given = desk.path("secrets/ashlar-csi-controller");
    fs::set_permissions(given.join("key.pem"), fs::Permissions::from_mode(0o600))?;
    let identity = format!("--identity-dir={}", given.display());
    services.push(desk.driver("controller", &[identity])?);
    let state = format!("--state={}", desk.path("state").display());
    let ca = desk.path("secrets/ashlar-ca/ca-cert.pem");
    let node = [
        format!("--ca={}", ca.display()),
        "--attacher=fuse-loop".to_owned(),
        "--node-id=node-1".to_owned(),
        state,
    ];
    services.push(desk.driver("node", &node)?);
    for service in &mut services {
        ensure!(service.is_running(), "{}", service.log());
    }
    Ok(())
}

#[test]
fn the_plugin_says_what_it_cannot_do_in_a_pod() -> Result<()> {
    let desk = Desk::new()?;
    for command in [
        "volume export v file",
        "meta backup file",
        "target chap iqn.2026-11.com.example:t set --user u --secret-file s",
    ] {
        let refused = desk.shell(&format!("kubectl ashlar {command}")).run()?;
        ensure!(!refused.status.success(), "{refused:?}");
        ensure!(
            refused.stderr.contains("set ASHLAR_API"),
            "{}",
            refused.stderr
        );
    }
    let help = desk.shell("kubectl ashlar --help").check()?;
    ensure!(help.contains("Usage: kubectl ashlar"), "{help}");
    // With an address it asks there, whatever kubectl would say.
    let asked = desk
        .shell("kubectl ashlar status --api http://127.0.0.1:1")
        .run()?;
    ensure!(asked.code() == Some(5), "{asked:?}");
    Ok(())
}
