//! An eventfd that ends a driver's sleep.

use crate::OsError;
use crate::os::{check, own};
use crate::remote::Unpark;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Written to from any thread; the driver watches it.
pub(crate) struct WakeFd {
    fd: OwnedFd,
}

impl WakeFd {
    /// `nonblocking` suits epoll; io_uring reads a blocking one.
    pub(crate) fn new(nonblocking: bool) -> Result<Self, OsError> {
        let flags = if nonblocking { libc::EFD_NONBLOCK } else { 0 };
        // SAFETY: a system call without memory.
        let fd = check(unsafe { libc::eventfd(0, flags | libc::EFD_CLOEXEC) })?;
        Ok(Self { fd: own(fd) })
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Unpark for WakeFd {
    fn unpark(&self) {
        let one = 1u64;
        // SAFETY: eight readable bytes. It fails only if the counter is full, and then the
        // driver has a wake-up to see anyway.
        unsafe {
            libc::write(self.raw(), (&raw const one).cast(), 8);
        }
    }
}
