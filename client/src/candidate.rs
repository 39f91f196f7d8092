//! One shard of a take-over: who answered what, and who fails on the way.
//!
//! Invariant: nobody is left out where that would leave fewer than a take-over needs (n − a + 1):
//! those who count hold, between them, every acknowledged write.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use ashlar_proto::limits::SLOTS_MAX;
use ashlar_proto::message::ShardState;
use ashlar_proto::{Epoch, Incarnation, ShardIndex, Status};
use ashlar_reactor::Instant;

use crate::peer::Peer;
use crate::quorum::{Mask, Quorum, Slot};
use crate::shard::Replica;

/// What a replica answered to being opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) state: ShardState,
    pub(crate) run: Incarnation,
    /// When: no older owner is answered there from then on.
    pub(crate) at: Instant,
}

/// How a replica has failed rounds of the take-over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trouble {
    since: Instant,
    /// What it answered, if it did.
    pub(crate) problem: Option<Status>,
    in_last_round: bool,
}

/// One shard that is being taken over.
pub(crate) struct Candidate {
    /// Its position in the volume.
    pub(crate) index: ShardIndex,
    /// Of its committed set.
    pub(crate) epoch: Epoch,
    /// Its in-sync replicas, by slot.
    pub(crate) replicas: Vec<Replica>,
    /// Its committed set.
    pub(crate) quorum: Quorum,
    answers: [Option<Answer>; SLOTS_MAX],
    /// Those with a version, damaged, that nobody can give and that may be above what others have.
    doubtful: Cell<Mask>,
    troubles: Cell<[Option<Trouble>; SLOTS_MAX]>,
}

impl Candidate {
    /// A shard as the grant names it.
    pub(crate) fn new(
        index: ShardIndex,
        epoch: Epoch,
        replicas: Vec<Replica>,
        quorum: Quorum,
    ) -> Self {
        Self {
            index,
            epoch,
            replicas,
            quorum,
            answers: [None; SLOTS_MAX],
            doubtful: Cell::new(Mask::EMPTY),
            troubles: Cell::new([None; SLOTS_MAX]),
        }
    }

    /// Those who count.
    pub(crate) fn answered(&self) -> Mask {
        let slots = (0..self.replicas.len()).map(Slot::new);
        slots
            .filter(|slot| self.answers[slot.get()].is_some())
            .collect()
    }

    /// What one who counts answered.
    pub(crate) fn answer(&self, slot: Slot) -> Answer {
        self.answers[slot.get()].expect("only who answered is asked on")
    }

    /// The session that reaches a replica.
    pub(crate) fn peer(&self, slot: Slot) -> &Rc<Peer> {
        &self.replicas[slot.get()].peer
    }

    /// What all who count answered.
    pub(crate) fn states(&self) -> impl Iterator<Item = ShardState> {
        self.answers.iter().flatten().map(|answer| answer.state)
    }

    /// A new round: nobody has answered yet. Who took part in the last one and did not fail has
    /// come through.
    pub(crate) fn begin_round(&mut self) {
        for slot in self.answered().slots() {
            let trouble = &mut self.troubles.get_mut()[slot.get()];
            *trouble = trouble.filter(|trouble| trouble.in_last_round);
        }
        for trouble in self.troubles.get_mut().iter_mut().flatten() {
            trouble.in_last_round = false;
        }
        self.answers = [None; SLOTS_MAX];
    }

    /// Notes what a replica answered to being opened.
    pub(crate) fn note_answer(&mut self, slot: Slot, answer: Option<Answer>) {
        self.answers[slot.get()] = answer;
    }

    /// Notes that a replica failed on the way.
    pub(crate) fn note_failed(&self, slot: Slot, now: Instant, problem: Option<Status>) {
        let mut troubles = self.troubles.get();
        let known = troubles[slot.get()];
        troubles[slot.get()] = Some(Trouble {
            since: known.map_or(now, |known| known.since),
            problem,
            in_last_round: true,
        });
        self.troubles.set(troubles);
    }

    /// What a replica failed with, if it did.
    pub(crate) fn trouble(&self, slot: Slot) -> Option<Trouble> {
        self.troubles.get()[slot.get()]
    }

    /// The replica that failed the last round, and what with.
    pub(crate) fn failed_last(&self) -> Option<(&Replica, Option<Status>)> {
        self.replicas
            .iter()
            .zip(self.troubles.get())
            .find_map(|(replica, trouble)| {
                let trouble = trouble.filter(|trouble| trouble.in_last_round)?;
                Some((replica, trouble.problem))
            })
    }

    /// Counts who has failed since before `patience` began as one that did not answer, as long as
    /// enough others did. Gives those.
    pub(crate) fn leave_out_failing(&mut self, now: Instant, patience: Duration) -> Mask {
        let mut failing: Vec<(Instant, Slot)> = self
            .answered()
            .slots()
            .filter_map(|slot| self.trouble(slot).map(|trouble| (trouble.since, slot)))
            .filter(|&(since, _)| now - since >= patience)
            .collect();
        failing.sort();
        let spare = self.answered().len() - self.quorum.takeover_count().min(self.answered().len());
        let left_out: Mask = failing.iter().take(spare).map(|&(_, slot)| slot).collect();
        for slot in left_out.slots() {
            self.answers[slot.get()] = None;
        }
        left_out
    }

    /// Notes who has a damaged version that nobody can give. It counts no more in this take-over:
    /// the version could show again once the others have gone on without it.
    pub(crate) fn note_doubtful(&self, slots: Mask) {
        self.doubtful.set(self.doubtful.get().or(slots));
    }

    /// Counts the doubtful as those that did not answer, and where the rest is enough those too
    /// that refuse blocks for what they lost once. Gives who is left out, and whether the rest is
    /// enough: of those who are sure to hold all that they accepted, as many as a take-over needs.
    /// A single replica is all there is, and refuses what it cannot be sure of.
    pub(crate) fn leave_out_doubtful(&mut self) -> (Mask, bool) {
        let doubtful = self.answered().and(self.doubtful.get());
        let is_suspect = |slot: &Slot| self.answer(*slot).state.suspect;
        let suspect: Mask = self.answered().slots().filter(is_suspect).collect();
        let is_sure = |slot: &Slot| !self.answer(*slot).state.damaged;
        let is_enough_without = |others: Mask| {
            let sure = self.answered().minus(others).slots().filter(is_sure);
            self.quorum.in_sync().len() == 1 || sure.count() >= self.quorum.takeover_count()
        };
        let both = doubtful.or(suspect);
        let is_whole_rest = !self.answered().minus(both).is_empty();
        let left_out = if is_whole_rest && is_enough_without(both) {
            both
        } else if is_enough_without(doubtful) {
            doubtful
        } else {
            return (doubtful, false);
        };
        for slot in left_out.slots() {
            self.answers[slot.get()] = None;
        }
        (left_out, true)
    }

    /// Those whose session or run is no longer the one that answered.
    pub(crate) fn lost_since(&self) -> Mask {
        let same = |slot: &Slot| {
            let peer = self.peer(*slot);
            peer.is_up() && peer.incarnation() == Some(self.answer(*slot).run)
        };
        self.answered().slots().filter(|slot| !same(slot)).collect()
    }

    /// Whether unflushed writes may be gone: too few are sure to have lost nothing.
    pub(crate) fn may_have_lost(&self) -> bool {
        let sure = |slot: &Slot| {
            let state = self.answer(*slot).state;
            !state.may_have_lost && !state.damaged
        };
        self.answered().slots().filter(sure).count() < self.quorum.takeover_count()
    }
}
