//! The state as the API shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use ashlar_proto::api::{
    ClusterStatus, Disk, Flattening, Healing, Health, Node, NodeState, Replica, Shard, Volume,
    VolumeState,
};
use ashlar_proto::volume_name::canonical;
use ashlar_proto::{ByteCount, DiskId, LayerTable, NodeId, VolumeId};

use super::{ClusterState, Outlook};
use crate::live::Live;
use crate::membership::Moment;
use crate::row::{ShardRow, VolumeRow};

impl ClusterState {
    /// All volumes, without their shards and layers.
    #[cfg(test)]
    pub(crate) fn volumes(&self) -> Vec<Volume> {
        self.volumes
            .values()
            .map(|row| self.show_volume(row, false))
            .collect()
    }

    /// The volume of that name, with its shards and layers.
    pub(crate) fn volume_by_name(&self, name: &str) -> Option<Volume> {
        self.volume_named(name)
            .map(|row| self.show_volume(row, true))
    }

    /// The id of the volume of that name, in whichever way it is written.
    pub(crate) fn id_of(&self, name: &str) -> Option<VolumeId> {
        self.names.get(canonical(name)).copied()
    }

    /// The volumes beyond an id, by id, without their shards and layers.
    pub(crate) fn volumes_after(
        &self,
        after: Option<VolumeId>,
    ) -> impl Iterator<Item = &VolumeRow> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.volumes
            .range((from, Bound::Unbounded))
            .map(|(_, row)| row)
    }

    /// A volume, without its shards and layers.
    pub(crate) fn volume(&self, id: VolumeId) -> Option<Volume> {
        self.volumes
            .get(&id)
            .map(|row| self.show_volume(row, false))
    }

    /// A volume with its shards and layers.
    pub(crate) fn volume_with_shards(&self, id: VolumeId) -> Option<Volume> {
        self.volumes.get(&id).map(|row| self.show_volume(row, true))
    }

    pub(crate) fn show_volume(&self, row: &VolumeRow, with_shards: bool) -> Volume {
        let shards = with_shards.then(|| self.served_shards(row).map(|s| self.show_shard(s)));
        Volume {
            id: row.id,
            name: row.name.clone(),
            size_bytes: row.size_bytes,
            grows_to: row.grows_to,
            shard_bytes: row.shard_bytes,
            replicas: row.replicas,
            ack: row.ack,
            reserve: row.reserve,
            state: row.state,
            health: self.health(row),
            labels: row.labels.clone(),
            generation: row.generation,
            head_layer: row.head_layer,
            layers: if with_shards {
                row.layers.clone()
            } else {
                LayerTable::default()
            },
            layers_applied: row.layers_applied,
            settled_layer: row.settled_layer,
            snapshots: count(self.snapshots.count_visible(row.id)),
            origin: self.show_origin(row.origin),
            flattening: row.flattened_to.map(|done_bytes| Flattening { done_bytes }),
            attached_by: row.attached_by.clone(),
            publication: row.publication.clone(),
            service: self.service_of(row),
            hold: self.hold_of(row),
            settings: self.volume_settings(row.id),
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
        let worst = self
            .served_shards(volume)
            .map(|shard| match self.live_in_sync(shard) {
                _ if !self.can_be_taken_over(volume, shard) => Health::Unavailable,
                live if live < usize::from(volume.replicas) => Health::Degraded,
                _ => Health::Healthy,
            });
        worst
            .max_by_key(|health| severity(*health))
            .unwrap_or(Health::Healthy)
    }

    /// How these volumes are, but for those that are deleted.
    pub(super) fn health_of(&self, volumes: &BTreeSet<VolumeId>) -> Vec<Health> {
        let rows = volumes.iter().filter_map(|id| self.volumes.get(id));
        let kept = rows.filter(|row| row.state != VolumeState::Deleting);
        kept.map(|row| self.health(row)).collect()
    }

    /// All nodes.
    pub(crate) fn nodes(&self, live: &Live, now: Moment) -> Vec<Node> {
        let mut disks: BTreeMap<NodeId, Vec<DiskId>> = BTreeMap::new();
        for (disk, row) in &self.disks {
            disks.entry(row.node).or_default().push(*disk);
        }
        let mut disks_of = |id| disks.remove(id).unwrap_or_default();
        let ids = self.nodes.keys();
        let with_disks: Vec<_> = ids.map(|id| (*id, disks_of(id))).collect();
        let shown = with_disks.into_iter();
        shown
            .filter_map(|(id, disks)| self.node_with(id, disks, live, now))
            .collect()
    }

    /// A node.
    pub(crate) fn node(&self, id: NodeId, live: &Live, now: Moment) -> Option<Node> {
        let disks = self.disks.iter().filter(|(_, disk)| disk.node == id);
        self.node_with(id, disks.map(|(disk, _)| *disk).collect(), live, now)
    }

    fn node_with(&self, id: NodeId, disks: Vec<DiskId>, live: &Live, now: Moment) -> Option<Node> {
        let row = self.nodes.get(&id)?;
        let age = live.membership.heartbeat_age(id, now);
        let held: usize = disks.iter().map(|disk| self.replicas_on(*disk)).sum();
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
            schedulable: row.schedulable,
            reached_by: live.judgment.weight(id).reached_by,
            missed_by: live.judgment.weight(id).missed_by,
            heartbeat_age_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            disks,
            replicas: count(held),
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
        Some(Disk {
            node: row.node,
            node_name: node.name.clone(),
            state: if node.up {
                NodeState::Up
            } else {
                NodeState::Down
            },
            schedulable: self.asked_of(id),
            evacuation: self.evacuation(id),
            report: row.shown(live.report(row)),
            replicas: count(self.replicas_on(id)),
            provisioned_bytes: ByteCount::new(self.totals.promised(id)),
            level: live.levels.of(id),
            labels: row.labels.clone(),
        })
    }

    /// The cluster in one look.
    pub(crate) fn status(&self, live: &Live, now: Moment) -> ClusterStatus {
        let health = self.health_of(&self.notable_volumes(live));
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
        let outlook = self.plan_healing(live).answer;
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
            disks_ailing: count(self.ailing.len()),
            usable_bytes: sum(|report| report.usable_bytes),
            used_bytes: sum(|report| report.used_bytes),
            space: self.show_space(live),
            volumes: count(self.volumes.len()),
            volumes_degraded: with(Health::Degraded),
            volumes_unavailable: with(Health::Unavailable),
            damage,
            rebalance: self.rebalance_summary(live, &outlook),
            healing: self.healing(live, now, &outlook),
            revision: self.revision,
        }
    }
}

impl ClusterState {
    /// How far the return of lost replicas has come.
    fn healing(&self, live: &Live, now: Moment, outlook: &Outlook) -> Healing {
        let progress = live.spell.progress(now, outlook.left(), self.joined());
        Healing {
            out_of_sync: outlook.out_of_sync,
            rebuilding: outlook.rebuilding,
            queued: outlook.queued,
            without_place: outlook.without_place,
            draining: outlook.draining,
            away: outlook.away,
            rebuilt: progress.rebuilt,
            progress_percent: progress.percent,
            remaining_seconds: progress.remaining.map(|left| left.as_secs()),
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
