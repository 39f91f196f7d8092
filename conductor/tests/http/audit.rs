//! What is written down, whatever else is asked meanwhile, and what tokens have to do with keys.

use ashlar_proto::api::{AuditEntry, AuditOutcome, KeyCreated, TokenCreated};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::access::with_stores;
use super::access::{MAKE, ROOT, audit, call, done, get, guarded, post, refused, user, volume};

/// Several times as many as entries are kept of refusals at once: those that come later bring some in, as slow as
/// the machine may be.
const FLOOD: usize = 500;

fn about<'a>(entries: &'a [AuditEntry], what: &str) -> Vec<&'a AuditEntry> {
    entries.iter().filter(|entry| entry.what == what).collect()
}

#[tokio::test]
async fn what_is_done_is_written_down_while_others_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let bench = guarded(directory.path(), false).await;
    let ada = user(&bench, "ada", "operator", None).await;
    let ada = ada.secret.reveal();
    let url = bench.url("/v1/volumes");
    let flood = (0..FLOOD).map(|_| tokio::spawn(bench.http.get(&url).send()));
    for asked in flood.collect::<Vec<_>>() {
        asked.await.unwrap().unwrap();
    }
    done(post(&bench, ada, "/v1/tokens", json!({"ttl_seconds": 60})).await).await;
    refused(get(&bench, ada, "/v1/users").await, 403, "not-permitted").await;
    let entries = audit(&bench).await;
    let unknown = entries.iter().filter(|entry| entry.who.is_empty()).count();
    assert!(unknown < FLOOD, "the flood was no flood: {unknown} entries");
    assert_eq!(
        about(&entries, "POST /v1/tokens")[0].outcome,
        AuditOutcome::Done
    );
    assert_eq!(about(&entries, "GET /v1/users")[0].who, "ada");
}

#[tokio::test]
async fn a_group_of_snapshots_is_written_down() {
    let directory = tempfile::tempdir().unwrap();
    let bench = super::support::start(directory.path()).await;
    let _stores = super::support::Store::start_three(&bench).await;
    for name in ["a", "b"] {
        bench.create(name, 3).await;
    }
    let body = json!({"name": "s", "volumes": ["a", "b"]});
    let made = bench.post("/v1/snapshot-groups?wait_ms=0", &body).await;
    assert_eq!(made.status(), StatusCode::CREATED);
    let log: Value = bench.get("/v1/audit?limit=1000").await;
    let list: Vec<AuditEntry> = serde_json::from_value(log["items"].clone()).unwrap();
    let entries = about(&list, "POST /v1/snapshot-groups");
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].outcome, AuditOutcome::Done);
    assert!(!entries[0].changes.is_empty());
}

#[tokio::test]
async fn who_deletes_a_user_with_many_keys_is_seen_to() {
    let directory = tempfile::tempdir().unwrap();
    let bench = guarded(directory.path(), false).await;
    user(&bench, "ada", "viewer", None).await;
    for _ in 0..7 {
        done(post(&bench, ROOT, "/v1/users/ada/keys", json!({})).await).await;
    }
    let path = "/v1/users/ada";
    let gone = call(&bench, Some(ROOT), Method::DELETE, path, None).await;
    assert!(gone.status().is_success());
    let entries = audit(&bench).await;
    let entry = about(&entries, "DELETE /v1/users/ada")[0];
    assert_eq!(entry.changes[0].row, "user/ada");
    assert_eq!((entry.changes.len(), entry.changes_left_out), (6, 3));
}

async fn token(bench: &super::support::Bench, key: &str) -> TokenCreated {
    let made = post(bench, key, "/v1/tokens", json!({"ttl_seconds": 86_400})).await;
    serde_json::from_value(done(made).await).unwrap()
}

#[tokio::test]
async fn a_token_ends_with_its_key_and_is_found_in_the_log_to_be_revoked() {
    let directory = tempfile::tempdir().unwrap();
    let bench = guarded(directory.path(), false).await;
    let key = user(&bench, "ada", "operator", None).await;
    let (first, second) = (
        token(&bench, key.secret.reveal()).await,
        token(&bench, key.secret.reveal()).await,
    );
    let entries = audit(&bench).await;
    let told = about(&entries, "POST /v1/tokens");
    let rows: Vec<&str> = told
        .iter()
        .map(|entry| entry.changes[0].row.as_str())
        .collect();
    let row = |token: &TokenCreated| format!("token/{}", token.id);
    assert_eq!(rows, [row(&first), row(&second)]);
    let after = told[0].changes[0].after.as_ref().unwrap();
    assert_eq!(after["made_with"], json!(key.key.id));
    let revoke = format!("/v1/keys/{}/revoke", key.key.id);
    done(post(&bench, ROOT, &revoke, json!({})).await).await;
    for token in [first, second] {
        let who = get(&bench, token.token.reveal(), "/v1/whoami").await;
        refused(who, 401, "credentials-revoked").await;
    }
    let short = post(
        &bench,
        ROOT,
        "/v1/users/ada/keys",
        json!({"ttl_seconds": 60}),
    )
    .await;
    let short: KeyCreated = serde_json::from_value(done(short).await).unwrap();
    let bounded = token(&bench, short.secret.reveal()).await;
    assert!(bounded.expires_ms <= short.key.expires_ms.unwrap());
}

#[tokio::test]
async fn names_of_other_projects_cannot_be_probed() {
    let directory = tempfile::tempdir().unwrap();
    let bench = guarded(directory.path(), false).await;
    with_stores(&bench).await;
    for project in ["shop", "lab"] {
        done(post(&bench, ROOT, "/v1/projects", json!({"name": project})).await).await;
    }
    let key = user(&bench, "shop", "operator", Some("shop")).await;
    let shop = key.secret.reveal();
    done(post(&bench, ROOT, MAKE, volume("lab/a", 1 << 20)).await).await;
    done(post(&bench, ROOT, MAKE, volume("shop/a", 1 << 20)).await).await;
    for name in ["lab%2Fa", "lab%2Fnone", "a"] {
        let path = format!("/v1/snapshots?volume={name}");
        refused(get(&bench, shop, &path).await, 403, "project-not-permitted").await;
    }
    done(get(&bench, shop, "/v1/snapshots?volume=shop%2Fa").await).await;
    // As a list of its fields a body is read too, by who carries it out.
    let list = json!(["lab/b", 1 << 20, 1]);
    refused(
        post(&bench, shop, MAKE, list).await,
        403,
        "project-not-permitted",
    )
    .await;
}

#[tokio::test]
async fn a_key_for_repeated_requests_is_of_who_gives_it() {
    let directory = tempfile::tempdir().unwrap();
    let bench = guarded(directory.path(), false).await;
    with_stores(&bench).await;
    let (ada, eve) = (
        user(&bench, "ada", "operator", None).await,
        user(&bench, "eve", "operator", None).await,
    );
    let make = async |who: &KeyCreated, name: &str| {
        let request = bench.http.post(bench.url(MAKE));
        let request = request.bearer_auth(who.secret.reveal());
        let request = request.header("idempotency-key", "one");
        let response = request.json(&volume(name, 1 << 20)).send().await.unwrap();
        let replayed = response.headers().contains_key("idempotency-replayed");
        (response.status().is_success(), replayed)
    };
    assert_eq!(make(&ada, "a").await, (true, false));
    assert_eq!(make(&ada, "a").await, (true, true));
    // Of another it is neither the same request nor a key that was used.
    assert_eq!(make(&eve, "a").await, (false, false));
    assert_eq!(make(&eve, "b").await, (true, false));
    let entries = audit(&bench).await;
    assert!(
        entries
            .iter()
            .flat_map(|entry| &entry.changes)
            .all(|change| !change.row.starts_with("once/"))
    );
}
