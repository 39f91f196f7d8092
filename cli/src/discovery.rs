//! The disks that a store finds by itself: of those that its patterns name, Ashlar's, and empty ones where
//! it may format these.
//!
//! Invariants: a path that no pattern names is never opened; a disk is written only if it was [`empty`]
//! just before; whatever is unclear, a tool that fails included, leaves a disk as it is.
//!
//! ```text
//! pattern ──▶ paths ──▶ one for each device ──▶ Ashlar's? ── yes ──────────────▶ served
//!                                                  │ no          formatted ──────▶
//!                                                  └── empty, and may it be? ── no ──▶ told of, left alone
//! ```

mod empty;

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ashlar_reactor::{DiskOptions, Reactor};
use ashlar_store::disk::{DiskOpenError, open_disk};
use thiserror::Error;

use crate::args::DiskFilterArgs;
use crate::disk;

/// Why a disk that a pattern names is not served.
#[derive(Debug, Error)]
enum Refused {
    /// It is something that no disk is.
    #[error("it is neither a block device nor a file")]
    Kind,
    /// It cannot be looked at.
    #[error("it cannot be opened: {0}")]
    Open(#[source] std::io::Error),
    /// It is an Ashlar disk that cannot be served.
    #[error(transparent)]
    Disk(DiskOpenError),
    /// It holds something else.
    #[error(transparent)]
    NotEmpty(#[from] empty::NotEmpty),
    /// It is empty, and nobody has said that it may be formatted.
    #[error("it is empty: `ashlar disk format`, or --disk-format-empty, makes it an Ashlar disk")]
    NotFormatted,
    /// Formatting failed.
    #[error("{0:#}")]
    Format(anyhow::Error),
}

/// What one device is, under however many names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Device {
    Block(u64),
    File(u64, u64),
}

impl Device {
    fn of(path: &Path) -> Result<Self, Refused> {
        let facts = std::fs::metadata(path).map_err(Refused::Open)?;
        let kind = facts.file_type();
        if kind.is_block_device() {
            Ok(Self::Block(facts.rdev()))
        } else if kind.is_file() {
            Ok(Self::File(facts.dev(), facts.ino()))
        } else {
            Err(Refused::Kind)
        }
    }
}

/// The disks to serve: those that are `given`, and those that are found.
///
/// # Errors
/// There is none, and why.
pub async fn disks(
    reactor: &Reactor,
    given: &[PathBuf],
    filter: &DiskFilterArgs,
) -> anyhow::Result<Vec<PathBuf>> {
    let mut disks = given.to_vec();
    let given: Vec<Device> = given
        .iter()
        .filter_map(|path| Device::of(path).ok())
        .collect();
    let mut refused = Vec::new();
    for (device, path) in candidates(&filter.disk_filter, &mut refused)? {
        if given.contains(&device) {
            continue;
        }
        match admit(reactor, &path, filter).await {
            Ok(()) => disks.push(path),
            Err(why) => refused.push((path, why)),
        }
    }
    for (path, why) in &refused {
        tracing::warn!(disk = %path.display(), "left alone: {why}");
    }
    if disks.is_empty() {
        let refused = Told(&refused);
        let patterns = filter.disk_filter.join(" ");
        bail!("no disk to serve is named by --disk-filter {patterns}{refused}");
    }
    Ok(disks)
}

/// What was refused, for people.
struct Told<'a>(&'a [(PathBuf, Refused)]);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(": there is nothing of that name");
        }
        for (path, why) in self.0 {
            write!(f, "\n  {}: {why}", path.display())?;
        }
        Ok(())
    }
}

/// What the patterns name, each device once, by the first of its names.
fn candidates(
    patterns: &[String],
    refused: &mut Vec<(PathBuf, Refused)>,
) -> anyhow::Result<BTreeMap<Device, PathBuf>> {
    let mut found = BTreeMap::new();
    for pattern in patterns {
        let paths = glob::glob(pattern).with_context(|| format!("--disk-filter {pattern}"))?;
        for path in paths {
            let path = path.with_context(|| format!("--disk-filter {pattern}"))?;
            match Device::of(&path) {
                Ok(device) => {
                    found.entry(device).or_insert(path);
                }
                Err(why) => refused.push((path, why)),
            }
        }
    }
    Ok(found)
}

/// Makes sure that a disk is Ashlar's, or becomes that if it is empty and may.
async fn admit(reactor: &Reactor, path: &Path, filter: &DiskFilterArgs) -> Result<(), Refused> {
    let options = DiskOptions {
        read_only: true,
        ..DiskOptions::new(path)
    };
    match open_disk(reactor, options).await {
        Ok(_) => return Ok(()),
        Err(DiskOpenError::NotFormatted) => {}
        Err(error) => return Err(Refused::Disk(error)),
    }
    empty::check(path)?;
    if !filter.disk_format_empty {
        return Err(Refused::NotFormatted);
    }
    let disk = disk::format_whole(reactor, path, filter.disk_format_lanes).await;
    let disk = disk.map_err(Refused::Format)?;
    tracing::info!(path = %path.display(), %disk, "an empty disk was formatted");
    Ok(())
}

#[cfg(test)]
mod tests;
