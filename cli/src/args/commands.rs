//! What is done with volumes, nodes, disks and clients: the commands below each of these words.

use ashlar_proto::DiskId;
use ashlar_proto::api::{AckRule, Reserve};
use clap::{Subcommand, ValueEnum};

use super::{
    CloneArgs, ExportArgs, FlattenArgs, FormatArgs, IdentityCommand, ImportArgs, InspectArgs,
    LabelArgs, ListArgs, ResizeArgs, SetVolumeArgs, VolumeKeyCommand, VolumeRules, parse_size,
    space,
};

/// How many answers acknowledge a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AckArg {
    /// More than half of the in-sync replicas.
    Majority,
    /// Every in-sync replica.
    All,
}

impl From<AckArg> for AckRule {
    fn from(ack: AckArg) -> Self {
        match ack {
            AckArg::Majority => Self::Majority,
            AckArg::All => Self::All,
        }
    }
}

/// `ashlar volume`.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Create a volume.
    #[command(
        after_help = "Examples:\n  ashlar volume create data --size 10GiB --replicas 3 --ack majority\n  ashlar volume create db --size 100GiB --reserve 20GiB"
    )]
    Create {
        /// Its name: 1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit; PROJECT/NAME in a
        /// project.
        name: String,
        /// Its size, as 10GiB or 500MB; a multiple of 4 KiB.
        #[arg(long, value_parser = parse_size)]
        size: u64,
        /// Copies of each block.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=3))]
        replicas: u8,
        /// How many copies must hold a write before it is acknowledged.
        #[arg(long, value_enum, default_value = "majority")]
        ack: AckArg,
        /// Bytes of each copy that are kept for it, whatever others write: a size, or all of it.
        #[arg(long, value_name = "SIZE|all", default_value = "none", hide_default_value = true, value_parser = space::parse_reserve)]
        reserve: Reserve,
        /// A label, as NAME=VALUE; may be given more than once.
        #[arg(long, value_name = "NAME=VALUE", value_parser = crate::labels::parse)]
        label: Vec<(String, String)>,
        /// Where its replicas may lie, its limits, and whether it is made at all.
        #[command(flatten)]
        rules: VolumeRules,
    },
    /// List the volumes.
    #[command(after_help = "Example:\n  ashlar volume list --json | jq '.[].name'")]
    List(ListArgs),
    /// Give a volume labels, or take them away.
    Label(LabelArgs),
    /// Show one volume, its shards and replicas.
    #[command(after_help = "Example:\n  ashlar volume show data")]
    Show {
        /// Its name.
        name: String,
    },
    /// Make a volume from a disk image, raw or qcow2.
    Import(ImportArgs),
    /// Write a volume into a disk image, raw or qcow2.
    Export(ExportArgs),
    /// Make a volume larger, attached or not; or smaller, while nobody has it attached.
    Resize(ResizeArgs),
    /// Make a volume that shows what a snapshot does, and can be written.
    Clone(CloneArgs),
    /// Copy what a clone shows of its snapshot into it, so that it needs that no more.
    Flatten(FlattenArgs),
    /// Change how much is kept for a volume, whatever others write.
    Set(SetVolumeArgs),
    /// Show who has registered for a volume over iSCSI, and who has it reserved.
    #[command(after_help = "Example:\n  ashlar volume reservations data")]
    Reservations {
        /// Its name.
        name: String,
    },
    /// Give a volume to a node: only that one may attach it, as NAME:PUBLICATION.
    #[command(after_help = "\
Example:
  ashlar volume publish data --node host-1

The CSI driver does this where Kubernetes asks for it. A volume is one node's at a time, and what attaches it \
shows the publication that this prints: nbd://HOST/data:PUBLICATION.")]
    Publish {
        /// Its name.
        name: String,
        /// The node: any text.
        #[arg(long)]
        node: String,
        /// Nobody may write there.
        #[arg(long)]
        read_only: bool,
    },
    /// Take a volume from the node that it is published to.
    #[command(after_help = "\
Example:
  ashlar volume unpublish data --node host-1

Who has it attached there is fenced: nothing that it writes from then on has any effect once the volume is \
attached elsewhere. The node is not asked, and may be dead.")]
    Unpublish {
        /// Its name.
        name: String,
        /// The node [default: whichever has it].
        #[arg(long)]
        node: Option<String>,
    },
    /// Have a volume attached only by who gives its key, or by all again.
    Key {
        /// What to do.
        #[command(subcommand)]
        command: VolumeKeyCommand,
    },
    /// Delete a volume and all its data.
    #[command(after_help = "Example:\n  ashlar volume delete data")]
    Delete {
        /// Its name.
        name: String,
        /// Delete it even while it is attached or mapped in a target, and with all its snapshots.
        #[arg(long)]
        force: bool,
    },
}

/// `ashlar node`.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List the nodes.
    #[command(after_help = "Example:\n  ashlar node list")]
    List,
    /// Give a node no new replicas; it keeps those that it has.
    #[command(after_help = "Example:\n  ashlar node cordon store-1")]
    Cordon {
        /// Its name or id.
        node: String,
    },
    /// Give a node replicas again, and call off what a drain has not moved yet.
    #[command(after_help = "Example:\n  ashlar node uncordon store-1")]
    Uncordon {
        /// Its name or id.
        node: String,
    },
    /// Give a node no new replicas, and move those that it has to others.
    #[command(after_help = "\
Example:
  ashlar node drain store-1
  ashlar node list             until it holds no replicas")]
    Drain {
        /// Its name or id.
        node: String,
    },
    /// Who may be in the cluster.
    #[command(flatten)]
    Identity(IdentityCommand),
    /// Forget a node that is down and holds no replicas, and its disks.
    #[command(after_help = "Example:\n  ashlar node remove store-1")]
    Remove {
        /// Its name or id.
        node: String,
    },
}

/// `ashlar disk`.
#[derive(Debug, Subcommand)]
pub enum DiskCommand {
    /// List the disks of the cluster.
    #[command(
        after_help = "Examples:\n  ashlar disk list\n  ashlar disk list --label media=nvme,bay!=3"
    )]
    List {
        /// Those alone whose own labels are so: NAME=VALUE, NAME!=VALUE, NAME or !NAME, with commas between.
        #[arg(long, visible_alias = "labels", value_name = "SELECTOR")]
        label: Option<String>,
    },
    /// Give a disk of the cluster labels of its own, or take them away. Pools and rules for places go by
    /// these and by those of its node; of two of one name the disk's counts.
    #[command(after_help = "\
Examples:
  ashlar disk label 5d1c7f0e9a8b4c3d2e1f0a9b8c7d6e5f media=hdd
  ashlar disk label 5d1c7f0e9a8b4c3d2e1f0a9b8c7d6e5f media-      takes the label away")]
    Label {
        /// Its id.
        disk: DiskId,
        /// Labels that it gets, as NAME=VALUE, and that it loses, as NAME-.
        #[arg(required = true, value_name = "NAME=VALUE|NAME-")]
        labels: Vec<String>,
    },
    /// What is to become of a disk of the cluster.
    #[command(flatten)]
    Schedule(ScheduleDisk),
    /// Prepare a block device or a file for a store. Refuses what is formatted already.
    #[command(after_help = "\
Example:
  ashlar disk format /var/lib/ashlar/disk0 --size 100GiB
  ashlar disk format /dev/nvme1n1")]
    Format(FormatArgs),
    /// Look into a disk that no store has open: superblock, segments, maps; checks every CRC.
    #[command(after_help = "\
Example:
  ashlar disk inspect /var/lib/ashlar/disk0
  ashlar disk inspect /var/lib/ashlar/disk0 --volume 00000000000000a1 --json")]
    Inspect(InspectArgs),
}

/// `ashlar rebalance`.
#[derive(Debug, Subcommand)]
pub enum RebalanceCommand {
    /// Show how even the disks are, and what moves.
    #[command(after_help = "Example:\n  ashlar rebalance status --json | jq .state")]
    Status,
    /// Begin no moves until `ashlar rebalance resume`; those under way end.
    #[command(after_help = "Example:\n  ashlar rebalance pause")]
    Pause,
    /// Begin moves again where disks are uneven.
    #[command(after_help = "Example:\n  ashlar rebalance resume")]
    Resume,
}

/// `ashlar client`.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// List the clients that may attach no volume.
    #[command(after_help = "Example:\n  ashlar client list --json")]
    List,
    /// Let a client attach no volume from now on, and take from it those that it has: its requests
    /// fail, and no replica takes its writes.
    #[command(after_help = "\
Examples:
  ashlar client deny nbd@host-a --reason 'its disk array is being replaced'
  ashlar client deny 'nbd@rack-7-*'

A client is who has a volume attached, as `ashlar volume list` shows it. NAME is that text, or its
first word, which leaves out the process; with a trailing * it is whatever begins so. Stores that
attach volumes to repair them are not concerned.")]
    Deny {
        /// The client, or the beginning of its name and *.
        #[arg(value_name = "NAME")]
        client: String,
        /// Why, for those who find it denied.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Take a denial back; NAME is the text that was denied.
    #[command(after_help = "Example:\n  ashlar client allow nbd@host-a")]
    Allow {
        /// As it was denied.
        #[arg(value_name = "NAME")]
        client: String,
    },
}

/// `ashlar disk cordon`, `uncordon`, `drain`, `clear` and `remove`.
#[derive(Debug, Subcommand)]
pub enum ScheduleDisk {
    /// Give a disk no new replicas; it keeps those that it has.
    #[command(after_help = "Example:\n  ashlar disk cordon 5d1c7f0e9a8b4c3d2e1f0a9b8c7d6e5f")]
    Cordon {
        /// Its id.
        disk: DiskId,
    },
    /// Give a disk replicas again, and call off what a drain has not moved yet.
    #[command(after_help = "Example:\n  ashlar disk uncordon 5d1c7f0e9a8b4c3d2e1f0a9b8c7d6e5f")]
    Uncordon {
        /// Its id.
        disk: DiskId,
    },
    /// Give a disk no new replicas, and move those that it has to others.
    #[command(after_help = "\
Example:
  ashlar disk drain 5d1c7f0e9a8b4c3d2e1f0a9b8c7d6e5f
  ashlar disk list             until it holds no replicas")]
    Drain {
        /// Its id.
        disk: DiskId,
    },
    /// Use a disk although its store says that it ails, and call off what has not moved yet. The
    /// store's next such word counts again.
    #[command(after_help = "\
Example:
  ashlar disk list             shows which disks ail, and why
  ashlar disk clear 5d1c7f0e9a8b4c3d2e1f0a9b8c7d6e5f")]
    Clear {
        /// Its id.
        disk: DiskId,
    },
    /// Forget a disk that no store serves and that holds no replicas.
    #[command(after_help = "Example:\n  ashlar disk remove 5d1c7f0e9a8b4c3d2e1f0a9b8c7d6e5f")]
    Remove {
        /// Its id.
        disk: DiskId,
    },
}
