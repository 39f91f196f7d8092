//! `/v1/nodes` and `/v1/disks`.

use std::time::Duration;

use ashlar_proto::NodeId;
use ashlar_proto::api::{
    Assignments, Heartbeat, HeartbeatAnswer, OwnerHeartbeat, RegisterNode, Registered,
};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::extract::{JsonBody, PathPart, QueryOf};
use super::problem::Answer;
use super::watch::{self, ListQuery};
use super::{AfterQuery, Shared, unless_stopping};
use crate::meta::MetaStore;

pub(super) async fn list<M: MetaStore>(
    State(api): Shared<M>,
    QueryOf(query): QueryOf<ListQuery>,
) -> Answer<Response> {
    if query.watch {
        return watch::nodes(&api, query.after);
    }
    let now = api.cluster.now();
    let all = api
        .cluster
        .read(|view| super::list(view.state.revision(), view.state.nodes(&view.live, now)));
    Ok(all.into_response())
}

pub(super) async fn list_disks<M: MetaStore>(
    State(api): Shared<M>,
    QueryOf(query): QueryOf<ListQuery>,
) -> Answer<Response> {
    if query.watch {
        return watch::disks(&api, query.after);
    }
    let all = api
        .cluster
        .read(|view| super::list(view.state.revision(), view.state.disks(&view.live)));
    Ok(all.into_response())
}

pub(super) async fn register<M: MetaStore>(
    State(api): Shared<M>,
    JsonBody(request): JsonBody<RegisterNode>,
) -> Answer<Json<Registered>> {
    Ok(Json(api.cluster.register(request).await?))
}

pub(super) async fn heartbeat<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(node): PathPart<NodeId>,
    JsonBody(request): JsonBody<Heartbeat>,
) -> Answer<Json<HeartbeatAnswer>> {
    Ok(Json(api.cluster.heartbeat(node, request).await?))
}

pub(super) async fn hear_owner<M: MetaStore>(
    State(api): Shared<M>,
    JsonBody(request): JsonBody<OwnerHeartbeat>,
) -> Answer<StatusCode> {
    api.cluster.hear_owner(request)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn assignments<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(node): PathPart<NodeId>,
    QueryOf(query): QueryOf<AfterQuery>,
) -> Answer<Json<Assignments>> {
    let wait = super::wait(query.wait_ms, Duration::ZERO);
    let work = async { Ok(api.cluster.assignments(node, query.after, wait).await?) };
    unless_stopping(&api, work).await.map(Json)
}
