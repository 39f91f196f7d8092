//! Nodes and disks that are cordoned, drained and removed, over HTTP.

use ashlar_proto::api::{
    Ailing, ClusterStatus, Disk, Evacuation, Heartbeat, Incident, List, Node, Revision,
    Schedulable, Volume, WatchEvent,
};
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::support::{Bench, Store, problem, start, volume};
use super::watch::Lines;

async fn set(bench: &Bench, what: &str) -> StatusCode {
    bench
        .post(&format!("/v1/{what}"), &json!({}))
        .await
        .status()
}

#[tokio::test]
async fn a_node_is_cordoned_drained_and_opened_by_name_or_id() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let stores = Store::start_many(&bench, 4).await;
    let node: Node = bench.posted("/v1/nodes/node-1/cordon", &json!({})).await;
    assert_eq!(
        (node.id, node.schedulable),
        (stores[0].node, Schedulable::Cordoned)
    );
    bench.create("data", 3).await;
    let nodes: List<Node> = bench.get("/v1/nodes").await;
    assert_eq!((nodes.items[0].replicas, nodes.items[1].replicas), (0, 3));
    let disks: List<Disk> = bench.get("/v1/disks").await;
    assert_eq!(disks.items[0].schedulable, Schedulable::Cordoned);
    assert_eq!(disks.items[1].schedulable, Schedulable::Open);
    // Of the nodes left, no three take replicas.
    assert_eq!(set(&bench, "nodes/2/cordon").await, StatusCode::OK);
    let refused = bench.post("/v1/volumes", &volume("more", 3)).await;
    assert_eq!(problem(refused).await.code, "no-placement");
    assert_eq!(set(&bench, "nodes/node-1/uncordon").await, StatusCode::OK);
    bench.create("more", 3).await;
    // Drained, each shard gets one more.
    assert_eq!(set(&bench, "nodes/node-3/drain").await, StatusCode::OK);
    let moving: Volume = bench.volume("more").await;
    assert_eq!(moving.shards.len(), 3);
    let data = bench.volume("data").await;
    let fresh = |v: &Volume| {
        let replicas = v.shards.iter().flat_map(|shard| &shard.replicas);
        replicas.filter(|r| r.fresh).count()
    };
    // Two at a time on the only disk that is eligible.
    assert_eq!(fresh(&data) + fresh(&moving), 2);
    let moved = [data, moving].into_iter().flat_map(|v| v.shards);
    for shard in moved {
        let leaving = shard.replicas.iter().filter(|r| r.leaving).count();
        assert_eq!(shard.replicas.len() - 3, leaving);
    }
    assert_eq!(set(&bench, "nodes/node-3/uncordon").await, StatusCode::OK);
    assert_eq!(fresh(&bench.volume("data").await), 0);
}

#[tokio::test]
async fn what_cannot_be_removed_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let mut stores = Store::start_many(&bench, 4).await;
    assert_eq!(set(&bench, "nodes/node-4/cordon").await, StatusCode::OK);
    bench.create("data", 3).await;
    let nodes: List<Node> = bench.get("/v1/nodes").await;
    let used = nodes.items.iter().find(|n| n.replicas > 0).unwrap();
    let refused = bench
        .send(Method::DELETE, &format!("/v1/nodes/{}", used.name))
        .await;
    assert_eq!(refused.status(), StatusCode::CONFLICT);
    let refused = problem(refused).await;
    assert_eq!(refused.code, "node-in-use");
    assert!(
        refused.detail.contains("holds 3 replicas"),
        "{}",
        refused.detail
    );
    let disk = used.disks[0];
    let refused = bench
        .send(Method::DELETE, &format!("/v1/disks/{disk}"))
        .await;
    assert_eq!(problem(refused).await.code, "disk-in-use");
    let empty = nodes.items.iter().find(|n| n.replicas == 0).unwrap();
    let (disk, node) = (empty.disks[0], empty.id);
    let refused = bench
        .send(Method::DELETE, &format!("/v1/disks/{disk}"))
        .await;
    assert_eq!(problem(refused).await.code, "disk-served");
    let refused = bench
        .send(Method::DELETE, &format!("/v1/nodes/{node}"))
        .await;
    assert_eq!(problem(refused).await.code, "node-up");
    let revision = nodes.revision.0;
    let mut lines = Lines::open(&bench, &format!("/v1/nodes?watch=true&after={revision}")).await;
    stores.retain(|store| store.node != node);
    bench
        .until("/v1/nodes", |list: &List<Node>| {
            let item = list.items.iter().find(|n| n.id == node).unwrap();
            item.state == ashlar_proto::api::NodeState::Down
        })
        .await;
    let removed = bench
        .send(Method::DELETE, &format!("/v1/nodes/{node}"))
        .await;
    assert_eq!(removed.status(), StatusCode::NO_CONTENT);
    loop {
        match lines.change::<Node>().await {
            WatchEvent::Delete { item, .. } => {
                assert_eq!((item.id, item.name.as_str()), (node, empty.name.as_str()));
                break;
            }
            WatchEvent::Put { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    let disks: List<Disk> = bench.get("/v1/disks").await;
    assert_eq!(disks.items.len(), 3);
    let gone = bench
        .send(Method::DELETE, &format!("/v1/nodes/{node}"))
        .await;
    assert_eq!(problem(gone).await.code, "node-not-found");
    let gone = bench
        .send(Method::DELETE, &format!("/v1/disks/{disk}"))
        .await;
    assert_eq!(problem(gone).await.code, "disk-not-found");
}

#[tokio::test]
async fn a_disk_that_ails_is_emptied_until_it_is_cleared() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_many(&bench, 4).await;
    bench.create("data", 3).await;
    let disks: List<Disk> = bench.get("/v1/disks").await;
    let used = disks.items.iter().find(|d| d.replicas > 0).unwrap();
    let (node, id) = (used.node, used.report.id);
    let mut heartbeat = Heartbeat {
        disks: vec![used.report.clone()],
        applied: Revision(0),
        seen: ashlar_proto::api::Observed::default(),
    };
    heartbeat.disks[0].ailing = Some(Ailing {
        reason: "it clicks".to_owned(),
        incident: Incident(7),
    });
    let path = format!("/v1/nodes/{node}/heartbeat");
    assert_eq!(bench.post(&path, &heartbeat).await.status(), StatusCode::OK);
    let find = |list: &List<Disk>| {
        let found = list.items.iter().find(|d| d.report.id == id);
        found.unwrap().clone()
    };
    let leaving = |v: &Volume| {
        let replicas = v.shards.iter().flat_map(|shard| &shard.replicas);
        replicas.filter(|r| r.leaving).count()
    };
    bench
        .until("/v1/volumes/data", |data: &Volume| leaving(data) > 0)
        .await;
    // The store's next heartbeats say nothing of it.
    let list = bench
        .until("/v1/disks", |list: &List<Disk>| {
            find(list).evacuation == Evacuation::Moving
        })
        .await;
    let ailing = find(&list);
    assert_eq!(ailing.schedulable, Schedulable::Open);
    assert_eq!(ailing.report.ailing.unwrap().reason, "it clicks");
    let cleared: Disk = bench
        .posted(&format!("/v1/disks/{id}/clear"), &json!({}))
        .await;
    assert_ne!(cleared.evacuation, Evacuation::Moving);
    assert_eq!(leaving(&bench.volume("data").await), 0);
    let status: ClusterStatus = bench.get("/v1/status").await;
    assert_eq!(status.disks_ailing, 0);
    let unknown = bench
        .post(&format!("/v1/disks/{:032x}/clear", 99), &json!({}))
        .await;
    assert_eq!(problem(unknown).await.code, "disk-not-found");
}

#[tokio::test]
async fn a_schedule_is_asked_for_by_an_empty_object() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _store = Store::start(&bench, 1).await;
    let path = "/v1/nodes/node-1/drain";
    let bare = bench.send(Method::POST, path).await;
    assert_eq!(problem(bare).await.code, "not-json");
    let more = bench.post(path, &json!({"force": true})).await;
    assert_eq!(problem(more).await.code, "malformed-request");
    let unknown = bench.post("/v1/nodes/none/drain", &json!({})).await;
    assert_eq!(problem(unknown).await.code, "node-not-found");
    let unknown = bench.post("/v1/disks/7/drain", &json!({})).await;
    assert_eq!(problem(unknown).await.code, "malformed-request");
    let disk = format!("{:032x}", 1);
    let disk: Disk = bench
        .posted(&format!("/v1/disks/{disk}/drain"), &json!({}))
        .await;
    assert_eq!(disk.schedulable, Schedulable::Draining);
}

#[tokio::test]
async fn a_disk_is_labelled_and_a_pool_goes_by_that() {
    use ashlar_proto::api::ExplainedPlacement;
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_many(&bench, 3).await;
    let disks: List<Disk> = bench.get("/v1/disks").await;
    let path = format!("/v1/disks/{}/label", disks.items[0].report.id);
    let request = json!({"set": {"media": "nvme", "bay": "3"}});
    let disk: Disk = bench.posted(&path, &request).await;
    assert_eq!(
        (disk.labels.len(), disk.labels["media"].as_str()),
        (2, "nvme")
    );
    let disk: Disk = bench.posted(&path, &json!({"remove": ["bay"]})).await;
    let listed: List<Disk> = bench.get("/v1/disks").await;
    assert_eq!(listed.items[0].labels, disk.labels);
    let mut one = volume("v", 1);
    one.settings = [("pool".to_owned(), "media=nvme".to_owned())].into();
    let explained: ExplainedPlacement = bench.posted("/v1/placement:explain", &one).await;
    let chosen = explained.disks.iter().filter(|disk| disk.replicas > 0);
    assert_eq!(
        chosen.map(|one| one.disk).collect::<Vec<_>>(),
        [disk.report.id]
    );
    let wrong = bench.post(&path, &json!({"set": {"": "x"}})).await;
    assert_eq!(wrong.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let nowhere = "/v1/disks/000000000000000000000000000000ff/label";
    let refused = bench.post(nowhere, &request).await;
    assert_eq!(problem(refused).await.code, "disk-not-found");
}
