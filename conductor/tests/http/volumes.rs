//! Volumes from creation to deletion, with stores that come and go.

use std::time::{Duration, Instant};

use ashlar_proto::api::{
    AttachRequest, Attachment, ClusterStatus, DetachRequest, Disk, Health, InSyncCommitted, List,
    Node, NodeState, ProposeInSync, Volume, VolumeState,
};
use ashlar_proto::{Epoch, Generation};
use reqwest::{Method, StatusCode};

use super::support::{Store, problem, start, volume};

#[tokio::test]
async fn a_volume_lives_from_create_to_delete() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let stores = Store::start_three(&bench).await;
    let made = bench.create("data", 3).await;
    assert_eq!(
        (made.state, made.health),
        (VolumeState::Ready, Health::Healthy)
    );
    assert_eq!((made.shards.len(), made.shards[0].replicas.len()), (3, 3));
    assert_eq!(stores[0].holds.borrow().len(), 3);

    let list: List<Volume> = bench.get("/v1/volumes").await;
    assert_eq!(list.items.len(), 1);
    assert!(list.items[0].shards.is_empty());
    assert_eq!(bench.volume("data").await.shards, made.shards);

    let grant = bench.attached("data", "me").await;
    assert_eq!(grant.volume.generation, Generation::new(1));
    assert_eq!(grant.disks.len(), 3);
    assert_eq!(grant.volume.shards, made.shards);
    assert!(grant.revision > list.revision);

    let refused = bench.attach("data", "you").await;
    assert_eq!(refused.status(), StatusCode::CONFLICT);
    let refused = problem(refused).await;
    assert_eq!(refused.code, "volume-attached");
    assert!(refused.detail.contains("`me`"), "{}", refused.detail);
    let force = AttachRequest {
        owner: "you".to_owned(),
        force: true,
        repair: false,
        server: None,
        publication: None,
    };
    let forced: Attachment = bench.posted("/v1/volumes/data/attach", &force).await;
    assert_eq!(forced.volume.generation, Generation::new(2));

    let delete = bench.send(Method::DELETE, "/v1/volumes/data").await;
    assert_eq!(problem(delete).await.code, "volume-attached");
    let id = forced.volume.id;
    let stale = DetachRequest {
        volume: id,
        generation: Generation::new(1),
        served: false,
        settled: false,
    };
    let stale = bench.post("/v1/volumes/data/detach", &stale).await;
    assert_eq!(problem(stale).await.code, "stale-generation");
    let detach = DetachRequest {
        volume: id,
        generation: Generation::new(2),
        served: false,
        settled: false,
    };
    for _ in 0..2 {
        let detached = bench.post("/v1/volumes/data/detach", &detach).await;
        assert_eq!(detached.status(), StatusCode::NO_CONTENT);
    }
    assert_eq!(bench.volume("data").await.attached_by, None);

    let deleted = bench.send(Method::DELETE, "/v1/volumes/data").await;
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    assert!(stores[1].holds.borrow().is_empty());
    let gone = bench.send(Method::GET, "/v1/volumes/data").await;
    assert_eq!(problem(gone).await.code, "volume-not-found");
    assert!(bench.create("data", 1).await.id > made.id);
    bench.conductor.shutdown().await;
}

#[tokio::test]
async fn create_answers_in_time_when_a_store_does_not_carry_out() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let registration = super::support::registration(1);
    let _: ashlar_proto::api::Registered = bench.posted("/v1/nodes/register", &registration).await;
    let before = Instant::now();
    let made = bench
        .post("/v1/volumes?wait_ms=100", &volume("slow", 1))
        .await;
    assert_eq!(made.status(), StatusCode::ACCEPTED);
    assert!(before.elapsed() < Duration::from_secs(5));
    assert_eq!(
        made.json::<Volume>().await.unwrap().state,
        VolumeState::Creating
    );
    let refused = bench.attach("slow", "me").await;
    assert_eq!(problem(refused).await.code, "volume-not-ready");
    let _store = Store::start(&bench, 1).await;
    bench
        .until("/v1/volumes/slow", |v: &Volume| {
            v.state == VolumeState::Ready
        })
        .await;
    let twice = bench.post("/v1/volumes", &volume("slow", 1)).await;
    assert_eq!(
        (twice.status(), problem(twice).await.code),
        (StatusCode::CONFLICT, "volume-exists".to_owned())
    );
}

#[tokio::test]
async fn placement_says_what_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = [Store::start(&bench, 1).await, Store::start(&bench, 2).await];
    let refused = bench.post("/v1/volumes", &volume("data", 3)).await;
    assert_eq!(refused.status(), StatusCode::INSUFFICIENT_STORAGE);
    let refused = problem(refused).await;
    assert_eq!(refused.code, "no-placement");
    let expected = "3 replicas need 3 nodes with room, 2 are up";
    assert!(refused.detail.starts_with(expected), "{}", refused.detail);
}

#[tokio::test]
async fn in_sync_sets_are_committed_once() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    bench.create("data", 3).await;
    let grant = bench.attached("data", "me").await;
    let shard = &grant.volume.shards[1];
    let proposal = ProposeInSync {
        volume: grant.volume.id,
        generation: grant.volume.generation,
        shard: shard.index,
        epoch: shard.epoch,
        in_sync: vec![shard.replicas[0].id, shard.replicas[2].id],
    };
    let path = "/v1/volumes/data/in-sync";
    let first: InSyncCommitted = bench.posted(path, &proposal).await;
    assert_eq!(first.shard.epoch, Epoch::new(2));
    let again: InSyncCommitted = bench.posted(path, &proposal).await;
    assert_eq!(again, first);
    let other = ProposeInSync {
        in_sync: vec![shard.replicas[0].id],
        ..proposal.clone()
    };
    assert_eq!(
        problem(bench.post(path, &other).await).await.code,
        "stale-epoch"
    );
    let old = ProposeInSync {
        generation: Generation::new(0),
        ..proposal.clone()
    };
    assert_eq!(
        problem(bench.post(path, &old).await).await.code,
        "stale-generation"
    );
    let none = ProposeInSync {
        in_sync: vec![],
        epoch: Epoch::new(2),
        ..proposal
    };
    assert_eq!(
        problem(bench.post(path, &none).await).await.code,
        "invalid-request"
    );
    assert_eq!(bench.volume("data").await.health, Health::Degraded);
    let status: ClusterStatus = bench.get("/v1/status").await;
    assert_eq!(
        (status.health, status.volumes_degraded),
        (Health::Degraded, 1)
    );
}

#[tokio::test]
async fn a_silent_store_is_down_until_it_is_heard_again() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let [_one, _two, three] = Store::start_three(&bench).await;
    bench.create("data", 3).await;
    let node = three.node;
    drop(three);
    let status: ClusterStatus = bench
        .until("/v1/status", |status: &ClusterStatus| status.nodes_up == 2)
        .await;
    assert_eq!((status.nodes, status.health), (3, Health::Degraded));
    assert_eq!(status.damage["data"], 1 + 2 + 3);
    let nodes: List<Node> = bench.get("/v1/nodes").await;
    let down = nodes.items.iter().find(|n| n.id == node).unwrap();
    assert_eq!(down.state, NodeState::Down);
    assert!(down.heartbeat_age_ms.unwrap() >= 1500);
    let disks: List<Disk> = bench.get("/v1/disks").await;
    assert_eq!(disks.items.len(), 3);
    assert!(disks.items.iter().all(|disk| disk.replicas == 3));
    let _three = Store::start(&bench, 3).await;
    let back: ClusterStatus = bench
        .until("/v1/status", |status: &ClusterStatus| status.nodes_up == 3)
        .await;
    assert_eq!(back.health, Health::Healthy);
}

#[tokio::test]
async fn assignments_come_when_there_are_news() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let store = Store::start(&bench, 1).await;
    let path = format!("/v1/nodes/{}/assignments", store.node);
    let now: ashlar_proto::api::Assignments = bench.get(&path).await;
    let after = now.revision.0;
    let before = Instant::now();
    let same: ashlar_proto::api::Assignments = bench
        .get(&format!("{path}?after={after}&wait_ms=200"))
        .await;
    assert!(before.elapsed() >= Duration::from_millis(200));
    assert_eq!(same, now);
    let poll = format!("{path}?after={after}&wait_ms=20000");
    let (news, _) = tokio::join!(
        bench.get::<ashlar_proto::api::Assignments>(&poll),
        bench.create("data", 1)
    );
    assert_eq!(news.replicas.len(), 3);
    assert!(news.revision > now.revision);
    let unknown = bench.send(Method::GET, "/v1/nodes/99/assignments").await;
    assert_eq!(problem(unknown).await.code, "node-not-found");
}
