//! The commands of `ashlar snapshot`, and how a snapshot is named on the command line.

use std::fmt;
use std::str::FromStr;

use clap::Subcommand;

use super::ReactorArgs;

/// A snapshot as people write it: `VOLUME@NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotName {
    /// The volume's name.
    pub volume: String,
    /// The snapshot's name within it.
    pub snapshot: String,
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.volume, self.snapshot)
    }
}

/// What `ashlar snapshot create` is given: a snapshot, or a part of a group of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateName {
    /// `VOLUME@NAME`.
    Snapshot(SnapshotName),
    /// `VOLUME`.
    Volume(String),
    /// `@NAME`.
    Name(String),
}

impl FromStr for CreateName {
    type Err = NoSnapshotName;

    fn from_str(text: &str) -> Result<Self, NoSnapshotName> {
        match text.split_once('@') {
            None if !text.is_empty() => Ok(Self::Volume(text.to_owned())),
            Some(("", name)) if !name.is_empty() && !name.contains('@') => {
                Ok(Self::Name(name.to_owned()))
            }
            _ => text.parse().map(Self::Snapshot),
        }
    }
}

/// A text names no snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` names no snapshot: give VOLUME@NAME, as data@monday")]
pub struct NoSnapshotName {
    text: String,
}

impl FromStr for SnapshotName {
    type Err = NoSnapshotName;

    fn from_str(text: &str) -> Result<Self, NoSnapshotName> {
        match text.split_once('@') {
            Some((volume, snapshot))
                if !volume.is_empty() && !snapshot.is_empty() && !snapshot.contains('@') =>
            {
                Ok(Self {
                    volume: volume.to_owned(),
                    snapshot: snapshot.to_owned(),
                })
            }
            _ => Err(NoSnapshotName {
                text: text.to_owned(),
            }),
        }
    }
}

/// `ashlar snapshot`.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Keep a volume as it is now, attached or not, under a name; or several, all at one moment.
    #[command(after_help = "\
Examples:
  ashlar snapshot create data@monday
  ashlar snapshot create --group data log @monday

The snapshot holds every write that was acknowledged before the command began, and none that began
after it was ready; of those in between, any. Nothing is copied and no IO waits. NAME is 1 to 63 of
a-z 0-9 . _ -, beginning with a letter or digit.

With --group a snapshot NAME is made of each of 2 to 64 volumes, attached anywhere or detached,
all of the same moment: what was acknowledged by one volume before a write to another was sent
is kept if that write is. For this their owners hold back new writes until all do, usually for
some ten milliseconds and for a second at most. If one of them does not answer none is made.")]
    Create {
        /// Make a snapshot of each volume, all of one moment: VOLUME VOLUME… @NAME.
        #[arg(long)]
        group: bool,
        /// The volume and the snapshot's name; with --group the volumes, then @NAME.
        #[arg(value_name = "VOLUME@NAME", required = true)]
        names: Vec<CreateName>,
    },
    /// List the snapshots of a volume, or of all.
    #[command(after_help = "\
Examples:
  ashlar snapshot list
  ashlar snapshot list data --json | jq '.[].name'")]
    List {
        /// The volume [default: all].
        volume: Option<String>,
        /// Those too that are deleted and wait for their clones to go.
        #[arg(long)]
        deleted: bool,
    },
    /// Show one snapshot, and what it takes.
    #[command(after_help = "\
Example:
  ashlar snapshot show data@monday

SHOWN is the data that it shows, EXCLUSIVE what nothing else shows: what its deletion gives back, on
each replica. Both are counted from the maps of the stores, which takes a while for large volumes.")]
    Show {
        /// The snapshot.
        #[arg(value_name = "VOLUME@NAME")]
        name: SnapshotName,
        /// Ask only the conductor, and no store for what it takes.
        #[arg(long)]
        no_usage: bool,
        #[command(flatten)]
        reactor: ReactorArgs,
    },
    /// List the ranges that differ from one snapshot of a volume to a later one.
    #[command(after_help = "\
Examples:
  ashlar snapshot diff data@monday data@tuesday
  ashlar snapshot diff data@monday data@tuesday --json

Ranges were written after the first and before the second, as data or as zeroes, whether with another
content or not. They come from the maps alone: no data is read.")]
    Diff {
        /// The older snapshot.
        #[arg(value_name = "VOLUME@OLDER")]
        older: SnapshotName,
        /// The newer one, of the same volume.
        #[arg(value_name = "VOLUME@NEWER")]
        newer: SnapshotName,
        #[command(flatten)]
        reactor: ReactorArgs,
    },
    /// Delete a snapshot; the volume and its other snapshots stay as they are.
    #[command(after_help = "\
Example:
  ashlar snapshot delete data@monday

The space of what only this snapshot holds comes back as stores collect it, after all replicas that
are in sync know of the deletion. A snapshot with clones is refused: flatten or delete them first, or use
--when-unused.")]
    Delete {
        /// The snapshot.
        #[arg(value_name = "VOLUME@NAME")]
        name: SnapshotName,
        /// Wait until all replicas that are in sync know of it, for 30 s at most.
        #[arg(long)]
        wait: bool,
        /// If it has clones: take it out of sight now, and delete it when the last of them is gone.
        #[arg(long)]
        when_unused: bool,
    },
    /// Make a volume what it was at a snapshot: all that was written since is lost.
    #[command(after_help = "\
Examples:
  ashlar snapshot rollback data@monday
  ashlar snapshot rollback data@monday --delete-newer

Nobody may have the volume attached, unless --force takes it from them: their requests fail then. To
keep what is there now, make a snapshot of it first and copy that elsewhere: going back past it deletes
it.")]
    Rollback {
        /// The snapshot.
        #[arg(value_name = "VOLUME@NAME")]
        name: SnapshotName,
        /// Take the volume from who has it attached.
        #[arg(long)]
        force: bool,
        /// Delete the snapshots that are newer; without this they keep the volume as it is.
        #[arg(long)]
        delete_newer: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_given_as_volumes_and_a_name() {
        assert_eq!("data".parse(), Ok(CreateName::Volume("data".to_owned())));
        assert_eq!("@mon".parse(), Ok(CreateName::Name("mon".to_owned())));
        let whole = "data@mon".parse().unwrap();
        assert_eq!("data@mon".parse(), Ok(CreateName::Snapshot(whole)));
        for text in ["", "@", "data@", "@a@b", "a@b@c"] {
            let error = text.parse::<CreateName>().unwrap_err().to_string();
            assert!(error.contains("give VOLUME@NAME"), "{error}");
        }
    }

    #[test]
    fn a_snapshot_is_named_by_its_volume_and_its_own_name() {
        let name: SnapshotName = "data@monday".parse().unwrap();
        assert_eq!(
            (name.volume.as_str(), name.snapshot.as_str()),
            ("data", "monday")
        );
        assert_eq!(name.to_string(), "data@monday");
        for text in ["", "data", "data@", "@monday", "@", "a@b@c"] {
            let error = text.parse::<SnapshotName>().unwrap_err().to_string();
            assert!(error.contains("give VOLUME@NAME"), "{error}");
        }
    }
}
