//! Persistent reservations as the iSCSI server knows them, and as the conductor keeps them.

use ashlar_iscsi_server as iscsi;
use ashlar_proto::InitiatorPort;
use ashlar_proto::api::{
    PersistentReservations, Registration, Reservation, ReservationKey, ReservationType, TargetPort,
};

/// What is kept, as the server knows it.
pub fn known(kept: &PersistentReservations) -> iscsi::Registrations {
    let registrant = |registration: &Registration| iscsi::Registrant {
        initiator: iscsi::InitiatorPort {
            name: registration.initiator.name.as_str().to_owned(),
            isid: registration.initiator.isid,
        },
        target: registration.through.as_ref().map(|port| iscsi::TargetPort {
            name: port.target.as_str().to_owned(),
            portal_group: port.portal_group,
        }),
        key: registration.key.get(),
    };
    let reservation = kept.reservation.and_then(|reservation| {
        Some(iscsi::Reservation {
            kind: iscsi::ReservationType::from_code(reservation.kind.code())?,
            holder: reservation.holder.map(usize::from),
        })
    });
    iscsi::Registrations {
        generation: kept.generation,
        persist: kept.aptpl,
        aborts: kept.aborts,
        registrants: kept.registrations.iter().map(registrant).collect(),
        reservation,
    }
}

/// What the server knows, as it is kept; `None` where a name is none, or a key 0, which the server
/// does not let in.
pub fn kept(known: &iscsi::Registrations) -> Option<PersistentReservations> {
    let reservation = match &known.reservation {
        None => None,
        Some(reservation) => Some(Reservation {
            kind: ReservationType::of(reservation.kind.code())?,
            holder: match reservation.holder {
                None => None,
                Some(holder) => Some(u16::try_from(holder).ok()?),
            },
        }),
    };
    let registrations: Option<Vec<Registration>> = known.registrants.iter().map(one).collect();
    Some(PersistentReservations {
        generation: known.generation,
        registrations: registrations?,
        reservation,
        aptpl: known.persist,
        aborts: known.aborts,
    })
}

fn one(registrant: &iscsi::Registrant) -> Option<Registration> {
    let through = match &registrant.target {
        None => None,
        Some(port) => Some(TargetPort {
            target: port.name.parse().ok()?,
            portal_group: port.portal_group,
        }),
    };
    Some(Registration {
        initiator: InitiatorPort {
            name: registrant.initiator.name.parse().ok()?,
            isid: registrant.initiator.isid,
        },
        through,
        key: ReservationKey::new(registrant.key)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered() -> iscsi::Registrations {
        let registrant = |name: &str, target: Option<u16>| iscsi::Registrant {
            initiator: iscsi::InitiatorPort {
                name: format!("iqn.1994-05.com.redhat:{name}"),
                isid: [0x40, 0, 1, 2, 3, 4],
            },
            target: target.map(|portal_group| iscsi::TargetPort {
                name: "iqn.2026-11.com.example:t".to_owned(),
                portal_group,
            }),
            key: u64::MAX,
        };
        iscsi::Registrations {
            generation: 9,
            persist: true,
            aborts: 3,
            registrants: vec![registrant("a", Some(1)), registrant("b", None)],
            reservation: Some(iscsi::Reservation {
                kind: iscsi::ReservationType::ExclusiveAccessRegistrantsOnly,
                holder: Some(1),
            }),
        }
    }

    #[test]
    fn what_is_kept_is_what_was_known() {
        for code in [1, 3, 5, 6, 7, 8] {
            let mut before = registered();
            before.reservation = Some(iscsi::Reservation {
                kind: iscsi::ReservationType::from_code(code).unwrap(),
                holder: (code < 7).then_some(1),
            });
            let kept = kept(&before).unwrap();
            assert_eq!(kept.check(), Ok(()), "{code}");
            assert_eq!(known(&kept), before, "{code}");
        }
        let none = iscsi::Registrations::default();
        assert_eq!(kept(&none), Some(PersistentReservations::default()));
        assert_eq!(known(&PersistentReservations::default()), none);
    }

    #[test]
    fn what_the_conductor_could_not_keep_is_not_sent() {
        let mut nameless = registered();
        nameless.registrants[0].initiator.name = "a".to_owned();
        assert_eq!(kept(&nameless), None);
        let mut keyless = registered();
        keyless.registrants[0].key = 0;
        assert_eq!(kept(&keyless), None);
    }
}
