//! What a reactor counts: requests, bytes, errors and times of each stage, its rounds and its rest.
//!
//! Invariants: only the reactor's thread writes, with plain loads and stores, so counting takes no lock
//! and no locked instruction; any thread reads, and sees each number as it was a moment ago. Numbers of
//! one stage are not of one moment.
//!
//! ```text
//! front end ──▶ owner ──▶ link ──▶ store ──▶ log ──▶ disk      each stage holds those behind it
//! ```
//!
//! Requests, bytes and errors are counted exactly. Times are taken of one request in
//! [`SAMPLE_EVERY`], for the clock is what costs.

mod histogram;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ashlar_proto::limits::BLOCK_BYTES_U64;
use ashlar_proto::{FrameHeader, FrameKind};

use crate::reactor::Core;
pub use histogram::{BUCKETS, Histogram, Times, upper_bound_ns};

/// One request in so many of a stage and an operation is timed.
pub const SAMPLE_EVERY: u64 = 16;

const _: () = assert!(SAMPLE_EVERY.is_power_of_two());

/// Where on its way a request is; each holds those that come after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The server of a block protocol: from a whole request to its answer.
    FrontEnd,
    /// The owner of the volume: from its check to its acknowledgement.
    Owner,
    /// The owner's session with a store: from a frame to its reply.
    Link,
    /// The store: from a frame that came to its reply.
    Store,
    /// The store's log and map.
    Log,
    /// The device.
    Disk,
}

impl Stage {
    /// All, in the order of a request.
    pub const ALL: [Self; 6] = [
        Self::FrontEnd,
        Self::Owner,
        Self::Link,
        Self::Store,
        Self::Log,
        Self::Disk,
    ];

    /// Its name in labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FrontEnd => "front_end",
            Self::Owner => "owner",
            Self::Link => "link",
            Self::Store => "store",
            Self::Log => "log",
            Self::Disk => "disk",
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Data is read.
    Read,
    /// Data is written.
    Write,
    /// What was written is made durable.
    Flush,
    /// Blocks are made zeroes, or given up.
    Discard,
    /// Anything else.
    Other,
}

impl Operation {
    /// All.
    pub const ALL: [Self; 5] = [
        Self::Read,
        Self::Write,
        Self::Flush,
        Self::Discard,
        Self::Other,
    ];

    /// Its name in labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Discard => "discard",
            Self::Other => "other",
        }
    }
}

impl From<FrameKind> for Operation {
    fn from(kind: FrameKind) -> Self {
        match kind {
            FrameKind::Read | FrameKind::ReadSnapshot => Self::Read,
            FrameKind::Write => Self::Write,
            FrameKind::Flush => Self::Flush,
            FrameKind::Zeroes => Self::Discard,
            _ => Self::Other,
        }
    }
}

/// Bytes of user data that a request is about.
#[must_use]
pub fn bytes_of(header: &FrameHeader) -> u64 {
    let blocks = match Operation::from(header.kind) {
        Operation::Write => u64::from(header.data_blocks),
        Operation::Read | Operation::Discard => u64::from(header.count.get()),
        _ => 0,
    };
    blocks.saturating_mul(BLOCK_BYTES_U64)
}

/// A number that one thread changes and any reads.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// More by `number`. Only the reactor's thread may call it.
    pub fn add(&self, number: u64) {
        let sum = self.get().wrapping_add(number);
        self.0.store(sum, Ordering::Relaxed);
    }

    /// As it is.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is counted of one operation at one stage.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Meter {
    begun: Count,
    ended: Count,
    failed: Count,
    bytes: Count,
    times: Histogram,
}

/// The same at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Requests that have ended.
    pub ended: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Bytes of all that have begun.
    pub bytes: u64,
    /// Requests that have begun and not ended.
    pub in_flight: u64,
    /// How long those took that were timed.
    pub times: Times,
}

impl Reading {
    /// Takes over what another reactor counts of the same.
    pub fn merge(&mut self, other: &Self) {
        self.ended += other.ended;
        self.failed += other.failed;
        self.bytes += other.bytes;
        self.in_flight += other.in_flight;
        self.times.merge(&other.times);
    }
}

/// The connections of a reactor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// That were accepted since the start.
    pub accepted: u64,
    /// That are open.
    pub open: u64,
    /// That were refused, for there were too many.
    pub refused: u64,
}

/// All that a reactor counts.
#[derive(Debug, Default)]
pub struct Meters {
    meters: [[Meter; Operation::ALL.len()]; Stage::ALL.len()],
    rounds: Count,
    rest_ns: Count,
    connected: Count,
    disconnected: Count,
    turned_away: Count,
}

impl Meters {
    fn meter(&self, stage: Stage, operation: Operation) -> &Meter {
        &self.meters[stage as usize][operation as usize]
    }

    /// What is counted of an operation at a stage.
    #[must_use]
    pub fn read(&self, stage: Stage, operation: Operation) -> Reading {
        let meter = self.meter(stage, operation);
        // In this order, so that no more have ended than had begun.
        let ended = meter.ended.get();
        Reading {
            ended,
            failed: meter.failed.get(),
            bytes: meter.bytes.get(),
            in_flight: meter.begun.get().saturating_sub(ended),
            times: meter.times.read(),
        }
    }

    /// Counts a request of which the caller knows when it began, and times it.
    pub fn note(&self, stage: Stage, operation: Operation, bytes: u64, took: Duration) {
        let meter = self.meter(stage, operation);
        meter.begun.add(1);
        meter.ended.add(1);
        meter.bytes.add(bytes);
        meter.times.note(took);
    }

    /// Rounds of the reactor's loop.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.rounds.get()
    }

    /// How long the reactor had nothing to do: it polled, or slept.
    #[must_use]
    pub fn rest(&self) -> Duration {
        Duration::from_nanos(self.rest_ns.get())
    }

    /// A connection of a client or an owner begins.
    pub fn note_connected(&self) {
        self.connected.add(1);
    }

    /// It has ended.
    pub fn note_disconnected(&self) {
        self.disconnected.add(1);
    }

    /// One was refused, for there are too many.
    pub fn note_turned_away(&self) {
        self.turned_away.add(1);
    }

    /// Connections: how many there ever were, how many there are, how many were refused.
    #[must_use]
    pub fn connections(&self) -> Connections {
        let ended = self.disconnected.get();
        let accepted = self.connected.get();
        Connections {
            accepted,
            open: accepted.saturating_sub(ended),
            refused: self.turned_away.get(),
        }
    }

    pub(crate) fn note_round(&self) {
        self.rounds.add(1);
    }

    pub(crate) fn note_rest(&self, rest: Duration) {
        self.rest_ns
            .add(u64::try_from(rest.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// A request at a stage, counted as ended when this is dropped.
pub struct Measure<'a> {
    core: &'a Core,
    meter: &'a Meter,
    /// When it began, in nanoseconds of the reactor's clock, if it is timed.
    began: Option<crate::Instant>,
}

impl std::fmt::Debug for Measure<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Measure")
            .field("began", &self.began)
            .finish_non_exhaustive()
    }
}

impl<'a> Measure<'a> {
    pub(crate) fn begin(core: &'a Core, stage: Stage, operation: Operation, bytes: u64) -> Self {
        let meter = core.meters().meter(stage, operation);
        let before = meter.begun.get();
        meter.begun.add(1);
        meter.bytes.add(bytes);
        let is_timed = before.is_multiple_of(SAMPLE_EVERY);
        Self {
            core,
            meter,
            began: is_timed.then(|| core.driver().now()),
        }
    }

    /// Gives `result` on, and counts a failure.
    ///
    /// # Errors
    /// Those of `result`.
    pub fn end<T, E>(self, result: Result<T, E>) -> Result<T, E> {
        if result.is_err() {
            self.fail();
        }
        result
    }

    /// Counts it as failed; it ends when it is dropped.
    pub fn fail(&self) {
        self.meter.failed.add(1);
    }
}

impl Drop for Measure<'_> {
    fn drop(&mut self) {
        self.meter.ended.add(1);
        if let Some(began) = self.began {
            self.meter.times.note(self.core.driver().now() - began);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Engine, RuntimeOptions};

    #[test]
    fn requests_are_counted_exactly_and_timed_now_and_then() {
        let options = RuntimeOptions::new(Engine::Aio);
        crate::run(options, async |reactor| {
            for number in 0..32 {
                let measure = reactor.measure(Stage::Owner, Operation::Write, 4096);
                let result: Result<(), ()> = if number < 3 { Err(()) } else { Ok(()) };
                assert_eq!(measure.end(result), result);
            }
            let open = reactor.measure(Stage::Owner, Operation::Write, 512);
            let read = reactor.meters().read(Stage::Owner, Operation::Write);
            assert_eq!((read.ended, read.failed, read.in_flight), (32, 3, 1));
            assert_eq!(read.bytes, 32 * 4096 + 512);
            assert_eq!(read.times.count(), 32 / SAMPLE_EVERY);
            drop(open);
            let read = reactor.meters().read(Stage::Owner, Operation::Write);
            assert_eq!((read.in_flight, read.times.count()), (0, 3));
            let other = reactor.meters().read(Stage::Owner, Operation::Read);
            assert_eq!((other.ended, other.bytes, other.times.count()), (0, 0, 0));
        })
        .unwrap();
    }

    #[test]
    fn readings_of_reactors_add_up() {
        let (one, two) = (Meters::default(), Meters::default());
        one.note(Stage::Link, Operation::Read, 10, Duration::from_micros(5));
        two.note(Stage::Link, Operation::Read, 20, Duration::from_micros(7));
        let mut sum = one.read(Stage::Link, Operation::Read);
        sum.merge(&two.read(Stage::Link, Operation::Read));
        assert_eq!((sum.ended, sum.bytes, sum.times.count()), (2, 30, 2));
        assert_eq!(sum.times.sum(), Duration::from_micros(12));
    }

    #[test]
    fn a_reactor_that_waits_rests() {
        let options = RuntimeOptions::new(Engine::Aio);
        crate::run(options, async |reactor| {
            reactor.sleep(Duration::from_millis(20)).await;
            assert!(reactor.meters().rest() >= Duration::from_millis(10));
            assert!(reactor.meters().rounds() > 0);
        })
        .unwrap();
    }
}
