//! Whether a disk ails: it serves, but what its store counts says that it is going bad.
//!
//! Pure: it is shown the counts of all lanes at every report, with the time. Thresholds look at what
//! has come within [`WINDOW`], so that damage of long ago says nothing of today. Invariants: a
//! verdict is never taken back here, for a disk that nobody uses any more is quiet, and that proves
//! nothing; it begins anew when as much has come again, at most once in a window, so that a person
//! who has cleared it hears of what comes after.
//!
//! A write or flush of an owner that fails is no matter of degree: the disk has failed then, see
//! [`crate::health`].

use std::collections::VecDeque;
use std::time::Duration;

use ashlar_proto::api::{Ailing, Incident};
use ashlar_reactor::Instant;

use crate::lane::{IoCounts, SLOW_IO};
use crate::worker::LaneReport;

/// How far back failures count.
pub(crate) const WINDOW: Duration = Duration::from_secs(3600);

/// How finely the window is cut, and how long a stretch is that is called slow or not.
pub(crate) const STEP: Duration = Duration::from_secs(60);

/// Places found damaged within the window: a drive that is sound has none in a year. ZFS gives a
/// device up after as many checksum errors in ten minutes.
pub(crate) const DAMAGE_MAX: u64 = 10;

/// Reads that the device failed within the window. Each place that cannot be read is tried several
/// times, so these are fewer places; ones that come right at a later try count here only.
pub(crate) const READ_ERRORS_MAX: u64 = 30;

/// Writes that failed and that no owner waited for, within the window: checkpoints, moves of the
/// collector. A drive that has sectors left to put in the place of bad ones fails none.
pub(crate) const WRITE_ERRORS_MAX: u64 = 3;

/// Of the requests of a slow minute, at least one in this many took [`SLOW_IO`] or longer.
pub(crate) const SLOW_PART: u64 = 10;

/// And at least as many: one request says little.
pub(crate) const SLOW_MIN: u64 = 3;

/// Slow minutes in a row, a few without any request left out. A busy machine has one now and then.
pub(crate) const SLOW_STEPS_MAX: u32 = 5;

/// Minutes without any request after which those before are forgotten: a disk that sleeps is slow each
/// time it is woken.
const IDLE_STEPS_MAX: u32 = 3;

const _: () = assert!(STEP.as_secs() * (SLOW_STEPS_MAX as u64) < WINDOW.as_secs());

/// What was counted since the store started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    pub(crate) damage: u64,
    pub(crate) read_errors: u64,
    pub(crate) write_errors: u64,
    pub(crate) io: IoCounts,
}

impl Evidence {
    /// Of all lanes of a disk.
    pub(crate) fn of(lanes: &[LaneReport]) -> Self {
        let sum = |count: fn(&LaneReport) -> u64| lanes.iter().map(count).sum();
        Self {
            damage: sum(|lane| lane.stats.damage.total()),
            read_errors: sum(|lane| lane.stats.read_errors),
            write_errors: sum(|lane| lane.stats.write_errors),
            io: IoCounts {
                begun: sum(|lane| lane.stats.io.begun),
                ended: sum(|lane| lane.stats.io.ended),
                slow: sum(|lane| lane.stats.io.slow),
            },
        }
    }

    /// Why a disk ails of which this has come within the window.
    fn verdict(&self, since: &Self) -> Option<String> {
        let hours = WINDOW.as_secs() / 3600;
        let of = |count: fn(&Self) -> u64| count(self).saturating_sub(count(since));
        let cases = [
            (
                of(|e| e.write_errors),
                WRITE_ERRORS_MAX,
                "writes that failed",
            ),
            (of(|e| e.damage), DAMAGE_MAX, "damaged places"),
            (of(|e| e.read_errors), READ_ERRORS_MAX, "reads that failed"),
        ];
        let passed = cases.into_iter().find(|(count, most, _)| count >= most)?;
        let (count, _, what) = passed;
        Some(format!("{count} {what} within {hours} h"))
    }
}

/// Minutes in a row in which requests took far too long.
#[derive(Debug)]
struct Slowness {
    since: Instant,
    base: IoCounts,
    steps: u32,
    /// Minutes without any request since the last one with some.
    idle: u32,
}

impl Slowness {
    fn observe(&mut self, now: Instant, io: IoCounts) -> Option<String> {
        let passed = now - self.since;
        if passed < STEP {
            return None;
        }
        let ended = io.ended.saturating_sub(self.base.ended);
        let slow = io.slow.saturating_sub(self.base.slow);
        // Under way all the time, and none ended.
        let is_stuck = self.base.begun > self.base.ended && ended == 0;
        let is_slow = slow >= SLOW_MIN && slow.saturating_mul(SLOW_PART) >= ended;
        self.steps = match passed >= STEP * 3 {
            // The store itself was paused: no request is to blame.
            true => 0,
            false if is_stuck || is_slow => self.steps.saturating_add(1),
            false if ended > 0 || self.idle >= IDLE_STEPS_MAX => 0,
            false => self.steps,
        };
        let is_idle = ended == 0 && !is_stuck;
        self.idle = if is_idle {
            self.idle.saturating_add(1)
        } else {
            0
        };
        (self.since, self.base) = (now, io);
        (self.steps >= SLOW_STEPS_MAX).then(|| {
            format!(
                "a request in {SLOW_PART} or more took over {} s, for {} min",
                SLOW_IO.as_secs(),
                u64::from(self.steps) * STEP.as_secs() / 60
            )
        })
    }
}

/// The watch over one disk.
#[derive(Debug)]
pub(crate) struct AilingWatch {
    /// Counts as they were, the oldest about a window ago.
    samples: VecDeque<(Instant, Evidence)>,
    slowness: Slowness,
    /// The last verdict, and when it was given.
    verdict: Option<(Instant, Ailing)>,
}

impl AilingWatch {
    /// Begins with nothing counted: what recovery finds counts as found now.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            samples: VecDeque::from([(now, Evidence::default())]),
            slowness: Slowness {
                since: now,
                base: IoCounts::default(),
                steps: 0,
                idle: 0,
            },
            verdict: None,
        }
    }

    /// Looks at the counts as they are now; `number` gives that of a new incident, which has to be
    /// unlike those of earlier runs. Call it several times per [`STEP`].
    pub(crate) fn observe(
        &mut self,
        now: Instant,
        evidence: Evidence,
        number: impl FnOnce() -> Incident,
    ) -> Option<&Ailing> {
        while self.samples.len() > 1 && now - self.samples[1].0 >= WINDOW {
            self.samples.pop_front();
        }
        let (_, oldest) = self.samples[0];
        let is_slow = self.slowness.observe(now, evidence.io);
        let reason = evidence.verdict(&oldest).or(is_slow);
        let was_given = self.verdict.as_ref();
        let is_due = was_given.is_none_or(|(given, _)| now - *given >= WINDOW);
        if let Some(reason) = reason.filter(|_| is_due) {
            let incident = number();
            self.verdict = Some((now, Ailing { reason, incident }));
            // Another verdict takes as much again.
            self.samples = VecDeque::from([(now, evidence)]);
            self.slowness.steps = 0;
        } else if now - self.samples[self.samples.len() - 1].0 >= STEP {
            self.samples.push_back((now, evidence));
        }
        self.verdict.as_ref().map(|(_, ailing)| ailing)
    }
}

#[cfg(test)]
mod tests;
