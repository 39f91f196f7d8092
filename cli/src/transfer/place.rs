//! Where an export goes, in which format, and what an earlier run left there.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use ashlar_image::Format;

use super::file::{is_block_device, is_dash, word};
use super::journal::{ExportJournal, JournalFile, with_suffix};
use crate::args::{ExportArgs, ImageFormat};

/// Where it goes.
pub enum Place {
    /// Standard output, which is no terminal.
    Stdout(File),
    /// A block device.
    Device(PathBuf),
    /// A file, whole only when it is done.
    File(Files),
}

/// A file that is made, and those beside it.
#[derive(Clone)]
pub struct Files {
    pub path: PathBuf,
    pub partial: PathBuf,
    pub journal: JournalFile,
}

/// The format to write.
///
/// # Errors
/// When it does not go with the place.
pub fn format_of(args: &ExportArgs) -> anyhow::Result<Format> {
    let by_name = args.file.extension().is_some_and(|it| it == "qcow2");
    let is_plain = is_dash(&args.file) || is_block_device(&args.file);
    match args.format {
        ImageFormat::Qcow2 if is_dash(&args.file) => bail!(
            "qcow2 cannot be written to a pipe, for its tables are written when its data are: export \
             to a file, or --format raw"
        ),
        ImageFormat::Auto if by_name && !is_plain => Ok(Format::Qcow2),
        ImageFormat::Qcow2 if is_plain => {
            bail!("a block device is written raw: leave --format out")
        }
        ImageFormat::Qcow2 => Ok(Format::Qcow2),
        ImageFormat::Auto | ImageFormat::Raw => Ok(Format::Raw),
    }
}

/// The place to write to, which holds nothing yet, or nothing that is to be kept.
///
/// # Errors
/// When it cannot be, or would be overwritten.
pub fn place(args: &ExportArgs) -> anyhow::Result<Place> {
    let path = &args.file;
    if is_dash(path) {
        use std::io::IsTerminal;
        let stdout = std::io::stdout();
        ensure!(
            !stdout.is_terminal(),
            "standard output is a terminal: send it into a pipe or a file"
        );
        return Ok(Place::Stdout(stdout.as_fd().try_clone_to_owned()?.into()));
    }
    let shown = path.display();
    if is_block_device(path) {
        ensure!(
            args.force,
            "{shown} is a block device: give --force to overwrite what it holds"
        );
        return Ok(Place::Device(path.clone()));
    }
    match fs::metadata(path) {
        Ok(metadata) => {
            ensure!(metadata.is_file(), "{shown} is no file: give another name");
            ensure!(
                args.force,
                "{shown} is there already: give another name, or --force to overwrite it"
            );
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot export to {shown}")),
    }
    Ok(Place::File(Files {
        path: path.clone(),
        partial: with_suffix(path, "ashlar-partial"),
        journal: JournalFile::beside(path, "ashlar-export"),
    }))
}

/// What an earlier run left to go on from.
///
/// # Errors
/// When what it left is of another export.
pub fn old_journal(
    args: &ExportArgs,
    place: &Place,
    format: Format,
) -> anyhow::Result<Option<ExportJournal>> {
    let Place::File(files) = place else {
        return Ok(None);
    };
    if args.restart {
        files.journal.remove()?;
    }
    let Some(old) = files.journal.load::<ExportJournal>()? else {
        return Ok(None);
    };
    let shown = args.file.display();
    ensure!(
        old.volume == args.volume,
        "an export of {} to {shown} is not finished: finish it, or forget it with --restart",
        old.volume
    );
    ensure!(
        old.format == word(format),
        "the export to {shown} began with --format {}: go on with that, or begin anew with --restart",
        old.format
    );
    Ok(files.partial.exists().then_some(old))
}
