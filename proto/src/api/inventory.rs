//! What stores hold, as they say when they are asked: the inventory that metadata are compared with.
//!
//! ```text
//! heartbeat ◀── answer: inventory N is wanted ── conductor, when somebody checks the metadata
//! store ──▶ POST /v1/nodes/{id}/inventory: page, page, last page ──▶ conductor compares
//! ```
//!
//! Invariants: a store tells of all its disks that serve or none; what it tells is bounded, page by page;
//! a store that does not know of inventories does not answer, and counts as not heard.

use serde::{Deserialize, Serialize};

use crate::{
    BlockCount, DiskId, Epoch, Generation, Layer, LayerTable, NodeId, ReplicaId, ShardIndex,
    VolumeId, Window,
};

/// The version of inventories that this build tells and understands.
pub const INVENTORY_VERSION: u32 = 1;

/// Replicas of one page, at most.
pub const INVENTORY_PAGE_MAX: usize = 128;

/// Replicas of all pages of a node, at most.
pub const INVENTORY_REPLICAS_MAX: usize = 1 << 18;

/// Runs of a layer table that is told; a larger one is left out.
pub const INVENTORY_RUNS_MAX: usize = 128;

/// Volumes whose owners a store names, at most.
pub const INVENTORY_OWNERS_MAX: usize = 4096;

/// Findings of one check, at most.
pub const FINDINGS_MAX: usize = 4096;

/// A replica as a disk has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FoundReplica {
    /// The disk.
    pub disk: DiskId,
    /// Its volume.
    pub volume: VolumeId,
    /// Its shard.
    pub shard: ShardIndex,
    /// It.
    pub replica: ReplicaId,
    /// Its length, in blocks.
    pub blocks: BlockCount,
    /// The highest generation that it has seen.
    pub generation: Generation,
    /// The highest epoch that it has seen.
    pub epoch: Epoch,
    /// The highest window that it has recorded.
    pub window: Window,
    /// Its horizon, as a raw seq: up to it it holds every write.
    pub stable: u64,
    /// The highest seq of any of its blocks, raw.
    pub highest: u64,
    /// Something of it was lost or is damaged, and no owner has settled that yet.
    pub doubtful: bool,
    /// The highest label that any of its blocks has, or that its table speaks of.
    pub top: Layer,
    /// How its layers are read; nothing where the table is too large to be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<LayerTable>,
}

/// `POST /v1/nodes/{id}/inventory`: one page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InventoryPage {
    /// [`INVENTORY_VERSION`] of who tells. One that the conductor does not understand is no inventory.
    pub version: u32,
    /// The number under which it was asked for.
    pub number: u64,
    /// The position of this page, from 0.
    pub page: u32,
    /// Whether no other follows.
    pub last: bool,
    /// On the first page: the disks that it is of. One that has failed is none of them.
    #[serde(default)]
    pub disks: Vec<DiskId>,
    /// On the first page: volumes whose owners have sessions with the store.
    #[serde(default)]
    pub owned: Vec<VolumeId>,
    /// Replicas; at most [`INVENTORY_PAGE_MAX`].
    pub replicas: Vec<FoundReplica>,
}

/// Volumes of one [`CheckMetadata`] that are accepted, at most.
pub const ACCEPTED_MAX: usize = 1024;

/// `POST /v1/metadata/check`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CheckMetadata {
    /// Carries out what is safe, too.
    #[serde(default)]
    pub repair: bool,
    /// Volumes that somebody vouches for: replicas that agree count as complete although their owner did not
    /// leave them cleanly, or although they hold no write; and a volume that no row knows was as large as its
    /// replicas are. At most [`ACCEPTED_MAX`].
    #[serde(default)]
    pub accept: Vec<VolumeId>,
    /// Whoever asks vouches that every disk of the cluster is among those that the metadata know, also
    /// those that were added since a backup: what lies on none of them does not exist. A recovery ends only
    /// then, and only then is a set made of fewer replicas than the volume has.
    #[serde(default)]
    pub all_disks: bool,
    /// Disks that are gone for good: what they held is not waited for; at most [`ACCEPTED_MAX`].
    #[serde(default)]
    pub gone: Vec<DiskId>,
    /// Ends the recovery after that, whatever is left: stores then remove what no row names.
    #[serde(default)]
    pub give_up: bool,
    /// How long to wait for the inventories of stores: milliseconds, 60000 at most; 10000 if not given.
    #[serde(default)]
    pub wait_ms: Option<u64>,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// It is so, and needs nothing.
    Note,
    /// A repair puts it right.
    Repairable,
    /// The conductor sees to it by itself.
    Heals,
    /// It cannot be decided from what is known.
    Undecided,
}

/// Something that rows and disks do not agree on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MetadataFinding {
    /// Its code, which keeps its meaning.
    pub code: String,
    /// How much it matters.
    pub kind: FindingKind,
    /// The volume, if it is of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeId>,
    /// The shard, if it is of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<ShardIndex>,
    /// What is so, and what to do.
    pub detail: String,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MetadataChecked {
    /// Whether volumes are held back until this was done.
    pub recovering: bool,
    /// Disks that stores told of.
    #[serde(default)]
    pub disks: u64,
    /// Replicas that stores told of.
    pub replicas: u64,
    /// Nodes that told nothing: down, or of an older version.
    pub silent: Vec<NodeId>,
    /// What was put right.
    pub mended: Vec<MetadataFinding>,
    /// What is left.
    pub findings: Vec<MetadataFinding>,
    /// Findings beyond those that are listed.
    pub left_out: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::BLOCK_BYTES_U64;
    use crate::{LayerRange, Seq};

    /// A page of the largest replicas fits into what a conductor reads of a request: 1 MiB.
    #[test]
    fn a_full_page_fits_into_a_request() {
        let run = LayerRange::new(Layer::new(u32::MAX), Layer::new(u32::MAX));
        let replica = FoundReplica {
            disk: DiskId::new(u128::MAX),
            volume: VolumeId::new(u64::MAX),
            shard: ShardIndex::new(u32::MAX),
            replica: ReplicaId::new(u64::MAX),
            blocks: BlockCount::new(u32::MAX),
            generation: Generation::new(u32::MAX),
            epoch: Epoch::new(u32::MAX),
            window: Window::new(1),
            stable: Seq::NONE.get(),
            highest: u64::MAX,
            doubtful: false,
            top: Layer::new(u32::MAX),
            layers: Some(LayerTable {
                version: u32::MAX,
                live: vec![run; INVENTORY_RUNS_MAX],
                dropped: Vec::new(),
            }),
        };
        let page = InventoryPage {
            version: INVENTORY_VERSION,
            number: u64::MAX,
            page: 0,
            last: false,
            disks: vec![DiskId::new(u128::MAX); 256],
            owned: vec![VolumeId::new(u64::MAX); INVENTORY_OWNERS_MAX],
            replicas: vec![replica; INVENTORY_PAGE_MAX],
        };
        let bytes = serde_json::to_vec(&page).unwrap();
        assert!(bytes.len() < 256 * usize::try_from(BLOCK_BYTES_U64).unwrap());
        let read: InventoryPage = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(read, page);
    }

    /// A newer store may tell more on a page; an older conductor reads what it knows.
    #[test]
    fn a_page_of_a_newer_store_is_read_as_far_as_it_is_known() {
        let text = r#"{"version":2,"number":7,"page":0,"last":true,"replicas":[],"more":1}"#;
        let page: InventoryPage = serde_json::from_str(text).unwrap();
        assert_eq!((page.version, page.number, page.last), (2, 7, true));
    }
}
