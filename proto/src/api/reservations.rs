//! Persistent reservations of a volume (SPC-4 section 5.13), as they are kept for the front ends
//! that serve it.
//!
//! The conductor keeps them and says who was first; what they mean is the front ends' to know.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::VolumeId;
use crate::iscsi::{InitiatorPort, IscsiName};
use crate::limits::REGISTRATIONS_MAX;

/// The key of a registration: 16 hexadecimal digits; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReservationKey(u64);

impl ReservationKey {
    /// The key of that number, if it is one.
    #[must_use]
    pub const fn new(raw: u64) -> Option<Self> {
        if raw == 0 { None } else { Some(Self(raw)) }
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// The text was no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a reservation key is 16 hexadecimal digits, not all of them 0")]
pub struct ParseKeyError;

impl FromStr for ReservationKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        let hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let raw = u64::from_str_radix(text, 16).map_err(|_| ParseKeyError)?;
        Self::new(raw).filter(|_| hex).ok_or(ParseKeyError)
    }
}

impl fmt::Display for ReservationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for ReservationKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ReservationKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A port of a target.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TargetPort {
    /// The target.
    pub target: IscsiName,
    /// The tag of the portal group, which is the relative identifier of the port, too.
    pub portal_group: u16,
}

/// An initiator port that is registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// The initiator port: what its `TransportID` names (SPC-4 section 7.6.4.6).
    pub initiator: InitiatorPort,
    /// The port that it is registered with; all of them, if not given (`ALL_TG_PT`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<TargetPort>,
    /// Its key.
    pub key: ReservationKey,
}

/// What others than the holder are kept from (SPC-4 table 66).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ReservationType {
    /// Code 1: writing.
    WriteExclusive,
    /// Code 3: reading and writing.
    ExclusiveAccess,
    /// Code 5: writing, unless they are registered.
    WriteExclusiveRegistrantsOnly,
    /// Code 6: reading and writing, unless they are registered.
    ExclusiveAccessRegistrantsOnly,
    /// Code 7: writing; all that are registered hold it.
    WriteExclusiveAllRegistrants,
    /// Code 8: reading and writing; all that are registered hold it.
    ExclusiveAccessAllRegistrants,
}

impl ReservationType {
    /// The code of the standard.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::WriteExclusive => 1,
            Self::ExclusiveAccess => 3,
            Self::WriteExclusiveRegistrantsOnly => 5,
            Self::ExclusiveAccessRegistrantsOnly => 6,
            Self::WriteExclusiveAllRegistrants => 7,
            Self::ExclusiveAccessAllRegistrants => 8,
        }
    }

    /// The type of a code, if there is one.
    #[must_use]
    pub const fn of(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::WriteExclusive),
            3 => Some(Self::ExclusiveAccess),
            5 => Some(Self::WriteExclusiveRegistrantsOnly),
            6 => Some(Self::ExclusiveAccessRegistrantsOnly),
            7 => Some(Self::WriteExclusiveAllRegistrants),
            8 => Some(Self::ExclusiveAccessAllRegistrants),
            _ => None,
        }
    }

    /// Whether all that are registered hold it.
    #[must_use]
    pub const fn is_of_all(self) -> bool {
        matches!(
            self,
            Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants
        )
    }
}

/// The reservation, of the whole logical unit (scope `LU_SCOPE`, the only one there is).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: ReservationType,
    /// Who holds it: the place in the list of registrations; none where all of them do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<u16>,
}

/// Who is registered with a logical unit, and who has it reserved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PersistentReservations {
    /// `PRGENERATION`: counts the changes that SPC-4 section 5.13.5 says it counts, and wraps.
    pub generation: u32,
    /// Who is registered; no port of an initiator twice with the same port of a target.
    pub registrations: Vec<Registration>,
    /// The reservation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation: Option<Reservation>,
    /// Counts the changes that end the tasks of those whom they take a registration from (PREEMPT AND
    /// ABORT).
    #[serde(default, skip_serializing_if = "super::is_no_count")]
    pub aborts: u64,
    /// Whether the last registration asked for all this to outlive a loss of power (`APTPL`).
    pub aptpl: bool,
}

/// Reservations are not possible as given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReservationsError {
    /// Too many are registered.
    #[error("more than {REGISTRATIONS_MAX} registrations")]
    TooMany,
    /// A nexus is registered twice.
    #[error("an initiator port is registered twice with the same port of a target")]
    Twice,
    /// Nobody, or not just one, holds the reservation.
    #[error("a reservation is held by one that is registered, or, by its type, by all of them")]
    Holder,
}

impl PersistentReservations {
    /// Whether they are possible.
    ///
    /// # Errors
    /// [`ReservationsError`].
    pub fn check(&self) -> Result<(), ReservationsError> {
        if self.registrations.len() > REGISTRATIONS_MAX {
            return Err(ReservationsError::TooMany);
        }
        let nexuses = self.registrations.iter();
        let mut nexuses: Vec<_> = nexuses.map(|r| (&r.initiator, &r.through)).collect();
        nexuses.sort_unstable();
        if nexuses.windows(2).any(|two| two[0] == two[1]) {
            return Err(ReservationsError::Twice);
        }
        let count = self.registrations.len();
        let is_held = self.reservation.is_none_or(|reservation| {
            let of_all = reservation.kind.is_of_all();
            match reservation.holder {
                Some(holder) => !of_all && usize::from(holder) < count,
                None => of_all && count > 0,
            }
        });
        if is_held {
            Ok(())
        } else {
            Err(ReservationsError::Holder)
        }
    }
}

/// `GET /v1/volumes/{name}/reservations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VolumeReservations {
    /// The volume.
    pub volume: VolumeId,
    /// Counts their changes; 0 where they were never changed.
    pub version: u64,
    /// The reservations.
    pub reservations: PersistentReservations,
}

/// `PUT /v1/volumes/{name}/reservations`: replaces them, if the name is still that of the volume and
/// they are of that version. The answer has the new version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReplaceReservations {
    /// The volume.
    pub volume: VolumeId,
    /// The version that was seen.
    pub seen: u64,
    /// What they are to be.
    pub reservations: PersistentReservations,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration(initiator: &str, portal_group: u16) -> Registration {
        let port = format!("iqn.1994-05.com.redhat:{initiator},i,0x00023d000001");
        Registration {
            initiator: port.parse().unwrap(),
            through: Some(TargetPort {
                target: "iqn.2026-11.io.ashlar:a".parse().unwrap(),
                portal_group,
            }),
            key: ReservationKey::new(0xabc).unwrap(),
        }
    }

    fn held(kind: ReservationType, holder: Option<u16>) -> PersistentReservations {
        PersistentReservations {
            generation: 1,
            registrations: vec![registration("a", 1), registration("b", 1)],
            reservation: Some(Reservation { kind, holder }),
            aborts: 0,
            aptpl: true,
        }
    }

    #[test]
    fn a_reservation_is_held_by_one_or_by_all_as_its_type_says() {
        use ReservationType as T;
        assert_eq!(held(T::WriteExclusive, Some(1)).check(), Ok(()));
        assert_eq!(held(T::ExclusiveAccessAllRegistrants, None).check(), Ok(()));
        for (kind, holder) in [
            (T::WriteExclusive, None),
            (T::WriteExclusive, Some(2)),
            (T::WriteExclusiveAllRegistrants, Some(0)),
        ] {
            let wrong = held(kind, holder).check();
            assert_eq!(wrong, Err(ReservationsError::Holder), "{kind:?} {holder:?}");
        }
        let mut of_nobody = held(T::WriteExclusiveAllRegistrants, None);
        of_nobody.registrations.clear();
        assert_eq!(of_nobody.check(), Err(ReservationsError::Holder));
        assert_eq!(PersistentReservations::default().check(), Ok(()));
    }

    #[test]
    fn nobody_is_registered_twice_with_one_port() {
        let mut all = held(ReservationType::WriteExclusive, Some(0));
        all.registrations.push(registration("a", 2));
        assert_eq!(all.check(), Ok(()));
        all.registrations.push(registration("b", 1));
        assert_eq!(all.check(), Err(ReservationsError::Twice));
        let one = registration("a", 1);
        all.registrations = vec![one; REGISTRATIONS_MAX + 1];
        assert_eq!(all.check(), Err(ReservationsError::TooMany));
    }

    #[test]
    fn codes_are_those_of_the_standard() {
        for code in 0..=u8::MAX {
            let kind = ReservationType::of(code);
            assert_eq!(kind.is_some(), matches!(code, 1 | 3 | 5..=8), "{code}");
            assert!(kind.is_none_or(|kind| kind.code() == code));
        }
    }

    #[test]
    fn keys_are_digits_so_that_no_reader_of_json_rounds_them() {
        let text = r#""ffffffffffffffff""#;
        let key: ReservationKey = serde_json::from_str(text).unwrap();
        assert_eq!(key.get(), u64::MAX);
        assert_eq!(serde_json::to_string(&key).unwrap(), text);
        for text in [
            r#""0000000000000000""#,
            r#""1""#,
            r#""+fffffffffffffff""#,
            "1",
        ] {
            assert!(
                serde_json::from_str::<ReservationKey>(text).is_err(),
                "{text}"
            );
        }
    }
}
