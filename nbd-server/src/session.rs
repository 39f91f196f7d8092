//! The transmission phase of one connection.
//!
//! One task does all: it receives, starts requests, polls those in flight, and sends. Whatever
//! completed since its last turn leaves in one send.
//!
//! ```text
//! Input ──reader──▶ started ──▶ InFlight ──finished──▶ Outbox ──writer──▶ Transport
//!   ▲                                                              │
//!   └────────── admission: requests and bytes not yet answered ◀───┘
//! ```
//!
//! Invariants: a request is admitted before memory for it is taken, and its share is given back
//! when its reply is sent; so a client that sends without reading stops being read. One that keeps
//! memory which another waits for, and moves nothing, is dropped. After the server was told to
//! stop, requests in flight end, others get `NBD_ESHUTDOWN`.

use crate::catalog::ExportDevice;
use crate::contexts::Contexts;
use crate::execute::{Finished, Job, execute};
use crate::handshake::Negotiated;
use crate::reply::{Answer, Replies};
use crate::request::{Command, Refusal, RequestHeader, Rules};
use crate::wire::{Errno, command};
use ashlar_front_end::InFlight;
use ashlar_front_end::Input;
use ashlar_front_end::Limits;
use ashlar_front_end::Outbox;
use ashlar_front_end::Stop;
use ashlar_front_end::{Budget, Ration};
use ashlar_front_end::{Transport, TransportError};
use ashlar_reactor::meters::{Operation, Stage};
use ashlar_reactor::{PAGE_BYTES, Reactor};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// Longest payload of a refused request that is read and forgotten: beyond it, the client is
/// taken for an attacker. Twice what the specification says must not be.
const DRAIN_BYTES_MAX: u64 = 64 << 20;
/// Rounds of one turn: after these, other tasks get theirs.
const ROUNDS_MAX: usize = 32;

/// Why a transmission phase ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// The connection failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A request did not begin with its magic.
    #[error("request does not begin with its magic number")]
    BadMagic,
    /// A payload was longer than can be tolerated.
    #[error("request announced a payload of {0} bytes")]
    PayloadTooLong(u64),
    /// It kept memory that others waited for.
    #[error("client neither sent nor read while others waited for the memory of its requests")]
    Stalled,
    /// Requests in flight did not end in time after the server was told to stop.
    #[error("requests in flight did not end before the server stopped")]
    NotDrained,
}

/// How a transmission phase ended without a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client asked for it.
    Disconnected,
    /// The client just went away between two requests.
    Vanished,
    /// The server is being stopped.
    Stopped,
}

/// What reader, requests and writer share.
struct Shared<'a> {
    outbox: RefCell<Outbox>,
    started: RefCell<VecDeque<Job>>,
    requests: Cell<usize>,
    ration: Ration<'a>,
    limits: Limits,
    /// Transfers that only the client can end: a payload that comes, replies that go.
    transfers: Cell<usize>,
    /// Counts their beginnings and ends.
    transferred: Cell<u64>,
    /// Counts changes that somebody may wait for.
    changes: Cell<u64>,
}

impl Shared<'_> {
    fn changed(&self) {
        self.changes.set(self.changes.get().wrapping_add(1));
    }

    /// Waits until a request that takes `cost` bytes may be in flight.
    async fn admit(&self, cost: u64) {
        let has_taken = poll_fn(|_| {
            // The task polls this again after every change: no waker is needed.
            let held = self.ration.held();
            let fits = held == 0 || held.saturating_add(cost) <= self.limits.bytes_in_flight_max;
            if self.requests.get() >= self.limits.requests_in_flight_max.max(1) || !fits {
                return Poll::Pending;
            }
            match self.ration.try_take(cost) {
                true => Poll::Ready(true),
                // Others have it all. While it holds nothing, none of them waits for this one.
                false if held == 0 => Poll::Ready(false),
                false => Poll::Pending,
            }
        })
        .await;
        if !has_taken {
            self.ration.take_in_turn(cost).await;
        }
        self.requests.set(self.requests.get() + 1);
    }

    /// A transfer that only the client can end.
    async fn transfer<T>(&self, transfer: impl Future<Output = T>) -> T {
        let count = || {
            self.transferred.set(self.transferred.get().wrapping_add(1));
        };
        self.transfers.set(self.transfers.get() + 1);
        count();
        let output = transfer.await;
        self.transfers.set(self.transfers.get() - 1);
        count();
        output
    }
}

/// Serves a connection until its end.
pub(crate) async fn serve<D: ExportDevice>(
    reactor: &Reactor,
    negotiated: &mut Negotiated<D>,
    limits: Limits,
    budget: &Budget,
    stop: &Stop,
) -> Result<End, SessionError> {
    let Negotiated {
        input,
        device,
        rules,
        contexts,
        ..
    } = negotiated;
    let rules = *rules;
    let transport = input.transport().clone();
    let shared = Shared {
        outbox: RefCell::new(Outbox::new(reactor)),
        started: RefCell::default(),
        requests: Cell::new(0),
        ration: Ration::new(budget),
        limits,
        transfers: Cell::new(0),
        transferred: Cell::new(0),
        changes: Cell::new(0),
    };
    let replies = Replies {
        dialect: rules.dialect,
    };
    let mut in_flight = InFlight::new(limits.requests_in_flight_max.max(1));
    let mut reader = pin!(read_requests(input, device.clone(), &shared, rules, stop));
    let mut writer = pin!(write_replies(&transport, &shared));
    let mut drain = pin!(drain_deadline(reactor, stop, limits));
    let mut stall = pin!(stall_deadline(reactor, budget, &shared));
    let mut end = None;
    poll_fn(|context| {
        if drain.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(SessionError::NotDrained));
        }
        if stall.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(SessionError::Stalled));
        }
        for _ in 0..ROUNDS_MAX {
            let before = shared.changes.get();
            if end.is_none() {
                match reader.as_mut().poll(context) {
                    Poll::Ready(Ok(reached)) => end = Some(reached),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {}
                }
            }
            while let Some(job) = shared.started.borrow_mut().pop_front() {
                let (device, contexts) = (device.clone(), contexts.clone());
                in_flight.start(measured(reactor, device, contexts, job));
            }
            in_flight.poll(context, |finished| {
                let mut outbox = shared.outbox.borrow_mut();
                replies.put(&mut outbox, &finished.header, finished.answer);
                outbox.finish(finished.cost);
            });
            if let Poll::Ready(Err(error)) = writer.as_mut().poll(context) {
                return Poll::Ready(Err(error.into()));
            }
            if let (Some(end), 0) = (end, shared.requests.get()) {
                return Poll::Ready(Ok(end));
            }
            if shared.changes.get() == before {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// Ends when requests in flight have had their time after the server was told to stop.
async fn drain_deadline(reactor: &Reactor, stop: &Stop, limits: Limits) {
    stop.requested().await;
    reactor.sleep(limits.drain).await;
}

/// Ends when the client has had a transfer under way for a while, none other began or ended, and
/// another waits for the memory that it keeps.
async fn stall_deadline(reactor: &Reactor, budget: &Budget, shared: &Shared<'_>) {
    loop {
        budget.contended().await;
        let before = shared.transferred.get();
        reactor.sleep(shared.limits.stall).await;
        let stalled = shared.transfers.get() > 0 && shared.transferred.get() == before;
        if stalled && shared.ration.borrows() && budget.is_contended() {
            return;
        }
    }
}

/// The output of `future`, unless the server is told to stop first. The task waits for that word
/// in [`drain_deadline`] and then polls this again: no waker is needed.
async fn unless_stopped<T>(stop: &Stop, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if stop.is_requested() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Carries a request out and counts it.
async fn measured<D: ExportDevice>(
    reactor: &Reactor,
    device: D,
    contexts: Contexts,
    job: Job,
) -> Finished {
    let (operation, bytes) = counted(&job);
    let measure = reactor.measure(Stage::FrontEnd, operation, bytes);
    let finished = execute(device, contexts, job).await;
    if matches!(finished.answer, Answer::Failed(_)) {
        measure.fail();
    }
    finished
}

/// What a request counts as.
fn counted(job: &Job) -> (Operation, u64) {
    match &job.command {
        Ok(Command::Read { len, .. }) => (Operation::Read, u64::from(*len)),
        Ok(Command::Write { len, .. }) => (Operation::Write, u64::from(*len)),
        Ok(Command::Flush) => (Operation::Flush, 0),
        Ok(Command::Trim { len, .. } | Command::WriteZeroes { len, .. }) => {
            (Operation::Discard, *len)
        }
        _ => (Operation::Other, 0),
    }
}

/// Sends replies as they come, as many as there are at a time.
async fn write_replies(transport: &Transport, shared: &Shared<'_>) -> Result<(), TransportError> {
    loop {
        poll_fn(|_| {
            if shared.outbox.borrow().is_empty() {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
        let (pieces, done) = shared.outbox.borrow_mut().take();
        shared.transfer(transport.send(pieces)).await?;
        shared.requests.set(shared.requests.get() - done.requests);
        shared.ration.give_back(done.bytes);
        shared.changed();
    }
}

/// Reads requests and starts them until the client ends it, or the server is stopped.
async fn read_requests<D: ExportDevice>(
    input: &mut Input,
    device: D,
    shared: &Shared<'_>,
    rules: Rules,
    stop: &Stop,
) -> Result<End, SessionError> {
    let header_bytes = rules.dialect.request_bytes();
    loop {
        if input.available().len() < header_bytes {
            // Everything that came is being worked on: the moment to stop.
            if input.available().is_empty() {
                match unless_stopped(stop, input.fill(header_bytes)).await {
                    None => return Ok(End::Stopped),
                    Some(Err(TransportError::Closed)) if input.available().is_empty() => {
                        return Ok(End::Vanished);
                    }
                    Some(filled) => filled?,
                }
            } else {
                input.fill(header_bytes).await?;
            }
        }
        let header = RequestHeader::parse(rules.dialect, &input.available()[..header_bytes]);
        let header = header.ok_or(SessionError::BadMagic)?;
        input.consume(header_bytes);
        if header.command == command::DISC {
            return Ok(End::Disconnected);
        }
        let rules = rules.at(device.geometry().size_bytes);
        let job = read_request(input, shared, rules, stop, header).await?;
        shared.started.borrow_mut().push_back(job);
        shared.changed();
    }
}

/// Checks a request, admits it and reads its payload.
async fn read_request(
    input: &mut Input,
    shared: &Shared<'_>,
    rules: Rules,
    stop: &Stop,
    header: RequestHeader,
) -> Result<Job, SessionError> {
    let payload_bytes = header.payload_bytes(rules.dialect);
    let mut command = rules.check(&header);
    if stop.is_requested() {
        command = Err(Refusal {
            errno: Errno::Shutdown,
            reason: "server is shutting down",
        });
    }
    let cost = match command {
        Ok(Command::Read { len, .. } | Command::Write { len, .. }) => {
            u64::from(len).next_multiple_of(PAGE_BYTES as u64)
        }
        _ => 0,
    };
    shared.admit(cost).await;
    let mut payload = None;
    match command {
        Ok(Command::Write { len, .. }) => {
            let len = usize::try_from(len).expect("checked against the maximum");
            payload = Some(shared.transfer(input.payload(len)).await?);
        }
        Ok(Command::BlockStatusPayload { payload_bytes, one }) => {
            let len = usize::try_from(payload_bytes).expect("it is short");
            input.fill(len).await?;
            let fields = &input.available()[..len];
            command = rules.check_status_payload(header.offset, one, fields);
            input.consume(len);
        }
        _ if payload_bytes > DRAIN_BYTES_MAX => {
            return Err(SessionError::PayloadTooLong(payload_bytes));
        }
        _ => input.skip(payload_bytes).await?,
    }
    Ok(Job {
        header,
        command,
        payload,
        cost,
    })
}
