//! The arguments of `ashlar target`.

use std::path::PathBuf;

use ashlar_proto::{InitiatorPattern, IscsiName, Lun};
use clap::{Args, Subcommand};

/// `ashlar target`.
#[derive(Debug, Subcommand)]
pub enum TargetCommand {
    /// Make a target. It has no volumes yet, and nobody may log in but who is allowed.
    #[command(after_help = "\
Examples:
  ashlar target create iqn.2026-11.com.example:db
  ashlar target create iqn.2026-11.com.example:db --allow iqn.1994-05.com.redhat:host-a
  ashlar target create iqn.2026-11.com.example:lab --alias 'the lab' --allow '*'")]
    Create {
        /// Its iSCSI name: iqn.YYYY-MM.DOMAIN:ANYTHING, eui. and 16 digits, or naa. and 16 or 32.
        name: IscsiName,
        /// What people call it.
        #[arg(long, value_name = "TEXT")]
        alias: Option<String>,
        /// An initiator that may log in, or the beginning of names and *; may be given more than once.
        #[arg(long, value_name = "INITIATOR")]
        allow: Vec<InitiatorPattern>,
    },
    /// List the targets.
    #[command(after_help = "Example:\n  ashlar target list --json | jq '.[].name'")]
    List,
    /// Show one target: its volumes and which iSCSI server serves each, who may log in, who has to show a
    /// secret; and the servers.
    #[command(after_help = "Example:\n  ashlar target show iqn.2026-11.com.example:db")]
    Show {
        /// Its name.
        name: IscsiName,
    },
    /// List the iSCSI servers: where initiators reach them, and which volumes each serves.
    #[command(
        after_help = "Example:\n  ashlar target servers --json | jq '.[] | select(.up | not).name'"
    )]
    Servers,
    /// Forget an iSCSI server that is no more: hosts are not told of its portals, and its portal group is
    /// free.
    #[command(after_help = "Example:\n  ashlar target forget san-2")]
    Forget {
        /// Its name.
        server: String,
    },
    /// Delete a target and end its sessions. Its volumes stay.
    #[command(after_help = "Example:\n  ashlar target delete iqn.2026-11.com.example:db")]
    Delete {
        /// Its name.
        name: IscsiName,
    },
    /// Offer a volume as a logical unit of a target.
    #[command(after_help = "\
Examples:
  ashlar target map iqn.2026-11.com.example:db data
  ashlar target map iqn.2026-11.com.example:db logs --lun 7 --read-only")]
    Map {
        /// The target.
        target: IscsiName,
        /// The volume.
        volume: String,
        /// Its number, 0 to 16383 [default: the lowest from 1 on that is free].
        #[arg(long, value_name = "N")]
        lun: Option<Lun>,
        /// Refuse writes.
        #[arg(long)]
        read_only: bool,
    },
    /// Offer a logical unit no more.
    #[command(after_help = "Example:\n  ashlar target unmap iqn.2026-11.com.example:db 7")]
    Unmap {
        /// The target.
        target: IscsiName,
        /// The number.
        lun: Lun,
    },
    /// Say which initiators may log in.
    Acl {
        /// The target.
        target: IscsiName,
        /// What to do.
        #[command(subcommand)]
        command: AclCommand,
    },
    /// Say what initiators have to know to log in, and what the target shows them.
    Chap {
        /// The target.
        target: IscsiName,
        /// What to do.
        #[command(subcommand)]
        command: ChapCommand,
    },
    /// Say what initiators have to know to be told which targets there are, and what servers show them.
    DiscoveryChap {
        /// What to do.
        #[command(subcommand)]
        command: DiscoveryChapCommand,
    },
}

/// `ashlar target acl`.
#[derive(Debug, Subcommand)]
pub enum AclCommand {
    /// List who may log in.
    #[command(after_help = "Example:\n  ashlar target acl iqn.2026-11.com.example:db list")]
    List,
    /// Let an initiator log in.
    #[command(after_help = "\
Examples:
  ashlar target acl iqn.2026-11.com.example:db allow iqn.1994-05.com.redhat:host-a
  ashlar target acl iqn.2026-11.com.example:db allow 'iqn.1994-05.com.redhat:*'

An initiator says itself what it is called: this keeps nobody out who lies. `ashlar target chap` does.
On Linux the name is in /etc/iscsi/initiatorname.iscsi.")]
    Allow {
        /// Its name, or the beginning of names and *.
        initiator: InitiatorPattern,
    },
    /// Take that back; INITIATOR is the text that was allowed.
    #[command(
        after_help = "Example:\n  ashlar target acl iqn.2026-11.com.example:db remove iqn.1994-05.com.redhat:host-a"
    )]
    Remove {
        /// As it was allowed.
        initiator: InitiatorPattern,
    },
}

/// `ashlar target chap`.
#[derive(Debug, Subcommand)]
pub enum ChapCommand {
    /// Give initiators a secret to know, or the target one to show; or change it.
    #[command(after_help = "\
Examples:
  openssl rand -hex 16 > secret
  ashlar target chap iqn.2026-11.com.example:db set --user db --secret-file secret
  ashlar target chap iqn.2026-11.com.example:db set --user host-a --initiator iqn.1994-05.com.redhat:host-a
  ashlar target chap iqn.2026-11.com.example:db set --user target --mutual --secret-file other-secret

The secret, 12 to 255 bytes, is the first line of the file, or of ASHLAR_CHAP_SECRET; else it is asked
for, or read from standard input. It is never an argument: those are seen by everybody on the machine.

An initiator with secrets of its own logs in with one of those; any other with one of those that are of no
initiator. If a target has secrets, who has none does not log in.")]
    Set(SetChapArgs),
    /// Take secrets back.
    #[command(after_help = "\
Examples:
  ashlar target chap iqn.2026-11.com.example:db clear --user db
  ashlar target chap iqn.2026-11.com.example:db clear --mutual
  ashlar target chap iqn.2026-11.com.example:db clear --all")]
    Clear(ClearChapArgs),
}

/// `ashlar target discovery-chap`.
#[derive(Debug, Subcommand)]
pub enum DiscoveryChapCommand {
    /// Show by which names initiators are told of targets.
    #[command(after_help = "Example:\n  ashlar target discovery-chap show")]
    Show,
    /// Give initiators a secret to know, or servers one to show; or change it.
    #[command(after_help = "\
Examples:
  ashlar target discovery-chap set --user hosts --secret-file secret
  ashlar target discovery-chap set --user servers --mutual --secret-file other-secret

The secret comes as for `ashlar target chap`. It counts for discovery, at all servers of the cluster; logins
to targets ask for those of the target.")]
    Set(SetChapArgs),
    /// Take secrets back.
    #[command(after_help = "\
Examples:
  ashlar target discovery-chap clear --user hosts
  ashlar target discovery-chap clear --all")]
    Clear(ClearChapArgs),
}

/// `ashlar target chap … set`.
#[derive(Debug, Args)]
pub struct SetChapArgs {
    /// The name that goes with the secret.
    #[arg(long, value_name = "NAME")]
    pub user: String,
    /// Whose secret it is; without it, of all initiators that have none of their own.
    #[arg(long, value_name = "INITIATOR")]
    pub initiator: Option<InitiatorPattern>,
    /// The file that has the secret in its first line; - for standard input.
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// It is the target's own secret, which it shows to initiators that ask for it.
    #[arg(long, conflicts_with = "initiator")]
    pub mutual: bool,
}

/// `ashlar target chap … clear`.
#[derive(Debug, Args)]
#[group(id = "which", required = true, multiple = false, args = ["user", "mutual", "all"])]
pub struct ClearChapArgs {
    /// The name that the secret goes with.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Whose secret it is.
    #[arg(long, value_name = "INITIATOR", requires = "user")]
    pub initiator: Option<InitiatorPattern>,
    /// The target's own secret.
    #[arg(long)]
    pub mutual: bool,
    /// All of them: initiators that are allowed log in without.
    #[arg(long)]
    pub all: bool,
}
