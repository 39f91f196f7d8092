//! Reserving a logical unit: PERSISTENT RESERVE IN and OUT against the catalog, and RESERVE and
//! RELEASE (SPC-2 sections 7.16 and 7.21), which are this process's own.
//!
//! A change is made in the catalog first, by compare and set: it is durable before its status, and
//! two processes that serve the unit cannot both make one.

use super::execute::{Call, Done};
use super::reservations::{apply, parameters, reports};
use super::sense::Refusal;
use super::target::Answer;
use super::unit::Unit;
use super::{Aborts, Nexus};
use crate::catalog::{Reservations, ReservationsError, TargetCatalog};
use std::rc::Rc;
use tracing::warn;

/// How often a change is tried that others get in the way of.
const TRIES: usize = 8;

impl<C: TargetCatalog> Call<'_, C> {
    /// What the catalog has: a standby path may have made a change meanwhile.
    pub(super) async fn persistent_in(&self, action: u8) -> Result<Vec<u8>, Refusal> {
        let read = self.unit.load_reservations().await?;
        Ok(reports::report(&read.value, action)?)
    }

    /// It goes on to its end even where its task is aborted: what was changed is told to all whom
    /// it concerns.
    pub(super) async fn persistent_out(&self, action: u8, scope_type: u8, list: &[u8]) -> Done {
        let (unit, nexus, list) = (Rc::clone(self.unit), self.nexus.clone(), list.to_vec());
        let change = async move { change(&unit, &nexus, action, scope_type, &list).await };
        self.target.reactor.spawn(change).await
    }

    /// Conflicts with persistent reservations, as CRH 0 says (SPC-4 section 6.15.4).
    pub(super) async fn reserve(&self) -> Done {
        let known = self.unit.reservations().await?;
        if !known.value.registrants.is_empty() {
            return Err(Refusal::Conflict);
        }
        self.unit.reserved_by.set(Some(self.nexus.id));
        Ok(Answer::default())
    }

    /// By another than the holder it does nothing.
    pub(super) fn release(&self) -> Answer {
        if self.unit.reserved_by.get() == Some(self.nexus.id) {
            self.unit.reserved_by.set(None);
        }
        Answer::default()
    }
}

async fn change<C: TargetCatalog>(
    unit: &Unit<C>,
    by: &Nexus,
    action: u8,
    scope_type: u8,
    list: &[u8],
) -> Done {
    let _alone = unit.changing.acquire(1).await;
    let mut before = unit.reservations().await?;
    for _ in 0..TRIES {
        let nexuses = unit.nexuses();
        let asked = parameters::parse(action, scope_type, list, by, &nexuses)?;
        let (value, effects) = apply(&before.value, by, &nexuses, &asked)?;
        if value != before.value {
            let seen = before.version;
            match unit
                .catalog
                .replace_reservations(unit.id(), seen, &value)
                .await
            {
                Ok(version) => unit.set_reservations(Reservations { version, value }),
                Err(ReservationsError::Conflict) => {
                    before = unit.load_reservations().await?;
                    continue;
                }
                Err(ReservationsError::Unavailable) => return Err(Refusal::Busy),
            }
        }
        for &(nexus, code) in &effects.attentions {
            unit.raise(nexus, code);
        }
        await_owner(unit, by).await?;
        return Ok(Answer {
            aborts: Aborts {
                nexuses: effects.aborts,
            },
            ..Answer::default()
        });
    }
    Err(Refusal::Busy)
}

/// Returns once whoever serves the unit goes by the reservations that are known here: nothing that they
/// forbid happens any more. Who does not say so in time loses the unit to this server.
async fn await_owner<C: TargetCatalog>(unit: &Unit<C>, by: &Nexus) -> Result<(), Refusal> {
    let version = unit.reservations().await?.version;
    if version == 0 || unit.confirm_reservations(version).await? {
        return Ok(());
    }
    let volume = unit.info().volume;
    let confirmed = unit.catalog.are_reservations_confirmed(&volume, version);
    if confirmed.await.map_err(|_| Refusal::Busy)? {
        return Ok(());
    }
    warn!(%volume, version, "another server does not go by new reservations: its unit is taken");
    unit.activate(by.id, false).await
}
