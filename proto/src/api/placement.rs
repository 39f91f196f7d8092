//! Where a volume would lie, and why not elsewhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{DiskId, NodeId};

/// What becomes of a disk in a placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It gets replicas.
    Chosen,
    /// It may get some, and others are better.
    Possible,
    /// It gets none, for the reasons given.
    Refused,
}

/// A disk in a placement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ExplainedDisk {
    /// The disk.
    pub disk: DiskId,
    /// Its node.
    pub node: NodeId,
    /// The node's name.
    pub node_name: String,
    /// The disk's labels, and those of its node that it does not have itself.
    pub labels: BTreeMap<String, String>,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Replicas that it would get.
    pub replicas: u32,
    /// Why, for people.
    pub reasons: Vec<String>,
}

/// `POST /v1/placement:explain` with a volume as it would be created: where it would lie. Nothing is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ExplainedPlacement {
    /// Whether it could be made now.
    pub possible: bool,
    /// Why not, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Its shards.
    pub shards: u32,
    /// Every disk of the cluster.
    pub disks: Vec<ExplainedDisk>,
}
