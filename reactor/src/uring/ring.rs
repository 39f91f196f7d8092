//! The ring itself: its flags, entering the kernel, what is registered with it.

use crate::OsError;
use crate::buffer::{BufferPool, RegionId};
use crate::driver::Token;
use crate::os::wake::WakeFd;
use io_uring::{IoUring, Submitter, opcode, squeue, types};
use std::os::fd::RawFd;
use std::time::Duration;

/// Entries between two turns before the kernel is entered early.
const SUBMISSIONS: u32 = 512;
/// Completions that the kernel keeps without allocating.
const COMPLETIONS: u32 = 4096;
/// How long the end of a driver waits for IO in flight.
pub(super) const DRAIN_MAX: Duration = Duration::from_secs(5);
pub(super) const DRAIN_PAUSE: Duration = Duration::from_millis(10);

/// Size of the ring's table of buffers, and most bytes that are registered: they are pinned.
const REGIONS_MAX: u32 = 64;
const REGISTERED_BYTES_MAX: usize = 32 << 20;

/// IORING_ENTER_GETEVENTS: run what the kernel has put off for this thread.
const GET_EVENTS: u32 = 1;

/// User data of entries that are no operation's; tokens are below 2³².
const WAKE: u64 = u64::MAX;
const IGNORED: u64 = u64::MAX - 1;

const _: () = assert!(IGNORED > u32::MAX as u64);

pub(super) struct Ring {
    ring: IoUring,
    wake: RawFd,
    /// A read of the wake-up's counter is in the kernel.
    wake_armed: bool,
    /// Where the kernel puts the wake-up's counter.
    wake_count: Box<u64>,
    buffers: Option<Buffers>,
}

/// Buffers registered with the ring.
struct Buffers {
    pool: BufferPool,
    /// By region.
    registered: Vec<bool>,
    bytes: usize,
    /// Cleared when the kernel refuses more (memlock).
    accepting: bool,
}

impl Ring {
    /// The best ring that this kernel makes.
    pub(super) fn new() -> Result<Self, OsError> {
        let mut last = OsError::from_errno(libc::ENOSYS);
        for attempt in 0..3 {
            let mut builder = IoUring::builder();
            builder.setup_clamp().setup_cqsize(COMPLETIONS).dontfork();
            match attempt {
                // Linux 6.1: completions wait for the one thread that reaps them.
                0 => builder
                    .setup_submit_all()
                    .setup_single_issuer()
                    .setup_defer_taskrun()
                    .setup_taskrun_flag(),
                // Linux 5.19.
                1 => builder
                    .setup_submit_all()
                    .setup_coop_taskrun()
                    .setup_taskrun_flag(),
                _ => &mut builder,
            };
            match builder.build(SUBMISSIONS) {
                // Waiting with a timeout needs EXT_ARG, Linux 5.11.
                Ok(ring) if ring.params().is_feature_ext_arg() => return Ok(Self::over(ring)),
                Ok(_) => return Err(OsError::from_errno(libc::ENOSYS)),
                Err(error) => last = error.into(),
            }
            if last.errno() != libc::EINVAL {
                break;
            }
        }
        Err(last)
    }

    fn over(ring: IoUring) -> Self {
        Self {
            ring,
            wake: -1,
            wake_armed: false,
            wake_count: Box::new(0),
            buffers: None,
        }
    }

    pub(super) fn submitter(&self) -> Submitter<'_> {
        self.ring.submitter()
    }

    /// Lets `wake` end waits from now on. It must outlive the ring.
    pub(super) fn watch(&mut self, wake: &WakeFd) {
        self.wake = wake.raw();
        self.arm_wake();
    }

    fn arm_wake(&mut self) {
        let memory = (&raw mut *self.wake_count).cast::<u8>();
        let entry = opcode::Read::new(types::Fd(self.wake), memory, 8)
            .build()
            .user_data(WAKE);
        // SAFETY: the counter is on the heap and lives as long as the ring; one read is in
        // flight at a time.
        unsafe { self.push(&entry) };
        self.wake_armed = true;
    }

    /// Whether the kernel may still write the wake-up's counter.
    pub(super) fn is_watching(&self) -> bool {
        self.wake_armed
    }

    /// Queues an entry.
    ///
    /// # Safety
    /// What it points at stays valid and in place until its completion is reaped.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: the caller's promise.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            self.submit();
        }
    }

    /// Asks the kernel to end an operation.
    pub(super) fn cancel(&mut self, token: Token) {
        let entry = opcode::AsyncCancel::new(u64::from(token.0))
            .build()
            .user_data(IGNORED);
        // SAFETY: the entry points at nothing.
        unsafe { self.push(&entry) };
    }

    /// Asks the kernel to end everything.
    pub(super) fn cancel_all(&mut self) {
        let entry = opcode::AsyncCancel2::new(types::CancelBuilder::any())
            .build()
            .user_data(IGNORED);
        // SAFETY: the entry points at nothing.
        unsafe { self.push(&entry) };
        self.wake = -1;
    }

    /// Passes queued entries on; if told to wait, returns once something has completed or the
    /// timeout is over. Without anything to do it costs no system call.
    pub(super) fn enter(&mut self, wait: bool, timeout: Option<Duration>) {
        if !wait {
            let queue = self.ring.submission();
            let queued = u32::try_from(queue.len()).expect("a ring is small");
            let is_idle = queued == 0 && !queue.taskrun() && !queue.cq_overflow();
            drop(queue);
            if !is_idle {
                // Completions that the submissions cause are then taken in on the same way.
                // SAFETY: the entries were pushed with the promise that `push` asks for, and
                // without an argument there is no memory to read.
                let result = unsafe {
                    self.ring
                        .submitter()
                        .enter::<libc::sigset_t>(queued, 0, GET_EVENTS, None)
                };
                Self::judge(result);
            }
            return;
        }
        let result = match timeout {
            None => self.ring.submitter().submit_and_wait(1),
            Some(timeout) => {
                let timespec = types::Timespec::from(timeout);
                let args = types::SubmitArgs::new().timespec(&timespec);
                self.ring.submitter().submit_with_args(1, &args)
            }
        };
        Self::judge(result);
    }

    fn submit(&mut self) {
        Self::judge(self.ring.submitter().submit());
    }

    fn judge(result: std::io::Result<usize>) {
        if let Err(error) = result {
            match error.raw_os_error() {
                // Timed out; a signal came; reap completions first; short of memory: try again.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                _ => panic!("io_uring_enter failed: {error}"),
            }
        }
    }

    /// The next completion of an operation: its result and its flags.
    pub(super) fn next(&mut self) -> Option<(Token, i32, u32)> {
        loop {
            let entry = self.ring.completion().next()?;
            match entry.user_data() {
                IGNORED => {}
                WAKE => {
                    self.wake_armed = false;
                    if self.wake >= 0 {
                        self.arm_wake();
                    }
                }
                data => {
                    let token = u32::try_from(data).expect("tokens are u32");
                    return Some((Token(token), entry.result(), entry.flags()));
                }
            }
        }
    }

    /// Registers buffers of `pool` from now on, as far as the kernel lets us.
    pub(super) fn use_buffers_of(&mut self, pool: BufferPool) {
        let accepting = self
            .submitter()
            .register_buffers_sparse(REGIONS_MAX)
            .is_ok();
        self.buffers = Some(Buffers {
            pool,
            registered: Vec::new(),
            bytes: 0,
            accepting,
        });
    }

    /// The index of a region of the pool in the ring's table, if it is there.
    pub(super) fn registered(&self, region: RegionId) -> Option<u16> {
        let buffers = self.buffers.as_ref()?;
        let registered = buffers.registered.get(region.0 as usize).copied()?;
        u16::try_from(region.0).ok().filter(|_| registered)
    }

    /// Registers regions that the pool has mapped since.
    pub(super) fn register_new_regions(&mut self) {
        let Some(buffers) = &mut self.buffers else {
            return;
        };
        if !buffers.accepting || !buffers.pool.has_new_regions() {
            return;
        }
        for (region, memory, len) in buffers.pool.take_new_regions() {
            let fits = region.0 < REGIONS_MAX && buffers.bytes + len <= REGISTERED_BYTES_MAX;
            let piece = libc::iovec {
                iov_base: memory.as_ptr().cast(),
                iov_len: len,
            };
            // SAFETY: the region stays mapped while the pool lives, which this ring holds, and
            // a pinned region's pages stay in place.
            let registered = fits
                && buffers.accepting
                && unsafe {
                    self.ring
                        .submitter()
                        .register_buffers_update(region.0, &[piece], None)
                }
                .is_ok();
            if registered {
                buffers.pool.pin_region(region);
                buffers.bytes += len;
            } else if fits {
                buffers.accepting = false;
            }
            buffers.registered.push(registered);
        }
    }
}
