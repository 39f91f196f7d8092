//! Unit attention conditions of one nexus and one logical unit (SAM-5 section 5.14).
//!
//! Invariants: none twice, at most [`ATTENTIONS_MAX`]; a reset takes the place of all that came
//! before it, and of the oldest where there is no room.

use super::sense::{Code, Key, Sense, code};

/// Conditions that are kept.
const ATTENTIONS_MAX: usize = 8;

/// What a nexus has yet to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attentions {
    pending: Vec<Code>,
}

impl Attentions {
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Adds a condition.
    pub(crate) fn raise(&mut self, code: Code) {
        if code.0 == code::POWER_ON_OR_RESET.0 {
            self.pending.clear();
        }
        if self.pending.contains(&code) {
            return;
        }
        if self.pending.len() >= ATTENTIONS_MAX {
            self.pending.clear();
            self.pending.push(code::POWER_ON_OR_RESET);
        }
        self.pending.push(code);
    }

    /// Takes the oldest one out, to tell it.
    pub(crate) fn take(&mut self) -> Option<Sense> {
        if self.pending.is_empty() {
            return None;
        }
        Some(Sense::new(Key::UnitAttention, self.pending.remove(0)))
    }

    /// Forgets one that was told otherwise.
    pub(crate) fn clear(&mut self, code: Code) {
        self.pending.retain(|&pending| pending != code);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_told_once_and_in_order() {
        let mut attentions = Attentions::default();
        attentions.raise(code::LUNS_CHANGED);
        attentions.raise(code::CAPACITY_CHANGED);
        attentions.raise(code::LUNS_CHANGED);
        let told: Vec<_> = std::iter::from_fn(|| attentions.take())
            .map(|sense| sense.code)
            .collect();
        assert_eq!(told, [code::LUNS_CHANGED, code::CAPACITY_CHANGED]);
        assert!(attentions.is_empty());
    }

    #[test]
    fn reset_replaces_what_came_before() {
        let mut attentions = Attentions::default();
        attentions.raise(code::CAPACITY_CHANGED);
        attentions.raise(code::BUS_DEVICE_RESET);
        assert_eq!(attentions.take().unwrap().code, code::BUS_DEVICE_RESET);
        assert_eq!(attentions.take(), None);
    }

    #[test]
    fn queue_is_bounded_and_overflow_is_told_as_a_reset() {
        let mut attentions = Attentions::default();
        for qualifier in 0..100 {
            attentions.raise(Code(0x2a, qualifier));
        }
        assert!(attentions.pending.len() <= ATTENTIONS_MAX);
        assert_eq!(attentions.take().unwrap().code, code::POWER_ON_OR_RESET);
    }
}
