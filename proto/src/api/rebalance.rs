//! Moves of replicas from fuller disks to emptier ones.

use serde::{Deserialize, Serialize};

use super::Revision;
use crate::ids::{ByteCount, DiskId, NodeId, ReplicaId, ShardIndex, VolumeId};

/// What rebalance is about: moves of replicas from fuller disks to emptier ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum RebalanceState {
    /// Disks are even enough, or no move would make them more so.
    #[default]
    Idle,
    /// Moves are under way or are to begin.
    Moving,
    /// Moves are to begin, but lost replicas or drained disks come first.
    Waiting,
    /// Somebody has asked that no moves begin; those under way end.
    Paused,
}

/// Rebalance in one line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RebalanceSummary {
    /// What it is about.
    pub state: RebalanceState,
    /// Moves under way.
    pub moving: u32,
    /// Moves that are still to begin, as it looks now; none while it is paused.
    pub to_come: u32,
    /// Bytes of the replicas of both, written or not.
    pub bytes_left: ByteCount,
}

/// `GET /v1/rebalance`, and the answer to `POST /v1/rebalance/pause` and `…/resume`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Rebalance {
    /// What it is about.
    #[serde(flatten)]
    pub summary: RebalanceSummary,
    /// The difference in fill from which on moves begin, in thousandths of a disk.
    pub start_permille: u16,
    /// The difference in fill at which they stop.
    pub stop_permille: u16,
    /// The difference between the fullest and the emptiest disk that takes replicas.
    pub spread_permille: u16,
    /// The disks that take replicas: no others take part.
    pub disks: Vec<DiskFill>,
    /// The moves under way.
    pub moves: Vec<RebalanceMove>,
    /// The metadata's revision.
    pub revision: Revision,
}

/// A disk and how full it is: what is used, and what is promised but not written yet, as a part of
/// all that it may use or promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DiskFill {
    /// Where it is.
    #[serde(flatten)]
    pub place: DiskPlace,
    /// Bytes that volumes can use.
    pub usable_bytes: ByteCount,
    /// Bytes used.
    pub used_bytes: ByteCount,
    /// Bytes of the replicas that it holds, written or not.
    pub promised_bytes: ByteCount,
    /// How full it is, in thousandths.
    pub fill_permille: u16,
    /// How full it will be after all moves under way and to come; where no plan was asked for,
    /// after those under way.
    pub fill_permille_after: u16,
}

/// A disk and its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DiskPlace {
    /// The disk.
    pub disk: DiskId,
    /// Its node.
    pub node: NodeId,
    /// Its node's name.
    pub node_name: String,
}

/// The move of one replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RebalanceMove {
    /// The volume.
    pub volume: VolumeId,
    /// Its name.
    pub volume_name: String,
    /// The shard.
    pub shard: ShardIndex,
    /// Bytes of the replica, written or not; what is written is copied.
    pub bytes: ByteCount,
    /// The replica that leaves.
    pub replica: ReplicaId,
    /// Where it lies.
    pub from: DiskPlace,
    /// Where its successor comes to lie.
    pub to: DiskPlace,
}

/// A move that would begin, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlannedMove {
    /// The move.
    #[serde(flatten)]
    pub what: RebalanceMove,
    /// How full the disk is that it leaves, after the moves before it, in thousandths.
    pub from_permille: u16,
    /// How full it is then.
    pub from_permille_after: u16,
    /// How full the disk is that it goes to.
    pub to_permille: u16,
    /// How full it is then.
    pub to_permille_after: u16,
}

/// `GET /v1/rebalance/plan`: what would move if nothing else changed, whether it is paused or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RebalancePlan {
    /// The moves in their order; those under way are not among them.
    pub moves: Vec<PlannedMove>,
    /// Whether these are all; otherwise there are more after them.
    pub complete: bool,
    /// Bytes of all their replicas, written or not.
    pub bytes: ByteCount,
    /// The disks that take replicas, before and after.
    pub disks: Vec<DiskFill>,
    /// The metadata's revision.
    pub revision: Revision,
}

/// `POST /v1/rebalance/pause` and `…/resume`: an empty object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetRebalance {}
