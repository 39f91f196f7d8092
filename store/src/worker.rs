//! The part of a store on one reactor thread: its lanes, and the connections to them.
//!
//! Whatever concerns a lane happens on its worker; the service on the first reactor only routes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use ashlar_proto::api::Assignment;
use ashlar_proto::{BlockCount, DiskId, LaneIndex, ReplicaId};
use ashlar_reactor::Reactor;
use ashlar_reactor::channel::Semaphore;
use ashlar_reactor::link::Link;

use crate::health::DiskHealth;
use crate::lane::{
    LaneError, LaneOptions, LaneStats, LaneUsage, RecoveryError, ShardKey, UnrecoveredLane,
};
use crate::replica::Replicas;
use crate::session::{self, Greeting};

/// Names a lane among all of a store.
pub(crate) type LaneKey = (DiskId, LaneIndex);

/// See the module.
pub(crate) struct Worker {
    reactor: Reactor,
    lanes: RefCell<BTreeMap<LaneKey, Rc<Replicas>>>,
    links: RefCell<BTreeMap<u64, Link>>,
    links_made: Cell<u64>,
    /// One change of the set of replicas at a time.
    changes: Semaphore,
}

impl Worker {
    pub(crate) fn new(reactor: &Reactor) -> Rc<Self> {
        Rc::new(Self {
            reactor: reactor.clone(),
            lanes: RefCell::default(),
            links: RefCell::default(),
            links_made: Cell::new(0),
            changes: Semaphore::new(1),
        })
    }

    /// Recovers a lane and serves it from then on.
    pub(crate) async fn start_lane(
        &self,
        disk: DiskId,
        lane: UnrecoveredLane,
        options: LaneOptions,
        health: Arc<DiskHealth>,
    ) -> Result<(), RecoveryError> {
        let index = lane.index();
        let lane = lane.recover_with(options).await?;
        let replicas = Replicas::new(lane, health);
        self.lanes.borrow_mut().insert((disk, index), replicas);
        Ok(())
    }

    fn lane(&self, key: LaneKey) -> Option<Rc<Replicas>> {
        self.lanes.borrow().get(&key).cloned()
    }

    /// Serves a connection whose hello was accepted, in a task of its own. `ended` is dropped at
    /// its end.
    pub(crate) fn serve(
        self: &Rc<Self>,
        key: LaneKey,
        link: Link,
        greeting: Greeting,
        ended: impl Sized + 'static,
    ) {
        let Some(replicas) = self.lane(key) else {
            link.close();
            return;
        };
        let number = self.links_made.get();
        self.links_made.set(number + 1);
        self.links.borrow_mut().insert(number, link.clone());
        let worker = Rc::clone(self);
        drop(self.reactor.spawn(async move {
            let reactor = worker.reactor.clone();
            let end = session::serve(reactor, replicas, link.clone(), greeting).await;
            tracing::debug!(owner = link.peer(), %end, "session ended");
            worker.links.borrow_mut().remove(&number);
            drop(ended);
        }));
    }

    /// How a lane stands.
    pub(crate) fn report(&self, key: LaneKey) -> Option<(LaneUsage, LaneStats)> {
        let replicas = self.lane(key)?;
        Some((replicas.lane().usage(), replicas.lane().stats()))
    }

    /// Makes the replicas of a lane those that are wanted, durably.
    pub(crate) async fn apply(
        &self,
        key: LaneKey,
        wanted: Vec<Assignment>,
    ) -> Result<(), LaneError> {
        let Some(replicas) = self.lane(key) else {
            return Err(LaneError::Closing);
        };
        let _turn = self.changes.acquire(1).await;
        let plan = Plan::between(&replicas.lane().shards(), &wanted);
        if plan.remove.is_empty() && plan.create.is_empty() {
            return Ok(());
        }
        let outcome = replicas.change(&plan).await;
        replicas.refresh();
        outcome
    }

    /// Ends all connections once the requests that were begun have ended, and closes the lanes.
    pub(crate) async fn stop(&self) {
        let lanes = self.lanes.take();
        for replicas in lanes.values() {
            replicas.drain().await;
        }
        let links = self.links.take();
        for link in links.into_values() {
            link.drained().await;
            link.close();
        }
        for replicas in lanes.into_values() {
            replicas.lane().clone().close().await;
        }
    }
}

/// What is to change on a lane.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) remove: Vec<ShardKey>,
    pub(crate) create: Vec<(ShardKey, ReplicaId, BlockCount)>,
}

impl Plan {
    /// From what is there to what is wanted. A replica of another life, or of another size, is
    /// another replica.
    fn between(present: &[(ShardKey, ReplicaId, BlockCount)], wanted: &[Assignment]) -> Self {
        let wanted: BTreeMap<ShardKey, (ReplicaId, BlockCount)> = wanted
            .iter()
            .map(|assignment| {
                let key = ShardKey {
                    volume: assignment.volume,
                    shard: assignment.shard,
                };
                (
                    key,
                    (assignment.replica, BlockCount::new(assignment.blocks)),
                )
            })
            .collect();
        let present: BTreeMap<ShardKey, (ReplicaId, BlockCount)> = present
            .iter()
            .map(|&(key, replica, blocks)| (key, (replica, blocks)))
            .collect();
        let differs = |key: &ShardKey, value, other: &BTreeMap<_, _>| other.get(key) != Some(value);
        Self {
            remove: present
                .iter()
                .filter(|&(key, value)| differs(key, value, &wanted))
                .map(|(&key, _)| key)
                .collect(),
            create: wanted
                .iter()
                .filter(|&(key, value)| differs(key, value, &present))
                .map(|(&key, &(replica, blocks))| (key, replica, blocks))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_proto::{ShardIndex, VolumeId};

    fn key(shard: u32) -> ShardKey {
        ShardKey {
            volume: VolumeId::new(1),
            shard: ShardIndex::new(shard),
        }
    }

    fn here(shard: u32, replica: u64) -> (ShardKey, ReplicaId, BlockCount) {
        (key(shard), ReplicaId::new(replica), BlockCount::new(100))
    }

    fn assigned(shard: u32, replica: u64) -> Assignment {
        Assignment {
            volume: VolumeId::new(1),
            shard: ShardIndex::new(shard),
            replica: ReplicaId::new(replica),
            disk: DiskId::new(1),
            blocks: 100,
        }
    }

    #[test]
    fn a_plan_leaves_what_is_right_alone() {
        let present = [here(1, 1), here(2, 2), here(3, 3)];
        let plan = Plan::between(&present, &[assigned(2, 2), assigned(3, 9), assigned(4, 4)]);
        assert_eq!(plan.remove, [key(1), key(3)]);
        assert_eq!(plan.create, [here(3, 9), here(4, 4)]);
        let same = Plan::between(&present, &[assigned(1, 1), assigned(2, 2), assigned(3, 3)]);
        assert_eq!(same, Plan::default());
    }
}
