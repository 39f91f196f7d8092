//! What a reactor needs of the world beneath it: disks, sockets, a clock, randomness.
//!
//! Three implementations: `uring`, `aio`, `sim`. Invariants, checked by the conformance suite:
//!
//! - Each submitted token completes exactly once, also after [`Driver::cancel`], also after its
//!   handle was closed; a token is not reused before.
//! - [`Driver::submit`] never completes inline: outcomes come from [`Driver::poll`].
//! - Buffers belong to the driver from `submit` until their completion.
//! - Ranges and alignment of disk operations, and read-only, were checked above.
//! - A read is whole or an error, a write and a send likewise: short ones are continued below.

use crate::disk::DetachedHandle;
use crate::{Buffer, DetachedSocket, DiskError, DiskGeometry, DiskOptions, Instant, NetError};
use crate::{OsError, SharedBuffer, remote::Unpark};
use ashlar_proto::Address;
use std::sync::Arc;

/// Pairs an operation with its completion: a key of the reactor's operation slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Token(pub(crate) u32);

/// A disk that the driver holds open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DiskHandle(pub(crate) u32);

/// A connected stream socket that the driver holds open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SocketHandle(pub(crate) u32);

/// A listening socket that the driver holds open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ListenerHandle(pub(crate) u32);

/// One operation, with the memory that it works on.
#[derive(Debug)]
pub(crate) enum Op {
    /// Fill the whole buffer from `offset` on → [`Outcome::Read`].
    Read {
        disk: DiskHandle,
        offset: u64,
        buffer: Buffer,
    },
    /// One gather write, pieces page-aligned → [`Outcome::Disk`].
    Write {
        disk: DiskHandle,
        offset: u64,
        buffers: Vec<SharedBuffer>,
    },
    /// Everything completed before reaches the medium → [`Outcome::Disk`].
    Flush { disk: DiskHandle },
    /// Block devices that support it only → [`Outcome::Disk`].
    Discard {
        disk: DiskHandle,
        offset: u64,
        len: u64,
    },
    /// The next connection → [`Outcome::Connected`].
    Accept { listener: ListenerHandle },
    /// A new connection; never to [`Address::Local`] → [`Outcome::Connected`].
    Connect { address: Address },
    /// What has arrived, at least one byte, into `buffer[from..]`; 0 at the end → [`Outcome::Recv`].
    Recv {
        socket: SocketHandle,
        buffer: Buffer,
        from: usize,
    },
    /// All bytes of all pieces in order → [`Outcome::Sent`].
    Send {
        socket: SocketHandle,
        buffers: Vec<SharedBuffer>,
    },
}

/// A connection that came to be.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) socket: SocketHandle,
    /// For people: the other end.
    pub(crate) peer: String,
}

/// How an operation ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Read(Buffer, Result<(), OsError>),
    Disk(Result<(), OsError>),
    Connected(Result<Connected, NetError>),
    Recv(Buffer, Result<usize, NetError>),
    Sent(Result<(), NetError>),
}

/// An ended operation.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) token: Token,
    pub(crate) outcome: Outcome,
}

/// How long [`Driver::poll`] may block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Not at all.
    No,
    /// Until something completes, the unparker is called, or this moment comes.
    Until(Instant),
    /// Until something completes or the unparker is called.
    Forever,
}

/// The world beneath one reactor. Methods are called on its thread only and do not block, but
/// for [`Driver::poll`] as told, and the opening of disks and listeners.
pub(crate) trait Driver {
    /// Takes the operation on. May only queue it until the next [`Driver::poll`].
    fn submit(&self, token: Token, op: Op);

    /// Wishes the operation to end soon (accept, connect and receive; others run their course).
    /// It still completes, with whatever result. Unknown tokens are ignored.
    fn cancel(&self, token: Token);

    /// Passes queued operations on, waits as told if nothing has completed yet, appends what has.
    fn poll(&self, wait: Wait, completions: &mut Vec<Completion>);

    /// The monotonic clock.
    fn now(&self) -> Instant;

    /// Milliseconds since 1970, for people.
    fn wall_clock_ms(&self) -> u64;

    /// A random number, fit for identifiers and jitter.
    fn random_u64(&self) -> u64;

    /// Ends a blocking [`Driver::poll`] from any thread.
    fn unpark(&self) -> Arc<dyn Unpark>;

    /// Opens and locks a disk: one attempt.
    fn open_disk(&self, options: &DiskOptions) -> Result<(DiskHandle, DiskGeometry), DiskError>;

    /// A second handle on an open disk and its lock, for another driver of its kind.
    fn share_disk(&self, disk: DiskHandle) -> Result<DetachedHandle, OsError>;

    /// Takes on a disk that another driver of its kind shared.
    fn adopt_disk(&self, disk: DetachedHandle, geometry: DiskGeometry) -> DiskHandle;

    /// Gives a disk back, and its lock once its operations have ended.
    fn close_disk(&self, disk: DiskHandle);

    /// Listens; answers with the address that was bound. Never [`Address::Local`].
    fn listen(&self, address: &Address) -> Result<(ListenerHandle, Address), NetError>;

    /// Stops listening; a pending accept completes with an error.
    fn close_listener(&self, listener: ListenerHandle);

    /// Shuts both directions down: pending operations complete, receives with 0 or an error.
    fn shutdown_socket(&self, socket: SocketHandle);

    /// This end's address, where it has one that tells anything.
    fn local_address(&self, _socket: SocketHandle) -> Option<Address> {
        None
    }

    /// Gives a socket back. Operations still in flight (of dropped futures) end soon.
    fn close_socket(&self, socket: SocketHandle);

    /// Takes a socket out of the driver, to hand it to another thread; the handle ends.
    fn detach_socket(&self, socket: SocketHandle) -> DetachedSocket;

    /// Takes on a socket that another driver of its kind detached.
    fn adopt_socket(&self, socket: DetachedSocket) -> SocketHandle;
}
