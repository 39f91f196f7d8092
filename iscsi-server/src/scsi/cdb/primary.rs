//! Decoders of primary commands (SPC-4 section 6, SPC-2 for RESERVE and RELEASE).

use super::{Cdb, Command, Decoded, ModeSense, ReportOpcodes};
use crate::scsi::copy::LIST_BYTES_MAX as COPY_LIST_BYTES_MAX;
use crate::scsi::fields::{u16_at, u32_at};
use crate::scsi::luns::Select;
use crate::scsi::sense::{Sense, code};

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

pub(crate) fn extended_copy(cdb: &Cdb) -> Decoded {
    let list_bytes = u32_at(cdb, 10);
    if list_bytes > COPY_LIST_BYTES_MAX {
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
