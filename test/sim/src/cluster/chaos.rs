//! The faults of a run: what happens when, drawn from the seed's plan.

use std::time::Duration;

use ashlar_proto::DiskId;
use ashlar_reactor::Instant;
use ashlar_reactor::sim::fault::{DiskFaults, FaultAccess};
use ashlar_reactor::sim::{DiskCounters, SimDisk};

use super::operator::Command;
use super::owner::{OWNER_HOSTS, Owner};
use super::stores::{Store, store_of};
use super::{Cluster, Scope, Together};

/// Owners that may live at once: the present one and some that were replaced.
const OWNERS_MAX: usize = 3;

/// Most that requests of a slow disk take longer, in µs.
const SLOWER_US_MAX: u64 = 400_000;

/// How often to look what a disk does, a fraction of what a flush takes, and for how long.
const LOOK: Duration = Duration::from_micros(100);
const AWAITED_MAX: Duration = Duration::from_secs(4);

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    CrashOwner,
    ReplaceOwner,
    DetachOwner,
    CrashStore(usize),
    /// For so long that its replicas may be made elsewhere.
    LoseStore(usize),
    PowerLoss(usize),
    /// Power fails while a disk makes something durable.
    PowerLossAtFlush(usize),
    /// Power fails when a disk has just written where something was, as checkpoints do.
    PowerLossAtSlot(usize),
    Blackout,
    CrashAllStores,
    Partition(usize),
    CutOneWay(usize),
    Isolate,
    Coup,
    Split(usize),
    Seclude(usize),
    Strand,
    LoseConductor,
    CrashConductor,
    LongOutage,
    StallConductor,
    /// The one that leads gives that up.
    ResignConductor,
    /// The conductor and some stores do not reach each other.
    CutStores,
    Command(Command),
    Heal,
    Media(DiskId),
    /// Every request of a disk takes so much longer for a while.
    SlowDisk(DiskId, Duration),
    /// An empty one is there in its place.
    ReplaceDisk(DiskId),
}

impl Cluster {
    /// Lets things go wrong for a while.
    pub(super) async fn trouble(&mut self, duration: Duration, verbose: bool) {
        let end = self.world.now() + duration;
        while self.world.now() < end && !self.has_failed() {
            let mean = micros(self.plan.fault_interval);
            let pause = Duration::from_micros(self.rng.between(1, 2 * mean));
            self.world.sleep(pause).await;
            if let Some(trouble) = self.draw() {
                if verbose {
                    println!("{:?} {trouble:?}", self.world.now());
                }
                self.meet(trouble).await;
            }
            self.restart_what_died();
        }
    }

    fn has_failed(&self) -> bool {
        let archive = self.conductor.archive();
        self.record.failure().is_some() || archive.ledger(|ledger| ledger.failure()).is_some()
    }

    fn draw(&mut self) -> Option<Trouble> {
        let store = self.rng.index(self.stores.len());
        let plan = self.plan;
        if let Some(victim) = self.victim.filter(|_| self.rng.chance(400_000)) {
            return Some(Trouble::Media(victim));
        }
        if plan.process_crashes && self.rng.chance(30_000) {
            let by = self.rng.between(1_000, SLOWER_US_MAX);
            return Some(Trouble::SlowDisk(
                self.draw_disk(store),
                Duration::from_micros(by),
            ));
        }
        if plan.power_losses && self.mobile && self.rng.chance(40_000) {
            let disk = self.draw_disk(store);
            return self
                .can_be_spared(disk)
                .then_some(Trouble::ReplaceDisk(disk));
        }
        let drawn = self.rng.below(100);
        let has_spare = self.stores.len() > self.replicas;
        let is_whole = self.scope == Scope::Whole;
        if self.mobile && self.rng.chance(150_000) {
            return Some(Trouble::Command(self.draw_command(store)));
        }
        if self.grows && self.rng.chance(50_000) {
            return self.draw_growth().map(Trouble::Command);
        }
        let apart = matches!(self.together, Together::Apart);
        if plan.process_crashes && plan.partitions && apart && self.rng.chance(30_000) {
            return Some(Trouble::Strand);
        }
        if is_whole && plan.process_crashes && self.rng.chance(60_000) {
            return Some(match self.rng.below(8) {
                0 => Trouble::LongOutage,
                1 => Trouble::StallConductor,
                _ => Trouble::CrashConductor,
            });
        }
        if self.conductor.count() > 1 && self.rng.chance(150_000) {
            return Some(match self.rng.below(4) {
                0 => Trouble::ResignConductor,
                1 => Trouble::CrashConductor,
                _ => Trouble::StallConductor,
            });
        }
        let trouble = match drawn {
            0..20 => (plan.process_crashes, Trouble::CrashOwner),
            20..28 => (plan.process_crashes, Trouble::ReplaceOwner),
            28..36 => (true, Trouble::DetachOwner),
            36..39 if has_spare => (plan.process_crashes, Trouble::LoseStore(store)),
            36..46 => (plan.process_crashes, Trouble::CrashStore(store)),
            46..52 => (plan.process_crashes, Trouble::CrashAllStores),
            52..56 => (plan.power_losses, Trouble::PowerLoss(store)),
            56..60 => (plan.power_losses, Trouble::PowerLossAtFlush(store)),
            60..67 => (plan.power_losses, Trouble::Blackout),
            67..72 => (plan.power_losses, Trouble::PowerLossAtSlot(store)),
            72..76 => (plan.partitions, Trouble::Partition(store)),
            76..80 => (plan.partitions, Trouble::CutOneWay(store)),
            80..82 => (plan.partitions, Trouble::Isolate),
            82..85 => (plan.partitions, Trouble::Coup),
            85..90 => (plan.partitions, Trouble::Split(store)),
            90..93 => (plan.partitions, Trouble::Seclude(store)),
            93..95 => (plan.partitions, Trouble::LoseConductor),
            95..97 if is_whole => (plan.partitions, Trouble::CutStores),
            95..97 => (plan.partitions, Trouble::LoseConductor),
            _ => (plan.partitions, Trouble::Heal),
        };
        trouble.0.then_some(trouble.1)
    }

    async fn meet(&mut self, trouble: Trouble) {
        let owner = OWNER_HOSTS[self.rng.index(OWNER_HOSTS.len())];
        match trouble {
            Trouble::CrashOwner => {
                for owner in self.owners.drain(..) {
                    owner.crash();
                }
            }
            Trouble::ReplaceOwner => {
                if self.owners.len() == OWNERS_MAX {
                    self.owners.remove(0).crash();
                }
                self.start_owner();
            }
            Trouble::DetachOwner => {
                // One that cannot detach cleanly now is simply left behind.
                if let Some(owner) = self.owners.pop() {
                    if owner.serves() && owner.stop_workers(&self.world).await.is_ok() {
                        let detached = owner.detach(&self.world).await;
                        if detached.is_ok()
                            && self.scope == Scope::Whole
                            && self.rng.chance(300_000)
                        {
                            self.owner_away_until = self.some_time_from_now(1_000_000, 20_000_000);
                        }
                    }
                    if matches!(self.together, Together::Apart) || self.rng.chance(500_000) {
                        owner.crash();
                    }
                }
            }
            Trouble::CrashStore(number) => self.stores[number].crash(),
            Trouble::LoseStore(number) => {
                self.stores[number].crash();
                let until = self.some_time_from_now(5_000_000, 30_000_000);
                self.stores[number].away_until = until;
            }
            Trouble::PowerLoss(number) => self.power_loss(number),
            Trouble::PowerLossAtFlush(number) => {
                let awaited = self.rng.between(1, 8);
                self.await_disk(number, |did| did.flushes_begun, awaited)
                    .await;
                self.power_loss(number);
            }
            Trouble::PowerLossAtSlot(number) => {
                self.await_disk(number, |did| did.rewrites, 1).await;
                self.power_loss(number);
            }
            Trouble::Blackout => {
                for owner in self.owners.drain(..) {
                    owner.crash();
                }
                for host in OWNER_HOSTS {
                    self.world.power_loss(host);
                }
                for number in 0..self.stores.len() {
                    self.power_loss(number);
                }
            }
            Trouble::CrashAllStores => self.stores.iter_mut().for_each(Store::crash),
            Trouble::Partition(number) => {
                let store = self.stores[number].host();
                self.world.partition(owner, store);
            }
            Trouble::CutOneWay(number) => {
                let store = self.stores[number].host();
                if self.rng.chance(500_000) {
                    self.world.cut(owner, store);
                } else {
                    self.world.cut(store, owner);
                }
            }
            Trouble::Isolate => {
                for store in &self.stores {
                    self.world.partition(owner, store.host());
                }
            }
            Trouble::Coup => self.coup().await,
            Trouble::Split(number) => self.split(number).await,
            Trouble::Seclude(number) => self.seclude(number).await,
            Trouble::Strand => self.strand().await,
            Trouble::LoseConductor => {
                let hosts = self.owners.iter().map(Owner::host);
                self.conductor.roads.borrow_mut().cut_off.extend(hosts);
            }
            Trouble::CrashConductor => {
                let index = self.draw_conductor();
                self.conductor.crash(index);
            }
            Trouble::LongOutage => {
                (0..self.conductor.count()).for_each(|index| self.conductor.crash(index));
                self.conductor_away_until = self.some_time_from_now(2_000_000, 30_000_000);
            }
            Trouble::StallConductor => {
                let stall = self.rng.between(100_000, 8_000_000);
                let index = self.draw_conductor();
                self.conductor.stall(index, Duration::from_micros(stall));
            }
            Trouble::ResignConductor => {
                let index = self.draw_conductor();
                self.conductor.resign(index);
            }
            Trouble::CutStores => {
                for store in &self.stores {
                    if self.rng.chance(400_000) {
                        self.conductor
                            .roads
                            .borrow_mut()
                            .cut_off
                            .insert(store.host());
                    }
                }
            }
            Trouble::Command(command) => self.command(command),
            Trouble::Heal => self.heal(),
            Trouble::Media(disk) => {
                if let Some(disk) = self.sim_disk(disk) {
                    self.damage(&disk);
                }
            }
            Trouble::SlowDisk(disk, by) => {
                if let Some(disk) = self.sim_disk(disk) {
                    disk.faults(|faults| faults.slow_down(by));
                }
            }
            Trouble::ReplaceDisk(disk) => {
                self.spoilt.borrow_mut().insert(disk);
                let replaced = self.stores[store_of(disk)].replace(&self.world, disk).await;
                if let Err(error) = replaced {
                    self.record.fail(error);
                }
            }
        }
    }

    /// Waits until a disk of a store has done something so many times more, for a while.
    async fn await_disk(&mut self, number: usize, count: impl Fn(DiskCounters) -> u64, times: u64) {
        let disk = self.draw_disk(number);
        let Some(disk) = self.sim_disk(disk) else {
            return;
        };
        let awaited = count(disk.counters()) + times;
        let until = self.world.now() + AWAITED_MAX;
        while count(disk.counters()) < awaited && self.world.now() < until {
            self.world.sleep(LOOK).await;
        }
    }

    /// The owner is cut off and replaced; the new one may die and the stores restart before the
    /// old one comes back and goes on where it was.
    async fn coup(&mut self) {
        let Some(old) = self.owners.last().map(Owner::host) else {
            return;
        };
        for store in &self.stores {
            self.world.partition(old, store.host());
        }
        if self.rng.chance(700_000) {
            self.conductor.roads.borrow_mut().cut_off.insert(old);
        }
        self.start_owner();
        self.pause().await;
        if self.rng.chance(700_000) {
            if self.rng.chance(500_000)
                && let Some(new) = self.owners.pop()
            {
                new.crash();
            }
            self.stores.iter_mut().for_each(Store::crash);
            for number in 0..self.stores.len() {
                self.restart_store(number);
            }
            if self.rng.chance(500_000) {
                self.pause().await;
            }
        }
        self.heal();
        self.pause().await;
    }

    /// A store misses some writes; a new owner reaches it alone for a while.
    async fn seclude(&mut self, number: usize) {
        self.stores[number].crash();
        let pause = self.rng.between(1, 1_500_000);
        self.world.sleep(Duration::from_micros(pause)).await;
        if let Some(old) = self.owners.last().map(Owner::host) {
            self.world.partition(old, self.stores[number].host());
        }
        self.restart_store(number);
        self.start_owner();
        let Some(new) = self.owners.last().map(Owner::host) else {
            return;
        };
        for (other, store) in self.stores.iter().enumerate() {
            if other != number {
                self.world.partition(new, store.host());
            }
        }
        let pause = self.rng.between(1, 15_000_000);
        self.world.sleep(Duration::from_micros(pause)).await;
        self.heal();
    }

    /// The owner is left with one store, a new owner has all the others: each side goes on as if
    /// the other were dead.
    async fn split(&mut self, number: usize) {
        let rng = self.rng.fork();
        let Some(old) = self.owners.last().map(Owner::host) else {
            return;
        };
        if let Some(owner) = self.owners.last() {
            owner.start_reader(self.shape, &self.record, rng);
        }
        for (other, store) in self.stores.iter().enumerate() {
            if other == number {
                let hosts = OWNER_HOSTS.iter().filter(|host| **host != old);
                hosts.for_each(|host| self.world.partition(*host, store.host()));
            } else {
                self.world.partition(old, store.host());
            }
        }
        if self.rng.chance(700_000) {
            self.conductor.roads.borrow_mut().cut_off.insert(old);
        }
        self.start_owner();
        let pause = self.rng.between(1_000_000, 20_000_000);
        self.world.sleep(Duration::from_micros(pause)).await;
        self.heal();
    }

    pub(super) fn heal(&self) {
        self.world.heal();
        for disk in self.stores.iter().flat_map(Store::disks) {
            if let Some(disk) = self.sim_disk(disk) {
                disk.faults(|faults| faults.slow_down(Duration::ZERO));
            }
        }
        self.conductor.roads.borrow_mut().cut_off.clear();
    }

    fn some_time_from_now(&mut self, least_us: u64, most_us: u64) -> Instant {
        self.world.now() + Duration::from_micros(self.rng.between(least_us, most_us))
    }

    async fn pause(&mut self) {
        let pause = self.rng.between(1, 2_000_000);
        self.world.sleep(Duration::from_micros(pause)).await;
    }

    /// Mostly the conductor that leads.
    fn draw_conductor(&mut self) -> usize {
        let any = self.rng.index(self.conductor.count());
        let is_leading = self.rng.chance(700_000);
        let leading = self.conductor.leading().filter(|_| is_leading);
        leading.unwrap_or(any)
    }

    /// A disk of a store.
    pub(super) fn draw_disk(&mut self, store: usize) -> DiskId {
        let disks = self.stores[store].disks();
        disks[self.rng.index(disks.len())]
    }

    fn sim_disk(&self, disk: DiskId) -> Option<SimDisk> {
        self.stores[store_of(disk)].disk(&self.world, disk)
    }

    /// Whether every acknowledged write is certain to be elsewhere, too.
    fn can_be_spared(&self, disk: DiskId) -> bool {
        let spoilt = self.spoilt.borrow();
        self.shards().iter().all(|shard| {
            let set = shard.replicas.iter().filter(|r| r.in_sync);
            let set: Vec<DiskId> = set.map(|r| r.disk).collect();
            let rest = set
                .iter()
                .filter(|other| **other != disk && !spoilt.contains(other));
            !set.contains(&disk) || rest.count() > set.len() - self.ack.ack_count(set.len())
        })
    }

    /// Damages a disk: what lies there, or what it does next.
    fn damage(&mut self, disk: &SimDisk) {
        let pages = disk.spec().bytes / 4096;
        match self.rng.below(60) {
            50 => disk.faults(DiskFaults::die),
            51..53 => {
                let start = self.rng.below(pages) * 4096;
                let range = start..start + (self.rng.between(1, 256) * 4096);
                disk.faults(|faults| faults.fail(FaultAccess::Write, range));
            }
            0..10 => disk.faults(|faults| faults.lose_writes(1)),
            10..20 => {
                let place = self.rng.below(pages) * 4096;
                disk.faults(|faults| faults.misdirect_next(place));
            }
            20..30 => {
                let start = self.rng.below(pages) * 4096;
                let range = start..start + (self.rng.between(1, 256) * 4096);
                disk.faults(|faults| faults.fail(FaultAccess::Read, range));
            }
            _ => {
                let flips = self.rng.between(1, 16);
                for _ in 0..flips {
                    if let Some(offset) = self.written_page(disk, pages) {
                        disk.flip(offset, self.rng.index(4096 * 8));
                    }
                }
            }
        }
    }

    /// A page that holds something, found by looking about.
    fn written_page(&mut self, disk: &SimDisk, pages: u64) -> Option<u64> {
        let mut page = [0; 4096];
        (0..256).find_map(|_| {
            let offset = self.rng.below(pages) * 4096;
            disk.peek(offset, &mut page);
            page.iter().any(|&byte| byte != 0).then_some(offset)
        })
    }

    /// Power fails at a store's host, which all share when they live together.
    fn power_loss(&mut self, number: usize) {
        let hit = match self.together {
            Together::Apart => number..number + 1,
            Together::One(_) => 0..self.stores.len(),
        };
        for number in hit {
            self.stores[number].power_loss(&self.world);
            if self.plan.volatile_cache {
                let shards = self.shards().len();
                let lost = |disk| (0..shards).map(move |shard| (disk, shard));
                let disks = self.stores[number].disks();
                self.lost
                    .borrow_mut()
                    .extend(disks.into_iter().flat_map(lost));
            }
        }
    }

    /// Dead stores come back, not always at once, and there is an owner again.
    fn restart_what_died(&mut self) {
        let now = self.world.now();
        for number in 0..self.stores.len() {
            if self.rng.chance(600_000) && now >= self.stores[number].away_until {
                self.restart_store(number);
            }
        }
        for index in 0..self.conductor.count() {
            if now >= self.conductor_away_until && self.rng.chance(600_000) {
                self.restart_one_conductor(index);
            }
        }
        self.owners.retain(Owner::is_alive);
        let is_left = self.owners.last().is_some_and(Owner::is_fenced);
        if is_left && self.keeper.is_some() && self.rng.chance(200_000) {
            for owner in self.owners.drain(..) {
                owner.crash();
            }
        }
        if self.owners.is_empty() && now >= self.owner_away_until && self.rng.chance(700_000) {
            self.start_owner();
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(1).max(1)
}
