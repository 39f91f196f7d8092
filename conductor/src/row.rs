//! The rows that the cluster's state is kept in: their keys, and their bytes with a version.
//!
//! ```text
//! cluster                      id and the counters that ids are given from
//! volume/ID                    a volume without its shards
//! name/NAME                    the id of the volume of that name
//! shard/VOLUME/INDEX           a shard, its epoch and replicas
//! snapshot/VOLUME/LAYER        a snapshot of a volume, by the layer that it is read at
//! group/ID                     a group of snapshots in the making; those of one that is made name it
//! node/ID                      a store node
//! disk/ID                      a disk, its node and what the store last reported of it
//! denied/CLIENT                a client that may attach no volume
//! space                        how space is given out; not there until somebody has changed that
//! target/NAME                  an iSCSI target: its logical units, who may log in, secrets of CHAP
//! iscsi-server/GROUP            an iSCSI server, by its portal group
//! reservations/VOLUME          the persistent reservations of a volume
//! user/NAME                    somebody who may do something
//! api-key/ID                   a key of a user, hashed
//! signing-key/ID               what tokens are signed with
//! revoked-token/ID             a token that is let in no more
//! project/NAME                 a project and its quotas
//! audit/NUMBER                 an entry of the audit log
//! join-token/ID                a token with which a node may get its first certificate, hashed
//! denied-identity/KIND/WHO     a node or a certificate that is let in no more
//! once/KEY                     what was done for a request that may be sent again
//! settings/cluster             settings of the cluster
//! settings/VOLUME              settings of a volume
//! rebalance                    whether disks are evened out; not there until somebody or something
//!                              has changed that
//! recovery                     the metadata are to be compared with what stores hold; there until they
//!                              were
//! ```
//!
//! A row is JSON: `{"version":11,"row":{…}}`. A version that is too new is refused, never guessed at.
//! Version 2 knows of replicas that are replaced, of repair owners, and of nodes and disks that take
//! no replicas; version 3 of replicas that move to even out disks; version 4 of disks that ail
//! and of denied clients; version 5 of snapshots and of how layers are read; version 6 of volumes that change
//! their size; version 7 of clones, of groups of snapshots, of reservations and of the rules of space;
//! version 8 of iSCSI targets and of persistent reservations; version 9 of iSCSI servers and of what they serve;
//! version 10 of who may do what, of who may join, of labels of volumes, of requests that may be sent again
//! and of settings; version 11 of labels of disks and of settings of pools; version 12 of publications.
//! What an older row does not say is not so.

mod access;
mod attached;
mod identities;
mod once;
mod recovery;
mod servers;
mod settings;
mod targets;

use std::collections::BTreeMap;

use ashlar_proto::api::{
    AckRule, Ailing, DiskReport, Incident, Publication, Replica, Reserve, Schedulable, SpaceRules,
    VolumeState,
};
use ashlar_proto::{
    Address, ByteCount, ClusterId, DiskId, Epoch, Generation, GroupId, Layer, LayerTable, NodeId,
    PortalGroup, PublicationId, ReplicaId, ShardIndex, VolumeId,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::meta::{Change, Key};
pub(crate) use access::{
    ApiKeyRow, AuditRow, HashRow, Hidden, ProjectRow, RevokedTokenRow, SigningKeyRow, UserRow,
    api_key_key, audit_key, project_key, revoked_token_key, signing_key_key, user_key,
};
pub(crate) use attached::AttachedAs;
pub(crate) use identities::{
    DeniedIdentityRow, JoinTokenRow, UsedRow, denied_identity_key, denied_subject, join_token_key,
};
pub(crate) use once::{OnceRow, once_key};
pub(crate) use recovery::{RecoveryCause, RecoveryRow, recovery_key};
pub(crate) use servers::{ServerRow, server_key};
pub(crate) use settings::{
    PoolSettingsRow, SettingsRow, pool_settings_key, settings_key, settings_pool,
};
pub(crate) use targets::{
    DiscoveryRow, ReservationsRow, TargetRow, UnitRow, discovery_key, reservations_key, target_key,
};

/// The version of the rows that this build writes.
const ROW_VERSION: u32 = 12;

/// The oldest version that it reads.
const ROW_VERSION_OLDEST: u32 = 1;

/// A row of the metadata cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// A newer build wrote it.
    #[error("row {key} has version {version}, this build reads {ROW_VERSION}: upgrade ashlar")]
    Version {
        /// The row.
        key: Key,
        /// Its version.
        version: u32,
    },
    /// Its bytes are not what they should be.
    #[error("row {key} cannot be read: {source}")]
    Malformed {
        /// The row.
        key: Key,
        /// Why.
        source: serde_json::Error,
    },
    /// No row has such a key.
    #[error("row {key} is of an unknown kind")]
    Unknown {
        /// The row.
        key: Key,
    },
    /// The row that names the cluster is not there, but others are.
    #[error("the metadata has rows but no row `cluster`: the data directory is damaged")]
    NoCluster,
}

/// The cluster itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClusterRow {
    pub(crate) id: ClusterId,
    pub(crate) next_volume: u64,
    pub(crate) next_replica: u64,
    pub(crate) next_node: u64,
    #[serde(default)]
    pub(crate) next_group: u64,
}

/// A volume without its shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeRow {
    pub(crate) id: VolumeId,
    pub(crate) name: String,
    pub(crate) size_bytes: ByteCount,
    pub(crate) shard_bytes: ByteCount,
    pub(crate) replicas: u8,
    pub(crate) ack: AckRule,
    pub(crate) state: VolumeState,
    pub(crate) generation: Generation,
    pub(crate) head_layer: Layer,
    pub(crate) attached_by: Option<String>,
    /// As whom that one was let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) attached_as: Option<AttachedAs>,
    /// The publication that this one has shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) attached_under: Option<PublicationId>,
    /// The node that it is for: only who shows this publication attaches it, but for repair owners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) publication: Option<Publication>,
    /// Whether who has it attached is a repair owner.
    #[serde(default)]
    pub(crate) attached_for_repair: bool,
    /// The node that is to attach it as its repair owner.
    #[serde(default)]
    pub(crate) repairer: Option<NodeId>,
    /// A denied client had it, and no later owner has served it since: its replicas may still take
    /// that client's writes.
    #[serde(default)]
    pub(crate) unfenced: bool,
    /// How its layers are read.
    #[serde(default)]
    pub(crate) layers: LayerTable,
    /// The version of the table that all in-sync replicas go by.
    #[serde(default)]
    pub(crate) layers_applied: u32,
    /// Every write of this layer and those below is on all in-sync replicas, durably.
    #[serde(default)]
    pub(crate) settled_layer: Layer,
    /// Nobody has it attached, and every in-sync replica holds every write, durably: it was detached
    /// cleanly, or never attached.
    #[serde(default)]
    pub(crate) settled: bool,
    /// The size that it has once all in-sync replicas have grown to it.
    #[serde(default)]
    pub(crate) grows_to: Option<ByteCount>,
    /// Where the space ends that its replicas may have taken for a larger size, now given up: theirs do
    /// not get smaller, and those that are made anew are like them. 0 if it never was larger.
    #[serde(default)]
    pub(crate) kept_bytes: ByteCount,
    /// What is kept for it.
    #[serde(default)]
    pub(crate) reserve: Reserve,
    /// What it shows wherever nothing was written to it.
    #[serde(default)]
    pub(crate) origin: Option<OriginRow>,
    /// Its owner copies what it shows of its origin: all below this is copied, durably.
    #[serde(default)]
    pub(crate) flattened_to: Option<ByteCount>,
    /// Labels, for people.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// The iSCSI server that has it attached, if one has.
    #[serde(default)]
    pub(crate) served_by: Option<PortalGroup>,
    /// The iSCSI server that is to have it next; until the next attach.
    #[serde(default)]
    pub(crate) wanted_by: Option<PortalGroup>,
    /// SHA-256 of what whoever attaches it has to give, hexadecimal; nothing if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key_hash: Option<Hidden>,
}

/// A snapshot that a clone shows where nothing was written to it. While any row has it, the snapshot
/// stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OriginRow {
    pub(crate) volume: VolumeId,
    pub(crate) layer: Layer,
    /// Where it ends: beyond are zeroes.
    pub(crate) bytes: ByteCount,
}

/// A snapshot of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotRow {
    pub(crate) volume: VolumeId,
    /// The layer that it is read at.
    pub(crate) layer: Layer,
    pub(crate) name: String,
    /// The size that the volume had.
    pub(crate) size_bytes: ByteCount,
    /// When it was asked for: milliseconds since 1970-01-01 UTC.
    pub(crate) created_ms: u64,
    /// The volume's name, for those who hear that both are no more; blank where an older build made it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) volume_name: String,
    /// What it shows wherever its volume was not written, up to its layer.
    #[serde(default)]
    pub(crate) origin: Option<OriginRow>,
    /// It is out of sight, and goes with the last of its clones.
    #[serde(default)]
    pub(crate) deleted: bool,
    /// The group that it is of, if any. As long as that one has a row the snapshot is not ready.
    #[serde(default)]
    pub(crate) group: Option<GroupId>,
}

/// A group of snapshots in the making.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupRow {
    pub(crate) id: GroupId,
    /// The name of its snapshots.
    pub(crate) name: String,
    /// In the order in which they were given.
    pub(crate) members: Vec<MemberRow>,
}

/// A volume of a group in the making.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberRow {
    pub(crate) volume: VolumeId,
    /// The volume's generation when the group began.
    pub(crate) generation: Generation,
    /// Whether somebody who may write had it attached then: that owner is to hold.
    pub(crate) holds: bool,
    /// The layer that was sealed for the group; all members have one, or none.
    pub(crate) sealed: Option<Layer>,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShardRow {
    pub(crate) volume: VolumeId,
    pub(crate) index: ShardIndex,
    pub(crate) epoch: Epoch,
    pub(crate) replicas: Vec<Replica>,
    /// The fresh ones that their stores have made: an empty one is not made again in their place,
    /// for an owner may have filled them since.
    #[serde(default)]
    pub(crate) made: Vec<ReplicaId>,
    /// The one that is leaving does so to even out disks, whether its disk is drained or not.
    #[serde(default)]
    pub(crate) rebalancing: bool,
}

/// The volume that has a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NameRow {
    pub(crate) name: String,
    pub(crate) volume: VolumeId,
}

/// A store node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeRow {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    pub(crate) address: Address,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) up: bool,
    #[serde(default)]
    pub(crate) schedulable: Schedulable,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskRow {
    pub(crate) node: NodeId,
    pub(crate) report: DiskReport,
    #[serde(default)]
    pub(crate) schedulable: Schedulable,
    /// That it ails, as its store said last, until somebody clears it.
    #[serde(default)]
    pub(crate) ailing: Option<Ailing>,
    /// The last incident that somebody has cleared.
    #[serde(default)]
    pub(crate) cleared: Option<Incident>,
    /// Its own labels; they go before those of its node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
}

/// Whether disks are evened out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RebalanceRow {
    /// Somebody has asked that no moves begin.
    pub(crate) paused: bool,
    /// Moves have begun, and begin until disks are even.
    pub(crate) active: bool,
}

/// How space is given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpaceRow {
    pub(crate) rules: SpaceRules,
}

/// A client that may attach no volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeniedRow {
    pub(crate) client: String,
    pub(crate) reason: Option<String>,
}

/// Any row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AnyRow {
    Cluster(ClusterRow),
    Volume(VolumeRow),
    Name(NameRow),
    Shard(ShardRow),
    Snapshot(SnapshotRow),
    Group(GroupRow),
    Node(NodeRow),
    Disk(DiskRow),
    Rebalance(RebalanceRow),
    Recovery(RecoveryRow),
    Space(SpaceRow),
    Denied(DeniedRow),
    Target(TargetRow),
    Discovery(DiscoveryRow),
    Server(ServerRow),
    Reservations(ReservationsRow),
    User(UserRow),
    ApiKey(ApiKeyRow),
    SigningKey(SigningKeyRow),
    RevokedToken(RevokedTokenRow),
    Project(ProjectRow),
    Audit(AuditRow),
    JoinToken(JoinTokenRow),
    DeniedIdentity(DeniedIdentityRow),
    Once(OnceRow),
    Settings(SettingsRow),
    PoolSettings(PoolSettingsRow),
}

pub(crate) fn cluster_key() -> Key {
    Key::new("cluster")
}

pub(crate) fn volume_key(id: VolumeId) -> Key {
    Key::new(format!("volume/{id}"))
}

pub(crate) fn name_key(name: &str) -> Key {
    Key::new(format!("name/{name}"))
}

pub(crate) fn shard_key(volume: VolumeId, index: ShardIndex) -> Key {
    Key::new(format!("shard/{volume}/{:08x}", index.get()))
}

pub(crate) fn snapshot_key(volume: VolumeId, layer: Layer) -> Key {
    Key::new(format!("snapshot/{volume}/{:08x}", layer.get()))
}

pub(crate) fn group_key(id: GroupId) -> Key {
    Key::new(format!("group/{:016x}", id.get()))
}

pub(crate) fn node_key(id: NodeId) -> Key {
    Key::new(format!("node/{:016x}", id.get()))
}

pub(crate) fn disk_key(id: DiskId) -> Key {
    Key::new(format!("disk/{id}"))
}

pub(crate) fn denied_key(client: &str) -> Key {
    Key::new(format!("denied/{client}"))
}

pub(crate) fn rebalance_key() -> Key {
    Key::new("rebalance")
}

pub(crate) fn space_key() -> Key {
    Key::new("space")
}

#[derive(Serialize)]
struct VersionedOut<'a, T> {
    version: u32,
    row: &'a T,
}

#[derive(Deserialize)]
struct VersionedIn<T> {
    row: T,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

fn put<T: Serialize>(key: Key, row: &T) -> Change {
    let versioned = VersionedOut {
        version: ROW_VERSION,
        row,
    };
    // Maps with text keys, numbers and enums without payload: nothing that JSON cannot say.
    let value = serde_json::to_vec(&versioned).expect("a row is plain data");
    Change::Put { key, value }
}

fn read<T: DeserializeOwned>(key: &Key, value: &[u8]) -> Result<T, RowError> {
    let malformed = |source| RowError::Malformed {
        key: key.clone(),
        source,
    };
    let version = serde_json::from_slice::<VersionOnly>(value)
        .map_err(malformed)?
        .version;
    if !(ROW_VERSION_OLDEST..=ROW_VERSION).contains(&version) {
        return Err(RowError::Version {
            key: key.clone(),
            version,
        });
    }
    serde_json::from_slice::<VersionedIn<T>>(value)
        .map(|v| v.row)
        .map_err(malformed)
}

impl AnyRow {
    /// The row from its stored bytes.
    pub(crate) fn decode(key: &Key, value: &[u8]) -> Result<Self, RowError> {
        let (kind, rest) = key.as_str().split_once('/').unwrap_or((key.as_str(), ""));
        match kind {
            "cluster" => read(key, value).map(Self::Cluster),
            "volume" => read(key, value).map(Self::Volume),
            "name" => read(key, value).map(Self::Name),
            "shard" => read(key, value).map(Self::Shard),
            "snapshot" => read(key, value).map(Self::Snapshot),
            "group" => read(key, value).map(Self::Group),
            "node" => read(key, value).map(Self::Node),
            "disk" => read(key, value).map(Self::Disk),
            "rebalance" => read(key, value).map(Self::Rebalance),
            "recovery" => read(key, value).map(Self::Recovery),
            "space" => read(key, value).map(Self::Space),
            "denied" => read(key, value).map(Self::Denied),
            "target" => read(key, value).map(Self::Target),
            "discovery" => read(key, value).map(Self::Discovery),
            "iscsi-server" => read(key, value).map(Self::Server),
            "reservations" => read(key, value).map(Self::Reservations),
            "user" => read(key, value).map(Self::User),
            "api-key" => read(key, value).map(Self::ApiKey),
            "signing-key" => read(key, value).map(Self::SigningKey),
            "revoked-token" => read(key, value).map(Self::RevokedToken),
            "project" => read(key, value).map(Self::Project),
            "audit" => read(key, value).map(Self::Audit),
            "join-token" => read(key, value).map(Self::JoinToken),
            "denied-identity" => read(key, value).map(Self::DeniedIdentity),
            "once" => read(key, value).map(Self::Once),
            "settings" if settings_pool(rest).is_some() => read(key, value).map(Self::PoolSettings),
            "settings" => read(key, value).map(Self::Settings),
            _ => Err(RowError::Unknown { key: key.clone() }),
        }
    }

    /// The change that stores it.
    pub(crate) fn put(&self) -> Change {
        match self {
            Self::Cluster(row) => put(cluster_key(), row),
            Self::Volume(row) => put(volume_key(row.id), row),
            Self::Name(row) => put(name_key(&row.name), row),
            Self::Shard(row) => put(shard_key(row.volume, row.index), row),
            Self::Snapshot(row) => put(snapshot_key(row.volume, row.layer), row),
            Self::Group(row) => put(group_key(row.id), row),
            Self::Node(row) => put(node_key(row.id), row),
            Self::Disk(row) => put(disk_key(row.report.id), row),
            Self::Rebalance(row) => put(rebalance_key(), row),
            Self::Recovery(row) => put(recovery_key(), row),
            Self::Space(row) => put(space_key(), row),
            Self::Denied(row) => put(denied_key(&row.client), row),
            Self::Target(row) => put(target_key(&row.name), row),
            Self::Discovery(row) => put(discovery_key(), row),
            Self::Server(row) => put(server_key(row.group), row),
            Self::Reservations(row) => put(reservations_key(row.volume), row),
            Self::User(row) => put(user_key(&row.name), row),
            Self::ApiKey(row) => put(api_key_key(&row.id), row),
            Self::SigningKey(row) => put(signing_key_key(&row.id), row),
            Self::RevokedToken(row) => put(revoked_token_key(&row.id), row),
            Self::Project(row) => put(project_key(&row.name), row),
            Self::Audit(row) => put(audit_key(row.entry.id), row),
            Self::JoinToken(row) => put(join_token_key(&row.id), row),
            Self::DeniedIdentity(row) => put(denied_identity_key(&row.subject), row),
            Self::Once(row) => put(once_key(&row.key), row),
            Self::Settings(row) => put(settings_key(row.volume), row),
            Self::PoolSettings(row) => put(pool_settings_key(&row.pool), row),
        }
    }
}

#[cfg(test)]
mod tests;
