//! Which answers are enough: in-sync sets as masks over a shard's replicas, and the rules over them.
//!
//! Pure. A [`Slot`] is a replica's position in its shard's map, a [`Mask`] a set of slots.

use ashlar_proto::api::AckRule;
use ashlar_proto::limits::SLOTS_MAX;
use ashlar_proto::planted::{Planted, is_planted};

/// The position of a replica in its shard's map, below [`SLOTS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(usize);

impl Slot {
    /// The slot at a position.
    pub(crate) fn new(position: usize) -> Self {
        assert!(position < SLOTS_MAX, "a shard has few replicas");
        Self(position)
    }

    /// Its position.
    pub(crate) fn get(self) -> usize {
        self.0
    }
}

/// A set of slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Mask(u8);

impl Mask {
    /// No slot.
    pub(crate) const EMPTY: Self = Self(0);

    /// The first `count` slots.
    pub(crate) fn first(count: usize) -> Self {
        (0..count).map(Slot::new).collect()
    }

    /// This and `slot`.
    pub(crate) fn with(self, slot: Slot) -> Self {
        Self(self.0 | 1 << slot.0)
    }

    /// This without `slot`.
    pub(crate) fn without(self, slot: Slot) -> Self {
        Self(self.0 & !(1 << slot.0))
    }

    /// Whether `slot` is in it.
    pub(crate) fn has(self, slot: Slot) -> bool {
        self.0 >> slot.0 & 1 == 1
    }

    /// The slots in both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The slots in either.
    pub(crate) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The slots in this and not in `other`.
    pub(crate) fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether every slot of `other` is in it.
    pub(crate) fn covers(self, other: Self) -> bool {
        other.minus(self).is_empty()
    }

    /// How many slots are in it.
    pub(crate) fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether it has none.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its slots in order.
    pub(crate) fn slots(self) -> impl Iterator<Item = Slot> {
        (0..SLOTS_MAX).map(Slot).filter(move |&slot| self.has(slot))
    }
}

impl FromIterator<Slot> for Mask {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        slots.into_iter().fold(Self::EMPTY, Self::with)
    }
}

/// The sets that must acknowledge: the committed one, and while a change is proposed, both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quorum {
    rule: AckRule,
    in_sync: Mask,
    proposed: Option<Mask>,
}

impl Quorum {
    /// A committed set and its rule.
    pub(crate) fn new(rule: AckRule, in_sync: Mask) -> Self {
        assert!(!in_sync.is_empty(), "an in-sync set is never empty");
        Self {
            rule,
            in_sync,
            proposed: None,
        }
    }

    /// The committed set.
    pub(crate) fn in_sync(self) -> Mask {
        self.in_sync
    }

    /// The proposed set, while there is one.
    pub(crate) fn proposed(self) -> Option<Mask> {
        self.proposed
    }

    /// The replicas that every write goes to: the committed and the proposed.
    pub(crate) fn targets(self) -> Mask {
        self.in_sync.or(self.proposed.unwrap_or(Mask::EMPTY))
    }

    /// The replicas that may be read: those that stay, whatever becomes of the proposal.
    pub(crate) fn readable(self) -> Mask {
        self.in_sync.and(self.proposed.unwrap_or(self.in_sync))
    }

    /// Whether `answered` is enough to acknowledge: `a` of the old set *and* of the new one.
    pub(crate) fn acknowledged_by(self, answered: Mask) -> bool {
        let enough = |set: Mask| {
            let counted = if is_planted(Planted::CountNonMembers) {
                answered
            } else {
                answered.and(set)
            };
            counted.len() >= self.rule.ack_count(set.len())
        };
        if let Some(proposed) = self.proposed
            && is_planted(Planted::CountProposedOnly)
        {
            return enough(proposed);
        }
        enough(self.in_sync) && self.proposed.is_none_or(enough)
    }

    /// Replicas of the committed set that must answer a take-over: `n − a + 1`.
    pub(crate) fn takeover_count(self) -> usize {
        let n = self.in_sync.len();
        let needed = n - self.rule.ack_count(n) + 1;
        if is_planted(Planted::TooFewAnswers) {
            return (needed - 1).max(1);
        }
        needed
    }

    /// The same with `next` proposed.
    pub(crate) fn propose(self, next: Mask) -> Self {
        assert!(self.proposed.is_none(), "one change at a time");
        assert!(!next.is_empty(), "an in-sync set is never empty");
        Self {
            proposed: Some(next),
            ..self
        }
    }

    /// The same without the proposal, which is known never to be committed.
    pub(crate) fn withdraw(self) -> Self {
        Self {
            proposed: None,
            ..self
        }
    }

    /// The same with the proposal committed.
    pub(crate) fn commit(self) -> Self {
        Self {
            in_sync: self.proposed.unwrap_or(self.in_sync),
            proposed: None,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(bits: u8) -> Mask {
        Mask(bits)
    }

    /// Whoever answers, of the set or not.
    #[test]
    fn any_takeover_meets_any_acknowledgement() {
        for rule in [AckRule::Majority, AckRule::All] {
            for set in 1..8 {
                let quorum = Quorum::new(rule, mask(set));
                for acked in 0..8 {
                    for opened in 0..8 {
                        let acks = quorum.acknowledged_by(mask(acked));
                        let opened = mask(opened).and(mask(set));
                        if acks && opened.len() >= quorum.takeover_count() {
                            assert!(!opened.and(mask(acked)).is_empty(), "{rule:?} {set:b}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_proposal_needs_both_sets() {
        let quorum = Quorum::new(AckRule::Majority, mask(0b111)).propose(mask(0b011));
        assert!(!quorum.acknowledged_by(mask(0b101)));
        assert!(quorum.acknowledged_by(mask(0b011)));
        assert_eq!(quorum.readable(), mask(0b011));
        assert_eq!(quorum.targets(), mask(0b111));
        assert!(quorum.commit().acknowledged_by(mask(0b011)));
        assert_eq!(quorum.commit().targets(), mask(0b011));
    }

    #[test]
    fn takeover_counts_follow_the_rule() {
        let count = |rule, n| Quorum::new(rule, Mask::first(n)).takeover_count();
        let majority: Vec<usize> = (1..=3).map(|n| count(AckRule::Majority, n)).collect();
        assert_eq!(majority, [1, 1, 2]);
        let all: Vec<usize> = (1..=3).map(|n| count(AckRule::All, n)).collect();
        assert_eq!(all, [1, 1, 1]);
    }
}
