//! `/v1/iscsi/servers`, and what iSCSI servers say of the volumes that they serve.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::PortalGroup;
use ashlar_proto::api::{
    ConfirmReservations, HandOver, IscsiServer, List, RegisterServer, ReservationsConfirmed,
    ServerHeartbeat, ServerRegistered,
};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use schemars::JsonSchema;
use serde::Deserialize;

use super::extract::{JsonBody, PathPart, QueryOf};
use super::operation::op;
use super::page::NamedQuery;
use super::problem::{Answer, Code};
use super::routes::Routes;
use super::watch::{self, Wanted};
use super::{Api, Shared, unless_stopping};
use crate::meta::MetaStore;

/// The routes of this file.
pub(super) fn routes<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .get(
            "/v1/iscsi/servers",
            list::<M>,
            op("listServers", "Lists the iSCSI servers")
                .query::<NamedQuery>()
                .answers::<List<IscsiServer>>(StatusCode::OK, "a page of them")
                .watched::<IscsiServer>(),
        )
        .post(
            "/v1/iscsi/servers",
            register::<M>,
            op("registerServer", "A run of a server is there")
                .body::<RegisterServer>()
                .gives::<ServerRegistered>(),
        )
        .delete(
            "/v1/iscsi/servers/{server}",
            forget::<M>,
            op("forgetServer", "Forgets a server that is down")
                .done("it is forgotten")
                .keyed()
                .refuses(&[Code::ServerNotFound, Code::ServerUp]),
        )
        .post(
            "/v1/iscsi/servers/{server}/heartbeat",
            hear::<M>,
            op("serverHeartbeat", "That run still serves, or ends")
                .part::<PortalGroup>("server")
                .body::<ServerHeartbeat>()
                .done("it is noted")
                .refuses(&[Code::ServerNotFound, Code::ServerReplaced]),
        )
        .with(routes_of_volumes())
}

fn routes_of_volumes<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .post(
            "/v1/volumes/{name}/hand-over",
            hand_over::<M>,
            op(
                "handOver",
                "Asks who has the volume attached to let it go to a server",
            )
            .body::<HandOver>()
            .done("it is asked")
            .refuses(&Code::OF_VOLUME)
            .refuses(&[Code::ServerNotFound]),
        )
        .post(
            "/v1/volumes/{name}/reservations/confirm",
            confirm::<M>,
            op(
                "confirmReservations",
                "The owner goes by a version of the reservations",
            )
            .body::<ConfirmReservations>()
            .done("it is noted")
            .refuses(&Code::OF_VOLUME),
        )
        .get(
            "/v1/volumes/{name}/reservations/confirmed",
            confirmed::<M>,
            op(
                "getReservationsConfirmed",
                "Whether it does, or nobody serves the volume",
            )
            .query::<VersionQuery>()
            .gives::<ReservationsConfirmed>()
            .refuses(&[Code::VolumeNotFound]),
        )
}

async fn list<M: MetaStore>(
    State(api): Shared<M>,
    wanted: Wanted,
    QueryOf(query): QueryOf<NamedQuery>,
) -> Answer<Response> {
    watch::list::<IscsiServer, M>(&api, query.selection(), &wanted)
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
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct VersionQuery {
    /// The version, or a later one.
    version: u64,
    /// How long to wait for it: milliseconds, 60000 at most.
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
