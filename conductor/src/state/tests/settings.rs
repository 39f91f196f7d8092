//! Settings reach who follows them, and rules for places are kept by healing as by placement.

use ashlar_proto::api::{ChangeSettings, SettingSource, Verdict};

use super::*;

fn change(volume: Option<&str>, set: &[(&str, &str)], unset: &[&str]) -> ChangeSettings {
    let set = set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    ChangeSettings {
        volume: volume.map(str::to_owned),
        set: set.collect(),
        unset: unset.iter().map(|name| (*name).to_owned()).collect(),
    }
}

impl Bench {
    pub(super) fn configure(&mut self, volume: Option<&str>, set: &[(&str, &str)]) {
        let plan = self.state.plan_settings(&change(volume, set, &[]));
        self.commit(plan.unwrap());
    }

    /// A node says what its labels are.
    pub(super) fn label(&mut self, name: &str, number: u16, zone: &str) {
        let labels = [("zone".to_owned(), zone.to_owned())];
        let request = RegisterNode {
            labels: labels.into(),
            ..node(name, 7000 + number, &[u128::from(number)])
        };
        let plan = self.state.plan_register(&request).unwrap();
        self.commit(plan);
    }

    pub(super) fn is_told(&self, name: &str, after: Revision) -> bool {
        let at = self.state.map_changed(name).unwrap();
        self.state.is_newer(at, after)
    }

    fn zones(&self, name: &str) -> Vec<String> {
        let nodes = self.replicas(name).into_iter().map(|r| r.node);
        let labels = nodes.map(|node| self.state.nodes[&node].labels["zone"].clone());
        labels.collect()
    }
}

#[test]
fn owners_are_told_of_the_settings_of_their_volume_and_of_the_cluster() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    bench.ready("w", 3);
    let known = bench.state.revision();
    bench.configure(Some("v"), &[("iops-max", "100")]);
    assert!(bench.is_told("v", known) && !bench.is_told("w", known));
    let of = |bench: &Bench, name: &str| bench.state.map(name).unwrap().volume.settings;
    assert_eq!(of(&bench, "v").requests_per_second, Some(100));
    let known = bench.state.revision();
    bench.configure(None, &[("iops-max", "7"), ("scrub-interval", "60m")]);
    assert!(bench.is_told("v", known) && bench.is_told("w", known));
    assert_eq!(of(&bench, "v").requests_per_second, Some(100));
    assert_eq!(of(&bench, "w").requests_per_second, Some(7));
    let shown = bench.state.show_settings(Some("v")).unwrap().items;
    let source = |name: &str| {
        let setting = shown.iter().find(|setting| setting.name == name);
        setting.map(|setting| (setting.value.as_str(), setting.source))
    };
    assert_eq!(source("iops-max"), Some(("100", SettingSource::Volume)));
    assert_eq!(
        source("scrub-interval"),
        Some(("1h", SettingSource::Cluster))
    );
    assert_eq!(
        source("bandwidth-max"),
        Some(("unlimited", SettingSource::Default))
    );
    assert_eq!(source("rebuild-after"), None, "it is the cluster's");
}

#[test]
fn what_cannot_be_set_changes_nothing() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    for (volume, set) in [
        (None, [("iops-max", "5"), ("no-such", "1")]),
        (None, [("iops-max", "5"), ("rebuild-after", "soon")]),
        (Some("v"), [("iops-max", "5"), ("rebuild-after", "5m")]),
        (Some("none"), [("iops-max", "5"), ("scrub-rate", "0B")]),
    ] {
        let refused = bench.state.plan_settings(&change(volume, &set, &[]));
        assert!(refused.is_err(), "{set:?}");
    }
    let nothing = change(None, &[], &["iops-max"]);
    assert!(
        bench
            .state
            .plan_settings(&nothing)
            .unwrap()
            .changes
            .is_empty()
    );
}

#[test]
fn settings_of_a_volume_go_with_it() {
    let mut bench = Bench::new();
    let id = bench.ready("v", 3);
    bench.configure(Some("v"), &[("iops-max", "100")]);
    let key = crate::row::settings_key(Some(id));
    assert!(bench.state.modified.contains_key(&key));
    let plan = bench.state.plan_delete("v", false).unwrap();
    bench.commit(plan);
    bench.settle();
    assert!(!bench.state.has_volume(id));
    assert!(!bench.state.modified.contains_key(&key));
    assert!(!bench.state.mapped.contains_key(&id));
}

#[test]
fn a_lost_replica_waits_for_a_place_that_a_hard_rule_allows() {
    let mut bench = Bench::with(&["a", "b", "c"], 1);
    for (name, number, zone) in [("a", 1, "x"), ("b", 2, "y"), ("c", 3, "y")] {
        bench.label(name, number, zone);
    }
    bench.configure(None, &[("spread", "zone"), ("spread-rule", "hard")]);
    bench.ready("v", 2);
    bench.attach("v", "o");
    let mut zones = bench.zones("v");
    zones.sort();
    assert_eq!(zones, ["x", "y"]);
    // The only node of zone x is gone for good.
    let at = bench.replicas("v").iter().position(|r| r.node.get() == 1);
    let lost = at.unwrap();
    bench.set_up(1, false);
    bench.commit_set("v", &[1 - lost]);
    bench.wait(GRACE + Duration::from_secs(2));
    assert_eq!(bench.replicas("v")[lost].node.get(), 1, "c is in zone y");
    assert!(bench.healing().without_place > 0);
    bench.label("d", 4, "z");
    bench.wait(Duration::from_secs(2));
    assert_eq!(bench.replicas("v")[lost].node.get(), 4);
}

#[test]
fn a_placement_is_explained_and_not_made() {
    let mut bench = Bench::with(&["a", "b", "c"], 1);
    for (name, number, zone) in [("a", 1, "x"), ("b", 2, "y"), ("c", 3, "y")] {
        bench.label(name, number, zone);
    }
    bench.set_up(3, false);
    let mut request = volume("v", 2);
    let pool = [("pool".to_owned(), "zone=y".to_owned())];
    request.settings = pool.into();
    let before = bench.state.revision();
    let explained = bench
        .state
        .explain(&bench.live, &request, SHARD_BYTES)
        .unwrap();
    assert!(!explained.possible && explained.shards == 3);
    assert!(explained.problem.unwrap().contains("rules allow"));
    let said = |disk: usize| {
        let disk = &explained.disks[disk];
        (disk.verdict, disk.reasons.join("; "))
    };
    assert!(said(0).1.contains("not of the pool"), "{:?}", said(0));
    assert_eq!(said(1).0, Verdict::Possible);
    assert_eq!(said(2), (Verdict::Refused, "its node is down".to_owned()));
    request.replicas = 1;
    let explained = bench
        .state
        .explain(&bench.live, &request, SHARD_BYTES)
        .unwrap();
    assert!(explained.possible);
    assert_eq!(
        (explained.disks[1].verdict, explained.disks[1].replicas),
        (Verdict::Chosen, 3)
    );
    assert_eq!(bench.state.revision(), before);
}
