//! Whether rows are as a conductor keeps them: each can be read, and what one says of another is so.
//!
//! Pure. A flaw is named by its row; a conductor starts on rows with flaws that it can read, but may then
//! not find what they are about.

pub(super) mod references;

use std::collections::BTreeMap;
use std::fmt;

use ashlar_proto::{DiskId, NodeId, ReplicaId, ShardIndex, VolumeId};

use super::Rows;
use crate::meta::{Change, Key};
use crate::row::{AnyRow, RowError};

/// What is wrong with a row.
#[derive(Debug)]
pub struct Finding {
    /// The row.
    pub key: Key,
    /// What is wrong.
    pub flaw: Flaw,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.flaw)
    }
}

/// Everything that can be wrong.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(RowError),
    /// It says that it is another row.
    #[error("it says that it is {named}")]
    Misplaced {
        /// The key that it belongs to.
        named: Key,
    },
    /// There are rows, but none of the cluster.
    #[error("there is no such row, but there are others")]
    NoCluster,
    /// An id was given out that the cluster's counter would give out again.
    #[error("its counter of {what} stands at {next}, but {used} is in use")]
    CounterBehind {
        /// Of what.
        what: &'static str,
        /// The id that it would give next.
        next: u64,
        /// The highest in use.
        used: u64,
    },
    /// What it is about is not there.
    #[error("it names {missing}, which is not there")]
    Dangling {
        /// What it names.
        missing: Key,
    },
    /// The row that finds it is not there, or is of another one.
    #[error("no row {index} leads to it")]
    Unindexed {
        /// The row that should be.
        index: Key,
    },
    /// A volume has too few shards, or some between are missing.
    #[error("its shard {} is not there", index.get())]
    NoShard {
        /// The first that is missing.
        index: ShardIndex,
    },
    /// A shard lies beyond what its volume has.
    #[error("its volume has only {shards} shards")]
    BeyondEnd {
        /// How many it has.
        shards: u32,
    },
    /// A shard without a replica that holds every write.
    #[error("none of its replicas is in sync")]
    NoneInSync,
    /// Two replicas of a shard on one disk, or of one id.
    #[error("replica {replica} is twice in it, or shares its disk")]
    Doubled {
        /// The second one.
        replica: ReplicaId,
    },
    /// A replica that another shard has, too.
    #[error("replica {replica} is also in {other}")]
    Shared {
        /// The replica.
        replica: ReplicaId,
        /// The other shard.
        other: Key,
    },
    /// A replica is said to be on another node than its disk.
    #[error("replica {replica} is said to be on node {said}, its disk {disk} is on node {is}")]
    OtherNode {
        /// The replica.
        replica: ReplicaId,
        /// Its disk.
        disk: DiskId,
        /// The node that the row says.
        said: NodeId,
        /// The disk's.
        is: NodeId,
    },
    /// Two of a kind have one name, number or volume.
    #[error("it has {what} in common with {other}")]
    NotUnique {
        /// What.
        what: &'static str,
        /// The other row.
        other: Key,
    },
    /// A disk was looked at, and does not hold a replica that it should.
    #[error("replica {replica} is not on disk {disk}, which was looked at")]
    NotHeld {
        /// The replica.
        replica: ReplicaId,
        /// The disk.
        disk: DiskId,
    },
    /// A replica is on another disk than the row says.
    #[error("replica {replica} is on disk {found}, not on {said}")]
    HeldElsewhere {
        /// The replica.
        replica: ReplicaId,
        /// The disk that the row says.
        said: DiskId,
        /// Where it is.
        found: DiskId,
    },
    /// A disk holds what no row knows of: its store would remove it.
    #[error("disk {disk} holds replica {replica} of shard {} of volume {volume}, which no row names", shard.get())]
    HeldUnnamed {
        /// The disk.
        disk: DiskId,
        /// The replica.
        replica: ReplicaId,
        /// Its volume.
        volume: VolumeId,
        /// Its shard.
        shard: ShardIndex,
    },
}

/// The rows that can be read, by their keys.
pub(super) type Decoded = BTreeMap<Key, AnyRow>;

/// Everything that is wrong with the rows, in the order of their keys.
#[must_use]
pub fn check(rows: &Rows) -> Vec<Finding> {
    let (decoded, mut findings) = decode(rows);
    findings.extend(references::check(&decoded));
    findings.sort_by(|a, b| a.key.cmp(&b.key));
    findings
}

/// The rows that can be read, and what is wrong with each row by itself.
pub(super) fn decode(rows: &Rows) -> (Decoded, Vec<Finding>) {
    let (mut decoded, mut findings) = (Decoded::new(), Vec::new());
    for (key, value) in rows {
        let mut find = |flaw| {
            let key = key.clone();
            findings.push(Finding { key, flaw });
        };
        match AnyRow::decode(key, value) {
            Err(error) => find(Flaw::Unreadable(error)),
            Ok(row) => {
                let named = key_of(&row);
                if named == *key {
                    decoded.insert(named, row);
                } else {
                    find(Flaw::Misplaced { named });
                }
            }
        }
    }
    (decoded, findings)
}

/// The key that a row belongs to.
pub(super) fn key_of(row: &AnyRow) -> Key {
    let put: Change = row.put();
    put.key().clone()
}
