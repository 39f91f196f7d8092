//! A logical unit: its device, and what nexuses have made of it.
//!
//! Invariants:
//!
//! - The device is opened by the first command that needs it, kept while there is a nexus, and
//!   opened again after it was fenced or detached; what is in flight keeps its own handle.
//! - The reservations that decide conflicts are those last read from or written to the catalog.
//!   They are read anew with each opening, and when another server has changed them.
//! - A version of them is confirmed to others once nothing that came by an earlier one has any effect
//!   that it does not allow.

mod service;

use super::alua::{AccessState, StateCause};
use super::attention::Attentions;
use super::copy::Copies;
use super::locks::RangeLocks;
use super::mode::ModeState;
use super::reservations::{Permits, permits, told_elsewhere};
use super::sense::{Code, Key, Refusal, Sense, code};
use super::{Nexus, NexusId};
use crate::catalog::{Reservations, ReservationsError, TargetCatalog, UnitInfo};
use crate::standing::Standing;
use ashlar_client::{BlockDevice, BlockError};
use ashlar_reactor::Reactor;
use ashlar_reactor::channel::{Notify, Semaphore};
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::time::Duration;
use tracing::{info, warn};

/// How long who says that it goes by new reservations waits for tasks that end.
const ENDING_MAX: Duration = Duration::from_secs(2);

/// Ends tasks on a logical unit.
pub(crate) trait EndTasks {
    /// Ends the tasks of these nexuses; on return none of them has any effect any more.
    fn end_tasks(&self, lun: u16, nexuses: Vec<NexusId>) -> Pin<Box<dyn Future<Output = ()>>>;
}

/// What a unit knows of a nexus.
struct Seat {
    nexus: Nexus,
    attentions: Attentions,
    permits: Permits,
}

/// A logical unit.
pub(crate) struct Unit<C: TargetCatalog> {
    pub(crate) reactor: Reactor,
    pub(crate) catalog: Rc<C>,
    info: RefCell<UnitInfo>,
    device: RefCell<Option<C::Device>>,
    opening: Semaphore,
    /// How it stands among servers; none: not known yet.
    standing: RefCell<Option<Standing>>,
    /// Told when something is new of that.
    heard: Notify,
    /// The state that nexuses know of, and how it came about.
    told: Cell<Option<AccessState>>,
    cause: Cell<StateCause>,
    /// Who ends tasks that another server has preempted.
    ender: RefCell<Option<Rc<dyn EndTasks>>>,
    /// How many times tasks are being ended, and who is told when they have ended.
    ending: Cell<usize>,
    ended: Notify,
    me: Weak<Self>,
    /// The capacity that initiators were told; 0: none yet.
    blocks_told: Cell<u64>,
    pub(crate) mode: Cell<ModeState>,
    seats: RefCell<Vec<Seat>>,
    /// Who holds a reservation by RESERVE.
    pub(crate) reserved_by: Cell<Option<NexusId>>,
    /// None: not read yet.
    reservations: RefCell<Option<Reservations>>,
    /// Held by who changes the reservations.
    pub(crate) changing: Semaphore,
    pub(crate) locks: Rc<RangeLocks>,
    pub(crate) copies: RefCell<Copies>,
    /// How far a sanitize operation has come, of 65536; none: none is under way.
    pub(crate) sanitizing: Cell<Option<u16>>,
}

impl<C: TargetCatalog> Unit<C> {
    pub(crate) fn new(reactor: &Reactor, catalog: &Rc<C>, info: &UnitInfo) -> Rc<Self> {
        let unit = Rc::new_cyclic(|me| Self {
            reactor: reactor.clone(),
            catalog: Rc::clone(catalog),
            info: RefCell::new(info.clone()),
            device: RefCell::default(),
            opening: Semaphore::new(1),
            standing: RefCell::default(),
            heard: Notify::new(),
            told: Cell::new(None),
            cause: Cell::default(),
            ender: RefCell::default(),
            ending: Cell::new(0),
            ended: Notify::new(),
            me: Weak::clone(me),
            blocks_told: Cell::new(0),
            mode: Cell::default(),
            seats: RefCell::default(),
            reserved_by: Cell::new(None),
            reservations: RefCell::default(),
            changing: Semaphore::new(1),
            locks: Rc::default(),
            copies: RefCell::default(),
            sanitizing: Cell::new(None),
        });
        unit.follow();
        unit
    }

    /// Who is to end tasks that another server has preempted.
    pub(crate) fn set_ender(&self, ender: Option<Rc<dyn EndTasks>>) {
        *self.ender.borrow_mut() = ender;
    }

    pub(crate) fn id(&self) -> u128 {
        self.info.borrow().id
    }

    pub(crate) fn info(&self) -> UnitInfo {
        self.info.borrow().clone()
    }

    /// Takes over what may change of a unit without its being another one.
    pub(crate) fn set_read_only(&self, read_only: bool) {
        self.info.borrow_mut().read_only = read_only;
    }

    // Nexuses and their unit attentions.

    /// A new nexus, with the attention that tells it so.
    pub(crate) fn connect(&self, nexus: &Nexus) {
        let mut attentions = Attentions::default();
        attentions.raise(code::POWER_ON_OR_RESET);
        let known = self.reservations.borrow();
        let permits = known
            .as_ref()
            .map_or(Permits::ALL, |known| permits(&known.value, nexus));
        self.seats.borrow_mut().push(Seat {
            nexus: nexus.clone(),
            attentions,
            permits,
        });
    }

    /// I_T nexus loss.
    pub(crate) fn disconnect(&self, nexus: NexusId) {
        let mut seats = self.seats.borrow_mut();
        seats.retain(|seat| seat.nexus.id != nexus);
        if self.reserved_by.get() == Some(nexus) {
            self.reserved_by.set(None);
        }
        self.copies.borrow_mut().forget(nexus);
        if seats.is_empty() {
            drop(seats);
            self.close();
        }
    }

    pub(crate) fn nexuses(&self) -> Vec<Nexus> {
        let seats = self.seats.borrow();
        seats.iter().map(|seat| seat.nexus.clone()).collect()
    }

    /// Raises an attention for all nexuses but one.
    pub(crate) fn raise_for_others(&self, by: Option<NexusId>, code: Code) {
        for seat in self.seats.borrow_mut().iter_mut() {
            if Some(seat.nexus.id) != by {
                seat.attentions.raise(code);
            }
        }
    }

    pub(crate) fn raise(&self, nexus: NexusId, code: Code) {
        self.with_seat(nexus, |seat| seat.attentions.raise(code));
    }

    /// The attention to tell this nexus next.
    pub(crate) fn take_attention(&self, nexus: NexusId) -> Option<Sense> {
        self.with_seat(nexus, |seat| {
            if seat.attentions.is_empty() {
                None
            } else {
                seat.attentions.take()
            }
        })?
    }

    pub(crate) fn clear_attention(&self, nexus: NexusId, code: Code) {
        self.with_seat(nexus, |seat| seat.attentions.clear(code));
    }

    fn with_seat<T>(&self, nexus: NexusId, use_it: impl FnOnce(&mut Seat) -> T) -> Option<T> {
        let mut seats = self.seats.borrow_mut();
        let seat = seats.iter_mut().find(|seat| seat.nexus.id == nexus);
        seat.map(use_it)
    }

    /// Logical unit reset: what was set is as it was at first, and every nexus is told, the one
    /// that asked for it too (SAM-5 section 6.3.3).
    pub(crate) fn reset(&self, by: NexusId) {
        let info = self.info.borrow();
        info!(volume = %info.volume, nexus = by.0, "logical unit reset");
        self.reserved_by.set(None);
        self.mode.set(ModeState::default());
        self.raise_for_others(None, code::BUS_DEVICE_RESET);
    }

    // Reservations.

    /// What a nexus may do under the persistent reservation.
    pub(crate) async fn permits(&self, nexus: &Nexus) -> Result<Permits, Refusal> {
        if self.reservations.borrow().is_none() {
            self.load_reservations().await?;
        }
        let held = self.with_seat(nexus.id, |seat| seat.permits);
        Ok(held.unwrap_or(Permits::ALL))
    }

    /// The reservations as they are known, read first where they are not.
    pub(crate) async fn reservations(&self) -> Result<Reservations, Refusal> {
        if let Some(known) = &*self.reservations.borrow() {
            return Ok(known.clone());
        }
        self.load_reservations().await
    }

    pub(crate) async fn load_reservations(&self) -> Result<Reservations, Refusal> {
        let read = self.catalog.reservations(self.id()).await;
        let read = read.map_err(|_| Refusal::Busy)?;
        self.take_over_reservations(&read);
        // Those that are known may be newer by now.
        Ok(self.reservations.borrow().clone().unwrap_or(read))
    }

    /// They were changed elsewhere: they are read before anything is decided by them.
    pub(crate) fn forget_reservations(&self) {
        self.reservations.take();
    }

    /// Goes by what others have made of the reservations: nexuses are told, tasks end, and then whoever
    /// waits for that hears of it. What ends may be who asks: nobody waits for it here.
    fn take_over_reservations(&self, read: &Reservations) {
        let before = self.reservations.borrow().clone();
        let nexuses = self.nexuses();
        let effects = before
            .filter(|before| before.version < read.version)
            .map(|before| {
                let versions = read.version - before.version;
                told_elsewhere(&before.value, &read.value, versions, &nexuses)
            })
            .unwrap_or_default();
        self.set_reservations(read.clone());
        for &(nexus, code) in &effects.attentions {
            self.raise(nexus, code);
        }
        let Some(unit) = self.me.upgrade() else {
            return;
        };
        let (version, lun) = (read.version, self.info.borrow().lun);
        self.ending.set(self.ending.get() + 1);
        let settle = async move {
            let ender = unit.ender.borrow().clone();
            if let Some(ender) = ender.filter(|_| !effects.aborts.is_empty()) {
                ender.end_tasks(lun, effects.aborts).await;
            }
            unit.ending.set(unit.ending.get() - 1);
            unit.ended.notify_all();
            // Whoever waits for it in vain takes the volume.
            let _ = unit.confirm_reservations(version).await;
        };
        drop(self.reactor.spawn(settle));
    }

    /// Says that a version is gone by, where this server serves the unit. Whether it does.
    ///
    /// # Errors
    /// BUSY: that could not be said.
    pub(crate) async fn confirm_reservations(&self, version: u64) -> Result<bool, Refusal> {
        if version == 0 {
            // As they always are at first: nobody waits for that.
            return Ok(self.device.borrow().is_some());
        }
        let ended = async {
            while self.ending.get() > 0 {
                self.ended.notified().await;
            }
        };
        // One of those that end may be who waits.
        let ended = self.reactor.timeout(ENDING_MAX, ended).await;
        ended.map_err(|_| Refusal::Busy)?;
        let device = self.device.borrow().clone();
        let Some(device) = device else {
            return Ok(false);
        };
        let volume = self.info().volume;
        let generation = self.catalog.generation(&device);
        let said = self
            .catalog
            .confirm_reservations(&volume, generation, version);
        match said.await {
            Ok(()) => Ok(true),
            Err(ReservationsError::Conflict) => {
                self.close();
                Ok(false)
            }
            Err(ReservationsError::Unavailable) => Err(Refusal::Busy),
        }
    }

    /// What now decides conflicts. An older version than is known changes nothing.
    pub(crate) fn set_reservations(&self, reservations: Reservations) {
        let mut known = self.reservations.borrow_mut();
        if known
            .as_ref()
            .is_some_and(|known| known.version > reservations.version)
        {
            return;
        }
        for seat in self.seats.borrow_mut().iter_mut() {
            seat.permits = permits(&reservations.value, &seat.nexus);
        }
        *known = Some(reservations);
    }

    // Errors.

    /// Whether writes are refused, by the catalog, the device, or an initiator.
    pub(crate) fn write_protection(&self) -> Option<Sense> {
        let device = self.device.borrow();
        let read_only = device
            .as_ref()
            .is_some_and(|device| device.geometry().read_only);
        if read_only || self.info.borrow().read_only {
            return Some(Sense::new(Key::DataProtect, code::WRITE_PROTECTED));
        }
        let protected = self.mode.get().write_protect;
        protected.then(|| Sense::new(Key::DataProtect, code::SOFTWARE_WRITE_PROTECTED))
    }

    /// What an error of the device is to initiators. One that is lost is opened anew by the next
    /// command.
    pub(crate) fn refusal_of(&self, error: BlockError, writing: bool) -> Refusal {
        let sense = match error {
            BlockError::OutOfRange => Sense::illegal(code::OUT_OF_RANGE),
            BlockError::Unaligned => Sense::illegal(code::INVALID_FIELD_IN_CDB),
            BlockError::ReadOnly => Sense::new(Key::DataProtect, code::WRITE_PROTECTED),
            BlockError::NoSpace => Sense::new(Key::DataProtect, code::SPACE_ALLOCATION_FAILED),
            BlockError::Corrupt if writing => Sense::new(Key::MediumError, code::WRITE_ERROR),
            BlockError::Corrupt => Sense::new(Key::MediumError, code::UNRECOVERED_READ_ERROR),
            BlockError::Unavailable => Sense::not_ready(code::BECOMING_READY),
            BlockError::Fenced | BlockError::Detached => {
                self.close();
                Sense::not_ready(code::STANDBY)
            }
        };
        if matches!(error, BlockError::Corrupt | BlockError::Fenced) {
            warn!(volume = %self.info.borrow().volume, %error, "logical unit failed");
        }
        Refusal::Check(sense)
    }
}
