//! Brings replicas that are not in sync back: by seq, from where they are complete.
//!
//! ```text
//! open ──▶ joining: sent every write that is kept or new, told of no stable
//!               │
//!               ▼
//!          pulls, part by part, from one in sync: all that has left the log
//!               │
//!               ▼
//!          flushed ──▶ proposed ──committed──▶ in sync
//! ```
//!
//! Invariants: while a replica joins, a write leaves the log only when it is durable there too, so
//! what it pulls and what it is sent are all there is; it is told of no stable before it is in
//! sync, so its horizon stays where it is complete; whatever fails on the way ends the attempt, and
//! the next one begins at that horizon again.

use std::rc::{Rc, Weak};
use std::time::Duration;

use ashlar_proto::message::{Pull, Pulled, SetState};
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_proto::{BlockIndex, Incarnation, Seq, Status};
use ashlar_reactor::future::join_all;

use crate::layers;
use crate::map;
use crate::membership::start_proposal;
use crate::quorum::{Mask, Slot};
use crate::shard::Shard;
use crate::signal::Signal;
use crate::volume::Core;
use crate::wire;

/// Shards that catch up at once.
const AT_ONCE: usize = 4;
/// The first pause after a round in which nobody came back, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Sources are asked so often before an attempt ends.
const TRIES: usize = 4;
/// The pause before another source is asked.
const TRY_PAUSE: Duration = Duration::from_millis(100);
/// How long the last writes may take to be on the replica, and the proposal to be committed.
const COMMIT_WITHIN: Duration = Duration::from_secs(10);

/// Why an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Failure {
    #[error("it does not answer")]
    Silent,
    #[error("its store answers {0:?}")]
    Refused(Status),
    #[error("no replica in sync can give what it lacks")]
    NoSource,
    #[error("the replicas do not go by one layer table")]
    Table,
    #[error("it failed a write meanwhile")]
    Left,
    #[error("the set could not be changed in time")]
    NotCommitted,
}

/// A replica that is sent every write.
#[derive(Clone, Copy, Debug)]
struct Joined {
    /// The seq up to which it is complete.
    above: Seq,
    /// The last seq that was given before: it is sent all later ones.
    upto: Seq,
    run: Incarnation,
}

/// What was fetched.
#[derive(Clone, Copy, Debug, Default)]
struct Total {
    blocks: u64,
    zeroed: u64,
    buried: u64,
}

/// Looks after the replicas of a volume that are not in sync, one round after another.
pub(crate) async fn run(core: Weak<Core>, lacking: Rc<Signal>) {
    let mut pause = PAUSE_MIN;
    loop {
        let moment = lacking.moment();
        let Some(strong) = core.upgrade().filter(|core| core.is_running()) else {
            return;
        };
        let reactor = strong.reactor.clone();
        // Nothing is under way for those that are not in sync.
        map::apply(&strong);
        let mut absent = Vec::new();
        for shard in strong.shards().iter() {
            absent.extend(
                absentees(shard)
                    .slots()
                    .map(|slot| (Rc::clone(shard), slot)),
            );
        }
        let is_any_leaving = strong
            .shards()
            .iter()
            .fold(false, |any, shard| retire(&strong, shard) | any);
        let has_news = strong.news.borrow().is_some();
        if absent.is_empty() && !is_any_leaving && !has_news {
            drop(strong);
            pause = PAUSE_MIN;
            lacking.raised_since(moment).await;
            continue;
        }
        let mut is_any_back = false;
        for some in absent.chunks(AT_ONCE) {
            let tried = some
                .iter()
                .map(|(shard, slot)| bring_back(&strong, shard, *slot));
            is_any_back |= join_all(tried).await.contains(&true);
        }
        drop(strong);
        // Under load some write is mostly on its way to those who stay: that passes in a moment.
        if is_any_back || is_any_leaving {
            pause = PAUSE_MIN;
        }
        let news = lacking.raised_since(moment);
        pause = match reactor.timeout(pause, news).await {
            // Not at once: what wakes it may come again and again.
            Ok(()) => {
                reactor.sleep(PAUSE_MIN / 5).await;
                PAUSE_MIN
            }
            Err(_) => (pause * 2).min(PAUSE_MAX),
        };
    }
}

/// Proposes a replica that is to leave out of the set, once enough others are in it. Whether one is
/// left that is to.
fn retire(core: &Rc<Core>, shard: &Rc<Shard>) -> bool {
    let log = shard.log.borrow();
    let in_sync = log.quorum().in_sync();
    let leaving = shard.leaving.get().and(in_sync);
    let Some(slot) = leaving.slots().next() else {
        return false;
    };
    let next = in_sync.without(slot);
    let durable = shard.durable();
    let is_enough = next.len() >= usize::from(core.replicas);
    let may_propose = is_enough && log.may_propose(next, core.flushed.get(), &durable);
    let wanted = log.undurable(&durable);
    drop(log);
    if may_propose {
        start_proposal(core, shard, next);
    } else if is_enough {
        shard.flush_up_to(&wanted);
    }
    is_enough
}

/// The set with one that joins, without who is to leave and lies on the node of another: the two
/// must not both count where there are others. Alone in the set, that one stays until another joins,
/// for it is all that may be read meanwhile.
fn with_joined(core: &Core, shard: &Shard, slot: Slot) -> Mask {
    let in_sync = shard.log.borrow().quorum().in_sync();
    let next = in_sync.with(slot);
    let mut leaving = shard.leaving.get().and(in_sync).slots();
    let left = leaving.find(|old| shares_node(core, shard, *old, next));
    let rest = left.map(|old| next.without(old));
    rest.filter(|rest| !rest.and(in_sync).is_empty())
        .unwrap_or(next)
}

/// Whether a replica lies on the node of another of a set.
fn shares_node(core: &Core, shard: &Shard, slot: Slot, set: Mask) -> bool {
    let nodes = core.nodes.borrow();
    let node = |slot| nodes.get(&shard.replica(slot).peer.key().disk).copied();
    let mut others = set.without(slot).slots();
    node(slot).is_some_and(|home| others.any(|other| node(other) == Some(home)))
}

/// The replicas of a shard that are in no set and are to come into it.
fn absentees(shard: &Shard) -> Mask {
    let targets = shard.log.borrow().quorum().targets();
    shard.occupied().minus(shard.leaving.get()).minus(targets)
}

async fn bring_back(core: &Rc<Core>, shard: &Rc<Shard>, slot: Slot) -> bool {
    let (volume, replica) = (&core.name, shard.replica(slot).id);
    match attempt(core, shard, slot).await {
        Ok(total) => {
            let Total {
                blocks,
                zeroed,
                buried,
            } = total;
            tracing::info!(%volume, shard = %shard.index, %replica, blocks, zeroed, buried,
                "replica has caught up: it is in sync again");
            true
        }
        Err(failure) => {
            if shard.log.borrow().joining().has(slot) {
                shard.stop_joining(core, slot);
            }
            tracing::debug!(%volume, shard = %shard.index, %replica, %failure,
                "replica has not caught up");
            false
        }
    }
}

async fn attempt(core: &Rc<Core>, shard: &Rc<Shard>, slot: Slot) -> Result<Total, Failure> {
    let Joined { above, upto, run } = join(core, shard, slot).await?;
    let mut total = Total::default();
    let mut next = (!is_planted(Planted::JoinWithoutPull)).then_some(BlockIndex::new(0));
    while let Some(from) = next {
        let pulled = pull(core, shard, slot, (above, upto), from).await?;
        check(core, shard, slot, run)?;
        total.blocks += u64::from(pulled.fetched);
        total.zeroed += u64::from(pulled.zeroed);
        total.buried += u64::from(pulled.buried);
        next = pulled.next.filter(|next| *next > from);
    }
    flush(core, shard, slot).await?;
    settle(core, shard, slot, above == Seq::NONE).await?;
    check(core, shard, slot, run)?;
    let deadline = core.reactor.now() + COMMIT_WITHIN;
    propose(core, shard, slot, deadline).await?;
    Ok(total)
}

/// Opens the replica and begins to send it what is written.
async fn join(core: &Rc<Core>, shard: &Rc<Shard>, slot: Slot) -> Result<Joined, Failure> {
    let replica = shard.replica(slot);
    replica.peer.connect().await.map_err(|_| Failure::Silent)?;
    let run = replica.peer.incarnation().ok_or(Failure::Silent)?;
    let stamp = shard.stamp(core).without_stable();
    let opened = replica.peer.call(stamp.open(replica.id)).await;
    let opened = opened.map_err(|_| Failure::Silent)?;
    if opened.header.status == Status::Fenced && opened.header.generation > core.generation {
        core.fence();
    }
    let state = match (opened.header.status, wire::state_of(&opened)) {
        (Status::Ok, Some(state)) => state,
        (status, _) => return Err(Failure::Refused(status)),
    };
    let window = core.seqs.borrow().window();
    let set = SetState {
        window,
        stable: Seq::NONE,
        settle: false,
        caught_up: false,
    };
    let recorded = replica.peer.call(stamp.set_state(set)).await;
    let recorded = recorded.map_err(|_| Failure::Silent)?;
    if recorded.header.status != Status::Ok {
        return Err(Failure::Refused(recorded.header.status));
    }
    // Those that are compared go by one table.
    let table = core.layers.table();
    let told = layers::tell(core, shard, &table).await;
    if !told
        || layers::tell_one(core, shard, &replica, &table)
            .await
            .is_some()
    {
        return Err(Failure::Table);
    }
    // From here in one turn: no write may slip between what is sent again and what is new.
    let is_absent = absentees(shard).has(slot) && shard.log.borrow().quorum().proposed().is_none();
    let has_window =
        core.seqs.borrow().window() == window && core.layers.table().version == table.version;
    if !is_absent || !has_window || replica.peer.incarnation() != Some(run) || !core.is_running() {
        return Err(Failure::Left);
    }
    let upto = core.seqs.borrow().last();
    shard.log.borrow_mut().join(slot);
    shard.send_missing(core, slot);
    core.list(shard);
    // What damage cost it may lie anywhere.
    let is_whole = !state.damaged && !state.suspect;
    let above = if is_whole { state.stable } else { Seq::NONE };
    Ok(Joined { above, upto, run })
}

/// Whether the attempt still stands: the same session's worth of writes, nothing failed.
fn check(core: &Core, shard: &Shard, slot: Slot, run: Incarnation) -> Result<(), Failure> {
    let peer = &shard.replica(slot).peer;
    let same_run = peer.is_up() && peer.incarnation() == Some(run);
    if core.is_running() && same_run && shard.log.borrow().joining().has(slot) {
        Ok(())
    } else {
        Err(Failure::Left)
    }
}

/// One part, from one of those who have all of it.
async fn pull(
    core: &Rc<Core>,
    shard: &Shard,
    slot: Slot,
    (above, upto): (Seq, Seq),
    from: BlockIndex,
) -> Result<Pulled, Failure> {
    let mut failure = Failure::NoSource;
    for attempt in 0..TRIES {
        let sources = {
            let log = shard.log.borrow();
            log.quorum().readable().and(log.live())
        };
        let sources: Vec<Slot> = sources.slots().collect();
        // Each shard begins with another one, and goes on with the next.
        let turn = attempt + shard.index.get() as usize;
        let Some(&source) = sources.get(turn % sources.len().max(1)) else {
            return Err(Failure::NoSource);
        };
        let source = shard.replica(source);
        let key = source.peer.key();
        let pull = Pull {
            above,
            window: core.first_window,
            cluster: core.cluster,
            disk: key.disk,
            lane: key.lane,
            address: source.address.clone(),
        };
        let request = shard.stamp(core).pull(&pull, from, upto);
        let reply = shard.replica(slot).peer.call(request).await;
        let reply = reply.map_err(|_| Failure::Silent)?;
        let pulled = wire::meta_of(&reply).and_then(|meta| Pulled::decode(meta).ok());
        match (reply.header.status, pulled) {
            (Status::Ok, Some(pulled)) => return Ok(pulled),
            (Status::Fenced, _) if reply.header.generation > core.generation => {
                core.fence();
                return Err(Failure::Left);
            }
            (Status::Unavailable | Status::Damaged, _) => {}
            (status, _) => return Err(Failure::Refused(status)),
        }
        failure = Failure::NoSource;
        core.reactor.sleep(TRY_PAUSE).await;
    }
    Err(failure)
}

/// Makes durable what was pulled.
async fn flush(core: &Core, shard: &Shard, slot: Slot) -> Result<(), Failure> {
    let peer = &shard.replica(slot).peer;
    if !peer.is_volatile() {
        return Ok(());
    }
    let reply = peer.call(wire::flush(core.generation)).await;
    match reply.map(|reply| reply.header.status) {
        Ok(Status::Ok) => Ok(()),
        Ok(status) => Err(Failure::Refused(status)),
        Err(_) => Err(Failure::Silent),
    }
}

/// Clears what the replica may have lost before: it has all that it had not, up to what it is sent.
async fn settle(
    core: &Rc<Core>,
    shard: &Shard,
    slot: Slot,
    caught_up: bool,
) -> Result<(), Failure> {
    let state = SetState {
        window: core.seqs.borrow().window(),
        stable: Seq::NONE,
        settle: true,
        caught_up,
    };
    let request = shard.stamp(core).without_stable().set_state(state);
    let reply = shard.replica(slot).peer.call(request).await;
    match reply.map(|reply| reply.header.status) {
        Ok(Status::Ok) => {
            shard.suspect.set(shard.suspect.get().without(slot));
            Ok(())
        }
        Ok(status) => Err(Failure::Refused(status)),
        Err(_) => Err(Failure::Silent),
    }
}

/// Proposes the set with the replica once that holds every acknowledged write, and waits for the
/// commit.
async fn propose(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    slot: Slot,
    deadline: ashlar_reactor::Instant,
) -> Result<(), Failure> {
    loop {
        let moment = core.progress.moment();
        if shard.log.borrow().quorum().in_sync().has(slot) {
            // Once it is told how far the shard is settled, its marks go and its horizon moves.
            shard.told.set(Seq::NONE);
            core.list(shard);
            core.progress.raise();
            return Ok(());
        }
        let (is_joining, is_proposed) = {
            let log = shard.log.borrow();
            let proposed = log.quorum().proposed();
            (
                log.joining().has(slot),
                proposed.is_some_and(|set| set.has(slot)),
            )
        };
        if !is_joining && !is_proposed || !core.is_running() {
            return Err(Failure::Left);
        }
        // A proposal is repeated until its outcome is known: from there on there is no way back.
        let now = core.reactor.now();
        if is_joining && now >= deadline {
            return Err(Failure::NotCommitted);
        }
        if is_joining {
            let durable = shard.durable();
            let next = with_joined(core, shard, slot);
            let may_propose = {
                let log = shard.log.borrow();
                log.may_propose(next, core.flushed.get(), &durable)
            };
            if may_propose {
                start_proposal(core, shard, next);
                continue;
            }
            let wanted = shard.log.borrow().undurable(&durable);
            shard.flush_up_to(&wanted);
        }
        let raised = core.progress.raised_since(moment);
        let _elapsed = core.reactor.timeout(TRY_PAUSE, raised).await;
    }
}
