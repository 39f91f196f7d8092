//! Applies rows: what is known of the cluster by other keys follows from them.

use ashlar_proto::api::{Replica, Revision, VolumeState};
use ashlar_proto::{DiskId, GroupId, Layer, NodeId, PortalGroup, ReplicaId, ShardIndex, VolumeId};

use super::resize::{self, space};
use super::{At, ClusterState, Held};
use crate::meta::Key;
use crate::row::{
    AnyRow, RowError, ShardRow, SnapshotRow, VolumeRow, denied_subject, recovery_key, settings_pool,
};

impl ClusterState {
    /// Applies a row as it stands from `revision` on, or its removal.
    pub(crate) fn apply(
        &mut self,
        revision: Revision,
        key: &Key,
        value: Option<&[u8]>,
    ) -> Result<(), RowError> {
        match value {
            Some(value) => {
                let row = AnyRow::decode(key, value)?;
                self.modified.insert(key.clone(), revision);
                self.put(revision, row);
            }
            None => {
                self.modified.remove(key);
                self.remove(revision, key)?;
            }
        }
        self.reached(revision);
        Ok(())
    }

    fn put(&mut self, revision: Revision, row: AnyRow) {
        match row {
            AnyRow::Cluster(row) => self.cluster = row,
            AnyRow::Rebalance(row) => self.rebalance = row,
            AnyRow::Recovery(row) => {
                self.recovery = Some(row);
                self.renew_assignments_at(revision);
            }
            AnyRow::Space(row) => self.space = row,
            AnyRow::Settings(row) => self.put_settings(revision, row),
            AnyRow::PoolSettings(row) => self.put_pool_settings(revision, row),
            AnyRow::Denied(row) => {
                self.denied.insert(row.client.clone(), row);
            }
            AnyRow::Target(row) => {
                self.targets.insert(row.name.clone(), row);
                self.targets_changed = revision.max(self.targets_changed);
            }
            AnyRow::Discovery(row) => {
                self.discovery = row;
                self.targets_changed = revision.max(self.targets_changed);
            }
            AnyRow::Server(row) => {
                self.servers.insert(row.group, row);
                self.targets_changed = revision.max(self.targets_changed);
            }
            AnyRow::JoinToken(row) => {
                self.join_tokens.insert(row.id.clone(), row);
            }
            AnyRow::DeniedIdentity(row) => {
                self.denied_identities.insert(row.subject.clone(), row);
                self.identities_changed = revision.max(self.identities_changed);
            }
            AnyRow::Reservations(row) => {
                let volume = row.volume;
                self.reservations.insert(volume, row);
                // Who serves the volume goes by them.
                self.remap(volume, revision);
            }
            AnyRow::Once(row) => self.once.put(row),
            AnyRow::Name(row) => {
                self.names.insert(row.name, row.volume);
            }
            AnyRow::Volume(row) => self.put_volume(revision, row),
            AnyRow::Shard(row) => self.put_shard(revision, row),
            AnyRow::Snapshot(row) => self.put_snapshot(row),
            AnyRow::Group(row) => self.put_group(revision, row),
            AnyRow::User(_)
            | AnyRow::ApiKey(_)
            | AnyRow::SigningKey(_)
            | AnyRow::RevokedToken(_) => self.access.put(row),
            AnyRow::Project(row) => self.projects.put(row),
            AnyRow::Audit(row) => self.audit.put(row),
            AnyRow::Node(row) => {
                self.assigned.entry(row.id).or_insert(revision);
                self.reassigned.insert(row.id);
                let (node, address) = (row.id, row.address.clone());
                let before = self.nodes.insert(node, row);
                if before.is_none_or(|before| before.address != address) {
                    self.relocate(node, revision);
                }
            }
            AnyRow::Disk(row) => {
                let (disk, node, lanes) = (row.report.id, row.node, row.report.lanes);
                if row.ails() {
                    self.ailing.insert(disk);
                } else {
                    self.ailing.remove(&disk);
                }
                let before = self.disks.insert(disk, row);
                let before = before.map(|before| (before.node, before.report.lanes));
                if before.is_none_or(|before| before.0 != node) {
                    self.reassign(node, revision);
                }
                if before != Some((node, lanes)) {
                    self.relocate_disk(disk, revision);
                }
            }
        }
    }

    fn put_volume(&mut self, revision: Revision, row: VolumeRow) {
        let (id, repairer, task) = (row.id, row.repairer, (row.repairer, row.unfenced));
        let leaving = row.state == VolumeState::Deleting;
        let (grows_to, space) = (row.grows_to, (space(&row), row.reserve));
        let origin = row.origin;
        self.projects.count(self.volumes.get(&id), Some(&row));
        let before = self.volumes.remove(&id);
        self.count_volume(id, before.as_ref(), Some(&row));
        let replicas = row.replicas;
        self.volumes.insert(id, row);
        self.note_volume(id);
        if before
            .as_ref()
            .is_none_or(|before| before.replicas != replicas)
        {
            self.note_shards_of(id);
        }
        let origin_before = before.as_ref().and_then(|before| before.origin);
        self.clones.change((id, None), origin_before, origin);
        let was = before
            .as_ref()
            .map(|row| (row.grows_to, (resize::space(row), row.reserve)));
        if grows_to.is_none() {
            self.growing.remove(&id);
        } else if was.is_none_or(|was| was.0 != grows_to) {
            self.growing.insert(id, revision);
        }
        if was.is_some_and(|was| was != (grows_to, space)) {
            self.touch_volume(id, revision);
        }
        let task_before = before.map(|before| (before.repairer, before.unfenced));
        let repairer_before = task_before.and_then(|before| before.0);
        if task_before != Some(task) {
            for node in repairer_before.into_iter().chain(repairer) {
                self.reassign(node, revision);
            }
        }
        if leaving {
            self.touch_volume(id, revision);
        }
        self.remap(id, revision);
    }

    fn put_snapshot(&mut self, row: SnapshotRow) {
        let (of, origin) = ((row.volume, Some(row.layer)), row.origin);
        let before = self.snapshots.put(row).and_then(|before| before.origin);
        self.clones.change(of, before, origin);
        self.note_volume(of.0);
    }

    fn put_shard(&mut self, revision: Revision, row: ShardRow) {
        let at = (row.volume, row.index);
        let is_unmade = |r: &&Replica| r.fresh && !row.made.contains(&r.id);
        let unmade: Vec<ReplicaId> = row
            .replicas
            .iter()
            .filter(is_unmade)
            .map(|r| r.id)
            .collect();
        let after = row.replicas.clone();
        let before = self.shards.insert(at, row);
        self.note_shard(at);
        let was_rebalancing = before.as_ref().is_some_and(|before| before.rebalancing);
        let before = before.map_or(Vec::new(), |before| before.replicas);
        // What moves to even out disks heals nothing.
        let is_healed = |r: &Replica| !(r.in_sync || r.fresh && was_rebalancing);
        let was_behind = |id| before.iter().any(|r| r.id == id && is_healed(r));
        let joined = after.iter().filter(|r| r.in_sync && was_behind(r.id));
        self.joined += joined.count() as u64;
        for replica in &before {
            self.unmade.remove(&replica.id);
        }
        self.unmade.extend(unmade.into_iter().map(|id| (id, at)));
        self.replace_holds(at, &before, &after, revision);
        // A report that follows this assignment is the first that counts all that was copied.
        let was_fresh = |id| before.iter().any(|r| r.id == id && r.fresh);
        for replica in after.iter().filter(|r| !r.fresh && was_fresh(r.id)) {
            self.touch_disk(replica.disk, revision);
        }
        let located = after.iter().filter_map(|r| self.located.get(&r.disk));
        let latest = located.copied().fold(revision, Revision::max);
        self.remap(at.0, latest);
    }

    fn remove(&mut self, revision: Revision, key: &Key) -> Result<(), RowError> {
        let unknown = || RowError::Unknown { key: key.clone() };
        if *key == recovery_key() {
            self.recovery = None;
            // What each is assigned is told again.
            self.reassigned.extend(self.nodes.keys());
            self.renew_assignments_at(revision);
            return Ok(());
        }
        let (kind, rest) = key.as_str().split_once('/').ok_or_else(unknown)?;
        match kind {
            "name" => {
                self.names.remove(rest);
            }
            "once" => self.once.remove(rest),
            "denied" => {
                self.denied.remove(rest);
            }
            "join-token" => {
                self.join_tokens.remove(rest);
            }
            "denied-identity" => {
                let subject = denied_subject(rest).ok_or_else(unknown)?;
                self.denied_identities.remove(&subject);
                self.identities_changed = revision;
            }
            "target" => {
                let name = rest.parse().map_err(|_| unknown())?;
                self.targets.remove(&name);
                self.targets_changed = revision;
            }
            "iscsi-server" => {
                let raw = u16::from_str_radix(rest, 16).map_err(|_| unknown())?;
                let group = PortalGroup::new(raw).ok_or_else(unknown)?;
                self.servers.remove(&group);
                self.targets_changed = revision;
            }
            "settings" => match (settings_pool(rest), rest) {
                (Some(pool), _) => self.remove_pool_settings(revision, pool),
                (None, "cluster") => self.remove_settings(revision, None),
                (None, volume) => {
                    let volume = volume.parse().map_err(|_| unknown())?;
                    self.remove_settings(revision, Some(volume));
                }
            },
            "reservations" => {
                let volume = rest.parse().map_err(|_| unknown())?;
                self.reservations.remove(&volume);
            }
            "user" | "api-key" | "signing-key" | "revoked-token" => self.access.remove(kind, rest),
            "project" => self.projects.remove(rest),
            "audit" => {
                let id = u64::from_str_radix(rest, 16).map_err(|_| unknown())?;
                self.audit.remove(id);
            }
            "volume" => {
                let volume = rest.parse().map_err(|_| unknown())?;
                let before = self.volumes.remove(&volume);
                self.projects.count(before.as_ref(), None);
                self.count_volume(volume, before.as_ref(), None);
                self.note_volume(volume);
                self.note_shards_of(volume);
                if let Some(before) = before {
                    self.clones.change((volume, None), before.origin, None);
                    if let Some(node) = before.repairer {
                        self.reassign(node, revision);
                    }
                }
                self.mapped.remove(&volume);
                self.growing.remove(&volume);
            }
            "shard" => {
                let (volume, index) = rest.split_once('/').ok_or_else(unknown)?;
                let volume = volume.parse().map_err(|_| unknown())?;
                let index = u32::from_str_radix(index, 16).map_err(|_| unknown())?;
                let at = (volume, ShardIndex::new(index));
                if let Some(row) = self.shards.remove(&at) {
                    for replica in &row.replicas {
                        self.unmade.remove(&replica.id);
                    }
                    self.replace_holds(at, &row.replicas, &[], revision);
                    self.note_shard(at);
                }
            }
            "snapshot" => {
                let (volume, layer) = rest.split_once('/').ok_or_else(unknown)?;
                let volume = volume.parse().map_err(|_| unknown())?;
                let layer = u32::from_str_radix(layer, 16).map_err(|_| unknown())?;
                let layer = Layer::new(layer);
                let before = self.snapshots.remove(volume, layer);
                let origin = before.and_then(|before| before.origin);
                self.clones.change((volume, Some(layer)), origin, None);
                self.note_volume(volume);
            }
            "group" => {
                let group = u64::from_str_radix(rest, 16).map_err(|_| unknown())?;
                self.remove_group(revision, GroupId::new(group));
            }
            "node" => {
                let node = u64::from_str_radix(rest, 16).map_err(|_| unknown())?;
                self.nodes.remove(&NodeId::new(node));
                self.assigned.remove(&NodeId::new(node));
                self.reassigned.insert(NodeId::new(node));
            }
            "disk" => {
                let disk = rest.parse().map_err(|_| unknown())?;
                self.disks.remove(&disk);
                self.ailing.remove(&disk);
                self.located.remove(&disk);
            }
            _ => return Err(unknown()),
        }
        Ok(())
    }

    fn replace_holds(&mut self, at: At, before: &[Replica], after: &[Replica], revision: Revision) {
        let is_in = |list: &[Replica], replica: &Replica| {
            let mut list = list.iter();
            list.any(|other| (other.id, other.disk) == (replica.id, replica.disk))
        };
        let gone: Vec<&Replica> = before.iter().filter(|r| !is_in(after, r)).collect();
        let new: Vec<&Replica> = after.iter().filter(|r| !is_in(before, r)).collect();
        for replica in &gone {
            let held = self.holds.get_mut(&replica.disk);
            let was_there = held.is_some_and(|held| held.remove(&at).is_some());
            if let Some(volume) = self.volumes.get(&at.0).filter(|_| was_there) {
                self.totals.lift(replica.disk, volume, at.1);
            }
        }
        for replica in &new {
            let held = Held {
                replica: replica.id,
                since: revision,
            };
            let on_disk = self.holds.entry(replica.disk).or_default();
            let is_new = on_disk.insert(at, held).is_none();
            if let Some(volume) = self.volumes.get(&at.0).filter(|_| is_new) {
                self.totals.lay(replica.disk, volume, at.1);
            }
        }
        for replica in gone.into_iter().chain(new) {
            self.touch_disk(replica.disk, revision);
        }
    }

    /// The disks of a node are reached elsewhere.
    fn relocate(&mut self, node: NodeId, revision: Revision) {
        let of_node = self.disks.iter().filter(|(_, row)| row.node == node);
        let disks: Vec<DiskId> = of_node.map(|(disk, _)| *disk).collect();
        for disk in disks {
            self.relocate_disk(disk, revision);
        }
    }

    fn relocate_disk(&mut self, disk: DiskId, revision: Revision) {
        // Rows are read in the order of their keys, not of their revisions.
        let located = self.located.entry(disk).or_default();
        *located = revision.max(*located);
        let held = self.holds.get(&disk).into_iter().flatten();
        let volumes: Vec<VolumeId> = held.map(|((volume, _), _)| *volume).collect();
        for volume in volumes {
            self.remap(volume, revision);
        }
    }

    pub(super) fn remap(&mut self, volume: VolumeId, revision: Revision) {
        let mapped = self.mapped.entry(volume).or_default();
        *mapped = revision.max(*mapped);
    }

    /// What a node is assigned is another from that revision on.
    fn reassign(&mut self, node: NodeId, revision: Revision) {
        self.assigned.insert(node, revision);
        self.reassigned.insert(node);
    }

    fn touch_disk(&mut self, disk: DiskId, revision: Revision) {
        if let Some(row) = self.disks.get(&disk) {
            self.reassign(row.node, revision);
        }
    }

    fn touch_volume(&mut self, volume: VolumeId, revision: Revision) {
        for disk in self.disks_of(volume) {
            self.touch_disk(disk, revision);
        }
    }
}
