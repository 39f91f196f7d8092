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
    CreateSnapshot, ReportLayers, RollbackVolume, Snapshot, SnapshotMap, SnapshotState, VolumeState,
};
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_proto::{GroupId, Layer, VolumeId};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    /// Deletes a snapshot: its interval is one with the next from then on.
    pub(crate) fn plan_snapshot_delete(
        &self,
        volume: &str,
        snapshot: &str,
    ) -> Result<Plan<TableChange>, Refusal> {
        let current = self.require_ready(volume)?;
        let deleted = self.require_snapshot(current, snapshot)?;
        self.refuse_unconfirmed(current, deleted)?;
        let deleted = deleted.layer;
        let row = self.without(current, deleted);
        let key = snapshot_key(current.id, deleted);
        let answer = TableChange {
            volume: row.id,
            version: row.layers.version,
        };
        Ok(Plan {
            reads: Vec::new(),
            changes: vec![Change::Delete { key }, AnyRow::Volume(row).put()],
            answer,
        })
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
        if !newer.is_empty() && !request.delete_newer {
            return Err(not_newest(volume, snapshot, &newer).into());
        }
        let user = current.attached_by.clone();
        let user = user.filter(|_| !current.attached_for_repair && !request.force);
        if let Some(owner) = user {
            let name = volume.to_owned();
            return Err(VolumeRefusal::Attached { name, owner }.into());
        }
        let row = self.rolled_back(current, to)?;
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

    fn rolled_back(&self, current: &VolumeRow, to: Layer) -> Result<VolumeRow, SnapshotRefusal> {
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
            attached_for_repair: false,
            settled: false,
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

    fn require_snapshot(
        &self,
        volume: &VolumeRow,
        snapshot: &str,
    ) -> Result<&SnapshotRow, SnapshotRefusal> {
        let found = self.snapshots.named(volume.id, snapshot);
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

    /// Whether the volume waits for a repair owner to bring its layers on, and no node has the task.
    pub(crate) fn waits_for_owner(&self, volume: VolumeId) -> bool {
        self.volumes.get(&volume).is_some_and(|row| {
            row.attached_by.is_none() && row.repairer.is_none() && self.has_layers_pending(row)
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

    /// All snapshots of the volume of that name, by layer.
    pub(crate) fn snapshots_of(&self, volume: &str) -> Result<Vec<Snapshot>, Refusal> {
        let current = self.require(volume)?;
        let rows = self.snapshots.of(current.id);
        Ok(rows.map(|row| self.show_snapshot(current, row)).collect())
    }

    /// All snapshots, by volume and layer.
    pub(crate) fn snapshots(&self) -> Vec<Snapshot> {
        let each = self.volumes.values().flat_map(|volume| {
            let rows = self.snapshots.of(volume.id);
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
