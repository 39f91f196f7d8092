//! Plans for volumes: create, attach, detach, in-sync sets, delete.
//!
//! ```text
//!  create ──▶ Creating ── all its nodes have applied ──▶ Ready ── delete ──▶ Deleting ──▶ (gone)
//!                 └───────────────── delete ────────────────────────────────────▲
//! ```
//!
//! Invariants: a generation is granted once; an in-sync set changes only by a proposal of the
//! current generation of that very volume, not of one of its name, on the current epoch; ids are
//! never used again.

use ashlar_proto::api::{
    AttachRequest, Attachment, CreateVolume, DetachRequest, InSyncCommitted, ProposeInSync,
    Replica, Revision, VolumeState,
};
use ashlar_proto::limits::{
    BLOCK_BYTES_U64, REPLICAS_MAX, SHARD_BYTES_DEFAULT, VOLUME_BYTES_MAX, VOLUME_BYTES_MIN,
};
use ashlar_proto::{ByteCount, Epoch, Generation, Layer, NodeId, ReplicaId, ShardIndex, VolumeId};

use super::{ClusterState, Plan, shard_bytes};
use crate::live::Live;
use crate::meta::Change;
use crate::placement::{Candidate, place};
use crate::refusal::{InvalidRequest, Refusal, VolumeRefusal, check_name, check_text};
use crate::row::{AnyRow, NameRow, ShardRow, VolumeRow, name_key, shard_key, volume_key};

impl ClusterState {
    fn require(&self, name: &str) -> Result<&VolumeRow, VolumeRefusal> {
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
    ) -> Result<Plan<VolumeId>, Refusal> {
        check_create(request)?;
        if self.names.contains_key(&request.name) {
            return Err(VolumeRefusal::Exists {
                name: request.name.clone(),
            }
            .into());
        }
        let mut cluster = self.cluster.clone();
        let volume = VolumeRow {
            id: VolumeId::new(cluster.next_volume),
            name: request.name.clone(),
            size_bytes: request.size_bytes,
            shard_bytes: ByteCount::new(SHARD_BYTES_DEFAULT),
            replicas: request.replicas,
            ack: request.ack,
            state: VolumeState::Creating,
            generation: Generation::new(0),
            head_layer: Layer::new(1),
            attached_by: None,
        };
        cluster.next_volume += 1;
        let shards = shard_lengths(&volume);
        let candidates = self.candidates(live);
        let placed = place(
            volume.id,
            usize::from(request.replicas),
            &shards,
            &candidates,
        )?;
        let mut changes = Vec::with_capacity(placed.len() + 3);
        for (index, places) in (0u32..).zip(placed) {
            let replicas = places.into_iter().map(|(node, disk)| {
                let id = ReplicaId::new(cluster.next_replica);
                cluster.next_replica += 1;
                Replica {
                    id,
                    node,
                    disk,
                    in_sync: true,
                }
            });
            changes.push(new_shard(volume.id, index, replicas.collect()));
        }
        let id = volume.id;
        changes.push(
            AnyRow::Name(NameRow {
                name: volume.name.clone(),
                volume: id,
            })
            .put(),
        );
        changes.push(AnyRow::Cluster(cluster).put());
        changes.push(AnyRow::Volume(volume).put());
        Ok(Plan {
            reads: Vec::new(),
            changes,
            answer: id,
        })
    }

    /// The disks that may get replicas.
    fn candidates(&self, live: &Live) -> Vec<Candidate> {
        let usable = self.disks.iter().filter_map(|(disk, row)| {
            let node = self.nodes.get(&row.node).filter(|node| node.up)?;
            let report = live.report(row);
            report.failed.is_none().then(|| Candidate {
                disk: *disk,
                node: row.node,
                labels: node.labels.clone(),
                usable: report.usable_bytes,
                used: report.used_bytes,
                promised: self.promised(*disk),
            })
        });
        usable.collect()
    }

    /// The next generation, for whoever asks; its revision is filled in once it is committed.
    pub(crate) fn plan_attach(
        &self,
        name: &str,
        request: &AttachRequest,
    ) -> Result<Plan<Attachment>, Refusal> {
        check_text("owner", &request.owner)?;
        let current = self.require(name)?;
        if current.state != VolumeState::Ready {
            let (name, state) = (name.to_owned(), current.state);
            return Err(VolumeRefusal::NotReady { name, state }.into());
        }
        let other = current
            .attached_by
            .as_ref()
            .filter(|owner| **owner != request.owner);
        if let Some(owner) = other.filter(|_| !request.force) {
            let (name, owner) = (name.to_owned(), owner.clone());
            return Err(VolumeRefusal::Attached { name, owner }.into());
        }
        let row = VolumeRow {
            generation: current.generation.next(),
            attached_by: Some(request.owner.clone()),
            ..current.clone()
        };
        let answer = Attachment {
            cluster: self.cluster.id,
            volume: self.show_volume(&row, true),
            disks: self.locations(row.id),
            revision: Revision::default(),
        };
        // The grant names the shards as they are: none may change before it is committed.
        let reads = self
            .shards_of(row.id)
            .map(|shard| shard_key(row.id, shard.index))
            .collect();
        Ok(Plan {
            reads,
            changes: vec![AnyRow::Volume(row).put()],
            answer,
        })
    }

    /// The volume that an owner has attached: one of the same name that was made since is another.
    fn require_same(&self, name: &str, volume: VolumeId) -> Result<&VolumeRow, VolumeRefusal> {
        let current = self.require(name)?;
        if current.id == volume {
            return Ok(current);
        }
        Err(VolumeRefusal::OtherVolume {
            name: name.to_owned(),
            given: volume,
            current: current.id,
        })
    }

    /// Ends the attach of that generation. Repeating it changes nothing.
    pub(crate) fn plan_detach(
        &self,
        name: &str,
        request: &DetachRequest,
    ) -> Result<Plan<()>, Refusal> {
        let generation = request.generation;
        let current = self.require_same(name, request.volume)?;
        if current.generation != generation {
            return Err(stale_generation(current, generation).into());
        }
        if current.attached_by.is_none() {
            return Ok(Plan::nothing(()));
        }
        let row = VolumeRow {
            attached_by: None,
            ..current.clone()
        };
        let changes = vec![AnyRow::Volume(row).put()];
        Ok(Plan {
            reads: Vec::new(),
            changes,
            answer: (),
        })
    }

    /// The next in-sync set of a shard.
    pub(crate) fn plan_in_sync(
        &self,
        name: &str,
        request: &ProposeInSync,
    ) -> Result<Plan<InSyncCommitted>, Refusal> {
        let volume = self.require_same(name, request.volume)?;
        if volume.generation != request.generation || volume.attached_by.is_none() {
            return Err(stale_generation(volume, request.generation).into());
        }
        let (index, name) = (request.shard, name.to_owned());
        let Some(current) = self.shards.get(&(volume.id, index)) else {
            return Err(VolumeRefusal::NoSuchShard { name, shard: index }.into());
        };
        let mut wanted = request.in_sync.clone();
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.is_empty() || wanted.len() != request.in_sync.len() {
            return Err(InvalidRequest::InSync.into());
        }
        let known = |id: &ReplicaId| current.replicas.iter().any(|r| r.id == *id);
        if let Some(replica) = wanted.iter().copied().find(|id| !known(id)) {
            return Err(InvalidRequest::NoSuchReplica {
                replica,
                shard: index,
            }
            .into());
        }
        let is_member = |r: &Replica| wanted.binary_search(&r.id).is_ok();
        if current.epoch == request.epoch.next()
            && current.replicas.iter().all(|r| r.in_sync == is_member(r))
        {
            let shard = self.show_shard(current);
            return Ok(Plan::nothing(InSyncCommitted { shard }));
        }
        if current.epoch != request.epoch {
            let (given, current) = (request.epoch, current.epoch);
            return Err(VolumeRefusal::StaleEpoch {
                name,
                shard: index,
                given,
                current,
            }
            .into());
        }
        let mut row = ShardRow {
            epoch: current.epoch.next(),
            ..current.clone()
        };
        for replica in &mut row.replicas {
            replica.in_sync = is_member(replica);
        }
        let answer = InSyncCommitted {
            shard: self.show_shard(&row),
        };
        let changes = vec![AnyRow::Shard(row).put()];
        Ok(Plan {
            reads: vec![volume_key(volume.id)],
            changes,
            answer,
        })
    }

    /// Begins the end of a volume; the stores remove its replicas, then it goes.
    pub(crate) fn plan_delete(&self, name: &str, force: bool) -> Result<Plan<VolumeId>, Refusal> {
        let current = self.require(name)?;
        if current.state == VolumeState::Deleting {
            return Ok(Plan::nothing(current.id));
        }
        if let Some(owner) = current.attached_by.clone().filter(|_| !force) {
            return Err(VolumeRefusal::Attached {
                name: name.to_owned(),
                owner,
            }
            .into());
        }
        let row = VolumeRow {
            state: VolumeState::Deleting,
            ..current.clone()
        };
        let answer = row.id;
        Ok(Plan {
            reads: Vec::new(),
            changes: vec![AnyRow::Volume(row).put()],
            answer,
        })
    }

    /// Volumes whose stores have done their part: created ones become ready, deleted ones go.
    ///
    /// A deletion does not wait for nodes that are down: they remove what is not assigned to them
    /// when they return, and no id is ever used again.
    pub(crate) fn plan_settle(&self, live: &Live) -> Plan<()> {
        let mut changes = Vec::new();
        for volume in self.volumes.values() {
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
                VolumeState::Deleting
                    if self
                        .nodes_of(volume.id)
                        .all(|node| !node.up || done(node.id)) =>
                {
                    let shards = self
                        .shards_of(volume.id)
                        .map(|s| shard_key(volume.id, s.index));
                    changes.extend(shards.map(|key| Change::Delete { key }));
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
        Plan {
            reads: Vec::new(),
            changes,
            answer: (),
        }
    }

    /// Whether any volume waits for its stores.
    pub(crate) fn has_unsettled(&self) -> bool {
        self.volumes
            .values()
            .any(|volume| volume.state != VolumeState::Ready)
    }
}

fn check_create(request: &CreateVolume) -> Result<(), InvalidRequest> {
    check_name(&request.name)?;
    let size = request.size_bytes.get();
    if !size.is_multiple_of(BLOCK_BYTES_U64)
        || !(VOLUME_BYTES_MIN..=VOLUME_BYTES_MAX).contains(&size)
    {
        return Err(InvalidRequest::Size {
            size: request.size_bytes,
        });
    }
    if !(1..=REPLICAS_MAX).contains(&usize::from(request.replicas)) {
        return Err(InvalidRequest::Replicas {
            replicas: request.replicas,
        });
    }
    Ok(())
}

fn shard_lengths(volume: &VolumeRow) -> Vec<ByteCount> {
    let count = volume.size_bytes.get().div_ceil(volume.shard_bytes.get());
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    (0..count)
        .map(|i| ByteCount::new(shard_bytes(volume, ShardIndex::new(i))))
        .collect()
}

fn new_shard(volume: VolumeId, index: u32, replicas: Vec<Replica>) -> Change {
    let (index, epoch) = (ShardIndex::new(index), Epoch::new(1));
    AnyRow::Shard(ShardRow {
        volume,
        index,
        epoch,
        replicas,
    })
    .put()
}

fn stale_generation(volume: &VolumeRow, given: Generation) -> VolumeRefusal {
    let (name, current) = (volume.name.clone(), volume.generation);
    VolumeRefusal::StaleGeneration {
        name,
        given,
        current,
    }
}
