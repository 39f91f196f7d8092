//! The writes of one shard that are not yet stable: who accepted which, what is acknowledged, what
//! is durable, and how far the shard is settled.
//!
//! Pure. Invariants: entries stand in order of seq; an acknowledged entry never becomes
//! unacknowledged; an entry leaves only when it is durable on every replica that can still be
//! brought up from here, or when no replica kept it.
//!
//! ```text
//!  push ──▶ in flight ──▶ acknowledged (a of S accepted) ──▶ durable on all of S ──▶ stable
//! ```

use std::collections::VecDeque;

use ashlar_proto::limits::SLOTS_MAX;
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_proto::{BlockCount, BlockIndex, Seq};

use crate::quorum::{Mask, Quorum, Slot};

/// When a lane accepted a write: a position in that lane's order of acceptances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Acceptance(u64);

impl Acceptance {
    /// Not accepted.
    pub(crate) const NONE: Self = Self(0);
    /// Accepted and durable at once.
    pub(crate) const DURABLE: Self = Self(1);

    /// The next position.
    pub(crate) fn next(self) -> Self {
        Self(self.0.max(1) + 1)
    }

    fn is_accepted(self) -> bool {
        self != Self::NONE
    }

    fn is_durable(self, upto: Self) -> bool {
        self.is_accepted() && self <= upto.max(Self::DURABLE)
    }
}

/// Up to where each slot's lane has been flushed.
pub(crate) type DurableUpTo = [Acceptance; SLOTS_MAX];

/// A volume's order of acknowledgements, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AckOrder(u64);

impl AckOrder {
    /// Before the first.
    pub(crate) const NONE: Self = Self(0);

    /// The next one.
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The blocks of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first block.
    pub(crate) block: BlockIndex,
    /// How many.
    pub(crate) count: BlockCount,
}

impl Span {
    /// What is left after the first `count` blocks.
    pub(crate) fn skip(self, count: BlockCount) -> Self {
        let skipped = count.get().min(self.count.get());
        Self {
            block: BlockIndex::new(self.block.get() + skipped),
            count: BlockCount::new(self.count.get() - skipped),
        }
    }

    /// Whether the two have a block in common.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        let end = |span: Self| u64::from(span.block.get()) + u64::from(span.count.get());
        u64::from(self.block.get()) < end(other) && u64::from(other.block.get()) < end(self)
    }
}

/// One write.
#[derive(Debug)]
pub(crate) struct Entry<T> {
    /// Its seq.
    pub(crate) seq: Seq,
    /// Its blocks.
    pub(crate) span: Span,
    /// Bytes that it keeps in memory.
    pub(crate) bytes: u64,
    /// What the caller keeps with it.
    pub(crate) payload: T,
    accepted: [Acceptance; SLOTS_MAX],
    acked: AckOrder,
}

impl<T> Entry<T> {
    /// Who has accepted it.
    pub(crate) fn held(&self) -> Mask {
        self.mask(|acceptance, _| acceptance.is_accepted())
    }

    fn durable(&self, upto: &DurableUpTo) -> Mask {
        self.mask(|acceptance, slot| acceptance.is_durable(upto[slot]))
    }

    fn mask(&self, has: impl Fn(Acceptance, usize) -> bool) -> Mask {
        let slots = self.accepted.iter().enumerate();
        slots
            .filter(|&(slot, &acceptance)| has(acceptance, slot))
            .map(|(slot, _)| Slot::new(slot))
            .collect()
    }

    /// Whether it was acknowledged.
    pub(crate) fn is_acked(&self) -> bool {
        self.acked != AckOrder::NONE
    }
}

/// An acknowledged write that a live replica has not accepted yet.
#[derive(Clone, Copy, Debug)]
struct Lagging {
    seq: Seq,
    span: Span,
    missing: Mask,
}

/// What a flush still needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlushNeed {
    /// Nothing: every write that it covers is durable on enough replicas.
    Satisfied,
    /// Flushes up to these acceptances, by slot; none at all where answers or a change of the set
    /// must come first.
    Flush(DurableUpTo),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct WriteLog<T> {
    quorum: Quorum,
    live: Mask,
    /// Replicas that are not of the sets and catch up: they are sent every write, and count for
    /// nothing but that writes are kept until they hold them durably.
    joining: Mask,
    /// Replicas of the set that can no longer be brought up from this log.
    lost: Mask,
    /// Where `stable` stays while entries left that a lost replica does not hold.
    frozen: Option<Seq>,
    entries: VecDeque<Entry<T>>,
    unacked: VecDeque<Seq>,
    lagging: Vec<Lagging>,
    bytes: u64,
}

impl<T> WriteLog<T> {
    /// An empty log over a committed set, all of whose replicas are live.
    pub(crate) fn new(quorum: Quorum) -> Self {
        Self {
            quorum,
            live: quorum.in_sync(),
            joining: Mask::EMPTY,
            lost: Mask::EMPTY,
            frozen: None,
            entries: VecDeque::new(),
            unacked: VecDeque::new(),
            lagging: Vec::new(),
            bytes: 0,
        }
    }

    /// The sets that acknowledge.
    pub(crate) fn quorum(&self) -> Quorum {
        self.quorum
    }

    /// The replicas that accept writes now.
    pub(crate) fn live(&self) -> Mask {
        self.live
    }

    /// Those that catch up.
    pub(crate) fn joining(&self) -> Mask {
        self.joining
    }

    /// Those that a new write goes to.
    pub(crate) fn recipients(&self) -> Mask {
        let joining = if is_planted(Planted::ProposeIncomplete) {
            Mask::EMPTY
        } else {
            self.joining
        };
        self.quorum.targets().and(self.live).or(joining)
    }

    /// Whether what `slot` answers to writes counts for anything.
    pub(crate) fn is_taking(&self, slot: Slot) -> bool {
        self.live.or(self.joining).has(slot)
    }

    /// Those that can no longer be brought up from here.
    pub(crate) fn lost(&self) -> Mask {
        self.lost
    }

    /// Whether it holds no write.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes that its writes keep in memory.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a write; its seq is above all given before.
    pub(crate) fn push(&mut self, seq: Seq, span: Span, bytes: u64, payload: T) {
        let last = self.entries.back().map_or(Seq::NONE, |entry| entry.seq);
        assert!(seq > last, "seqs are given in order");
        self.bytes += bytes;
        self.unacked.push_back(seq);
        self.entries.push_back(Entry {
            seq,
            span,
            bytes,
            payload,
            accepted: [Acceptance::NONE; SLOTS_MAX],
            acked: AckOrder::NONE,
        });
    }

    /// The write of a seq, if it is still here.
    pub(crate) fn get(&self, seq: Seq) -> Option<&Entry<T>> {
        self.position(seq).map(|at| &self.entries[at])
    }

    /// The same, to change what the caller keeps with it.
    pub(crate) fn payload_mut(&mut self, seq: Seq) -> Option<&mut T> {
        let at = self.position(seq)?;
        Some(&mut self.entries[at].payload)
    }

    /// What the caller keeps with each write.
    pub(crate) fn payloads_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().map(|entry| &mut entry.payload)
    }

    /// Notes that `slot` accepted a write. Gives the write when that acknowledges it, as `order`.
    pub(crate) fn accept(
        &mut self,
        slot: Slot,
        seq: Seq,
        acceptance: Acceptance,
        order: AckOrder,
    ) -> Option<&Entry<T>> {
        let at = self.position(seq)?;
        let entry = &mut self.entries[at];
        if entry.accepted[slot.get()] != Acceptance::DURABLE {
            entry.accepted[slot.get()] = acceptance;
        }
        if entry.is_acked() {
            self.note_caught_up(slot, seq);
            return None;
        }
        if !self.quorum.acknowledged_by(entry.held()) {
            return None;
        }
        self.acknowledge(at, order);
        Some(&self.entries[at])
    }

    /// Acknowledges what a change of the sets made sufficient; gives the seqs.
    pub(crate) fn acknowledge_ready(&mut self, mut order: AckOrder) -> (AckOrder, Vec<Seq>) {
        let mut ready = Vec::new();
        for at in 0..self.entries.len() {
            let entry = &self.entries[at];
            if !entry.is_acked() && self.quorum.acknowledged_by(entry.held()) {
                order = order.next();
                ready.push(entry.seq);
                self.acknowledge(at, order);
            }
        }
        (order, ready)
    }

    /// Takes out a write that no replica kept and nobody was told is kept.
    pub(crate) fn remove_refused(&mut self, seq: Seq) -> Option<Entry<T>> {
        let at = self.position(seq)?;
        let entry = self.entries.remove(at)?;
        assert!(entry.held().is_empty(), "a write that was kept stays");
        assert!(!entry.is_acked(), "a write that was acknowledged stays");
        self.bytes -= entry.bytes;
        self.unacked.retain(|&other| other != seq);
        Some(entry)
    }

    /// Takes out, from the oldest on, what is durable wherever it can still be made so.
    pub(crate) fn settle(&mut self, durable: &DurableUpTo) -> u64 {
        let needed = self.quorum.targets().or(self.joining).minus(self.lost);
        let mut freed = 0;
        while let Some(entry) = self.entries.front() {
            let on = entry.durable(durable);
            if !entry.is_acked() || !on.covers(needed) {
                break;
            }
            if self.frozen.is_none() && !on.covers(self.quorum.targets()) {
                self.frozen = Some(before(entry.seq));
            }
            freed += entry.bytes;
            let seq = entry.seq;
            self.lagging.retain(|lagging| lagging.seq != seq);
            self.entries.pop_front();
        }
        self.bytes -= freed;
        freed
    }

    /// Up to where every replica of the sets holds every write of this shard durably, given that
    /// the volume has given no seq above `issued`.
    pub(crate) fn stable(&self, issued: Seq) -> Seq {
        if is_planted(Planted::StableTooFar) {
            return issued;
        }
        let front = self.entries.front().map(|entry| before(entry.seq));
        self.frozen.or(front).unwrap_or(issued)
    }

    /// The replicas that may answer a read of `span`: live, staying, and with every acknowledged
    /// write to it.
    pub(crate) fn readable(&self, span: Span) -> Mask {
        let candidates = self.quorum.readable().and(self.live);
        if is_planted(Planted::ReadLagging) {
            return candidates;
        }
        self.lagging
            .iter()
            .filter(|lagging| lagging.span.overlaps(span))
            .fold(candidates, |mask, lagging| mask.minus(lagging.missing))
    }

    /// Whether a write is here and not acknowledged.
    pub(crate) fn is_unacked(&self, seq: Seq) -> bool {
        let floor = self.unacked.front().copied();
        floor.is_some_and(|floor| seq >= floor)
            && self.get(seq).is_some_and(|entry| !entry.is_acked())
    }

    /// Whether a write to some of these blocks, of a seq up to `upto`, is not acknowledged.
    pub(crate) fn has_unacked_in(&self, span: Span, upto: Seq) -> bool {
        let unacked = self.unacked.iter().take_while(|&&seq| seq <= upto);
        let mut unacked = unacked.filter_map(|&seq| self.get(seq));
        unacked.any(|entry| !entry.is_acked() && entry.span.overlaps(span))
    }

    /// The writes that are not acknowledged.
    pub(crate) fn unacked(&self) -> impl Iterator<Item = &Entry<T>> {
        self.entries.iter().filter(|entry| !entry.is_acked())
    }

    /// The writes that no replica of the sets holds.
    pub(crate) fn unheld(&self) -> impl Iterator<Item = &Entry<T>> {
        let targets = self.quorum.targets();
        let is_unheld = move |entry: &&Entry<T>| entry.held().and(targets).is_empty();
        self.entries.iter().filter(is_unheld)
    }

    /// The seqs that `slot` has not accepted, in order.
    pub(crate) fn missing(&self, slot: Slot) -> Vec<Seq> {
        let missing = |entry: &&Entry<T>| !entry.held().has(slot);
        self.entries.iter().filter(missing).map(|e| e.seq).collect()
    }

    /// Whether a live replica has not accepted all writes yet.
    pub(crate) fn lags(&self) -> bool {
        let expected = self.live.and(self.quorum.targets());
        self.entries
            .iter()
            .any(|entry| !entry.held().covers(expected))
    }

    /// Bytes of acknowledged writes that `slot` has not accepted.
    pub(crate) fn missing_bytes(&self, slot: Slot) -> u64 {
        let missing = |entry: &&Entry<T>| entry.is_acked() && !entry.held().has(slot);
        self.entries.iter().filter(missing).map(|e| e.bytes).sum()
    }

    /// Forgets what `slot` accepted after `upto` and a restart has lost.
    pub(crate) fn forget(&mut self, slot: Slot, upto: Acceptance) {
        for entry in &mut self.entries {
            let accepted = &mut entry.accepted[slot.get()];
            *accepted = if accepted.is_durable(upto) {
                Acceptance::DURABLE
            } else {
                Acceptance::NONE
            };
        }
    }

    /// Forgets all that `slot` accepted: what it said to be durable may be gone.
    pub(crate) fn forget_all(&mut self, slot: Slot) {
        for entry in &mut self.entries {
            entry.accepted[slot.get()] = Acceptance::NONE;
        }
    }

    /// From here on `slot`, which is not of the sets, is sent every write. It has none of those
    /// that are here, until it takes them.
    pub(crate) fn join(&mut self, slot: Slot) {
        assert!(
            !self.quorum.targets().has(slot),
            "who is of the sets does not join"
        );
        self.forget_all(slot);
        self.lost = self.lost.without(slot);
        self.joining = self.joining.with(slot);
    }

    /// Ends that.
    pub(crate) fn leave(&mut self, slot: Slot) {
        self.joining = self.joining.without(slot);
    }

    /// Stops counting on `slot`: it gets no new writes and is not read.
    pub(crate) fn set_behind(&mut self, slot: Slot) {
        self.live = self.live.without(slot);
        for lagging in &mut self.lagging {
            lagging.missing = lagging.missing.without(slot);
        }
        self.lagging.retain(|lagging| !lagging.missing.is_empty());
    }

    /// Takes `slot` back: it has been sent every write that it lacked.
    pub(crate) fn set_live(&mut self, slot: Slot) {
        assert!(!self.lost.has(slot), "what left the log cannot be sent");
        self.live = self.live.with(slot);
        self.lagging.clear();
        for entry in &self.entries {
            let missing = self.live.and(self.quorum.targets()).minus(entry.held());
            if entry.is_acked() && !missing.is_empty() {
                self.lagging.push(Lagging {
                    seq: entry.seq,
                    span: entry.span,
                    missing,
                });
            }
        }
    }

    /// Gives up on bringing `slot` up from here, so that writes need not be kept for it.
    pub(crate) fn set_lost(&mut self, slot: Slot) {
        self.set_behind(slot);
        self.lost = self.lost.with(slot);
    }

    /// What a flush of every write acknowledged up to `order` needs.
    pub(crate) fn flush_need(&self, order: AckOrder, durable: &DurableUpTo) -> FlushNeed {
        let mut wanted = [Acceptance::NONE; SLOTS_MAX];
        let mut satisfied = true;
        for entry in &self.entries {
            if !entry.is_acked() || entry.acked > order {
                continue;
            }
            let on = entry.durable(durable);
            if !self.quorum.acknowledged_by(on) {
                satisfied = false;
                for slot in entry.held().minus(on).and(self.live).slots() {
                    let wanted = &mut wanted[slot.get()];
                    *wanted = entry.accepted[slot.get()].max(*wanted);
                }
            }
        }
        if satisfied {
            FlushNeed::Satisfied
        } else {
            FlushNeed::Flush(wanted)
        }
    }

    /// The flushes that make everything durable that live replicas hold.
    pub(crate) fn undurable(&self, durable: &DurableUpTo) -> DurableUpTo {
        let mut wanted = [Acceptance::NONE; SLOTS_MAX];
        for entry in &self.entries {
            let on = entry.held().minus(entry.durable(durable));
            for slot in on.and(self.live.or(self.joining)).slots() {
                let wanted = &mut wanted[slot.get()];
                *wanted = entry.accepted[slot.get()].max(*wanted);
            }
        }
        wanted
    }

    /// Whether `next` may be proposed: each of its replicas holds every acknowledged write,
    /// durably each that a flush up to `flushed` covered. (All up to stable has left the log.)
    pub(crate) fn may_propose(&self, next: Mask, flushed: AckOrder, durable: &DurableUpTo) -> bool {
        let settled = self.live.or(self.joining).covers(next) && self.lost.and(next).is_empty();
        settled
            && self.quorum.proposed().is_none()
            && self.entries.iter().filter(|e| e.is_acked()).all(|entry| {
                (entry.held().covers(next) || is_planted(Planted::ProposeIncomplete))
                    && (entry.acked > flushed || entry.durable(durable).covers(next))
            })
    }

    /// From here on the proposed set must acknowledge too.
    pub(crate) fn propose(&mut self, next: Mask) {
        self.live = self.live.or(self.joining.and(next));
        self.joining = self.joining.minus(next);
        self.quorum = self.quorum.propose(next);
    }

    /// The proposal is committed.
    pub(crate) fn commit(&mut self) {
        self.change_to(self.quorum.commit());
    }

    /// The proposal will never be committed: the committed set goes on alone.
    pub(crate) fn withdraw(&mut self) {
        self.change_to(self.quorum.withdraw());
    }

    fn change_to(&mut self, quorum: Quorum) {
        self.quorum = quorum;
        let stays = self.quorum.in_sync();
        self.live = self.live.and(stays);
        self.lost = self.lost.and(stays);
        if self.lost.is_empty() {
            self.frozen = None;
        }
        for lagging in &mut self.lagging {
            lagging.missing = lagging.missing.and(stays);
        }
        self.lagging.retain(|lagging| !lagging.missing.is_empty());
    }

    fn position(&self, seq: Seq) -> Option<usize> {
        self.entries
            .binary_search_by_key(&seq, |entry| entry.seq)
            .ok()
    }

    fn acknowledge(&mut self, at: usize, order: AckOrder) {
        let targets = self.quorum.targets().and(self.live);
        let entry = &mut self.entries[at];
        entry.acked = order;
        let missing = targets.minus(entry.held());
        if !missing.is_empty() {
            self.lagging.push(Lagging {
                seq: entry.seq,
                span: entry.span,
                missing,
            });
        }
        while let Some(&seq) = self.unacked.front() {
            if self.get(seq).is_some_and(|entry| !entry.is_acked()) {
                break;
            }
            self.unacked.pop_front();
        }
    }

    fn note_caught_up(&mut self, slot: Slot, seq: Seq) {
        let at = self.lagging.iter().position(|lagging| lagging.seq == seq);
        if let Some(at) = at {
            let lagging = &mut self.lagging[at];
            lagging.missing = lagging.missing.without(slot);
            if lagging.missing.is_empty() {
                self.lagging.swap_remove(at);
            }
        }
    }
}

fn before(seq: Seq) -> Seq {
    Seq::from_raw(seq.get().saturating_sub(1)).unwrap_or(Seq::NONE)
}

#[cfg(test)]
mod tests;
