//! The rows that the cluster's state is kept in: their keys, and their bytes with a version.
//!
//! ```text
//! cluster                      id and the counters that ids are given from
//! volume/ID                    a volume without its shards
//! name/NAME                    the id of the volume of that name
//! shard/VOLUME/INDEX           a shard, its epoch and replicas
//! node/ID                      a store node
//! disk/ID                      a disk, its node and what the store last reported of it
//! denied/CLIENT                a client that may attach no volume
//! rebalance                    whether disks are evened out; not there until somebody or something
//!                              has changed that
//! ```
//!
//! A row is JSON: `{"version":4,"row":{…}}`. A version that is too new is refused, never guessed at.
//! Version 2 knows of replicas that are replaced, of repair owners, and of nodes and disks that take
//! no replicas; version 3 of replicas that move to even out disks; version 4 of disks that ail
//! and of denied clients. What an older row does not say is not so.

use std::collections::BTreeMap;

use ashlar_proto::api::{AckRule, Ailing, DiskReport, Incident, Replica, Schedulable, VolumeState};
use ashlar_proto::{
    Address, ByteCount, ClusterId, DiskId, Epoch, Generation, Layer, NodeId, ReplicaId, ShardIndex,
    VolumeId,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::meta::{Change, Key};

/// The version of the rows that this build writes.
const ROW_VERSION: u32 = 4;

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
}

/// Whether disks are evened out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RebalanceRow {
    /// Somebody has asked that no moves begin.
    pub(crate) paused: bool,
    /// Moves have begun, and begin until disks are even.
    pub(crate) active: bool,
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
    Node(NodeRow),
    Disk(DiskRow),
    Rebalance(RebalanceRow),
    Denied(DeniedRow),
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
        let kind = key.as_str().split('/').next().unwrap_or_default();
        match kind {
            "cluster" => read(key, value).map(Self::Cluster),
            "volume" => read(key, value).map(Self::Volume),
            "name" => read(key, value).map(Self::Name),
            "shard" => read(key, value).map(Self::Shard),
            "node" => read(key, value).map(Self::Node),
            "disk" => read(key, value).map(Self::Disk),
            "rebalance" => read(key, value).map(Self::Rebalance),
            "denied" => read(key, value).map(Self::Denied),
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
            Self::Node(row) => put(node_key(row.id), row),
            Self::Disk(row) => put(disk_key(row.report.id), row),
            Self::Rebalance(row) => put(rebalance_key(), row),
            Self::Denied(row) => put(denied_key(&row.client), row),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_their_bytes() {
        let row = AnyRow::Name(NameRow {
            name: "a".to_owned(),
            volume: VolumeId::new(7),
        });
        let Change::Put { key, value } = row.put() else {
            panic!("a put")
        };
        assert_eq!(key.as_str(), "name/a");
        assert_eq!(AnyRow::decode(&key, &value).unwrap(), row);
    }

    #[test]
    fn stored_bytes_are_those_of_version_4() {
        let row = NameRow {
            name: "a".to_owned(),
            volume: VolumeId::new(7),
        };
        let Change::Put { value, .. } = AnyRow::Name(row).put() else {
            panic!("a put")
        };
        let golden = r#"{"version":4,"row":{"name":"a","volume":"0000000000000007"}}"#;
        assert_eq!(String::from_utf8(value).unwrap(), golden);
        let row = ShardRow {
            volume: VolumeId::new(7),
            index: ShardIndex::new(0),
            epoch: Epoch::new(1),
            replicas: vec![Replica {
                id: ReplicaId::new(8),
                node: NodeId::new(1),
                disk: DiskId::new(9),
                in_sync: false,
                fresh: true,
                leaving: false,
            }],
            made: vec![ReplicaId::new(8)],
            rebalancing: false,
        };
        let Change::Put { value, .. } = AnyRow::Shard(row).put() else {
            panic!("a put")
        };
        let golden = concat!(
            r#"{"version":4,"row":{"volume":"0000000000000007","index":0,"epoch":1,"#,
            r#""replicas":[{"id":"0000000000000008","node":1,"#,
            r#""disk":"00000000000000000000000000000009","#,
            r#""in_sync":false,"fresh":true,"leaving":false}],"made":["0000000000000008"],"#,
            r#""rebalancing":false}}"#
        );
        assert_eq!(String::from_utf8(value).unwrap(), golden);
        let row = RebalanceRow {
            paused: true,
            active: false,
        };
        let Change::Put { key, value } = AnyRow::Rebalance(row).put() else {
            panic!("a put")
        };
        assert_eq!(key.as_str(), "rebalance");
        let golden = r#"{"version":4,"row":{"paused":true,"active":false}}"#;
        assert_eq!(String::from_utf8(value).unwrap(), golden);
        let row = DeniedRow {
            client: "nbd@a/b *".to_owned(),
            reason: Some("r".to_owned()),
        };
        let Change::Put { key, value } = AnyRow::Denied(row).put() else {
            panic!("a put")
        };
        assert_eq!(key.as_str(), "denied/nbd@a/b *");
        let golden = r#"{"version":4,"row":{"client":"nbd@a/b *","reason":"r"}}"#;
        assert_eq!(String::from_utf8(value).unwrap(), golden);
        let ailing = Ailing {
            reason: "r".to_owned(),
            incident: Incident(5),
        };
        let row = DiskRow {
            node: NodeId::new(1),
            report: DiskReport {
                id: DiskId::new(9),
                path: "/d".to_owned(),
                lanes: 1,
                usable_bytes: ByteCount::new(1),
                used_bytes: ByteCount::new(0),
                volatile_cache: false,
                damage: BTreeMap::new(),
                failed: None,
                ailing: Some(ailing.clone()),
                missing: Vec::new(),
            },
            schedulable: Schedulable::Open,
            ailing: Some(ailing),
            cleared: Some(Incident(4)),
        };
        let Change::Put { value, .. } = AnyRow::Disk(row).put() else {
            panic!("a put")
        };
        let golden = concat!(
            r#"{"version":4,"row":{"node":1,"report":{"id":"00000000000000000000000000000009","#,
            r#""path":"/d","lanes":1,"usable_bytes":1,"used_bytes":0,"volatile_cache":false,"#,
            r#""damage":{},"ailing":{"reason":"r","incident":5}},"schedulable":"open","#,
            r#""ailing":{"reason":"r","incident":5},"cleared":4}}"#
        );
        assert_eq!(String::from_utf8(value).unwrap(), golden);
    }

    #[test]
    fn rows_of_version_1_are_read() {
        let value = concat!(
            r#"{"version":1,"row":{"volume":"0000000000000007","index":0,"epoch":1,"#,
            r#""replicas":[{"id":"0000000000000008","node":1,"#,
            r#""disk":"00000000000000000000000000000009","in_sync":true}]}}"#
        );
        let key = shard_key(VolumeId::new(7), ShardIndex::new(0));
        let AnyRow::Shard(row) = AnyRow::decode(&key, value.as_bytes()).unwrap() else {
            panic!("a shard")
        };
        assert!(row.made.is_empty() && !row.replicas[0].fresh && !row.replicas[0].leaving);
        let value = concat!(
            r#"{"version":1,"row":{"id":1,"name":"a","address":"127.0.0.1:7200","#,
            r#""labels":{},"up":true}}"#
        );
        let AnyRow::Node(row) =
            AnyRow::decode(&node_key(NodeId::new(1)), value.as_bytes()).unwrap()
        else {
            panic!("a node")
        };
        assert_eq!(row.schedulable, Schedulable::Open);
    }

    #[test]
    fn rows_of_version_2_are_read() {
        let value = concat!(
            r#"{"version":2,"row":{"volume":"0000000000000007","index":0,"epoch":1,"#,
            r#""replicas":[{"id":"0000000000000008","node":1,"#,
            r#""disk":"00000000000000000000000000000009","#,
            r#""in_sync":true,"fresh":false,"leaving":true}],"made":["0000000000000008"]}}"#
        );
        let key = shard_key(VolumeId::new(7), ShardIndex::new(0));
        let AnyRow::Shard(row) = AnyRow::decode(&key, value.as_bytes()).unwrap() else {
            panic!("a shard")
        };
        assert!(row.replicas[0].leaving && !row.made.is_empty() && !row.rebalancing);
    }

    #[test]
    fn rows_of_version_3_are_read() {
        let value = concat!(
            r#"{"version":3,"row":{"node":1,"report":{"id":"00000000000000000000000000000009","#,
            r#""path":"/d","lanes":1,"usable_bytes":1,"used_bytes":0,"volatile_cache":false,"#,
            r#""damage":{}},"schedulable":"cordoned"}}"#
        );
        let key = disk_key(DiskId::new(9));
        let AnyRow::Disk(row) = AnyRow::decode(&key, value.as_bytes()).unwrap() else {
            panic!("a disk")
        };
        assert_eq!(row.schedulable, Schedulable::Cordoned);
        assert!(row.ailing.is_none() && row.cleared.is_none());
    }

    #[test]
    fn newer_rows_are_refused() {
        let refused = AnyRow::decode(&cluster_key(), br#"{"version":5,"row":{"what":1}}"#);
        assert!(matches!(refused, Err(RowError::Version { version: 5, .. })));
        let unknown = AnyRow::decode(&Key::new("what/1"), b"{}");
        assert!(matches!(unknown, Err(RowError::Unknown { .. })));
    }
}
