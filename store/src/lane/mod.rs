//! A lane: a log of versioned, checksummed blocks on a part of a disk, and the map over it.
//!
//! One law carries the rest: within one interval of one handle the highest seq wins, at equal seq
//! the later LSN; zeroes are versions too; nothing ever needs an older seq to win. So records
//! apply in any order.
//!
//! ```text
//! write ─▶ log (batches) ─▶ overlay ─▶ sweep ─▶ leaves ─▶ root pages ─▶ checkpoint slot
//!              ▲                                   │
//!              └────────── collector ◀─────────────┘        recovery: slot + log behind it
//! ```

mod apply;
mod batch;
mod checkpoint;
mod collector;
mod core;
mod error;
mod fold;
#[doc(hidden)]
pub mod fuzz;
mod handle;
mod inspect;
mod inventory;
mod layers;
mod leaf;
mod leaf_cache;
mod leaf_index;
mod log;
mod lookup;
mod lsn;
mod options;
mod overlay;
mod pace;
mod page;
mod planted;
mod purge;
mod read;
mod recovery;
mod reserve;
mod scan;
mod segment;
mod shards;
mod signal;
mod slot;
mod start;
mod state;
mod stats;
mod strata;
mod stream;
mod summary;
mod sweep;
mod table;
#[cfg(test)]
mod tests;

pub use error::{LaneError, RecoveryError};
pub use handle::{Lane, LaneUsage};
pub use inspect::{
    BlockReport, LaneReport, SegmentReport, SegmentReportState, ShardReport, SlotReport,
    VerifyReport,
};
pub use options::LaneOptions;
pub use pace::{IoCounts, SLOW_IO};
pub use shards::{ShardKey, StateChange};
pub use start::{DetachedLane, UnrecoveredLane};
pub use stats::{DamageCounts, LaneStats, MapCounts};

pub(crate) use start::{format_lane, scan_device};
