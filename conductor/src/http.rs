//! The HTTP/JSON API under `/v1`: routes, limits, and the conversion of everything to answers.
//!
//! Invariants: every refusal is `application/problem+json`; a body is at most [`BODY_BYTES_MAX`]
//! and must say `application/json` (so that no web page can make a browser send it unasked); a
//! request that is no watch ends within [`REQUEST_SECONDS_MAX`].

mod clients;
mod clones;
mod extract;
mod groups;
mod leader;
pub(crate) mod listener;
mod nodes;
mod problem;
mod rebalance;
mod schedule;
mod servers;
mod settings;
mod snapshots;
mod space;
mod targets;
mod volumes;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::{ClusterStatus, List, Revision};
use ashlar_proto::limits::{
    INITIATOR_PORT_BYTES_MAX, ISCSI_NAME_BYTES_MAX, MAPS_ASKED_MAX, NAME_BYTES_MAX,
    REGISTRATIONS_MAX, TARGET_INITIATORS_MAX,
};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::sync::{Semaphore, watch as signal};

use crate::cluster::Cluster;
use crate::meta::MetaStore;
use problem::{Answer, Refused};

/// Largest request body: a registration of 256 disks with their damage counts fits many times.
const BODY_BYTES_MAX: usize = 4 << 20;

/// Longest that a request may take, waits included.
const REQUEST_SECONDS_MAX: u64 = 90;

/// Longest `wait_ms`.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Watches at a time.
pub(crate) const WATCHES_MAX: usize = 256;

/// Bytes of one volume in a question for maps: its name, a number of 20 digits, and JSON around them.
const ASKED_MAP_BYTES_MAX: usize = NAME_BYTES_MAX + 64;

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
}

type Shared<M> = State<Arc<Api<M>>>;

/// The query of a long poll.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AfterQuery {
    #[serde(default)]
    after: Revision,
    wait_ms: Option<u64>,
}

/// All routes.
pub(crate) fn router<M: MetaStore>(api: Api<M>) -> Router {
    let api = Arc::new(api);
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/v1/leader", get(leader::show::<M>))
        .route("/v1/status", get(status::<M>))
        .route(
            "/v1/volumes",
            get(volumes::list::<M>).post(volumes::create::<M>),
        )
        .route(
            "/v1/volumes/{name}",
            get(volumes::show::<M>).delete(volumes::delete::<M>),
        )
        .route("/v1/volumes/{name}/map", get(volumes::map::<M>))
        .route("/v1/volumes/{name}/attach", post(volumes::attach::<M>))
        .route("/v1/volumes/{name}/resize", post(volumes::resize::<M>))
        .route("/v1/volumes/{name}/reserve", post(space::reserve::<M>))
        .route("/v1/volumes/{name}/detach", post(volumes::detach::<M>))
        .route("/v1/volumes/{name}/in-sync", post(volumes::in_sync::<M>))
        .route("/v1/volumes/{name}/layers", post(snapshots::report::<M>))
        .route(
            "/v1/volumes/{name}/snapshots",
            get(snapshots::list::<M>).post(snapshots::create::<M>),
        )
        .route(
            "/v1/volumes/{name}/snapshots/{snapshot}",
            get(snapshots::show::<M>).delete(snapshots::delete::<M>),
        )
        .route(
            "/v1/volumes/{name}/snapshots/{snapshot}/map",
            get(snapshots::map::<M>),
        )
        .route(
            "/v1/volumes/{name}/snapshots/{snapshot}/rollback",
            post(snapshots::rollback::<M>),
        )
        .route(
            "/v1/volumes/{name}/snapshots/{snapshot}/clone",
            post(clones::clone::<M>),
        )
        .route("/v1/volumes/{name}/flatten", post(clones::flatten::<M>))
        .route("/v1/volumes/{name}/flattened", post(clones::report::<M>))
        .route("/v1/volumes/{name}/hold", post(groups::report_hold::<M>))
        .route("/v1/snapshot-groups", post(groups::create::<M>))
        .route("/v1/snapshots", get(snapshots::list_all::<M>))
        .route("/v1/maps", post(volumes::maps::<M>))
        .route("/v1/nodes", get(nodes::list::<M>))
        .route("/v1/nodes/register", post(nodes::register::<M>))
        .route("/v1/nodes/{id}/heartbeat", post(nodes::heartbeat::<M>))
        .route("/v1/nodes/{id}/assignments", get(nodes::assignments::<M>))
        .route("/v1/owners/heartbeat", post(nodes::hear_owner::<M>))
        .route("/v1/nodes/{id}", delete(schedule::remove_node::<M>))
        .route("/v1/nodes/{id}/cordon", post(schedule::cordon_node::<M>))
        .route(
            "/v1/nodes/{id}/uncordon",
            post(schedule::uncordon_node::<M>),
        )
        .route("/v1/nodes/{id}/drain", post(schedule::drain_node::<M>))
        .route("/v1/disks", get(nodes::list_disks::<M>))
        .route("/v1/disks/{id}", delete(schedule::remove_disk::<M>))
        .route("/v1/disks/{id}/cordon", post(schedule::cordon_disk::<M>))
        .route(
            "/v1/disks/{id}/uncordon",
            post(schedule::uncordon_disk::<M>),
        )
        .route("/v1/disks/{id}/drain", post(schedule::drain_disk::<M>))
        .route("/v1/disks/{id}/clear", post(schedule::clear_disk::<M>))
        .route("/v1/clients/denied", get(clients::denied::<M>))
        .route("/v1/clients/deny", post(clients::deny::<M>))
        .route("/v1/clients/allow", post(clients::allow::<M>))
        .merge(targets::routes())
        .merge(servers::routes())
        .merge(settings::routes())
        .route("/v1/space", get(space::show::<M>).post(space::set::<M>))
        .route("/v1/events", get(space::events::<M>))
        .route("/v1/rebalance", get(rebalance::show::<M>))
        .route("/v1/rebalance/plan", get(rebalance::plan::<M>))
        .route("/v1/rebalance/pause", post(rebalance::pause::<M>))
        .route("/v1/rebalance/resume", post(rebalance::resume::<M>))
        .fallback(async |request: Request| Refused::no_route(request.uri().path()))
        .method_not_allowed_fallback(async |method: Method, request: Request| {
            Refused::no_method(&method, request.uri().path())
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&api),
            leader::send_on::<M>,
        ))
        .layer(middleware::from_fn(bound_time))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), tally::<M>))
        .with_state(api)
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

/// Ends a wait early when the conductor stops.
async fn unless_stopping<T, M>(api: &Api<M>, work: impl Future<Output = Answer<T>>) -> Answer<T> {
    let mut stopping = api.stopping.clone();
    tokio::select! {
        answer = work => answer,
        _ = stopping.wait_for(|stopping| *stopping) => Err(Refused::stopping()),
    }
}

fn list<T>(revision: Revision, items: Vec<T>) -> Json<List<T>> {
    Json(List { revision, items })
}

/// `wait_ms` as a duration within bounds.
fn wait(wait_ms: Option<u64>, default: Duration) -> Duration {
    wait_ms.map_or(default, Duration::from_millis).min(WAIT_MAX)
}
