//! The command line: every role and every administrative command of the one binary.

mod access;
mod bench;
mod clones;
mod commands;
mod config;
mod csi;
mod disk_filter;
mod etcd;
mod identity;
mod iscsi;
mod meta;
mod process;
mod resize;
mod snapshots;
mod space;
mod targets;
mod tasks;
mod transfer;

use std::path::PathBuf;
use std::time::Duration;

use ashlar_client::VolumeOptions;
use ashlar_proto::{Address, ByteCount};
use ashlar_store::MapBudget;
use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::io_threads::THREADS_MAX;
use crate::machine_memory;

pub use access::{
    AuditCommand, CredentialArgs, GateArgs, KeyCommand, ProjectCommand, TokenCommand, UserCommand,
    VolumeKeyCommand,
};
pub use bench::{BenchArgs, BenchPattern};
pub use clones::{CloneArgs, FlattenArgs};
pub use commands::{
    AckArg, ClientCommand, DiskCommand, NodeCommand, RebalanceCommand, ScheduleDisk, VolumeCommand,
};
pub use config::{ConfigCommand, OfVolume, VolumeRules};
pub use csi::{AttacherArg, CsiArgs, CsiMode};
pub use disk_filter::DiskFilterArgs;
pub use etcd::EtcdArgs;
pub use identity::{
    AuthorityArgs, ClusterCommand, IdentityArgs, IdentityCommand, InitArgs, IssueArgs,
    JoinTokenCommand, SubjectArgs,
};
pub use iscsi::{ISCSI_LISTEN, IscsiArgs, IscsiChoice, IscsiListen};
pub use meta::{
    BackupArgs, CheckArgs, MetaCommand, MetaPlace, MetaTarget, MigrateArgs, RestoreArgs,
};
pub use process::ProcessArgs;
pub use resize::ResizeArgs;
pub use snapshots::{CreateName, SnapshotCommand, SnapshotName};
pub use space::{EventsArgs, SetSpaceArgs, SetVolumeArgs, SpaceCommand};
pub use targets::{
    AclCommand, ChapCommand, ClearChapArgs, DiscoveryChapCommand, SetChapArgs, TargetCommand,
};
pub use tasks::{LabelArgs, ListArgs, TaskCommand};
pub use transfer::{ExportArgs, ImageFormat, ImportArgs};

/// The least `--owner-silence`.
const OWNER_SILENCE_MIN: Duration = Duration::from_secs(8);

/// Replicated block storage: volumes over NBD and iSCSI, kept on as many machines as you like.
#[derive(Debug, Parser)]
#[command(
    name = "ashlar",
    version,
    propagate_version = true,
    after_help = "\
Examples:
  ashlar up                                        a whole cluster in one process
  ashlar volume create data --size 10GiB           a 3-replica volume on it
  nbdcopy disk.img nbd://127.0.0.1/data            fill it with any NBD client

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 refused as things stand,
            5 the conductor cannot be reached, 6 not let in or not permitted"
)]
pub struct Cli {
    /// Print JSON for programs instead of text for people.
    #[arg(long, global = true)]
    pub json: bool,

    /// What is shown to the conductor.
    #[command(flatten)]
    pub credentials: CredentialArgs,
    /// Who this process is.
    #[command(flatten)]
    pub identity: IdentityArgs,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How a command finds the cluster.
#[derive(Debug, Args)]
pub struct ApiArgs {
    /// Where the conductor's API is; of several conductors, with commas between them.
    #[arg(
        long,
        global = true,
        env = "ASHLAR_API",
        default_value = "http://127.0.0.1:7100",
        value_name = "URL"
    )]
    pub api: String,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole cluster in this process: conductor, stores, NBD and iSCSI server.
    Up(UpArgs),
    /// Run the conductor, which knows who is there and who holds what.
    Conductor(ConductorArgs),
    /// Run a store, which keeps replicas on its disks.
    Store(StoreArgs),
    /// Run the NBD server, which attaches volumes for NBD clients.
    Nbd(NbdArgs),
    /// Run the iSCSI server, which attaches volumes for iSCSI initiators.
    Iscsi(IscsiArgs),
    /// Run the CSI driver, by which Kubernetes makes, attaches and mounts volumes.
    Csi(CsiArgs),
    /// Create, list, show, clone, import, export and delete volumes.
    Volume {
        /// How to find the cluster.
        #[command(flatten)]
        api: ApiArgs,
        /// What to do.
        #[command(subcommand)]
        command: VolumeCommand,
    },
    /// Create, list, show, delete and go back to snapshots of volumes.
    Snapshot {
        /// How to find the cluster.
        #[command(flatten)]
        api: ApiArgs,
        /// What to do.
        #[command(subcommand)]
        command: SnapshotCommand,
    },
    /// Make the authority of a cluster, and identities where its key is.
    Cluster {
        /// What to do.
        #[command(subcommand)]
        command: ClusterCommand,
    },
    /// List, cordon, drain and remove the nodes of the cluster; say who may join, and who may not.
    Node {
        /// How to find the cluster.
        #[command(flatten)]
        api: ApiArgs,
        /// What to do.
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Format and inspect disks; list, cordon, drain and remove those of the cluster.
    Disk {
        /// How to find the cluster.
        #[command(flatten)]
        api: ApiArgs,
        /// What to do.
        #[command(subcommand)]
        command: DiskCommand,
    },
    /// Create, list, show, map and delete iSCSI targets; say who may log in to them.
    Target {
        /// How to find the cluster.
        #[command(flatten)]
        api: ApiArgs,
        /// What to do.
        #[command(subcommand)]
        command: TargetCommand,
    },
    /// Deny clients their volumes, allow them again, list who is denied.
    Client {
        /// How to find the cluster.
        #[command(flatten)]
        api: ApiArgs,
        /// What to do.
        #[command(subcommand)]
        command: ClientCommand,
    },
    /// Create, list, deny and delete users; say what they may do.
    User {
        /// How to find the cluster.
        #[command(flatten)]
        api: ApiArgs,
        /// What to do.
        #[command(subcommand)]
        command: UserCommand,
    },
    /// Create, list and revoke keys, by which users get in.
    Key {
        /// How to find the cluster.
        #[command(flatten)]
        api: ApiArgs,
        /// What to do.
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Create and revoke tokens, which end by themselves.
    Token {
        /// How to find the cluster.
        #[command(flatten)]
        api: ApiArgs,
        /// What to do.
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Create, list, bound and delete projects.
    Project {
        /// How to find the cluster.
        #[command(flatten)]
        api: ApiArgs,
        /// What to do.
        #[command(subcommand)]
        command: ProjectCommand,
    },
    /// Show who has done what, and who was refused.
    Audit {
        /// How to find the cluster.
        #[command(flatten)]
        api: ApiArgs,
        /// What to do.
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Show whom the conductor takes this command for, and what that one may do.
    #[command(after_help = "Example:\n  ashlar whoami --token-file ada.key")]
    Whoami {
        /// How to find the cluster.
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Show or pause the moves of replicas from fuller disks to emptier ones.
    #[command(after_help = "\
Examples:
  ashlar rebalance             how even the disks are, and what moves
  ashlar rebalance --dry-run   what would move, paused or not; changes nothing
  ashlar rebalance pause       until `ashlar rebalance resume`

Replicas move by themselves when two disks lie more than 10 % of their size apart, until none lie
more than 3 % apart. Lost replicas and drained disks come first.")]
    Rebalance {
        /// How to find the cluster.
        #[command(flatten)]
        api: ApiArgs,
        /// Show what would move and how full disks would be then, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// What to do [default: status].
        #[command(subcommand)]
        command: Option<RebalanceCommand>,
    },
    /// List, show, await and call off long operations.
    Task {
        /// How to find the cluster.
        #[command(flatten)]
        api: ApiArgs,
        /// What to do.
        #[command(subcommand)]
        command: TaskCommand,
    },
    /// Show and change how space is given out: over-commit and thresholds.
    #[command(after_help = "\
Examples:
  ashlar space                          what is promised, kept and used
  ashlar space set --over-commit 3      promise volumes at most 3 times the capacity
  ashlar space set --soft 75 --hard 85  from when on disks get and keep no more")]
    Space {
        /// How to find the cluster.
        #[command(flatten)]
        api: ApiArgs,
        /// What to do [default: show].
        #[command(subcommand)]
        command: Option<SpaceCommand>,
    },
    /// Show, explain and change settings of the cluster and of volumes; they hold at once, everywhere.
    Config {
        /// How to find the cluster.
        #[command(flatten)]
        api: ApiArgs,
        /// What to do.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Show what has happened in the cluster of late: disks that ran full, lost capacity.
    Events {
        /// How to find the cluster.
        #[command(flatten)]
        api: ApiArgs,
        /// Which events.
        #[command(flatten)]
        args: EventsArgs,
    },
    /// Back up, restore, check and move the metadata of the cluster.
    Meta {
        /// How to find the cluster.
        #[command(flatten)]
        api: ApiArgs,
        /// What to do.
        #[command(subcommand)]
        command: MetaCommand,
    },
    /// Show how the cluster is.
    #[command(after_help = "Example:\n  ashlar status --json | jq .health")]
    Status {
        /// How to find the cluster.
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Load a volume through the client library, without NBD, and print what it reached.
    Bench(BenchArgs),
    /// Print the completions of a shell.
    #[command(after_help = "Example:\n  ashlar completions bash > /etc/bash_completion.d/ashlar")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Which kernel interface drives disks and sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EngineArg {
    /// `io_uring`.
    #[value(name = "io_uring", alias = "uring")]
    IoUring,
    /// Linux native AIO and epoll.
    Aio,
}

/// How much memory maps may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapCacheArg {
    /// By the size of the disks and the memory of the machine.
    Auto,
    /// So many bytes.
    Bytes(u64),
}

impl MapCacheArg {
    /// What it means for each of so many stores of this process.
    pub fn budget(self, stores: usize) -> MapBudget {
        let stores = u64::try_from(stores.max(1)).unwrap_or(u64::MAX);
        let part = |bytes: u64| ByteCount::new(bytes / stores);
        match self {
            Self::Auto => MapBudget::Auto(part(machine_memory::available().get())),
            Self::Bytes(bytes) => MapBudget::Fixed(part(bytes)),
        }
    }
}

/// How the reactor threads run.
#[derive(Debug, Args)]
pub struct ReactorArgs {
    /// Force an IO engine; without it `io_uring`, or aio where `io_uring` is not permitted.
    #[arg(long, value_enum, value_name = "ENGINE")]
    pub engine: Option<EngineArg>,

    /// Longest time to poll for the next event before sleeping, in microseconds; it polls only while most
    /// events come within it; 0 never polls.
    #[arg(long, default_value_t = 100, value_name = "US", value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub spin_us: u64,
}

/// `ashlar up`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ashlar up --data ./ashlar-data --stores 3
  ashlar volume create data --size 10GiB
  nbdinfo nbd://127.0.0.1/data
  iscsiadm -m discovery -t st -p 127.0.0.1     each volume is iqn.2026-11.io.ashlar:VOLUME, LUN 1

Stop it with Ctrl-C or SIGTERM. The same data directory gives the same volumes again.")]
pub struct UpArgs {
    /// Where metadata and disks are kept [default: ~/.local/share/ashlar].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// Stores to run; a data directory never gets fewer than it has.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub stores: u16,

    /// Size of each store's disk file when it is made; its space is reserved at once.
    #[arg(long, default_value = "8GiB", value_name = "SIZE", value_parser = parse_size)]
    pub disk_size: u64,

    /// Use these files or block devices, one for each store, instead of files in the data
    /// directory; they must have been formatted with `ashlar disk format`.
    #[arg(long, num_args = 1.., value_name = "PATH")]
    pub disk: Vec<PathBuf>,

    /// Where the API listens.
    #[arg(long, default_value = "127.0.0.1:7100", value_name = "ADDR")]
    pub api: std::net::SocketAddr,

    /// Where the NBD server listens; may be given more than once (IP:PORT or unix:PATH).
    #[arg(long, default_value = "127.0.0.1:10809", value_name = "ADDR")]
    pub nbd: Vec<Address>,

    /// Where the iSCSI server listens; may be given more than once (IP:PORT), `none` for no server
    /// [default: 127.0.0.1:3260, unless another program listens there].
    #[arg(long, value_name = "ADDR|none")]
    pub iscsi: Vec<IscsiListen>,

    /// How the NBD server uses TLS.
    #[command(flatten)]
    pub tls: TlsArgs,

    /// Who is let in at the API.
    #[command(flatten)]
    pub gate: GateArgs,

    /// How long a disk that does not serve is waited for before its replicas are made elsewhere.
    #[arg(long, default_value = "5m", value_name = "TIME", value_parser = parse_duration)]
    pub rebuild_after: Duration,

    /// How long an owner may be silent, to the conductor and to the stores, before its volumes are
    /// repaired without it and may be attached elsewhere without --force.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = parse_owner_silence)]
    pub owner_silence: Duration,

    /// How attached volumes are scrubbed.
    #[command(flatten)]
    pub scrub: ScrubArgs,

    /// How much memory the maps of all stores' disks may take; the root pages come beside it
    /// [default: by the disks' size and the machine's memory].
    #[arg(long, default_value = "auto", hide_default_value = true, value_name = "SIZE|auto", value_parser = parse_map_cache)]
    pub map_cache: MapCacheArg,

    /// What every role has.
    #[command(flatten)]
    pub process: ProcessArgs,

    /// How the reactor thread runs.
    #[command(flatten)]
    pub reactor: ReactorArgs,
}

/// `ashlar conductor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ashlar conductor --data /var/lib/ashlar/conductor --listen 127.0.0.1:7100
  ashlar conductor --etcd http://10.0.0.1:2379,http://10.0.0.2:2379,http://10.0.0.3:2379 \\
      --listen 10.0.0.1:7100 --advertise http://10.0.0.1:7100")]
pub struct ConductorArgs {
    /// Where the metadata is kept by a conductor that is alone.
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "etcd",
        conflicts_with = "etcd"
    )]
    pub data: Option<PathBuf>,

    /// Of several conductors.
    #[command(flatten)]
    pub etcd: EtcdArgs,

    /// What it gives those who join.
    #[command(flatten)]
    pub authority: AuthorityArgs,

    /// Where the other conductors send what this one is to answer, as http://HOST:PORT; the address of
    /// --listen unless told otherwise.
    #[arg(long, value_name = "URL", requires = "etcd")]
    pub advertise: Option<String>,

    /// Where the API listens.
    #[arg(long, default_value = "127.0.0.1:7100", value_name = "ADDR")]
    pub listen: std::net::SocketAddr,

    /// Who is let in at the API.
    #[command(flatten)]
    pub gate: GateArgs,

    /// How long a disk that does not serve is waited for before its replicas are made elsewhere.
    #[arg(long, default_value = "5m", value_name = "TIME", value_parser = parse_duration)]
    pub rebuild_after: Duration,

    /// How long an owner may be silent, to the conductor and to the stores, before its volumes are
    /// repaired without it and may be attached elsewhere without --force.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = parse_owner_silence)]
    pub owner_silence: Duration,

    /// What every role has.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// `ashlar store`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ashlar disk format /var/lib/ashlar/disk0 --size 100GiB
  ashlar store --disk /var/lib/ashlar/disk0 --conductor http://10.0.0.1:7100 \\
      --listen 10.0.0.2:7200 --label zone=a
  ashlar store --disk-filter '/dev/disk/by-id/nvme-EXAMPLE_*' --disk-format-empty \\
      --conductor http://10.0.0.1:7100 --listen 10.0.0.2:7200

Each lane of a disk is served by one thread: for --threads 4, use four disks or more, or format
fewer ones with --lanes 2 or 4.")]
pub struct StoreArgs {
    /// Disks to serve: block devices or files that `ashlar disk format` has prepared.
    #[arg(long, required_unless_present = "disk_filter", num_args = 1.., value_name = "PATH")]
    pub disk: Vec<PathBuf>,

    /// Which disks it may take by itself.
    #[command(flatten)]
    pub filter: DiskFilterArgs,

    /// The conductor to register with; of several, all, with commas between them.
    #[arg(long, value_name = "URL", env = "ASHLAR_API")]
    pub conductor: String,

    /// Where the data plane listens; what other machines reach.
    #[arg(long, default_value = "127.0.0.1:7200", value_name = "ADDR")]
    pub listen: Address,

    /// The node's name; it returns as the same node by it [default: the host's name].
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// A label such as `zone=a`; replicas of a shard are kept in different zones where possible.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    pub label: Vec<(String, String)>,

    /// Threads that serve; the lanes of all disks are spread over them.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(THREADS_MAX)))]
    pub threads: u16,

    /// How much memory the maps of all disks may take; the root pages come beside it
    /// [default: by the disks' size and the machine's memory].
    #[arg(long, default_value = "auto", hide_default_value = true, value_name = "SIZE|auto", value_parser = parse_map_cache)]
    pub map_cache: MapCacheArg,

    /// What every role has.
    #[command(flatten)]
    pub process: ProcessArgs,

    /// How the reactor threads run.
    #[command(flatten)]
    pub reactor: ReactorArgs,
}

/// How the NBD server uses TLS.
#[derive(Debug, Args)]
pub struct TlsArgs {
    /// Directory with server-cert.pem and server-key.pem: offers TLS.
    #[arg(long, value_name = "DIR", group = "tls_offer")]
    pub tls_certificates: Option<PathBuf>,

    /// File with a line USER:HEXKEY for each client, as psktool makes it, mode 0600: offers TLS 1.3 with
    /// these pre-shared keys. Read anew when it changes.
    #[arg(long, value_name = "FILE", group = "tls_offer")]
    pub tls_psk: Option<PathBuf>,

    /// Refuse clients that do not show a certificate signed by the directory's ca-cert.pem.
    #[arg(long, requires = "tls_certificates", conflicts_with = "tls_psk")]
    pub tls_verify_peer: bool,

    /// Refuse clients that do not use TLS.
    #[arg(long, requires = "tls_offer")]
    pub tls_require: bool,
}

/// How attached volumes are scrubbed.
#[derive(Clone, Copy, Debug, Args)]
pub struct ScrubArgs {
    /// Pause before each scrub of an attached volume, as 12h or 7d; 0s for none. The first one comes
    /// after a twenty-fourth of it.
    #[arg(long, default_value = "24h", value_name = "TIME", value_parser = parse_duration)]
    pub scrub_interval: Duration,

    /// Bytes of a volume that each of its replicas reads and checks a second while it is scrubbed;
    /// with 0B only the replicas' maps are compared.
    #[arg(long, default_value = "8MiB", value_name = "SIZE", value_parser = parse_size)]
    pub scrub_rate: u64,
}

impl ScrubArgs {
    /// Takes them over into how a volume is attached.
    pub fn apply(self, options: &mut VolumeOptions) {
        options.scrub_interval = self.scrub_interval;
        options.scrub_pace = self.scrub_rate;
    }
}

/// `ashlar nbd`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ashlar nbd --conductor http://127.0.0.1:7100 --listen unix:/run/ashlar-nbd.sock
  qemu-img info 'nbd+unix:///data?socket=/run/ashlar-nbd.sock'

Exports are volumes, and snapshots as VOLUME@SNAPSHOT, read-only. What changed since an older snapshot:
  nbdinfo --map=qemu:dirty-bitmap:SNAPSHOT 'nbd+unix:///data?socket=/run/ashlar-nbd.sock'")]
pub struct NbdArgs {
    /// The conductor that knows the volumes; of several, all, with commas between them.
    #[arg(long, value_name = "URL", env = "ASHLAR_API")]
    pub conductor: String,

    /// Where to listen; may be given more than once (IP:PORT or unix:PATH).
    #[arg(long, default_value = "127.0.0.1:10809", value_name = "ADDR|unix:PATH")]
    pub listen: Vec<Address>,

    /// Take volumes over from owners that still hold them.
    #[arg(long)]
    pub force_attach: bool,

    /// How the server uses TLS.
    #[command(flatten)]
    pub tls: TlsArgs,

    /// How attached volumes are scrubbed.
    #[command(flatten)]
    pub scrub: ScrubArgs,

    /// What every role has.
    #[command(flatten)]
    pub process: ProcessArgs,

    /// How the reactor thread runs.
    #[command(flatten)]
    pub reactor: ReactorArgs,
}

/// `ashlar disk format`.
#[derive(Debug, Args)]
pub struct FormatArgs {
    /// A block device, or a file, which is made if it does not exist.
    pub path: PathBuf,
    /// Size of the file; a block device is used whole.
    #[arg(long, value_parser = parse_size)]
    pub size: Option<u64>,
    /// Lanes: logs that different threads can serve.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub lanes: u16,
    /// Format it even if it holds an Ashlar disk already: all on it is lost.
    #[arg(long)]
    pub force: bool,
}

/// `ashlar disk inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The block device or file.
    pub path: PathBuf,
    /// Show the map of this volume: a line for each block.
    #[arg(long, value_name = "ID")]
    pub volume: Option<ashlar_proto::VolumeId>,
    /// Do not read the payload of every live block.
    #[arg(long)]
    pub no_verify: bool,
}

fn parse_size(text: &str) -> Result<u64, String> {
    text.parse::<ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| format!("`{text}` is no size: give a number with B, KiB, MiB, GiB or TiB"))
}

fn parse_map_cache(text: &str) -> Result<MapCacheArg, String> {
    match text {
        "auto" => Ok(MapCacheArg::Auto),
        size => parse_size(size).map(MapCacheArg::Bytes),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("`{text}` is no time: give a number with ms, s, m or h"))
}

/// Owners are heard every few seconds: fewer than some of these say nothing.
fn parse_owner_silence(text: &str) -> Result<Duration, String> {
    let silence = parse_duration(text)?;
    if silence < OWNER_SILENCE_MIN {
        return Err(format!(
            "`{text}` is too short: give {OWNER_SILENCE_MIN:?} or more"
        ));
    }
    Ok(silence)
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err(format!("`{text}` is no label: give KEY=VALUE, as zone=a")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn an_owner_is_given_time_for_more_than_one_heartbeat() {
        assert_eq!(parse_owner_silence("8s"), Ok(Duration::from_secs(8)));
        assert!(parse_owner_silence("7999ms").is_err());
    }

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            if command.get_subcommands().next().is_none() {
                let help = command
                    .get_after_help()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                assert!(help.contains("Example"), "`{path} --help` has no example");
            }
            for sub in command.get_subcommands() {
                check(sub, &path);
            }
        }
        check(&Cli::command(), "");
    }

    #[test]
    fn sizes_are_binary_or_decimal_as_written() {
        assert_eq!(parse_size("10GiB"), Ok(10 << 30));
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("500MB"), Ok(500_000_000));
        assert!(parse_size("lots").is_err());
        assert_eq!(parse_map_cache("auto"), Ok(MapCacheArg::Auto));
        let four = MapCacheArg::Bytes(4 << 20);
        assert_eq!(parse_map_cache("4MiB"), Ok(four));
        assert_eq!(four.budget(2), MapBudget::Fixed(ByteCount::new(2 << 20)));
    }
}
