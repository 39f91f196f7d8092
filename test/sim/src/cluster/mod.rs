//! A whole cluster from one seed: stores, an owner, a conductor, random requests and commands, faults.
//!
//! ```text
//! drive: waits, draws a fault, does it, waits …   then: heal, attach, read all, detach, compare
//!   owner process:      attach ── workers ── BlockDevice     (history of every request)
//!   store process:      StoreService over a simulated disk   (crashes, power losses, restarts)
//!                       agent, repair owners
//!   conductor process:  Cluster over rows in memory          (crashes, stalls, cuts, lost answers)
//! ```
//!
//! All of it is the code that serves users, but for the ways to the conductor ([`conductor`],
//! [`agent`]), its rows ([`metadata`]), and some stores ([`reference`]).
//!
//! What is checked, by code that knows nothing of replication: no read shows what nobody wrote
//! there; every sector is linearizable across owners, losing only what the promises allow
//! ([`crate::linear`]), snapshots and clones are what they should be ([`snapshots`], [`clones`]); the conductor commits, grants and shows what it may, and moves no replica
//! but as it may ([`ledger`]); once the faults end a new owner attaches, every replica comes in sync
//! and everything can be read; after a clean detach all in-sync replicas of a shard hold the same
//! versions of the same blocks; and a seed run twice takes the same steps.

mod agent;
mod chaos;
mod clones;
mod conductor;
pub mod groups;
mod ledger;
mod metadata;
mod operator;
mod owner;
mod reference;
mod replicas;
mod runtime;
mod seat;
mod setup;
mod snapshots;
mod source;
mod stores;
mod strand;

pub use reference::StoreBug;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

use ashlar_proto::api::{AckRule, Replica, Shard};
use ashlar_proto::{Address, DiskId, Generation, Layer, VolumeId};
use ashlar_reactor::Instant;
use ashlar_reactor::sim::{
    Process, Rng, SECTOR_BYTES, World,
    fault::{DiskFaults, Plan},
};

use crate::workload::{Record, Shape};
use crate::{cut, linear};
use clones::Cloner;
use conductor::{Conductor, HELD_UP_MAX, Roads};
use metadata::MetaFaults;
use owner::{OWNER_HOSTS, Owner};
use snapshots::Keeper;
use stores::{Store, Surroundings};

/// The only volume, and the id that a new cluster gives to its first.
const VOLUME_NAME: &str = "volume";
const VOLUME: VolumeId = VolumeId::new(1);
/// Where the first conductor lives, unless all live together; the others follow it.
const CONDUCTOR_HOST: u8 = 200;
/// Where what keeps the leases of several conductors lives.
const ETCD_HOST: u8 = 220;

/// How long the last attach may take once all is well again.
const ATTACH_LIMIT: Duration = Duration::from_secs(600);
/// How long the last owner may take to have every replica in sync.
const WHOLE_LIMIT: Duration = Duration::from_secs(300);
/// Virtual time that a whole run may take.
const RUN_LIMIT: Duration = Duration::from_secs(100_000);
/// Sectors that one read of the final check covers.
const CHECK_SECTORS: u64 = 512;

/// How one seed went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The hash of its trace.
    pub hash: u64,
    /// Requests that completed.
    pub requests: u64,
    /// Successful attaches.
    pub lives: usize,
    /// What was wrong.
    pub failure: Option<String>,
}

/// What a run is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All that there is.
    Whole,
    /// Owners and stores: the conductor stays as it is, and replicas where they are.
    Data,
    /// The same, on stores written a second time, which leave a rule out.
    Reference(StoreBug),
}

/// The cluster of one seed.
struct Cluster {
    world: World,
    scope: Scope,
    rng: Rng,
    plan: Plan,
    shape: Shape,
    /// Of each shard.
    replicas: usize,
    stores: Vec<Store>,
    conductor: Rc<Conductor>,
    /// Until then nobody starts it again.
    conductor_away_until: Instant,
    ack: AckRule,
    record: Record,
    /// Replicas whose host lost a volatile cache since they were last made whole.
    lost: Rc<RefCell<BTreeSet<(DiskId, usize)>>>,
    /// Disks whose replicas are never known to be whole: the victim, and those that are gone.
    spoilt: Rc<RefCell<BTreeSet<DiskId>>>,
    /// The generation of the last owner that served.
    served: Rc<Cell<Generation>>,
    owners: Vec<Owner>,
    /// Until then nobody attaches the volume; its repair owners may.
    owner_away_until: Instant,
    owners_started: u32,
    together: Together,
    /// Whether the run ends with all nodes and disks taking replicas.
    is_open: bool,
    /// Whether replicas can be made elsewhere than where they were first.
    mobile: bool,
    /// The one disk that has faults of its own.
    victim: Option<DiskId>,
    /// Whether somebody makes snapshots.
    keeps_snapshots: bool,
    /// Who makes snapshots, if anybody.
    keeper: Option<Keeper>,
    /// Whether somebody makes clones of them.
    makes_clones: bool,
    /// Who does, if anybody.
    cloner: Option<Cloner>,
    /// Whether the volume is made larger now and then.
    grows: bool,
    /// The layers of those that are left in the end.
    layers: Vec<Layer>,
}

/// Whether stores and owner live in processes of their own, or in one.
enum Together {
    Apart,
    /// As in `ashlar up`: no sockets between them; the process while it lives.
    One(Option<Process>),
}

/// Runs one seed for `seconds` of virtual time under faults.
#[must_use]
pub fn run(seed: u64, seconds: u64, scope: Scope, verbose: bool) -> Outcome {
    run_checked(seed, seconds, scope, verbose, true)
}

/// Runs one seed again: only for the hash of its trace.
#[must_use]
pub fn rerun(seed: u64, seconds: u64, scope: Scope) -> u64 {
    run_checked(seed, seconds, scope, false, false).hash
}

fn run_checked(seed: u64, seconds: u64, scope: Scope, verbose: bool, checks: bool) -> Outcome {
    let world = if verbose {
        World::traced(seed)
    } else {
        World::new(seed)
    };
    let mut cluster = Cluster::new(&world, scope);
    let (record, archive) = (cluster.record.clone(), cluster.conductor.archive().clone());
    if verbose {
        println!("{:#?}\n{:#?}", cluster.plan, cluster.shape);
        let together = matches!(cluster.together, Together::One(_));
        println!("together: {together}, victim: {:?}", cluster.victim);
    }
    let driven = world.run(
        RUN_LIMIT,
        cluster.drive(Duration::from_secs(seconds), verbose, checks),
    );
    let failure = match driven {
        Ok(Ok(())) => None,
        Ok(Err(what)) => Some(what),
        Err(stopped) => Some(format!("the run ended early: {stopped}")),
    };
    let failure = record
        .failure()
        .or_else(|| archive.ledger(|ledger| ledger.failure()))
        .or(failure);
    if verbose && failure.is_some() {
        for line in world.trace_lines() {
            println!("{line}");
        }
    }
    let lives = record.history.borrow().serves.len();
    Outcome {
        hash: world.trace_hash(),
        requests: record.completed(),
        lives,
        failure,
    }
}

impl Cluster {
    /// The process that all live in, started if it has died; none when they live apart.
    fn common_process(&mut self) -> Option<Process> {
        let Together::One(process) = &mut self.together else {
            return None;
        };
        let alive = process.take().filter(Process::is_alive);
        let world = &self.world;
        let process_now = alive.unwrap_or_else(|| world.process("up", OWNER_HOSTS[0]));
        Some(process.insert(process_now).clone())
    }

    fn restart_store(&mut self, number: usize) {
        let common = self.common_process();
        let local = self.local_addresses();
        self.stores[number].restart_if_dead(Surroundings {
            world: &self.world,
            record: &self.record,
            conductor: &self.conductor,
            common,
            local,
            victim: self.victim,
        });
    }

    /// How those who live together reach the stores.
    fn local_addresses(&self) -> Vec<(Address, Address)> {
        match self.together {
            Together::One(_) => self.stores.iter().map(Store::local_address).collect(),
            Together::Apart => Vec::new(),
        }
    }

    fn restart_conductor(&mut self) {
        for index in 0..self.conductor.count() {
            self.restart_one_conductor(index);
        }
    }

    fn restart_one_conductor(&mut self, index: usize) {
        if !self.conductor.is_alive(index) {
            let common = self.common_process();
            let own = || conductor_process(&self.world, index);
            self.conductor.start(index, common.unwrap_or_else(own));
        }
    }

    /// The shards as they are committed.
    fn shards(&self) -> Vec<Shard> {
        self.conductor.archive().ledger(|ledger| ledger.shards())
    }

    /// The sectors of the volume, as it is committed.
    fn sectors(&self) -> u64 {
        let size = self.conductor.archive().ledger(|ledger| ledger.size());
        size.get() / SECTOR_BYTES as u64
    }

    /// Whether some shard is left with no replica but one whose disk has faults or is gone: a disk may
    /// be gone while an owner's proposal that leaves it alone is under way.
    fn rests_on_spoilt(&self) -> bool {
        let spoilt = self.spoilt.borrow();
        let healthy = |r: &Replica| r.in_sync && !spoilt.contains(&r.disk);
        self.shards()
            .iter()
            .any(|shard| !shard.replicas.iter().any(healthy))
    }

    /// The run: faults for a while, then peace, then the checks.
    async fn drive(&mut self, faults: Duration, verbose: bool, checks: bool) -> Result<(), String> {
        self.restart_conductor();
        for number in 0..self.stores.len() {
            self.stores[number].prepare(&self.world).await?;
            self.restart_store(number);
        }
        self.found_volume().await?;
        self.spoil_roads();
        self.start_owner();
        if self.keeps_snapshots {
            self.start_keeper();
            let album = self.keeper.as_ref().map(|keeper| Rc::clone(&keeper.album));
            if let Some(album) = album.filter(|_| self.makes_clones) {
                self.start_cloner(&album);
            }
        }
        self.trouble(faults, verbose).await;
        self.peace().await;
        if !self.rests_on_spoilt() {
            let checked = self.final_check().await;
            // Its disk may have lost the last good copy only now.
            if !self.rests_on_spoilt() {
                checked?;
                self.compare_replicas().await?;
            }
        }
        if !checks {
            return Ok(());
        }
        let history = self.record.history.borrow();
        linear::check(&history, self.sectors()).map_err(|violation| violation.to_string())?;
        cut::check(&history).map_err(|torn| torn.to_string())
    }

    /// All is well again: hosts have power, stores run, cuts heal, nothing is lost any more.
    async fn peace(&mut self) {
        for owner in self.owners.drain(..) {
            owner.crash();
        }
        if let Some(keeper) = &self.keeper {
            keeper.stop();
        }
        if let Some(cloner) = &self.cloner {
            cloner.stop();
        }
        self.world.heal();
        self.world.net_faults(|faults| {
            *faults = Plan {
                reset_per_million: 0,
                refuse_per_million: 0,
                stall_per_million: 0,
                ..self.plan
            }
            .net();
        });
        self.conductor.roads.replace(Roads::default());
        self.conductor.archive().set_faults(MetaFaults::default());
        self.stores.iter_mut().for_each(Store::make_room);
        self.restart_conductor();
        self.is_open = self.rng.chance(500_000);
        for number in 0..self.stores.len() {
            for disk in self.stores[number].disks() {
                if let Some(disk) = self.stores[number].disk(&self.world, disk) {
                    disk.faults(DiskFaults::heal);
                }
            }
            self.restart_store(number);
        }
        // An attach that was held up until now would take the volume from the last owner.
        self.world.sleep(HELD_UP_MAX + Duration::from_secs(2)).await;
    }

    /// A last owner attaches, reads everything, and detaches cleanly.
    async fn final_check(&mut self) -> Result<(), String> {
        self.start_owner();
        let owner = self.owners.last().ok_or("there is an owner")?;
        let limit = self.world.now() + ATTACH_LIMIT;
        while !owner.serves() {
            if self.world.now() >= limit {
                let (trouble, shards) = (owner.trouble(), self.shards());
                return Err(format!(
                    "no owner can attach when all is well: {trouble}\n  {shards:?}"
                ));
            }
            self.world.sleep(Duration::from_millis(100)).await;
        }
        owner.stop_workers(&self.world).await?;
        self.await_size(limit).await?;
        if let Some(keeper) = &self.keeper {
            self.layers = keeper.look_at_all(&self.world).await?;
        }
        // The last good copy of a clone may have been on a disk that is gone.
        let is_spoilt = !self.spoilt.borrow().is_empty();
        if let Some(cloner) = self.cloner.as_ref().filter(|_| !is_spoilt) {
            cloner.look_at_all(&self.world).await?;
        }
        if self.is_open {
            self.await_whole().await?;
        }
        let owner = self.owners.last().ok_or("there is an owner")?;
        let mut sector = 0;
        let sectors = self.sectors();
        while sector < sectors {
            let end = (sector + CHECK_SECTORS).min(sectors);
            owner.read(&self.world, sector..end, &self.record).await?;
            sector = end;
        }
        owner.detach(&self.world).await
    }
}

impl Cluster {
    /// The last owner serves all of the volume. Where every node and disk takes replicas, a growth that
    /// was under way ends, too.
    async fn await_size(&self, limit: Instant) -> Result<(), String> {
        let archive = self.conductor.archive();
        let is_settled = || {
            let (size, to_be) = archive.ledger(|ledger| (ledger.size(), ledger.size_to_be()));
            let owner = self.owners.last();
            owner.is_some_and(|owner| owner.sectors() == size.get() / SECTOR_BYTES as u64)
                && (size == to_be || !self.is_healthy())
        };
        while !is_settled() {
            if self.world.now() >= limit {
                return Err("a growth does not end when all is well".to_owned());
            }
            self.world.sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Whether nothing is in the way of a replica that is to be filled.
    fn is_healthy(&self) -> bool {
        // Stores written a second time fetch nothing, and a bad disk may never hold all.
        self.is_open && self.victim.is_none() && self.stores.iter().all(Store::is_real)
    }

    /// Every node and disk takes replicas again: what is missing is made, and what moves arrives.
    async fn await_whole(&self) -> Result<(), String> {
        // Only now is the conductor sure to hear it.
        self.undo_commands();
        if !self.is_healthy() {
            return Ok(());
        }
        let is_whole = |shard: &Shard| {
            let settled = |r: &Replica| r.in_sync && !r.leaving;
            shard.replicas.len() == self.replicas && shard.replicas.iter().all(settled)
        };
        let limit = self.world.now() + WHOLE_LIMIT;
        while !self.shards().iter().all(is_whole) {
            if self.world.now() >= limit {
                let shards = self.shards();
                return Err(format!("when all is well it does not heal:\n  {shards:?}"));
            }
            self.world.sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}

/// Runs something in a process to its end.
async fn finish<T: 'static>(
    world: &World,
    process: &Process,
    limit: Duration,
    work: impl Future<Output = T> + 'static,
) -> Result<T, String> {
    let task = process.reactor().spawn(work);
    let end = world.now() + limit;
    while !task.is_finished() {
        if world.now() >= end || !process.is_alive() {
            return Err(format!("a task of {} never ends", process.name()));
        }
        world.sleep(Duration::from_millis(1)).await;
    }
    Ok(task.await)
}

/// A process for a life of one of the conductors.
fn conductor_process(world: &World, index: usize) -> Process {
    let number = CONDUCTOR_HOST.saturating_add(u8::try_from(index).unwrap_or(u8::MAX));
    world.process("conductor", host(number))
}

/// The address of a host by its number.
fn host(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, number))
}
