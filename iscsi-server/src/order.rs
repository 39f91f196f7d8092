//! The order of a session's commands over all its connections (RFC 7143 section 4.2.2.1). Pure.
//!
//! ```text
//!      done            waiting, out of order          not to be sent yet
//! ───────────┬──────────────────────────────────────┬───────────────────▶ CmdSN
//!         expected                                  max
//! ```
//!
//! Invariants: what comes outside `expected..=max` changes nothing; nothing passes twice; `max`
//! never goes back; at most `window` commands wait or are carried out.

use crate::pdu::comes_before;
use std::collections::HashMap;

/// What to do with something that came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival<T> {
    /// It is its turn.
    Now(T),
    /// Kept until it is.
    Waits,
    /// It came before, or must not come: forget it.
    Ignored(T),
}

/// The order, and what waits for its turn.
#[derive(Debug)]
pub(crate) struct CommandOrder<T> {
    expected: u32,
    max: u32,
    window: u32,
    /// By number; `None`: passed over when its turn comes.
    waiting: HashMap<u32, Option<T>>,
}

impl<T> CommandOrder<T> {
    /// Whose first command has the number `first`.
    pub(crate) fn new(first: u32, window: u32) -> Self {
        let window = window.max(1);
        Self {
            expected: first,
            max: first.wrapping_add(window - 1),
            window,
            waiting: HashMap::new(),
        }
    }

    /// `ExpCmdSN`.
    pub(crate) fn expected(&self) -> u32 {
        self.expected
    }

    /// `MaxCmdSN`, once `busy` commands that had their turn are not answered.
    pub(crate) fn max(&mut self, busy: usize) -> u32 {
        let busy = u32::try_from(busy).unwrap_or(u32::MAX);
        let open = self.window.saturating_sub(busy);
        let max = self.expected.wrapping_add(open).wrapping_sub(1);
        if comes_before(self.max, max) {
            self.max = max;
        }
        self.max
    }

    /// Whether something of this number may come.
    pub(crate) fn may_come(&self, number: u32) -> bool {
        let within = !comes_before(number, self.expected) && !comes_before(self.max, number);
        within && !self.waiting.contains_key(&number)
    }

    /// Whether something of this number would have its turn at once.
    pub(crate) fn is_next(&self, number: u32) -> bool {
        number == self.expected
    }

    /// Whether anything waits for its turn.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Something came.
    pub(crate) fn arrive(&mut self, number: u32, what: T) -> Arrival<T> {
        if !self.may_come(number) {
            return Arrival::Ignored(what);
        }
        if number == self.expected {
            self.expected = self.expected.wrapping_add(1);
            return Arrival::Now(what);
        }
        self.waiting.insert(number, Some(what));
        Arrival::Waits
    }

    /// The next of those that waited, if it is its turn now.
    pub(crate) fn next(&mut self) -> Option<T> {
        while let Some(turn) = self.waiting.remove(&self.expected) {
            self.expected = self.expected.wrapping_add(1);
            if turn.is_some() {
                return turn;
            }
        }
        None
    }

    /// Passes a number over: as if it had come and ended. False if it cannot come any more.
    pub(crate) fn skip(&mut self, number: u32) -> bool {
        let may = self.may_come(number);
        if may {
            self.waiting.insert(number, None);
        }
        may
    }

    /// Passes over those waiting that `chosen` picks.
    pub(crate) fn skip_waiting(&mut self, mut chosen: impl FnMut(u32, &T) -> bool) {
        for (&number, waiting) in &mut self.waiting {
            if waiting.as_ref().is_some_and(|what| chosen(number, what)) {
                *waiting = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_comes_early_waits_for_what_is_missing() {
        let mut order = CommandOrder::new(10, 4);
        assert_eq!(order.arrive(12, 'c'), Arrival::Waits);
        assert_eq!(order.arrive(11, 'b'), Arrival::Waits);
        assert_eq!(order.arrive(11, 'x'), Arrival::Ignored('x'));
        assert_eq!(order.next(), None);
        assert_eq!(order.arrive(10, 'a'), Arrival::Now('a'));
        assert_eq!(
            (order.next(), order.next(), order.next()),
            (Some('b'), Some('c'), None)
        );
        assert_eq!(order.expected(), 13);
        assert_eq!(order.arrive(12, 'x'), Arrival::Ignored('x'), "it has been");
    }

    #[test]
    fn the_window_closes_and_never_goes_back() {
        let mut order = CommandOrder::new(u32::MAX, 2);
        assert_eq!(order.max(0), 0);
        assert_eq!(order.arrive(1, 'x'), Arrival::Ignored('x'));
        assert_eq!(order.arrive(u32::MAX, 'a'), Arrival::Now('a'));
        assert_eq!(order.max(1), 0);
        assert_eq!(order.arrive(0, 'b'), Arrival::Now('b'));
        assert_eq!(order.max(2), 0, "closed: below what is expected");
        assert_eq!(order.arrive(1, 'x'), Arrival::Ignored('x'));
        assert_eq!(order.max(1), 1);
        assert_eq!(order.max(2), 1);
        assert_eq!(order.max(0), 2);
    }

    #[test]
    fn what_is_skipped_does_not_hold_up_others() {
        let mut order = CommandOrder::new(0, 8);
        assert_eq!(order.arrive(1, 'b'), Arrival::Waits);
        assert_eq!(order.arrive(3, 'd'), Arrival::Waits);
        order.skip_waiting(|_, &what| what == 'b');
        assert!(order.skip(2));
        assert!(!order.skip(2));
        assert_eq!(order.arrive(0, 'a'), Arrival::Now('a'));
        assert_eq!((order.next(), order.next()), (Some('d'), None));
        assert!(!order.skip(0) && !order.has_waiting());
    }

    proptest! {
        /// Whatever order they come in, and however often, they pass once each and in order.
        #[test]
        fn all_pass_once_in_order(first: u32, coming in proptest::collection::vec(0u32..40, 1..400)) {
            let mut order = CommandOrder::new(first, 16);
            let mut passed = Vec::new();
            for offset in coming {
                if let Arrival::Now(what) = order.arrive(first.wrapping_add(offset), offset) {
                    passed.push(what);
                }
                while let Some(what) = order.next() {
                    passed.push(what);
                }
                order.max(0);
            }
            let expected: Vec<u32> = (0..).take(passed.len()).collect();
            prop_assert_eq!(passed, expected);
        }
    }
}
