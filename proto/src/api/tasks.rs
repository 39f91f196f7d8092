//! Long operations: what the cluster is doing, how far it has come, and how to call it off.

use serde::{Deserialize, Serialize};

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// The stores of a volume make its replicas.
    CreateVolume,
    /// The stores of a volume remove its replicas.
    DeleteVolume,
    /// The stores of a volume make room for its new size. Canceled, it keeps the present one.
    ResizeVolume,
    /// The owner of a clone copies what it shows of its origin. Canceled, it keeps the origin.
    FlattenVolume,
    /// Replicas of a volume that are behind or new are filled.
    RebuildVolume,
    /// The replicas of a volume have yet to go by the deletion of a snapshot, or by a rollback.
    ApplyLayers,
    /// The last writes of a snapshot are brought to all replicas.
    SealSnapshot,
    /// The replicas of a node move away. Canceled, what has not moved stays.
    DrainNode,
    /// The replicas of a disk move away, since somebody asked for it. Canceled, what has not moved
    /// stays.
    DrainDisk,
    /// The replicas of a disk move away, since it ails. Canceled, the disk is used all the same.
    EvacuateDisk,
    /// Replicas move from fuller disks to emptier ones. Canceled, moves are paused.
    Rebalance,
}

/// Where a task is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// It is under way.
    Running,
    /// It has come to its end.
    Done,
    /// Somebody has called it off.
    Canceled,
}

/// A long operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Task {
    /// Its id: the kind, and the id of what it is about.
    pub id: String,
    /// What it does.
    pub kind: TaskKind,
    /// What it is about, as people call it.
    pub subject: String,
    /// Where it is in its life.
    pub state: TaskState,
    /// How much of it is done, in percent, where that can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_percent: Option<u8>,
    /// Seconds until it is done at the rate so far, where that can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_seconds: Option<u64>,
    /// When the conductor first saw it: milliseconds since 1970-01-01 UTC.
    pub began_ms: u64,
    /// When it ended, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// Whether it can be called off.
    pub cancelable: bool,
}

/// `POST /v1/tasks/{id}/cancel`: an empty object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CancelTask {}
