//! What both real drivers share: the clock, randomness, opening disks, making sockets, wake-ups.

pub(crate) mod clock;
pub(crate) mod disk;
pub(crate) mod gather;
pub(crate) mod socket;
pub(crate) mod wake;
pub(crate) mod worker;

use crate::OsError;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// The result of a system call that answers with -1 and `errno`.
pub(crate) fn check(result: libc::c_int) -> Result<libc::c_int, OsError> {
    if result < 0 {
        Err(OsError::last())
    } else {
        Ok(result)
    }
}

/// Takes ownership of a file descriptor that the kernel has just made for us.
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    assert!(fd >= 0, "the kernel made no file descriptor");
    // SAFETY: callers pass a descriptor that a system call has just returned to them and that
    // nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
