//! Protocol data units (RFC 7143 section 11): what initiators send, parsed, and what targets send,
//! written. All pure.
//!
//! ```text
//! ┌──────────┬──────────────┬───────────────┬──────────────┬─────────┬─────────────┐
//! │ BHS, 48  │ AHS, 0..1020 │ header digest │ data segment │ padding │ data digest │
//! └──────────┴──────────────┴───────────────┴──────────────┴─────────┴─────────────┘
//! ```

mod additional;
mod digest;
mod request;
mod response;

pub(crate) use additional::parse_additional;
pub(crate) use digest::{DIGEST_BYTES, Digest, digest_of};
pub(crate) use request::{
    Attribute, DataOut, Fault, Frame, LoginRequest, LogoutRequest, NopOut, Request, ScsiCommand,
    TaskManagement, TextRequest, cmd_sn, is_immediate,
};
pub(crate) use response::{
    AsyncEvent, DataIn, LoginResponse, NopIn, R2t, RejectReason, Residual, Response, ScsiResponse,
    Sequence,
};

/// Bytes of the basic header segment.
pub(crate) const BHS_BYTES: usize = 48;
/// The tag that means none.
pub(crate) const NO_TAG: u32 = u32::MAX;
/// A logical unit number in its wire form (SAM-5 section 4.7).
pub(crate) type Lun = [u8; 8];

/// The basic header segment as it goes over the wire.
pub(crate) type Bhs = [u8; BHS_BYTES];

/// Bytes that follow `len` bytes up to a multiple of four.
pub(crate) const fn padding(len: usize) -> usize {
    len.next_multiple_of(4) - len
}

/// Whether `a` comes before `b` (serial number arithmetic, RFC 1982 with 32 bits).
pub(crate) const fn comes_before(a: u32, b: u32) -> bool {
    let ahead = b.wrapping_sub(a);
    ahead != 0 && ahead < 1 << 31
}

/// Opcodes of initiators.
pub(crate) mod opcode {
    pub(crate) const NOP_OUT: u8 = 0x00;
    pub(crate) const SCSI_COMMAND: u8 = 0x01;
    pub(crate) const TASK_MANAGEMENT: u8 = 0x02;
    pub(crate) const LOGIN: u8 = 0x03;
    pub(crate) const TEXT: u8 = 0x04;
    pub(crate) const DATA_OUT: u8 = 0x05;
    pub(crate) const LOGOUT: u8 = 0x06;
    pub(crate) const SNACK: u8 = 0x10;
    pub(crate) const NOP_IN: u8 = 0x20;
    pub(crate) const SCSI_RESPONSE: u8 = 0x21;
    pub(crate) const TASK_MANAGEMENT_RESPONSE: u8 = 0x22;
    pub(crate) const LOGIN_RESPONSE: u8 = 0x23;
    pub(crate) const TEXT_RESPONSE: u8 = 0x24;
    pub(crate) const DATA_IN: u8 = 0x25;
    pub(crate) const LOGOUT_RESPONSE: u8 = 0x26;
    pub(crate) const R2T: u8 = 0x31;
    pub(crate) const ASYNC: u8 = 0x32;
    pub(crate) const REJECT: u8 = 0x3f;
}

pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

pub(crate) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests;
