//! One connection of an owner to one lane: requests in, replies out, in any order.
//!
//! Invariants: at most [`REQUESTS_IN_FLIGHT_MAX`] requests and [`SESSION_BYTES_MAX`] bytes of
//! payload are under way, further ones stay in the socket; a request that was begun is carried
//! through even when its connection is gone. Whatever breaks the framing ends the connection,
//! whatever breaks the protocol within a frame is answered.

use std::rc::Rc;

use ashlar_proto::limits::{FRAME_DATA_BLOCKS_MAX, REQUESTS_IN_FLIGHT_MAX};
use ashlar_proto::message::HelloReply;
use ashlar_proto::{BLOCK_BYTES, FrameHeader, FrameKind, Status};
use ashlar_reactor::Reactor;
use ashlar_reactor::channel::{Permit, Semaphore};
use ashlar_reactor::link::{Frame, Link, LinkError};
use ashlar_reactor::meters::{Operation, Stage, bytes_of};

use crate::heard::Heard;
use crate::replica::Replicas;

/// Payload of one connection's requests and replies under way.
const SESSION_BYTES_MAX: usize = 32 << 20;

const _: () = assert!(FRAME_DATA_BLOCKS_MAX as usize * BLOCK_BYTES <= SESSION_BYTES_MAX);

/// The greeting of a session that was accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Greeting {
    /// The owner's hello.
    pub(crate) request: FrameHeader,
    /// What both sides agreed on.
    pub(crate) reply: HelloReply,
}

/// Serves a connection until it ends.
pub(crate) async fn serve(
    reactor: Reactor,
    replicas: Rc<Replicas>,
    link: Link,
    greeting: Greeting,
    heard: Rc<Heard>,
) -> LinkError {
    let header = greeting.request.reply(Status::Ok, replicas.incarnation());
    let hello = Frame::new(header, greeting.reply.encode(), Vec::new());
    if let Err(error) = link.send(hello).await {
        return error;
    }
    let slots = Semaphore::new(REQUESTS_IN_FLIGHT_MAX);
    let bytes = Semaphore::new(SESSION_BYTES_MAX);
    loop {
        let slot = acquire(&slots, 1).await;
        let frame = match link.recv().await {
            Ok(frame) => frame,
            Err(error) => return error,
        };
        heard.note(reactor.now());
        let opens = (frame.header.kind == FrameKind::Open).then_some(frame.header);
        if frame.header.is_reply {
            // A peer that answers what nobody asked is no owner.
            link.close();
            return LinkError::Shutdown;
        }
        let room = acquire(&bytes, payload_bytes(&frame)).await;
        let asked = frame.header;
        match replicas.begin(frame) {
            Ok(request) => {
                let (link, reactor_of) = (link.clone(), reactor.clone());
                let opens = opens.map(|header| (header, Rc::clone(&heard)));
                drop(reactor.spawn(async move {
                    let reply = measured(&reactor_of, asked, request.carry_out()).await;
                    if let Some((header, heard)) = opens {
                        heard.note_opened(&header, reply.header.status);
                    }
                    // Of no interest to a peer that is gone.
                    let _ = link.send(reply).await;
                    drop((slot, room));
                }));
            }
            Err(refusal) => {
                if let Err(error) = link.send(refusal).await {
                    return error;
                }
            }
        }
    }
}

/// Carries a request out and counts it.
async fn measured(
    reactor: &Reactor,
    asked: FrameHeader,
    work: impl Future<Output = Frame>,
) -> Frame {
    let operation = Operation::from(asked.kind);
    let measure = reactor.measure(Stage::Store, operation, bytes_of(&asked));
    let reply = work.await;
    if reply.header.status != Status::Ok {
        measure.fail();
    }
    reply
}

async fn acquire(semaphore: &Semaphore, permits: usize) -> Permit {
    match semaphore.try_acquire(permits) {
        Some(permit) => permit,
        None => semaphore.acquire(permits).await,
    }
}

/// Memory that a request takes while it is under way: what it brings or what it asks for.
fn payload_bytes(frame: &Frame) -> usize {
    let asked = match frame.header.kind {
        FrameKind::Read | FrameKind::Verify | FrameKind::ReadSnapshot => {
            frame.header.count.get() as usize
        }
        FrameKind::Tail | FrameKind::Extents | FrameKind::SnapshotExtents => 64,
        FrameKind::Pull => usize::from(FRAME_DATA_BLOCKS_MAX),
        _ => 1,
    };
    let most = usize::from(FRAME_DATA_BLOCKS_MAX);
    let carried = usize::from(frame.header.data_blocks);
    asked.clamp(1, most).max(carried) * BLOCK_BYTES + frame.meta.len()
}
