//! How many entries of what changed nothing are kept, so that nobody fills the log by being refused.

use std::sync::{Mutex, PoisonError};

/// Entries that are kept at once, and the time after which one more is.
const BURST: u64 = 100;
const EACH_MS: u64 = 200;

/// The rates of late: of who is known and of who is not, so that none has the entries of the other left
/// out.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    known: Mutex<Spent>,
    unknown: Mutex<Spent>,
}

#[derive(Debug, Default)]
struct Spent {
    until_ms: u64,
    left_out: u64,
}

impl Refusals {
    /// Whether an entry of somebody, known or not, is kept, and how many were not since the last that was.
    pub(crate) fn admit(&self, is_known: bool, now_ms: u64) -> Option<u64> {
        let of = if is_known { &self.known } else { &self.unknown };
        let mut spent = of.lock().unwrap_or_else(PoisonError::into_inner);
        let until = spent.until_ms.max(now_ms).saturating_add(EACH_MS);
        if until > now_ms.saturating_add(BURST * EACH_MS) {
            spent.left_out += 1;
            return None;
        }
        spent.until_ms = until;
        Some(std::mem::take(&mut spent.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_leaves_few_entries_and_their_number() {
        let refusals = Refusals::default();
        let kept = (0..1000).filter_map(|_| refusals.admit(false, 5)).count() as u64;
        assert_eq!(kept, BURST);
        assert_eq!(refusals.admit(false, 5 + EACH_MS), Some(1000 - BURST));
        assert_eq!(refusals.admit(false, 5 + EACH_MS), None);
        assert_eq!(refusals.admit(false, 5 + 2 * EACH_MS), Some(1));
        assert_eq!(refusals.admit(true, 5), Some(0));
    }
}
