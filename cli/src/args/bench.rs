//! The arguments of `ashlar bench`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{ApiArgs, ReactorArgs, parse_duration, parse_size};

/// What the load of `ashlar bench` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchPattern {
    /// Random writes.
    Randwrite,
    /// Random reads.
    Randread,
    /// Writes one after another.
    Write,
    /// Reads one after another.
    Read,
}

/// `ashlar bench`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ashlar bench data --rw randwrite --depth 32 --time 10s

Writes overwrite what the volume holds: use a volume of its own.")]
pub struct BenchArgs {
    /// How to find the cluster.
    #[command(flatten)]
    pub api: ApiArgs,
    /// The volume.
    pub volume: String,
    /// The load.
    #[arg(long, value_enum, default_value = "randwrite")]
    pub rw: BenchPattern,
    /// Bytes of each request, a multiple of 4 KiB, at most 32 MiB.
    #[arg(long, default_value = "4KiB", value_parser = parse_size)]
    pub block_size: u64,
    /// Requests in flight.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub depth: u32,
    /// How long.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub time: Duration,
    /// How the reactor thread runs.
    #[command(flatten)]
    pub reactor: ReactorArgs,
}
