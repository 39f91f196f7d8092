//! `ashlar volume import`: makes the volume, or takes the one that there is, and fills it.
//!
//! A crash at any point, and what the next run finds:
//!
//! 1. no journal: nothing was made;
//! 2. a journal without a volume's id: a volume that was never attached may have been made;
//! 3. a journal with an id: the volume holds the image up to the mark, and maybe more;
//! 4. no journal, the volume whole: it was finished.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use ashlar_client::BlockDevice;
use ashlar_image::{Format, Image};
use ashlar_reactor::Reactor;
use serde::Serialize;

use super::file::{Identity, is_dash, is_seekable, word};
use super::plan::Plan;
use super::progress::Progress;
use super::reader::{self, BLOCK_BYTES, ReadError};
use super::session::{self, Access, Stop};
use super::volume_name;
use super::writing::{Filled, Filling};
use crate::args::{ImageFormat, ImportArgs};
use crate::exported::Exported;
use crate::output::{bytes, print_json, print_text};

/// What an import has done.
#[derive(Debug, Serialize)]
struct ImportReport {
    volume: String,
    volume_id: String,
    format: &'static str,
    size_bytes: u64,
    image_bytes: u64,
    /// Written by this run.
    data_bytes: u64,
    /// Where this run went on.
    resumed_at_bytes: u64,
    sha256: String,
    seconds: f64,
}

/// The image, and which file it is.
struct Source {
    image: Image,
    format: Format,
    /// None of a pipe.
    identity: Option<Identity>,
}

/// Runs it.
pub fn run(api: &str, args: &ImportArgs, json: bool) -> anyhow::Result<()> {
    let name = volume_name(&args.volume)?;
    let shown = args.file.display();
    let source = open(args).with_context(|| format!("cannot import {shown}"))?;
    let size_bytes = size_of(args, &source)?;
    let identity = source.identity.as_ref();
    let plan = Plan::make(api, args, identity, source.format, size_bytes)?;
    let began = Instant::now();
    let mut report = ImportReport {
        volume: name.to_owned(),
        volume_id: plan.volume.id.to_string(),
        format: word(source.format),
        size_bytes: plan.volume.size_bytes.get(),
        image_bytes: 0,
        data_bytes: 0,
        resumed_at_bytes: plan.done.as_ref().map_or(0, |mark| mark.done_bytes),
        sha256: String::new(),
        seconds: 0.0,
    };
    let may_resume = plan.journal.is_some();
    let access = Access {
        api,
        name,
        role: session::IMPORT,
        reactor: &args.reactor,
    };
    let filled = session::with_volume(&access, async |reactor, device, stop| {
        ensure!(
            device.id() == plan.volume.id,
            "{name} is another volume than a moment ago: try again"
        );
        fill(args, source, plan, reactor, device, stop).await
    });
    let filled = filled.map_err(|error| {
        let advice = advice(name, may_resume, &error);
        error.context(advice)
    })?;
    report.image_bytes = filled.mark.done_bytes;
    report.data_bytes = filled.data_bytes;
    report.sha256 = filled.mark.sha256;
    report.seconds = began.elapsed().as_secs_f64();
    show(args, &report, json)
}

async fn fill(
    args: &ImportArgs,
    source: Source,
    plan: Plan,
    reactor: Reactor,
    device: Exported,
    stop: Stop,
) -> anyhow::Result<Filled> {
    let total = source.image.size_bytes();
    let progress = Arc::new(Progress::new(args.quiet, total));
    let doing = if plan.done.is_some() {
        "checking what is imported"
    } else {
        "importing"
    };
    progress.begin(doing, 0);
    let volume_bytes = device.geometry().size_bytes;
    let pieces = reader::start(reader::Job {
        image: source.image,
        done: plan.done,
        volume_bytes,
        stop: stop.flag(),
        progress: Arc::clone(&progress),
    })?;
    let filling = Filling {
        reactor,
        device,
        stop,
        progress: Arc::clone(&progress),
        journal: plan.journal,
        write_zeroes: plan.write_zeroes,
        source: source.identity.map(|it| (args.file.clone(), it)),
        total: total.unwrap_or(volume_bytes),
    };
    let filled = filling.run(pieces).await;
    progress.end();
    filled
}

fn show(args: &ImportArgs, report: &ImportReport, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(report);
    }
    let resumed = match report.resumed_at_bytes {
        0 => String::new(),
        at => format!(", from {} on", bytes(at)),
    };
    print_text(&format!(
        "imported {} ({}, {}) into {} ({}): {} of data in {:.1} s{resumed}",
        args.file.display(),
        report.format,
        bytes(report.image_bytes),
        report.volume,
        bytes(report.size_bytes),
        bytes(report.data_bytes),
        report.seconds,
    ))?;
    print_text(&format!("sha256 {}", report.sha256))
}

/// What to do when it is not finished.
fn advice(name: &str, may_resume: bool, error: &anyhow::Error) -> String {
    if error.chain().any(|cause| cause.is::<ReadError>()) {
        // It says itself what to do about the image.
        return format!(
            "the import into {name} is not finished, and `ashlar volume delete {name}` gives it up"
        );
    }
    if may_resume {
        format!(
            "the import into {name} is not finished; the same command goes on with it, \
             `ashlar volume delete {name}` gives it up"
        )
    } else {
        format!(
            "the import into {name} is not finished and cannot be resumed; begin anew with \
             --into-existing, or `ashlar volume delete {name}`"
        )
    }
}

fn open(args: &ImportArgs) -> anyhow::Result<Source> {
    let stdin = is_dash(&args.file);
    let file = if stdin {
        File::from(std::io::stdin().as_fd().try_clone_to_owned()?)
    } else {
        File::open(&args.file)?
    };
    let metadata = file.metadata()?;
    ensure!(!metadata.is_dir(), "it is a directory");
    if stdin || !is_seekable(&metadata) {
        if args.format == ImageFormat::Qcow2 {
            bail!(ashlar_image::ImageError::Qcow2Stream);
        }
        let image = Image::stream(file, args.format == ImageFormat::Auto)?;
        return Ok(Source {
            image,
            format: Format::Raw,
            identity: None,
        });
    }
    let format = match args.format {
        ImageFormat::Auto => Image::probe(&file)?,
        ImageFormat::Raw => Format::Raw,
        ImageFormat::Qcow2 => Format::Qcow2,
    };
    let identity = Identity::of(&file)?;
    let mut image = Image::open(file, format)?;
    image.survey()?;
    Ok(Source {
        image,
        format,
        identity,
    })
}

/// The size of the volume to make.
fn size_of(args: &ImportArgs, source: &Source) -> anyhow::Result<u64> {
    let Some(image_bytes) = source.image.size_bytes() else {
        return match args.size {
            Some(size) => Ok(size),
            None if args.into_existing => Ok(0),
            None => bail!(
                "how long the image on standard input is shows only at its end: give --size for \
                 the volume, or --into-existing"
            ),
        };
    };
    ensure!(image_bytes > 0, "{} is empty", args.file.display());
    let least = image_bytes.next_multiple_of(BLOCK_BYTES);
    let size = args.size.unwrap_or(least);
    ensure!(
        size >= least,
        "--size {} is less than the image has: {}",
        bytes(size),
        bytes(least)
    );
    Ok(size)
}
