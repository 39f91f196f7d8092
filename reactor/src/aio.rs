//! The driver for where io_uring is not permitted: Linux AIO for disks, epoll for sockets.
//!
//! Disk operations are queued and submitted once per turn; their completions are read from the
//! memory that the kernel shares, and an eventfd wakes epoll. Sockets are nonblocking and
//! watched edge-triggered, each operation is tried at once and again when the kernel says so.
//!
//! Invariant: a token is in exactly one place: a flight, a socket's or listener's queue, the
//! worker, or the list of completions to hand out.

mod context;
mod epoll;
mod sockets;

use crate::disk::DetachedHandle;
use crate::driver::{Completion, DiskHandle, Driver, ListenerHandle, Op, Outcome};
use crate::driver::{SocketHandle, Token, Wait};
use crate::os::clock::{self, Randomness};
use crate::os::disk::{self, DiskFile};
use crate::os::gather::{Progress, Scratch};
use crate::os::wake::WakeFd;
use crate::os::worker::Worker;
use crate::remote::Unpark;
use crate::{Buffer, DetachedSocket, DiskError, DiskGeometry, DiskOptions, Instant, NetError};
use crate::{OsError, SharedBuffer};
use ashlar_proto::Address;
use context::{Command, Context};
use epoll::{Epoll, Source};
use slab::Slab;
use sockets::Sockets;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long the end of a driver waits for IO in flight.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Most bytes asked for at once: below what any single call of the kernel does.
const BYTES_MAX: usize = 1 << 30;

/// The driver.
pub(crate) struct AioDriver {
    state: RefCell<State>,
    wake: Arc<WakeFd>,
    worker: Worker,
    randomness: Randomness,
}

struct State {
    context: Context,
    epoll: Epoll,
    /// Signalled by the kernel as disk operations complete.
    arrivals: WakeFd,
    disks: Slab<Rc<DiskFile>>,
    /// Disk operations by token.
    flights: Vec<Option<Flight>>,
    /// Flights that wait to be submitted, in order.
    queue: VecDeque<Token>,
    in_kernel: usize,
    sockets: Sockets,
    #[expect(clippy::vec_box, reason = "the kernel holds pointers into them")]
    scratch: Vec<Box<Scratch>>,
    /// Completions to hand out.
    ready: Vec<Completion>,
}

/// A disk operation in flight.
struct Flight {
    file: Rc<DiskFile>,
    work: Work,
}

enum Work {
    Read {
        offset: u64,
        buffer: Buffer,
        done: usize,
    },
    Write {
        offset: u64,
        buffers: Vec<SharedBuffer>,
        progress: Progress,
        scratch: Box<Scratch>,
    },
    Flush,
}

impl AioDriver {
    pub(crate) fn new() -> Result<Self, OsError> {
        let wake = Arc::new(WakeFd::new(true)?);
        let arrivals = WakeFd::new(true)?;
        let epoll = Epoll::new()?;
        epoll.watch(wake.raw(), Source::Wake)?;
        epoll.watch(arrivals.raw(), Source::Arrivals)?;
        Ok(Self {
            state: RefCell::new(State {
                context: Context::new()?,
                epoll,
                arrivals,
                disks: Slab::new(),
                flights: Vec::new(),
                queue: VecDeque::new(),
                in_kernel: 0,
                sockets: Sockets::default(),
                scratch: Vec::new(),
                ready: Vec::new(),
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

impl Flight {
    /// What to ask of the kernel for all that is left.
    fn command(&mut self) -> Command {
        match &mut self.work {
            Work::Read {
                offset,
                buffer,
                done,
            } => {
                let rest = &mut buffer[*done..];
                Command::Read {
                    memory: rest.as_mut_ptr(),
                    len: rest.len().min(BYTES_MAX),
                    offset: *offset + *done as u64,
                }
            }
            Work::Write {
                offset,
                buffers,
                progress,
                scratch,
            } => {
                scratch.fill(buffers, *progress);
                Command::Write {
                    pieces: scratch.pieces.as_ptr(),
                    count: scratch.pieces.len(),
                    offset: *offset + progress.done as u64,
                }
            }
            Work::Flush => Command::Flush,
        }
    }

    /// Takes the kernel's result in; `None` if there is more to ask for.
    fn advance(&mut self, result: i64) -> Option<Result<(), OsError>> {
        if result == -i64::from(libc::EINTR) || result == -i64::from(libc::EAGAIN) {
            return None;
        }
        let Ok(bytes) = usize::try_from(result) else {
            let errno = i32::try_from(-result).unwrap_or(libc::EIO);
            return Some(Err(OsError::from_errno(errno)));
        };
        let done = match &mut self.work {
            Work::Flush => return Some(Ok(())),
            _ if bytes == 0 => return Some(Err(OsError::IO)),
            Work::Read { buffer, done, .. } => {
                *done += bytes;
                *done == buffer.len()
            }
            Work::Write {
                buffers, progress, ..
            } => progress.advance(buffers, bytes),
        };
        done.then_some(Ok(()))
    }
}

impl State {
    fn start(&mut self, token: Token, disk: DiskHandle, work: Work) {
        let index = token.0 as usize;
        if index >= self.flights.len() {
            self.flights.resize_with(index + 1, || None);
        }
        assert!(self.flights[index].is_none(), "{token:?} is in flight");
        let file = Rc::clone(&self.disks[disk.0 as usize]);
        self.flights[index] = Some(Flight { file, work });
        self.queue.push_back(token);
    }

    /// Submits what is queued, as far as the kernel takes it.
    fn submit_queued(&mut self) {
        while !self.queue.is_empty() {
            let batch = self.queue.len().min(context::BATCH_MAX);
            for token in self.queue.iter().take(batch) {
                let flight = self.flights[token.0 as usize].as_mut().expect("in flight");
                let command = flight.command();
                let fd = flight.file.fd.as_raw_fd();
                self.context.stage(*token, fd, &command, &self.arrivals);
            }
            // SAFETY: what the staged commands point at is owned by their flights, in heap
            // memory that does not move, until their completions are reaped.
            match unsafe { self.context.submit() } {
                Ok(0) => break,
                Ok(count) => {
                    self.queue.drain(..count);
                    self.in_kernel += count;
                }
                // Full: go on when something has completed.
                Err(error) if error.errno() == libc::EAGAIN && self.in_kernel > 0 => break,
                Err(error) => {
                    let token = self.queue.pop_front().expect("not empty");
                    self.finish(token, Err(error));
                }
            }
        }
    }

    fn reap_disks(&mut self) {
        while let Some((token, result)) = self.context.next() {
            self.in_kernel -= 1;
            let flight = self.flights[token.0 as usize].as_mut();
            let flight = flight.expect("the kernel completed a stranger");
            match flight.advance(result) {
                None => self.queue.push_back(token),
                Some(result) => self.finish(token, result),
            }
        }
    }

    fn finish(&mut self, token: Token, result: Result<(), OsError>) {
        let flight = self.flights[token.0 as usize].take().expect("in flight");
        let outcome = match flight.work {
            Work::Read { buffer, .. } => Outcome::Read(buffer, result),
            Work::Write { scratch, .. } => {
                self.scratch.push(scratch);
                Outcome::Disk(result)
            }
            Work::Flush => Outcome::Disk(result),
        };
        self.ready.push(Completion { token, outcome });
    }

    fn handle_events(&mut self, timeout: Option<Duration>) {
        let Self {
            epoll,
            sockets,
            ready,
            ..
        } = self;
        for (source, events) in epoll.wait(timeout) {
            match source {
                Source::Wake | Source::Arrivals => {}
                Source::Socket(key) => sockets.socket_event(key, events, ready),
                Source::Listener(key) => sockets.listener_event(key, ready),
            }
        }
        sockets.adopt_accepted(epoll);
    }
}

impl Driver for AioDriver {
    fn submit(&self, token: Token, op: Op) {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        match op {
            Op::Read {
                disk,
                offset,
                buffer,
            } => {
                let work = Work::Read {
                    offset,
                    buffer,
                    done: 0,
                };
                state.start(token, disk, work);
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
                    scratch: state.scratch.pop().unwrap_or_else(Scratch::new),
                };
                state.start(token, disk, work);
            }
            Op::Flush { disk } => state.start(token, disk, Work::Flush),
            Op::Discard { disk, offset, len } => {
                match state.disks[disk.0 as usize].fd.try_clone() {
                    Ok(fd) => {
                        let job = move || disk::discard(&fd, offset, len);
                        self.worker.submit(token, Box::new(job));
                    }
                    Err(error) => state.ready.push(Completion {
                        token,
                        outcome: Outcome::Disk(Err(error.into())),
                    }),
                }
            }
            Op::Accept { listener } => {
                state.sockets.accept(token, listener, &mut state.ready);
                state.sockets.adopt_accepted(&state.epoll);
            }
            Op::Connect { address } => {
                state
                    .sockets
                    .connect(token, address, &state.epoll, &mut state.ready);
            }
            Op::Recv {
                socket,
                buffer,
                from,
            } => state
                .sockets
                .recv(token, socket, (buffer, from), &mut state.ready),
            Op::Send { socket, buffers } => {
                state.sockets.send(token, socket, buffers, &mut state.ready);
            }
        }
    }

    fn cancel(&self, token: Token) {
        let state = &mut *self.state.borrow_mut();
        state.sockets.cancel(token, &mut state.ready);
    }

    fn poll(&self, wait: Wait, completions: &mut Vec<Completion>) {
        let state = &mut *self.state.borrow_mut();
        state.submit_queued();
        state.reap_disks();
        let timeout = if !state.ready.is_empty() || !state.queue.is_empty() && state.in_kernel == 0
        {
            Some(Duration::ZERO)
        } else {
            match wait {
                Wait::No => Some(Duration::ZERO),
                Wait::Forever => None,
                Wait::Until(at) => Some(at.saturating_since(clock::now())),
            }
        };
        state.handle_events(timeout);
        state.reap_disks();
        completions.append(&mut state.ready);
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
        let geometry = disk.geometry;
        let key = self.state.borrow_mut().disks.insert(Rc::new(disk));
        Ok((DiskHandle(number(key)), geometry))
    }

    fn share_disk(&self, disk: DiskHandle) -> Result<DetachedHandle, OsError> {
        let state = self.state.borrow();
        let shared = state.disks[disk.0 as usize].fd.try_clone();
        shared.map(DetachedHandle::Os).map_err(OsError::from)
    }

    fn adopt_disk(&self, disk: DetachedHandle, geometry: DiskGeometry) -> DiskHandle {
        let DetachedHandle::Os(fd) = disk else {
            unreachable!("only disks of the system come to this driver");
        };
        let disk = Rc::new(DiskFile { fd, geometry });
        DiskHandle(number(self.state.borrow_mut().disks.insert(disk)))
    }

    fn close_disk(&self, disk: DiskHandle) {
        let file = self.state.borrow_mut().disks.remove(disk.0 as usize);
        drop(file); // what is in flight keeps it open
    }

    fn listen(&self, address: &Address) -> Result<(ListenerHandle, Address), NetError> {
        let state = &mut *self.state.borrow_mut();
        state.sockets.listen(address, &state.epoll)
    }

    fn close_listener(&self, listener: ListenerHandle) {
        let state = &mut *self.state.borrow_mut();
        state.sockets.close_listener(listener, &mut state.ready);
    }

    fn shutdown_socket(&self, socket: SocketHandle) {
        let state = &mut *self.state.borrow_mut();
        state.sockets.shutdown(socket, &mut state.ready);
    }

    fn local_address(&self, socket: SocketHandle) -> Option<Address> {
        self.state.borrow().sockets.local_address(socket)
    }

    fn close_socket(&self, socket: SocketHandle) {
        let state = &mut *self.state.borrow_mut();
        let fd = state.sockets.close(socket, &state.epoll, &mut state.ready);
        drop(fd);
    }

    fn detach_socket(&self, socket: SocketHandle) -> DetachedSocket {
        let state = &mut *self.state.borrow_mut();
        DetachedSocket::Os(state.sockets.close(socket, &state.epoll, &mut state.ready))
    }

    fn adopt_socket(&self, socket: DetachedSocket) -> SocketHandle {
        let DetachedSocket::Os(fd) = socket else {
            unreachable!("only sockets of the system come to this driver");
        };
        let state = &mut *self.state.borrow_mut();
        state.sockets.adopt(fd, &state.epoll)
    }
}

impl Drop for AioDriver {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let deadline = clock::now() + DRAIN_MAX;
        state.queue.clear();
        while state.in_kernel > 0 && clock::now() < deadline {
            state.handle_events(Some(Duration::from_millis(10)));
            state.reap_disks();
            state.queue.clear();
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
