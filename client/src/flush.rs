//! Flush: done when each write acknowledged before it is durable on enough replicas.
//!
//! Counted per write, not per reply: a flush of a lane covers what that lane had accepted when it
//! was sent, in that run of the lane. A task in the background flushes what nobody asks to be
//! flushed, so that `stable` moves on and memory comes back.

use std::rc::{Rc, Weak};
use std::time::Duration;

use ashlar_proto::Status;
use ashlar_proto::message::SetState;
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_reactor::Instant;
use ashlar_reactor::future::join_all;

use crate::block_device::{BlockError, Durability};
use crate::shard::Shard;
use crate::signal::{Promise, Signal};
use crate::volume::Core;
use crate::write_log::{AckOrder, FlushNeed};

/// Rest between two rounds in the background: what lags is not asked again at once.
const SETTLE_PAUSE: Duration = Duration::from_millis(20);

/// Makes a completed write durable, where that was asked for.
pub(crate) async fn after_write(core: &Rc<Core>, durability: Durability) -> Result<(), BlockError> {
    match durability {
        Durability::Accepted => Ok(()),
        Durability::Durable => flush(core).await,
    }
}

/// Makes every write acknowledged before this call durable.
pub(crate) async fn flush(core: &Rc<Core>) -> Result<(), BlockError> {
    core.check()?;
    flush_acknowledged(core).await
}

/// The same, also while the volume is being detached.
pub(crate) async fn flush_acknowledged(core: &Rc<Core>) -> Result<(), BlockError> {
    let order = core.acked.get();
    if order <= core.flushed.get() || is_planted(Planted::FlushEarly) || ask(core, order) {
        return Ok(());
    }
    let deadline = core.reactor.now() + core.options.io_timeout;
    loop {
        let moment = core.progress.moment();
        if ask(core, order) {
            return Ok(());
        }
        if !core.is_running() {
            return Err(core.check().err().unwrap_or(BlockError::Detached));
        }
        let left = deadline - core.reactor.now();
        let raised = core.progress.raised_since(moment);
        if core.reactor.timeout(left, raised).await.is_err() {
            return Err(BlockError::Unavailable);
        }
    }
}

/// Asks the lanes for what a flush up to `order` lacks; true when it lacks nothing.
fn ask(core: &Rc<Core>, order: AckOrder) -> bool {
    if !core.is_running() {
        return false;
    }
    let mut satisfied = true;
    for shard in core.listed.borrow().iter() {
        let need = shard.log.borrow().flush_need(order, &shard.durable());
        if let FlushNeed::Flush(wanted) = need {
            satisfied = false;
            shard.flush_up_to(&wanted);
        }
    }
    if satisfied {
        core.flushed.set(order.max(core.flushed.get()));
    }
    satisfied
}

/// Flushes in the background, and tells idle replicas how far they are settled. Holds the owner
/// only while it works.
pub(crate) async fn run_background(core: Weak<Core>, work: Rc<Signal>) {
    loop {
        let moment = work.moment();
        let Some(strong) = core.upgrade().filter(|core| core.is_running()) else {
            return;
        };
        let is_idle = strong.listed.borrow().is_empty();
        let is_due = strong.retained.get() >= strong.options.flush_bytes;
        let (reactor, interval) = (strong.reactor.clone(), strong.options.flush_interval);
        drop(strong);
        if is_idle {
            work.raised_since(moment).await;
            continue;
        }
        if !is_due {
            let until = reactor.now() + interval;
            wait_until_due(&core, &work, until).await;
        }
        let Some(strong) = core.upgrade().filter(|core| core.is_running()) else {
            return;
        };
        settle_all(&strong).await;
        drop(strong);
        reactor.sleep(SETTLE_PAUSE).await;
    }
}

/// Waits until `until`, or until enough bytes wait for a flush.
async fn wait_until_due(core: &Weak<Core>, work: &Signal, until: Instant) {
    loop {
        let moment = work.moment();
        let Some(strong) = core.upgrade().filter(|core| core.is_running()) else {
            return;
        };
        let reactor = strong.reactor.clone();
        let is_due = strong.retained.get() >= strong.options.flush_bytes;
        drop(strong);
        if is_due || reactor.now() >= until {
            return;
        }
        let left = until - reactor.now();
        let _elapsed = reactor.timeout(left, work.raised_since(moment)).await;
    }
}

/// Makes durable what live replicas hold, and records how far each shard without writes in flight
/// is settled.
pub(crate) async fn settle_all(core: &Rc<Core>) {
    let deadline = core.reactor.now() + core.options.request_timeout;
    let shards = core.listed.borrow().clone();
    let wanted: Vec<_> = shards
        .iter()
        .map(|shard| shard.log.borrow().undurable(&shard.durable()))
        .collect();
    while core.is_running() {
        let moment = core.progress.moment();
        let mut left = false;
        for (shard, wanted) in shards.iter().zip(&wanted) {
            shard.flush_up_to(wanted);
            left |= shard.replicas().any(|(slot, replica)| {
                replica.peer.is_up() && replica.peer.lacks_flush(wanted[slot.get()])
            });
        }
        let now = core.reactor.now();
        if !left || now >= deadline {
            break;
        }
        let raised = core.progress.raised_since(moment);
        let _elapsed = core.reactor.timeout(deadline - now, raised).await;
    }
    for shard in &shards {
        shard.settle(core);
        if shard.log.borrow().is_empty() {
            tell_stable(core, shard).await;
        }
    }
    let mut listed = core.listed.borrow_mut();
    listed.retain(|shard| {
        let stays = !shard.log.borrow().is_empty();
        shard.listed.set(stays);
        stays
    });
}

/// Records on every live replica how far the shard is settled, so that the next owner finds a
/// short tail, and that no restart has cost it anything: it holds all there is.
async fn tell_stable(core: &Rc<Core>, shard: &Shard) {
    let stamp = shard.stamp(core);
    if stamp.stable <= shard.told.get() {
        return;
    }
    let state = SetState {
        window: core.seqs.borrow().window(),
        stable: stamp.stable,
        settle: true,
        caught_up: false,
    };
    let live = shard.log.borrow().live();
    let tell = |slot| shard.replica(slot).peer.ask(stamp.set_state(state));
    let told: Vec<_> = live.slots().map(tell).collect();
    let replies = join_all(told.iter().map(Promise::kept)).await;
    let all = replies
        .iter()
        .all(|reply| matches!(reply, Ok(reply) if reply.header.status == Status::Ok));
    if all {
        shard.told.set(stamp.stable.max(shard.told.get()));
    }
}
