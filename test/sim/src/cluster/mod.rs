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
//! ([`crate::linear`]); the conductor commits, grants and shows what it may, and moves no replica but
//! as it may ([`ledger`]); once the faults end a new owner attaches and everything can be read; after
//! a clean detach all in-sync replicas of a shard hold the same versions of the same blocks; and a
//! seed run twice takes the same steps.

mod agent;
mod chaos;
mod conductor;
mod ledger;
mod metadata;
mod operator;
mod owner;
mod reference;
mod replicas;
mod runtime;
mod source;
mod stores;

pub use reference::StoreBug;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

use ashlar_conductor::{ClusterOptions, Timing};
use ashlar_proto::api::{AckRule, CreateVolume, Replica, Shard};
use ashlar_proto::{Address, BlockCount, ByteCount, ClusterId, DiskId, VolumeId};
use ashlar_reactor::Instant;
use ashlar_reactor::sim::{
    Process, Rng, World,
    fault::{DiskFaults, Plan},
};

use crate::linear;
use crate::workload::{Record, Shape};
use conductor::{Conductor, Roads};
use metadata::{Archive, MetaFaults};
use owner::{OWNER_HOSTS, Owner};
use stores::{Store, Surroundings};

/// The only volume, and the id that a new cluster gives to its first.
const VOLUME_NAME: &str = "volume";
const VOLUME: VolumeId = VolumeId::new(1);
/// The cluster.
const CLUSTER: ClusterId = ClusterId::new(0xc1a5);

/// Where the conductor lives, unless all live together.
const CONDUCTOR_HOST: u8 = 200;
/// How often stores are heard, and after what silence they are down.
const HEARTBEAT: Duration = Duration::from_millis(300);
const SILENCE: Duration = Duration::from_secs(2);
/// How long the conductor waits for a disk, in ms.
const GRACE_MS: [u64; 2] = [3_000, 20_000];

/// How long the last attach may take once all is well again.
const ATTACH_LIMIT: Duration = Duration::from_secs(600);
/// How long the volume may take to be made.
const FOUND_LIMIT: Duration = Duration::from_secs(60);
/// Virtual time that a whole run may take.
const RUN_LIMIT: Duration = Duration::from_secs(100_000);
/// Blocks of each shard.
const SHARD_BLOCKS: BlockCount = BlockCount::new(256);
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

/// The cluster of one seed.
struct Cluster {
    world: World,
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
    owners: Vec<Owner>,
    owners_started: u32,
    together: Together,
    /// The one store whose disk has faults of its own.
    victim: Option<usize>,
}

/// Whether stores and owner live in processes of their own, or in one.
enum Together {
    Apart,
    /// As in `ashlar up`: no sockets between them; the process while it lives.
    One(Option<Process>),
}

/// Runs one seed for `seconds` of virtual time under faults.
#[must_use]
pub fn run(seed: u64, seconds: u64, bug: Option<StoreBug>, verbose: bool) -> Outcome {
    run_checked(seed, seconds, bug, verbose, true)
}

/// Runs one seed again: only for the hash of its trace.
#[must_use]
pub fn rerun(seed: u64, seconds: u64) -> u64 {
    run_checked(seed, seconds, None, false, false).hash
}

fn run_checked(
    seed: u64,
    seconds: u64,
    bug: Option<StoreBug>,
    verbose: bool,
    checks: bool,
) -> Outcome {
    let world = if verbose {
        World::traced(seed)
    } else {
        World::new(seed)
    };
    let mut cluster = Cluster::new(&world, bug);
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
    fn new(world: &World, bug: Option<StoreBug>) -> Self {
        let mut rng = world.fork_rng();
        let plan = Plan::draw(&mut rng);
        let replicas = [1, 2, 3, 3, 3][rng.index(5)];
        let shard_bytes = SHARD_BLOCKS.bytes();
        let volume_bytes = shard_bytes * rng.between(1, 3);
        let ack = if rng.chance(700_000) {
            AckRule::Majority
        } else {
            AckRule::All
        };
        let together = if rng.chance(200_000) && bug.is_none() {
            Together::One(None)
        } else {
            Together::Apart
        };
        let apart = matches!(together, Together::Apart);
        // Where replicas can be made elsewhere, stores must be able to fetch from each other.
        let spare = if apart && bug.is_none() && rng.chance(500_000) {
            1 + rng.index(2)
        } else {
            0
        };
        let stores: Vec<Store> = (0..replicas + spare)
            .map(|number| Store::new(world, number, (apart, spare > 0), &plan, bug, &mut rng))
            .collect();
        let faulty = replicas == 3 && apart && bug.is_none() && rng.chance(400_000);
        let victim = faulty
            .then(|| rng.index(replicas))
            .filter(|&v| stores[v].disk(world).is_some());
        let grace = rng.between(GRACE_MS[0], GRACE_MS[1]);
        let options = ClusterOptions {
            fresh: CLUSTER,
            timing: Timing {
                heartbeat: HEARTBEAT,
                silence: SILENCE,
                rebuild_after: Duration::from_millis(grace),
                ..Timing::default()
            },
            shard_bytes: ByteCount::new(shard_bytes),
        };
        let archive = Archive::new(rng.fork());
        let conductor = Conductor::new(archive, options, rng.fork());
        let shape = Shape::draw(&mut rng, volume_bytes / 512, shard_bytes / 512);
        world.net_faults(|faults| *faults = plan.net());
        Self {
            world: world.clone(),
            rng,
            plan,
            shape,
            replicas,
            stores,
            conductor,
            conductor_away_until: Instant::EPOCH,
            ack,
            record: Record::default(),
            lost: Rc::default(),
            owners: Vec::new(),
            owners_started: 0,
            together,
            victim,
        }
    }

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
            fallible: self.victim == Some(number),
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
        if !self.conductor.is_alive() {
            let common = self.common_process();
            let own = || self.world.process("conductor", host(CONDUCTOR_HOST));
            self.conductor.start(common.unwrap_or_else(own));
        }
    }

    /// The shards as they are committed.
    fn shards(&self) -> Vec<Shard> {
        self.conductor.archive().ledger(|ledger| ledger.shards())
    }

    /// Whether some shard is left with no replica but the one whose disk has faults.
    fn rests_on_victim(&self) -> bool {
        let Some(victim) = self.victim.map(|number| self.stores[number].disk_id()) else {
            return false;
        };
        let healthy = |r: &Replica| r.in_sync && r.disk != victim;
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
        if let Some(victim) = self.victim {
            let disk = self.stores[victim].disk_id();
            let shards = self.shards().len();
            self.lost
                .borrow_mut()
                .extend((0..shards).map(|shard| (disk, shard)));
        }
        self.start_owner();
        self.trouble(faults, verbose).await;
        self.peace().await;
        if !self.rests_on_victim() {
            let checked = self.final_check().await;
            // Its disk may have lost the last good copy only now.
            if !self.rests_on_victim() {
                checked?;
                self.compare_replicas().await?;
            }
        }
        if !checks {
            return Ok(());
        }
        let history = self.record.history.borrow();
        linear::check(&history, self.shape.sectors).map_err(|violation| violation.to_string())
    }

    /// Makes the volume once all nodes are there, and waits until it can be attached.
    async fn found_volume(&mut self) -> Result<(), String> {
        let archive = self.conductor.archive().clone();
        let request = CreateVolume {
            name: VOLUME_NAME.to_owned(),
            size_bytes: ByteCount::new(self.shape.sectors * 512),
            replicas: u8::try_from(self.replicas).unwrap_or(u8::MAX),
            ack: self.ack,
        };
        let limit = self.world.now() + FOUND_LIMIT;
        let mut is_asked = false;
        while !archive.ledger(|ledger| ledger.is_ready()) {
            if self.world.now() >= limit {
                return Err("the volume is not made".to_owned());
            }
            if !is_asked && archive.ledger(|ledger| ledger.nodes()) == self.stores.len() {
                is_asked = true;
                let request = request.clone();
                self.conductor.tell(async move |cluster| {
                    if let Err(error) = cluster.create(request, FOUND_LIMIT).await {
                        tracing::error!(%error, "the volume cannot be made");
                    }
                });
            }
            self.world.sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// From now on requests to the conductor and its metadata have faults.
    fn spoil_roads(&mut self) {
        let mut roads = self.conductor.roads.borrow_mut();
        if self.rng.chance(300_000) {
            roads.lost_per_million = 50_000;
        }
        if self.rng.chance(300_000) {
            roads.late_per_million = 30_000;
        }
        let mut rate = || {
            let is_faulty = self.rng.chance(200_000);
            if is_faulty { 20_000 } else { 0 }
        };
        self.conductor.archive().set_faults(MetaFaults {
            errors_per_million: rate(),
            conflicts_per_million: rate(),
            compactions_per_million: rate(),
        });
    }

    /// All is well again: hosts have power, stores run, cuts heal, nothing is lost any more.
    async fn peace(&mut self) {
        for owner in self.owners.drain(..) {
            owner.crash();
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
        self.restart_conductor();
        if self.rng.chance(500_000) {
            self.undo_commands();
        }
        for number in 0..self.stores.len() {
            if let Some(disk) = self.stores[number].disk(&self.world) {
                disk.faults(DiskFaults::heal);
            }
            self.restart_store(number);
        }
        self.world.sleep(Duration::from_secs(5)).await;
    }

    /// A last owner attaches, reads everything, and detaches cleanly.
    async fn final_check(&mut self) -> Result<(), String> {
        self.start_owner();
        let owner = self.owners.last().ok_or("there is an owner")?;
        let limit = self.world.now() + ATTACH_LIMIT;
        while !owner.serves() {
            if self.world.now() >= limit {
                return Err(format!(
                    "no owner can attach when all is well: {}",
                    owner.trouble()
                ));
            }
            self.world.sleep(Duration::from_millis(100)).await;
        }
        owner.stop_workers(&self.world).await?;
        let mut sector = 0;
        while sector < self.shape.sectors {
            let end = (sector + CHECK_SECTORS).min(self.shape.sectors);
            owner.read(&self.world, sector..end, &self.record).await?;
            sector = end;
        }
        owner.detach(&self.world).await
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

/// The address of a host by its number.
fn host(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, number))
}
