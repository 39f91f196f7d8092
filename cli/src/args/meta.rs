//! The arguments of `ashlar meta`.

use std::path::PathBuf;
use std::time::Duration;

use ashlar_proto::{DiskId, VolumeId};
use clap::{Args, Subcommand, ValueEnum};

use super::{EtcdArgs, parse_duration};

/// What to do with the metadata as a whole.
#[derive(Debug, Subcommand)]
pub enum MetaCommand {
    /// Write all metadata, as they are at one moment, into a file.
    #[command(after_help = "\
Examples:
  ashlar meta backup ashlar.meta                         of a running cluster, by its API
  ashlar meta backup ashlar.meta --data /var/lib/ashlar/conductor    while it is stopped

The file holds the secrets that the metadata hold; only its owner can read it.")]
    Backup(BackupArgs),
    /// Put a backup in the place of the metadata, while no conductor runs.
    #[command(after_help = "\
Examples:
  ashlar meta restore ashlar.meta --data /var/lib/ashlar/conductor
  ashlar meta restore ashlar.meta --etcd http://10.0.0.1:2379,http://10.0.0.2:2379

A recovery begins with restored metadata: stores remove nothing and nobody gets a volume until the metadata
were compared with what stores hold. Start the conductor and all stores, then
  ashlar meta check                                     says what differs
  ashlar meta check --repair                            puts right what is safe
  ashlar meta check --repair --all-disks                of all disks that there are: ends the recovery")]
    Restore(RestoreArgs),
    /// Say what is wrong with the metadata, and put right what is certain.
    #[command(after_help = "\
Examples:
  ashlar meta check                                      of a running cluster, with what its stores hold
  ashlar meta check --repair                             and rebuilds from that what is lost or behind
  ashlar meta check ashlar.meta                          of a backup
  ashlar meta check --data DIR --disk-report a.json --repair

Exits with 1 where something is wrong, and stays so.")]
    Check(CheckArgs),
    /// Copy the metadata from a file to etcd, or back, while no conductor runs.
    #[command(after_help = "\
Examples:
  ashlar meta migrate --data /var/lib/ashlar/conductor --etcd http://10.0.0.1:2379 --to etcd
  ashlar meta migrate --data /var/lib/ashlar/conductor --etcd http://10.0.0.1:2379 --to file

What they are copied from stays as it is: start no conductor on it any more.")]
    Migrate(MigrateArgs),
}

/// Where metadata are that are not asked of a conductor.
#[derive(Debug, Args)]
pub struct MetaPlace {
    /// The directory of a conductor that is alone, and stopped.
    #[arg(long, value_name = "DIR", conflicts_with = "etcd")]
    pub data: Option<PathBuf>,

    /// Those of several.
    #[command(flatten)]
    pub etcd: EtcdArgs,
}

/// `ashlar meta backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The file to write; it must not be there.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Where the metadata are, if not behind the API.
    #[command(flatten)]
    pub place: MetaPlace,
}

/// `ashlar meta restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Where to.
    #[command(flatten)]
    pub place: MetaPlace,

    /// Replace what is there.
    #[arg(long)]
    pub force: bool,

    /// Restore the very rows, for a cluster that did nothing since the backup. Without it, ids, generations
    /// and epochs that may have been given out since are skipped, and no volume counts as attached.
    #[arg(long)]
    pub exact: bool,
}

/// `ashlar meta check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// A backup to check.
    #[arg(value_name = "FILE", conflicts_with_all = ["data", "etcd", "repair"])]
    pub file: Option<PathBuf>,

    /// Where the metadata are, if not behind the API.
    #[command(flatten)]
    pub place: MetaPlace,

    /// What `ashlar disk inspect --json` says of a disk; may be given more than once.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub disk_report: Vec<PathBuf>,

    /// Put right what is certain. In a running cluster: in-sync sets, generations, layers and volumes whose
    /// rows are lost or behind, from what stores hold. With --data or --etcd, while no conductor runs: names,
    /// counters, on which disks and nodes replicas are; and rows that cannot be read are removed.
    #[arg(long)]
    pub repair: bool,

    /// With --repair: vouch for this volume (its id). Replicas that all agree count as complete although its
    /// owner did not leave it cleanly (right only if none of them was being brought up then), or although they
    /// hold no write; and a volume that no row knows was as large as its replicas are.
    #[arg(long, value_name = "VOLUME-ID", requires = "repair", conflicts_with_all = ["file", "data", "etcd"])]
    pub accept: Vec<VolumeId>,

    /// Vouch that the cluster has no disks but those that the metadata know, also none that was added since a
    /// backup. A recovery ends only then: stores remove what no row names.
    #[arg(long, conflicts_with_all = ["file", "data", "etcd"])]
    pub all_disks: bool,

    /// Do not wait for this disk (its id): it is gone for good, with all that it held.
    #[arg(long, value_name = "DISK-ID", conflicts_with_all = ["file", "data", "etcd"])]
    pub gone: Vec<DiskId>,

    /// End the recovery although something is undecided: rows stand as they are, earlier owners are fenced, and
    /// stores remove for good what no row names.
    #[arg(long, conflicts_with_all = ["file", "data", "etcd"])]
    pub give_up: bool,

    /// How long to wait for what stores say.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub wait: Duration,
}

/// `ashlar meta migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// The directory of a conductor that is alone.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,

    /// Etcd.
    #[command(flatten)]
    pub etcd: EtcdArgs,

    /// Where to.
    #[arg(long, value_enum, value_name = "WHERE")]
    pub to: MetaTarget,

    /// Replace what is there.
    #[arg(long)]
    pub force: bool,
}

/// One of the two stores of metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MetaTarget {
    /// Etcd.
    Etcd,
    /// The file in the directory of a conductor.
    File,
}
