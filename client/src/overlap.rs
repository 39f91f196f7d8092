//! Which writes must wait for which: a write holds the blocks that it touches until it is
//! acknowledged, and a later one that overlaps waits.
//!
//! Pure. Held ranges never overlap, so that a map by first block finds a conflict in O(log n).
//! Waiters are granted in order of arrival, but only those that overlap something wait.

use std::collections::{BTreeMap, VecDeque};

/// Blocks of the volume: from `first`, up to but not with `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockRange {
    /// The first block.
    pub(crate) first: u64,
    /// One past the last.
    pub(crate) end: u64,
}

impl BlockRange {
    /// A range of at least one block.
    pub(crate) fn new(first: u64, end: u64) -> Self {
        assert!(first < end, "a range has blocks");
        Self { first, end }
    }

    fn overlaps(self, other: Self) -> bool {
        self.first < other.end && other.first < self.end
    }
}

/// Names a waiter, until it is granted or gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ticket(u64);

/// The ranges held and those that wait, in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct Overlap {
    held: BTreeMap<u64, u64>,
    waiting: VecDeque<(Ticket, BlockRange)>,
    next_ticket: u64,
}

impl Overlap {
    /// Takes the range at once, or queues for it.
    pub(crate) fn acquire(&mut self, range: BlockRange) -> Option<Ticket> {
        let queued_before = self.waiting.iter().any(|(_, other)| other.overlaps(range));
        if !queued_before && self.is_free(range) {
            self.held.insert(range.first, range.end);
            return None;
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.waiting.push_back((ticket, range));
        Some(ticket)
    }

    /// A range that nobody else asks for.
    pub(crate) fn aside(&mut self) -> BlockRange {
        self.next_ticket += 1;
        let first = (1 << 62) + self.next_ticket;
        BlockRange::new(first, first + 1)
    }

    /// Gives a held range back; returns whom that grants theirs.
    pub(crate) fn release(&mut self, range: BlockRange) -> Vec<Ticket> {
        let end = self.held.remove(&range.first);
        assert_eq!(end, Some(range.end), "only what is held is released");
        self.grant(range)
    }

    /// Takes a waiter out of the queue; returns whom that grants theirs.
    pub(crate) fn give_up(&mut self, ticket: Ticket) -> Vec<Ticket> {
        let position = self
            .waiting
            .iter()
            .position(|&(waiter, _)| waiter == ticket);
        let removed = position.and_then(|position| self.waiting.remove(position));
        match removed {
            Some((_, range)) => self.grant(range),
            None => Vec::new(),
        }
    }

    /// Whether nothing is held and nobody waits.
    #[cfg(test)]
    fn is_idle(&self) -> bool {
        self.held.is_empty() && self.waiting.is_empty()
    }

    fn is_free(&self, range: BlockRange) -> bool {
        let before_end = self.held.range(..range.end).next_back();
        before_end.is_none_or(|(_, &end)| end <= range.first)
    }

    /// Only waiters that overlap what was freed can have become free.
    fn grant(&mut self, freed: BlockRange) -> Vec<Ticket> {
        let mut granted = Vec::new();
        let mut at = 0;
        while at < self.waiting.len() {
            let (ticket, range) = self.waiting[at];
            let ahead = self.waiting.iter().take(at);
            let may_go = range.overlaps(freed)
                && self.is_free(range)
                && !ahead.into_iter().any(|(_, other)| other.overlaps(range));
            if may_go {
                self.waiting.remove(at);
                self.held.insert(range.first, range.end);
                granted.push(ticket);
            } else {
                at += 1;
            }
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(first: u64, end: u64) -> BlockRange {
        BlockRange::new(first, end)
    }

    #[test]
    fn only_overlapping_ranges_wait() {
        let mut overlap = Overlap::default();
        assert_eq!(overlap.acquire(range(0, 4)), None);
        assert_eq!(overlap.acquire(range(4, 8)), None);
        let waiter = overlap.acquire(range(3, 5)).unwrap();
        assert_eq!(overlap.release(range(0, 4)), []);
        assert_eq!(overlap.release(range(4, 8)), [waiter]);
        assert_eq!(overlap.release(range(3, 5)), []);
        assert!(overlap.is_idle());
    }

    #[test]
    fn a_waiter_is_not_overtaken_by_what_overlaps_it() {
        let mut overlap = Overlap::default();
        assert_eq!(overlap.acquire(range(0, 2)), None);
        let first = overlap.acquire(range(1, 6)).unwrap();
        let second = overlap.acquire(range(5, 7)).unwrap();
        assert_eq!(overlap.release(range(0, 2)), [first]);
        assert_eq!(overlap.release(range(1, 6)), [second]);
    }

    #[test]
    fn a_waiter_that_gives_up_frees_those_behind_it() {
        let mut overlap = Overlap::default();
        assert_eq!(overlap.acquire(range(0, 2)), None);
        let first = overlap.acquire(range(1, 6)).unwrap();
        let second = overlap.acquire(range(5, 7)).unwrap();
        assert_eq!(overlap.give_up(first), [second]);
        assert_eq!(overlap.give_up(first), []);
    }

    proptest! {
        /// No two holders ever overlap, earlier of two that overlap goes first, and all get
        /// their turn.
        #[test]
        fn holders_never_overlap(steps in prop::collection::vec((0u64..32, 1u64..9, any::<bool>()), 1..200)) {
            let mut overlap = Overlap::default();
            let mut held: Vec<BlockRange> = Vec::new();
            let mut waiting: Vec<(Ticket, BlockRange)> = Vec::new();
            let granted_by = |granted: Vec<Ticket>,
                                  held: &mut Vec<BlockRange>,
                                  waiting: &mut Vec<(Ticket, BlockRange)>| {
                for ticket in granted {
                    let at = waiting.iter().position(|w| w.0 == ticket).unwrap();
                    let (_, range) = waiting.remove(at);
                    assert!(waiting[..at].iter().all(|w| !w.1.overlaps(range)));
                    assert!(held.iter().all(|h| !h.overlaps(range)));
                    held.push(range);
                }
            };
            for (first, len, release) in steps {
                if release && !held.is_empty() {
                    let done = held.swap_remove(usize::try_from(first).unwrap() % held.len());
                    let granted = overlap.release(done);
                    granted_by(granted, &mut held, &mut waiting);
                } else {
                    let wanted = range(first, first + len);
                    let conflicts = held.iter().any(|h| h.overlaps(wanted))
                        || waiting.iter().any(|w| w.1.overlaps(wanted));
                    match overlap.acquire(wanted) {
                        None => {
                            prop_assert!(!conflicts);
                            held.push(wanted);
                        }
                        Some(ticket) => {
                            prop_assert!(conflicts);
                            waiting.push((ticket, wanted));
                        }
                    }
                }
            }
            while let Some(done) = held.pop() {
                let granted = overlap.release(done);
                granted_by(granted, &mut held, &mut waiting);
            }
            prop_assert!(waiting.is_empty());
            prop_assert!(overlap.is_idle());
        }
    }
}
