//! Who may do what to a shard: fencing by generation and epoch, and the bounds of every field.
//!
//! Invariants:
//!
//! - Once an [`Opening`] has begun, no request of a lower generation is admitted any more, and it
//!   answers only when the last change that was admitted before it has ended: what an old owner
//!   sent is then either in the shard's state and tail, or nowhere.
//! - [`Gate::check`] is pure: it looks at header, durable state and size, and nothing else.
//!
//! ```text
//! request ─▶ check ─▶ Admitted (counted) ─▶ lane ─▶ dropped ─▶ wakes an Opening that waits
//! ```

use std::cell::Cell;
use std::rc::Rc;

use ashlar_proto::limits::{FRAME_DATA_BLOCKS_MAX, SEQ_AHEAD_MAX, ZERO_BLOCKS_MAX};
use ashlar_proto::message::ShardState;
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_proto::{
    BlockCount, FrameHeader, FrameKind, Generation, Layer, ReplicaId, Seq, Status, Window,
};
use ashlar_reactor::channel::Notify;

use crate::lane::ShardKey;

/// One shard of a lane, as its requests see it.
#[derive(Debug)]
pub(crate) struct Gate {
    key: ShardKey,
    replica: ReplicaId,
    /// It only grows.
    blocks: Cell<BlockCount>,
    /// What is known of it; generation and window are durable.
    state: Cell<ShardState>,
    /// The highest generation that somebody opens or has opened it with.
    fence: Cell<Generation>,
    /// The shard leaves the lane: nothing is admitted any more.
    leaving: Cell<bool>,
    /// Requests that change the shard and have been admitted.
    changing: Cell<u32>,
    settled: Notify,
}

impl Gate {
    pub(crate) fn new(
        key: ShardKey,
        replica: ReplicaId,
        blocks: BlockCount,
        state: ShardState,
    ) -> Rc<Self> {
        Rc::new(Self {
            key,
            replica,
            blocks: Cell::new(blocks),
            state: Cell::new(state),
            fence: Cell::new(state.generation),
            leaving: Cell::new(false),
            changing: Cell::new(0),
            settled: Notify::new(),
        })
    }

    pub(crate) fn key(&self) -> ShardKey {
        self.key
    }

    pub(crate) fn replica(&self) -> ReplicaId {
        self.replica
    }

    /// The highest generation seen, durable or about to be.
    pub(crate) fn generation(&self) -> Generation {
        self.fence.get()
    }

    pub(crate) fn state(&self) -> ShardState {
        self.state.get()
    }

    /// The shard has so many blocks now, durably.
    pub(crate) fn grow(&self, blocks: BlockCount) {
        self.blocks.set(blocks.max(self.blocks.get()));
    }

    /// Takes in what the lane has made durable. What was noted meanwhile stays.
    pub(crate) fn learn(&self, durable: ShardState) {
        let known = self.state.get();
        self.state.set(ShardState {
            generation: known.generation.max(durable.generation),
            epoch: known.epoch.max(durable.epoch),
            window: known.window.max(durable.window),
            stable: known.stable.max(durable.stable),
            ..durable
        });
    }

    /// What of a request's epoch and stable is new.
    pub(crate) fn note(&self, header: &FrameHeader) -> Noted {
        let mut state = self.state.get();
        let noted = Noted {
            epoch: header.epoch > state.epoch,
            stable: header.stable > state.stable,
        };
        if noted.epoch || noted.stable {
            state.epoch = state.epoch.max(header.epoch);
            state.stable = state.stable.max(header.stable);
            self.state.set(state);
        }
        noted
    }

    /// Admits a request that neither opens the shard nor concerns the whole lane.
    ///
    /// # Errors
    /// The status to answer.
    pub(crate) fn admit(self: &Rc<Self>, header: &FrameHeader) -> Result<Admitted, Status> {
        self.check(header)?;
        Ok(Admitted::new(self, changes(header.kind)))
    }

    /// Admits who reads a snapshot. It owns nothing and is fenced by nobody: what it reads does not
    /// change any more, and it names the replica that it knows to hold all of it.
    ///
    /// # Errors
    /// The status to answer.
    pub(crate) fn admit_reader(
        self: &Rc<Self>,
        header: &FrameHeader,
        replica: ReplicaId,
    ) -> Result<Admitted, Status> {
        if self.leaving.get() || replica != self.replica {
            return Err(Status::NoSuchReplica);
        }
        let most = match header.kind {
            FrameKind::ReadSnapshot => u32::from(FRAME_DATA_BLOCKS_MAX),
            _ => u32::MAX,
        };
        self.check_range(header, most)?;
        Ok(Admitted::new(self, false))
    }

    /// Raises the fence for an owner that opens the shard.
    ///
    /// # Errors
    /// The status to answer.
    pub(crate) fn begin_open(
        self: &Rc<Self>,
        header: &FrameHeader,
        replica: ReplicaId,
    ) -> Result<Opening, Status> {
        if self.leaving.get() || replica != self.replica {
            return Err(Status::NoSuchReplica);
        }
        if header.generation == Generation::default() {
            return Err(Status::Malformed);
        }
        if header.generation < self.fence.get() && !is_planted(Planted::NoFence) {
            return Err(Status::Fenced);
        }
        if header.epoch < self.state.get().epoch {
            return Err(Status::StaleEpoch);
        }
        self.fence.set(header.generation);
        Ok(Opening {
            gate: Rc::clone(self),
            generation: header.generation,
        })
    }

    /// Admits nothing any more and waits for what was admitted.
    pub(crate) async fn shut(&self) {
        self.leaving.set(true);
        self.settled().await;
    }

    /// Reverses [`Gate::shut`]: the shard stays after all.
    pub(crate) fn reopen(&self) {
        self.leaving.set(false);
    }

    async fn settled(&self) {
        while self.changing.get() > 0 {
            self.settled.notified().await;
        }
    }

    fn check(&self, header: &FrameHeader) -> Result<(), Status> {
        let state = self.state.get();
        if self.leaving.get() {
            return Err(Status::NoSuchReplica);
        }
        // Above is as bad as below: who has not opened it does not know what it holds.
        let opened = self.fence.get() == state.generation && header.generation == state.generation;
        if is_planted(Planted::NoFence) {
            // Whoever comes is served.
        } else if !opened || header.generation == Generation::default() {
            return Err(Status::Fenced);
        }
        if header.epoch < state.epoch {
            return Err(Status::StaleEpoch);
        }
        check_stable(header.stable, state.window)?;
        match header.kind {
            FrameKind::Write => {
                self.check_range(header, u32::from(FRAME_DATA_BLOCKS_MAX))?;
                if u32::from(header.data_blocks) != header.count.get() {
                    return Err(Status::Malformed);
                }
                check_version(header, &state)
            }
            FrameKind::Zeroes => {
                self.check_range(header, ZERO_BLOCKS_MAX)?;
                check_version(header, &state)
            }
            FrameKind::Read | FrameKind::Verify => {
                self.check_range(header, u32::from(FRAME_DATA_BLOCKS_MAX))
            }
            FrameKind::Extents => self.check_range(header, u32::MAX),
            _ => Ok(()),
        }
    }

    fn check_range(&self, header: &FrameHeader, most: u32) -> Result<(), Status> {
        let count = header.count.get();
        let end = header.block.checked_add(header.count);
        let fits = end.is_some_and(|end| end.get() <= self.blocks.get().get());
        if count == 0 || count > most || !fits || header.layer == Layer::new(0) {
            return Err(Status::Malformed);
        }
        Ok(())
    }
}

/// Whether an old owner's request of this kind must have ended before a new one is answered.
fn changes(kind: FrameKind) -> bool {
    matches!(
        kind,
        FrameKind::Write
            | FrameKind::Zeroes
            | FrameKind::SetState
            | FrameKind::SetLayers
            | FrameKind::Close
    )
}

/// A stable beyond every recorded window is nothing that an owner can know.
pub(crate) fn check_stable(stable: Seq, window: Window) -> Result<(), Status> {
    if stable.window() > window {
        return Err(Status::SeqOutOfWindow);
    }
    Ok(())
}

/// A write's seq lies in a recorded window, and in the newest one not too far ahead.
///
/// Reconciliation copies versions of older windows as they are, so these are no further bounded.
/// A window starts up to 2²⁴ above the last stable: the distance counts from its start, too.
fn check_version(header: &FrameHeader, state: &ShardState) -> Result<(), Status> {
    let seq = header.seq;
    if seq.number() == 0 || seq.window() > state.window {
        return Err(Status::SeqOutOfWindow);
    }
    if seq.window() < state.window || seq == seq.window().burial() {
        return Ok(());
    }
    let base = state.stable.max(header.stable).max(seq.window().start());
    if seq.get() < base.get() + SEQ_AHEAD_MAX {
        Ok(())
    } else {
        Err(Status::SeqOutOfWindow)
    }
}

/// What a request told that was not known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noted {
    pub(crate) epoch: bool,
    pub(crate) stable: bool,
}

/// A request on its way through the lane.
#[derive(Debug)]
pub(crate) struct Admitted {
    gate: Rc<Gate>,
    changes: bool,
}

impl Admitted {
    fn new(gate: &Rc<Gate>, changes: bool) -> Self {
        if changes {
            gate.changing.set(gate.changing.get() + 1);
        }
        Self {
            gate: Rc::clone(gate),
            changes,
        }
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if self.changes {
            let left = self.gate.changing.get() - 1;
            self.gate.changing.set(left);
            if left == 0 {
                self.gate.settled.notify_all();
            }
        }
    }
}

/// An owner opens the shard: older ones are shut out.
#[derive(Debug)]
pub(crate) struct Opening {
    gate: Rc<Gate>,
    generation: Generation,
}

impl Opening {
    /// Waits for what older owners have under way. From here until it is dropped the opening
    /// counts as a change itself: it ends before a shard leaves.
    ///
    /// # Errors
    /// [`Status`]: a newer owner came meanwhile, or the shard leaves.
    pub(crate) async fn settled(&self) -> Result<Admitted, Status> {
        self.gate.settled().await;
        if self.gate.leaving.get() {
            return Err(Status::NoSuchReplica);
        }
        self.confirm()?;
        Ok(Admitted::new(&self.gate, true))
    }

    /// Whether it is still the newest.
    ///
    /// # Errors
    /// [`Status::Fenced`].
    pub(crate) fn confirm(&self) -> Result<(), Status> {
        if self.gate.fence.get() == self.generation {
            Ok(())
        } else {
            Err(Status::Fenced)
        }
    }
}

#[cfg(test)]
mod tests;
