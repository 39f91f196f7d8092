//! Decoders of block commands (SBC-3 section 5).

use super::{Blocks, ByteCheck, Cdb, Command, Decoded, SanitizeKind};
use crate::scsi::capacity::{COMPARE_BLOCKS_MAX, TRANSFER_BLOCKS_MAX, WRITE_SAME_BLOCKS_MAX};
use crate::scsi::fields::{u16_at, u24_at, u32_at, u64_at};
use crate::scsi::sense::Sense;

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
    if blocks.count > WRITE_SAME_BLOCKS_MAX {
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
