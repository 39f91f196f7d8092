//! The driver beneath a simulated process: passes each request on to the world.
//!
//! A dead process's driver takes requests and forgets them: what the dropping of its tasks still
//! asks for never happens.

use std::rc::Rc;
use std::sync::Arc;

use ashlar_proto::Address;

use super::core::{ProcessId, State, os_error};
use super::world::Core;
use crate::DetachedSocket;
use crate::disk::DetachedHandle;
use crate::driver::{
    Completion, DiskHandle, Driver, ListenerHandle, Op, SocketHandle, Token, Wait,
};
use crate::remote::Unpark;
use crate::{DiskError, DiskGeometry, DiskOptions, Instant, NetError, OsError};

/// Milliseconds since 1970 at the start of every world.
const WALL_CLOCK_START_MS: u64 = 1_800_000_000_000;

pub(super) struct SimDriver {
    pub world: Rc<Core>,
    pub process: ProcessId,
}

impl SimDriver {
    /// Acts on the world unless the process is dead.
    fn alive(&self, act: impl FnOnce(&mut State, ProcessId)) {
        let mut state = self.world.state.borrow_mut();
        if state.process(self.process).alive {
            act(&mut state, self.process);
        }
    }
}

/// Other threads have no business in a world, and nothing of it ever blocks.
struct NeverParked;

impl Unpark for NeverParked {
    fn unpark(&self) {}
}

impl Driver for SimDriver {
    fn submit(&self, token: Token, op: Op) {
        self.alive(|state, process| match op {
            Op::Read {
                disk,
                offset,
                buffer,
            } => state.read_disk(process, disk, token, offset, buffer),
            Op::Write {
                disk,
                offset,
                buffers,
            } => state.write_disk(process, disk, token, offset, &buffers),
            Op::Flush { disk } => state.flush_disk(process, disk, token),
            Op::Discard { disk, offset, len } => {
                state.discard_disk(process, disk, token, offset, len);
            }
            Op::Accept { listener } => state.accept(process, listener.0, token),
            Op::Connect { address } => state.connect(process, token, address),
            Op::Recv {
                socket,
                buffer,
                from,
            } => state.receive(process, socket.0, token, buffer, from),
            Op::Send { socket, buffers } => state.send(process, socket.0, token, buffers),
        });
    }

    fn cancel(&self, token: Token) {
        self.alive(|state, process| state.cancel(process, token));
    }

    fn poll(&self, _: Wait, completions: &mut Vec<Completion>) {
        self.alive(|state, process| {
            let mut done = std::mem::take(&mut state.process(process).completions);
            state.rng.shuffle(&mut done);
            completions.append(&mut done);
        });
    }

    fn now(&self) -> Instant {
        let mut state = self.world.state.borrow_mut();
        let now_ns = state.now_ns;
        Instant::from_nanos(state.process(self.process).clock.shows(now_ns))
    }

    fn wall_clock_ms(&self) -> u64 {
        WALL_CLOCK_START_MS + self.now().as_nanos() / 1_000_000
    }

    fn random_u64(&self) -> u64 {
        self.world.state.borrow_mut().rng.next_u64()
    }

    fn unpark(&self) -> Arc<dyn Unpark> {
        Arc::new(NeverParked)
    }

    fn open_disk(&self, options: &DiskOptions) -> Result<(DiskHandle, DiskGeometry), DiskError> {
        let mut state = self.world.state.borrow_mut();
        state.open_disk(self.process, options)
    }

    fn share_disk(&self, disk: DiskHandle) -> Result<DetachedHandle, OsError> {
        let state = self.world.state.borrow();
        let index = state.disk_of(self.process, disk.0);
        let shared = index.map(DetachedHandle::Simulated);
        shared.ok_or(OsError::from_errno(libc::EBADF))
    }

    fn adopt_disk(&self, disk: DetachedHandle, _geometry: DiskGeometry) -> DiskHandle {
        let DetachedHandle::Simulated(index) = disk else {
            panic!("a real disk has no place in a simulated world");
        };
        let mut state = self.world.state.borrow_mut();
        state.hold_disk(self.process, index)
    }

    fn close_disk(&self, disk: DiskHandle) {
        self.alive(|state, process| state.close_disk(process, disk.0));
    }

    fn listen(&self, address: &Address) -> Result<(ListenerHandle, Address), NetError> {
        let mut state = self.world.state.borrow_mut();
        let host = state.process(self.process).host;
        let (id, bound) = state.net.listen(host, address).map_err(|error| {
            let (address, error) = (address.clone(), os_error(error));
            NetError::Listen { address, error }
        })?;
        let handle = state.add_listener(self.process, id);
        Ok((ListenerHandle(handle), bound))
    }

    fn close_listener(&self, listener: ListenerHandle) {
        self.alive(|state, process| state.close_listener(process, listener.0));
    }

    fn shutdown_socket(&self, socket: SocketHandle) {
        self.alive(|state, process| state.shut_socket(process, socket.0));
    }

    fn close_socket(&self, socket: SocketHandle) {
        self.alive(|state, process| state.close_socket(process, socket.0));
    }

    fn detach_socket(&self, socket: SocketHandle) -> DetachedSocket {
        let mut state = self.world.state.borrow_mut();
        let end = state.take_socket(self.process, socket.0);
        DetachedSocket::Simulated(end.unwrap_or(0))
    }

    fn adopt_socket(&self, socket: DetachedSocket) -> SocketHandle {
        let mut state = self.world.state.borrow_mut();
        let DetachedSocket::Simulated(end) = socket else {
            panic!("a real socket has no place in a simulated world");
        };
        state.add_socket(self.process, end)
    }
}
