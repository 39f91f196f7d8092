//! Reservations by the commands, among hosts.

use super::bench::*;
use crate::scsi::Status;

const READY: [u8; 6] = [0; 6];
const TYPES: [u8; 6] = [1, 3, 5, 6, 7, 8];

fn out(action: u8, kind: u8) -> [u8; 10] {
    [0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0]
}

fn keys(key: u64, new: u64) -> Vec<u8> {
    let mut list = key.to_be_bytes().to_vec();
    list.extend(new.to_be_bytes());
    list.extend([0; 8]);
    list
}

fn read_in(action: u8) -> [u8; 10] {
    [0x5e, action, 0, 0, 0, 0, 0, 0x10, 0, 0]
}

async fn register(host: &Host, key: u64) {
    host.send(&out(6, 0), &keys(0, key)).await.good();
}

/// Bytes of a list of keys after the generation.
async fn keys_of(host: &Host) -> (u32, Vec<u64>) {
    let told = host.send(&read_in(0), &[]).await.good();
    let generation = u32::from_be_bytes(told[..4].try_into().unwrap());
    let keys = told[8..].chunks(8);
    let keys = keys.map(|key| u64::from_be_bytes(key.try_into().unwrap()));
    (generation, keys.collect())
}

#[test]
fn keys_are_registered_changed_and_dropped() {
    alone(|host| async move {
        assert_eq!(keys_of(&host).await, (0, vec![]));
        host.send(&out(0, 0), &keys(1, 2)).await.conflict();
        host.send(&out(0, 0), &keys(0, 7)).await.good();
        assert_eq!(keys_of(&host).await, (1, vec![7]));
        host.send(&out(0, 0), &keys(8, 9)).await.conflict();
        host.send(&out(0, 0), &keys(7, 9)).await.good();
        assert_eq!(keys_of(&host).await, (2, vec![9]));
        let cut = host
            .send(&[0x5e, 0, 0, 0, 0, 0, 0, 0, 8, 0], &[])
            .await
            .good();
        assert_eq!(
            cut,
            [0, 0, 0, 2, 0, 0, 0, 8],
            "the length is that of all keys"
        );
        host.send(&out(0, 0), &keys(9, 0)).await.good();
        assert_eq!(keys_of(&host).await, (3, vec![]));
    });
}

#[test]
fn each_type_leaves_others_what_the_standard_says() {
    // Type; registered: reads, writes; not registered: reads, writes.
    let expected = [
        (1, [true, false, true, false]),
        (3, [false, false, false, false]),
        (5, [true, true, true, false]),
        (6, [true, true, false, false]),
        (7, [true, true, true, false]),
        (8, [true, true, false, false]),
    ];
    for (kind, [reads, writes, stranger_reads, stranger_writes]) in expected {
        let bench = Bench::new(1);
        let (holder, other) = (bench.connect(), bench.connect());
        bench.run(async move {
            holder.ready().await;
            other.ready().await;
            register(&holder, 1).await;
            register(&other, 2).await;
            holder.send(&out(1, kind), &keys(1, 0)).await.good();
            let told = holder.send(&read_in(1), &[]).await.good();
            let key = if kind >= 7 { 0 } else { 1 };
            assert_eq!(
                told[4..],
                [
                    &[0, 0, 0, 16][..],
                    &[0; 7],
                    &[key, 0, 0, 0, 0, 0, kind, 0, 0]
                ]
                .concat()
            );
            let may = |got: Got| match got.status {
                Status::Good => true,
                Status::ReservationConflict => false,
                status => panic!("{status:?}"),
            };
            assert!(may(holder.read(0, 1).await) && may(holder.write(0, &[0; 512]).await));
            assert_eq!(may(other.read(0, 1).await), reads, "type {kind}");
            assert_eq!(may(other.write(0, &[0; 512]).await), writes, "type {kind}");
            other.send(&out(0, 0), &keys(2, 0)).await.good();
            assert_eq!(may(other.read(0, 1).await), stranger_reads, "type {kind}");
            assert_eq!(
                may(other.write(0, &[0; 512]).await),
                stranger_writes,
                "type {kind}"
            );
            // What needs no medium goes through.
            other.send(&READY, &[]).await.good();
            other.send(&cdb10(0x25, 0, 0, 0), &[]).await.good();
            other.send(&read_in(3), &[]).await.good();
            other
                .send(&[0x1a, 0, 0x3f, 0, 255, 0], &[])
                .await
                .conflict();
            holder.send(&out(2, kind), &keys(1, 0)).await.good();
            other.write(0, &[0; 512]).await.good();
        });
    }
}

#[test]
fn a_release_is_told_to_registrants_of_types_that_favour_them() {
    for kind in TYPES {
        let bench = Bench::new(1);
        let (holder, other) = (bench.connect(), bench.connect());
        bench.run(async move {
            holder.ready().await;
            other.ready().await;
            register(&holder, 1).await;
            register(&other, 2).await;
            holder.send(&out(1, kind), &keys(1, 0)).await.good();
            let wrong = if kind == 1 { 3 } else { 1 };
            let got = holder.send(&out(2, wrong), &keys(1, 0)).await;
            assert_eq!(got.check(), (5, 0x26, 4), "another type");
            holder.send(&out(2, kind), &keys(1, 0)).await.good();
            let got = other.send(&READY, &[]).await;
            if kind >= 5 {
                assert_eq!(got.check(), (6, 0x2a, 4));
            } else {
                got.good();
            }
        });
    }
}

#[test]
fn preempt_and_abort_takes_over_and_names_whose_tasks_end() {
    let bench = Bench::new(1);
    let (one, other) = (bench.connect(), bench.connect());
    bench.run(async move {
        one.ready().await;
        other.ready().await;
        register(&one, 1).await;
        register(&other, 2).await;
        one.send(&out(1, 3), &keys(1, 0)).await.good();
        other.read(0, 1).await.conflict();
        let got = other.send(&out(5, 3), &keys(2, 1)).await;
        assert_eq!(got.aborts, [one.nexus.id]);
        got.good();
        assert_eq!(one.send(&READY, &[]).await.check(), (6, 0x2a, 5));
        one.read(0, 1).await.conflict();
        other.read(0, 1).await.good();
        assert_eq!(keys_of(&other).await, (3, vec![2]));
        other.send(&out(3, 0), &keys(2, 0)).await.good();
        assert_eq!(keys_of(&other).await, (4, vec![]));
        one.read(0, 1).await.good();
    });
}

#[test]
fn full_status_and_capabilities_are_as_laid_out() {
    alone(|host| async move {
        register(&host, 5).await;
        host.send(&out(1, 5), &keys(5, 0)).await.good();
        let told = host.send(&read_in(3), &[]).await.good();
        let id = b"iqn.host1,i,0x400000000001\0\0";
        let mut expected = vec![0, 0, 0, 1, 0, 0, 0, 56];
        expected.extend([0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 1, 5, 0, 0, 0, 0, 0, 1]);
        expected.extend([0, 0, 0, 32, 0x45, 0, 0, 28]);
        expected.extend(id);
        assert_eq!(told, expected);
        let told = host.send(&read_in(2), &[]).await.good();
        assert_eq!(told, [0, 8, 0x0d, 0x80, 0xea, 1, 0, 0]);
        let mut persist = keys(5, 5);
        persist[20] = 1;
        host.send(&out(0, 0), &persist).await.good();
        let told = host.send(&read_in(2), &[]).await.good();
        assert_eq!(told[3], 0x81, "PTPL_A");
    });
}

#[test]
fn registrations_outlive_the_nexus_and_the_process() {
    let bench = Bench::new(1);
    let (one, other) = (bench.connect(), bench.connect());
    let target = bench.target.clone();
    bench.run(async move {
        one.ready().await;
        other.ready().await;
        register(&one, 1).await;
        one.send(&out(1, 3), &keys(1, 0)).await.good();
        target.disconnect(one.nexus.id);
        other.read(0, 1).await.conflict();
        target.connect(&one.nexus);
        one.ready().await;
        one.read(0, 1).await.good();
        target.reset(other.nexus.id);
        other.ready().await;
        other.read(0, 1).await.conflict();
    });
    // Another process, with the same catalog.
    let after = Bench::new(2);
    *after.catalog.kept.borrow_mut() = bench.catalog.kept.take();
    let (one, other) = (after.connect(), after.connect());
    after.run(async move {
        one.ready().await;
        other.ready().await;
        other.write(0, &[0; 512]).await.conflict();
        one.write(0, &[0; 512]).await.good();
    });
}

#[test]
fn what_another_path_changed_decides_once_it_is_told() {
    let bench = Bench::new(1);
    let (one, other) = (bench.connect(), bench.connect());
    let (catalog, reactor) = (bench.catalog.clone(), bench.reactor.clone());
    bench.run(async move {
        one.ready().await;
        other.ready().await;
        register(&one, 1).await;
        one.send(&out(1, 3), &keys(1, 0)).await.good();
        other.read(0, 1).await.conflict();
        let mut kept = catalog.kept.borrow().get(&0x1000).cloned().unwrap();
        kept.version += 1;
        kept.value.reservation = None;
        let version = kept.version;
        catalog.kept.borrow_mut().insert(0x1000, kept);
        catalog.stand(|standing| standing.reservations = version);
        reactor.sleep(std::time::Duration::from_millis(1)).await;
        other.read(0, 1).await.good();
    });
}

#[test]
fn changes_that_meet_anothers_are_made_on_top_of_it() {
    let bench = Bench::new(1);
    let host = bench.connect();
    let catalog = bench.catalog.clone();
    bench.run(async move {
        host.ready().await;
        catalog.conflicts.set(3);
        register(&host, 1).await;
        assert_eq!(catalog.kept.borrow()[&0x1000].value.registrants.len(), 1);
        catalog.unreachable.set(true);
        let got = host.send(&out(6, 0), &keys(0, 2)).await;
        assert_eq!(got.status, Status::Busy);
        catalog.unreachable.set(false);
        assert_eq!(keys_of(&host).await.1, [1], "nothing has changed");
    });
}

#[test]
fn wrong_parameters_are_refused() {
    alone(|host| async move {
        let short = [0x5f, 0, 0, 0, 0, 0, 0, 0, 23, 0];
        assert_eq!(host.send(&short, &[0; 23]).await.check(), LIST_LENGTH);
        register(&host, 1).await;
        let got = host.send(&out(1, 2), &keys(1, 0)).await;
        assert_eq!(got.check(), INVALID_FIELD_IN_CDB, "no such type");
        let got = host.send(&out(1, 0x11), &keys(1, 0)).await;
        assert_eq!(got.check(), INVALID_FIELD_IN_CDB, "no such scope");
        let got = host.send(&out(4, 1), &keys(1, 0)).await;
        assert_eq!(got.check(), INVALID_FIELD_IN_LIST, "preempts nobody");
        let got = host.send(&out(4, 1), &keys(1, 99)).await;
        got.conflict();
        let got = host.send(&out(8, 1), &keys(1, 0)).await;
        assert_eq!(got.check(), INVALID_FIELD_IN_CDB);
    });
}

#[test]
fn reserve_keeps_all_others_out() {
    let bench = Bench::new(1);
    let (one, other) = (bench.connect(), bench.connect());
    let target = bench.target.clone();
    let (reserve, release) = ([0x16, 0, 0, 0, 0, 0], [0x17, 0, 0, 0, 0, 0]);
    bench.run(async move {
        one.ready().await;
        other.ready().await;
        one.send(&reserve, &[]).await.good();
        one.send(&reserve, &[]).await.good();
        other.send(&reserve, &[]).await.conflict();
        other.send(&READY, &[]).await.conflict();
        other.read(0, 1).await.conflict();
        other.send(&out(6, 0), &keys(0, 1)).await.conflict();
        other
            .send(&[0x1a, 0, 0x3f, 0, 255, 0], &[])
            .await
            .conflict();
        other.send(&release, &[]).await.good();
        other.send(&[0x12, 0, 0, 0, 36, 0], &[]).await.good();
        other.read(0, 1).await.conflict();
        one.send(&release, &[]).await.good();
        other.send(&reserve, &[]).await.good();
        target.disconnect(other.nexus.id);
        one.read(0, 1).await.good();
        one.send(&reserve, &[]).await.good();
        target.reset_unit([0; 8], one.nexus.id);
        one.ready().await;
        register(&one, 1).await;
        one.send(&reserve, &[]).await.conflict();
    });
}
