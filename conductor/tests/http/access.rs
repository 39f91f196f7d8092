//! Who is let in over HTTP, what each may do, and what is written down of it.

use std::path::Path;

use ashlar_conductor::{AccessOptions, AuthMode, Conductor, ConductorOptions, Timing};
use ashlar_proto::api::{
    AuditEntry, AuditOutcome, KeyCreated, List, Secret, TokenCreated, VolumeKeySet, WhoAmI,
};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::support::{Bench, Store, problem, start};

pub(super) const ROOT: &str = "what the process shows";

pub(super) async fn guarded(directory: &Path, audit_file: bool) -> Bench {
    let options = ConductorOptions {
        data_dir: directory.join("meta"),
        listen: "127.0.0.1:0".parse().unwrap(),
    };
    let access = AccessOptions {
        mode: AuthMode::Required,
        process_secret: Some(Secret::new(ROOT)),
        audit_file: audit_file.then(|| directory.join("audit.log")),
        ..AccessOptions::default()
    };
    let conductor = Conductor::start_guarded(options, Timing::default(), &access);
    Bench::of(conductor.await.unwrap()).await
}

pub(super) async fn call(
    bench: &Bench,
    token: Option<&str>,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Response {
    let mut request = bench.http.request(method.clone(), bench.url(path));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    let response = request.send().await.unwrap();
    bench.checked(&method, path, response).await
}

pub(super) async fn post(bench: &Bench, token: &str, path: &str, body: Value) -> Response {
    call(bench, Some(token), Method::POST, path, Some(body)).await
}

pub(super) async fn get(bench: &Bench, token: &str, path: &str) -> Response {
    call(bench, Some(token), Method::GET, path, None).await
}

pub(super) async fn done(response: Response) -> Value {
    let status = response.status();
    let text = response.text().await.unwrap();
    assert!(status.is_success(), "{status}: {text}");
    serde_json::from_str(&text).unwrap_or_default()
}

pub(super) async fn refused(response: Response, status: u16, code: &str) {
    let problem = problem(response).await;
    assert_eq!(
        (problem.status, problem.code.as_str()),
        (status, code),
        "{}",
        problem.detail
    );
}

/// A user of that role, and a key of it.
pub(super) async fn user(
    bench: &Bench,
    name: &str,
    role: &str,
    projects: Option<&str>,
) -> KeyCreated {
    let projects: Option<Vec<&str>> = projects.map(|project| vec![project]);
    let body = json!({"name": name, "role": role, "projects": projects});
    done(post(bench, ROOT, "/v1/users", body).await).await;
    let made = post(bench, ROOT, &format!("/v1/users/{name}/keys"), json!({})).await;
    assert_eq!(made.headers()["cache-control"], "no-store");
    serde_json::from_value(done(made).await).unwrap()
}

pub(super) async fn audit(bench: &Bench) -> Vec<AuditEntry> {
    let list = done(get(bench, ROOT, "/v1/audit?limit=1000").await).await;
    serde_json::from_value::<List<AuditEntry>>(list)
        .unwrap()
        .items
}

/// Registers stores by the key of a store.
pub(super) async fn with_stores(bench: &Bench) {
    let key = user(bench, "stores", "store", None).await;
    for number in 1..=3 {
        let body = serde_json::to_value(super::support::registration(number)).unwrap();
        done(post(bench, key.secret.reveal(), "/v1/nodes/register", body).await).await;
    }
}

pub(super) fn volume(name: &str, bytes: u64) -> Value {
    json!({"name": name, "size_bytes": bytes, "replicas": 1})
}

pub(super) const MAKE: &str = "/v1/volumes?wait_ms=0";

#[tokio::test]
async fn who_shows_nothing_or_something_wrong_is_refused_and_that_is_written_down() {
    let directory = tempfile::tempdir().unwrap();
    let bench = guarded(directory.path(), true).await;
    let unknown = call(&bench, None, Method::GET, "/v1/volumes", None).await;
    assert!(
        unknown.headers()["www-authenticate"]
            .to_str()
            .unwrap()
            .starts_with("Bearer")
    );
    refused(unknown, 401, "not-authenticated").await;
    let wrong = format!("ashlar_{}_{}", "0".repeat(16), "0".repeat(64));
    for wrong in ["x", "a.b.c", &wrong] {
        refused(
            get(&bench, wrong, "/v1/volumes").await,
            401,
            "credentials-refused",
        )
        .await;
    }
    let open = call(&bench, None, Method::GET, "/healthz", None).await;
    assert_eq!(open.status(), StatusCode::OK);
    let entries = audit(&bench).await;
    let codes: Vec<_> = entries
        .iter()
        .filter_map(|entry| entry.code.as_deref())
        .collect();
    assert_eq!(
        codes,
        [
            "not-authenticated",
            "credentials-refused",
            "credentials-refused",
            "credentials-refused"
        ]
    );
    assert!(
        entries
            .iter()
            .all(|entry| entry.outcome == AuditOutcome::Refused)
    );
    assert!(entries[0].from.starts_with("127.0.0.1:") && entries[0].who.is_empty());
    assert_eq!(entries[0].what, "GET /v1/volumes");
    for _ in 0..200 {
        let text = std::fs::read_to_string(directory.path().join("audit.log")).unwrap();
        if text.lines().count() == 4 {
            assert!(!text.contains(&wrong));
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the file has not the entries");
}

#[tokio::test]
async fn roles_reach_as_far_as_they_do() {
    let directory = tempfile::tempdir().unwrap();
    let bench = guarded(directory.path(), false).await;
    with_stores(&bench).await;
    let viewer = user(&bench, "vera", "viewer", None).await;
    let operator = user(&bench, "otto", "operator", None).await;
    let (viewer, operator) = (viewer.secret.reveal(), operator.secret.reveal());
    done(get(&bench, viewer, "/v1/status").await).await;
    let create = post(&bench, viewer, MAKE, volume("a", 1 << 20)).await;
    refused(create, 403, "not-permitted").await;
    done(post(&bench, operator, MAKE, volume("a", 1 << 20)).await).await;
    let more = json!({"name": "eve", "role": "admin"});
    refused(
        post(&bench, operator, "/v1/users", more).await,
        403,
        "not-permitted",
    )
    .await;
    refused(
        get(&bench, operator, "/v1/iscsi/targets").await,
        403,
        "not-permitted",
    )
    .await;
    refused(
        get(&bench, operator, "/v1/audit").await,
        403,
        "not-permitted",
    )
    .await;
    let who: WhoAmI = get(&bench, operator, "/v1/whoami")
        .await
        .json()
        .await
        .unwrap();
    assert_eq!((who.name.as_str(), who.role.name()), ("otto", "operator"));
    let entries = audit(&bench).await;
    let made = entries
        .iter()
        .find(|entry| entry.what == "POST /v1/volumes")
        .unwrap();
    assert_eq!(
        (made.who.as_str(), made.outcome),
        ("vera", AuditOutcome::Refused)
    );
    let made = entries
        .iter()
        .rfind(|entry| entry.who == "otto" && entry.code.is_none());
    let made = made.unwrap();
    assert_eq!(made.outcome, AuditOutcome::Done);
    let change = made
        .changes
        .iter()
        .find(|change| change.row.starts_with("volume/"))
        .unwrap();
    assert_eq!(change.after.as_ref().unwrap()["name"], "a");
    assert!(change.before.is_none());
}

#[tokio::test]
async fn who_is_bound_to_a_project_sees_and_changes_that_alone() {
    let directory = tempfile::tempdir().unwrap();
    let bench = guarded(directory.path(), false).await;
    with_stores(&bench).await;
    for project in ["shop", "lab"] {
        let body = json!({"name": project, "quota_bytes": 3 << 20, "quota_volumes": 2});
        done(post(&bench, ROOT, "/v1/projects", body).await).await;
    }
    let key = user(&bench, "shop", "operator", Some("shop")).await;
    let shop = key.secret.reveal();
    done(post(&bench, ROOT, MAKE, volume("lab/a", 1 << 20)).await).await;
    done(post(&bench, ROOT, MAKE, volume("a", 1 << 20)).await).await;
    done(post(&bench, shop, MAKE, volume("shop/a", 1 << 20)).await).await;
    for other in ["lab/b", "b", "default/b"] {
        let made = post(&bench, shop, MAKE, volume(other, 1 << 20)).await;
        refused(made, 403, "project-not-permitted").await;
    }
    let list = done(get(&bench, shop, "/v1/volumes").await).await;
    let names: Vec<_> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| &v["name"])
        .collect();
    assert_eq!(names, ["shop/a"]);
    done(get(&bench, shop, "/v1/volumes/shop%2Fa").await).await;
    for path in [
        "/v1/volumes/lab%2Fa",
        "/v1/volumes/a",
        "/v1/volumes/default%2Flab%2Fa",
    ] {
        refused(get(&bench, shop, path).await, 403, "project-not-permitted").await;
    }
    refused(
        get(&bench, shop, "/v1/nodes").await,
        403,
        "project-not-permitted",
    )
    .await;
    let maps = json!({"volumes": [{"name": "lab/a", "after": 0}]});
    refused(
        post(&bench, shop, "/v1/maps", maps).await,
        403,
        "project-not-permitted",
    )
    .await;
    let watched = bench
        .http
        .get(bench.url("/v1/volumes?watch=true"))
        .bearer_auth(shop);
    let mut watched = watched.send().await.unwrap();
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains("bookmark") {
        text.extend(watched.chunk().await.unwrap().unwrap());
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("shop/a") && !text.contains("lab/a"), "{text}");
}

#[tokio::test]
async fn quotas_are_not_passed() {
    let directory = tempfile::tempdir().unwrap();
    let bench = guarded(directory.path(), false).await;
    with_stores(&bench).await;
    let body = json!({"name": "p", "quota_bytes": 3 << 20, "quota_volumes": 2});
    done(post(&bench, ROOT, "/v1/projects", body).await).await;
    let large = post(&bench, ROOT, MAKE, volume("p/a", 4 << 20)).await;
    refused(large, 409, "quota-exceeded").await;
    done(post(&bench, ROOT, MAKE, volume("p/a", 1 << 20)).await).await;
    done(post(&bench, ROOT, MAKE, volume("p/b", 1 << 20)).await).await;
    let third = post(&bench, ROOT, MAKE, volume("p/c", 1 << 20)).await;
    refused(third, 409, "quota-exceeded").await;
    let nowhere = post(&bench, ROOT, MAKE, volume("q/c", 1 << 20)).await;
    refused(nowhere, 404, "project-not-found").await;
    let body = json!({"name": "p"});
    refused(
        post(&bench, ROOT, "/v1/projects", body).await,
        409,
        "project-exists",
    )
    .await;
    let ended = call(&bench, Some(ROOT), Method::DELETE, "/v1/projects/p", None).await;
    refused(ended, 409, "project-in-use").await;
    let projects = done(get(&bench, ROOT, "/v1/projects").await).await;
    let p = projects["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|p| p["name"] == "p")
        .unwrap();
    assert_eq!((&p["volumes"], &p["bytes"]), (&json!(2), &json!(2 << 20)));
    let left = audit(&bench).await;
    let left: Vec<_> = left
        .iter()
        .filter_map(|entry| entry.code.as_deref())
        .collect();
    assert_eq!(
        left.iter()
            .filter(|code| **code == "quota-exceeded")
            .count(),
        2
    );
}

#[tokio::test]
async fn tokens_end_are_revoked_and_make_no_tokens() {
    let directory = tempfile::tempdir().unwrap();
    let bench = guarded(directory.path(), false).await;
    let key = user(&bench, "ada", "admin", None).await;
    let key = key.secret.reveal();
    let body = json!({"ttl_seconds": 60});
    let made = done(post(&bench, key, "/v1/tokens", body.clone()).await).await;
    let made: TokenCreated = serde_json::from_value(made).unwrap();
    let token = made.token.reveal();
    let who: WhoAmI = get(&bench, token, "/v1/whoami").await.json().await.unwrap();
    assert_eq!(
        (who.name, who.means),
        ("ada".to_owned(), format!("token {}", made.id))
    );
    refused(
        post(&bench, token, "/v1/tokens", body).await,
        403,
        "not-permitted",
    )
    .await;
    let long = json!({"ttl_seconds": 31 * 24 * 3600});
    refused(
        post(&bench, key, "/v1/tokens", long).await,
        422,
        "invalid-request",
    )
    .await;
    let nobody = json!({"ttl_seconds": 1});
    refused(
        post(&bench, ROOT, "/v1/tokens", nobody).await,
        422,
        "invalid-request",
    )
    .await;
    let short = post(&bench, key, "/v1/tokens", json!({"ttl_seconds": 1})).await;
    let short: TokenCreated = serde_json::from_value(done(short).await).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    let ended = get(&bench, short.token.reveal(), "/v1/whoami").await;
    refused(ended, 401, "credentials-expired").await;
    let none = token.split('.').nth(1).unwrap();
    let none = format!("eyJhbGciOiJub25lIn0.{none}.");
    refused(
        get(&bench, &none, "/v1/whoami").await,
        401,
        "credentials-refused",
    )
    .await;
    let path = format!("/v1/tokens/{}/revoke", made.id);
    done(post(&bench, key, &path, json!({})).await).await;
    refused(
        get(&bench, token, "/v1/whoami").await,
        401,
        "credentials-revoked",
    )
    .await;
    let entries = audit(&bench).await;
    let made = entries
        .iter()
        .find(|entry| entry.what == "POST /v1/tokens")
        .unwrap();
    assert_eq!(
        (made.who.as_str(), made.outcome),
        ("ada", AuditOutcome::Done)
    );
    let all = serde_json::to_string(&entries).unwrap();
    assert!(!all.contains(token) && !all.contains(key));
}

#[tokio::test]
async fn a_volume_with_a_key_is_attached_by_who_gives_it() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    bench.create("data", 3).await;
    let set: VolumeKeySet = bench.posted("/v1/volumes/data/key/set", &json!({})).await;
    let attach = |key: Option<&str>, body: Value| {
        let url = bench.url("/v1/volumes/data/attach");
        let mut request = bench.http.post(url).json(&body);
        if let Some(key) = key {
            request = request.header("volume-key", key);
        }
        async { request.send().await.unwrap() }
    };
    let me = json!({"owner": "me"});
    refused(attach(None, me.clone()).await, 403, "volume-key-needed").await;
    let wrong = format!("{}0", set.key.reveal());
    refused(
        attach(Some(&wrong), me.clone()).await,
        403,
        "volume-key-needed",
    )
    .await;
    done(attach(Some(set.key.reveal()), me.clone()).await).await;
    let cleared = bench.post("/v1/volumes/data/key/clear", &json!({})).await;
    assert_eq!(cleared.status(), StatusCode::NO_CONTENT);
    done(attach(None, me).await).await;
    let shown = bench
        .send(Method::GET, "/v1/volumes/data")
        .await
        .text()
        .await
        .unwrap();
    let log = bench
        .send(Method::GET, "/v1/audit")
        .await
        .text()
        .await
        .unwrap();
    let stored = bench.send(Method::GET, "/v1/volumes?watch=true").await;
    assert_eq!(stored.status(), StatusCode::OK);
    for text in [&shown, &log] {
        assert!(
            !text.contains(set.key.reveal()) && !text.contains("ashlar-volume_"),
            "{text}"
        );
    }
    assert!(
        log.contains("POST /v1/volumes/data/key/set") && log.contains("key_hash"),
        "{log}"
    );
}

#[tokio::test]
async fn secrets_of_chap_are_in_no_answer_and_no_entry() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let name = "iqn.2026-11.com.example:t";
    let made = bench.post("/v1/targets", &json!({"name": name})).await;
    assert_eq!(made.status(), StatusCode::CREATED);
    let secret = "correct horse battery";
    let set = json!({"user": "u", "secret": secret});
    let path = format!("/v1/targets/{name}/chap/set");
    let answer = bench.post(&path, &set).await.text().await.unwrap();
    let other = json!({"user": "m", "secret": format!("{secret} 2"), "mutual": true});
    let second = bench.post(&path, &other).await.text().await.unwrap();
    let log = bench
        .send(Method::GET, "/v1/audit")
        .await
        .text()
        .await
        .unwrap();
    for text in [&answer, &second, &log] {
        assert!(!text.contains("horse"), "{text}");
    }
    assert_eq!(log.matches("chap/set").count(), 2, "{log}");
}

/// A page whose name is made to resolve to this machine is of the API's origin to its browser.
#[tokio::test]
async fn a_web_page_is_no_admin_for_being_opened_on_this_machine() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let backup = bench.url("/v1/metadata/backup");
    let rebound = bench.http.get(&backup).header("host", "evil.example:7100");
    refused(rebound.send().await.unwrap(), 403, "host-not-permitted").await;
    let users = bench.url("/v1/users");
    let body = json!({"name": "eve", "role": "admin"});
    let page = bench
        .http
        .post(&users)
        .header("origin", "http://evil.example");
    let page = page.json(&body).send().await.unwrap();
    refused(page, 403, "host-not-permitted").await;
    let local = bench.http.post(&users).header("host", "localhost:7100");
    done(local.json(&body).send().await.unwrap()).await;
    let live = bench.http.get(bench.url("/healthz"));
    let live = live.header("host", "evil.example").send().await.unwrap();
    assert_eq!(live.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_volume_of_another_project_is_refused_whether_it_is_there_or_not() {
    let directory = tempfile::tempdir().unwrap();
    let bench = guarded(directory.path(), false).await;
    let key = user(&bench, "ada", "operator", Some("default")).await;
    for name in ["other/a", "other/b"] {
        let path = format!("/v1/snapshots?volume={name}");
        let answer = get(&bench, key.secret.reveal(), &path).await;
        refused(answer, 403, "project-not-permitted").await;
    }
}

#[tokio::test]
async fn who_makes_a_volume_says_where_it_lies_but_not_what_bounds_it() {
    let directory = tempfile::tempdir().unwrap();
    let bench = guarded(directory.path(), false).await;
    with_stores(&bench).await;
    let key = user(&bench, "ada", "operator", None).await;
    let with = |name: &str, setting: &str, value: &str| {
        let mut body = volume(name, 1 << 30);
        body["settings"] = json!({ setting: value });
        body
    };
    let unbound = with("a", "iops-max", "unlimited");
    let answer = post(&bench, key.secret.reveal(), MAKE, unbound.clone()).await;
    refused(answer, 403, "not-permitted").await;
    done(post(&bench, ROOT, MAKE, unbound).await).await;
    let placed = with("b", "spread", "node");
    done(post(&bench, key.secret.reveal(), MAKE, placed).await).await;
}
