//! The epoll instance, edge-triggered throughout: nothing needs to be read to be silenced.

use crate::OsError;
use crate::os::{check, own};
use std::cell::Cell;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

const EVENTS_MAX: usize = 256;

/// What became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The unparker.
    Wake,
    /// Completions of disk operations.
    Arrivals,
    /// The socket with this key.
    Socket(u32),
    /// The listener with this key.
    Listener(u32),
}

impl Source {
    fn pack(self) -> u64 {
        match self {
            Self::Wake => 0,
            Self::Arrivals => 1 << 32,
            Self::Socket(key) => 2 << 32 | u64::from(key),
            Self::Listener(key) => 3 << 32 | u64::from(key),
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "takes the fields apart")]
    fn unpack(data: u64) -> Self {
        match data >> 32 {
            0 => Self::Wake,
            1 => Self::Arrivals,
            2 => Self::Socket(data as u32),
            _ => Self::Listener(data as u32),
        }
    }
}

/// Which directions may work now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Readiness {
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The peer has ended its direction, or everything is over.
    pub(super) hangup: bool,
}

impl Readiness {
    fn of(events: u32) -> Self {
        let has = |flags: i32| events & flags.cast_unsigned() != 0;
        let over = libc::EPOLLHUP | libc::EPOLLERR;
        Self {
            readable: has(libc::EPOLLIN | libc::EPOLLRDHUP | over),
            writable: has(libc::EPOLLOUT | over),
            hangup: has(libc::EPOLLRDHUP | over),
        }
    }
}

pub(super) struct Epoll {
    fd: OwnedFd,
    events: Box<[libc::epoll_event; EVENTS_MAX]>,
    /// The kernel knows epoll_pwait2 (Linux 5.11).
    has_nanoseconds: Cell<bool>,
}

impl Epoll {
    pub(super) fn new() -> Result<Self, OsError> {
        // SAFETY: a system call without memory.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        Ok(Self {
            fd: own(fd),
            events: Box::new([libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX]),
            has_nanoseconds: Cell::new(true),
        })
    }

    /// Watches for reading, writing and the end, from now on.
    pub(super) fn watch(&self, fd: RawFd, source: Source) -> Result<(), OsError> {
        let flags = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        // An eventfd is writable whenever it is read from or written to: of no interest.
        let flags = match source {
            Source::Wake | Source::Arrivals => flags & !libc::EPOLLOUT,
            Source::Socket(_) | Source::Listener(_) => flags,
        };
        let mut event = libc::epoll_event {
            events: flags.cast_unsigned(),
            u64: source.pack(),
        };
        let epoll = self.fd.as_raw_fd();
        // SAFETY: the kernel reads the event during the call.
        check(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) })?;
        Ok(())
    }

    /// Stops watching.
    pub(super) fn forget(&self, fd: RawFd) {
        let epoll = self.fd.as_raw_fd();
        // SAFETY: a removal reads no event.
        unsafe {
            libc::epoll_ctl(epoll, libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut());
        }
    }

    /// Waits for something to become ready, at most `timeout`.
    pub(super) fn wait(
        &mut self,
        timeout: Option<Duration>,
    ) -> impl Iterator<Item = (Source, Readiness)> + use<'_> {
        let count = self.wait_raw(timeout);
        // An interrupted wait is a short one.
        let count = usize::try_from(count).unwrap_or(0);
        self.events[..count]
            .iter()
            .map(|event| (Source::unpack(event.u64), Readiness::of(event.events)))
    }

    fn wait_raw(&mut self, timeout: Option<Duration>) -> libc::c_long {
        let fd = self.fd.as_raw_fd();
        let events = self.events.as_mut_ptr();
        let capacity = libc::c_int::try_from(EVENTS_MAX).expect("small");
        if self.has_nanoseconds.get() && timeout.is_none_or(|timeout| !timeout.is_zero()) {
            let timespec = timeout.map(|timeout| libc::timespec {
                tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
                tv_nsec: timeout.subsec_nanos().into(),
            });
            let pointer = timespec
                .as_ref()
                .map_or(std::ptr::null(), std::ptr::from_ref);
            let no_mask = std::ptr::null::<libc::sigset_t>();
            // SAFETY: the kernel writes at most `capacity` events and reads the timespec.
            let count = unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    fd,
                    events,
                    capacity,
                    pointer,
                    no_mask,
                    0usize,
                )
            };
            if count >= 0 || OsError::last().errno() != libc::ENOSYS {
                return count;
            }
            self.has_nanoseconds.set(false);
        }
        let millis = timeout.map_or(-1, |timeout| {
            let millis = timeout.as_nanos().div_ceil(1_000_000);
            libc::c_int::try_from(millis).unwrap_or(libc::c_int::MAX)
        });
        // SAFETY: the kernel writes at most `capacity` events.
        unsafe { libc::epoll_wait(fd, events, capacity, millis) }.into()
    }
}
