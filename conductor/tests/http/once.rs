//! Requests that are sent again with their key, and requests for objects as they were.

use ashlar_conductor::Conductor;
use ashlar_proto::api::{List, Settings, SnapshotGroup, Volume};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::support::{Bench, Store, problem, start, volume};

async fn send(bench: &Bench, method: Method, path: &str, key: &str, body: &Value) -> Response {
    let request = bench.http.request(method, bench.url(path));
    let request = request.header("idempotency-key", key);
    let request = match body {
        Value::Null => request,
        body => request.json(body),
    };
    request.send().await.unwrap()
}

fn is_replayed(response: &Response) -> bool {
    let header = response.headers().get("idempotency-replayed");
    header.is_some_and(|value| value == "true")
}

fn create(name: &str) -> Value {
    serde_json::to_value(volume(name, 3)).unwrap()
}

#[tokio::test]
async fn a_request_that_is_sent_again_does_nothing_and_is_answered_as_before() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    let post = async || send(&bench, Method::POST, "/v1/volumes", "k1", &create("a")).await;
    let first = post().await;
    assert_eq!(
        (first.status(), is_replayed(&first)),
        (StatusCode::CREATED, false)
    );
    let made: Volume = first.json().await.unwrap();
    let again = post().await;
    assert_eq!(
        (again.status(), is_replayed(&again)),
        (StatusCode::CREATED, true)
    );
    let same: Volume = again.json().await.unwrap();
    assert_eq!(same.id, made.id);
    let list: List<Volume> = bench.get("/v1/volumes").await;
    assert_eq!(list.items.len(), 1);
    // Without a key it is another request.
    let other = bench.post("/v1/volumes", &create("a")).await;
    assert_eq!(problem(other).await.code, "volume-exists");
}

#[tokio::test]
async fn a_key_is_remembered_across_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let stores = Store::start_three(&bench).await;
    let first = send(&bench, Method::POST, "/v1/volumes", "k", &create("a")).await;
    let made: Volume = first.json().await.unwrap();
    drop(stores);
    Conductor::shutdown(bench.conductor).await;
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    let again = send(&bench, Method::POST, "/v1/volumes", "k", &create("a")).await;
    assert!(is_replayed(&again));
    assert_eq!(again.json::<Volume>().await.unwrap().id, made.id);
}

#[tokio::test]
async fn a_key_of_another_request_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    send(&bench, Method::POST, "/v1/volumes", "k", &create("a")).await;
    for (path, body) in [
        ("/v1/volumes", create("b")),
        ("/v1/volumes?wait_ms=5", create("a")),
        ("/v1/volumes/a/label", json!({"set": {"x": "y"}})),
    ] {
        let refused = send(&bench, Method::POST, path, "k", &body).await;
        assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(
            problem(refused).await.code,
            "idempotency-key-reused",
            "{path}"
        );
    }
    for key in ["", "a b", &"x".repeat(256)] {
        let refused = send(&bench, Method::POST, "/v1/volumes", key, &create("c")).await;
        assert_eq!(problem(refused).await.code, "malformed-request", "{key}");
    }
    let attach = json!({"owner": "me"});
    let refused = send(&bench, Method::POST, "/v1/volumes/a/attach", "k2", &attach).await;
    assert_eq!(
        problem(refused).await.code,
        "malformed-request",
        "it takes no key"
    );
}

#[tokio::test]
async fn what_was_refused_may_be_tried_again_with_the_same_key() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let post = async || send(&bench, Method::POST, "/v1/volumes", "k", &create("a")).await;
    assert_eq!(problem(post().await).await.code, "no-placement");
    let _stores = Store::start_three(&bench).await;
    let made = post().await;
    assert_eq!(
        (made.status(), is_replayed(&made)),
        (StatusCode::CREATED, false)
    );
}

#[tokio::test]
async fn many_at_once_with_one_key_do_it_once() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    bench.create("a", 3).await;
    let send_one = || {
        let post = bench.http.post(bench.url("/v1/volumes/a/snapshots"));
        let post = post
            .header("idempotency-key", "k")
            .json(&json!({"name": "s"}));
        tokio::spawn(async move { post.send().await.unwrap() })
    };
    let sent: Vec<_> = (0..8).map(|_| send_one()).collect();
    let mut replayed = 0;
    for answer in sent {
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
        replayed += usize::from(is_replayed(&answer));
    }
    assert_eq!(replayed, 7);
}

#[tokio::test]
async fn a_deletion_that_is_sent_again_is_no_failure() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    bench.create("a", 3).await;
    let delete = async || send(&bench, Method::DELETE, "/v1/volumes/a", "k", &Value::Null).await;
    assert_eq!(delete().await.status(), StatusCode::NO_CONTENT);
    bench.create("a", 3).await;
    let again = delete().await;
    assert_eq!(
        (again.status(), is_replayed(&again)),
        (StatusCode::NO_CONTENT, true)
    );
    assert_eq!(
        bench.volume("a").await.name,
        "a",
        "the new one is still there"
    );
}

#[tokio::test]
async fn a_group_that_is_asked_for_again_is_the_same_group() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    bench.create("a", 3).await;
    bench.create("b", 3).await;
    let body = json!({"name": "s", "volumes": ["a", "b"]});
    let post = async || send(&bench, Method::POST, "/v1/snapshot-groups", "k", &body).await;
    let first: SnapshotGroup = post().await.json().await.unwrap();
    let again = post().await;
    assert!(is_replayed(&again));
    assert_eq!(again.json::<SnapshotGroup>().await.unwrap(), first);
}

async fn put(bench: &Bench, path: &str, tag: Option<&str>, body: &Value) -> Response {
    let request = bench.http.put(bench.url(path)).json(body);
    let request = match tag {
        Some(tag) => request.header("if-match", tag),
        None => request,
    };
    request.send().await.unwrap()
}

#[tokio::test]
async fn what_replaces_the_whole_says_of_which_revision() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    bench.create("a", 3).await;
    let (path, labels) = ("/v1/volumes/a/labels", json!({"labels": {"x": "1"}}));
    let refused = put(&bench, path, None, &labels).await;
    assert_eq!(refused.status(), StatusCode::PRECONDITION_REQUIRED);
    assert_eq!(problem(refused).await.code, "if-match-needed");
    let seen = bench.send(Method::GET, "/v1/volumes/a").await;
    let tag = seen.headers()["etag"].to_str().unwrap().to_owned();
    assert_eq!(
        put(&bench, path, Some(&tag), &labels).await.status(),
        StatusCode::OK
    );
    let refused = put(&bench, path, Some(&tag), &json!({"labels": {}})).await;
    assert_eq!(refused.status(), StatusCode::PRECONDITION_FAILED);
    assert_eq!(problem(refused).await.code, "object-changed");
    assert_eq!(bench.volume("a").await.labels["x"], "1");
    for tag in ["1", "W/\"1\"", "\"x\"", ""] {
        let refused = put(&bench, path, Some(tag), &labels).await;
        assert_eq!(problem(refused).await.code, "malformed-request", "{tag}");
    }
    assert_eq!(
        put(&bench, path, Some("*"), &labels).await.status(),
        StatusCode::OK
    );
    let gone = put(&bench, "/v1/volumes/none/labels", Some("*"), &labels).await;
    assert_eq!(problem(gone).await.code, "object-changed");
}

#[tokio::test]
async fn a_deletion_may_be_for_what_was_seen_only() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    bench.create("a", 3).await;
    let seen = bench.send(Method::GET, "/v1/volumes/a").await;
    let tag = seen.headers()["etag"].clone();
    let label = json!({"set": {"keep": "yes"}});
    let _: Volume = bench.posted("/v1/volumes/a/label", &label).await;
    let delete = bench.http.delete(bench.url("/v1/volumes/a"));
    let refused = delete.header("if-match", tag).send().await.unwrap();
    assert_eq!(problem(refused).await.code, "object-changed");
    assert_eq!(bench.volume("a").await.labels["keep"], "yes");
}

#[tokio::test]
async fn tasks_are_listed_awaited_and_called_off() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let stores = Store::start_three(&bench).await;
    bench.create("a", 3).await;
    let node = stores[0].node;
    let _: Value = bench
        .posted(&format!("/v1/nodes/{node}/drain"), &json!({}))
        .await;
    let id = format!("drain-node-{node}");
    // There is no other node: the replica stays where it is until the drain is called off.
    let list: List<Value> = bench.get("/v1/tasks?prefix=drain-node").await;
    assert_eq!(list.items.len(), 1, "{list:?}");
    let task: Value = bench.get(&format!("/v1/tasks/{id}?wait_ms=50")).await;
    assert_eq!(task["state"], "running");
    assert_eq!(
        (&task["cancelable"], &task["progress_percent"]),
        (&json!(true), &json!(0))
    );
    let cancel = format!("/v1/tasks/{id}/cancel");
    let _: Value = bench.posted(&cancel, &json!({})).await;
    let path = format!("/v1/tasks/{id}?wait_ms=5000");
    let ended: Value = bench
        .until(&path, |task: &Value| task["state"] != "running")
        .await;
    assert_eq!(ended["state"], "canceled");
    let refused = bench.post(&cancel, &json!({})).await;
    assert_eq!(problem(refused).await.code, "task-not-cancelable");
    let refused = bench.send(Method::GET, "/v1/tasks/none-1").await;
    assert_eq!(problem(refused).await.code, "task-not-found");
}

#[tokio::test]
async fn users_projects_and_settings_are_changed_once() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let user = json!({"name": "ada", "role": "operator"});
    let role = json!({"role": "viewer"});
    let project = json!({"name": "shop", "quota_volumes": 5});
    let quota = json!({"quota_volumes": 7});
    let limit = json!({"set": {"iops-max": "100"}});
    let nothing = json!({});
    let sent = async |number: usize, method: &Method, path: &str, body: &Value| {
        send(&bench, method.clone(), path, &format!("k{number}"), body).await
    };
    let (post, delete) = (Method::POST, Method::DELETE);
    let requests = [
        (&post, "/v1/users", &user, StatusCode::CREATED),
        (&post, "/v1/users/ada/role", &role, StatusCode::OK),
        (&post, "/v1/users/ada/deny", &nothing, StatusCode::OK),
        (&post, "/v1/projects", &project, StatusCode::CREATED),
        (&post, "/v1/projects/shop/quota", &quota, StatusCode::OK),
        (&post, "/v1/config", &limit, StatusCode::OK),
    ];
    for (number, (method, path, body, status)) in requests.iter().enumerate() {
        let first = sent(number, method, path, body).await;
        assert_eq!(
            (first.status(), is_replayed(&first)),
            (*status, false),
            "{path}"
        );
    }
    // Sent again, each is answered as it was, and shows what is so by now.
    let now = [
        ("role", json!("viewer")),
        ("denied", json!(true)),
        ("denied", json!(true)),
        ("quota_volumes", json!(7)),
        ("quota_volumes", json!(7)),
    ];
    let plain: Settings = bench.get("/v1/config").await;
    for (number, (method, path, body, status)) in requests.iter().enumerate() {
        let again = sent(number, method, path, body).await;
        assert_eq!(
            (again.status(), is_replayed(&again)),
            (*status, true),
            "{path}"
        );
        let shown: Value = again.json().await.unwrap();
        match now.get(number) {
            Some((field, value)) => assert_eq!(&shown[field], value, "{path}"),
            None => assert_eq!(shown, serde_json::to_value(&plain).unwrap()),
        }
    }
    let allowed = sent(20, &post, "/v1/users/ada/allow", &nothing).await;
    assert_eq!(allowed.status(), StatusCode::OK);
    for (number, path) in [(30, "/v1/users/ada"), (31, "/v1/projects/shop")] {
        for replayed in [false, true] {
            let ended = sent(number, &delete, path, &Value::Null).await;
            let seen = (ended.status(), is_replayed(&ended));
            assert_eq!(seen, (StatusCode::NO_CONTENT, replayed), "{path}");
        }
    }
    // What was made is gone since.
    let gone = sent(0, &post, "/v1/users", &user).await;
    assert_eq!(problem(gone).await.code, "user-not-found");
    let secret = sent(40, &post, "/v1/users/ada/keys", &nothing).await;
    assert_eq!(
        problem(secret).await.code,
        "malformed-request",
        "it takes no key"
    );
}
