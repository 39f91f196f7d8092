//! How a lane answers reads: what it usually takes, how much a fresh failure speaks against it, and
//! when failures are too many.
//!
//! Pure. Invariant: only reads that show something count as quick; an error comes back fast, and
//! must draw no reads.

use std::time::Duration;

use ashlar_reactor::Instant;

/// What one failure adds to the time that a read is expected to take.
const PENALTY_NS: u64 = 1_000_000_000;

/// Failures beyond so many add nothing.
const PENALTY_NS_MAX: u64 = 8 * PENALTY_NS;

/// After each of these half of the penalty is forgotten.
const HALF_LIFE: Duration = Duration::from_secs(1);

/// So many failures of the device, none of them [`FORGOTTEN`] after the one before, are too many.
const FAULTS_MAX: u32 = 4;

/// A device that has not failed a read for this long is taken for sound.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Bounds of the time after which another replica is asked too, and that time for a lane that has
/// not been read yet. The least is what a busy machine may take to run a task.
const HEDGE_MIN: Duration = Duration::from_millis(4);
const HEDGE_MAX: Duration = Duration::from_millis(100);
const HEDGE_UNKNOWN: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadHealth {
    usual_ns: u64,
    /// How far reads are from that, as a rule.
    spread_ns: u64,
    penalty_ns: u64,
    penalty_at: Instant,
    faults: u32,
    fault_at: Instant,
}

impl ReadHealth {
    /// Of a lane that has not been read yet.
    pub(crate) const UNKNOWN: Self = Self {
        usual_ns: 0,
        spread_ns: 0,
        penalty_ns: 0,
        penalty_at: Instant::EPOCH,
        faults: 0,
        fault_at: Instant::EPOCH,
    };

    /// What a read is expected to take: its usual time, once for each request ahead of it, and
    /// what is left of the penalty.
    pub(crate) fn expected_ns(&self, now: Instant, ahead: u64) -> u64 {
        let queue = self.usual_ns.max(1).saturating_mul(ahead + 1);
        queue.saturating_add(self.penalty_left(now))
    }

    /// A read was answered with what the blocks hold.
    pub(crate) fn note_shown(&mut self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        if self.usual_ns == 0 {
            (self.usual_ns, self.spread_ns) = (took, took / 2);
            return;
        }
        let off = self.usual_ns.abs_diff(took);
        self.spread_ns = self.spread_ns - self.spread_ns / 4 + off / 4;
        self.usual_ns = self.usual_ns - self.usual_ns / 8 + took / 8;
    }

    /// How long nearly every read takes at most: its usual time and four times the spread, as a
    /// retransmission timer has it (RFC 6298), which is beyond the 95th percentile.
    pub(crate) fn hedge_after(&self) -> Duration {
        if self.usual_ns == 0 {
            return HEDGE_UNKNOWN;
        }
        let bound = self
            .usual_ns
            .saturating_add(self.spread_ns.saturating_mul(4));
        Duration::from_nanos(bound).clamp(HEDGE_MIN, HEDGE_MAX)
    }

    /// A read was refused because its blocks are damaged here.
    pub(crate) fn note_refused(&mut self, now: Instant) {
        let penalty_ns = self.penalty_left(now) + PENALTY_NS / 64;
        self.penalty_ns = penalty_ns.min(PENALTY_NS_MAX);
        self.penalty_at = now;
    }

    /// A read failed for a reason that concerns more than its blocks.
    pub(crate) fn note_failed(&mut self, now: Instant) {
        let penalty_ns = self.penalty_left(now) + PENALTY_NS;
        self.penalty_ns = penalty_ns.min(PENALTY_NS_MAX);
        self.penalty_at = now;
    }

    /// The device failed a read. Whether that is once too often.
    pub(crate) fn note_fault(&mut self, now: Instant) -> bool {
        self.note_failed(now);
        if now - self.fault_at >= FORGOTTEN {
            self.faults = 0;
        }
        self.faults = self.faults.saturating_add(1);
        self.fault_at = now;
        self.faults >= FAULTS_MAX
    }

    fn penalty_left(&self, now: Instant) -> u64 {
        let halvings = (now - self.penalty_at).as_secs() / HALF_LIFE.as_secs();
        let halvings = u32::try_from(halvings).unwrap_or(u32::MAX);
        self.penalty_ns.checked_shr(halvings).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_penalty_outweighs_any_queue_and_fades() {
        let start = Instant::EPOCH + Duration::from_secs(100);
        let mut health = ReadHealth::UNKNOWN;
        health.note_shown(Duration::from_micros(100));
        let usual = health.expected_ns(start, 0);
        assert_eq!(usual, 100_000);
        health.note_failed(start);
        assert!(health.expected_ns(start, 0) > health.expected_ns(start, 64) / 2);
        assert!(health.expected_ns(start, 0) > 5000 * usual);
        for _ in 0..1000 {
            health.note_failed(start);
        }
        assert_eq!(health.expected_ns(start, 0), PENALTY_NS_MAX + usual);
        let later = start + HALF_LIFE * 40;
        assert_eq!(health.expected_ns(later, 0), usual);
        assert_eq!(health.expected_ns(start + HALF_LIFE * 1000, 0), usual);
    }

    #[test]
    fn faults_add_up_until_they_are_forgotten() {
        let mut now = Instant::EPOCH + Duration::from_secs(100);
        let mut health = ReadHealth::UNKNOWN;
        for _ in 1..FAULTS_MAX {
            assert!(!health.note_fault(now));
        }
        now += FORGOTTEN;
        for _ in 1..FAULTS_MAX {
            assert!(!health.note_fault(now));
            now += FORGOTTEN / 2;
        }
        assert!(health.note_fault(now));
    }
}
