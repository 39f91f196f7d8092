//! Replies of the transmission phase, in each dialect.

use crate::request::{Dialect, Refusal, RequestHeader};
use crate::wire::{
    EXTENDED_REPLY_MAGIC, Errno, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk, command,
};
use ashlar_client::BlockError;
use ashlar_front_end::Outbox;
use ashlar_reactor::SharedBuffer;

/// Granularity at which zeroes are looked for, in bytes.
const HOLE_UNIT: usize = 4096;
/// Zeroes within other data are left out of a reply if they are at least this many bytes.
const HOLE_BYTES_MIN: usize = 16 << 10;

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Answer {
    Done,
    Failed(Refusal),
    /// The bytes read; `fragment` if they may come in several chunks.
    Data {
        pieces: Vec<SharedBuffer>,
        fragment: bool,
    },
    /// Of each context that was asked for.
    Status(Vec<ContextStatus>),
}

/// What one context tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContextStatus {
    /// The context's.
    pub(crate) id: u32,
    /// From the request's offset on, at least one.
    pub(crate) extents: Vec<StatusExtent>,
}

/// A part of the export and its state flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StatusExtent {
    pub(crate) len: u64,
    pub(crate) state: u32,
}

/// The refusal that a device's error becomes; `beyond` is the errno of a range beyond the end.
pub(crate) fn refusal_of(error: BlockError, beyond: Errno) -> Refusal {
    let (errno, reason) = match error {
        BlockError::Unaligned => (
            Errno::Inval,
            "range is not aligned to the minimum block size",
        ),
        BlockError::OutOfRange => (beyond, "range goes beyond the end of the export"),
        BlockError::ReadOnly => (Errno::Perm, "export is read-only"),
        BlockError::NoSpace => (
            Errno::NoSpace,
            "no space left in the cluster: free or add disks, then retry",
        ),
        BlockError::Fenced => (
            Errno::Shutdown,
            "volume was attached elsewhere: this attachment is fenced",
        ),
        BlockError::Detached => (Errno::Shutdown, "volume is being detached"),
        BlockError::Unavailable => (Errno::Io, "too few replicas answer"),
        BlockError::Corrupt => (Errno::Io, "no replica holds a good copy of a block"),
    };
    Refusal { errno, reason }
}

/// Writes replies in the dialect of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replies {
    pub(crate) dialect: Dialect,
}

impl Replies {
    /// Appends the reply to the request that `header` began.
    pub(crate) fn put(self, outbox: &mut Outbox, header: &RequestHeader, answer: Answer) {
        match (self.dialect, answer) {
            (Dialect::Simple, answer) => simple(outbox, header, answer),
            (Dialect::Structured, Answer::Done) if header.command != command::READ => {
                simple(outbox, header, Answer::Done);
            }
            (_, Answer::Done) => self.chunk(outbox, header, chunk::FLAG_DONE, chunk::NONE, 0),
            (_, Answer::Failed(refusal)) => self.error(outbox, header, refusal),
            (_, Answer::Data { pieces, fragment }) => self.data(outbox, header, &pieces, fragment),
            (_, Answer::Status(contexts)) => self.status(outbox, header, &contexts),
        }
    }

    /// The header of a chunk whose payload of `len` bytes follows.
    fn chunk(self, outbox: &mut Outbox, header: &RequestHeader, flags: u16, kind: u16, len: u32) {
        let mut bytes = [0; 32];
        bytes[4..6].copy_from_slice(&flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&kind.to_be_bytes());
        bytes[8..16].copy_from_slice(&header.cookie.to_be_bytes());
        if self.dialect == Dialect::Extended {
            bytes[..4].copy_from_slice(&EXTENDED_REPLY_MAGIC.to_be_bytes());
            bytes[16..24].copy_from_slice(&header.offset.to_be_bytes());
            bytes[24..32].copy_from_slice(&u64::from(len).to_be_bytes());
            outbox.put(&bytes);
        } else {
            bytes[..4].copy_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
            bytes[16..20].copy_from_slice(&len.to_be_bytes());
            outbox.put(&bytes[..20]);
        }
    }

    fn error(self, outbox: &mut Outbox, header: &RequestHeader, refusal: Refusal) {
        let message = refusal.reason.as_bytes();
        let len = u16::try_from(message.len()).unwrap_or(0);
        let message = &message[..usize::from(len)];
        self.chunk(
            outbox,
            header,
            chunk::FLAG_DONE,
            chunk::ERROR,
            6 + u32::from(len),
        );
        outbox.put(&refusal.errno.code().to_be_bytes());
        outbox.put(&len.to_be_bytes());
        outbox.put(message);
    }

    fn data(
        self,
        outbox: &mut Outbox,
        header: &RequestHeader,
        pieces: &[SharedBuffer],
        fragment: bool,
    ) {
        let runs = runs_of(pieces, fragment);
        let mut offset = header.offset;
        for (index, run) in runs.iter().enumerate() {
            let flags = if index + 1 == runs.len() {
                chunk::FLAG_DONE
            } else {
                0
            };
            let len = u32::try_from(run.len).expect("a read is at most 4 GiB");
            if run.zero {
                self.chunk(outbox, header, flags, chunk::OFFSET_HOLE, 12);
                outbox.put(&offset.to_be_bytes());
                outbox.put(&len.to_be_bytes());
            } else {
                self.chunk(outbox, header, flags, chunk::OFFSET_DATA, 8 + len);
                outbox.put(&offset.to_be_bytes());
                let start = usize::try_from(offset - header.offset).expect("within the read");
                share_range(outbox, pieces, start, run.len);
            }
            offset += u64::from(len);
        }
    }

    fn status(self, outbox: &mut Outbox, header: &RequestHeader, contexts: &[ContextStatus]) {
        assert!(!contexts.is_empty(), "a status reply is of some context");
        for (index, context) in contexts.iter().enumerate() {
            let flags = if index + 1 == contexts.len() {
                chunk::FLAG_DONE
            } else {
                0
            };
            self.context_status(outbox, header, flags, context);
        }
    }

    fn context_status(
        self,
        outbox: &mut Outbox,
        header: &RequestHeader,
        flags: u16,
        context: &ContextStatus,
    ) {
        let extents = &context.extents;
        let count = u32::try_from(extents.len()).expect("extents are bounded");
        assert!(count > 0, "a status reply tells something");
        let mut payload = Vec::with_capacity(8 + 16 * extents.len());
        payload.extend(context.id.to_be_bytes());
        if self.dialect == Dialect::Extended {
            payload.extend(count.to_be_bytes());
            for extent in extents {
                payload.extend(extent.len.to_be_bytes());
                payload.extend(u64::from(extent.state).to_be_bytes());
            }
            let (kind, len) = (chunk::BLOCK_STATUS_EXT, 8 + 16 * count);
            self.chunk(outbox, header, flags, kind, len);
        } else {
            for extent in extents {
                // A compact request is at most this long, and so are its extents.
                let len = u32::try_from(extent.len).unwrap_or(u32::MAX);
                payload.extend(len.to_be_bytes());
                payload.extend(extent.state.to_be_bytes());
            }
            self.chunk(outbox, header, flags, chunk::BLOCK_STATUS, 4 + 8 * count);
        }
        outbox.put(&payload);
    }
}

fn simple(outbox: &mut Outbox, header: &RequestHeader, answer: Answer) {
    let (errno, pieces) = match answer {
        Answer::Data { pieces, .. } => (0, pieces),
        Answer::Failed(refusal) => (refusal.errno.code(), Vec::new()),
        Answer::Done | Answer::Status(_) => (0, Vec::new()),
    };
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&errno.to_be_bytes());
    bytes[8..].copy_from_slice(&header.cookie.to_be_bytes());
    outbox.put(&bytes);
    for piece in pieces {
        outbox.share(piece);
    }
}

/// Appends the bytes `start..start + len` of `pieces`.
fn share_range(outbox: &mut Outbox, pieces: &[SharedBuffer], start: usize, len: usize) {
    let mut skip = start;
    let mut rest = len;
    for piece in pieces {
        if skip >= piece.len() {
            skip -= piece.len();
            continue;
        }
        let take = rest.min(piece.len() - skip);
        outbox.share(piece.slice(skip..skip + take));
        skip = 0;
        rest -= take;
        if rest == 0 {
            return;
        }
    }
    assert_eq!(rest, 0, "a device gives all bytes of a read");
}

/// Bytes that are all zero, or are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    len: usize,
    zero: bool,
}

/// How the bytes of a read are told: data and, where they pay, holes.
fn runs_of(pieces: &[SharedBuffer], fragment: bool) -> Vec<Run> {
    let total = pieces.iter().map(|piece| piece.len()).sum();
    let whole = |zero| vec![Run { len: total, zero }];
    if !fragment || total < HOLE_UNIT {
        return whole(false);
    }
    let mut runs: Vec<Run> = Vec::new();
    for unit in pieces.iter().flat_map(|piece| piece.chunks(HOLE_UNIT)) {
        let zero = is_zero(unit);
        match runs.last_mut() {
            Some(last) if last.zero == zero => last.len += unit.len(),
            _ => runs.push(Run {
                len: unit.len(),
                zero,
            }),
        }
    }
    if let [only] = runs[..] {
        return whole(only.zero);
    }
    let mut merged: Vec<Run> = Vec::new();
    for run in runs {
        let zero = run.zero && run.len >= HOLE_BYTES_MIN;
        match merged.last_mut() {
            Some(last) if last.zero == zero => last.len += run.len,
            _ => merged.push(Run { len: run.len, zero }),
        }
    }
    merged
}

/// Whether all bytes are zero: data is told by its first bytes, zeroes at memory speed.
fn is_zero(bytes: &[u8]) -> bool {
    let Some((head, rest)) = bytes.split_at_checked(16) else {
        return bytes.iter().all(|&byte| byte == 0);
    };
    head.iter().all(|&byte| byte == 0) && bytes[..rest.len()] == *rest
}

#[cfg(test)]
mod tests;
