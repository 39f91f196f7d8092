//! One connected stream.

use super::pipe::Pipe;
use crate::driver::{Connected, Op, Outcome, SocketHandle};
use crate::operations::Operation;
use crate::reactor::Core;
use crate::{Buffer, NetError, SharedBuffer, local};
use ashlar_proto::Address;
use std::cell::Cell;
use std::fmt;
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// A connected stream socket. Clones are handles on the same one; one receive and one send may
/// be in flight at once. It is closed with its last handle.
#[derive(Clone)]
pub struct Stream {
    inner: Rc<Inner>,
}

struct Inner {
    core: Rc<Core>,
    kind: Kind,
    peer: String,
    /// This end called [`Stream::shutdown`].
    shut: Cell<bool>,
}

enum Kind {
    /// `None` once detached.
    Socket(Cell<Option<SocketHandle>>),
    Pipe(Pipe),
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Kind::Socket(handle) = &self.kind
            && let Some(handle) = handle.take()
        {
            self.core.driver().close_socket(handle);
        }
    }
}

impl Stream {
    pub(crate) async fn connect(core: &Rc<Core>, address: &Address) -> Result<Self, NetError> {
        if let Address::Local(name) = address {
            let channel = local::connect_on(core, name)?;
            return Ok(Self::over_pipe(
                core,
                Pipe::over(channel),
                address.to_string(),
            ));
        }
        let address = address.clone();
        match Operation::submit(core, Op::Connect { address }).await {
            Outcome::Connected(result) => Ok(Self::over_socket(core, result?)),
            outcome => unreachable!("a connect ended as {outcome:?}"),
        }
    }

    pub(super) fn over_socket(core: &Rc<Core>, connected: Connected) -> Self {
        Self {
            inner: Rc::new(Inner {
                core: Rc::clone(core),
                kind: Kind::Socket(Cell::new(Some(connected.socket))),
                peer: connected.peer,
                shut: Cell::new(false),
            }),
        }
    }

    pub(super) fn over_pipe(core: &Rc<Core>, pipe: Pipe, peer: String) -> Self {
        Self {
            inner: Rc::new(Inner {
                core: Rc::clone(core),
                kind: Kind::Pipe(pipe),
                peer,
                shut: Cell::new(false),
            }),
        }
    }

    /// Receives what has arrived, at least one byte, into the buffer from its start; tells how
    /// much. 0 is the end of the stream. Dropping the future may lose what arrives meanwhile.
    ///
    /// # Errors
    /// [`NetError::Reset`], [`NetError::Shutdown`], [`NetError::Io`].
    pub async fn recv(&self, buffer: Buffer) -> (Buffer, Result<usize, NetError>) {
        self.recv_at(buffer, 0).await
    }

    /// Receives like [`Stream::recv`], into `buffer[from..]`.
    ///
    /// # Errors
    /// As [`Stream::recv`].
    ///
    /// # Panics
    /// If there is nothing to fill: `from` is not within the buffer.
    pub async fn recv_at(&self, buffer: Buffer, from: usize) -> (Buffer, Result<usize, NetError>) {
        assert!(from < buffer.len(), "nothing to receive into");
        let socket = match &self.inner.kind {
            Kind::Pipe(pipe) => return pipe.recv(buffer, from).await,
            Kind::Socket(handle) => handle.get(),
        };
        let Some(socket) = socket.filter(|_| !self.inner.shut.get()) else {
            return (buffer, Err(NetError::Shutdown));
        };
        let op = Op::Recv {
            socket,
            buffer,
            from,
        };
        match Operation::submit(&self.inner.core, op).await {
            // What the system then says (an end, a reset) is this end's own doing.
            Outcome::Recv(buffer, _) if self.inner.shut.get() => (buffer, Err(NetError::Shutdown)),
            Outcome::Recv(buffer, result) => (buffer, result),
            outcome => unreachable!("a receive ended as {outcome:?}"),
        }
    }

    /// Sends all bytes of all pieces in order. Sent is in the system's hands, not at the peer.
    /// Dropping the future lets it run its course.
    ///
    /// # Errors
    /// [`NetError::Reset`], [`NetError::Shutdown`], [`NetError::Io`]: the stream is of no more
    /// use, a part may have been sent.
    pub async fn send(&self, buffers: Vec<SharedBuffer>) -> Result<(), NetError> {
        let socket = match &self.inner.kind {
            Kind::Pipe(pipe) => return pipe.send(buffers).await,
            Kind::Socket(_) if self.inner.shut.get() => return Err(NetError::Shutdown),
            Kind::Socket(handle) => handle.get().ok_or(NetError::Shutdown)?,
        };
        if buffers.iter().all(|buffer| buffer.is_empty()) {
            return Ok(());
        }
        match Operation::submit(&self.inner.core, Op::Send { socket, buffers }).await {
            Outcome::Sent(Err(_)) if self.inner.shut.get() => Err(NetError::Shutdown),
            Outcome::Sent(result) => result,
            outcome => unreachable!("a send ended as {outcome:?}"),
        }
    }

    /// Ends both directions: what was sent still reaches the peer, then it sees the end;
    /// operations in flight complete.
    pub fn shutdown(&self) {
        self.inner.shut.set(true);
        match &self.inner.kind {
            Kind::Pipe(pipe) => pipe.shutdown(),
            Kind::Socket(handle) => {
                if let Some(handle) = handle.get() {
                    self.inner.core.driver().shutdown_socket(handle);
                }
            }
        }
    }

    /// The other end, for people: address, or process and user of a Unix peer.
    #[must_use]
    pub fn peer(&self) -> String {
        self.inner.peer.clone()
    }

    /// This end of a TCP connection: where a peer that came to a wildcard address came to. `None`
    /// where there is no such address, or in a simulation.
    #[must_use]
    pub fn local_address(&self) -> Option<Address> {
        match &self.inner.kind {
            Kind::Pipe(_) => None,
            Kind::Socket(handle) => self.inner.core.driver().local_address(handle.get()?),
        }
    }

    /// Takes the stream off this reactor, to be adopted by another. Nothing may be in flight;
    /// other handles on it see [`NetError::Shutdown`].
    ///
    /// # Panics
    /// If it is a pipe within the reactor: these never leave it.
    #[must_use]
    pub fn detach(self) -> DetachedStream {
        let socket = match &self.inner.kind {
            Kind::Pipe(_) => panic!("a local stream cannot leave its reactor"),
            Kind::Socket(handle) => match handle.take() {
                Some(handle) => self.inner.core.driver().detach_socket(handle),
                None => DetachedSocket::Closed,
            },
        };
        DetachedStream {
            socket,
            peer: self.inner.peer.clone(),
        }
    }

    pub(crate) fn adopt(core: &Rc<Core>, stream: DetachedStream) -> Self {
        let handle = match stream.socket {
            DetachedSocket::Closed => None,
            socket => Some(core.driver().adopt_socket(socket)),
        };
        Self {
            inner: Rc::new(Inner {
                core: Rc::clone(core),
                kind: Kind::Socket(Cell::new(handle)),
                peer: stream.peer,
                shut: Cell::new(false),
            }),
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({})", self.inner.peer)
    }
}

/// A stream on its way between reactors. Dropping it closes it.
#[derive(Debug)]
pub struct DetachedStream {
    socket: DetachedSocket,
    peer: String,
}

/// What a driver hands out for a socket.
#[derive(Debug)]
pub(crate) enum DetachedSocket {
    /// Of the operating system.
    Os(OwnedFd),
    /// Of the simulator, by number.
    Simulated(u64),
    /// It was closed before, or could not be taken out.
    Closed,
}
