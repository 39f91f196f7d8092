//! A world: simulated processes on simulated hosts, one thread, one seed, virtual time.
//!
//! Invariants: whatever happens is decided by the seed; time stands still while tasks run (but for
//! a few nanoseconds a turn, so that a busy loop cannot stop it) and jumps to the next event when
//! nothing is runnable; which process runs next, which of its tasks, and which of several due
//! events comes first, are drawn.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::IpAddr;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::clock::{Clock, DRIFT_PPM_MAX};
use super::core::{Event, ProcessId, ProcessState, State};
use super::disk::{DiskSlot, DiskSpec, SimDisk};
use super::driver::SimDriver;
use super::fault::NetFaults;
use super::net::Host;
use super::rng::Rng;
use super::trace::Trace;
use crate::driver::Wait;
use crate::{BufferPool, Instant, Reactor};

/// Tasks polled in one turn of a process, at most.
const POLLS_MAX: u64 = 16;
/// Nanoseconds that a turn takes, at most.
const TURN_NS_MAX: u64 = 200;
/// Clocks of processes differ by up to this much.
const CLOCK_OFFSET_MAX_NS: u64 = 1 << 40;

/// What the handles of one world share.
pub(super) struct Core {
    seed: u64,
    pub state: RefCell<State>,
    reactors: RefCell<Vec<(ProcessId, Reactor)>>,
    ticked: Cell<bool>,
}

/// A simulated world. Cheap to clone; its processes end with the last handle.
#[derive(Clone)]
pub struct World {
    core: Rc<Core>,
    _end: Rc<End>,
}

/// Ends the processes: each holds the world, which holds them.
struct End(Rc<Core>);

impl Drop for End {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return; // the state may be borrowed further up
        }
        let ids: Vec<ProcessId> = self
            .0
            .reactors
            .borrow()
            .iter()
            .map(|entry| entry.0)
            .collect();
        for id in ids {
            self.0.kill(id, false);
        }
    }
}

/// A simulated process: one life, from its start to its crash.
#[derive(Clone)]
pub struct Process {
    core: Rc<Core>,
    id: ProcessId,
    reactor: Reactor,
}

/// Why a run of a world ended without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimError {
    /// Nothing is runnable and nothing will ever happen: a deadlock.
    #[error("the world stands still: no task is runnable, no event is due")]
    Stuck,
    /// The limit of virtual time passed first.
    #[error("the limit of virtual time passed")]
    TimedOut,
}

impl World {
    /// The world of a seed, empty.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with(seed, Trace::default())
    }

    /// The same, that also keeps its last events as text: see [`World::trace_lines`].
    #[must_use]
    pub fn traced(seed: u64) -> Self {
        Self::with(seed, Trace::with_lines())
    }

    fn with(seed: u64, trace: Trace) -> Self {
        let core = Core {
            seed,
            state: RefCell::new(State::new(Rng::new(seed), trace)),
            reactors: RefCell::default(),
            ticked: Cell::new(false),
        };
        let core = Rc::new(core);
        Self {
            _end: Rc::new(End(Rc::clone(&core))),
            core,
        }
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.core.seed
    }

    /// Virtual time since the world began, by no process's clock.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant::from_nanos(self.core.state.borrow().now_ns)
    }

    /// The hash over all events so far.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.core.state.borrow().trace.hash()
    }

    /// The number of events so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.core.state.borrow().trace.events()
    }

    /// The last events as text, when the world was made by [`World::traced`].
    #[must_use]
    pub fn trace_lines(&self) -> Vec<String> {
        self.core.state.borrow().trace.lines()
    }

    /// Mixes an event of the test into the trace.
    pub fn note(&self, what: &'static str, figures: [u64; 3]) {
        let mut state = self.core.state.borrow_mut();
        let now_ns = state.now_ns;
        state.trace.event(now_ns, what, figures);
    }

    /// A generator for a test's own choices, drawn from the world's.
    #[must_use]
    pub fn fork_rng(&self) -> Rng {
        self.core.state.borrow_mut().rng.fork()
    }

    // Processes.

    /// From now on the clocks of new processes run up to so many millionths too fast or too slow.
    ///
    /// # Panics
    /// At more than half.
    pub fn let_clocks_drift(&self, ppm_max: u32) {
        assert!(ppm_max <= DRIFT_PPM_MAX);
        self.core.state.borrow_mut().drift_ppm_max = ppm_max;
    }

    /// Starts a process on the host with this address, with a clock of its own.
    #[must_use]
    pub fn process(&self, name: &str, host: IpAddr) -> Process {
        let (id, order_seed) = {
            let mut state = self.core.state.borrow_mut();
            let offset_ns = state.rng.below(CLOCK_OFFSET_MAX_NS);
            let rate_ppm = match state.drift_ppm_max {
                0 => 1_000_000,
                most => {
                    let (low, high) = (1_000_000 - most, 1_000_000 + most);
                    let rate = state.rng.between(u64::from(low), u64::from(high));
                    u32::try_from(rate).unwrap_or(1_000_000)
                }
            };
            let clock = Clock::new(state.now_ns, offset_ns, rate_ppm);
            let id = ProcessId(state.processes.len());
            state
                .processes
                .push(ProcessState::new(name, Host(host), clock));
            state.net.set_dark(Host(host), false);
            (id, state.rng.next_u64())
        };
        let driver = SimDriver {
            world: Rc::clone(&self.core),
            process: id,
        };
        let reactor = Reactor::over(Rc::new(driver), BufferPool::new());
        reactor.shuffle_tasks(Rng::new(order_seed));
        self.core.reactors.borrow_mut().push((id, reactor.clone()));
        Process {
            core: Rc::clone(&self.core),
            id,
            reactor,
        }
    }

    /// Power fails at a host: its processes die, its disks keep any subset of what was not
    /// flushed, its peers hear nothing until a process runs there again.
    pub fn power_loss(&self, host: IpAddr) {
        self.note("power loss", [0; 3]);
        let host = Host(host);
        let dying: Vec<ProcessId> = {
            let mut state = self.core.state.borrow_mut();
            state.net.set_dark(host, true);
            let on_host =
                |(_, process): &(usize, &ProcessState)| process.alive && process.host == host;
            let processes = state.processes.iter().enumerate().filter(on_host);
            processes.map(|(index, _)| ProcessId(index)).collect()
        };
        for process in dying {
            self.core.kill(process, true);
        }
        let mut state = self.core.state.borrow_mut();
        let state = &mut *state;
        for slot in state.disks.iter_mut().filter(|slot| slot.host == host) {
            slot.device.power_loss(&mut state.rng);
        }
    }

    // Disks.

    /// Puts a disk into a host. It belongs to the world: crashes and restarts leave it there.
    ///
    /// # Panics
    /// When there is one with that path.
    pub fn add_disk(&self, host: IpAddr, path: impl AsRef<Path>, spec: DiskSpec) -> SimDisk {
        let path = path.as_ref();
        assert!(
            self.find_disk(host, path).is_none(),
            "{} exists",
            path.display()
        );
        let mut state = self.core.state.borrow_mut();
        state.disks.push(DiskSlot::new(Host(host), path, spec));
        self.sim_disk(state.disks.len() - 1)
    }

    /// The disk of a host with that path.
    #[must_use]
    pub fn find_disk(&self, host: IpAddr, path: impl AsRef<Path>) -> Option<SimDisk> {
        let state = self.core.state.borrow();
        let same = |slot: &DiskSlot| slot.host == Host(host) && slot.path == path.as_ref();
        state
            .disks
            .iter()
            .position(same)
            .map(|index| self.sim_disk(index))
    }

    fn sim_disk(&self, index: usize) -> SimDisk {
        SimDisk {
            world: Rc::clone(&self.core),
            index,
        }
    }

    // The network.

    /// Changes what is wrong with the network.
    pub fn net_faults(&self, change: impl FnOnce(&mut NetFaults)) {
        change(&mut self.core.state.borrow_mut().net.faults);
    }

    /// Nothing gets from one host to the other any more; the way back stays.
    pub fn cut(&self, from: IpAddr, to: IpAddr) {
        self.set_cut(from, to, true);
    }

    /// Nothing gets from one host to the other, nor back.
    pub fn partition(&self, one: IpAddr, other: IpAddr) {
        self.set_cut(one, other, true);
        self.set_cut(other, one, true);
    }

    /// All cuts heal: what was held up arrives.
    pub fn heal(&self) {
        let mut state = self.core.state.borrow_mut();
        let now_ns = state.now_ns;
        state.net.heal(now_ns);
        state.settle_net();
    }

    fn set_cut(&self, from: IpAddr, to: IpAddr, cut: bool) {
        let mut state = self.core.state.borrow_mut();
        let now_ns = state.now_ns;
        state.net.set_cut(Host(from), Host(to), cut, now_ns);
        state.settle_net();
    }

    // Running.

    /// Runs the world until the future ends. The future belongs to the test, outside of all
    /// processes: it may crash any of them.
    ///
    /// # Errors
    /// [`SimError`] when the world stands still or `limit` of virtual time has passed.
    pub fn run<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Result<T, SimError> {
        let mut future = pin!(future);
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&flag));
        let end = self.now() + limit;
        loop {
            if flag.0.swap(false, Ordering::Relaxed) | self.core.ticked.take() {
                let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
                if let Poll::Ready(result) = polled {
                    return Ok(result);
                }
                continue;
            }
            if self.now() >= end {
                return Err(SimError::TimedOut);
            }
            if !self.core.step(end.as_nanos()) {
                return Err(SimError::Stuck);
            }
        }
    }

    /// Runs the world for some virtual time.
    pub fn run_for(&self, duration: Duration) {
        let end = self.now() + duration;
        while self.now() < end && self.core.step(end.as_nanos()) {}
        let mut state = self.core.state.borrow_mut();
        state.now_ns = state.now_ns.max(end.as_nanos());
    }

    /// Runs at most that many steps: turns of processes and events. False when all stands still.
    pub fn run_steps(&self, steps: u64) -> bool {
        (0..steps).all(|_| self.core.step(u64::MAX))
    }

    /// For a future given to [`World::run`]: waits in virtual time.
    pub async fn sleep(&self, duration: Duration) {
        let at = self.now() + duration;
        let core = Rc::clone(&self.core);
        core.state.borrow_mut().schedule(at.as_nanos(), Event::Tick);
        std::future::poll_fn(|_| {
            if self.now() >= at {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "World(seed {})", self.core.seed)
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What one step may do.
enum Choice {
    Turn(usize),
    Event,
}

impl Core {
    /// One turn of a process or one event, at most up to `end_ns`; false when all stands still.
    fn step(&self, end_ns: u64) -> bool {
        match self.choose() {
            Some(Choice::Turn(index)) => self.turn(index),
            Some(Choice::Event) => self.event(),
            None => return self.advance(end_ns),
        }
        true
    }

    fn choose(&self) -> Option<Choice> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let reactors = self.reactors.borrow();
        let event_due = state.next_event_ns().is_some_and(|at| at <= state.now_ns);
        let now_ns = state.now_ns;
        let runnable = |(id, reactor): &(ProcessId, Reactor)| {
            let process = &state.processes[id.0];
            process.stalled_until_ns <= state.now_ns
                && (reactor.has_ready()
                    || !process.completions.is_empty()
                    || reactor.shared().is_pending()
                    || reactor
                        .next_timer()
                        .is_some_and(|at| at.as_nanos() <= process.clock.shows(now_ns)))
        };
        let ready = reactors.iter().filter(|entry| runnable(entry)).count();
        let choices = ready + usize::from(event_due);
        if choices == 0 {
            return None;
        }
        let drawn = state.rng.index(choices);
        let chosen = reactors
            .iter()
            .enumerate()
            .filter(|(_, entry)| runnable(entry))
            .nth(drawn);
        Some(chosen.map_or(Choice::Event, |(index, _)| Choice::Turn(index)))
    }

    fn turn(&self, index: usize) {
        let (id, reactor) = {
            let reactors = self.reactors.borrow();
            (reactors[index].0, reactors[index].1.clone())
        };
        let polls_max = {
            let mut state = self.state.borrow_mut();
            state.now_ns += state.rng.between(1, TURN_NS_MAX);
            1 + state.rng.index(usize::try_from(POLLS_MAX).unwrap_or(1))
        };
        reactor.take_messages();
        reactor.fire_timers(reactor.now());
        let completed = reactor.poll_driver(Wait::No);
        let polled = reactor.run_ready(polls_max);
        let mut state = self.state.borrow_mut();
        let now_ns = state.now_ns;
        let figures = [id.0, completed, polled].map(|n| u64::try_from(n).unwrap_or(u64::MAX));
        state.trace.event(now_ns, "turn", figures);
    }

    fn event(&self) {
        let mut state = self.state.borrow_mut();
        if state.handle_next_event() == Some(Event::Tick) {
            self.ticked.set(true);
        }
    }

    /// Moves the clock to the next event or timer; false when there is none.
    fn advance(&self, end_ns: u64) -> bool {
        let mut state = self.state.borrow_mut();
        let reactors = self.reactors.borrow();
        let timers = reactors.iter().filter_map(|(id, reactor)| {
            let process = &state.processes[id.0];
            let at = reactor.next_timer().filter(|&at| at != Instant::FAR)?;
            let at_ns = process.clock.reaches(at.as_nanos());
            Some(at_ns.max(process.stalled_until_ns))
        });
        let next_ns = timers.chain(state.next_event_ns()).min();
        let Some(next_ns) = next_ns else {
            return false;
        };
        state.now_ns = state.now_ns.max(next_ns.min(end_ns));
        true
    }

    fn kill(&self, id: ProcessId, dark: bool) {
        self.state.borrow_mut().bury(id, dark);
        let reactor = {
            let mut reactors = self.reactors.borrow_mut();
            let found = reactors.iter().position(|entry| entry.0 == id);
            found.map(|index| reactors.remove(index).1)
        };
        if let Some(reactor) = reactor {
            reactor.stop();
        }
    }
}

impl Process {
    /// The handle that the process's code works through.
    #[must_use]
    pub fn reactor(&self) -> &Reactor {
        &self.reactor
    }

    /// The name it was started with.
    #[must_use]
    pub fn name(&self) -> String {
        self.core.state.borrow_mut().process(self.id).name.clone()
    }

    /// Whether it has not crashed.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.core.state.borrow_mut().process(self.id).alive
    }

    /// Its tasks do not run for a while, as if it were suspended. Its clock goes on, its disks and
    /// its peers do, and what comes for it waits.
    pub fn stall(&self, time: Duration) {
        let mut state = self.core.state.borrow_mut();
        let (now_ns, id) = (state.now_ns, u64::try_from(self.id.0).unwrap_or(u64::MAX));
        let end = Instant::from_nanos(now_ns) + time;
        state.trace.event(now_ns, "stall", [id, end.as_nanos(), 0]);
        let process = state.process(self.id);
        process.stalled_until_ns = process.stalled_until_ns.max(end.as_nanos());
        // What it has ready by then has no timer.
        state.schedule(end.as_nanos(), Event::Tick);
    }

    /// Kills it where it stands: its tasks are dropped at whatever they await, any part of its
    /// writes in flight happens, its disks keep their caches, its peers are reset. Must not be
    /// called by a task of the process itself.
    pub fn crash(&self) {
        {
            let mut state = self.core.state.borrow_mut();
            let (now_ns, id) = (state.now_ns, u64::try_from(self.id.0).unwrap_or(u64::MAX));
            state.trace.event(now_ns, "crash", [id, 0, 0]);
            if !state.process(self.id).alive {
                return;
            }
        }
        self.core.kill(self.id, false);
    }
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Process({})", self.name())
    }
}
