//! What a nexus may do under the reservation (SPC-4 section 5.13.1, table 65).

use super::state::Registrations;
use crate::scsi::Nexus;

/// What a nexus may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permits {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

impl Permits {
    pub(crate) const ALL: Self = Self {
        read: true,
        write: true,
    };
}

/// What this nexus may do.
pub(crate) fn permits(registrations: &Registrations, nexus: &Nexus) -> Permits {
    let Some(reservation) = &registrations.reservation else {
        return Permits::ALL;
    };
    let favoured = registrations.position(nexus).is_some_and(|position| {
        reservation.kind.favours_registrants() || registrations.holds(position)
    });
    if favoured {
        return Permits::ALL;
    }
    Permits {
        read: !reservation.kind.is_exclusive_access(),
        write: false,
    }
}
