//! The part of a store on one reactor thread: its lanes, and the connections to them.
//!
//! Whatever concerns a lane happens on its worker; the service on the first reactor only routes,
//! see [`crate::place`].

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::{Assignment, FoundReplica, OwnerSeen};
use ashlar_proto::limits::USES_REPORTED_MAX;
use ashlar_proto::{BlockCount, ByteCount, DiskId, LaneIndex, ReplicaId, RoomHint};
use ashlar_reactor::Reactor;
use ashlar_reactor::channel::{Semaphore, remote};
use ashlar_reactor::future::join_all;
use ashlar_reactor::link::Link;

use crate::health::DiskHealth;
use crate::heard::{Heard, newest};
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
#[derive(Clone, Debug, Default)]
pub(crate) struct LaneReport {
    pub(crate) usage: LaneUsage,
    pub(crate) stats: LaneStats,
    /// Replicas that should be here, were made once, and are not.
    pub(crate) missing: Vec<ReplicaId>,
    /// It takes no new blocks of volumes without a reservation.
    pub(crate) is_full: bool,
    /// What the replicas take that take the most.
    pub(crate) largest: Vec<(ReplicaId, ByteCount)>,
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
    /// As of the last change of the set of replicas; lanes that lack none are left out.
    missing: RefCell<BTreeMap<LaneKey, Vec<Assignment>>>,
    links: RefCell<BTreeMap<u64, (Link, Rc<Heard>)>>,
    links_made: Cell<u64>,
    /// One change of the set of replicas at a time.
    changes: Semaphore,
}

impl Worker {
    pub(crate) fn new(reactor: &Reactor) -> Rc<Self> {
        Rc::new(Self {
            reactor: reactor.clone(),
            lanes: RefCell::default(),
            missing: RefCell::default(),
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
        let heard = Rc::new(Heard::new(self.reactor.now()));
        let served = (link.clone(), Rc::clone(&heard));
        self.links.borrow_mut().insert(number, served);
        let worker = Rc::clone(self);
        drop(self.reactor.spawn(async move {
            let reactor = worker.reactor.clone();
            reactor.meters().note_connected();
            let end =
                session::serve(reactor.clone(), replicas, link.clone(), greeting, heard).await;
            reactor.meters().note_disconnected();
            tracing::debug!(owner = link.peer(), %end, "session ended");
            worker.links.borrow_mut().remove(&number);
            drop(ended);
        }));
    }

    /// The owners that have sessions with it.
    pub(crate) fn owners(&self) -> Vec<OwnerSeen> {
        let now = self.reactor.now();
        let links = self.links.borrow();
        let all = links.values().flat_map(|(_, heard)| heard.owners(now));
        newest(all)
    }

    /// How its lanes stand.
    pub(crate) fn report(&self) -> Vec<(LaneKey, LaneReport)> {
        let lanes = self.lanes.borrow();
        let report = |(&key, replicas): (&LaneKey, &Rc<Replicas>)| {
            let lane = replicas.lane();
            let (usage, stats) = (lane.usage(), lane.stats());
            let missing = self.missing.borrow();
            let missing = missing.get(&key).into_iter().flatten();
            let missing = missing.map(|lost| lost.replica).collect();
            let report = LaneReport {
                usage,
                stats,
                missing,
                is_full: lane.room() >= RoomHint::Soft,
                largest: lane.largest(USES_REPORTED_MAX),
            };
            (key, report)
        };
        lanes.iter().map(report).collect()
    }

    /// What its lanes hold.
    pub(crate) fn inventory(&self) -> Vec<FoundReplica> {
        let lanes = self.lanes.borrow();
        let each = lanes.iter();
        each.flat_map(|(&(disk, _), replicas)| replicas.lane().inventory(disk))
            .collect()
    }

    /// Makes the replicas of a lane those that are wanted, durably, but for those that were lost:
    /// they are counted and stay away.
    pub(crate) async fn apply(
        &self,
        key: LaneKey,
        wanted: Vec<Assignment>,
    ) -> Result<(), LaneError> {
        let Some(replicas) = self.lane(key) else {
            return Err(LaneError::Closing);
        };
        let _turn = self.changes.acquire(1).await;
        let mut plan = Plan::between(&replicas.lane().shards(), &wanted);
        plan.note_reserves(&replicas.lane().reserves(), &wanted);
        self.note_missing(key, &plan.missing);
        if plan.is_empty() {
            return Ok(());
        }
        let outcome = replicas.change(&plan).await;
        replicas.refresh();
        outcome
    }

    fn note_missing(&self, key: LaneKey, missing: &[Assignment]) {
        let known = self.missing.borrow_mut().remove(&key).unwrap_or_default();
        for lost in missing.iter().filter(|lost| !known.contains(lost)) {
            let Assignment {
                volume,
                shard,
                replica,
                disk,
                ..
            } = lost;
            tracing::error!(%volume, %shard, %replica, %disk,
                "a replica of a volume in use is not on its disk any more: the volume goes on \
                 without it");
        }
        if !missing.is_empty() {
            self.missing.borrow_mut().insert(key, missing.to_vec());
        }
    }

    /// Ends all connections once the requests that were begun have ended, and closes the lanes.
    pub(crate) async fn stop(&self) {
        let lanes = self.lanes.take();
        let draining = join_all(lanes.values().map(|replicas| replicas.drain()));
        if self.reactor.timeout(DRAIN_WITHIN, draining).await.is_err() {
            tracing::warn!("requests did not end within {DRAIN_WITHIN:?}: stopping without them");
        }
        let links = self.links.take();
        let leaving = join_all(links.values().map(|(link, _)| link.drained()));
        // A peer that does not read its replies does not hold up the stop.
        let _ = self.reactor.timeout(FAREWELL_WITHIN, leaving).await;
        for (link, _) in links.into_values() {
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
    pub(crate) grow: Vec<(ShardKey, BlockCount)>,
    /// What is to be kept for shards from now on.
    pub(crate) reserve: Vec<(ShardKey, BlockCount)>,
    /// Wanted, not here, and not to be made.
    missing: Vec<Assignment>,
}

impl Plan {
    fn is_empty(&self) -> bool {
        self.remove.is_empty()
            && self.create.is_empty()
            && self.grow.is_empty()
            && self.reserve.is_empty()
    }

    /// Adds what is to be kept for those that are to be here, where it is something else than now.
    fn note_reserves(&mut self, kept: &[(ShardKey, BlockCount)], wanted: &[Assignment]) {
        let kept: BTreeMap<ShardKey, BlockCount> = kept.iter().copied().collect();
        for assignment in wanted
            .iter()
            .filter(|wanted| !self.missing.contains(wanted))
        {
            let key = ShardKey {
                volume: assignment.volume,
                shard: assignment.shard,
            };
            // One of another life keeps nothing yet.
            let is_new = self.create.iter().any(|(created, ..)| *created == key);
            let now = kept.get(&key).filter(|_| !is_new).copied();
            let wanted = BlockCount::new(assignment.reserve_blocks);
            if wanted != now.unwrap_or_default() {
                self.reserve.push((key, wanted));
            }
        }
    }

    /// From what is there to what is wanted. A replica of another life is another replica, and
    /// goes. One that is smaller than is wanted grows; one that is larger stays as it is and serves
    /// what is wanted of it: no replica ever gets smaller.
    fn between(present: &[(ShardKey, ReplicaId, BlockCount)], wanted: &[Assignment]) -> Self {
        let present: BTreeMap<ShardKey, (ReplicaId, BlockCount)> = present
            .iter()
            .map(|&(key, replica, blocks)| (key, (replica, blocks)))
            .collect();
        let mut lives = BTreeMap::new();
        let mut plan = Self::default();
        for assignment in wanted {
            let key = ShardKey {
                volume: assignment.volume,
                shard: assignment.shard,
            };
            let (life, blocks) = (assignment.replica, BlockCount::new(assignment.blocks));
            lives.insert(key, life);
            match present.get(&key).filter(|here| here.0 == life) {
                Some((_, held)) if *held < blocks => plan.grow.push((key, blocks)),
                Some(_) => {}
                None if assignment.may_create => plan.create.push((key, life, blocks)),
                None => plan.missing.push(assignment.clone()),
            }
        }
        let goes = |(key, (replica, _)): (&ShardKey, &(ReplicaId, BlockCount))| {
            (lives.get(key) != Some(replica)).then_some(*key)
        };
        plan.remove = present.iter().filter_map(goes).collect();
        plan
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
            reserve_blocks: 0,
            may_create: true,
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

    #[test]
    fn what_is_kept_follows_the_assignments() {
        let wanted = |shard, replica, reserve_blocks| Assignment {
            reserve_blocks,
            ..assigned(shard, replica)
        };
        let present = [here(1, 1), here(2, 2), here(3, 3)];
        let blocks = |shard, count| (key(shard), BlockCount::new(count));
        let kept = [blocks(1, 10), blocks(2, 20), blocks(3, 30)];
        let list = [wanted(1, 1, 10), wanted(2, 2, 0), wanted(3, 9, 30)];
        let mut plan = Plan::between(&present, &list);
        plan.note_reserves(&kept, &list);
        assert_eq!(plan.reserve, [blocks(2, 0), blocks(3, 30)]);
    }

    /// A replica of a volume in use is lost: an empty one under its id would count as in sync, and
    /// take part in take-overs with blocks that it does not have.
    #[test]
    fn a_replica_that_was_lost_is_not_made_anew() {
        let in_use = |assignment| Assignment {
            may_create: false,
            ..assignment
        };
        let present = [here(1, 1), here(2, 2)];
        let wanted = [
            in_use(assigned(1, 1)),
            in_use(assigned(2, 9)),
            in_use(assigned(3, 3)),
        ];
        let plan = Plan::between(&present, &wanted);
        assert_eq!(plan.remove, [key(2)]);
        assert_eq!(plan.create, []);
        assert_eq!(plan.missing, wanted[1..]);
    }

    #[test]
    fn a_replica_that_is_too_small_grows_and_one_that_is_large_stays() {
        let of = |blocks, may_create| Assignment {
            blocks,
            may_create,
            ..assigned(1, 1)
        };
        for may_create in [false, true] {
            let larger = Plan::between(&[here(1, 1)], &[of(200, may_create)]);
            let expected = Plan {
                grow: vec![(key(1), BlockCount::new(200))],
                ..Plan::default()
            };
            assert_eq!(larger, expected);
            let smaller = Plan::between(&[here(1, 1)], &[of(50, may_create)]);
            assert_eq!(smaller, Plan::default());
        }
    }
}
