//! The part of a store on one reactor thread: its lanes, and the connections to them.
//!
//! Whatever concerns a lane happens on its worker; the service on the first reactor only routes,
//! see [`crate::place`].

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::Assignment;
use ashlar_proto::{BlockCount, DiskId, LaneIndex, ReplicaId};
use ashlar_reactor::Reactor;
use ashlar_reactor::channel::{Semaphore, remote};
use ashlar_reactor::future::join_all;
use ashlar_reactor::link::Link;

use crate::health::DiskHealth;
use crate::lane::{
    LaneError, LaneOptions, LaneStats, LaneUsage, RecoveryError, ShardKey, UnrecoveredLane,
};
use crate::replica::Replicas;
use crate::session::{self, Greeting};

/// Names a lane among all of a store.
pub(crate) type LaneKey = (DiskId, LaneIndex);

/// How long requests that were begun may take to end when the store stops.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// How long replies may take to leave when the store stops.
const FAREWELL_WITHIN: Duration = Duration::from_secs(1);

/// How a lane stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneReport {
    pub(crate) usage: LaneUsage,
    pub(crate) stats: LaneStats,
}

/// A lane that is to be served.
pub(crate) struct LaneStart {
    pub(crate) disk: DiskId,
    pub(crate) lane: UnrecoveredLane,
    pub(crate) options: LaneOptions,
    pub(crate) health: Arc<DiskHealth>,
}

/// Tells the service that a connection has ended, by being dropped.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) number: u64,
    /// Has room for every connection there may be.
    pub(crate) ended: remote::Sender<u64>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        // A service that has stopped counts no more.
        let _ = self.ended.try_send(self.number);
    }
}

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
    pub(crate) async fn start_lane(&self, start: LaneStart) -> Result<(), RecoveryError> {
        let index = start.lane.index();
        let lane = start.lane.recover_with(start.options).await?;
        let replicas = Replicas::new(lane, start.health);
        self.lanes
            .borrow_mut()
            .insert((start.disk, index), replicas);
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
        ended: Ended,
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

    /// How its lanes stand.
    pub(crate) fn report(&self) -> Vec<(LaneKey, LaneReport)> {
        let lanes = self.lanes.borrow();
        let report = |(&key, replicas): (&LaneKey, &Rc<Replicas>)| {
            let lane = replicas.lane();
            let (usage, stats) = (lane.usage(), lane.stats());
            (key, LaneReport { usage, stats })
        };
        lanes.iter().map(report).collect()
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
        let draining = join_all(lanes.values().map(|replicas| replicas.drain()));
        if self.reactor.timeout(DRAIN_WITHIN, draining).await.is_err() {
            tracing::warn!("requests did not end within {DRAIN_WITHIN:?}: stopping without them");
        }
        let links = self.links.take();
        let leaving = join_all(links.values().map(Link::drained));
        // A peer that does not read its replies does not hold up the stop.
        let _ = self.reactor.timeout(FAREWELL_WITHIN, leaving).await;
        for link in links.into_values() {
            link.close();
        }
        join_all(
            lanes
                .into_values()
                .map(|replicas| replicas.lane().clone().close()),
        )
        .await;
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
