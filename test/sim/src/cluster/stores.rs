//! The stores of a cluster: a host with a disk each, and the process that serves it.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ashlar_client::RepairOwners;
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

/// What runs in a store's process.
enum Kind {
    Reference(Rc<RefCell<Image>>),
    Real(LaneOptions, ByteCount),
}

/// One store: its host, its disk, and its process while that lives.
pub(super) struct Store {
    number: usize,
    host: IpAddr,
    path: PathBuf,
    kind: Kind,
    /// What its disk is said to offer, if not what it does.
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
    /// Where the store cannot serve, that is no failure of the run.
    pub fallible: bool,
}

impl Store {
    /// The real store, unless rules of a store are to be left out.
    pub(super) fn new(
        world: &World,
        number: usize,
        (apart, must_be_real): (bool, bool),
        plan: &Plan,
        bug: Option<StoreBug>,
        rng: &mut Rng,
    ) -> Self {
        let host = if apart {
            host(u8::try_from(number + 1).unwrap_or(u8::MAX))
        } else {
            OWNER_HOSTS[0]
        };
        let path = PathBuf::from(format!("/disk-{number}"));
        let kind = if bug.is_some() || rng.chance(100_000) && !must_be_real {
            let image = Image::new(disk_id(number), plan.volatile_cache, bug, rng.fork());
            Kind::Reference(Rc::new(RefCell::new(image)))
        } else {
            let spec = DiskSpec {
                volatile_cache: plan.volatile_cache,
                ..DiskSpec::new(DISK_BYTES[rng.index(DISK_BYTES.len())])
            };
            let disk = world.add_disk(host, &path, spec);
            disk.faults(|faults| faults.hide_per_million = plan.hide_per_million);
            let options = LaneOptions {
                batches_in_flight: 1 + rng.index(12),
                overlay_bytes: (64 << 10) << rng.below(8),
                leaves_cached: 1 << rng.below(10),
                checkpoint_bytes: Some(rng.between(1, 16) << 20),
                checkpoint_interval: Duration::from_millis(rng.between(200, 20_000)),
                ..LaneOptions::default()
            };
            Kind::Real(options, ByteCount::new((256 << 10) << rng.below(3)))
        };
        Self {
            number,
            host,
            path,
            kind,
            // A few replicas more or less must matter, or nothing is ever evened out.
            usable: must_be_real
                .then(|| ByteCount::new(rng.between(USABLE_BYTES_MIN, 4 * USABLE_BYTES_MIN))),
            process: None,
            away_until: Instant::EPOCH,
        }
    }

    /// Its disk, when it is a real store.
    pub(super) fn disk(&self, world: &World) -> Option<SimDisk> {
        world.find_disk(self.host, &self.path)
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

    pub(super) fn disk_id(&self) -> DiskId {
        disk_id(self.number)
    }

    /// The name of its node.
    pub(super) fn name(&self) -> String {
        format!("store-{}", self.number)
    }

    /// Formats its disk.
    pub(super) async fn prepare(&mut self, world: &World) -> Result<(), String> {
        if let Kind::Real(_, segment) = &self.kind {
            let process = world.process("format", self.host);
            let format = FormatOptions {
                lanes: LANES,
                segment: Some(*segment),
                ..FormatOptions::new(self.disk_id())
            };
            let (reactor, path) = (process.reactor().clone(), DiskOptions::new(&self.path));
            let made = async move { format_disk(&reactor, path, format).await };
            let made = finish(world, &process, LIMIT, made).await?;
            made.map_err(|error| format!("store {}: {error:#}", self.number))?;
            process.crash();
        }
        Ok(())
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
        let sound = (!around.fallible).then(|| around.record.clone());
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
            Kind::Real(options, _) => {
                let (number, record) = (self.number, around.record.clone());
                let (options, disk) = (options.clone(), DiskOptions::new(&self.path));
                let (fallible, others) = (around.fallible, around.local);
                let listen = Vec::from(<[Address; 2]>::from(listen));
                let spawner = reactor.clone();
                let serving = async move {
                    let handle = start(&spawner, options, disk, listen, fallible).await?;
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

    /// What its replica of a shard holds, read past all sessions; its process is dead.
    pub(super) async fn entries(
        &self,
        world: &World,
        shard: ShardIndex,
    ) -> Result<Vec<ReadEntry>, String> {
        match &self.kind {
            Kind::Reference(image) => {
                let entries = image.borrow().entries(shard);
                entries.ok_or_else(|| format!("shard {shard} is not there"))
            }
            Kind::Real(..) => {
                let process = world.process("inspector", self.host);
                let reading = read_shard(
                    process.reactor().clone(),
                    DiskOptions::new(&self.path),
                    shard,
                );
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
    disk: DiskOptions,
    listen: Vec<Address>,
    fallible: bool,
) -> Result<StoreHandle> {
    let options = StoreOptions {
        disks: vec![disk],
        listen,
        workers: Vec::new(),
        lane,
    };
    let handle = StoreService::start(reactor, options).await?;
    for disk in handle.control().report().await? {
        // A slot that was being written when the power went is told as damaged.
        let damaged = disk.damage.keys().any(|kind| kind != "slot");
        let good = disk.failed.is_none() && !damaged;
        ensure!(
            good || fallible,
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
    shard: ShardIndex,
) -> Result<Vec<ReadEntry>> {
    let disk = open_disk(&reactor, disk).await?;
    let lane = disk.lane(lane_of(VOLUME, shard, LANES)).recover().await?;
    let key = ShardKey {
        volume: VOLUME,
        shard,
    };
    let held = lane.shards().into_iter().find(|(held, _, _)| *held == key);
    let (_, _, blocks) = held.with_context(|| format!("shard {shard} is not there"))?;
    let mut entries = Vec::new();
    let mut block = 0;
    while block < blocks.get() {
        let count = BlockCount::new(READ_BLOCKS.min(blocks.get() - block));
        let (some, _) = lane
            .read(key, Layer::new(1), BlockIndex::new(block), count)
            .await?;
        entries.extend(some);
        block += count.get();
    }
    Ok(entries)
}

/// A disk of the cluster by its number: ids are made from numbers.
fn disk_id(store: usize) -> DiskId {
    DiskId::new(0xd15c_0000 + u128::try_from(store).unwrap_or(0))
}
