//! Snapshots: how they become ready, what their deletion and a rollback do to the layers, and who
//! carries that to the replicas.

use ashlar_proto::api::{
    CreateSnapshot, ReportLayers, RollbackVolume, Snapshot, SnapshotState, Volume, repair_owner,
};
use ashlar_proto::{Layer, LayerRange, LayerTable};

use super::*;
use crate::refusal::SnapshotRefusal;
use crate::row::snapshot_key;
use crate::state::snapshots::SNAPSHOTS_MAX;

const FORCE: RollbackVolume = RollbackVolume {
    force: true,
    delete_newer: false,
};
const DELETE_NEWER: RollbackVolume = RollbackVolume {
    force: false,
    delete_newer: true,
};

fn named(name: &str) -> CreateSnapshot {
    CreateSnapshot {
        name: name.to_owned(),
    }
}

fn runs(raw: &[(u32, u32)]) -> Vec<LayerRange> {
    let run = |&(low, high): &(u32, u32)| LayerRange::new(Layer::new(low), Layer::new(high));
    raw.iter().map(run).collect()
}

fn refused<T: std::fmt::Debug>(plan: Result<Plan<T>, Refusal>) -> SnapshotRefusal {
    match plan {
        Err(Refusal::Snapshot(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

impl Bench {
    fn volume(&self, name: &str) -> Volume {
        self.state.volume_by_name(name).unwrap()
    }

    /// Makes a snapshot of `v`.
    pub(super) fn snapshot(&mut self, name: &str) -> Snapshot {
        let plan = self.state.plan_snapshot_create("v", &named(name), 7);
        self.commit(plan.unwrap());
        self.state.snapshot("v", name).unwrap()
    }

    fn state_of(&self, name: &str) -> SnapshotState {
        self.state.snapshot("v", name).unwrap().state
    }

    fn delete(&mut self, name: &str) {
        let plan = self.state.plan_snapshot_delete("v", name, false).unwrap();
        let change = self.commit(plan);
        assert_eq!(change.version, self.volume("v").layers.version);
    }

    fn roll_back(&mut self, name: &str, request: RollbackVolume) {
        let plan = self.state.plan_rollback("v", name, request).unwrap();
        self.commit(plan);
    }

    /// The owner of `v` says how far its replicas are.
    fn report(&mut self, settled: u32, table: u32) {
        let volume = self.volume("v");
        let request = ReportLayers {
            volume: volume.id,
            generation: volume.generation,
            settled: Layer::new(settled),
            table,
        };
        let plan = self.state.plan_report_layers("v", &request).unwrap();
        self.commit(plan);
    }

    /// The owner of `v` lets go of it.
    fn let_go(&mut self, settled: bool) {
        let volume = self.volume("v");
        let request = DetachRequest {
            settled,
            ..detach(volume.id, volume.generation.get())
        };
        let plan = self.state.plan_detach("v", &request).unwrap();
        self.commit(plan);
    }

    /// The numbers of a volume's layers: head, settled, and the table's version and how far it is.
    fn layers(&self) -> [u32; 4] {
        let volume = self.volume("v");
        let (head, settled) = (volume.head_layer.get(), volume.settled_layer.get());
        [head, settled, volume.layers.version, volume.layers_applied]
    }

    /// The nodes that have a task for `v`.
    fn given_to(&self) -> Vec<u64> {
        let tasks = |node: &u64| !self.state.repairs(NodeId::new(*node)).is_empty();
        (1..=3).filter(tasks).collect()
    }

    /// The node that has the task attaches `v`.
    fn attach_for_repair(&mut self) {
        let [node] = self.given_to()[..] else {
            panic!("one node has the task")
        };
        let request = AttachRequest {
            owner: repair_owner(["a", "b", "c"][usize::try_from(node - 1).unwrap()]),
            force: false,
            repair: true,
            server: None,
            publication: None,
        };
        let plan = self
            .state
            .plan_attach(&self.live, self.now, "v", &request)
            .unwrap();
        self.commit(plan);
    }
}

fn with_volume() -> Bench {
    let mut bench = Bench::new();
    bench.ready_small("v");
    bench
}

#[test]
fn a_snapshot_of_a_volume_that_was_never_attached_is_ready_at_once() {
    let mut bench = with_volume();
    let made = bench.snapshot("one");
    assert_eq!(made.state, SnapshotState::Ready);
    assert_eq!((made.layer, made.created_ms), (Layer::new(1), 7));
    assert_eq!(made.size_bytes, ByteCount::new(GIB));
    assert_eq!(
        (made.volume_name.as_str(), made.name.as_str()),
        ("v", "one")
    );
    assert_eq!(bench.layers(), [2, 1, 0, 0]);
    assert_eq!(bench.volume("v").snapshots, 1);
    bench.heal();
    assert_eq!(bench.given_to(), [0; 0]);
}

#[test]
fn a_snapshot_of_an_attached_volume_is_ready_when_its_owner_says_so() {
    let mut bench = with_volume();
    bench.attach("v", "x");
    let before = bench.state.map_changed("v").unwrap();
    assert_eq!(bench.snapshot("one").state, SnapshotState::Sealing);
    assert!(
        bench.state.map_changed("v").unwrap() > before,
        "its owner hears of it"
    );
    bench.snapshot("two");
    assert_eq!(bench.layers(), [3, 0, 0, 0]);
    bench.report(1, 0);
    assert_eq!(bench.state_of("one"), SnapshotState::Ready);
    assert_eq!(bench.state_of("two"), SnapshotState::Sealing);
    // What was said stays, and the head never is settled.
    bench.report(0, 0);
    assert_eq!(bench.state_of("one"), SnapshotState::Ready);
    bench.report(9, 9);
    assert_eq!(bench.layers(), [3, 2, 0, 0]);
    bench.heal();
    assert_eq!(bench.given_to(), [0; 0], "its user does all of it");
}

#[test]
fn what_an_owner_says_counts_in_its_generation_and_once() {
    let mut bench = with_volume();
    let generation = bench.attach("v", "x");
    bench.snapshot("one");
    let volume = bench.volume("v").id;
    let said = |generation: Generation, volume| ReportLayers {
        volume,
        generation,
        settled: Layer::new(1),
        table: 0,
    };
    bench.attach("v", "x");
    let old = bench
        .state
        .plan_report_layers("v", &said(generation, volume));
    let other = VolumeId::new(volume.get() + 1);
    let current = bench.volume("v").generation;
    let wrong = bench.state.plan_report_layers("v", &said(current, other));
    assert!(matches!(
        (old, wrong),
        (
            Err(Refusal::Volume(VolumeRefusal::StaleGeneration { .. })),
            Err(Refusal::Volume(VolumeRefusal::OtherVolume { .. }))
        )
    ));
    let plan = bench.state.plan_report_layers("v", &said(current, volume));
    bench.commit(plan.unwrap());
    let again = bench.state.plan_report_layers("v", &said(current, volume));
    assert!(again.unwrap().changes.is_empty());
    bench.let_go(false);
    let detached = bench.state.plan_report_layers("v", &said(current, volume));
    assert!(detached.is_err());
}

#[test]
fn a_volume_that_was_detached_cleanly_needs_nobody_for_a_snapshot() {
    let mut bench = with_volume();
    bench.attach("v", "x");
    bench.snapshot("one");
    bench.let_go(true);
    assert_eq!(bench.state_of("one"), SnapshotState::Ready);
    assert_eq!(bench.snapshot("two").state, SnapshotState::Ready);
    assert_eq!(bench.layers(), [3, 2, 0, 0]);
    bench.attach("v", "x");
    assert_eq!(bench.snapshot("three").state, SnapshotState::Sealing);
}

#[test]
fn a_volume_that_was_not_detached_cleanly_is_attached_until_its_snapshot_is_ready() {
    let mut bench = with_volume();
    bench.attach("v", "x");
    bench.let_go(false);
    bench.heal();
    assert_eq!(
        bench.given_to(),
        [0; 0],
        "without a snapshot nothing is to be done"
    );
    let made = bench.snapshot("one");
    assert_eq!(made.state, SnapshotState::Sealing);
    assert!(bench.state.waits_for_owner(made.volume));
    bench.heal();
    assert!(!bench.state.waits_for_owner(made.volume));
    bench.attach_for_repair();
    bench.heal();
    assert_eq!(bench.given_to().len(), 1, "it stays until that is done");
    bench.report(1, 0);
    bench.heal();
    assert_eq!(bench.given_to(), [0; 0]);
    bench.let_go(true);
    assert_eq!(bench.snapshot("two").state, SnapshotState::Ready);
}

#[test]
fn a_late_word_of_a_detach_changes_nothing() {
    let mut bench = with_volume();
    let first = bench.attach("v", "x");
    bench.attach("v", "x");
    let id = bench.volume("v").id;
    let clean = |generation: Generation| DetachRequest {
        settled: true,
        ..detach(id, generation.get())
    };
    assert!(bench.state.plan_detach("v", &clean(first)).is_err());
    bench.let_go(false);
    let second = bench.volume("v").generation;
    let again = bench.state.plan_detach("v", &clean(second)).unwrap();
    assert!(again.changes.is_empty(), "it was not clean the first time");
    assert_eq!(bench.snapshot("one").state, SnapshotState::Sealing);
}

#[test]
fn a_deleted_snapshot_gives_its_interval_to_the_next() {
    let mut bench = with_volume();
    for name in ["one", "two", "three"] {
        bench.snapshot(name);
    }
    bench.delete("two");
    let expected = LayerTable {
        version: 1,
        live: runs(&[(1, 1), (2, 3), (4, 4)]),
        dropped: Vec::new(),
    };
    assert_eq!(bench.volume("v").layers, expected);
    bench.snapshot("four");
    bench.delete("three");
    assert_eq!(
        bench.volume("v").layers.live,
        runs(&[(1, 1), (2, 4), (5, 5)])
    );
    bench.delete("one");
    bench.delete("four");
    assert_eq!(bench.volume("v").layers.live, runs(&[(1, 5)]));
    assert_eq!(bench.layers(), [5, 4, 4, 0]);
    assert_eq!(bench.volume("v").snapshots, 0);
    let gone = bench.state.plan_snapshot_delete("v", "two", false);
    assert!(matches!(refused(gone), SnapshotRefusal::NotFound { .. }));
}

#[test]
fn a_changed_table_of_a_detached_volume_needs_an_owner_until_it_is_applied() {
    let mut bench = with_volume();
    bench.snapshot("one");
    bench.delete("one");
    bench.heal();
    bench.attach_for_repair();
    bench.report(1, 0);
    bench.heal();
    assert_eq!(bench.given_to().len(), 1);
    bench.report(1, 1);
    bench.heal();
    assert_eq!(bench.given_to(), [0; 0]);
    assert_eq!(bench.layers(), [2, 1, 1, 1]);
}

#[test]
fn a_snapshot_that_is_sealing_can_be_deleted() {
    let mut bench = with_volume();
    bench.attach("v", "x");
    bench.snapshot("one");
    bench.delete("one");
    assert_eq!(bench.volume("v").layers.live, runs(&[(1, 2)]));
    bench.report(0, 1);
    bench.let_go(false);
    bench.heal();
    assert_eq!(bench.given_to(), [0; 0], "nothing seals any more");
}

#[test]
fn a_rollback_drops_what_came_after_and_is_a_new_generation() {
    let mut bench = with_volume();
    bench.snapshot("one");
    let generation = bench.attach("v", "x");
    bench.snapshot("two");
    bench.report(2, 0);
    let attached = bench
        .state
        .plan_rollback("v", "two", RollbackVolume::default());
    assert!(matches!(
        attached,
        Err(Refusal::Volume(VolumeRefusal::Attached { .. }))
    ));
    bench.roll_back("two", FORCE);
    let volume = bench.volume("v");
    assert_eq!(volume.generation, generation.next());
    assert_eq!(volume.attached_by, None);
    let expected = LayerTable {
        version: 1,
        live: runs(&[(1, 1), (2, 2)]),
        dropped: runs(&[(3, 3)]),
    };
    assert_eq!(volume.layers, expected);
    assert_eq!(bench.layers(), [4, 2, 1, 0]);
    // Whoever had it learns by the next word that it is over.
    let proposal = ProposeInSync {
        generation,
        ..bench.propose("v", 0, 1, &[0, 1])
    };
    assert!(bench.state.plan_in_sync("v", &proposal).is_err());
    bench.heal();
    bench.attach_for_repair();
    bench.report(3, 1);
    bench.heal();
    assert_eq!(bench.given_to(), [0; 0]);
    // Again: the same run, longer. A snapshot of the new head is one of its own.
    bench.roll_back("two", RollbackVolume::default());
    assert_eq!(bench.volume("v").layers.dropped, runs(&[(3, 4)]));
    assert_eq!(bench.snapshot("three").layer, Layer::new(5));
    assert_eq!(bench.state_of("three"), SnapshotState::Sealing);
}

#[test]
fn a_rollback_deletes_newer_snapshots_only_when_told_to() {
    let mut bench = with_volume();
    for n in 1..=8 {
        bench.snapshot(&format!("s{n}"));
    }
    let plan = bench
        .state
        .plan_rollback("v", "s2", RollbackVolume::default());
    let refusal = refused(plan);
    let SnapshotRefusal::NotNewest { newest, newer, .. } = &refusal else {
        panic!("{refusal:?}")
    };
    assert_eq!((newest.len(), newest[0].as_str(), *newer), (5, "s8", 6));
    let text = refusal.to_string();
    assert!(text.contains("`s4` and 1 others are newer"), "{text}");
    assert!(text.contains("--delete-newer"), "{text}");
    bench.roll_back("s2", DELETE_NEWER);
    let left = bench.state.snapshots_of("v", false).unwrap();
    let left: Vec<&str> = left.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(left, ["s1", "s2"]);
    assert_eq!(bench.volume("v").layers.dropped, runs(&[(3, 9)]));
    assert_eq!(bench.layers(), [10, 8, 1, 0]);
    // Their names are free, and a deletion joins across what was dropped.
    bench.snapshot("s3");
    bench.delete("s3");
    let expected = LayerTable {
        version: 2,
        live: runs(&[(1, 1), (2, 2), (3, 11)]),
        dropped: runs(&[(3, 9)]),
    };
    assert_eq!(bench.volume("v").layers, expected);
}

#[test]
fn a_volume_goes_back_to_ready_snapshots_only() {
    let mut bench = with_volume();
    bench.attach("v", "x");
    bench.snapshot("one");
    let sealing = bench.state.plan_rollback("v", "one", FORCE);
    assert!(matches!(refused(sealing), SnapshotRefusal::NotReady { .. }));
    let unknown = bench.state.plan_rollback("v", "none", FORCE);
    assert!(matches!(refused(unknown), SnapshotRefusal::NotFound { .. }));
}

#[test]
fn a_repair_owner_does_not_keep_a_volume_from_a_rollback() {
    let mut bench = with_volume();
    bench.snapshot("one");
    bench.snapshot("two");
    bench.delete("two");
    bench.heal();
    bench.attach_for_repair();
    bench.roll_back("one", RollbackVolume::default());
    assert_eq!(bench.volume("v").attached_by, None);
    bench.heal();
    bench.attach_for_repair();
}

#[test]
fn names_are_checked_and_are_unique_within_their_volume() {
    let mut bench = with_volume();
    bench.ready_small("w");
    bench.snapshot("one");
    let twice = bench.state.plan_snapshot_create("v", &named("one"), 0);
    assert!(matches!(refused(twice), SnapshotRefusal::Exists { .. }));
    let wrong = bench.state.plan_snapshot_create("v", &named("a@b"), 0);
    assert!(matches!(wrong, Err(Refusal::Invalid(_))));
    let plan = bench.state.plan_snapshot_create("w", &named("one"), 0);
    bench.commit(plan.unwrap());
    let all: Vec<String> = bench
        .state
        .snapshots(false)
        .into_iter()
        .map(|s| s.volume_name)
        .collect();
    assert_eq!(all, ["v", "w"]);
    let map = bench.state.snapshot_map("v", "one").unwrap();
    assert_eq!((map.others.len(), map.disks.len()), (0, 3));
    bench.snapshot("two");
    let map = bench.state.snapshot_map("v", "one").unwrap();
    let others: Vec<&str> = map.others.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(others, ["two"]);
}

#[test]
fn snapshots_of_a_volume_that_is_not_ready_are_refused() {
    let mut bench = Bench::new();
    bench.create("v", 3);
    let early = bench.state.plan_snapshot_create("v", &named("one"), 0);
    assert!(matches!(
        early,
        Err(Refusal::Volume(VolumeRefusal::NotReady { .. }))
    ));
    bench.settle();
    bench.snapshot("one");
    let plan = bench.state.plan_delete("v", true).unwrap();
    bench.commit(plan);
    assert!(bench.state.plan_snapshot_delete("v", "one", false).is_err());
    assert!(bench.state.plan_rollback("v", "one", FORCE).is_err());
}

#[test]
fn snapshots_and_layers_are_counted() {
    let mut bench = with_volume();
    for n in 0..SNAPSHOTS_MAX {
        bench.snapshot(&format!("s{n}"));
    }
    let more = bench.state.plan_snapshot_create("v", &named("more"), 0);
    assert!(matches!(refused(more), SnapshotRefusal::TooMany { .. }));
    bench.delete("s17");
    assert_eq!(bench.volume("v").layers.live.len(), SNAPSHOTS_MAX);
    bench.snapshot("more");
    let id = bench.volume("v").id;
    let mut row = bench.state.volumes[&id].clone();
    row.head_layer = Layer::new(u32::MAX);
    bench.commit(Plan {
        reads: Vec::new(),
        changes: vec![AnyRow::Volume(row).put()],
        answer: (),
    });
    bench.delete("more");
    let used_up = bench.state.plan_snapshot_create("v", &named("more"), 0);
    assert!(matches!(
        refused(used_up),
        SnapshotRefusal::Exhausted { .. }
    ));
    let used_up = bench.state.plan_rollback("v", "s3", DELETE_NEWER);
    assert!(matches!(
        refused(used_up),
        SnapshotRefusal::Exhausted { .. }
    ));
}

#[test]
fn a_volume_with_snapshots_is_deleted_only_by_force_and_they_go_with_it() {
    let mut bench = with_volume();
    let volume = bench.snapshot("one").volume;
    bench.snapshot("two");
    let refusal = refused(bench.state.plan_delete("v", false));
    assert!(refusal.to_string().contains("has 2 snapshots"), "{refusal}");
    let plan = bench.state.plan_delete("v", true).unwrap();
    bench.commit(plan);
    bench.settle();
    assert_eq!(bench.state.volume(volume), None);
    assert_eq!(bench.state.snapshots.count(volume), 0);
    let rows = [1, 2].map(|layer| snapshot_key(volume, Layer::new(layer)));
    assert!(
        rows.iter()
            .all(|key| !bench.state.modified.contains_key(key))
    );
    // Without them no force is needed.
    bench.ready_small("v");
    bench.snapshot("one");
    bench.delete("one");
    assert!(bench.state.plan_delete("v", false).is_ok());
}

#[test]
fn lists_leave_the_layers_out() {
    let mut bench = with_volume();
    bench.snapshot("one");
    bench.delete("one");
    let listed = &bench.state.volumes()[0];
    assert_eq!(listed.layers, LayerTable::default());
    assert_eq!(bench.volume("v").layers.version, 1);
}

#[test]
fn snapshots_outlive_a_restart() {
    let mut bench = with_volume();
    bench.snapshot("one");
    bench.attach("v", "x");
    bench.snapshot("two");
    let again = read_back(&bench.state);
    assert_eq!(again.snapshots, bench.state.snapshots);
    assert_eq!(again.snapshots(true), bench.state.snapshots(true));
}
