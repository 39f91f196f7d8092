//! Sense data: why a command ended in CHECK CONDITION (SPC-4 section 4.5).

use super::fields::Reply;

/// Sense keys (SPC-4 table 49).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Key {
    NoSense = 0x0,
    NotReady = 0x2,
    MediumError = 0x3,
    HardwareError = 0x4,
    IllegalRequest = 0x5,
    UnitAttention = 0x6,
    DataProtect = 0x7,
    CopyAborted = 0xa,
    Miscompare = 0xe,
}

/// An additional sense code and its qualifier (SPC-4 annex F).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) u8, pub(crate) u8);

/// The codes that this device server gives.
pub(crate) mod code {
    use super::Code;

    pub(crate) const NONE: Code = Code(0x00, 0x00);
    pub(crate) const NOT_READY: Code = Code(0x04, 0x00);
    pub(crate) const BECOMING_READY: Code = Code(0x04, 0x01);
    pub(crate) const STANDBY: Code = Code(0x04, 0x0b);
    pub(crate) const SANITIZE_IN_PROGRESS: Code = Code(0x04, 0x1b);
    pub(crate) const WRITE_ERROR: Code = Code(0x0c, 0x00);
    pub(crate) const COPY_TARGET_NOT_REACHABLE: Code = Code(0x0d, 0x02);
    pub(crate) const INVALID_INFORMATION_UNIT: Code = Code(0x0e, 0x03);
    pub(crate) const UNRECOVERED_READ_ERROR: Code = Code(0x11, 0x00);
    pub(crate) const PARAMETER_LIST_LENGTH: Code = Code(0x1a, 0x00);
    pub(crate) const MISCOMPARE: Code = Code(0x1d, 0x00);
    pub(crate) const INVALID_OPERATION_CODE: Code = Code(0x20, 0x00);
    pub(crate) const OUT_OF_RANGE: Code = Code(0x21, 0x00);
    pub(crate) const INVALID_FIELD_IN_CDB: Code = Code(0x24, 0x00);
    pub(crate) const UNIT_NOT_SUPPORTED: Code = Code(0x25, 0x00);
    pub(crate) const INVALID_FIELD_IN_LIST: Code = Code(0x26, 0x00);
    pub(crate) const INVALID_RELEASE: Code = Code(0x26, 0x04);
    pub(crate) const TOO_MANY_TARGETS: Code = Code(0x26, 0x06);
    pub(crate) const UNSUPPORTED_TARGET: Code = Code(0x26, 0x07);
    pub(crate) const TOO_MANY_SEGMENTS: Code = Code(0x26, 0x08);
    pub(crate) const UNSUPPORTED_SEGMENT: Code = Code(0x26, 0x09);
    pub(crate) const WRITE_PROTECTED: Code = Code(0x27, 0x00);
    pub(crate) const SOFTWARE_WRITE_PROTECTED: Code = Code(0x27, 0x02);
    pub(crate) const SPACE_ALLOCATION_FAILED: Code = Code(0x27, 0x07);
    pub(crate) const POWER_ON_OR_RESET: Code = Code(0x29, 0x00);
    pub(crate) const BUS_DEVICE_RESET: Code = Code(0x29, 0x03);
    pub(crate) const MODE_PARAMETERS_CHANGED: Code = Code(0x2a, 0x01);
    pub(crate) const RESERVATIONS_PREEMPTED: Code = Code(0x2a, 0x03);
    pub(crate) const RESERVATIONS_RELEASED: Code = Code(0x2a, 0x04);
    pub(crate) const REGISTRATIONS_PREEMPTED: Code = Code(0x2a, 0x05);
    pub(crate) const ACCESS_STATE_CHANGED: Code = Code(0x2a, 0x06);
    pub(crate) const CAPACITY_CHANGED: Code = Code(0x2a, 0x09);
    pub(crate) const COMMANDS_CLEARED: Code = Code(0x2f, 0x00);
    pub(crate) const SAVING_NOT_SUPPORTED: Code = Code(0x39, 0x00);
    pub(crate) const LUNS_CHANGED: Code = Code(0x3f, 0x0e);
    pub(crate) const SET_GROUPS_FAILED: Code = Code(0x67, 0x0a);
    pub(crate) const INSUFFICIENT_RESOURCES: Code = Code(0x55, 0x03);
}

/// Where the fault is (SPC-4 section 4.5.2.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pointer {
    /// A byte of the CDB, and a bit of it where one is at fault: the highest of its field.
    Cdb(u16, Option<u8>),
    /// A byte of the parameter list.
    List(u16),
}

/// What a command is refused with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sense {
    pub(crate) key: Key,
    pub(crate) code: Code,
    /// The INFORMATION field, where it is valid.
    pub(crate) information: Option<u64>,
    pub(crate) pointer: Option<Pointer>,
}

impl Sense {
    pub(crate) const fn new(key: Key, code: Code) -> Self {
        Self {
            key,
            code,
            information: None,
            pointer: None,
        }
    }

    pub(crate) const fn illegal(code: Code) -> Self {
        Self::new(Key::IllegalRequest, code)
    }

    pub(crate) const fn not_ready(code: Code) -> Self {
        Self::new(Key::NotReady, code)
    }

    /// INVALID FIELD IN CDB, in this byte.
    pub(crate) const fn cdb(byte: u16) -> Self {
        let mut sense = Self::illegal(code::INVALID_FIELD_IN_CDB);
        sense.pointer = Some(Pointer::Cdb(byte, None));
        sense
    }

    /// INVALID FIELD IN CDB, in the field whose highest bit is this one of this byte.
    pub(crate) const fn cdb_bit(byte: u16, bit: u8) -> Self {
        let mut sense = Self::illegal(code::INVALID_FIELD_IN_CDB);
        sense.pointer = Some(Pointer::Cdb(byte, Some(bit)));
        sense
    }

    /// INVALID FIELD IN PARAMETER LIST, at this byte.
    pub(crate) fn list(byte: usize) -> Self {
        Self {
            pointer: u16::try_from(byte).ok().map(Pointer::List),
            ..Self::illegal(code::INVALID_FIELD_IN_LIST)
        }
    }

    pub(crate) const fn list_length() -> Self {
        Self::illegal(code::PARAMETER_LIST_LENGTH)
    }

    /// MISCOMPARE, with the offset of the first byte that differs.
    pub(crate) const fn miscompare(offset: u64) -> Self {
        let mut sense = Self::new(Key::Miscompare, code::MISCOMPARE);
        sense.information = Some(offset);
        sense
    }

    /// The sense data in descriptor format, or in fixed format.
    pub(crate) fn encode(&self, descriptor: bool) -> Vec<u8> {
        if descriptor {
            self.encode_descriptors()
        } else {
            self.encode_fixed()
        }
    }

    /// SPC-4 section 4.5.3.
    fn encode_fixed(&self) -> Vec<u8> {
        let information = self.information.and_then(|value| u32::try_from(value).ok());
        let valid = if information.is_some() { 0x80 } else { 0 };
        let mut reply = Reply::new();
        reply.u8(0x70 | valid).u8(0).u8(self.key as u8);
        reply.u32(information.unwrap_or(0));
        reply.u8(10).u32(0).u8(self.code.0).u8(self.code.1).u8(0);
        reply.bytes(&self.key_specific()).finish()
    }

    /// SPC-4 section 4.5.2.
    fn encode_descriptors(&self) -> Vec<u8> {
        let mut reply = Reply::new();
        reply.u8(0x72).u8(self.key as u8);
        reply.u8(self.code.0).u8(self.code.1).zeroes(4);
        if let Some(information) = self.information {
            reply.u8(0x00).u8(0x0a).u8(0x80).u8(0).u64(information);
        }
        if self.pointer.is_some() {
            reply.u8(0x02).u8(0x06).zeroes(2);
            reply.bytes(&self.key_specific()).u8(0);
        }
        let additional = u8::try_from(reply.len() - 8).unwrap_or(u8::MAX);
        reply.set(7, &[additional]).finish()
    }

    fn key_specific(&self) -> [u8; 3] {
        let (flags, at) = match self.pointer {
            None => return [0; 3],
            Some(Pointer::Cdb(at, None)) => (0xc0, at),
            Some(Pointer::Cdb(at, Some(bit))) => (0xc8 | (bit & 7), at),
            Some(Pointer::List(at)) => (0x80, at),
        };
        let [high, low] = at.to_be_bytes();
        [flags, high, low]
    }
}

/// Why a command was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// CHECK CONDITION.
    Check(Sense),
    /// RESERVATION CONFLICT.
    Conflict,
    /// BUSY: the same command may do later.
    Busy,
}

impl From<Sense> for Refusal {
    fn from(sense: Sense) -> Self {
        Self::Check(sense)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_format_is_eighteen_bytes() {
        let sense = Sense::miscompare(0x0102);
        let expected = [
            0xf0, 0, 0x0e, 0, 0, 1, 2, 10, 0, 0, 0, 0, 0x1d, 0, 0, 0, 0, 0,
        ];
        assert_eq!(sense.encode(false), expected);
    }

    #[test]
    fn field_pointers_name_byte_and_bit() {
        let expected = [
            0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xcf, 0, 1,
        ];
        assert_eq!(Sense::cdb_bit(1, 7).encode(false), expected);
        let expected = [
            0x72, 5, 0x26, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0x80, 0x01, 0x02, 0,
        ];
        assert_eq!(Sense::list(0x0102).encode(true), expected);
    }

    #[test]
    fn information_beyond_four_bytes_is_told_in_descriptors_only() {
        let sense = Sense::miscompare(1 << 32);
        assert_eq!(sense.encode(false)[0], 0x70);
        let expected = [
            0x72, 0x0e, 0x1d, 0, 0, 0, 0, 12, 0, 0x0a, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0,
        ];
        assert_eq!(sense.encode(true), expected);
    }
}
