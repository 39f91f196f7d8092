//! The SCSI device server: what a CDB means, and what it does to a volume (SPC-4, SBC-3).
//!
//! A transport makes a [`Nexus`] for each session and a [`Target`] for each target. A command goes
//! through in two steps, so that the transport can fetch its data between them:
//!
//! ```text
//! CDB ──Target::plan──▶ Planned { data_out_bytes, … } ── data comes ──Target::execute──▶ Outcome
//! ```
//!
//! Tasks and their attributes (ordering, aborting, task set full) are the transport's; what a
//! command does to those of others comes back in [`Outcome::aborts`].

pub(crate) mod reservations;

use crate::catalog::{TargetCatalog, UnitInfo};
use ashlar_client::{BlockDevice, Durability};
use ashlar_reactor::{Buffer, BufferPool, Reactor, SharedBuffer};
use std::cell::RefCell;
use std::rc::Rc;

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
    ConditionMet = 0x04,
    Busy = 0x08,
    ReservationConflict = 0x18,
    TaskSetFull = 0x28,
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

/// A logical unit and its device, once it was opened.
struct Unit<D> {
    info: UnitInfo,
    device: RefCell<Option<D>>,
}

/// The SCSI target device of one iSCSI target.
pub(crate) struct Target<C: TargetCatalog> {
    catalog: Rc<C>,
    units: RefCell<Vec<Rc<Unit<C::Device>>>>,
}

/// A command that was looked at.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) data_out_bytes: u64,
    pub(crate) data_in_bytes: u64,
    lun: [u8; 8],
    operation: Operation,
}

impl Planned {
    /// Tells how much Data-Out the initiator offers.
    pub(crate) fn offer(&mut self, _: u64) {}
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    TestUnitReady,
    Inquiry { len: usize },
    ReportLuns,
    ReadCapacity,
    Read { block: u64, count: u64 },
    Write { block: u64, count: u64 },
    Unknown,
}

const BLOCK_BYTES: u64 = 512;

impl<C: TargetCatalog> Target<C> {
    pub(crate) fn new(_: &Reactor, catalog: Rc<C>, _: &str, units: &[UnitInfo]) -> Rc<Self> {
        let target = Self {
            catalog,
            units: RefCell::default(),
        };
        target.update(units);
        Rc::new(target)
    }

    pub(crate) fn update(&self, units: &[UnitInfo]) {
        let mut all = self.units.borrow_mut();
        all.retain(|unit| units.contains(&unit.info));
        for info in units {
            if !all.iter().any(|unit| unit.info == *info) {
                let (info, device) = (info.clone(), RefCell::default());
                all.push(Rc::new(Unit { info, device }));
            }
        }
    }

    pub(crate) fn connect(&self, _: &Nexus) {}

    pub(crate) fn disconnect(&self, _: NexusId) {}

    fn unit(&self, lun: [u8; 8]) -> Option<Rc<Unit<C::Device>>> {
        let number = u16::from_be_bytes([lun[0] & 0x3f, lun[1]]);
        let units = self.units.borrow();
        units.iter().find(|unit| unit.info.lun == number).cloned()
    }

    pub(crate) fn plan(&self, lun: [u8; 8], cdb: &[u8]) -> Planned {
        let block = cdb.get(2..6).map_or(0, |bytes| {
            bytes
                .iter()
                .fold(0, |sum, &byte| sum << 8 | u64::from(byte))
        });
        let two = |at: usize| {
            cdb.get(at..at + 2)
                .map_or(0, |two| u64::from(two[0]) << 8 | u64::from(two[1]))
        };
        let (operation, data_in_bytes, data_out_bytes) = match cdb.first() {
            Some(0x00 | 0x35) => (Operation::TestUnitReady, 0, 0),
            Some(0x12) => (
                Operation::Inquiry {
                    len: two(3) as usize,
                },
                36,
                0,
            ),
            Some(0xa0) => (Operation::ReportLuns, 4096, 0),
            Some(0x25) => (Operation::ReadCapacity, 8, 0),
            Some(0x28) => (
                Operation::Read {
                    block,
                    count: two(7),
                },
                two(7) * BLOCK_BYTES,
                0,
            ),
            Some(0x2a) => (
                Operation::Write {
                    block,
                    count: two(7),
                },
                0,
                two(7) * BLOCK_BYTES,
            ),
            _ => (Operation::Unknown, 0, 0),
        };
        Planned {
            data_out_bytes,
            data_in_bytes,
            lun,
            operation,
        }
    }

    async fn device(&self, unit: &Unit<C::Device>) -> Option<C::Device> {
        let open = unit.device.borrow().clone();
        if open.is_some() {
            return open;
        }
        let device = self.catalog.open(&unit.info.volume).await.ok()?;
        *unit.device.borrow_mut() = Some(device.clone());
        Some(device)
    }

    pub(crate) async fn execute(
        &self,
        _: &Nexus,
        planned: Planned,
        data_out: Option<Buffer>,
    ) -> Outcome {
        let Some(unit) = self.unit(planned.lun) else {
            return failed(0x05, 0x25);
        };
        let Some(device) = self.device(&unit).await else {
            return failed(0x02, 0x04);
        };
        match planned.operation {
            Operation::TestUnitReady => good(Vec::new()),
            Operation::Inquiry { len } => {
                let mut data = [0; 36];
                data[2..5].copy_from_slice(&[6, 0x12, 31]);
                data[8..32].copy_from_slice(b"ASHLAR  stand-in        ");
                good(vec![shared(&data[..len.min(36)])])
            }
            Operation::ReportLuns => {
                let units = self.units.borrow();
                let mut data = vec![0; 8 + 8 * units.len()];
                data[3] = u8::try_from(8 * units.len()).unwrap_or(0);
                for (at, unit) in units.iter().enumerate() {
                    data[8 + 8 * at..][..2].copy_from_slice(&unit.info.lun.to_be_bytes());
                }
                good(vec![shared(&data)])
            }
            Operation::ReadCapacity => {
                let last = device.geometry().size_bytes / BLOCK_BYTES - 1;
                let mut data = u32::try_from(last)
                    .unwrap_or(u32::MAX)
                    .to_be_bytes()
                    .to_vec();
                data.extend([0, 0, 2, 0]);
                good(vec![shared(&data)])
            }
            Operation::Read { block, count } => {
                let len = u32::try_from(count * BLOCK_BYTES).unwrap_or(0);
                match device.read(block * BLOCK_BYTES, len).await {
                    Ok(pieces) => good(pieces),
                    Err(_) => failed(0x05, 0x21),
                }
            }
            Operation::Write { block, count } => {
                let Some(data) = data_out.filter(|data| data.len() as u64 == count * BLOCK_BYTES)
                else {
                    return failed(0x05, 0x0e);
                };
                let offset = block * BLOCK_BYTES;
                match device.write(offset, data, Durability::Accepted).await {
                    Ok(()) => good(Vec::new()),
                    Err(_) => failed(0x05, 0x21),
                }
            }
            Operation::Unknown => failed(0x05, 0x20),
        }
    }

    pub(crate) fn reset_unit(&self, lun: [u8; 8], _: NexusId) -> bool {
        self.unit(lun).is_some()
    }

    pub(crate) fn reset(&self, _: NexusId) {}

    pub(crate) fn tasks_cleared(&self, _: [u8; 8], _: &[NexusId]) {}
}

fn shared(bytes: &[u8]) -> SharedBuffer {
    let mut buffer = BufferPool::new().buffer(bytes.len());
    buffer.copy_from_slice(bytes);
    buffer.freeze()
}

fn good(data_in: Vec<SharedBuffer>) -> Outcome {
    Outcome {
        status: Status::Good,
        sense: Vec::new(),
        data_in,
        aborts: Aborts::default(),
    }
}

fn failed(key: u8, code: u8) -> Outcome {
    let mut sense = vec![0; 18];
    (sense[0], sense[2], sense[7], sense[12]) = (0x70, key, 10, code);
    Outcome {
        status: Status::CheckCondition,
        sense,
        ..good(Vec::new())
    }
}
