//! A conductor that asks for certificates: what it issues and whom it refuses is in the audit log.

use std::path::Path;
use std::time::{Duration, SystemTime};

use ashlar_conductor::{
    AccessOptions, AuthMode, Conductor, ConductorOptions, ConductorTls, Timing,
};
use ashlar_identity::{Authority, Credentials, Denied, Identity, KeyAndRequest, Subject};
use ashlar_proto::ClusterId;
use ashlar_proto::api::{
    AuditEntry, AuditOutcome, Enrolled, JoinTokenCreated, KeyCreated, List, NodeRole, Role, Secret,
    WhoAmI,
};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};

use super::support::{problem, registration};

const ROOT: &str = "what the process shows";

struct Bench {
    conductor: Conductor,
    authority: Authority,
    /// Shows no certificate.
    nobody: Client,
}

fn subject(role: NodeRole, name: &str) -> Subject {
    Subject {
        identity: Identity {
            cluster: ClusterId::new(7),
            role,
            name: name.to_owned(),
        },
        hosts: Vec::new(),
        ttl: Duration::from_secs(3600),
    }
}

/// What is looked at here is whom the server lets in, not whom the client believes.
fn client(identity: Option<reqwest::Identity>) -> Client {
    let builder = Client::builder()
        .no_proxy()
        .tls_danger_accept_invalid_certs(true);
    let builder = match identity {
        Some(identity) => builder.identity(identity),
        None => builder,
    };
    builder.build().unwrap()
}

impl Bench {
    async fn start(directory: &Path) -> Self {
        let now = SystemTime::now();
        let (authority, key) = Authority::create(ClusterId::new(7), now).unwrap();
        let own = subject(NodeRole::Conductor, "c");
        let (own_key, certificate) = authority.issue(&own, now).unwrap();
        let pem = authority.certificate_pem().to_owned();
        let tls = ConductorTls {
            cluster: ClusterId::new(7),
            credentials: Credentials::load(&certificate, &own_key, &pem).unwrap(),
            authority_pem: pem.clone(),
            authority: Some(Authority::load(&pem, &key).unwrap().into()),
            certificate_ttl: Duration::from_secs(3600),
            also_loopback: true,
            denied: Denied::nobody(),
        };
        let options = ConductorOptions {
            data_dir: directory.join("meta"),
            listen: "127.0.0.1:0".parse().unwrap(),
        };
        let access = AccessOptions {
            mode: AuthMode::Required,
            process_secret: Some(Secret::new(ROOT)),
            ..AccessOptions::default()
        };
        let started =
            Conductor::start_secured(options, Timing::default(), &access, Some(tls)).await;
        Self {
            conductor: started.unwrap(),
            authority,
            nobody: client(None),
        }
    }

    /// A client with a certificate of that role and name.
    fn node(&self, role: NodeRole, name: &str) -> Client {
        let issued = self
            .authority
            .issue(&subject(role, name), SystemTime::now());
        let (key, certificate) = issued.unwrap();
        let pem = format!("{key}\n{certificate}");
        client(Some(reqwest::Identity::from_pem(pem.as_bytes()).unwrap()))
    }

    async fn send(
        &self,
        client: &Client,
        root: bool,
        (method, path): (Method, &str),
        body: Option<Value>,
    ) -> Response {
        let url = format!("https://{}{path}", self.conductor.address());
        let mut request = client.request(method, url);
        if root {
            request = request.bearer_auth(ROOT);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.unwrap()
    }

    async fn post(&self, client: &Client, path: &str, body: Value) -> Response {
        self.send(client, false, (Method::POST, path), Some(body))
            .await
    }

    async fn token(&self, name: Option<&str>) -> JoinTokenCreated {
        let body = json!({"role": "store", "name": name, "ttl_ms": 60_000});
        let path = (Method::POST, "/v1/join-tokens");
        let made = self.send(&self.nobody, true, path, Some(body)).await;
        made.json().await.unwrap()
    }

    async fn enrol(&self, token: &JoinTokenCreated, name: &str) -> Response {
        let request = KeyAndRequest::make().unwrap().request_pem;
        let body = json!({"token": token.token.reveal(), "name": name, "request": request});
        self.post(&self.nobody, "/v1/enrol", body).await
    }

    /// The entries about a path.
    async fn entries(&self, what: &str) -> Vec<AuditEntry> {
        let path = (Method::GET, "/v1/audit?limit=1000");
        let list = self.send(&self.nobody, true, path, None).await;
        let list: List<AuditEntry> = list.json().await.unwrap();
        let entries = list.items.into_iter();
        entries.filter(|entry| entry.what == what).collect()
    }
}

async fn code(response: Response) -> String {
    problem(response).await.code
}

#[tokio::test]
async fn certificates_that_are_issued_and_tokens_that_are_refused_are_written_down() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::start(directory.path()).await;
    let token = bench.token(None).await;
    let enrolled = bench.enrol(&token, "node-1").await;
    assert_eq!(enrolled.status(), StatusCode::OK);
    let _: Enrolled = enrolled.json().await.unwrap();
    assert_eq!(
        code(bench.enrol(&token, "node-2").await).await,
        "join-token-used"
    );
    let mut unknown = bench.token(None).await;
    let text = unknown.token.reveal().to_owned();
    let revoke = format!("/v1/join-tokens/{}", unknown.described.id);
    let path = (Method::DELETE, revoke.as_str());
    bench.send(&bench.nobody, true, path, None).await;
    unknown.token = Secret::new(text);
    assert_eq!(
        code(bench.enrol(&unknown, "node-2").await).await,
        "join-token-unknown"
    );
    let entries = bench.entries("POST /v1/enrol").await;
    let told: Vec<_> = entries
        .iter()
        .map(|entry| (entry.outcome, entry.who.as_str(), entry.code.as_deref()))
        .collect();
    let by_token = format!("join-token {}", token.described.id);
    assert_eq!(
        told,
        [
            (AuditOutcome::Done, by_token.as_str(), None),
            (
                AuditOutcome::Refused,
                by_token.as_str(),
                Some("join-token-used")
            ),
            (AuditOutcome::Refused, "", Some("join-token-unknown")),
        ]
    );
    assert_eq!(entries[0].request.as_ref().unwrap()["name"], "node-1");
    let all = serde_json::to_string(&entries).unwrap();
    assert!(!all.contains(token.token.reveal()), "{all}");
    let request = KeyAndRequest::make().unwrap().request_pem;
    let store = bench.node(NodeRole::Store, "node-1");
    let renewed = bench
        .post(&store, "/v1/enrol/renew", json!({"request": request}))
        .await;
    assert_eq!(renewed.status(), StatusCode::OK);
    let renewals = bench.entries("POST /v1/enrol/renew").await;
    assert_eq!(
        (renewals[0].who.as_str(), renewals[0].outcome),
        ("node-1", AuditOutcome::Done)
    );
}

#[tokio::test]
async fn who_is_refused_by_its_certificate_or_for_want_of_one_is_written_down() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::start(directory.path()).await;
    let store = bench.node(NodeRole::Store, "node-9");
    let list = (Method::GET, "/v1/volumes");
    let none = bench.send(&bench.nobody, false, list.clone(), None).await;
    assert_eq!(code(none).await, "certificate-required");
    let deletes = (Method::DELETE, "/v1/volumes/v");
    let role = bench.send(&store, false, deletes, None).await;
    assert_eq!(code(role).await, "role-refused");
    let body = serde_json::to_value(registration(1)).unwrap();
    let other = bench.post(&store, "/v1/nodes/register", body).await;
    assert_eq!(code(other).await, "speaks-for-other");
    let deny = json!({"subject": {"node": "node-9"}});
    let path = (Method::POST, "/v1/identities/deny");
    let denied = bench.send(&bench.nobody, true, path, Some(deny)).await;
    assert_eq!(denied.status(), StatusCode::OK);
    let denied = bench.send(&store, false, list, None).await;
    assert_eq!(code(denied).await, "identity-denied");
    let told = async |what: &str| -> Vec<(String, String)> {
        let entries = bench.entries(what).await.into_iter();
        entries
            .map(|entry| (entry.who, entry.code.unwrap_or_default()))
            .collect()
    };
    let pair = |who: &str, code: &str| (who.to_owned(), code.to_owned());
    assert_eq!(
        told("GET /v1/volumes").await,
        [
            pair("", "certificate-required"),
            pair("node-9", "identity-denied")
        ]
    );
    assert_eq!(
        told("DELETE /v1/volumes/v").await,
        [pair("node-9", "role-refused")]
    );
    assert_eq!(
        told("POST /v1/nodes/register").await,
        [pair("node-9", "speaks-for-other")]
    );
}

/// Else whoever finds such a token could speak for any store that runs.
#[tokio::test]
async fn a_token_of_no_name_is_for_no_node_that_there_is() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::start(directory.path()).await;
    let store = bench.node(NodeRole::Store, "node-1");
    let body = serde_json::to_value(registration(1)).unwrap();
    let registered = bench.post(&store, "/v1/nodes/register", body).await;
    assert_eq!(registered.status(), StatusCode::OK);
    let token = bench.token(None).await;
    let refused = problem(bench.enrol(&token, "node-1").await).await;
    assert_eq!(refused.code, "join-token-of-other");
    assert!(
        refused.detail.contains("--name node-1"),
        "{}",
        refused.detail
    );
    assert_eq!(bench.enrol(&token, "node-2").await.status(), StatusCode::OK);
    let named = bench.token(Some("node-1")).await;
    assert_eq!(bench.enrol(&named, "node-1").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn where_to_ask_and_how_is_told_to_everybody_and_nothing_more() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::start(directory.path()).await;
    for path in ["/v1/leader", "/v1/openapi.json", "/healthz"] {
        let answer = bench
            .send(&bench.nobody, false, (Method::GET, path), None)
            .await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
    }
    let request = bench
        .nobody
        .get(format!("https://{}/v1/volumes", bench.conductor.address()));
    let wrong = request.header("authorization", "x").send().await.unwrap();
    assert_eq!(code(wrong).await, "credentials-refused");
}

/// Where everybody has to show who it is from the start, the first one shows a certificate that was made where the
/// authority's key is.
#[tokio::test]
async fn the_first_admin_comes_by_a_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::start(directory.path()).await;
    let users = (Method::POST, "/v1/users");
    let ada = json!({"name": "ada", "role": "admin"});
    let front = bench.node(NodeRole::FrontEnd, "front-1");
    for (who, with) in [(&bench.nobody, "nothing"), (&front, "a front end's")] {
        let refused = bench
            .send(who, false, users.clone(), Some(ada.clone()))
            .await;
        assert!(refused.status().is_client_error(), "{with}: {refused:?}");
    }
    let first = bench.node(NodeRole::Client, "first");
    let made = bench.send(&first, false, users, Some(ada)).await;
    assert!(made.status().is_success(), "{made:?}");
    let key = bench.post(&first, "/v1/users/ada/keys", json!({})).await;
    let key: KeyCreated = key.json().await.unwrap();
    let whoami = format!("https://{}/v1/whoami", bench.conductor.address());
    let asked = bench.nobody.get(whoami);
    let asked = asked.bearer_auth(key.secret.reveal()).send().await.unwrap();
    let told: WhoAmI = asked.json().await.unwrap();
    assert_eq!((told.name.as_str(), told.role), ("ada", Role::Admin));
}
