//! The conductor of a simulated cluster: one volume's map in memory, and the road to it.
//!
//! It commits what the design says and no more: a generation at each attach, and an in-sync set
//! when generation and epoch are current. Between these it replaces replicas that are not in sync
//! and moves others, as a conductor does for lost and draining disks. It also watches: no proposal
//! takes one replica in and another out. Its answers take time, and some are lost before or after
//! the deed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use ashlar_client::{ClusterSource, SourceError};
use ashlar_proto::api::{
    AckRule, Assignment, AttachRequest, Attachment, DetachRequest, DiskLocation, Health,
    InSyncCommitted, ProposeInSync, Replica, Revision, Shard, Volume, VolumeMap, VolumeState,
};
use ashlar_proto::{
    BlockCount, ByteCount, ClusterId, DiskId, Epoch, Generation, Layer, ReplicaId, ShardIndex,
    VolumeId,
};
use ashlar_reactor::Reactor;
use ashlar_reactor::sim::Rng;

/// How long a question for the map waits for news, and how often it looks.
const MAP_WAIT: Duration = Duration::from_secs(30);
const MAP_POLL: Duration = Duration::from_millis(200);

/// The only volume.
pub const VOLUME_NAME: &str = "volume";
/// Its id.
pub const VOLUME: VolumeId = VolumeId::new(0x51b);
/// The cluster.
pub const CLUSTER: ClusterId = ClusterId::new(0xc1a5);

/// The map of the volume.
pub struct Metadata {
    volume: Volume,
    disks: Vec<DiskLocation>,
    /// In-sync sets as they were when each generation was granted.
    granted: BTreeMap<Generation, Vec<Vec<DiskId>>>,
    rng: Rng,
    next_replica: u64,
    /// Fresh replicas that their stores have made: they are not made again.
    made: BTreeSet<ReplicaId>,
    /// Raised at each change.
    revision: Revision,
    /// Of a million answers, how many are lost.
    pub lost_per_million: u32,
    /// Hosts that do not reach the conductor.
    pub cut_off: BTreeSet<IpAddr>,
    /// What must not have been proposed.
    pub failure: Option<String>,
}

/// How the volume is cut.
#[derive(Clone, Copy, Debug)]
pub struct VolumeShape {
    /// Bytes of the volume.
    pub bytes: u64,
    /// Bytes of each shard but the last.
    pub shard_bytes: u64,
    /// When a write is acknowledged.
    pub ack: AckRule,
}

impl Metadata {
    /// A volume with a replica of each shard on each of the first `replicas` disks.
    #[must_use]
    pub fn new(
        shape: VolumeShape,
        replicas: usize,
        disks: Vec<DiskLocation>,
        rng: Rng,
    ) -> Rc<RefCell<Self>> {
        let shards = shape.bytes.div_ceil(shape.shard_bytes);
        let mut next_replica = 0;
        let shards = (0..u32::try_from(shards).unwrap_or(u32::MAX)).map(|index| Shard {
            index: ShardIndex::new(index),
            epoch: Epoch::new(1),
            replicas: disks[..replicas]
                .iter()
                .map(|disk| {
                    next_replica += 1;
                    Replica {
                        id: ReplicaId::new(next_replica),
                        node: disk.node,
                        disk: disk.disk,
                        in_sync: true,
                        fresh: false,
                        leaving: false,
                    }
                })
                .collect(),
        });
        let volume = Volume {
            id: VOLUME,
            name: VOLUME_NAME.to_owned(),
            size_bytes: ByteCount::new(shape.bytes),
            shard_bytes: ByteCount::new(shape.shard_bytes),
            replicas: u8::try_from(replicas).unwrap_or(u8::MAX),
            ack: shape.ack,
            state: VolumeState::Ready,
            health: Health::Healthy,
            generation: Generation::new(0),
            head_layer: Layer::new(1),
            attached_by: None,
            shards: shards.collect(),
        };
        let next_replica = next_replica + 1;
        Rc::new(RefCell::new(Self {
            volume,
            disks,
            granted: BTreeMap::new(),
            rng,
            next_replica,
            made: BTreeSet::new(),
            revision: Revision(1),
            lost_per_million: 0,
            cut_off: BTreeSet::new(),
            failure: None,
        }))
    }

    /// The shards as they stand.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        &self.volume.shards
    }

    /// For each shard: the set that a generation was granted on, and the set now.
    #[must_use]
    pub fn sets(&self, generation: Generation) -> Vec<(Vec<DiskId>, Vec<DiskId>)> {
        let granted = self.granted.get(&generation).cloned().unwrap_or_default();
        let now = self.volume.shards.iter().map(in_sync_disks);
        granted.into_iter().zip(now).collect()
    }

    /// The acknowledgement rule.
    #[must_use]
    pub fn ack(&self) -> AckRule {
        self.volume.ack
    }

    fn map(&self) -> VolumeMap {
        VolumeMap {
            volume: self.volume.clone(),
            disks: self.disks.clone(),
            revision: self.revision,
        }
    }

    /// What a disk must hold.
    #[must_use]
    pub fn assignments(&self, disk: DiskId, blocks: BlockCount) -> Vec<Assignment> {
        let held = self.volume.shards.iter().filter_map(|shard| {
            let replica = shard.replicas.iter().find(|r| r.disk == disk)?;
            Some(Assignment {
                volume: VOLUME,
                shard: shard.index,
                replica: replica.id,
                disk,
                blocks: blocks.get(),
                may_create: replica.fresh && !self.made.contains(&replica.id),
            })
        });
        held.collect()
    }

    /// A store has carried these out.
    pub fn note_made(&mut self, assignments: &[Assignment]) {
        self.made.extend(assignments.iter().map(|a| a.replica));
    }

    /// Makes replicas of a disk elsewhere: in place of those that are not in sync, beside those that
    /// are, which are to leave then.
    pub fn empty(&mut self, disk: DiskId) {
        for shard in &mut self.volume.shards {
            let Some(position) = shard.replicas.iter().position(|r| r.disk == disk) else {
                continue;
            };
            let holds = |d: &DiskLocation| shard.replicas.iter().any(|r| r.disk == d.disk);
            let free: Vec<_> = self.disks.iter().filter(|d| !holds(d)).collect();
            let is_moving = shard.replicas.len() > usize::from(self.volume.replicas);
            if free.is_empty() {
                continue;
            }
            let to = free[self.rng.index(free.len())];
            let fresh = Replica {
                id: ReplicaId::new(self.next_replica),
                node: to.node,
                disk: to.disk,
                in_sync: false,
                fresh: true,
                leaving: false,
            };
            let old = &mut shard.replicas[position];
            if !old.in_sync {
                *old = fresh;
            } else if !is_moving {
                old.leaving = true;
                shard.replicas.push(fresh);
            } else {
                continue;
            }
            self.next_replica += 1;
            self.revision.0 += 1;
        }
    }

    /// Ends moves: what is fresh beside a leaving replica goes, and that stays; one that has left
    /// goes.
    pub fn tidy(&mut self) {
        let replicas = usize::from(self.volume.replicas);
        for shard in &mut self.volume.shards {
            if shard.replicas.len() > replicas {
                let before = shard.replicas.len();
                let gone = |r: &Replica| r.leaving && !r.in_sync;
                if shard.replicas.iter().any(gone) {
                    shard.replicas.retain(|r| !gone(r));
                } else if shard.replicas.iter().any(|r| r.fresh) {
                    shard.replicas.retain(|r| !r.fresh);
                    shard.replicas.iter_mut().for_each(|r| r.leaving = false);
                }
                self.revision.0 += u64::from(shard.replicas.len() != before);
            }
        }
    }

    fn attach(&mut self, request: &AttachRequest) -> Result<Attachment, SourceError> {
        match &self.volume.attached_by {
            Some(holder) if *holder != request.owner && !request.force => {
                return Err(SourceError::Attached {
                    owner: holder.as_str().into(),
                });
            }
            _ => {}
        }
        self.volume.generation = self.volume.generation.next();
        self.revision.0 += 1;
        self.volume.attached_by = Some(request.owner.clone());
        let sets = self.volume.shards.iter().map(in_sync_disks).collect();
        self.granted.insert(self.volume.generation, sets);
        Ok(Attachment {
            cluster: CLUSTER,
            volume: self.volume.clone(),
            disks: self.disks.clone(),
            revision: self.revision,
        })
    }

    fn detach(&mut self, request: &DetachRequest) -> Result<(), SourceError> {
        if (request.volume, request.generation) != (self.volume.id, self.volume.generation) {
            return Err(SourceError::Superseded);
        }
        self.volume.attached_by = None;
        Ok(())
    }

    fn propose(&mut self, proposal: &ProposeInSync) -> Result<InSyncCommitted, SourceError> {
        if (proposal.volume, proposal.generation) != (self.volume.id, self.volume.generation) {
            return Err(SourceError::Superseded);
        }
        let at = usize::try_from(proposal.shard.get()).unwrap_or(usize::MAX);
        let shard = self
            .volume
            .shards
            .get_mut(at)
            .ok_or(SourceError::NotFound)?;
        let wanted = |replica: &Replica| proposal.in_sync.contains(&replica.id);
        let same = shard
            .replicas
            .iter()
            .all(|replica| replica.in_sync == wanted(replica));
        if shard.epoch == proposal.epoch.next() && same {
            return Ok(InSyncCommitted {
                shard: shard.clone(),
            });
        }
        if shard.epoch != proposal.epoch {
            return Err(SourceError::Superseded);
        }
        let is_known = |id: &ReplicaId| shard.replicas.iter().any(|known| known.id == *id);
        if !proposal.in_sync.iter().all(is_known) {
            return Err(SourceError::ReplicaGone);
        }
        let comes = |replica: &Replica| wanted(replica) && !replica.in_sync;
        let leaves = |replica: &Replica| !wanted(replica) && replica.in_sync;
        if shard.replicas.iter().any(comes) && shard.replicas.iter().any(leaves) {
            let what = format!("shard {at}: one proposal takes a replica in and another out");
            self.failure.get_or_insert(what);
        }
        if !shard.replicas.iter().any(wanted) {
            self.failure
                .get_or_insert(format!("shard {at}: an empty set was proposed"));
        }
        self.revision.0 += 1;
        shard.epoch = shard.epoch.next();
        for replica in &mut shard.replicas {
            replica.in_sync = proposal.in_sync.contains(&replica.id);
            replica.fresh &= !replica.in_sync;
        }
        if proposal.in_sync.len() >= usize::from(self.volume.replicas) {
            shard.replicas.retain(|r| r.in_sync || !r.leaving);
        }
        Ok(InSyncCommitted {
            shard: shard.clone(),
        })
    }
}

fn in_sync_disks(shard: &Shard) -> Vec<DiskId> {
    shard
        .replicas
        .iter()
        .filter(|r| r.in_sync)
        .map(|r| r.disk)
        .collect()
}

/// An owner's road to the metadata.
pub struct MemorySource {
    /// The owner's process.
    pub reactor: Reactor,
    /// Its host.
    pub host: IpAddr,
    /// The map.
    pub metadata: Rc<RefCell<Metadata>>,
}

impl MemorySource {
    async fn ask<T>(
        &self,
        act: impl FnOnce(&mut Metadata) -> Result<T, SourceError>,
    ) -> Result<T, SourceError> {
        let (there, back, lost_there, lost_back) = {
            let mut metadata = self.metadata.borrow_mut();
            let rate = metadata.lost_per_million;
            let rng = &mut metadata.rng;
            (
                rng.below(3_000),
                rng.below(3_000),
                rng.chance(rate),
                rng.chance(rate),
            )
        };
        self.reactor.sleep(Duration::from_micros(there)).await;
        let is_cut_off = || self.metadata.borrow().cut_off.contains(&self.host);
        if lost_there || is_cut_off() {
            self.reactor.sleep(Duration::from_secs(1)).await;
            return Err(SourceError::Unreachable);
        }
        let answer = act(&mut self.metadata.borrow_mut());
        self.reactor.sleep(Duration::from_micros(back)).await;
        if lost_back || is_cut_off() {
            self.reactor.sleep(Duration::from_secs(1)).await;
            return Err(SourceError::Unreachable);
        }
        answer
    }
}

impl ClusterSource for MemorySource {
    async fn attach(&self, _: &str, request: &AttachRequest) -> Result<Attachment, SourceError> {
        self.ask(|metadata| metadata.attach(request)).await
    }

    async fn map(&self, _: &str, after: Revision) -> Result<VolumeMap, SourceError> {
        let until = self.reactor.now() + MAP_WAIT;
        while self.metadata.borrow().revision == after && self.reactor.now() < until {
            self.reactor.sleep(MAP_POLL).await;
        }
        self.ask(|metadata| Ok(metadata.map())).await
    }

    async fn detach(&self, _: &str, request: &DetachRequest) -> Result<(), SourceError> {
        self.ask(|metadata| metadata.detach(request)).await
    }

    async fn propose_in_sync(
        &self,
        _: &str,
        proposal: &ProposeInSync,
    ) -> Result<InSyncCommitted, SourceError> {
        self.ask(|metadata| metadata.propose(proposal)).await
    }
}
