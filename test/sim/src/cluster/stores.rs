//! The stores of a cluster: a host with a disk each, and the process that serves it.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use ashlar_proto::api::{DiskLocation, Shard};
use ashlar_proto::message::ReadEntry;
use ashlar_proto::{Address, BlockCount, DiskId, NodeId, ShardIndex};
use ashlar_reactor::sim::{Process, Rng, World, fault::Plan};

use super::host;
use super::reference::{self, Image, StoreBug};

/// Lanes of each disk.
pub(super) const LANES: u16 = 2;
/// Where each store listens.
const PORT: u16 = 7100;

/// What runs in a store's process.
enum Kind {
    Reference(Rc<RefCell<Image>>),
}

/// One store: its host, its disk, and its process while that lives.
pub(super) struct Store {
    number: usize,
    host: IpAddr,
    kind: Kind,
    process: Option<Process>,
}

impl Store {
    pub(super) fn new(number: usize, plan: &Plan, bug: Option<StoreBug>, rng: &mut Rng) -> Self {
        let disk = disk_id(number);
        let image = Image::new(disk, plan.volatile_cache, bug, rng.fork());
        Self {
            number,
            host: host(u8::try_from(number + 1).unwrap_or(u8::MAX)),
            kind: Kind::Reference(Rc::new(RefCell::new(image))),
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
    ) -> Result<(), String> {
        let disk = disk_id(self.number);
        for shard in shards {
            let replica = shard.replicas.iter().find(|replica| replica.disk == disk);
            let replica = replica.ok_or("each shard has a replica on each disk")?;
            match &self.kind {
                Kind::Reference(image) => {
                    image.borrow_mut().create(shard.index, replica.id, blocks);
                }
            }
        }
        self.restart_if_dead(world);
        Ok(())
    }

    pub(super) fn restart_if_dead(&mut self, world: &World) {
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
        }
    }

    /// What its replica of a shard holds, read past all sessions; its process is dead.
    pub(super) async fn entries(&self, shard: ShardIndex) -> Result<Vec<ReadEntry>, String> {
        match &self.kind {
            Kind::Reference(image) => {
                let entries = image.borrow().entries(shard);
                entries.ok_or_else(|| format!("shard {shard} is not there"))
            }
        }
    }
}

/// A disk of the cluster by its number: ids are made from numbers.
fn disk_id(store: usize) -> DiskId {
    DiskId::new(0xd15c_0000 + u128::try_from(store).unwrap_or(0))
}
