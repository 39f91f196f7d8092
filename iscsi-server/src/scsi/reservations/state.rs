//! The registrations of a logical unit, as a plain value.
//!
//! Invariants that [`apply`](super::apply) keeps: a port of an initiator is registered once for a
//! target port; the holder of a reservation is registered; a reservation of all registrants has
//! no holder of its own, and goes with the last of them.

use crate::scsi::Nexus;

/// An initiator port: `NAME,i,0xISID` (RFC 7143 section 4.2.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitiatorPort {
    /// The initiator's iSCSI name.
    pub name: String,
    /// The initiator's part of the session identifier.
    pub isid: [u8; 6],
}

/// A target port: `NAME,t,0xTPGT` (RFC 7143 section 4.2.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetPort {
    /// The target's iSCSI name.
    pub name: String,
    /// The target portal group tag, which is the relative target port identifier too.
    pub portal_group: u16,
}

/// An initiator port that is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registrant {
    /// Who.
    pub initiator: InitiatorPort,
    /// Through which port; none: through any (ALL_TG_PT).
    pub target: Option<TargetPort>,
    /// Its reservation key; not 0.
    pub key: u64,
}

/// What a reservation leaves to others (SPC-4 table 216).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservationType {
    /// Only the holder writes.
    WriteExclusive,
    /// Only the holder reads and writes.
    ExclusiveAccess,
    /// Only registrants write.
    WriteExclusiveRegistrantsOnly,
    /// Only registrants read and write.
    ExclusiveAccessRegistrantsOnly,
    /// Only registrants write, and each of them holds the reservation.
    WriteExclusiveAllRegistrants,
    /// Only registrants read and write, and each of them holds the reservation.
    ExclusiveAccessAllRegistrants,
}

impl ReservationType {
    /// By its code in CDBs and replies.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::WriteExclusive,
            3 => Self::ExclusiveAccess,
            5 => Self::WriteExclusiveRegistrantsOnly,
            6 => Self::ExclusiveAccessRegistrantsOnly,
            7 => Self::WriteExclusiveAllRegistrants,
            8 => Self::ExclusiveAccessAllRegistrants,
            _ => return None,
        })
    }

    /// Its code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::WriteExclusive => 1,
            Self::ExclusiveAccess => 3,
            Self::WriteExclusiveRegistrantsOnly => 5,
            Self::ExclusiveAccessRegistrantsOnly => 6,
            Self::WriteExclusiveAllRegistrants => 7,
            Self::ExclusiveAccessAllRegistrants => 8,
        }
    }

    /// Whether every registrant holds it.
    #[must_use]
    pub fn is_all_registrants(self) -> bool {
        matches!(
            self,
            Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants
        )
    }

    /// Whether registrants who do not hold it may do what it allows to the holder.
    #[must_use]
    pub fn favours_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Whether it keeps others from reading.
    #[must_use]
    pub fn is_exclusive_access(self) -> bool {
        matches!(
            self,
            Self::ExclusiveAccess
                | Self::ExclusiveAccessRegistrantsOnly
                | Self::ExclusiveAccessAllRegistrants
        )
    }
}

/// A reservation of the whole logical unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// What it leaves to others.
    pub kind: ReservationType,
    /// The place of its holder in [`Registrations::registrants`]; none where all registrants
    /// hold it.
    pub holder: Option<usize>,
}

/// The registrations of a logical unit, and its reservation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registrations {
    /// PRGENERATION: how often registrations were changed.
    pub generation: u32,
    /// APTPL: whether they are to outlive a loss of power. They are kept in any case.
    pub persist: bool,
    /// In order of registration.
    pub registrants: Vec<Registrant>,
    /// The reservation, if any.
    pub reservation: Option<Reservation>,
    /// How often the tasks of those ended whom a registration was taken from (PREEMPT AND ABORT).
    pub aborts: u64,
}

impl Registrations {
    /// Where the registration of a nexus is.
    pub(crate) fn position(&self, nexus: &Nexus) -> Option<usize> {
        let mut registrants = self.registrants.iter();
        registrants.position(|registrant| registrant.is(nexus))
    }

    /// Whether the registrant at `position` holds the reservation.
    pub(crate) fn holds(&self, position: usize) -> bool {
        let holder = self.reservation.as_ref().map(|held| held.holder);
        holder.is_some_and(|holder| holder.is_none_or(|holder| holder == position))
    }
}

impl Registrant {
    /// Whether it is the registration of this nexus.
    pub(crate) fn is(&self, nexus: &Nexus) -> bool {
        let through = self.target.as_ref().is_none_or(|target| {
            target.portal_group == nexus.portal_group && target.name == nexus.target
        });
        through && self.initiator.isid == nexus.isid && self.initiator.name == nexus.initiator
    }
}
