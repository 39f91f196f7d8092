//! Before a request reaches its handler: who asks, whether that one may, and what is written down of it.
//!
//! ```text
//! peer, Authorization ──▶ gate ──▶ Caller ──▶ table of routes ──▶ handler ──▶ answer
//!                          │ 401, 429              │ 403             │ its entry is in its transaction
//!                          └──────── entry ◀───────┴──── refused ────┘
//! ```
//!
//! Entries of what was refused are bounded in rate; those left out are counted in the next one.

mod codes;
mod hosts;
mod peer;
mod refusals;

use std::sync::Arc;

use ashlar_proto::api::{AuditEntry, AuditOutcome, Role, VOLUME_KEY_HEADER};
use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

pub(super) use codes::{AccessCode, code_of};
pub(crate) use hosts::Hosts;
pub(crate) use refusals::Refusals;

use super::problem::{ProblemCode, Refused};
use super::{Api, BODY_BYTES_MAX, veil};
use crate::access::caller::{Caller, Means};
use crate::access::gate::{Peer, now_ms};
use crate::access::routes::{self, Noted, Rule};
use crate::audited::{self, Asked};
use crate::meta::MetaStore;
use crate::refusal::{AccessRefusal, Refusal};

/// Longest path that an entry tells.
const PATH_BYTES_MAX: usize = 512;

/// Lets a request through to its handler, or refuses it.
pub(super) async fn guard<M: MetaStore>(
    State(api): State<Arc<Api<M>>>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    // What is no route tells nobody anything.
    let Some(path) = parts.extensions.get::<MatchedPath>().cloned() else {
        return next.run(Request::from_parts(parts, body)).await;
    };
    let rule = routes::rule(parts.method.as_str(), path.as_str());
    let peer = peer::of(&parts);
    if rule.need == routes::Need::Nothing {
        return unguarded(&api, &rule, (parts, body), &peer, next).await;
    }
    let authorization = parts.headers.get(header::AUTHORIZATION);
    let admitted = api.gate.admit(&*api.cluster, &peer, authorization).await;
    let mut entry = entry(&parts, &peer, admitted.as_ref().ok());
    let caller = match admitted {
        Ok(caller) => caller,
        Err(refusal) => return refuse(&api, entry, refusal).await,
    };
    if let Err(refusal) = api.hosts.check(&caller, &parts) {
        return refuse(&api, entry, refusal).await;
    }
    let volume = volume_of(&mut parts).await;
    // The role is looked at before anything is read for somebody.
    if let Err(refusal) = caller.require(rule.need) {
        return refuse(&api, entry, refusal).await;
    }
    let (body, json) = match buffered(&rule, &path, body).await {
        Ok(read) => read,
        Err(refused) => return refused.into_response(),
    };
    let permitted =
        routes::permit(&caller, &rule, volume.as_deref(), json.as_ref()).and_then(|()| {
            check_key(
                &api,
                &parts,
                &path,
                volume.as_deref(),
                &caller,
                json.as_ref(),
            )
        });
    entry.request = json.map(audited::shown);
    if let Err(refusal) = permitted {
        return refuse(&api, entry, refusal).await;
    }
    parts.extensions.insert(caller.clone());
    let request = Request::from_parts(parts, body);
    let response = if rule.noted == Noted::Never {
        reported(&api, entry, next.run(request).await).await
    } else {
        carried_out(&api, &rule, entry, next.run(request)).await
    };
    veil::answer(&caller, response).await
}

/// Answers what takes nothing of who asks; its entry says who that is, if its handler finds out.
async fn unguarded<M: MetaStore>(
    api: &Arc<Api<M>>,
    rule: &Rule,
    (parts, body): (Parts, Body),
    peer: &Peer,
    next: Next,
) -> Response {
    if rule.noted == Noted::Never {
        return next.run(Request::from_parts(parts, body)).await;
    }
    let read = axum::body::to_bytes(body, BODY_BYTES_MAX).await;
    let Ok(bytes) = read else {
        return Refused::too_large(BODY_BYTES_MAX).into_response();
    };
    let mut entry = entry(&parts, peer, None);
    entry.request = serde_json::from_slice(&bytes).ok().map(audited::shown);
    let request = Request::from_parts(parts, Body::from(bytes));
    carried_out(api, rule, entry, next.run(request)).await
}

/// Answers a request that has an entry.
async fn carried_out<M: MetaStore>(
    api: &Arc<Api<M>>,
    rule: &Rule,
    entry: AuditEntry,
    answer: impl Future<Output = Response>,
) -> Response {
    let asked = Asked::new(entry, api.audit_file.clone());
    let response = asked.scope(answer).await;
    let outcome = (response.status(), code_in(&response));
    note_outcome(api, rule, &asked, outcome).await;
    response
}

/// Notes that somebody may not say or see that, where what is let through has no entry.
async fn reported<M: MetaStore>(
    api: &Arc<Api<M>>,
    mut entry: AuditEntry,
    response: Response,
) -> Response {
    if matches!(
        response.status(),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
    ) {
        entry.code = code_in(&response);
        note(api, entry).await;
    }
    response
}

/// Answers who was refused before it was asked who that is: by its certificate, or for want of one.
pub(super) async fn refuse_peer<M: MetaStore>(
    api: &Arc<Api<M>>,
    request: Request,
    node: Option<String>,
    refused: Refused,
) -> Response {
    let response = refused.into_response();
    let (parts, _) = request.into_parts();
    if parts.extensions.get::<MatchedPath>().is_none() {
        return response;
    }
    let mut entry = entry(&parts, &peer::of(&parts), None);
    if let Some(node) = node {
        (entry.who, entry.means) = (node, Means::Certificate.to_string());
    }
    entry.code = code_in(&response);
    note(api, entry).await;
    response
}

/// The body as it is, and as JSON where the rule or the audit log needs to know what it says.
async fn buffered(
    rule: &Rule,
    path: &MatchedPath,
    body: Body,
) -> Result<(Body, Option<Value>), Refused> {
    let is_attach = path.as_str() == ATTACH;
    if rule.noted == Noted::Never && !rule.about.is_in_body() && !is_attach {
        return Ok((body, None));
    }
    let read = axum::body::to_bytes(body, BODY_BYTES_MAX).await;
    let bytes: Bytes = read.map_err(|_| Refused::too_large(BODY_BYTES_MAX))?;
    let json = serde_json::from_slice(&bytes).ok();
    Ok((Body::from(bytes), json))
}

const ATTACH: &str = "/v1/volumes/{name}/attach";
const SNAPSHOT_MAP: &str = "/v1/volumes/{name}/snapshots/{snapshot}/map";

/// Refuses who attaches a volume that has a key, or reads a snapshot of it, without giving that. Whether who
/// attaches to repair needs it is looked at where the attach is planned.
fn check_key<M: MetaStore>(
    api: &Api<M>,
    parts: &Parts,
    path: &MatchedPath,
    volume: Option<&str>,
    caller: &Caller,
    body: Option<&Value>,
) -> Result<(), AccessRefusal> {
    let is_store = matches!(caller.role, Role::Admin | Role::Store);
    let is_exempt = match path.as_str() {
        ATTACH => is_store && body.is_some_and(|body| body["repair"] == true),
        // By its layer a snapshot is read by the owners of its clones.
        SNAPSHOT_MAP => is_store && parts.uri.path().contains("/snapshots/~"),
        _ => return Ok(()),
    };
    if is_exempt {
        return Ok(());
    }
    let given = parts.headers.get(VOLUME_KEY_HEADER);
    let given = given.and_then(|given| given.to_str().ok());
    api.cluster.check_volume_key(volume.unwrap_or("/"), given)
}

/// The volume that the path names.
async fn volume_of(parts: &mut Parts) -> Option<String> {
    if !parts.uri.path().starts_with("/v1/volumes/") {
        return None;
    }
    let params = RawPathParams::from_request_parts(parts, &()).await.ok()?;
    let mut named = params.iter().filter(|(name, _)| *name == "name");
    named.next().map(|(_, value)| value.to_owned())
}

fn entry(parts: &Parts, peer: &Peer, caller: Option<&Caller>) -> AuditEntry {
    let path: String = parts.uri.path().chars().take(PATH_BYTES_MAX).collect();
    let known = caller.map(|caller| (caller.name.clone(), caller.means.to_string()));
    let (who, means) = known.unwrap_or_default();
    AuditEntry {
        id: 0,
        time_ms: now_ms(),
        who,
        means,
        from: peer.address.map(|at| at.to_string()).unwrap_or_default(),
        what: format!("{} {path}", parts.method),
        request: None,
        outcome: AuditOutcome::Refused,
        code: None,
        changes: Vec::new(),
        changes_left_out: 0,
        left_out: 0,
    }
}

/// Answers with a refusal, and notes it.
async fn refuse<M: MetaStore>(
    api: &Arc<Api<M>>,
    mut entry: AuditEntry,
    refusal: AccessRefusal,
) -> Response {
    let response = Refused::from(Refusal::from(refusal)).into_response();
    entry.code = code_in(&response);
    tracing::info!(
        who = entry.who,
        from = entry.from,
        what = entry.what,
        code = entry.code,
        "a request was refused"
    );
    note(api, entry).await;
    response
}

fn code_in(response: &Response) -> Option<String> {
    let code = response.extensions().get::<ProblemCode>();
    code.map(|code| code.0.to_owned())
}

/// Notes what became of a request that no transaction has noted.
async fn note_outcome<M: MetaStore>(
    api: &Arc<Api<M>>,
    rule: &Rule,
    asked: &Asked,
    (status, code): (StatusCode, Option<String>),
) {
    // Who sends on to the leader has done nothing.
    let is_over = status.is_success() || status.is_client_error() || status.is_server_error();
    let Some(mut entry) = asked.draft().filter(|_| is_over) else {
        return;
    };
    entry.outcome = match status {
        _ if status.is_success() && rule.noted != Noted::Always => return,
        _ if status.is_success() => AuditOutcome::Done,
        _ if status.is_client_error() || status == StatusCode::INSUFFICIENT_STORAGE => {
            AuditOutcome::Refused
        }
        _ => AuditOutcome::Failed,
    };
    if entry.outcome != AuditOutcome::Done {
        // What it was to do besides was not done either.
        entry.changes.clear();
    }
    entry.code = code;
    note(api, entry).await;
}

/// Puts an entry into the metadata, where this conductor leads, and into its file.
async fn note<M: MetaStore>(api: &Arc<Api<M>>, mut entry: AuditEntry) {
    // What was done has its entry whatever others are refused meanwhile.
    if entry.outcome != AuditOutcome::Done {
        let is_known = !entry.who.is_empty();
        let Some(left_out) = api.refusals.admit(is_known, entry.time_ms) else {
            return;
        };
        entry.left_out = left_out;
    }
    let kept = match api.cluster.leads() {
        Ok(_) => api.cluster.note(entry.clone()).await,
        Err(_) => Ok(entry.clone()),
    };
    let kept = kept.unwrap_or_else(|error| {
        tracing::error!(%error, "an entry of the audit log is not in the metadata");
        entry
    });
    if let Some(file) = &api.audit_file {
        file.append(&kept);
    }
}

/// Who asks, for handlers that answer by that.
pub(super) struct Asks(pub(super) Caller);

impl<S: Send + Sync> FromRequestParts<S> for Asks {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        let caller = parts.extensions.get::<Caller>().cloned();
        caller
            .map(Self)
            .ok_or_else(|| Refused::from(Refusal::from(AccessRefusal::NotKnown)))
    }
}
