//! What rows say of each other.

use std::collections::{BTreeMap, BTreeSet};

use ashlar_proto::{DiskId, NodeId, ReplicaId, ShardIndex, VolumeId};

use super::{Decoded, Finding, Flaw};
use crate::meta::Key;
use crate::row::{
    AnyRow, ClusterRow, OriginRow, ServerRow, ShardRow, SnapshotRow, TargetRow, VolumeRow,
    cluster_key, disk_key, name_key, node_key, server_key, shard_key, snapshot_key, volume_key,
};
use crate::state::shards_needed;

pub(super) fn check(rows: &Decoded) -> Vec<Finding> {
    let mut look = Look {
        rows,
        findings: Vec::new(),
        replicas: BTreeMap::new(),
        names: BTreeMap::new(),
    };
    if !rows.is_empty() && !rows.contains_key(&cluster_key()) {
        look.find(&cluster_key(), Flaw::NoCluster);
    }
    for (key, row) in rows {
        look.at(key, row);
    }
    look.findings
}

struct Look<'a> {
    rows: &'a Decoded,
    findings: Vec<Finding>,
    /// The shard of each replica.
    replicas: BTreeMap<ReplicaId, Key>,
    /// The row of each name of a kind.
    names: BTreeMap<(&'static str, String), Key>,
}

impl Look<'_> {
    fn find(&mut self, key: &Key, flaw: Flaw) {
        let key = key.clone();
        self.findings.push(Finding { key, flaw });
    }

    fn expect(&mut self, key: &Key, missing: Key) {
        if !self.rows.contains_key(&missing) {
            self.find(key, Flaw::Dangling { missing });
        }
    }

    fn unique(&mut self, key: &Key, what: &'static str, name: impl ToString) {
        let before = self.names.insert((what, name.to_string()), key.clone());
        if let Some(other) = before {
            self.find(key, Flaw::NotUnique { what, other });
        }
    }

    fn at(&mut self, key: &Key, row: &AnyRow) {
        match row {
            AnyRow::Cluster(row) => self.cluster(key, row),
            AnyRow::Volume(row) => self.volume(key, row),
            AnyRow::Name(row) => self.expect(key, volume_key(row.volume)),
            AnyRow::Shard(row) => self.shard(key, row),
            AnyRow::Snapshot(row) => self.snapshot(key, row),
            AnyRow::Group(row) => {
                for member in &row.members {
                    self.expect(key, volume_key(member.volume));
                }
            }
            AnyRow::Node(row) => self.unique(key, "its name", &row.name),
            AnyRow::Disk(row) => self.expect(key, node_key(row.node)),
            AnyRow::Target(row) => self.target(key, row),
            AnyRow::Server(row) => self.server(key, row),
            AnyRow::Reservations(row) => self.expect(key, volume_key(row.volume)),
            // These say nothing of others. Rows of other kinds are read, and no more is known of them.
            _ => {}
        }
    }

    fn cluster(&mut self, key: &Key, row: &ClusterRow) {
        let used = used(self.rows);
        let counters = [
            ("volumes", row.next_volume, used.volume),
            ("replicas", row.next_replica, used.replica),
            ("nodes", row.next_node, used.node),
            ("groups", row.next_group, used.group),
        ];
        for (what, next, used) in counters {
            if let Some(used) = used.filter(|used| *used >= next) {
                self.find(key, Flaw::CounterBehind { what, next, used });
            }
        }
    }

    fn volume(&mut self, key: &Key, row: &VolumeRow) {
        let index = name_key(&row.name);
        let leads_here =
            matches!(self.rows.get(&index), Some(AnyRow::Name(name)) if name.volume == row.id);
        if !leads_here {
            self.find(key, Flaw::Unindexed { index });
        }
        let indexes = (0..shards_needed(row)).map(ShardIndex::new);
        let missing = |index: &ShardIndex| !self.rows.contains_key(&shard_key(row.id, *index));
        if let Some(index) = indexes.into_iter().find(missing) {
            self.find(key, Flaw::NoShard { index });
        }
        if let Some(origin) = &row.origin {
            self.origin(key, origin);
        }
        if let Some(node) = row.repairer {
            self.expect(key, node_key(node));
        }
        if let Some(group) = row.served_by {
            self.expect(key, server_key(group));
        }
    }

    fn origin(&mut self, key: &Key, origin: &OriginRow) {
        self.expect(key, snapshot_key(origin.volume, origin.layer));
    }

    fn snapshot(&mut self, key: &Key, row: &SnapshotRow) {
        self.expect(key, volume_key(row.volume));
        let name = format!("{}@{}", row.volume, row.name);
        if !row.deleted {
            self.unique(key, "its name", name);
        }
        if let Some(origin) = &row.origin {
            self.origin(key, origin);
        }
    }

    fn shard(&mut self, key: &Key, row: &ShardRow) {
        match self.rows.get(&volume_key(row.volume)) {
            Some(AnyRow::Volume(volume)) => {
                let shards = shards_needed(volume);
                if row.index.get() >= shards {
                    self.find(key, Flaw::BeyondEnd { shards });
                }
            }
            _ => self.expect(key, volume_key(row.volume)),
        }
        let mut seen = BTreeSet::new();
        let mut disks = BTreeSet::new();
        for it in &row.replicas {
            let replica = it.id;
            if !seen.insert(replica) || !disks.insert(it.disk) {
                self.find(key, Flaw::Doubled { replica });
            } else if let Some(other) = self.replicas.insert(replica, key.clone()) {
                self.find(key, Flaw::Shared { replica, other });
            }
            self.placed(key, replica, it.disk, it.node);
        }
        let is_new = row.replicas.iter().all(|replica| replica.fresh);
        if !is_new && !row.replicas.iter().any(|replica| replica.in_sync) {
            self.find(key, Flaw::NoneInSync);
        }
    }

    fn placed(&mut self, key: &Key, replica: ReplicaId, disk: DiskId, said: NodeId) {
        match self.rows.get(&disk_key(disk)) {
            Some(AnyRow::Disk(row)) if row.node != said => {
                let is = row.node;
                let flaw = Flaw::OtherNode {
                    replica,
                    disk,
                    said,
                    is,
                };
                self.find(key, flaw);
            }
            Some(_) => {}
            None => self.expect(key, disk_key(disk)),
        }
    }

    fn target(&mut self, key: &Key, row: &TargetRow) {
        for unit in &row.units {
            self.expect(key, volume_key(unit.volume));
        }
    }

    fn server(&mut self, key: &Key, row: &ServerRow) {
        self.unique(key, "its name", &row.name);
    }
}

/// The highest ids in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::upkeep) struct Used {
    pub(in crate::upkeep) volume: Option<u64>,
    pub(in crate::upkeep) replica: Option<u64>,
    pub(in crate::upkeep) node: Option<u64>,
    pub(in crate::upkeep) group: Option<u64>,
}

pub(in crate::upkeep) fn used(rows: &Decoded) -> Used {
    let mut used = Used::default();
    let volume = |id: VolumeId| Some(id.get());
    for row in rows.values() {
        match row {
            AnyRow::Volume(row) => used.volume = used.volume.max(volume(row.id)),
            AnyRow::Shard(row) => {
                let highest = row.replicas.iter().map(|replica| replica.id.get()).max();
                used.replica = used.replica.max(highest);
                used.volume = used.volume.max(volume(row.volume));
            }
            AnyRow::Node(row) => used.node = used.node.max(Some(row.id.get())),
            AnyRow::Group(row) => used.group = used.group.max(Some(row.id.get())),
            AnyRow::Snapshot(row) => {
                used.group = used.group.max(row.group.map(|group| group.get()));
            }
            _ => {}
        }
    }
    used
}
