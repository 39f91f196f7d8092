//! `ashlar volume clone` and `ashlar volume flatten`.

use std::time::Duration;

use ashlar_proto::ByteCount;
use ashlar_proto::api::{CloneSnapshot, FlattenVolume, Volume};
use indicatif::{ProgressBar, ProgressStyle};

use crate::admin::ask;
use crate::args::{CloneArgs, FlattenArgs};
use crate::output::{bytes, print_json, print_text};

/// How long one request waits for a copy to be done.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Makes a clone.
pub fn clone(api: &str, args: &CloneArgs, json: bool) -> anyhow::Result<()> {
    let request = CloneSnapshot {
        name: args.name.clone(),
        size_bytes: args.size.map(ByteCount::new),
        replicas: args.replicas,
        ack: args.ack.map(Into::into),
    };
    let (volume, snapshot) = (&args.snapshot.volume, &args.snapshot.snapshot);
    let made = ask(api, async |client| {
        client.clone_snapshot(volume, snapshot, &request).await
    })?;
    if json {
        return print_json(&made);
    }
    let (name, size) = (&made.name, bytes(made.size_bytes.get()));
    print_text(&format!(
        "created {name} ({size}), a clone of {}",
        args.snapshot
    ))
}

/// Has a clone be independent of its snapshot.
pub fn flatten(api: &str, args: &FlattenArgs, json: bool) -> anyhow::Result<()> {
    let request = FlattenVolume { stop: args.stop };
    let before = ask(api, async |client| {
        client.flatten(&args.name, &request, Duration::ZERO).await
    })?;
    let volume = if args.stop || args.no_wait || before.flattening.is_none() {
        before
    } else {
        wait(api, args, before, json)?
    };
    if json {
        return print_json(&volume);
    }
    let name = &volume.name;
    print_text(&match (&volume.origin, volume.flattening) {
        (None, _) => format!("{name} needs no other volume"),
        (Some(origin), None) => {
            let (parent, snapshot) = (&origin.volume_name, &origin.snapshot);
            format!("{name} shows {parent}@{snapshot} as before: nothing is copied any more")
        }
        (Some(_), Some(_)) => {
            format!("{name} is being flattened; see `ashlar volume show {name}`")
        }
    })
}

/// Waits until all is copied, or somebody stops it.
fn wait(api: &str, args: &FlattenArgs, before: Volume, json: bool) -> anyhow::Result<Volume> {
    let all = before
        .origin
        .as_ref()
        .map_or(0, |origin| origin.bytes.get());
    let bar = if json {
        ProgressBar::hidden()
    } else {
        ProgressBar::new(all)
    };
    let style = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
    bar.set_style(ProgressStyle::with_template(style)?);
    let mut volume = before;
    while let Some(flattening) = volume.flattening {
        bar.set_position(flattening.done_bytes.get());
        let asked = FlattenVolume::default();
        volume = ask(api, async |client| {
            // Asking again changes nothing, but for one that somebody has stopped.
            let shown = client.volume(&args.name).await?;
            if shown.flattening.is_none() {
                return Ok(shown);
            }
            client.flatten(&args.name, &asked, LOOK_EVERY).await
        })?;
    }
    bar.finish_and_clear();
    Ok(volume)
}
