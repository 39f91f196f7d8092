//! One operation in flight: what it owns, what it asks of the kernel, whether it is done.

use super::files::{File, Target};
use super::ring::Ring;
use crate::os::gather::{Progress, Scratch};
use crate::{Buffer, OsError, SharedBuffer};
use ashlar_proto::Address;
use io_uring::{cqueue, opcode, squeue, types};
use socket2::SockAddr;
use std::rc::Rc;

/// IORING_RECVSEND_POLL_FIRST: wait before the first try, which would find nothing.
const POLL_FIRST: u16 = 1;

/// Most bytes asked for at once: below what any single call of the kernel does.
const BYTES_MAX: usize = 1 << 30;

pub(super) struct Flight {
    pub(super) file: Rc<File>,
    pub(super) work: Work,
}

pub(super) enum Work {
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
    Accept,
    Connect {
        address: Address,
        sockaddr: Box<SockAddr>,
    },
    Recv {
        buffer: Buffer,
        from: usize,
    },
    Send {
        buffers: Vec<SharedBuffer>,
        progress: Progress,
        scratch: Box<Scratch>,
    },
}

/// What a completion means for its flight.
pub(super) enum Next {
    /// Ask the kernel for the rest.
    Again,
    /// It has ended.
    Done,
}

/// Builds an entry for a file, registered or not.
macro_rules! on {
    ($target:expr, |$fd:ident| $entry:expr) => {
        match $target {
            Target::Registered($fd) => $entry,
            Target::Descriptor($fd) => $entry,
        }
    };
}

impl Flight {
    /// What to ask of the kernel for all that is left.
    pub(super) fn entry(&mut self, ring: &Ring) -> squeue::Entry {
        let target = self.file.target();
        match &mut self.work {
            Work::Read {
                offset,
                buffer,
                done,
            } => {
                let at = *offset + *done as u64;
                let registered = buffer.region().and_then(|region| ring.registered(region));
                let rest = &mut buffer[*done..];
                let (memory, len) = (rest.as_mut_ptr(), clamp(rest.len()));
                match registered {
                    Some(index) => on!(target, |fd| opcode::ReadFixed::new(fd, memory, len, index)
                        .offset(at)
                        .build()),
                    None => on!(target, |fd| opcode::Read::new(fd, memory, len)
                        .offset(at)
                        .build()),
                }
            }
            Work::Write {
                offset,
                buffers,
                progress,
                scratch,
            } => {
                scratch.fill(buffers, *progress);
                let at = *offset + progress.done as u64;
                match &scratch.pieces[..] {
                    [piece] => {
                        let (memory, len) = (piece.iov_base.cast::<u8>(), clamp(piece.iov_len));
                        let registered = match &buffers[..] {
                            [buffer] => buffer.region().and_then(|region| ring.registered(region)),
                            _ => None,
                        };
                        match registered {
                            Some(index) => {
                                on!(target, |fd| opcode::WriteFixed::new(fd, memory, len, index)
                                    .offset(at)
                                    .build())
                            }
                            None => on!(target, |fd| opcode::Write::new(fd, memory, len)
                                .offset(at)
                                .build()),
                        }
                    }
                    pieces => {
                        let count = clamp(pieces.len());
                        on!(target, |fd| opcode::Writev::new(fd, pieces.as_ptr(), count)
                            .offset(at)
                            .build())
                    }
                }
            }
            Work::Flush => on!(target, |fd| opcode::Fsync::new(fd)
                .flags(types::FsyncFlags::DATASYNC)
                .build()),
            Work::Accept => on!(target, |fd| opcode::Accept::new(
                fd,
                std::ptr::null_mut(),
                std::ptr::null_mut()
            )
            .flags(libc::SOCK_CLOEXEC)
            .build()),
            Work::Connect { sockaddr, .. } => {
                let (pointer, len) = (sockaddr.as_ptr().cast(), sockaddr.len());
                on!(target, |fd| opcode::Connect::new(fd, pointer, len).build())
            }
            Work::Recv { buffer, from } => {
                let room = &mut buffer[*from..];
                let (memory, len) = (room.as_mut_ptr(), clamp(room.len()));
                let order = if self.file.has_more.get() {
                    0
                } else {
                    POLL_FIRST
                };
                on!(target, |fd| opcode::Recv::new(fd, memory, len)
                    .ioprio(order)
                    .build())
            }
            Work::Send {
                buffers,
                progress,
                scratch,
            } => {
                scratch.fill(buffers, *progress);
                // With WAITALL the kernel itself goes on after a short send.
                let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
                if let [piece] = &scratch.pieces[..] {
                    let (memory, len) = (piece.iov_base.cast_const().cast(), clamp(piece.iov_len));
                    on!(target, |fd| opcode::Send::new(fd, memory, len)
                        .flags(flags)
                        .build())
                } else {
                    let header = &raw const scratch.header;
                    let flags = flags.cast_unsigned();
                    on!(target, |fd| opcode::SendMsg::new(fd, header)
                        .flags(flags)
                        .build())
                }
            }
        }
    }

    /// Takes the kernel's result in.
    pub(super) fn advance(&mut self, result: i32, flags: u32) -> Next {
        if result == -libc::EINTR || result == -libc::EAGAIN {
            return Next::Again;
        }
        let Ok(bytes) = usize::try_from(result) else {
            return Next::Done;
        };
        match &mut self.work {
            Work::Read { buffer, done, .. } => {
                *done += bytes;
                again_unless(bytes == 0 || *done == buffer.len())
            }
            Work::Write {
                buffers, progress, ..
            }
            | Work::Send {
                buffers, progress, ..
            } => again_unless(bytes == 0 || progress.advance(buffers, bytes)),
            Work::Recv { .. } => {
                self.file.has_more.set(cqueue::sock_nonempty(flags));
                Next::Done
            }
            Work::Flush | Work::Accept | Work::Connect { .. } => Next::Done,
        }
    }
}

fn again_unless(done: bool) -> Next {
    if done { Next::Done } else { Next::Again }
}

fn clamp(len: usize) -> u32 {
    u32::try_from(len.min(BYTES_MAX)).expect("clamped")
}

/// The last result of a disk operation: nothing at all is an error, too.
pub(super) fn status(result: i32, expects_bytes: bool) -> Result<(), OsError> {
    match result {
        0 if expects_bytes => Err(OsError::IO),
        result if result < 0 => Err(OsError::from_errno(-result)),
        _ => Ok(()),
    }
}
