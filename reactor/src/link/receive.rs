//! The receiving half of a link: takes a stream of bytes apart into frames.
//!
//! The reader is one future that lives as long as the link and is polled by whoever receives, so
//! that a receive that is dropped loses neither bytes nor its place.

use super::security::Watch;
use super::wire::Wire;
use super::{Failure, Frame, LinkError, STALL_MAX};
use crate::{Buffer, Reactor};
use ashlar_proto::frame::open_meta;
use ashlar_proto::{FRAME_HEADER_BYTES, FrameHeader};
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

/// Bytes received at once, ahead of their frames.
const STAGE_BYTES: usize = 64 << 10;

type ReaderFuture = Pin<Box<dyn Future<Output = LinkError>>>;

/// See the module.
pub(super) struct Inbound {
    shared: Rc<Shared>,
    reader: RefCell<ReaderFuture>,
}

struct Shared {
    reactor: Reactor,
    /// Gone when the link is detached.
    wire: RefCell<Option<Wire>>,
    failure: Failure,
    /// Where the peer may come to be let in no more.
    watch: Option<Watch>,
    /// The frame that the reader has finished and nobody has taken yet.
    frame: RefCell<Option<Frame>>,
    stage: RefCell<Stage>,
    receiving: Cell<bool>,
}

/// Bytes that were received and belong to no frame yet: `buffer[start..end]`.
#[derive(Default)]
struct Stage {
    /// None before the first receive and while the kernel has it.
    buffer: Option<Buffer>,
    start: usize,
    end: usize,
}

impl Stage {
    fn len(&self) -> usize {
        self.end - self.start
    }

    /// Moves what there is to `target`, as much as fits; tells how much.
    fn take(&mut self, target: &mut [u8]) -> usize {
        let len = self.len().min(target.len());
        if let Some(buffer) = &self.buffer {
            target[..len].copy_from_slice(&buffer[self.start..self.start + len]);
            self.start += len;
        }
        len
    }
}

impl Inbound {
    /// The half of `wire`, of which `staged` was received already.
    pub(super) fn new(reactor: &Reactor, wire: Wire, failure: Failure, staged: &[u8]) -> Self {
        let mut stage = Stage::default();
        if !staged.is_empty() {
            let mut buffer = reactor.buffer(staged.len().max(STAGE_BYTES));
            buffer[..staged.len()].copy_from_slice(staged);
            stage.end = staged.len();
            stage.buffer = Some(buffer);
        }
        let shared = Rc::new(Shared {
            watch: Watch::of(reactor, &wire),
            reactor: reactor.clone(),
            wire: RefCell::new(Some(wire)),
            failure,
            frame: RefCell::new(None),
            stage: RefCell::new(stage),
            receiving: Cell::new(false),
        });
        let reader = RefCell::new(Box::pin(run_reader(Rc::clone(&shared))) as ReaderFuture);
        Self { shared, reader }
    }

    pub(super) async fn recv(&self) -> Result<Frame, LinkError> {
        poll_fn(|context| {
            let shared = &*self.shared;
            if let Some(error) = shared.failure.get() {
                return Poll::Ready(Err(error));
            }
            let polled = match self.reader.try_borrow_mut() {
                Ok(mut reader) => reader.as_mut().poll(context),
                Err(_) => Poll::Pending, // only a receive from within the reader could see this
            };
            if let Poll::Ready(error) = polled {
                let error = shared.failure.first_or(error);
                if let Some(wire) = &*shared.wire.borrow() {
                    wire.shutdown();
                }
                return Poll::Ready(Err(error));
            }
            match shared.frame.take() {
                Some(frame) => Poll::Ready(Ok(frame)),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// The bytes received in advance; the stream is given up.
    pub(super) fn take_staged(&self) -> Result<Vec<u8>, LinkError> {
        let shared = &*self.shared;
        if let Some(error) = shared.failure.get() {
            return Err(error);
        }
        assert!(
            !shared.receiving.get() && shared.frame.borrow().is_none(),
            "a link that receives cannot leave its reactor"
        );
        drop(shared.wire.take());
        let mut stage = shared.stage.borrow_mut();
        let mut staged = vec![0; stage.len()];
        stage.take(&mut staged);
        Ok(staged)
    }
}

/// Receives frame after frame, the next one only when the last was taken.
async fn run_reader(shared: Rc<Shared>) -> LinkError {
    loop {
        match shared.next_frame().await {
            Ok(frame) => *shared.frame.borrow_mut() = Some(frame),
            Err(error) => return error,
        }
        let mut given = false;
        poll_fn(|_| {
            if given {
                return Poll::Ready(());
            }
            given = true;
            Poll::Pending // the frame is there: the receiver polls again when it wants another
        })
        .await;
    }
}

impl Shared {
    async fn next_frame(&self) -> Result<Frame, LinkError> {
        if self.stage.borrow().len() == 0 {
            self.fill().await?;
        }
        let frame = if self.has_next_whole() {
            self.rest_of_frame().await?
        } else {
            // The rest is not here yet: the peer has begun and must go on.
            let rest = self.rest_of_frame();
            let result = self.reactor.timeout(STALL_MAX, rest).await;
            result.unwrap_or(Err(LinkError::Stalled))?
        };
        self.judge()?;
        Ok(frame)
    }

    /// Refuses what a peer says that is let in no more.
    fn judge(&self) -> Result<(), LinkError> {
        match (&self.watch, &*self.wire.borrow()) {
            (Some(watch), Some(wire)) => watch.judge(wire),
            _ => Ok(()),
        }
    }

    /// Whether a small frame lies in the stage as a whole: it needs no time limit.
    fn has_next_whole(&self) -> bool {
        let stage = self.stage.borrow();
        let Some(buffer) = &stage.buffer else {
            return false;
        };
        let bytes = &buffer[stage.start..stage.end];
        let Some(lengths) = bytes.get(12..16) else {
            return false;
        };
        let meta_words = u16::from_le_bytes([lengths[0], lengths[1]]);
        let data_blocks = u16::from_le_bytes([lengths[2], lengths[3]]);
        let payload = usize::from(meta_words) * 4 + usize::from(data_blocks) * crate::PAGE_BYTES;
        bytes.len() >= FRAME_HEADER_BYTES + payload
    }

    async fn rest_of_frame(&self) -> Result<Frame, LinkError> {
        let mut header = [0; FRAME_HEADER_BYTES];
        self.read_staged(&mut header).await?;
        let header = FrameHeader::decode(&header)?;
        let mut meta = vec![0; header.meta_bytes()];
        self.read_staged(&mut meta).await?;
        open_meta(&meta)?;
        let data = match header.data_bytes() {
            0 => Vec::new(),
            bytes => vec![self.read_data(bytes).await?.freeze()],
        };
        Ok(Frame { header, meta, data })
    }

    /// Fills `target` by way of the stage.
    async fn read_staged(&self, target: &mut [u8]) -> Result<(), LinkError> {
        let mut done = 0;
        loop {
            done += self.stage.borrow_mut().take(&mut target[done..]);
            if done == target.len() {
                return Ok(());
            }
            self.fill().await.map_err(cut)?;
        }
    }

    /// A payload: what lies in the stage is copied, the rest arrives where it stays.
    async fn read_data(&self, bytes: usize) -> Result<Buffer, LinkError> {
        let mut buffer = self.reactor.buffer(bytes);
        let mut done = self.stage.borrow_mut().take(&mut buffer);
        while done < bytes {
            let (back, received) = self.receive(buffer, done).await;
            buffer = back;
            done += received.map_err(cut)?;
        }
        Ok(buffer)
    }

    /// Receives into the empty stage, at least one byte.
    async fn fill(&self) -> Result<(), LinkError> {
        let buffer = self.stage.borrow_mut().buffer.take();
        let buffer = buffer.unwrap_or_else(|| self.reactor.buffer(STAGE_BYTES));
        let (buffer, received) = self.receive(buffer, 0).await;
        let mut stage = self.stage.borrow_mut();
        stage.buffer = Some(buffer);
        (stage.start, stage.end) = (0, 0);
        stage.end = received?;
        Ok(())
    }

    async fn receive(&self, buffer: Buffer, from: usize) -> (Buffer, Result<usize, LinkError>) {
        let Some(wire) = self.wire.borrow().clone() else {
            return (buffer, Err(LinkError::Shutdown));
        };
        self.receiving.set(true);
        let (buffer, received) = wire.recv_at(buffer, from).await;
        self.receiving.set(false);
        let received = match received {
            Ok(0) => Err(LinkError::Closed),
            received => received,
        };
        (buffer, received)
    }
}

/// The end of the stream, seen in the middle of a frame.
fn cut(error: LinkError) -> LinkError {
    match error {
        LinkError::Closed => LinkError::Truncated,
        error => error,
    }
}
