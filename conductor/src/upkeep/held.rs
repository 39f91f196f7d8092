//! What disks hold, as `ashlar disk inspect --json` says of each.
//!
//! Stores report how their disks are, not which replicas lie there: so this is read from the disks
//! themselves, while their stores do not run.

use std::collections::BTreeMap;

use ashlar_proto::{ClusterId, DiskId, ReplicaId, ShardIndex, VolumeId};
use serde::Deserialize;

/// A replica that a disk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeldReplica {
    /// Its volume.
    pub volume: VolumeId,
    /// Its shard.
    pub shard: ShardIndex,
    /// It.
    pub replica: ReplicaId,
}

/// What the disks hold that were looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    disks: BTreeMap<DiskId, Vec<HeldReplica>>,
}

/// A report that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HeldError {
    /// It is not what `ashlar disk inspect --json` prints.
    #[error("this is not what `ashlar disk inspect --json` prints: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The disk was given to another cluster, or to none.
    #[error("disk {disk} is not of cluster {cluster}")]
    OtherCluster {
        /// The disk.
        disk: DiskId,
        /// The cluster that is looked at.
        cluster: ClusterId,
    },
    /// Two reports are of one disk.
    #[error("there are two reports of disk {disk}: give the newest of each disk")]
    Twice {
        /// The disk.
        disk: DiskId,
    },
}

#[derive(Deserialize)]
struct Report {
    disk: DiskId,
    cluster: Option<ClusterId>,
    lanes: Vec<Lane>,
}

#[derive(Deserialize)]
struct Lane {
    shards: Vec<Shard>,
}

#[derive(Deserialize)]
struct Shard {
    volume: VolumeId,
    shard: ShardIndex,
    replica: ReplicaId,
}

impl Held {
    /// Adds the report of one disk.
    ///
    /// # Errors
    /// [`HeldError`].
    pub fn add(&mut self, report: &[u8], cluster: ClusterId) -> Result<(), HeldError> {
        let report: Report = serde_json::from_slice(report)?;
        let disk = report.disk;
        if report.cluster != Some(cluster) {
            return Err(HeldError::OtherCluster { disk, cluster });
        }
        let shards = report.lanes.into_iter().flat_map(|lane| lane.shards);
        let held = shards.map(|shard| HeldReplica {
            volume: shard.volume,
            shard: shard.shard,
            replica: shard.replica,
        });
        if self.disks.contains_key(&disk) {
            return Err(HeldError::Twice { disk });
        }
        self.disks.insert(disk, held.collect());
        Ok(())
    }

    /// Whether the disk was looked at.
    #[must_use]
    pub fn knows(&self, disk: DiskId) -> bool {
        self.disks.contains_key(&disk)
    }

    /// The disks that hold that replica.
    pub(super) fn disks_of(&self, wanted: HeldReplica) -> Vec<DiskId> {
        let holds = |held: &Vec<HeldReplica>| held.contains(&wanted);
        let disks = self.disks.iter().filter(|(_, held)| holds(held));
        disks.map(|(disk, _)| *disk).collect()
    }

    /// Everything, disk by disk.
    pub(super) fn all(&self) -> impl Iterator<Item = (DiskId, HeldReplica)> {
        let each = self.disks.iter();
        each.flat_map(|(disk, held)| held.iter().map(|replica| (*disk, *replica)))
    }
}
