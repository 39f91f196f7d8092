//! The stores of a cluster: a host with its disks each, and the process that serves them.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ashlar_client::RepairOwners;
use ashlar_proto::limits::BLOCK_BYTES_U64;
use ashlar_proto::message::ReadEntry;
use ashlar_proto::{
    Address, BlockCount, BlockIndex, ByteCount, DiskId, Layer, ShardIndex, lane_of,
};
use ashlar_reactor::sim::{DiskSpec, Process, Rng, SimDisk, World, fault::Plan};
use ashlar_reactor::{DiskOptions, Instant, Reactor};
use ashlar_store::disk::{FormatOptions, format_disk, open_disk};
use ashlar_store::lane::{LaneOptions, ShardKey};
use ashlar_store::{StoreHandle, StoreOptions, StoreService};

use super::VOLUME;
use super::agent::{Agent, Held};
use super::conductor::{Conductor, Road};
use super::owner::OWNER_HOSTS;
use super::reference::{self, Image, StoreBug};
use super::source::ConductorSource;
use super::{finish, host};
use crate::workload::Record;

/// Lanes of each disk.
pub(super) const LANES: u16 = 2;
/// Where each store listens.
const PORT: u16 = 7100;

/// Bytes of a disk: the smaller, the more its collector has to do.
const DISK_BYTES: [u64; 2] = [132 << 20, 160 << 20];
/// Blocks that one read of an inspection covers.
const READ_BLOCKS: u32 = 64;
/// How long the preparation or inspection of a disk may take.
const LIMIT: Duration = Duration::from_secs(600);
/// Least that a disk is said to offer.
const USABLE_BYTES_MIN: u64 = 6 << 20;

/// Room of a lane whose disk is to be full at times, in blocks.
const TIGHT_BLOCKS: [u64; 2] = [150, 900];
/// Ids of disks are made of this, the number of their store, their number there, and how many
/// were there before.
const DISK_IDS: u128 = 0xd15c_0000;

/// One disk of a store.
struct StoreDisk {
    id: DiskId,
    path: PathBuf,
    spec: DiskSpec,
    segment: ByteCount,
    hide_per_million: u32,
}

/// What runs in a store's process.
enum Kind {
    Reference(Rc<RefCell<Image>>),
    Real(LaneOptions, Vec<StoreDisk>),
}

/// How the stores of a cluster are.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoreSpec {
    /// Whether each has a host of its own.
    pub apart: bool,
    /// Whether replicas may be made elsewhere, which stores written a second time cannot do.
    pub mobile: bool,
    /// Disks of each.
    pub disks: usize,
    /// Whether lanes have so little room that they are full at times.
    pub tight: bool,
    /// The rule of a store that is left out, if any.
    pub bug: Option<StoreBug>,
}

/// One store: its host, its disks, and its process while that lives.
pub(super) struct Store {
    number: usize,
    host: IpAddr,
    kind: Kind,
    /// What a disk is said to offer, if not what it does.
    usable: Option<ByteCount>,
    process: Option<Process>,
    /// Until then nobody is in a hurry to start it again.
    pub(super) away_until: Instant,
}

/// What a store's process finds around it.
pub(super) struct Surroundings<'a> {
    pub world: &'a World,
    pub record: &'a Record,
    pub conductor: &'a Rc<Conductor>,
    /// The process that all live in, if they do.
    pub common: Option<Process>,
    /// How owners in that process reach its stores.
    pub local: Vec<(Address, Address)>,
    /// The disk that may fail or have damage: that is no failure of the run.
    pub victim: Option<DiskId>,
}

impl Store {
    /// The real store, unless rules of a store are to be left out.
    pub(super) fn new(
        world: &World,
        number: usize,
        spec: StoreSpec,
        plan: &Plan,
        rng: &mut Rng,
    ) -> Self {
        let host = if spec.apart {
            host(u8::try_from(number + 1).unwrap_or(u8::MAX))
        } else {
            OWNER_HOSTS[0]
        };
        let kind = if spec.bug.is_some() || rng.chance(100_000) && !spec.mobile {
            let id = disk_id(number, 0, 0);
            let image = Image::new(id, plan.volatile_cache, spec.bug, rng.fork());
            Kind::Reference(Rc::new(RefCell::new(image)))
        } else {
            let mut disk = |at| StoreDisk {
                id: disk_id(number, at, 0),
                path: PathBuf::from(format!("/disk-{number}-{at}")),
                spec: DiskSpec {
                    volatile_cache: plan.volatile_cache,
                    ..DiskSpec::new(DISK_BYTES[rng.index(DISK_BYTES.len())])
                },
                segment: ByteCount::new((256 << 10) << rng.below(3)),
                hide_per_million: plan.hide_per_million,
            };
            let disks: Vec<StoreDisk> = (0..spec.disks).map(&mut disk).collect();
            disks.iter().for_each(|disk| disk.install(world, host));
            let options = LaneOptions {
                batches_in_flight: 1 + rng.index(12),
                map_bytes: (64 << 10) << rng.below(8),
                leaves_max: 1 << rng.below(10),
                strata_labels_min: 1 << rng.below(4),
                checkpoint_bytes: Some(rng.between(1, 16) << 20),
                checkpoint_interval: Duration::from_millis(rng.between(200, 20_000)),
                room_bytes_max: if spec.tight {
                    rng.between(TIGHT_BLOCKS[0], TIGHT_BLOCKS[1]) * BLOCK_BYTES_U64
                } else {
                    u64::MAX
                },
                ..LaneOptions::default()
            };
            Kind::Real(options, disks)
        };
        Self {
            number,
            host,
            kind,
            // A few replicas more or less must matter, or nothing is ever evened out.
            usable: spec
                .mobile
                .then(|| ByteCount::new(rng.between(USABLE_BYTES_MIN, 4 * USABLE_BYTES_MIN))),
            process: None,
            away_until: Instant::EPOCH,
        }
    }

    /// One of its disks, when it is a real store.
    pub(super) fn disk(&self, world: &World, disk: DiskId) -> Option<SimDisk> {
        let found = self.real_disks().iter().find(|own| own.id == disk)?;
        world.find_disk(self.host, &found.path)
    }

    fn real_disks(&self) -> &[StoreDisk] {
        match &self.kind {
            Kind::Real(_, disks) => disks,
            Kind::Reference(_) => &[],
        }
    }

    pub(super) fn is_real(&self) -> bool {
        matches!(self.kind, Kind::Real(..))
    }

    pub(super) fn host(&self) -> IpAddr {
        self.host
    }

    fn address(&self) -> Address {
        let number = u16::try_from(self.number).unwrap_or(0);
        Address::Tcp(SocketAddr::new(self.host, PORT + number))
    }

    /// How an owner in the same process reaches it.
    pub(super) fn local_address(&self) -> (Address, Address) {
        (
            self.address(),
            Address::Local(format!("store-{}", self.number)),
        )
    }

    /// The disks that it has now.
    pub(super) fn disks(&self) -> Vec<DiskId> {
        match &self.kind {
            Kind::Real(_, disks) => disks.iter().map(|disk| disk.id).collect(),
            Kind::Reference(_) => vec![disk_id(self.number, 0, 0)],
        }
    }

    /// The name of its node.
    pub(super) fn name(&self) -> String {
        format!("store-{}", self.number)
    }

    /// Formats its disks.
    pub(super) async fn prepare(&self, world: &World) -> Result<(), String> {
        for disk in self.real_disks() {
            self.format(world, disk).await?;
        }
        Ok(())
    }

    async fn format(&self, world: &World, disk: &StoreDisk) -> Result<(), String> {
        let process = world.process("format", self.host);
        let format = FormatOptions {
            lanes: LANES,
            segment: Some(disk.segment),
            ..FormatOptions::new(disk.id)
        };
        let (reactor, path) = (process.reactor().clone(), DiskOptions::new(&disk.path));
        let made = async move { format_disk(&reactor, path, format).await };
        let made = finish(world, &process, LIMIT, made).await?;
        made.map_err(|error| format!("store {}: {error:#}", self.number))?;
        process.crash();
        Ok(())
    }

    /// An empty disk is there in the place of one that is gone for good, once it starts again.
    pub(super) async fn replace(&mut self, world: &World, disk: DiskId) -> Result<(), String> {
        self.crash();
        let (host, number) = (self.host, self.number);
        let Kind::Real(_, disks) = &mut self.kind else {
            return Ok(());
        };
        let Some(at) = disks.iter().position(|own| own.id == disk) else {
            return Ok(());
        };
        let life = 1 + (disk.get() & 0xff);
        disks[at].id = DiskId::new((disk.get() & !0xff) | life);
        disks[at].path = PathBuf::from(format!("/disk-{number}-{at}-{life}"));
        disks[at].install(world, host);
        self.format(world, &self.real_disks()[at]).await
    }

    /// Its lanes have all the room that there is, once it starts again.
    pub(super) fn make_room(&mut self) {
        if let Kind::Real(options, _) = &mut self.kind
            && options.room_bytes_max < u64::MAX
        {
            options.room_bytes_max = u64::MAX;
            self.crash();
        }
    }

    /// Starts it unless it runs, in the given process or in one of its own.
    pub(super) fn restart_if_dead(&mut self, around: Surroundings<'_>) {
        if self.process.as_ref().is_some_and(Process::is_alive) {
            return;
        }
        let own = || around.world.process(&self.name(), self.host);
        let process = around.common.unwrap_or_else(own);
        let reactor = process.reactor().clone();
        let listen = self.local_address();
        let road = Road {
            reactor: reactor.clone(),
            host: self.host,
            conductor: Rc::clone(around.conductor),
        };
        let (name, usable, address) = (self.name(), self.usable, self.address());
        let sound = (around.record.clone(), around.victim);
        let agent = move |held| Agent {
            road,
            name,
            address,
            held,
            usable,
            sound: sound.clone(),
            repairs: None,
        };
        match &self.kind {
            Kind::Reference(image) => {
                let serving = reference::serve(reactor.clone(), Rc::clone(image), listen.into());
                drop(reactor.spawn(serving));
                drop(reactor.spawn(agent(Held::Reference(Rc::clone(image))).run()));
            }
            Kind::Real(options, disks) => {
                let (number, record) = (self.number, around.record.clone());
                let disks: Vec<(DiskId, PathBuf)> = disks
                    .iter()
                    .map(|disk| (disk.id, disk.path.clone()))
                    .collect();
                let (options, others) = (options.clone(), around.local);
                let victim = around.victim;
                let fallible = disks.iter().all(|(id, _)| Some(*id) == victim);
                let listen = Vec::from(<[Address; 2]>::from(listen));
                let spawner = reactor.clone();
                let serving = async move {
                    let handle = start(&spawner, options, disks, listen, victim).await?;
                    let mut agent = agent(Held::Real(handle.control()));
                    let source = ConductorSource::new(agent.road.clone());
                    let repairs = RepairOwners::start(&spawner, source, &agent.name, others);
                    agent.repairs = Some(repairs.1);
                    drop(spawner.spawn(agent.run()));
                    handle.stopped().await;
                    anyhow::Ok(())
                };
                drop(reactor.spawn(async move {
                    if let Err(error) = serving.await
                        && !fallible
                    {
                        record.fail(format!("store {number} cannot serve: {error:#}"));
                    }
                }));
            }
        }
        self.process = Some(process);
    }

    pub(super) fn crash(&mut self) {
        if let Some(process) = self.process.take() {
            process.crash();
        }
    }

    pub(super) fn power_loss(&mut self, world: &World) {
        self.process = None;
        world.power_loss(self.host);
        match &self.kind {
            Kind::Reference(image) => image.borrow_mut().power_loss(),
            Kind::Real(..) => {}
        }
    }

    /// What its replica of a shard shows at these layers, one after another, on a disk, read past all
    /// sessions; its process is dead.
    pub(super) async fn entries(
        &self,
        world: &World,
        disk: DiskId,
        (shard, blocks): (ShardIndex, u64),
        layers: Vec<Layer>,
    ) -> Result<Vec<ReadEntry>, String> {
        match &self.kind {
            Kind::Reference(image) => {
                let entries = image.borrow().entries(shard);
                entries.ok_or_else(|| format!("shard {shard} is not there"))
            }
            Kind::Real(_, disks) => {
                let disk = disks.iter().find(|own| own.id == disk);
                let disk = DiskOptions::new(&disk.ok_or("its disk is gone")?.path);
                let process = world.process("inspector", self.host);
                let reading = read_shard(process.reactor().clone(), disk, (shard, blocks), layers);
                let entries = finish(world, &process, LIMIT, reading).await?;
                process.crash();
                entries.map_err(|error| format!("{error:#}"))
            }
        }
    }
}

async fn start(
    reactor: &Reactor,
    lane: LaneOptions,
    disks: Vec<(DiskId, PathBuf)>,
    listen: Vec<Address>,
    victim: Option<DiskId>,
) -> Result<StoreHandle> {
    let options = StoreOptions {
        disks: disks
            .iter()
            .map(|(_, path)| DiskOptions::new(path))
            .collect(),
        listen,
        workers: Vec::new(),
        lane,
        maps: None,
    };
    let handle = StoreService::start(reactor, options).await?;
    let reports = handle.control().report().await?;
    for (id, _) in disks.iter().filter(|(id, _)| Some(*id) != victim) {
        ensure!(reports.iter().any(|disk| disk.id == *id), "it lacks {id}");
    }
    for disk in reports {
        // A slot that was being written when the power went is told as damaged.
        let damaged = disk.damage.keys().any(|kind| kind != "slot");
        let good = disk.failed.is_none() && !damaged;
        ensure!(
            good || victim == Some(disk.id),
            "its disk: {:?}, damage {:?}",
            disk.failed,
            disk.damage
        );
    }
    Ok(handle)
}

async fn read_shard(
    reactor: Reactor,
    disk: DiskOptions,
    (shard, blocks_most): (ShardIndex, u64),
    layers: Vec<Layer>,
) -> Result<Vec<ReadEntry>> {
    let disk = open_disk(&reactor, disk).await?;
    let lane = disk.lane(lane_of(VOLUME, shard, LANES)).recover().await?;
    let key = ShardKey {
        volume: VOLUME,
        shard,
    };
    let held = lane.shards().into_iter().find(|(held, _, _)| *held == key);
    let (_, _, blocks) = held.with_context(|| format!("shard {shard} is not there"))?;
    let blocks = u32::try_from(blocks_most)
        .unwrap_or(u32::MAX)
        .min(blocks.get());
    let mut entries = Vec::new();
    for layer in layers {
        let mut block = 0;
        while block < blocks {
            let count = BlockCount::new(READ_BLOCKS.min(blocks - block));
            let (some, _) = lane.read(key, layer, BlockIndex::new(block), count).await?;
            entries.extend(some);
            block += count.get();
        }
    }
    Ok(entries)
}

impl StoreDisk {
    fn install(&self, world: &World, host: IpAddr) {
        let disk = world.add_disk(host, &self.path, self.spec);
        disk.faults(|faults| faults.hide_per_million = self.hide_per_million);
    }
}

/// A disk of the cluster by the number of its store, its own there, and how many were there before.
pub(super) fn disk_id(store: usize, disk: usize, life: usize) -> DiskId {
    let number = (store << 12) | (disk << 8) | life;
    DiskId::new(DISK_IDS | u128::try_from(number).unwrap_or(0))
}

/// The store that a disk is of.
pub(super) fn store_of(disk: DiskId) -> usize {
    usize::try_from((disk.get() ^ DISK_IDS) >> 12).unwrap_or(usize::MAX)
}
