//! iSCSI targets: units, who may log in, secrets; and what becomes of them when a volume goes.

use ashlar_proto::api::{
    ClearChap, CreateTarget, MapUnit, Secret, ServedTarget, SetAcl, SetChap, Target,
};
use ashlar_proto::limits::{TARGET_INITIATORS_MAX, TARGETS_MAX};
use ashlar_proto::{InitiatorPattern, Lun};

use super::*;
use crate::refusal::{InvalidRequest, InvalidTarget, TargetRefusal};

const NAME: &str = "iqn.2026-11.com.example:disks";

fn name(text: &str) -> IscsiName {
    text.parse().unwrap()
}

fn initiator(text: &str) -> InitiatorPattern {
    text.parse().unwrap()
}

fn lun(number: u16) -> Lun {
    Lun::new(number).unwrap()
}

fn unit(volume: &str, number: Option<u16>) -> MapUnit {
    MapUnit {
        volume: volume.to_owned(),
        lun: number.map(lun),
        read_only: false,
    }
}

fn chap(user: &str, secret: &str, of: Option<&str>) -> SetChap {
    SetChap {
        user: user.to_owned(),
        secret: Secret::new(secret),
        initiator: of.map(initiator),
        mutual: false,
    }
}

impl Bench {
    fn target_named(&mut self, text: &str) -> IscsiName {
        let request = CreateTarget {
            name: name(text),
            alias: None,
            initiators: Vec::new(),
        };
        let plan = self.state.plan_target_create(&request).unwrap();
        self.commit(plan)
    }

    fn map_unit(&mut self, target: &IscsiName, request: &MapUnit) -> Result<Target, Refusal> {
        let plan = self.state.plan_map_unit(target, request)?;
        self.commit(plan);
        Ok(self.state.target(target).unwrap())
    }

    fn luns(&self, target: &IscsiName) -> Vec<(u16, String)> {
        let units = self.state.target(target).unwrap().units.into_iter();
        units.map(|u| (u.lun.get(), u.volume_name)).collect()
    }

    fn served(&self) -> ServedTarget {
        self.state.served_targets().targets.remove(0)
    }
}

fn luns(list: &[(u16, &str)]) -> Vec<(u16, String)> {
    list.iter().map(|(n, v)| (*n, (*v).to_owned())).collect()
}

#[test]
fn a_name_is_taken_once() {
    let mut bench = Bench::new();
    bench.target_named(NAME);
    let again = CreateTarget {
        name: name(&NAME.to_uppercase()),
        alias: None,
        initiators: Vec::new(),
    };
    let refused = bench.state.plan_target_create(&again).unwrap_err();
    assert!(matches!(
        refused,
        Refusal::Target(TargetRefusal::Exists { .. })
    ));
    let plan = bench.state.plan_target_delete(&name(NAME)).unwrap();
    bench.commit(plan);
    assert!(bench.state.targets().is_empty());
    assert!(matches!(
        bench.state.plan_target_delete(&name(NAME)),
        Err(Refusal::Target(TargetRefusal::NotFound { .. }))
    ));
}

#[test]
fn there_are_so_many_targets_and_no_more() {
    let mut bench = Bench::new();
    for number in 0..TARGETS_MAX {
        bench.target_named(&format!("{NAME}-{number}"));
    }
    let request = CreateTarget {
        name: name(NAME),
        alias: None,
        initiators: Vec::new(),
    };
    assert!(matches!(
        bench.state.plan_target_create(&request),
        Err(Refusal::Invalid(InvalidRequest::TooMany { .. }))
    ));
}

#[test]
fn units_get_the_lowest_number_from_1_on_that_is_free() {
    let mut bench = Bench::new();
    for volume in ["a", "b", "c", "d"] {
        bench.ready(volume, 3);
    }
    let target = bench.target_named(NAME);
    bench.map_unit(&target, &unit("a", Some(2))).unwrap();
    bench.map_unit(&target, &unit("b", None)).unwrap();
    bench.map_unit(&target, &unit("c", None)).unwrap();
    bench.map_unit(&target, &unit("d", Some(0))).unwrap();
    let all = luns(&[(0, "d"), (1, "b"), (2, "a"), (3, "c")]);
    assert_eq!(bench.luns(&target), all);
    bench.state = read_back(&bench.state);
    assert_eq!(bench.luns(&target), all);
    let plan = bench.state.plan_unmap_unit(&target, lun(1)).unwrap();
    bench.commit(plan);
    let left = luns(&[(0, "d"), (2, "a"), (3, "c")]);
    assert_eq!(bench.luns(&target), left);
    assert!(matches!(
        bench.state.plan_unmap_unit(&target, lun(1)),
        Err(Refusal::Target(TargetRefusal::NoUnit { .. }))
    ));
}

#[test]
fn a_target_has_no_number_and_no_volume_twice() {
    let mut bench = Bench::new();
    bench.ready("a", 3);
    bench.ready("b", 3);
    let target = bench.target_named(NAME);
    bench.map_unit(&target, &unit("a", Some(5))).unwrap();
    let refused = bench.map_unit(&target, &unit("b", Some(5))).unwrap_err();
    assert!(matches!(
        refused,
        Refusal::Target(TargetRefusal::LunTaken { .. })
    ));
    assert!(refused.to_string().contains("volume `a`"), "{refused}");
    // The same once more is no news.
    let again = bench
        .state
        .plan_map_unit(&target, &unit("a", None))
        .unwrap();
    assert!(again.changes.is_empty());
    let read_only = MapUnit {
        read_only: true,
        ..unit("a", None)
    };
    for other in [unit("a", Some(6)), read_only] {
        let refused = bench.map_unit(&target, &other).unwrap_err();
        assert!(matches!(
            refused,
            Refusal::Target(TargetRefusal::Mapped { .. })
        ));
    }
    let other = bench.target_named("iqn.2026-11.com.example:other");
    // Two units would each know reservations of their own.
    let refused = bench.map_unit(&other, &unit("a", None)).unwrap_err();
    assert!(refused.to_string().contains(NAME), "{refused}");
    assert!(bench.map_unit(&other, &unit("b", None)).is_ok());
}

#[test]
fn only_a_volume_that_is_ready_is_mapped() {
    let mut bench = Bench::new();
    bench.create("a", 3);
    let target = bench.target_named(NAME);
    assert!(matches!(
        bench.map_unit(&target, &unit("a", None)),
        Err(Refusal::Volume(VolumeRefusal::NotReady { .. }))
    ));
    assert!(matches!(
        bench.map_unit(&target, &unit("b", None)),
        Err(Refusal::Volume(VolumeRefusal::NotFound { .. }))
    ));
}

#[test]
fn a_volume_that_is_mapped_is_deleted_by_force_alone_and_unmapped_with_that() {
    let mut bench = Bench::new();
    bench.ready("a", 3);
    bench.ready("b", 3);
    let target = bench.target_named(NAME);
    bench.map_unit(&target, &unit("a", None)).unwrap();
    bench.map_unit(&target, &unit("b", None)).unwrap();
    let refused = bench.state.plan_delete("a", false).unwrap_err();
    assert!(matches!(
        refused,
        Refusal::Target(TargetRefusal::VolumeMapped { .. })
    ));
    assert!(refused.to_string().contains(NAME), "{refused}");
    let plan = bench.state.plan_delete("a", true).unwrap();
    bench.commit(plan);
    assert_eq!(bench.luns(&target), luns(&[(2, "b")]));
    bench.settle();
    assert!(bench.state.volume_named("a").is_none());
}

#[test]
fn who_maps_a_volume_and_who_deletes_it_meet_in_its_row() {
    let mut bench = Bench::new();
    let id = bench.ready("a", 3);
    let target = bench.target_named(NAME);
    let map = bench
        .state
        .plan_map_unit(&target, &unit("a", None))
        .unwrap();
    let delete = bench.state.plan_delete("a", false).unwrap();
    for plan_changes in [map.changes, delete.changes] {
        let key = crate::row::volume_key(id);
        assert!(plan_changes.iter().any(|change| *change.key() == key));
    }
}

#[test]
fn nobody_may_log_in_until_somebody_is_allowed() {
    let mut bench = Bench::new();
    let target = bench.target_named(NAME);
    let host = name("iqn.1994-05.com.redhat:host-a");
    assert_eq!(bench.served().admits(&host), None);
    let allowed = initiator("iqn.1994-05.com.redhat:*");
    for _ in 0..2 {
        let plan = bench.state.plan_allow_initiator(&target, &allowed).unwrap();
        bench.commit(plan);
        assert_eq!(bench.served().initiators, std::slice::from_ref(&allowed));
    }
    assert_eq!(bench.served().admits(&host), Some(Vec::new()));
    let plan = bench
        .state
        .plan_remove_initiator(&target, &allowed)
        .unwrap();
    bench.commit(plan);
    assert_eq!(bench.served().admits(&host), None);
    assert!(matches!(
        bench.state.plan_remove_initiator(&target, &allowed),
        Err(Refusal::Target(TargetRefusal::NotAllowed { .. }))
    ));
    let all = SetAcl {
        initiators: vec![initiator("*"), allowed, initiator("*")],
    };
    let plan = bench.state.plan_set_acl(&target, &all).unwrap();
    bench.commit(plan);
    assert_eq!(bench.served().initiators, all.initiators[..2]);
    let too_many = SetAcl {
        initiators: vec![initiator("*"); TARGET_INITIATORS_MAX + 1],
    };
    assert!(bench.state.plan_set_acl(&target, &too_many).is_err());
}

#[test]
fn a_secret_takes_the_place_of_the_one_of_the_same_name_and_initiator() {
    let mut bench = Bench::new();
    let target = bench.target_named(NAME);
    let host = Some("iqn.1994-05.com.redhat:host-a");
    for request in [
        chap("u", "the first secret", None),
        chap("u", "a secret of its own", host),
        chap("u", "the second secret", None),
    ] {
        let plan = bench.state.plan_set_chap(&target, &request).unwrap();
        bench.commit(plan);
    }
    let secrets: Vec<String> = bench.served().chap.iter().map(text_of).collect();
    assert_eq!(secrets, ["the second secret", "a secret of its own"]);
    let shown = serde_json::to_string(&bench.state.target(&target).unwrap()).unwrap();
    assert!(!shown.contains("secret"), "{shown}");
    let clear = ClearChap::User {
        user: "u".to_owned(),
        initiator: None,
    };
    let plan = bench.state.plan_clear_chap(&target, &clear).unwrap();
    bench.commit(plan);
    assert_eq!(bench.served().chap.len(), 1);
    assert!(matches!(
        bench.state.plan_clear_chap(&target, &clear),
        Err(Refusal::Target(TargetRefusal::NoChap { .. }))
    ));
    for _ in 0..2 {
        let plan = bench
            .state
            .plan_clear_chap(&target, &ClearChap::All)
            .unwrap();
        bench.commit(plan);
        assert!(bench.served().chap.is_empty());
    }
}

fn text_of(secret: &ashlar_proto::api::InitiatorSecret) -> String {
    secret.login.secret.reveal().to_owned()
}

#[test]
fn target_and_initiators_never_have_the_same_secret() {
    let mut bench = Bench::new();
    let target = bench.target_named(NAME);
    let mutual = |secret: &str| SetChap {
        mutual: true,
        ..chap("t", secret, None)
    };
    let plan = bench
        .state
        .plan_set_chap(&target, &chap("u", "the first secret", None));
    bench.commit(plan.unwrap());
    let refused = bench
        .state
        .plan_set_chap(&target, &mutual("the first secret"));
    assert!(matches!(
        refused,
        Err(Refusal::Target(TargetRefusal::SecretReused { .. }))
    ));
    let plan = bench
        .state
        .plan_set_chap(&target, &mutual("the target's own"));
    bench.commit(plan.unwrap());
    assert_eq!(
        bench.state.target(&target).unwrap().mutual,
        Some("t".to_owned())
    );
    let refused = bench
        .state
        .plan_set_chap(&target, &chap("v", "the target's own", None));
    assert!(matches!(
        refused,
        Err(Refusal::Target(TargetRefusal::SecretReused { .. }))
    ));
    let of_one = SetChap {
        initiator: Some(initiator("*")),
        ..mutual("another secret")
    };
    assert!(matches!(
        bench.state.plan_set_chap(&target, &of_one),
        Err(Refusal::Invalid(InvalidRequest::Target(
            InvalidTarget::MutualOfOne
        )))
    ));
}

#[test]
fn every_change_of_a_target_is_news_and_a_start_makes_all_of_them_so() {
    let mut bench = Bench::new();
    bench.ready("a", 3);
    let target = bench.target_named(NAME);
    let mut before = bench.state.targets_changed();
    assert_eq!(before, bench.state.revision());
    bench.ready("b", 3);
    assert_eq!(bench.state.targets_changed(), before);
    bench.map_unit(&target, &unit("a", None)).unwrap();
    assert!(bench.state.targets_changed() > before);
    before = bench.state.targets_changed();
    let plan = bench.state.plan_target_delete(&target).unwrap();
    bench.commit(plan);
    assert!(bench.state.targets_changed() > before);
    // Who saw the target last and asks a conductor that has only read what is left.
    bench.state = read_back(&bench.state);
    bench.state.renew_assignments();
    assert!(bench.state.targets_changed() > before);
}
