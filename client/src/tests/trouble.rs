//! What the owner makes of stores that are full, fail, or answer what was not asked.

use std::time::Duration;

use ashlar_proto::api::AckRule;
use ashlar_proto::{ShardIndex, Status};

use ashlar_reactor::sim::Process;

use super::cluster::{Cluster, options};
use super::scenarios::{holds, write};
use crate::{AttachError, BlockDevice, BlockError, SourceError, Volume};

/// Both stores take a write into volatile caches; it is acknowledged. Both lose power and come
/// back full: a flush must not be answered while the write is nowhere.
#[test]
fn an_acknowledged_write_outlives_power_loss_and_full_disks() {
    let cluster = Cluster::new(30, 2, AckRule::Majority, true);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 1, 1).await.unwrap();
        for store in &cluster.stores {
            store.lose_power();
            store.faults.writes.set(Some(Status::NoSpace));
            store.start(&cluster.world);
        }
        reactor.sleep(Duration::from_secs(2)).await;
        let other = volume.clone();
        let flushing = reactor.spawn(async move { other.flush().await });
        reactor.sleep(Duration::from_secs(2)).await;
        assert!(!flushing.is_finished(), "the write is nowhere");
        for store in &cluster.stores {
            store.faults.writes.set(None);
        }
        flushing.await.unwrap();
        for store in &cluster.stores {
            store.lose_power();
            store.start(&cluster.world);
        }
        assert!(holds(&volume, 1, 1).await);
    });
}

/// Store 0 keeps a write, but its answer is lost; store 1 never gets it. Both are full when it is
/// sent again: failed for want of room, it would show on store 0 and not on store 1.
#[test]
fn a_write_that_one_replica_may_have_kept_does_not_fail_for_want_of_room() {
    let cluster = Cluster::new(31, 2, AckRule::Majority, false);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 1, 1).await.unwrap();
        cluster.stores[0].faults.mute.set(true);
        cluster.stores[1].faults.hangs.set(true);
        let (handle, other) = (reactor.clone(), volume.clone());
        let writing = reactor.spawn(async move { write(&handle, &other, 1, 2).await });
        reactor.sleep(Duration::from_millis(100)).await;
        for store in &cluster.stores {
            store.kill();
            store.faults.mute.set(false);
            store.faults.hangs.set(false);
            store.faults.writes.set(Some(Status::NoSpace));
            store.start(&cluster.world);
        }
        reactor.sleep(Duration::from_secs(3)).await;
        assert!(!writing.is_finished(), "store 0 may have kept it");
        for store in &cluster.stores {
            store.faults.writes.set(None);
        }
        writing.await.unwrap();
        assert!(holds(&volume, 1, 2).await);
        volume.detach().await.unwrap();
    });
    assert_eq!(cluster.conductor.in_sync(0), [0, 1]);
    let contents: Vec<_> = cluster.stores.iter().map(|s| s.contents()).collect();
    assert_eq!(contents[0], contents[1]);
}

/// Store 0 keeps a write and dies before it answers; the other two have no room for it. Store 0
/// may come back with it one day, so it goes on being sent; all else goes on as well.
#[test]
fn a_write_that_a_dead_replica_may_have_kept_waits_for_room() {
    let cluster = Cluster::new(32, 3, AckRule::Majority, false);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 1, 1).await.unwrap();
        write(&reactor, &volume, 2, 1).await.unwrap();
        cluster.stores[0].faults.mute.set(true);
        for store in &cluster.stores[1..] {
            store.faults.writes.set(Some(Status::NoSpace));
        }
        let (handle, other) = (reactor.clone(), volume.clone());
        let writing = reactor.spawn(async move { write(&handle, &other, 1, 2).await });
        reactor.sleep(Duration::from_millis(100)).await;
        cluster.stores[0].kill();
        reactor.sleep(Duration::from_secs(3)).await;
        assert_eq!(cluster.conductor.in_sync(0), [1, 2]);
        assert!(!writing.is_finished(), "store 0 may have kept it");
        assert!(holds(&volume, 2, 1).await, "reads go on");
        let sent = cluster.stores[1].writes_seen.get();
        reactor.sleep(Duration::from_secs(3)).await;
        let sent = cluster.stores[1].writes_seen.get() - sent;
        assert!((2..20).contains(&sent), "sent again with pauses: {sent}");
        for store in &cluster.stores[1..] {
            store.faults.writes.set(None);
        }
        writing.await.unwrap();
        assert!(holds(&volume, 1, 2).await);
        volume.detach().await.unwrap();
    });
    let contents: Vec<_> = cluster.stores.iter().map(|s| s.contents()).collect();
    assert_eq!(contents[1], contents[2]);
}

/// Store 2 is away for good, and no conductor is there to commit that. Store 1 restarts meanwhile:
/// it is brought up, or acknowledgements would wait for the conductor.
#[test]
fn replicas_are_brought_up_while_a_proposal_waits_for_the_conductor() {
    let cluster = Cluster::new(33, 3, AckRule::Majority, true);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 1, 1).await.unwrap();
        cluster.conductor.down.set(true);
        cluster.stores[2].kill();
        reactor.sleep(Duration::from_secs(3)).await;
        cluster.stores[1].lose_power();
        cluster.stores[1].start(&cluster.world);
        write(&reactor, &volume, 1, 2).await.unwrap();
        volume.flush().await.unwrap();
        // Who is to leave, and returns, helps until it has left.
        cluster.stores[2].start(&cluster.world);
        reactor.sleep(Duration::from_secs(1)).await;
        assert_eq!(volume.health().shards_degraded, 0);
        cluster.conductor.down.set(false);
        reactor.sleep(Duration::from_secs(3)).await;
        for shard in 0..3 {
            assert_eq!(cluster.conductor.in_sync(shard), [0, 1]);
        }
        assert!(holds(&volume, 1, 2).await);
        volume.detach().await.unwrap();
    });
    let contents: Vec<_> = cluster.stores.iter().map(|s| s.contents()).collect();
    assert_eq!(contents[0], contents[1]);
}

/// A store mixes up two requests: the payload is whole and bears the right tag, and is not what
/// was asked for.
#[test]
fn an_answer_about_another_block_ends_the_session() {
    let cluster = Cluster::new(34, 3, AckRule::Majority, false);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        for block in 0..8 {
            write(&reactor, &volume, block, block).await.unwrap();
        }
        cluster.stores[1].faults.strays.set(true);
        for round in 0..300 {
            let block = round % 7;
            assert!(holds(&volume, block, block).await, "block {block}");
            reactor.sleep(Duration::from_millis(10)).await;
        }
        assert!(volume.health().reads_retried > 0);
        assert_eq!(volume.health().damage_seen, 0);
    });
}

/// The disk of store 1 has failed. No write comes that would tell; its reads end in an error, which
/// comes sooner than data would.
#[test]
fn a_replica_whose_device_fails_reads_is_proposed_away() {
    let cluster = Cluster::new(35, 3, AckRule::Majority, false);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 1, 1).await.unwrap();
        cluster.stores[1].faults.reads.set(Some(Status::Device));
        for _ in 0..600 {
            assert!(holds(&volume, 1, 1).await);
        }
        reactor.sleep(Duration::from_secs(1)).await;
        assert_eq!(cluster.conductor.in_sync(0), [0, 2]);
        let retried = volume.health().reads_retried;
        assert!((4..20).contains(&retried), "{retried} of 600 reads");
    });
}

#[test]
fn errors_draw_no_reads_though_they_come_fast() {
    let cluster = Cluster::new(36, 3, AckRule::Majority, false);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 1, 1).await.unwrap();
        let faults = &cluster.stores[1].faults;
        faults.reads.set(Some(Status::Unavailable));
        for _ in 0..600 {
            assert!(holds(&volume, 1, 1).await);
        }
        let retried = volume.health().reads_retried;
        assert!(retried < 20, "{retried} of 600 reads");
        assert_eq!(volume.health().shards_degraded, 0);
        // What was held against it is forgotten.
        faults.reads.set(None);
        reactor.sleep(Duration::from_secs(30)).await;
        let seen = cluster.stores[1].reads_seen.get();
        for _ in 0..600 {
            assert!(holds(&volume, 1, 1).await);
        }
        assert!(cluster.stores[1].reads_seen.get() - seen > 60, "read again");
    });
}

#[test]
fn the_only_replica_is_not_given_up_for_reads_that_fail() {
    let cluster = Cluster::new(37, 1, AckRule::Majority, false);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 1, 1).await.unwrap();
        cluster.stores[0].faults.reads.set(Some(Status::Device));
        for _ in 0..10 {
            let read = volume.read(4096, 4096).await.map(|_| ());
            assert_eq!(read, Err(BlockError::Corrupt));
        }
        assert_eq!(volume.health().shards_degraded, 0);
        cluster.stores[0].faults.reads.set(None);
        assert!(holds(&volume, 1, 1).await);
    });
}

#[test]
fn an_attach_that_fails_gives_its_grant_back() {
    let cluster = Cluster::new(38, 3, AckRule::Majority, false);
    cluster.stores[0].kill();
    cluster.stores[1].kill();
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let unavailable = AttachError::Unavailable {
            shard: ShardIndex::new(0),
        };
        let failed = cluster.attach(&reactor).await.map(|_| ());
        assert_eq!(failed, Err(unavailable.clone()));
        assert!(!cluster.conductor.is_attached(), "given back");
        // Dropped on the way.
        let nap = Duration::from_secs(5);
        let dropped = reactor.timeout(nap, cluster.attach(&reactor)).await;
        assert!(dropped.is_err() && cluster.conductor.is_attached());
        reactor.sleep(Duration::from_secs(1)).await;
        assert!(!cluster.conductor.is_attached(), "given back");
        // A conductor that is gone by then is not waited for without end.
        let started = reactor.now();
        let (handle, conductor) = (reactor.clone(), cluster.conductor.clone());
        drop(reactor.spawn(async move {
            handle.sleep(Duration::from_secs(5)).await;
            conductor.down.set(true);
        }));
        let failed = cluster.attach(&reactor).await.map(|_| ());
        assert_eq!(failed, Err(unavailable));
        let took = reactor.now() - started;
        assert!(took < options().attach_timeout + Duration::from_secs(5));
        // One that is served is kept.
        cluster.conductor.down.set(false);
        cluster.stores[0].start(&cluster.world);
        let volume = cluster.attach(&reactor).await.unwrap();
        reactor.sleep(Duration::from_secs(5)).await;
        assert!(cluster.conductor.is_attached());
        volume.detach().await.unwrap();
        assert!(!cluster.conductor.is_attached());
    });
}

/// An attach that waits a minute for a conductor keeps those waiting who could try elsewhere.
#[test]
fn an_attach_waits_for_a_silent_conductor_no_longer_than_it_is_told() {
    let cluster = Cluster::new(39, 3, AckRule::Majority, false);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let patience = Duration::from_secs(3);
        let attach = || {
            let mut options = options();
            options.conductor_timeout = patience;
            let conductor = cluster.conductor.clone();
            Volume::attach(&reactor, conductor, "v", options)
        };
        cluster.conductor.down.set(true);
        let started = reactor.now();
        let failed = attach().await.map(|_| ());
        assert_eq!(failed, Err(SourceError::Unreachable.into()));
        let took = reactor.now() - started;
        assert!(
            took >= patience && took < patience + Duration::from_secs(1),
            "{took:?}"
        );
        // It comes back within that time.
        let (handle, conductor) = (reactor.clone(), cluster.conductor.clone());
        drop(reactor.spawn(async move {
            handle.sleep(Duration::from_secs(2)).await;
            conductor.down.set(false);
        }));
        attach().await.unwrap().detach().await.unwrap();
    });
}

/// The first owner's write reaches the stores of `has`; the others have no room for a copy of it
/// when the next owner makes all equal.
pub(super) async fn leave_tails(cluster: &Cluster, owner: &Process, has: &[usize]) {
    let reactor = owner.reactor();
    let volume = cluster.attach(reactor).await.unwrap();
    write(reactor, &volume, 1, 1).await.unwrap();
    for (number, store) in cluster.stores.iter().enumerate() {
        if !has.contains(&number) {
            store.faults.hangs.set(true);
        }
    }
    let (handle, other) = (reactor.clone(), volume.clone());
    drop(reactor.spawn(async move { write(&handle, &other, 1, 2).await }));
    reactor.sleep(Duration::from_millis(200)).await;
    for (number, store) in cluster.stores.iter().enumerate() {
        if !has.contains(&number) {
            store.faults.hangs.set(false);
            store.faults.writes.set(Some(Status::NoSpace));
        }
    }
}

#[test]
fn who_cannot_take_a_copy_is_left_out_of_a_take_over() {
    for (replicas, has, in_sync) in [(3, &[0, 1][..], &[0, 1][..]), (2, &[1][..], &[1][..])] {
        let cluster = Cluster::new(39, replicas, AckRule::Majority, false);
        let first = cluster.owner();
        cluster.run(leave_tails(&cluster, &first, has));
        first.crash();
        let second = cluster.owner();
        let reactor = second.reactor().clone();
        cluster.run(async {
            let started = reactor.now();
            let volume = cluster.attach(&reactor).await.unwrap();
            assert!(
                reactor.now() - started >= options().attach_patience,
                "room may be made meanwhile"
            );
            assert_eq!(cluster.conductor.in_sync(0), in_sync);
            assert_eq!(cluster.conductor.in_sync(1).len(), usize::from(replicas));
            assert!(!volume.health().may_have_lost);
            assert!(holds(&volume, 1, 2).await);
            write(&reactor, &volume, 1, 3).await.unwrap();
            assert!(holds(&volume, 1, 3).await);
        });
    }
}

#[test]
fn a_take_over_that_too_many_fail_names_one_of_them() {
    let cluster = Cluster::new(40, 3, AckRule::Majority, false);
    let first = cluster.owner();
    cluster.run(leave_tails(&cluster, &first, &[0]));
    first.crash();
    let second = cluster.owner();
    let reactor = second.reactor().clone();
    cluster.run(async {
        let error = cluster.attach(&reactor).await.map(|_| ()).unwrap_err();
        let AttachError::ReplicaFails { shard, problem, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!((shard.get(), *problem), (0, Some(Status::NoSpace)));
        let text = error.to_string();
        assert!(
            text.contains("its disk is full") && text.contains("10.0.1."),
            "{text}"
        );
        assert_eq!(cluster.conductor.in_sync(0), [0, 1, 2], "nobody left");
        for store in &cluster.stores {
            store.faults.writes.set(None);
        }
        let volume = cluster.attach(&reactor).await.unwrap();
        assert_eq!(cluster.conductor.in_sync(0), [0, 1, 2]);
        assert!(holds(&volume, 1, 2).await);
    });
}

/// A store that fails one round and comes through the next was only unlucky.
#[test]
fn who_makes_room_in_time_is_not_left_out() {
    let cluster = Cluster::new(41, 3, AckRule::Majority, false);
    let first = cluster.owner();
    cluster.run(leave_tails(&cluster, &first, &[0, 1]));
    first.crash();
    let second = cluster.owner();
    let reactor = second.reactor().clone();
    let store = cluster.stores[2].clone();
    let handle = reactor.clone();
    drop(reactor.spawn(async move {
        handle.sleep(Duration::from_millis(500)).await;
        store.faults.writes.set(None);
    }));
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        assert_eq!(cluster.conductor.in_sync(0), [0, 1, 2]);
        assert!(holds(&volume, 1, 2).await);
    });
    let contents: Vec<_> = cluster.stores.iter().map(|s| s.contents()).collect();
    assert_eq!(contents[0], contents[2]);
}
