//! `/v1/targets`, `/v1/iscsi`, and the persistent reservations of volumes.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::{
    AllowInitiator, ClearChap, CreateTarget, DiscoveryChap, List, MapUnit, RemoveInitiator,
    ReplaceReservations, ServedTargets, SetAcl, SetChap, Target, VolumeReservations,
};
use ashlar_proto::{IscsiName, Lun};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};

use super::extract::{JsonBody, PathPart, QueryOf};
use super::problem::Answer;
use super::{AfterQuery, Api, Shared, unless_stopping};
use crate::meta::MetaStore;
use crate::refusal::Refusal;

/// The routes of this file.
pub(super) fn routes<M: MetaStore>() -> Router<Arc<Api<M>>> {
    Router::new()
        .route("/v1/targets", get(list::<M>).post(create::<M>))
        .route("/v1/targets/{name}", get(show::<M>).delete(remove::<M>))
        .route("/v1/targets/{name}/units", post(map::<M>))
        .route("/v1/targets/{name}/units/{lun}", delete(unmap::<M>))
        .route("/v1/targets/{name}/acl", put(set_acl::<M>))
        .route("/v1/targets/{name}/acl/allow", post(allow::<M>))
        .route("/v1/targets/{name}/acl/remove", post(disallow::<M>))
        .route("/v1/targets/{name}/chap/set", post(set_chap::<M>))
        .route("/v1/targets/{name}/chap/clear", post(clear_chap::<M>))
        .route("/v1/iscsi/targets", get(served::<M>))
        .route("/v1/iscsi/discovery", get(discovery::<M>))
        .route(
            "/v1/iscsi/discovery/chap/set",
            post(set_discovery_chap::<M>),
        )
        .route(
            "/v1/iscsi/discovery/chap/clear",
            post(clear_discovery_chap::<M>),
        )
        .route(
            "/v1/volumes/{name}/reservations",
            get(reservations::<M>).put(replace_reservations::<M>),
        )
}

async fn list<M: MetaStore>(State(api): Shared<M>) -> Json<List<Target>> {
    api.cluster
        .read(|view| super::list(view.state.revision(), view.state.targets()))
}

async fn create<M: MetaStore>(
    State(api): Shared<M>,
    JsonBody(request): JsonBody<CreateTarget>,
) -> Answer<(StatusCode, Json<Target>)> {
    let made = api
        .cluster
        .change_target(move |state| state.plan_target_create(&request));
    Ok((StatusCode::CREATED, Json(made.await?)))
}

async fn show<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<IscsiName>,
) -> Answer<Json<Target>> {
    let target = api.cluster.read(|view| view.state.target(&name));
    Ok(Json(target.map_err(Refusal::from)?))
}

async fn remove<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<IscsiName>,
) -> Answer<StatusCode> {
    api.cluster.delete_target(name).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn map<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<IscsiName>,
    JsonBody(request): JsonBody<MapUnit>,
) -> Answer<Json<Target>> {
    let changed = api
        .cluster
        .change_target(move |state| state.plan_map_unit(&name, &request));
    Ok(Json(changed.await?))
}

async fn unmap<M: MetaStore>(
    State(api): Shared<M>,
    PathPart((name, lun)): PathPart<(IscsiName, Lun)>,
) -> Answer<Json<Target>> {
    let changed = api
        .cluster
        .change_target(move |state| state.plan_unmap_unit(&name, lun));
    Ok(Json(changed.await?))
}

async fn set_acl<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<IscsiName>,
    JsonBody(request): JsonBody<SetAcl>,
) -> Answer<Json<Target>> {
    let changed = api
        .cluster
        .change_target(move |state| state.plan_set_acl(&name, &request));
    Ok(Json(changed.await?))
}

async fn allow<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<IscsiName>,
    JsonBody(request): JsonBody<AllowInitiator>,
) -> Answer<Json<Target>> {
    let changed = api
        .cluster
        .change_target(move |state| state.plan_allow_initiator(&name, &request.initiator));
    Ok(Json(changed.await?))
}

async fn disallow<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<IscsiName>,
    JsonBody(request): JsonBody<RemoveInitiator>,
) -> Answer<Json<Target>> {
    let changed = api
        .cluster
        .change_target(move |state| state.plan_remove_initiator(&name, &request.initiator));
    Ok(Json(changed.await?))
}

async fn set_chap<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<IscsiName>,
    JsonBody(request): JsonBody<SetChap>,
) -> Answer<Json<Target>> {
    let changed = api
        .cluster
        .change_target(move |state| state.plan_set_chap(&name, &request));
    Ok(Json(changed.await?))
}

async fn clear_chap<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<IscsiName>,
    JsonBody(request): JsonBody<ClearChap>,
) -> Answer<Json<Target>> {
    let changed = api
        .cluster
        .change_target(move |state| state.plan_clear_chap(&name, &request));
    Ok(Json(changed.await?))
}

async fn discovery<M: MetaStore>(State(api): Shared<M>) -> Json<DiscoveryChap> {
    Json(api.cluster.read(|view| view.state.discovery_chap()))
}

async fn set_discovery_chap<M: MetaStore>(
    State(api): Shared<M>,
    JsonBody(request): JsonBody<SetChap>,
) -> Answer<Json<DiscoveryChap>> {
    let changed = api
        .cluster
        .change_discovery(move |state| state.plan_set_discovery_chap(&request));
    Ok(Json(changed.await?))
}

async fn clear_discovery_chap<M: MetaStore>(
    State(api): Shared<M>,
    JsonBody(request): JsonBody<ClearChap>,
) -> Answer<Json<DiscoveryChap>> {
    let changed = api
        .cluster
        .change_discovery(move |state| state.plan_clear_discovery_chap(&request));
    Ok(Json(changed.await?))
}

async fn served<M: MetaStore>(
    State(api): Shared<M>,
    QueryOf(query): QueryOf<AfterQuery>,
) -> Answer<Json<ServedTargets>> {
    let wait = super::wait(query.wait_ms, Duration::ZERO);
    let work = async { Ok(api.cluster.served_targets(query.after, wait).await) };
    unless_stopping(&api, work).await.map(Json)
}

async fn reservations<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
) -> Answer<Json<VolumeReservations>> {
    let shown = api.cluster.read(|view| view.state.reservations_of(&name));
    Ok(Json(shown.map_err(Refusal::from)?))
}

async fn replace_reservations<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    JsonBody(request): JsonBody<ReplaceReservations>,
) -> Answer<Json<VolumeReservations>> {
    Ok(Json(api.cluster.replace_reservations(name, request).await?))
}
