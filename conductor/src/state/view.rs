//! The state as the API shows it.

use std::collections::BTreeMap;

use ashlar_proto::api::{
    ClusterStatus, Disk, DiskLocation, Health, Node, NodeState, Replica, Shard, Volume, VolumeState,
};
use ashlar_proto::{ByteCount, DiskId, NodeId, VolumeId};

use super::ClusterState;
use crate::live::Live;
use crate::membership::Moment;
use crate::row::{ShardRow, VolumeRow};

impl ClusterState {
    /// All volumes, without their shards.
    pub(crate) fn volumes(&self) -> Vec<Volume> {
        self.volumes
            .values()
            .map(|row| self.show_volume(row, false))
            .collect()
    }

    /// The volume of that name, with its shards.
    pub(crate) fn volume_by_name(&self, name: &str) -> Option<Volume> {
        self.volume_named(name)
            .map(|row| self.show_volume(row, true))
    }

    /// A volume, without its shards.
    pub(crate) fn volume(&self, id: VolumeId) -> Option<Volume> {
        self.volumes
            .get(&id)
            .map(|row| self.show_volume(row, false))
    }

    /// A volume with its shards.
    pub(crate) fn volume_with_shards(&self, id: VolumeId) -> Option<Volume> {
        self.volumes.get(&id).map(|row| self.show_volume(row, true))
    }

    pub(super) fn show_volume(&self, row: &VolumeRow, with_shards: bool) -> Volume {
        let shards = with_shards.then(|| self.shards_of(row.id).map(|s| self.show_shard(s)));
        Volume {
            id: row.id,
            name: row.name.clone(),
            size_bytes: row.size_bytes,
            shard_bytes: row.shard_bytes,
            replicas: row.replicas,
            ack: row.ack,
            state: row.state,
            health: self.health(row),
            generation: row.generation,
            head_layer: row.head_layer,
            attached_by: row.attached_by.clone(),
            shards: shards.into_iter().flatten().collect(),
        }
    }

    /// A shard; its replicas' nodes are those that have the disks now.
    pub(super) fn show_shard(&self, row: &ShardRow) -> Shard {
        let replicas = row.replicas.iter().map(|replica| Replica {
            node: self
                .disks
                .get(&replica.disk)
                .map_or(replica.node, |disk| disk.node),
            ..replica.clone()
        });
        Shard {
            index: row.index,
            epoch: row.epoch,
            replicas: replicas.collect(),
        }
    }

    /// Whether a disk serves: its node is up and it has not failed.
    pub(super) fn serves(&self, disk: DiskId) -> bool {
        self.disks.get(&disk).is_some_and(|row| {
            row.report.failed.is_none() && self.nodes.get(&row.node).is_some_and(|node| node.up)
        })
    }

    fn health(&self, volume: &VolumeRow) -> Health {
        let worst = self.shards_of(volume.id).map(|shard| {
            let in_sync = shard.replicas.iter().filter(|r| r.in_sync).count();
            let live = shard
                .replicas
                .iter()
                .filter(|r| r.in_sync && self.serves(r.disk))
                .count();
            // With n − a + 1 of the set an owner can take over, propose the rest away and serve.
            let needed = (in_sync + 1)
                .saturating_sub(volume.ack.ack_count(in_sync))
                .max(1);
            match live {
                _ if live < needed => Health::Unavailable,
                _ if live < shard.replicas.len() => Health::Degraded,
                _ => Health::Healthy,
            }
        });
        worst
            .max_by_key(|health| severity(*health))
            .unwrap_or(Health::Healthy)
    }

    /// Where the disks of a volume are.
    pub(super) fn locations(&self, volume: VolumeId) -> Vec<DiskLocation> {
        let location = |disk: DiskId| {
            let row = self.disks.get(&disk)?;
            let node = self.nodes.get(&row.node)?;
            let (lanes, address) = (row.report.lanes, node.address.clone());
            Some(DiskLocation {
                disk,
                node: row.node,
                lanes,
                address,
            })
        };
        self.disks_of(volume)
            .into_iter()
            .filter_map(location)
            .collect()
    }

    /// All nodes.
    pub(crate) fn nodes(&self, live: &Live, now: Moment) -> Vec<Node> {
        self.nodes
            .keys()
            .filter_map(|id| self.node(*id, live, now))
            .collect()
    }

    /// A node.
    pub(crate) fn node(&self, id: NodeId, live: &Live, now: Moment) -> Option<Node> {
        let row = self.nodes.get(&id)?;
        let age = live.membership.heartbeat_age(id, now);
        let disks = self
            .disks
            .iter()
            .filter(|(_, disk)| disk.node == id)
            .map(|(disk, _)| *disk);
        Some(Node {
            id,
            name: row.name.clone(),
            address: row.address.clone(),
            labels: row.labels.clone(),
            state: if row.up {
                NodeState::Up
            } else {
                NodeState::Down
            },
            heartbeat_age_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            disks: disks.collect(),
        })
    }

    /// All disks.
    pub(crate) fn disks(&self, live: &Live) -> Vec<Disk> {
        self.disks
            .keys()
            .filter_map(|id| self.disk(*id, live))
            .collect()
    }

    /// A disk, as last reported.
    pub(crate) fn disk(&self, id: DiskId, live: &Live) -> Option<Disk> {
        let row = self.disks.get(&id)?;
        let node = self.nodes.get(&row.node)?;
        let held = self.holds.get(&id).map_or(0, BTreeMap::len);
        Some(Disk {
            node: row.node,
            node_name: node.name.clone(),
            state: if node.up {
                NodeState::Up
            } else {
                NodeState::Down
            },
            report: live.report(row).clone(),
            replicas: u32::try_from(held).unwrap_or(u32::MAX),
        })
    }

    /// The cluster in one look.
    pub(crate) fn status(&self, live: &Live) -> ClusterStatus {
        let health: Vec<Health> = self
            .volumes
            .values()
            .filter(|row| row.state != VolumeState::Deleting)
            .map(|row| self.health(row))
            .collect();
        let reports: Vec<_> = self.disks.values().map(|row| live.report(row)).collect();
        let mut damage: BTreeMap<String, u64> = BTreeMap::new();
        for (kind, count) in reports.iter().flat_map(|report| &report.damage) {
            let sum = damage.entry(kind.clone()).or_default();
            *sum = sum.saturating_add(*count);
        }
        let sum = |bytes: fn(&ashlar_proto::api::DiskReport) -> ByteCount| {
            let all = reports.iter().map(|report| bytes(report).get());
            ByteCount::new(all.fold(0, u64::saturating_add))
        };
        let with = |wanted: Health| count(health.iter().filter(|h| **h == wanted).count());
        ClusterStatus {
            cluster: self.cluster.id,
            health: health
                .iter()
                .copied()
                .max_by_key(|h| severity(*h))
                .unwrap_or(Health::Healthy),
            nodes_up: count(self.nodes.values().filter(|node| node.up).count()),
            nodes: count(self.nodes.len()),
            disks: count(self.disks.len()),
            disks_failed: count(
                reports
                    .iter()
                    .filter(|report| report.failed.is_some())
                    .count(),
            ),
            usable_bytes: sum(|report| report.usable_bytes),
            used_bytes: sum(|report| report.used_bytes),
            volumes: count(self.volumes.len()),
            volumes_degraded: with(Health::Degraded),
            volumes_unavailable: with(Health::Unavailable),
            damage,
            revision: self.revision,
        }
    }
}

fn count(items: usize) -> u32 {
    u32::try_from(items).unwrap_or(u32::MAX)
}

fn severity(health: Health) -> u8 {
    match health {
        Health::Healthy => 0,
        Health::Degraded => 1,
        Health::Unavailable => 2,
    }
}

impl ClusterState {
    /// A volume that is no more, as its row last said.
    pub(crate) fn show_removed(&self, row: &VolumeRow) -> Volume {
        self.show_volume(row, false)
    }
}
