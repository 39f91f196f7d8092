//! iSCSI targets and persistent reservations, over HTTP.

use std::time::Duration;

use ashlar_proto::api::{DiscoveryChap, List, ServedTargets, Target, VolumeReservations};
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::support::{Bench, Store, problem, start};

const NAME: &str = "iqn.2026-11.com.example:disks";

fn path(rest: &str) -> String {
    format!("/v1/targets/{NAME}{rest}")
}

async fn put(bench: &Bench, path: &str, body: &serde_json::Value) -> reqwest::Response {
    let put = bench.http.put(bench.url(path)).json(body);
    let put = match path.ends_with("/acl") {
        true => put.header("if-match", "*"),
        false => put,
    };
    put.send().await.unwrap()
}

#[tokio::test]
async fn a_target_is_made_mapped_shown_and_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    let volume = bench.create("data", 3).await;
    let body = json!({"name": NAME, "alias": "disks", "initiators": ["iqn.1994-05.com.redhat:*"]});
    let made = bench.post("/v1/targets", &body).await;
    assert_eq!(made.status(), StatusCode::CREATED);
    let again = bench.post("/v1/targets", &body).await;
    assert_eq!(problem(again).await.code, "target-exists");
    let mapped: Target = bench
        .posted(&path("/units"), &json!({"volume": "data"}))
        .await;
    assert_eq!(mapped.units.len(), 1);
    let unit = &mapped.units[0];
    assert_eq!((unit.lun.get(), unit.volume), (1, volume.id));
    let shown: Target = bench.get(&path("")).await;
    assert_eq!(shown, mapped);
    let listed: List<Target> = bench.get("/v1/targets").await;
    assert_eq!(listed.items, [shown]);

    let refused = bench.send(Method::DELETE, "/v1/volumes/data").await;
    assert_eq!(refused.status(), StatusCode::CONFLICT);
    let refused = problem(refused).await;
    assert_eq!(refused.code, "volume-mapped");
    assert!(refused.detail.contains(NAME), "{}", refused.detail);
    let unmapped = bench.send(Method::DELETE, &path("/units/1")).await;
    let unmapped: Target = unmapped.json().await.unwrap();
    assert!(unmapped.units.is_empty());
    let gone = bench.send(Method::DELETE, &path("/units/1")).await;
    assert_eq!(problem(gone).await.code, "unit-not-found");
    let deleted = bench.send(Method::DELETE, &path("")).await;
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    let gone = bench.send(Method::DELETE, &path("")).await;
    assert_eq!(problem(gone).await.code, "target-not-found");
}

#[tokio::test]
async fn access_lists_and_secrets_are_changed_and_only_front_ends_see_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _: Target = bench.posted("/v1/targets", &json!({"name": NAME})).await;
    let allow = json!({"initiator": "IQN.1994-05.com.redhat:Host-A"});
    let allowed: Target = bench.posted(&path("/acl/allow"), &allow).await;
    assert_eq!(
        allowed.initiators[0].as_str(),
        "iqn.1994-05.com.redhat:host-a"
    );
    let removed: Target = bench.posted(&path("/acl/remove"), &allow).await;
    assert!(removed.initiators.is_empty());
    let again = bench.post(&path("/acl/remove"), &allow).await;
    assert_eq!(problem(again).await.code, "initiator-not-found");
    let set = put(&bench, &path("/acl"), &json!({"initiators": ["*"]})).await;
    assert_eq!(set.status(), StatusCode::OK);

    let secret = json!({"user": "u", "secret": "correct horse"});
    let with: Target = bench.posted(&path("/chap/set"), &secret).await;
    assert_eq!(with.chap[0].user, "u");
    for of_all in ["/v1/targets", &path("")] {
        let shown = bench.send(Method::GET, of_all).await.text().await.unwrap();
        assert!(!shown.contains("horse"), "{shown}");
    }
    let served: ServedTargets = bench.get("/v1/iscsi/targets").await;
    let login = &served.targets[0].chap[0].login;
    assert_eq!(login.secret.reveal(), "correct horse");
    let mutual = json!({"user": "t", "secret": "correct horse", "mutual": true});
    let refused = bench.post(&path("/chap/set"), &mutual).await;
    assert_eq!(problem(refused).await.code, "chap-secret-reused");
    let short = json!({"user": "u", "secret": "short"});
    let refused = bench.post(&path("/chap/set"), &short).await;
    let refused = problem(refused).await;
    assert_eq!(refused.code, "invalid-request");
    assert!(!refused.detail.contains("short"), "{}", refused.detail);
    let cleared: Target = bench
        .posted(&path("/chap/clear"), &json!({"what": "all"}))
        .await;
    assert!(cleared.chap.is_empty());
    let none = bench
        .post(&path("/chap/clear"), &json!({"what": "mutual"}))
        .await;
    assert_eq!(problem(none).await.code, "chap-not-found");
}

#[tokio::test]
async fn discovery_has_secrets_of_its_own_that_no_target_shares() {
    const DISCOVERY: &str = "/v1/iscsi/discovery";
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let none: DiscoveryChap = bench.get(DISCOVERY).await;
    assert_eq!(none, DiscoveryChap::default());
    let before: ServedTargets = bench.get("/v1/iscsi/targets").await;
    let set = format!("{DISCOVERY}/chap/set");
    let secret = json!({"user": "u", "secret": "correct horse"});
    let with: DiscoveryChap = bench.posted(&set, &secret).await;
    assert_eq!((with.chap.len(), &with.mutual), (1, &None));
    let shown = bench.send(Method::GET, DISCOVERY).await.text().await;
    assert!(!shown.unwrap().contains("horse"));
    // Front ends hear of it as of a target.
    let path_after = format!("/v1/iscsi/targets?after={}&wait_ms=5000", before.revision.0);
    let served: ServedTargets = bench.get(&path_after).await;
    let login = &served.discovery.chap[0].login;
    assert_eq!(login.secret.reveal(), "correct horse");

    // What one shows, nobody logs in with: neither here nor at a target.
    let shows = |secret: &str| json!({"user": "s", "secret": secret, "mutual": true});
    let refused = bench.post(&set, &shows("correct horse")).await;
    assert_eq!(problem(refused).await.code, "chap-secret-reused");
    let _: Target = bench.posted("/v1/targets", &json!({"name": NAME})).await;
    let refused = bench
        .post(&path("/chap/set"), &shows("correct horse"))
        .await;
    assert_eq!(problem(refused).await.code, "chap-secret-reused");
    let _: Target = bench
        .posted(
            &path("/chap/set"),
            &json!({"user": "t", "secret": "battery staple"}),
        )
        .await;
    let refused = bench.post(&set, &shows("battery staple")).await;
    assert_eq!(problem(refused).await.code, "chap-secret-reused");
    let both: DiscoveryChap = bench.posted(&set, &shows("what servers show")).await;
    assert_eq!(both.mutual.as_deref(), Some("s"));

    let clear = format!("{DISCOVERY}/chap/clear");
    let unknown = json!({"what": "user", "user": "v"});
    let refused = bench.post(&clear, &unknown).await;
    assert_eq!(problem(refused).await.code, "chap-not-found");
    for _ in 0..2 {
        let cleared: DiscoveryChap = bench.posted(&clear, &json!({"what": "all"})).await;
        assert_eq!(cleared, DiscoveryChap::default());
    }
}

#[tokio::test]
async fn names_that_are_none_are_refused_with_what_a_name_is() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let refused = bench.post("/v1/targets", &json!({"name": "disks"})).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    let refused = problem(refused).await;
    assert!(refused.detail.contains("iqn."), "{}", refused.detail);
    let refused = bench.send(Method::GET, "/v1/targets/disks").await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    let unknown = bench.send(Method::GET, &path("")).await;
    assert_eq!(problem(unknown).await.code, "target-not-found");
}

#[tokio::test]
async fn a_front_end_that_waits_hears_of_a_change_at_once_and_across_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _: Target = bench.posted("/v1/targets", &json!({"name": NAME})).await;
    let first: ServedTargets = bench.get("/v1/iscsi/targets").await;
    assert_eq!(first.targets.len(), 1);
    let after = |seen: &ServedTargets, wait_ms: u32| {
        format!(
            "/v1/iscsi/targets?after={}&wait_ms={wait_ms}",
            seen.revision.0
        )
    };
    let idle: ServedTargets = bench.get(&after(&first, 50)).await;
    assert_eq!(idle, first);
    let long = after(&first, 60_000);
    let waiting = bench.get::<ServedTargets>(&long);
    let deleting = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        bench.send(Method::DELETE, &path("")).await
    };
    let (heard, _) = tokio::join!(waiting, deleting);
    assert!(heard.targets.is_empty() && heard.revision > first.revision);
    bench.conductor.shutdown().await;
    let bench = start(directory.path()).await;
    // It had the target, and slept through the end of it.
    let heard: ServedTargets = bench.get(&after(&first, 60_000)).await;
    assert!(heard.targets.is_empty());
    assert_eq!(heard.cluster, first.cluster);
}

#[tokio::test]
async fn reservations_are_replaced_by_who_has_seen_them_and_outlive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    let volume = bench.create("data", 3).await;
    let path = "/v1/volumes/data/reservations";
    let none: VolumeReservations = bench.get(path).await;
    assert_eq!((none.volume, none.version), (volume.id, 0));
    let body = |seen: u64| {
        json!({"volume": volume.id, "seen": seen, "reservations": {
            "generation": 1, "aptpl": true,
            "registrations": [{"initiator": "iqn.1994-05.com.redhat:a,i,0x00023d000001",
                "through": {"target": NAME, "portal_group": 1}, "key": "00000000000000ab"}],
            "reservation": {"type": "write-exclusive", "holder": 0},
        }})
    };
    let put_at = async |seen| put(&bench, path, &body(seen)).await;
    let replaced: VolumeReservations = put_at(0).await.json().await.unwrap();
    assert_eq!(replaced.version, 1);
    let late = put_at(0).await;
    assert_eq!(late.status(), StatusCode::PRECONDITION_FAILED);
    assert_eq!(problem(late).await.code, "reservations-changed");
    let mut wrong = body(1);
    wrong["reservations"]["reservation"]["holder"] = json!(5);
    let refused = put(&bench, path, &wrong).await;
    assert_eq!(problem(refused).await.code, "invalid-request");
    bench.conductor.shutdown().await;
    let bench = start(directory.path()).await;
    let kept: VolumeReservations = bench.get(path).await;
    assert_eq!(kept, replaced);
    let unknown = bench
        .send(Method::GET, "/v1/volumes/none/reservations")
        .await;
    assert_eq!(problem(unknown).await.code, "volume-not-found");
}
