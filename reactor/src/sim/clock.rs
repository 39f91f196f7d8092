//! The clock of one simulated process: it began somewhere, and runs a little fast or slow.

/// Parts of a million that no clock drifts by.
pub(super) const DRIFT_PPM_MAX: u32 = 500_000;

const MILLION: u128 = 1_000_000;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// What it showed at the process's start.
    began_at_ns: u64,
    /// The world's time then.
    began_ns: u64,
    /// Its nanoseconds in a million of the world's.
    rate_ppm: u32,
}

impl Clock {
    /// One that shows `offset_ns` more than the world's, and drifts from there on.
    pub fn new(now_ns: u64, offset_ns: u64, rate_ppm: u32) -> Self {
        assert!(
            rate_ppm.abs_diff(1_000_000) <= DRIFT_PPM_MAX,
            "no clock drifts so far"
        );
        Self {
            began_at_ns: now_ns + offset_ns,
            began_ns: now_ns,
            rate_ppm,
        }
    }

    /// What it shows at a time of the world, which is none before the process's start.
    pub fn shows(&self, world_ns: u64) -> u64 {
        let passed = u128::from(world_ns.saturating_sub(self.began_ns));
        let shown = passed * u128::from(self.rate_ppm) / MILLION;
        self.began_at_ns.saturating_add(narrow(shown))
    }

    /// The first time of the world at which it shows that much.
    pub fn reaches(&self, shown_ns: u64) -> u64 {
        let passed = u128::from(shown_ns.saturating_sub(self.began_at_ns));
        let passed = (passed * MILLION).div_ceil(u128::from(self.rate_ppm));
        self.began_ns.saturating_add(narrow(passed))
    }
}

fn narrow(ns: u128) -> u64 {
    u64::try_from(ns).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_drifts_and_a_timer_fires_when_it_shows_its_time() {
        for rate in [500_000, 900_001, 1_000_000, 1_099_999, 1_500_000] {
            let clock = Clock::new(1_000, 77_000, rate);
            assert_eq!(clock.shows(1_000), 78_000);
            assert_eq!(clock.reaches(5), 1_000);
            for shown in [78_001, 90_000, 123_456_789] {
                let at = clock.reaches(shown);
                assert!(clock.shows(at) >= shown && clock.shows(at - 1) < shown);
            }
        }
        assert_eq!(Clock::new(0, 0, 1_100_000).shows(1_000_000), 1_100_000);
    }
}
