//! What a lane answers when it cannot do what it was asked.

use ashlar_proto::{BlockIndex, Layer, Status};

/// A request of a lane failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaneError {
    /// The lane does not hold the shard.
    #[error("the lane does not hold this shard")]
    NoSuchShard,
    /// The range does not lie within the shard, or the checksums do not fit the data.
    #[error("the request does not fit the shard")]
    OutOfRange,
    /// The layer was dropped or joined to the one above: it is neither written nor read any more.
    #[error("layer {0} is not served any more")]
    LayerDropped(Layer),
    /// The lane is full: nothing of the request was kept.
    #[error("the lane is full")]
    NoSpace,
    /// What the disk holds of the block is damaged.
    #[error("block {0} is damaged on this disk")]
    Damaged(BlockIndex),
    /// The device failed the request.
    #[error("the device failed the request")]
    Device,
    /// The lane is closing.
    #[error("the lane is closing")]
    Closing,
}

impl LaneError {
    /// The status that a replica answers.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::NoSuchShard => Status::NoSuchReplica,
            Self::OutOfRange | Self::LayerDropped(_) => Status::Malformed,
            Self::NoSpace => Status::NoSpace,
            Self::Damaged(_) => Status::Damaged,
            Self::Device => Status::Device,
            Self::Closing => Status::Unavailable,
        }
    }
}

/// A lane could not be recovered: its disk needs a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    /// Neither slot is valid.
    #[error("lane {lane}: neither checkpoint slot is readable; the lane is lost")]
    NoSlot {
        /// The lane.
        lane: u16,
    },
    /// A batch names a slot that is more than one newer than the newest that can be read.
    #[error(
        "lane {lane}: the newest readable slot is {found}, a batch names {named}; the lane is lost"
    )]
    SlotsLost {
        /// The lane.
        lane: u16,
        /// The newest readable slot.
        found: u64,
        /// The slot that a batch names.
        named: u64,
    },
    /// The device failed a read or a write of recovery.
    #[error("lane {lane}: the device failed during recovery")]
    Device {
        /// The lane.
        lane: u16,
    },
}
