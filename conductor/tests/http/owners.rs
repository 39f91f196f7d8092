//! Owners that are heard, and owners that are gone.

use std::time::Duration;

use ashlar_proto::api::{
    AttachRequest, Attachment, Heartbeat, HeartbeatAnswer, List, Node, OWNER_VOLUMES_MAX, Observed,
    OwnerBeat, OwnerHeartbeat, PeerSeen, Revision, Volume,
};
use reqwest::StatusCode;

use super::support::{Bench, Store, problem, start, volume};

fn request(owner: &str) -> AttachRequest {
    AttachRequest {
        owner: owner.to_owned(),
        force: false,
        repair: false,
        server: None,
        publication: None,
    }
}

async fn beat(bench: &Bench, grant: &Attachment, stores: Vec<PeerSeen>) -> StatusCode {
    let heartbeat = OwnerHeartbeat {
        owner: "me".to_owned(),
        volumes: vec![OwnerBeat {
            volume: grant.volume.id,
            generation: grant.volume.generation,
        }],
        stores,
    };
    let sent = bench.post("/v1/owners/heartbeat", &heartbeat).await;
    sent.status()
}

#[tokio::test]
async fn an_owner_that_is_heard_keeps_its_volume_and_one_that_is_gone_loses_it() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    let _: Volume = bench.posted("/v1/volumes", &volume("v", 3)).await;
    let grant = bench.attached("v", "me").await;
    let path = "/v1/volumes/v/attach";
    for _ in 0..20 {
        assert_eq!(
            beat(&bench, &grant, Vec::new()).await,
            StatusCode::NO_CONTENT
        );
        tokio::time::sleep(Duration::from_millis(250)).await;
        let refused = bench.post(path, &request("other")).await;
        assert_eq!(problem(refused).await.code, "volume-attached");
    }
    // Nobody hears it any more.
    let taken = async {
        loop {
            let answer = bench.post(path, &request("other")).await;
            if answer.status() == StatusCode::OK {
                return answer.json::<Attachment>().await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let taken = tokio::time::timeout(Duration::from_secs(20), taken).await;
    let taken = taken.expect("the owner is gone after its silence");
    assert_eq!(
        taken.volume.generation.get(),
        grant.volume.generation.get() + 1
    );
}

#[tokio::test]
async fn what_owners_and_stores_reach_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let stores = Store::start_three(&bench).await;
    let _: Volume = bench.posted("/v1/volumes", &volume("v", 3)).await;
    let grant = bench.attached("v", "me").await;
    let seen = |number: usize, reached| PeerSeen {
        node: stores[number].node,
        reached,
    };
    let told = vec![seen(0, true), seen(1, false)];
    assert_eq!(beat(&bench, &grant, told).await, StatusCode::NO_CONTENT);
    let shown = |node: &Node, of: usize| node.id == stores[of].node;
    bench
        .until("/v1/nodes", |list: &List<Node>| {
            list.items.iter().all(|node| {
                let expected = (u32::from(shown(node, 0)), u32::from(shown(node, 1)));
                (node.reached_by, node.missed_by) == expected
            })
        })
        .await;
    // Stores are told whom to watch.
    let heartbeat = Heartbeat {
        disks: vec![super::support::report(1)],
        applied: Revision(0),
        seen: Observed::default(),
    };
    let path = format!("/v1/nodes/{}/heartbeat", stores[0].node);
    let answer: HeartbeatAnswer = bench.posted(&path, &heartbeat).await;
    let watched: Vec<_> = answer.peers.iter().map(|peer| peer.node).collect();
    assert_eq!(watched, [stores[1].node, stores[2].node]);
    // Who is not the owner is not heard, and who says too much is refused.
    let stranger = OwnerHeartbeat {
        owner: "stranger".to_owned(),
        volumes: vec![OwnerBeat {
            volume: grant.volume.id,
            generation: grant.volume.generation,
        }],
        stores: vec![seen(0, true), seen(2, false)],
    };
    let sent = bench.post("/v1/owners/heartbeat", &stranger).await;
    assert_eq!(sent.status(), StatusCode::NO_CONTENT);
    tokio::time::sleep(Duration::from_millis(400)).await;
    let list: List<Node> = bench.get("/v1/nodes").await;
    let third = list.items.iter().find(|node| shown(node, 2));
    assert_eq!(third.map(|node| node.missed_by), Some(0));
    let many = OwnerHeartbeat {
        owner: "me".to_owned(),
        volumes: vec![stranger.volumes[0]; OWNER_VOLUMES_MAX + 1],
        stores: Vec::new(),
    };
    let refused = bench.post("/v1/owners/heartbeat", &many).await;
    assert_eq!(problem(refused).await.code, "invalid-request");
}
