//! What every role has: its settings from a file, and where it tells how it is.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

/// Of a process that runs a role.
#[derive(Clone, Debug, Default, Args)]
pub struct ProcessArgs {
    /// Read settings from a TOML file, whose keys are the names of these options. The command line goes
    /// before the environment, ASHLAR_ROLE_OPTION, and that before the file.
    #[arg(long, value_name = "FILE", env = "ASHLAR_CONFIG")]
    pub config: Option<PathBuf>,

    /// Check all settings, say everything that is wrong with them, and start nothing.
    #[arg(long)]
    pub check_config: bool,

    /// What is logged, as info or ashlar_store=debug; read anew from --config on SIGHUP.
    #[arg(long, value_name = "FILTER", env = "ASHLAR_LOG")]
    pub log: Option<String>,

    /// Serve /metrics, /healthz and /readyz over HTTP there, as 127.0.0.1:9100, to everybody who asks
    /// [default: nowhere].
    #[arg(long, value_name = "ADDR", env = "ASHLAR_METRICS")]
    pub metrics: Option<SocketAddr>,
}
