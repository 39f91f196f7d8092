//! Runs a reactor on a thread: poll tasks, poll the engine, spin a little, sleep.

use crate::aio::AioDriver;
use crate::driver::{Driver, Wait};
use crate::uring::{self, UringDriver};
use crate::{BufferPool, Instant, Reactor, StartError};
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::time::Duration;

/// Task polls between two looks at the engine: none starves the other.
const POLLS_MAX: usize = 256;

/// Which interface of the kernel the IO goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// io_uring.
    IoUring,
    /// Linux AIO for disks, epoll for sockets.
    Aio,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IoUring => "io_uring",
            Self::Aio => "aio",
        })
    }
}

/// The text names no engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such engine: give io_uring or aio")]
pub struct ParseEngineError;

impl FromStr for Engine {
    type Err = ParseEngineError;

    fn from_str(text: &str) -> Result<Self, ParseEngineError> {
        match text {
            "io_uring" => Ok(Self::IoUring),
            "aio" => Ok(Self::Aio),
            _ => Err(ParseEngineError),
        }
    }
}

/// How a reactor is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuntimeOptions {
    /// The engine: see [`probe_engine`].
    pub engine: Engine,
    /// The longest that it polls for the next event before it sleeps. It does so only while most events
    /// come within this time; zero always sleeps.
    pub spin: Duration,
}

impl RuntimeOptions {
    /// The usual options with `engine`.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self {
            engine,
            spin: Duration::from_micros(100),
        }
    }
}

/// The engine to use: the requested one, else io_uring where the kernel and its sandbox allow
/// it, else aio with a sentence that says why.
#[must_use]
pub fn probe_engine(requested: Option<Engine>) -> (Engine, Option<String>) {
    if let Some(engine) = requested {
        return (engine, None);
    }
    match uring::probe() {
        Ok(()) => (Engine::IoUring, None),
        Err(error) => {
            let warning = format!(
                "io_uring is not available ({error}): falling back to aio, which costs some \
                 performance; allow io_uring (kernel 5.11 or later, kernel.io_uring_disabled=0, \
                 the container's seccomp profile) or silence this with --engine aio"
            );
            (Engine::Aio, Some(warning))
        }
    }
}

/// Runs `main` and what it spawns on this thread until it ends. Tasks that are left are dropped.
///
/// # Errors
/// [`StartError`]: the engine is not to be had.
pub fn run<T, F: Future<Output = T>>(
    options: RuntimeOptions,
    main: impl FnOnce(Reactor) -> F,
) -> Result<T, StartError> {
    let pool = BufferPool::new();
    let driver: Rc<dyn Driver> = match options.engine {
        Engine::IoUring => {
            Rc::new(UringDriver::new(pool.clone()).map_err(|error| StartError::IoUring { error })?)
        }
        Engine::Aio => Rc::new(AioDriver::new().map_err(|error| StartError::Aio { error })?),
    };
    let reactor = Reactor::over(driver, pool);
    // Also where `main` panics: tasks hold the reactor that holds them.
    let _stop = StopOnDrop(&reactor);
    let future = pin!(main(reactor.clone()));
    Ok(Loop::new(&reactor, options.spin).run(future))
}

struct StopOnDrop<'a>(&'a Reactor);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// The loop of one reactor.
struct Loop<'a> {
    reactor: &'a Reactor,
    spin: Spin,
}

impl<'a> Loop<'a> {
    fn new(reactor: &'a Reactor, spin_max: Duration) -> Self {
        Self {
            reactor,
            spin: Spin::new(spin_max),
        }
    }

    fn run<T>(&mut self, mut main: Pin<&mut impl Future<Output = T>>) -> T {
        let waker = self.reactor.main_waker();
        let mut context = Context::from_waker(&waker);
        waker.wake_by_ref();
        loop {
            if self.reactor.take_main_woken()
                && let Poll::Ready(output) = main.as_mut().poll(&mut context)
            {
                return output;
            }
            self.reactor.meters().note_round();
            self.reactor.run_ready(POLLS_MAX);
            self.reactor.take_messages();
            if self.reactor.next_timer().is_some() {
                self.reactor.fire_timers(self.reactor.now());
            }
            if self.reactor.has_ready() {
                self.reactor.poll_driver(Wait::No);
            } else {
                self.wait();
            }
        }
    }

    /// Nothing to do: passes queued operations on and waits for something to happen.
    fn wait(&mut self) {
        if self.spin.max.is_zero() {
            let start = self.reactor.now();
            self.sleep();
            self.reactor.meters().note_rest(self.reactor.now() - start);
            return;
        }
        // What this passes on is work: only what follows is idle time.
        if self.has_events() {
            return;
        }
        let start = self.reactor.now();
        let timer = self.reactor.next_timer();
        let spin = self.spin.limit();
        if !spin.is_zero() {
            let end = timer.map_or(start + spin, |timer| timer.min(start + spin));
            loop {
                std::hint::spin_loop();
                let has_events = self.has_events();
                let now = self.reactor.now();
                if has_events {
                    self.reactor.meters().note_rest(now - start);
                    self.spin.waited(now - start, now);
                    return;
                }
                if now >= end {
                    break;
                }
            }
        }
        self.sleep();
        let now = self.reactor.now();
        self.reactor.meters().note_rest(now - start);
        self.spin.waited(now - start, now);
    }

    fn has_events(&self) -> bool {
        self.reactor.poll_driver(Wait::No) > 0 || self.reactor.shared().is_pending()
    }

    fn sleep(&self) {
        if self.reactor.shared().fall_asleep() {
            let timer = self.reactor.next_timer();
            self.reactor
                .poll_driver(timer.map_or(Wait::Forever, Wait::Until));
            self.reactor.shared().wake_up();
        }
    }
}

/// Whether to poll before sleeping, and how long: as long as allowed while at least half of the last waits
/// ended within that time, else not at all. To poll for less than the wait takes costs both the polling and
/// the sleep. An idle reactor only sleeps.
///
/// A reactor with little idle time, or with many short waits, does not poll either: it would take events one
/// by one as they come. Sleeping, it finds several when it wakes, and passes on what they lead to together.
struct Spin {
    max: Duration,
    /// The share of the last waits that ended within `max`, of [`SHARE_ONE`]; each counts for an eighth.
    short: u32,
    /// Idle time in this window and the one before, decayed.
    idle: Duration,
    /// All time likewise.
    total: Duration,
    /// The count of waits likewise.
    waits: u32,
    /// The end of the last wait.
    seen: Option<Instant>,
}

/// All waits were short.
const SHARE_ONE: u32 = 1 << 16;
/// Idle time below this share of all time is too little for polling: 1 in this many.
const IDLE_SHARE: u32 = 2;
/// Waits shorter than this, on average, are those of many operations in flight.
const WAIT_MIN: Duration = Duration::from_micros(16);
/// How far back the share of idle time reaches.
const IDLE_WINDOW: Duration = Duration::from_millis(2);

impl Spin {
    fn new(max: Duration) -> Self {
        Self {
            max,
            short: 0,
            idle: Duration::ZERO,
            total: Duration::ZERO,
            waits: 0,
            seen: None,
        }
    }

    /// How long to poll now.
    fn limit(&self) -> Duration {
        let is_busy = self.idle * IDLE_SHARE < self.total || self.idle < WAIT_MIN * self.waits;
        if is_busy || self.short < SHARE_ONE / 2 {
            Duration::ZERO
        } else {
            self.max
        }
    }

    /// An event came `idle` after there was nothing to do any more: by then the reactor polled or slept.
    fn waited(&mut self, idle: Duration, now: Instant) {
        self.account(idle, now);
        let eighth = if idle <= self.max { SHARE_ONE / 8 } else { 0 };
        self.short = self.short - self.short / 8 + eighth;
    }

    fn account(&mut self, idle: Duration, now: Instant) {
        let passed = self.seen.map_or(idle, |seen| now - seen);
        self.seen = Some(now);
        self.idle += idle;
        self.total += passed;
        self.waits += 1;
        while self.total > IDLE_WINDOW {
            self.idle /= 2;
            self.total /= 2;
            self.waits /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reactor that works and idles in turn, as long as told; how long it would poll then.
    fn spin_after(rounds: u32, work_us: u64, idle_us: u64) -> Duration {
        let mut spin = Spin::new(Duration::from_micros(50));
        let mut now = Instant::EPOCH;
        for _ in 0..rounds {
            let idle = Duration::from_micros(idle_us);
            now = now + Duration::from_micros(work_us) + idle;
            spin.waited(idle, now);
        }
        spin.limit()
    }

    #[test]
    fn spin_comes_with_short_waits_and_not_with_long_ones() {
        assert_eq!(Spin::new(Duration::from_micros(50)).limit(), Duration::ZERO);
        assert_eq!(spin_after(20, 10, 30), Duration::from_micros(50));
        assert_eq!(spin_after(20, 10, 60), Duration::ZERO);
        assert_eq!(spin_after(20, 10, 5_000_000), Duration::ZERO);
    }

    #[test]
    fn spin_goes_when_most_waits_are_long() {
        let mut spin = Spin::new(Duration::from_micros(50));
        let mut now = Instant::EPOCH;
        for (idle_us, rounds, then) in [(30, 20, 50), (80, 6, 0), (30, 20, 50)] {
            for _ in 0..rounds {
                let idle = Duration::from_micros(idle_us);
                now = now + Duration::from_micros(5) + idle;
                spin.waited(idle, now);
            }
            assert_eq!(spin.limit(), Duration::from_micros(then));
        }
    }

    #[test]
    fn a_busy_reactor_does_not_spin() {
        assert_eq!(spin_after(1000, 100, 10), Duration::ZERO);
    }

    #[test]
    fn spin_is_not_for_many_short_waits() {
        assert_eq!(spin_after(1000, 5, 10), Duration::ZERO);
        assert_eq!(spin_after(1000, 5, 20), Duration::from_micros(50));
    }

    #[test]
    fn spin_comes_back_when_the_load_is_gone() {
        let mut spin = Spin::new(Duration::from_micros(50));
        let mut now = Instant::EPOCH;
        for (rounds, work, idle) in [(1000, 100, 10), (200, 10, 30)] {
            for _ in 0..rounds {
                let idle = Duration::from_micros(idle);
                now = now + Duration::from_micros(work) + idle;
                spin.waited(idle, now);
            }
        }
        assert_eq!(spin.limit(), Duration::from_micros(50));
    }

    #[test]
    fn spin_can_be_forbidden() {
        let mut spin = Spin::new(Duration::ZERO);
        spin.waited(Duration::ZERO, Instant::EPOCH);
        assert!(spin.limit().is_zero());
    }

    #[test]
    fn engines_have_names() {
        for engine in [Engine::IoUring, Engine::Aio] {
            assert_eq!(engine.to_string().parse(), Ok(engine));
        }
        assert_eq!("uring".parse::<Engine>(), Err(ParseEngineError));
    }
}
