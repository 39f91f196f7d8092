//! A unit that several servers offer: this one has group 1, another one group 2.

use super::bench::*;
use crate::catalog::{Reservations, Versioned};
use crate::scsi::reservations::{
    InitiatorPort, Registrant, Registrations, Reservation, ReservationType,
};
use crate::standing::{ServerPort, Taking, UnitOwner};
use std::rc::Rc;
use std::time::Duration;

const READY: [u8; 6] = [0; 6];
const STANDBY: (u8, u8, u8) = (2, 4, 0x0b);
const STATE_CHANGED: (u8, u8, u8) = (6, 0x2a, 6);
const OTHER: UnitOwner = UnitOwner::Server {
    group: 2,
    alive: true,
};
const OWN: UnitOwner = UnitOwner::Server {
    group: 1,
    alive: true,
};
/// SET TARGET PORT GROUPS: the first one active.
const ACTIVATE: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 1];

/// A bench of one of two servers, where `owner` serves the units in generation 5.
fn bench(owner: UnitOwner) -> Bench {
    let bench = Bench::new(1);
    bench.catalog.generation.set(4);
    bench.catalog.stand(|standing| {
        let port = |group| ServerPort { group, up: true };
        standing.own = 1;
        standing.servers = vec![port(1), port(2)];
        standing.owner = owner;
        standing.generation = 5;
        standing.size_bytes = 16 * MIB;
    });
    bench
}

/// REQUEST SENSE.
const REQUEST_SENSE: [u8; 6] = [3, 0, 0, 0, 252, 0];

async fn settle(host: &Host) {
    while host.send(&READY, &[]).await.sense.get(2) == Some(&6) {}
}

#[test]
fn on_standby_only_what_needs_no_medium_is_done() {
    let bench = bench(OTHER);
    let (host, catalog) = (bench.connect(), Rc::clone(&bench.catalog));
    bench.run(async move {
        settle(&host).await;
        assert_eq!(host.send(&READY, &[]).await.check(), STANDBY);
        assert_eq!(host.read(0, 1).await.check(), STANDBY);
        assert_eq!(host.write(0, &[0; 512]).await.check(), STANDBY);
        host.send(&[0x12, 0, 0, 0, 96, 0], &[]).await.good();
        host.send(&cdb12(0xa0, 0, 0, 64), &[]).await.good();
        host.send(&[0x1a, 0, 0x3f, 0, 255, 0], &[]).await.good();
        let told = host.send(&cdb10(0x25, 0, 0, 0), &[]).await.good();
        assert_eq!(told, [0, 0, 0x7f, 0xff, 0, 0, 2, 0], "as the catalog says");
        let groups = host.send(&cdb12(0xa3, 0x0a, 0, 64), &[]).await.good();
        assert_eq!(groups[4..8], [2, 0x8f, 0, 1]);
        assert_eq!(groups[16..20], [0, 0x8f, 0, 2]);
        assert_eq!(catalog.opened.get(), 0);
    });
}

#[test]
fn an_initiator_moves_the_unit_here() {
    let bench = bench(OTHER);
    let (host, other) = (bench.connect(), bench.connect());
    let catalog = Rc::clone(&bench.catalog);
    bench.run(async move {
        settle(&host).await;
        settle(&other).await;
        host.send(&cdb12(0xa4, 0x0a, 0, 8), &ACTIVATE).await.good();
        assert_eq!(
            catalog.asked.get(),
            1,
            "the other server may let it go first"
        );
        let taking = Taking {
            generation: 5,
            asked: true,
        };
        assert_eq!(*catalog.taken.borrow(), [taking]);
        host.read(0, 1).await.good();
        assert_eq!(other.send(&READY, &[]).await.check(), STATE_CHANGED);
        other.read(0, 1).await.good();
        // Again, it is there already.
        host.send(&cdb12(0xa4, 0x0a, 0, 8), &ACTIVATE).await.good();
        assert_eq!(catalog.taken.borrow().len(), 1);
    });
}

#[test]
fn a_unit_that_is_let_go_is_not_taken() {
    let bench = bench(OTHER);
    let (host, catalog) = (bench.connect(), Rc::clone(&bench.catalog));
    let letting_go = Rc::clone(&catalog);
    let reactor = bench.reactor.clone();
    bench.run(async move {
        settle(&host).await;
        let later = reactor.clone();
        drop(reactor.spawn(async move {
            later.sleep(Duration::from_millis(100)).await;
            letting_go.stand(|standing| standing.owner = UnitOwner::Nobody);
        }));
        host.send(&cdb12(0xa4, 0x0a, 0, 8), &ACTIVATE).await.good();
        assert_eq!((catalog.taken.borrow().len(), catalog.opened.get()), (0, 1));
    });
}

#[test]
fn a_unit_is_taken_without_being_asked_for_only_from_a_server_that_is_gone() {
    let bench = bench(OTHER);
    let (host, catalog) = (bench.connect(), Rc::clone(&bench.catalog));
    let reactor = bench.reactor.clone();
    bench.run(async move {
        settle(&host).await;
        assert_eq!(host.read(0, 1).await.check(), STANDBY);
        catalog.stand(|standing| {
            standing.servers[1].up = false;
            standing.owner = UnitOwner::Server {
                group: 2,
                alive: false,
            };
        });
        reactor.sleep(Duration::from_millis(1)).await;
        settle(&host).await;
        host.read(0, 1).await.good();
        let taken = catalog.taken.borrow();
        assert_eq!((taken[0].generation, taken[0].asked), (5, false));
    });
}

#[test]
fn a_unit_that_another_server_has_taken_is_let_go_and_nexuses_are_told() {
    let bench = bench(UnitOwner::Nobody);
    let (host, catalog) = (bench.connect(), Rc::clone(&bench.catalog));
    let reactor = bench.reactor.clone();
    bench.run(async move {
        settle(&host).await;
        host.read(0, 1).await.good();
        catalog.stand(|standing| standing.owner = OWN);
        host.read(0, 1).await.good();
        catalog.stand(|standing| (standing.owner, standing.generation) = (OTHER, 6));
        reactor.sleep(Duration::from_millis(1)).await;
        assert_eq!(host.read(0, 1).await.check(), STATE_CHANGED);
        assert_eq!(host.read(0, 1).await.check(), STANDBY);
        // The other one is asked to let it go, and does: it is served here again.
        catalog.stand(|standing| {
            (standing.owner, standing.generation) = (UnitOwner::Nobody, 6);
            standing.wanted_by = Some(1);
        });
        reactor.sleep(Duration::from_millis(1)).await;
        assert_eq!(host.read(0, 1).await.check(), STATE_CHANGED);
        host.read(0, 1).await.good();
    });
}

#[test]
fn a_unit_that_another_server_is_to_have_is_let_go() {
    let bench = bench(UnitOwner::Nobody);
    let (host, catalog) = (bench.connect(), Rc::clone(&bench.catalog));
    let reactor = bench.reactor.clone();
    bench.run(async move {
        settle(&host).await;
        host.read(0, 1).await.good();
        catalog.stand(|standing| {
            (standing.owner, standing.wanted_by) = (OWN, Some(2));
        });
        reactor.sleep(Duration::from_millis(1)).await;
        settle(&host).await;
        assert_eq!(host.read(0, 1).await.check(), STANDBY);
        assert_eq!(catalog.opened.get(), 1);
    });
}

/// PERSISTENT RESERVE OUT, REGISTER.
async fn register(host: &Host, key: u64) -> Got {
    let mut list = vec![0; 8];
    list.extend(key.to_be_bytes());
    list.extend([0; 8]);
    host.send(&[0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0], &list).await
}

#[test]
fn a_change_of_reservations_is_answered_once_who_serves_the_unit_goes_by_it() {
    let bench = bench(OTHER);
    let (host, catalog) = (bench.connect(), Rc::clone(&bench.catalog));
    bench.run(async move {
        settle(&host).await;
        register(&host, 7).await.good();
        assert_eq!(
            catalog.opened.get(),
            0,
            "the other server says that it does"
        );
        catalog.confirms.set(false);
        host.send(&[0x5f, 1, 5, 0, 0, 0, 0, 0, 24, 0], &{
            let mut list = 7_u64.to_be_bytes().to_vec();
            list.extend([0; 16]);
            list
        })
        .await
        .good();
        assert_eq!(
            catalog.taken.borrow().len(),
            1,
            "it says nothing: its unit is taken"
        );
        assert!(catalog.confirmed.borrow().contains(&(4, 2)));
    });
}

/// The next version of reservations: another initiator alone may write.
fn of_another() -> Reservations {
    let registrant = Registrant {
        initiator: InitiatorPort {
            name: "iqn.other".into(),
            isid: [0; 6],
        },
        target: None,
        key: 9,
    };
    let value = Registrations {
        registrants: vec![registrant],
        reservation: Some(Reservation {
            kind: ReservationType::WriteExclusive,
            holder: Some(0),
        }),
        ..Registrations::default()
    };
    Versioned { version: 2, value }
}

#[test]
fn a_change_that_another_server_made_is_told_and_confirmed() {
    let bench = bench(UnitOwner::Nobody);
    let (host, catalog) = (bench.connect(), Rc::clone(&bench.catalog));
    let reactor = bench.reactor.clone();
    bench.run(async move {
        settle(&host).await;
        host.write(0, &[1; 512]).await.good();
        register(&host, 7).await.good();
        // Preempted, through the other server.
        let changed = of_another();
        catalog.kept.borrow_mut().insert(0x1000, changed);
        catalog.stand(|standing| standing.reservations = 2);
        reactor.sleep(Duration::from_millis(1)).await;
        assert!(catalog.confirmed.borrow().contains(&(4, 2)));
        assert_eq!(host.write(0, &[2; 512]).await.check(), (6, 0x2a, 5));
        host.write(0, &[2; 512]).await.conflict();
    });
}

/// While the owner served the unit it let somebody shut this host out, which nobody here has heard of yet.
#[test]
fn who_comes_to_serve_a_unit_decides_nothing_by_old_reservations() {
    let bench = bench(OTHER);
    let (host, second) = (Rc::new(bench.connect()), bench.connect());
    let catalog = Rc::clone(&bench.catalog);
    let reactor = bench.reactor.clone();
    bench.run(async move {
        settle(&host).await;
        settle(&second).await;
        register(&host, 7).await.good();
        let changed = of_another();
        catalog.kept.borrow_mut().insert(0x1000, changed);
        catalog.holds_back.set(true);
        catalog.stand(|standing| standing.owner = UnitOwner::Nobody);
        reactor.sleep(Duration::from_millis(1)).await;
        // Taken without a command that needs the device.
        for nexus in [&*host, &second] {
            while nexus.send(&REQUEST_SENSE, &[]).await.data.get(2) == Some(&6) {}
        }
        let first = Rc::clone(&host);
        let writing = reactor.spawn(async move {
            first.write(0, &[1; 512]).await;
        });
        reactor.sleep(Duration::from_millis(1)).await;
        // The device is open by now, but what goes with it is not known.
        let late = catalog.clone();
        let handle = reactor.clone();
        drop(reactor.spawn(async move {
            handle.sleep(Duration::from_millis(5)).await;
            late.holds_back.set(false);
            late.changed.notify_all();
        }));
        second.write(0, &[2; 512]).await.conflict();
        writing.await;
        host.write(0, &[3; 512]).await;
        host.write(0, &[3; 512]).await.conflict();
    });
}
