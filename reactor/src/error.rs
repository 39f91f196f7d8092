//! What can go wrong with disks, sockets and the start of a reactor.

use ashlar_proto::Address;
use std::fmt;
use std::path::PathBuf;

/// An error number of the operating system (`errno`).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OsError(i32);

impl OsError {
    /// Input/output error.
    pub const IO: Self = Self(libc::EIO);
    /// No space left on device.
    pub const NO_SPACE: Self = Self(libc::ENOSPC);

    /// The error numbered `errno`.
    #[must_use]
    pub const fn from_errno(errno: i32) -> Self {
        Self(errno)
    }

    /// Its number.
    #[must_use]
    pub const fn errno(self) -> i32 {
        self.0
    }

    /// The error of the calling thread's last system call.
    pub(crate) fn last() -> Self {
        Self::from(&std::io::Error::last_os_error())
    }
}

impl From<&std::io::Error> for OsError {
    fn from(error: &std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<std::io::Error> for OsError {
    fn from(error: std::io::Error) -> Self {
        Self::from(&error)
    }
}

impl fmt::Display for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl fmt::Debug for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for OsError {}

/// What a disk was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskOperation {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Flush the device's cache.
    Flush,
    /// Discard a range.
    Discard,
}

impl fmt::Display for DiskOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Discard => "discard",
        })
    }
}

/// Why a disk could not be opened or an operation on it failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// It cannot be opened.
    #[error("cannot open disk {path}: {error}")]
    Open {
        /// The disk.
        path: PathBuf,
        /// What the system said.
        error: OsError,
    },
    /// Another process (or mount) holds it.
    #[error(
        "disk {path} is in use: stop the process that holds it, or unmount it \
         (`fuser -v {path}` and `lsblk {path}` name the holder), then retry"
    )]
    InUse {
        /// The disk.
        path: PathBuf,
    },
    /// It is neither a block device nor a regular file.
    #[error("{path} is neither a block device nor a regular file: give one of these as a disk")]
    NotADisk {
        /// The path.
        path: PathBuf,
    },
    /// Its file system has no direct IO.
    #[error(
        "the file system of {path} does not support direct IO (O_DIRECT): put the disk on ext4, \
         xfs or a block device"
    )]
    NoDirectIo {
        /// The disk.
        path: PathBuf,
    },
    /// An operation failed.
    #[error("disk {operation} at byte {offset} failed: {error}")]
    Io {
        /// Which.
        operation: DiskOperation,
        /// Where it began, in bytes.
        offset: u64,
        /// What the system said.
        error: OsError,
    },
    /// The range goes beyond the disk's end.
    #[error("range of {len} bytes at byte {offset} goes beyond the disk's end at {size}")]
    OutOfRange {
        /// Where it begins, in bytes.
        offset: u64,
        /// Its length in bytes.
        len: u64,
        /// The disk's size in bytes.
        size: u64,
    },
    /// It was opened for reading only.
    #[error("disk was opened for reading only")]
    ReadOnly,
}

/// Why a network operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// Nobody answers there, or it cannot be reached.
    #[error("cannot connect to {address}: {error}")]
    Connect {
        /// Where to.
        address: Address,
        /// What the system said.
        error: OsError,
    },
    /// The address cannot be listened at.
    #[error("cannot listen at {address}: {error}")]
    Listen {
        /// Where.
        address: Address,
        /// What the system said.
        error: OsError,
    },
    /// The peer is gone.
    #[error("the peer closed the connection")]
    Reset,
    /// This end was shut down or closed.
    #[error("the connection was shut down at this end")]
    Shutdown,
    /// Anything else.
    #[error("network error: {0}")]
    Io(OsError),
}

impl NetError {
    /// The error of an operation on an open stream.
    pub(crate) fn from_errno(errno: i32) -> Self {
        match errno {
            libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN => Self::Reset,
            libc::ECANCELED | libc::EBADF | libc::ESHUTDOWN => Self::Shutdown,
            errno => Self::Io(OsError::from_errno(errno)),
        }
    }
}

/// Why a reactor could not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The kernel or a sandbox forbids io_uring.
    #[error("io_uring is not available here ({error}): use the aio engine")]
    IoUring {
        /// What the system said.
        error: OsError,
    },
    /// Linux AIO or epoll cannot be set up.
    #[error("Linux AIO is not available here ({error}): raise fs.aio-max-nr or use io_uring")]
    Aio {
        /// What the system said.
        error: OsError,
    },
    /// No memory or file descriptors for the reactor.
    #[error("cannot start a reactor: {error}")]
    Resources {
        /// What the system said.
        error: OsError,
    },
}
