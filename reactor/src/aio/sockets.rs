//! Nonblocking sockets: each operation is tried at once and again when epoll says it may work.
//!
//! ```text
//! submit ─try→ done → completion
//!          └ would block → queue of the socket ─epoll edge→ try …
//! ```

use super::epoll::{Epoll, Readiness, Source};
use super::number;
use crate::driver::{Completion, Connected, ListenerHandle, Outcome, SocketHandle, Token};
use crate::os::gather::{Progress, Scratch};
use crate::os::socket;
use crate::{Buffer, NetError, OsError, SharedBuffer};
use ashlar_proto::Address;
use slab::Slab;
use socket2::{SockAddr, SockRef, Socket as RawSocket};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};

/// All sockets of the driver.
#[derive(Default)]
pub(super) struct Sockets {
    sockets: Slab<Socket>,
    listeners: Slab<Listener>,
    /// Where a token that can be cancelled waits.
    places: Vec<Option<Place>>,
    /// Accepted, not watched yet.
    accepted: Vec<u32>,
    scratch: Option<Box<Scratch>>,
}

#[derive(Clone, Copy)]
enum Place {
    Socket(u32),
    Listener(u32),
}

struct Socket {
    fd: OwnedFd,
    /// Not known to block.
    readable: bool,
    writable: bool,
    hangup: bool,
    connecting: Option<(Token, Address)>,
    receiving: Option<Receiving>,
    sending: VecDeque<Sending>,
}

struct Receiving {
    token: Token,
    buffer: Buffer,
    from: usize,
}

struct Sending {
    token: Token,
    buffers: Vec<SharedBuffer>,
    progress: Progress,
}

struct Listener {
    fd: OwnedFd,
    ready: bool,
    waiting: VecDeque<Token>,
}

impl Socket {
    fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            readable: true,
            writable: true,
            hangup: false,
            connecting: None,
            receiving: None,
            sending: VecDeque::new(),
        }
    }

    fn try_receive(&mut self) -> Option<Completion> {
        if !self.readable {
            return None;
        }
        let Receiving { buffer, from, .. } = self.receiving.as_mut()?;
        let room = &mut buffer[*from..];
        let wanted = room.len();
        let result = loop {
            // SAFETY: the kernel writes into the room of a buffer that we own.
            let got = unsafe {
                libc::recv(
                    self.fd.as_raw_fd(),
                    room.as_mut_ptr().cast(),
                    wanted,
                    libc::MSG_DONTWAIT,
                )
            };
            match usize::try_from(got).map_err(|_| OsError::last().errno()) {
                Err(libc::EINTR) => {}
                Err(libc::EAGAIN) => {
                    self.readable = false;
                    return None;
                }
                result => break result,
            }
        };
        if let Ok(got) = result {
            // Less than asked for: there is no more, and the next byte will make an edge. But
            // the end may have made its edge already.
            self.readable = got == wanted || self.hangup;
        }
        let Receiving { token, buffer, .. } = self.receiving.take().expect("looked at above");
        Some(Completion {
            token,
            outcome: Outcome::Recv(buffer, result.map_err(NetError::from_errno)),
        })
    }

    fn try_send(&mut self, scratch: &mut Scratch) -> Option<Completion> {
        while self.writable {
            let sending = self.sending.front_mut()?;
            scratch.fill(&sending.buffers, sending.progress);
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: the header lists pieces of buffers that we own; the kernel reads them.
            let sent =
                unsafe { libc::sendmsg(self.fd.as_raw_fd(), &raw const scratch.header, flags) };
            let result = match usize::try_from(sent).map_err(|_| OsError::last().errno()) {
                Err(libc::EINTR) => continue,
                Err(libc::EAGAIN) => {
                    self.writable = false;
                    continue;
                }
                Err(errno) => Err(NetError::from_errno(errno)),
                Ok(bytes) if sending.progress.advance(&sending.buffers, bytes) => Ok(()),
                Ok(_) => continue,
            };
            let token = sending.token;
            self.sending.pop_front();
            return Some(Completion {
                token,
                outcome: Outcome::Sent(result),
            });
        }
        None
    }

    fn pump(&mut self, scratch: &mut Option<Box<Scratch>>, ready: &mut Vec<Completion>) {
        ready.extend(self.try_receive());
        if !self.sending.is_empty() {
            let scratch = scratch.get_or_insert_with(Scratch::new);
            while let Some(completion) = self.try_send(scratch) {
                ready.push(completion);
            }
        }
    }

    /// Completes what waits: the socket goes.
    fn abandon(&mut self, ready: &mut Vec<Completion>) {
        if let Some((token, address)) = self.connecting.take() {
            ready.push(connect_failed(token, address, libc::ECANCELED));
        }
        if let Some(Receiving { token, buffer, .. }) = self.receiving.take() {
            ready.push(Completion {
                token,
                outcome: Outcome::Recv(buffer, Err(NetError::Shutdown)),
            });
        }
        ready.extend(self.sending.drain(..).map(|sending| Completion {
            token: sending.token,
            outcome: Outcome::Sent(Err(NetError::Shutdown)),
        }));
    }
}

fn connect_failed(token: Token, address: Address, errno: i32) -> Completion {
    let error = OsError::from_errno(errno);
    Completion {
        token,
        outcome: Outcome::Connected(Err(NetError::Connect { address, error })),
    }
}

impl Sockets {
    fn place(&mut self, token: Token, place: Place) {
        let index = token.0 as usize;
        if index >= self.places.len() {
            self.places.resize(index + 1, None);
        }
        self.places[index] = Some(place);
    }

    fn insert(&mut self, fd: OwnedFd) -> u32 {
        let _ = SockRef::from(&fd).set_nonblocking(true);
        number(self.sockets.insert(Socket::new(fd)))
    }

    /// Starts to watch a socket; one that cannot be watched fails at its next operation.
    fn watch(&mut self, key: u32, epoll: &Epoll) {
        let socket = &self.sockets[key as usize];
        if let Err(error) = epoll.watch(socket.fd.as_raw_fd(), Source::Socket(key)) {
            tracing::warn!(%error, "cannot watch a socket: closing it");
            socket::shutdown(&socket.fd);
        }
    }

    pub(super) fn adopt(&mut self, fd: OwnedFd, epoll: &Epoll) -> SocketHandle {
        let key = self.insert(fd);
        self.watch(key, epoll);
        SocketHandle(key)
    }

    pub(super) fn adopt_accepted(&mut self, epoll: &Epoll) {
        while let Some(key) = self.accepted.pop() {
            self.watch(key, epoll);
        }
    }

    pub(super) fn recv(
        &mut self,
        token: Token,
        socket: SocketHandle,
        (buffer, from): (Buffer, usize),
        ready: &mut Vec<Completion>,
    ) {
        self.place(token, Place::Socket(socket.0));
        let socket = &mut self.sockets[socket.0 as usize];
        assert!(socket.receiving.is_none(), "one receive at a time");
        socket.receiving = Some(Receiving {
            token,
            buffer,
            from,
        });
        ready.extend(socket.try_receive());
    }

    pub(super) fn send(
        &mut self,
        token: Token,
        socket: SocketHandle,
        buffers: Vec<SharedBuffer>,
        ready: &mut Vec<Completion>,
    ) {
        let socket = &mut self.sockets[socket.0 as usize];
        socket.sending.push_back(Sending {
            token,
            buffers,
            progress: Progress::default(),
        });
        let scratch = self.scratch.get_or_insert_with(Scratch::new);
        while let Some(completion) = socket.try_send(scratch) {
            ready.push(completion);
        }
    }

    pub(super) fn connect(
        &mut self,
        token: Token,
        address: Address,
        epoll: &Epoll,
        ready: &mut Vec<Completion>,
    ) {
        match start_connect(&address) {
            Ok((socket, sockaddr)) => {
                let key = self.insert(OwnedFd::from(socket));
                let raw = &self.sockets[key as usize].fd;
                match SockRef::from(raw).connect(&sockaddr) {
                    Ok(()) => {
                        let peer = socket::peer(raw);
                        self.watch(key, epoll);
                        let socket = SocketHandle(key);
                        ready.push(Completion {
                            token,
                            outcome: Outcome::Connected(Ok(Connected { socket, peer })),
                        });
                    }
                    Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                        self.sockets[key as usize].connecting = Some((token, address));
                        self.place(token, Place::Socket(key));
                        self.watch(key, epoll);
                    }
                    Err(error) => {
                        self.sockets.remove(key as usize);
                        let errno = OsError::from(error).errno();
                        ready.push(connect_failed(token, address, errno));
                    }
                }
            }
            Err(error) => ready.push(connect_failed(token, address, error.errno())),
        }
    }

    pub(super) fn socket_event(
        &mut self,
        key: u32,
        readiness: Readiness,
        ready: &mut Vec<Completion>,
    ) {
        let Some(socket) = self.sockets.get_mut(key as usize) else {
            return;
        };
        if socket.connecting.is_some() {
            if readiness.writable || readiness.hangup {
                self.connected(key, ready);
            }
            return;
        }
        socket.readable |= readiness.readable;
        socket.writable |= readiness.writable;
        socket.hangup |= readiness.hangup;
        socket.pump(&mut self.scratch, ready);
    }

    fn connected(&mut self, key: u32, ready: &mut Vec<Completion>) {
        let socket = &mut self.sockets[key as usize];
        let Some((token, address)) = socket.connecting.take() else {
            return;
        };
        let error = match SockRef::from(&socket.fd).take_error() {
            Ok(error) => error,
            Err(error) => Some(error),
        };
        let Some(error) = error else {
            let peer = socket::peer(&socket.fd);
            let socket = SocketHandle(key);
            ready.push(Completion {
                token,
                outcome: Outcome::Connected(Ok(Connected { socket, peer })),
            });
            return;
        };
        let error = OsError::from(error);
        self.sockets.remove(key as usize);
        ready.push(connect_failed(token, address, error.errno()));
    }

    pub(super) fn local_address(&self, socket: SocketHandle) -> Option<Address> {
        socket::local(&self.sockets[socket.0 as usize].fd)
    }

    pub(super) fn shutdown(&mut self, socket: SocketHandle, ready: &mut Vec<Completion>) {
        let socket = &mut self.sockets[socket.0 as usize];
        socket::shutdown(&socket.fd);
        socket.readable = true;
        socket.writable = true;
        socket.hangup = true;
        socket.pump(&mut self.scratch, ready);
    }

    /// Takes a socket out; what waits on it completes.
    pub(super) fn close(
        &mut self,
        socket: SocketHandle,
        epoll: &Epoll,
        ready: &mut Vec<Completion>,
    ) -> OwnedFd {
        let mut socket = self.sockets.remove(socket.0 as usize);
        socket.abandon(ready);
        epoll.forget(socket.fd.as_raw_fd());
        socket.fd
    }

    pub(super) fn listen(
        &mut self,
        address: &Address,
        epoll: &Epoll,
    ) -> Result<(ListenerHandle, Address), NetError> {
        let failed = |error| NetError::Listen {
            address: address.clone(),
            error,
        };
        let (fd, bound) = socket::listen(address)?;
        SockRef::from(&fd)
            .set_nonblocking(true)
            .map_err(|error| failed(error.into()))?;
        let entry = self.listeners.vacant_entry();
        let key = number(entry.key());
        epoll
            .watch(fd.as_raw_fd(), Source::Listener(key))
            .map_err(failed)?;
        entry.insert(Listener {
            fd,
            ready: true,
            waiting: VecDeque::new(),
        });
        Ok((ListenerHandle(key), bound))
    }

    pub(super) fn accept(
        &mut self,
        token: Token,
        listener: ListenerHandle,
        ready: &mut Vec<Completion>,
    ) {
        self.place(token, Place::Listener(listener.0));
        let key = listener.0 as usize;
        self.listeners[key].waiting.push_back(token);
        self.try_accept(listener.0, ready);
    }

    pub(super) fn listener_event(&mut self, key: u32, ready: &mut Vec<Completion>) {
        if let Some(listener) = self.listeners.get_mut(key as usize) {
            listener.ready = true;
            self.try_accept(key, ready);
        }
    }

    fn try_accept(&mut self, key: u32, ready: &mut Vec<Completion>) {
        loop {
            let listener = &mut self.listeners[key as usize];
            if !listener.ready {
                return;
            }
            let Some(token) = listener.waiting.front().copied() else {
                return;
            };
            let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            let null = std::ptr::null_mut();
            // SAFETY: the peer's address is not asked for, so no memory is involved.
            let fd = unsafe {
                libc::accept4(listener.fd.as_raw_fd(), null, std::ptr::null_mut(), flags)
            };
            let outcome = match crate::os::check(fd) {
                Ok(fd) => {
                    listener.waiting.pop_front();
                    let fd = crate::os::own(fd);
                    let peer = socket::peer(&fd);
                    let key = self.insert(fd);
                    self.accepted.push(key);
                    let socket = SocketHandle(key);
                    Ok(Connected { socket, peer })
                }
                Err(error) if error.errno() == libc::EINTR => continue,
                Err(error) if error.errno() == libc::EAGAIN => {
                    listener.ready = false;
                    return;
                }
                Err(error) => {
                    listener.waiting.pop_front();
                    Err(NetError::from_errno(error.errno()))
                }
            };
            ready.push(Completion {
                token,
                outcome: Outcome::Connected(outcome),
            });
        }
    }

    pub(super) fn close_listener(&mut self, listener: ListenerHandle, ready: &mut Vec<Completion>) {
        let listener = self.listeners.remove(listener.0 as usize);
        ready.extend(listener.waiting.into_iter().map(accept_cancelled));
    }

    /// Takes a waiting operation out, if it still waits.
    pub(super) fn cancel(&mut self, token: Token, ready: &mut Vec<Completion>) {
        let place = self.places.get(token.0 as usize).copied().flatten();
        match place {
            Some(Place::Socket(key)) => {
                let Some(socket) = self.sockets.get_mut(key as usize) else {
                    return;
                };
                let connects = socket.connecting.as_ref().is_some_and(|of| of.0 == token);
                let receives = socket
                    .receiving
                    .as_ref()
                    .is_some_and(|of| of.token == token);
                if connects {
                    let mut socket = self.sockets.remove(key as usize);
                    socket.abandon(ready);
                } else if receives {
                    let Receiving { token, buffer, .. } =
                        socket.receiving.take().expect("looked at above");
                    ready.push(Completion {
                        token,
                        outcome: Outcome::Recv(buffer, Err(NetError::Shutdown)),
                    });
                }
            }
            Some(Place::Listener(key)) => {
                let Some(listener) = self.listeners.get_mut(key as usize) else {
                    return;
                };
                let before = listener.waiting.len();
                listener.waiting.retain(|waiting| *waiting != token);
                if listener.waiting.len() < before {
                    ready.push(accept_cancelled(token));
                }
            }
            None => {}
        }
    }
}

fn accept_cancelled(token: Token) -> Completion {
    Completion {
        token,
        outcome: Outcome::Connected(Err(NetError::Shutdown)),
    }
}

fn start_connect(address: &Address) -> Result<(RawSocket, SockAddr), OsError> {
    let (socket, sockaddr) = socket::for_address(address)?;
    socket.set_nonblocking(true)?;
    Ok((socket, sockaddr))
}
