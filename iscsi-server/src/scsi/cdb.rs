//! Commands, as their CDBs say them: decoding and the checks that need nothing but the CDB.
//!
//! Pure. What a decoder gives is within the limits that the device server states; whether it lies
//! within the medium shows when it is carried out.

use super::capacity::{BLOCK_BYTES, COMPARE_BLOCKS_MAX, TRANSFER_BLOCKS_MAX};
use super::copy::LIST_BYTES_MAX;
use super::fields::{u16_at, u24_at, u32_at, u64_at};
use super::luns::Select;
use super::sense::{Sense, code};

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

fn blocks_6(cdb: &Cdb) -> Blocks {
    let count = if cdb[4] == 0 { 256 } else { cdb[4].into() };
    let lba = u64::from(u24_at(cdb, 1) & 0x1f_ffff);
    Blocks { lba, count }
}

fn blocks_10(cdb: &Cdb) -> Blocks {
    let (lba, count) = (u32_at(cdb, 2).into(), u16_at(cdb, 7).into());
    Blocks { lba, count }
}

fn blocks_12(cdb: &Cdb) -> Blocks {
    let (lba, count) = (u32_at(cdb, 2).into(), u32_at(cdb, 6));
    Blocks { lba, count }
}

fn blocks_16(cdb: &Cdb) -> Blocks {
    let (lba, count) = (u64_at(cdb, 2), u32_at(cdb, 10));
    Blocks { lba, count }
}

/// The blocks of a CDB of any length, by its operation code (SPC-4 section 4.2.5.1).
fn blocks_of(cdb: &Cdb) -> Blocks {
    match cdb[0] >> 5 {
        0 => blocks_6(cdb),
        1 | 2 => blocks_10(cdb),
        5 => blocks_12(cdb),
        _ => blocks_16(cdb),
    }
}

/// Where the TRANSFER LENGTH of a CDB begins.
fn length_at(cdb: &Cdb) -> u16 {
    match cdb[0] >> 5 {
        0 => 4,
        1 | 2 => 7,
        5 => 6,
        _ => 10,
    }
}

/// The blocks of a transfer: no protection information, and not more than a device takes.
fn transfer(cdb: &Cdb) -> Result<Blocks, Sense> {
    unprotected(cdb)?;
    let blocks = blocks_of(cdb);
    if blocks.count > TRANSFER_BLOCKS_MAX {
        return Err(Sense::cdb(length_at(cdb)));
    }
    Ok(blocks)
}

/// RDPROTECT, WRPROTECT, VRPROTECT: the unit is not formatted with protection information.
fn unprotected(cdb: &Cdb) -> Result<(), Sense> {
    if cdb[0] >> 5 != 0 && cdb[1] & 0xe0 != 0 {
        return Err(Sense::cdb_bit(1, 7));
    }
    Ok(())
}

fn durable(cdb: &Cdb) -> bool {
    cdb[0] >> 5 != 0 && cdb[1] & 0x08 != 0
}

fn byte_check(cdb: &Cdb) -> Result<ByteCheck, Sense> {
    match (cdb[1] >> 1) & 3 {
        0 => Ok(ByteCheck::Medium),
        1 => Ok(ByteCheck::Data),
        3 => Ok(ByteCheck::OneBlock),
        _ => Err(Sense::cdb_bit(1, 2)),
    }
}

pub(crate) fn test_unit_ready(_: &Cdb) -> Decoded {
    Ok(Command::TestUnitReady)
}

pub(crate) fn request_sense(cdb: &Cdb) -> Decoded {
    Ok(Command::RequestSense {
        descriptor: cdb[1] & 1 != 0,
        allocation: cdb[4].into(),
    })
}

pub(crate) fn inquiry(cdb: &Cdb) -> Decoded {
    if cdb[1] & 0x02 != 0 {
        return Err(Sense::cdb_bit(1, 1));
    }
    let page = (cdb[1] & 1 != 0).then_some(cdb[2]);
    if page.is_none() && cdb[2] != 0 {
        return Err(Sense::cdb(2));
    }
    let allocation = u16_at(cdb, 3).into();
    Ok(Command::Inquiry { page, allocation })
}

pub(crate) fn report_luns(cdb: &Cdb) -> Decoded {
    let select = Select::decode(cdb[2])?;
    let allocation = u32_at(cdb, 6);
    Ok(Command::ReportLuns { select, allocation })
}

/// A PMI bit asks what it would ask without: no block is slower than another.
pub(crate) fn read_capacity_10(cdb: &Cdb) -> Decoded {
    if cdb[8] & 1 == 0 && u32_at(cdb, 2) != 0 {
        return Err(Sense::cdb(2));
    }
    Ok(Command::ReadCapacity10)
}

pub(crate) fn read_capacity_16(cdb: &Cdb) -> Decoded {
    if cdb[14] & 1 == 0 && u64_at(cdb, 2) != 0 {
        return Err(Sense::cdb(2));
    }
    let allocation = u32_at(cdb, 10);
    Ok(Command::ReadCapacity16 { allocation })
}

pub(crate) fn read(cdb: &Cdb) -> Decoded {
    let blocks = transfer(cdb)?;
    Ok(Command::Read { blocks })
}

pub(crate) fn write(cdb: &Cdb) -> Decoded {
    let (blocks, durable) = (transfer(cdb)?, durable(cdb));
    Ok(Command::Write { blocks, durable })
}

pub(crate) fn write_and_verify(cdb: &Cdb) -> Decoded {
    let (blocks, check) = (transfer(cdb)?, byte_check(cdb)?);
    if check == ByteCheck::OneBlock {
        return Err(Sense::cdb_bit(1, 2));
    }
    Ok(Command::WriteAndVerify { blocks, check })
}

pub(crate) fn verify(cdb: &Cdb) -> Decoded {
    let (blocks, check) = (transfer(cdb)?, byte_check(cdb)?);
    Ok(Command::Verify { blocks, check })
}

pub(crate) fn pre_fetch(cdb: &Cdb) -> Decoded {
    let blocks = blocks_of(cdb);
    Ok(Command::PreFetch { blocks })
}

pub(crate) fn synchronize_cache(cdb: &Cdb) -> Decoded {
    let (blocks, immediate) = (blocks_of(cdb), cdb[1] & 2 != 0);
    Ok(Command::SynchronizeCache { blocks, immediate })
}

pub(crate) fn compare_and_write(cdb: &Cdb) -> Decoded {
    unprotected(cdb)?;
    let (lba, count) = (u64_at(cdb, 2), u32::from(cdb[13]));
    const { assert!(COMPARE_BLOCKS_MAX == u8::MAX) };
    let (blocks, durable) = (Blocks { lba, count }, durable(cdb));
    Ok(Command::CompareAndWrite { blocks, durable })
}

pub(crate) fn or_write(cdb: &Cdb) -> Decoded {
    let (blocks, durable) = (transfer(cdb)?, durable(cdb));
    Ok(Command::OrWrite { blocks, durable })
}

/// The limit of its length holds for what is left to the end too, which the capacity tells.
pub(crate) fn write_same(cdb: &Cdb) -> Decoded {
    unprotected(cdb)?;
    if cdb[1] & 0x16 != 0 {
        // ANCHOR, which thin provisioning without anchors lacks; PBDATA and LBDATA are obsolete.
        let bit = if cdb[1] & 0x10 != 0 { 4 } else { 2 };
        return Err(Sense::cdb_bit(1, bit));
    }
    let no_data = cdb[1] & 1 != 0;
    if no_data && cdb[0] >> 5 != 4 {
        return Err(Sense::cdb_bit(1, 0));
    }
    let blocks = blocks_of(cdb);
    if blocks.count > super::capacity::WRITE_SAME_BLOCKS_MAX {
        return Err(Sense::cdb(length_at(cdb)));
    }
    Ok(Command::WriteSame {
        blocks,
        unmap: cdb[1] & 8 != 0,
        has_data: !no_data,
    })
}

pub(crate) fn unmap(cdb: &Cdb) -> Decoded {
    if cdb[1] & 1 != 0 {
        return Err(Sense::cdb_bit(1, 0));
    }
    let list_bytes = u16_at(cdb, 7);
    Ok(Command::Unmap { list_bytes })
}

pub(crate) fn get_lba_status(cdb: &Cdb) -> Decoded {
    let (lba, allocation) = (u64_at(cdb, 2), u32_at(cdb, 10));
    Ok(Command::GetLbaStatus { lba, allocation })
}

/// An overwrite needs its header and a pattern of one byte to one block.
pub(crate) fn sanitize(cdb: &Cdb) -> Decoded {
    let list_bytes = u16_at(cdb, 7);
    let kind = match cdb[1] & 0x1f {
        0x01 if (5..=516).contains(&list_bytes) => SanitizeKind::Overwrite { list_bytes },
        0x02 if list_bytes == 0 => SanitizeKind::BlockErase,
        0x1f if list_bytes == 0 => SanitizeKind::ExitFailureMode,
        _ => return Err(Sense::cdb(7)),
    };
    let immediate = cdb[1] & 0x80 != 0;
    Ok(Command::Sanitize { kind, immediate })
}

pub(crate) fn mode_sense(cdb: &Cdb) -> Decoded {
    let long = cdb[0] == 0x5a;
    let control = cdb[2] >> 6;
    if control == 3 {
        return Err(Sense::illegal(code::SAVING_NOT_SUPPORTED));
    }
    Ok(Command::ModeSense(ModeSense {
        long,
        no_block: cdb[1] & 0x08 != 0,
        long_lba: long && cdb[1] & 0x10 != 0,
        control,
        page: cdb[2] & 0x3f,
        subpage: cdb[3],
        allocation: if long {
            u16_at(cdb, 7).into()
        } else {
            cdb[4].into()
        },
    }))
}

pub(crate) fn mode_select(cdb: &Cdb) -> Decoded {
    let long = cdb[0] == 0x55;
    if cdb[1] & 0x10 == 0 {
        return Err(Sense::cdb_bit(1, 4));
    }
    if cdb[1] & 0x01 != 0 {
        return Err(Sense::cdb_bit(1, 0));
    }
    let list_bytes = if long { u16_at(cdb, 7) } else { cdb[4].into() };
    Ok(Command::ModeSelect { long, list_bytes })
}

pub(crate) fn log_sense(cdb: &Cdb) -> Decoded {
    if cdb[1] & 0x01 != 0 {
        return Err(Sense::cdb_bit(1, 0));
    }
    if u16_at(cdb, 5) != 0 {
        return Err(Sense::cdb(5));
    }
    Ok(Command::LogSense {
        page: cdb[2] & 0x3f,
        subpage: cdb[3],
        allocation: u16_at(cdb, 7).into(),
    })
}

/// There are no power conditions, and nothing to eject.
pub(crate) fn start_stop(cdb: &Cdb) -> Decoded {
    if cdb[4] & 0xf0 != 0 {
        return Err(Sense::cdb_bit(4, 7));
    }
    let (start, load_eject) = (cdb[4] & 1 != 0, cdb[4] & 2 != 0);
    if load_eject && !start {
        return Err(Sense::cdb_bit(4, 1));
    }
    let no_flush = cdb[4] & 4 != 0;
    Ok(Command::StartStop { start, no_flush })
}

pub(crate) fn prevent_allow(cdb: &Cdb) -> Decoded {
    let prevent = cdb[4] & 3 != 0;
    Ok(Command::PreventAllow { prevent })
}

/// Only the default self-test, which there is nothing to fail of.
pub(crate) fn send_diagnostic(cdb: &Cdb) -> Decoded {
    if cdb[1] & 0x04 == 0 || cdb[1] & 0xe0 != 0 {
        return Err(Sense::cdb_bit(1, 7));
    }
    if u16_at(cdb, 3) != 0 {
        return Err(Sense::cdb(3));
    }
    Ok(Command::SendDiagnostic)
}

pub(crate) fn persistent_in(cdb: &Cdb) -> Decoded {
    Ok(Command::PersistentIn {
        action: cdb[1] & 0x1f,
        allocation: u16_at(cdb, 7).into(),
    })
}

/// A parameter list is of 24 bytes, unless transport identifiers follow (SPC-4 section 6.16.1).
pub(crate) fn persistent_out(cdb: &Cdb) -> Decoded {
    /// Room for the transport identifiers of a few dozen initiators.
    const LIST_BYTES_MAX: u32 = 16 << 10;
    let list_bytes = u32_at(cdb, 5);
    if !(24..=LIST_BYTES_MAX).contains(&list_bytes) {
        return Err(Sense::list_length());
    }
    Ok(Command::PersistentOut {
        action: cdb[1] & 0x1f,
        scope_type: cdb[2],
        list_bytes,
    })
}

/// Third-party reservations and those of extents are obsolete.
pub(crate) fn reserve(cdb: &Cdb) -> Decoded {
    if cdb[1] & 0x11 != 0 {
        return Err(Sense::cdb_bit(1, 4));
    }
    Ok(match cdb[0] {
        0x16 | 0x56 => Command::Reserve,
        _ => Command::Release,
    })
}

pub(crate) fn report_opcodes(cdb: &Cdb) -> Decoded {
    let options = cdb[2] & 7;
    if options > 3 {
        return Err(Sense::cdb_bit(2, 2));
    }
    Ok(Command::ReportOpcodes(ReportOpcodes {
        timeouts: cdb[2] & 0x80 != 0,
        options,
        opcode: cdb[3],
        action: u16_at(cdb, 4),
        allocation: u32_at(cdb, 6),
    }))
}

pub(crate) fn report_task_management(cdb: &Cdb) -> Decoded {
    let (extended, allocation) = (cdb[2] & 0x80 != 0, u32_at(cdb, 6));
    Ok(Command::ReportTaskManagement {
        extended,
        allocation,
    })
}

pub(crate) fn report_groups(cdb: &Cdb) -> Decoded {
    let extended = match cdb[1] >> 5 {
        0 => false,
        1 => true,
        _ => return Err(Sense::cdb_bit(1, 7)),
    };
    let allocation = u32_at(cdb, 6);
    Ok(Command::ReportGroups {
        extended,
        allocation,
    })
}

pub(crate) fn set_groups(cdb: &Cdb) -> Decoded {
    /// A header and as many groups as anybody has.
    const LIST_BYTES_MAX: u32 = 4096;
    let list_bytes = u32_at(cdb, 6);
    if list_bytes > LIST_BYTES_MAX {
        return Err(Sense::list_length());
    }
    Ok(Command::SetGroups { list_bytes })
}

pub(crate) fn report_identifying(cdb: &Cdb) -> Decoded {
    let (kind, allocation) = (cdb[10] >> 1, u32_at(cdb, 6));
    if !matches!(kind, 0 | 2 | 0x7f) {
        return Err(Sense::cdb_bit(10, 7));
    }
    Ok(Command::ReportIdentifying { kind, allocation })
}

pub(crate) fn report_timestamp(cdb: &Cdb) -> Decoded {
    let allocation = u32_at(cdb, 6);
    Ok(Command::ReportTimestamp { allocation })
}

pub(crate) fn read_defect_data(cdb: &Cdb) -> Decoded {
    let long = cdb[0] == 0xb7;
    let (lists, allocation) = if long {
        (cdb[1], u32_at(cdb, 6))
    } else {
        (cdb[2], u16_at(cdb, 7).into())
    };
    Ok(Command::ReadDefectData {
        long,
        lists: lists & 0x1f,
        allocation,
    })
}

pub(crate) fn extended_copy(cdb: &Cdb) -> Decoded {
    let list_bytes = u32_at(cdb, 10);
    if list_bytes > LIST_BYTES_MAX {
        return Err(Sense::list_length());
    }
    Ok(Command::ExtendedCopy { list_bytes })
}

pub(crate) fn receive_copy(cdb: &Cdb) -> Decoded {
    let allocation = u32_at(cdb, 10);
    Ok(match cdb[1] & 0x1f {
        0x00 => Command::CopyStatus {
            list: cdb[2],
            allocation,
        },
        _ => Command::CopyParameters { allocation },
    })
}

/// What an operation code, or one of its service actions, is refused with that there is none of.
pub(crate) fn unknown(has_actions: bool) -> Sense {
    if has_actions {
        Sense::cdb_bit(1, 4)
    } else {
        Sense::illegal(code::INVALID_OPERATION_CODE)
    }
}
