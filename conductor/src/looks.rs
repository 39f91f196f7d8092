//! Looks at the clock, and whether the conductor itself was paused between two of them.
//!
//! Pure. Whoever counts how long something lasts counts only time in which the conductor ran: what it
//! did not see happen is nobody's fault.

use std::time::Duration;

use crate::membership::Moment;

/// See the module. Call [`Looks::passed`] several times in the length of a pause.
#[derive(Clone, Debug)]
pub(crate) struct Looks {
    /// A gap between two looks that is this long is a pause.
    pause: Duration,
    last: Moment,
}

impl Looks {
    /// The first look is now.
    pub(crate) fn new(pause: Duration, now: Moment) -> Self {
        Self { pause, last: now }
    }

    /// The time since the last look; nothing after a pause.
    pub(crate) fn passed(&mut self, now: Moment) -> Option<Duration> {
        let gap = now.since(self.last);
        self.last = self.last.max(now);
        (gap < self.pause).then_some(gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_gap_is_a_pause_and_a_clock_that_goes_back_is_none() {
        let at = |seconds| Moment::after_start(Duration::from_secs(seconds));
        let mut looks = Looks::new(Duration::from_secs(5), at(10));
        assert_eq!(looks.passed(at(14)), Some(Duration::from_secs(4)));
        assert_eq!(looks.passed(at(19)), None);
        assert_eq!(looks.passed(at(18)), Some(Duration::ZERO));
        assert_eq!(looks.passed(at(20)), Some(Duration::from_secs(1)));
    }
}
