//! A logical unit: its device, and what nexuses have made of it.
//!
//! Invariants:
//!
//! - The device is opened by the first command that needs it, kept while there is a nexus, and
//!   opened again after it was fenced or detached; what is in flight keeps its own handle.
//! - The reservations that decide conflicts are those last read from or written to the catalog.
//!   They are read anew with each opening: whoever served the unit meanwhile may have changed them.

use super::attention::Attentions;
use super::capacity::BLOCK_BYTES;
use super::copy::Copies;
use super::locks::RangeLocks;
use super::mode::ModeState;
use super::reservations::{Permits, permits};
use super::sense::{Code, Key, Refusal, Sense, code};
use super::{Nexus, NexusId};
use crate::catalog::{CatalogError, Reservations, TargetCatalog, UnitInfo};
use ashlar_client::{BlockDevice, BlockError, Geometry};
use ashlar_reactor::Reactor;
use ashlar_reactor::channel::Semaphore;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use tracing::{info, warn};

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
        Rc::new(Self {
            reactor: reactor.clone(),
            catalog: Rc::clone(catalog),
            info: RefCell::new(info.clone()),
            device: RefCell::default(),
            opening: Semaphore::new(1),
            blocks_told: Cell::new(0),
            mode: Cell::default(),
            seats: RefCell::default(),
            reserved_by: Cell::new(None),
            reservations: RefCell::default(),
            changing: Semaphore::new(1),
            locks: Rc::default(),
            copies: RefCell::default(),
            sanitizing: Cell::new(None),
        })
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
        self.set_reservations(read.clone());
        Ok(read)
    }

    /// They were changed elsewhere: they are read before anything is decided by them.
    pub(crate) fn forget_reservations(&self) {
        self.reservations.take();
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

    // The device.

    /// Lets the device go.
    pub(crate) fn close(&self) {
        let device = self.device.take();
        drop(device);
    }

    /// A handle on the device, opened where it is not.
    pub(crate) async fn device(&self) -> Result<C::Device, Refusal> {
        if let Some(device) = &*self.device.borrow() {
            return Ok(device.clone());
        }
        let _alone = self.opening.acquire(1).await;
        if let Some(device) = &*self.device.borrow() {
            return Ok(device.clone());
        }
        let volume = self.info.borrow().volume.clone();
        let opened = self.catalog.open(&volume).await;
        let device = opened.map_err(|error| refusal_of_open(&volume, &error))?;
        self.load_reservations().await?;
        if !self.seats.borrow().is_empty() {
            *self.device.borrow_mut() = Some(device.clone());
        }
        Ok(device)
    }

    /// The capacity if it is known.
    pub(crate) fn blocks_known(&self) -> u64 {
        self.blocks_told.get()
    }

    /// The capacity in blocks; tells nexuses when it is not what they were told.
    pub(crate) fn blocks(&self, geometry: &Geometry) -> u64 {
        let blocks = geometry.size_bytes / BLOCK_BYTES;
        let told = self.blocks_told.replace(blocks);
        if told != 0 && told != blocks {
            self.raise_for_others(None, code::CAPACITY_CHANGED);
        }
        blocks
    }

    /// Looks whether the capacity changed, where the device is open.
    pub(crate) fn look_at_capacity(&self) {
        let geometry = self.device.borrow().as_ref().map(BlockDevice::geometry);
        if let Some(geometry) = geometry {
            self.blocks(&geometry);
        }
    }

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

/// Hosts retry what becomes ready, and take another path from one in standby.
fn refusal_of_open(volume: &str, error: &CatalogError) -> Refusal {
    warn!(volume, %error, "logical unit cannot be opened");
    Refusal::Check(match error {
        CatalogError::Unknown => Sense::illegal(code::UNIT_NOT_SUPPORTED),
        CatalogError::InUse => Sense::not_ready(code::STANDBY),
        CatalogError::Unavailable => Sense::not_ready(code::BECOMING_READY),
        CatalogError::Failed(_) => Sense::not_ready(code::NOT_READY),
    })
}
