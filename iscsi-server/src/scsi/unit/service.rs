//! Who serves a logical unit: its device opened here, taken from another server, or left to it.
//!
//! ```text
//!              a command needs the device         SET TARGET PORT GROUPS
//!  (nobody) ──────────▶ open ◀──────── take ◀──── ask for it, wait ◀── (another server)
//!                        │ fenced, or wanted by another server             ▲
//!                        └─────────────▶ closed: on standby ───────────────┘
//! ```
//!
//! Invariants: a server that is heard loses a unit only where an initiator asked for that; what is taken
//! is taken from the very owner that was seen; a device that another owner has replaced is let go as
//! soon as that is known, and answers nothing as good before.

use super::Unit;
use crate::catalog::{CatalogError, TargetCatalog};
use crate::scsi::NexusId;
use crate::scsi::alua::{self, AccessState, StateCause};
use crate::scsi::capacity::BLOCK_BYTES;
use crate::scsi::sense::{Key, Refusal, Sense, code};
use crate::standing::{Approach, Mark, Standing, Taking, UnitOwner};
use ashlar_client::{BlockDevice, Geometry};
use std::rc::{Rc, Weak};
use std::time::Duration;
use tracing::{info, warn};

/// How long a command waits until it is known who serves the unit.
const STANDING_WAIT: Duration = Duration::from_secs(2);
/// How long a server that is asked to let a unit go is waited for.
const HAND_OVER: Duration = Duration::from_secs(2);
/// How long to wait for news of an owner that was not the one that was known.
const NEWS_WAIT: Duration = Duration::from_secs(1);
/// How often a unit is tried to be taken whose owner changes meanwhile.
const TRIES: usize = 4;

impl<C: TargetCatalog> Unit<C> {
    /// Learns how the unit stands for as long as it is there.
    pub(super) fn follow(self: &Rc<Self>) {
        let (weak, catalog, info) = (Rc::downgrade(self), Rc::clone(&self.catalog), self.info());
        let following = async move {
            let mut after = Mark::default();
            while let Some(standing) = catalog.standing(&info, after).await {
                let Some(unit) = Weak::upgrade(&weak) else {
                    return;
                };
                after = standing.mark;
                unit.learn(standing).await;
            }
        };
        drop(self.reactor.spawn(following));
    }

    async fn learn(&self, standing: Standing) {
        let reservations = standing.reservations;
        let is_replaced = self.device.borrow().as_ref().is_some_and(|device| {
            let is_left = standing.approach() == Approach::Leave;
            is_left && self.catalog.generation(device) <= standing.generation
        });
        if is_replaced {
            info!(volume = %self.info.borrow().volume, "logical unit is left to another server");
            self.close();
        }
        *self.standing.borrow_mut() = Some(standing);
        self.heard.notify_all();
        self.note_state(None, StateCause::Implicit);
        let known = self
            .reservations
            .borrow()
            .as_ref()
            .map(|known| known.version);
        if known.is_some_and(|known| known < reservations) {
            // Where they cannot be read the next command that depends on them reads them.
            if self.load_reservations().await.is_err() {
                self.forget_reservations();
            }
        }
    }

    /// How the unit stands, as far as is known.
    pub(crate) fn standing_known(&self) -> Option<Standing> {
        self.standing.borrow().clone()
    }

    /// How it stands; waits until that is known.
    async fn standing(&self) -> Result<Standing, Refusal> {
        let known = async {
            loop {
                if let Some(standing) = self.standing_known() {
                    return standing;
                }
                self.heard.notified().await;
            }
        };
        let known = self.reactor.timeout(STANDING_WAIT, known).await;
        known.map_err(|_| Sense::not_ready(code::BECOMING_READY).into())
    }

    /// Waits until something else is known of it.
    async fn news(&self, seen: &Standing, wait: Duration) {
        let other = async {
            while self.standing.borrow().as_ref() == Some(seen) {
                self.heard.notified().await;
            }
        };
        let _elapsed = self.reactor.timeout(wait, other).await;
    }

    /// The states of all target port groups.
    pub(crate) fn groups(&self, own: u16) -> Vec<(u16, AccessState)> {
        let standing = self.standing_known().unwrap_or(Standing::alone());
        let serves = self.device.borrow().is_some();
        alua::states(&standing, own, self.id(), serves)
    }

    /// The state of the group of this server.
    pub(crate) fn state(&self) -> AccessState {
        let own = self.standing.borrow().as_ref().map_or(0, |known| known.own);
        let groups = self.groups(own);
        let own = groups.iter().find(|(group, _)| *group == own);
        own.map_or(AccessState::ActiveOptimized, |(_, state)| *state)
    }

    /// Tells nexuses, but for one, if the state is not what they were told. That the unit is served where
    /// it might have been elsewhere changes nothing for those who are here.
    fn note_state(&self, by: Option<NexusId>, cause: StateCause) {
        let state = self.state();
        let told = self.told.replace(Some(state));
        let is_news = |told: AccessState| told != state && !(told.is_active() && state.is_active());
        if told.is_some_and(is_news) {
            self.cause.set(cause);
            self.raise_for_others(by, code::ACCESS_STATE_CHANGED);
        }
    }

    /// How the state came about.
    pub(crate) fn cause(&self) -> StateCause {
        self.cause.get()
    }

    /// What a command that needs the device is refused with at once: another server serves the unit.
    pub(crate) fn standby(&self) -> Option<Sense> {
        if self.device.borrow().is_some() {
            return None;
        }
        let known = self.standing.borrow();
        let is_left = known.as_ref().map(Standing::approach) == Some(Approach::Leave);
        is_left.then(|| Sense::not_ready(code::STANDBY))
    }

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
        let approach = self.standing().await?.approach();
        let opened = self.open(approach).await;
        let device = opened.map_err(|error| refusal_of_open(&self.info().volume, &error))?;
        self.adopt(device, None, StateCause::Implicit).await
    }

    async fn open(&self, approach: Approach) -> Result<C::Device, CatalogError> {
        let volume = self.info.borrow().volume.clone();
        match approach {
            Approach::Open => self.catalog.open(&volume).await,
            Approach::Take(from) => self.catalog.take(&volume, from).await,
            Approach::Leave => Err(CatalogError::InUse),
        }
    }

    /// Serves the unit from now on.
    async fn adopt(
        &self,
        device: C::Device,
        by: Option<NexusId>,
        cause: StateCause,
    ) -> Result<C::Device, Refusal> {
        // Whoever served it before may have changed them, and nothing goes by what was known: no command finds
        // the device before they are read.
        self.load_reservations().await?;
        if !self.seats.borrow().is_empty() {
            *self.device.borrow_mut() = Some(device.clone());
        }
        self.note_state(by, cause);
        Ok(device)
    }

    /// Makes this server the one that serves the unit, for an initiator that asks for it or for what one
    /// asked for.
    pub(crate) async fn activate(&self, by: NexusId, politely: bool) -> Result<(), Refusal> {
        let _alone = self.opening.acquire(1).await;
        for _ in 0..TRIES {
            if self.device.borrow().is_some() {
                return Ok(());
            }
            let mut standing = self.standing().await?;
            if politely && let Some(after) = self.ask_for(&standing).await {
                standing = after;
            }
            let approach = match standing.owner {
                UnitOwner::Server { group, .. } if group != standing.own => {
                    Approach::Take(Taking {
                        generation: standing.generation,
                        asked: true,
                    })
                }
                _ => Approach::Open,
            };
            match self.open(approach).await {
                Ok(device) => {
                    let cause = StateCause::SetTargetPortGroups;
                    self.adopt(device, Some(by), cause).await?;
                    return Ok(());
                }
                Err(CatalogError::InUse) => self.news(&standing, NEWS_WAIT).await,
                Err(error) => return Err(refusal_of_open(&self.info().volume, &error)),
            }
        }
        Err(Sense::new(Key::HardwareError, code::SET_GROUPS_FAILED).into())
    }

    /// Asks another server that is heard to let the unit go, and gives it some time for that. Gives how
    /// the unit then stands.
    async fn ask_for(&self, standing: &Standing) -> Option<Standing> {
        let UnitOwner::Server { group, alive: true } = standing.owner else {
            return None;
        };
        if group == standing.own {
            return None;
        }
        let volume = self.info().volume;
        self.catalog.ask_for(&volume, standing.generation).await;
        let let_go = async {
            loop {
                let known = self
                    .standing_known()
                    .filter(|now| now.owner != standing.owner);
                match known {
                    Some(now) => return now,
                    None => self.heard.notified().await,
                }
            }
        };
        let let_go = self.reactor.timeout(HAND_OVER, let_go).await;
        if let_go.is_err() {
            warn!(%volume, group, "another server does not let the logical unit go: it is taken");
        }
        let_go.ok().or_else(|| self.standing_known())
    }

    /// The capacity in blocks, for those who only want to know: of a unit that another server serves it
    /// is what the catalog says.
    pub(crate) async fn capacity(&self) -> Result<u64, Refusal> {
        if self.standby().is_some() {
            let standing = self.standing().await?;
            return Ok(self.blocks_told_of(standing.size_bytes / BLOCK_BYTES));
        }
        let device = self.device().await?;
        Ok(self.blocks(&device.geometry()))
    }

    /// The capacity if it is known.
    pub(crate) fn blocks_known(&self) -> u64 {
        self.blocks_told.get()
    }

    /// The capacity in blocks; tells nexuses when it is not what they were told.
    pub(crate) fn blocks(&self, geometry: &Geometry) -> u64 {
        self.blocks_told_of(geometry.size_bytes / BLOCK_BYTES)
    }

    fn blocks_told_of(&self, blocks: u64) -> u64 {
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
