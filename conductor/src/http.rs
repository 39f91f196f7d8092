//! The HTTP/JSON API under `/v1`: routes, limits, and the conversion of everything to answers.
//!
//! Invariants: every refusal is `application/problem+json`; a body is at most [`BODY_BYTES_MAX`]
//! and must say `application/json` (so that no web page can make a browser send it unasked); a
//! request that is no watch ends within [`REQUEST_SECONDS_MAX`].

mod access;
mod auth;
mod clients;
mod clones;
mod codes;
mod conditions;
mod extract;
mod gate;
mod groups;
mod headers;
pub(crate) mod identities;
mod labels;
mod leader;
pub(crate) mod listener;
mod metadata;
mod nodes;
mod openapi;
mod operation;
mod page;
pub(crate) mod peer;
mod problem;
mod publications;
mod rebalance;
mod routes;
mod schedule;
pub(crate) mod secure;
pub(crate) mod server;
mod servers;
mod settings;
mod snapshots;
mod space;
mod targets;
mod tasks;
mod veil;
mod volumes;
mod watch;
mod watched;

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::{ClusterStatus, List, Revision};
use ashlar_proto::limits::{
    INITIATOR_PORT_BYTES_MAX, ISCSI_NAME_BYTES_MAX, MAPS_ASKED_MAX, REGISTRATIONS_MAX,
    TARGET_INITIATORS_MAX,
};
use ashlar_proto::volume_name::VOLUME_NAME_BYTES_MAX;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Semaphore, watch as signal};

use crate::access::gate::Gate;
use crate::audit_file::AuditFile;
use crate::cluster::Cluster;
use crate::meta::MetaStore;
use crate::tls::ConductorTls;
pub(crate) use auth::{Hosts, Refusals};
use conditions::Conditions;
use operation::{Operation, op};
use problem::{Answer, Refused};
use routes::Routes;

/// Largest request body: a registration of 256 disks with their damage counts fits many times.
const BODY_BYTES_MAX: usize = 4 << 20;

/// Longest that a request may take, waits included.
const REQUEST_SECONDS_MAX: u64 = 90;

/// Longest `wait_ms`.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Watches at a time.
pub(crate) const WATCHES_MAX: usize = 256;

/// Bytes of one volume in a question for maps: its name, a number of 20 digits, and JSON around them.
const ASKED_MAP_BYTES_MAX: usize = VOLUME_NAME_BYTES_MAX + 64;

/// Bytes of one registration in the reservations of a volume: the names, every byte of which may be
/// escaped as six, and JSON around them.
const REGISTRATION_BYTES_MAX: usize = (INITIATOR_PORT_BYTES_MAX + ISCSI_NAME_BYTES_MAX) * 6 + 160;

const _: () = assert!(REGISTRATIONS_MAX * REGISTRATION_BYTES_MAX < BODY_BYTES_MAX);
const _: () = assert!(TARGET_INITIATORS_MAX * (ISCSI_NAME_BYTES_MAX * 6 + 8) < BODY_BYTES_MAX);
const _: () = assert!(MAPS_ASKED_MAX * ASKED_MAP_BYTES_MAX < BODY_BYTES_MAX);
const _: () = assert!(WAIT_MAX.as_secs() < REQUEST_SECONDS_MAX);

/// What every handler has.
pub(crate) struct Api<M> {
    pub(crate) cluster: Arc<Cluster<M>>,
    /// Becomes true when the conductor stops: watches and long polls end.
    pub(crate) stopping: signal::Receiver<bool>,
    pub(crate) watches: Arc<Semaphore>,
    pub(crate) gate: Gate,
    /// By which names somebody of whom nothing is asked may ask.
    pub(crate) hosts: Hosts,
    pub(crate) audit_file: Option<AuditFile>,
    pub(crate) refusals: Refusals,
    /// How it knows who asks; `None` where everybody is let in.
    pub(crate) tls: Option<ConductorTls>,
}

type Shared<M> = State<Arc<Api<M>>>;

/// The query of a long poll.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AfterQuery {
    /// The revision of what is known: anything later is news.
    #[serde(default)]
    after: Revision,
    /// How long to wait for news: milliseconds, 60000 at most.
    wait_ms: Option<u64>,
}

/// All routes.
pub(crate) fn router<M: MetaStore>(api: Arc<Api<M>>) -> Router {
    let (routes, operations) = all_routes().into_parts();
    let conditions = Conditions::new(Arc::clone(&api), &operations);
    routes
        .route_layer(middleware::from_fn_with_state(
            conditions,
            conditions::apply::<M>,
        ))
        .fallback(async |request: Request| Refused::no_route(request.uri().path()))
        .method_not_allowed_fallback(async |method: Method, request: Request| {
            Refused::no_method(&method, request.uri().path())
        })
        .layer(Extension(Document::of(&operations)))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&api),
            leader::send_on::<M>,
        ))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&api),
            auth::guard::<M>,
        ))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&api),
            peer::admit::<M>,
        ))
        .layer(middleware::from_fn(bound_time))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), tally::<M>))
        .with_state(api)
}

/// The routes, as the document tells of them.
fn all_routes<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .get(
            "/healthz",
            async || "ok\n",
            op("getHealth", "Says that the process answers")
                .text("text/plain; charset=utf-8", "it answers"),
        )
        .get(
            "/v1/openapi.json",
            document,
            op("getDocument", "This document").gives::<Value>(),
        )
        .get(
            "/v1/leader",
            leader::show::<M>,
            op(
                "getLeader",
                "Whether this conductor leads, else which one does",
            )
            .gives::<leader::LeaderShown>(),
        )
        .get(
            "/v1/status",
            status::<M>,
            op("getStatus", "The cluster in one look").gives::<ClusterStatus>(),
        )
        .with(volumes::routes())
        .with(labels::routes())
        .with(publications::routes())
        .with(snapshots::routes())
        .with(clones::routes())
        .with(groups::routes())
        .with(nodes::routes())
        .with(schedule::routes())
        .with(clients::routes())
        .with(targets::routes())
        .with(servers::routes())
        .with(space::routes())
        .with(rebalance::routes())
        .with(tasks::routes())
        .with(settings::routes())
        .with(metadata::routes())
        .with(identities::routes())
        .with(access::routes())
}

/// Method and path of each route.
#[cfg(test)]
pub(crate) fn routes_told<M: MetaStore>() -> Vec<(String, String)> {
    let (_, operations) = all_routes::<M>().into_parts();
    let told = operations.iter();
    told.map(|operation| (operation.method.to_string(), operation.path.to_owned()))
        .collect()
}

/// The document, as it is served.
#[derive(Clone)]
struct Document(Bytes);

impl Document {
    fn of(operations: &[Operation]) -> Self {
        Self(openapi::text(&openapi::document(operations)).into())
    }
}

async fn document(Extension(document): Extension<Document>) -> Response {
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json)], document.0).into_response()
}

/// Counts a request, and how long its answer takes to begin.
async fn tally<M: MetaStore>(
    State(api): State<Arc<Api<M>>>,
    request: Request,
    next: Next,
) -> Response {
    let began = api.cluster.uptime();
    let response = next.run(request).await;
    let took = api.cluster.uptime().saturating_sub(began);
    let has_failed = response.status().is_server_error();
    api.cluster.tallies().note_request(took, has_failed);
    response
}

/// Ends requests that take too long. A watch has answered by then; its body goes on.
async fn bound_time(request: Request, next: Next) -> Response {
    let limit = Duration::from_secs(REQUEST_SECONDS_MAX);
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refused::timed_out().into_response(),
    }
}

async fn status<M: MetaStore>(State(api): Shared<M>) -> Json<ClusterStatus> {
    let now = api.cluster.now();
    Json(api.cluster.read(|view| view.state.status(&view.live, now)))
}

/// A list that is given as a whole.
fn list<T>(revision: Revision, items: Vec<T>) -> Json<List<T>> {
    let next = None;
    Json(List {
        revision,
        items,
        next,
    })
}

/// Ends a wait early when the conductor stops.
async fn unless_stopping<T, M>(api: &Api<M>, work: impl Future<Output = Answer<T>>) -> Answer<T> {
    let mut stopping = api.stopping.clone();
    tokio::select! {
        answer = work => answer,
        _ = stopping.wait_for(|stopping| *stopping) => Err(Refused::stopping()),
    }
}

/// `wait_ms` as a duration within bounds.
fn wait(wait_ms: Option<u64>, default: Duration) -> Duration {
    wait_ms.map_or(default, Duration::from_millis).min(WAIT_MAX)
}
