//! What stores report of their disks.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::{Ailing, ReplicaUse, is_false, is_no_bytes, is_no_count};
use crate::ids::{ByteCount, DiskId, ReplicaId};

/// A disk, as its store reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DiskReport {
    /// Its id, from its superblock.
    pub id: DiskId,
    /// Its path on the node.
    pub path: String,
    /// Its lanes.
    pub lanes: u16,
    /// Bytes that volumes can use.
    pub usable_bytes: ByteCount,
    /// Bytes that live blocks and their map take.
    pub used_bytes: ByteCount,
    /// Whether its cache loses unflushed writes at power loss.
    pub volatile_cache: bool,
    /// Counts of damage, by kind, since it was formatted or last cleared.
    #[serde(default)]
    pub damage: BTreeMap<String, u64>,
    /// Why it serves nothing, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// That it is going bad, if so; not taken back while the store runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ailing: Option<Ailing>,
    /// Replicas that should be on it, were made once, and are not: the first
    /// [`crate::limits::MISSING_REPORTED_MAX`] by id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<ReplicaId>,
    /// How its map uses memory; none where nothing is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<MapReport>,
    /// What has been written to it; none where nothing is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes: Option<WriteReport>,
    /// Bytes that are kept for replicas that have reservations, their maps included.
    #[serde(default, skip_serializing_if = "is_no_bytes")]
    pub reserved_bytes: ByteCount,
    /// Of these, bytes that those replicas have not taken yet: they are not among those used.
    #[serde(default, skip_serializing_if = "is_no_bytes")]
    pub unfilled_bytes: ByteCount,
    /// A lane of it takes no new blocks of volumes without a reservation.
    #[serde(default, skip_serializing_if = "is_false")]
    pub full: bool,
    /// Writes that were refused for want of room since the store started.
    #[serde(default, skip_serializing_if = "is_no_count")]
    pub refused_writes: u64,
    /// What the replicas take that take the most: the first [`crate::limits::USES_REPORTED_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub largest: Vec<ReplicaUse>,
}

/// What has been written to a disk since its store started, and by whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct WriteReport {
    /// Data that requests wrote: those of owners, and copies from other replicas.
    pub request_bytes: ByteCount,
    /// All that the device was given: that data, headers, what was moved, the map, checkpoints. Without
    /// the zeroes that each segment of a file is filled with once.
    pub device_bytes: ByteCount,
    /// Of it, live data that the collector moved out of old segments.
    pub moved_bytes: ByteCount,
    /// Of it, leaves of the map.
    pub leaf_bytes: ByteCount,
}

impl WriteReport {
    /// Write amplification in hundredths: what the device was given for what requests wrote. None
    /// before the first of them.
    #[must_use]
    pub fn amplification_percent(&self) -> Option<u64> {
        let hundredfold = self.device_bytes.get().saturating_mul(100);
        hundredfold.checked_div(self.request_bytes.get())
    }
}

/// How the map of a disk uses memory, and what it costs that not all of it is there. Counts are
/// since the store started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MapReport {
    /// What leaves and overlay may take together.
    pub budget_bytes: ByteCount,
    /// What the leaves in memory take.
    pub leaf_bytes: ByteCount,
    /// What the overlay takes: changes that are in no leaf yet.
    pub overlay_bytes: ByteCount,
    /// What the root pages take, beside the budget.
    pub root_bytes: ByteCount,
    /// Leaves that requests found in memory.
    pub hits: u64,
    /// Leaves that were read for requests.
    pub misses: u64,
    /// Leaves that were read for other work: folds, scrubs, tails, the collector.
    pub scanned: u64,
    /// Leaves that made room for others.
    pub evictions: u64,
    /// Nanoseconds that the reads of leaves, `misses` and `scanned`, took together.
    pub load_ns: u64,
}

impl MapReport {
    /// Nanoseconds that the read of a leaf took on average; 0 if there was none.
    #[must_use]
    pub fn load_ns_mean(&self) -> u64 {
        let loads = self.misses + self.scanned;
        self.load_ns.checked_div(loads).unwrap_or(0)
    }
}
