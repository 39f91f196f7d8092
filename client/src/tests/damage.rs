//! What a take-over, and an owner, make of replicas that have lost something.

use std::time::Duration;

use ashlar_proto::api::AckRule;
use ashlar_proto::{BlockIndex, Seq, ShardIndex};
use ashlar_reactor::sim::Process;

use super::cluster::Cluster;
use super::scenarios::{holds, write};
use super::trouble::leave_tails;
use crate::AttachError;

/// Store 0's copy of block 1 is damaged, and its seq is known only to be `above` that of the write
/// which stores 0 and 1 have, or that write's.
async fn damage_leaf(cluster: &Cluster, owner: &Process, above: u64) {
    leave_tails(cluster, owner, &[0, 1]).await;
    let store = &cluster.stores[0];
    cluster.stores[2].faults.writes.set(None);
    let key = (ShardIndex::new(0), BlockIndex::new(1));
    let seq = store.contents()[&key].seq.get() + above;
    store.faults.damaged.borrow_mut().insert(key);
    store.faults.damaged_upto.set(Seq::from_raw(seq));
}

/// The end of a store's log rots: what was flushed last, and what said so. It takes that for writes
/// that were never flushed; the others know that everybody had them.
#[test]
fn a_settled_write_that_one_replica_lost_unknowingly_is_copied_to_it() {
    let cluster = Cluster::new(43, 3, AckRule::Majority, true);
    let first = cluster.owner();
    let reactor = first.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 1, 1).await.unwrap();
        write(&reactor, &volume, 2, 2).await.unwrap();
        reactor.sleep(Duration::from_secs(7)).await;
        for store in &cluster.stores {
            assert!(store.state(0).stable > Seq::NONE, "settled");
        }
    });
    first.crash();
    for block in [1, 2] {
        cluster.stores[1].lose(ShardIndex::new(0), BlockIndex::new(block));
    }
    cluster.stores[1].lose_horizon(ShardIndex::new(0));
    let second = cluster.owner();
    let reactor = second.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        let contents: Vec<_> = cluster.stores.iter().map(|s| s.contents()).collect();
        assert!(contents.windows(2).all(|pair| pair[0] == pair[1]));
        assert!(holds(&volume, 1, 1).await && holds(&volume, 2, 2).await);
    });
}

/// A damaged page shows each of its blocks with the highest seq of all: that must not hide the
/// acknowledged write which one replica has and another lacks.
#[test]
fn damage_on_one_replica_does_not_hide_a_write_from_a_take_over() {
    let cluster = Cluster::new(42, 3, AckRule::Majority, false);
    let first = cluster.owner();
    cluster.run(damage_leaf(&cluster, &first, 5));
    first.crash();
    let second = cluster.owner();
    let reactor = second.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        assert_eq!(
            cluster.conductor.in_sync(0),
            [1, 2],
            "what 0 has is unknown"
        );
        cluster.stores[1].kill();
        assert!(holds(&volume, 1, 2).await, "2 has been given it");
    });
}

#[test]
fn damage_that_another_replica_makes_good_costs_no_replica() {
    let cluster = Cluster::new(43, 3, AckRule::Majority, false);
    let first = cluster.owner();
    cluster.run(damage_leaf(&cluster, &first, 0));
    first.crash();
    let second = cluster.owner();
    let reactor = second.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        assert_eq!(cluster.conductor.in_sync(0), [0, 1, 2]);
        assert!(cluster.stores[0].faults.damaged.borrow().is_empty());
        assert!(holds(&volume, 1, 2).await);
    });
}

/// Store 1, which has the acknowledged write, is away: stores 0 and 2 are enough answers, but
/// store 0 cannot tell what it had.
#[test]
fn a_damaged_replica_does_not_count_where_it_is_needed() {
    let cluster = Cluster::new(44, 3, AckRule::Majority, false);
    let first = cluster.owner();
    cluster.run(damage_leaf(&cluster, &first, 5));
    first.crash();
    cluster.stores[1].kill();
    let second = cluster.owner();
    let reactor = second.reactor().clone();
    cluster.run(async {
        let error = cluster.attach(&reactor).await.map(|_| ()).unwrap_err();
        let expected = AttachError::Unavailable {
            shard: ShardIndex::new(0),
        };
        assert_eq!(error, expected);
        cluster.stores[1].start(&cluster.world);
        let volume = cluster.attach(&reactor).await.unwrap();
        assert!(holds(&volume, 1, 2).await);
    });
}

/// The write that only store 0 has is not acknowledged and cannot be read: it might show again.
#[test]
fn a_write_that_nobody_can_give_costs_its_replica() {
    let cluster = Cluster::new(45, 3, AckRule::Majority, false);
    let first = cluster.owner();
    cluster.run(leave_tails(&cluster, &first, &[0]));
    first.crash();
    for store in &cluster.stores {
        store.faults.writes.set(None);
    }
    let key = (ShardIndex::new(0), BlockIndex::new(1));
    cluster.stores[0].faults.damaged.borrow_mut().insert(key);
    let second = cluster.owner();
    let reactor = second.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        assert_eq!(cluster.conductor.in_sync(0), [1, 2]);
        assert!(holds(&volume, 1, 1).await);
    });
}

/// Recovery of store 0 found that something durable is missing: the acknowledged write of stores
/// 0 and 1 may have been it. With store 1 away nobody knows of it.
#[test]
fn a_replica_that_lost_a_write_does_not_count_until_that_is_settled() {
    let cluster = Cluster::new(46, 3, AckRule::Majority, false);
    let first = cluster.owner();
    cluster.run(leave_tails(&cluster, &first, &[0, 1]));
    first.crash();
    cluster.stores[2].faults.writes.set(None);
    cluster.stores[0].lose_block(0, 1);
    cluster.stores[0].start(&cluster.world);
    cluster.stores[1].kill();
    let second = cluster.owner();
    let reactor = second.reactor().clone();
    cluster.run(async {
        let error = cluster.attach(&reactor).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, AttachError::Unavailable { .. }), "{error}");
        cluster.stores[1].start(&cluster.world);
        let volume = cluster.attach(&reactor).await.unwrap();
        assert_eq!(cluster.conductor.in_sync(0), [0, 1, 2]);
        assert!(holds(&volume, 1, 2).await);
    });
    let contents: Vec<_> = cluster.stores.iter().map(|s| s.contents()).collect();
    assert_eq!(contents[0], contents[1]);
    assert!(!cluster.stores[0].state(0).damaged);
}

/// A write is durable on stores 0 and 1, store 2 has yet to take it; store 0 restarts without it.
#[test]
fn what_damage_cost_a_replica_under_the_owner_is_sent_again() {
    let cluster = Cluster::new(47, 3, AckRule::Majority, false);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        cluster.stores[2].faults.hangs.set(true);
        write(&reactor, &volume, 1, 1).await.unwrap();
        cluster.stores[0].lose_block(0, 1);
        cluster.stores[0].start(&cluster.world);
        reactor.sleep(Duration::from_secs(1)).await;
        cluster.stores[1].kill();
        assert!(holds(&volume, 1, 1).await);
    });
}
