//! The faults of a run: what happens when, drawn from the seed's plan.

use std::time::Duration;

use super::{Cluster, owner::OWNER_HOST};

/// Owners that may live at once: the present one and some that were replaced.
const OWNERS_MAX: usize = 3;

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    CrashOwner,
    ReplaceOwner,
    DetachOwner,
    CrashStore(usize),
    PowerLoss(usize),
    Blackout,
    Partition(usize),
    CutOneWay(usize),
    Heal,
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
        self.record.failure().is_some() || self.metadata.borrow().failure.is_some()
    }

    fn draw(&mut self) -> Option<Trouble> {
        let store = self.rng.index(self.stores.len());
        let plan = self.plan;
        let drawn = self.rng.below(100);
        let trouble = match drawn {
            0..20 => (plan.process_crashes, Trouble::CrashOwner),
            20..28 => (plan.process_crashes, Trouble::ReplaceOwner),
            28..36 => (true, Trouble::DetachOwner),
            36..50 => (plan.process_crashes, Trouble::CrashStore(store)),
            50..60 => (plan.power_losses, Trouble::PowerLoss(store)),
            60..75 => (plan.power_losses, Trouble::Blackout),
            75..83 => (plan.partitions, Trouble::Partition(store)),
            83..90 => (plan.partitions, Trouble::CutOneWay(store)),
            _ => (plan.partitions, Trouble::Heal),
        };
        trouble.0.then_some(trouble.1)
    }

    async fn meet(&mut self, trouble: Trouble) {
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
                        let _ = owner.detach(&self.world).await;
                    }
                    owner.crash();
                }
            }
            Trouble::CrashStore(number) => self.stores[number].crash(),
            Trouble::PowerLoss(number) => self.power_loss(number),
            Trouble::Blackout => {
                for owner in self.owners.drain(..) {
                    owner.crash();
                }
                self.world.power_loss(OWNER_HOST);
                for number in 0..self.stores.len() {
                    self.power_loss(number);
                }
            }
            Trouble::Partition(number) => {
                self.world.partition(OWNER_HOST, self.stores[number].host());
            }
            Trouble::CutOneWay(number) => {
                let store = self.stores[number].host();
                if self.rng.chance(500_000) {
                    self.world.cut(OWNER_HOST, store);
                } else {
                    self.world.cut(store, OWNER_HOST);
                }
            }
            Trouble::Heal => self.world.heal(),
        }
    }

    fn power_loss(&mut self, number: usize) {
        self.stores[number].power_loss(&self.world);
        if self.plan.volatile_cache {
            let disk = self.stores[number].location().disk;
            let shards = self.metadata.borrow().shards().len();
            self.lost
                .borrow_mut()
                .extend((0..shards).map(|shard| (disk, shard)));
        }
    }

    /// Dead stores come back, not always at once, and there is an owner again.
    fn restart_what_died(&mut self) {
        for number in 0..self.stores.len() {
            if self.rng.chance(600_000) {
                self.stores[number].restart_if_dead(&self.world, &self.record);
            }
        }
        if self.owners.is_empty() && self.rng.chance(700_000) {
            self.start_owner();
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(1).max(1)
}
