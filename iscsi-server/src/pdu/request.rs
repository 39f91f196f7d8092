//! What initiators send: the typed forms of their basic header segments.
//!
//! A form is checked on its own: reserved tags, flags that contradict each other. What depends on
//! the state of the session is checked where that state is.

use super::{Bhs, Lun, NO_TAG, be16, be32, opcode};

/// Lengths of what follows a basic header segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Bytes of additional headers: a multiple of four, below 1024.
    pub(crate) additional_bytes: usize,
    /// Bytes of the data segment, padding not counted: below 2^24.
    pub(crate) data_bytes: usize,
}

impl Frame {
    pub(crate) fn of(bhs: &Bhs) -> Self {
        let [_, high, middle, low] = be32(bhs, 4).to_be_bytes();
        Self {
            additional_bytes: usize::from(bhs[4]) * 4,
            data_bytes: usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low),
        }
    }
}

/// Why a PDU cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Its opcode is none that initiators use.
    Opcode,
    /// A field has a value that it must not have.
    Field,
}

/// Task attributes (SAM-5 section 8.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attribute {
    /// Also what carries no attribute.
    Simple,
    Ordered,
    HeadOfQueue,
    Aca,
}

/// NOP-Out (RFC 7143 section 11.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NopOut {
    pub(crate) lun: Lun,
    /// [`NO_TAG`]: no answer is wanted.
    pub(crate) itt: u32,
    /// Of the NOP-In that it answers, or [`NO_TAG`].
    pub(crate) ttt: u32,
}

/// SCSI Command (section 11.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScsiCommand {
    /// No unsolicited data follows in Data-Out PDUs.
    pub(crate) is_final: bool,
    pub(crate) reads: bool,
    pub(crate) writes: bool,
    pub(crate) attribute: Attribute,
    pub(crate) lun: Lun,
    pub(crate) itt: u32,
    pub(crate) expected_bytes: u32,
    pub(crate) cdb: [u8; 16],
}

/// Task Management Function Request (section 11.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskManagement {
    pub(crate) function: u8,
    pub(crate) lun: Lun,
    pub(crate) itt: u32,
    pub(crate) referenced_itt: u32,
    pub(crate) referenced_cmd_sn: u32,
}

/// Login Request (section 11.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LoginRequest {
    pub(crate) transit: bool,
    pub(crate) continues: bool,
    /// 0 security, 1 operational, 3 full feature; 2 does not exist.
    pub(crate) current_stage: u8,
    pub(crate) next_stage: u8,
    pub(crate) version_max: u8,
    pub(crate) version_min: u8,
    pub(crate) isid: [u8; 6],
    pub(crate) tsih: u16,
    pub(crate) itt: u32,
    pub(crate) cid: u16,
    pub(crate) cmd_sn: u32,
    pub(crate) exp_stat_sn: u32,
}

/// Text Request (section 11.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TextRequest {
    pub(crate) is_final: bool,
    pub(crate) continues: bool,
    pub(crate) lun: Lun,
    pub(crate) itt: u32,
    /// Of the answer that goes on, or [`NO_TAG`].
    pub(crate) ttt: u32,
}

/// SCSI Data-Out (section 11.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DataOut {
    pub(crate) is_final: bool,
    pub(crate) lun: Lun,
    pub(crate) itt: u32,
    /// Of the R2T that it answers, or [`NO_TAG`]: unsolicited.
    pub(crate) ttt: u32,
    pub(crate) data_sn: u32,
    pub(crate) offset: u32,
}

/// Logout Request (section 11.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogoutRequest {
    /// 0 close the session, 1 close a connection, 2 remove a connection for recovery.
    pub(crate) reason: u8,
    pub(crate) itt: u32,
    pub(crate) cid: u16,
}

/// One PDU of an initiator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    NopOut(NopOut),
    Command(ScsiCommand),
    Management(TaskManagement),
    Login(LoginRequest),
    Text(TextRequest),
    DataOut(DataOut),
    Logout(LogoutRequest),
    Snack,
}

/// The command number of a PDU that has one.
pub(crate) fn cmd_sn(bhs: &Bhs) -> u32 {
    be32(bhs, 24)
}

/// Whether a PDU is to be acted on at once, outside the order of commands.
pub(crate) fn is_immediate(bhs: &Bhs) -> bool {
    bhs[0] & 0x40 != 0
}

fn lun(bhs: &Bhs) -> Lun {
    let mut lun = Lun::default();
    lun.copy_from_slice(&bhs[8..16]);
    lun
}

fn itt(bhs: &Bhs) -> u32 {
    be32(bhs, 16)
}

impl Request {
    /// Reads a basic header segment.
    ///
    /// # Errors
    /// [`Fault`].
    pub(crate) fn parse(bhs: &Bhs) -> Result<Self, Fault> {
        let code = bhs[0] & 0x3f;
        if code != opcode::NOP_OUT && code != opcode::DATA_OUT && itt(bhs) == NO_TAG {
            // Section 11.2.1.8: it names a task, and this value names none.
            let known = matches!(code, 0x01..=0x06 | opcode::SNACK);
            return Err(if known { Fault::Field } else { Fault::Opcode });
        }
        match code {
            opcode::NOP_OUT => nop_out(bhs).map(Self::NopOut),
            opcode::SCSI_COMMAND => command(bhs).map(Self::Command),
            opcode::TASK_MANAGEMENT => Ok(Self::Management(management(bhs))),
            opcode::LOGIN => login(bhs).map(Self::Login),
            opcode::TEXT => text(bhs).map(Self::Text),
            opcode::DATA_OUT => data_out(bhs).map(Self::DataOut),
            opcode::LOGOUT => Ok(Self::Logout(LogoutRequest {
                reason: bhs[1] & 0x7f,
                itt: itt(bhs),
                cid: be16(bhs, 20),
            })),
            opcode::SNACK => Ok(Self::Snack),
            _ => Err(Fault::Opcode),
        }
    }
}

fn nop_out(bhs: &Bhs) -> Result<NopOut, Fault> {
    let nop = NopOut {
        lun: lun(bhs),
        itt: itt(bhs),
        ttt: be32(bhs, 20),
    };
    // One that asks for no answer does not wait for its turn.
    if nop.itt == NO_TAG && !is_immediate(bhs) {
        return Err(Fault::Field);
    }
    Ok(nop)
}

fn command(bhs: &Bhs) -> Result<ScsiCommand, Fault> {
    let mut cdb = [0; 16];
    cdb.copy_from_slice(&bhs[32..48]);
    let command = ScsiCommand {
        is_final: bhs[1] & 0x80 != 0,
        reads: bhs[1] & 0x40 != 0,
        writes: bhs[1] & 0x20 != 0,
        attribute: match bhs[1] & 7 {
            0 | 1 => Attribute::Simple,
            2 => Attribute::Ordered,
            3 => Attribute::HeadOfQueue,
            4 => Attribute::Aca,
            _ => return Err(Fault::Field),
        },
        lun: lun(bhs),
        itt: itt(bhs),
        expected_bytes: be32(bhs, 20),
        cdb,
    };
    // Section 11.3.1: both must be 1 where the other is 0.
    if !command.is_final && !command.writes {
        return Err(Fault::Field);
    }
    Ok(command)
}

fn management(bhs: &Bhs) -> TaskManagement {
    TaskManagement {
        function: bhs[1] & 0x7f,
        lun: lun(bhs),
        itt: itt(bhs),
        referenced_itt: be32(bhs, 20),
        referenced_cmd_sn: be32(bhs, 32),
    }
}

fn login(bhs: &Bhs) -> Result<LoginRequest, Fault> {
    let mut isid = [0; 6];
    isid.copy_from_slice(&bhs[8..14]);
    let login = LoginRequest {
        transit: bhs[1] & 0x80 != 0,
        continues: bhs[1] & 0x40 != 0,
        current_stage: bhs[1] >> 2 & 3,
        next_stage: bhs[1] & 3,
        version_max: bhs[2],
        version_min: bhs[3],
        isid,
        tsih: be16(bhs, 14),
        itt: itt(bhs),
        cid: be16(bhs, 20),
        cmd_sn: cmd_sn(bhs),
        exp_stat_sn: be32(bhs, 28),
    };
    if login.transit && login.continues {
        return Err(Fault::Field);
    }
    Ok(login)
}

fn text(bhs: &Bhs) -> Result<TextRequest, Fault> {
    let text = TextRequest {
        is_final: bhs[1] & 0x80 != 0,
        continues: bhs[1] & 0x40 != 0,
        lun: lun(bhs),
        itt: itt(bhs),
        ttt: be32(bhs, 20),
    };
    if text.is_final && text.continues {
        return Err(Fault::Field);
    }
    Ok(text)
}

fn data_out(bhs: &Bhs) -> Result<DataOut, Fault> {
    let data = DataOut {
        is_final: bhs[1] & 0x80 != 0,
        lun: lun(bhs),
        itt: itt(bhs),
        ttt: be32(bhs, 20),
        data_sn: be32(bhs, 36),
        offset: be32(bhs, 40),
    };
    if data.itt == NO_TAG {
        return Err(Fault::Field);
    }
    Ok(data)
}
