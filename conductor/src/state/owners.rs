//! Plans for owners: attach, detach, in-sync sets.
//!
//! Invariants: a generation is granted once; an in-sync set changes only by a proposal of the
//! current generation of that very volume, not of one of its name, on the current epoch; a volume
//! that is attached is not settled.

use ashlar_proto::api::{
    AttachRequest, Attachment, DetachRequest, InSyncCommitted, ProposeInSync, Replica, Revision,
    VolumeState,
};
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_proto::{Generation, ReplicaId, VolumeId};

use super::healing::forget_gone;
use super::layers::sealed_top;
use super::publications::check_publication;
use super::{ClusterState, Plan};
use crate::live::Live;
use crate::membership::Moment;
use crate::refusal::{InvalidRequest, Refusal, VolumeRefusal, check_text};
use crate::row::{AnyRow, AttachedAs, ShardRow, VolumeRow, shard_key, volume_key};

impl ClusterState {
    /// The next generation, for whoever asks; its revision is filled in once it is committed.
    pub(crate) fn plan_attach(
        &self,
        live: &Live,
        now: Moment,
        name: &str,
        request: &AttachRequest,
    ) -> Result<Plan<Attachment>, Refusal> {
        self.plan_attach_as(live, now, name, request, None)
    }

    /// The same for somebody who has shown who it is.
    pub(super) fn plan_attach_as(
        &self,
        live: &Live,
        now: Moment,
        name: &str,
        request: &AttachRequest,
        shown: Option<AttachedAs>,
    ) -> Result<Plan<Attachment>, Refusal> {
        check_text("owner", &request.owner)?;
        if !request.repair {
            self.refuse_denied(&request.owner, shown.as_ref())?;
        }
        let current = self.require(name)?;
        self.refuse_held_back(name)?;
        if current.state != VolumeState::Ready {
            let (name, state) = (name.to_owned(), current.state);
            return Err(VolumeRefusal::NotReady { name, state }.into());
        }
        if !request.repair {
            check_publication(current, request.publication)?;
        }
        self.check_server(request)?;
        Self::check_taken(current, request)?;
        if let Some(owner) = self.who_keeps_it(live, now, current, request) {
            let name = name.to_owned();
            return Err(VolumeRefusal::Attached { name, owner }.into());
        }
        let row = VolumeRow {
            generation: current.generation.next(),
            attached_by: Some(request.owner.clone()),
            attached_as: shown,
            attached_under: request.publication.filter(|_| !request.repair),
            attached_for_repair: request.repair,
            served_by: request.server.map(|server| server.group),
            wanted_by: None,
            repairer: current.repairer.filter(|_| request.repair),
            settled: false,
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

    /// The owner that a volume is not taken from by an attach.
    ///
    /// A user's attach takes it from a repair owner always, from another user by force, or where both show
    /// the current publication: the node's front end was started again. An iSCSI server's takes it
    /// from another one that is heard only as [`Self::is_taken_by_server`] says. A repair
    /// owner's takes it from nobody but itself and a repair owner whose node is down. Both take it
    /// from an owner that is gone.
    fn who_keeps_it(
        &self,
        live: &Live,
        now: Moment,
        current: &VolumeRow,
        request: &AttachRequest,
    ) -> Option<String> {
        let owner = current.attached_by.as_ref()?;
        let is_taken = if self.is_orphaned(live, now, current) {
            true
        } else if request.repair {
            let is_same = *owner == request.owner;
            current.attached_for_repair && (is_same || !self.is_repair_owner_up(owner))
        } else if let Some(is_taken) = self.is_taken_by_server(current, request) {
            is_taken || *owner == request.owner
        } else {
            let is_nodes = current.publication.is_some()
                && current.attached_under == current.publication.as_ref().map(|one| one.id);
            current.attached_for_repair || *owner == request.owner || request.force || is_nodes
        };
        (!is_taken).then(|| owner.clone())
    }

    /// The volume that an owner has attached: one of the same name that was made since is another.
    pub(super) fn require_same(
        &self,
        name: &str,
        volume: VolumeId,
    ) -> Result<&VolumeRow, VolumeRefusal> {
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
            attached_as: None,
            attached_under: None,
            attached_for_repair: false,
            served_by: None,
            unfenced: current.unfenced && !request.served,
            // A repair owner that has fenced a denied client is done; what else is amiss is looked at
            // anew.
            repairer: current
                .repairer
                .filter(|_| !(current.unfenced && request.served)),
            settled: request.settled,
            settled_layer: if request.settled {
                sealed_top(current)
            } else {
                current.settled_layer
            },
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
        let is_current = volume.generation == request.generation && volume.attached_by.is_some();
        if !is_current && !is_planted(Planted::AnyGeneration) {
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
        let is_member = |r: &Replica| wanted.binary_search(&r.id).is_ok();
        if current.epoch == request.epoch.next()
            && current.replicas.iter().all(|r| r.in_sync == is_member(r))
        {
            let shard = self.show_shard(current);
            return Ok(Plan::nothing(InSyncCommitted { shard }));
        }
        if current.epoch != request.epoch && !is_planted(Planted::AnyEpoch) {
            let (given, current) = (request.epoch, current.epoch);
            return Err(VolumeRefusal::StaleEpoch {
                name,
                shard: index,
                given,
                current,
            }
            .into());
        }
        let known = |id: &ReplicaId| current.replicas.iter().any(|r| r.id == *id);
        if let Some(replica) = wanted.iter().copied().find(|id| !known(id)) {
            return Err(VolumeRefusal::ReplicaGone {
                name,
                shard: index,
                replica,
            }
            .into());
        }
        let row = with_set(current, &wanted, usize::from(volume.replicas));
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
}

/// The shard with its next set, `wanted` in order. Who is in it is fresh no more; who was leaving
/// and is not in it goes, once `replicas` others are.
fn with_set(current: &ShardRow, wanted: &[ReplicaId], replicas: usize) -> ShardRow {
    let mut row = ShardRow {
        epoch: current.epoch.next(),
        ..current.clone()
    };
    for replica in &mut row.replicas {
        replica.in_sync = wanted.binary_search(&replica.id).is_ok();
        replica.fresh &= !replica.in_sync;
    }
    if wanted.len() >= replicas {
        row.replicas.retain(|r| r.in_sync || !r.leaving);
    }
    forget_gone(&mut row);
    row
}

pub(super) fn stale_generation(volume: &VolumeRow, given: Generation) -> VolumeRefusal {
    let (name, current) = (volume.name.clone(), volume.generation);
    VolumeRefusal::StaleGeneration {
        name,
        given,
        current,
    }
}
