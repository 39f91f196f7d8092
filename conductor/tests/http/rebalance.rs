//! Moves between disks over HTTP: they begin by themselves, are shown, paused and resumed.

use ashlar_proto::api::{
    AckRule, ClusterStatus, CreateVolume, Rebalance, RebalancePlan, RebalanceState, Volume,
};
use ashlar_proto::{ByteCount, DiskId};
use reqwest::StatusCode;
use serde_json::json;

use super::support::{Bench, GIB, Store, problem, start};

/// Three stores that hold eight volumes of 4 GiB each, in one shard, of 100 GiB.
async fn filled(bench: &Bench) -> Vec<Store> {
    let stores = Store::start_many(bench, 3).await;
    for n in 0..8 {
        let request = CreateVolume {
            settings: std::collections::BTreeMap::new(),
            name: format!("v{n}"),
            size_bytes: ByteCount::new(4 * GIB),
            replicas: 3,
            ack: AckRule::Majority,
            reserve: ashlar_proto::api::Reserve::None,
            labels: std::collections::BTreeMap::new(),
        };
        let volume: Volume = bench.posted("/v1/volumes", &request).await;
        assert_eq!(volume.shards.len(), 1);
    }
    stores
}

#[tokio::test]
async fn a_store_that_joins_is_filled_unless_that_is_paused() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = filled(&bench).await;
    let even: Rebalance = bench.get("/v1/rebalance").await;
    assert_eq!(even.summary.state, RebalanceState::Idle);
    assert_eq!((even.start_permille, even.stop_permille), (100, 30));
    assert_eq!((even.spread_permille, even.disks.len()), (0, 3));
    let paused: Rebalance = bench.posted("/v1/rebalance/pause", &json!({})).await;
    assert_eq!(paused.summary.state, RebalanceState::Paused);
    let _fourth = Store::start(&bench, 4).await;
    let plan: RebalancePlan = bench.get("/v1/rebalance/plan").await;
    let disk = DiskId::new(4);
    assert!(plan.complete && plan.moves.iter().all(|m| m.what.to.disk == disk));
    assert!((5..=6).contains(&plan.moves.len()), "{plan:?}");
    let all = plan.moves.iter().map(|m| m.what.bytes.get()).sum::<u64>();
    assert_eq!(plan.bytes.get(), all);
    assert_eq!(plan.disks.len(), 4);
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    let still: Rebalance = bench.get("/v1/rebalance").await;
    assert_eq!((still.summary.moving, still.moves.len()), (0, 0));
    // What is asked for twice is answered twice.
    for _ in 0..2 {
        let resumed: Rebalance = bench.posted("/v1/rebalance/resume", &json!({})).await;
        assert_eq!(resumed.summary.state, RebalanceState::Moving);
    }
    let moving: Rebalance = bench
        .until("/v1/rebalance", |r: &Rebalance| r.summary.moving == 2)
        .await;
    for (begun, planned) in moving.moves.iter().zip(&plan.moves) {
        assert!(
            plan.moves.iter().any(|p| p.what == *begun),
            "{begun:?} {planned:?}"
        );
    }
    let status: ClusterStatus = bench.get("/v1/status").await;
    assert_eq!(status.rebalance, moving.summary);
    assert_eq!(
        (status.healing.out_of_sync, status.healing.rebuilding),
        (0, 0)
    );
    let left = plan.moves.len() - 2;
    assert_eq!(usize::try_from(status.rebalance.to_come).unwrap(), left);
    assert_eq!(status.rebalance.bytes_left, plan.bytes);
}

#[tokio::test]
async fn a_pause_outlives_the_conductor() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _: Rebalance = bench.posted("/v1/rebalance/pause", &json!({})).await;
    bench.conductor.shutdown().await;
    let bench = start(directory.path()).await;
    let shown: Rebalance = bench.get("/v1/rebalance").await;
    assert_eq!(shown.summary.state, RebalanceState::Paused);
    let bare = bench.post("/v1/rebalance/pause", &json!({"for": 1})).await;
    assert_eq!(bare.status(), StatusCode::BAD_REQUEST);
    assert_eq!(problem(bare).await.code, "malformed-request");
}
