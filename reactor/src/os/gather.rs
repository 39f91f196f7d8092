//! Lists of pieces for the kernel: where in a gather operation it stands, reused between
//! operations.

use crate::SharedBuffer;

/// Most pieces that one system call takes (UIO_MAXIOV).
pub(crate) const PIECES_MAX: usize = 1024;
/// Most bytes that one system call is given; the kernel takes a little less than 2 GiB.
const BYTES_MAX: usize = 1 << 30;

/// The scratch of one operation: heap memory that stays put while the kernel reads it.
pub(crate) struct Scratch {
    pub(crate) pieces: Vec<libc::iovec>,
    pub(crate) header: libc::msghdr,
}

impl Scratch {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self {
            pieces: Vec::with_capacity(16),
            // SAFETY: all zeroes is a valid, empty `msghdr`: null pointers with zero lengths.
            header: unsafe { std::mem::zeroed() },
        })
    }

    /// Points at what is left of `buffers`; tells how many bytes the list covers.
    pub(crate) fn fill(&mut self, buffers: &[SharedBuffer], progress: Progress) -> usize {
        self.pieces.clear();
        let mut bytes = 0;
        let mut skip = progress.within;
        for buffer in &buffers[progress.piece..] {
            let rest = &buffer[skip..];
            skip = 0;
            if rest.is_empty() {
                continue;
            }
            let len = rest.len().min(BYTES_MAX - bytes);
            self.pieces.push(libc::iovec {
                iov_base: rest.as_ptr().cast_mut().cast(),
                iov_len: len,
            });
            bytes += len;
            if self.pieces.len() == PIECES_MAX || bytes == BYTES_MAX {
                break;
            }
        }
        self.header.msg_iov = self.pieces.as_mut_ptr();
        self.header.msg_iovlen = self.pieces.len() as _;
        bytes
    }
}

/// How far a gather operation has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    piece: usize,
    within: usize,
    /// Bytes done in all.
    pub(crate) done: usize,
}

impl Progress {
    /// Moves on by `bytes`; true if everything is done.
    pub(crate) fn advance(&mut self, buffers: &[SharedBuffer], bytes: usize) -> bool {
        self.done += bytes;
        self.within += bytes;
        while let Some(buffer) = buffers.get(self.piece) {
            if self.within < buffer.len() {
                return false;
            }
            self.within -= buffer.len();
            self.piece += 1;
        }
        assert_eq!(self.within, 0, "the kernel took more than it was given");
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BufferPool;

    #[test]
    fn progress_passes_over_pieces_and_empty_ones() {
        let pool = BufferPool::new();
        let lens = [0usize, 10, 0, 5, 0];
        let buffers: Vec<_> = lens.iter().map(|len| pool.buffer(*len).freeze()).collect();
        let mut scratch = Scratch::new();
        let mut progress = Progress::default();
        assert_eq!(scratch.fill(&buffers, progress), 15);
        assert_eq!(scratch.pieces.len(), 2);
        assert!(!progress.advance(&buffers, 10));
        assert_eq!(scratch.fill(&buffers, progress), 5);
        assert!(!progress.advance(&buffers, 2));
        assert_eq!(scratch.fill(&buffers, progress), 3);
        assert!(progress.advance(&buffers, 3));
        assert_eq!(progress.done, 15);
    }

    #[test]
    fn long_lists_are_cut() {
        let pool = BufferPool::new();
        let piece = pool.buffer(1).freeze();
        let buffers: Vec<_> = (0..1500).map(|_| piece.clone()).collect();
        let mut scratch = Scratch::new();
        let mut progress = Progress::default();
        assert_eq!(scratch.fill(&buffers, progress), PIECES_MAX);
        assert!(!progress.advance(&buffers, PIECES_MAX));
        assert_eq!(scratch.fill(&buffers, progress), 1500 - PIECES_MAX);
    }
}
