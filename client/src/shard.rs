//! One shard of an attached volume: its replicas, its log of writes, and what their answers mean.
//!
//! Invariants: a write is pushed and sent in one turn, so the order of seqs is the order on every
//! link; an answer from a replica that is behind counts for nothing; a replica is behind from the
//! first answer that shows it lacks a write that another keeps.
//!
//! ```text
//!          error · lost session · lag
//!   live ─────────────────────────────▶ behind ──proposed away──▶ gone
//!    ▲                                    │ │
//!    └──opened, sent what it lacked───────┘ └─log no longer reaches──▶ lost ──proposed away──▶ gone
//! ```

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use ashlar_proto::limits::SLOTS_MAX;
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_proto::{Address, Epoch, Layer, ReplicaId, RoomHint, Seq, ShardIndex, Status};
use ashlar_reactor::Instant;

use crate::block_device::BlockError;
use crate::group::WriteGroup;
use crate::lease::Lease;
use crate::membership;
use crate::peer::{Answer, LaneUser, Peer};
use crate::quorum::{Mask, Slot};
use crate::refusal::Sent;
use crate::signal::Signal;
use crate::volume::Core;
use crate::wire::{Body, Stamp};
use crate::write_log::{Acceptance, DurableUpTo, Span, WriteLog};

/// What the owner keeps with a write until it is settled.
#[derive(Debug)]
pub(crate) struct Pending {
    /// To send it again.
    pub(crate) body: Body,
    /// Who waits for its acknowledgement.
    pub(crate) group: Option<Rc<WriteGroup>>,
    /// The layer that it carries.
    pub(crate) layer: Layer,
    /// When it was given its seq.
    pub(crate) since: Instant,
    /// What is known of the replicas that it was sent to.
    pub(crate) sent: Sent,
}

/// One replica of the shard, of the in-sync set or not.
pub(crate) struct Replica {
    /// Its life.
    pub(crate) id: ReplicaId,
    /// Where other stores reach its store.
    pub(crate) address: Address,
    /// The lane that holds it.
    pub(crate) peer: Rc<Peer>,
    /// The version of the layer table that it goes by, as far as is known.
    pub(crate) table: Cell<u32>,
}

/// A replica that has been live for this long has no trouble left behind it; one that keeps
/// failing is not given its grace anew each time.
const CALM: Duration = Duration::from_secs(10);

/// For how long what a lane said of its room holds.
const ROOM_FRESH: Duration = Duration::from_millis(500);

/// A replica's trouble: since when it is behind, and whether waiting could help.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behind {
    /// Since when.
    pub(crate) since: Instant,
    /// It answered with an error that another try will not change: no grace.
    pub(crate) failed: bool,
    /// When it came back, if it has.
    pub(crate) back_at: Option<Instant>,
    /// How often it has come back in this trouble.
    pub(crate) returns: u32,
    /// It is not brought up before.
    pub(crate) retry_at: Instant,
}

/// See the module.
pub(crate) struct Shard {
    core: Weak<Core>,
    /// For the answers to its writes.
    pub(crate) this: Weak<Shard>,
    /// Its position in the volume.
    pub(crate) index: ShardIndex,
    /// Its replicas. A slot changes hands only while nothing is under way for it, see
    /// [`crate::map`].
    slots: RefCell<[Option<Rc<Replica>>; SLOTS_MAX]>,
    /// Those that are to leave once enough others are in sync.
    pub(crate) leaving: Cell<Mask>,
    /// Its writes that are not stable yet.
    pub(crate) log: RefCell<WriteLog<Pending>>,
    /// Raised at each commit.
    pub(crate) epoch: Cell<Epoch>,
    /// Who is behind or was not long ago, by slot.
    pub(crate) behind: Cell<[Option<Behind>; SLOTS_MAX]>,
    /// Those that refuse blocks for what they lost once.
    pub(crate) suspect: Cell<Mask>,
    /// Whether its membership task runs.
    pub(crate) supervised: Cell<bool>,
    /// The replicas that are being brought up.
    pub(crate) rising: Cell<Mask>,
    /// Raised when a proposal was committed.
    pub(crate) committed: Signal,
    /// Whether a task sends again what no replica had room for.
    pub(crate) retries: Cell<bool>,
    /// Whether it is in the volume's list of shards with writes.
    pub(crate) listed: Cell<bool>,
    /// Who has confirmed lately that the shard is this owner's.
    pub(crate) lease: Cell<Lease>,
    /// Those that are being asked to.
    pub(crate) renewing: Cell<Mask>,
    /// The stable that every live replica was last told.
    pub(crate) told: Cell<Seq>,
    /// How many writes have failed that a replica which is gone may have shown: a read which began
    /// before that asks again.
    pub(crate) vanished: Cell<u64>,
}

impl Shard {
    /// A shard that was taken over.
    pub(crate) fn new(
        core: Weak<Core>,
        index: ShardIndex,
        epoch: Epoch,
        replicas: Vec<Replica>,
        log: WriteLog<Pending>,
    ) -> Rc<Self> {
        let mut slots = [const { None }; SLOTS_MAX];
        for (slot, replica) in slots.iter_mut().zip(replicas) {
            *slot = Some(Rc::new(replica));
        }
        Rc::new_cyclic(|this| Self {
            core,
            this: Weak::clone(this),
            index,
            slots: RefCell::new(slots),
            leaving: Cell::new(Mask::EMPTY),
            log: RefCell::new(log),
            epoch: Cell::new(epoch),
            behind: Cell::new([None; SLOTS_MAX]),
            suspect: Cell::new(Mask::EMPTY),
            supervised: Cell::new(false),
            rising: Cell::new(Mask::EMPTY),
            committed: Signal::default(),
            retries: Cell::new(false),
            listed: Cell::new(false),
            lease: Cell::new(Lease::NONE),
            renewing: Cell::new(Mask::EMPTY),
            vanished: Cell::new(0),
            told: Cell::new(Seq::NONE),
        })
    }

    /// The replica in a slot. Who holds it holds the slot: it does not change hands meanwhile, see
    /// [`crate::map`].
    pub(crate) fn replica(&self, slot: Slot) -> Rc<Replica> {
        let slots = self.slots.borrow();
        Rc::clone(
            slots[slot.get()]
                .as_ref()
                .expect("a slot in use has a replica"),
        )
    }

    /// The slots that have a replica.
    pub(crate) fn occupied(&self) -> Mask {
        let slots = self.slots.borrow();
        let has_one = |slot: &Slot| slots[slot.get()].is_some();
        (0..SLOTS_MAX).map(Slot::new).filter(has_one).collect()
    }

    /// All replicas, with their slots.
    pub(crate) fn replicas(&self) -> impl Iterator<Item = (Slot, Rc<Replica>)> {
        let slots = self.slots.borrow().clone();
        let numbered = slots.into_iter().enumerate();
        numbered.filter_map(|(at, replica)| Some((Slot::new(at), replica?)))
    }

    /// Gives an empty slot to a replica, or empties it.
    pub(crate) fn set_slot(&self, slot: Slot, replica: Option<Rc<Replica>>) {
        self.slots.borrow_mut()[slot.get()] = replica;
    }

    /// Forgets the trouble that a replica had: it comes back as a whole.
    pub(crate) fn forget_trouble(&self, slot: Slot) {
        let mut behind = self.behind.get();
        behind[slot.get()] = None;
        self.behind.set(behind);
    }

    /// Forgets the replica of a slot and all that was known of it.
    pub(crate) fn vacate(&self, slot: Slot) {
        self.set_slot(slot, None);
        self.forget_trouble(slot);
        self.suspect.set(self.suspect.get().without(slot));
        self.leaving.set(self.leaving.get().without(slot));
        let mut lease = self.lease.get();
        lease.forget(slot);
        self.lease.set(lease);
    }

    /// Has the lanes flushed up to these acceptances, by slot.
    pub(crate) fn flush_up_to(&self, wanted: &DurableUpTo) {
        for (replica, &upto) in self.slots.borrow().iter().zip(wanted) {
            if let Some(replica) = replica {
                replica.peer.flush(upto);
            }
        }
    }

    /// Up to where each lane has been flushed.
    pub(crate) fn durable(&self) -> DurableUpTo {
        let mut durable = [Acceptance::NONE; SLOTS_MAX];
        for (upto, replica) in durable.iter_mut().zip(&*self.slots.borrow()) {
            if let Some(replica) = replica {
                *upto = replica.peer.durable();
            }
        }
        durable
    }

    /// How full the fullest of its lanes is. Of one that has not been heard for a while it is not known:
    /// others may have filled it, and room counts as scarce until it answers.
    pub(crate) fn room(&self, core: &Core) -> RoomHint {
        let log = self.log.borrow();
        let (targets, live) = (log.quorum().targets(), log.live());
        let now = core.reactor.now();
        let heard = self.lease.get().confirmed(now, ROOM_FRESH);
        let room_of = |slot: Slot| {
            let peer = &self.replica(slot).peer;
            let said = peer.room(core.id, self.index);
            let is_known = heard.has(slot) || !live.has(slot) || peer.is_ample(now, ROOM_FRESH);
            if said == RoomHint::Ample && !is_known {
                return RoomHint::Scarce;
            }
            said
        };
        targets
            .slots()
            .map(room_of)
            .max()
            .unwrap_or(RoomHint::Ample)
    }

    /// What its messages say now.
    pub(crate) fn stamp(&self, core: &Core) -> Stamp {
        Stamp {
            volume: core.id,
            shard: self.index,
            generation: core.generation,
            epoch: self.epoch.get(),
            stable: self.log.borrow().stable(core.seqs.borrow().last()),
        }
    }

    /// Gives a write its seq and sends it to every live replica.
    pub(crate) fn submit(&self, core: &Core, span: Span, body: Body, group: Rc<WriteGroup>) {
        let stamp = self.stamp(core);
        let seq = core.seqs.borrow_mut().give();
        let (Some(seq), Some(this)) = (seq, self.this.upgrade()) else {
            group.end_one(Err(BlockError::Unavailable));
            return;
        };
        let layer = core.layers.stamp();
        let mut log = self.log.borrow_mut();
        let joining = log.joining();
        let mut sent = Sent::default();
        for slot in log.recipients().slots() {
            sent.note_sent(slot);
            let stamp = if joining.has(slot) {
                stamp.without_stable()
            } else {
                stamp
            };
            let frame = stamp.version(layer, span, seq, &body);
            let user = Rc::clone(&this) as Rc<dyn LaneUser>;
            self.replica(slot).peer.post_write(frame, user, slot);
        }
        // Zeroes hold no data, but a log of them must not grow without bound either.
        let bytes = body.bytes().max(512);
        let pending = Pending {
            body,
            group: Some(group),
            layer,
            since: core.reactor.now(),
            sent,
        };
        log.push(seq, span, bytes, pending);
        drop(log);
        core.note_retained(self, bytes);
    }

    /// Sends again, in order, what `slot` has not accepted.
    pub(crate) fn send_missing(&self, core: &Core, slot: Slot) {
        let seqs = self.log.borrow().missing(slot);
        for seq in seqs {
            self.send_again(core, slot, seq);
        }
    }

    pub(crate) fn send_again(&self, core: &Core, slot: Slot, seq: Seq) {
        let stamp = self.stamp(core);
        let mut log = self.log.borrow_mut();
        let stamp = if log.joining().has(slot) {
            stamp.without_stable()
        } else {
            stamp
        };
        if let Some(pending) = log.payload_mut(seq) {
            pending.sent.note_sent(slot);
        }
        if let (Some(entry), Some(this)) = (log.get(seq), self.this.upgrade()) {
            let layer = if is_planted(Planted::ResendAtHead) {
                core.layers.stamp()
            } else {
                entry.payload.layer
            };
            let frame = stamp.version(layer, entry.span, seq, &entry.payload.body);
            self.replica(slot).peer.post_write(frame, this, slot);
        }
    }

    /// Stops counting on a replica, and has it brought up again or proposed away.
    pub(crate) fn set_behind(&self, core: &Rc<Core>, slot: Slot, failed: bool) {
        if self.log.borrow().joining().has(slot) {
            self.stop_joining(core, slot);
            return;
        }
        if !self.log.borrow().quorum().targets().has(slot) {
            return;
        }
        let now = core.reactor.now();
        let mut behind = self.behind.get();
        let known = behind[slot.get()];
        let recent = known.filter(|k| k.back_at.is_none_or(|back_at| now - back_at < CALM));
        let returns = recent.map_or(0, |recent| recent.returns);
        // Who comes back only to fail again is given a longer rest each time.
        let rest = membership::PAUSE_MIN * ((1 << returns.min(6)) - 1);
        behind[slot.get()] = Some(Behind {
            since: recent.map_or(now, |recent| recent.since),
            failed: failed || recent.is_some_and(|recent| recent.failed),
            back_at: None,
            returns,
            retry_at: now + rest,
        });
        self.behind.set(behind);
        self.log.borrow_mut().set_behind(slot);
        self.note_unanswered(core, slot);
        if known.is_none_or(|known| known.back_at.is_some()) {
            tracing::warn!(volume = %core.name, shard = %self.index,
                replica = %self.replica(slot).id, failed, "replica is behind");
        }
        core.progress.raise();
        self.supervise(core);
    }

    /// Runs the membership task while some replica is behind.
    pub(crate) fn supervise(&self, core: &Rc<Core>) {
        if let Some(this) = self.this.upgrade()
            && !self.supervised.replace(true)
        {
            let weak = Rc::downgrade(core);
            drop(core.reactor.spawn(membership::supervise(weak, this)));
        }
    }

    /// Stops sending writes to a replica that catches up: it must begin again.
    pub(crate) fn stop_joining(&self, core: &Rc<Core>, slot: Slot) {
        self.log.borrow_mut().leave(slot);
        self.note_unanswered(core, slot);
        self.settle(core);
        core.progress.raise();
    }

    /// Lets go of what is durable everywhere.
    pub(crate) fn settle(&self, core: &Core) {
        let durable = self.durable();
        let freed = self.log.borrow_mut().settle(&durable);
        if freed > 0 {
            core.note_freed(freed);
        }
    }

    /// Tells those whose writes have waited too long.
    pub(crate) fn expire(&self, core: &Core) {
        let now = core.reactor.now();
        let log = self.log.borrow();
        for entry in log.unacked() {
            let waited = now - entry.payload.since;
            if let Some(group) = entry.payload.group.as_ref()
                && waited >= core.options.io_timeout
            {
                group.give_up(BlockError::Unavailable);
            }
        }
    }

    /// Tells all who wait that nothing more will come of it.
    pub(crate) fn abandon(&self, error: BlockError) {
        let log = self.log.borrow();
        let groups: Vec<_> = log
            .unacked()
            .filter_map(|entry| entry.payload.group.clone())
            .collect();
        drop(log);
        for group in groups {
            group.abandon(error);
        }
    }

    fn accepted(&self, core: &Rc<Core>, slot: Slot, seq: Seq, acceptance: Acceptance) {
        let order = core.acked.get().next();
        let mut log = self.log.borrow_mut();
        let acked = log.accept(slot, seq, acceptance, order).is_some();
        let is_member = log.quorum().targets().has(slot);
        let Some(pending) = log.payload_mut(seq) else {
            return;
        };
        let was_sent_again = pending.sent.may_be_kept_by(slot);
        let refused = pending.sent.note_kept(slot, is_member);
        let group = if acked { pending.group.take() } else { None };
        let freed = log.settle(&self.durable());
        drop(log);
        if freed > 0 {
            core.note_freed(freed);
        }
        if acked {
            core.acked.set(order);
            core.acks.raise();
        }
        if was_sent_again {
            // A flush may wait for it.
            core.progress.raise();
        }
        if let Some(group) = group {
            group.end_one(Ok(()));
        }
        for slot in refused.slots() {
            self.set_behind(core, slot, true);
        }
    }

    /// Whether the replica in a slot is on that lane: an answer may come late for one before it.
    fn is_on(&self, lane: &Peer, slot: Slot) -> bool {
        let slots = self.slots.borrow();
        let replica = slots[slot.get()].as_ref();
        replica.is_some_and(|replica| std::ptr::eq(&raw const *replica.peer, lane))
    }

    /// After a change of the sets: acknowledges, fails and lets go of what that has decided.
    pub(crate) fn review(&self, core: &Rc<Core>) {
        let mut log = self.log.borrow_mut();
        let (order, ready) = log.acknowledge_ready(core.acked.get());
        core.acked.set(order);
        let mut groups = Vec::new();
        for seq in ready {
            groups.extend(
                log.payload_mut(seq)
                    .and_then(|pending| pending.group.take()),
            );
        }
        let unacked: Vec<Seq> = log.unacked().map(|entry| entry.seq).collect();
        drop(log);
        for group in groups {
            group.end_one(Ok(()));
        }
        for seq in unacked {
            self.fail_if_never_been(core, seq);
        }
        self.settle(core);
        core.acks.raise();
        core.progress.raise();
    }
}

impl LaneUser for Shard {
    fn write_answered(&self, lane: &Peer, slot: Slot, seq: Seq, answer: &Answer) {
        let Some(core) = self.core.upgrade().filter(|_| self.is_on(lane, slot)) else {
            return;
        };
        let Answer {
            header,
            acceptance,
            sent_at,
        } = answer;
        self.note_confirmed(&core, slot, *sent_at, header);
        if !self.log.borrow().is_taking(slot) {
            self.answered_late(&core, slot, seq, header.status);
            return;
        }
        match header.status {
            Status::Ok => self.accepted(&core, slot, seq, *acceptance),
            Status::Fenced if header.generation > core.generation => core.fence(),
            Status::NoSpace => self.refused(&core, slot, seq),
            Status::StaleEpoch if header.epoch <= self.epoch.get() => {
                if let Some(pending) = self.log.borrow_mut().payload_mut(seq) {
                    pending.sent.note_not_kept(slot);
                }
                self.send_again(&core, slot, seq);
            }
            status => {
                tracing::warn!(volume = %core.name, shard = %self.index,
                    replica = %self.replica(slot).id, ?status, "replica failed a write");
                // Opened and told the window again, it may well take what it refused.
                let may_pass = matches!(
                    status,
                    Status::Unavailable
                        | Status::SeqOutOfWindow
                        | Status::BadChecksum
                        | Status::Fenced
                        | Status::StaleEpoch
                );
                self.set_behind(&core, slot, !may_pass);
            }
        }
    }

    fn lane_lost(&self, lane: &Peer, slot: Slot) {
        let core = self.core.upgrade().filter(|core| core.is_running());
        let Some(core) = core.filter(|_| self.is_on(lane, slot)) else {
            return;
        };
        if self.log.borrow().is_taking(slot) {
            self.set_behind(&core, slot, false);
        } else {
            self.note_unanswered(&core, slot);
        }
    }

    fn lane_restarted(&self, lane: &Peer, slot: Slot, upto: Acceptance) {
        if self.is_on(lane, slot) && !is_planted(Planted::CountAfterRestart) {
            self.log.borrow_mut().forget(slot, upto);
        }
    }

    fn lane_flushed(&self) {
        if let Some(core) = self.core.upgrade() {
            if !self.log.borrow().is_empty() {
                self.settle(&core);
            }
            core.progress.raise();
        }
    }
}
