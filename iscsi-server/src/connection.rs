//! The full feature phase of one connection of a normal session (RFC 7143 section 4).
//!
//! One task does all: it receives, begins commands, polls those that run, and sends. Whatever
//! completed since its last turn leaves in one send.
//!
//! ```text
//! Input ──reader──▶ order of the session ──▶ commands ──▶ InFlight ──▶ answer ──▶ Outbox ──▶ writer
//!            ▲                                │    ▲
//!            └───────── Data-Out ◀──── R2T ───┘    └── admission: memory, in turn
//! ```
//!
//! Invariants: memory for a command is granted before its data is received, and given back when its
//! answer was sent; the reader waits for memory only while nothing that holds memory waits for what
//! comes behind; an execution that was begun is polled to its end even when the connection is gone.

mod admission;
mod answer;
mod commands;
mod data;
mod jobs;
mod outgoing;
mod reader;
mod texts;
mod watch;

use crate::catalog::TargetCatalog;
use crate::discovery::TextExchange;
use crate::framing::{FramingError, Segment};
use crate::link::{Close, Link};
use crate::parameters::ConnectionParameters;
use crate::pdu::{AsyncEvent, Response};
use crate::session::Session;
use crate::sessions::Registry;
use crate::task::{Phase, Task};
use crate::transfer::TransferError;
use ashlar_front_end::{Budget, InFlight, Input, Outbox, Ration, Stop, TransportError};
use ashlar_reactor::Instant;
use ashlar_reactor::future::race;
use jobs::{Finished, Job};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// Rounds of one turn: after these, other tasks get theirs.
const ROUNDS_MAX: usize = 32;
/// Jobs at a time beside the commands of the window: immediate commands and requests.
const EXTRA_JOBS_MAX: usize = 64;
/// Bytes of answers, data not counted, that wait for an initiator to read them.
const CHATTER_BYTES_MAX: usize = 256 << 10;
/// How long the last words to an initiator may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an initiator may take to read them and close.
const LINGER: Duration = Duration::from_secs(1);

/// Why a connection was dropped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    /// The stream of PDUs cannot be read on.
    #[error(transparent)]
    Framing(#[from] FramingError),
    /// Data of a write did not come as it has to.
    #[error("data of task {itt:#x}: {error}")]
    Transfer {
        /// Its initiator task tag.
        itt: u32,
        /// What was wrong.
        error: TransferError,
    },
    /// A PDU that must not come in this phase, or not as it is.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// The initiator does not answer.
    #[error("initiator did not {0} in time")]
    Silent(&'static str),
    /// It kept memory that others waited for.
    #[error("initiator neither sent nor read while others waited for the memory of its commands")]
    Stalled,
}

impl From<TransportError> for ConnectionError {
    fn from(error: TransportError) -> Self {
        Self::Framing(error.into())
    }
}

/// How a connection ended without a fault of its initiator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    LoggedOut,
    /// The initiator just went away.
    Vanished,
    Closed(Close),
    /// The server is being stopped.
    Stopped,
}

/// What the parts of a connection share.
pub(crate) struct Connection<'a, C: TargetCatalog> {
    pub(crate) registry: Rc<Registry<C>>,
    pub(crate) session: Rc<Session<C>>,
    pub(crate) link: Rc<Link>,
    parameters: Cell<ConnectionParameters>,
    /// Where the initiator came to, for `SendTargets`.
    portal: String,
    outbox: RefCell<Outbox>,
    stat_sn: Cell<u32>,
    ration: Ration<'a>,
    /// Tasks that wait for memory, in turn.
    parked: RefCell<VecDeque<Rc<Task>>>,
    /// Tasks that wait for older ones.
    dormant: RefCell<Vec<Rc<Task>>>,
    jobs: RefCell<VecDeque<Job>>,
    jobs_running: Cell<usize>,
    text: RefCell<TextExchange>,
    sending: Cell<bool>,
    /// Bytes of answers that were put and not sent.
    chatter: Cell<usize>,
    /// The logout's response was put: nothing follows it.
    logged_out: Cell<bool>,
    /// When the last PDU came.
    heard: Cell<Instant>,
    /// When the target was last looked up, and since when it is gone.
    looked_up: Cell<Instant>,
    withdrawn: Cell<Option<Instant>>,
    /// When data was last asked for, or came.
    asked: Cell<Instant>,
    /// Since when the rest of a PDU is waited for.
    reading_since: Cell<Option<Instant>>,
    /// Since when a ping waits for its answer.
    pinged: Cell<Option<Instant>>,
    /// Transfers that only the initiator can end, and the count of their beginnings and ends.
    transfers: Cell<usize>,
    transferred: Cell<u64>,
    /// Counts changes that somebody may wait for.
    changes: Cell<u64>,
}

/// What a login has made.
pub(crate) struct LoggedIn<C: TargetCatalog> {
    pub(crate) session: Rc<Session<C>>,
    pub(crate) link: Rc<Link>,
    pub(crate) parameters: ConnectionParameters,
    pub(crate) stat_sn: u32,
    pub(crate) portal: String,
}

impl<'a, C: TargetCatalog> Connection<'a, C> {
    pub(crate) fn new(registry: &Rc<Registry<C>>, budget: &'a Budget, made: LoggedIn<C>) -> Self {
        Self {
            registry: Rc::clone(registry),
            session: made.session,
            link: made.link,
            parameters: Cell::new(made.parameters),
            portal: made.portal,
            outbox: RefCell::new(Outbox::new(&registry.reactor)),
            stat_sn: Cell::new(made.stat_sn),
            ration: Ration::new(budget),
            parked: RefCell::default(),
            dormant: RefCell::default(),
            jobs: RefCell::default(),
            jobs_running: Cell::new(0),
            text: RefCell::default(),
            sending: Cell::new(false),
            chatter: Cell::new(0),
            logged_out: Cell::new(false),
            heard: Cell::new(registry.reactor.now()),
            looked_up: Cell::new(registry.reactor.now()),
            withdrawn: Cell::new(None),
            asked: Cell::new(registry.reactor.now()),
            reading_since: Cell::new(None),
            pinged: Cell::new(None),
            transfers: Cell::new(0),
            transferred: Cell::new(0),
            changes: Cell::new(0),
        }
    }

    /// Serves the connection to its end, which is also the end of its tasks.
    pub(crate) async fn serve(
        &self,
        input: &mut Input,
        budget: &Budget,
        stop: &Stop,
    ) -> Result<End, ConnectionError> {
        let limits = self.registry.options.limits;
        let slots = limits.requests_in_flight_max.max(1) + 2 * EXTRA_JOBS_MAX;
        let mut in_flight = InFlight::new(slots);
        let make = |job| {
            let (registry, session) = (Rc::clone(&self.registry), Rc::clone(&self.session));
            jobs::run(registry, session, self.portal.clone(), job)
        };
        let transport = input.transport().clone();
        let end = self.run(input, budget, stop, (&mut in_flight, &make)).await;
        let last_words = matches!(end, Ok(End::Closed(Close::Reset | Close::Withdrawn)));
        if last_words {
            self.say(&Response::Async(AsyncEvent::SessionDropped), &Segment::NONE);
        }
        let reactor = &self.registry.reactor;
        if !matches!(end, Ok(End::Vanished | End::Closed(Close::Reinstated))) {
            let _ = reactor.timeout(FLUSH_TIMEOUT, self.flush(&transport)).await;
        }
        if matches!(end, Ok(End::Closed(Close::OwnReset))) {
            // A close that comes with the response makes some initiators miss it.
            let _ = reactor.timeout(LINGER, input.skip(u64::MAX)).await;
        }
        transport.close().await;
        self.wind_up(&end, in_flight, stop).await;
        end
    }

    /// Ends the tasks of the connection, and the session with it where it cannot go on.
    async fn wind_up<F: Future<Output = Finished>>(
        &self,
        end: &Result<End, ConnectionError>,
        mut in_flight: InFlight<F>,
        stop: &Stop,
    ) {
        if matches!(end, Err(_) | Ok(End::Vanished)) {
            // Recovery level 0: commands that were lost with this connection leave a gap that
            // nothing fills.
            for link in self.session.links() {
                if !Rc::ptr_eq(&link, &self.link) {
                    link.close(Close::SessionFailed);
                }
            }
        }
        self.session
            .abort(|task| Rc::ptr_eq(&task.link, &self.link));
        for job in self.jobs.take() {
            if let Job::Command(task) = job {
                task.enter(Phase::Settled);
                self.session.remove(&task);
            }
        }
        let drained = poll_fn(|context| {
            in_flight.poll(context, |finished| {
                if let Finished::Command(task, _) = finished {
                    self.session.remove(&task);
                }
            });
            if in_flight.is_empty() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        let reactor = &self.registry.reactor;
        let drain = self.registry.options.limits.drain;
        let given_up = async {
            stop.requested().await;
            reactor.sleep(drain).await;
        };
        race(drained, given_up).await;
        self.session.leave(&self.link);
    }

    async fn run<F: Future<Output = Finished>>(
        &self,
        input: &mut Input,
        budget: &Budget,
        stop: &Stop,
        (in_flight, make): (&mut InFlight<F>, &impl Fn(Job) -> F),
    ) -> Result<End, ConnectionError> {
        let transport = input.transport().clone();
        let mut reader = pin!(self.read(input));
        let mut writer = pin!(self.write(&transport));
        let mut admission = pin!(self.admit_in_turn());
        let mut watch = pin!(self.watch());
        let mut stall = pin!(self.stall(budget));
        let mut stopping = pin!(self.stopping(stop));
        poll_fn(|context| {
            self.link.attend(context);
            if let Poll::Ready(error) = watch.as_mut().poll(context) {
                return Poll::Ready(Err(error));
            }
            if stall.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(ConnectionError::Stalled));
            }
            if stopping.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(End::Stopped));
            }
            for _ in 0..ROUNDS_MAX {
                let before = self.changes.get();
                if !self.logged_out.get()
                    && let Poll::Ready(end) = reader.as_mut().poll(context)
                {
                    return Poll::Ready(end);
                }
                self.begin_delivered();
                let _: Poll<std::convert::Infallible> = admission.as_mut().poll(context);
                self.start_jobs(in_flight, make);
                in_flight.poll(context, |finished| self.finish(finished));
                if let Poll::Ready(Err(error)) = writer.as_mut().poll(context) {
                    return Poll::Ready(Err(error.into()));
                }
                if let Some(end) = self.reached_end() {
                    return Poll::Ready(Ok(end));
                }
                if self.changes.get() == before {
                    return Poll::Pending;
                }
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    fn start_jobs<F: Future<Output = Finished>>(
        &self,
        in_flight: &mut InFlight<F>,
        make: &impl Fn(Job) -> F,
    ) {
        loop {
            let job = self.jobs.borrow_mut().pop_front();
            let Some(job) = job else { return };
            self.jobs_running.set(self.jobs_running.get() + 1);
            in_flight.start(make(job));
        }
    }

    fn reached_end(&self) -> Option<End> {
        if let Some(why) = self.link.is_closing() {
            return Some(End::Closed(why));
        }
        (self.logged_out.get() && self.is_flushed()).then_some(End::LoggedOut)
    }

    fn changed(&self) {
        self.changes.set(self.changes.get().wrapping_add(1));
    }

    /// Notes that something moved between the initiator and us.
    fn moved(&self) {
        self.transferred.set(self.transferred.get().wrapping_add(1));
    }

    /// A transfer that only the initiator can end.
    async fn transfer<T>(&self, transfer: impl Future<Output = T>) -> T {
        self.transfers.set(self.transfers.get() + 1);
        let output = transfer.await;
        self.transfers.set(self.transfers.get() - 1);
        self.moved();
        output
    }
}
