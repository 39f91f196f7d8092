//! `ashlar volume resize`: another size for a volume.
//!
//! ```text
//! larger    the conductor has stores grow, then tells the owner
//! smaller   attach ─▶ look beyond the new end ─▶ trim there ─▶ flush, detach ─▶ the conductor cuts,
//!                                                                  if nobody has attached since
//! ```
//!
//! Invariant: nothing is trimmed before the conductor has found nothing else against the new size.

use anyhow::{Context, bail, ensure};
use ashlar_client::{BlockDevice, BlockError, Durability};
use ashlar_proto::api::{ResizeVolume, Volume};
use ashlar_proto::limits::BLOCK_BYTES_U64;
use ashlar_proto::message::BlockKind;
use ashlar_proto::{ByteCount, Generation};

use crate::admin::ask;
use crate::args::ResizeArgs;
use crate::exported::Exported;
use crate::output::{bytes, print_json, print_text};
use crate::transfer::session::{self, Access};
use ashlar_api_client::ApiError;

/// Runs asked for at once of what lies beyond the new end.
const EXTENTS_MAX: usize = 1024;

/// How often it is tried again where somebody attaches between the look and the cut.
const TRIES: u32 = 3;

/// Runs the command.
pub fn run(api: &str, args: &ResizeArgs, json: bool) -> anyhow::Result<()> {
    let volume = if args.shrink {
        shrink(api, args)?
    } else {
        ask(api, async |client| {
            client.resize_volume(&args.name, &request(args, None)).await
        })?
    };
    if json {
        return print_json(&volume);
    }
    let (name, size) = (&volume.name, bytes(volume.size_bytes.get()));
    print_text(&match volume.grows_to {
        None => format!("{name} has {size} now"),
        Some(target) => format!(
            "{name} has {size} and grows to {}: not all stores that hold it have answered yet; see \
             `ashlar volume show {name}`",
            bytes(target.get())
        ),
    })
}

fn request(args: &ResizeArgs, generation: Option<Generation>) -> ResizeVolume {
    ResizeVolume {
        size_bytes: ByteCount::new(args.size),
        shrink: args.shrink,
        generation,
    }
}

fn has_code(error: &ApiError, codes: &[&str]) -> bool {
    let problem = error.problem();
    problem.is_some_and(|problem| codes.contains(&problem.code.as_str()))
}

fn shrink(api: &str, args: &ResizeArgs) -> anyhow::Result<Volume> {
    // Whatever else is wrong is refused before anything is lost.
    let probed = ask(api, async |client| {
        match client.resize_volume(&args.name, &request(args, None)).await {
            Err(error) if has_code(&error, &["generation-needed"]) => Ok(None),
            outcome => outcome.map(Some),
        }
    })?;
    // It was not larger.
    if let Some(volume) = probed {
        return Ok(volume);
    }
    for _ in 0..TRIES {
        let access = Access {
            api,
            name: &args.name,
            role: session::SHRINK,
            reactor: &args.reactor,
        };
        let generation = session::with_volume(&access, async |_, device, stop| {
            clear(args, &device, stop).await?;
            Ok(Generation::new(device.version()))
        })?;
        let cut = ask(api, async |client| {
            let request = request(args, Some(generation));
            match client.resize_volume(&args.name, &request).await {
                Err(error) if has_code(&error, &["stale-generation", "volume-attached"]) => {
                    Ok(None)
                }
                outcome => outcome.map(Some),
            }
        })?;
        if let Some(volume) = cut {
            return Ok(volume);
        }
    }
    bail!(
        "{} is as large as before: somebody attaches it again and again; see `ashlar volume show {}`",
        args.name,
        args.name
    )
}

/// Leaves no data beyond the new end, durably.
async fn clear(args: &ResizeArgs, device: &Exported, stop: session::Stop) -> anyhow::Result<()> {
    let size = device.geometry().size_bytes;
    let unread = || format!("cannot look at what lies beyond {}", bytes(args.size));
    let data = data_beyond(device, args.size, size).await;
    let data = data.with_context(unread)?;
    if data == 0 {
        return Ok(());
    }
    ensure!(
        args.discard_data,
        "{} of data lie beyond {} in {}: nothing was changed; use --discard-data to lose them",
        bytes(data),
        bytes(args.size),
        args.name
    );
    ensure!(!stop.is_requested(), "interrupted: nothing was changed");
    let trimmed = device.trim(args.size, size - args.size, Durability::Accepted);
    trimmed.await.context("cannot trim what lies beyond")?;
    device.flush().await.context("cannot flush")?;
    let left = data_beyond(device, args.size, size).await;
    let left = left.with_context(unread)?;
    ensure!(left == 0, "{} of data are left there", bytes(left));
    Ok(())
}

/// Bytes of data between two offsets.
async fn data_beyond(device: &Exported, from: u64, size: u64) -> Result<u64, BlockError> {
    let (mut at, mut data) = (from, 0);
    while at < size {
        for run in device.extents(at, size - at, EXTENTS_MAX).await? {
            let len = u64::from(run.count.get()) * BLOCK_BYTES_U64;
            if run.kind == BlockKind::Data {
                data += len;
            }
            at += len;
        }
    }
    Ok(data)
}
