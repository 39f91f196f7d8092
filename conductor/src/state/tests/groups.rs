//! Groups of snapshots: what their steps need, what makes them fail, and that nothing is left then.

use ashlar_proto::api::{
    CreateSnapshot, CreateSnapshotGroup, DenyClient, HoldOutcome, HoldWord, ReportHold,
    ReportLayers, RollbackVolume, SnapshotState, VolumeHold, repair_owner,
};
use ashlar_proto::limits::GROUP_VOLUMES_MAX;
use ashlar_proto::{GroupId, Layer};

use super::*;
use crate::refusal::{GroupRefusal, SnapshotRefusal};
use crate::state::Progress;

const KEPT: HoldWord = HoldWord::Kept;
const HELD: HoldWord = HoldWord::Held;

fn of(volumes: &[&str], name: &str) -> CreateSnapshotGroup {
    CreateSnapshotGroup {
        name: name.to_owned(),
        volumes: volumes.iter().map(|&volume| volume.to_owned()).collect(),
    }
}

fn named(name: &str) -> CreateSnapshot {
    let name = name.to_owned();
    CreateSnapshot { name }
}

fn refused<T: std::fmt::Debug>(plan: Result<Plan<T>, Refusal>) -> GroupRefusal {
    match plan {
        Err(Refusal::Group(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

impl Bench {
    /// `a` and `b` attached, `c` not.
    fn three() -> Self {
        let mut bench = Self::new();
        for name in ["a", "b", "c"] {
            bench.ready(name, 3);
        }
        bench.attach("a", "nbd on x");
        bench.attach("b", "nbd on y");
        bench
    }

    fn hold(&mut self, volumes: &[&str], name: &str) -> GroupId {
        let plan = self.state.plan_group_hold(&of(volumes, name)).unwrap();
        self.commit(plan)
    }

    /// The owner of a volume says something, if that is taken.
    fn try_say(&mut self, name: &str, group: GroupId, word: HoldWord) -> Result<(), Refusal> {
        let row = self.state.volume_named(name).unwrap();
        let report = ReportHold {
            volume: row.id,
            generation: row.generation,
            group,
            word,
        };
        self.state.check_hold(name, &report)?;
        self.live.holds.note(group, row.id, word);
        Ok(())
    }

    fn word(&mut self, name: &str, group: GroupId, word: HoldWord) {
        self.try_say(name, group, word).unwrap();
    }

    fn seal(&mut self, group: GroupId) -> Result<(), Refusal> {
        let plan = self.state.plan_group_seal(&self.live.holds, group, 7)?;
        self.commit(plan);
        Ok(())
    }

    fn confirm(&mut self, group: GroupId) -> Result<(), Refusal> {
        let plan = self.state.plan_group_confirm(&self.live.holds, group)?;
        self.commit(plan);
        Ok(())
    }

    fn fail(&mut self, group: GroupId) {
        self.commit(self.state.plan_group_fail(group));
    }

    fn progress(&self, group: GroupId) -> Progress {
        self.state.group_progress(&self.live.holds, group)
    }

    fn told(&self, name: &str) -> Option<VolumeHold> {
        self.state.volume_by_name(name).unwrap().hold
    }

    /// A group of the three volumes, sealed.
    fn sealed_group(&mut self) -> GroupId {
        let group = self.hold(&["a", "b", "c"], "s");
        self.word("a", group, HELD);
        self.word("b", group, HELD);
        self.seal(group).unwrap();
        group
    }

    fn is_ready(&self, name: &str, snapshot: &str) -> bool {
        let shown = self.state.snapshot(name, snapshot).unwrap();
        shown.state == SnapshotState::Ready
    }

    /// The owner has brought all that is sealed to its replicas.
    fn settle_layers(&mut self, name: &str) {
        let row = self.state.volume_named(name).unwrap();
        let report = ReportLayers {
            volume: row.id,
            generation: row.generation,
            settled: Layer::new(100),
            table: 100,
        };
        let plan = self.state.plan_report_layers(name, &report).unwrap();
        self.commit(plan);
    }

    fn leave(&mut self, name: &str, settled: bool) {
        let row = self.state.volume_named(name).unwrap();
        let request = DetachRequest {
            settled,
            served: true,
            ..detach(row.id, row.generation.get())
        };
        let plan = self.state.plan_detach(name, &request).unwrap();
        self.commit(plan);
    }

    fn take(&mut self, name: &str, request: &AttachRequest) {
        let plan = self.state.plan_attach(&self.live, self.now, name, request);
        self.commit(plan.unwrap());
    }

    fn nothing_is_left(&self, name: &str) {
        for volume in ["a", "b", "c"] {
            let gone = self.state.volume_named(volume).is_none_or(|row| {
                row.state == VolumeState::Deleting || self.told(volume).is_none()
            });
            assert!(gone, "{volume} is held");
            let is_left = self.state.snapshot(volume, name).is_ok()
                && self.state.volume_named(volume).unwrap().state == VolumeState::Ready;
            assert!(!is_left, "{volume}@{name} is left");
        }
        assert_eq!(self.state.groups().count(), 0);
    }
}

#[test]
fn a_group_is_held_sealed_and_confirmed() {
    let mut bench = Bench::three();
    let before = bench.state.revision();
    let group = bench.hold(&["c", "a", "b"], "s");
    for name in ["a", "b", "c"] {
        assert!(bench.state.map_changed(name).unwrap() > before, "{name}");
    }
    let sealed = None;
    assert_eq!(bench.told("a"), Some(VolumeHold { group, sealed }));
    assert_eq!(bench.told("c"), None, "nobody is there to hold");
    assert_eq!(bench.progress(group), Progress::Waiting);
    bench.word("a", group, HELD);
    let silent = refused(bench.state.plan_group_seal(&bench.live.holds, group, 7));
    let expected = vec![("b".to_owned(), "nbd on y".to_owned())];
    assert_eq!(silent, GroupRefusal::Silent { members: expected });
    assert!(
        silent
            .to_string()
            .contains("from the owner of volume `b` (`nbd on y`);")
    );
    let at_hold = bench.state.map_changed("a").unwrap();
    bench.word("b", group, HELD);
    assert_eq!(bench.progress(group), Progress::Complete);
    assert_eq!(bench.state.map_changed("a"), Some(at_hold));

    bench.seal(group).unwrap();
    let sealed = Some(Layer::new(1));
    assert_eq!(bench.told("a"), Some(VolumeHold { group, sealed }));
    assert!(bench.state.map_changed("b").unwrap() > at_hold);
    for name in ["a", "b", "c"] {
        let row = bench.state.volume_named(name).unwrap();
        assert_eq!(row.head_layer, Layer::new(2));
        assert!(!bench.is_ready(name, "s"), "{name}: it is not confirmed");
        assert_eq!(bench.state.snapshot(name, "s").unwrap().group, Some(group));
    }
    // Settled is not confirmed.
    bench.settle_layers("a");
    assert!(!bench.is_ready("a", "s"));
    let back = bench
        .state
        .plan_rollback("a", "s", RollbackVolume::default());
    let is_refused = matches!(
        back,
        Err(Refusal::Snapshot(SnapshotRefusal::NotReady { .. }))
    );
    assert!(is_refused, "{back:?}");
    assert_eq!(bench.progress(group), Progress::Waiting);
    bench.word("a", group, KEPT);
    assert!(matches!(
        refused(bench.state.plan_group_confirm(&bench.live.holds, group)),
        GroupRefusal::Silent { members } if members.len() == 1
    ));
    bench.word("b", group, KEPT);
    bench.confirm(group).unwrap();
    assert_eq!(bench.told("a"), None);
    assert!(bench.is_ready("a", "s") && bench.is_ready("c", "s"));
    assert!(!bench.is_ready("b", "s"), "its layer is not settled");
    bench.settle_layers("b");
    assert!(bench.is_ready("b", "s"));
    let shown = bench.state.snapshots_of_group(
        group,
        &["c", "a", "b"].map(|name| bench.state.volume_named(name).unwrap().id),
    );
    let volumes: Vec<_> = shown.iter().map(|s| s.volume_name.as_str()).collect();
    assert_eq!(volumes, ["c", "a", "b"]);
    // It is over: each goes its own way, and ids are not given again.
    let plan = bench.state.plan_snapshot_delete("a", "s", false).unwrap();
    bench.commit(plan);
    assert!(bench.is_ready("b", "s"));
    assert_eq!(bench.hold(&["a", "b"], "t"), group.next());
}

#[test]
fn whoever_is_replaced_or_gone_before_the_seal_fails_the_group() {
    type Deed = fn(&mut Bench);
    let deeds: [(&str, Deed); 7] = [
        ("b", |bench| bench.take("b", &by("another", true))),
        ("b", |bench| bench.leave("b", true)),
        ("b", |bench| {
            bench.leave("b", true);
            bench.take("b", &by("nbd on y", false));
        }),
        ("c", |bench| bench.take("c", &by("another", false))),
        ("c", |bench| {
            let owner = repair_owner("a");
            let (force, repair) = (false, true);
            bench.take(
                "c",
                &AttachRequest {
                    owner,
                    force,
                    repair,
                    server: None,
                    publication: None,
                },
            );
        }),
        ("c", |bench| {
            let plan = bench.state.plan_delete("c", false).unwrap();
            bench.commit(plan);
        }),
        ("b", |bench| {
            let client = "nbd on y".to_owned();
            let request = DenyClient {
                client,
                reason: None,
            };
            let plan = bench.state.plan_deny(&request).unwrap();
            bench.commit(plan);
        }),
    ];
    for (number, (changed, deed)) in deeds.into_iter().enumerate() {
        let mut bench = Bench::three();
        let group = bench.hold(&["a", "b", "c"], "s");
        bench.word("a", group, HELD);
        bench.word("b", group, HELD);
        deed(&mut bench);
        let volume = changed.to_owned();
        let refusal = GroupRefusal::Changed { volume };
        assert_eq!(
            bench.progress(group),
            Progress::Failed(refusal.clone()),
            "{number}"
        );
        assert_eq!(
            refused(bench.state.plan_group_seal(&bench.live.holds, group, 7)),
            refusal
        );
        bench.fail(group);
        bench.nothing_is_left("s");
        let head = bench.state.volume_named("a").unwrap().head_layer;
        assert_eq!(head, Layer::new(1));
    }
}

#[test]
fn a_sealed_group_that_is_not_confirmed_leaves_nothing() {
    type Deed = fn(&mut Bench, GroupId);
    let deeds: [Deed; 5] = [
        |bench, group| bench.word("b", group, HoldWord::Broken),
        |bench, _| bench.take("b", &by("another", true)),
        |bench, _| bench.leave("b", true),
        |bench, _| {
            let plan = bench.state.plan_delete("c", true).unwrap();
            bench.commit(plan);
            bench.settle();
        },
        |bench, _| {
            let request = RollbackVolume {
                force: true,
                delete_newer: true,
            };
            let plan = bench.state.plan_rollback("c", "old", request).unwrap();
            bench.commit(plan);
        },
    ];
    for (number, deed) in deeds.into_iter().enumerate() {
        let mut bench = Bench::three();
        let plan = bench.state.plan_snapshot_create("c", &named("old"), 7);
        bench.commit(plan.unwrap());
        let group = bench.sealed_group();
        bench.word("a", group, KEPT);
        deed(&mut bench, group);
        let failed = matches!(bench.progress(group), Progress::Failed(_));
        assert!(failed, "{number}: {:?}", bench.progress(group));
        assert!(bench.confirm(group).is_err());
        // The owner of `a` has begun the next layer; that one stays.
        let plan = bench.state.plan_snapshot_create("a", &named("later"), 8);
        bench.commit(plan.unwrap());
        let tables = bench.commit(bench.state.plan_group_fail(group));
        assert!(tables.len() >= 2, "{number}: {tables:?}");
        bench.nothing_is_left("s");
        assert!(bench.state.snapshot("a", "later").is_ok());
        let row = bench.state.volume_named("a").unwrap();
        assert_eq!((row.head_layer, row.layers.version), (Layer::new(3), 1));
        let intervals: Vec<_> = row.layers.live.iter().map(|run| run.high.get()).collect();
        assert_eq!(intervals, [2, 3]);
        // Again changes nothing.
        assert!(bench.state.plan_group_fail(group).changes.is_empty());
    }
}

#[test]
fn who_has_said_that_it_kept_still_may_go() {
    let mut bench = Bench::three();
    let group = bench.sealed_group();
    bench.word("a", group, KEPT);
    bench.leave("a", true);
    bench.word("b", group, KEPT);
    bench.take("b", &by("another", true));
    bench.confirm(group).unwrap();
    assert!(bench.is_ready("a", "s") && bench.is_ready("c", "s"));
}

#[test]
fn while_its_owner_holds_a_volume_is_sealed_for_nothing_else() {
    let mut bench = Bench::three();
    let group = bench.hold(&["a", "c"], "s");
    for name in ["a", "c"] {
        assert!(bench.state.is_held(name));
        let volume = name.to_owned();
        let refusal = GroupRefusal::InProgress { volume };
        let plan = bench.state.plan_snapshot_create(name, &named("t"), 7);
        assert_eq!(refused(plan), refusal);
        let plan = bench.state.plan_group_hold(&of(&["b", name], "t"));
        assert_eq!(refused(plan), refusal);
    }
    assert!(!bench.state.is_held("b"));
    bench.word("a", group, HELD);
    bench.seal(group).unwrap();
    // From the seal on others are free, but for a second group and what would break up the first.
    let plan = bench.state.plan_snapshot_create("a", &named("t"), 7);
    bench.commit(plan.unwrap());
    let plan = bench.state.plan_group_hold(&of(&["b", "a"], "u"));
    refused(plan);
    let plan = bench.state.plan_snapshot_delete("a", "s", false);
    refused(plan);
    bench.word("a", group, KEPT);
    bench.confirm(group).unwrap();
    let plan = bench.state.plan_snapshot_delete("a", "s", false).unwrap();
    bench.commit(plan);
}

#[test]
fn requests_for_groups_are_checked_before_anybody_holds() {
    let mut bench = Bench::three();
    let plan = bench.state.plan_snapshot_create("b", &named("s"), 7);
    bench.commit(plan.unwrap());
    let many: Vec<String> = (0..=GROUP_VOLUMES_MAX).map(|n| format!("v{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let cases = [
        (of(&["a"], "t"), "2 to 64"),
        (of(&[], "t"), "2 to 64"),
        (of(&many, "t"), "2 to 64"),
        (of(&["a", "a"], "t"), "twice"),
        (of(&["a", "nope"], "t"), "no volume `nope`"),
        (of(&["a", "b"], "s"), "`b` has a snapshot `s` already"),
        (of(&["a", "b"], "S"), "no name"),
    ];
    for (request, expected) in cases {
        let refusal = bench.state.plan_group_hold(&request).unwrap_err();
        assert!(refusal.to_string().contains(expected), "{refusal}");
    }
    let request = DenyClient {
        client: "nbd on y".to_owned(),
        reason: None,
    };
    let plan = bench.state.plan_deny(&request).unwrap();
    bench.commit(plan);
    let plan = bench.state.plan_group_hold(&of(&["a", "b"], "t"));
    let volume = "b".to_owned();
    assert_eq!(refused(plan), GroupRefusal::Unfenced { volume });
}

#[test]
fn words_of_others_and_of_earlier_groups_are_refused() {
    let mut bench = Bench::three();
    let first = bench.hold(&["a", "c"], "s");
    let group_is_over = Refusal::from(GroupRefusal::Over);
    // Who was not asked.
    assert_eq!(bench.try_say("b", first, HELD), Err(group_is_over.clone()));
    let row = bench.state.volume_named("a").unwrap();
    let (volume, generation) = (row.id, row.generation);
    let report = ReportHold {
        volume,
        generation: Generation::new(generation.get() - 1),
        group: first,
        word: HELD,
    };
    assert!(bench.state.check_hold("a", &report).is_err());
    bench.fail(first);
    assert_eq!(bench.try_say("a", first, HELD), Err(group_is_over));
    let report = ReportHold {
        generation,
        ..report
    };
    assert_eq!(bench.state.hold_answer(&report).outcome, HoldOutcome::Over);
    let second = bench.hold(&["a", "c"], "s");
    assert!(second > first);
    assert_eq!(bench.progress(second), Progress::Waiting);
    // A new owner is not asked for what the old one was to do.
    bench.take("a", &by("another", true));
    assert_eq!(bench.told("a"), None);
    assert!(bench.try_say("a", second, HELD).is_err());
}

#[test]
fn a_repair_owner_is_not_asked() {
    let mut bench = Bench::three();
    let owner = repair_owner("a");
    let (force, repair) = (false, true);
    let request = AttachRequest {
        owner,
        force,
        repair,
        server: None,
        publication: None,
    };
    bench.take("c", &request);
    let group = bench.hold(&["a", "c"], "s");
    assert_eq!(bench.told("c"), None);
    bench.word("a", group, HELD);
    // That it lets go changes nothing.
    bench.leave("c", true);
    bench.seal(group).unwrap();
    bench.word("a", group, KEPT);
    bench.confirm(group).unwrap();
}

#[test]
fn groups_that_nobody_ends_are_found() {
    let mut bench = Bench::three();
    let first = bench.sealed_group();
    bench.state = read_back(&bench.state);
    let next = bench.state.next_group();
    assert_eq!(next, first.next());
    let now = bench.now;
    let mut holds = crate::holds::Holds::default();
    let over = holds.left_over(now, bench.state.groups(), next);
    assert_eq!(over, [first]);
    bench.fail(first);
    bench.nothing_is_left("s");
    // One of this conductor has its time.
    let second = bench.hold(&["a", "b"], "s");
    assert_eq!(holds.left_over(now, bench.state.groups(), next), []);
    holds.note(second, VolumeId::new(1), HELD);
    let later = now.later(Duration::from_secs(14));
    assert_eq!(holds.left_over(later, bench.state.groups(), next), []);
    assert_eq!(holds.word(second, VolumeId::new(1)), Some(HELD));
    let later = now.later(Duration::from_secs(15));
    assert_eq!(holds.left_over(later, bench.state.groups(), next), [second]);
    bench.fail(second);
    assert_eq!(holds.left_over(later, bench.state.groups(), next), []);
    assert_eq!(holds.word(second, VolumeId::new(1)), None);
}

#[test]
fn a_broken_hold_stays_broken() {
    let mut holds = crate::holds::Holds::default();
    let (group, volume) = (GroupId::new(1), VolumeId::new(1));
    for word in [HELD, HoldWord::Broken, KEPT, HELD] {
        holds.note(group, volume, word);
    }
    assert_eq!(holds.word(group, volume), Some(HoldWord::Broken));
}
