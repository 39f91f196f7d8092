//! Replicas that are lost for good are made elsewhere; nothing that is in sync is touched.

use ashlar_proto::api::Assignment;

use super::*;
use crate::state::Plan;

const FOUR: [&str; 4] = ["a", "b", "c", "d"];

/// A volume on nodes of which one has died: its replica is out of the set.
fn with_one_dead(names: &[&str]) -> (Bench, u64) {
    let mut bench = Bench::with(names, 1);
    bench.ready("v", 3);
    bench.attach("v", "x");
    let dead = bench.replicas("v")[1].node.get();
    bench.set_up(dead, false);
    bench.commit_set("v", &[0, 2]);
    (bench, dead)
}

#[test]
fn a_replica_whose_disk_is_gone_is_made_elsewhere_after_the_grace_time() {
    let (mut bench, dead) = with_one_dead(&FOUR);
    let before = bench.replicas("v");
    bench.wait(GRACE - Duration::from_secs(1));
    assert_eq!(bench.replicas("v"), before);
    bench.wait(Duration::from_secs(2));
    let after = bench.replicas("v");
    assert_eq!((&after[0], &after[2]), (&before[0], &before[2]));
    let fresh = &after[1];
    assert!(fresh.fresh && !fresh.in_sync && !fresh.leaving);
    assert!(fresh.id > before[1].id && fresh.node.get() != dead);
    assert!(before.iter().all(|other| other.node != fresh.node));
    let healing = bench.healing();
    assert_eq!((healing.out_of_sync, healing.rebuilding), (1, 1));
    // The node that returns is told to drop its old one.
    bench.set_up(dead, true);
    let old = |a: &Assignment| a.replica == before[1].id;
    assert!(!bench.state.assignments(NodeId::new(dead)).iter().any(old));
}

#[test]
fn who_returns_in_time_keeps_its_replica() {
    let (mut bench, dead) = with_one_dead(&FOUR);
    let before = bench.replicas("v");
    for _ in 0..3 {
        bench.wait(GRACE - Duration::from_secs(1));
        bench.set_up(dead, true);
        bench.wait(Duration::from_secs(2));
        bench.set_up(dead, false);
    }
    assert_eq!(bench.replicas("v"), before);
}

#[test]
fn a_replica_in_sync_is_never_replaced() {
    let mut bench = Bench::with(&FOUR, 1);
    bench.ready("v", 3);
    let before = bench.state.volume_by_name("v").unwrap().shards;
    let node = before[0].replicas[0].node.get();
    bench.set_up(node, false);
    bench.wait(GRACE * 3);
    let lost = before.iter().flat_map(|shard| &shard.replicas);
    let lost = lost.filter(|r| r.node.get() == node).count();
    let healing = bench.healing();
    assert_eq!((healing.away as usize, healing.out_of_sync), (lost, 0));
    assert_eq!(bench.state.volume_by_name("v").unwrap().shards, before);
}

#[test]
fn a_fresh_replica_is_made_once() {
    let (mut bench, _) = with_one_dead(&FOUR);
    bench.wait(GRACE + Duration::from_secs(1));
    let fresh = bench.replicas("v")[1].clone();
    let may_create = |bench: &Bench| {
        let list = bench.state.assignments(fresh.node);
        let own = list.iter().find(|a| a.replica == fresh.id).unwrap();
        own.may_create
    };
    assert!(may_create(&bench));
    bench.settle();
    // An owner may have filled it since: an empty one would pass for it.
    assert!(!may_create(&bench));
    assert!(bench.replicas("v")[1].fresh);
    let others = bench.state.assignments(bench.replicas("v")[0].node);
    assert!(others.iter().all(|a| !a.may_create));
}

#[test]
fn a_replica_is_fresh_until_it_is_in_sync() {
    let (mut bench, _) = with_one_dead(&FOUR);
    bench.wait(GRACE + Duration::from_secs(1));
    bench.settle();
    bench.commit_set("v", &[0, 1, 2]);
    let replica = bench.replicas("v")[1].clone();
    assert!(replica.in_sync && !replica.fresh);
    let key = (
        bench.state.volume_by_name("v").unwrap().id,
        ShardIndex::new(0),
    );
    assert_eq!(bench.state.shards[&key].made, []);
    // Out again it is a replica like any other.
    bench.commit_set("v", &[0, 2]);
    assert!(!bench.replicas("v")[1].fresh);
}

#[test]
fn without_an_eligible_disk_nothing_changes() {
    let (mut bench, _) = with_one_dead(&["a", "b", "c"]);
    let before = bench.replicas("v");
    bench.wait(GRACE * 2);
    assert_eq!(bench.replicas("v"), before);
    let healing = bench.healing();
    assert_eq!((healing.without_place, healing.queued), (1, 0));
    let text = node("d", 7009, &[9]);
    bench.commit(bench.state.plan_register(&text).unwrap());
    bench.heal();
    assert_eq!(bench.replicas("v")[1].disk, DiskId::new(9));
    assert_eq!(bench.healing().without_place, 0);
}

#[test]
fn a_replica_that_its_store_misses_is_not_waited_for() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    bench.attach("v", "x");
    let lost = bench.replicas("v")[1].clone();
    let disk = lost.disk.get();
    let missing = DiskReport {
        missing: vec![lost.id],
        ..report(disk)
    };
    bench.say(lost.node.get(), std::slice::from_ref(&missing));
    bench.heal();
    assert_eq!(bench.replicas("v")[1], lost, "it is in sync");
    bench.commit_set("v", &[0, 2]);
    bench.heal();
    // No other node is left: its own disk takes it, as another life.
    let fresh = bench.replicas("v")[1].clone();
    assert!(fresh.fresh && fresh.disk == lost.disk && fresh.id != lost.id);
}

#[test]
fn what_nobody_can_take_over_is_left_as_it_is() {
    let (mut bench, _) = with_one_dead(&["a", "b", "c", "d", "e"]);
    let before = bench.replicas("v");
    for index in [0, 2] {
        bench.set_up(before[index].node.get(), false);
    }
    bench.wait(GRACE * 2);
    assert_eq!(bench.replicas("v"), before);
}

#[test]
fn a_fresh_replica_whose_disk_goes_too_is_made_elsewhere_again() {
    let (mut bench, _) = with_one_dead(&["a", "b", "c", "d", "e"]);
    bench.wait(GRACE + Duration::from_secs(1));
    let first = bench.replicas("v")[1].clone();
    bench.set_up(first.node.get(), false);
    bench.wait(GRACE + Duration::from_secs(1));
    let second = bench.replicas("v")[1].clone();
    assert!(second.fresh && second.id > first.id && second.node != first.node);
}

#[test]
fn a_set_with_a_replica_that_is_gone_is_refused_for_good() {
    let (mut bench, _) = with_one_dead(&FOUR);
    let epoch = bench.state.volume_by_name("v").unwrap().shards[0].epoch;
    let proposal = bench.propose("v", 0, epoch.get(), &[0, 1, 2]);
    bench.wait(GRACE + Duration::from_secs(1));
    let refused = bench.state.plan_in_sync("v", &proposal).unwrap_err();
    assert!(matches!(
        refused,
        Refusal::Volume(VolumeRefusal::ReplicaGone { .. })
    ));
    // The epoch stays: what else the owner proposes is current.
    assert_eq!(
        bench.state.volume_by_name("v").unwrap().shards[0].epoch,
        epoch
    );
    let Plan { changes, .. } = {
        let proposal = bench.propose("v", 0, epoch.get(), &[0, 1, 2]);
        bench.state.plan_in_sync("v", &proposal).unwrap()
    };
    assert_eq!(changes.len(), 1);
}

#[test]
fn a_map_changes_with_its_volume_its_shards_and_the_places_of_its_disks() {
    let mut bench = Bench::with(&FOUR, 1);
    bench.ready("v", 3);
    let at = |bench: &Bench| bench.state.map_changed("v").unwrap();
    let ready = at(&bench);
    assert!(ready <= bench.state.map("v").unwrap().revision);
    // Usage, silence, another volume: nothing to an owner.
    let disk = bench.replicas("v")[0].disk.get();
    let node = bench.replicas("v")[0].node.get();
    let used = DiskReport {
        used_bytes: ByteCount::new(50 * GIB),
        ..report(disk)
    };
    bench.say(node, &[used]);
    bench.set_up(node, false);
    bench.set_up(node, true);
    bench.ready("w", 1);
    assert_eq!(at(&bench), ready);
    bench.attach("v", "x");
    let attached = at(&bench);
    assert!(attached > ready);
    bench.commit_set("v", &[0, 1]);
    let committed = at(&bench);
    assert!(committed > attached);
    let name = FOUR[usize::try_from(node - 1).unwrap()];
    let moved = super::node(name, 9999, &[disk]);
    bench.commit(bench.state.plan_register(&moved).unwrap());
    assert!(at(&bench) > committed);
    assert_eq!(bench.state.map_changed("none"), None);
}

#[test]
fn a_new_disk_place_is_news_even_after_rows_were_read_in_another_order() {
    let mut bench = Bench::with(&FOUR, 1);
    bench.ready("v", 3);
    let node = bench.replicas("v")[0].node.get();
    let name = FOUR[usize::try_from(node - 1).unwrap()];
    let before = bench.state.revision();
    let moved = super::node(name, 9999, &[u128::from(node)]);
    bench.commit(bench.state.plan_register(&moved).unwrap());
    let again = read_back(&bench.state);
    assert!(again.map_changed("v").unwrap() > before);
}
