//! Snapshots over HTTP: made, read about, deleted, gone back to, and reported on by owners.

use std::time::Duration;

use ashlar_proto::api::{
    Attachment, DetachRequest, List, ReportLayers, Revision, Snapshot, SnapshotMap, SnapshotState,
    Volume, VolumeMap,
};
use ashlar_proto::{Generation, Layer};
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::support::{Bench, Store, problem, start};

const OF_DATA: &str = "/v1/volumes/data/snapshots";

impl Bench {
    async fn snapshot(&self, name: &str) -> Snapshot {
        let path = format!("{OF_DATA}?wait_ms=0");
        self.posted(&path, &json!({ "name": name })).await
    }

    async fn report(&self, generation: Generation, settled: u32, table: u32) -> StatusCode {
        let volume = self.volume("data").await;
        let request = ReportLayers {
            volume: volume.id,
            generation,
            settled: Layer::new(settled),
            table,
        };
        let path = "/v1/volumes/data/layers";
        self.post(path, &request).await.status()
    }

    async fn refused(&self, path: &str, body: serde_json::Value) -> String {
        problem(self.post(path, &body).await).await.code
    }
}

#[tokio::test]
async fn a_snapshot_lives_from_create_to_delete() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    bench.create("data", 3).await;
    let before = bench.volume("data").await;
    let made = bench.post(OF_DATA, &json!({"name": "monday"})).await;
    assert_eq!(made.status(), StatusCode::CREATED);
    let made: Snapshot = made.json().await.unwrap();
    assert_eq!(
        (made.state, made.layer),
        (SnapshotState::Ready, Layer::new(1))
    );
    assert_eq!(
        (made.volume, made.size_bytes),
        (before.id, before.size_bytes)
    );
    // Some day after this was written.
    assert!(made.created_ms > 1_700_000_000_000);

    let path = format!("{OF_DATA}/monday");
    let shown: Snapshot = bench.get(&path).await;
    assert_eq!(shown, made);
    let volume = bench.volume("data").await;
    assert_eq!((volume.snapshots, volume.head_layer), (1, Layer::new(2)));
    for list in ["/v1/snapshots", "/v1/snapshots?volume=data", OF_DATA] {
        let list: List<Snapshot> = bench.get(list).await;
        assert_eq!(list.items, std::slice::from_ref(&made));
    }
    bench.snapshot("tuesday").await;
    let map: SnapshotMap = bench.get(&format!("{path}/map")).await;
    assert_eq!(map.snapshot, made);
    assert_eq!((map.volume.shards.len(), map.disks.len()), (3, 3));
    assert_eq!(
        (map.others.len(), map.others[0].name.as_str()),
        (1, "tuesday")
    );

    let refused = bench.send(Method::DELETE, "/v1/volumes/data").await;
    let refused = problem(refused).await;
    assert_eq!(refused.code, "volume-has-snapshots");
    assert!(
        refused.detail.contains("has 2 snapshots"),
        "{}",
        refused.detail
    );
    let deleted = bench.send(Method::DELETE, &path).await;
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    let again = bench.send(Method::DELETE, &path).await;
    assert_eq!(again.status(), StatusCode::NOT_FOUND);
    assert_eq!(problem(again).await.code, "snapshot-not-found");
    assert_eq!(bench.volume("data").await.layers.version, 1);
    let forced = bench
        .send(Method::DELETE, "/v1/volumes/data?force=true")
        .await;
    assert_eq!(forced.status(), StatusCode::NO_CONTENT);
    let list: List<Snapshot> = bench.get("/v1/snapshots").await;
    assert_eq!(list.items, []);
}

#[tokio::test]
async fn an_owner_hears_of_a_snapshot_and_says_when_it_is_ready() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    bench.create("data", 3).await;
    let grant: Attachment = bench.attached("data", "me").await;
    let generation = grant.volume.generation;
    let path = format!(
        "/v1/volumes/data/map?after={}&wait_ms=20000",
        grant.revision.0
    );
    let owner = async {
        let map: VolumeMap = bench.get(&path).await;
        assert_eq!(map.volume.head_layer, Layer::new(2));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(bench.report(generation, 1, 0).await, StatusCode::NO_CONTENT);
    };
    let body = json!({"name": "one"});
    let (made, ()) = tokio::join!(bench.post(OF_DATA, &body), owner);
    assert_eq!(made.status(), StatusCode::CREATED, "it waits for the owner");

    let (path, two) = (format!("{OF_DATA}?wait_ms=50"), json!({"name": "two"}));
    let soon = bench.post(&path, &two).await;
    assert_eq!(soon.status(), StatusCode::ACCEPTED);
    let soon: Snapshot = soon.json().await.unwrap();
    assert_eq!(soon.state, SnapshotState::Sealing);
    let detach = DetachRequest {
        volume: grant.volume.id,
        generation,
        served: true,
        settled: true,
    };
    bench.post("/v1/volumes/data/detach", &detach).await;
    let two: Snapshot = bench.get(&format!("{OF_DATA}/two")).await;
    assert_eq!(two.state, SnapshotState::Ready);
    let late = bench.report(generation, 9, 9).await;
    assert_eq!(late, StatusCode::CONFLICT);
}

#[tokio::test]
async fn a_rollback_is_complete_when_an_owner_has_applied_it() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    bench.create("data", 3).await;
    for name in ["one", "two"] {
        bench.snapshot(name).await;
    }
    let path = format!("{OF_DATA}/one/rollback?wait_ms=0");
    assert_eq!(
        bench.refused(&path, json!({})).await,
        "snapshot-is-not-newest"
    );
    bench.attached("data", "me").await;
    let newer = json!({"delete_newer": true});
    assert_eq!(bench.refused(&path, newer).await, "volume-attached");
    let all = json!({"delete_newer": true, "force": true});
    let answer = bench.post(&path, &all).await;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    let volume: Volume = answer.json().await.unwrap();
    assert_eq!(
        (volume.snapshots, volume.generation),
        (1, Generation::new(2))
    );
    assert_eq!((volume.layers.version, volume.layers_applied), (1, 0));
    assert!(volume.layers.is_dropped(Layer::new(2)));

    // Going back once more waits for who attaches it.
    let wait = format!("{OF_DATA}/one/rollback?wait_ms=20000");
    let owner = async {
        let applied = |volume: &Volume| volume.layers.version == 2;
        bench.until("/v1/volumes/data", applied).await;
        let grant = bench.attached("data", "me").await;
        let generation = grant.volume.generation;
        assert_eq!(bench.report(generation, 0, 2).await, StatusCode::NO_CONTENT);
    };
    let again = json!({});
    let (answer, ()) = tokio::join!(bench.post(&wait, &again), owner);
    assert_eq!(answer.status(), StatusCode::OK);
    let volume: Volume = answer.json().await.unwrap();
    assert_eq!(volume.layers_applied, 2);
}

#[tokio::test]
async fn a_deletion_waits_for_the_replicas_when_told_to() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    bench.create("data", 3).await;
    bench.snapshot("one").await;
    let grant = bench.attached("data", "me").await;
    let path = format!("{OF_DATA}/one?wait_ms=20000");
    let owner = async {
        let changed = |volume: &Volume| volume.layers.version == 1;
        bench.until("/v1/volumes/data", changed).await;
        bench.report(grant.volume.generation, 0, 1).await;
    };
    let (deleted, ()) = tokio::join!(bench.send(Method::DELETE, &path), owner);
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    assert_eq!(bench.volume("data").await.layers_applied, 1);
}

#[tokio::test]
async fn a_detached_volume_is_given_to_a_store_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    bench.create("data", 3).await;
    let grant = bench.attached("data", "me").await;
    let detach = DetachRequest {
        volume: grant.volume.id,
        generation: grant.volume.generation,
        served: true,
        settled: false,
    };
    bench.post("/v1/volumes/data/detach", &detach).await;
    assert_eq!(bench.snapshot("one").await.state, SnapshotState::Sealing);
    let mut tasks = 0;
    for node in 1..=3 {
        let path = format!("/v1/nodes/{node}/assignments");
        let list: ashlar_proto::api::Assignments = bench.get(&path).await;
        tasks += list.repairs.len();
    }
    assert_eq!(tasks, 1);
}

#[tokio::test]
async fn requests_that_are_not_possible_are_problems() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    bench.create("data", 3).await;
    bench.snapshot("one").await;
    let named = |name: &str| json!({ "name": name });
    assert_eq!(
        bench.refused(OF_DATA, named("one")).await,
        "snapshot-exists"
    );
    assert_eq!(bench.refused(OF_DATA, named("A")).await, "invalid-request");
    let none = "/v1/volumes/none/snapshots";
    assert_eq!(bench.refused(none, named("a")).await, "volume-not-found");
    let none = format!("{OF_DATA}/none/rollback");
    assert_eq!(bench.refused(&none, json!({})).await, "snapshot-not-found");
    for (path, code) in [
        ("/v1/snapshots?volume=none", "volume-not-found"),
        ("/v1/snapshots?name=none", "malformed-request"),
        ("/v1/volumes/data/snapshots/none", "snapshot-not-found"),
        ("/v1/volumes/data/snapshots/none/map", "snapshot-not-found"),
    ] {
        let refused = bench.send(Method::GET, path).await;
        assert_eq!(problem(refused).await.code, code, "{path}");
    }
    bench.attached("data", "me").await;
    bench.snapshot("two").await;
    let sealing = format!("{OF_DATA}/two/rollback");
    let force = json!({"force": true});
    assert_eq!(bench.refused(&sealing, force).await, "snapshot-not-ready");
}

#[tokio::test]
async fn snapshots_outlive_a_restart_of_the_conductor() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let stores = Store::start_three(&bench).await;
    bench.create("data", 3).await;
    bench.snapshot("one").await;
    bench.snapshot("two").await;
    let path = format!("{OF_DATA}/one");
    bench.send(Method::DELETE, &path).await;
    let before: List<Snapshot> = bench.get("/v1/snapshots").await;
    let volume = bench.volume("data").await;
    drop(stores);
    bench.conductor.shutdown().await;
    let bench = start(directory.path()).await;
    let after: List<Snapshot> = bench.get("/v1/snapshots").await;
    assert_eq!(after.items, before.items);
    assert!(after.revision >= before.revision && after.revision > Revision(0));
    assert_eq!(bench.volume("data").await.layers, volume.layers);
}
