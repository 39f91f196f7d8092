//! Commands, as their CDBs say them: decoding and the checks that need nothing but the CDB.
//!
//! Pure. What a decoder gives is within the limits that the device server states; whether it lies
//! within the medium shows when it is carried out.

pub(crate) mod block;
pub(crate) mod primary;

use super::capacity::BLOCK_BYTES;
use super::luns::Select;
use super::sense::Sense;

/// A CDB, filled up with zeroes.
pub(crate) type Cdb = [u8; super::CDB_BYTES_MAX];

/// Longest reply to anything but a read, in bytes: a list of all logical unit numbers.
const REPLY_BYTES_MAX: u64 = 160 << 10;

/// Logical blocks: how many from which on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocks {
    pub(crate) lba: u64,
    pub(crate) count: u32,
}

impl Blocks {
    /// Their bytes.
    pub(crate) fn bytes(self) -> u64 {
        u64::from(self.count) * BLOCK_BYTES
    }
}

/// What VERIFY compares with (SBC-3 table 145).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ByteCheck {
    /// Nothing: the blocks are to be readable.
    Medium,
    /// The Data-Out buffer.
    Data,
    /// One block of data, that each block is to equal.
    OneBlock,
}

/// Which mode pages, and in which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ModeSense {
    /// Of ten bytes, not of six.
    pub(crate) long: bool,
    /// No block descriptor.
    pub(crate) no_block: bool,
    /// A block descriptor may be the long one.
    pub(crate) long_lba: bool,
    /// PC: 0 current, 1 changeable, 2 default.
    pub(crate) control: u8,
    pub(crate) page: u8,
    pub(crate) subpage: u8,
    pub(crate) allocation: u32,
}

/// What REPORT SUPPORTED OPERATION CODES asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReportOpcodes {
    /// Timeouts too.
    pub(crate) timeouts: bool,
    pub(crate) options: u8,
    pub(crate) opcode: u8,
    pub(crate) action: u16,
    pub(crate) allocation: u32,
}

/// A SANITIZE operation (SBC-3 section 5.26).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SanitizeKind {
    Overwrite { list_bytes: u16 },
    BlockErase,
    ExitFailureMode,
}

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    TestUnitReady,
    RequestSense {
        descriptor: bool,
        allocation: u32,
    },
    Inquiry {
        page: Option<u8>,
        allocation: u32,
    },
    ReportLuns {
        select: Select,
        allocation: u32,
    },
    ReadCapacity10,
    ReadCapacity16 {
        allocation: u32,
    },
    Read {
        blocks: Blocks,
    },
    Write {
        blocks: Blocks,
        durable: bool,
    },
    WriteAndVerify {
        blocks: Blocks,
        check: ByteCheck,
    },
    Verify {
        blocks: Blocks,
        check: ByteCheck,
    },
    PreFetch {
        blocks: Blocks,
    },
    SynchronizeCache {
        blocks: Blocks,
        immediate: bool,
    },
    CompareAndWrite {
        blocks: Blocks,
        durable: bool,
    },
    OrWrite {
        blocks: Blocks,
        durable: bool,
    },
    WriteSame {
        blocks: Blocks,
        unmap: bool,
        has_data: bool,
    },
    Unmap {
        list_bytes: u16,
    },
    GetLbaStatus {
        lba: u64,
        allocation: u32,
    },
    Sanitize {
        kind: SanitizeKind,
        immediate: bool,
    },
    ModeSense(ModeSense),
    ModeSelect {
        long: bool,
        list_bytes: u16,
    },
    LogSense {
        page: u8,
        subpage: u8,
        allocation: u32,
    },
    StartStop {
        start: bool,
        no_flush: bool,
    },
    PreventAllow {
        prevent: bool,
    },
    SendDiagnostic,
    PersistentIn {
        action: u8,
        allocation: u32,
    },
    PersistentOut {
        action: u8,
        scope_type: u8,
        list_bytes: u32,
    },
    Reserve,
    Release,
    ReportOpcodes(ReportOpcodes),
    ReportTaskManagement {
        extended: bool,
        allocation: u32,
    },
    ReportGroups {
        extended: bool,
        allocation: u32,
    },
    SetGroups {
        list_bytes: u32,
    },
    ReportIdentifying {
        kind: u8,
        allocation: u32,
    },
    ReportTimestamp {
        allocation: u32,
    },
    ReadDefectData {
        long: bool,
        lists: u8,
        allocation: u32,
    },
    ExtendedCopy {
        list_bytes: u32,
    },
    CopyStatus {
        list: u8,
        allocation: u32,
    },
    CopyParameters {
        allocation: u32,
    },
}

impl Command {
    /// Bytes of data that it takes.
    pub(crate) fn data_out_bytes(&self) -> u64 {
        match *self {
            Self::Write { blocks, .. }
            | Self::WriteAndVerify { blocks, .. }
            | Self::OrWrite { blocks, .. } => blocks.bytes(),
            Self::Verify { blocks, check } => match check {
                ByteCheck::Medium => 0,
                ByteCheck::Data => blocks.bytes(),
                ByteCheck::OneBlock if blocks.count == 0 => 0,
                ByteCheck::OneBlock => BLOCK_BYTES,
            },
            Self::CompareAndWrite { blocks, .. } => 2 * blocks.bytes(),
            Self::WriteSame { has_data: true, .. } => BLOCK_BYTES,
            Self::Unmap { list_bytes }
            | Self::ModeSelect { list_bytes, .. }
            | Self::Sanitize {
                kind: SanitizeKind::Overwrite { list_bytes },
                ..
            } => list_bytes.into(),
            Self::PersistentOut { list_bytes, .. }
            | Self::SetGroups { list_bytes }
            | Self::ExtendedCopy { list_bytes } => list_bytes.into(),
            _ => 0,
        }
    }

    /// The most bytes of data that it gives.
    pub(crate) fn data_in_bytes(&self) -> u64 {
        match *self {
            Self::Read { blocks } => blocks.bytes(),
            Self::ReadCapacity10 => 8,
            _ => u64::from(self.allocation()).min(REPLY_BYTES_MAX),
        }
    }

    /// The ALLOCATION LENGTH: what a reply is cut to.
    pub(crate) fn allocation(&self) -> u32 {
        match *self {
            Self::RequestSense { allocation, .. }
            | Self::Inquiry { allocation, .. }
            | Self::ReportLuns { allocation, .. }
            | Self::ReadCapacity16 { allocation }
            | Self::GetLbaStatus { allocation, .. }
            | Self::ModeSense(ModeSense { allocation, .. })
            | Self::LogSense { allocation, .. }
            | Self::PersistentIn { allocation, .. }
            | Self::ReportOpcodes(ReportOpcodes { allocation, .. })
            | Self::ReportTaskManagement { allocation, .. }
            | Self::ReportGroups { allocation, .. }
            | Self::ReportIdentifying { allocation, .. }
            | Self::ReportTimestamp { allocation }
            | Self::ReadDefectData { allocation, .. }
            | Self::CopyStatus { allocation, .. }
            | Self::CopyParameters { allocation } => allocation,
            _ => u32::MAX,
        }
    }

    /// Whether data of any other length than [`Command::data_out_bytes`] is refused, longer too.
    pub(crate) fn data_out_exact(&self) -> bool {
        matches!(self, Self::WriteSame { .. } | Self::CompareAndWrite { .. })
    }

    /// Whether it does with the first blocks of its data what it would do with all of them.
    pub(crate) fn data_out_partial(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::WriteAndVerify { .. })
    }

    /// Whether it changes the medium.
    pub(crate) fn writes(&self) -> bool {
        match self {
            Self::Write { .. }
            | Self::WriteAndVerify { .. }
            | Self::CompareAndWrite { .. }
            | Self::OrWrite { .. }
            | Self::WriteSame { .. }
            | Self::Unmap { .. } => true,
            Self::Sanitize { kind, .. } => *kind != SanitizeKind::ExitFailureMode,
            _ => false,
        }
    }
}

/// What the decoders of the table of operation codes give.
pub(crate) type Decoded = Result<Command, Sense>;
