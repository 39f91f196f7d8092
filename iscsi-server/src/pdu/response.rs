//! What targets send: the basic header segments of their PDUs, written.
//!
//! Lengths and digests are the frame's; numbers come from a [`Sequence`].

use super::{BHS_BYTES, Bhs, Lun, NO_TAG, opcode, put16, put32};

/// The numbers that nearly every PDU of a target carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sequence {
    pub(crate) stat_sn: u32,
    pub(crate) exp_cmd_sn: u32,
    pub(crate) max_cmd_sn: u32,
}

impl Sequence {
    fn put(self, bhs: &mut Bhs) {
        put32(bhs, 24, self.stat_sn);
        put32(bhs, 28, self.exp_cmd_sn);
        put32(bhs, 32, self.max_cmd_sn);
    }
}

/// Why a PDU was rejected (RFC 7143 section 11.17.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RejectReason {
    DataDigest = 0x02,
    Snack = 0x03,
    Protocol = 0x04,
    NotSupported = 0x05,
    TooManyImmediate = 0x06,
    TaskInProgress = 0x07,
    InvalidField = 0x09,
    OutOfResources = 0x0a,
}

/// What an asynchronous message tells (section 11.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AsyncEvent {
    /// The initiator is to log out within this many seconds.
    LogoutRequested(u16),
    /// All connections of the session will be dropped.
    SessionDropped,
}

/// How much was transferred other than expected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Residual {
    #[default]
    None,
    /// This many bytes of what was expected were not transferred.
    Underflow(u32),
    /// This many bytes more than was expected would have been transferred.
    Overflow(u32),
}

impl Residual {
    /// Of a command that moves `actual` bytes where `expected` were.
    pub(crate) fn between(expected: u32, actual: u64) -> Self {
        let expected = u64::from(expected);
        let clamp = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        match actual.cmp(&expected) {
            std::cmp::Ordering::Equal => Self::None,
            std::cmp::Ordering::Less => Self::Underflow(clamp(expected - actual)),
            std::cmp::Ordering::Greater => Self::Overflow(clamp(actual - expected)),
        }
    }

    /// The flags and the count.
    fn fields(self) -> (u8, u32) {
        match self {
            Self::None => (0, 0),
            Self::Underflow(count) => (0x02, count),
            Self::Overflow(count) => (0x04, count),
        }
    }
}

/// NOP-In (section 11.19).
#[derive(Clone, Copy, Debug)]
pub(crate) struct NopIn {
    pub(crate) lun: Lun,
    pub(crate) itt: u32,
    pub(crate) ttt: u32,
}

/// SCSI Response (section 11.4).
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScsiResponse {
    pub(crate) itt: u32,
    pub(crate) status: u8,
    pub(crate) residual: Residual,
    /// Data-In and R2T PDUs that were sent for the command.
    pub(crate) exp_data_sn: u32,
}

/// SCSI Data-In (section 11.7).
#[derive(Clone, Copy, Debug)]
pub(crate) struct DataIn {
    pub(crate) is_final: bool,
    pub(crate) itt: u32,
    pub(crate) data_sn: u32,
    pub(crate) offset: u32,
    /// The status and the residual, where this is the last PDU of the command.
    pub(crate) status: Option<(u8, Residual)>,
}

/// Ready To Transfer (section 11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct R2t {
    pub(crate) lun: Lun,
    pub(crate) itt: u32,
    pub(crate) ttt: u32,
    pub(crate) r2t_sn: u32,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// Login Response (section 11.13).
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoginResponse {
    pub(crate) transit: bool,
    pub(crate) current_stage: u8,
    pub(crate) next_stage: u8,
    pub(crate) isid: [u8; 6],
    pub(crate) tsih: u16,
    pub(crate) itt: u32,
    /// Class and detail.
    pub(crate) status: u16,
}

/// One PDU of a target.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Response {
    NopIn(NopIn),
    Scsi(ScsiResponse),
    DataIn(DataIn),
    R2t(R2t),
    Management {
        itt: u32,
        response: u8,
    },
    Login(LoginResponse),
    /// `is_final`: nothing follows; `ttt`: of what follows, or [`NO_TAG`].
    Text {
        itt: u32,
        ttt: u32,
        lun: Lun,
        is_final: bool,
        continues: bool,
    },
    Logout {
        itt: u32,
        response: u8,
        time_to_wait: u16,
        time_to_retain: u16,
    },
    Reject(RejectReason),
    Async(AsyncEvent),
}

impl Response {
    /// Whether it takes a status number of its own (section 4.2.2.2).
    pub(crate) fn takes_stat_sn(&self) -> bool {
        match self {
            Self::DataIn(data) => data.status.is_some(),
            Self::R2t(_) => false,
            // Section 11.19.3: a ping of the target takes none.
            Self::NopIn(nop) => nop.itt != NO_TAG,
            _ => true,
        }
    }

    /// Writes it, with no additional headers and no data.
    pub(crate) fn bhs(&self, sequence: Sequence) -> Bhs {
        let mut bhs = [0; BHS_BYTES];
        sequence.put(&mut bhs);
        bhs[1] = 0x80;
        match self {
            Self::NopIn(nop) => put_nop_in(&mut bhs, nop),
            Self::Scsi(response) => put_scsi(&mut bhs, response),
            Self::DataIn(data) => put_data_in(&mut bhs, data),
            Self::R2t(r2t) => put_r2t(&mut bhs, r2t),
            Self::Management { itt, response } => {
                bhs[0] = opcode::TASK_MANAGEMENT_RESPONSE;
                bhs[2] = *response;
                put32(&mut bhs, 16, *itt);
            }
            Self::Login(login) => put_login(&mut bhs, login),
            Self::Text {
                itt,
                ttt,
                lun,
                is_final,
                continues,
            } => {
                bhs[0] = opcode::TEXT_RESPONSE;
                bhs[1] = u8::from(*is_final) << 7 | u8::from(*continues) << 6;
                bhs[8..16].copy_from_slice(lun);
                put32(&mut bhs, 16, *itt);
                put32(&mut bhs, 20, *ttt);
            }
            Self::Logout {
                itt,
                response,
                time_to_wait,
                time_to_retain,
            } => {
                bhs[0] = opcode::LOGOUT_RESPONSE;
                bhs[2] = *response;
                put32(&mut bhs, 16, *itt);
                put16(&mut bhs, 40, *time_to_wait);
                put16(&mut bhs, 42, *time_to_retain);
            }
            Self::Reject(reason) => {
                bhs[0] = opcode::REJECT;
                bhs[2] = *reason as u8;
                put32(&mut bhs, 16, NO_TAG);
            }
            Self::Async(event) => put_async(&mut bhs, *event),
        }
        bhs
    }
}

fn put_nop_in(bhs: &mut Bhs, nop: &NopIn) {
    bhs[0] = opcode::NOP_IN;
    bhs[8..16].copy_from_slice(&nop.lun);
    put32(bhs, 16, nop.itt);
    put32(bhs, 20, nop.ttt);
}

fn put_scsi(bhs: &mut Bhs, response: &ScsiResponse) {
    let (flags, count) = response.residual.fields();
    bhs[0] = opcode::SCSI_RESPONSE;
    bhs[1] |= flags;
    bhs[3] = response.status;
    put32(bhs, 16, response.itt);
    put32(bhs, 36, response.exp_data_sn);
    put32(bhs, 44, count);
}

fn put_data_in(bhs: &mut Bhs, data: &DataIn) {
    bhs[0] = opcode::DATA_IN;
    bhs[1] = u8::from(data.is_final) << 7;
    if let Some((status, residual)) = data.status {
        let (flags, count) = residual.fields();
        bhs[1] |= flags | 0x01;
        bhs[3] = status;
        put32(bhs, 44, count);
    } else {
        put32(bhs, 24, 0);
    }
    put32(bhs, 16, data.itt);
    put32(bhs, 20, NO_TAG);
    put32(bhs, 36, data.data_sn);
    put32(bhs, 40, data.offset);
}

fn put_r2t(bhs: &mut Bhs, r2t: &R2t) {
    bhs[0] = opcode::R2T;
    bhs[8..16].copy_from_slice(&r2t.lun);
    put32(bhs, 16, r2t.itt);
    put32(bhs, 20, r2t.ttt);
    put32(bhs, 36, r2t.r2t_sn);
    put32(bhs, 40, r2t.offset);
    put32(bhs, 44, r2t.len);
}

fn put_login(bhs: &mut Bhs, login: &LoginResponse) {
    bhs[0] = opcode::LOGIN_RESPONSE;
    bhs[1] = u8::from(login.transit) << 7 | login.current_stage << 2;
    if login.transit {
        bhs[1] |= login.next_stage;
    }
    bhs[8..14].copy_from_slice(&login.isid);
    put16(bhs, 14, login.tsih);
    put32(bhs, 16, login.itt);
    put16(bhs, 36, login.status);
}

fn put_async(bhs: &mut Bhs, event: AsyncEvent) {
    let (code, seconds) = match event {
        AsyncEvent::LogoutRequested(seconds) => (1, seconds),
        AsyncEvent::SessionDropped => (3, 0),
    };
    bhs[0] = opcode::ASYNC;
    put32(bhs, 16, NO_TAG);
    bhs[36] = code;
    put16(bhs, 42, seconds);
}
