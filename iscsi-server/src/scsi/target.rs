//! A SCSI target device: its logical units and its nexuses, and how commands reach them.

use super::cdb::Command;
use super::execute::Call;
use super::fields::Reply;
use super::opcodes::{self, Row};
use super::sense::{Refusal, Sense, code};
use super::unit::{EndTasks, Unit};
use super::{Aborts, Nexus, NexusId, Outcome, Status, inquiry, luns};
use crate::catalog::{TargetCatalog, UnitInfo};
use ashlar_reactor::meters::Operation;
use ashlar_reactor::{Buffer, Reactor, SharedBuffer};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use tracing::info;

/// A command that was looked at, and is to be executed once its data is there.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    /// How much Data-Out it takes.
    pub(crate) data_out_bytes: u64,
    /// The most Data-In it gives: for memory admission.
    pub(crate) data_in_bytes: u64,
    pub(super) lun: [u8; 8],
    pub(super) row: Option<&'static Row>,
    pub(super) command: Result<Command, Sense>,
    /// How much Data-Out the initiator has, if the transport told.
    pub(super) offered_bytes: Option<u64>,
}

impl Planned {
    /// What it counts as, and its bytes of data.
    pub(crate) fn counted(&self) -> (Operation, u64) {
        match &self.command {
            Ok(Command::Read { .. }) => (Operation::Read, self.data_in_bytes),
            Ok(Command::Write { .. } | Command::WriteAndVerify { .. }) => {
                (Operation::Write, self.data_out_bytes)
            }
            Ok(Command::SynchronizeCache { .. }) => (Operation::Flush, 0),
            Ok(Command::Unmap { .. } | Command::WriteSame { .. }) => (Operation::Discard, 0),
            _ => (Operation::Other, 0),
        }
    }

    /// Tells how much Data-Out the initiator offers. A few commands refuse more than they take.
    pub(crate) fn offer(&mut self, bytes: u64) {
        self.offered_bytes = Some(bytes);
    }
}

/// What a command gives that was carried out.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) data_in: Vec<SharedBuffer>,
    pub(super) aborts: Aborts,
}

/// The SCSI target device of one iSCSI target: its logical units as this process serves them,
/// shared by all sessions of that target name.
pub(crate) struct Target<C: TargetCatalog> {
    pub(super) reactor: Reactor,
    catalog: Rc<C>,
    name: String,
    units: RefCell<BTreeMap<u16, Rc<Unit<C>>>>,
    nexuses: RefCell<Vec<Nexus>>,
    ender: RefCell<Option<Rc<dyn EndTasks>>>,
}

impl<C: TargetCatalog> Target<C> {
    /// A target with these units and no nexus.
    pub(crate) fn new(
        reactor: &Reactor,
        catalog: Rc<C>,
        name: &str,
        units: &[UnitInfo],
    ) -> Rc<Self> {
        let made = units.iter().map(|info| {
            let unit = Unit::new(reactor, &catalog, info);
            (info.lun, unit)
        });
        Rc::new(Self {
            reactor: reactor.clone(),
            units: RefCell::new(made.collect()),
            catalog,
            name: name.to_owned(),
            nexuses: RefCell::default(),
            ender: RefCell::default(),
        })
    }

    /// Units may have been mapped, unmapped, or have changed: nexuses are told.
    pub(crate) fn update(&self, units: &[UnitInfo]) {
        let mut before = std::mem::take(&mut *self.units.borrow_mut());
        let mut after = BTreeMap::new();
        let mut luns_changed = false;
        for info in units {
            let kept = before.remove(&info.lun).filter(|unit| {
                let known = unit.info();
                known.id == info.id && known.volume == info.volume
            });
            luns_changed |= kept.is_none();
            let unit = kept.unwrap_or_else(|| {
                let unit = Unit::new(&self.reactor, &self.catalog, info);
                unit.set_ender(self.ender.borrow().clone());
                for nexus in &*self.nexuses.borrow() {
                    unit.connect(nexus);
                }
                unit
            });
            unit.set_read_only(info.read_only);
            unit.look_at_capacity();
            after.insert(info.lun, unit);
        }
        luns_changed |= !before.is_empty();
        for unit in before.values() {
            unit.close();
        }
        if luns_changed {
            info!(target = %self.name, units = after.len(), "logical units changed");
            for unit in after.values() {
                unit.raise_for_others(None, code::LUNS_CHANGED);
            }
        }
        *self.units.borrow_mut() = after;
    }

    /// A new I_T nexus: each unit has to tell it so.
    pub(crate) fn connect(&self, nexus: &Nexus) {
        self.nexuses.borrow_mut().push(nexus.clone());
        for unit in self.units() {
            unit.connect(nexus);
        }
    }

    /// I_T nexus loss: a reservation by RESERVE is released, unit attentions are forgotten;
    /// persistent registrations stay.
    pub(crate) fn disconnect(&self, nexus: NexusId) {
        self.nexuses.borrow_mut().retain(|known| known.id != nexus);
        for unit in self.units() {
            unit.disconnect(nexus);
        }
    }

    /// Logical unit reset. False: there is no such unit.
    pub(crate) fn reset_unit(&self, lun: [u8; 8], by: NexusId) -> bool {
        let unit = self.unit(lun);
        if let Some(unit) = &unit {
            unit.reset(by);
        }
        unit.is_some()
    }

    /// Target warm reset: all units.
    pub(crate) fn reset(&self, by: NexusId) {
        for unit in self.units() {
            unit.reset(by);
        }
    }

    /// The tasks of these nexuses on a unit were aborted by another one.
    pub(crate) fn tasks_cleared(&self, lun: [u8; 8], nexuses: &[NexusId]) {
        if let Some(unit) = self.unit(lun) {
            for &nexus in nexuses {
                unit.raise(nexus, code::COMMANDS_CLEARED);
            }
        }
    }

    /// Who is to end tasks that another server has preempted.
    pub(crate) fn set_ender(&self, ender: &Rc<dyn EndTasks>) {
        *self.ender.borrow_mut() = Some(Rc::clone(ender));
        for unit in self.units() {
            unit.set_ender(Some(Rc::clone(ender)));
        }
    }

    /// What a CDB asks for. Pure and cheap; a wrong CDB gives a plan that will refuse.
    pub(crate) fn plan(&self, lun: [u8; 8], cdb: &[u8]) -> Planned {
        plan(lun, cdb)
    }

    /// Carries a command out. `data_out` has at most as many bytes as were planned.
    pub(crate) async fn execute(
        &self,
        nexus: &Nexus,
        planned: Planned,
        data_out: Option<Buffer>,
    ) -> Outcome {
        let Some(unit) = self.unit(planned.lun) else {
            return self.execute_without_unit(&planned);
        };
        let call = Call {
            target: self,
            unit: &unit,
            nexus,
        };
        let met = call.run(&planned, data_out).await;
        let descriptor = unit.mode.get().descriptor_sense;
        match met {
            Ok(answer) => Outcome {
                status: Status::Good,
                sense: Vec::new(),
                data_in: answer.data_in,
                aborts: answer.aborts,
            },
            Err(refusal) => refused(refusal, descriptor),
        }
    }

    pub(super) fn units(&self) -> Vec<Rc<Unit<C>>> {
        self.units.borrow().values().map(Rc::clone).collect()
    }

    pub(super) fn unit_numbers(&self) -> Vec<u16> {
        self.units.borrow().keys().copied().collect()
    }

    fn unit(&self, lun: [u8; 8]) -> Option<Rc<Unit<C>>> {
        let number = luns::number(lun)?;
        self.units.borrow().get(&number).map(Rc::clone)
    }

    /// What is answered for a unit that there is not (SPC-4 sections 6.6.1, 6.33, 6.39).
    fn execute_without_unit(&self, planned: &Planned) -> Outcome {
        const NONE: Sense = Sense::illegal(code::UNIT_NOT_SUPPORTED);
        let reply = match planned.command {
            Ok(Command::Inquiry { page: None, .. }) => inquiry::standard(false),
            Ok(Command::Inquiry { page: Some(0), .. }) => Reply::new()
                .u8(inquiry::NO_UNIT)
                .zeroes(2)
                .u8(1)
                .u8(0)
                .finish(),
            Ok(Command::RequestSense { descriptor, .. }) => NONE.encode(descriptor),
            Ok(Command::ReportLuns { select, .. }) => {
                luns::report(select, self.unit_numbers().into_iter())
            }
            Ok(_) => return refused(NONE.into(), false),
            Err(sense) => return refused(sense.into(), false),
        };
        let allocation = planned.command.map_or(0, |command| command.allocation());
        Outcome {
            status: Status::Good,
            sense: Vec::new(),
            data_in: self.reply(reply, allocation),
            aborts: Aborts::default(),
        }
    }

    /// A reply, cut to the allocation length.
    pub(super) fn reply(&self, mut bytes: Vec<u8>, allocation: u32) -> Vec<SharedBuffer> {
        bytes.truncate(super::fields::length(allocation));
        if bytes.is_empty() {
            return Vec::new();
        }
        let mut buffer = self.reactor.buffer(bytes.len());
        buffer.copy_from_slice(&bytes);
        vec![buffer.freeze()]
    }
}

/// [`Target::plan`], which needs no target.
pub(super) fn plan(lun: [u8; 8], cdb: &[u8]) -> Planned {
    let row = opcodes::find(cdb);
    let command = row.and_then(|row| row.decode(cdb));
    Planned {
        data_out_bytes: command.map_or(0, |command| command.data_out_bytes()),
        data_in_bytes: command.map_or(0, |command| command.data_in_bytes()),
        lun,
        row: row.ok(),
        command,
        offered_bytes: None,
    }
}

fn refused(refusal: Refusal, descriptor: bool) -> Outcome {
    let (status, sense) = match refusal {
        Refusal::Check(sense) => (Status::CheckCondition, sense.encode(descriptor)),
        Refusal::Conflict => (Status::ReservationConflict, Vec::new()),
        Refusal::Busy => (Status::Busy, Vec::new()),
    };
    Outcome {
        status,
        sense,
        data_in: Vec::new(),
        aborts: Aborts::default(),
    }
}
