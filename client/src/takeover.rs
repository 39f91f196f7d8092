//! The take-over of a volume's shards from whoever owned them before (replication.md, "Taking
//! over").

use std::rc::Rc;
use std::time::Duration;

use ashlar_proto::api::ProposeInSync;
use ashlar_proto::limits::READ_LEASE_WAIT;
use ashlar_proto::message::{BlockKind, SetState, TAIL_ENTRIES_MAX, TailEntry, decode_tail};
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_proto::{
    BlockCount, BlockIndex, Generation, Layer, LayerTable, Seq, ShardIndex, Status, VolumeId,
    Window,
};
use ashlar_reactor::future::join_all;
use ashlar_reactor::link::Frame;
use ashlar_reactor::{Instant, Reactor};

use crate::candidate::{Answer, Candidate};
use crate::peer::{Peer, PeerLost};
use crate::quorum::{Mask, Slot};
use crate::read::verify;
use crate::reconcile::{self, Copy, Plan};
use crate::source::{AnySource, SourceError};
use crate::wire::{self, Body, Stamp};
use crate::write_log::Span;

/// Shards taken over at once.
const SHARDS_AT_ONCE: usize = 64;

/// Copies in flight at once for one shard.
const COPIES_AT_ONCE: usize = 16;

const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Why a round of the take-over did not end in service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TakeoverError {
    /// A newer owner was there.
    Fenced,
    /// A replica failed on the way, or too few answered: another round may do.
    Failed {
        /// Of this shard.
        shard: ShardIndex,
    },
    /// No good copy of a write that may have been acknowledged.
    Damaged {
        /// In this shard.
        shard: ShardIndex,
    },
    /// The conductor did not commit who answered.
    Source(SourceError),
}

/// What all shards of a take-over share.
pub(crate) struct Takeover {
    pub(crate) reactor: Reactor,
    pub(crate) source: Rc<dyn AnySource>,
    pub(crate) name: String,
    pub(crate) volume: VolumeId,
    pub(crate) generation: Generation,
    /// How the volume's layers are read.
    pub(crate) table: LayerTable,
    /// What an owner writes in that takes more shards over; else a new window is found.
    pub(crate) window: Option<Window>,
    pub(crate) patience: Duration,
    pub(crate) deadline: Instant,
    pub(crate) peers: Vec<Rc<Peer>>,
}

impl Takeover {
    /// One round: gives the new window, and whether unflushed writes may be gone.
    pub(crate) async fn run(
        &self,
        candidates: &mut [Candidate],
    ) -> Result<(Window, bool), TakeoverError> {
        let patience = self.reactor.now() + self.patience;
        for some in candidates.chunks_mut(SHARDS_AT_ONCE) {
            let opened = join_all(some.iter_mut().map(|c| self.open(c, patience))).await;
            opened.into_iter().collect::<Result<(), _>>()?;
        }
        let window = self.window.or_else(|| next_window(candidates));
        let window = window.ok_or(TakeoverError::Failed {
            shard: ShardIndex::new(0),
        })?;
        for some in candidates.chunks(SHARDS_AT_ONCE) {
            let made_equal = join_all(some.iter().map(|c| self.reconcile(c, window))).await;
            made_equal.into_iter().collect::<Result<(), _>>()?;
        }
        self.flush(candidates).await?;
        self.outlast_leases(candidates).await;
        let may_have_lost = candidates.iter().any(Candidate::may_have_lost);
        for some in candidates.chunks_mut(SHARDS_AT_ONCE) {
            let committed = join_all(some.iter_mut().map(|c| self.commit(c))).await;
            committed.into_iter().collect::<Result<(), _>>()?;
        }
        for some in candidates.chunks(SHARDS_AT_ONCE) {
            join_all(some.iter().map(|c| self.settle(c, window))).await;
        }
        Ok((window, may_have_lost))
    }

    /// Where some of a set did not answer, an older owner may have them to itself: waits until it
    /// reads nothing any more.
    async fn outlast_leases(&self, candidates: &[Candidate]) {
        let some_missing = candidates
            .iter()
            .filter(|candidate| candidate.answered() != candidate.quorum.in_sync());
        let last = some_missing
            .flat_map(|candidate| {
                candidate
                    .answered()
                    .slots()
                    .map(|slot| candidate.answer(slot))
            })
            .map(|answer| answer.at)
            .max();
        if let Some(last) = last {
            self.reactor.sleep_until(last + READ_LEASE_WAIT).await;
        }
    }

    fn stamp(&self, candidate: &Candidate) -> Stamp {
        Stamp {
            volume: self.volume,
            shard: candidate.index,
            generation: self.generation,
            epoch: candidate.epoch,
            stable: Seq::NONE,
        }
    }

    /// Fences the shard on all of its set; waits for those beyond the necessary until `patience`.
    async fn open(
        &self,
        candidate: &mut Candidate,
        patience: Instant,
    ) -> Result<(), TakeoverError> {
        candidate.begin_round();
        let slots = candidate.quorum.in_sync().slots();
        let opened = slots.map(|slot| self.open_one(candidate, slot, patience));
        let answers = join_all(opened).await;
        let slots: Vec<Slot> = candidate.quorum.in_sync().slots().collect();
        for (slot, answer) in slots.into_iter().zip(answers) {
            candidate.note_answer(slot, answer?);
        }
        let left_out = candidate.leave_out_failing(self.reactor.now(), self.patience);
        for slot in left_out.slots() {
            tracing::warn!(volume = %self.name, shard = %candidate.index,
                replica = %candidate.replicas[slot.get()].id,
                problem = ?candidate.trouble(slot).and_then(|trouble| trouble.problem),
                "a replica keeps failing the take-over: it is left out");
        }
        let shard = candidate.index;
        let have_all_answered = candidate.answered() == candidate.quorum.in_sync();
        let (doubtful, is_enough) = candidate.leave_out_doubtful();
        if !is_enough && have_all_answered {
            return Err(TakeoverError::Damaged { shard });
        }
        if !is_enough || candidate.answered().len() < candidate.quorum.takeover_count() {
            return Err(TakeoverError::Failed { shard });
        }
        for slot in doubtful.slots() {
            tracing::warn!(volume = %self.name, %shard,
                replica = %candidate.replicas[slot.get()].id,
                "a damaged replica is left out: it is to be caught up");
        }
        Ok(())
    }

    async fn open_one(
        &self,
        candidate: &Candidate,
        slot: Slot,
        patience: Instant,
    ) -> Result<Option<Answer>, TakeoverError> {
        let replica = &candidate.replicas[slot.get()];
        loop {
            if replica.peer.connect().await.is_ok() {
                let request = self.stamp(candidate).open(replica.id);
                if let Ok(reply) = replica.peer.call(request).await {
                    self.check_fence(&reply)?;
                    let run = reply.header.incarnation();
                    let state = wire::state_of(&reply);
                    if let (Status::Ok, Some(state)) = (reply.header.status, state) {
                        let at = self.reactor.now();
                        return Ok(Some(Answer { state, run, at }));
                    }
                }
            }
            if self.reactor.now() >= patience {
                return Ok(None);
            }
            self.reactor.sleep(RETRY_PAUSE).await;
        }
    }

    fn check_fence(&self, reply: &Frame) -> Result<(), TakeoverError> {
        let fenced = reply.header.status == Status::Fenced;
        if fenced && reply.header.generation > self.generation {
            return Err(TakeoverError::Fenced);
        }
        Ok(())
    }

    /// A request that must succeed for the round to go on.
    async fn ask(
        &self,
        candidate: &Candidate,
        slot: Slot,
        request: Frame,
    ) -> Result<Frame, TakeoverError> {
        let reply = candidate.peer(slot).call(request).await;
        self.checked(candidate, slot, reply)
    }

    /// A reply that must be good for the round to go on.
    fn checked(
        &self,
        candidate: &Candidate,
        slot: Slot,
        reply: Result<Frame, PeerLost>,
    ) -> Result<Frame, TakeoverError> {
        let mut problem = None;
        if let Ok(reply) = reply {
            self.check_fence(&reply)?;
            let same_run = reply.header.incarnation() == candidate.answer(slot).run;
            if reply.header.status == Status::Ok && same_run {
                return Ok(reply);
            }
            problem = Some(reply.header.status);
            tracing::warn!(volume = %self.name, shard = %candidate.index,
                replica = %candidate.replicas[slot.get()].id,
                status = ?reply.header.status, "a replica failed the take-over");
        }
        candidate.note_failed(slot, self.reactor.now(), problem);
        Err(TakeoverError::Failed {
            shard: candidate.index,
        })
    }

    /// Makes all who answered equal, with the new window recorded.
    async fn reconcile(&self, candidate: &Candidate, window: Window) -> Result<(), TakeoverError> {
        let state = SetState {
            window,
            stable: Seq::NONE,
            settle: false,
            caught_up: false,
        };
        let slots = || candidate.answered().slots();
        let recorded = slots().map(|slot| {
            let request = self.stamp(candidate).set_state(state);
            self.ask(candidate, slot, request)
        });
        for reply in join_all(recorded).await {
            let known = wire::state_of(&reply?);
            if known.is_none_or(|known| known.window < window) {
                return Err(TakeoverError::Failed {
                    shard: candidate.index,
                });
            }
        }
        self.tell_table(candidate).await?;
        if candidate.quorum.in_sync().len() == 1 || is_planted(Planted::NoReconcile) {
            return Ok(());
        }
        // Each vouches for what its own log shows to be durable there, and no further: a write that
        // was flushed and rots before anything behind it says so passes for one that was not.
        let horizons = || slots().map(|slot| candidate.answer(slot).state.stable);
        let above = horizons().min().unwrap_or(Seq::NONE);
        let settled = horizons().max().unwrap_or(Seq::NONE);
        let tails = join_all(slots().map(|slot| self.tail(candidate, slot, above))).await;
        let tails = tails.into_iter().collect::<Result<Vec<_>, _>>()?;
        let Plan { copies, doubtful } = reconcile::plan(&tails, settled);
        if !copies.is_empty() {
            tracing::info!(volume = %self.name, shard = %candidate.index,
                copies = copies.len(), highest = %reconcile::highest(&tails),
                "replicas differed: reconciled");
        }
        self.doubt(candidate, doubtful)?;
        for some in copies.chunks(COPIES_AT_ONCE) {
            let copied = join_all(some.iter().map(|copy| self.copy(candidate, copy))).await;
            copied.into_iter().collect::<Result<(), _>>()?;
        }
        Ok(())
    }

    /// Has all who answered go by the volume's layer table: their tails cannot be compared before.
    async fn tell_table(&self, candidate: &Candidate) -> Result<(), TakeoverError> {
        if self.table.version == 0 {
            return Ok(());
        }
        let told = candidate.answered().slots().map(|slot| async move {
            let request = self.stamp(candidate).set_layers(&self.table);
            self.ask(candidate, slot, request).await?;
            candidate.replicas[slot.get()].table.set(self.table.version);
            Ok(())
        });
        join_all(told).await.into_iter().collect()
    }

    /// Goes on only without those: in the next round, if the others are enough.
    fn doubt(&self, candidate: &Candidate, doubtful: Mask) -> Result<(), TakeoverError> {
        if doubtful.is_empty() {
            return Ok(());
        }
        candidate.note_doubtful(doubtful);
        Err(TakeoverError::Failed {
            shard: candidate.index,
        })
    }

    async fn tail(
        &self,
        candidate: &Candidate,
        slot: Slot,
        above: Seq,
    ) -> Result<(Slot, Vec<TailEntry>), TakeoverError> {
        let failed = TakeoverError::Failed {
            shard: candidate.index,
        };
        let (mut block, mut layer) = (BlockIndex::new(0), Layer::new(0));
        let mut tail = Vec::new();
        loop {
            let request = self.stamp(candidate).tail(above, block, layer);
            let reply = self.ask(candidate, slot, request).await?;
            let page = wire::meta_of(&reply).and_then(|meta| decode_tail(meta).ok());
            let page = page.filter(|page| page.table == self.table.version);
            let page = page.ok_or(failed.clone())?.entries;
            let is_last = page.len() < TAIL_ENTRIES_MAX;
            // A store that goes round in circles is not followed.
            let is_in_order = page
                .iter()
                .map(|entry| (entry.block, entry.layer))
                .try_fold((block, layer), |from, at| {
                    let next = at.1.get().checked_add(1)?;
                    (at >= from).then_some((at.0, Layer::new(next)))
                });
            (block, layer) = is_in_order.ok_or(failed.clone())?;
            tail.extend(page);
            if is_last {
                return Ok((slot, tail));
            }
        }
    }

    async fn copy(&self, candidate: &Candidate, copy: &Copy) -> Result<(), TakeoverError> {
        if let Some(body) = self.fetch(candidate, copy).await? {
            return self.store(candidate, copy, body).await;
        }
        // One bad block makes a replica refuse all of a read: another may have just that one.
        for at in 0..copy.span.count.get() {
            let one = Copy {
                span: Span {
                    block: BlockIndex::new(copy.span.block.get() + at),
                    count: BlockCount::new(1),
                },
                ..*copy
            };
            let Some(body) = self.fetch(candidate, &one).await? else {
                tracing::error!(volume = %self.name, shard = %candidate.index,
                    block = %one.span.block, seq = %one.seq,
                    "a write that only some replicas have is damaged there");
                return self.doubt(candidate, one.sources);
            };
            self.store(candidate, &one, body).await?;
        }
        Ok(())
    }

    async fn store(
        &self,
        candidate: &Candidate,
        copy: &Copy,
        body: Body,
    ) -> Result<(), TakeoverError> {
        let stored = copy.targets.slots().map(|slot| {
            let stamp = self.stamp(candidate);
            let request = stamp.version(copy.layer, copy.span, copy.seq, &body);
            self.ask(candidate, slot, request)
        });
        for reply in join_all(stored).await {
            reply?;
        }
        Ok(())
    }

    /// The content of a version from one of those who have it; `None` where all of them say that it
    /// is damaged.
    async fn fetch(
        &self,
        candidate: &Candidate,
        copy: &Copy,
    ) -> Result<Option<Body>, TakeoverError> {
        if copy.zero {
            return Ok(Some(Body::Zeroes));
        }
        for slot in copy.sources.slots() {
            let request = self.stamp(candidate).read(copy.layer, copy.span);
            let reply = match candidate.peer(slot).call(request).await {
                Ok(reply) if reply.header.status == Status::Damaged => continue,
                reply => self.checked(candidate, slot, reply)?,
            };
            let is_version = |e: &ashlar_proto::message::ReadEntry| {
                e.seq == copy.seq && e.kind == BlockKind::Data
            };
            let shown = verify(reply, copy.span.count, Seq::MAX);
            let Some(shown) = shown.filter(|shown| shown.entries.iter().all(is_version)) else {
                // Bad on the way, or not what its tail said: it may do better in the next round.
                candidate.note_failed(slot, self.reactor.now(), Some(Status::BadChecksum));
                return Err(TakeoverError::Failed {
                    shard: candidate.index,
                });
            };
            let checksums: Vec<u32> = shown.entries.iter().map(|e| e.crc).collect();
            return Ok(Some(Body::with_checksums(&checksums, shown.data)));
        }
        Ok(None)
    }

    /// Makes durable, once per lane, all that was found and copied.
    async fn flush(&self, candidates: &[Candidate]) -> Result<(), TakeoverError> {
        // In the order of the shards, not of addresses: a simulated run must repeat.
        let mut lanes: Vec<(&Candidate, Slot)> = Vec::new();
        for candidate in candidates {
            for slot in candidate.answered().slots() {
                let peer = candidate.peer(slot);
                let same = |known: &(&Candidate, Slot)| Rc::ptr_eq(known.0.peer(known.1), peer);
                if peer.is_volatile() && !lanes.iter().any(same) {
                    lanes.push((candidate, slot));
                }
            }
        }
        let flushed = lanes
            .iter()
            .map(|&(candidate, slot)| self.ask(candidate, slot, wire::flush(self.generation)));
        let flushed = join_all(flushed).await;
        for (&(candidate, slot), reply) in lanes.iter().zip(&flushed) {
            if reply.is_err() {
                self.note_lane_failed(candidates, candidate, slot);
            }
        }
        flushed.into_iter().collect::<Result<Vec<_>, _>>()?;
        for candidate in candidates {
            if !candidate.lost_since().is_empty() {
                return Err(TakeoverError::Failed {
                    shard: candidate.index,
                });
            }
        }
        Ok(())
    }

    /// A lane that failed its flush failed it for all shards that it holds.
    fn note_lane_failed(&self, candidates: &[Candidate], asked: &Candidate, slot: Slot) {
        let problem = asked.trouble(slot).and_then(|trouble| trouble.problem);
        for candidate in candidates {
            let same = |other: &Slot| Rc::ptr_eq(candidate.peer(*other), asked.peer(slot));
            for other in candidate.answered().slots().filter(same) {
                candidate.note_failed(other, self.reactor.now(), problem);
            }
        }
    }

    /// Has the set of those who answered committed, if some did not.
    async fn commit(&self, candidate: &mut Candidate) -> Result<(), TakeoverError> {
        let answered = candidate.answered();
        if answered == candidate.quorum.in_sync() {
            return Ok(());
        }
        let proposal = ProposeInSync {
            volume: self.volume,
            generation: self.generation,
            shard: candidate.index,
            epoch: candidate.epoch,
            in_sync: answered
                .slots()
                .map(|slot| candidate.replicas[slot.get()].id)
                .collect(),
        };
        // Never withdrawn, only repeated: a lost answer may hide a commit.
        let committed = loop {
            match self.source.propose(&self.name, &proposal).await {
                Ok(committed) => break committed,
                Err(SourceError::Superseded) => return Err(TakeoverError::Fenced),
                Err(error) if self.reactor.now() >= self.deadline => {
                    return Err(TakeoverError::Source(error));
                }
                Err(_) => self.reactor.sleep(RETRY_PAUSE).await,
            }
        };
        candidate.epoch = committed.shard.epoch;
        candidate.quorum = candidate.quorum.propose(answered).commit();
        tracing::warn!(volume = %self.name, shard = %candidate.index,
            "attached without some replicas: degraded");
        Ok(())
    }

    /// Records that the shard is settled up to the new window. A replica that fails here is behind
    /// from the start.
    async fn settle(&self, candidate: &Candidate, window: Window) {
        // The window of an owner that writes already has seqs that are given and not settled.
        let stable = self.window.map_or(window.start(), |_| Seq::NONE);
        let state = SetState {
            window,
            stable,
            settle: true,
            caught_up: false,
        };
        let settled = candidate.answered().slots().map(|slot| {
            let request = self.stamp(candidate).set_state(state);
            self.ask(candidate, slot, request)
        });
        let slots = candidate.answered().slots();
        for (slot, reply) in slots.zip(join_all(settled).await) {
            if reply.is_err() {
                candidate.peer(slot).close();
            }
        }
    }
}

/// A window above all that any replica has seen; `None` when there is none left.
fn next_window(candidates: &[Candidate]) -> Option<Window> {
    let states = candidates.iter().flat_map(Candidate::states);
    let seen = states.map(|state| {
        let highest = state.highest.max(state.stable).window();
        state.window.max(highest)
    });
    let seen = seen.max().unwrap_or_default();
    let next = if is_planted(Planted::ReuseWindow) && seen > Window::default() {
        seen
    } else {
        seen.next()
    };
    (next <= Window::MAX).then_some(next)
}
