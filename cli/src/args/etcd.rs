//! The arguments that say how to reach etcd.

use std::path::PathBuf;

use clap::Args;

/// How to reach etcd.
#[derive(Debug, Args)]
pub struct EtcdArgs {
    /// The members of etcd, in which several conductors keep the metadata (http:// or https://).
    #[arg(long, value_name = "URL,URL,…", value_delimiter = ',')]
    pub etcd: Vec<String>,

    /// The certificate of who signed those of the members (PEM).
    #[arg(long, value_name = "FILE", requires = "etcd")]
    pub etcd_ca: Option<PathBuf>,

    /// The certificate to show to etcd (PEM).
    #[arg(long, value_name = "FILE", requires = "etcd_key")]
    pub etcd_cert: Option<PathBuf>,

    /// The key of that certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "etcd_cert")]
    pub etcd_key: Option<PathBuf>,

    /// The user of etcd. The password is in --etcd-password-file or in ASHLAR_ETCD_PASSWORD.
    #[arg(long, value_name = "NAME", requires = "etcd")]
    pub etcd_user: Option<String>,

    /// A file whose first line is the password.
    #[arg(long, value_name = "FILE", requires = "etcd_user")]
    pub etcd_password_file: Option<PathBuf>,

    /// What the keys of this cluster begin with, where etcd serves several.
    #[arg(long, value_name = "PREFIX", default_value = "/ashlar")]
    pub etcd_prefix: String,

    /// Seconds for which a leading conductor that is gone keeps others from leading. etcd grants no less
    /// than one and a half of its --election-timeout, in whole seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=60))]
    pub etcd_lease: u16,
}
