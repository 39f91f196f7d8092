//! Whether a store lives, by when it last answered anything, and how long it may be silent.
//!
//! Pure. Slow is not dead: a store whose answers took long lately is given longer.

use std::time::Duration;

use ashlar_proto::FrameKind;
use ashlar_reactor::Instant;

use crate::peer::PeerTimes;

/// A store may be silent for so many times its slowest answer of late.
const SLOWEST_TIMES: u32 = 4;

/// What is forgotten of the slowest answer at each one that is quicker: a part in so many.
const FORGOTTEN: u32 = 256;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pulse {
    /// The last answer of any kind.
    pub(crate) last_reply: Instant,
    /// The last answer to more than a question whether it lives.
    pub(crate) last_answer: Instant,
    slowest: Duration,
}

impl Pulse {
    /// Nothing was answered yet.
    pub(crate) const NONE: Self = Self {
        last_reply: Instant::EPOCH,
        last_answer: Instant::EPOCH,
        slowest: Duration::ZERO,
    };

    /// A request of that kind was answered.
    pub(crate) fn note_reply(&mut self, now: Instant, sent_at: Instant, kind: FrameKind) {
        self.last_reply = now;
        if kind != FrameKind::Ping {
            self.last_answer = now;
        }
        self.slowest = (self.slowest - self.slowest / FORGOTTEN).max(now - sent_at);
    }

    /// For how long nothing was heard, where some request has waited since `waiting_since`.
    pub(crate) fn silent_for(&self, now: Instant, waiting_since: Option<Instant>) -> Duration {
        waiting_since.map_or(Duration::ZERO, |since| now - since.max(self.last_reply))
    }

    /// The silence that ends a session.
    pub(crate) fn silence(&self, times: PeerTimes) -> Duration {
        (self.slowest * SLOWEST_TIMES).clamp(times.silence.min(times.request), times.request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: PeerTimes = PeerTimes {
        connect: Duration::from_secs(3),
        request: Duration::from_secs(8),
        silence: Duration::from_millis(500),
    };

    fn at(ms: u64) -> Instant {
        Instant::EPOCH + Duration::from_millis(ms)
    }

    #[test]
    fn a_slow_store_may_be_silent_for_longer() {
        let mut pulse = Pulse::NONE;
        assert_eq!(pulse.silence(TIMES), TIMES.silence);
        pulse.note_reply(at(1000), at(500), FrameKind::Write);
        assert_eq!(pulse.silence(TIMES), Duration::from_secs(2));
        pulse.note_reply(at(11_000), at(1000), FrameKind::Write);
        assert_eq!(pulse.silence(TIMES), TIMES.request);
        for ms in 12_000..14_000 {
            pulse.note_reply(at(ms), at(ms), FrameKind::Read);
        }
        assert_eq!(pulse.silence(TIMES), TIMES.silence);
    }

    #[test]
    fn silence_counts_while_something_waits() {
        let mut pulse = Pulse::NONE;
        assert_eq!(pulse.silent_for(at(5000), None), Duration::ZERO);
        let waits = Some(at(4000));
        assert_eq!(pulse.silent_for(at(5000), waits), Duration::from_secs(1));
        pulse.note_reply(at(4800), at(4700), FrameKind::Ping);
        assert_eq!(
            pulse.silent_for(at(5000), waits),
            Duration::from_millis(200)
        );
        assert_eq!(pulse.last_answer, Instant::EPOCH);
    }
}
