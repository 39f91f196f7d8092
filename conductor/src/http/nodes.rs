//! `/v1/nodes` and `/v1/disks`.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::NodeId;
use ashlar_proto::api::{
    Assignments, Disk, Heartbeat, HeartbeatAnswer, InventoryPage, List, Node, OwnerHeartbeat,
    RegisterNode, Registered,
};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::extract::{JsonBody, PathPart, QueryOf};
use super::operation::op;
use super::page::LabelledQuery;
use super::peer::Caller;
use super::problem::{Answer, Code};
use super::routes::Routes;
use super::watch::{self, Wanted};
use super::{AfterQuery, Api, Shared, unless_stopping};
use crate::meta::MetaStore;

/// The routes of this file.
pub(super) fn routes<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .get(
            "/v1/nodes",
            list::<M>,
            op("listNodes", "Lists store nodes")
                .query::<LabelledQuery>()
                .answers::<List<Node>>(StatusCode::OK, "a page of them")
                .watched::<Node>(),
        )
        .get(
            "/v1/disks",
            list_disks::<M>,
            op(
                "listDisks",
                "Lists disks with their last report; `prefix` is of their nodes' names, `labels` goes by their own",
            )
            .query::<LabelledQuery>()
            .answers::<List<Disk>>(StatusCode::OK, "a page of them")
            .watched::<Disk>(),
        )
        .with(routes_of_stores())
}

fn routes_of_stores<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .post(
            "/v1/nodes/register",
            register::<M>,
            op(
                "registerNode",
                "A store says that it is there; the same name is the same node",
            )
            .body::<RegisterNode>()
            .gives::<Registered>()
            .refuses(&[Code::NodeNameTaken, Code::DiskElsewhere]),
        )
        .post(
            "/v1/nodes/{id}/heartbeat",
            heartbeat::<M>,
            op(
                "nodeHeartbeat",
                "A store is up, and says how its disks are and whom it sees",
            )
            .part::<NodeId>("id")
            .body::<Heartbeat>()
            .gives::<HeartbeatAnswer>()
            .refuses(&[Code::NodeNotFound, Code::DiskElsewhere]),
        )
        .post(
            "/v1/nodes/{id}/inventory",
            tell_inventory::<M>,
            op(
                "tellInventory",
                "A store says what its disks hold, page by page, when the answer to its heartbeat asks for it",
            )
            .part::<NodeId>("id")
            .body::<InventoryPage>()
            .done("it is noted, or of another check than the present one")
            .refuses(&[Code::NodeNotFound]),
        )
        .get(
            "/v1/nodes/{id}/assignments",
            assignments::<M>,
            op(
                "getAssignments",
                "All that a node must hold, and what it is to repair",
            )
            .part::<NodeId>("id")
            .query::<AfterQuery>()
            .gives::<Assignments>()
            .refuses(&[Code::NodeNotFound]),
        )
        .post(
            "/v1/owners/heartbeat",
            hear_owner::<M>,
            op(
                "ownerHeartbeat",
                "An owner has volumes attached, and says which stores it reaches",
            )
            .body::<OwnerHeartbeat>()
            .done("it is noted"),
        )
}

pub(super) async fn list<M: MetaStore>(
    State(api): Shared<M>,
    wanted: Wanted,
    QueryOf(query): QueryOf<LabelledQuery>,
) -> Answer<Response> {
    watch::list::<Node, M>(&api, query.selection()?, &wanted)
}

pub(super) async fn list_disks<M: MetaStore>(
    State(api): Shared<M>,
    wanted: Wanted,
    QueryOf(query): QueryOf<LabelledQuery>,
) -> Answer<Response> {
    watch::list::<Disk, M>(&api, query.selection()?, &wanted)
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

pub(super) async fn tell_inventory<M: MetaStore>(
    State(api): Shared<M>,
    caller: Caller,
    PathPart(node): PathPart<NodeId>,
    JsonBody(page): JsonBody<InventoryPage>,
) -> Answer<StatusCode> {
    speaks_for(&api, &caller, node)?;
    api.cluster.hear_inventory(node, page)?;
    Ok(StatusCode::NO_CONTENT)
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
