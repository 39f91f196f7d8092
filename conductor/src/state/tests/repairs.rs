//! Who repairs what nobody uses, and who may take a volume from whom.

use ashlar_proto::api::{RepairTask, repair_owner};

use super::*;

const FOUR: [&str; 4] = ["a", "b", "c", "d"];

fn for_repair(node: &str, force: bool) -> AttachRequest {
    AttachRequest {
        owner: repair_owner(node),
        force,
        repair: true,
        server: None,
        publication: None,
    }
}

impl Bench {
    fn tasks(&self, node: u64) -> Vec<RepairTask> {
        self.state.repairs(NodeId::new(node))
    }

    /// The nodes that have a task for the volume.
    fn repairers(&self, name: &str) -> Vec<u64> {
        let has = |node: &u64| self.tasks(*node).iter().any(|task| task.name == name);
        (1..=9).filter(has).collect()
    }

    fn detach_all(&mut self, name: &str) {
        let volume = self.state.volume_by_name(name).unwrap();
        let request = detach(volume.id, volume.generation.get());
        let plan = self.state.plan_detach(name, &request).unwrap();
        self.commit(plan);
    }
}

/// A detached volume, one of whose replicas is out of the set although its disk serves.
fn with_one_behind(names: &[&str]) -> Bench {
    let mut bench = Bench::with(names, 1);
    bench.ready("v", 3);
    bench.attach("v", "x");
    bench.commit_set("v", &[0, 2]);
    bench.heal();
    assert_eq!(bench.repairers("v"), [0; 0], "its user brings it back");
    bench.detach_all("v");
    bench.heal();
    bench
}

#[test]
fn a_detached_volume_with_a_replica_behind_is_given_to_a_node_that_is_in_sync() {
    let mut bench = with_one_behind(&FOUR);
    let [node] = bench.repairers("v")[..] else {
        panic!("one node")
    };
    let replicas = bench.replicas("v");
    let near = [replicas[0].node.get(), replicas[2].node.get()];
    assert!(near.contains(&node));
    let revision = bench.state.assigned(NodeId::new(node)).unwrap();
    bench.heal();
    assert_eq!(bench.repairers("v"), [node], "it stays");
    assert_eq!(bench.state.assigned(NodeId::new(node)), Some(revision));
    // The repair owner does its work, and the task ends.
    let name = FOUR[usize::try_from(node - 1).unwrap()];
    let plan = bench
        .state
        .plan_attach(&bench.live, bench.now, "v", &for_repair(name, false));
    bench.commit(plan.unwrap());
    bench.heal();
    assert_eq!(bench.repairers("v"), [node]);
    bench.commit_set("v", &[0, 1, 2]);
    bench.heal();
    assert_eq!(bench.repairers("v"), [0; 0]);
    assert!(bench.state.assigned(NodeId::new(node)).unwrap() > revision);
}

#[test]
fn a_task_moves_when_its_node_goes_down() {
    let mut bench = with_one_behind(&FOUR);
    let [node] = bench.repairers("v")[..] else {
        panic!("one node")
    };
    let name = FOUR[usize::try_from(node - 1).unwrap()];
    bench.commit(
        bench
            .state
            .plan_attach(&bench.live, bench.now, "v", &for_repair(name, false))
            .unwrap(),
    );
    bench.set_up(node, false);
    bench.heal();
    let [other] = bench.repairers("v")[..] else {
        panic!("one node")
    };
    assert_ne!(other, node);
    // And its owner takes the volume from the one that is down.
    let other = FOUR[usize::try_from(other - 1).unwrap()];
    let plan = bench
        .state
        .plan_attach(&bench.live, bench.now, "v", &for_repair(other, false));
    assert_eq!(
        bench.commit(plan.unwrap()).volume.attached_by,
        Some(repair_owner(other))
    );
    // While it is up, no other takes it from that one.
    bench.set_up(node, true);
    for force in [false, true] {
        let refused =
            bench
                .state
                .plan_attach(&bench.live, bench.now, "v", &for_repair(name, force));
        assert!(matches!(
            refused,
            Err(Refusal::Volume(VolumeRefusal::Attached { .. }))
        ));
    }
}

#[test]
fn a_user_takes_a_volume_from_its_repair_owner_and_ends_the_task() {
    let mut bench = with_one_behind(&FOUR);
    bench.commit(
        bench
            .state
            .plan_attach(&bench.live, bench.now, "v", &for_repair("a", false))
            .unwrap(),
    );
    let generation = bench.attach("v", "user");
    assert_eq!(bench.repairers("v"), [0; 0]);
    let volume = bench.state.volume_by_name("v").unwrap();
    assert_eq!(volume.attached_by.as_deref(), Some("user"));
    assert_eq!(volume.generation, generation);
    for force in [false, true] {
        let refused = bench
            .state
            .plan_attach(&bench.live, bench.now, "v", &for_repair("a", force));
        assert!(refused.is_err(), "a repair owner takes it from no user");
    }
    // Nor one that bears the user's name.
    let namesake = AttachRequest {
        owner: "user".to_owned(),
        force: true,
        repair: true,
        server: None,
        publication: None,
    };
    assert!(
        bench
            .state
            .plan_attach(&bench.live, bench.now, "v", &namesake)
            .is_err()
    );
    let other = bench
        .state
        .plan_attach(&bench.live, bench.now, "v", &by("other", false));
    assert!(other.is_err(), "users still need force among themselves");
}

#[test]
fn a_volume_held_by_a_repair_owner_can_be_deleted() {
    let mut bench = with_one_behind(&FOUR);
    bench.commit(
        bench
            .state
            .plan_attach(&bench.live, bench.now, "v", &for_repair("a", false))
            .unwrap(),
    );
    let plan = bench.state.plan_delete("v", false).unwrap();
    bench.commit(plan);
    assert_eq!(bench.repairers("v"), [0; 0]);
}

#[test]
fn a_replica_in_sync_on_a_disk_that_is_gone_needs_an_owner_to_propose_it_away() {
    let mut bench = Bench::with(&FOUR, 1);
    bench.ready("v", 3);
    let node = bench.replicas("v")[0].node.get();
    bench.set_up(node, false);
    bench.wait(GRACE - Duration::from_secs(1));
    assert_eq!(bench.repairers("v"), [0; 0]);
    bench.wait(Duration::from_secs(2));
    assert_eq!(bench.repairers("v").len(), 1);
    bench.set_up(node, true);
    bench.heal();
    assert_eq!(bench.repairers("v"), [0; 0]);
}

#[test]
fn a_fresh_replica_needs_an_owner_once_its_store_has_made_it() {
    let mut bench = Bench::with(&FOUR, 1);
    bench.ready_small("v");
    bench.attach("v", "x");
    bench.set_up(bench.replicas("v")[1].node.get(), false);
    bench.commit_set("v", &[0, 2]);
    bench.detach_all("v");
    bench.wait(GRACE + Duration::from_secs(1));
    assert!(bench.replicas("v")[1].fresh);
    assert_eq!(bench.repairers("v"), [0; 0]);
    bench.settle();
    bench.heal();
    assert_eq!(bench.repairers("v").len(), 1);
}

#[test]
fn what_cannot_be_attached_is_given_to_nobody() {
    let mut bench = with_one_behind(&FOUR);
    let replicas = bench.replicas("v");
    for index in [0, 2] {
        bench.set_up(replicas[index].node.get(), false);
    }
    bench.heal();
    assert_eq!(bench.repairers("v"), [0; 0]);
}

#[test]
fn a_node_has_few_repairs_at_a_time() {
    let mut bench = Bench::with(&["a", "b", "c"], 1);
    let names: Vec<String> = (0..20).map(|i| format!("v{i}")).collect();
    for name in &names {
        bench.ready(name, 3);
        bench.attach(name, "x");
        bench.commit_set(name, &[0, 1]);
        bench.detach_all(name);
    }
    bench.heal();
    let counts = [1, 2, 3].map(|node| bench.tasks(node).len());
    assert_eq!(counts, [4, 4, 4]);
    let busy: Vec<&String> = names
        .iter()
        .filter(|n| !bench.repairers(n).is_empty())
        .collect();
    let done = busy[0].clone();
    bench.commit(
        bench
            .state
            .plan_attach(&bench.live, bench.now, &done, &for_repair("a", false))
            .unwrap(),
    );
    bench.commit_set(&done, &[0, 1, 2]);
    bench.heal();
    let counts = [1, 2, 3].map(|node| bench.tasks(node).len());
    assert_eq!(counts, [4, 4, 4], "the next one has its turn");
}

/// A volume that cannot be attached, for damage say, once held its node's turn for ever.
#[test]
fn what_does_not_come_to_be_attached_gives_way_to_those_that_wait() {
    let mut bench = Bench::with(&["a", "b", "c"], 1);
    let names: Vec<String> = (0..13).map(|i| format!("v{i}")).collect();
    for name in &names {
        bench.ready(name, 3);
        bench.attach(name, "x");
        bench.commit_set(name, &[0, 1]);
        bench.detach_all(name);
    }
    bench.heal();
    let has_task = |bench: &Bench, name: &String| !bench.repairers(name).is_empty();
    let mut had: BTreeMap<&String, u32> = BTreeMap::new();
    let attached = names.iter().find(|name| has_task(&bench, name)).unwrap();
    let plan = bench
        .state
        .plan_attach(&bench.live, bench.now, attached, &for_repair("a", false));
    bench.commit(plan.unwrap());
    for _ in 0..6 {
        for name in names.iter().filter(|name| has_task(&bench, name)) {
            *had.entry(name).or_default() += 1;
        }
        bench.wait(super::super::repairs::TURN + Duration::from_secs(2));
    }
    assert_eq!(had.len(), 13, "{had:?}");
    assert_eq!(had[attached], 6, "one that is attached goes on");
}
