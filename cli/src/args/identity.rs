//! The arguments that say who a process is to others, and those of the commands that make identities.

use std::path::PathBuf;
use std::time::Duration;

use ashlar_proto::ClusterId;
use ashlar_proto::api::NodeRole;
use clap::builder::FalseyValueParser;
use clap::{Args, Subcommand};

use super::parse_duration;

/// Who this process is, and whom it trusts.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Identity")]
pub struct IdentityArgs {
    /// The directory of this process's certificate and key, which are made there with a join token and
    /// renewed; see `ashlar node token` and `ashlar cluster`.
    #[arg(long, global = true, value_name = "DIR", env = "ASHLAR_IDENTITY_DIR")]
    pub identity_dir: Option<PathBuf>,

    /// A file with a join token, for the first start with an empty --identity-dir.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "ASHLAR_JOIN_TOKEN_FILE"
    )]
    pub join_token_file: Option<PathBuf>,

    /// The certificate of the cluster's authority (PEM), for https:// without an identity.
    #[arg(long, global = true, value_name = "FILE", env = "ASHLAR_CA")]
    pub ca: Option<PathBuf>,

    /// Show and demand certificates over loopback as well, where none are needed otherwise.
    #[arg(long, global = true, env = "ASHLAR_TLS_LOOPBACK", value_parser = FalseyValueParser::new())]
    pub tls_loopback: bool,

    /// Let everybody in who reaches an address of this process, where there is no identity to go by.
    #[arg(long, global = true, env = "ASHLAR_INSECURE", value_parser = FalseyValueParser::new())]
    pub insecure: bool,
}

/// What a conductor gives others.
#[derive(Debug, Args)]
pub struct AuthorityArgs {
    /// How long the certificates are good that nodes are given; they renew them after two thirds of it.
    #[arg(long, default_value = "24h", value_name = "TIME", value_parser = parse_duration)]
    pub certificate_ttl: Duration,
}

/// `ashlar cluster`.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Make the authority of a cluster, and the certificate of its first conductor. Asks nobody.
    #[command(after_help = "\
Example:
  ashlar cluster init --dir /etc/ashlar/conductor --san conductor.example.org
  ashlar conductor --data /var/lib/ashlar/conductor --listen 10.0.0.1:7100 \\
      --identity-dir /etc/ashlar/conductor

Whoever has DIR/ca-key.pem can be anybody in the cluster: keep a copy where nobody else reads it.")]
    Init(InitArgs),
    /// Make an identity where the authority's key is, without asking a conductor.
    #[command(after_help = "\
Example:
  ashlar cluster issue --dir /etc/ashlar/conductor --role client --name alice --out ~/.ashlar
  ashlar --identity-dir ~/.ashlar --api https://10.0.0.1:7100 status")]
    Issue(IssueArgs),
}

/// `ashlar cluster init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Where authority, certificate and keys are put.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,

    /// The conductor's name.
    #[arg(long, default_value = "conductor-1", value_name = "NAME")]
    pub name: String,

    /// A name or an IP address at which it is reached, for clients that go by these; may be given more
    /// than once. Loopback is in it anyway.
    #[arg(long, value_name = "HOST")]
    pub san: Vec<String>,

    /// The id of a cluster that there is already; it is in its status.
    #[arg(long, value_name = "ID")]
    pub cluster_id: Option<ClusterId>,
}

/// `ashlar cluster issue`.
#[derive(Debug, Args)]
pub struct IssueArgs {
    /// Where the authority is, with its key.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,

    /// What the identity is for: store, front-end, conductor or client.
    #[arg(long, value_name = "ROLE")]
    pub role: NodeRole,

    /// Its name.
    #[arg(long, value_name = "NAME")]
    pub name: String,

    /// A name or an IP address at which it is reached; may be given more than once.
    #[arg(long, value_name = "HOST")]
    pub san: Vec<String>,

    /// How long it is good.
    #[arg(long, default_value = "24h", value_name = "TIME", value_parser = parse_duration)]
    pub ttl: Duration,

    /// The directory that it is put into.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// `ashlar node token`.
#[derive(Debug, Subcommand)]
pub enum JoinTokenCommand {
    /// Make a token with which one node may get its first certificate, and print it: it is shown once.
    #[command(after_help = "\
Example:
  ashlar node token create --role store --name store-1 > token
  ashlar store --join-token-file token --identity-dir /var/lib/ashlar/identity …")]
    Create {
        /// What the node becomes: store, front-end, conductor or client.
        #[arg(long, default_value = "store", value_name = "ROLE")]
        role: NodeRole,
        /// The only name that the node may have.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// How long the token is good.
        #[arg(long, default_value = "1h", value_name = "TIME", value_parser = parse_duration)]
        ttl: Duration,
    },
    /// List the tokens, without their secrets.
    #[command(after_help = "Example:\n  ashlar node token list")]
    List,
    /// Let nobody use a token any more.
    #[command(after_help = "Example:\n  ashlar node token revoke 0123456789abcdef")]
    Revoke {
        /// Its id.
        id: String,
    },
}

/// Whom `ashlar node deny` and `allow` are about.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct SubjectArgs {
    /// The node's name: all of its certificates.
    pub node: Option<String>,

    /// One certificate, by the hexadecimal digits of its serial number.
    #[arg(long, value_name = "HEX")]
    pub serial: Option<String>,
}

/// Who may be in the cluster.
#[derive(Debug, Subcommand)]
pub enum IdentityCommand {
    /// Make, list and revoke the tokens with which nodes join.
    Token {
        /// What to do.
        #[command(subcommand)]
        command: JoinTokenCommand,
    },
    /// Let a node or a certificate in no more: its requests are refused at once, the volumes that it has
    /// attached are taken from it, and stores take nothing from it on open connections either.
    #[command(after_help = "Example:\n  ashlar node deny store-1 --reason 'sold'")]
    Deny {
        /// Who.
        #[command(flatten)]
        subject: SubjectArgs,
        /// Why, for people.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let it in again.
    #[command(after_help = "Example:\n  ashlar node allow store-1")]
    Allow {
        /// Who.
        #[command(flatten)]
        subject: SubjectArgs,
    },
    /// List who is let in no more.
    #[command(after_help = "Example:\n  ashlar node denied")]
    Denied,
}

impl super::Command {
    /// Whether it runs on, with an identity that is kept good; or makes identities.
    pub fn is_role(&self) -> bool {
        matches!(
            self,
            Self::Up(_)
                | Self::Conductor(_)
                | Self::Store(_)
                | Self::Nbd(_)
                | Self::Iscsi(_)
                | Self::Csi(_)
                | Self::Cluster { .. }
                | Self::Completions { .. }
        )
    }
}
