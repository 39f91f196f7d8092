//! What those who are bound to a project are told of others, and of what was theirs and is no more.

use ashlar_proto::api::{KeyCreated, List, Snapshot, Volume, WatchEvent};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::support::{Bench, Store, problem, start};
use super::watch::Lines;

impl Bench {
    /// The key of an operator in one project.
    async fn bound_to(&self, project: &str) -> String {
        let user =
            json!({"name": format!("of-{project}"), "role": "operator", "projects": [project]});
        let made = self.post("/v1/users", &user).await;
        assert!(made.status().is_success(), "{made:?}");
        let path = format!("/v1/users/of-{project}/keys");
        let key: KeyCreated = self.posted(&path, &json!({})).await;
        key.secret.reveal().to_owned()
    }

    async fn project(&self, name: &str) {
        let made = self.post("/v1/projects", &json!({"name": name})).await;
        assert!(made.status().is_success(), "{made:?}");
    }

    async fn as_user(&self, key: &str, path: &str) -> Response {
        let request = self.http.get(self.url(path)).bearer_auth(key);
        let response = request.send().await.unwrap();
        self.checked(&Method::GET, path, response).await
    }

    async fn snapshot_of(&self, volume: &str, name: &str) {
        let path = format!("/v1/volumes/{volume}/snapshots");
        let made = self.post(&path, &json!({"name": name})).await;
        assert_eq!(made.status(), StatusCode::CREATED);
    }
}

#[tokio::test]
async fn a_clone_does_not_tell_of_a_project_that_one_does_not_see() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    for project in ["shop", "bank"] {
        bench.project(project).await;
    }
    bench.create("bank/secret", 3).await;
    bench.snapshot_of("bank%2Fsecret", "audit").await;
    let clone = json!({"name": "shop/c", "replicas": 3});
    let path = "/v1/volumes/bank%2Fsecret/snapshots/audit/clone";
    let made = bench.post(path, &clone).await;
    assert_eq!(made.status(), StatusCode::CREATED);
    bench.snapshot_of("shop%2Fc", "t").await;
    let key = bench.bound_to("shop").await;
    for path in [
        "/v1/volumes/shop%2Fc",
        "/v1/volumes",
        "/v1/snapshots",
        "/v1/volumes/shop%2Fc/snapshots/t",
        "/v1/volumes/shop%2Fc/map",
    ] {
        let text = bench.as_user(&key, path).await.text().await.unwrap();
        assert!(text.contains(r#""origin":{"#), "{path}: {text}");
        assert!(
            !text.contains("bank") && !text.contains("audit"),
            "{path}: {text}"
        );
    }
    let watch = bench.as_user(&key, "/v1/volumes?watch=true").await;
    let WatchEvent::Put { item, .. } = Lines::of(watch).change::<Volume>().await else {
        panic!("a volume")
    };
    let origin = item.origin.unwrap();
    assert_eq!(
        (origin.volume_name.as_str(), origin.snapshot.as_str()),
        ("", "")
    );
    assert_ne!(origin.bytes.get(), 0);
    let whole: Volume = bench.volume("shop%2Fc").await;
    assert_eq!(whole.origin.unwrap().volume_name, "bank/secret");
}

#[tokio::test]
async fn a_refusal_names_no_clones_of_a_project_that_one_does_not_see() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    for project in ["shop", "bank"] {
        bench.project(project).await;
    }
    bench.create("shop/v", 3).await;
    bench.snapshot_of("shop%2Fv", "s").await;
    for name in ["bank/secret", "shop/c"] {
        let clone = json!({"name": name, "replicas": 3});
        let made = bench.post("/v1/volumes/shop%2Fv/snapshots/s/clone", &clone);
        assert_eq!(made.await.status(), StatusCode::CREATED);
    }
    let key = bench.bound_to("shop").await;
    for path in [
        "/v1/volumes/shop%2Fv/snapshots/s",
        "/v1/volumes/shop%2Fv?force=true",
    ] {
        let delete = async |key: Option<&str>| {
            let request = bench.http.delete(bench.url(path));
            let request = match key {
                Some(key) => request.bearer_auth(key),
                None => request,
            };
            let refused = problem(request.send().await.unwrap()).await;
            assert_eq!(refused.code, "snapshot-has-clones", "{path}");
            refused.detail
        };
        let text = delete(Some(&key)).await;
        assert!(text.contains("`shop/c` and 1 others show"), "{text}");
        assert!(!text.contains("bank"), "{text}");
        let text = delete(None).await;
        assert!(text.contains("`bank/secret`"), "{text}");
    }
}

#[tokio::test]
async fn users_hear_of_snapshots_that_went_with_their_volume() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    bench.project("shop").await;
    bench.create("shop/v", 3).await;
    bench.snapshot_of("shop%2Fv", "s").await;
    let theirs = bench.bound_to("shop").await;
    let others = bench.bound_to("default").await;
    let mut theirs = Lines::of(bench.as_user(&theirs, "/v1/snapshots?watch=true").await);
    let others = Lines::of(bench.as_user(&others, "/v1/snapshots?watch=true").await);
    let before: List<Value> = bench.get("/v1/volumes").await;
    let deleted = bench
        .send(Method::DELETE, "/v1/volumes/shop%2Fv?force=true")
        .await;
    assert!(deleted.status().is_success());
    let gone = loop {
        match theirs.change::<Snapshot>().await {
            WatchEvent::Put { .. } => {}
            WatchEvent::Delete { item, .. } => break item,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        (gone.volume_name.as_str(), gone.name.as_str()),
        ("shop/v", "s")
    );
    // Long after, by a watch that begins before: its volume is gone by then for sure.
    let path = format!("/v1/snapshots?watch=true&after={}", before.revision.0);
    let key = bench.bound_to_again("shop").await;
    let mut later = Lines::of(bench.as_user(&key, &path).await);
    let WatchEvent::Delete { item, .. } = later.change::<Snapshot>().await else {
        panic!("a removal")
    };
    assert_eq!(item.volume_name, "shop/v");
    nothing_until(others, before.revision.0).await;
}

impl Bench {
    /// Another key of the same user.
    async fn bound_to_again(&self, project: &str) -> String {
        let path = format!("/v1/users/of-{project}/keys");
        let key: KeyCreated = self.posted(&path, &json!({})).await;
        key.secret.reveal().to_owned()
    }
}

/// Reads bookmarks alone, until one is later than that revision.
async fn nothing_until(mut lines: Lines, revision: u64) {
    loop {
        match lines.next::<Snapshot>().await.unwrap() {
            WatchEvent::Bookmark { revision: at } if at.0 > revision => return,
            WatchEvent::Bookmark { .. } => {}
            told => panic!("{told:?}"),
        }
    }
}
