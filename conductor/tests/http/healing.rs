//! Replicas that come back for good, over HTTP: maps that owners follow, repair tasks, progress.

use std::time::{Duration, Instant};

use ashlar_proto::ReplicaId;
use ashlar_proto::api::{
    Assignments, AttachRequest, Attachment, ClusterStatus, DetachRequest, Health, InSyncCommitted,
    ProposeInSync, Volume, VolumeMap, repair_owner,
};
use reqwest::{Method, StatusCode};

use super::support::{Bench, GIB, Store, problem, start, start_impatient, volume};

/// A volume of one shard.
async fn create_small(bench: &Bench, name: &str) -> Volume {
    let mut request = volume(name, 3);
    request.size_bytes = ashlar_proto::ByteCount::new(GIB);
    bench.posted("/v1/volumes", &request).await
}

/// Commits a set of the first shard.
async fn commit(bench: &Bench, name: &str, in_sync: Vec<ReplicaId>) -> InSyncCommitted {
    let volume = bench.volume(name).await;
    let proposal = ProposeInSync {
        volume: volume.id,
        generation: volume.generation,
        shard: volume.shards[0].index,
        epoch: volume.shards[0].epoch,
        in_sync,
    };
    bench
        .posted(&format!("/v1/volumes/{name}/in-sync"), &proposal)
        .await
}

fn ids(volume: &Volume) -> Vec<ReplicaId> {
    volume.shards[0].replicas.iter().map(|r| r.id).collect()
}

#[tokio::test]
async fn a_replica_of_a_dead_store_is_made_elsewhere_and_comes_in_sync() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start_impatient(directory.path(), Duration::from_millis(500)).await;
    let mut stores = Store::start_many(&bench, 4).await;
    create_small(&bench, "data").await;
    let grant = bench.attached("data", "me").await;
    let before = grant.volume.shards[0].replicas.clone();
    stores.retain(|store| store.node != before[1].node);
    let path = "/v1/volumes/data";
    commit(&bench, "data", vec![before[0].id, before[2].id]).await;
    let healed: Volume = bench
        .until(path, |v: &Volume| v.shards[0].replicas[1].fresh)
        .await;
    let fresh = healed.shards[0].replicas[1].clone();
    assert!(fresh.id > before[2].id && !fresh.in_sync);
    let mut holds = stores
        .iter()
        .find(|store| store.node == fresh.node)
        .unwrap()
        .holds
        .clone();
    let is_fresh = |a: &ashlar_proto::api::Assignment| a.replica == fresh.id && a.may_create;
    let held = holds.wait_for(|list| list.iter().any(is_fresh));
    tokio::time::timeout(Duration::from_secs(5), held)
        .await
        .unwrap()
        .unwrap();
    let assignments = format!("/v1/nodes/{}/assignments", fresh.node);
    bench
        .until(&assignments, |list: &Assignments| {
            list.replicas.iter().all(|a| !a.may_create)
        })
        .await;
    let status: ClusterStatus = bench.get("/v1/status").await;
    assert_eq!(status.healing.rebuilding, 1);
    assert_eq!(status.healing.progress_percent, Some(0));
    let all = ids(&healed);
    let committed = commit(&bench, "data", all).await;
    assert!(
        committed
            .shard
            .replicas
            .iter()
            .all(|r| r.in_sync && !r.fresh)
    );
    let status: ClusterStatus = bench.get("/v1/status").await;
    assert_eq!(status.health, Health::Healthy);
    assert_eq!(
        (status.healing.out_of_sync, status.healing.rebuilding),
        (0, 0)
    );
    // The set with the one that was replaced can never be committed.
    let stale = ProposeInSync {
        volume: grant.volume.id,
        generation: grant.volume.generation,
        shard: committed.shard.index,
        epoch: committed.shard.epoch,
        in_sync: before.iter().map(|r| r.id).collect(),
    };
    let refused = bench.post("/v1/volumes/data/in-sync", &stale).await;
    assert_eq!(refused.status(), StatusCode::CONFLICT);
    assert_eq!(problem(refused).await.code, "replica-gone");
}

#[tokio::test]
async fn a_map_comes_when_there_are_news() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    let made = create_small(&bench, "data").await;
    let grant = bench.attached("data", "me").await;
    let path = "/v1/volumes/data/map";
    let first: VolumeMap = bench.get(path).await;
    assert_eq!(first.volume.shards, made.shards);
    assert_eq!(first.disks, grant.disks);
    let poll = |after: u64, wait_ms: u64| format!("{path}?after={after}&wait_ms={wait_ms}");
    let begun = Instant::now();
    let at_once: VolumeMap = bench.get(&poll(grant.revision.0 - 1, 20_000)).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    let same: VolumeMap = bench.get(&poll(at_once.revision.0, 200)).await;
    assert_eq!(same.volume, first.volume);
    assert!(begun.elapsed() >= Duration::from_millis(200));
    let waiting = poll(same.revision.0, 20_000);
    let keep = ids(&made)[..2].to_vec();
    let (news, committed) = tokio::join!(
        bench.get::<VolumeMap>(&waiting),
        commit(&bench, "data", keep)
    );
    assert_eq!(news.volume.shards[0], committed.shard);
    assert!(news.revision > same.revision);
    // A revision of other metadata is no reason to wait.
    let _: VolumeMap = bench.get(&poll(1 << 40, 20_000)).await;
    let gone = poll(news.revision.0, 20_000);
    let (refused, deleted) = tokio::join!(
        bench.send(Method::GET, &gone),
        bench.send(Method::DELETE, "/v1/volumes/data?force=true")
    );
    assert!(deleted.status().is_success());
    // The last it shows may be a volume that is being deleted.
    if refused.status() != StatusCode::OK {
        assert_eq!(problem(refused).await.code, "volume-not-found");
    }
    let refused = bench.send(Method::GET, path).await;
    assert_eq!(problem(refused).await.code, "volume-not-found");
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn a_detached_volume_with_a_replica_behind_becomes_a_repair_task() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let stores = Store::start_three(&bench).await;
    let made = create_small(&bench, "data").await;
    let grant = bench.attached("data", "me").await;
    commit(&bench, "data", ids(&made)[1..].to_vec()).await;
    let detach = DetachRequest {
        volume: made.id,
        generation: grant.volume.generation,
        served: false,
        settled: false,
    };
    bench.post("/v1/volumes/data/detach", &detach).await;
    let mut given = None;
    for _ in 0..200 {
        for store in &stores {
            let path = format!("/v1/nodes/{}/assignments", store.node);
            let list: Assignments = bench.get(&path).await;
            given = given.or((!list.repairs.is_empty()).then_some((store.node, list)));
        }
        if given.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (node, list) = given.expect("a node is given the task");
    assert_eq!(
        (list.repairs.len(), list.repairs[0].name.as_str()),
        (1, "data")
    );
    assert_ne!(node, made.shards[0].replicas[0].node);
    let repair = AttachRequest {
        server: None,
        publication: None,
        owner: repair_owner(&format!("node-{node}")),
        force: false,
        repair: true,
    };
    let attached: Attachment = bench.posted("/v1/volumes/data/attach", &repair).await;
    assert_eq!(attached.volume.attached_by, Some(repair.owner.clone()));
    // A user needs no force, and nobody is told to repair any more.
    let user = bench.attached("data", "user").await;
    assert!(user.volume.generation > attached.volume.generation);
    let path = format!("/v1/nodes/{node}/assignments");
    let list: Assignments = bench.get(&path).await;
    assert_eq!(list.repairs, []);
    let forced = AttachRequest {
        force: true,
        ..repair
    };
    let refused = bench.post("/v1/volumes/data/attach", &forced).await;
    assert_eq!(problem(refused).await.code, "volume-attached");
}
