//! `BlockDevice` and its one great implementation: `Volume`, the owner that orders the writes of a
//! volume, fans them out to its replicas and checks what it reads.
//!
//! ```text
//! volume ──▶ write · zero · read · flush          what a request does
//!    │         │ locks, budget, group             who waits for whom
//!    ▼         ▼
//! attach ──▶ shard ──▶ write_log, quorum          what the answers mean (pure)
//! takeover     │ └──▶ membership, refusal, repair what becomes of a replica that fails
//!    │         ├──▶ catch_up, map                 who comes and who goes for good
//!    │         ├──▶ layers, hold                  what writes carry, what is sealed
//!    │         ├──▶ origin, flatten               what a clone shows where it was not written
//!    │         └──▶ lease                         whether what was read may be shown
//! reconcile    ▼
//!            peer ──▶ reactor::link               one session per lane
//! ```
//!
//! A [`Snapshot`] is read without owning anything. [`RepairOwners`] attach what nobody uses, to bring its replicas back.

mod attach;
mod beat;
pub mod block_device;
mod budget;
mod candidate;
mod catch_up;
pub mod conformance;
mod flatten;
mod flush;
mod grant;
mod group;
mod grow;
mod health;
mod hedge;
mod hold;
mod layers;
mod lease;
mod locks;
mod map;
mod membership;
mod memory;
mod options;
mod origin;
mod overlap;
mod peer;
mod pulse;
mod quorum;
mod range;
mod read;
mod read_health;
mod reconcile;
mod refusal;
mod repair;
mod repair_owners;
mod route;
mod scrub;
mod shard;
mod signal;
mod snapshot;
mod snapshot_usage;
mod source;
mod takeover;
#[cfg(test)]
mod tests;
mod throttle;
mod volume;
mod window;
mod wire;
mod write;
mod write_log;
mod zero;

pub use attach::AttachError;
pub use block_device::{BlockDevice, BlockError, Durability, Geometry, ZeroMode};
pub use health::VolumeHealth;
pub use memory::MemoryDevice;
pub use options::VolumeOptions;
pub use repair_owners::{RepairOwners, RepairTasks};
pub use snapshot::{OpenSnapshotError, Snapshot};
pub use snapshot_usage::SnapshotUsage;
pub use source::{ClusterSource, SourceError};
pub use volume::Volume;
