//! The arguments about who may do what.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use ashlar_conductor::AuthMode;
use ashlar_proto::api::Role;
use clap::{Args, Subcommand, ValueEnum};

use super::{parse_duration, parse_size};

/// What this process shows of itself: never a secret, but where one lies.
#[derive(Debug, Args)]
pub struct CredentialArgs {
    /// A file whose first line is the key or token to show to the conductor. `ASHLAR_TOKEN` may hold it
    /// itself [default: `token_file` of ~/.config/ashlar/config.toml].
    #[arg(long, global = true, env = "ASHLAR_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// A file with the keys of volumes that have one, a line `VOLUME KEY` for each
    /// [default: `volume_keys` of ~/.config/ashlar/config.toml].
    #[arg(long, global = true, env = "ASHLAR_VOLUME_KEYS", value_name = "FILE")]
    pub volume_keys: Option<PathBuf>,
}

/// Who has to say who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuthArg {
    /// Everybody.
    Required,
    /// Everybody but who is on this machine: that one is an admin.
    LoopbackFree,
    /// Nobody: whoever reaches the API is an admin.
    Off,
}

impl From<AuthArg> for AuthMode {
    fn from(auth: AuthArg) -> Self {
        match auth {
            AuthArg::Required => Self::Required,
            AuthArg::LoopbackFree => Self::LoopbackFree,
            AuthArg::Off => Self::Off,
        }
    }
}

/// How a conductor lets others in.
#[derive(Debug, Args)]
pub struct GateArgs {
    /// Who has to show a key or token.
    #[arg(long, value_enum, default_value = "loopback-free")]
    pub auth: AuthArg,

    /// A file that each entry of the audit log is appended to, as a line of JSON; SIGHUP opens it anew.
    #[arg(long, value_name = "FILE")]
    pub audit_log: Option<PathBuf>,

    /// Connections of the API at a time, at most; fewer where the limit of open files is lower.
    #[arg(long, value_name = "N", default_value = "16384")]
    pub connections_max: NonZeroUsize,

    /// Connections at a time of one address other than this machine's own, at most: raise it where many
    /// front ends are on one host, or behind one address.
    #[arg(long, value_name = "N", default_value = "1024")]
    pub connections_per_address: NonZeroUsize,

    /// Let in who shows a JWT that is signed with a key of this JWK set.
    #[arg(
        long,
        value_name = "FILE",
        requires = "jwt_issuer",
        requires = "jwt_audience"
    )]
    pub jwt_keys: Option<PathBuf>,

    /// What these say as `iss`.
    #[arg(long, value_name = "TEXT", requires = "jwt_keys")]
    pub jwt_issuer: Option<String>,

    /// What these say as `aud`.
    #[arg(long, value_name = "TEXT", requires = "jwt_keys")]
    pub jwt_audience: Option<String>,
}

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleArg {
    /// Everything, and who else may do what.
    Admin,
    /// Volumes, snapshots, targets, drains.
    Operator,
    /// Reads, and changes nothing.
    Viewer,
    /// A store.
    Store,
    /// An NBD or iSCSI server.
    FrontEnd,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Admin => Self::Admin,
            RoleArg::Operator => Self::Operator,
            RoleArg::Viewer => Self::Viewer,
            RoleArg::Store => Self::Store,
            RoleArg::FrontEnd => Self::FrontEnd,
        }
    }
}

/// A role, and where.
#[derive(Debug, Args)]
pub struct RoleArgs {
    /// What the user may do.
    #[arg(long, value_enum)]
    pub role: RoleArg,

    /// In this project only; may be given more than once [default: in all, and to the whole cluster].
    #[arg(long, value_name = "NAME")]
    pub project: Vec<String>,
}

impl RoleArgs {
    /// The projects, if they are bounded.
    pub fn projects(&self) -> Option<Vec<String>> {
        (!self.project.is_empty()).then(|| self.project.clone())
    }
}

/// `ashlar user`.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Create a user, who gets in with a key.
    #[command(after_help = "\
Examples:
  ashlar user create ada --role admin
  ashlar user create shop --role operator --project shop
  ashlar key create ada > ada.key")]
    Create {
        /// The name: 1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit.
        name: String,
        #[command(flatten)]
        role: RoleArgs,
    },
    /// List the users.
    #[command(after_help = "Example:\n  ashlar user list --json")]
    List,
    /// Give a user another role or other projects; its keys and tokens have them at once.
    #[command(after_help = "Example:\n  ashlar user role shop --role viewer --project shop")]
    Role {
        /// The name.
        name: String,
        #[command(flatten)]
        role: RoleArgs,
    },
    /// Let nothing in in a user's name; tokens made until now stay out for good.
    #[command(after_help = "Example:\n  ashlar user deny shop")]
    Deny {
        /// The name.
        name: String,
    },
    /// Let a user in again.
    #[command(after_help = "Example:\n  ashlar user allow shop")]
    Allow {
        /// The name.
        name: String,
    },
    /// Delete a user and all of its keys.
    #[command(after_help = "Example:\n  ashlar user delete shop")]
    Delete {
        /// The name.
        name: String,
    },
}

/// `ashlar key`.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Create a key of a user, and print it: it is shown this once only.
    #[command(after_help = "\
Examples:
  ashlar key create ada > ada.key
  ashlar key create ci --ttl 90d --note 'nightly tests'
  ashlar volume list --token-file ada.key")]
    Create {
        /// The user.
        user: String,
        /// How long it is good for, as 90d [default: until it is revoked].
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        ttl: Option<Duration>,
        /// For people.
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// List keys, without their secrets.
    #[command(after_help = "Example:\n  ashlar key list ada")]
    List {
        /// Those of this user only.
        user: Option<String>,
    },
    /// Let a key in no more.
    #[command(after_help = "Example:\n  ashlar key revoke 5d1c7f0e9a8b4c3d")]
    Revoke {
        /// Its id.
        id: String,
    },
}

/// `ashlar token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Create a token that ends by itself, and print it.
    #[command(after_help = "\
Examples:
  ashlar token create --ttl 1h --token-file ada.key > ada.token
  ashlar token create --ttl 8h --user shop")]
    Create {
        /// How long it is good for, as 8h; 30d at most.
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        ttl: Duration,
        /// Whose; an admin may name anybody [default: who asks].
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
    /// Let a token in no more.
    #[command(after_help = "Example:\n  ashlar token revoke 5d1c7f0e9a8b4c3d2e1f0a9b8c7d6e5f")]
    Revoke {
        /// Its id, as `ashlar token create --json` tells it.
        id: String,
    },
    /// List the tokens that are let in no more.
    #[command(after_help = "Example:\n  ashlar token revoked")]
    Revoked,
    /// Sign tokens with a new key from now on; that happens by itself every 30 days.
    #[command(after_help = "\
Examples:
  ashlar token rotate
  ashlar token rotate --forget    no token that was made until now is let in")]
    Rotate {
        /// Let in none that an older key has signed.
        #[arg(long)]
        forget: bool,
    },
}

/// How much a project may have.
#[derive(Debug, Args)]
pub struct QuotaArgs {
    /// Most bytes that its volumes' sizes add up to [default: no bound].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub bytes: Option<u64>,

    /// Most volumes [default: no bound].
    #[arg(long, value_name = "N")]
    pub volumes: Option<u64>,
}

/// `ashlar project`.
#[derive(Debug, Subcommand)]
pub enum ProjectCommand {
    /// Create a project; its volumes are called PROJECT/VOLUME.
    #[command(after_help = "\
Examples:
  ashlar project create shop --bytes 10TiB --volumes 100
  ashlar volume create shop/db --size 100GiB")]
    Create {
        /// The name: 1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit.
        name: String,
        #[command(flatten)]
        quota: QuotaArgs,
    },
    /// List the projects, their quotas and what they use.
    #[command(after_help = "Example:\n  ashlar project list --json")]
    List,
    /// Give a project other quotas; that of plain names is called default.
    #[command(after_help = "Example:\n  ashlar project quota shop --bytes 20TiB")]
    Quota {
        /// The name.
        name: String,
        #[command(flatten)]
        quota: QuotaArgs,
    },
    /// Delete a project that has no volumes.
    #[command(after_help = "Example:\n  ashlar project delete shop")]
    Delete {
        /// The name.
        name: String,
    },
}

/// `ashlar audit`.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Show what was done or refused of late, the oldest first.
    #[command(after_help = "Example:\n  ashlar audit list --last 20 --json | jq '.[].who'")]
    List {
        /// How many entries.
        #[arg(long, value_name = "N", default_value_t = 100)]
        last: usize,
    },
    /// Show what is done or refused from now on, until Ctrl-C.
    #[command(after_help = "Example:\n  ashlar audit follow --json")]
    Follow,
}

/// `ashlar volume key`.
#[derive(Debug, Subcommand)]
pub enum VolumeKeyCommand {
    /// Have a volume attached, and its snapshots read, only by who gives a key; prints the key, this once
    /// only. Who has it attached keeps it.
    #[command(after_help = "\
Example:
  echo \"data $(ashlar volume key set data)\" >> /etc/ashlar/volume-keys
  ashlar nbd --volume-keys /etc/ashlar/volume-keys")]
    Set {
        /// The volume.
        volume: String,
    },
    /// Ask for no key any more.
    #[command(after_help = "Example:\n  ashlar volume key clear data")]
    Clear {
        /// The volume.
        volume: String,
    },
}
