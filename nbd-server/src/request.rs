//! Requests of the transmission phase: parsing and checking, all pure.
//!
//! ```text
//! bytes ──parse──▶ RequestHeader ──check──▶ Command   to be carried out
//!                                     └───▶ Refusal   the errno that the specification names
//! ```

use crate::contexts::ContextIds;
use crate::wire::{
    EXTENDED_REQUEST_MAGIC, Errno, Fields, REQUEST_MAGIC, command, command_flag as flag,
};
use ashlar_client::{Durability, Geometry, ZeroMode};

/// Which headers requests and replies have, as negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Compact requests, simple replies.
    Simple,
    /// Compact requests, structured replies.
    Structured,
    /// Extended requests and replies.
    Extended,
}

impl Dialect {
    /// Bytes of a request's header.
    pub(crate) const fn request_bytes(self) -> usize {
        match self {
            Self::Simple | Self::Structured => 28,
            Self::Extended => 32,
        }
    }
}

/// A request as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestHeader {
    pub(crate) flags: u16,
    pub(crate) command: u16,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    /// Of the payload where one follows, else of the range.
    pub(crate) length: u64,
}

impl RequestHeader {
    /// Reads a header; `None` if it does not begin with the magic of the dialect.
    pub(crate) fn parse(dialect: Dialect, bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let magic = fields.u32()?;
        let expected = match dialect {
            Dialect::Simple | Dialect::Structured => REQUEST_MAGIC,
            Dialect::Extended => EXTENDED_REQUEST_MAGIC,
        };
        if magic != expected {
            return None;
        }
        Some(Self {
            flags: fields.u16()?,
            command: fields.u16()?,
            cookie: fields.u64()?,
            offset: fields.u64()?,
            length: match dialect {
                Dialect::Simple | Dialect::Structured => u64::from(fields.u32()?),
                Dialect::Extended => fields.u64()?,
            },
        })
    }

    /// Bytes of payload that follow the header.
    ///
    /// A write always has its payload: qemu 10 sends extended ones without the flag that the
    /// specification demands there, and no client sends a write without data.
    pub(crate) fn payload_bytes(&self, dialect: Dialect) -> u64 {
        let flagged = dialect == Dialect::Extended && self.flags & flag::PAYLOAD_LEN != 0;
        let follows = flagged || self.command == command::WRITE;
        if follows { self.length } else { 0 }
    }
}

/// What a request asks for, checked against the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Read {
        len: u32,
        /// Whether the reply may be made of several chunks.
        fragment: bool,
    },
    Write {
        len: u32,
        durability: Durability,
    },
    Flush,
    Trim {
        len: u64,
        durability: Durability,
    },
    WriteZeroes {
        len: u64,
        mode: ZeroMode,
        durability: Durability,
    },
    Cache,
    BlockStatus {
        len: u64,
        /// Of the contexts that are to be told of.
        contexts: ContextIds,
        /// Whether only one extent of each is wanted.
        one: bool,
    },
    /// A block status request whose range and contexts come as payload.
    BlockStatusPayload {
        payload_bytes: u32,
        one: bool,
    },
}

/// Why a request is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) errno: Errno,
    /// For people.
    pub(crate) reason: &'static str,
}

const fn refuse(errno: Errno, reason: &'static str) -> Refusal {
    Refusal { errno, reason }
}

/// What requests are checked against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) dialect: Dialect,
    pub(crate) geometry: Geometry,
    /// The ids of the metadata contexts that were selected for this export.
    pub(crate) contexts: ContextIds,
}

/// Bytes of the payload of a block status request before the ids of contexts: the range's length.
const STATUS_PAYLOAD_HEAD_BYTES: u64 = 8;
/// Bytes of each of these ids.
const CONTEXT_ID_BYTES: u64 = 4;

impl Rules {
    /// The same for the size that the export has now: what a client may use, once it has learnt of it.
    pub(crate) fn at(mut self, size_bytes: u64) -> Self {
        self.geometry.size_bytes = size_bytes;
        self
    }

    /// Whether a block status request may carry a payload.
    pub(crate) fn has_status_payload(&self) -> bool {
        self.dialect == Dialect::Extended && !self.contexts.is_empty()
    }

    /// What `header` asks for. `NBD_CMD_DISC` is not for here: it has no reply.
    pub(crate) fn check(&self, header: &RequestHeader) -> Result<Command, Refusal> {
        self.check_flags(header)?;
        let durability = if header.flags & flag::FUA == 0 {
            Durability::Accepted
        } else {
            Durability::Durable
        };
        let len = header.length;
        match header.command {
            command::READ => self.check_read(header),
            command::WRITE => {
                self.check_write(header.offset, len)?;
                match u32::try_from(len) {
                    Ok(len) if len <= self.geometry.request_bytes_max => {
                        Ok(Command::Write { len, durability })
                    }
                    _ => Err(refuse(Errno::Inval, "write is longer than the maximum")),
                }
            }
            command::FLUSH if header.offset == 0 && len == 0 => Ok(Command::Flush),
            command::FLUSH => Err(refuse(Errno::Inval, "flush has no range")),
            command::TRIM => {
                self.check_writable()?;
                self.check_range(header.offset, len, Errno::Inval)?;
                Ok(Command::Trim { len, durability })
            }
            command::WRITE_ZEROES => self.check_zeroes(header, durability),
            command::CACHE => {
                self.check_range(header.offset, len, Errno::Inval)?;
                Ok(Command::Cache)
            }
            command::BLOCK_STATUS => self.check_status(header),
            _ => Err(refuse(Errno::Inval, "unknown command")),
        }
    }

    /// Checks the payload of a block status request: the length of its range, and contexts, each
    /// selected and named once.
    pub(crate) fn check_status_payload(
        &self,
        offset: u64,
        one: bool,
        payload: &[u8],
    ) -> Result<Command, Refusal> {
        let mut fields = Fields::new(payload);
        let malformed = refuse(Errno::Inval, "payload is malformed");
        let len = fields.u64().ok_or(malformed)?;
        let mut contexts = ContextIds::default();
        while !fields.is_empty() {
            let id = fields.u32().ok_or(malformed)?;
            if !self.contexts.contains(id) {
                return Err(refuse(Errno::Inval, "no such metadata context id"));
            }
            if contexts.contains(id) {
                return Err(refuse(Errno::Inval, "metadata context id is named twice"));
            }
            contexts = contexts.with(id);
        }
        if contexts.is_empty() {
            return Err(refuse(Errno::Inval, "payload names no metadata context"));
        }
        self.check_range(offset, len, Errno::Inval)?;
        Ok(Command::BlockStatus { len, contexts, one })
    }

    fn check_flags(&self, header: &RequestHeader) -> Result<(), Refusal> {
        let chunked = self.dialect != Dialect::Simple;
        let extended = self.dialect == Dialect::Extended;
        let own = match header.command {
            command::READ if chunked => flag::DF,
            command::WRITE if extended => flag::PAYLOAD_LEN,
            command::WRITE_ZEROES => flag::NO_HOLE | flag::FAST_ZERO,
            command::BLOCK_STATUS if self.has_status_payload() => flag::REQ_ONE | flag::PAYLOAD_LEN,
            command::BLOCK_STATUS => flag::REQ_ONE,
            _ => 0,
        };
        if header.flags & !(own | flag::FUA) != 0 {
            return Err(refuse(
                Errno::Inval,
                "command does not have such a flag here",
            ));
        }
        Ok(())
    }

    fn check_read(&self, header: &RequestHeader) -> Result<Command, Refusal> {
        self.check_range(header.offset, header.length, Errno::Inval)?;
        match u32::try_from(header.length) {
            Ok(len) if len <= self.geometry.request_bytes_max => Ok(Command::Read {
                len,
                fragment: self.dialect != Dialect::Simple && header.flags & flag::DF == 0,
            }),
            _ if self.dialect == Dialect::Simple => {
                Err(refuse(Errno::Inval, "read is longer than the maximum"))
            }
            _ => Err(refuse(Errno::Overflow, "read is longer than the maximum")),
        }
    }

    fn check_zeroes(
        &self,
        header: &RequestHeader,
        durability: Durability,
    ) -> Result<Command, Refusal> {
        self.check_write(header.offset, header.length)?;
        let mode = if header.flags & flag::NO_HOLE == 0 {
            ZeroMode::Unmap
        } else {
            ZeroMode::Allocate
        };
        if header.flags & flag::FAST_ZERO != 0 {
            // Only whole blocks become zeroes without a write of data.
            let block = u64::from(self.geometry.block_bytes_preferred).max(1);
            let end = header.offset + header.length;
            let has_block = header.offset.div_ceil(block) < end / block;
            if mode == ZeroMode::Allocate || !has_block {
                return Err(refuse(
                    Errno::NotSupported,
                    "zeroing this range is as slow as a write",
                ));
            }
        }
        Ok(Command::WriteZeroes {
            len: header.length,
            mode,
            durability,
        })
    }

    fn check_status(&self, header: &RequestHeader) -> Result<Command, Refusal> {
        if self.contexts.is_empty() {
            return Err(refuse(Errno::Inval, "no metadata context was selected"));
        }
        let one = header.flags & flag::REQ_ONE != 0;
        if header.flags & flag::PAYLOAD_LEN != 0 {
            let ids_bytes_max = u64::from(self.contexts.len()) * CONTEXT_ID_BYTES;
            let longest = STATUS_PAYLOAD_HEAD_BYTES + ids_bytes_max;
            return match u32::try_from(header.length) {
                Ok(payload_bytes) if header.length <= longest => {
                    Ok(Command::BlockStatusPayload { payload_bytes, one })
                }
                _ => Err(refuse(
                    Errno::Inval,
                    "payload names more contexts than there are",
                )),
            };
        }
        self.check_range(header.offset, header.length, Errno::Inval)?;
        Ok(Command::BlockStatus {
            len: header.length,
            contexts: self.contexts,
            one,
        })
    }

    fn check_write(&self, offset: u64, len: u64) -> Result<(), Refusal> {
        self.check_writable()?;
        self.check_range(offset, len, Errno::NoSpace)
    }

    fn check_writable(&self) -> Result<(), Refusal> {
        if self.geometry.read_only {
            return Err(refuse(Errno::Perm, "export is read-only"));
        }
        Ok(())
    }

    fn check_range(&self, offset: u64, len: u64, beyond: Errno) -> Result<(), Refusal> {
        match offset.checked_add(len) {
            Some(end) if end <= self.geometry.size_bytes => {}
            _ => return Err(refuse(beyond, "range goes beyond the end of the export")),
        }
        let sector = u64::from(self.geometry.block_bytes_min).max(1);
        if len == 0 || !offset.is_multiple_of(sector) || !len.is_multiple_of(sector) {
            return Err(refuse(
                Errno::Inval,
                "range is empty or not aligned to the minimum block size",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
