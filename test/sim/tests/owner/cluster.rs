//! Three real stores on simulated disks, and a conductor's map in memory.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use ashlar_client::{
    AttachError, ClusterSource, Snapshot as OpenSnapshot, SourceError, Volume as Attached,
    VolumeOptions,
};
use ashlar_proto::api::{
    AckRule, Assignment, AttachRequest, Attachment, DetachRequest, DiskLocation, Health,
    InSyncCommitted, ProposeInSync, Replica, ReportFlatten, ReportLayers, Revision, Shard,
    Snapshot, SnapshotMap, SnapshotState, Volume, VolumeMap, VolumeState,
};
use ashlar_proto::{
    Address, ByteCount, ClusterId, DiskId, Epoch, Generation, Layer, LayerRange, LayerTable,
    NodeId, ReplicaId, ShardIndex, VolumeId,
};
use ashlar_reactor::channel::Notify;
use ashlar_reactor::sim::{DiskSpec, Process, SimDisk, World};
use ashlar_reactor::{DiskOptions, Reactor};
use ashlar_store::disk::{FormatOptions, format_disk};
use ashlar_store::{StoreHandle, StoreOptions, StoreService};

const LIMIT: Duration = Duration::from_secs(3600);
const CLUSTER: ClusterId = ClusterId::new(0xc1);
const VOLUME: VolumeId = VolumeId::new(0x77);
const LANES: u16 = 2;
const SHARD_BYTES: u64 = 8 << 20;

/// Bytes of the volume: three shards, the last one short.
pub const VOLUME_BYTES: u64 = 20 << 20;

/// The conductor's part.
pub struct Conductor {
    map: RefCell<Volume>,
    /// The volume as it is when it has grown.
    growth: RefCell<Option<Volume>>,
    disks: Vec<DiskLocation>,
    revision: Cell<u64>,
    changed: Notify,
}

impl Conductor {
    /// The in-sync replicas of a shard, by number of store.
    pub fn in_sync(&self, shard: usize) -> Vec<u64> {
        let map = self.map.borrow();
        let replicas = map.shards[shard].replicas.iter();
        let in_sync = replicas.filter(|replica| replica.in_sync);
        in_sync.map(|replica| replica.node.get()).collect()
    }
}

impl Conductor {
    /// Seals the head layer, which is then a snapshot's; its number is the snapshot's name.
    pub fn seal(&self) -> Layer {
        let mut map = self.map.borrow_mut();
        let sealed = map.head_layer;
        map.head_layer = sealed.next();
        drop(map);
        self.change();
        sealed
    }

    /// Gives the volume another layer table.
    pub fn set_table(&self, live: &[(u32, u32)], dropped: &[(u32, u32)]) {
        let run = |&(low, high): &(u32, u32)| LayerRange::new(Layer::new(low), Layer::new(high));
        let mut map = self.map.borrow_mut();
        map.layers = LayerTable {
            version: map.layers.version + 1,
            live: live.iter().map(run).collect(),
            dropped: dropped.iter().map(run).collect(),
        };
        drop(map);
        self.change();
    }

    /// Has the volume grow: stores are told what they have to hold, owners nothing yet.
    pub fn begin_growth(&self, bytes: u64) {
        let mut grown = self.map.borrow().clone();
        grown.size_bytes = ByteCount::new(bytes);
        let first = u32::try_from(grown.shards.len()).unwrap();
        let count = u32::try_from(bytes.div_ceil(SHARD_BYTES)).unwrap();
        let disks = &self.disks[..usize::from(grown.replicas)];
        let more = (first..count).map(|index| new_shard(index, disks));
        grown.shards.extend(more);
        self.growth.replace(Some(grown));
    }

    /// The stores have grown: owners are told.
    pub fn finish_growth(&self) {
        let grown = self.growth.take().unwrap();
        let mut map = self.map.borrow_mut();
        map.size_bytes = grown.size_bytes;
        let known = map.shards.len();
        map.shards.extend(grown.shards.into_iter().skip(known));
        drop(map);
        self.change();
    }

    /// Goes back to the snapshot of a layer: the owner is out, and what is newer is dropped.
    pub fn roll_back(&self, to: Layer) {
        let mut map = self.map.borrow_mut();
        let head = map.head_layer;
        map.layers = LayerTable {
            version: map.layers.version + 1,
            live: vec![LayerRange::new(Layer::new(1), to)],
            dropped: vec![LayerRange::new(to.next(), head)],
        };
        map.head_layer = head.next();
        map.generation = map.generation.next();
        drop(map);
        self.change();
    }

    /// Whether the layer is settled everywhere, and every in-sync replica goes by the last table.
    pub fn is_settled(&self, layer: Layer) -> bool {
        let map = self.map.borrow();
        map.settled_layer >= layer && map.layers_applied == map.layers.version
    }

    fn change(&self) {
        self.revision.set(self.revision.get() + 1);
        self.changed.notify_all();
    }

    /// Puts a fresh replica on another store, beside the one on `from` if that is to leave, else in
    /// its place. Its store has yet to be told.
    pub fn replace(&self, shard: usize, from: u64, to: u8, leaves: bool) {
        let mut map = self.map.borrow_mut();
        let shard = &mut map.shards[shard];
        let fresh = Replica {
            id: ReplicaId::new(1000 + self.revision.get()),
            node: NodeId::new(u64::from(to)),
            disk: disk_id(to),
            in_sync: false,
            fresh: true,
            leaving: false,
        };
        let old = shard.replicas.iter_mut().find(|r| r.node.get() == from);
        old.unwrap().leaving = leaves;
        if !leaves {
            shard.replicas.retain(|r| r.node.get() != from);
        }
        shard.replicas.push(fresh);
        drop(map);
        self.change();
    }
}

impl ClusterSource for Conductor {
    async fn attach(&self, _: &str, _: &AttachRequest) -> Result<Attachment, SourceError> {
        let mut map = self.map.borrow_mut();
        map.generation = map.generation.next();
        Ok(Attachment {
            cluster: CLUSTER,
            volume: map.clone(),
            disks: self.disks.clone(),
            revision: Revision(self.revision.get()),
        })
    }

    async fn map(&self, _: &str, after: Revision) -> Result<VolumeMap, SourceError> {
        while Revision(self.revision.get()) == after {
            self.changed.notified().await;
        }
        Ok(VolumeMap {
            volume: self.map.borrow().clone(),
            disks: self.disks.clone(),
            revision: Revision(self.revision.get()),
        })
    }

    async fn detach(&self, _: &str, request: &DetachRequest) -> Result<(), SourceError> {
        let map = self.map.borrow();
        let is_current = (request.volume, request.generation) == (map.id, map.generation);
        is_current.then_some(()).ok_or(SourceError::Superseded)
    }

    async fn report_layers(&self, _: &str, report: &ReportLayers) -> Result<(), SourceError> {
        let mut map = self.map.borrow_mut();
        if (report.volume, report.generation) != (map.id, map.generation) {
            return Err(SourceError::Superseded);
        }
        assert!(report.settled < map.head_layer && report.table <= map.layers.version);
        map.settled_layer = map.settled_layer.max(report.settled);
        map.layers_applied = map.layers_applied.max(report.table);
        drop(map);
        self.change();
        Ok(())
    }

    async fn report_flatten(&self, _: &str, report: &ReportFlatten) -> Result<(), SourceError> {
        let map = self.map.borrow();
        let is_current = (report.volume, report.generation) == (map.id, map.generation);
        is_current.then_some(()).ok_or(SourceError::Superseded)
    }

    async fn snapshot(&self, _: &str, name: &str) -> Result<SnapshotMap, SourceError> {
        let volume = self.map.borrow().clone();
        let layer = Layer::new(name.parse().map_err(|_| SourceError::NotFound)?);
        let is_ready = layer <= volume.settled_layer;
        let snapshot = Snapshot {
            volume: volume.id,
            volume_name: volume.name.clone(),
            name: name.to_owned(),
            layer,
            size_bytes: volume.size_bytes,
            created_ms: 0,
            origin: None,
            clones: 0,
            deleted: false,
            state: if is_ready {
                SnapshotState::Ready
            } else {
                SnapshotState::Sealing
            },
            group: None,
        };
        Ok(SnapshotMap {
            cluster: CLUSTER,
            snapshot,
            volume,
            disks: self.disks.clone(),
            others: Vec::new(),
            revision: Revision(self.revision.get()),
        })
    }

    async fn propose_in_sync(
        &self,
        _: &str,
        proposal: &ProposeInSync,
    ) -> Result<InSyncCommitted, SourceError> {
        let mut map = self.map.borrow_mut();
        let current = (map.id, map.generation);
        let shard = &mut map.shards[proposal.shard.get() as usize];
        if (proposal.volume, proposal.generation) != current || proposal.epoch != shard.epoch {
            return Err(SourceError::Superseded);
        }
        for replica in &mut shard.replicas {
            replica.in_sync = proposal.in_sync.contains(&replica.id);
            replica.fresh &= !replica.in_sync;
        }
        shard.replicas.retain(|r| r.in_sync || !r.leaving);
        shard.epoch = shard.epoch.next();
        let shard = shard.clone();
        self.change();
        Ok(InSyncCommitted { shard })
    }
}

/// An owner's road to the conductor.
#[derive(Clone)]
pub struct Road {
    conductor: Rc<Conductor>,
    /// Nothing gets through.
    pub is_cut: Rc<Cell<bool>>,
}

impl Road {
    fn check(&self) -> Result<&Conductor, SourceError> {
        let open = !self.is_cut.get();
        open.then_some(&*self.conductor)
            .ok_or(SourceError::Unreachable)
    }
}

impl ClusterSource for Road {
    async fn attach(&self, name: &str, ask: &AttachRequest) -> Result<Attachment, SourceError> {
        self.check()?.attach(name, ask).await
    }

    async fn map(&self, name: &str, after: Revision) -> Result<VolumeMap, SourceError> {
        let map = self.check()?.map(name, after).await;
        // It may have been cut meanwhile.
        self.check().and(map)
    }

    async fn detach(&self, name: &str, ask: &DetachRequest) -> Result<(), SourceError> {
        self.check()?.detach(name, ask).await
    }

    async fn report_layers(&self, name: &str, report: &ReportLayers) -> Result<(), SourceError> {
        self.check()?.report_layers(name, report).await
    }

    async fn report_flatten(&self, name: &str, report: &ReportFlatten) -> Result<(), SourceError> {
        self.check()?.report_flatten(name, report).await
    }

    async fn snapshot(&self, name: &str, snapshot: &str) -> Result<SnapshotMap, SourceError> {
        self.check()?.snapshot(name, snapshot).await
    }

    async fn propose_in_sync(
        &self,
        name: &str,
        ask: &ProposeInSync,
    ) -> Result<InSyncCommitted, SourceError> {
        self.check()?.propose_in_sync(name, ask).await
    }
}

/// One store's host.
pub struct Site {
    number: u8,
    /// Its disk.
    pub disk: SimDisk,
    process: RefCell<Option<(Process, StoreHandle)>>,
}

impl Site {
    /// Its host.
    pub fn host(&self) -> IpAddr {
        IpAddr::from([10, 0, 1, self.number])
    }

    fn address(&self) -> Address {
        Address::Tcp((self.host(), 7000).into())
    }

    /// Kills its process.
    pub fn kill(&self) {
        if let Some((process, _)) = self.process.take() {
            process.crash();
        }
    }

    /// Where on the media a block with these bytes lies, wherever it does.
    pub fn find(&self, bytes: &[u8]) -> Vec<u64> {
        let mut page = vec![0; 4096];
        let pages = (0..self.disk.spec().bytes).step_by(4096);
        let same = |offset: &u64| {
            self.disk.peek(*offset, &mut page);
            page == bytes
        };
        pages.filter(same).collect()
    }
}

/// See the module.
pub struct Cluster {
    /// The world of the seed.
    pub world: World,
    /// The stores.
    pub sites: Vec<Site>,
    /// The map.
    pub conductor: Rc<Conductor>,
    owners: Cell<u8>,
    /// Of the owners that attach from then on.
    pub scrub_interval: Cell<Duration>,
}

fn disk_id(number: u8) -> DiskId {
    DiskId::new(u128::from(number) + 0xd0)
}

impl Cluster {
    /// `replicas` stores with a replica of every shard each.
    pub fn new(seed: u64, replicas: u8, ack: AckRule, spec: fn(u64) -> DiskSpec) -> Self {
        Self::with_spare(seed, replicas, 0, ack, spec)
    }

    /// The same, and some stores that hold nothing yet.
    pub fn with_spare(
        seed: u64,
        replicas: u8,
        spare: u8,
        ack: AckRule,
        spec: fn(u64) -> DiskSpec,
    ) -> Self {
        let world = World::new(seed);
        let mut sites = Vec::new();
        for number in 0..replicas + spare {
            let host = IpAddr::from([10, 0, 1, number]);
            let size = u64::from(LANES) * (96 << 20) + (2 << 20);
            let disk = world.add_disk(host, "/disk", spec(size));
            let process = world.process("format", host);
            let here = process.reactor().clone();
            let formatted = process.reactor().spawn(async move {
                let options = FormatOptions {
                    lanes: LANES,
                    segment: Some(ByteCount::new(256 << 10)),
                    ..FormatOptions::new(disk_id(number))
                };
                format_disk(&here, DiskOptions::new("/disk"), options).await
            });
            world.run(LIMIT, formatted).unwrap().unwrap();
            process.crash();
            sites.push(Site {
                number,
                disk,
                process: RefCell::new(None),
            });
        }
        let conductor = Rc::new(map_of(&sites, replicas, ack));
        let cluster = Self {
            world,
            sites,
            conductor,
            owners: Cell::new(0),
            scrub_interval: Cell::new(Duration::from_secs(24 * 3600)),
        };
        for number in 0..cluster.sites.len() {
            cluster.start(number);
            cluster.run(cluster.assign(number));
        }
        cluster
    }

    /// Starts a store's process.
    pub fn start(&self, number: usize) {
        let starting = self.starting(number);
        self.world.run(LIMIT, starting).unwrap();
    }

    /// The same from within a test's future.
    pub async fn restart(&self, number: usize) {
        self.starting(number).await;
    }

    fn starting(&self, number: usize) -> impl Future<Output = ()> + '_ {
        let site = &self.sites[number];
        let process = self.world.process("store", site.host());
        let here = process.reactor().clone();
        let options = StoreOptions {
            disks: vec![DiskOptions::new("/disk")],
            listen: vec![site.address()],
            ..StoreOptions::default()
        };
        let started = process
            .reactor()
            .spawn(async move { StoreService::start(&here, options).await });
        async move {
            let handle = started.await.unwrap();
            *site.process.borrow_mut() = Some((process, handle));
        }
    }

    /// Power fails at a store's host: what only a volatile cache held is lost.
    pub fn lose_power(&self, number: usize) {
        let site = &self.sites[number];
        drop(site.process.take());
        self.world.power_loss(site.host());
    }

    /// Tells a store what the map says that it holds.
    pub async fn assign(&self, number: usize) {
        let map = self.conductor.map.borrow().clone();
        let growth = self.conductor.growth.borrow().clone();
        let size = growth.as_ref().map_or(map.size_bytes, |to| to.size_bytes);
        let known = map.shards.len();
        let new = growth.iter().flat_map(|to| to.shards.iter().skip(known));
        let disk = disk_id(u8::try_from(number).unwrap());
        let replicas = map.shards.iter().chain(new).filter_map(|shard| {
            let replica = shard.replicas.iter().find(|r| r.disk == disk)?;
            let start = u64::from(shard.index.get()) * SHARD_BYTES;
            let bytes = (size.get() - start).min(SHARD_BYTES);
            let is_new = shard.index.get() as usize >= known;
            Some(Assignment {
                volume: VOLUME,
                shard: shard.index,
                replica: replica.id,
                disk,
                blocks: u32::try_from(bytes / 4096).unwrap(),
                reserve_blocks: 0,
                may_create: map.generation == Generation::new(0) || is_new || replica.fresh,
            })
        });
        let replicas: Vec<_> = replicas.collect();
        let control = {
            let process = self.sites[number].process.borrow();
            process.as_ref().unwrap().1.control()
        };
        control.set_cluster(CLUSTER).await.unwrap();
        let applied = control.apply(replicas).await.unwrap();
        assert!(applied.refused.is_empty());
    }

    /// The damage that a store's disk reports.
    pub async fn damage(&self, number: usize) -> u64 {
        let control = {
            let process = self.sites[number].process.borrow();
            process.as_ref().unwrap().1.control()
        };
        let reports = control.report().await.unwrap();
        reports.iter().flat_map(|r| r.damage.values()).sum()
    }

    /// A process for an owner, on a host of its own.
    pub fn owner(&self) -> Process {
        self.owners.set(self.owners.get() + 1);
        let host = IpAddr::from([10, 0, 2, self.owners.get()]);
        self.world.process("owner", host)
    }

    /// A road to the conductor of its own.
    pub fn road(&self) -> Road {
        Road {
            conductor: Rc::clone(&self.conductor),
            is_cut: Rc::default(),
        }
    }

    /// Opens the snapshot of a layer.
    pub async fn open(&self, reactor: &Reactor, layer: Layer) -> OpenSnapshot {
        let (road, name) = (self.road(), layer.to_string());
        let options = VolumeOptions {
            attach_timeout: Duration::from_secs(60),
            ..VolumeOptions::new("reader")
        };
        let opened = OpenSnapshot::open(reactor, road, "v", &name, options).await;
        opened.unwrap()
    }

    /// Waits until a layer is settled, and the last table told.
    pub async fn settled(&self, reactor: &Reactor, layer: Layer) {
        let mut waited = Duration::ZERO;
        while !self.conductor.is_settled(layer) {
            reactor.sleep(Duration::from_millis(5)).await;
            waited += Duration::from_millis(5);
            assert!(
                waited < Duration::from_secs(300),
                "layer {layer} never settles"
            );
        }
    }

    /// Attaches with short bounds.
    pub async fn attach(&self, reactor: &Reactor) -> Result<Attached, AttachError> {
        self.attach_over(reactor, self.road()).await
    }

    /// The same over a given road.
    pub async fn attach_over(
        &self,
        reactor: &Reactor,
        road: Road,
    ) -> Result<Attached, AttachError> {
        let options = VolumeOptions {
            attach_patience: Duration::from_secs(2),
            attach_timeout: Duration::from_secs(60),
            io_timeout: Duration::from_secs(20),
            request_timeout: Duration::from_secs(5),
            replica_grace: Duration::from_secs(1),
            scrub_interval: self.scrub_interval.get(),
            scrub_pace: 64 << 20,
            ..VolumeOptions::new("test")
        };
        Attached::attach(reactor, road, "v", options).await
    }

    /// Runs a test's future.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.world.run(LIMIT, future).expect("the test ends")
    }
}

/// A shard with a replica on each of these disks.
fn new_shard(index: u32, disks: &[DiskLocation]) -> Shard {
    let replica = |at: &DiskLocation| Replica {
        id: ReplicaId::new(u64::from(index) * 10 + at.node.get() + 1),
        node: at.node,
        disk: at.disk,
        in_sync: true,
        fresh: false,
        leaving: false,
    };
    Shard {
        index: ShardIndex::new(index),
        epoch: Epoch::new(1),
        replicas: disks.iter().map(replica).collect(),
    }
}

fn map_of(sites: &[Site], replicas: u8, ack: AckRule) -> Conductor {
    let shards = u32::try_from(VOLUME_BYTES.div_ceil(SHARD_BYTES)).unwrap();
    let disks = sites.iter().map(|site| DiskLocation {
        disk: disk_id(site.number),
        node: NodeId::new(u64::from(site.number)),
        node_name: None,
        lanes: LANES,
        address: site.address(),
    });
    let disks: Vec<_> = disks.collect();
    let holders = &disks[..usize::from(replicas)];
    let shards = (0..shards).map(|index| new_shard(index, holders));
    let map = Volume {
        id: VOLUME,
        name: "v".into(),
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
        labels: std::collections::BTreeMap::new(),
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
        shards: shards.collect(),
    };
    Conductor {
        map: RefCell::new(map),
        growth: RefCell::default(),
        disks,
        revision: Cell::new(1),
        changed: Notify::new(),
    }
}
