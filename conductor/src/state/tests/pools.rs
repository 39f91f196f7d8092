//! Settings of pools: what they hold for, and that owners are told.

use ashlar_proto::api::{ChangePoolSettings, ChangeSettings, SettingSource, VolumeSettings};

use super::*;

const NVME: &str = "media=nvme";

fn change(set: &[(&str, &str)], unset: &[&str]) -> ChangePoolSettings {
    let set = set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    ChangePoolSettings {
        set: set.collect(),
        unset: unset.iter().map(|name| (*name).to_owned()).collect(),
    }
}

impl Bench {
    fn set_pool(&mut self, pool: &str, set: &[(&str, &str)], unset: &[&str]) {
        let plan = self.state.plan_pool_settings(pool, &change(set, unset));
        self.commit(plan.unwrap());
    }

    fn settings(&self, volume: &str) -> VolumeSettings {
        self.state.map(volume).unwrap().volume.settings
    }

    fn source(&self, volume: &str, name: &str) -> (String, SettingSource) {
        let shown = self.state.show_settings(Some(volume)).unwrap().items;
        let setting = shown.into_iter().find(|setting| setting.name == name);
        let setting = setting.unwrap();
        (setting.value, setting.source)
    }

    /// A conductor that reads the rows as they are stored.
    fn map_changed_after_a_restart(&self, volume: &str) -> Revision {
        read_back(&self.state).map_changed(volume).unwrap()
    }
}

fn two_pools() -> Bench {
    let mut bench = Bench::new();
    bench.ready("fast", 3);
    bench.ready("slow", 3);
    bench.ready("free", 3);
    bench.configure(Some("fast"), &[("pool", "media=nvme")]);
    bench.configure(Some("slow"), &[("pool", "media=hdd")]);
    bench
}

#[test]
fn what_is_set_for_a_pool_holds_for_its_volumes_between_theirs_and_the_clusters() {
    let mut bench = two_pools();
    let known = bench.state.revision();
    bench.set_pool(NVME, &[("iops-max", "50")], &[]);
    assert!(bench.is_told("fast", known));
    assert!(!bench.is_told("slow", known) && !bench.is_told("free", known));
    let limit = |bench: &Bench, volume: &str| bench.settings(volume).requests_per_second;
    assert_eq!(limit(&bench, "fast"), Some(50));
    assert_eq!((limit(&bench, "slow"), limit(&bench, "free")), (None, None));
    bench.configure(None, &[("iops-max", "7"), ("scrub-rate", "1MiB")]);
    let limits = ["fast", "slow", "free"].map(|volume| limit(&bench, volume));
    assert_eq!(limits, [Some(50), Some(7), Some(7)]);
    let of = |value: &str, source| (value.to_owned(), source);
    let source = |bench: &Bench, name| bench.source("fast", name);
    assert_eq!(source(&bench, "iops-max"), of("50", SettingSource::Pool));
    assert_eq!(
        source(&bench, "scrub-rate"),
        of("1MiB", SettingSource::Cluster)
    );
    bench.configure(Some("fast"), &[("iops-max", "unlimited")]);
    assert_eq!(limit(&bench, "fast"), None);
    assert_eq!(
        source(&bench, "iops-max"),
        of("unlimited", SettingSource::Volume)
    );
}

#[test]
fn a_volume_that_joins_a_pool_has_what_is_set_for_it() {
    let mut bench = two_pools();
    bench.set_pool("media=hdd", &[("iops-max", "5")], &[]);
    let known = bench.state.revision();
    bench.configure(Some("fast"), &[("pool", "media=hdd")]);
    assert!(bench.is_told("fast", known));
    assert_eq!(bench.settings("fast").requests_per_second, Some(5));
    // The pool of the cluster is that of all volumes that name none, and `any` is none.
    bench.configure(None, &[("pool", "media=hdd")]);
    assert_eq!(bench.settings("free").requests_per_second, Some(5));
    let shown = bench.state.show_settings(Some("free")).unwrap();
    assert_eq!(shown.pool.as_deref(), Some("media=hdd"));
    bench.configure(Some("free"), &[("pool", "any")]);
    assert_eq!(bench.settings("free").requests_per_second, None);
    assert_eq!(bench.state.show_settings(Some("free")).unwrap().pool, None);
}

#[test]
fn a_pool_is_one_in_whatever_order_its_labels_are() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    bench.configure(Some("v"), &[("pool", "zone=a,media=nvme")]);
    bench.set_pool("media=nvme, zone=a", &[("iops-max", "5")], &[]);
    bench.set_pool("zone=a,media=nvme", &[("scrub-rate", "1MiB")], &[]);
    let settings = bench.settings("v");
    assert_eq!(settings.requests_per_second, Some(5));
    assert!(settings.scrub_bytes_per_second.is_some());
    // A pool of fewer labels is another one.
    bench.set_pool("media=nvme", &[("bandwidth-max", "1MiB")], &[]);
    assert_eq!(bench.settings("v").bytes_per_second, None);
    let pools = bench.state.show_pools();
    let shown = pools
        .iter()
        .map(|pool| (pool.pool.as_str(), pool.settings.len(), pool.volumes));
    let expected = [("media=nvme", 1, 0), ("media=nvme,zone=a", 2, 1)];
    assert_eq!(shown.collect::<Vec<_>>(), expected);
}

/// 1. An owner knows its map, and its pool's limit with it. 2. The limit is unset, and its row goes. 3. The
///    conductor ends before the owner is told, and reads all rows anew: none of the pool is there to say that it
///    changed.
#[test]
fn owners_are_told_that_a_pool_has_no_settings_any_more_after_a_restart_too() {
    let mut bench = two_pools();
    bench.set_pool(NVME, &[("iops-max", "50"), ("scrub-rate", "1MiB")], &[]);
    let known = bench.state.revision();
    assert!(bench.map_changed_after_a_restart("fast") >= known);
    bench.set_pool(NVME, &[], &["iops-max"]);
    assert!(bench.map_changed_after_a_restart("fast") > known);
    let known = bench.state.revision();
    bench.set_pool(NVME, &[], &["scrub-rate"]);
    let key = crate::row::pool_settings_key(NVME);
    assert!(!bench.state.modified.contains_key(&key));
    assert!(bench.settings("fast").is_empty() && bench.is_told("fast", known));
    assert!(bench.map_changed_after_a_restart("fast") > known);
}

#[test]
fn what_cannot_be_set_for_a_pool_changes_nothing() {
    let mut bench = two_pools();
    let refused = |pool: &str, set: &[(&str, &str)]| {
        let plan = bench.state.plan_pool_settings(pool, &change(set, &[]));
        plan.err().unwrap().to_string()
    };
    let rebuild = refused(NVME, &[("iops-max", "5"), ("rebuild-after", "5m")]);
    assert!(rebuild.contains("cannot be set for a pool"), "{rebuild}");
    let of_pool = refused(NVME, &[("pool", "media=hdd")]);
    assert!(of_pool.contains("cannot be set for a pool"), "{of_pool}");
    assert!(refused(NVME, &[("iops-max", "many")]).contains("not possible"));
    for pool in ["any", "nvme", "media=", ""] {
        assert!(refused(pool, &[("iops-max", "5")]).contains("LABEL=VALUE"));
    }
    let same = bench
        .state
        .plan_pool_settings(NVME, &change(&[], &["iops-max"]));
    assert!(same.unwrap().changes.is_empty());
    for pool in 0..1024 {
        bench.set_pool(&format!("n={pool}"), &[("iops-max", "5")], &[]);
    }
    let more = bench
        .state
        .plan_pool_settings(NVME, &change(&[("iops-max", "5")], &[]));
    assert!(more.err().unwrap().to_string().contains("1024 pools"));
    bench.set_pool("n=0", &[("iops-max", "6")], &[]);
    bench.set_pool("n=0", &[], &["iops-max"]);
    bench.set_pool(NVME, &[("iops-max", "5")], &[]);
}

#[test]
fn the_spread_of_a_pool_is_kept_by_its_new_volumes_alone() {
    let mut bench = Bench::with(&["a", "b", "c"], 1);
    for (name, number, zone) in [("a", 1, "x"), ("b", 2, "x"), ("c", 3, "x")] {
        bench.label(name, number, zone);
    }
    bench.set_pool(
        "zone=x",
        &[("spread", "zone"), ("spread-rule", "hard")],
        &[],
    );
    let mut request = volume("v", 2);
    let explain = |bench: &Bench, request: &CreateVolume| {
        let explained = bench.state.explain(&bench.live, request, SHARD_BYTES);
        explained.unwrap().possible
    };
    assert!(explain(&bench, &request));
    request.settings = [("pool".to_owned(), "zone=x".to_owned())].into();
    assert!(!explain(&bench, &request), "all are in one zone");
    request
        .settings
        .insert("spread-rule".to_owned(), "soft".to_owned());
    assert!(explain(&bench, &request));
}

#[test]
fn a_clone_is_in_the_pool_of_its_volume() {
    let mut bench = Bench::with(&["a", "b", "c"], 1);
    for (name, number, zone) in [("a", 1, "x"), ("b", 2, "x"), ("c", 3, "y")] {
        bench.label(name, number, zone);
    }
    bench.set_pool("zone=x", &[("iops-max", "9")], &[]);
    bench.ready("v", 2);
    let own = ChangeSettings {
        volume: Some("v".to_owned()),
        set: [("pool", "zone=x"), ("spread", "zone")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        unset: Vec::new(),
    };
    let plan = bench.state.plan_settings(&own).unwrap();
    bench.commit(plan);
    bench.snapshot_of("v", "s");
    bench.clone_of("v", "s", "w");
    assert_eq!(bench.settings("w").requests_per_second, Some(9));
    let expected = ("zone=x".to_owned(), SettingSource::Volume);
    assert_eq!(bench.source("w", "pool"), expected);
    assert_eq!(bench.source("w", "spread").1, SettingSource::Default);
    let nodes = bench.replicas("w").into_iter().map(|r| r.node.get());
    assert!(nodes.max() < Some(3));
    // What is set for the pool from then on holds for both.
    bench.set_pool("zone=x", &[("iops-max", "8")], &[]);
    for name in ["v", "w"] {
        assert_eq!(bench.settings(name).requests_per_second, Some(8), "{name}");
    }
}
