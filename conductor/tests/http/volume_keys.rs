//! A volume's key against attaches that come at the same moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ashlar_proto::api::Volume;
use reqwest::StatusCode;
use serde_json::json;

use super::support::{Store, start};

/// The gate looks for the key before an attach is planned: one that was let through there must be refused where it
/// is granted, if a key was answered for meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_attach_without_the_key_is_granted_after_it_was_set() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    bench.create("data", 3).await;
    for _ in 0..8 {
        let (over, url) = (
            Arc::new(AtomicBool::new(false)),
            bench.url("/v1/volumes/data/attach"),
        );
        let attachers: Vec<_> = (0..6)
            .map(|_| {
                let (http, url, over) = (bench.http.clone(), url.clone(), Arc::clone(&over));
                tokio::spawn(async move {
                    let mut granted = 0;
                    while !over.load(Ordering::Relaxed) {
                        let body = json!({"owner": "me", "force": true});
                        let answer = http.post(&url).json(&body).send().await.unwrap();
                        granted += u32::from(answer.status() == StatusCode::OK);
                    }
                    granted
                })
            })
            .collect();
        bench
            .until("/v1/volumes/data", |volume: &Volume| {
                volume.attached_by.is_some()
            })
            .await;
        let set = bench.post("/v1/volumes/data/key/set", &json!({})).await;
        assert_eq!(set.status(), StatusCode::OK);
        let then = bench.volume("data").await.generation;
        over.store(true, Ordering::Relaxed);
        let mut granted = 0;
        for attacher in attachers {
            granted += attacher.await.unwrap();
        }
        assert_ne!(granted, 0, "some came before the key");
        assert_eq!(bench.volume("data").await.generation, then);
        let cleared = bench.post("/v1/volumes/data/key/clear", &json!({})).await;
        assert_eq!(cleared.status(), StatusCode::NO_CONTENT);
        let volume = bench.volume("data").await;
        let body = json!({"volume": volume.id, "generation": volume.generation, "settled": true, "served": true});
        let detached = bench.post("/v1/volumes/data/detach", &body).await;
        assert_eq!(detached.status(), StatusCode::NO_CONTENT);
    }
}
