//! LSNs: which are in flight, completed, durable, or will never be.

use std::collections::BTreeSet;

use ashlar_proto::Lsn;

/// A range of LSNs that no batch carries: both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Gap {
    pub(crate) fn holds(&self, lsn: u64) -> bool {
        self.first <= lsn && lsn <= self.last
    }
}

/// The books of a lane's LSNs.
#[derive(Debug, Default)]
pub(crate) struct LsnTracker {
    next: u64,
    /// Every LSN up to it completed, or is a gap.
    done_through: u64,
    /// Completed out of order, above `done_through`.
    done: BTreeSet<u64>,
    in_flight: BTreeSet<u64>,
    /// Their writes failed: gaps once a slot says so.
    failed: BTreeSet<u64>,
    durable: u64,
    gaps: Vec<Gap>,
    /// Found by recovery, and not in any durable slot yet.
    unrecorded: Vec<Gap>,
    /// Flushed although a lower one was not.
    #[cfg(test)]
    pub(crate) flushed: BTreeSet<u64>,
}

impl LsnTracker {
    /// Books after recovery: `done` was found above `durable`, `unrecorded` gaps count only once
    /// a slot has them. A batch that named them durable before would make them look like damage.
    pub(crate) fn start(
        next: Lsn,
        durable: Lsn,
        done: impl IntoIterator<Item = u64>,
        gaps: Vec<Gap>,
        unrecorded: Vec<Gap>,
    ) -> Self {
        let mut books = Self {
            next: next.get(),
            done_through: durable.get(),
            durable: durable.get(),
            done: done.into_iter().collect(),
            gaps,
            unrecorded,
            ..Self::default()
        };
        books.advance();
        books
    }

    pub(crate) fn next(&self) -> Lsn {
        Lsn::new(self.next)
    }

    /// Gives the next LSN to a batch that is submitted now.
    pub(crate) fn issue(&mut self) -> Lsn {
        let lsn = self.next;
        self.next += 1;
        self.in_flight.insert(lsn);
        Lsn::new(lsn)
    }

    /// The lowest LSN in flight.
    pub(crate) fn oldest_in_flight(&self) -> Option<Lsn> {
        self.in_flight.first().map(|&raw| Lsn::new(raw))
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(crate) fn complete(&mut self, lsn: Lsn) {
        let known = self.in_flight.remove(&lsn.get());
        assert!(known, "LSN {lsn} completed and was not in flight");
        self.done.insert(lsn.get());
        self.advance();
    }

    /// The write failed. Nothing above it is called durable until a slot records the gap.
    pub(crate) fn fail(&mut self, lsn: Lsn) {
        self.in_flight.remove(&lsn.get());
        self.failed.insert(lsn.get());
    }

    fn advance(&mut self) {
        loop {
            let next = self.done_through + 1;
            if self.done.remove(&next) {
                self.done_through = next;
            } else if let Some(gap) = self.gaps.iter().find(|gap| gap.holds(next)) {
                self.done_through = gap.last;
            } else {
                return;
            }
        }
    }

    /// Completed above [`Self::done_through`]: a flush makes them durable as well.
    #[cfg(test)]
    pub(crate) fn done_above(&self) -> BTreeSet<u64> {
        self.done.clone()
    }

    /// Every LSN up to it has completed: durable once a flush that starts now has ended.
    pub(crate) fn done_through(&self) -> Lsn {
        Lsn::new(self.done_through)
    }

    /// Every LSN up to it is completed and flushed.
    pub(crate) fn durable(&self) -> Lsn {
        Lsn::new(self.durable)
    }

    pub(crate) fn flushed_through(&mut self, lsn: Lsn) {
        self.durable = self.durable.max(lsn.get());
    }

    /// The gaps that a slot with this `from` must record, failed writes among them.
    pub(crate) fn gaps_for_slot(&mut self, from: Lsn) -> Vec<Gap> {
        // One that `done_through` has yet to pass stays in the books, or it never would.
        let passed = self.done_through;
        self.gaps
            .retain(|gap| gap.last >= from.get() || gap.last > passed);
        let failed = self.failed.iter().map(|&lsn| Gap {
            first: lsn,
            last: lsn,
        });
        let found = self.unrecorded.iter().copied();
        self.gaps
            .iter()
            .copied()
            .filter(|gap| gap.last >= from.get())
            .chain(found)
            .chain(failed)
            .collect()
    }

    /// A slot with these gaps is durable.
    pub(crate) fn gaps_recorded(&mut self, gaps: &[Gap]) {
        for gap in gaps {
            let found = self.unrecorded.iter().position(|new| new == gap);
            if let Some(position) = found {
                self.unrecorded.swap_remove(position);
            }
            if self.failed.remove(&gap.first) || found.is_some() {
                self.gaps.push(*gap);
            }
        }
        self.advance();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durable_waits_for_every_lower_lsn() {
        let mut books = LsnTracker::start(Lsn::new(10), Lsn::new(9), [], vec![], vec![]);
        let (a, b, c) = (books.issue(), books.issue(), books.issue());
        books.complete(c);
        books.complete(a);
        assert_eq!(books.done_through(), a);
        assert_eq!(books.oldest_in_flight(), Some(b));
        books.complete(b);
        assert_eq!(books.done_through(), c);
        assert_eq!(books.durable(), Lsn::new(9));
        books.flushed_through(books.done_through());
        assert_eq!(books.durable(), c);
    }

    #[test]
    fn gaps_of_recovery_count_once_a_slot_has_them() {
        let gap = Gap { first: 6, last: 9 };
        let mut books = LsnTracker::start(Lsn::new(10), Lsn::new(4), [5], vec![], vec![gap]);
        assert_eq!(books.done_through(), Lsn::new(5));
        let gaps = books.gaps_for_slot(Lsn::new(1));
        books.gaps_recorded(&gaps);
        assert_eq!(books.done_through(), Lsn::new(9));
    }

    #[test]
    fn known_gaps_are_passed_once_the_one_below_them_is_recorded() {
        let known = Gap { first: 6, last: 7 };
        let found = Gap { first: 5, last: 5 };
        let leap = Gap { first: 9, last: 19 };
        let (gaps, unrecorded) = (vec![known], vec![found, leap]);
        let mut books = LsnTracker::start(Lsn::new(20), Lsn::new(4), [8], gaps, unrecorded);
        // The first slot after recovery begins where the log goes on.
        let recorded = books.gaps_for_slot(Lsn::new(20));
        assert_eq!(recorded, [found, leap]);
        books.gaps_recorded(&recorded);
        assert_eq!(books.done_through(), Lsn::new(19));
        assert!(books.gaps_for_slot(Lsn::new(20)).is_empty());
    }

    #[test]
    fn a_failed_write_holds_durable_until_a_slot_has_its_gap() {
        let mut books = LsnTracker::start(Lsn::new(1), Lsn::new(0), [], vec![], vec![]);
        let (a, b) = (books.issue(), books.issue());
        books.fail(a);
        books.complete(b);
        assert_eq!(books.done_through(), Lsn::new(0));
        let gaps = books.gaps_for_slot(Lsn::new(1));
        books.gaps_recorded(&gaps);
        assert_eq!(books.done_through(), b);
        assert_eq!(books.gaps_for_slot(Lsn::new(1)), gaps);
        assert!(books.gaps_for_slot(Lsn::new(2)).is_empty());
    }
}
