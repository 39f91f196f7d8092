//! Clients that are denied and allowed, over HTTP.

use ashlar_proto::api::{
    Assignments, AttachRequest, Attachment, ClientDenied, DeniedClient, DetachRequest, List,
    repair_owner,
};
use reqwest::StatusCode;
use serde_json::json;

use super::support::{Bench, Store, problem, start, volume};

/// Does what a store does with a volume that it is to take from a denied client.
async fn fence(bench: &Bench, stores: &[Store]) {
    for _ in 0..500 {
        for store in stores {
            let path = format!("/v1/nodes/{}/assignments", store.node);
            let list: Assignments = bench.get(&path).await;
            if let Some(task) = list.repairs.into_iter().next() {
                assert!(task.fence);
                let path = format!("/v1/volumes/{}", task.name);
                let repair = AttachRequest {
                    server: None,
                    publication: None,
                    owner: repair_owner(&format!("node-{}", store.node)),
                    force: false,
                    repair: true,
                };
                let attached: Attachment = bench.posted(&format!("{path}/attach"), &repair).await;
                let detach = DetachRequest {
                    volume: task.volume,
                    generation: attached.volume.generation,
                    served: true,
                    settled: false,
                };
                let detached = bench.post(&format!("{path}/detach"), &detach).await;
                assert_eq!(detached.status(), StatusCode::NO_CONTENT);
                return;
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("nobody is told to fence");
}

#[tokio::test]
async fn a_denied_client_loses_its_volume_and_attaches_none() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let stores = Store::start_three(&bench).await;
    bench.create("data", 3).await;
    let grant = bench.attached("data", "nbd@host-a pid 7").await;
    let body = json!({"client": "nbd@host-a", "reason": "gone"});
    let denying = bench.posted::<ClientDenied>("/v1/clients/deny", &body);
    let (denied, ()) = tokio::join!(denying, fence(&bench, &stores));
    assert_eq!(denied.taken, ["data"]);
    assert!(denied.unfenced.is_empty());
    let list: List<DeniedClient> = bench.get("/v1/clients/denied").await;
    assert_eq!(list.items, [denied.denied]);
    let now = bench.volume("data").await;
    assert!(now.generation > grant.volume.generation.next());
    assert_eq!(now.attached_by, None);
    let refused = bench.attach("data", "nbd@host-a pid 8").await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let refused = problem(refused).await;
    assert_eq!(refused.code, "client-denied");
    assert!(refused.detail.contains("(gone)"), "{}", refused.detail);
    let allow = json!({"client": "nbd@host-a"});
    let allowed = bench.post("/v1/clients/allow", &allow).await;
    assert_eq!(allowed.status(), StatusCode::NO_CONTENT);
    bench.attached("data", "nbd@host-a pid 8").await;
    let again = bench.post("/v1/clients/allow", &allow).await;
    assert_eq!(problem(again).await.code, "client-not-denied");
}

#[tokio::test]
async fn a_denial_answers_in_time_when_nobody_can_fence() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    let made = bench.post("/v1/volumes", &volume("data", 3)).await;
    assert_eq!(made.status(), StatusCode::CREATED);
    bench.attached("data", "me").await;
    let body = json!({"client": "me"});
    let denied: ClientDenied = bench.posted("/v1/clients/deny?wait_ms=50", &body).await;
    assert_eq!(
        (denied.taken, denied.unfenced),
        (vec!["data".to_owned()], vec!["data".to_owned()])
    );
    let empty = bench.post("/v1/clients/deny", &json!({"client": ""})).await;
    assert_eq!(problem(empty).await.code, "invalid-request");
}
