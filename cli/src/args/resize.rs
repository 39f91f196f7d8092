//! The arguments of `ashlar volume resize`.

use clap::Args;

use super::{ReactorArgs, parse_size};

/// `ashlar volume resize`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ashlar volume resize data 20GiB
  ashlar volume resize data 5GiB --shrink
  ashlar volume resize data 5GiB --shrink --discard-data

A volume grows while it is in use. Clients that are connected go on with the size that they were told;
they see the new one when they connect again. The present size ends a growth that has not come to its
end. A volume with snapshots does not get smaller, nor does one that somebody has attached.")]
pub struct ResizeArgs {
    /// The volume.
    pub name: String,
    /// Its new size, as 10GiB or 500MB; a multiple of 4 KiB.
    #[arg(value_parser = parse_size)]
    pub size: u64,
    /// Make it smaller, if no data lies beyond the new end.
    #[arg(long)]
    pub shrink: bool,
    /// Give up the data beyond the new end: it is lost.
    #[arg(long, requires = "shrink")]
    pub discard_data: bool,
    /// How the volume is read when it is made smaller.
    #[command(flatten)]
    pub reactor: ReactorArgs,
}
