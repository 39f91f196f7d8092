//! Persistent reservations: who is first replaces them, and they go with their volume.

use ashlar_proto::api::{
    PersistentReservations, Registration, ReplaceReservations, Reservation, ReservationKey,
    ReservationType, TargetPort,
};

use super::*;
use crate::refusal::{InvalidRequest, ReservationsRefusal};

fn registered(ports: u16) -> PersistentReservations {
    let registration = |portal_group| Registration {
        initiator: "iqn.1994-05.com.redhat:a,i,0x00023d000001".parse().unwrap(),
        through: Some(TargetPort {
            target: "iqn.2026-11.com.example:disks".parse().unwrap(),
            portal_group,
        }),
        key: ReservationKey::new(7).unwrap(),
    };
    PersistentReservations {
        generation: u32::from(ports),
        registrations: (1..=ports).map(registration).collect(),
        reservation: None,
        aborts: 0,
        aptpl: true,
    }
}

fn replace(
    volume: VolumeId,
    seen: u64,
    reservations: PersistentReservations,
) -> ReplaceReservations {
    ReplaceReservations {
        volume,
        seen,
        reservations,
    }
}

#[test]
fn of_two_who_saw_the_same_one_replaces_them() {
    let mut bench = Bench::new();
    let id = bench.ready("a", 3);
    let none = bench.state.reservations_of("a").unwrap();
    assert_eq!((none.volume, none.version), (id, 0));
    assert_eq!(none.reservations, PersistentReservations::default());
    let plan = bench
        .state
        .plan_reservations("a", &replace(id, 0, registered(1)));
    assert_eq!(bench.commit(plan.unwrap()).version, 1);
    let refused = bench
        .state
        .plan_reservations("a", &replace(id, 0, registered(2)))
        .unwrap_err();
    assert!(matches!(
        refused,
        Refusal::Reservations(ReservationsRefusal::Changed {
            seen: 0,
            current: 1,
            ..
        })
    ));
    bench.state = read_back(&bench.state);
    let now = bench.state.reservations_of("a").unwrap();
    assert_eq!((now.version, now.reservations), (1, registered(1)));
    let plan = bench
        .state
        .plan_reservations("a", &replace(id, 1, PersistentReservations::default()));
    assert_eq!(
        bench.commit(plan.unwrap()).version,
        2,
        "none is a change, too"
    );
}

#[test]
fn what_no_device_could_have_is_refused() {
    let mut bench = Bench::new();
    let id = bench.ready("a", 3);
    let mut wrong = registered(1);
    wrong.reservation = Some(Reservation {
        kind: ReservationType::WriteExclusive,
        holder: Some(1),
    });
    let refused = bench.state.plan_reservations("a", &replace(id, 0, wrong));
    assert!(matches!(
        refused,
        Err(Refusal::Invalid(InvalidRequest::Target(_)))
    ));
}

#[test]
fn reservations_go_with_their_volume_and_another_of_its_name_has_none() {
    let mut bench = Bench::new();
    let id = bench.ready("a", 3);
    let plan = bench
        .state
        .plan_reservations("a", &replace(id, 0, registered(1)));
    bench.commit(plan.unwrap());
    let plan = bench.state.plan_delete("a", false).unwrap();
    bench.commit(plan);
    assert!(matches!(
        bench
            .state
            .plan_reservations("a", &replace(id, 1, registered(2))),
        Err(Refusal::Volume(VolumeRefusal::NotReady { .. }))
    ));
    bench.settle();
    assert!(bench.state.reservations.is_empty());
    assert!(read_back(&bench.state).reservations.is_empty());
    bench.ready("a", 3);
    assert_eq!(bench.state.reservations_of("a").unwrap().version, 0);
    assert!(matches!(
        bench
            .state
            .plan_reservations("a", &replace(id, 0, registered(1))),
        Err(Refusal::Volume(VolumeRefusal::OtherVolume { .. }))
    ));
}
