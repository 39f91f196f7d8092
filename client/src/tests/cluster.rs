//! A cluster of fake stores and an in-memory conductor, in one simulated world.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use ashlar_proto::api::{
    AckRule, AttachRequest, Attachment, DetachRequest, DiskLocation, Health, HoldAnswer,
    HoldOutcome, HoldWord, InSyncCommitted, OwnerHeartbeat, ProposeInSync, Replica, ReportFlatten,
    ReportHold, ReportLayers, Revision, Shard, SnapshotMap, Volume as VolumeMap, VolumeHold,
    VolumeMap as ApiMap, VolumeState,
};
use ashlar_proto::{
    ByteCount, ClusterId, Epoch, Generation, Layer, LayerTable, NodeId, ReplicaId, ShardIndex,
    VolumeId,
};
use ashlar_reactor::Reactor;
use ashlar_reactor::channel::Notify;
use ashlar_reactor::sim::{Process, World};

use super::replica::FakeStore;
use crate::{AttachError, ClusterSource, SourceError, Volume, VolumeOptions};

/// Bytes of the volume and of its shards.
pub(super) const VOLUME_BYTES: u64 = 40 << 20;
const SHARD_BYTES: u64 = 16 << 20;

/// The conductor's part, in memory.
pub(super) struct FakeConductor {
    map: RefCell<VolumeMap>,
    disks: Vec<DiskLocation>,
    /// The owner's last heartbeat.
    pub(super) heard: RefCell<Option<OwnerHeartbeat>>,
    /// What the owner said of its layers.
    pub(super) layers: RefCell<Vec<ReportLayers>>,
    /// What the owner said of holds.
    pub(super) holds: RefCell<Vec<ReportHold>>,
    /// What one that holds is answered, once there is something.
    outcome: Cell<Option<HoldAnswer>>,
    answered: Notify,
    /// It answers nothing.
    pub(super) down: Cell<bool>,
    /// Answers are lost after the change was made.
    pub(super) loses_answers: Cell<bool>,
}

impl FakeConductor {
    /// A snapshot of a layer while nobody has the volume: the next owner writes above it.
    pub(super) fn seal(&self, layer: Layer) {
        self.map.borrow_mut().head_layer = Layer::new(layer.get() + 1);
    }

    /// The in-sync replicas of a shard, by number of store.
    pub(super) fn in_sync(&self, shard: usize) -> Vec<u64> {
        let map = self.map.borrow();
        let replicas = map.shards[shard].replicas.iter();
        replicas
            .filter(|r| r.in_sync)
            .map(|r| r.node.get())
            .collect()
    }

    /// The map with that head, and what it says of a hold.
    pub(super) fn told(&self, head: u32, hold: Option<VolumeHold>) -> ApiMap {
        let mut volume = self.map.borrow().clone();
        volume.head_layer = Layer::new(head);
        volume.hold = hold;
        let (disks, revision) = (self.disks.clone(), Revision(2));
        ApiMap {
            volume,
            disks,
            revision,
        }
    }

    /// Answers whoever holds.
    pub(super) fn answer_hold(&self, outcome: HoldOutcome, head: u32) {
        let head_layer = Layer::new(head);
        self.outcome.set(Some(HoldAnswer {
            outcome,
            head_layer,
        }));
        self.answered.notify_all();
    }

    /// What the owner said of holds, in order.
    pub(super) fn words(&self) -> Vec<HoldWord> {
        self.holds.borrow().iter().map(|said| said.word).collect()
    }

    /// Whether the map shows the volume as attached.
    pub(super) fn is_attached(&self) -> bool {
        self.map.borrow().attached_by.is_some()
    }

    fn check_up(&self) -> Result<(), SourceError> {
        if self.down.get() {
            return Err(SourceError::Unreachable);
        }
        Ok(())
    }
}

impl ClusterSource for FakeConductor {
    async fn attach(&self, _: &str, request: &AttachRequest) -> Result<Attachment, SourceError> {
        self.check_up()?;
        let mut map = self.map.borrow_mut();
        map.attached_by = Some(request.owner.clone());
        map.generation = map.generation.next();
        Ok(Attachment {
            cluster: ClusterId::new(1),
            volume: map.clone(),
            disks: self.disks.clone(),
            revision: Revision(1),
        })
    }

    async fn map(&self, _: &str, _: Revision) -> Result<ApiMap, SourceError> {
        // It never changes.
        std::future::pending().await
    }

    async fn heartbeat(&self, heartbeat: &OwnerHeartbeat) -> Result<(), SourceError> {
        self.check_up()?;
        self.heard.replace(Some(heartbeat.clone()));
        Ok(())
    }

    async fn detach(&self, _: &str, request: &DetachRequest) -> Result<(), SourceError> {
        self.check_up()?;
        let mut map = self.map.borrow_mut();
        if request.volume == map.id && request.generation == map.generation {
            map.attached_by = None;
            Ok(())
        } else {
            Err(SourceError::Superseded)
        }
    }

    async fn report_layers(&self, _: &str, report: &ReportLayers) -> Result<(), SourceError> {
        self.check_up()?;
        self.layers.borrow_mut().push(*report);
        Ok(())
    }

    async fn report_flatten(&self, _: &str, _: &ReportFlatten) -> Result<(), SourceError> {
        self.check_up()
    }

    async fn report_hold(&self, _: &str, report: &ReportHold) -> Result<HoldAnswer, SourceError> {
        self.check_up()?;
        self.holds.borrow_mut().push(*report);
        loop {
            if let Some(answer) = self.outcome.get() {
                return Ok(answer);
            }
            self.answered.notified().await;
        }
    }

    async fn snapshot(&self, _: &str, _: &str) -> Result<SnapshotMap, SourceError> {
        Err(SourceError::NotFound)
    }

    async fn propose_in_sync(
        &self,
        _: &str,
        proposal: &ProposeInSync,
    ) -> Result<InSyncCommitted, SourceError> {
        self.check_up()?;
        let mut map = self.map.borrow_mut();
        if proposal.volume != map.id || proposal.generation != map.generation {
            return Err(SourceError::Superseded);
        }
        let shard = &mut map.shards[proposal.shard.get() as usize];
        let same = shard
            .replicas
            .iter()
            .all(|r| r.in_sync == proposal.in_sync.contains(&r.id));
        if proposal.epoch == shard.epoch {
            for replica in &mut shard.replicas {
                replica.in_sync = proposal.in_sync.contains(&replica.id);
            }
            shard.epoch = shard.epoch.next();
        } else if proposal.epoch.next() != shard.epoch || !same {
            return Err(SourceError::Superseded);
        }
        if self.loses_answers.get() {
            return Err(SourceError::Unreachable);
        }
        Ok(InSyncCommitted {
            shard: shard.clone(),
        })
    }
}

/// A world with stores, a conductor and a volume.
pub(super) struct Cluster {
    pub(super) world: World,
    pub(super) stores: Vec<Rc<FakeStore>>,
    pub(super) conductor: Rc<FakeConductor>,
    owners: Cell<u8>,
}

impl Cluster {
    /// `replicas` running stores, each with a replica of every shard.
    pub(super) fn new(seed: u64, replicas: u8, ack: AckRule, volatile_cache: bool) -> Self {
        let world = World::new(seed);
        let stores: Vec<_> = (0..replicas)
            .map(|number| FakeStore::new(number, volatile_cache))
            .collect();
        let mut shards = Vec::new();
        for index in 0..u32::try_from(VOLUME_BYTES.div_ceil(SHARD_BYTES)).unwrap() {
            let index = ShardIndex::new(index);
            let mut copies = Vec::new();
            for (number, store) in stores.iter().enumerate() {
                let id = ReplicaId::new(u64::from(index.get()) * 10 + number as u64 + 1);
                store.create(index, id);
                copies.push(Replica {
                    id,
                    node: NodeId::new(number as u64),
                    disk: store.disk,
                    in_sync: true,
                    fresh: false,
                    leaving: false,
                });
            }
            shards.push(Shard {
                index,
                epoch: Epoch::new(1),
                replicas: copies,
            });
        }
        let map = VolumeMap {
            id: VolumeId::new(77),
            name: "v".into(),
            labels: Default::default(),
            size_bytes: ByteCount::new(VOLUME_BYTES),
            grows_to: None,
            origin: None,
            flattening: None,
            settings: ashlar_proto::api::VolumeSettings::default(),
            shard_bytes: ByteCount::new(SHARD_BYTES),
            replicas,
            ack,
            reserve: ashlar_proto::api::Reserve::None,
            state: VolumeState::Ready,
            health: Health::Healthy,
            generation: Generation::new(0),
            head_layer: Layer::new(1),
            layers: LayerTable::default(),
            layers_applied: 0,
            settled_layer: Layer::default(),
            snapshots: 0,
            attached_by: None,
            publication: None,
            service: ashlar_proto::api::VolumeService::default(),
            hold: None,
            shards,
        };
        let disks = stores
            .iter()
            .enumerate()
            .map(|(number, store)| DiskLocation {
                disk: store.disk,
                node: NodeId::new(number as u64),
                node_name: None,
                lanes: 1,
                address: store.address(),
            });
        let conductor = FakeConductor {
            map: RefCell::new(map),
            disks: disks.collect(),
            heard: RefCell::default(),
            layers: RefCell::default(),
            holds: RefCell::default(),
            outcome: Cell::default(),
            answered: Notify::new(),
            down: Cell::new(false),
            loses_answers: Cell::new(false),
        };
        for store in &stores {
            store.start(&world);
        }
        Self {
            world,
            stores,
            conductor: Rc::new(conductor),
            owners: Cell::new(0),
        }
    }

    /// A process for an owner, on a host of its own.
    pub(super) fn owner(&self) -> Process {
        self.owners.set(self.owners.get() + 1);
        let host = IpAddr::from([10, 0, 2, self.owners.get()]);
        self.world.process("owner", host)
    }

    /// Attaches with short bounds.
    pub(super) async fn attach(&self, reactor: &Reactor) -> Result<Volume, AttachError> {
        let conductor = Rc::clone(&self.conductor);
        Volume::attach(reactor, conductor, "v", options()).await
    }

    /// Runs the test's future for at most half an hour of virtual time.
    pub(super) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let limit = Duration::from_secs(1800);
        self.world.run(limit, future).expect("the test ends")
    }
}

/// Short bounds, so that failures show soon.
pub(super) fn options() -> VolumeOptions {
    VolumeOptions {
        attach_patience: Duration::from_secs(1),
        attach_timeout: Duration::from_secs(20),
        io_timeout: Duration::from_secs(10),
        request_timeout: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(1),
        replica_grace: Duration::from_millis(500),
        ..VolumeOptions::new("test")
    }
}
