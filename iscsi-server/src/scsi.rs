//! The SCSI device server: what a CDB means, and what it does to a volume (SPC-4, SBC-3).
//!
//! A transport makes a [`Nexus`] for each session and a [`Target`] for each target. A command goes
//! through in two steps, so that the transport can fetch its data between them:
//!
//! ```text
//! CDB ──Target::plan──▶ Planned { data_out_bytes, … } ── data comes ──Target::execute──▶ Outcome
//!           │                                                │
//!    opcodes ─▶ cdb (pure)              gate: attention, reservations, alua, sanitize
//!                                                            │
//!              inquiry · vpd · mode · luns · report …   io · compare · provisioning · copy
//!                     (pure, bytes)                          └──▶ unit ──▶ BlockDevice
//! ```
//!
//! Tasks and their attributes (ordering, aborting, task set full) are the transport's; what a
//! command does to those of others comes back in [`Outcome::aborts`].

mod alua;
mod attention;
mod capacity;
mod cdb;
mod compare;
mod copy;
mod execute;
mod fields;
mod fuzz;
mod inquiry;
mod io;
mod locks;
mod log;
mod luns;
mod mode;
mod opcodes;
mod provisioning;
mod report;
pub(crate) mod reservations;
mod reserve;
mod sanitize;
mod sense;
mod target;
mod unit;
mod vpd;

#[cfg(test)]
mod tests;

pub use fuzz::fuzz_scsi;
pub(crate) use luns::number as unit_number;
pub(crate) use target::{Planned, Target};
pub(crate) use unit::EndTasks;

use ashlar_reactor::SharedBuffer;

/// Bytes of the longest CDB that is taken.
pub(crate) const CDB_BYTES_MAX: usize = 16;

/// Names a nexus within this process; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NexusId(pub(crate) u64);

/// An initiator port and a target port that talk: an iSCSI session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nexus {
    pub(crate) id: NexusId,
    /// The initiator's iSCSI name.
    pub(crate) initiator: String,
    /// Of the session, by which its port is named: `NAME,i,0xISID`.
    pub(crate) isid: [u8; 6],
    /// The target's iSCSI name.
    pub(crate) target: String,
    /// The target portal group, by which the target's port is named: `NAME,t,0xTPGT`. It is the
    /// relative target port identifier too.
    pub(crate) portal_group: u16,
}

/// SAM-5 section 5.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Status {
    Good = 0x00,
    CheckCondition = 0x02,
    #[expect(dead_code, reason = "there is no cache that PRE-FETCH could fill")]
    ConditionMet = 0x04,
    Busy = 0x08,
    ReservationConflict = 0x18,
    TaskSetFull = 0x28,
    #[expect(
        dead_code,
        reason = "TAS is 0: nothing is told of a task that was aborted"
    )]
    TaskAborted = 0x40,
}

/// Tasks that must have ended, with no effect any more, before the outcome is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Aborts {
    /// Whose tasks on the same logical unit.
    pub(crate) nexuses: Vec<NexusId>,
}

/// What became of a command.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: Status,
    /// Sense data, complete: fixed or descriptor format as the control mode page says.
    pub(crate) sense: Vec<u8>,
    /// What the initiator is to get, whole: the transport cuts it to what was asked for, and tells
    /// the residual.
    pub(crate) data_in: Vec<SharedBuffer>,
    pub(crate) aborts: Aborts,
}
