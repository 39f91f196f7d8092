//! The driver over io_uring: one ring for disks and sockets, one `io_uring_enter` per turn.
//!
//! Invariants:
//!
//! - An operation's token is its user data; what it works on lives in [`Flight`] at that index
//!   until its completion is reaped, whatever becomes of its future or its handle.
//! - Files in flight are counted by `Rc`: a closed one goes when its last operation has ended.
//! - One send per socket is given to the kernel at a time; others wait in order.
//!
//! Receives and accepts are single-shot: a receive lands in the caller's own aligned buffer,
//! where multishot would copy out of provided ones, and connections last for hours.

mod files;
mod flight;
mod ring;

use crate::disk::DetachedHandle;
use crate::driver::{Completion, Connected, DiskHandle, Driver, ListenerHandle, Op, Outcome};
use crate::driver::{SocketHandle, Token, Wait};
use crate::os::clock::{self, Randomness};
use crate::os::gather::{Progress, Scratch};
use crate::os::wake::WakeFd;
use crate::os::worker::Worker;
use crate::os::{disk, socket};
use crate::remote::Unpark;
use crate::{BufferPool, DetachedSocket, DiskError, DiskGeometry, DiskOptions, Instant};
use crate::{NetError, OsError};
use ashlar_proto::Address;
use files::{File, Files};
use flight::{Flight, Next, Work};
use ring::Ring;
use slab::Slab;
use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

/// The driver.
pub(crate) struct UringDriver {
    state: RefCell<State>,
    wake: Arc<WakeFd>,
    worker: Worker,
    randomness: Randomness,
}

struct State {
    ring: Ring,
    files: Files,
    disks: Slab<(Rc<File>, DiskGeometry)>,
    sockets: Slab<Rc<File>>,
    listeners: Slab<Rc<File>>,
    /// By token.
    flights: Vec<Option<Flight>>,
    /// Flights given to the kernel.
    in_kernel: usize,
    #[expect(clippy::vec_box, reason = "the kernel holds pointers into them")]
    scratch: Vec<Box<Scratch>>,
    /// Completions that did not come from the ring.
    early: Vec<Completion>,
}

/// Whether a ring can be had here: the kernel may be too old, or a sandbox forbid it.
pub(crate) fn probe() -> Result<(), OsError> {
    Ring::new().map(drop)
}

impl UringDriver {
    pub(crate) fn new(pool: BufferPool) -> Result<Self, OsError> {
        let wake = Arc::new(WakeFd::new(false)?);
        let mut ring = Ring::new()?;
        ring.watch(&wake);
        ring.use_buffers_of(pool);
        let files = Files::new(&ring);
        Ok(Self {
            state: RefCell::new(State {
                ring,
                files,
                disks: Slab::new(),
                sockets: Slab::new(),
                listeners: Slab::new(),
                flights: Vec::new(),
                in_kernel: 0,
                scratch: Vec::new(),
                early: Vec::new(),
            }),
            worker: Worker::new(Arc::clone(&wake) as Arc<dyn Unpark>),
            wake,
            randomness: Randomness::default(),
        })
    }
}

/// The key of a slab as a handle's number.
fn number(key: usize) -> u32 {
    u32::try_from(key).expect("handles are counted in u32")
}

impl State {
    /// Lays an operation out; `Err` is an outcome already known.
    fn prepare(&mut self, op: Op) -> Result<Flight, Outcome> {
        let (file, work) = match op {
            Op::Read {
                disk,
                offset,
                buffer,
            } => {
                let file = &self.disks[disk.0 as usize].0;
                let work = Work::Read {
                    offset,
                    buffer,
                    done: 0,
                };
                (Rc::clone(file), work)
            }
            Op::Write {
                disk,
                offset,
                buffers,
            } => {
                let work = Work::Write {
                    offset,
                    buffers,
                    progress: Progress::default(),
                    scratch: self.scratch.pop().unwrap_or_else(Scratch::new),
                };
                (Rc::clone(&self.disks[disk.0 as usize].0), work)
            }
            Op::Flush { disk } => (Rc::clone(&self.disks[disk.0 as usize].0), Work::Flush),
            Op::Discard { .. } => unreachable!("discards go to the worker"),
            Op::Accept { listener } => (
                Rc::clone(&self.listeners[listener.0 as usize]),
                Work::Accept,
            ),
            Op::Connect { address } => match socket::for_address(&address) {
                Ok((socket, sockaddr)) => {
                    let file = self.files.add(&self.ring, OwnedFd::from(socket));
                    let sockaddr = Box::new(sockaddr);
                    (file, Work::Connect { address, sockaddr })
                }
                Err(error) => {
                    let error = NetError::Connect { address, error };
                    return Err(Outcome::Connected(Err(error)));
                }
            },
            Op::Recv {
                socket,
                buffer,
                from,
            } => {
                let file = Rc::clone(&self.sockets[socket.0 as usize]);
                (file, Work::Recv { buffer, from })
            }
            Op::Send { socket, buffers } => {
                let work = Work::Send {
                    buffers,
                    progress: Progress::default(),
                    scratch: self.scratch.pop().unwrap_or_else(Scratch::new),
                };
                (Rc::clone(&self.sockets[socket.0 as usize]), work)
            }
        };
        Ok(Flight { file, work })
    }

    fn start(&mut self, token: Token, flight: Flight) {
        if let Work::Send { .. } = flight.work
            && flight.file.is_sending.replace(true)
        {
            let file = Rc::clone(&flight.file);
            self.put(token, flight);
            file.sends_waiting.borrow_mut().push_back(token);
            return;
        }
        self.put(token, flight);
        self.issue(token);
    }

    fn put(&mut self, token: Token, flight: Flight) {
        let index = token.0 as usize;
        if index >= self.flights.len() {
            self.flights.resize_with(index + 1, || None);
        }
        assert!(self.flights[index].is_none(), "{token:?} is in flight");
        self.flights[index] = Some(flight);
    }

    /// Queues what a flight needs next of the kernel.
    fn issue(&mut self, token: Token) {
        let flight = self.flights[token.0 as usize].as_mut().expect("in flight");
        let entry = flight.entry(&self.ring).user_data(u64::from(token.0));
        // SAFETY: everything that the entry points at is owned by the flight, in heap memory
        // that does not move, and the flight stays in `flights` until this entry's completion.
        unsafe { self.ring.push(&entry) };
        self.in_kernel += 1;
    }

    /// Takes in one completion of the ring.
    fn reap(
        &mut self,
        token: Token,
        (result, flags): (i32, u32),
        completions: &mut Vec<Completion>,
    ) {
        self.in_kernel -= 1;
        let slot = &mut self.flights[token.0 as usize];
        let flight = slot.as_mut().expect("the kernel completed a stranger");
        if let Next::Again = flight.advance(result, flags) {
            self.issue(token);
            return;
        }
        let flight = slot.take().expect("looked at above");
        let outcome = self.finish(flight, result);
        completions.push(Completion { token, outcome });
    }

    fn finish(&mut self, flight: Flight, result: i32) -> Outcome {
        let Flight { file, work } = flight;
        match work {
            Work::Read { buffer, .. } => {
                self.release(file);
                Outcome::Read(buffer, flight::status(result, true))
            }
            Work::Write { scratch, .. } => {
                self.scratch.push(scratch);
                self.release(file);
                Outcome::Disk(flight::status(result, true))
            }
            Work::Flush => {
                self.release(file);
                Outcome::Disk(flight::status(result, false))
            }
            Work::Recv { buffer, .. } => {
                self.release(file);
                let received = usize::try_from(result).map_err(|_| NetError::from_errno(-result));
                Outcome::Recv(buffer, received)
            }
            Work::Send { scratch, .. } => {
                self.scratch.push(scratch);
                let next = file.sends_waiting.borrow_mut().pop_front();
                match next {
                    Some(token) => self.issue(token),
                    None => file.is_sending.set(false),
                }
                self.release(file);
                Outcome::Sent(if result < 0 {
                    Err(NetError::from_errno(-result))
                } else {
                    Ok(())
                })
            }
            Work::Accept => {
                self.release(file);
                Outcome::Connected(if result < 0 {
                    Err(NetError::from_errno(-result))
                } else {
                    Ok(self.connected(crate::os::own(result)))
                })
            }
            Work::Connect { address, .. } => Outcome::Connected(if result < 0 {
                self.release(file);
                let error = OsError::from_errno(-result);
                Err(NetError::Connect { address, error })
            } else {
                let peer = socket::peer(&file.fd);
                let socket = SocketHandle(number(self.sockets.insert(file)));
                Ok(Connected { socket, peer })
            }),
        }
    }

    fn connected(&mut self, fd: OwnedFd) -> Connected {
        let peer = socket::peer(&fd);
        let file = self.files.add(&self.ring, fd);
        let socket = SocketHandle(number(self.sockets.insert(file)));
        Connected { socket, peer }
    }

    /// Lets go of a file; the last to do so closes it.
    fn release(&mut self, file: Rc<File>) {
        if let Ok(file) = Rc::try_unwrap(file) {
            self.files.remove(&self.ring, file);
        }
    }

    fn reap_all(&mut self, completions: &mut Vec<Completion>) {
        while let Some((token, result, flags)) = self.ring.next() {
            self.reap(token, (result, flags), completions);
        }
    }
}

impl Driver for UringDriver {
    fn submit(&self, token: Token, op: Op) {
        let mut state = self.state.borrow_mut();
        if let Op::Discard { disk, offset, len } = op {
            let file = &state.disks[disk.0 as usize].0;
            match file.fd.try_clone() {
                Ok(fd) => {
                    let job = move || disk::discard(&fd, offset, len);
                    self.worker.submit(token, Box::new(job));
                }
                Err(error) => state.early.push(Completion {
                    token,
                    outcome: Outcome::Disk(Err(error.into())),
                }),
            }
            return;
        }
        match state.prepare(op) {
            Ok(flight) => state.start(token, flight),
            Err(outcome) => state.early.push(Completion { token, outcome }),
        }
    }

    fn cancel(&self, token: Token) {
        let mut state = self.state.borrow_mut();
        let flight = state.flights.get(token.0 as usize);
        if flight.is_some_and(Option::is_some) {
            state.ring.cancel(token);
        }
    }

    fn poll(&self, wait: Wait, completions: &mut Vec<Completion>) {
        let mut state = self.state.borrow_mut();
        let before = completions.len();
        completions.append(&mut state.early);
        state.ring.register_new_regions();
        state.reap_all(completions);
        let wait = if completions.len() > before {
            Wait::No
        } else {
            wait
        };
        match wait {
            Wait::No => state.ring.enter(false, None),
            Wait::Forever => state.ring.enter(true, None),
            Wait::Until(at) => {
                let left = at.saturating_since(clock::now());
                state.ring.enter(!left.is_zero(), Some(left));
            }
        }
        state.reap_all(completions);
        drop(state);
        if self.worker.is_busy() {
            for (token, result) in self.worker.take() {
                completions.push(Completion {
                    token,
                    outcome: Outcome::Disk(result),
                });
            }
        }
    }

    fn now(&self) -> Instant {
        clock::now()
    }

    fn wall_clock_ms(&self) -> u64 {
        clock::wall_clock_ms()
    }

    fn random_u64(&self) -> u64 {
        self.randomness.next()
    }

    fn unpark(&self) -> Arc<dyn Unpark> {
        Arc::clone(&self.wake) as Arc<dyn Unpark>
    }

    fn open_disk(&self, options: &DiskOptions) -> Result<(DiskHandle, DiskGeometry), DiskError> {
        let disk = disk::open(options)?;
        let mut state = self.state.borrow_mut();
        let State { files, ring, .. } = &mut *state;
        let file = files.add(ring, disk.fd);
        let key = state.disks.insert((file, disk.geometry));
        Ok((DiskHandle(number(key)), disk.geometry))
    }

    fn share_disk(&self, disk: DiskHandle) -> Result<DetachedHandle, OsError> {
        let state = self.state.borrow();
        let (file, _) = &state.disks[disk.0 as usize];
        let shared = file.fd.try_clone().map_err(OsError::from)?;
        Ok(DetachedHandle::Os(shared))
    }

    fn adopt_disk(&self, disk: DetachedHandle, geometry: DiskGeometry) -> DiskHandle {
        let DetachedHandle::Os(fd) = disk else {
            unreachable!("only disks of the system come to this driver");
        };
        let mut state = self.state.borrow_mut();
        let State { files, ring, .. } = &mut *state;
        let file = files.add(ring, fd);
        DiskHandle(number(state.disks.insert((file, geometry))))
    }

    fn close_disk(&self, disk: DiskHandle) {
        let mut state = self.state.borrow_mut();
        let (file, _) = state.disks.remove(disk.0 as usize);
        state.release(file);
    }

    fn listen(&self, address: &Address) -> Result<(ListenerHandle, Address), NetError> {
        let (fd, bound) = socket::listen(address)?;
        let mut state = self.state.borrow_mut();
        let State { files, ring, .. } = &mut *state;
        let file = files.add(ring, fd);
        let key = state.listeners.insert(file);
        Ok((ListenerHandle(number(key)), bound))
    }

    fn close_listener(&self, listener: ListenerHandle) {
        let mut state = self.state.borrow_mut();
        let file = state.listeners.remove(listener.0 as usize);
        socket::shutdown(&file.fd);
        state.release(file);
    }

    fn shutdown_socket(&self, socket: SocketHandle) {
        let state = self.state.borrow();
        socket::shutdown(&state.sockets[socket.0 as usize].fd);
    }

    fn local_address(&self, socket: SocketHandle) -> Option<Address> {
        let state = self.state.borrow();
        socket::local(&state.sockets[socket.0 as usize].fd)
    }

    fn close_socket(&self, socket: SocketHandle) {
        let mut state = self.state.borrow_mut();
        let file = state.sockets.remove(socket.0 as usize);
        if Rc::strong_count(&file) > 1 {
            socket::shutdown(&file.fd); // so that what is in flight ends
        }
        state.release(file);
    }

    fn detach_socket(&self, socket: SocketHandle) -> DetachedSocket {
        let mut state = self.state.borrow_mut();
        let file = state.sockets.remove(socket.0 as usize);
        match Rc::try_unwrap(file) {
            Ok(file) => {
                let State { files, ring, .. } = &mut *state;
                DetachedSocket::Os(files.remove(ring, file))
            }
            // Something cancelled is still on its way out: leave it its own descriptor.
            Err(file) => file
                .fd
                .try_clone()
                .map_or(DetachedSocket::Closed, DetachedSocket::Os),
        }
    }

    fn adopt_socket(&self, socket: DetachedSocket) -> SocketHandle {
        let DetachedSocket::Os(fd) = socket else {
            unreachable!("only sockets of the system come to this driver");
        };
        // A ring would answer at once instead of waiting where the descriptor says nonblocking.
        let _ = socket2::SockRef::from(&fd).set_nonblocking(false);
        let mut state = self.state.borrow_mut();
        let State { files, ring, .. } = &mut *state;
        let file = files.add(ring, fd);
        SocketHandle(number(state.sockets.insert(file)))
    }
}

impl Drop for UringDriver {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let mut lost = Vec::new();
        state.ring.cancel_all();
        let deadline = clock::now() + ring::DRAIN_MAX;
        while (state.in_kernel > 0 || state.ring.is_watching()) && clock::now() < deadline {
            state.ring.enter(true, Some(ring::DRAIN_PAUSE));
            state.reap_all(&mut lost);
        }
        if state.in_kernel > 0 {
            tracing::warn!(
                operations = state.in_kernel,
                "IO did not end: its memory stays"
            );
            // The kernel may still write there.
            std::mem::forget(std::mem::take(&mut state.flights));
        }
    }
}
