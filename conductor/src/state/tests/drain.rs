//! Cordon, drain, uncordon, remove.

use ashlar_proto::api::Schedulable;

use super::*;
use crate::refusal::DiskRefusal;

const FOUR: [&str; 4] = ["a", "b", "c", "d"];

impl Bench {
    fn schedule(&mut self, node: &str, schedulable: Schedulable) {
        let plan = self.state.plan_schedule_node(node, schedulable).unwrap();
        self.commit(plan);
        self.heal();
    }

    fn schedule_disk(&mut self, disk: DiskId, schedulable: Schedulable) {
        let plan = self.state.plan_schedule_disk(disk, schedulable).unwrap();
        self.commit(plan);
        self.heal();
    }
}

/// A volume of one shard on three of the nodes, attached; the name of its first node.
fn attached(names: &'static [&str], disks: u128) -> (Bench, &'static str) {
    let mut bench = Bench::with(names, disks);
    bench.ready_small("v");
    bench.attach("v", "x");
    let first = bench.replicas("v")[0].node.get();
    (bench, names[usize::try_from(first - 1).unwrap()])
}

#[test]
fn a_cordoned_node_gets_no_new_replicas() {
    let mut bench = Bench::with(&FOUR, 1);
    bench.schedule("a", Schedulable::Cordoned);
    for name in ["u", "v", "w"] {
        bench.ready(name, 3);
    }
    assert!(bench.state.assignments(NodeId::new(1)).is_empty());
    let refused = bench
        .state
        .plan_create(&bench.live, &volume("x", 3), SHARD_BYTES);
    assert!(refused.is_ok());
    bench.schedule("b", Schedulable::Draining);
    let refused = bench
        .state
        .plan_create(&bench.live, &volume("x", 3), SHARD_BYTES);
    assert!(matches!(refused, Err(Refusal::Placement(_))));
}

#[test]
fn a_cordon_outlives_registrations_and_reports() {
    let mut bench = Bench::with(&["a", "b", "c"], 1);
    bench.schedule("a", Schedulable::Cordoned);
    bench.schedule_disk(DiskId::new(2), Schedulable::Draining);
    for (i, name) in (1..).zip(["a", "b"]) {
        let moved = node(name, 8000 + i, &[u128::from(i)]);
        bench.commit(bench.state.plan_register(&moved).unwrap());
    }
    bench.set_up(1, false);
    bench.set_up(1, true);
    bench.say(2, &[]);
    bench.set_up(2, true);
    let disks = [1, 2, 3].map(|disk| bench.state.schedulable(DiskId::new(disk)));
    let expected = [
        Schedulable::Cordoned,
        Schedulable::Draining,
        Schedulable::Open,
    ];
    assert_eq!(disks, expected);
}

#[test]
fn a_drained_replica_leaves_when_its_successor_and_all_others_are_in_sync() {
    let (mut bench, first) = attached(&FOUR, 1);
    let before = bench.replicas("v");
    bench.schedule(first, Schedulable::Draining);
    let during = bench.replicas("v");
    assert_eq!(during.len(), 4);
    assert!(during[0].leaving && during[0].in_sync && during[0].id == before[0].id);
    assert!(during[3].fresh && !during[3].in_sync);
    assert_eq!(&during[1..3], &before[1..]);
    assert_eq!(bench.health("v"), Health::Healthy);
    bench.settle();
    bench.commit_set("v", &[0, 1, 2, 3]);
    assert_eq!(bench.replicas("v").len(), 4);
    bench.commit_set("v", &[1, 2, 3]);
    let after = bench.replicas("v");
    assert_eq!(after.len(), 3);
    assert!(
        after
            .iter()
            .all(|r| r.in_sync && !r.leaving && r.id != before[0].id)
    );
    let name = first.to_owned();
    let refused = bench.state.plan_remove_node(&name).unwrap_err();
    assert!(matches!(refused, Refusal::Node(NodeRefusal::IsUp { .. })));
}

#[test]
fn a_proposal_that_drops_a_leaving_replica_is_answered_again_as_before() {
    let (mut bench, first) = attached(&FOUR, 1);
    bench.schedule(first, Schedulable::Draining);
    bench.settle();
    bench.commit_set("v", &[0, 1, 2, 3]);
    let epoch = bench.state.volume_by_name("v").unwrap().shards[0].epoch;
    let proposal = bench.propose("v", 0, epoch.get(), &[1, 2, 3]);
    let answer = bench.commit(bench.state.plan_in_sync("v", &proposal).unwrap());
    let again = bench.state.plan_in_sync("v", &proposal).unwrap();
    assert!(again.changes.is_empty());
    assert_eq!(again.answer, answer);
}

#[test]
fn a_leaving_replica_stays_while_too_few_others_are_in_sync() {
    let (mut bench, first) = attached(&FOUR, 1);
    bench.schedule(first, Schedulable::Draining);
    bench.settle();
    bench.commit_set("v", &[0, 1, 2, 3]);
    bench.commit_set("v", &[0, 2, 3]);
    assert_eq!(bench.replicas("v").len(), 4);
    assert!(bench.replicas("v")[0].leaving);
    // Out of the set itself, it is of no more use than its successor: it goes.
    bench.commit_set("v", &[2, 3]);
    assert_eq!(bench.replicas("v").len(), 4);
    bench.heal();
    let ids: Vec<bool> = bench.replicas("v").iter().map(|r| r.leaving).collect();
    assert_eq!(ids, [false, false, false]);
}

#[test]
fn an_uncordon_calls_off_what_is_not_in_sync_yet() {
    let (mut bench, first) = attached(&FOUR, 1);
    let before = bench.replicas("v");
    bench.schedule(first, Schedulable::Draining);
    assert_eq!(bench.replicas("v").len(), 4);
    bench.schedule(first, Schedulable::Open);
    assert_eq!(bench.replicas("v"), before);
}

#[test]
fn an_uncordon_lets_a_move_end_whose_successor_is_in_sync() {
    let (mut bench, first) = attached(&FOUR, 1);
    bench.schedule(first, Schedulable::Draining);
    bench.settle();
    bench.commit_set("v", &[0, 1, 2, 3]);
    bench.schedule(first, Schedulable::Open);
    assert!(bench.replicas("v")[0].leaving);
    bench.commit_set("v", &[1, 2, 3]);
    assert_eq!(bench.replicas("v").len(), 3);
}

#[test]
fn a_replica_out_of_sync_on_a_draining_disk_is_replaced_without_grace() {
    let (mut bench, first) = attached(&FOUR, 1);
    let before = bench.replicas("v");
    bench.commit_set("v", &[1, 2]);
    bench.schedule(first, Schedulable::Draining);
    let after = bench.replicas("v");
    assert_eq!(after.len(), 3);
    assert!(after[0].fresh && after[0].node != before[0].node);
}

#[test]
fn a_replica_moves_within_its_node_and_never_counts_beside_its_successor() {
    let (mut bench, _) = attached(&["a", "b", "c"], 2);
    let before = bench.replicas("v");
    bench.schedule_disk(before[0].disk, Schedulable::Draining);
    let during = bench.replicas("v");
    assert!(during[0].leaving && during[3].fresh);
    assert_eq!(during[3].node, before[0].node);
    assert_ne!(during[3].disk, before[0].disk);
    bench.settle();
    bench.commit_set("v", &[1, 2, 3]);
    let after = bench.replicas("v");
    assert_eq!(after, [&before[1..], &[in_sync_now(&during[3])]].concat());
}

fn in_sync_now(replica: &Replica) -> Replica {
    Replica {
        in_sync: true,
        fresh: false,
        ..replica.clone()
    }
}

#[test]
fn a_successor_that_is_lost_is_made_again_on_its_node() {
    let (mut bench, _) = attached(&["a", "b", "c"], 3);
    let before = bench.replicas("v");
    bench.schedule_disk(before[0].disk, Schedulable::Draining);
    let first = bench.replicas("v")[3].clone();
    bench.schedule_disk(first.disk, Schedulable::Draining);
    let again = bench.replicas("v")[3].clone();
    assert_eq!(again.node, before[0].node);
    assert!(![before[0].disk, first.disk].contains(&again.disk));
}

/// It was in sync once, so it is not fresh: an uncordon must not wait for it.
#[test]
fn an_uncordon_drops_a_successor_that_has_fallen_out_of_sync() {
    let (mut bench, _) = attached(&["a", "b", "c", "d"], 1);
    let before = bench.replicas("v");
    let drained = before[0].disk;
    bench.schedule_disk(drained, Schedulable::Draining);
    bench.settle();
    bench.commit_set("v", &[0, 1, 2, 3]);
    bench.commit_set("v", &[0, 1, 2]);
    bench.schedule_disk(drained, Schedulable::Open);
    assert_eq!(bench.replicas("v"), before);
}

#[test]
fn a_shard_has_at_most_one_replica_that_is_leaving() {
    let (mut bench, _) = attached(&["a", "b", "c", "d", "e", "f"], 1);
    let before = bench.replicas("v");
    for replica in &before {
        bench.schedule_disk(replica.disk, Schedulable::Draining);
    }
    for moved in 0..3 {
        let during = bench.replicas("v");
        assert_eq!(during.len(), 4);
        assert_eq!(during.iter().filter(|r| r.leaving).count(), 1, "{moved}");
        bench.settle();
        bench.commit_set("v", &[0, 1, 2, 3]);
        let stay: Vec<usize> = (0..4).filter(|i| !during[*i].leaving).collect();
        bench.commit_set("v", &stay);
        bench.heal();
    }
    let after = bench.replicas("v");
    let is_new = |id: ReplicaId| before.iter().all(|old| old.id != id);
    assert_eq!(after.len(), 3);
    assert!(after.iter().all(|r| r.in_sync && is_new(r.id)));
}

#[test]
fn what_holds_replicas_or_is_served_is_not_removed() {
    let (mut bench, first) = attached(&FOUR, 1);
    let disk = bench.replicas("v")[0].disk;
    let refused = bench.state.plan_remove_node(first).unwrap_err();
    assert!(
        refused.to_string().contains("holds 1 replica: drain"),
        "{refused}"
    );
    let refused = bench.state.plan_remove_disk(disk).unwrap_err();
    assert!(matches!(
        refused,
        Refusal::Disk(DiskRefusal::InUse { replicas: 1, .. })
    ));
    let empty = (1..=4).find(|n| bench.state.replicas_on(DiskId::new(*n)) == 0);
    let empty = DiskId::new(empty.unwrap());
    let refused = bench.state.plan_remove_disk(empty).unwrap_err();
    assert!(matches!(
        refused,
        Refusal::Disk(DiskRefusal::IsServed { .. })
    ));
    let node = bench.state.disks[&empty].node;
    bench.say(node.get(), &[]);
    let plan = bench.state.plan_remove_disk(empty).unwrap();
    bench.commit(plan);
    assert!(bench.state.disk(empty, &bench.live).is_none());
    bench.set_up(node.get(), false);
    let plan = bench.state.plan_remove_node(&node.to_string()).unwrap();
    bench.commit(plan);
    assert_eq!(bench.state.assigned(node), None);
    let unknown = bench.state.plan_remove_node(&node.to_string());
    assert!(matches!(
        unknown,
        Err(Refusal::Node(NodeRefusal::Unknown { .. }))
    ));
    assert_eq!(bench.state.status(&bench.live, bench.now).nodes, 3);
}
