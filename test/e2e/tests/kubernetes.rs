//! What deploys Ashlar on Kubernetes: the chart and the manifests made of it are right for every kind of
//! cluster, name only what there is, and ask for no more than they need.
//!
//! No kubelet runs here: schemas, the binary and its own check of settings stand for it.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::manifests::{
    OLDEST, RECENT, containers, helm, judge, pod, read, render, root, texts, tools,
};
use ashlar_e2e::{Tool, binary};
use serde_json::Value;
use std::collections::BTreeSet;

const STORES: &str = "--values=deploy/kubernetes/values-example.yaml";
const ETCD: &str = "--values=deploy/kubernetes/values-etcd.yaml";
const IMAGE: &str = "localhost/ashlar:";

/// Kinds of clusters, and how many manifests each has at least.
const CLUSTERS: [(&[&str], usize); 8] = [
    (&[], 20),
    (&[STORES], 22),
    (&[STORES, ETCD], 23),
    (&[STORES, "--set=security.mode=none"], 22),
    (
        &[
            STORES,
            "--set=conductor.persistence.kind=hostPath",
            "--set=frontEnd.iscsi.enabled=true",
            "--set=networkPolicy.nodeCidrs={10.0.0.0/8}",
        ],
        23,
    ),
    (
        &[
            STORES,
            "--set=monitoring.enabled=true",
            "--set=csi.groupSnapshots=true",
            "--set=csi.node.topology.zone=topology\\.kubernetes\\.io/zone",
            "--set-json=storageClasses=[{\"name\":\"a\",\"default\":true,\"parameters\":{\"near\":\"zone\"},\
              \"volumeBindingMode\":\"WaitForFirstConsumer\"}]",
        ],
        23,
    ),
    (
        &[
            "--set=csi.snapshots=false",
            "--set=networkPolicy.enabled=false",
            "--set=priorityClasses.create=false",
        ],
        15,
    ),
    (
        &[
            "--set-json=stores=[{\"name\":\"a\",\"nodeSelector\":{\"zone\":\"a\"},\"diskFilters\":[\"/dev/sd[b-d]\"],\
              \"threads\":4,\"mapCache\":\"1GiB\",\"labels\":{\"zone\":\"a\"},\"extraArgs\":[\"--spin-us=0\"]},\
              {\"name\":\"b\",\"nodeSelector\":{\"zone\":\"b\"},\"diskFilters\":[\"/dev/vdb\"],\"formatEmpty\":true,\"lanes\":4}]",
        ],
        23,
    ),
];

#[test]
fn every_kind_of_cluster_is_what_kubernetes_takes() -> Result<()> {
    for (values, least) in CLUSTERS {
        let linted = helm(
            &[
                "lint",
                "--strict",
                "--kube-version=1.34.0",
                "deploy/helm/ashlar",
            ],
            values,
        )?;
        ensure!(linted.status.success(), "{linted:?}");
        for version in [OLDEST, RECENT] {
            let valid = judge(version, &render(version, values)?)?;
            ensure!(valid >= least, "{values:?}: only {valid} manifests");
        }
    }
    let recent = ["--set=csi.volumeAttributes=true"];
    let rendered = render(RECENT, &recent)?;
    ensure!(rendered.contains("kind: VolumeAttributesClass"));
    judge(RECENT, &rendered)?;
    Ok(())
}

#[test]
fn the_judge_sees_what_is_wrong() -> Result<()> {
    let right = render(RECENT, &[])?;
    for (word, other) in [
        ("hostNetwork: true", "hostNetwerk: true"),
        ("replicas: 1", "replicas: many"),
        ("deletionPolicy: Delete", "deletionPolicy: Burn"),
    ] {
        let wrong = right.replacen(word, other, 1);
        ensure!(wrong != right, "{word} is not there");
        ensure!(judge(RECENT, &wrong).is_err(), "{other} passed");
    }
    Ok(())
}

#[test]
fn values_that_are_wrong_are_refused() -> Result<()> {
    for (values, told) in [
        (vec!["--set=conductor.replica=3"], "replica"),
        (vec!["--set=conductor.replicas=3"], "etcd"),
        (vec!["--set=security.mode=off"], "mode"),
        (
            vec![STORES, "--set=stores[0].diskFilters=null"],
            "diskFilters",
        ),
        (
            vec![STORES, "--set=stores[0].diskFilters={sda}"],
            "diskFilters",
        ),
        (
            vec![STORES, "--set=stores[0].diskFilters={/dev/**}"],
            "diskFilters",
        ),
        (
            vec![STORES, "--set=stores[0].nodeSelector=null"],
            "nodeSelector",
        ),
    ] {
        let command = [
            "template",
            "ashlar",
            "deploy/helm/ashlar",
            "--kube-version=1.34.0",
        ];
        let refused = helm(&command, &values)?;
        ensure!(!refused.status.success(), "{values:?} was taken");
        ensure!(
            refused.stderr.contains(told),
            "{values:?}: {}",
            refused.stderr
        );
    }
    Ok(())
}

/// What Kubernetes puts in the place of variables.
fn filled(argument: &str) -> String {
    let variables = [
        ("$(NODE_NAME)", "node-1"),
        ("$(HOST_IP)", "10.0.0.1"),
        ("$(POD_NAME)", "ashlar-conductor-0"),
        ("$(NAMESPACE)", "ashlar-system"),
    ];
    let fill = |text: String, (name, value): (&str, &str)| text.replace(name, value);
    variables.into_iter().fold(argument.to_owned(), fill)
}

#[test]
fn every_container_gives_the_binary_settings_that_it_takes() -> Result<()> {
    let mut roles = BTreeSet::new();
    for (values, _) in CLUSTERS {
        for manifest in read(&render(RECENT, values)?)? {
            let Some(pod) = pod(&manifest) else { continue };
            for container in containers(pod) {
                check_paths(pod, container)?;
                let image = container["image"].as_str().context("no image")?;
                if !image.starts_with(IMAGE) || container["args"].is_null() {
                    continue;
                }
                let arguments: Vec<String> = texts(&container["args"])
                    .iter()
                    .map(|one| filled(one))
                    .collect();
                ensure!(!arguments.join(" ").contains("$("), "{arguments:?}");
                let checked = Tool::new(binary::ashlar())
                    .args(&arguments)
                    .arg("--check-config")
                    .run()?;
                ensure!(checked.status.success(), "{checked:?}");
                roles.insert(arguments[0].clone());
            }
        }
    }
    let expected = ["conductor", "csi", "iscsi", "nbd", "store"].map(str::to_owned);
    ensure!(roles == expected.into(), "{roles:?}");
    Ok(())
}

/// Whatever path an argument names is mounted, and whatever is mounted is a volume.
fn check_paths(pod: &Value, container: &Value) -> Result<()> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mounts = list(&container["volumeMounts"]);
    let claims = ["data"];
    for mount in &mounts {
        let volumes = list(&pod["volumes"]);
        let known = volumes.iter().any(|volume| volume["name"] == mount["name"])
            || claims.iter().any(|claim| mount["name"] == *claim);
        ensure!(known, "no volume for {mount} of {container}");
    }
    for argument in texts(&container["args"]) {
        let Some((option, value)) = argument.split_once('=') else {
            continue;
        };
        let path = value.trim_start_matches("unix:").trim_start_matches("//");
        // What kubelet is told is a path of the host; names of keys are none of a file system.
        let elsewhere = ["--kubelet-registration-path", "--etcd-prefix"].contains(&option);
        if !path.starts_with('/') || elsewhere {
            continue;
        }
        let is_mounted = mounts.iter().any(|mount| {
            let at = mount["mountPath"].as_str().unwrap_or("-");
            path.starts_with(at)
        });
        ensure!(is_mounted, "{argument} is mounted nowhere in {container}");
    }
    Ok(())
}

#[test]
fn nothing_has_more_rights_than_it_needs() -> Result<()> {
    let everything = [
        STORES,
        "--set=frontEnd.iscsi.enabled=true",
        "--set=csi.groupSnapshots=true",
        "--set=csi.volumeAttributes=true",
    ];
    let (mut privileged, mut with_authority, mut with_token) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for manifest in read(&render(RECENT, &everything)?)? {
        let name = manifest["metadata"]["name"].to_string();
        if manifest["kind"] == "ClusterRole" || manifest["kind"] == "Role" {
            for rule in manifest["rules"].as_array().context("no rules")? {
                ensure!(!rule.to_string().contains("\"*\""), "{rule}");
                ensure!(
                    !texts(&rule["resources"]).contains(&"secrets".to_owned()),
                    "{rule}"
                );
            }
        }
        let Some(pod) = pod(&manifest) else { continue };
        for container in containers(pod) {
            let context = &container["securityContext"];
            ensure!(context["readOnlyRootFilesystem"] == true, "{container}");
            if context["privileged"] == true {
                privileged.insert(format!("{name} {}", container["name"]));
            } else {
                ensure!(context["allowPrivilegeEscalation"] == false, "{container}");
                ensure!(
                    texts(&context["capabilities"]["drop"]) == ["ALL"],
                    "{container}"
                );
                ensure!(
                    context["seccompProfile"]["type"] == "RuntimeDefault",
                    "{container}"
                );
            }
        }
        if pod
            .to_string()
            .contains("\"secretName\":\"ashlar-authority\"")
        {
            with_authority.insert(name.clone());
        }
        if pod["automountServiceAccountToken"] != false {
            with_token.insert(name);
        }
    }
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let expected: BTreeSet<String> = set(&[
        "\"ashlar-csi-node\" \"driver\"",
        "\"ashlar-store-nvme\" \"store\"",
    ]);
    ensure!(privileged == expected, "{privileged:?}");
    ensure!(
        with_authority == set(&["\"ashlar-conductor\""]),
        "{with_authority:?}"
    );
    ensure!(
        with_token == set(&["\"ashlar-csi-controller\""]),
        "{with_token:?}"
    );
    Ok(())
}

#[test]
fn the_driver_of_nodes_may_get_nodes_where_it_reads_their_labels() -> Result<()> {
    let topology = "--set=csi.node.topology.zone=topology\\.kubernetes\\.io/zone";
    let mut seen = BTreeSet::new();
    for manifest in read(&render(RECENT, &[STORES, topology])?)? {
        let (kind, name) = (&manifest["kind"], &manifest["metadata"]["name"]);
        if name != "ashlar-csi-node" {
            continue;
        }
        if kind == "ClusterRole" {
            let rules =
                serde_json::json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]);
            ensure!(manifest["rules"] == rules, "{manifest}");
        }
        if let Some(pod) = pod(&manifest) {
            ensure!(pod["automountServiceAccountToken"] == true, "{pod}");
            let arguments = texts(&pod["containers"][0]["args"]);
            let asked = "--topology-of-node=zone=topology.kubernetes.io/zone".to_owned();
            ensure!(arguments.contains(&asked), "{arguments:?}");
        }
        if kind == "ServiceAccount" {
            ensure!(
                manifest["automountServiceAccountToken"] == true,
                "{manifest}"
            );
        }
        seen.insert(kind.to_string());
    }
    ensure!(seen.len() == 4, "{seen:?}");
    Ok(())
}

#[test]
fn no_disk_is_touched_unless_it_was_named() -> Result<()> {
    let none = render(RECENT, &[])?;
    ensure!(!none.contains("ashlar-store-"), "a store runs unasked");
    for manifest in read(&render(
        RECENT,
        &[STORES, "--set=stores[0].formatEmpty=false"],
    )?)? {
        let arguments = pod(&manifest).map(|pod| texts(&pod["containers"][0]["args"]));
        let arguments = arguments.unwrap_or_default();
        ensure!(
            !arguments.contains(&"--disk-format-empty".to_owned()),
            "{arguments:?}"
        );
    }
    Ok(())
}

#[test]
fn the_manifests_are_those_of_the_chart() -> Result<()> {
    let fresh = tempfile::tempdir_in(binary::work_dir())?;
    Tool::new(root().join("scripts/render-manifests"))
        .arg(fresh.path())
        .env("ASHLAR_KUBERNETES", tools())
        .check()?;
    let mut compared = 0;
    for entry in std::fs::read_dir(fresh.path())? {
        let entry = entry?;
        let kept = root().join("deploy/kubernetes").join(entry.file_name());
        let kept = std::fs::read_to_string(&kept).with_context(|| kept.display().to_string())?;
        ensure!(
            kept == std::fs::read_to_string(entry.path())?,
            "{:?} is out of date: run scripts/render-manifests",
            entry.file_name()
        );
        compared += 1;
    }
    ensure!(compared == 2, "{compared} files");
    Ok(())
}
