//! Clones: what they stand on stays, until they need it no more.

use ashlar_proto::Layer;
use ashlar_proto::api::{
    CloneSnapshot, FlattenVolume, ReportFlatten, Reserve, ResizeVolume, RollbackVolume, SetSpace,
};

use super::space::ANY;
use super::*;
use crate::refusal::{InvalidRequest, SnapshotRefusal, SpaceRefusal};
use crate::state::clones::CHAIN_MAX;

fn clone_as(name: &str) -> CloneSnapshot {
    CloneSnapshot {
        name: name.to_owned(),
        size_bytes: None,
        replicas: None,
        ack: None,
    }
}

/// Else a clone of it would be a way around them.
#[test]
fn a_clone_is_limited_as_its_volume_is() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    let set = [("iops-max", "100"), ("scrub-rate", "1MiB")];
    bench.configure(Some("v"), &set);
    bench.snapshot_of("v", "s");
    bench.clone_of("v", "s", "w");
    let settings = bench.state.volume_by_name("w").unwrap().settings;
    assert_eq!(settings.requests_per_second, Some(100));
    assert_eq!(settings.scrub_bytes_per_second, None);
}

impl Bench {
    pub(super) fn clone_of(&mut self, volume: &str, snapshot: &str, name: &str) {
        let plan = self.try_clone(volume, snapshot, &clone_as(name));
        self.commit(plan.unwrap());
        self.settle();
    }

    fn try_clone(
        &self,
        volume: &str,
        snapshot: &str,
        request: &CloneSnapshot,
    ) -> Result<Plan<VolumeId>, Refusal> {
        let state = &self.state;
        state.plan_clone(&self.live, volume, snapshot, request, SHARD_BYTES)
    }

    pub(super) fn snapshot_of(&mut self, volume: &str, name: &str) {
        let request = ashlar_proto::api::CreateSnapshot {
            name: name.to_owned(),
        };
        let plan = self.state.plan_snapshot_create(volume, &request, 7);
        self.commit(plan.unwrap());
    }

    fn try_delete(&self, volume: &str, name: &str, unused: bool) -> Option<SnapshotRefusal> {
        match self.state.plan_snapshot_delete(volume, name, unused) {
            Err(Refusal::Snapshot(refusal)) => Some(refusal),
            other => {
                other.unwrap();
                None
            }
        }
    }

    fn delete_when_unused(&mut self, volume: &str, name: &str) {
        let plan = self.state.plan_snapshot_delete(volume, name, true);
        self.commit(plan.unwrap());
    }

    fn delete_volume(&mut self, name: &str) {
        let plan = self.state.plan_delete(name, true).unwrap();
        self.commit(plan);
        self.settle();
        assert!(self.state.volume_by_name(name).is_none());
    }

    fn reap(&mut self) -> usize {
        let plan = self.state.plan_reaping();
        assert_eq!(self.state.has_unused(), !plan.changes.is_empty());
        self.commit(plan).len()
    }

    fn names(&self, volume: &str, deleted: bool) -> Vec<String> {
        let all = self.state.snapshots_of(volume, deleted).unwrap();
        all.into_iter().map(|snapshot| snapshot.name).collect()
    }

    fn flatten(&mut self, name: &str, stop: bool) {
        let plan = self.state.plan_flatten(name, FlattenVolume { stop });
        self.commit(plan.unwrap());
    }

    fn report_flatten(&mut self, name: &str, generation: Generation, done: u64) -> bool {
        let volume = self.state.volume_by_name(name).unwrap();
        let origin = volume.origin.unwrap();
        let report = ReportFlatten {
            volume: volume.id,
            generation,
            origin_volume: origin.volume,
            origin_layer: origin.layer,
            done_bytes: ByteCount::new(done),
        };
        let plan = self.state.plan_report_flatten(name, &report);
        plan.map(|plan| self.commit(plan)).is_ok()
    }

    fn done(&self, name: &str) -> Option<u64> {
        let volume = self.state.volume_by_name(name).unwrap();
        volume.flattening.map(|so_far| so_far.done_bytes.get())
    }
}

#[test]
fn a_clone_is_a_volume_of_its_own_that_keeps_its_snapshot() {
    let mut bench = Bench::new();
    let parent = bench.ready("v", 3);
    bench.snapshot_of("v", "s");
    bench.clone_of("v", "s", "c");
    let clone = bench.state.volume_by_name("c").unwrap();
    let origin = clone.origin.clone().unwrap();
    assert_eq!((origin.volume, origin.layer), (parent, Layer::new(1)));
    assert_eq!(
        (origin.volume_name.as_str(), origin.snapshot.as_str()),
        ("v", "s")
    );
    assert_eq!((origin.bytes, clone.replicas), (clone.size_bytes, 3));
    assert_eq!(bench.state.snapshot("v", "s").unwrap().clones, 1);
    // Nothing takes its snapshot away.
    let refusal = bench.try_delete("v", "s", false).unwrap();
    assert!(refusal.to_string().contains("`c`"), "{refusal}");
    assert!(matches!(refusal, SnapshotRefusal::HasClones { .. }));
    for force in [false, true] {
        let refused = bench.state.plan_delete("v", force);
        let Err(Refusal::Snapshot(refusal)) = refused else {
            panic!("it has clones")
        };
        assert!(matches!(refusal, SnapshotRefusal::HasClones { .. }));
    }
    bench.delete_volume("c");
    assert_eq!(bench.try_delete("v", "s", false), None);
    assert_eq!(bench.state.snapshot("v", "s").unwrap().clones, 0);
}

#[test]
fn what_may_be_cloned_and_how() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    bench.attach("v", "user");
    bench.snapshot_of("v", "s");
    let sealing = bench.try_clone("v", "s", &clone_as("c"));
    assert!(matches!(
        sealing,
        Err(Refusal::Snapshot(SnapshotRefusal::NotReady { .. }))
    ));
    let missing = bench.try_clone("v", "t", &clone_as("c"));
    assert!(matches!(
        missing,
        Err(Refusal::Snapshot(SnapshotRefusal::NotFound { .. }))
    ));
    bench.ready("w", 2);
    bench.snapshot_of("w", "s");
    let size = bench.state.volume_by_name("w").unwrap().size_bytes;
    let with = |size_bytes: u64| CloneSnapshot {
        size_bytes: Some(ByteCount::new(size_bytes)),
        replicas: Some(3),
        ..clone_as("c")
    };
    let smaller = bench.try_clone("w", "s", &with(size.get() - 4096));
    assert!(matches!(
        smaller,
        Err(Refusal::Invalid(InvalidRequest::CloneSize { .. }))
    ));
    let plan = bench.try_clone("w", "s", &with(size.get() * 2)).unwrap();
    bench.commit(plan);
    let clone = bench.state.volume_by_name("c").unwrap();
    assert_eq!(
        (clone.replicas, clone.size_bytes.get()),
        (3, size.get() * 2)
    );
    assert_eq!(clone.origin.unwrap().bytes, size);
}

/// Two plans are made at once; the first that is committed makes the other one void.
#[test]
fn a_clone_and_the_end_of_its_snapshot_exclude_each_other() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    bench.snapshot_of("v", "s");
    let clone = bench.try_clone("v", "s", &clone_as("c")).unwrap();
    let delete = bench.state.plan_snapshot_delete("v", "s", false).unwrap();
    let end = bench.state.plan_delete("v", true).unwrap();
    let keys = |plan: &Plan<VolumeId>| -> Vec<String> {
        let changed = plan.changes.iter().map(Change::key);
        let keys = plan.reads.iter().chain(changed);
        keys.map(|key| key.as_str().to_owned()).collect()
    };
    let changed = |changes: &[Change]| -> Vec<String> {
        changes
            .iter()
            .map(|c| c.key().as_str().to_owned())
            .collect()
    };
    let meets = |a: Vec<String>, b: Vec<String>| a.iter().any(|key| b.contains(key));
    assert!(meets(keys(&clone), changed(&delete.changes)));
    assert!(meets(changed(&clone.changes), changed(&delete.changes)));
    assert!(meets(keys(&clone), changed(&end.changes)));
    assert!(meets(changed(&clone.changes), keys(&end)));
}

#[test]
fn a_snapshot_deleted_when_unused_goes_with_the_last_of_its_clones() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    bench.snapshot_of("v", "s");
    bench.clone_of("v", "s", "c");
    bench.clone_of("v", "s", "d");
    bench.delete_when_unused("v", "s");
    assert!(bench.names("v", false).is_empty());
    assert_eq!(bench.names("v", true), ["~1"]);
    assert_eq!(bench.state.volume_by_name("v").unwrap().snapshots, 0);
    assert_eq!(bench.reap(), 0);
    // Its name is free, and it is still found by its layer.
    bench.snapshot_of("v", "s");
    let map = bench.state.snapshot_map("v", "~1").unwrap();
    assert!(map.snapshot.deleted && map.snapshot.layer == Layer::new(1));
    assert!(bench.try_clone("v", "~1", &clone_as("e")).is_err());
    bench.delete_volume("c");
    assert_eq!(bench.reap(), 0);
    bench.delete_volume("d");
    assert_eq!(bench.reap(), 1);
    assert_eq!(bench.names("v", true), ["s"]);
    assert_eq!(bench.state.volume_by_name("v").unwrap().layers.version, 1);
    // One without clones goes at once.
    assert_eq!(bench.try_delete("v", "s", true), None);
}

#[test]
fn a_clone_is_flattened_by_its_owner_from_where_the_last_one_was() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    bench.snapshot_of("v", "s");
    bench.clone_of("v", "s", "c");
    let size = bench.state.volume_by_name("c").unwrap().size_bytes.get();
    bench.flatten("v", false);
    assert_eq!(bench.done("v"), None, "it is no clone");
    bench.flatten("c", false);
    assert_eq!(bench.done("c"), Some(0));
    // Nobody has it: a store is to do it.
    let id = bench.state.volume_by_name("c").unwrap().id;
    assert!(bench.state.waits_for_owner(id));
    bench.heal();
    let given = (1..=3).filter(|node| !bench.state.repairs(NodeId::new(*node)).is_empty());
    assert_eq!(given.count(), 1);
    let first = bench.attach("c", "user");
    assert!(bench.report_flatten("c", first, size / 2));
    assert!(bench.report_flatten("c", first, size / 4), "repeated late");
    assert_eq!(bench.done("c"), Some(size / 2));
    bench.commit(
        bench
            .state
            .plan_detach("c", &detach(id, first.get()))
            .unwrap(),
    );
    let second = bench.attach("c", "other");
    assert!(!bench.report_flatten("c", first, size), "it was replaced");
    bench.flatten("c", true);
    assert_eq!(bench.done("c"), None);
    assert!(
        bench.report_flatten("c", second, size),
        "and changes nothing"
    );
    assert!(bench.state.volume_by_name("c").unwrap().origin.is_some());
    bench.flatten("c", false);
    bench.snapshot_of("c", "own");
    assert!(bench.report_flatten("c", second, size));
    let flat = bench.state.volume_by_name("c").unwrap();
    assert!(flat.origin.is_none() && flat.flattening.is_none());
    // A snapshot that it had before shows the other one still.
    assert!(bench.try_delete("v", "s", false).is_some());
    assert!(bench.state.snapshot("c", "own").unwrap().origin.is_some());
}

#[test]
fn going_back_brings_the_origin_back_and_takes_none_away() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    bench.snapshot_of("v", "s");
    bench.clone_of("v", "s", "c");
    bench.snapshot_of("c", "before");
    let size = bench.state.volume_by_name("c").unwrap().size_bytes.get();
    let generation = bench.attach("c", "user");
    bench.flatten("c", false);
    assert!(bench.report_flatten("c", generation, size));
    let id = bench.state.volume_by_name("c").unwrap().id;
    bench.commit(
        bench
            .state
            .plan_detach("c", &detach(id, generation.get()))
            .unwrap(),
    );
    let request = RollbackVolume {
        force: false,
        delete_newer: true,
    };
    let plan = bench.state.plan_rollback("c", "before", request).unwrap();
    bench.commit(plan);
    assert!(bench.state.volume_by_name("c").unwrap().origin.is_some());
    // A newer snapshot with a clone stays, whatever is asked.
    bench.snapshot_of("v", "t");
    bench.clone_of("v", "t", "d");
    let refused = bench.state.plan_rollback("v", "s", request);
    assert!(matches!(
        refused,
        Err(Refusal::Snapshot(SnapshotRefusal::HasClones { .. }))
    ));
}

/// What is cut off does not show again when the clone grows.
#[test]
fn a_clone_that_is_cut_shows_less_of_its_origin() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    bench.snapshot_of("v", "s");
    bench.clone_of("v", "s", "c");
    let generation = bench.state.volume_by_name("c").unwrap().generation;
    let to = |size: u64, generation: Option<Generation>| ResizeVolume {
        size_bytes: ByteCount::new(size),
        shrink: generation.is_some(),
        generation,
    };
    let size = bench.state.volume_by_name("c").unwrap().size_bytes.get();
    for request in [to(GIB, Some(generation)), to(size, None)] {
        let plan = bench.state.plan_resize(&bench.live, "c", &request);
        bench.commit(plan.unwrap());
        bench.settle();
    }
    let clone = bench.state.volume_by_name("c").unwrap();
    assert_eq!(clone.origin.unwrap().bytes, ByteCount::new(GIB));
}

#[test]
fn chains_of_clones_have_an_end() {
    let mut bench = Bench::new();
    bench.ready_small("c0");
    for at in 0..CHAIN_MAX - 1 {
        let (parent, name) = (format!("c{at}"), format!("c{}", at + 1));
        bench.snapshot_of(&parent, "s");
        bench.clone_of(&parent, "s", &name);
    }
    let last = format!("c{}", CHAIN_MAX - 1);
    bench.snapshot_of(&last, "s");
    let refused = bench.try_clone(&last, "s", &clone_as("more"));
    assert!(matches!(
        refused,
        Err(Refusal::Snapshot(SnapshotRefusal::ChainTooLong { .. }))
    ));
}

#[test]
fn a_clone_counts_as_what_it_may_grow_to() {
    let mut bench = Bench::new();
    // Three disks of 100 GiB.
    bench.set_space(SetSpace {
        over_commit_percent: Some(150),
        ..ANY
    });
    let plan = bench.try_create("v", 100, Reserve::None);
    bench.commit(plan.unwrap());
    bench.settle();
    bench.snapshot_of("v", "s");
    let refused = bench.try_clone("v", "s", &clone_as("c")).unwrap_err();
    assert!(
        matches!(refused, Refusal::Space(SpaceRefusal::OverCommitted { .. })),
        "{refused}"
    );
    let thinner = CloneSnapshot {
        replicas: Some(1),
        ..clone_as("c")
    };
    assert!(bench.try_clone("v", "s", &thinner).is_ok());
}
