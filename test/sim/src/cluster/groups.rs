//! Groups of snapshots of two volumes, whose owners live apart, under faults.
//!
//! ```text
//! writer:  n to a, acknowledged, n to b, acknowledged, n+1 to a …    a and b attached by two owners
//! maker:   groups of snapshots at random moments
//! trouble: owners and conductor crash and stall, requests and answers are lost, late, or come twice
//! ```
//!
//! The writer does one thing after another, so in whatever is of one moment `b` is as far as `a` or one
//! behind. What is checked, once all is well again: each group that is there has a snapshot of both,
//! ready, that show that, and no less than was acknowledged before the group was asked for; one that was
//! made is there, of one that was refused nothing is.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use ashlar_client::conformance::{buffer_of, bytes_of};
use ashlar_client::{BlockDevice, Durability, Snapshot, Volume, VolumeOptions};
use ashlar_conductor::{ClusterOptions, Timing};
use ashlar_proto::api::{AckRule, CreateSnapshotGroup, CreateVolume, SnapshotState, VolumeState};
use ashlar_proto::{ByteCount, ClusterId};
use ashlar_reactor::Reactor;
use ashlar_reactor::future::{Either, race};
use ashlar_reactor::sim::{Process, Rng, World, fault::Plan};

use super::conductor::{CallError, Conductor, HELD_UP_MAX, Road, Roads, SimCluster};
use super::metadata::Archive;
use super::source::ConductorSource;
use super::stores::{Store, StoreSpec, Surroundings};
use super::{CONDUCTOR_HOST, host};
use crate::workload::Record;

const CLUSTER: ClusterId = ClusterId::new(0xc1a5);
const NAMES: [&str; 2] = ["a", "b"];
/// Where the owners of the two live, and who reads and asks for groups.
const OWNERS: [u8; 2] = [100, 101];
const READER: u8 = 150;
const VOLUME_BYTES: u64 = 1 << 20;
/// How long there is trouble, and how long the whole run may take.
const TROUBLE: Duration = Duration::from_secs(40);
const LIMIT: Duration = Duration::from_secs(3_000);
/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(200);
/// When a write that is not answered is sent again.
const WRITE_MAX: Duration = Duration::from_secs(3);

/// How a run went.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Groups that were made, and those that were refused.
    pub made: usize,
    /// See there.
    pub refused: usize,
    /// Writes that were acknowledged.
    pub writes: u64,
    /// What was wrong.
    pub failure: Option<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (made, refused, writes) = (self.made, self.refused, self.writes);
        write!(f, "{made} groups made, {refused} refused, {writes} writes")?;
        if let Some(failure) = &self.failure {
            write!(f, "\nFAILED: {failure}")?;
        }
        Ok(())
    }
}

/// A group that was asked for.
#[derive(Clone)]
struct Asked {
    /// What was acknowledged by then, of either volume.
    acked: [u64; 2],
    /// Whether it was made, if that is known.
    is_made: Option<bool>,
}

/// One of the volumes, and who has it attached.
struct Side {
    name: &'static str,
    owner: RefCell<Option<Process>>,
    volume: Rc<RefCell<Option<(Reactor, Volume)>>>,
    acked: Cell<u64>,
}

/// The cluster of one seed.
struct Groups {
    world: World,
    conductor: Rc<Conductor>,
    sides: [Side; 2],
    hold_max: Duration,
    is_over: Cell<bool>,
    asked: RefCell<BTreeMap<String, Asked>>,
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    let world = World::new(seed);
    let mut rng = world.fork_rng();
    let options = ClusterOptions {
        timing: Timing {
            heartbeat: Duration::from_millis(300),
            silence: Duration::from_secs(2),
            ..Timing::default()
        },
        shard_bytes: ByteCount::new(VOLUME_BYTES),
        ..ClusterOptions::new(CLUSTER)
    };
    let archive = Archive::new(rng.fork());
    let side = |name| Side {
        name,
        owner: RefCell::default(),
        volume: Rc::default(),
        acked: Cell::default(),
    };
    let groups = Groups {
        world: world.clone(),
        conductor: Conductor::new(archive, options, rng.fork()),
        sides: NAMES.map(side),
        // Where an owner has less patience than the conductor counts on, holds break.
        hold_max: Duration::from_millis(if rng.chance(300_000) {
            rng.between(2, 200)
        } else {
            1_000
        }),
        is_over: Cell::new(false),
        asked: RefCell::default(),
    };
    let driven = world.run(LIMIT, groups.drive(rng));
    let failure = match driven {
        Ok(Ok(())) => None,
        Ok(Err(what)) => Some(what),
        Err(stopped) => Some(format!("the run ended early: {stopped}")),
    };
    let asked = groups.asked.borrow();
    let count = |made| asked.values().filter(|a| a.is_made == Some(made)).count();
    Outcome {
        made: count(true),
        refused: count(false),
        writes: groups.sides.iter().map(|side| side.acked.get()).sum(),
        failure,
    }
}

impl Groups {
    async fn drive(&self, mut rng: Rng) -> Result<(), String> {
        let plan = Plan::draw(&mut rng);
        let spec = StoreSpec {
            apart: true,
            mobile: true,
            disks: 1,
            tight: false,
            bug: None,
        };
        let mut stores: Vec<Store> = (0..3)
            .map(|number| Store::new(&self.world, number, spec, &plan, &mut rng))
            .collect();
        let record = Record::default();
        self.start_conductor();
        for store in &mut stores {
            store.prepare(&self.world).await?;
            store.restart_if_dead(Surroundings {
                world: &self.world,
                record: &record,
                conductor: &self.conductor,
                common: None,
                local: Vec::new(),
                victim: None,
            });
        }
        let reader = self.world.process("reader", host(READER));
        for name in NAMES {
            self.create(&reader, name).await?;
        }
        for side in 0..2 {
            self.attach(side);
        }
        for side in &self.sides {
            self.until("the owners", || side.volume.borrow().is_some())
                .await?;
        }
        self.world.net_faults(|faults| *faults = plan.net());
        self.spoil(&mut rng);
        let until = self.world.now() + TROUBLE;
        let (writes, makes) = (
            self.write(rng.fork()),
            self.make(&reader, rng.fork(), until),
        );
        let work = race(writes, race(makes, self.trouble(rng.fork())));
        match work.await {
            Either::First(never) | Either::Second(Either::Second(never)) => never?,
            Either::Second(Either::First(())) => {}
        }
        self.heal().await?;
        self.check(&reader).await
    }

    fn start_conductor(&self) {
        if !self.conductor.is_alive(0) {
            let process = self.world.process("conductor", host(CONDUCTOR_HOST));
            self.conductor.start(0, process);
        }
    }

    fn road(&self, process: &Process, at: IpAddr) -> Road {
        Road {
            reactor: process.reactor().clone(),
            host: at,
            conductor: Rc::clone(&self.conductor),
        }
    }

    async fn create(&self, reader: &Process, name: &str) -> Result<(), String> {
        let request = CreateVolume {
            settings: std::collections::BTreeMap::new(),
            name: name.to_owned(),
            size_bytes: ByteCount::new(VOLUME_BYTES),
            replicas: 3,
            ack: AckRule::Majority,
            reserve: ashlar_proto::api::Reserve::None,
            labels: std::collections::BTreeMap::new(),
        };
        let road = self.road(reader, host(READER));
        let end = self.world.now() + PATIENCE;
        while self.world.now() < end {
            let request = request.clone();
            let deed = async move |cluster: SimCluster| cluster.create(request, PATIENCE).await;
            match road.ask(PATIENCE, deed).await {
                Ok(volume) if volume.state == VolumeState::Ready => return Ok(()),
                // Not all stores are there yet.
                _ => self.world.sleep(Duration::from_millis(50)).await,
            }
        }
        Err(format!("volume {name} is not made"))
    }

    /// Starts an owner, which attaches as soon as it can.
    fn attach(&self, at: usize) {
        let (side, here) = (&self.sides[at], host(OWNERS[at]));
        if let Some(before) = side.owner.take() {
            before.crash();
        }
        side.volume.replace(None);
        let process = self.world.process("owner", here);
        let source = Rc::new(ConductorSource::new(self.road(&process, here)));
        let (reactor, slot, name) = (
            process.reactor().clone(),
            Rc::clone(&side.volume),
            side.name,
        );
        let hold_max = self.hold_max;
        drop(process.reactor().spawn(async move {
            loop {
                let options = VolumeOptions {
                    force: true,
                    hold_max,
                    attach_patience: Duration::from_millis(500),
                    flush_interval: Duration::from_millis(200),
                    io_timeout: Duration::from_secs(5),
                    ..VolumeOptions::new(format!("owner of {name}"))
                };
                match Volume::attach(&reactor, Rc::clone(&source), name, options).await {
                    Ok(volume) => {
                        slot.replace(Some((reactor, volume)));
                        return;
                    }
                    Err(error) => tracing::info!(name, %error, "not attached"),
                }
                reactor.sleep(Duration::from_millis(100)).await;
            }
        }));
        side.owner.replace(Some(process));
    }

    /// Requests to the conductor are lost, late, or come twice.
    fn spoil(&self, rng: &mut Rng) {
        let mut roads = self.conductor.roads.borrow_mut();
        if rng.chance(600_000) {
            roads.lost_per_million = u32::try_from(rng.between(1_000, 200_000)).unwrap_or(0);
        }
        if rng.chance(300_000) {
            roads.late_per_million = 30_000;
        }
        if rng.chance(400_000) {
            roads.echoes_per_million = 300_000;
        }
    }

    /// Writes until the run is over, one after another.
    async fn write(&self, mut rng: Rng) -> Result<(), String> {
        for number in 1.. {
            for side in &self.sides {
                self.write_one(side, number).await;
                if self.is_over.get() {
                    return Err("the writer ends before the trouble does".to_owned());
                }
                side.acked.set(number);
                if rng.chance(500_000) {
                    let pause = Duration::from_micros(rng.below(3_000));
                    self.world.sleep(pause).await;
                }
            }
        }
        Ok(())
    }

    /// Writes a number until that is acknowledged, whoever has the volume.
    async fn write_one(&self, side: &Side, number: u64) {
        while !self.is_over.get() {
            let attached = side.volume.borrow().clone();
            if let Some((reactor, volume)) = attached {
                let mut block = vec![0; 4096];
                block[..8].copy_from_slice(&number.to_le_bytes());
                let buffer = buffer_of(&reactor, &block);
                let written = volume.write(0, buffer, Durability::Accepted);
                match race(written, self.world.sleep(WRITE_MAX)).await {
                    Either::First(Ok(())) => return,
                    // A crashed owner answers nothing, and loses nothing that it has sent.
                    Either::First(Err(_)) | Either::Second(()) => {}
                }
            }
            self.world.sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asks for groups until then.
    async fn make(&self, reader: &Process, mut rng: Rng, until: ashlar_reactor::Instant) {
        let mut number = 0;
        while self.world.now() < until {
            let pause = Duration::from_millis(rng.between(1, 600));
            self.world.sleep(pause).await;
            number += 1;
            let name = format!("g{number}");
            let acked = [0, 1].map(|at: usize| self.sides[at].acked.get());
            let asked = Asked {
                acked,
                is_made: None,
            };
            self.asked.borrow_mut().insert(name.clone(), asked);
            let mut volumes = NAMES.map(str::to_owned).to_vec();
            rng.shuffle(&mut volumes);
            let request = CreateSnapshotGroup {
                name: name.clone(),
                volumes,
            };
            let road = self.road(reader, host(READER));
            let deed = async move |cluster: SimCluster| {
                cluster
                    .create_group(request, 7, Duration::from_millis(10))
                    .await
            };
            let is_made = match road.ask(Duration::from_secs(20), deed).await {
                Ok(_) => Some(true),
                Err(CallError::Refused(error)) => {
                    tracing::info!(name, %error, "refused");
                    matches!(error, ashlar_conductor::ClusterError::Refused(_)).then_some(false)
                }
                Err(CallError::Unreachable) => None,
            };
            if let Some(asked) = self.asked.borrow_mut().get_mut(&name) {
                asked.is_made = is_made;
            }
        }
    }

    /// Processes crash and stall, for ever.
    async fn trouble(&self, mut rng: Rng) -> Result<(), String> {
        loop {
            let pause = Duration::from_millis(rng.between(20, 4_000));
            self.world.sleep(pause).await;
            let at = rng.index(2);
            let stall = Duration::from_millis(rng.between(1, 2_500));
            match rng.below(6) {
                0 => self.attach(at),
                1 | 2 => {
                    if let Some(owner) = &*self.sides[at].owner.borrow() {
                        owner.stall(stall);
                    }
                }
                3 => {
                    self.conductor.crash(0);
                    let pause = Duration::from_millis(rng.below(1_500));
                    self.world.sleep(pause).await;
                    self.start_conductor();
                }
                4 => self.conductor.stall(0, stall),
                _ => {
                    // It lets go, and attaches again.
                    let attached = self.sides[at].volume.take();
                    if let Some((reactor, volume)) = attached {
                        let detached = reactor.spawn(async move { volume.detach().await });
                        let pause = Duration::from_millis(rng.below(1_500));
                        self.world.sleep(pause).await;
                        drop(detached);
                    }
                    self.attach(at);
                }
            }
        }
    }

    async fn heal(&self) -> Result<(), String> {
        self.is_over.set(true);
        self.conductor.roads.replace(Roads::default());
        self.world.net_faults(|faults| *faults = Default::default());
        self.start_conductor();
        // What was held up has arrived then, and what was left over is over.
        self.world.sleep(HELD_UP_MAX + Duration::from_secs(2)).await;
        for at in 0..2 {
            self.attach(at);
            let volume = &self.sides[at].volume;
            self.until("an owner", || volume.borrow().is_some()).await?;
        }
        Ok(())
    }

    async fn until(&self, what: &str, is: impl Fn() -> bool) -> Result<(), String> {
        let end = self.world.now() + PATIENCE;
        while !is() {
            if self.world.now() >= end {
                return Err(format!("{what}: not there when all is well"));
            }
            self.world.sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    async fn check(&self, reader: &Process) -> Result<(), String> {
        let mut there = Vec::new();
        for name in NAMES {
            there.push(self.snapshots(reader, name).await?);
        }
        if there[0] != there[1] {
            return Err(format!("not of both volumes: {there:?}"));
        }
        let all = self.asked.borrow().clone();
        for (name, asked) in &all {
            let is_there = there[0].contains(name);
            if asked.is_made.is_some_and(|made| made != is_there) {
                return Err(format!(
                    "{name}: told as made: {:?}, is there: {is_there}",
                    asked.is_made
                ));
            }
            if !is_there {
                continue;
            }
            let mut seen = [0; 2];
            for (at, volume) in NAMES.into_iter().enumerate() {
                seen[at] = self.read(reader, volume, name).await?;
            }
            let [a, b] = seen;
            if b > a || a - b > 1 {
                return Err(format!("{name} is of two moments: a {a}, b {b}"));
            }
            if a < asked.acked[0] || b < asked.acked[1] {
                let acked = asked.acked;
                return Err(format!("{name} lacks {acked:?}: a {a}, b {b}"));
            }
        }
        Ok(())
    }

    /// The names of the snapshots of a volume, once all are ready.
    async fn snapshots(&self, reader: &Process, volume: &str) -> Result<BTreeSet<String>, String> {
        let road = self.road(reader, host(READER));
        let end = self.world.now() + PATIENCE;
        loop {
            let name = volume.to_owned();
            let deed = async move |cluster: SimCluster| cluster.snapshots(&name, false);
            let listed = road.ask(PATIENCE, deed).await;
            let listed = listed.map_err(|error| format!("no list of snapshots: {error}"))?;
            if listed.iter().all(|s| s.state == SnapshotState::Ready) {
                return Ok(listed.into_iter().map(|s| s.name).collect());
            }
            if self.world.now() >= end {
                return Err(format!("never ready: {listed:?}"));
            }
            self.world.sleep(Duration::from_millis(50)).await;
        }
    }

    async fn read(&self, reader: &Process, volume: &str, name: &str) -> Result<u64, String> {
        let source = ConductorSource::new(self.road(reader, host(READER)));
        let options = VolumeOptions::new("reader");
        let reactor = reader.reactor();
        let opened = Snapshot::open(reactor, source, volume, name, options).await;
        let snapshot = opened.map_err(|error| format!("{volume}@{name}: {error}"))?;
        let pieces = snapshot.read(0, 4096).await;
        let pieces = pieces.map_err(|error| format!("{volume}@{name}: {error}"))?;
        let bytes = bytes_of(&pieces);
        let number = bytes.first_chunk().ok_or("a block is longer")?;
        Ok(u64::from_le_bytes(*number))
    }
}

#[cfg(test)]
mod tests {
    use ashlar_proto::planted::{Planted, plant};

    use super::run;

    #[test]
    fn groups_are_of_one_moment() {
        let (mut made, mut refused) = (0, 0);
        for seed in 1..=8 {
            let outcome = run(seed);
            assert_eq!(outcome.failure, None, "seed {seed}");
            made += outcome.made;
            refused += outcome.refused;
        }
        // Under so much trouble some are made and others are not.
        assert!(made > 0 && refused > 0, "{made} made, {refused} refused");
    }

    #[test]
    fn a_rule_left_out_is_found() {
        for rule in Planted::OF_GROUPS {
            plant(Some(rule));
            let found = (1..=60).any(|seed| run(seed).failure.is_some());
            plant(None);
            assert!(found, "{rule:?} is not found");
        }
    }
}
