//! What stores and owners tell the conductor of each other: the evidence that it weighs.

use serde::{Deserialize, Serialize};

use crate::{Address, DiskId, Generation, NodeId, VolumeId};

/// Peers that a store watches, at most.
pub const PEERS_WATCHED_MAX: usize = 8;

/// Owners that a store names in one heartbeat, at most.
pub const OWNERS_SEEN_MAX: usize = 4096;

/// Volumes of one [`OwnerHeartbeat`], at most.
pub const OWNER_VOLUMES_MAX: usize = 1024;

/// Stores of one [`OwnerHeartbeat`], at most.
pub const OWNER_STORES_MAX: usize = 4096;

/// A store that another one is to watch over the data connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PeerTarget {
    /// Its node.
    pub node: NodeId,
    /// The node's name, as its certificate has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Where its data plane listens.
    pub address: Address,
    /// One of its disks: connections are to lanes.
    pub disk: DiskId,
}

/// Whether somebody reaches a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PeerSeen {
    /// The store's node.
    pub node: NodeId,
    /// Whether it answered of late.
    pub reached: bool,
}

/// An owner that has a session with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct OwnerSeen {
    /// The volume that it has opened.
    pub volume: VolumeId,
    /// The generation that it has it with.
    pub generation: Generation,
    /// Milliseconds since it last asked anything.
    pub idle_ms: u64,
}

/// What a store sees of others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Observed {
    /// The stores that it watches, once it knows whether it reaches them.
    #[serde(default)]
    pub peers: Vec<PeerSeen>,
    /// The owners that have sessions with it, the newest generation of each volume. Absent where
    /// it cannot name them all: then it says nothing of any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owners: Option<Vec<OwnerSeen>>,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HeartbeatAnswer {
    /// The stores to watch from now on; at most [`PEERS_WATCHED_MAX`].
    #[serde(default)]
    pub peers: Vec<PeerTarget>,
    /// The inventory that is wanted, by its number; a store tells each once. Older stores tell none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<u64>,
}

/// `POST /v1/owners/heartbeat`: an owner says that it lives, and which stores it reaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct OwnerHeartbeat {
    /// Who it is, as in its attach.
    pub owner: String,
    /// Its volumes, or some of them; at most [`OWNER_VOLUMES_MAX`].
    pub volumes: Vec<OwnerBeat>,
    /// The stores of their replicas that are on other hosts; at most [`OWNER_STORES_MAX`].
    #[serde(default)]
    pub stores: Vec<PeerSeen>,
}

/// One volume of an owner that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct OwnerBeat {
    /// The volume.
    pub volume: VolumeId,
    /// The generation that the owner was granted.
    pub generation: Generation,
}
