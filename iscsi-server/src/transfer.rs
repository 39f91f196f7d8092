//! How the data of a write comes: with the command, unsolicited after it, then by R2Ts (RFC 7143
//! sections 4.2.5.2, 11.7 and 11.8). Pure.
//!
//! ```text
//! 0        immediate        first burst                wanted           expected
//! ├────────────┼────────────────┼─── R2T ─┼── R2T ──┼────┼─── not asked for ───┤
//! ```
//!
//! Invariants: bytes come in order, each once, and none that was not asked for or announced; what
//! lies beyond `wanted` is read off the stream and forgotten.

use crate::pdu::{DataOut, NO_TAG};
use std::collections::VecDeque;

/// Why data cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TransferError {
    /// Data came that nobody asked for.
    #[error("data that was not asked for")]
    Unexpected,
    /// It names no R2T that waits, or not the one whose turn it is.
    #[error("data for an R2T that does not wait for it")]
    Tag,
    /// Its number is not the next one.
    #[error("data out of sequence")]
    Sequence,
    /// It does not begin where the last ended.
    #[error("data at another offset than the next")]
    Offset,
    /// It goes beyond what it may be.
    #[error("more data than was asked for")]
    TooLong,
    /// It ends before what was asked for is there.
    #[error("less data than was asked for")]
    TooShort,
}

/// Bounds that were negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) burst_max: u32,
    pub(crate) first_burst_max: u32,
    pub(crate) outstanding_max: u16,
}

/// What an R2T asks for, and how much of it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Burst {
    ttt: u32,
    at: u32,
    end: u32,
    data_sn: u32,
}

/// Unsolicited data that is still to come after the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unsolicited {
    end: u32,
    data_sn: u32,
}

/// Where a piece of data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Where in the command's buffer.
    pub(crate) offset: usize,
    /// Bytes that are kept; what follows them is forgotten.
    pub(crate) keep: usize,
}

/// An R2T to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Solicitation {
    pub(crate) ttt: u32,
    pub(crate) r2t_sn: u32,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// The transfer of one command's data.
#[derive(Debug)]
pub(crate) struct Transfer {
    bounds: Bounds,
    /// What the command takes.
    wanted: u32,
    /// Bytes that came, from the start.
    at: u32,
    /// Bytes that came or were asked for.
    asked: u32,
    unsolicited: Option<Unsolicited>,
    bursts: VecDeque<Burst>,
    r2t_sn: u32,
}

impl Transfer {
    /// Of a command that takes `wanted` of the `expected` bytes that there are, and that came with
    /// `immediate` bytes; `is_final` if no unsolicited data follows.
    ///
    /// # Errors
    /// [`TransferError::TooLong`].
    pub(crate) fn new(
        bounds: Bounds,
        wanted: u32,
        expected: u32,
        immediate: u32,
        is_final: bool,
    ) -> Result<Self, TransferError> {
        let first_burst = bounds.first_burst_max.min(expected);
        if immediate > first_burst {
            return Err(TransferError::TooLong);
        }
        let follows = !is_final && immediate < first_burst;
        Ok(Self {
            bounds,
            wanted: wanted.min(expected),
            at: immediate,
            asked: immediate,
            unsolicited: follows.then_some(Unsolicited {
                end: first_burst,
                data_sn: 0,
            }),
            bursts: VecDeque::new(),
            r2t_sn: 0,
        })
    }

    /// Where the data that came with the command goes.
    pub(crate) fn immediate(&self) -> Placement {
        self.placement(0, self.at)
    }

    fn placement(&self, offset: u32, len: u32) -> Placement {
        let keep = self.wanted.saturating_sub(offset).min(len);
        Placement {
            offset: offset as usize,
            keep: keep as usize,
        }
    }

    /// Takes a piece of data in.
    ///
    /// # Errors
    /// [`TransferError`]: the initiator broke the rules.
    pub(crate) fn data(&mut self, data: &DataOut, len: u32) -> Result<Placement, TransferError> {
        if data.ttt == NO_TAG {
            self.unsolicited_data(data, len)?;
        } else {
            self.solicited_data(data, len)?;
        }
        let placement = self.placement(self.at, len);
        self.at += len;
        self.asked = self.asked.max(self.at);
        Ok(placement)
    }

    fn unsolicited_data(&mut self, data: &DataOut, len: u32) -> Result<(), TransferError> {
        let unsolicited = self.unsolicited.as_mut().ok_or(TransferError::Unexpected)?;
        check(data, unsolicited.data_sn, self.at, unsolicited.end, len)?;
        unsolicited.data_sn = unsolicited.data_sn.wrapping_add(1);
        // Section 11.7.1: the last PDU of a sequence has the flag, and only that.
        if data.is_final {
            self.unsolicited = None;
        } else if self.at + len == unsolicited.end {
            return Err(TransferError::TooLong);
        }
        Ok(())
    }

    fn solicited_data(&mut self, data: &DataOut, len: u32) -> Result<(), TransferError> {
        let burst = self.bursts.front_mut().ok_or(TransferError::Tag)?;
        if burst.ttt != data.ttt {
            return Err(TransferError::Tag);
        }
        check(data, burst.data_sn, burst.at, burst.end, len)?;
        burst.data_sn = burst.data_sn.wrapping_add(1);
        burst.at += len;
        match (data.is_final, burst.at == burst.end) {
            (true, true) => {
                self.bursts.pop_front();
                Ok(())
            }
            (true, false) => Err(TransferError::TooShort),
            (false, true) => Err(TransferError::TooLong),
            (false, false) => Ok(()),
        }
    }

    /// The next R2T, if one is due; `ttt` makes its tag.
    pub(crate) fn solicit(&mut self, ttt: impl FnOnce() -> u32) -> Option<Solicitation> {
        let is_open = self.bursts.len() < usize::from(self.bounds.outstanding_max);
        if self.unsolicited.is_some() || self.asked >= self.wanted || !is_open {
            return None;
        }
        let len = (self.wanted - self.asked).min(self.bounds.burst_max);
        let burst = Burst {
            ttt: ttt(),
            at: self.asked,
            end: self.asked + len,
            data_sn: 0,
        };
        let solicitation = Solicitation {
            ttt: burst.ttt,
            r2t_sn: self.r2t_sn,
            offset: self.asked,
            len,
        };
        self.bursts.push_back(burst);
        self.asked += len;
        self.r2t_sn += 1;
        Some(solicitation)
    }

    /// Gives up: nothing more is wanted, whatever was asked for.
    pub(crate) fn give_up(&mut self) {
        self.unsolicited = None;
        self.bursts.clear();
        self.wanted = self.at.min(self.wanted);
    }

    /// Asks for nothing more: what was asked for is still to come.
    pub(crate) fn curtail(&mut self) {
        self.wanted = self.wanted.min(self.asked);
    }

    /// Whether all that was asked for or announced has come.
    pub(crate) fn is_settled(&self) -> bool {
        self.unsolicited.is_none() && self.bursts.is_empty()
    }

    /// Whether all that is wanted is there.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_settled() && self.at >= self.wanted
    }

    /// R2Ts that were sent.
    pub(crate) fn solicitations(&self) -> u32 {
        self.r2t_sn
    }

    /// Bytes of the buffer that the data goes into.
    pub(crate) fn wanted(&self) -> u32 {
        self.wanted
    }
}

/// Whether a piece is the next one of its sequence.
fn check(data: &DataOut, data_sn: u32, at: u32, end: u32, len: u32) -> Result<(), TransferError> {
    if data.data_sn != data_sn {
        return Err(TransferError::Sequence);
    }
    if data.offset != at {
        return Err(TransferError::Offset);
    }
    if len > end - at {
        return Err(TransferError::TooLong);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
