//! The sending half of a link: a bounded queue and the task that empties it.

use super::wire::Wire;
use super::{Failure, Frame, LinkError, STALL_MAX};
use crate::channel::{Permit, Semaphore};
use crate::{Reactor, SharedBuffer};
use ashlar_proto::FRAME_HEADER_BYTES;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Bytes that wait to be sent before [`super::Link::send`] waits: four frames of full size.
const QUEUE_BYTES_MAX: usize = 4 << 20;
/// Pieces at which a gathered send is full; one more frame may bring as many again.
const PIECES_MAX: usize = 256;
/// Bytes at which a gathered send is full.
const GATHER_BYTES_MAX: usize = 1 << 20;

/// See the module.
pub(super) struct Outbound {
    wire: RefCell<Option<Wire>>,
    failure: Failure,
    queue: RefCell<VecDeque<(Frame, Permit)>>,
    room: Semaphore,
    /// A gathered send is on its way.
    sending: Cell<bool>,
    /// No handle is left: send what is queued, then end.
    finishing: Cell<bool>,
    writer: RefCell<Option<Waker>>,
    drainers: RefCell<Vec<Waker>>,
}

impl Outbound {
    /// The half of `wire`, with its writer running.
    pub(super) fn start(reactor: &Reactor, wire: Wire, failure: Failure) -> Rc<Self> {
        let outbound = Rc::new(Self {
            wire: RefCell::new(Some(wire)),
            failure,
            queue: RefCell::default(),
            room: Semaphore::new(QUEUE_BYTES_MAX),
            sending: Cell::new(false),
            finishing: Cell::new(false),
            writer: RefCell::new(None),
            drainers: RefCell::default(),
        });
        drop(reactor.spawn(run_writer(reactor.clone(), Rc::clone(&outbound))));
        outbound
    }

    pub(super) async fn send(&self, frame: Frame) -> Result<(), LinkError> {
        let bytes = frame.bytes().min(QUEUE_BYTES_MAX);
        let permit = match self.room.try_acquire(bytes) {
            Some(permit) => permit,
            None => self.room.acquire(bytes).await,
        };
        if let Some(error) = self.failure.get() {
            return Err(error);
        }
        self.queue.borrow_mut().push_back((frame, permit));
        if !self.sending.get() {
            self.wake_writer();
        }
        Ok(())
    }

    /// Waits until nothing is queued or on its way.
    pub(super) async fn drained(&self) {
        poll_fn(|context| {
            if self.failure.is_set() || !self.sending.get() && self.queue.borrow().is_empty() {
                return Poll::Ready(());
            }
            self.drainers.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Ends the link, for `error` if it is the first reason.
    pub(super) fn fail(&self, error: LinkError) {
        self.failure.first_or(error);
        if let Some(wire) = &*self.wire.borrow() {
            wire.shutdown();
        }
        // Gives the permits back: senders that wait go on and see the failure.
        let queued = self.queue.take();
        drop(queued);
        self.wake_writer();
        self.wake_drainers();
    }

    /// The last handle is gone.
    pub(super) fn finish(&self) {
        self.finishing.set(true);
        self.wake_writer();
    }

    /// Takes the wire away; the writer ends.
    pub(super) fn take_wire(&self) -> Wire {
        assert!(
            !self.sending.get() && self.queue.borrow().is_empty(),
            "a link that sends cannot leave its reactor"
        );
        let wire = self.wire.take().expect("a link is detached once");
        self.failure.first_or(LinkError::Shutdown);
        self.wake_writer();
        wire
    }

    fn wake_writer(&self) {
        let writer = self.writer.take();
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    fn wake_drainers(&self) {
        for waker in self.drainers.take() {
            waker.wake();
        }
    }

    /// Waits for something to send; `None` when there never will be.
    async fn next_gather(&self, reactor: &Reactor) -> Option<(Wire, Gather)> {
        poll_fn(|context| {
            if self.failure.is_set() {
                return Poll::Ready(false);
            }
            if !self.queue.borrow().is_empty() {
                return Poll::Ready(true);
            }
            if self.finishing.get() {
                return Poll::Ready(false);
            }
            *self.writer.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await
        .then(|| {
            let wire = self.wire.borrow().clone()?;
            Some((wire, Gather::take(reactor, &mut self.queue.borrow_mut())))
        })?
    }
}

/// Sends what is queued until the link ends.
async fn run_writer(reactor: Reactor, outbound: Rc<Outbound>) {
    while let Some((wire, gather)) = outbound.next_gather(&reactor).await {
        outbound.sending.set(true);
        let Gather { pieces, permits } = gather;
        let sent = reactor.timeout(STALL_MAX, wire.send(pieces)).await;
        drop(permits);
        outbound.sending.set(false);
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(error)) => outbound.fail(error),
            Err(_) => outbound.fail(LinkError::Stalled),
        }
        if outbound.queue.borrow().is_empty() {
            outbound.wake_drainers();
        }
    }
    if outbound.finishing.get()
        && let Some(wire) = &*outbound.wire.borrow()
    {
        wire.shutdown();
    }
}

/// Frames that leave with one system call.
struct Gather {
    pieces: Vec<SharedBuffer>,
    permits: Vec<Permit>,
}

impl Gather {
    /// As many frames as fit into one send: headers and metadata copied into one buffer, data
    /// where it lies.
    fn take(reactor: &Reactor, queue: &mut VecDeque<(Frame, Permit)>) -> Self {
        let (mut bytes, mut pieces, mut frames, mut text_bytes) = (0, 0, 0, 0);
        for (frame, _) in queue.iter() {
            if bytes >= GATHER_BYTES_MAX || pieces >= PIECES_MAX {
                break;
            }
            bytes += frame.bytes();
            pieces += 1 + frame.data.len();
            text_bytes += FRAME_HEADER_BYTES + frame.meta.len();
            frames += 1;
        }
        let mut text = reactor.buffer(text_bytes);
        let mut at = 0;
        for (frame, _) in queue.iter().take(frames) {
            let header = frame.header.encode();
            text[at..at + FRAME_HEADER_BYTES].copy_from_slice(&header);
            at += FRAME_HEADER_BYTES;
            text[at..at + frame.meta.len()].copy_from_slice(&frame.meta);
            at += frame.meta.len();
        }
        let text = text.freeze();
        let mut gather = Self {
            pieces: Vec::with_capacity(pieces),
            permits: Vec::with_capacity(frames),
        };
        // Texts of frames without data lie next to each other: one piece for a run of them.
        let (mut from, mut to) = (0, 0);
        for (frame, permit) in queue.drain(..frames) {
            to += FRAME_HEADER_BYTES + frame.meta.len();
            if !frame.data.is_empty() {
                gather.pieces.push(text.slice(from..to));
                gather.pieces.extend(frame.data);
                from = to;
            }
            gather.permits.push(permit);
        }
        if from < to {
            gather.pieces.push(text.slice(from..to));
        }
        gather
    }
}
