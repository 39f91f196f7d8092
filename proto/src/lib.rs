//! The vocabulary of Ashlar: ids, units, epochs, maps, frames, statuses, limits and API types.
//!
//! Pure values: no IO, no clock, no randomness. Everything that two processes exchange, or that
//! lies on a disk and outlives a process, is named here.

pub mod address;
pub mod api;
pub mod crc;
pub mod frame;
pub mod ids;
pub mod iscsi;
pub mod layers;
pub mod limits;
pub mod message;
pub mod planted;
pub mod room;
#[cfg(feature = "schema")]
mod schema;
pub mod status;
pub mod volume_name;

pub use address::{Address, ParseAddressError};
pub use frame::{FRAME_HEADER_BYTES, FrameError, FrameHeader, FrameKind};
pub use ids::{
    BlockCount, BlockIndex, ByteCount, ClusterId, DiskId, Epoch, Generation, GroupId, Handle,
    Incarnation, LaneIndex, Layer, Lsn, NodeId, PublicationId, ReplicaId, Seq, ShardIndex,
    VolumeId, Window, lane_of,
};
pub use iscsi::{InitiatorPattern, InitiatorPort, IscsiName, Lun, PortalGroup};
pub use layers::{LayerRange, LayerTable};
pub use limits::BLOCK_BYTES;
pub use room::reserved_blocks;
pub use status::{RoomHint, Status};
