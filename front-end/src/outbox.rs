//! Replies on their way out: headers gathered in one buffer, data by reference, many replies in
//! one send.

use ashlar_reactor::{Buffer, Reactor, SharedBuffer};

/// Bytes of the buffer that headers and short data are gathered in.
const SCRATCH_BYTES: usize = 16 << 10;
/// Data below this is copied beside its header: a piece of its own would cost more.
const COPY_BYTES_MAX: usize = 512;
/// Pieces of one send: below the kernel's limit of 1024.
const PIECES_MAX: usize = 512;

/// What waits to be sent, in order.
pub struct Outbox {
    reactor: Reactor,
    scratch: Option<Buffer>,
    used: usize,
    pieces: Vec<Piece>,
    done: Done,
}

enum Piece {
    /// A range of the scratch buffer.
    Scratch {
        start: usize,
        end: usize,
    },
    Shared(SharedBuffer),
}

/// What a client may have in flight again once a send has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Requests.
    pub requests: usize,
    /// Bytes that they had taken.
    pub bytes: u64,
}

impl Outbox {
    /// With nothing in it.
    #[must_use]
    pub fn new(reactor: &Reactor) -> Self {
        Self {
            reactor: reactor.clone(),
            scratch: None,
            used: 0,
            pieces: Vec::new(),
            done: Done::default(),
        }
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Appends a few bytes.
    pub fn put(&mut self, bytes: &[u8]) {
        if bytes.len() > SCRATCH_BYTES {
            let mut buffer = self.reactor.buffer(bytes.len());
            buffer.copy_from_slice(bytes);
            self.pieces.push(Piece::Shared(buffer.freeze()));
            return;
        }
        if self.used + bytes.len() > SCRATCH_BYTES {
            self.seal();
        }
        let scratch = self.scratch.get_or_insert_with(|| {
            self.used = 0;
            self.reactor.buffer(SCRATCH_BYTES)
        });
        let (start, end) = (self.used, self.used + bytes.len());
        scratch[start..end].copy_from_slice(bytes);
        self.used = end;
        if let Some(Piece::Scratch { end: last, .. }) = self.pieces.last_mut() {
            *last = end;
        } else {
            self.pieces.push(Piece::Scratch { start, end });
        }
    }

    /// Appends data.
    pub fn share(&mut self, data: SharedBuffer) {
        if data.len() <= COPY_BYTES_MAX {
            self.put(&data);
        } else {
            self.pieces.push(Piece::Shared(data));
        }
    }

    /// Notes that the reply of a request is complete, and what the request had taken.
    pub fn finish(&mut self, bytes: u64) {
        self.done.requests += 1;
        self.done.bytes += bytes;
    }

    /// The next pieces to send, and what ends with them.
    pub fn take(&mut self) -> (Vec<SharedBuffer>, Done) {
        self.seal();
        let count = self.pieces.len().min(PIECES_MAX);
        let pieces = self.pieces.drain(..count);
        let pieces = pieces.map(|piece| match piece {
            Piece::Shared(data) => data,
            Piece::Scratch { .. } => unreachable!("sealed above"),
        });
        let pieces = pieces.collect();
        let done = if self.pieces.is_empty() {
            std::mem::take(&mut self.done)
        } else {
            Done::default()
        };
        (pieces, done)
    }

    /// Freezes the scratch buffer; what is put next goes into another.
    fn seal(&mut self) {
        let Some(mut scratch) = self.scratch.take() else {
            return;
        };
        scratch.truncate(self.used);
        let scratch = scratch.freeze();
        self.used = 0;
        for piece in &mut self.pieces {
            if let Piece::Scratch { start, end } = *piece {
                *piece = Piece::Shared(scratch.slice(start..end));
            }
        }
    }
}
