//! The command line of `ashlar volume import` and `ashlar volume export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{AckArg, ReactorArgs, parse_size};

/// How an image file holds a disk's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImageFormat {
    /// By the file: its first bytes for an import, its name for an export.
    Auto,
    /// Byte by byte.
    Raw,
    /// QEMU's qcow2.
    Qcow2,
}

/// `ashlar volume import`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ashlar volume import debian-12.qcow2 root --size 20GiB
  ashlar volume import disk.img data --replicas 2
  zstdcat disk.img.zst | ashlar volume import - data --size 10GiB
  ashlar volume import disk.img data --into-existing

An import that was interrupted goes on when the same command is given again: a journal beside the
file, FILE.ashlar-import, says how far it came. Use the volume only when the import is done. What
comes through a pipe cannot be resumed.

The SHA-256 that is printed is that of the whole image, as `sha256sum` of it as a raw file.")]
pub struct ImportArgs {
    /// A raw or qcow2 image, a block device, or - for a raw image on standard input.
    pub file: PathBuf,
    /// The volume: 1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit.
    #[arg(value_name = "NAME")]
    pub volume: String,
    /// The volume's size if it is to be larger than the image; needed for standard input.
    #[arg(long, value_parser = parse_size, conflicts_with = "into_existing")]
    pub size: Option<u64>,
    /// Copies of each block.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=3), conflicts_with = "into_existing")]
    pub replicas: u8,
    /// How many copies must hold a write before it is acknowledged.
    #[arg(
        long,
        value_enum,
        default_value = "majority",
        conflicts_with = "into_existing"
    )]
    pub ack: AckArg,
    /// What the image is.
    #[arg(long, value_enum, default_value = "auto")]
    pub format: ImageFormat,
    /// Write into a volume that there is, at least as large as the image: all that it holds is lost.
    #[arg(long)]
    pub into_existing: bool,
    /// Begin anew where an earlier import of the file was interrupted.
    #[arg(long)]
    pub restart: bool,
    /// Show no progress.
    #[arg(long)]
    pub quiet: bool,
    /// How the reactor thread runs.
    #[command(flatten)]
    pub reactor: ReactorArgs,
}

/// `ashlar volume export`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ashlar volume export data backup.img
  ashlar volume export data backup.qcow2
  ashlar volume export data@monday monday.qcow2
  ashlar volume export data - | zstd > backup.img.zst

A volume must not be attached by anybody else meanwhile; a snapshot can be exported while its volume
is written. FILE is there when the export is done; until
then the content is in FILE.ashlar-partial. An export that was interrupted goes on when the same
command is given again: a journal, FILE.ashlar-export, says how far it came. If the volume was written
to in between, it is refused: begin anew with --restart.

The SHA-256 that is printed is that of the volume's content, as `sha256sum` of it as a raw file.")]
pub struct ExportArgs {
    /// The volume, or a snapshot of it as VOLUME@NAME.
    #[arg(value_name = "NAME")]
    pub volume: String,
    /// The image to make, a block device to write to, or - for a raw image on standard output.
    pub file: PathBuf,
    /// What to make [by the name: qcow2 for FILE.qcow2, raw otherwise].
    #[arg(long, value_enum, default_value = "auto", hide_default_value = true)]
    pub format: ImageFormat,
    /// Overwrite the file if there is one, or a block device.
    #[arg(long)]
    pub force: bool,
    /// Begin anew where an earlier export to the file was interrupted.
    #[arg(long)]
    pub restart: bool,
    /// Show no progress.
    #[arg(long)]
    pub quiet: bool,
    /// How the reactor thread runs.
    #[command(flatten)]
    pub reactor: ReactorArgs,
}
