//! `ashlar csi`.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ashlar_csi::NodeName;
use ashlar_proto::Address;
use clap::{Args, ValueEnum};

use super::ProcessArgs;

/// What the kernel's NBD client can be given, in seconds.
const NBD_TIMEOUTS_S: RangeInclusive<u64> = 1..=600;

/// Which services of the Container Storage Interface run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CsiMode {
    /// Volumes and snapshots, by the conductor.
    Controller,
    /// Devices, file systems and mounts of this host.
    Node,
    /// Both.
    All,
}

/// How a host attaches volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AttacherArg {
    /// The kernel's NBD client.
    Nbd,
    /// The kernel's iSCSI initiator, open-iscsi: one disk, or with several portals a multipath map.
    Iscsi,
    /// nbdfuse and a loop device: for tests, and hosts whose kernel has no NBD client.
    FuseLoop,
}

/// `ashlar csi`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ashlar csi --mode controller --endpoint unix:///run/ashlar-csi.sock --conductor http://127.0.0.1:7100
  ashlar csi --mode node --endpoint unix:///run/ashlar-csi-node.sock --conductor http://127.0.0.1:7100 \\
             --attacher nbd --nbd unix:/run/ashlar-nbd.sock")]
pub struct CsiArgs {
    /// Which services run.
    #[arg(long, value_enum, default_value_t = CsiMode::All)]
    pub mode: CsiMode,

    /// The socket to listen at, as unix:///PATH.
    #[arg(long, value_name = "unix:///PATH", env = "CSI_ENDPOINT", value_parser = parse_endpoint)]
    pub endpoint: PathBuf,

    /// The conductor that knows the volumes.
    #[arg(long, value_name = "URL", env = "ASHLAR_API")]
    pub conductor: String,

    /// What this node is called [default: the host's name].
    #[arg(long, value_name = "NAME")]
    pub node_id: Option<NodeName>,

    /// Where this node is, by the labels that stores have: zone=a,rack=7. Its name is its `host`. A StorageClass
    /// may ask for volumes with a replica near the node that uses them (`near`).
    #[arg(long, value_name = "LABEL=VALUE", value_delimiter = ',', value_parser = parse_pair)]
    pub topology: Vec<(String, String)>,

    /// The same from labels that Kubernetes has of the node, as zone=topology.kubernetes.io/zone.
    #[arg(long, value_name = "LABEL=KEY", value_delimiter = ',', value_parser = parse_pair)]
    pub topology_of_node: Vec<(String, String)>,

    /// How this node attaches volumes; needed unless the mode is controller. With `nbd,iscsi` the
    /// StorageClass says (`attach`).
    #[arg(long, value_enum, value_delimiter = ',')]
    pub attacher: Vec<AttacherArg>,

    /// The NBD server that exports the volumes to this node.
    #[arg(long, default_value = "127.0.0.1:10809", value_name = "ADDR|unix:PATH")]
    pub nbd: Address,

    /// Portals of `ashlar iscsi --all-volumes`; several are joined by multipath.
    #[arg(
        long,
        default_value = "127.0.0.1:3260",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    pub iscsi: Vec<String>,

    /// How long a request of the kernel's NBD client may take until it is sent again on another connection.
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = parse_timeout)]
    pub nbd_timeout: Duration,

    /// Where this node keeps what it attaches through.
    #[arg(long, default_value = "/run/ashlar-csi", value_name = "DIR")]
    pub state: PathBuf,

    /// What every role has.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// Reads `NAME=TEXT`.
fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("give NAME=VALUE, and commas between several".to_owned()),
    }
}

/// Reads a time of whole seconds, which is what the kernel takes.
fn parse_timeout(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time.subsec_nanos() == 0 && NBD_TIMEOUTS_S.contains(&time.as_secs()) => {
            Ok(time)
        }
        _ => Err(format!(
            "give {} to {} whole seconds, as in 30s",
            NBD_TIMEOUTS_S.start(),
            NBD_TIMEOUTS_S.end()
        )),
    }
}

/// Reads `unix:///PATH`, `unix:/PATH` or a path alone.
fn parse_endpoint(text: &str) -> Result<PathBuf, String> {
    let path = text
        .strip_prefix("unix://")
        .or_else(|| text.strip_prefix("unix:"));
    let path = PathBuf::from(path.unwrap_or(text));
    if path.is_absolute() {
        Ok(path)
    } else {
        Err("give unix:///PATH: COs speak to drivers over a Unix socket".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_whole_seconds() {
        assert_eq!(parse_timeout("2m"), Ok(Duration::from_secs(120)));
        for text in ["", "30", "0s", "1500ms", "1h"] {
            assert!(parse_timeout(text).is_err(), "{text}");
        }
    }

    #[test]
    fn endpoints_are_unix_sockets() {
        for text in [
            "unix:///run/csi.sock",
            "unix:/run/csi.sock",
            "/run/csi.sock",
        ] {
            assert_eq!(
                parse_endpoint(text),
                Ok(PathBuf::from("/run/csi.sock")),
                "{text}"
            );
        }
        for text in ["", "tcp://127.0.0.1:1", "csi.sock", "unix://csi.sock"] {
            assert!(parse_endpoint(text).is_err(), "{text}");
        }
    }
}
