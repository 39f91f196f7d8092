//! Settings and dry runs over HTTP.

use ashlar_proto::api::{
    AuditEntry, ChangeSettings, ExplainedPlacement, List, PoolSettings, SettingSource, Settings,
    Volume,
};
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::support::{Store, problem, start, volume};

#[tokio::test]
async fn settings_are_changed_all_or_none() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_many(&bench, 3).await;
    let _: Volume = bench.posted("/v1/volumes", &volume("v", 3)).await;
    let request = ChangeSettings {
        volume: Some("v".to_owned()),
        set: [("iops-max".to_owned(), "100".to_owned())].into(),
        ..ChangeSettings::default()
    };
    let settings: Settings = bench.posted("/v1/config", &request).await;
    let value = |settings: &Settings| {
        let setting = settings.items.iter().find(|s| s.name == "iops-max");
        setting.unwrap().value.clone()
    };
    assert_eq!(value(&settings), "100");
    let of_volume: Settings = bench.get("/v1/config?volume=v").await;
    assert_eq!(of_volume, settings);
    let of_cluster: Settings = bench.get("/v1/config").await;
    assert_eq!(value(&of_cluster), "unlimited");
    let shown: Volume = bench.get("/v1/volumes/v").await;
    assert_eq!(shown.settings.requests_per_second, Some(100));
    let wrong = json!({"set": {"rebuild-after": "1m", "nothing": "1"}});
    let refused = bench.post("/v1/config", &wrong).await;
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert!(problem(refused).await.detail.contains("nothing"));
    let unchanged: Settings = bench.get("/v1/config").await;
    assert_eq!(unchanged, of_cluster);
}

#[tokio::test]
async fn a_dry_run_makes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_many(&bench, 3).await;
    let mut request = volume("v", 3);
    let explained: ExplainedPlacement = bench.posted("/v1/placement:explain", &request).await;
    assert!(explained.possible && explained.disks.len() == 3);
    request.settings = [("pool".to_owned(), "media=none".to_owned())].into();
    let explained: ExplainedPlacement = bench.posted("/v1/placement:explain", &request).await;
    assert!(!explained.possible && explained.problem.is_some());
    let refused = bench.post("/v1/volumes", &request).await;
    assert_eq!(problem(refused).await.code, "no-placement");
}

const POOL: &str = "/v1/config/pools/media=nvme,path=a%2Fb";

fn limit(settings: &Settings) -> (String, SettingSource) {
    let setting = settings.items.iter().find(|s| s.name == "iops-max");
    let setting = setting.unwrap();
    (setting.value.clone(), setting.source)
}

#[tokio::test]
async fn settings_of_a_pool_reach_its_volumes_and_the_audit_log() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_many(&bench, 3).await;
    for name in ["in", "out"] {
        let _: Volume = bench.posted("/v1/volumes", &volume(name, 3)).await;
    }
    let of_pool = json!({"volume": "in", "set": {"pool": "path=a/b,media=nvme"}});
    let _: Settings = bench.posted("/v1/config", &of_pool).await;
    let set = json!({"set": {"iops-max": "40"}});
    let settings: Settings = bench.posted(POOL, &set).await;
    let by_pool = ("40".to_owned(), SettingSource::Pool);
    assert_eq!(limit(&settings), by_pool);
    assert_eq!(settings.pool.as_deref(), Some("media=nvme,path=a/b"));
    assert!(
        settings
            .items
            .iter()
            .all(|s| s.name != "pool" && s.of_pools)
    );
    let other_order: Settings = bench.get("/v1/config/pools/path=a%2Fb,media=nvme").await;
    assert_eq!(other_order, settings);
    let of_volume: Settings = bench.get("/v1/config?volume=in").await;
    assert_eq!(
        (limit(&of_volume), of_volume.pool),
        (by_pool, settings.pool)
    );
    for (name, expected) in [("in", Some(40)), ("out", None)] {
        let shown: Volume = bench.get(&format!("/v1/volumes/{name}")).await;
        assert_eq!(shown.settings.requests_per_second, expected, "{name}");
    }
    let pools: List<PoolSettings> = bench.get("/v1/config/pools").await;
    assert_eq!((pools.items.len(), pools.items[0].volumes), (1, 1));
    let audit: List<AuditEntry> = bench.get("/v1/audit").await;
    let entry = audit
        .items
        .iter()
        .find(|entry| entry.what.contains("pools"));
    let change = &entry.unwrap().changes[0];
    assert_eq!(change.row, "settings/pool/media=nvme,path=a/b");
    assert_eq!(change.after.as_ref().unwrap()["set"]["iops-max"], "40");
    let wrong = json!({"set": {"rebuild-after": "1m", "iops-max": "1"}});
    let refused = problem(bench.post(POOL, &wrong).await).await;
    assert!(refused.detail.contains("cannot be set for a pool"));
    let nowhere = bench.send(Method::GET, "/v1/config/pools/nvme").await;
    assert_eq!(problem(nowhere).await.code, "invalid-request");
    let unset = json!({"unset": ["iops-max"]});
    let settings: Settings = bench.posted(POOL, &unset).await;
    assert_eq!(limit(&settings).1, SettingSource::Default);
}

#[tokio::test]
async fn settings_of_a_pool_are_changed_as_they_were_seen_and_once() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let tag = async |path: &str| {
        let shown = bench.send(Method::GET, path).await;
        shown.headers()["etag"].to_str().unwrap().to_owned()
    };
    let post = async |header: &str, value: &str, limit: &str| {
        let request = bench.http.post(bench.url(POOL)).header(header, value);
        let request = request.json(&json!({"set": {"iops-max": limit}}));
        request.send().await.unwrap()
    };
    let unset = tag(POOL).await;
    assert_eq!(unset, "\"0\"");
    assert_eq!(
        post("if-match", &unset, "40").await.status(),
        StatusCode::OK
    );
    let set = tag("/v1/config/pools/path=a%2Fb,media=nvme").await;
    let late = post("if-match", &unset, "50").await;
    assert_eq!(problem(late).await.code, "object-changed");
    assert_eq!(tag("/v1/config/pools/media=hdd").await, "\"0\"");
    assert_eq!(post("if-match", &set, "50").await.status(), StatusCode::OK);
    let first = post("idempotency-key", "k", "60").await;
    assert_eq!(first.status(), StatusCode::OK);
    let _: Settings = bench
        .posted(POOL, &json!({"set": {"iops-max": "70"}}))
        .await;
    let again = post("idempotency-key", "k", "60").await;
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    let settings: Settings = again.json().await.unwrap();
    assert_eq!(limit(&settings).0, "70");
}
