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
use super::peer::Caller;
use super::problem::Answer;
use super::watch::{self, ListQuery};
use super::{AfterQuery, Api, Shared, unless_stopping};
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
    caller: Caller,
    JsonBody(request): JsonBody<RegisterNode>,
) -> Answer<Json<Registered>> {
    caller.may_speak_for(&request.name)?;
    Ok(Json(api.cluster.register(request).await?))
}

pub(super) async fn heartbeat<M: MetaStore>(
    State(api): Shared<M>,
    caller: Caller,
    PathPart(node): PathPart<NodeId>,
    JsonBody(request): JsonBody<Heartbeat>,
) -> Answer<Json<HeartbeatAnswer>> {
    speaks_for(&api, &caller, node)?;
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
    caller: Caller,
    PathPart(node): PathPart<NodeId>,
    QueryOf(query): QueryOf<AfterQuery>,
) -> Answer<Json<Assignments>> {
    speaks_for(&api, &caller, node)?;
    let wait = super::wait(query.wait_ms, Duration::ZERO);
    let work = async { Ok(api.cluster.assignments(node, query.after, wait).await?) };
    unless_stopping(&api, work).await.map(Json)
}

/// Refuses who speaks for a node that it is not. Of a node that nobody knows nothing is kept.
fn speaks_for<M: MetaStore>(api: &Api<M>, caller: &Caller, node: NodeId) -> Answer<()> {
    let name = api.cluster.read(|view| view.state.name_of_node(node));
    name.map_or(Ok(()), |name| caller.may_speak_for(&name))
}
