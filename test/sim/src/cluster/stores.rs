//! The stores of a cluster: a host with a disk each, and the process that serves it.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ashlar_proto::api::{Assignment, DiskLocation, Shard};
use ashlar_proto::message::ReadEntry;
use ashlar_proto::{
    Address, BlockCount, BlockIndex, ByteCount, DiskId, Layer, NodeId, ShardIndex, lane_of,
};
use ashlar_reactor::sim::{DiskSpec, Process, Rng, World, fault::Plan};
use ashlar_reactor::{DiskOptions, Reactor};
use ashlar_store::disk::{FormatOptions, format_disk, open_disk};
use ashlar_store::lane::{LaneOptions, ShardKey};
use ashlar_store::{StoreHandle, StoreOptions, StoreService};

use super::metadata::{CLUSTER, VOLUME};
use super::reference::{self, Image, StoreBug};
use super::{finish, host};
use crate::workload::Record;

/// Lanes of each disk.
pub(super) const LANES: u16 = 2;
/// Where each store listens.
const PORT: u16 = 7100;

/// Bytes of each disk.
const DISK_BYTES: u64 = 160 << 20;
/// Where each store's disk is.
const DISK_PATH: &str = "/disk";
/// Blocks that one read of an inspection covers.
const READ_BLOCKS: u32 = 64;
/// How long the preparation or inspection of a disk may take.
const LIMIT: Duration = Duration::from_secs(600);

/// What runs in a store's process.
enum Kind {
    Reference(Rc<RefCell<Image>>),
    Real(LaneOptions, ByteCount),
}

/// One store: its host, its disk, and its process while that lives.
pub(super) struct Store {
    number: usize,
    host: IpAddr,
    kind: Kind,
    process: Option<Process>,
}

impl Store {
    /// The real store, unless rules of a store are to be left out.
    pub(super) fn new(
        world: &World,
        number: usize,
        plan: &Plan,
        bug: Option<StoreBug>,
        rng: &mut Rng,
    ) -> Self {
        let host = host(u8::try_from(number + 1).unwrap_or(u8::MAX));
        let kind = if bug.is_some() || rng.chance(100_000) {
            let image = Image::new(disk_id(number), plan.volatile_cache, bug, rng.fork());
            Kind::Reference(Rc::new(RefCell::new(image)))
        } else {
            let spec = DiskSpec {
                volatile_cache: plan.volatile_cache,
                ..DiskSpec::new(DISK_BYTES)
            };
            let disk = world.add_disk(host, DISK_PATH, spec);
            disk.faults(|faults| faults.hide_per_million = plan.hide_per_million);
            let options = LaneOptions {
                checkpoint_bytes: Some(rng.between(1, 16) << 20),
                checkpoint_interval: Duration::from_millis(rng.between(200, 20_000)),
                ..LaneOptions::default()
            };
            Kind::Real(options, ByteCount::new((256 << 10) << rng.below(3)))
        };
        Self {
            number,
            host,
            kind,
            process: None,
        }
    }

    pub(super) fn host(&self) -> IpAddr {
        self.host
    }

    fn address(&self) -> Address {
        Address::Tcp(SocketAddr::new(self.host, PORT))
    }

    pub(super) fn location(&self) -> DiskLocation {
        DiskLocation {
            disk: disk_id(self.number),
            node: NodeId::new(1 + u64::try_from(self.number).unwrap_or(0)),
            lanes: LANES,
            address: self.address(),
        }
    }

    /// Makes its replicas and starts it.
    pub(super) async fn prepare(
        &mut self,
        world: &World,
        shards: &[Shard],
        blocks: BlockCount,
        record: &Record,
    ) -> Result<(), String> {
        let disk = disk_id(self.number);
        let mut assignments = Vec::new();
        for shard in shards {
            let replica = shard.replicas.iter().find(|replica| replica.disk == disk);
            let replica = replica.ok_or("each shard has a replica on each disk")?;
            assignments.push(Assignment {
                volume: VOLUME,
                shard: shard.index,
                replica: replica.id,
                disk,
                blocks: blocks.get(),
            });
        }
        match &self.kind {
            Kind::Reference(image) => {
                for assignment in assignments {
                    let (shard, replica) = (assignment.shard, assignment.replica);
                    image.borrow_mut().create(shard, replica, blocks);
                }
            }
            Kind::Real(options, segment) => {
                let process = world.process("format", self.host);
                let (reactor, options) = (process.reactor().clone(), options.clone());
                let made = make(reactor, options, disk, *segment, assignments);
                let made = finish(world, &process, LIMIT, made).await?;
                made.map_err(|error| format!("store {}: {error:#}", self.number))?;
                process.crash();
            }
        }
        self.restart_if_dead(world, record);
        Ok(())
    }

    pub(super) fn restart_if_dead(&mut self, world: &World, record: &Record) {
        if self.process.is_some() {
            return;
        }
        let process = world.process(&format!("store-{}", self.number), self.host);
        let reactor = process.reactor().clone();
        match &self.kind {
            Kind::Reference(image) => {
                let serving = reference::serve(reactor, Rc::clone(image), self.address());
                drop(process.reactor().spawn(serving));
            }
            Kind::Real(options, _) => {
                let (number, record) = (self.number, record.clone());
                let serving = serve(reactor, options.clone(), self.address());
                drop(process.reactor().spawn(async move {
                    if let Err(error) = serving.await {
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
                let reading = read_shard(process.reactor().clone(), shard);
                let entries = finish(world, &process, LIMIT, reading).await?;
                process.crash();
                entries.map_err(|error| format!("{error:#}"))
            }
        }
    }
}

/// Formats a disk and makes replicas on it.
async fn make(
    reactor: Reactor,
    options: LaneOptions,
    disk: DiskId,
    segment: ByteCount,
    assignments: Vec<Assignment>,
) -> Result<()> {
    let format = FormatOptions {
        lanes: LANES,
        segment: Some(segment),
        ..FormatOptions::new(disk)
    };
    format_disk(&reactor, DiskOptions::new(DISK_PATH), format).await?;
    let handle = start(&reactor, options, Vec::new()).await?;
    handle.control().set_cluster(CLUSTER).await?;
    let applied = handle.control().apply(assignments).await?;
    ensure!(applied.refused.is_empty(), "refused: {:?}", applied.refused);
    Ok(())
}

async fn start(reactor: &Reactor, lane: LaneOptions, listen: Vec<Address>) -> Result<StoreHandle> {
    let options = StoreOptions {
        disks: vec![DiskOptions::new(DISK_PATH)],
        listen,
        workers: Vec::new(),
        lane,
    };
    let handle = StoreService::start(reactor, options).await?;
    for disk in handle.control().report().await? {
        ensure!(
            disk.failed.is_none(),
            "its disk has failed: {:?}",
            disk.failed
        );
        ensure!(
            disk.damage.is_empty(),
            "its disk is damaged: {:?}",
            disk.damage
        );
    }
    Ok(handle)
}

/// Serves until the process dies.
async fn serve(reactor: Reactor, options: LaneOptions, address: Address) -> Result<()> {
    let handle = start(&reactor, options, vec![address]).await?;
    handle.stopped().await;
    Ok(())
}

async fn read_shard(reactor: Reactor, shard: ShardIndex) -> Result<Vec<ReadEntry>> {
    let disk = open_disk(&reactor, DiskOptions::new(DISK_PATH)).await?;
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
