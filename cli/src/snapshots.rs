//! `ashlar snapshot`: volumes kept as they were at a moment.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use ashlar_client::{BlockDevice, Snapshot as OpenSnapshot, SnapshotUsage};
use ashlar_proto::Layer;
use ashlar_proto::api::{
    CreateSnapshot, CreateSnapshotGroup, RollbackVolume, Snapshot, SnapshotState, Volume,
};
use ashlar_proto::message::BlockKind;
use ashlar_reactor::Reactor;
use serde::Serialize;

use crate::admin::{ask, once_let_go, word};
use crate::args::{CreateName, ReactorArgs, SnapshotCommand, SnapshotName};
use crate::output::{bytes, print_json, print_table, print_text};
use crate::runtime;
use ashlar_api_client::OWNER_WAIT;

/// The last second that RFC 3339 has a text for.
const SECONDS_MAX: u64 = 253_402_300_799;

/// Runs one of its commands.
pub fn run(api: &str, command: SnapshotCommand, json: bool) -> anyhow::Result<()> {
    match command {
        SnapshotCommand::Create { group, names } => match what_to_create(group, names)? {
            Created::One(name) => create(api, &name, json),
            Created::Group(request) => create_group(api, &request, json),
        },
        SnapshotCommand::List { volume, deleted } => list(api, volume.as_deref(), deleted, json),
        SnapshotCommand::Show {
            name,
            no_usage,
            reactor,
        } => {
            let reactor = (!no_usage).then_some(&reactor);
            show(api, &name, reactor, json)
        }
        SnapshotCommand::Diff {
            older,
            newer,
            reactor,
        } => diff(api, &older, &newer, &reactor, json),
        SnapshotCommand::Delete {
            name,
            wait,
            when_unused,
        } => delete(api, &name, wait, when_unused, json),
        SnapshotCommand::Rollback {
            name,
            force,
            delete_newer,
        } => {
            let request = RollbackVolume {
                force,
                delete_newer,
            };
            rollback(api, &name, request, json)
        }
    }
}

/// What is to be made.
#[derive(Debug, PartialEq, Eq)]
enum Created {
    One(SnapshotName),
    Group(CreateSnapshotGroup),
}

fn what_to_create(is_group: bool, names: Vec<CreateName>) -> anyhow::Result<Created> {
    if !is_group {
        return match <[CreateName; 1]>::try_from(names) {
            Ok([CreateName::Snapshot(name)]) => Ok(Created::One(name)),
            Ok(_) => bail!("give VOLUME@NAME, as data@monday"),
            Err(_) => bail!(
                "one snapshot is made at a time: give VOLUME@NAME, or use --group VOLUME VOLUME… @NAME \
                 for snapshots of one moment"
            ),
        };
    }
    let mut name: Option<String> = None;
    let mut volumes = Vec::new();
    for given in names {
        let (volume, given) = match given {
            CreateName::Snapshot(one) => (Some(one.volume), Some(one.snapshot)),
            CreateName::Volume(volume) => (Some(volume), None),
            CreateName::Name(name) => (None, Some(name)),
        };
        volumes.extend(volume);
        let is_other = given.is_some() && name.is_some() && given != name;
        ensure!(
            !is_other,
            "the snapshots of a group have one name: give it once, as @monday"
        );
        name = name.or(given);
    }
    let name = name.context("the group has no name: give it last, as @monday")?;
    Ok(Created::Group(CreateSnapshotGroup { name, volumes }))
}

fn create_group(api: &str, request: &CreateSnapshotGroup, json: bool) -> anyhow::Result<()> {
    let group = ask(api, async |client| {
        client.create_snapshot_group(request).await
    })?;
    if json {
        return print_json(&group);
    }
    let is_sealing = |snapshot: &&Snapshot| snapshot.state == SnapshotState::Sealing;
    let sealing = group.snapshots.iter().filter(is_sealing).count();
    print_text(&format!(
        "created @{} of {} volumes, as group {}",
        request.name,
        group.snapshots.len(),
        group.group
    ))?;
    if sealing > 0 {
        let snapshots = if sealing == 1 {
            "snapshot is"
        } else {
            "snapshots are"
        };
        print_text(&format!(
            "{sealing} {snapshots} not ready: last writes have yet to reach all replicas that are in \
             sync; see `ashlar snapshot list`"
        ))?;
    }
    Ok(())
}

fn create(api: &str, name: &SnapshotName, json: bool) -> anyhow::Result<()> {
    let request = CreateSnapshot {
        name: name.snapshot.clone(),
    };
    let snapshot = ask(api, async |client| {
        client.create_snapshot(&name.volume, &request).await
    })?;
    if json {
        return print_json(&snapshot);
    }
    print_text(&match snapshot.state {
        SnapshotState::Ready => format!("created {name} ({})", bytes(snapshot.size_bytes.get())),
        SnapshotState::Sealing => format!(
            "{name} is made, but not ready: its last writes have yet to reach all replicas that are \
             in sync; see `ashlar snapshot show {name}`"
        ),
    })
}

fn list(api: &str, volume: Option<&str>, deleted: bool, json: bool) -> anyhow::Result<()> {
    let snapshots = ask(api, async |client| client.snapshots(volume, deleted).await)?;
    let snapshots = snapshots.items;
    if json {
        return print_json(&snapshots);
    }
    let header = [
        "snapshot", "created", "size", "layer", "state", "clones", "group",
    ];
    print_table(&header, snapshots.iter().map(row).collect())
}

fn row(snapshot: &Snapshot) -> Vec<String> {
    vec![
        format!("{}@{}", snapshot.volume_name, snapshot.name),
        moment(snapshot.created_ms),
        bytes(snapshot.size_bytes.get()),
        snapshot.layer.to_string(),
        if snapshot.deleted {
            "deleted".to_owned()
        } else {
            word(&snapshot.state)
        },
        snapshot.clones.to_string(),
        group(snapshot),
    ]
}

/// The group that a snapshot is of, if any.
fn group(snapshot: &Snapshot) -> String {
    let group = snapshot.group.map(|group| group.to_string());
    group.unwrap_or_else(|| "-".to_owned())
}

/// A snapshot and what it takes.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    snapshot: Snapshot,
    /// Bytes of data that it shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    shown_bytes: Option<u64>,
    /// Of these, bytes that nothing else shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    exclusive_bytes: Option<u64>,
}

fn show(
    api: &str,
    name: &SnapshotName,
    reactor: Option<&ReactorArgs>,
    json: bool,
) -> anyhow::Result<()> {
    let snapshot = ask(api, async |client| {
        client.snapshot(&name.volume, &name.snapshot).await
    })?;
    let is_ready = snapshot.state == SnapshotState::Ready;
    let usage = match reactor.filter(|_| is_ready) {
        Some(reactor) => Some(runtime::with_snapshot(api, name, reactor, usage)?),
        None => None,
    };
    if json {
        return print_json(&Shown {
            snapshot,
            shown_bytes: usage.map(|usage| usage.shown.get()),
            exclusive_bytes: usage.map(|usage| usage.exclusive.get()),
        });
    }
    let mut facts = vec![
        ("name", snapshot.name.clone()),
        ("volume", snapshot.volume_name.clone()),
        ("volume id", snapshot.volume.to_string()),
        ("created", moment(snapshot.created_ms)),
        ("size", bytes(snapshot.size_bytes.get())),
        ("layer", snapshot.layer.to_string()),
        ("state", word(&snapshot.state)),
        ("clones", snapshot.clones.to_string()),
    ];
    if let Some(origin) = &snapshot.origin {
        let name = origin.text();
        facts.push(("clone of", name));
    }
    if snapshot.group.is_some() {
        facts.push(("group", group(&snapshot)));
    }
    if let Some(usage) = usage {
        let shared = usage.shown.get().saturating_sub(usage.exclusive.get());
        facts.push(("shown", bytes(usage.shown.get())));
        facts.push(("exclusive", bytes(usage.exclusive.get())));
        facts.push(("shared", bytes(shared)));
    }
    for (fact, value) in facts {
        print_text(&format!("{fact:<10} {value}"))?;
    }
    Ok(())
}

async fn usage(_: Reactor, snapshot: OpenSnapshot) -> anyhow::Result<SnapshotUsage> {
    let usage = snapshot.usage().await;
    usage.context("cannot count what the snapshot takes; --no-usage leaves that out")
}

/// A range that was written between two snapshots.
#[derive(Serialize)]
struct Change {
    offset_bytes: u64,
    length_bytes: u64,
    /// Whether it reads as zeroes since.
    zero: bool,
}

/// Bytes whose changes are asked for together.
const DIFF_BYTES: u64 = 1 << 30;

fn diff(
    api: &str,
    older: &SnapshotName,
    newer: &SnapshotName,
    reactor: &ReactorArgs,
    json: bool,
) -> anyhow::Result<()> {
    ensure!(
        older.volume == newer.volume,
        "{older} and {newer} are of different volumes: only snapshots of one can be compared"
    );
    let base = ask(api, async |client| {
        client.snapshot(&older.volume, &older.snapshot).await
    })?;
    // A newer one that is ready makes it so, but for one whose group is not confirmed.
    ensure!(
        base.state == SnapshotState::Ready,
        "{older} is still sealing: try again in a moment"
    );
    let changes = runtime::with_snapshot(api, newer, reactor, async |_, newest| {
        ensure!(
            base.layer < newest.info().layer,
            "{older} is not older than {newer}: give them the other way round"
        );
        changes(&newest, base.layer).await
    })?;
    if json {
        return print_json(&changes);
    }
    let row = |change: &Change| {
        vec![
            change.offset_bytes.to_string(),
            change.length_bytes.to_string(),
            if change.zero { "zero" } else { "data" }.to_owned(),
        ]
    };
    let header = ["offset", "length", "now"];
    print_table(&header, changes.iter().map(row).collect())
}

async fn changes(newer: &OpenSnapshot, base: Layer) -> anyhow::Result<Vec<Change>> {
    let size = newer.geometry().size_bytes;
    let mut changes: Vec<Change> = Vec::new();
    let mut at = 0;
    while at < size {
        let len = DIFF_BYTES.min(size - at);
        let runs = newer.changed_since(base, at, len, usize::MAX).await?;
        for run in runs {
            let length_bytes = run.count.bytes().min(size - at);
            let zero = run.kind == BlockKind::Zero;
            match changes.last_mut() {
                _ if run.kind == BlockKind::Absent => {}
                Some(last) if last.zero == zero && last.offset_bytes + last.length_bytes == at => {
                    last.length_bytes += length_bytes;
                }
                _ => changes.push(Change {
                    offset_bytes: at,
                    length_bytes,
                    zero,
                }),
            }
            at += length_bytes;
        }
    }
    Ok(changes)
}

fn delete(
    api: &str,
    name: &SnapshotName,
    wait: bool,
    when_unused: bool,
    json: bool,
) -> anyhow::Result<()> {
    let pending = ask(api, async |client| {
        let (volume, snapshot) = (name.volume.as_str(), name.snapshot.as_str());
        let time = if wait { OWNER_WAIT } else { Duration::ZERO };
        client
            .delete_snapshot(volume, snapshot, when_unused, time)
            .await?;
        if !wait {
            return Ok(None);
        }
        match client.volume(volume).await {
            Ok(volume) => Ok(Some(volume).filter(|volume| !is_applied(volume))),
            // It was deleted as well.
            Err(error) if error.http_status() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    })?;
    if json {
        return print_json(&BTreeMap::from([("deleted", name.to_string())]));
    }
    print_text(&match pending {
        None => format!("deleted {name}"),
        Some(volume) => format!("deleted {name}; {}", told_later(&volume)),
    })
}

fn rollback(
    api: &str,
    name: &SnapshotName,
    request: RollbackVolume,
    json: bool,
) -> anyhow::Result<()> {
    let (volume, snapshot) = (name.volume.as_str(), name.snapshot.as_str());
    let volume = ask(api, async |client| {
        once_let_go(async || client.rollback(volume, snapshot, &request).await).await
    })?;
    if json {
        return print_json(&volume);
    }
    if is_applied(&volume) {
        return print_text(&format!("{} is as it was at {name}", volume.name));
    }
    print_text(&format!(
        "{} goes back to {name}; {}",
        volume.name,
        told_later(&volume)
    ))
}

/// Whether all replicas that are in sync go by the volume's layers as they are.
fn is_applied(volume: &Volume) -> bool {
    volume.layers_applied >= volume.layers.version
}

/// What is still to be done, and who does it.
fn told_later(volume: &Volume) -> String {
    let name = &volume.name;
    format!(
        "its replicas have not all been told yet: the volume's next owner does so, or a store once \
         enough of them answer; see `ashlar volume show {name}`"
    )
}

/// A moment in UTC, as RFC 3339 writes it.
fn moment(since_1970_ms: u64) -> String {
    let since = Duration::from_secs((since_1970_ms / 1000).min(SECONDS_MAX));
    let moment: SystemTime = UNIX_EPOCH + since;
    humantime::format_rfc3339_seconds(moment).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(is_group: bool, names: &[&str]) -> Result<Created, String> {
        let names = names.iter().map(|name| name.parse().unwrap()).collect();
        what_to_create(is_group, names).map_err(|error| error.to_string())
    }

    #[test]
    fn a_group_takes_volumes_and_one_name() {
        let group = Created::Group(CreateSnapshotGroup {
            name: "mon".to_owned(),
            volumes: vec!["a".to_owned(), "b".to_owned()],
        });
        for names in [
            ["a", "b", "@mon"].as_slice(),
            &["a@mon", "b@mon"],
            &["a@mon", "b"],
        ] {
            assert_eq!(parsed(true, names).as_ref(), Ok(&group));
        }
        assert!(parsed(true, &["a@mon", "b@tue"]).is_err());
        assert!(parsed(true, &["a", "b"]).is_err());
        assert!(matches!(parsed(false, &["a@mon"]), Ok(Created::One(_))));
        assert!(parsed(false, &["a"]).is_err());
        assert!(parsed(false, &["a@mon", "b@mon"]).is_err());
    }

    #[test]
    fn moments_are_utc() {
        assert_eq!(moment(0), "1970-01-01T00:00:00Z");
        assert_eq!(moment(1_763_791_174_999), "2025-11-22T05:59:34Z");
        assert_eq!(moment(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
