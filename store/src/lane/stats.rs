//! What a lane counts.

use std::collections::HashSet;

use crate::lane::pace::IoCounts;

/// Damage found since the lane started, by what was damaged. Each place counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DamageCounts {
    /// Blocks of data.
    pub data: u64,
    /// Headers of batches, and LSNs that are missing below what was durable.
    pub batch: u64,
    /// Leaves of the map.
    pub leaf: u64,
    /// Root pages of the map.
    pub root: u64,
    /// Copies of the superblock (counted by the disk).
    pub superblock: u64,
    /// Checkpoint slots.
    pub slot: u64,
    /// Summaries of segments.
    pub summary: u64,
}

impl DamageCounts {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.data + self.batch + self.leaf + self.root + self.superblock + self.slot + self.summary
    }
}

/// How the map of a lane uses its memory, and what it costs that not all of it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapCounts {
    /// What overlay and leaves may take together, in bytes.
    pub budget_bytes: u64,
    /// What the leaves in memory take.
    pub leaf_bytes: u64,
    /// What the overlay takes.
    pub overlay_bytes: u64,
    /// What the root pages take, beside the budget.
    pub root_bytes: u64,
    /// Leaves that requests found in memory.
    pub hits: u64,
    /// Leaves that were read for requests.
    pub misses: u64,
    /// Leaves that were read for other work: folds, scrubs, tails, the collector.
    pub scanned: u64,
    /// Leaves that made room for others.
    pub evictions: u64,
    /// How long the reads of leaves took, all of them together.
    pub load_nanos: u64,
}

/// What a lane has done since it started, and how it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Damage found.
    pub damage: DamageCounts,
    /// Blocks of data that were written by requests.
    pub blocks_written: u64,
    /// Blocks written to the device, for whatever reason but to fill a file's segment with zeroes
    /// once: the quotient is the write amplification.
    pub blocks_logged: u64,
    /// Blocks of data that the collector moved.
    pub blocks_moved: u64,
    /// Leaves of the map written.
    pub leaves_written: u64,
    /// Batches written.
    pub batches: u64,
    /// Checkpoints made durable.
    pub checkpoints: u64,
    /// Segments collected.
    pub segments_collected: u64,
    /// Segments free to be opened.
    pub segments_free: u64,
    /// Segments of the lane.
    pub segments: u64,
    /// Writes that the device failed.
    pub write_errors: u64,
    /// Reads that the device failed.
    pub read_errors: u64,
    /// Writes that were refused for want of room.
    pub refused: u64,
    /// Requests to the device, and how long they took.
    pub io: IoCounts,
    /// The map in memory.
    pub map: MapCounts,
}

/// What kind of place was found damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DamageKind {
    Data,
    Batch,
    Leaf,
    Root,
    Slot,
    Summary,
}

/// Places that are remembered so that each counts once.
const REMEMBERED_MAX: usize = 1 << 16;

/// Counts damage once for each place.
#[derive(Debug, Default)]
pub(crate) struct DamageBook {
    counts: DamageCounts,
    seen: HashSet<(DamageKind, u64)>,
}

impl DamageBook {
    pub(crate) fn counts(&self) -> DamageCounts {
        self.counts
    }

    /// Notes damage at an address (or of an LSN).
    pub(crate) fn note(&mut self, kind: DamageKind, place: u64) {
        if self.seen.len() < REMEMBERED_MAX && !self.seen.insert((kind, place)) {
            return;
        }
        let count = match kind {
            DamageKind::Data => &mut self.counts.data,
            DamageKind::Batch => &mut self.counts.batch,
            DamageKind::Leaf => &mut self.counts.leaf,
            DamageKind::Root => &mut self.counts.root,
            DamageKind::Slot => &mut self.counts.slot,
            DamageKind::Summary => &mut self.counts.summary,
        };
        *count += 1;
        tracing::warn!(?kind, place, "damage found on the disk");
    }
}
