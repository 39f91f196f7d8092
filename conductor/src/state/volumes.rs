//! Plans for volumes: create, delete, and what their stores have done.
//!
//! ```text
//!  create ──▶ Creating ── all its nodes have applied ──▶ Ready ── delete ──▶ Deleting ──▶ (gone)
//!                 └───────────────── delete ────────────────────────────────────▲
//! ```
//!
//! Invariant: ids are never used again.

use std::collections::{BTreeMap, BTreeSet};

use ashlar_proto::api::{CreateVolume, Replica, Schedulable, VolumeState};
use ashlar_proto::limits::{BLOCK_BYTES_U64, REPLICAS_MAX, VOLUME_BYTES_MAX, VOLUME_BYTES_MIN};
use ashlar_proto::volume_name::{canonical, project_of};
use ashlar_proto::{
    ByteCount, DiskId, Epoch, Generation, Layer, LayerTable, NodeId, ReplicaId, ShardIndex,
    VolumeId,
};

use super::labels::labels_of_place;
use super::resize::{shard_count, space};
use super::space::{check_reserve, want};
use super::{At, ClusterState, Plan};
use crate::live::Live;
use crate::meta::Change;
use crate::placement::{Candidate, Want, place_by};
use crate::refusal::{
    InvalidRequest, Refusal, SnapshotRefusal, VolumeRefusal, check_labels, check_volume_name,
};
use crate::row::{
    AnyRow, ClusterRow, NameRow, OriginRow, SettingsRow, ShardRow, VolumeRow, name_key,
    project_key, reservations_key, shard_key, snapshot_key, volume_key,
};

impl ClusterState {
    pub(super) fn require(&self, name: &str) -> Result<&VolumeRow, VolumeRefusal> {
        self.volume_named(name)
            .ok_or_else(|| VolumeRefusal::NotFound {
                name: name.to_owned(),
            })
    }

    /// A new volume, placed, waiting for its stores.
    pub(crate) fn plan_create(
        &self,
        live: &Live,
        request: &CreateVolume,
        shard_bytes: ByteCount,
    ) -> Result<Plan<VolumeId>, Refusal> {
        self.plan_create_from(live, request, shard_bytes, None)
    }

    /// A new volume that shows an origin, if it is given one, where nothing is written to it.
    pub(super) fn plan_create_from(
        &self,
        live: &Live,
        request: &CreateVolume,
        shard_bytes: ByteCount,
        origin: Option<OriginRow>,
    ) -> Result<Plan<VolumeId>, Refusal> {
        check_create(request)?;
        let name = canonical(&request.name);
        self.refuse_recovering(name)?;
        if self.names.contains_key(name) {
            let name = name.to_owned();
            return Err(VolumeRefusal::Exists { name }.into());
        }
        let mut cluster = self.cluster.clone();
        let volume = VolumeRow {
            id: VolumeId::new(cluster.next_volume),
            name: name.to_owned(),
            size_bytes: request.size_bytes,
            shard_bytes,
            replicas: request.replicas,
            ack: request.ack,
            state: VolumeState::Creating,
            generation: Generation::new(0),
            head_layer: Layer::new(1),
            attached_by: None,
            attached_as: None,
            attached_under: None,
            publication: None,
            served_by: None,
            wanted_by: None,
            attached_for_repair: false,
            repairer: None,
            unfenced: false,
            layers: LayerTable::default(),
            layers_applied: 0,
            settled_layer: Layer::default(),
            settled: true,
            grows_to: None,
            kept_bytes: ByteCount::default(),
            reserve: request.reserve,
            labels: request.labels.clone(),
            origin,
            flattened_to: None,
            key_hash: None,
        };
        self.check_quota(&volume.name, None, &volume)?;
        let copies = u64::from(volume.replicas);
        self.check_over_commit(live, volume.size_bytes.get().saturating_mul(copies))?;
        cluster.next_volume += 1;
        let shards = shard_wants(&volume, 0);
        let candidates = self.candidates(live);
        let (settings, rules) = self.settings_of_new(&request.settings)?;
        let (replicas, first) = (usize::from(request.replicas), ShardIndex::new(0));
        let placed = place_by(&rules, volume.id, replicas, first, &shards, &candidates)?;
        let mut changes = new_shards(&mut cluster, volume.id, 0, placed);
        let id = volume.id;
        changes.push(
            AnyRow::Name(NameRow {
                name: volume.name.clone(),
                volume: id,
            })
            .put(),
        );
        changes.push(AnyRow::Cluster(cluster).put());
        if !settings.is_empty() {
            let row = SettingsRow {
                volume: Some(id),
                values: settings,
            };
            changes.push(AnyRow::Settings(row).put());
        }
        changes.push(AnyRow::Volume(volume).put());
        Ok(Plan {
            reads: vec![project_key(project_of(name))],
            changes,
            answer: id,
        })
    }

    /// The disks that may get replicas.
    pub(super) fn candidates(&self, live: &Live) -> Vec<Candidate> {
        let usable = self.disks.iter().filter_map(|(disk, row)| {
            let node = self.nodes.get(&row.node).filter(|node| node.up)?;
            let report = live.report(row);
            let is_open = self.schedulable(*disk) == Schedulable::Open;
            let serves = is_open && report.failed.is_none() && !self.is_missed(live, *disk);
            let load = self.load(live, *disk).filter(|_| serves)?;
            Some(Candidate {
                disk: *disk,
                node: row.node,
                labels: labels_of_place(node, Some(row)).into_owned(),
                load,
            })
        });
        usable.collect()
    }

    /// Begins the end of a volume; the stores remove its replicas, then it goes.
    pub(crate) fn plan_delete(&self, name: &str, force: bool) -> Result<Plan<VolumeId>, Refusal> {
        let current = self.require(name)?;
        if current.state == VolumeState::Deleting {
            return Ok(Plan::nothing(current.id));
        }
        self.refuse_clones_of_all(current)?;
        let snapshots = self.snapshots.count_visible(current.id);
        if snapshots > 0 && !force {
            let name = name.to_owned();
            return Err(SnapshotRefusal::OfVolume { name, snapshots }.into());
        }
        let user = current
            .attached_by
            .clone()
            .filter(|_| !current.attached_for_repair);
        if let Some(owner) = user.filter(|_| !force) {
            return Err(VolumeRefusal::Attached {
                name: name.to_owned(),
                owner,
            }
            .into());
        }
        if let Some(publication) = current.publication.as_ref().filter(|_| !force) {
            let (name, node) = (name.to_owned(), publication.node.clone());
            return Err(VolumeRefusal::Published { name, node }.into());
        }
        let mut changes = self.unmapped_everywhere(current, force)?;
        let row = VolumeRow {
            state: VolumeState::Deleting,
            repairer: None,
            ..current.clone()
        };
        let answer = row.id;
        changes.push(AnyRow::Volume(row).put());
        // A clone that is made meanwhile changes the row of its snapshot.
        let snapshots = self.snapshots.of(answer);
        let snapshots = snapshots.map(|row| snapshot_key(answer, row.layer));
        Ok(Plan {
            reads: snapshots.collect(),
            changes,
            answer,
        })
    }

    /// Volumes whose stores have done their part: created ones become ready, those that grow have
    /// grown, deleted ones go. So does what was to be made in place of a lost replica: it is made only
    /// once.
    ///
    /// A deletion does not wait for nodes that are down: they remove what is not assigned to them
    /// when they return, and no id is ever used again.
    pub(crate) fn plan_settle(&self, live: &Live) -> Plan<()> {
        let mut changes = Vec::new();
        let growing = self.growing.keys().copied();
        let under_way: BTreeSet<VolumeId> = self.totals.unsettled().chain(growing).collect();
        for volume in under_way.iter().filter_map(|id| self.volumes.get(id)) {
            let since = self.modified(&volume_key(volume.id));
            let done = |node: NodeId| live.applied(node) >= since;
            match volume.state {
                VolumeState::Creating
                    if self.nodes_of(volume.id).all(|node| done(node.id))
                        && self
                            .disks_of(volume.id)
                            .iter()
                            .all(|disk| self.serves(*disk)) =>
                {
                    let row = VolumeRow {
                        state: VolumeState::Ready,
                        ..volume.clone()
                    };
                    changes.push(AnyRow::Volume(row).put());
                }
                VolumeState::Ready => changes.extend(self.grown(live, volume)),
                VolumeState::Deleting
                    if self
                        .nodes_of(volume.id)
                        .all(|node| !node.up || done(node.id)) =>
                {
                    let shards = self
                        .shards_of(volume.id)
                        .map(|s| shard_key(volume.id, s.index));
                    changes.extend(shards.map(|key| Change::Delete { key }));
                    let snapshots = self.snapshots.of(volume.id);
                    let snapshots = snapshots.map(|row| snapshot_key(volume.id, row.layer));
                    changes.extend(snapshots.map(|key| Change::Delete { key }));
                    let reservations = self.reservations.get(&volume.id);
                    let reservations = reservations.map(|row| reservations_key(row.volume));
                    changes.extend(reservations.map(|key| Change::Delete { key }));
                    changes.extend(self.settings_gone(volume.id));
                    changes.push(Change::Delete {
                        key: name_key(&volume.name),
                    });
                    changes.push(Change::Delete {
                        key: volume_key(volume.id),
                    });
                }
                _ => {}
            }
        }
        changes.extend(self.newly_made(live));
        Plan {
            reads: Vec::new(),
            changes,
            answer: (),
        }
    }

    /// The shards with fresh replicas that their stores have made.
    fn newly_made(&self, live: &Live) -> Vec<Change> {
        let mut rows: BTreeMap<At, ShardRow> = BTreeMap::new();
        for (&id, &at) in &self.unmade {
            let Some(shard) = self.shards.get(&at) else {
                continue;
            };
            let Some(replica) = shard.replicas.iter().find(|r| r.id == id) else {
                continue;
            };
            let held = self.holds.get(&replica.disk).and_then(|held| held.get(&at));
            let has_applied =
                held.is_some_and(|held| live.applied(self.node_of(replica)) >= held.since);
            let is_ready = self
                .volumes
                .get(&at.0)
                .is_some_and(|volume| volume.state == VolumeState::Ready);
            if has_applied && is_ready && self.serves(replica.disk) {
                let row = rows.entry(at).or_insert_with(|| shard.clone());
                row.made.push(id);
            }
        }
        rows.into_values()
            .map(|row| AnyRow::Shard(row).put())
            .collect()
    }

    /// Whether any volume waits for its stores.
    pub(crate) fn has_unsettled(&self) -> bool {
        self.totals.is_any_unsettled() || !self.growing.is_empty() || !self.unmade.is_empty()
    }
}

pub(super) fn check_create(request: &CreateVolume) -> Result<(), InvalidRequest> {
    check_volume_name(canonical(&request.name))?;
    check_size(request.size_bytes)?;
    check_reserve(request.reserve, request.size_bytes)?;
    check_labels(&request.labels)?;
    if !(1..=REPLICAS_MAX).contains(&usize::from(request.replicas)) {
        return Err(InvalidRequest::Replicas {
            replicas: request.replicas,
        });
    }
    Ok(())
}

/// Whether a volume may be so large.
pub(super) fn check_size(size: ByteCount) -> Result<(), InvalidRequest> {
    let bytes = size.get();
    if bytes.is_multiple_of(BLOCK_BYTES_U64)
        && (VOLUME_BYTES_MIN..=VOLUME_BYTES_MAX).contains(&bytes)
    {
        Ok(())
    } else {
        Err(InvalidRequest::Size { size })
    }
}

/// What the shards from `first` on want of their disks.
pub(super) fn shard_wants(volume: &VolumeRow, first: u32) -> Vec<Want> {
    (first..shard_count(volume, space(volume)))
        .map(|i| want(volume, ShardIndex::new(i)))
        .collect()
}

/// The rows of the shards from `first` on, each with replicas at its places: they are in sync as they
/// are made.
pub(super) fn new_shards(
    cluster: &mut ClusterRow,
    volume: VolumeId,
    first: u32,
    placed: Vec<Vec<(NodeId, DiskId)>>,
) -> Vec<Change> {
    let mut changes = Vec::with_capacity(placed.len() + 3);
    for (index, places) in (first..).zip(placed) {
        let replicas = places.into_iter().map(|(node, disk)| {
            let id = ReplicaId::new(cluster.next_replica);
            cluster.next_replica += 1;
            Replica {
                id,
                node,
                disk,
                in_sync: true,
                fresh: false,
                leaving: false,
            }
        });
        let row = ShardRow {
            volume,
            index: ShardIndex::new(index),
            epoch: Epoch::new(1),
            replicas: replicas.collect(),
            made: Vec::new(),
            rebalancing: false,
        };
        changes.push(AnyRow::Shard(row).put());
    }
    changes
}
