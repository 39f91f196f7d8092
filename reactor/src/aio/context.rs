//! A context of Linux AIO: `io_setup`, `io_submit`, and completions read from the ring that the
//! kernel shares with us. Structures as in `linux/aio_abi.h`.

use crate::OsError;
use crate::driver::Token;
use crate::os::wake::WakeFd;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};

/// Operations given to one call of the kernel.
pub(super) const BATCH_MAX: usize = 128;
/// Operations in flight that a context is made for; fewer where the system is short of them.
const DEPTHS: [libc::c_long; 3] = [1024, 256, 64];

const RING_MAGIC: u32 = 0xa10a_10a1;

const IOCB_CMD_PREAD: u16 = 0;
const IOCB_CMD_FDSYNC: u16 = 3;
const IOCB_CMD_PWRITEV: u16 = 8;
const IOCB_FLAG_RESFD: u32 = 1;

/// `struct iocb` on little-endian machines.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    memory: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    result_fd: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

/// `struct aio_ring`: what the context's number points at. The events follow it.
#[repr(C)]
struct SharedRing {
    id: u32,
    capacity: u32,
    head: AtomicU32,
    tail: AtomicU32,
    magic: u32,
    compatible_features: u32,
    incompatible_features: u32,
    header_bytes: u32,
}

const _: () = assert!(size_of::<Iocb>() == 64 && size_of::<Event>() == 32);
const _: () = assert!(size_of::<SharedRing>() == 32);

/// What to ask of the kernel.
pub(super) enum Command {
    Read {
        memory: *mut u8,
        len: usize,
        offset: u64,
    },
    Write {
        pieces: *const libc::iovec,
        count: usize,
        offset: u64,
    },
    Flush,
}

/// The context.
pub(super) struct Context {
    id: usize,
    staged: Vec<Iocb>,
    /// Fetched by system call where the shared ring is not as we know it.
    fetched: Vec<Event>,
    shares_ring: bool,
}

impl Context {
    pub(super) fn new() -> Result<Self, OsError> {
        let mut last = OsError::from_errno(libc::EAGAIN);
        for depth in DEPTHS {
            let mut id = 0usize;
            // SAFETY: the kernel writes the context's number.
            if unsafe { libc::syscall(libc::SYS_io_setup, depth, &raw mut id) } == 0 {
                return Ok(Self::over(id));
            }
            last = OsError::last();
        }
        Err(last)
    }

    fn over(id: usize) -> Self {
        let mut context = Self {
            id,
            staged: Vec::with_capacity(BATCH_MAX),
            fetched: Vec::new(),
            shares_ring: true,
        };
        let ring = context.ring();
        context.shares_ring = ring.magic == RING_MAGIC && ring.incompatible_features == 0;
        context
    }

    fn ring(&self) -> &SharedRing {
        let ring = std::ptr::with_exposed_provenance::<SharedRing>(self.id);
        // SAFETY: the number of a context is the address where the kernel has mapped its ring
        // for as long as the context lives; what changes meanwhile is atomic.
        unsafe { &*ring }
    }

    /// Adds an operation to the next [`Context::submit`].
    pub(super) fn stage(&mut self, token: Token, fd: RawFd, command: &Command, arrivals: &WakeFd) {
        let mut iocb = Iocb {
            data: u64::from(token.0),
            fd: fd.cast_unsigned(),
            flags: IOCB_FLAG_RESFD,
            result_fd: arrivals.raw().cast_unsigned(),
            ..Iocb::default()
        };
        match *command {
            Command::Read {
                memory,
                len,
                offset,
            } => {
                iocb.opcode = IOCB_CMD_PREAD;
                iocb.memory = memory.expose_provenance() as u64;
                iocb.bytes = len as u64;
                iocb.offset = offset.cast_signed();
            }
            Command::Write {
                pieces,
                count,
                offset,
            } => {
                iocb.opcode = IOCB_CMD_PWRITEV;
                iocb.memory = pieces.expose_provenance() as u64;
                iocb.bytes = count as u64;
                iocb.offset = offset.cast_signed();
            }
            Command::Flush => iocb.opcode = IOCB_CMD_FDSYNC,
        }
        self.staged.push(iocb);
    }

    /// Submits what is staged, in order, and tells how many the kernel took; the others, and on
    /// an error all of them, must be staged again. An error concerns the first.
    ///
    /// # Safety
    /// What the commands point at stays valid and in place until their completions are reaped.
    pub(super) unsafe fn submit(&mut self) -> Result<usize, OsError> {
        let mut pointers = [std::ptr::null_mut::<Iocb>(); BATCH_MAX];
        for (pointer, iocb) in pointers.iter_mut().zip(&mut self.staged) {
            *pointer = iocb;
        }
        // SAFETY: the kernel copies the blocks, all valid, during the call; the caller vouches
        // for what they point at.
        let taken = unsafe {
            libc::syscall(
                libc::SYS_io_submit,
                self.id,
                self.staged.len(),
                pointers.as_mut_ptr(),
            )
        };
        self.staged.clear();
        usize::try_from(taken).map_err(|_| OsError::last())
    }

    /// The next completion: its token and the kernel's result.
    pub(super) fn next(&mut self) -> Option<(Token, i64)> {
        let event = if self.shares_ring {
            self.next_shared()
        } else {
            self.next_fetched()
        }?;
        let token = u32::try_from(event.data).expect("tokens are u32");
        Some((Token(token), event.result))
    }

    fn next_shared(&self) -> Option<Event> {
        let ring = self.ring();
        let head = ring.head.load(Ordering::Relaxed);
        if head == ring.tail.load(Ordering::Acquire) {
            return None;
        }
        let first = std::ptr::from_ref(ring).wrapping_add(1).cast::<Event>();
        // SAFETY: `capacity` events follow the header in the kernel's mapping and `head` is one
        // of them; the kernel writes it no more until `head` has moved on.
        let event = unsafe { first.add(head as usize).read() };
        ring.head
            .store((head + 1) % ring.capacity, Ordering::Release);
        Some(event)
    }

    fn next_fetched(&mut self) -> Option<Event> {
        if self.fetched.is_empty() {
            let mut events = [Event::default(); BATCH_MAX];
            let zero = libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            // SAFETY: the kernel writes at most as many events as there is room for.
            let count = unsafe {
                libc::syscall(
                    libc::SYS_io_getevents,
                    self.id,
                    0 as libc::c_long,
                    BATCH_MAX,
                    events.as_mut_ptr(),
                    &raw const zero,
                )
            };
            let count = usize::try_from(count).unwrap_or(0);
            self.fetched.extend(events[..count].iter().rev());
        }
        self.fetched.pop()
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context is ours; the kernel waits for what is in flight.
        unsafe {
            libc::syscall(libc::SYS_io_destroy, self.id);
        }
    }
}
