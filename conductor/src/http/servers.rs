//! `/v1/iscsi/servers`, and what iSCSI servers say of the volumes that they serve.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::PortalGroup;
use ashlar_proto::api::{
    ConfirmReservations, HandOver, IscsiServer, List, RegisterServer, ReservationsConfirmed,
    ServerHeartbeat, ServerRegistered,
};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;

use super::extract::{JsonBody, PathPart, QueryOf};
use super::problem::Answer;
use super::{Api, Shared, unless_stopping};
use crate::meta::MetaStore;

/// The routes of this file.
pub(super) fn routes<M: MetaStore>() -> Router<Arc<Api<M>>> {
    Router::new()
        .route("/v1/iscsi/servers", get(list::<M>).post(register::<M>))
        .route("/v1/iscsi/servers/{server}", delete(forget::<M>))
        .route("/v1/iscsi/servers/{server}/heartbeat", post(hear::<M>))
        .route("/v1/volumes/{name}/hand-over", post(hand_over::<M>))
        .route(
            "/v1/volumes/{name}/reservations/confirm",
            post(confirm::<M>),
        )
        .route(
            "/v1/volumes/{name}/reservations/confirmed",
            get(confirmed::<M>),
        )
}

async fn list<M: MetaStore>(State(api): Shared<M>) -> Json<List<IscsiServer>> {
    api.cluster
        .read(|view| super::list(view.state.revision(), view.state.servers()))
}

async fn register<M: MetaStore>(
    State(api): Shared<M>,
    JsonBody(request): JsonBody<RegisterServer>,
) -> Answer<Json<ServerRegistered>> {
    Ok(Json(api.cluster.register_server(request).await?))
}

async fn hear<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(group): PathPart<PortalGroup>,
    JsonBody(heartbeat): JsonBody<ServerHeartbeat>,
) -> Answer<StatusCode> {
    api.cluster.hear_server(group, heartbeat).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn forget<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
) -> Answer<StatusCode> {
    api.cluster.forget_server(name).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn hand_over<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    JsonBody(request): JsonBody<HandOver>,
) -> Answer<StatusCode> {
    api.cluster.hand_over(name, request).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn confirm<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    JsonBody(request): JsonBody<ConfirmReservations>,
) -> Answer<StatusCode> {
    api.cluster.confirm_reservations(&name, &request)?;
    Ok(StatusCode::NO_CONTENT)
}

/// The query of a wait for a version.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VersionQuery {
    version: u64,
    wait_ms: Option<u64>,
}

async fn confirmed<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    QueryOf(query): QueryOf<VersionQuery>,
) -> Answer<Json<ReservationsConfirmed>> {
    let wait = super::wait(query.wait_ms, Duration::ZERO);
    let work = api
        .cluster
        .reservations_confirmed(name, query.version, wait);
    unless_stopping(&api, async { Ok(work.await?) })
        .await
        .map(Json)
}
