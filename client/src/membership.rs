//! What becomes of a replica that is behind: brought up again from the log while that is possible,
//! else proposed out of the in-sync set.
//!
//! One task per shard in trouble, none otherwise; it waits for nobody. Beside it run at most one
//! proposal, repeated until its outcome is known (meanwhile both sets must acknowledge), and one
//! task for each replica that is brought up.

use std::rc::{Rc, Weak};
use std::time::Duration;

use ashlar_proto::api::ProposeInSync;
use ashlar_proto::message::SetState;
use ashlar_proto::{Epoch, Seq, Status};
use ashlar_reactor::future::join_all;

use crate::layers;
use crate::peer::PeerLost;
use crate::quorum::{Mask, Slot};
use crate::shard::Shard;
use crate::source::SourceError;
use crate::volume::Core;
use crate::wire;

/// The first pause before something is tried again.
pub(crate) const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest.
pub(crate) const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Shards in which a window is recorded at once.
const SHARDS_AT_ONCE: usize = 64;

/// How long one attempt at a proposal may take.
const PROPOSAL_TIMEOUT: Duration = Duration::from_secs(3);

/// Looks after a shard until none of its replicas is behind.
pub(crate) async fn supervise(core: Weak<Core>, shard: Rc<Shard>) {
    let mut pause = PAUSE_MIN;
    loop {
        let Some(core) = core.upgrade().filter(|core| core.is_running()) else {
            break;
        };
        let behind = slots_behind(&shard);
        if behind.is_empty() {
            break;
        }
        shard.expire(&core);
        let moment = shard.committed.moment();
        if let Some(next) = next_set(&core, &shard, behind) {
            start_proposal(&core, &shard, next);
        }
        for slot in worth_bringing_up(&core, &shard, behind).slots() {
            start_bringing_up(&core, &shard, slot);
        }
        let reactor = core.reactor.clone();
        let until_due = until_due(&core, &shard, behind).unwrap_or(pause);
        drop(core);
        let committed = shard.committed.raised_since(moment);
        pause = match reactor.timeout(pause.min(until_due), committed).await {
            Ok(()) => PAUSE_MIN,
            Err(_) => (pause * 2).min(PAUSE_MAX),
        };
    }
    shard.supervised.set(false);
}

/// The replicas of the set that are behind.
fn slots_behind(shard: &Shard) -> Mask {
    let log = shard.log.borrow();
    log.quorum().in_sync().minus(log.live())
}

/// How long a replica may be away before it is proposed out of the set: shorter where writes wait
/// for it.
fn grace(core: &Core, shard: &Shard) -> Duration {
    let log = shard.log.borrow();
    if log.quorum().acknowledged_by(log.live()) {
        core.options.replica_grace
    } else {
        core.options.replica_grace / 2
    }
}

/// The time until the grace of somebody ends.
fn until_due(core: &Core, shard: &Shard, behind: Mask) -> Option<Duration> {
    let (now, grace) = (core.reactor.now(), grace(core, shard));
    let known = shard.behind.get();
    let ends = behind.slots().filter_map(|slot| known[slot.get()]);
    let ends = ends.map(|known| known.since + grace);
    ends.filter(|end| *end > now).map(|end| end - now).min()
}

/// The set without those who are behind for good, if it may be proposed now.
fn next_set(core: &Core, shard: &Shard, behind: Mask) -> Option<Mask> {
    let (now, grace) = (core.reactor.now(), grace(core, shard));
    let known = shard.behind.get();
    let lost = shard.log.borrow().lost();
    let leaves = |slot: &Slot| {
        lost.has(*slot) || known[slot.get()].is_none_or(|b| b.failed || now - b.since >= grace)
    };
    let leaving: Mask = behind.slots().filter(leaves).collect();
    let log = shard.log.borrow();
    let next = log.quorum().in_sync().minus(leaving);
    if log.quorum().proposed().is_some() || leaving.is_empty() || next.is_empty() {
        return None;
    }
    // Who refuses blocks that others have must not be all that is left.
    let suspect = shard.suspect.get();
    if suspect.covers(next) && !suspect.covers(leaving) {
        return None;
    }
    let durable = shard.durable();
    if log.may_propose(next, core.flushed.get(), &durable) {
        return Some(next);
    }
    // What keeps it may be that flushed writes are not durable on those who stay.
    let wanted = log.undurable(&durable);
    drop(log);
    for slot in next.slots() {
        shard.replica(slot).peer.flush(wanted[slot.get()]);
    }
    None
}

/// Those behind that nobody brings up yet, and whose return would help: not who failed and leaves.
fn worth_bringing_up(core: &Core, shard: &Shard, behind: Mask) -> Mask {
    let log = shard.log.borrow();
    let stays = log.quorum().readable();
    let known = shard.behind.get();
    let now = core.reactor.now();
    let is_worth = |slot: &Slot| {
        known[slot.get()].is_none_or(|b| now >= b.retry_at && (stays.has(*slot) || !b.failed))
    };
    let candidates = behind.minus(log.lost()).minus(shard.rising.get());
    candidates.slots().filter(is_worth).collect()
}

fn start_bringing_up(core: &Rc<Core>, shard: &Rc<Shard>, slot: Slot) {
    shard.rising.set(shard.rising.get().with(slot));
    let (weak, shard) = (Rc::downgrade(core), Rc::clone(shard));
    drop(core.reactor.spawn(async move {
        if let Some(core) = weak.upgrade() {
            // Who is not back is tried again.
            let _ = bring_up(&core, &shard, slot).await;
        }
        shard.rising.set(shard.rising.get().without(slot));
    }));
}

/// Opens a replica again, and sends it what it lacks.
async fn bring_up(core: &Rc<Core>, shard: &Rc<Shard>, slot: Slot) -> Result<(), PeerLost> {
    let replica = shard.replica(slot);
    replica.peer.connect().await?;
    let run = replica.peer.incarnation();
    let opened = replica
        .peer
        .call(shard.stamp(core).open(replica.id))
        .await?;
    if !Rc::ptr_eq(&shard.replica(slot), &replica) {
        // It is elsewhere since: nobody may use this session.
        if !replica.peer.has_users() {
            replica.peer.close();
        }
        return Err(PeerLost);
    }
    match opened.header.status {
        Status::Ok => {}
        Status::Fenced if opened.header.generation > core.generation => {
            core.fence();
            return Err(PeerLost);
        }
        Status::NoSuchReplica => {
            give_up_on(core, shard, slot);
            return Err(PeerLost);
        }
        _ => return Err(PeerLost),
    }
    let window = core.seqs.borrow().window();
    let state = SetState {
        window,
        stable: Seq::NONE,
        settle: false,
        caught_up: false,
    };
    // A stable in a window that the replica has not recorded yet would be refused.
    let stamp = shard.stamp(core).without_stable();
    let recorded = replica.peer.call(stamp.set_state(state)).await?;
    let table = core.layers.table();
    if let Some(problem) = layers::tell_one(core, shard, &replica, &table).await {
        if problem == Status::NoSpace {
            shard.set_behind(core, slot, true);
        }
        return Err(PeerLost);
    }
    let has_window =
        core.seqs.borrow().window() == window && core.layers.table().version == table.version;
    if recorded.header.status != Status::Ok || !has_window || replica.peer.incarnation() != run {
        return Err(PeerLost);
    }
    let known = wire::state_of(&opened);
    if known.is_some_and(|state| state.suspect) {
        shard.suspect.set(shard.suspect.get().with(slot));
        let in_sync = shard.log.borrow().quorum().in_sync();
        if !shard.suspect.get().covers(in_sync) {
            // It is proposed away, and caught up as a whole.
            shard.set_behind(core, slot, true);
            return Err(PeerLost);
        }
    }
    // From here in one turn: no write may slip between what is sent again and what is new.
    let is_same = Rc::ptr_eq(&shard.replica(slot), &replica);
    if !is_same || shard.log.borrow().lost().has(slot) || !slots_behind(shard).has(slot) {
        return Err(PeerLost);
    }
    let mut behind = shard.behind.get();
    if let Some(known) = behind[slot.get()].as_mut() {
        known.back_at = Some(core.reactor.now());
        known.returns += 1;
    }
    shard.behind.set(behind);
    if known.is_some_and(|state| state.damaged) {
        shard.log.borrow_mut().forget_all(slot);
    }
    shard.log.borrow_mut().set_live(slot);
    shard.send_missing(core, slot);
    // Once all of it is durable there, the mark of what the restart may have cost goes.
    shard.told.set(Seq::NONE);
    core.list(shard);
    tracing::info!(volume = %core.name, shard = %shard.index, replica = %replica.id,
        "replica is back");
    core.progress.raise();
    Ok(())
}

/// Gives up on bringing a replica up from the log, where the others can go on without it.
pub(crate) fn give_up_on(core: &Core, shard: &Shard, slot: Slot) -> bool {
    let mut log = shard.log.borrow_mut();
    let rest = log.live().without(slot);
    if !log.quorum().targets().has(slot) || !log.quorum().acknowledged_by(rest) {
        return false;
    }
    log.set_lost(slot);
    drop(log);
    shard.settle(core);
    true
}

/// From here on both sets must acknowledge; the conductor is asked until the outcome is known.
pub(crate) fn start_proposal(core: &Rc<Core>, shard: &Rc<Shard>, next: Mask) {
    shard.log.borrow_mut().propose(next);
    let proposal = ProposeInSync {
        volume: core.id,
        generation: core.generation,
        shard: shard.index,
        epoch: shard.epoch.get(),
        in_sync: next.slots().map(|slot| shard.replica(slot).id).collect(),
    };
    let (weak, shard) = (Rc::downgrade(core), Rc::clone(shard));
    drop(core.reactor.spawn(async move {
        let mut pause = PAUSE_MIN * 4;
        while let Some(core) = weak.upgrade().filter(|core| core.is_running()) {
            match propose(&core, &shard, &proposal).await {
                Outcome::Committed(epoch) => {
                    shard.epoch.set(epoch);
                    commit(&core, &shard, next);
                    break;
                }
                Outcome::Never => {
                    withdraw(&core, &shard);
                    break;
                }
                Outcome::Unknown => {}
            }
            let reactor = core.reactor.clone();
            drop(core);
            reactor.sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX * 4);
        }
    }));
}

/// What is known of a proposal.
enum Outcome {
    /// The new set stands, at this epoch.
    Committed(Epoch),
    /// It was not committed, and never will be.
    Never,
    Unknown,
}

/// Proposes once.
async fn propose(core: &Rc<Core>, shard: &Shard, proposal: &ProposeInSync) -> Outcome {
    let attempt = core.source.propose(&core.name, proposal);
    match core.reactor.timeout(PROPOSAL_TIMEOUT, attempt).await {
        Ok(Ok(committed)) => return Outcome::Committed(committed.shard.epoch),
        Ok(Err(SourceError::ReplicaGone)) => return Outcome::Never,
        Ok(Err(SourceError::Superseded | SourceError::NotFound)) => core.fence(),
        Ok(Err(SourceError::Unreachable)) | Err(_) => {}
        Ok(Err(error)) => {
            tracing::error!(volume = %core.name, shard = %shard.index, %error,
                "the conductor refuses an in-sync set: it is proposed again");
        }
    }
    Outcome::Unknown
}

/// The set stays as it was; who would have come into it does not count.
fn withdraw(core: &Rc<Core>, shard: &Shard) {
    tracing::info!(volume = %core.name, shard = %shard.index,
        "a replica was replaced before it was taken in");
    shard.log.borrow_mut().withdraw();
    core.lacking.raise();
    shard.review(core);
    shard.committed.raise();
}

fn commit(core: &Rc<Core>, shard: &Shard, next: Mask) {
    let left = shard.log.borrow().quorum().in_sync().minus(next);
    shard.log.borrow_mut().commit();
    for slot in left.slots() {
        shard.forget_trouble(slot);
        shard.note_unanswered(core, slot);
        core.counters.replicas_dropped.add();
        let (volume, replica) = (&core.name, shard.replica(slot).id);
        if shard.leaving.get().has(slot) {
            tracing::info!(%volume, shard = %shard.index, %replica,
                "replica left the in-sync set: another has its place");
        } else {
            tracing::warn!(%volume, shard = %shard.index, %replica,
                "replica left the in-sync set: degraded");
        }
        core.lacking.raise();
    }
    shard.review(core);
    shard.committed.raise();
    // Who fell behind while it was only proposed is of the set now.
    if !slots_behind(shard).is_empty() {
        shard.supervise(core);
    }
}

/// Records a window on every live replica of a shard, and on those that catch up; whether enough of
/// the sets have it.
async fn record_in(core: &Rc<Core>, shard: &Rc<Shard>, state: SetState) -> bool {
    let asked = {
        let log = shard.log.borrow();
        log.live().and(log.quorum().targets()).or(log.joining())
    };
    let recorded = asked.slots().map(|slot| async move {
        // Held: its slot does not change hands meanwhile.
        let replica = shard.replica(slot);
        let stamp = shard.stamp(core).without_stable();
        let reply = replica.peer.call(stamp.set_state(state)).await;
        match reply.map(|reply| wire::state_of(&reply).map(|known| (reply.header, known))) {
            Ok(Some((header, known)))
                if header.status == Status::Ok && known.window >= state.window =>
            {
                return Some(slot);
            }
            Err(PeerLost) => {}
            Ok(_) => shard.set_behind(core, slot, true),
        }
        None
    });
    let recorded: Mask = join_all(recorded).await.into_iter().flatten().collect();
    shard.log.borrow().quorum().acknowledged_by(recorded)
}

/// Records a window on enough replicas of every shard, and on every live one.
pub(crate) async fn record_window(core: Rc<Core>, window: ashlar_proto::Window) {
    let state = SetState {
        window,
        stable: Seq::NONE,
        settle: false,
        caught_up: false,
    };
    let mut recorded_everywhere = true;
    for some in core.shards().chunks(SHARDS_AT_ONCE) {
        let recorded = some.iter().map(|shard| record_in(&core, shard, state));
        recorded_everywhere &= join_all(recorded).await.into_iter().all(|done| done);
    }
    if !recorded_everywhere {
        core.reactor.sleep(PAUSE_MAX).await;
    }
    let recorded = recorded_everywhere.then_some(window);
    core.seqs.borrow_mut().answer(recorded);
    core.progress.raise();
}
