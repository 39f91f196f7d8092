//! The arguments of `ashlar volume clone` and `ashlar volume flatten`.

use clap::Args;

use super::{AckArg, SnapshotName, parse_size};

/// `ashlar volume clone`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ashlar volume clone data@monday data-test
  ashlar volume clone golden@v7 vm-17 --size 40GiB --replicas 2

Nothing is copied: the clone shows the snapshot wherever nothing was written to it, and takes space only
for what is. Its replicas lie wherever there is room, not where the snapshot's are. The snapshot stays
for as long as the clone needs it: until it is deleted, or flattened (`ashlar volume flatten`).")]
pub struct CloneArgs {
    /// The snapshot.
    #[arg(value_name = "VOLUME@NAME")]
    pub snapshot: SnapshotName,
    /// The clone's name: 1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit.
    pub name: String,
    /// Its size, as 10GiB or 500MB; a multiple of 4 KiB, at least the snapshot's [default: the
    /// snapshot's].
    #[arg(long, value_parser = parse_size)]
    pub size: Option<u64>,
    /// Copies of each block [default: as the snapshot's volume].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=3))]
    pub replicas: Option<u8>,
    /// How many copies must hold a write before it is acknowledged [default: as the snapshot's volume].
    #[arg(long, value_enum)]
    pub ack: Option<AckArg>,
}

/// `ashlar volume flatten`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ashlar volume flatten data-test
  ashlar volume flatten data-test --no-wait
  ashlar volume flatten data-test --stop

Whoever has the clone attached copies into it what it shows of its snapshot; a store does so while nobody
has. It goes on if that one fails, and needs this command no more once it has begun. Snapshots that the
clone has already go on showing the other snapshot, which stays until they are deleted.")]
pub struct FlattenArgs {
    /// The clone.
    pub name: String,
    /// Begin it, and do not wait until it is done.
    #[arg(long, conflicts_with = "stop")]
    pub no_wait: bool,
    /// Stop it: the clone goes on showing its snapshot.
    #[arg(long)]
    pub stop: bool,
}
