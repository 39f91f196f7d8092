//! The cluster's state, made from rows: volumes, nodes, disks, shards and who holds what.
//!
//! Pure: rows are applied to it, plans are made from it, and a plan takes effect only by being
//! committed as rows and applied like any others.
//!
//! ```text
//! request ──▶ plan (pure) ──▶ MetaStore::commit ──▶ apply (pure) ──▶ answers, watches
//!                 ▲   checked by the revisions of the rows it read       │
//!                 └──────────────────────────────────────────────────────┘
//! ```

mod access;
mod ailing;
mod apply;
mod assignments;
mod attachers;
mod audit;
mod chap;
mod clients;
mod clones;
mod evidence;
mod explain;
mod groups;
mod healing;
mod identities;
mod labels;
mod layers;
mod map;
mod nodes;
mod notable;
mod objects;
mod once;
mod owners;
mod projects;
mod publications;
mod rebalance;
mod recovery;
mod removed;
mod repairs;
mod reservations;
mod resize;
mod schedule;
mod servers;
mod settings;
mod slots;
mod snapshots;
mod space;
mod subjects;
mod targets;
mod tasks;
mod tokens;
mod totals;
mod view;
mod volume_keys;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};

use ashlar_proto::api::{IdentitySubject, Revision};
use ashlar_proto::limits::BLOCK_BYTES_U64;
use ashlar_proto::volume_name::canonical;
use ashlar_proto::{
    ClusterId, DiskId, GroupId, IscsiName, NodeId, PortalGroup, ReplicaId, ShardIndex, VolumeId,
};

use crate::meta::{Change, Expect, Key, Transaction};
use crate::row::{
    AnyRow, ClusterRow, DeniedIdentityRow, DeniedRow, DiscoveryRow, DiskRow, GroupRow,
    JoinTokenRow, NodeRow, RebalanceRow, RecoveryRow, ReservationsRow, ServerRow, ShardRow,
    SpaceRow, TargetRow, VolumeRow,
};
pub(crate) use attachers::Attacher;
use clones::CloneIndex;
pub(crate) use evidence::Judgment;
pub(crate) use groups::Progress;
pub(crate) use healing::Outlook;
pub(crate) use identities::TokenUse;
pub(crate) use objects::Object;
use once::OnceIndex;
pub(crate) use removed::removed_node;
pub(crate) use repairs::Turns;
pub(crate) use resize::shards_needed;
use snapshots::SnapshotIndex;
pub(crate) use subjects::Subject;
pub(crate) use tokens::TOKEN_SECONDS_MAX;

/// A shard among all of the cluster.
type At = (VolumeId, ShardIndex);

/// Changes to commit, the rows that the decision rests on, and what to answer once they are.
#[derive(Debug)]
pub(crate) struct Plan<T> {
    /// Rows that must not have changed meanwhile, beside those that are changed.
    pub(crate) reads: Vec<Key>,
    /// The changes; none where things already are as asked.
    pub(crate) changes: Vec<Change>,
    /// The answer.
    pub(crate) answer: T,
}

impl<T> Plan<T> {
    /// Nothing to change.
    pub(crate) fn nothing(answer: T) -> Self {
        Self {
            reads: Vec::new(),
            changes: Vec::new(),
            answer,
        }
    }
}

impl<T> Plan<T> {
    /// The same changes, for who needs no answer.
    pub(crate) fn without_answer(self) -> Plan<()> {
        Plan {
            reads: self.reads,
            changes: self.changes,
            answer: (),
        }
    }
}

/// A replica on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    replica: ReplicaId,
    /// The revision that put it there, or a later one.
    since: Revision,
}

/// The state at one revision.
#[derive(Clone, Debug)]
pub(crate) struct ClusterState {
    revision: Revision,
    /// The revision that last changed each row.
    modified: BTreeMap<Key, Revision>,
    cluster: ClusterRow,
    volumes: BTreeMap<VolumeId, VolumeRow>,
    names: BTreeMap<String, VolumeId>,
    shards: BTreeMap<At, ShardRow>,
    snapshots: SnapshotIndex,
    clones: CloneIndex,
    /// Groups of snapshots in the making.
    groups: BTreeMap<GroupId, GroupRow>,
    /// The volumes of these.
    grouped: BTreeMap<VolumeId, GroupId>,
    nodes: BTreeMap<NodeId, NodeRow>,
    disks: BTreeMap<DiskId, DiskRow>,
    rebalance: RebalanceRow,
    recovery: Option<RecoveryRow>,
    space: SpaceRow,
    settings: settings::AllSettings,
    /// Clients that may attach nothing.
    denied: BTreeMap<String, DeniedRow>,
    /// Tokens with which nodes may join.
    join_tokens: BTreeMap<String, JoinTokenRow>,
    /// Nodes and certificates that are let in no more.
    denied_identities: BTreeMap<IdentitySubject, DeniedIdentityRow>,
    /// The revision at which that list last changed, or a later one.
    identities_changed: Revision,
    /// iSCSI targets.
    targets: BTreeMap<IscsiName, TargetRow>,
    /// What initiators have to know to be told of them.
    discovery: DiscoveryRow,
    /// The revision at which one of them or an iSCSI server last changed, or a later one.
    targets_changed: Revision,
    /// iSCSI servers.
    servers: BTreeMap<PortalGroup, ServerRow>,
    /// The persistent reservations of volumes that have any, or had.
    reservations: BTreeMap<VolumeId, ReservationsRow>,
    /// Who may do what.
    access: access::Access,
    /// Projects, and what their volumes add up to.
    projects: projects::Projects,
    /// Sums over volumes and what lies on disks.
    totals: totals::Totals,
    /// What is not at rest.
    notable: notable::Notable,
    /// What was done of late, and by whom.
    audit: audit::AuditLog,
    /// Requests that may be sent again, and what was done for them.
    once: OnceIndex,
    /// The disks that ail and have not failed.
    ailing: BTreeSet<DiskId>,
    /// What lies on each disk.
    holds: BTreeMap<DiskId, BTreeMap<At, Held>>,
    /// Fresh replicas that their stores have yet to make, and whose shard they are.
    unmade: BTreeMap<ReplicaId, At>,
    /// Replicas that have come in sync since the rows were first read.
    joined: u64,
    /// The revision at which each node's assignments last changed.
    assigned: BTreeMap<NodeId, Revision>,
    /// The nodes whose assignments have changed since that was last asked.
    reassigned: BTreeSet<NodeId>,
    /// The revision at which the place of each disk last changed, or a later one.
    located: BTreeMap<DiskId, Revision>,
    /// The revision at which each volume's map last changed, or a later one.
    mapped: BTreeMap<VolumeId, Revision>,
    /// The volumes that grow, and the revision at which each began to, or a later one.
    growing: BTreeMap<VolumeId, Revision>,
}

impl ClusterState {
    /// The state before any row, of a cluster that has yet to be made.
    pub(crate) fn empty() -> Self {
        let id = ClusterId::default();
        Self {
            revision: Revision(0),
            modified: BTreeMap::new(),
            cluster: ClusterRow {
                id,
                next_volume: 0,
                next_replica: 0,
                next_node: 0,
                next_group: 0,
            },
            volumes: BTreeMap::new(),
            names: BTreeMap::new(),
            shards: BTreeMap::new(),
            snapshots: SnapshotIndex::default(),
            clones: CloneIndex::default(),
            groups: BTreeMap::new(),
            grouped: BTreeMap::new(),
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            rebalance: RebalanceRow::default(),
            recovery: None,
            space: SpaceRow::default(),
            settings: settings::AllSettings::default(),
            denied: BTreeMap::new(),
            join_tokens: BTreeMap::new(),
            denied_identities: BTreeMap::new(),
            identities_changed: Revision(0),
            targets: BTreeMap::new(),
            discovery: DiscoveryRow::default(),
            targets_changed: Revision(0),
            servers: BTreeMap::new(),
            reservations: BTreeMap::new(),
            access: access::Access::default(),
            projects: projects::Projects::default(),
            totals: totals::Totals::default(),
            notable: notable::Notable::default(),
            audit: audit::AuditLog::default(),
            once: OnceIndex::default(),
            ailing: BTreeSet::new(),
            holds: BTreeMap::new(),
            unmade: BTreeMap::new(),
            joined: 0,
            assigned: BTreeMap::new(),
            reassigned: BTreeSet::new(),
            located: BTreeMap::new(),
            mapped: BTreeMap::new(),
            growing: BTreeMap::new(),
        }
    }

    /// The change that makes a new cluster.
    pub(crate) fn found(id: ClusterId) -> Plan<()> {
        let row = ClusterRow {
            id,
            next_volume: 1,
            next_replica: 1,
            next_node: 1,
            next_group: 1,
        };
        Plan {
            reads: Vec::new(),
            changes: vec![AnyRow::Cluster(row).put()],
            answer: (),
        }
    }

    /// The revision that it stands for.
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// The cluster's id; 0 before it was made.
    pub(crate) fn cluster(&self) -> ClusterId {
        self.cluster.id
    }

    /// Whether no row was ever applied.
    pub(crate) fn is_empty(&self) -> bool {
        self.modified.is_empty()
    }

    /// Notes that the state is complete up to `revision`.
    pub(crate) fn reached(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }

    /// After a start nobody can tell which assignments a node has seen, nor which targets a front end
    /// has: all count as new.
    pub(crate) fn renew_assignments(&mut self) {
        let revision = self.revision;
        self.targets_changed = revision;
        self.identities_changed = revision;
        self.renew_assignments_at(revision);
    }

    fn renew_assignments_at(&mut self, revision: Revision) {
        self.assigned = self.nodes.keys().map(|node| (*node, revision)).collect();
    }

    /// The nodes whose assignments have changed since this was last asked.
    pub(crate) fn take_reassigned(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.reassigned)
    }

    /// The transaction that carries out a plan if the rows that it rests on are unchanged.
    pub(crate) fn transaction(&self, reads: &[Key], changes: Vec<Change>) -> Transaction {
        let keys = reads.iter().chain(changes.iter().map(Change::key));
        let expect = keys.map(|key| Expect {
            key: key.clone(),
            modified: self.modified.get(key).copied(),
        });
        Transaction {
            term: None,
            expect: expect.collect(),
            changes,
        }
    }

    /// The shards of a volume, in order.
    fn shards_of(&self, volume: VolumeId) -> impl Iterator<Item = &ShardRow> {
        let first = (volume, ShardIndex::new(0));
        let last = (volume, ShardIndex::new(u32::MAX));
        self.shards.range(first..=last).map(|(_, row)| row)
    }

    fn disks_of(&self, volume: VolumeId) -> BTreeSet<DiskId> {
        self.shards_of(volume)
            .flat_map(|s| s.replicas.iter().map(|r| r.disk))
            .collect()
    }

    /// The nodes that hold replicas of a volume.
    fn nodes_of(&self, volume: VolumeId) -> impl Iterator<Item = &NodeRow> {
        let disks = self.disks_of(volume);
        let nodes: BTreeSet<NodeId> = disks
            .iter()
            .filter_map(|disk| self.disks.get(disk))
            .map(|row| row.node)
            .collect();
        nodes.into_iter().filter_map(|node| self.nodes.get(&node))
    }

    fn modified(&self, key: &Key) -> Revision {
        self.modified.get(key).copied().unwrap_or_default()
    }

    /// Whether there is such a volume.
    pub(crate) fn has_volume(&self, volume: VolumeId) -> bool {
        self.volumes.contains_key(&volume)
    }

    fn volume_named(&self, name: &str) -> Option<&VolumeRow> {
        self.volumes.get(self.names.get(canonical(name))?)
    }
}

/// Bytes of one shard of a volume, as its replicas are given them.
fn shard_bytes(volume: &VolumeRow, shard: ShardIndex) -> u64 {
    let start = u64::from(shard.get()).saturating_mul(volume.shard_bytes.get());
    resize::space(volume)
        .get()
        .saturating_sub(start)
        .min(volume.shard_bytes.get())
}

fn blocks(volume: &VolumeRow, shard: ShardIndex) -> u32 {
    u32::try_from(shard_bytes(volume, shard).div_ceil(BLOCK_BYTES_U64)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
