//! Plans for snapshots: make one, delete one, go back to one; and how far owners have come with them.
//!
//! ```text
//!  create ──▶ Sealing ── its layer is settled ──▶ Ready ── rollback ──▶ Ready, the volume as it was
//!     (detached cleanly: Ready at once)    delete, of either ──▶ (gone)
//! ```
//!
//! Making one seals the head: the volume's row counts the next layer, and no store is told anything.
//! Deleting one and going back change the table by which layers are read. Only owners carry a table
//! to replicas, hence the two are complete when an owner has said so (`layers_applied`).
//!
//! Invariants: heads and versions of tables only grow; the settled layer lies below the head; a
//! snapshot that is ready stays so; the layer of a snapshot is never dropped.

mod index;

use ashlar_proto::api::{
    CreateSnapshot, ReportLayers, RollbackVolume, Snapshot, SnapshotMap, SnapshotState,
    VolumeState, layer_of_snapshot, snapshot_by_layer,
};
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_proto::{GroupId, Layer, VolumeId};
use serde::{Deserialize, Serialize};

use super::layers::{gone_back, joined, sealed_top};
use super::owners::stale_generation;
use super::{ClusterState, Plan};
use crate::meta::Change;
use crate::refusal::{Refusal, SnapshotRefusal, VolumeRefusal, check_name};
use crate::row::{AnyRow, SnapshotRow, VolumeRow, snapshot_key};

pub(super) use index::SnapshotIndex;

/// Most snapshots of one volume.
pub(crate) const SNAPSHOTS_MAX: usize = 4096;

/// Newer snapshots that a refusal names.
const NEWER_NAMED_MAX: usize = 5;

/// A change of a volume's table, for who waits until it is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TableChange {
    pub(crate) volume: VolumeId,
    pub(crate) version: u32,
}

impl ClusterState {
    /// Seals the head layer as a snapshot; gives the volume and the layer.
    pub(crate) fn plan_snapshot_create(
        &self,
        volume: &str,
        request: &CreateSnapshot,
        now_ms: u64,
    ) -> Result<Plan<(VolumeId, Layer)>, Refusal> {
        check_name(&request.name)?;
        let current = self.require_ready(volume)?;
        self.refuse_held(current)?;
        let (snapshot, row) = self.sealed(current, &request.name, now_ms, None)?;
        let answer = (current.id, snapshot.layer);
        Ok(Plan {
            reads: Vec::new(),
            changes: vec![AnyRow::Snapshot(snapshot).put(), AnyRow::Volume(row).put()],
            answer,
        })
    }

    /// A volume as it is once its head is sealed as a snapshot of that name, and the snapshot.
    pub(super) fn sealed(
        &self,
        current: &VolumeRow,
        name: &str,
        now_ms: u64,
        group: Option<GroupId>,
    ) -> Result<(SnapshotRow, VolumeRow), SnapshotRefusal> {
        let volume = current.name.clone();
        if self.snapshots.named(current.id, name).is_some() {
            let snapshot = name.to_owned();
            return Err(SnapshotRefusal::Exists { volume, snapshot });
        }
        if self.snapshots.count(current.id) >= SNAPSHOTS_MAX {
            let most = SNAPSHOTS_MAX;
            return Err(SnapshotRefusal::TooMany { volume, most });
        }
        let layer = current.head_layer;
        let is_complete = current.attached_by.is_none()
            && (current.settled || is_planted(Planted::SnapshotUnsettled));
        let snapshot = SnapshotRow {
            volume: current.id,
            layer,
            name: name.to_owned(),
            size_bytes: current.size_bytes,
            created_ms: now_ms,
            volume_name: current.name.clone(),
            origin: current.origin,
            deleted: false,
            group,
        };
        let row = VolumeRow {
            head_layer: next_head(current)?,
            settled_layer: if is_complete {
                layer
            } else {
                current.settled_layer
            },
            ..current.clone()
        };
        Ok((snapshot, row))
    }

    /// Deletes a snapshot: its interval is one with the next from then on. One that has clones is
    /// refused, or else put out of sight until the last of them is gone.
    pub(crate) fn plan_snapshot_delete(
        &self,
        volume: &str,
        snapshot: &str,
        when_unused: bool,
    ) -> Result<Plan<TableChange>, Refusal> {
        let current = self.require_ready(volume)?;
        let row = self.require_snapshot(current, snapshot)?;
        self.refuse_unconfirmed(current, row)?;
        let is_origin = self.clones.is_origin(current.id, row.layer);
        if is_origin && !is_planted(Planted::DeleteOrigin) {
            if when_unused {
                return Ok(put_out_of_sight(current, row));
            }
            return Err(self.has_clones(current, row).into());
        }
        Ok(self.plan_layer_end(current, row.layer))
    }

    /// Has the interval of a snapshot be one with the next.
    pub(super) fn plan_layer_end(&self, current: &VolumeRow, deleted: Layer) -> Plan<TableChange> {
        let row = self.without(current, deleted);
        let key = snapshot_key(current.id, deleted);
        let answer = TableChange {
            volume: row.id,
            version: row.layers.version,
        };
        Plan {
            reads: Vec::new(),
            changes: vec![Change::Delete { key }, AnyRow::Volume(row).put()],
            answer,
        }
    }

    /// A volume as it is without the snapshot of that layer.
    pub(super) fn without(&self, current: &VolumeRow, deleted: Layer) -> VolumeRow {
        let left = self.snapshots.of(current.id).map(|row| row.layer);
        let left = left.filter(|layer| *layer != deleted);
        let layers = joined(&current.layers, left.chain([current.head_layer]));
        VolumeRow {
            layers,
            ..current.clone()
        }
    }

    /// Makes the volume what it was at a snapshot. Nobody has it attached afterwards, and what an
    /// earlier owner still writes lies in layers that are dropped.
    pub(crate) fn plan_rollback(
        &self,
        volume: &str,
        snapshot: &str,
        request: RollbackVolume,
    ) -> Result<Plan<TableChange>, Refusal> {
        let current = self.require_ready(volume)?;
        let target = self.require_snapshot(current, snapshot)?;
        let to = target.layer;
        if !self.is_readable(current, target) {
            let (volume, snapshot) = (volume.to_owned(), snapshot.to_owned());
            return Err(SnapshotRefusal::NotReady { volume, snapshot }.into());
        }
        let newer = self.snapshots.above(current.id, to);
        let newer: Vec<&SnapshotRow> = newer.collect();
        let in_sight: Vec<_> = newer.iter().copied().filter(|row| !row.deleted).collect();
        if !in_sight.is_empty() && !request.delete_newer {
            return Err(not_newest(volume, snapshot, &in_sight).into());
        }
        self.refuse_clones(current, newer.iter().copied())?;
        let user = current.attached_by.clone();
        let user = user.filter(|_| !current.attached_for_repair && !request.force);
        if let Some(owner) = user {
            let name = volume.to_owned();
            return Err(VolumeRefusal::Attached { name, owner }.into());
        }
        let row = self.rolled_back(current, target)?;
        let answer = TableChange {
            volume: row.id,
            version: row.layers.version,
        };
        let keys = newer.iter().map(|row| snapshot_key(row.volume, row.layer));
        let mut changes: Vec<Change> = keys.map(|key| Change::Delete { key }).collect();
        changes.push(AnyRow::Volume(row).put());
        Ok(Plan {
            reads: Vec::new(),
            changes,
            answer,
        })
    }

    fn rolled_back(
        &self,
        current: &VolumeRow,
        target: &SnapshotRow,
    ) -> Result<VolumeRow, SnapshotRefusal> {
        let to = target.layer;
        let head_layer = next_head(current)?;
        let left = self.snapshots.of(current.id).map(|row| row.layer);
        let left = left.take_while(|layer| *layer <= to);
        let layers = gone_back(&current.layers, left, to, current.head_layer);
        let layers = layers.ok_or_else(|| SnapshotRefusal::TooManyRuns {
            volume: current.name.clone(),
            most: ashlar_proto::layers::DROPPED_MAX,
        })?;
        Ok(VolumeRow {
            layers,
            head_layer,
            generation: if is_planted(Planted::RollbackUnfenced) {
                current.generation
            } else {
                current.generation.next()
            },
            attached_by: None,
            attached_as: None,
            attached_under: None,
            served_by: None,
            wanted_by: None,
            attached_for_repair: false,
            settled: false,
            origin: target.origin,
            flattened_to: None,
            ..current.clone()
        })
    }

    /// Takes over how far an owner has brought its replicas. Repeating it changes nothing.
    pub(crate) fn plan_report_layers(
        &self,
        volume: &str,
        request: &ReportLayers,
    ) -> Result<Plan<()>, Refusal> {
        let current = self.require_same(volume, request.volume)?;
        if current.generation != request.generation || current.attached_by.is_none() {
            return Err(stale_generation(current, request.generation).into());
        }
        let settled = request.settled.min(sealed_top(current));
        let applied = request.table.min(current.layers.version);
        let row = VolumeRow {
            settled_layer: current.settled_layer.max(settled),
            layers_applied: current.layers_applied.max(applied),
            ..current.clone()
        };
        let is_news = row != *current;
        Ok(Plan {
            reads: Vec::new(),
            changes: is_news
                .then(|| AnyRow::Volume(row).put())
                .into_iter()
                .collect(),
            answer: (),
        })
    }

    pub(super) fn require_ready(&self, name: &str) -> Result<&VolumeRow, VolumeRefusal> {
        let current = self.require(name)?;
        if current.state == VolumeState::Ready {
            return Ok(current);
        }
        let (name, state) = (name.to_owned(), current.state);
        Err(VolumeRefusal::NotReady { name, state })
    }

    /// The snapshot of that name, or of the layer that the name stands for.
    pub(super) fn require_snapshot(
        &self,
        volume: &VolumeRow,
        snapshot: &str,
    ) -> Result<&SnapshotRow, SnapshotRefusal> {
        let of_layer = layer_of_snapshot(snapshot);
        let found = match of_layer {
            Some(layer) => self.snapshots.at(volume.id, layer),
            None => self.snapshots.named(volume.id, snapshot),
        };
        found.ok_or_else(|| SnapshotRefusal::NotFound {
            volume: volume.name.clone(),
            snapshot: snapshot.chars().take(80).collect(),
        })
    }

    /// Whether a snapshot of the volume is still sealing, or its table has not reached all in-sync
    /// replicas: only an owner can bring that on.
    pub(super) fn has_layers_pending(&self, volume: &VolumeRow) -> bool {
        let mut sealing = self.snapshots.above(volume.id, volume.settled_layer);
        volume.layers_applied < volume.layers.version || sealing.next().is_some()
    }

    /// Whether there is something to do for a volume that only an owner can do, beside keeping its
    /// replicas.
    pub(super) fn has_owners_work(&self, volume: &VolumeRow) -> bool {
        self.has_layers_pending(volume) || volume.flattened_to.is_some()
    }

    /// Whether the volume waits for a repair owner to bring its layers on, or to copy what it shows of
    /// its origin, and no node has the task.
    pub(crate) fn waits_for_owner(&self, volume: VolumeId) -> bool {
        self.volumes.get(&volume).is_some_and(|row| {
            row.attached_by.is_none() && row.repairer.is_none() && self.has_owners_work(row)
        })
    }

    /// Whether the table has reached all in-sync replicas, or the volume is gone.
    pub(crate) fn is_applied(&self, change: TableChange) -> bool {
        let volume = self.volumes.get(&change.volume);
        volume.is_none_or(|row| row.layers_applied >= change.version)
    }

    /// The snapshot of that layer.
    pub(crate) fn snapshot_at(&self, volume: VolumeId, layer: Layer) -> Option<Snapshot> {
        let row = self.snapshots.at(volume, layer)?;
        Some(self.show_snapshot(self.volumes.get(&volume)?, row))
    }

    /// The snapshot of that name.
    pub(crate) fn snapshot(&self, volume: &str, snapshot: &str) -> Result<Snapshot, Refusal> {
        let current = self.require(volume)?;
        Ok(self.show_snapshot(current, self.require_snapshot(current, snapshot)?))
    }

    /// The snapshots of the volume of that name, by layer; those that are deleted only where asked for.
    pub(crate) fn snapshots_of(
        &self,
        volume: &str,
        deleted: bool,
    ) -> Result<Vec<Snapshot>, Refusal> {
        let current = self.require(volume)?;
        let rows = self.snapshots.of(current.id);
        let rows = rows.filter(|row| deleted || !row.deleted);
        Ok(rows.map(|row| self.show_snapshot(current, row)).collect())
    }

    /// The snapshots of all volumes, by volume and layer; those that are deleted only where asked for.
    pub(crate) fn snapshots(&self, deleted: bool) -> Vec<Snapshot> {
        let each = self.volumes.values().flat_map(|volume| {
            let rows = self.snapshots.of(volume.id);
            let rows = rows.filter(move |row| deleted || !row.deleted);
            rows.map(move |row| self.show_snapshot(volume, row))
        });
        each.collect()
    }

    /// Whether a snapshot never changes any more: its layer is settled, and its group is confirmed if it
    /// is of one.
    pub(super) fn is_readable(&self, volume: &VolumeRow, row: &SnapshotRow) -> bool {
        row.layer <= volume.settled_layer && !self.is_unconfirmed(row)
    }

    fn show_snapshot(&self, volume: &VolumeRow, row: &SnapshotRow) -> Snapshot {
        Snapshot {
            volume: row.volume,
            volume_name: volume.name.clone(),
            name: row.name.clone(),
            layer: row.layer,
            size_bytes: row.size_bytes,
            created_ms: row.created_ms,
            state: if self.is_readable(volume, row) {
                SnapshotState::Ready
            } else {
                SnapshotState::Sealing
            },
            origin: self.show_origin(row.origin),
            clones: self.clones.count(row.volume, row.layer),
            deleted: row.deleted,
            group: row.group,
        }
    }

    /// What a reader of a snapshot needs.
    pub(crate) fn snapshot_map(
        &self,
        volume: &str,
        snapshot: &str,
    ) -> Result<SnapshotMap, Refusal> {
        let current = self.require(volume)?;
        let row = self.require_snapshot(current, snapshot)?;
        let others = self.snapshots.of(current.id);
        let others = others.filter(|other| other.layer != row.layer);
        Ok(SnapshotMap {
            cluster: self.cluster.id,
            snapshot: self.show_snapshot(current, row),
            volume: self.show_volume(current, true),
            disks: self.locations(current.id),
            others: others
                .map(|other| self.show_snapshot(current, other))
                .collect(),
            revision: self.revision,
        })
    }
}

/// A snapshot out of sight: its name is free, and the table stays as it is.
fn put_out_of_sight(volume: &VolumeRow, row: &SnapshotRow) -> Plan<TableChange> {
    let hidden = SnapshotRow {
        name: snapshot_by_layer(row.layer),
        deleted: true,
        ..row.clone()
    };
    let answer = TableChange {
        volume: volume.id,
        version: volume.layers.version,
    };
    Plan {
        reads: Vec::new(),
        changes: vec![AnyRow::Snapshot(hidden).put()],
        answer,
    }
}

pub(super) fn next_head(volume: &VolumeRow) -> Result<Layer, SnapshotRefusal> {
    let next = volume.head_layer.get().checked_add(1);
    next.map(Layer::new)
        .ok_or_else(|| SnapshotRefusal::Exhausted {
            volume: volume.name.clone(),
        })
}

fn not_newest(volume: &str, snapshot: &str, newer: &[&SnapshotRow]) -> SnapshotRefusal {
    let newest = newer.iter().rev().take(NEWER_NAMED_MAX);
    SnapshotRefusal::NotNewest {
        volume: volume.to_owned(),
        snapshot: snapshot.to_owned(),
        newest: newest.map(|row| row.name.clone()).collect(),
        newer: newer.len(),
    }
}
