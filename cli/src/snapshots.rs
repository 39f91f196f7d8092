//! `ashlar snapshot`: volumes kept as they were at a moment.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ashlar_proto::api::{CreateSnapshot, RollbackVolume, Snapshot, SnapshotState, Volume};

use crate::admin::{ask, once_let_go, word};
use crate::api_client::OWNER_WAIT;
use crate::args::{SnapshotCommand, SnapshotName};
use crate::output::{bytes, print_json, print_table, print_text};

/// The last second that RFC 3339 has a text for.
const SECONDS_MAX: u64 = 253_402_300_799;

/// Runs one of its commands.
pub fn run(api: &str, command: SnapshotCommand, json: bool) -> anyhow::Result<()> {
    match command {
        SnapshotCommand::Create { name } => create(api, &name, json),
        SnapshotCommand::List { volume } => list(api, volume.as_deref(), json),
        SnapshotCommand::Show { name } => show(api, &name, json),
        SnapshotCommand::Delete { name, wait } => delete(api, &name, wait, json),
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

fn list(api: &str, volume: Option<&str>, json: bool) -> anyhow::Result<()> {
    let snapshots = ask(api, async |client| client.snapshots(volume).await)?.items;
    if json {
        return print_json(&snapshots);
    }
    let header = ["snapshot", "created", "size", "layer", "state"];
    print_table(&header, snapshots.iter().map(row).collect())
}

fn row(snapshot: &Snapshot) -> Vec<String> {
    vec![
        format!("{}@{}", snapshot.volume_name, snapshot.name),
        moment(snapshot.created_ms),
        bytes(snapshot.size_bytes.get()),
        snapshot.layer.to_string(),
        word(&snapshot.state),
    ]
}

fn show(api: &str, name: &SnapshotName, json: bool) -> anyhow::Result<()> {
    let snapshot = ask(api, async |client| {
        client.snapshot(&name.volume, &name.snapshot).await
    })?;
    if json {
        return print_json(&snapshot);
    }
    let facts = [
        ("name", snapshot.name.clone()),
        ("volume", snapshot.volume_name.clone()),
        ("volume id", snapshot.volume.to_string()),
        ("created", moment(snapshot.created_ms)),
        ("size", bytes(snapshot.size_bytes.get())),
        ("layer", snapshot.layer.to_string()),
        ("state", word(&snapshot.state)),
    ];
    for (fact, value) in facts {
        print_text(&format!("{fact:<10} {value}"))?;
    }
    Ok(())
}

fn delete(api: &str, name: &SnapshotName, wait: bool, json: bool) -> anyhow::Result<()> {
    let pending = ask(api, async |client| {
        let (volume, snapshot) = (name.volume.as_str(), name.snapshot.as_str());
        let time = if wait { OWNER_WAIT } else { Duration::ZERO };
        client.delete_snapshot(volume, snapshot, time).await?;
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

    #[test]
    fn moments_are_utc() {
        assert_eq!(moment(0), "1970-01-01T00:00:00Z");
        assert_eq!(moment(1_763_791_174_999), "2025-11-22T05:59:34Z");
        assert_eq!(moment(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
