//! Settings and dry runs over HTTP.

use ashlar_proto::api::{ChangeSettings, ExplainedPlacement, Settings, Volume};
use reqwest::StatusCode;
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
