//! `ashlar csi`.

use std::path::PathBuf;

use ashlar_csi::NodeName;
use ashlar_proto::Address;
use clap::{Args, ValueEnum};

use super::ProcessArgs;

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
    /// nbdfuse and a loop device: for tests, and hosts whose kernel has no NBD client.
    FuseLoop,
}

/// `ashlar csi`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ashlar csi --mode controller --endpoint unix:///run/ashlar-csi.sock --conductor http://127.0.0.1:7100
  ashlar csi --mode node --endpoint unix:///run/ashlar-csi-node.sock --conductor http://127.0.0.1:7100 \\
             --attacher fuse-loop --nbd unix:/run/ashlar-nbd.sock")]
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

    /// How this node attaches volumes; needed unless the mode is controller.
    #[arg(long, value_enum)]
    pub attacher: Option<AttacherArg>,

    /// The NBD server that exports the volumes to this node.
    #[arg(long, default_value = "127.0.0.1:10809", value_name = "ADDR|unix:PATH")]
    pub nbd: Address,

    /// Where this node keeps what it attaches through.
    #[arg(long, default_value = "/run/ashlar-csi", value_name = "DIR")]
    pub state: PathBuf,

    /// What every role has.
    #[command(flatten)]
    pub process: ProcessArgs,
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
