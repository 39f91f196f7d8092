//! What may be promised, what is kept, and what becomes of disks that run full.

use ashlar_proto::api::{
    DiskLevel, EventKind, ReplicaUse, Reserve, ReserveVolume, ResizeVolume, SetSpace,
};

use super::*;
use crate::levels::BACK_LOOKS;
use crate::refusal::{InvalidRequest, SpaceRefusal};
use crate::state::rebalance::Rebalancing;

pub(super) const ANY: SetSpace = SetSpace {
    over_commit_percent: None,
    soft_percent: None,
    hard_percent: None,
};

impl Bench {
    pub(super) fn set_space(&mut self, request: SetSpace) {
        let plan = self.state.plan_space(&request).unwrap();
        self.commit(plan);
    }

    pub(super) fn try_create(
        &self,
        name: &str,
        gib: u64,
        reserve: Reserve,
    ) -> Result<Plan<VolumeId>, Refusal> {
        let request = CreateVolume {
            size_bytes: ByteCount::new(gib * GIB),
            reserve,
            ..volume(name, 3)
        };
        self.state.plan_create(&self.live, &request, SHARD_BYTES)
    }

    fn resize_to(&self, name: &str, gib: u64) -> Result<Plan<(VolumeId, ByteCount)>, Refusal> {
        let request = ResizeVolume {
            size_bytes: ByteCount::new(gib * GIB),
            shrink: false,
            generation: None,
        };
        self.state.plan_resize(&self.live, name, &request)
    }

    fn reserve(&mut self, name: &str, reserve: Reserve) -> Result<(), Refusal> {
        let request = ReserveVolume { reserve };
        let plan = self.state.plan_reserve(&self.live, name, &request)?;
        self.commit(plan);
        Ok(())
    }

    /// A store reports its disk, with what its replicas take, each so many GiB.
    fn uses(&mut self, disk: u64, used: u64, largest: &[(&str, u64)], more: DiskReport) {
        let uses = largest.iter().map(|(name, gib)| {
            let mine = |r: &Replica| r.disk == DiskId::new(u128::from(disk));
            let replica = self.replicas(name).into_iter().find(mine).unwrap().id;
            let used_bytes = ByteCount::new(gib * GIB);
            ReplicaUse {
                replica,
                used_bytes,
            }
        });
        let report = DiskReport {
            used_bytes: ByteCount::new(used * GIB),
            largest: uses.collect(),
            reserved_bytes: more.reserved_bytes,
            unfilled_bytes: more.unfilled_bytes,
            full: more.full,
            ..report(u128::from(disk))
        };
        self.live.reports.insert(report.id, report.clone());
        self.say(disk, &[report]);
    }

    fn look_at_space(&mut self) -> Vec<EventKind> {
        let last = self.live.events.after(0).last().map_or(0, |event| event.id);
        self.state.note_space(&mut self.live, 1_000_000);
        let news = self.live.events.after(last);
        news.into_iter().map(|event| event.kind).collect()
    }

    /// What moves now, with all that was assigned carried out.
    fn relieve(&mut self) -> Rebalancing {
        self.settle();
        let outlook = self.commit(self.state.plan_healing(&self.live));
        let plan = self.state.plan_rebalance(&self.live, &outlook);
        self.commit(plan)
    }

    fn level(&self, disk: u128) -> DiskLevel {
        self.live.levels.of(DiskId::new(disk))
    }
}

#[test]
fn no_more_is_promised_than_the_ratio_allows() {
    let mut bench = Bench::new();
    // Three disks of 100 GiB: 150 GiB may be promised of each, 450 in all.
    bench.set_space(SetSpace {
        over_commit_percent: Some(150),
        ..ANY
    });
    let plan = bench.try_create("a", 100, Reserve::None).unwrap();
    bench.commit(plan);
    bench.settle();
    let refused = bench.try_create("b", 51, Reserve::None).unwrap_err();
    assert_eq!(
        refused,
        Refusal::Space(SpaceRefusal::OverCommitted {
            more: ByteCount::new(153 * GIB),
            provisioned: ByteCount::new(300 * GIB),
            capacity: ByteCount::new(300 * GIB),
            percent: 150,
        })
    );
    let told = refused.to_string();
    assert!(
        told.contains("at most 1.5 times") && told.contains("--over-commit"),
        "{told}"
    );
    let plan = bench.try_create("b", 40, Reserve::None).unwrap();
    bench.commit(plan);
    bench.settle();
    let refused = bench.resize_to("b", 51).unwrap_err();
    assert!(matches!(
        refused,
        Refusal::Space(SpaceRefusal::OverCommitted { .. })
    ));
    // A growth that has not ended counts.
    let plan = bench.resize_to("b", 50).unwrap();
    bench.commit(plan);
    let shown = bench.state.show_space(&bench.live);
    assert_eq!(shown.provisioned_bytes, ByteCount::new(450 * GIB));
    assert!(bench.try_create("c", 1, Reserve::None).is_err());
    bench.set_space(SetSpace {
        over_commit_percent: Some(0),
        ..ANY
    });
    assert!(bench.try_create("c", 4000, Reserve::None).is_ok());
}

#[test]
fn rules_that_make_no_sense_are_refused() {
    let bench = Bench::new();
    let refused = |request: SetSpace| bench.state.plan_space(&request).unwrap_err();
    let thresholds = refused(SetSpace {
        soft_percent: Some(95),
        ..ANY
    });
    let expected = InvalidRequest::Thresholds { soft: 95, hard: 90 };
    assert_eq!(thresholds, Refusal::Invalid(expected));
    let ratio = refused(SetSpace {
        over_commit_percent: Some(99),
        ..ANY
    });
    assert_eq!(
        ratio,
        Refusal::Invalid(InvalidRequest::OverCommit { percent: 99 })
    );
    assert!(bench.state.plan_space(&ANY).unwrap().changes.is_empty());
}

#[test]
fn lost_capacity_and_what_comes_back_are_told_once() {
    let mut bench = Bench::new();
    bench.set_space(SetSpace {
        over_commit_percent: Some(100),
        ..ANY
    });
    let plan = bench.try_create("a", 90, Reserve::None).unwrap();
    bench.commit(plan);
    bench.settle();
    assert_eq!(bench.look_at_space(), []);
    let gone = DiskReport {
        failed: Some("broken".to_owned()),
        ..report(3)
    };
    bench.say(3, &[gone]);
    assert_eq!(bench.look_at_space(), [EventKind::OverCommitted]);
    assert_eq!(bench.look_at_space(), []);
    bench.say(3, &[report(3)]);
    assert_eq!(bench.look_at_space(), [EventKind::OverCommitEnded]);
}

#[test]
fn reservations_are_given_only_where_there_is_room_for_them() {
    let mut bench = Bench::new();
    let plan = bench.try_create("a", 60, Reserve::All).unwrap();
    bench.commit(plan);
    // Before its stores have said anything of it.
    assert!(bench.try_create("b", 40, Reserve::All).is_err());
    bench.settle();
    let of_a: u64 = bench
        .state
        .assignments(NodeId::new(1))
        .iter()
        .map(|a| u64::from(a.reserve_blocks))
        .sum();
    assert_eq!(of_a, 60 * GIB / 4096);
    let reserved = 60 * GIB + 60 * GIB / 250;
    for disk in 1..=3 {
        let kept = DiskReport {
            reserved_bytes: ByteCount::new(reserved),
            unfilled_bytes: ByteCount::new(reserved - 50 * GIB),
            ..DiskReport::default()
        };
        bench.uses(disk, 50, &[("a", 50)], kept);
    }
    // What is filled and what is kept come to 60 GiB, so some 29 can be kept below 90.
    assert!(bench.try_create("b", 31, Reserve::All).is_err());
    assert!(bench.try_create("b", 31, Reserve::None).is_ok());
    let plan = bench.try_create("b", 20, Reserve::All).unwrap();
    bench.commit(plan);
    bench.settle();
    let refused = bench.reserve("b", Reserve::Bytes(ByteCount::new(21 * GIB)));
    assert!(matches!(
        refused,
        Err(Refusal::Invalid(InvalidRequest::Reserve { .. }))
    ));
    bench
        .reserve("b", Reserve::Bytes(ByteCount::new(GIB)))
        .unwrap();
    let plan = bench.try_create("c", 20, Reserve::None).unwrap();
    bench.commit(plan);
    bench.settle();
    bench
        .reserve("c", Reserve::Bytes(ByteCount::new(10 * GIB)))
        .unwrap();
    let refused = bench.reserve("b", Reserve::All).unwrap_err();
    assert!(
        matches!(refused, Refusal::Space(SpaceRefusal::NotKept { .. })),
        "{refused}"
    );
    // Divided over its shards by their lengths.
    let blocks = |node: u64| -> Vec<u32> {
        let list = bench.state.assignments(NodeId::new(node));
        let c = bench.state.volume_by_name("c").unwrap().id;
        list.iter()
            .filter(|a| a.volume == c)
            .map(|a| a.reserve_blocks)
            .collect()
    };
    assert_eq!(blocks(1), [1 << 19; 5]);
    bench.reserve("c", Reserve::None).unwrap();
    bench.reserve("b", Reserve::All).unwrap();
}

#[test]
fn what_a_volume_has_taken_already_it_can_reserve_on_a_full_disk() {
    let mut bench = Bench::new();
    bench.ready_small("a");
    for disk in 1..=3 {
        bench.uses(disk, 95, &[("a", 1)], DiskReport::default());
    }
    let most = Reserve::Bytes(ByteCount::new(GIB - 64 * 4096 * 256));
    bench.reserve("a", most).unwrap();
    let other = Reserve::All;
    assert!(matches!(
        bench.reserve("a", other),
        Err(Refusal::Space(SpaceRefusal::NotKept { .. }))
    ));
}

#[test]
fn new_volumes_avoid_disks_above_the_soft_threshold() {
    let mut bench = Bench::with(&["a", "b", "c", "d"], 1);
    // Nearly nothing of it is promised, so by weight alone it would get its share.
    bench.uses(1, 81, &[], DiskReport::default());
    for disk in 2..=4 {
        bench.uses(disk, 79, &[], DiskReport::default());
    }
    for name in ["u", "v", "w"] {
        bench.ready_small(name);
        let disks = bench.replicas(name);
        assert!(disks.iter().all(|r| r.disk != DiskId::new(1)), "{name}");
    }
    // If there is no other, it is taken; above the hard threshold it is not.
    bench.uses(4, 81, &[], DiskReport::default());
    bench.uses(3, 90, &[], DiskReport::default());
    bench.ready_small("x");
    assert!(bench.replicas("x").iter().all(|r| r.disk != DiskId::new(3)));
    bench.uses(4, 90, &[], DiskReport::default());
    assert!(bench.try_create("y", 1, Reserve::None).is_err());
}

#[test]
fn replicas_leave_a_disk_above_the_hard_threshold_for_those_below_the_soft_one() {
    let mut bench = Bench::with(&["a", "b", "c", "d"], 1);
    for name in ["u", "v", "w"] {
        bench.ready_small(name);
        bench.attach(name, "x");
    }
    bench.set_space(SetSpace {
        soft_percent: Some(85),
        ..ANY
    });
    let full: u64 = 1;
    let on_full: Vec<&str> = ["u", "v", "w"]
        .into_iter()
        .filter(|name| {
            let replicas = bench.replicas(name);
            replicas.iter().any(|r| r.disk == DiskId::new(1))
        })
        .collect();
    assert!(on_full.len() >= 2, "{on_full:?}");
    let largest: Vec<(&str, u64)> = on_full.iter().map(|name| (*name, 3)).collect();
    // So near each other that nothing moves to even them out.
    let others = |bench: &mut Bench, used| {
        for disk in 2..=4 {
            bench.uses(disk, used, &[], DiskReport::default());
        }
    };
    bench.uses(full, 86, &largest, DiskReport::default());
    others(&mut bench, 81);
    assert_eq!(bench.look_at_space(), [EventKind::DiskAboveSoft]);
    assert_eq!(bench.relieve().begun, [], "above soft nothing moves");

    bench.uses(full, 91, &largest, DiskReport::default());
    assert_eq!(bench.look_at_space(), [EventKind::DiskAboveHard]);
    others(&mut bench, 83);
    assert_eq!(bench.relieve().begun, [], "all others would be above soft");
    others(&mut bench, 81);
    let begun = bench.relieve().begun;
    // It is 6 GiB too full, and each of the others has room for one of 3.
    assert_eq!(begun.len(), 2, "{begun:?}");
    assert!(begun.iter().all(|next| next.from.1 == DiskId::new(1)));
    assert_ne!(begun[0].to.1, begun[1].to.1);
    assert_eq!(bench.relieve().begun, [], "what is under way is enough");
    assert!(!bench.state.rebalance.active, "this evens nothing out");
    assert_eq!(bench.level(1), DiskLevel::Hard);
    bench.uses(full, 72, &[], DiskReport::default());
    let down: Vec<EventKind> = (0..3 * BACK_LOOKS)
        .flat_map(|_| bench.look_at_space())
        .collect();
    assert_eq!(down, [EventKind::DiskBelowHard, EventKind::DiskBelowSoft]);
}

#[test]
fn paused_nothing_leaves_a_full_disk() {
    let mut bench = Bench::with(&["a", "b", "c", "d"], 1);
    bench.ready_small("u");
    bench.attach("u", "x");
    let full = bench.replicas("u")[0].disk;
    let number = u64::try_from(full.get()).unwrap();
    bench.uses(number, 95, &[("u", 20)], DiskReport::default());
    bench.look_at_space();
    let plan = bench.state.plan_pause(true);
    bench.commit(plan);
    assert_eq!(bench.relieve().begun, []);
    let plan = bench.state.plan_pause(false);
    bench.commit(plan);
    assert_eq!(bench.relieve().begun.len(), 1);
}

#[test]
fn a_replica_that_has_no_room_to_catch_up_is_made_elsewhere() {
    let mut bench = Bench::with(&["a", "b", "c", "d"], 1);
    bench.ready_small("u");
    bench.attach("u", "x");
    let stuck = bench.replicas("u")[0].clone();
    bench.commit_set("u", &[1, 2]);
    bench.heal();
    assert!(
        bench.replicas("u").iter().any(|r| r.id == stuck.id),
        "it may catch up"
    );
    let full = DiskReport {
        full: true,
        ..DiskReport::default()
    };
    let number = u64::try_from(stuck.disk.get()).unwrap();
    bench.uses(number, 60, &[], full);
    let news = bench.look_at_space();
    assert_eq!(news.last(), Some(&EventKind::DiskFull));
    bench.heal();
    let replicas = bench.replicas("u");
    assert!(
        replicas.iter().all(|r| r.disk != stuck.disk),
        "{replicas:?}"
    );
    assert!(replicas.iter().any(|r| r.fresh));
    let failed = bench.state.status(&bench.live, bench.now).disks_failed;
    assert_eq!(failed, 0, "a full disk has not failed");
}
