//! Commands that ask the conductor: volumes, nodes, disks, status.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use anyhow::Context;
use ashlar_proto::ByteCount;
use ashlar_proto::api::{
    ClusterStatus, CreateVolume, Disk, Evacuation, Healing, Health, MapReport, Node, NodeState,
    Replica, Schedulable, Volume, VolumeState, WriteReport,
};

use crate::args::{NodeCommand, ScheduleDisk, VolumeCommand};
use crate::output::{bytes, percent, print_json, print_table, print_text};
use crate::{
    access, clones, config, credentials, labels, node_identities, publications, rebalance, resize,
    space, targets, transfer,
};
use ashlar_api_client::{ApiClient, ApiError, VolumeFilter};

/// How long a front end may hold a volume that nobody uses any more.
const LET_GO: Duration = Duration::from_millis(600);

/// Runs one exchange with the conductor at `api`.
pub fn ask<T, F>(api: &str, exchange: impl FnOnce(ApiClient) -> F) -> anyhow::Result<T>
where
    F: Future<Output = Result<T, ApiError>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let client = credentials::client(api).with_context(|| format!("--api {api}"))?;
    Ok(runtime.block_on(exchange(client))?)
}

/// `ashlar volume …`.
pub fn volume(api: &str, command: VolumeCommand, json: bool) -> anyhow::Result<()> {
    match command {
        VolumeCommand::Create {
            name,
            size,
            replicas,
            ack,
            reserve,
            label,
            rules,
        } => {
            let size_bytes = ByteCount::new(size);
            let request = CreateVolume {
                settings: rules.settings(),
                name,
                size_bytes,
                replicas,
                ack: ack.into(),
                reserve,
                labels: label.into_iter().collect(),
            };
            if rules.dry_run {
                return config::explain_placement(api, &request, json);
            }
            let volume = ask(api, async |client| client.create_volume(&request).await)?;
            if json {
                return print_json(&volume);
            }
            if volume.state != VolumeState::Ready {
                return print_text(&format!(
                    "{} is being made: its stores have not all answered yet; see `ashlar volume \
                     show {}`",
                    volume.name, volume.name
                ));
            }
            print_text(&format!(
                "created {} ({}, {} replicas); attach it with any NBD client, as nbd://HOST/{}",
                volume.name,
                bytes(volume.size_bytes.get()),
                volume.replicas,
                volume.name
            ))
        }
        VolumeCommand::Label(args) => labels::run(api, &args, json),
        VolumeCommand::Publish {
            name,
            node,
            read_only,
        } => publications::publish(api, &name, node, read_only, json),
        VolumeCommand::Unpublish { name, node } => publications::unpublish(api, &name, node, json),
        VolumeCommand::List(args) => {
            let filter = VolumeFilter {
                prefix: args.prefix,
                labels: args.labels,
            };
            let volumes = ask(api, async |client| client.volumes_selected(&filter).await)?.items;
            if json {
                return print_json(&volumes);
            }
            let header = [
                "name",
                "size",
                "replicas",
                "reserved",
                "ack",
                "state",
                "health",
                "snapshots",
                "attached by",
            ];
            print_table(&header, volumes.iter().map(volume_row).collect())
        }
        VolumeCommand::Show { name } => {
            let volume = ask(api, async |client| client.volume(&name).await)?;
            if json {
                print_json(&volume)
            } else {
                show_volume(&volume)
            }
        }
        VolumeCommand::Import(args) => transfer::import(api, &args, json),
        VolumeCommand::Export(args) => transfer::export(api, &args, json),
        VolumeCommand::Clone(args) => clones::clone(api, &args, json),
        VolumeCommand::Flatten(args) => clones::flatten(api, &args, json),
        VolumeCommand::Set(args) => space::set_volume(api, &args, json),
        VolumeCommand::Resize(args) => resize::run(api, &args, json),
        VolumeCommand::Reservations { name } => targets::reservations(api, &name, json),
        VolumeCommand::Key { command } => access::volume_key(api, &command, json),
        VolumeCommand::Delete { name, force } => {
            ask(api, async |client| {
                once_let_go(async || client.delete_volume(&name, force).await).await
            })?;
            let deleted = BTreeMap::from([("deleted", &name)]);
            if json {
                print_json(&deleted)
            } else {
                print_text(&format!("deleted {name}"))
            }
        }
    }
}

/// Asks for what needs a volume that nobody has. A front end lets go of it some moments after its last
/// client has left: that long, "attached" is no answer yet.
pub async fn once_let_go<T>(
    mut call: impl AsyncFnMut() -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    let start = tokio::time::Instant::now();
    loop {
        let answer = call().await;
        let attached = match &answer {
            Err(error) => error.problem().is_some_and(|p| p.code == "volume-attached"),
            Ok(_) => false,
        };
        if !attached || start.elapsed() > LET_GO {
            return answer;
        }
        tokio::time::sleep(LET_GO / 10).await;
    }
}

fn volume_row(volume: &Volume) -> Vec<String> {
    vec![
        volume.name.clone(),
        size(volume),
        volume.replicas.to_string(),
        space::reserve(volume),
        word(&volume.ack),
        word(&volume.state),
        word(&volume.health),
        volume.snapshots.to_string(),
        volume.attached_by.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

fn show_volume(volume: &Volume) -> anyhow::Result<()> {
    let facts = [
        ("name", volume.name.clone()),
        ("id", volume.id.to_string()),
        ("size", size(volume)),
        ("shard size", bytes(volume.shard_bytes.get())),
        ("replicas", volume.replicas.to_string()),
        ("reserved", space::reserve(volume)),
        ("ack", word(&volume.ack)),
        ("state", word(&volume.state)),
        ("health", word(&volume.health)),
        ("generation", volume.generation.to_string()),
        ("snapshots", volume.snapshots.to_string()),
        ("labels", labels::told(&volume.labels)),
        ("layers", layers(volume)),
        ("clone of", origin(volume)),
        ("published to", publications::told(volume)),
        (
            "attached by",
            volume.attached_by.clone().unwrap_or_else(|| "-".to_owned()),
        ),
    ];
    for (name, value) in facts {
        print_text(&format!("{name:<12} {value}"))?;
    }
    print_text("")?;
    let rows = volume.shards.iter().flat_map(|shard| {
        shard.replicas.iter().map(|replica| {
            vec![
                shard.index.to_string(),
                shard.epoch.to_string(),
                replica.id.to_string(),
                replica.node.to_string(),
                replica.disk.to_string(),
                replica_state(replica).to_owned(),
            ]
        })
    });
    print_table(
        &["shard", "epoch", "replica", "node", "disk", "state"],
        rows.collect(),
    )
}

/// How large it is, and is to be.
fn size(volume: &Volume) -> String {
    let now = bytes(volume.size_bytes.get());
    match volume.grows_to {
        Some(target) => format!("{now}, growing to {}", bytes(target.get())),
        None => now,
    }
}

/// What it shows where nothing was written to it.
fn origin(volume: &Volume) -> String {
    let Some(origin) = &volume.origin else {
        return "-".to_owned();
    };
    let name = origin.text();
    match volume.flattening {
        Some(flattening) => {
            let (done, all) = (flattening.done_bytes.get(), origin.bytes.get());
            format!(
                "{name}, of which {} of {} are copied",
                bytes(done),
                bytes(all)
            )
        }
        None => name,
    }
}

/// Where writes go, up to where snapshots are ready, and what replicas have yet to be told.
fn layers(volume: &Volume) -> String {
    let (head, settled) = (volume.head_layer, volume.settled_layer);
    let (table, applied) = (volume.layers.version, volume.layers_applied);
    let mut text = format!("head {head}, settled to {settled}");
    if applied < table {
        text += &format!("; table {table} has yet to reach all replicas, they go by {applied}");
    }
    text
}

fn replica_state(replica: &Replica) -> &'static str {
    match (replica.in_sync, replica.leaving, replica.fresh) {
        (true, true, _) => "in sync, leaving",
        (true, false, _) => "in sync",
        (false, true, _) => "leaving",
        (false, false, true) => "being rebuilt",
        (false, false, false) => "behind",
    }
}

/// `ashlar node …`.
pub fn node(api: &str, command: &NodeCommand, json: bool) -> anyhow::Result<()> {
    let (node, to) = match command {
        NodeCommand::List => return node_list(api, json),
        NodeCommand::Identity(command) => return node_identities::run(api, command, json),
        NodeCommand::Cordon { node } => (node, Schedulable::Cordoned),
        NodeCommand::Uncordon { node } => (node, Schedulable::Open),
        NodeCommand::Drain { node } => (node, Schedulable::Draining),
        NodeCommand::Remove { node } => {
            ask(api, async |client| client.remove_node(node).await)?;
            return removed(&format!("node {node}"), node, json);
        }
    };
    let node = ask(api, async |client| client.schedule_node(node, to).await)?;
    if json {
        return print_json(&node);
    }
    say_schedule(&format!("node {}", node.name), "node", to, node.replicas)
}

/// `ashlar disk cordon …`.
pub fn disk(api: &str, command: &ScheduleDisk, json: bool) -> anyhow::Result<()> {
    let (disk, to) = match *command {
        ScheduleDisk::Cordon { disk } => (disk, Schedulable::Cordoned),
        ScheduleDisk::Uncordon { disk } => (disk, Schedulable::Open),
        ScheduleDisk::Drain { disk } => (disk, Schedulable::Draining),
        ScheduleDisk::Clear { disk } => {
            let disk = ask(api, async |client| client.clear_disk(disk).await)?;
            if json {
                return print_json(&disk);
            }
            let id = disk.report.id;
            return print_text(&format!(
                "disk {id} is used as any other, until it ails again"
            ));
        }
        ScheduleDisk::Remove { disk } => {
            ask(api, async |client| client.remove_disk(disk).await)?;
            return removed(&format!("disk {disk}"), &disk.to_string(), json);
        }
    };
    let disk = ask(api, async |client| client.schedule_disk(disk, to).await)?;
    if json {
        return print_json(&disk);
    }
    say_schedule(
        &format!("disk {}", disk.report.id),
        "disk",
        to,
        disk.replicas,
    )
}

fn removed(what: &str, id: &str, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(&BTreeMap::from([("removed", id)]));
    }
    print_text(&format!("removed {what}"))
}

fn say_schedule(what: &str, kind: &str, to: Schedulable, replicas: u32) -> anyhow::Result<()> {
    print_text(&match to {
        Schedulable::Open => format!("{what} takes replicas"),
        Schedulable::Cordoned => {
            format!("{what} takes no new replicas; it holds {replicas}")
        }
        Schedulable::Draining => format!(
            "{what} is drained; replicas to move: {replicas}; see `ashlar status`, and `ashlar {kind} \
             list` for what is left"
        ),
    })
}

fn node_list(api: &str, json: bool) -> anyhow::Result<()> {
    let nodes = ask(api, async |client| client.nodes().await)?.items;
    if json {
        return print_json(&nodes);
    }
    let header = [
        "id",
        "name",
        "state",
        "address",
        "disks",
        "replicas",
        "labels",
        "heartbeat",
    ];
    print_table(&header, nodes.iter().map(node_row).collect())
}

fn node_row(node: &Node) -> Vec<String> {
    let labels: Vec<String> = node
        .labels
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    let age = node
        .heartbeat_age_ms
        .map(|ms| format!("{:.1} s ago", f64_of(ms) / 1000.0));
    vec![
        node.id.to_string(),
        node.name.clone(),
        with_schedulable(node_state(node), node.schedulable),
        node.address.to_string(),
        node.disks.len().to_string(),
        node.replicas.to_string(),
        if labels.is_empty() {
            "-".to_owned()
        } else {
            labels.join(",")
        },
        age.unwrap_or_else(|| "-".to_owned()),
    ]
}

/// Whether it is up, and what others say to the contrary.
fn node_state(node: &Node) -> String {
    let state = word(&node.state);
    match node.state {
        NodeState::Down if node.reached_by > 0 => {
            format!("{state} (reached by {} others)", node.reached_by)
        }
        NodeState::Up if node.missed_by > node.reached_by => {
            format!("{state} (missed by {} others)", node.missed_by)
        }
        NodeState::Up | NodeState::Down => state,
    }
}

/// A state, and that it takes no replicas if so.
fn with_schedulable(state: String, schedulable: Schedulable) -> String {
    match schedulable {
        Schedulable::Open => state,
        other => format!("{state}, {}", word(&other)),
    }
}

/// A state, and why the disk ails and what becomes of it, if it does.
fn with_ailing(state: String, disk: &Disk) -> String {
    let what = match disk.evacuation {
        Evacuation::None => return state,
        Evacuation::Moving => "its replicas move away",
        Evacuation::Waiting => "others are emptied first",
        Evacuation::Done => "it is empty: replace it",
        Evacuation::Withheld => "so many ail that nothing is done",
        Evacuation::Cleared => "cleared",
    };
    let why = disk.report.ailing.as_ref();
    let why = why.map_or("unknown", |ailing| ailing.reason.as_str());
    format!("{state}, ails: {why} ({what})")
}

#[expect(
    clippy::cast_precision_loss,
    reason = "shown to people with one decimal"
)]
fn f64_of(count: u64) -> f64 {
    count as f64
}

/// `ashlar disk list`.
pub fn disk_list(api: &str, labels: Option<&str>, json: bool) -> anyhow::Result<()> {
    let disks = ask(api, async |client| client.disks_selected(labels).await)?.items;
    if json {
        return print_json(&disks);
    }
    let header = [
        "id",
        "node",
        "labels",
        "path",
        "state",
        "used",
        "usable",
        "full",
        "reserved",
        "provisioned",
        "replicas",
        "map",
        "write amp",
        "damage",
    ];
    print_table(&header, disks.iter().map(disk_row).collect())
}

fn disk_row(disk: &Disk) -> Vec<String> {
    let report = &disk.report;
    let state = match (&report.failed, disk.state) {
        (Some(why), _) => format!("failed: {why}"),
        (None, state) => word(&state),
    };
    let mut state = with_schedulable(state, disk.schedulable);
    if let Some(level) = space::level(disk.level) {
        state += &format!(", {level}");
    }
    vec![
        report.id.to_string(),
        disk.node_name.clone(),
        labels::told(&disk.labels),
        report.path.clone(),
        with_ailing(state, disk),
        bytes(report.used_bytes.get()),
        bytes(report.usable_bytes.get()),
        percent(report.used_bytes.get(), report.usable_bytes.get()),
        bytes(report.reserved_bytes.get()),
        bytes(disk.provisioned_bytes.get()),
        disk.replicas.to_string(),
        report.map.as_ref().map_or("-".to_owned(), map),
        report.writes.as_ref().map_or("-".to_owned(), amplification),
        damage(&report.damage),
    ]
}

/// How many of the leaves that requests needed were in memory, and how long a read of one took.
fn map(map: &MapReport) -> String {
    let hits = match map.hits + map.misses {
        0 => return "unused".to_owned(),
        all => percent(map.hits, all),
    };
    match map.load_ns_mean() {
        0 => format!("{hits} hits"),
        mean => format!("{hits} hits, miss {:.2} ms", f64_of(mean) / 1e6),
    }
}

/// What the disk was given for what requests wrote.
fn amplification(writes: &WriteReport) -> String {
    match writes.amplification_percent() {
        None => "-".to_owned(),
        Some(percent) => format!("{}.{:02}", percent / 100, percent % 100),
    }
}

fn damage(counts: &BTreeMap<String, u64>) -> String {
    let found: Vec<String> = counts
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(kind, n)| format!("{kind} {n}"))
        .collect();
    if found.is_empty() {
        "none".to_owned()
    } else {
        found.join(", ")
    }
}

/// `ashlar status`.
pub fn status(api: &str, json: bool) -> anyhow::Result<()> {
    let status = ask(api, async |client| client.status().await)?;
    if json {
        print_json(&status)
    } else {
        show_status(&status)
    }
}

fn show_status(status: &ClusterStatus) -> anyhow::Result<()> {
    let (used, usable) = (status.used_bytes.get(), status.usable_bytes.get());
    let volumes = format!(
        "{} ({} degraded, {} unavailable)",
        status.volumes, status.volumes_degraded, status.volumes_unavailable
    );
    let facts = [
        ("cluster", status.cluster.to_string()),
        ("health", word(&status.health)),
        (
            "nodes",
            format!("{} of {} up", status.nodes_up, status.nodes),
        ),
        (
            "disks",
            format!(
                "{} ({} failed, {} ailing)",
                status.disks, status.disks_failed, status.disks_ailing
            ),
        ),
        (
            "space",
            format!(
                "{} of {} used, {}",
                bytes(used),
                bytes(usable),
                percent(used, usable)
            ),
        ),
        ("promised", space::provisioned(&status.space)),
        ("reserved", space::reserved(&status.space)),
        ("volumes", volumes),
        ("healing", healing(&status.healing)),
        ("rebalance", rebalance::line(&status.rebalance)),
        ("damage", damage(&status.damage)),
    ];
    for (name, value) in facts {
        print_text(&format!("{name:<10} {value}"))?;
    }
    if status.health != Health::Healthy || status.disks_ailing > 0 {
        print_text("\nSee `ashlar volume list`, `ashlar node list` and `ashlar disk list`.")?;
    }
    Ok(())
}

/// What is on its way to be whole again, in one line.
fn healing(healing: &Healing) -> String {
    let counts = [
        (healing.away, "in sync but away"),
        (healing.out_of_sync, "out of sync"),
        (healing.rebuilding, "being rebuilt"),
        (healing.queued, "waiting for their turn"),
        (healing.without_place, "without an eligible disk"),
        (healing.draining, "still to move"),
    ];
    let some = counts.into_iter().filter(|(count, _)| *count > 0);
    let mut parts: Vec<String> = some
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if parts.is_empty() {
        return "nothing to do".to_owned();
    }
    if let Some(percent) = healing.progress_percent {
        parts.push(format!("{} rebuilt, {percent} % done", healing.rebuilt));
    }
    if let Some(seconds) = healing.remaining_seconds {
        let left = humantime::format_duration(Duration::from_secs(seconds));
        parts.push(format!("{left} left at this rate"));
    }
    format!("replicas: {}", parts.join(", "))
}

/// The word that the API uses for a value.
pub fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_api() {
        assert_eq!(word(&NodeState::Down), "down");
        assert_eq!(word(&Health::Degraded), "degraded");
    }

    #[test]
    fn healing_is_told_in_one_line() {
        assert_eq!(healing(&Healing::default()), "nothing to do");
        let some = Healing {
            out_of_sync: 12,
            rebuilding: 8,
            queued: 3,
            without_place: 1,
            rebuilt: 4,
            away: 2,
            progress_percent: Some(25),
            remaining_seconds: Some(90),
            ..Healing::default()
        };
        let expected = "replicas: 2 in sync but away, 12 out of sync, 8 being rebuilt, \
                        3 waiting for their turn, 1 without an eligible disk, 4 rebuilt, 25 % done, 1m 30s left at this rate";
        assert_eq!(healing(&some), expected);
    }

    #[test]
    fn states_say_what_takes_no_replicas() {
        let state = |schedulable| with_schedulable("up".to_owned(), schedulable);
        assert_eq!(state(Schedulable::Open), "up");
        assert_eq!(state(Schedulable::Draining), "up, draining");
    }

    #[test]
    fn damage_shows_only_what_was_found() {
        let counts = BTreeMap::from([("leaf".to_owned(), 2), ("data".to_owned(), 0)]);
        assert_eq!(damage(&counts), "leaf 2");
        assert_eq!(damage(&BTreeMap::new()), "none");
    }
}
