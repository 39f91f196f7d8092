//! A write that only stores have which do not count: then these are gone for a while.
//!
//! ```text
//!  one store falls behind, the owner loses the conductor, the store returns and is filled
//!     └▶ its way into the set stays open: what it has counts for nothing yet
//!        └▶ the owner loses one that does count
//!           └▶ owner and stores die, but for that one: a new owner has it alone
//! ```

use std::time::Duration;

use super::Cluster;
use super::owner::Owner;
use super::stores::store_of;

/// How long a store may take to leave every set.
const LEAVES_WITHIN: Duration = Duration::from_secs(8);
/// How often to look.
const LOOK: Duration = Duration::from_millis(100);

impl Cluster {
    pub(super) async fn strand(&mut self) {
        let Some(host) = self.owners.last().filter(|o| o.serves()).map(Owner::host) else {
            return;
        };
        let joins = self.rng.index(self.stores.len());
        self.stores[joins].crash();
        let until = self.world.now() + LEAVES_WITHIN;
        while self.counts(joins) {
            if self.world.now() >= until {
                return;
            }
            self.world.sleep(LOOK).await;
        }
        self.conductor.roads.borrow_mut().cut_off.insert(host);
        self.restart_store(joins);
        self.wait(500_000, 5_000_000).await;
        let members: Vec<usize> = (0..self.stores.len()).filter(|&s| self.counts(s)).collect();
        if members.is_empty() {
            return;
        }
        let stays = members[self.rng.index(members.len())];
        self.world.partition(host, self.stores[stays].host());
        self.wait(50_000, 2_000_000).await;
        for owner in self.owners.drain(..) {
            owner.crash();
        }
        for (number, store) in self.stores.iter_mut().enumerate() {
            if number != stays {
                store.crash();
            }
        }
        self.heal();
        self.start_owner();
        self.wait(1_000_000, 20_000_000).await;
    }

    /// Whether a store is in the set of any shard.
    fn counts(&self, number: usize) -> bool {
        let shards = self.shards();
        let mut replicas = shards.iter().flat_map(|shard| &shard.replicas);
        replicas.any(|replica| replica.in_sync && store_of(replica.disk) == number)
    }

    async fn wait(&mut self, from_us: u64, to_us: u64) {
        let pause = self.rng.between(from_us, to_us);
        self.world.sleep(Duration::from_micros(pause)).await;
    }
}
