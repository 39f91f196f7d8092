//! The arguments of `ashlar task`, and of the labels of volumes.

use clap::{Args, Subcommand};

/// `ashlar task`.
#[derive(Debug, Subcommand)]
pub enum TaskCommand {
    /// List what is under way, and what has ended of late.
    #[command(
        after_help = "Example:\n  ashlar task list --json | jq '.[] | select(.state == \"running\")'"
    )]
    List {
        /// Those alone that are under way.
        #[arg(long)]
        running: bool,
    },
    /// Show one of them.
    #[command(after_help = "Example:\n  ashlar task show drain-node-2")]
    Show {
        /// Its id.
        id: String,
    },
    /// Wait until one has ended; fails if it was called off.
    #[command(
        after_help = "Example:\n  ashlar node drain store-1 && ashlar task wait drain-node-1"
    )]
    Wait {
        /// Its id.
        id: String,
    },
    /// Call one off: what it has done so far stays.
    #[command(after_help = "Example:\n  ashlar task cancel flatten-volume-0000000000000007")]
    Cancel {
        /// Its id.
        id: String,
    },
}

/// `ashlar volume label`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ashlar volume label data tier=gold app=db
  ashlar volume label data tier-            takes the label away
  ashlar volume list --labels tier=gold,app!=test")]
pub struct LabelArgs {
    /// The volume.
    pub name: String,
    /// Labels that it gets, as NAME=VALUE, and that it loses, as NAME-.
    #[arg(required = true, value_name = "NAME=VALUE|NAME-")]
    pub labels: Vec<String>,
}

/// Which volumes are listed.
#[derive(Debug, Default, Args)]
pub struct ListArgs {
    /// Those alone whose labels are so: NAME=VALUE, NAME!=VALUE, NAME or !NAME, with commas between.
    #[arg(long, value_name = "SELECTOR")]
    pub labels: Option<String>,
    /// Those alone whose names begin so.
    #[arg(long, value_name = "TEXT")]
    pub prefix: Option<String>,
}
