//! Power losses, restarts, failed disks, and what control makes of them.

use super::*;

#[test]
fn a_flush_makes_accepted_writes_durable_and_a_restart_shows() {
    for seed in 0..10 {
        let mut site = Site::new(seed, 1, DiskSpec::new);
        let before = site.owner(|reactor| async move {
            let owner = Owner::attach(&reactor, 0).await;
            for n in 1..=20 {
                assert_eq!(
                    owner.write(n, 1, seq(u64::from(n)), u64::from(n)).await,
                    Status::Ok
                );
            }
            assert_eq!(owner.flush().await, Status::Ok);
            for n in 21..=40 {
                assert_eq!(
                    owner.write(n, 1, seq(u64::from(n)), u64::from(n)).await,
                    Status::Ok
                );
            }
            owner.incarnation
        });
        site.lose_power();
        site.start();
        site.owner(|reactor| async move {
            let owner = Owner::connect(&reactor, 0).await;
            assert!(owner.incarnation > before, "seed {seed}");
            let state = owner.open().await.unwrap();
            assert!(state.may_have_lost, "seed {seed}");
            for n in 1..=40 {
                let shown = owner.contents(n, 1).await;
                let kept = shown == [(u64::from(n), seq(u64::from(n)))];
                let gone = shown == [(0, Seq::NONE)];
                assert!(
                    kept || n > 20 && gone,
                    "seed {seed}: block {n} shows {shown:?}"
                );
            }
            let settled = SetState {
                settle: true,
                caught_up: false,
                ..SetState::default()
            };
            assert!(!owner.set_state(settled).await.unwrap().may_have_lost);
        });
    }
}

#[test]
fn a_clean_stop_loses_nothing() {
    let mut site = Site::new(1, 2, DiskSpec::new);
    site.owner(|reactor| async move {
        let owner = Owner::attach(&reactor, 1).await;
        assert_eq!(owner.write(7, 1, seq(1), 9).await, Status::Ok);
    });
    let control = site.control();
    site.run(async move { control.stop().await.unwrap() });
    let control = site.control();
    let gone = site.run(async move { control.report().await });
    assert_eq!(gone, Err(ControlError::Stopped));
    site.lose_power();
    site.start();
    site.owner(|reactor| async move {
        let owner = Owner::connect(&reactor, 1).await;
        let state = owner.open().await.unwrap();
        assert!(!state.may_have_lost);
        assert_eq!(owner.contents(7, 1).await, [(9, seq(1))]);
    });
}

#[test]
fn a_dead_disk_reports_itself_and_the_others_go_on() {
    let mut site = Site::new(2, 2, DiskSpec::new);
    let disk = site.world.find_disk(STORE, path(0)).unwrap();
    disk.faults(|faults| faults.die());
    site.owner(|reactor| async move {
        let (dead, alive) = (
            Owner::connect(&reactor, 0).await,
            Owner::attach(&reactor, 1).await,
        );
        assert_eq!(dead.open().await, Err(Status::Device));
        assert_eq!(alive.write(0, 1, seq(1), 4).await, Status::Ok);
        assert_eq!(dead.read(0, 1).await.header.status, Status::Device);
        let (_, refused) = greet(&reactor, hello(0)).await;
        assert_eq!(refused.header.status, Status::Device);
    });
    let (control, assignments) = (site.control(), site.assignments());
    let (reports, applied) = site.run(async move {
        let reports = control.report().await.unwrap();
        (reports, control.apply(assignments).await.unwrap())
    });
    assert!(reports[0].failed.is_some() && reports[1].failed.is_none());
    assert_eq!(applied.refused.len(), 1);
    assert_eq!(applied.refused[0].refusal, Refusal::DiskFailed);
    // And when the store starts anew.
    site.crash();
    site.start();
    assert_eq!(site.handle.as_ref().unwrap().unreadable().len(), 1);
    site.owner(|reactor| async move {
        let alive = Owner::connect(&reactor, 1).await;
        alive.open().await.unwrap();
        assert_eq!(alive.contents(0, 1).await, [(4, seq(1))]);
    });
}

#[test]
fn a_disk_that_fails_reads_serves_on_and_reports_that_it_ails() {
    let site = Site::new(7, 2, DiskSpec::new);
    let control = site.control();
    let disk = site.world.find_disk(STORE, path(0)).unwrap();
    let (early, late) = site.owner(|reactor| async move {
        let owner = Owner::attach(&reactor, 0).await;
        for n in 0..20 {
            let written = owner.write(n, 1, seq(u64::from(n) + 1), 5).await;
            assert_eq!(written, Status::Ok);
        }
        disk.faults(|faults| faults.fail(FaultAccess::Read, 0..u64::MAX));
        assert_eq!(owner.read(0, 1).await.header.status, Status::Damaged);
        let early = control.report().await.unwrap();
        for n in 1..20 {
            assert_eq!(owner.read(n, 1).await.header.status, Status::Damaged);
        }
        (early, control.report().await.unwrap())
    });
    assert_eq!(
        early[0].ailing, None,
        "one bad place is none of its business"
    );
    let ailing = late[0].ailing.as_ref().expect("it ails");
    assert_eq!(ailing.reason, "20 damaged places within 1 h");
    assert_eq!((&late[0].failed, &late[1].ailing), (&None, &None));
}

#[test]
fn a_disk_that_stays_slow_reports_that_it_ails() {
    let site = Site::new(8, 1, DiskSpec::new);
    let control = site.control();
    let disk = site.world.find_disk(STORE, path(0)).unwrap();
    site.owner(|reactor| async move {
        let owner = Owner::attach(&reactor, 0).await;
        assert_eq!(owner.write(0, 1, seq(1), 5).await, Status::Ok);
        disk.faults(|faults| faults.slow_down(Duration::from_secs(3)));
        let (mut minutes, mut ails) = (0, false);
        while !ails {
            assert!(minutes < 10, "it is never said to ail");
            minutes += 1;
            for _ in 0..4 {
                assert_eq!(owner.read(0, 1).await.header.status, Status::Ok);
                reactor.sleep(Duration::from_secs(12)).await;
                let report = control.report().await.unwrap().remove(0);
                assert_eq!(report.failed, None);
                ails = report.ailing.is_some();
            }
        }
        assert!(minutes >= 5, "after {minutes} min");
    });
}

#[test]
fn a_disk_of_another_cluster_is_refused() {
    let site = Site::new(3, 1, DiskSpec::new);
    let control = site.control();
    let (error, reports) = site.run(async move {
        control.set_cluster(CLUSTER).await.unwrap();
        let error = control.set_cluster(ClusterId::new(0xbad)).await;
        (error.unwrap_err(), control.report().await.unwrap())
    });
    let text = error.to_string();
    assert!(
        text.contains(&CLUSTER.to_string()) && text.contains("/disk-0"),
        "{text}"
    );
    assert_eq!(reports[0].failed, Some(text));
}

#[test]
fn a_lost_replica_is_reported_and_not_made_anew() {
    let site = Site::new(5, 1, DiskSpec::new);
    let mut assignments = site.assignments();
    assignments.push(Assignment {
        shard: ShardIndex::new(9),
        replica: ReplicaId::new(9),
        may_create: false,
        ..assignments[0].clone()
    });
    let control = site.control();
    let (lost, found) = site.run(async move {
        let applied = control.apply(assignments.clone()).await.unwrap();
        assert_eq!(applied, Applied::default());
        let lost = control.report().await.unwrap();
        assignments.pop();
        control.apply(assignments).await.unwrap();
        (lost, control.report().await.unwrap())
    });
    assert_eq!(lost[0].damage.get("missing-replica"), Some(&1));
    assert_eq!(found[0].damage.get("missing-replica"), None);
    site.owner(|reactor| async move {
        let mut owner = Owner::connect(&reactor, 0).await;
        owner.shard = ShardIndex::new(9);
        assert_eq!(owner.open().await, Err(Status::NoSuchReplica));
    });
}

#[test]
fn assignments_are_durable_and_idempotent() {
    let mut site = Site::new(4, 1, DiskSpec::new);
    site.owner(|reactor| async move {
        let owner = Owner::attach(&reactor, 0).await;
        assert_eq!(owner.write(0, 1, seq(1), 4).await, Status::Ok);
        assert_eq!(owner.flush().await, Status::Ok);
    });
    let mut assignments = site.assignments();
    for shard in 10..30 {
        assignments.push(Assignment {
            shard: ShardIndex::new(shard),
            replica: ReplicaId::new(u64::from(shard)),
            ..assignments[0].clone()
        });
    }
    let bad = [
        Assignment {
            disk: DiskId::new(9),
            ..assignments[0].clone()
        },
        Assignment {
            shard: ShardIndex::new(99),
            blocks: 0,
            ..assignments[0].clone()
        },
    ];
    let list: Vec<_> = assignments.iter().chain(&bad).cloned().collect();
    let control = site.control();
    let applied = site.run(async move {
        control.apply(list.clone()).await.unwrap();
        control.apply(list).await.unwrap()
    });
    let refusals: Vec<_> = applied.refused.iter().map(|r| r.refusal).collect();
    assert_eq!(refusals, [Refusal::NoSuchDisk, Refusal::Empty]);
    site.lose_power();
    site.start();
    site.owner(|reactor| async move {
        let owner = Owner::connect(&reactor, 0).await;
        owner.open().await.unwrap();
        assert_eq!(owner.contents(0, 1).await, [(4, seq(1))]);
    });
    // Another life of the same shard holds nothing of the old one.
    assignments.truncate(1);
    assignments[0].replica = ReplicaId::new(555);
    let control = site.control();
    site.run(async move { control.apply(assignments).await.unwrap() });
    site.owner(|reactor| async move {
        let owner = Owner::connect(&reactor, 0).await;
        assert_eq!(owner.open().await, Err(Status::NoSuchReplica));
        let header = owner.request(FrameKind::Open);
        let replica = ReplicaId::new(555);
        let reply = owner.call(header, Open { replica }.encode(), vec![]).await;
        assert_eq!(state_of(&reply).unwrap().highest, Seq::NONE);
        assert_eq!(owner.contents(0, 1).await, [(0, Seq::NONE)]);
    });
}

/// What an old owner has under way when a new one opens the shard is in the tail that the new
/// one is shown, or nowhere, however long its write takes.
#[test]
fn no_write_of_an_old_owner_appears_after_the_new_one_has_looked() {
    for seed in 0..40 {
        let site = Site::new(seed, 1, DiskSpec::new);
        site.owner(|reactor| async move {
            let old = Owner::attach(&reactor, 0).await;
            let new = Owner::connect(&reactor, 0).await;
            new.generation.set(2);
            for n in 0..50 {
                let write = old.write_frame(n * 64, 64, seq(u64::from(n) + 1), u64::from(n));
                old.link.send(write).await.unwrap();
            }
            reactor
                .sleep(Duration::from_micros(reactor.random_u64() % 6000))
                .await;
            new.open().await.unwrap();
            let look = async || {
                let tail = new.span(FrameKind::Tail, 0, 0, Seq::NONE).await;
                assert_eq!(tail.header.status, Status::Ok);
                tail.meta
            };
            let first = look().await;
            reactor.sleep(Duration::from_secs(1)).await;
            assert!(first == look().await, "seed {seed}");
        });
    }
}

#[test]
fn a_peer_that_does_not_read_its_replies_holds_up_nobody() {
    let site = Site::new(5, 1, DiskSpec::new);
    let greedy = site
        .world
        .process("greedy", IpAddr::V4(Ipv4Addr::new(10, 0, 0, 3)));
    let here = greedy.reactor().clone();
    let asking = greedy.reactor().spawn(async move {
        let owner = Owner::attach(&here, 0).await;
        for n in 0..16 {
            let number = u64::from(n) + 1;
            assert_eq!(owner.write(n * 256, 256, seq(number), 1).await, Status::Ok);
        }
        for n in 0..500 {
            let header = FrameHeader {
                block: BlockIndex::new(n % 16 * 256),
                count: BlockCount::new(256),
                ..owner.request(FrameKind::Read)
            };
            let frame = Frame::new(header, vec![], vec![]);
            owner.link.send(frame).await.unwrap();
        }
        owner
    });
    let owner = site.run(asking);
    site.world.run_for(Duration::from_secs(1));
    site.owner(|reactor| async move {
        let owner = Owner::connect(&reactor, 0).await;
        let ping = owner.request(FrameKind::Ping);
        assert_eq!(
            owner.call(ping, vec![], vec![]).await.header.status,
            Status::Ok
        );
        assert_eq!(owner.contents(0, 2).await.len(), 2);
    });
    let (control, began) = (site.control(), site.world.now());
    site.run(async move { control.stop().await.unwrap() });
    assert!(site.world.now() - began < Duration::from_secs(5));
    drop(owner);
}
