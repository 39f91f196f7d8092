//! The types of the HTTP/JSON API under `/v1`, shared by conductor, stores, owners and the CLI.

mod access;
mod ailing;
mod chap;
mod clients;
mod clones;
mod disks;
mod groups;
mod identities;
mod inventory;
mod labels;
mod maps;
mod placement;
mod publications;
mod rebalance;
mod reservations;
mod resize;
mod seen;
mod servers;
mod settings;
mod snapshots;
mod space;
mod targets;
mod tasks;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::address::Address;
use crate::ids::{
    ByteCount, ClusterId, DiskId, Epoch, Generation, Layer, NodeId, PublicationId, ReplicaId,
    ShardIndex, VolumeId,
};
use crate::layers::LayerTable;

pub use access::{
    ApiKey, AuditChange, AuditEntry, AuditOutcome, CreateKey, CreateProject, CreateToken,
    CreateUser, KeyCreated, Nothing, Project, RevokedToken, Role, SetQuota, SetUserRole,
    TokenCreated, User, VOLUME_KEY_HEADER, VolumeKeySet, WhoAmI,
};
pub use ailing::{Ailing, ClearDisk, Evacuation, Incident};
pub use chap::{
    ChapLogin, ChapUser, ClearChap, DiscoveryChap, DiscoverySecrets, InitiatorSecret, Secret,
    SetChap,
};
pub use clients::{AllowClient, ClientDenied, DeniedClient, DenyClient};
pub use clones::{
    CloneSnapshot, FlattenVolume, Flattening, Origin, ReportFlatten, layer_of_snapshot,
    snapshot_by_layer,
};
pub use disks::{DiskReport, MapReport, WriteReport};
pub use groups::{
    CreateSnapshotGroup, HoldAnswer, HoldOutcome, HoldWord, ReportHold, SnapshotGroup, VolumeHold,
};
pub use identities::{
    AllowIdentity, CERTIFICATE_REQUEST_BYTES_MAX, CreateJoinToken, DeniedIdentities,
    DeniedIdentity, DenyIdentity, Enrol, Enrolled, IdentityDenied, IdentitySubject, JoinToken,
    JoinTokenCreated, NodeRole, ParseNodeRoleError, RenewCertificate,
};
pub use inventory::{
    ACCEPTED_MAX, CheckMetadata, FINDINGS_MAX, FindingKind, FoundReplica, INVENTORY_OWNERS_MAX,
    INVENTORY_PAGE_MAX, INVENTORY_REPLICAS_MAX, INVENTORY_RUNS_MAX, INVENTORY_VERSION,
    InventoryPage, MetadataChecked, MetadataFinding,
};
pub use labels::{LabelDisk, LabelVolume, SetLabels};
pub use maps::{AskMaps, AskedMap, VolumeMaps};
pub use placement::{ExplainedDisk, ExplainedPlacement, Verdict};
pub use publications::{NotPublished, Publication, PublishVolume, PublishedName, UnpublishVolume};
pub use rebalance::{
    DiskFill, DiskPlace, PlannedMove, Rebalance, RebalanceMove, RebalancePlan, RebalanceState,
    RebalanceSummary, SetRebalance,
};
pub use reservations::{
    PersistentReservations, Registration, ReplaceReservations, Reservation, ReservationKey,
    ReservationType, ReservationsError, TargetPort, VolumeReservations,
};
pub use resize::ResizeVolume;
pub use seen::{
    HeartbeatAnswer, OWNER_STORES_MAX, OWNER_VOLUMES_MAX, OWNERS_SEEN_MAX, Observed, OwnerBeat,
    OwnerHeartbeat, OwnerSeen, PEERS_WATCHED_MAX, PeerSeen, PeerTarget,
};
pub use servers::{
    AttachServer, ConfirmReservations, HandOver, IscsiServer, RegisterServer,
    ReservationsConfirmed, ServerHeartbeat, ServerRegistered, TakeVolume, VolumeService,
};
pub use settings::{
    ChangePoolSettings, ChangeSettings, PoolSettings, Setting, SettingScope, SettingSource,
    Settings, VolumeSettings,
};
pub use snapshots::{
    CreateSnapshot, ReportLayers, RollbackVolume, Snapshot, SnapshotMap, SnapshotState,
};
pub use space::{
    DiskLevel, Event, EventKind, Events, ReplicaUse, Reserve, ReserveVolume, SetSpace, Space,
    SpaceRules,
};
pub use targets::{
    AllowInitiator, CreateTarget, MapUnit, RemoveInitiator, ServedTarget, ServedTargets, SetAcl,
    Target, TargetUnit,
};
pub use tasks::{CancelTask, Task, TaskKind, TaskState};

/// A counter over all changes of the metadata; `list` answers carry it, `watch` resumes from it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Revision(pub u64);

/// How many replicas must hold a write before it is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum AckRule {
    /// ⌊n/2⌋ + 1 of the n in-sync replicas: 2 of 3, 2 of 2, 1 of 1.
    #[default]
    Majority,
    /// Every in-sync replica.
    All,
}

impl AckRule {
    /// Answers that acknowledge a write among `in_sync` replicas (at least 1).
    #[must_use]
    pub fn ack_count(self, in_sync: usize) -> usize {
        match self {
            Self::Majority => in_sync / 2 + 1,
            Self::All => in_sync.max(1),
        }
    }
}

/// `POST /v1/volumes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    /// 1 to 63 of `a-z 0-9 . _ -`, beginning with a letter or digit.
    pub name: String,
    /// A multiple of 4 KiB, from 1 MiB to 4 PiB.
    pub size_bytes: ByteCount,
    /// 1, 2 or 3.
    pub replicas: u8,
    /// The acknowledgement rule.
    #[serde(default)]
    pub ack: AckRule,
    /// What is kept for it.
    #[serde(default, skip_serializing_if = "Reserve::is_none")]
    pub reserve: Reserve,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its settings by name, see `GET /v1/config`: where its replicas may lie, among others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

/// Where a volume is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum VolumeState {
    /// Its replicas are being made on the stores.
    Creating,
    /// All its replicas exist.
    Ready,
    /// Its replicas are being removed; the name is free again once they are gone.
    Deleting,
}

/// How well a volume's replicas keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// All replicas of all shards are in sync.
    Healthy,
    /// Some replica is not in sync; IO goes on.
    Degraded,
    /// Some shard has fewer live in-sync replicas than its rule needs.
    Unavailable,
}

/// A volume, as lists and `show` give it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Volume {
    /// Its id, never used again.
    pub id: VolumeId,
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_bytes: ByteCount,
    /// The size that it is growing to; it has it once all in-sync replicas have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grows_to: Option<ByteCount>,
    /// Bytes of each shard but the last.
    pub shard_bytes: ByteCount,
    /// Copies of each shard.
    pub replicas: u8,
    /// The acknowledgement rule.
    pub ack: AckRule,
    /// What is kept for it.
    #[serde(default, skip_serializing_if = "Reserve::is_none")]
    pub reserve: Reserve,
    /// Where it is in its life.
    pub state: VolumeState,
    /// How well its replicas keep up.
    pub health: Health,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The generation of the last attach.
    pub generation: Generation,
    /// The layer that writes go to.
    pub head_layer: Layer,
    /// How the layers below are read; left out while no snapshot was ever deleted or gone back to.
    #[serde(default, skip_serializing_if = "is_first_table")]
    pub layers: LayerTable,
    /// The version of `layers` that all in-sync replicas go by.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub layers_applied: u32,
    /// Every write of this layer and those below is on all in-sync replicas: snapshots up to it are
    /// ready.
    #[serde(default, skip_serializing_if = "is_no_layer")]
    pub settled_layer: Layer,
    /// Snapshots of it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub snapshots: u32,
    /// What it shows wherever nothing was written to it: it is a clone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// It is being made independent of its origin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flattening: Option<Flattening>,
    /// Who has it attached, if anybody.
    pub attached_by: Option<String>,
    /// The node that it is for, if it is for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publication: Option<Publication>,
    /// How iSCSI servers serve it.
    #[serde(default, skip_serializing_if = "VolumeService::is_none")]
    pub service: VolumeService,
    /// The group of snapshots in the making for which its owner holds back writes, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<VolumeHold>,
    /// What its owner does by its settings.
    #[serde(default, skip_serializing_if = "VolumeSettings::is_empty")]
    pub settings: VolumeSettings,
    /// Its shards; left out of lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<Shard>,
}

/// A shard and its replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Shard {
    /// Its position in the volume.
    pub index: ShardIndex,
    /// Raised at each change of the in-sync set.
    pub epoch: Epoch,
    /// All its replicas: as many as the volume asks for, and one more while one is being replaced.
    pub replicas: Vec<Replica>,
}

/// One copy of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Replica {
    /// This life of it.
    pub id: ReplicaId,
    /// The node that it is on.
    pub node: NodeId,
    /// The disk that it is on.
    pub disk: DiskId,
    /// Whether it counts towards acknowledgements.
    pub in_sync: bool,
    /// It has never been in sync: its store may make it, empty.
    #[serde(default)]
    pub fresh: bool,
    /// To be proposed out of the in-sync set once enough others are in it; then it is removed.
    #[serde(default)]
    pub leaving: bool,
}

/// What an owner needs to reach a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DiskLocation {
    /// The disk.
    pub disk: DiskId,
    /// Its node.
    pub node: NodeId,
    /// The node's name, as its certificate has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Its lanes, from which [`crate::lane_of`] computes a shard's.
    pub lanes: u16,
    /// Where its store listens for the data plane.
    pub address: Address,
}

/// `POST /v1/volumes/{name}/attach`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AttachRequest {
    /// Who attaches: text for people, unique for one run of one front end.
    pub owner: String,
    /// Take the volume from an owner that still holds it.
    #[serde(default)]
    pub force: bool,
    /// The owner only brings replicas back. Any other attach takes the volume from it without
    /// `force`; it takes the volume from nobody, not with `force` either, but from a repair owner
    /// whose node is down.
    #[serde(default, skip_serializing_if = "is_false")]
    pub repair: bool,
    /// Who attaches is an iSCSI server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<AttachServer>,
    /// The publication that it is for: needed where the volume is published. Of one publication who attaches
    /// last has the volume, unless iSCSI servers settle that among themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publication: Option<PublicationId>,
}

/// Who a repair owner on the node of that name says it is, see [`AttachRequest::owner`].
#[must_use]
pub fn repair_owner(node_name: &str) -> String {
    format!("{REPAIR_OWNER}{node_name}")
}

/// Whether an owner says that it is a repair owner: it lets go for anybody.
#[must_use]
pub fn is_repair_owner(owner: &str) -> bool {
    owner.starts_with(REPAIR_OWNER)
}

const REPAIR_OWNER: &str = "repair@";

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde asks for"
)]
fn is_false(flag: &bool) -> bool {
    !*flag
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde asks for"
)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde asks for"
)]
fn is_no_count(count: &u64) -> bool {
    *count == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde asks for"
)]
fn is_no_bytes(bytes: &ByteCount) -> bool {
    *bytes == ByteCount::default()
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde asks for"
)]
fn is_no_layer(layer: &Layer) -> bool {
    *layer == Layer::default()
}

fn is_first_table(table: &LayerTable) -> bool {
    table.version == 0
}

/// The grant of an attach: older generations can change nothing from here on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Attachment {
    /// The cluster.
    pub cluster: ClusterId,
    /// The volume, with its shards and its new generation.
    pub volume: Volume,
    /// Where each disk of its shards is.
    pub disks: Vec<DiskLocation>,
    /// The metadata's revision.
    pub revision: Revision,
}

/// `GET /v1/volumes/{name}/map?after=REVISION&wait_ms=N`: what the owner of an attached volume
/// follows. Answers at once when the volume, one of its shards or the place of one of its disks has
/// changed after that revision, else when it does or the wait ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VolumeMap {
    /// The volume, with its shards. Another one may have the name since.
    pub volume: Volume,
    /// Where each disk of its shards is.
    pub disks: Vec<DiskLocation>,
    /// The metadata's revision: all changes up to it are in here.
    pub revision: Revision,
}

/// `POST /v1/volumes/{name}/detach`: gives the volume back, if the name is still that of the volume
/// and `generation` its current one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DetachRequest {
    /// The volume that was attached: another may have its name since.
    pub volume: VolumeId,
    /// The generation of the attach that ends.
    pub generation: Generation,
    /// The volume was served under it: enough replicas refuse older generations.
    #[serde(default, skip_serializing_if = "is_false")]
    pub served: bool,
    /// Every in-sync replica holds every write, durably, and none follows.
    #[serde(default, skip_serializing_if = "is_false")]
    pub settled: bool,
}

/// `POST /v1/volumes/{name}/in-sync`: proposes a shard's next in-sync set.
///
/// Committed if the name is still that of the volume, and generation and epoch are current.
/// Repeating a proposal that was committed answers as the first time did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ProposeInSync {
    /// The volume that was attached: another may have its name since.
    pub volume: VolumeId,
    /// The proposer's generation.
    pub generation: Generation,
    /// The shard.
    pub shard: ShardIndex,
    /// The epoch that the proposal replaces.
    pub epoch: Epoch,
    /// The replicas of the new set; at least one.
    pub in_sync: Vec<ReplicaId>,
}

/// The shard as it stands after a proposal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InSyncCommitted {
    /// The shard with its new epoch.
    pub shard: Shard,
}

/// `POST /v1/nodes/register`: a store says that it is there. Idempotent by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RegisterNode {
    /// The node's name; the same one returns as the same node.
    pub name: String,
    /// Where its data plane listens.
    pub address: Address,
    /// Failure domains and other labels, as `zone=a`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its disks.
    pub disks: Vec<DiskReport>,
}

/// The answer to [`RegisterNode`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Registered {
    /// The node's id.
    pub node: NodeId,
    /// The cluster that it now belongs to.
    pub cluster: ClusterId,
    /// How often to send a heartbeat.
    pub heartbeat_ms: u64,
}

/// `POST /v1/nodes/{id}/heartbeat`: the disks as they are now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// The node's disks.
    pub disks: Vec<DiskReport>,
    /// The revision of assignments that it has carried out, durably.
    pub applied: Revision,
    /// What its store sees of others.
    #[serde(default)]
    pub seen: Observed,
}

/// One replica that a node must hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Assignment {
    /// The volume.
    pub volume: VolumeId,
    /// The shard.
    pub shard: ShardIndex,
    /// The replica's life.
    pub replica: ReplicaId,
    /// The disk.
    pub disk: DiskId,
    /// Blocks of 4 KiB in the shard.
    pub blocks: u32,
    /// Of these, blocks that are kept for it, whatever others write.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reserve_blocks: u32,
    /// The volume is still being created, or the replica is to be made in place of another: it is
    /// made where it is not. Afterwards one that is not there was lost, and an empty one in its
    /// place would pass for it.
    pub may_create: bool,
}

/// A detached volume that a node attaches as its repair owner, to bring its replicas back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RepairTask {
    /// The volume.
    pub volume: VolumeId,
    /// Its name.
    pub name: String,
    /// A denied client had it: detach it as soon as it is served, for then that client is fenced.
    #[serde(default, skip_serializing_if = "is_false")]
    pub fence: bool,
}

/// `GET /v1/nodes/{id}/assignments?after=REVISION&wait_ms=N`: all that the node must hold. Answers
/// at once when it has changed after that revision, else when it does or the wait ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Assignments {
    /// The cluster: a store of another one must not carry the list out.
    pub cluster: ClusterId,
    /// The revision of this list.
    pub revision: Revision,
    /// Every replica that the node must hold; other lives and other shards that it holds are
    /// removed.
    pub replicas: Vec<Assignment>,
    /// Every volume that the node attaches as its repair owner; others are detached.
    #[serde(default)]
    pub repairs: Vec<RepairTask>,
}

/// Whether a node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Its heartbeats arrive.
    Up,
    /// They do not.
    Down,
}

/// Whether replicas are placed on a node or disk. The greater of two holds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Schedulable {
    /// It takes replicas.
    #[default]
    Open,
    /// It keeps what it has, and takes no new replicas.
    Cordoned,
    /// It takes none, and those that it has move away.
    Draining,
}

/// `POST /v1/nodes/{id}/cordon`, `…/uncordon`, `…/drain`, and the same for disks: an empty object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetSchedulable {}

/// A store node, as lists give it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Where its data plane listens.
    pub address: Address,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it answers.
    pub state: NodeState,
    /// Whether replicas are placed on it.
    #[serde(default)]
    pub schedulable: Schedulable,
    /// Milliseconds since its last heartbeat; none since the conductor started if absent.
    pub heartbeat_age_ms: Option<u64>,
    /// Stores and owners that reach it over the data connections, as they say.
    #[serde(default)]
    pub reached_by: u32,
    /// Stores and owners that reach others, but not it.
    #[serde(default)]
    pub missed_by: u32,
    /// Its disks.
    pub disks: Vec<DiskId>,
    /// Replicas that they hold.
    #[serde(default)]
    pub replicas: u32,
}

/// A disk, as lists give it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Disk {
    /// Its node.
    pub node: NodeId,
    /// Its node's name.
    pub node_name: String,
    /// Whether its node answers.
    pub state: NodeState,
    /// Whether replicas are to be placed on it, as somebody has asked: its own state or its node's,
    /// whichever is greater.
    #[serde(default)]
    pub schedulable: Schedulable,
    /// What becomes of it because it ails.
    #[serde(default)]
    pub evacuation: Evacuation,
    /// What its store last reported.
    #[serde(flatten)]
    pub report: DiskReport,
    /// Replicas that it holds.
    pub replicas: u32,
    /// Bytes of these, written or not.
    #[serde(default)]
    pub provisioned_bytes: ByteCount,
    /// How full it is, by the rules of the cluster.
    #[serde(default)]
    pub level: DiskLevel,
    /// Its own labels. They go before those of its node where replicas are placed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A list and the revision that it stands for; `GET …?watch=true&after=R` goes on from there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "{T}List"))]
pub struct List<T> {
    /// The metadata's revision.
    pub revision: Revision,
    /// The items.
    pub items: Vec<T>,
    /// Where there are more: `GET …?continue=` this gives the next ones. The revision stays that of the
    /// first page, so that a watch from there misses nothing.
    #[serde(rename = "continue", default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// One line of a watch: newline-delimited JSON, kept open, a [`WatchEvent::Bookmark`] when idle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "{T}Event"))]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum WatchEvent<T> {
    /// An item was made or changed.
    Put {
        /// The revision of the change.
        revision: Revision,
        /// The item as it stands.
        item: T,
    },
    /// An item was removed.
    Delete {
        /// The revision of the change.
        revision: Revision,
        /// The item as it last stood.
        item: T,
    },
    /// Nothing changed up to this revision.
    Bookmark {
        /// The revision reached.
        revision: Revision,
    },
    /// The revision asked for is no longer kept: list again.
    Reset,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClusterStatus {
    /// The cluster.
    pub cluster: ClusterId,
    /// The worst of its volumes; healthy when there is none.
    pub health: Health,
    /// Nodes that answer, and all.
    pub nodes_up: u32,
    /// All nodes.
    pub nodes: u32,
    /// Disks of all nodes.
    pub disks: u32,
    /// Disks that serve nothing.
    pub disks_failed: u32,
    /// Disks that serve and ail, but for those that somebody has cleared.
    #[serde(default)]
    pub disks_ailing: u32,
    /// Bytes that volumes can use, over all disks.
    pub usable_bytes: ByteCount,
    /// Bytes used, over all disks.
    pub used_bytes: ByteCount,
    /// How space is given out, and how much is promised and kept.
    #[serde(default)]
    pub space: Space,
    /// Volumes, and how many are degraded or worse.
    pub volumes: u32,
    /// Volumes that are degraded.
    pub volumes_degraded: u32,
    /// Volumes that are unavailable.
    pub volumes_unavailable: u32,
    /// Damage found on all disks, by kind.
    pub damage: BTreeMap<String, u64>,
    /// How far the return of lost replicas, and the move of others, has come.
    #[serde(default)]
    pub healing: Healing,
    /// How even the disks are, and what moves for that.
    #[serde(default)]
    pub rebalance: RebalanceSummary,
    /// The metadata's revision.
    pub revision: Revision,
}

/// Replicas that are to come in sync, of all volumes that are ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Healing {
    /// Replicas that are not in sync.
    pub out_of_sync: u32,
    /// Of these, new ones that are being filled.
    pub rebuilding: u32,
    /// Replicas to be made elsewhere that wait for their turn.
    pub queued: u32,
    /// Replicas to be made elsewhere for which no disk is eligible: add disks or nodes.
    pub without_place: u32,
    /// In-sync replicas that are still to leave a draining disk.
    pub draining: u32,
    /// In-sync replicas whose disks do not serve: they return, or leave the set and are replaced.
    pub away: u32,
    /// Replicas that have come in sync since something was last amiss.
    pub rebuilt: u32,
    /// How much of this spell is done, in percent; absent where nothing is amiss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_percent: Option<u8>,
    /// Seconds until all is done at the rate so far; absent where none has come in sync yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_seconds: Option<u64>,
}

/// A refusal, as RFC 9457 (`application/problem+json`) has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Problem {
    /// A stable URN: `urn:ashlar:problem:CODE`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for every occurrence of the code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, to what, and what to do next.
    pub detail: String,
    /// The stable code, as `volume-not-found`.
    pub code: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ack_counts_follow_the_rule() {
        let majority: Vec<usize> = (1..=3).map(|n| AckRule::Majority.ack_count(n)).collect();
        assert_eq!(majority, [1, 2, 2]);
        let all: Vec<usize> = (1..=3).map(|n| AckRule::All.ack_count(n)).collect();
        assert_eq!(all, [1, 2, 3]);
    }

    #[test]
    fn what_earlier_builds_wrote_is_read() {
        let replica = format!(
            r#"{{"id":"{:016x}","node":1,"disk":"{:032x}","in_sync":true}}"#,
            7, 8
        );
        let replica: Replica = serde_json::from_str(&replica).unwrap();
        assert!(replica.in_sync && !replica.fresh && !replica.leaving);
        let list = format!(r#"{{"cluster":"{:032x}","revision":3,"replicas":[]}}"#, 9);
        let list: Assignments = serde_json::from_str(&list).unwrap();
        assert_eq!(list.repairs, []);
    }

    #[test]
    fn an_attach_that_is_no_repair_is_read_by_earlier_builds() {
        let (owner, force, repair) = ("me".to_owned(), false, false);
        let request = AttachRequest {
            server: None,
            owner,
            force,
            repair,
            publication: None,
        };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(text, r#"{"owner":"me","force":false}"#);
        assert_eq!(
            serde_json::from_str::<AttachRequest>(&text).unwrap(),
            request
        );
    }

    #[test]
    fn a_map_survives_its_bytes() {
        let text = format!(
            r#"{{"volume":{{"id":"{:016x}","name":"v","size_bytes":4096,"shard_bytes":4096,"replicas":1,"ack":"majority","state":"ready","health":"healthy","generation":1,"head_layer":1,"attached_by":null,"shards":[{{"index":0,"epoch":1,"replicas":[{{"id":"{:016x}","node":1,"disk":"{:032x}","in_sync":false,"fresh":true,"leaving":false}}]}}]}},"disks":[],"revision":5}}"#,
            1, 2, 3
        );
        let map: VolumeMap = serde_json::from_str(&text).unwrap();
        assert!(map.volume.shards[0].replicas[0].fresh);
        assert_eq!(serde_json::to_string(&map).unwrap(), text);
    }

    #[test]
    fn unknown_fields_of_a_request_are_refused() {
        let text = r#"{"name":"a","size_bytes":1,"replicas":3,"sise":1}"#;
        assert!(serde_json::from_str::<CreateVolume>(text).is_err());
    }
}
