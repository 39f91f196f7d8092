//! Projects, their quotas and what their volumes add up to.

use super::*;
use crate::meta::Change;
use crate::row::VolumeRow;
use ashlar_proto::api::Revision;

fn apply(state: &mut ClusterState, changes: Vec<Change>) {
    let revision = Revision(state.revision().0 + 1);
    for change in changes {
        let (key, value) = match change {
            Change::Put { key, value } => (key, Some(value)),
            Change::Delete { key } => (key, None),
        };
        state.apply(revision, &key, value.as_deref()).unwrap();
    }
}

/// A volume's row: what it says of other things than its name and sizes does not count here.
fn volume(id: u64, name: &str, bytes: u64) -> VolumeRow {
    let text = format!(
        r#"{{"id":"{id:016x}","name":"{name}","size_bytes":{bytes},"shard_bytes":4096,"replicas":3,
        "ack":"majority","state":"ready","generation":0,"head_layer":1,"attached_by":null}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn with_project(bytes: Option<u64>, volumes: Option<u64>) -> ClusterState {
    let mut state = ClusterState::empty();
    let request = CreateProject {
        name: "p".to_owned(),
        quota_bytes: bytes.map(ByteCount::new),
        quota_volumes: volumes,
    };
    let plan = state.plan_project_create(&request).unwrap();
    apply(&mut state, plan.changes);
    state
}

fn put(state: &mut ClusterState, row: VolumeRow) {
    apply(state, vec![AnyRow::Volume(row).put()]);
}

fn used(state: &ClusterState, name: &str) -> (u64, u64) {
    let projects = state.projects();
    let project = projects
        .iter()
        .find(|project| project.name == name)
        .unwrap();
    (project.bytes.get(), project.volumes)
}

#[test]
fn a_project_counts_its_volumes_as_they_come_grow_and_go() {
    let mut state = with_project(None, None);
    put(&mut state, volume(1, "p/a", 100));
    put(&mut state, volume(2, "p/b", 10));
    put(&mut state, volume(3, "a", 5));
    assert_eq!(
        (used(&state, "p"), used(&state, "default")),
        ((110, 2), (5, 1))
    );
    let growing = VolumeRow {
        grows_to: Some(ByteCount::new(300)),
        ..volume(1, "p/a", 100)
    };
    put(&mut state, growing);
    assert_eq!(used(&state, "p"), (310, 2));
    let key = crate::row::volume_key(ashlar_proto::VolumeId::new(1));
    apply(&mut state, vec![Change::Delete { key }]);
    assert_eq!(used(&state, "p"), (10, 1));
    let refused = state.plan_project_delete("p").unwrap_err();
    let (project, volumes) = ("p".to_owned(), 1);
    let in_use = AccessRefusal::ProjectInUse { project, volumes };
    assert_eq!(refused, Refusal::from(in_use));
    let key = crate::row::volume_key(ashlar_proto::VolumeId::new(2));
    apply(&mut state, vec![Change::Delete { key }]);
    assert!(state.plan_project_delete("p").is_ok());
}

#[test]
fn quotas_are_met_and_not_passed() {
    let mut state = with_project(Some(100), Some(2));
    let fits =
        |state: &ClusterState, bytes| state.check_quota("p/new", None, &volume(9, "p/new", bytes));
    assert!(fits(&state, 100).is_ok());
    assert!(matches!(
        fits(&state, 101),
        Err(AccessRefusal::QuotaBytes { .. })
    ));
    assert!(matches!(
        fits(&state, u64::MAX),
        Err(AccessRefusal::QuotaBytes { .. })
    ));
    let first = volume(1, "p/a", 60);
    put(&mut state, first.clone());
    assert!(matches!(
        fits(&state, 41),
        Err(AccessRefusal::QuotaBytes { .. })
    ));
    let grown = |bytes| VolumeRow {
        grows_to: Some(ByteCount::new(bytes)),
        ..first.clone()
    };
    assert!(state.check_quota("p/a", Some(&first), &grown(100)).is_ok());
    assert!(state.check_quota("p/a", Some(&first), &grown(101)).is_err());
    put(&mut state, volume(2, "p/b", 40));
    let third = fits(&state, 0).unwrap_err();
    assert!(matches!(
        third,
        AccessRefusal::QuotaVolumes { quota: 2, .. }
    ));
    // What is there stays when the quota is lowered, and may get smaller.
    let quota = SetQuota {
        quota_bytes: Some(ByteCount::new(10)),
        quota_volumes: None,
    };
    let plan = state.plan_project_quota("p", &quota).unwrap();
    apply(&mut state, plan.changes);
    assert!(
        state
            .check_quota("p/a", Some(&first), &volume(1, "p/a", 50))
            .is_ok()
    );
}

#[test]
fn a_volume_is_made_in_a_project_that_there_is() {
    let state = with_project(None, None);
    let refused = state.check_quota("q/a", None, &volume(1, "q/a", 1));
    let project = "q".to_owned();
    assert_eq!(refused, Err(AccessRefusal::NoProject { project }));
    assert!(state.check_quota("a", None, &volume(1, "a", 1)).is_ok());
    assert!(state.plan_project_delete("default").is_err());
    let default = CreateProject {
        name: "default".to_owned(),
        quota_bytes: None,
        quota_volumes: None,
    };
    assert!(state.plan_project_create(&default).is_err());
}
