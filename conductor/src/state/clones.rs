//! Plans for clones: make one, copy what it shows of its origin, and let go of origins that nobody
//! needs any more.
//!
//! ```text
//!  snapshot ── clone ──▶ volume with an origin ── flatten ── its owner has copied all ──▶ volume
//!     │                                │
//!     └ delete --when-unused ─▶ out of sight ── no row has it as origin ──▶ (gone)
//! ```
//!
//! Invariants: a snapshot stays while a row has it as its origin, of a volume or of a snapshot of one;
//! making a clone changes the row of its snapshot, so that nobody takes that away meanwhile; a clone's
//! snapshots have the origin that it had when they were made.

use std::collections::{BTreeMap, BTreeSet};

use ashlar_proto::api::{
    CloneSnapshot, CreateVolume, FlattenVolume, Origin, ReportFlatten, Reserve, snapshot_by_layer,
};
use ashlar_proto::{ByteCount, Layer, VolumeId};

use super::owners::stale_generation;
use super::{ClusterState, Plan};
use crate::live::Live;
use crate::refusal::{InvalidRequest, Refusal, SnapshotRefusal};
use crate::row::{AnyRow, OriginRow, SnapshotRow, VolumeRow, volume_key};

/// Most volumes in a row of which each is a clone of the one before.
pub(crate) const CHAIN_MAX: usize = 16;

/// Who has an origin: a volume, or a snapshot of it.
pub(super) type User = (VolumeId, Option<Layer>);

/// Who has which snapshot as its origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CloneIndex(BTreeMap<(VolumeId, Layer), BTreeSet<User>>);

impl CloneIndex {
    /// Takes in that somebody has another origin now.
    pub(super) fn change(
        &mut self,
        user: User,
        before: Option<OriginRow>,
        after: Option<OriginRow>,
    ) {
        if let Some(origin) = before {
            let at = (origin.volume, origin.layer);
            if let Some(users) = self.0.get_mut(&at) {
                users.remove(&user);
                if users.is_empty() {
                    self.0.remove(&at);
                }
            }
        }
        if let Some(origin) = after {
            let users = self.0.entry((origin.volume, origin.layer)).or_default();
            users.insert(user);
        }
    }

    /// Whether anybody has that snapshot as its origin.
    pub(super) fn is_origin(&self, volume: VolumeId, layer: Layer) -> bool {
        self.0.contains_key(&(volume, layer))
    }

    /// How many have it.
    pub(super) fn count(&self, volume: VolumeId, layer: Layer) -> u32 {
        let users = self.0.get(&(volume, layer));
        users.map_or(0, |users| u32::try_from(users.len()).unwrap_or(u32::MAX))
    }

    fn users(&self, volume: VolumeId, layer: Layer) -> impl Iterator<Item = User> + '_ {
        let users = self.0.get(&(volume, layer)).into_iter();
        users.flatten().copied()
    }
}

impl ClusterState {
    /// A new volume with what a snapshot shows.
    pub(crate) fn plan_clone(
        &self,
        live: &Live,
        volume: &str,
        snapshot: &str,
        request: &CloneSnapshot,
        shard_bytes: ByteCount,
    ) -> Result<Plan<VolumeId>, Refusal> {
        let current = self.require_ready(volume)?;
        let row = self.require_snapshot(current, snapshot)?;
        let named = || (volume.to_owned(), snapshot.to_owned());
        if row.deleted {
            let (volume, snapshot) = named();
            return Err(SnapshotRefusal::NotFound { volume, snapshot }.into());
        }
        if !self.is_readable(current, row) {
            let (volume, snapshot) = named();
            return Err(SnapshotRefusal::NotReady { volume, snapshot }.into());
        }
        let (least, most) = (row.size_bytes, CHAIN_MAX);
        let size_bytes = request.size_bytes.unwrap_or(least);
        if size_bytes < least {
            let asked = size_bytes;
            return Err(InvalidRequest::CloneSize { asked, least }.into());
        }
        if self.chain_of(row) >= most {
            let (volume, snapshot) = named();
            return Err(SnapshotRefusal::ChainTooLong {
                volume,
                snapshot,
                most,
            }
            .into());
        }
        let create = CreateVolume {
            // A copy is no way around what its volume may take, nor around where that may lie.
            settings: self.settings_of_clone(current.id),
            name: request.name.clone(),
            size_bytes,
            replicas: request.replicas.unwrap_or(current.replicas),
            ack: request.ack.unwrap_or(current.ack),
            reserve: Reserve::None,
            labels: std::collections::BTreeMap::new(),
        };
        let origin = OriginRow {
            volume: current.id,
            layer: row.layer,
            bytes: least,
        };
        let mut plan = self.plan_create_from(live, &create, shard_bytes, Some(origin))?;
        plan.reads.push(volume_key(current.id));
        plan.changes.push(AnyRow::Snapshot(row.clone()).put());
        Ok(plan)
    }

    /// Volumes in a row that a read of a snapshot may have to go through.
    fn chain_of(&self, row: &SnapshotRow) -> usize {
        let mut steps = 1;
        let mut origin = row.origin;
        while let Some(at) = origin.filter(|_| steps <= CHAIN_MAX) {
            let below = self.snapshots.at(at.volume, at.layer);
            origin = below.and_then(|row| row.origin);
            steps += 1;
        }
        steps
    }

    /// Has a volume's owner copy what it shows of its origin, or stop that.
    pub(crate) fn plan_flatten(
        &self,
        volume: &str,
        request: FlattenVolume,
    ) -> Result<Plan<VolumeId>, Refusal> {
        let current = self.require_ready(volume)?;
        let is_wanted = !request.stop && current.origin.is_some();
        if is_wanted == current.flattened_to.is_some() {
            return Ok(Plan::nothing(current.id));
        }
        let row = VolumeRow {
            flattened_to: is_wanted.then(ByteCount::default),
            ..current.clone()
        };
        Ok(Plan {
            reads: Vec::new(),
            changes: vec![AnyRow::Volume(row).put()],
            answer: current.id,
        })
    }

    /// Takes over how far an owner has come with that. Repeating it changes nothing.
    pub(crate) fn plan_report_flatten(
        &self,
        volume: &str,
        request: &ReportFlatten,
    ) -> Result<Plan<()>, Refusal> {
        let current = self.require_same(volume, request.volume)?;
        if current.generation != request.generation || current.attached_by.is_none() {
            return Err(stale_generation(current, request.generation).into());
        }
        let is_its = |origin: &OriginRow| {
            (origin.volume, origin.layer) == (request.origin_volume, request.origin_layer)
        };
        let (Some(origin), Some(before)) = (current.origin.filter(is_its), current.flattened_to)
        else {
            return Ok(Plan::nothing(()));
        };
        let done = before.max(request.done_bytes);
        if done == before && done < origin.bytes {
            return Ok(Plan::nothing(()));
        }
        let is_whole = done >= origin.bytes;
        let row = VolumeRow {
            origin: (!is_whole).then_some(origin),
            flattened_to: (!is_whole).then_some(done),
            ..current.clone()
        };
        Ok(Plan {
            reads: Vec::new(),
            changes: vec![AnyRow::Volume(row).put()],
            answer: (),
        })
    }

    /// Ends the layers of snapshots that were deleted and have no clones any more: of each volume one.
    pub(crate) fn plan_reaping(&self) -> Plan<Vec<VolumeId>> {
        let mut plan = Plan::nothing(Vec::new());
        for (volume, layer) in self.snapshots.deleted() {
            let is_next = plan.answer.last() != Some(&volume);
            let is_unused = !self.clones.is_origin(volume, layer);
            let current = self.volumes.get(&volume).filter(|_| is_next && is_unused);
            let Some(current) = current.filter(|row| self.require_ready(&row.name).is_ok()) else {
                continue;
            };
            plan.changes
                .extend(self.plan_layer_end(current, layer).changes);
            plan.answer.push(volume);
        }
        plan
    }

    /// Whether there is any to end.
    pub(crate) fn has_unused(&self) -> bool {
        let mut deleted = self.snapshots.deleted();
        deleted.any(|(volume, layer)| !self.clones.is_origin(volume, layer))
    }

    /// Refuses where one of the snapshots has clones.
    pub(super) fn refuse_clones<'a>(
        &self,
        volume: &VolumeRow,
        mut snapshots: impl Iterator<Item = &'a SnapshotRow>,
    ) -> Result<(), SnapshotRefusal> {
        let with_clones = snapshots.find(|row| self.clones.is_origin(volume.id, row.layer));
        with_clones.map_or(Ok(()), |row| Err(self.has_clones(volume, row)))
    }

    /// Refuses where any snapshot of a volume has clones.
    pub(super) fn refuse_clones_of_all(&self, volume: &VolumeRow) -> Result<(), SnapshotRefusal> {
        self.refuse_clones(volume, self.snapshots.of(volume.id))
    }

    /// The refusal that names them.
    pub(super) fn has_clones(&self, volume: &VolumeRow, row: &SnapshotRow) -> SnapshotRefusal {
        let name_of = |(user, layer): User| {
            let name = self.volumes.get(&user).map(|row| row.name.clone())?;
            let Some(layer) = layer else {
                return Some(name);
            };
            let snapshot = self.snapshots.at(user, layer)?;
            Some(format!("{name}@{}", snapshot.name))
        };
        let users = self.clones.users(volume.id, row.layer);
        SnapshotRefusal::HasClones {
            volume: volume.name.clone(),
            snapshot: row.name.clone(),
            clones: users.filter_map(name_of).collect(),
            count: self.clones.count(volume.id, row.layer) as usize,
        }
    }

    /// An origin as the API shows it. One that is not there, which may not be, is shown all the same:
    /// without it a clone would pass for a volume of zeroes.
    pub(super) fn show_origin(&self, origin: Option<OriginRow>) -> Option<Origin> {
        let origin = origin?;
        let volume = self.volumes.get(&origin.volume);
        let snapshot = self.snapshots.at(origin.volume, origin.layer);
        Some(Origin {
            volume: origin.volume,
            volume_name: volume.map_or_else(|| "?".to_owned(), |row| row.name.clone()),
            layer: origin.layer,
            snapshot: snapshot
                .map_or_else(|| snapshot_by_layer(origin.layer), |row| row.name.clone()),
            bytes: origin.bytes,
        })
    }
}
