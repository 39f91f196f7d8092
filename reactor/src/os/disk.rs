//! Opens disks: direct IO, exclusively, and finds out what they are like.

use crate::os::check;
use crate::{CachePolicy, DiskError, DiskGeometry, DiskOptions, OsError, PAGE_BYTES};
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
const BLKDISCARD: libc::c_ulong = 0x1277;

/// An open disk of the operating system; closing it unlocks it.
#[derive(Debug)]
pub(crate) struct DiskFile {
    pub(crate) fd: OwnedFd,
    pub(crate) geometry: DiskGeometry,
}

/// Opens and locks a disk: one attempt.
pub(crate) fn open(options: &DiskOptions) -> Result<DiskFile, DiskError> {
    let path = &options.path;
    let failed = |error| DiskError::Open {
        path: path.clone(),
        error,
    };
    let metadata = fs::metadata(path).map_err(|error| failed(error.into()))?;
    let kind = std::os::unix::fs::FileTypeExt::is_block_device(&metadata.file_type());
    if !kind && !metadata.is_file() {
        return Err(DiskError::NotADisk { path: path.clone() });
    }
    let access = if options.read_only {
        libc::O_RDONLY
    } else {
        libc::O_RDWR
    };
    // On a block device O_EXCL without O_CREAT means: nobody else may hold it so, no mount either.
    let exclusive = if kind && !options.read_only {
        libc::O_EXCL
    } else {
        0
    };
    let flags = access | exclusive | libc::O_DIRECT | libc::O_CLOEXEC;
    let name = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| failed(OsError::from_errno(libc::EINVAL)))?;
    // SAFETY: `name` is a terminated string that outlives the call.
    let fd = match check(unsafe { libc::open(name.as_ptr(), flags) }) {
        Ok(fd) => super::own(fd),
        Err(error) if error.errno() == libc::EBUSY => {
            return Err(DiskError::InUse { path: path.clone() });
        }
        Err(error) if error.errno() == libc::EINVAL => {
            return Err(DiskError::NoDirectIo { path: path.clone() });
        }
        Err(error) => return Err(failed(error)),
    };
    lock(&fd, options)?;
    // The path may have come to name something else before it was opened: look at the file.
    let stat = stat(&fd).map_err(failed)?;
    let is_block_device = stat.st_mode & libc::S_IFMT == libc::S_IFBLK;
    if is_block_device != kind {
        return Err(DiskError::NotADisk { path: path.clone() });
    }
    let size = if is_block_device {
        block_device_bytes(&fd).map_err(failed)?
    } else {
        u64::try_from(stat.st_size).unwrap_or(0)
    };
    let queue = queue_of(if is_block_device {
        stat.st_rdev
    } else {
        stat.st_dev
    });
    let volatile_cache = match options.cache {
        CachePolicy::Volatile => true,
        CachePolicy::WriteThrough => false,
        CachePolicy::Detect => queue.as_deref().is_none_or(is_cache_volatile),
    };
    let supports_discard = is_block_device && queue.as_deref().is_some_and(can_discard);
    Ok(DiskFile {
        fd,
        geometry: DiskGeometry {
            size_bytes: size - size % PAGE_BYTES as u64,
            block_bytes: u32::try_from(PAGE_BYTES).expect("a page is small"),
            volatile_cache,
            is_block_device,
            supports_discard,
        },
    })
}

/// The lock goes with the open file: it ends with the process and the last IO of it.
fn lock(fd: &OwnedFd, options: &DiskOptions) -> Result<(), DiskError> {
    let mode = if options.read_only {
        libc::LOCK_SH
    } else {
        libc::LOCK_EX
    };
    // SAFETY: a system call on an owned descriptor, without memory.
    match check(unsafe { libc::flock(fd.as_raw_fd(), mode | libc::LOCK_NB) }) {
        Ok(_) => Ok(()),
        Err(error) if error.errno() == libc::EWOULDBLOCK => Err(DiskError::InUse {
            path: options.path.clone(),
        }),
        Err(error) => Err(DiskError::Open {
            path: options.path.clone(),
            error,
        }),
    }
}

fn stat(fd: &OwnedFd) -> Result<libc::stat, OsError> {
    // SAFETY: all zeroes is a valid `stat`, a plain structure of integers.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is valid for the kernel to write.
    check(unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) })?;
    Ok(stat)
}

fn block_device_bytes(fd: &OwnedFd) -> Result<u64, OsError> {
    let mut bytes = 0u64;
    // SAFETY: BLKGETSIZE64 writes one u64.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), BLKGETSIZE64, &raw mut bytes) })?;
    Ok(bytes)
}

/// The kernel's directory on the request queue of a device; of its disk if it is a partition.
fn queue_of(device: libc::dev_t) -> Option<PathBuf> {
    let (major, minor) = (libc::major(device), libc::minor(device));
    let node = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    [node.join("queue"), node.parent()?.join("queue")]
        .into_iter()
        .find(|queue| queue.is_dir())
}

/// What is not known to be write-through counts as volatile.
fn is_cache_volatile(queue: &Path) -> bool {
    fs::read_to_string(queue.join("write_cache"))
        .map_or(true, |text| text.trim() != "write through")
}

fn can_discard(queue: &Path) -> bool {
    fs::read_to_string(queue.join("discard_max_bytes"))
        .is_ok_and(|text| text.trim().parse::<u64>().is_ok_and(|bytes| bytes > 0))
}

/// Discards a range of a block device; blocks until the device has taken note.
pub(crate) fn discard(fd: &OwnedFd, offset: u64, len: u64) -> Result<(), OsError> {
    let range = [offset, len];
    // SAFETY: BLKDISCARD reads two u64.
    let result = check(unsafe { libc::ioctl(fd.as_raw_fd(), BLKDISCARD, range.as_ptr()) });
    match result {
        Ok(_) => Ok(()),
        // A hint that the device turns out not to take is none.
        Err(error) if error.errno() == libc::EOPNOTSUPP => Ok(()),
        Err(error) => Err(error),
    }
}
