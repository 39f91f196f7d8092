//! One SCSI command of a session, from its PDU to its answer.
//!
//! ```text
//! Arriving ──▶ Collecting ──▶ Dormant ──▶ Executing ──▶ Settled
//! its turn      memory, data   older ones   device        answered, or not if aborted
//! ```
//!
//! Invariants: an aborted task that is not executing never will; one that is runs to its end, and
//! [`Task::settled`] waits for that; a settled task has no effect any more.

use crate::link::Link;
use crate::pdu::{Attribute, Lun, ScsiCommand};
use crate::scsi::Planned;
use crate::transfer::Transfer;
use ashlar_reactor::channel::Notify;
use ashlar_reactor::{Buffer, PAGE_BYTES};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// How far a task has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Commands before it are missing.
    Arriving,
    /// It waits for memory or for its data.
    Collecting,
    /// It waits for older tasks.
    Dormant,
    /// The device server has it.
    Executing,
    /// It can have no effect any more.
    Settled,
}

/// Why a command is answered without being carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no memory for data that came with it.
    TaskSetFull,
    /// A data segment of it was damaged on its way.
    Damaged,
    /// It has an attribute that it cannot have now.
    Attribute,
    /// Data of it was lost on its way.
    DataLost,
    /// It has data in both directions.
    Bidirectional,
}

impl Refusal {
    /// The sense key and the additional sense code with its qualifier, where there is sense data
    /// (SPC-4 annex F).
    pub(crate) fn sense(self) -> Option<(u8, u8, u8)> {
        match self {
            Self::TaskSetFull => None,
            // ABORTED COMMAND, PROTOCOL SERVICE CRC ERROR: RFC 7143 section 11.4.7.2.
            Self::Damaged => Some((0x0b, 0x47, 0x05)),
            // ABORTED COMMAND, DATA PHASE ERROR.
            Self::DataLost => Some((0x0b, 0x4b, 0x00)),
            // ABORTED COMMAND, INVALID MESSAGE ERROR.
            Self::Attribute => Some((0x0b, 0x49, 0x00)),
            // ILLEGAL REQUEST, INVALID FIELD IN COMMAND INFORMATION UNIT.
            Self::Bidirectional => Some((0x05, 0x0e, 0x03)),
        }
    }
}

/// Bytes of memory that a command takes: what comes and what goes.
fn cost_of(command: &ScsiCommand, planned: &Planned, transfer: &Transfer) -> u64 {
    let reads = if command.reads {
        planned.data_in_bytes
    } else {
        0
    };
    let page = PAGE_BYTES as u64;
    let out = u64::from(transfer.wanted()).next_multiple_of(page);
    reads.saturating_add(page - 1) / page * page + out
}

/// A task.
pub(crate) struct Task {
    pub(crate) itt: u32,
    pub(crate) lun: Lun,
    pub(crate) attribute: Attribute,
    /// It came outside the order of commands.
    pub(crate) immediate: bool,
    pub(crate) reads: bool,
    pub(crate) writes: bool,
    /// Bytes that the initiator has, or has room for.
    pub(crate) expected_bytes: u32,
    /// Bytes that the command takes.
    pub(crate) data_out_bytes: u64,
    /// What it takes of the memory of its connection while it lives.
    pub(crate) cost: Cell<u64>,
    /// The connection that it came by.
    pub(crate) link: Rc<Link>,
    pub(crate) planned: RefCell<Option<Planned>>,
    pub(crate) transfer: RefCell<Transfer>,
    /// What its data goes into, once memory is granted.
    pub(crate) buffer: RefCell<Option<Buffer>>,
    pub(crate) refusal: Cell<Option<Refusal>>,
    /// Its memory and its place are granted.
    pub(crate) admitted: Cell<bool>,
    /// Bytes that the transfer counts are on their way into the buffer.
    pub(crate) receiving: Cell<bool>,
    phase: Cell<Phase>,
    aborted: Cell<bool>,
    /// Its place among the tasks of its session, in the order of their turns.
    sequence: Cell<u64>,
    settling: Notify,
}

impl Task {
    /// One that just came, with what its CDB asks for.
    pub(crate) fn new(
        command: &ScsiCommand,
        immediate: bool,
        planned: Planned,
        transfer: Transfer,
        link: Rc<Link>,
    ) -> Self {
        Self {
            itt: command.itt,
            lun: command.lun,
            attribute: command.attribute,
            immediate,
            reads: command.reads,
            writes: command.writes,
            expected_bytes: command.expected_bytes,
            data_out_bytes: planned.data_out_bytes,
            cost: Cell::new(cost_of(command, &planned, &transfer)),
            link,
            planned: RefCell::new(Some(planned)),
            transfer: RefCell::new(transfer),
            buffer: RefCell::new(None),
            refusal: Cell::new(None),
            admitted: Cell::new(false),
            receiving: Cell::new(false),
            phase: Cell::new(Phase::Arriving),
            aborted: Cell::new(false),
            sequence: Cell::new(u64::MAX),
            settling: Notify::new(),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Goes on to a later phase.
    pub(crate) fn enter(&self, phase: Phase) {
        debug_assert!(phase >= self.phase.get(), "phases do not go back");
        self.phase.set(phase);
        if phase == Phase::Settled {
            self.settling.notify_all();
        }
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.sequence.get()
    }

    pub(crate) fn set_sequence(&self, sequence: u64) {
        self.sequence.set(sequence);
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.aborted.get()
    }

    /// It is not to be answered, and not to begin.
    pub(crate) fn abort(&self) {
        self.aborted.set(true);
        if self.phase.get() < Phase::Executing {
            self.enter(Phase::Settled);
        }
    }

    /// Answers without carrying it out, for the first reason given.
    pub(crate) fn refuse(&self, refusal: Refusal) {
        if self.refusal.get().is_none() {
            self.refusal.set(Some(refusal));
        }
    }

    /// Waits until it can have no effect any more.
    pub(crate) async fn settled(&self) {
        while self.phase.get() == Phase::Executing {
            self.settling.notified().await;
        }
    }

    /// Whether it waits for what only its initiator can send.
    pub(crate) fn waits_for_data(&self) -> bool {
        self.phase.get() <= Phase::Collecting && !self.transfer.borrow().is_settled()
    }
}

/// Ends the execution of a task however it ends.
pub(crate) struct Execution<'a>(&'a Task);

impl<'a> Execution<'a> {
    pub(crate) fn of(task: &'a Task) -> Self {
        Self(task)
    }
}

impl Drop for Execution<'_> {
    fn drop(&mut self) {
        if self.0.phase() == Phase::Executing {
            self.0.enter(Phase::Settled);
        }
    }
}
