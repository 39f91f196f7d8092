//! Volumes that change their size.

use ashlar_proto::api::{CreateSnapshot, ResizeVolume};

use super::*;
use crate::refusal::{InvalidRequest, ResizeRefusal};
use crate::row::VolumeRow;

fn to(size: u64) -> ResizeVolume {
    ResizeVolume {
        size_bytes: ByteCount::new(size),
        shrink: false,
        generation: None,
    }
}

fn cut_to(size: u64, generation: u32) -> ResizeVolume {
    ResizeVolume {
        shrink: true,
        generation: Some(Generation::new(generation)),
        ..to(size)
    }
}

impl Bench {
    fn resize(&mut self, name: &str, request: &ResizeVolume) -> Result<(), Refusal> {
        let plan = self.state.plan_resize(&self.live, name, request)?;
        self.commit(plan);
        Ok(())
    }

    /// A node carries out what it is assigned.
    fn apply_one(&mut self, node: u64) {
        let node = NodeId::new(node);
        let at = self.state.assigned(node).unwrap();
        self.live.applied.insert(node, at);
        self.commit(self.state.plan_settle(&self.live));
    }

    fn size(&self, name: &str) -> (u64, Option<u64>, usize) {
        let volume = self.state.volume_by_name(name).unwrap();
        let grows_to = volume.grows_to.map(|size| size.get() / GIB);
        (volume.size_bytes.get() / GIB, grows_to, volume.shards.len())
    }

    fn row(&self, id: VolumeId) -> &VolumeRow {
        &self.state.volumes[&id]
    }

    fn blocks_of(&self, node: u64) -> Vec<u32> {
        let list = self.state.assignments(NodeId::new(node));
        list.iter().map(|assignment| assignment.blocks).collect()
    }
}

#[test]
fn a_volume_grows_once_all_its_stores_have() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    let generation = bench.attach("v", "user");
    let known = bench.state.revision();
    bench.resize("v", &to(17 * GIB)).unwrap();
    assert_eq!(bench.size("v"), (10, Some(17), 3));
    for node in [1, 2, 3] {
        assert!(bench.state.assigned(NodeId::new(node)).unwrap() > known);
        let whole = 1 << 20;
        assert_eq!(
            bench.blocks_of(node),
            [whole, whole, whole, whole, whole / 4]
        );
        let made = bench.state.assignments(NodeId::new(node));
        let made: Vec<bool> = made.iter().map(|a| a.may_create).collect();
        assert_eq!(made, [false, false, false, true, true]);
    }
    bench.apply_one(1);
    bench.apply_one(3);
    assert_eq!(bench.size("v"), (10, Some(17), 3));
    // What else becomes of the volume is not waited for.
    let plan = bench
        .state
        .plan_detach("v", &detach(VolumeId::new(1), generation.get()));
    bench.commit(plan.unwrap());
    let told = bench.state.map_changed("v").unwrap();
    bench.apply_one(2);
    assert_eq!(bench.size("v"), (17, None, 5));
    assert!(bench.state.map_changed("v").unwrap() > told);
    let list = bench.state.assignments(NodeId::new(1));
    assert!(list.iter().all(|assignment| !assignment.may_create));
    assert!(!bench.state.has_unsettled());
}

#[test]
fn a_replica_in_sync_whose_node_is_down_is_waited_for_and_one_that_is_not_is_not() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    bench.attach("v", "user");
    bench.set_up(2, false);
    bench.resize("v", &to(12 * GIB)).unwrap();
    bench.settle();
    assert_eq!(bench.size("v"), (10, Some(12), 3));
    // The last shard ends with whole blocks of 4 GiB: only it is to grow.
    for shard in 0..3 {
        let row = &bench.state.volume_by_name("v").unwrap().shards[shard as usize];
        let keep: Vec<usize> = (0..3)
            .filter(|at| row.replicas[*at].node != NodeId::new(2))
            .collect();
        let proposal = bench.propose("v", shard, 1, &keep);
        let plan = bench.state.plan_in_sync("v", &proposal).unwrap();
        bench.commit(plan);
    }
    bench.commit(bench.state.plan_settle(&bench.live));
    assert_eq!(bench.size("v"), (12, None, 3));
    // Who is back is told all the same.
    assert_eq!(bench.blocks_of(2), [1 << 20; 3]);
}

#[test]
fn a_growth_goes_on_after_a_restart() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    bench.resize("v", &to(17 * GIB)).unwrap();
    bench.apply_one(1);
    bench.state = read_back(&bench.state);
    bench.state.renew_assignments();
    bench.live.applied.clear();
    for node in [1, 2] {
        bench.apply_one(node);
        assert_eq!(bench.size("v"), (10, Some(17), 3));
    }
    bench.apply_one(3);
    assert_eq!(bench.size("v"), (17, None, 5));
}

#[test]
fn a_growth_is_given_up_or_given_another_target() {
    let mut bench = Bench::new();
    let id = bench.ready("v", 3);
    bench.resize("v", &to(17 * GIB)).unwrap();
    bench.apply_one(1);
    let replicas = bench.state.cluster.next_replica;
    bench.resize("v", &to(22 * GIB)).unwrap();
    assert_eq!(bench.size("v"), (10, Some(22), 3));
    // One shard was to be made already, of another length.
    assert_eq!(bench.state.cluster.next_replica, replicas + 3);
    bench.resize("v", &to(10 * GIB)).unwrap();
    assert_eq!(bench.size("v"), (10, None, 3));
    assert_eq!(bench.state.shards_of(id).count(), 3);
    // What a store may have given to the last shard stays its own.
    assert_eq!(bench.row(id).kept_bytes, ByteCount::new(12 * GIB));
    assert_eq!(bench.blocks_of(1), [1 << 20; 3]);
    bench.settle();
    assert_eq!(bench.size("v"), (10, None, 3));
    bench.resize("v", &to(11 * GIB)).unwrap();
    bench.settle();
    assert_eq!(bench.size("v"), (11, None, 3));
}

#[test]
fn a_volume_shrinks_only_where_nobody_has_it_and_the_last_owner_says_so() {
    let mut bench = Bench::new();
    let id = bench.ready("v", 3);
    let name = || "v".to_owned();
    let smaller = Refusal::Resize(ResizeRefusal::Smaller {
        name: name(),
        asked: ByteCount::new(5 * GIB),
        current: ByteCount::new(10 * GIB),
    });
    assert_eq!(bench.resize("v", &to(5 * GIB)), Err(smaller));
    let unseen = ResizeVolume {
        shrink: true,
        ..to(5 * GIB)
    };
    let expected = Refusal::Resize(ResizeRefusal::Unseen { name: name() });
    assert_eq!(bench.resize("v", &unseen), Err(expected));
    let generation = bench.attach("v", "user").get();
    let attached = bench.resize("v", &cut_to(5 * GIB, generation));
    assert!(matches!(
        attached,
        Err(Refusal::Volume(VolumeRefusal::Attached { .. }))
    ));
    let plan = bench.state.plan_detach("v", &detach(id, generation));
    bench.commit(plan.unwrap());
    let stale = bench.resize("v", &cut_to(5 * GIB, generation - 1));
    assert!(matches!(
        stale,
        Err(Refusal::Volume(VolumeRefusal::StaleGeneration { .. }))
    ));
    let odd = bench.resize("v", &cut_to(5 * GIB + 512, generation));
    assert!(matches!(
        odd,
        Err(Refusal::Invalid(InvalidRequest::Size { .. }))
    ));
    bench.resize("v", &cut_to(5 * GIB, generation)).unwrap();
    assert_eq!(bench.size("v"), (5, None, 2));
    // The shard that was cut is as long as before on its stores, the one beyond is theirs no more.
    assert_eq!(bench.blocks_of(1), [1 << 20; 2]);
    assert_eq!(bench.state.shards_of(id).count(), 2);
    assert!(!bench.state.has_unsettled());
    let before: Vec<_> = bench.state.shards_of(id).cloned().collect();
    bench.resize("v", &to(10 * GIB)).unwrap();
    bench.settle();
    assert_eq!(bench.size("v"), (10, None, 3));
    let after: Vec<_> = bench.state.shards_of(id).cloned().collect();
    assert_eq!(before, after[..2]);
    assert_eq!(bench.blocks_of(1), [1 << 20, 1 << 20, 1 << 19]);
}

#[test]
fn a_volume_with_snapshots_does_not_shrink() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    let request = CreateSnapshot {
        name: "s".to_owned(),
    };
    let plan = bench.state.plan_snapshot_create("v", &request, 7).unwrap();
    bench.commit(plan);
    let refused = bench.resize("v", &cut_to(5 * GIB, 0));
    let expected = ResizeRefusal::HasSnapshots {
        name: "v".to_owned(),
        snapshots: 1,
    };
    assert_eq!(refused, Err(Refusal::Resize(expected)));
    bench.resize("v", &to(20 * GIB)).unwrap();
    bench.settle();
    assert_eq!(bench.size("v"), (20, None, 5));
    let map = bench.state.snapshot_map("v", "s").unwrap();
    assert_eq!(map.snapshot.size_bytes, ByteCount::new(10 * GIB));
}

#[test]
fn a_growth_needs_room_where_the_last_shard_lies() {
    let mut bench = Bench::new();
    bench.ready_small("v");
    let full = DiskReport {
        used_bytes: ByteCount::new(99 * GIB),
        ..report(2)
    };
    bench.say(2, &[full]);
    let refused = bench.resize("v", &to(2 * GIB));
    assert!(matches!(refused, Err(Refusal::Placement(_))), "{refused:?}");
    assert_eq!(bench.size("v"), (1, None, 1));
}
