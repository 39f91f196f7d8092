//! How far a spell of healing has come: counts and moments in, progress and time left out. Pure.
//!
//! A spell begins when something is first amiss and ends when nothing is.

use std::time::Duration;

use crate::membership::Moment;

/// The spell that is under way.
#[derive(Clone, Copy, Debug)]
struct Begun {
    at: Moment,
    /// Replicas that had come in sync before it.
    joined_before: u64,
}

/// Notes when spells begin and end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spell(Option<Begun>);

/// What a spell has reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Replicas that have come in sync in it.
    pub(crate) rebuilt: u32,
    /// The part of it that is done; none where no spell is under way.
    pub(crate) percent: Option<u8>,
    /// What is left at the rate so far; none where that is unknown.
    pub(crate) remaining: Option<Duration>,
}

impl Spell {
    /// Notes how much is left to do, and how many replicas have come in sync since the start of the
    /// conductor.
    pub(crate) fn note(&mut self, now: Moment, left: u32, joined: u64) {
        match self.0 {
            None if left > 0 => {
                self.0 = Some(Begun {
                    at: now,
                    joined_before: joined,
                });
            }
            // The state was read anew, and its count with it.
            Some(begun) if left > 0 && joined < begun.joined_before => {
                self.0 = Some(Begun {
                    joined_before: joined,
                    ..begun
                });
            }
            Some(_) if left == 0 => self.0 = None,
            _ => {}
        }
    }

    /// How far it has come.
    pub(crate) fn progress(&self, now: Moment, left: u32, joined: u64) -> Progress {
        let Some(begun) = self.0.filter(|_| left > 0) else {
            return Progress::default();
        };
        let rebuilt = joined.saturating_sub(begun.joined_before);
        let rebuilt = u32::try_from(rebuilt).unwrap_or(u32::MAX);
        let all = u64::from(rebuilt) + u64::from(left);
        let percent = u64::from(rebuilt) * 100 / all;
        let elapsed = now.since(begun.at);
        Progress {
            rebuilt,
            percent: u8::try_from(percent).ok(),
            remaining: (rebuilt > 0).then(|| elapsed.saturating_mul(left) / rebuilt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    #[test]
    fn nothing_amiss_is_no_spell() {
        let mut spell = Spell::default();
        spell.note(at(1), 0, 5);
        assert_eq!(spell.progress(at(2), 0, 5), Progress::default());
    }

    #[test]
    fn the_rate_so_far_tells_what_is_left() {
        let mut spell = Spell::default();
        spell.note(at(10), 8, 5);
        let first = spell.progress(at(15), 8, 5);
        assert_eq!((first.percent, first.remaining), (Some(0), None));
        spell.note(at(30), 6, 7);
        let later = spell.progress(at(30), 6, 7);
        let expected = Progress {
            rebuilt: 2,
            percent: Some(25),
            remaining: Some(Duration::from_secs(60)),
        };
        assert_eq!(later, expected);
        // Done, and a new spell counts for itself.
        spell.note(at(50), 0, 13);
        spell.note(at(60), 1, 13);
        assert_eq!(spell.progress(at(61), 1, 13).rebuilt, 0);
    }

    #[test]
    fn a_count_that_begins_anew_takes_nothing_away() {
        let mut spell = Spell::default();
        spell.note(at(1), 4, 100);
        spell.note(at(2), 4, 0);
        assert_eq!(spell.progress(at(3), 3, 1).rebuilt, 1);
    }
}
