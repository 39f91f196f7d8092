//! `/v1/targets`, `/v1/iscsi`, and the persistent reservations of volumes.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::{
    AllowInitiator, ClearChap, CreateTarget, DiscoveryChap, List, MapUnit, RemoveInitiator,
    ReplaceReservations, ServedTargets, SetAcl, SetChap, Target, VolumeReservations,
};
use ashlar_proto::{IscsiName, Lun};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::extract::{JsonBody, PathPart, QueryOf};
use super::operation::op;
use super::page::NamedQuery;
use super::problem::{Answer, Code};
use super::routes::Routes;
use super::watch::{self, Wanted};
use super::{AfterQuery, Api, Shared, unless_stopping};
use crate::meta::MetaStore;
use crate::refusal::Refusal;

/// The routes of this file.
pub(super) fn routes<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    routes_of_targets()
        .with(routes_of_units())
        .with(routes_of_logins())
        .with(routes_of_discovery())
        .with(routes_of_reservations())
}

fn routes_of_targets<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .get(
            "/v1/targets",
            list::<M>,
            op(
                "listTargets",
                "Lists the iSCSI targets, without their secrets",
            )
            .query::<NamedQuery>()
            .answers::<List<Target>>(StatusCode::OK, "a page of them")
            .watched::<Target>(),
        )
        .post(
            "/v1/targets",
            create::<M>,
            op("createTarget", "Makes an iSCSI target")
                .body::<CreateTarget>()
                .answers::<Target>(StatusCode::CREATED, "it is there")
                .keyed()
                .refuses(&[Code::TargetExists, Code::TargetNotFound]),
        )
        .get(
            "/v1/targets/{name}",
            show::<M>,
            op("getTarget", "One of them")
                .part::<IscsiName>("name")
                .gives::<Target>()
                .tagged()
                .refuses(&[Code::TargetNotFound]),
        )
        .delete(
            "/v1/targets/{name}",
            remove::<M>,
            op("deleteTarget", "Deletes it; its volumes stay")
                .part::<IscsiName>("name")
                .done("it is gone")
                .keyed()
                .tagged()
                .refuses(&[Code::TargetNotFound]),
        )
}

fn routes_of_units<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .post(
            "/v1/targets/{name}/units",
            map::<M>,
            op("mapUnit", "Offers a volume")
                .part::<IscsiName>("name")
                .body::<MapUnit>()
                .gives::<Target>()
                .keyed()
                .tagged()
                .refuses(&[
                    Code::TargetNotFound,
                    Code::VolumeNotFound,
                    Code::VolumeNotReady,
                    Code::LunTaken,
                    Code::VolumeInTarget,
                ]),
        )
        .delete(
            "/v1/targets/{name}/units/{lun}",
            unmap::<M>,
            op("unmapUnit", "Offers a number no more")
                .part::<IscsiName>("name")
                .part::<Lun>("lun")
                .gives::<Target>()
                .keyed()
                .tagged()
                .refuses(&[Code::TargetNotFound, Code::UnitNotFound]),
        )
        .get(
            "/v1/iscsi/targets",
            served::<M>,
            op(
                "getServedTargets",
                "All targets with their secrets, and all iSCSI servers",
            )
            .query::<AfterQuery>()
            .gives::<ServedTargets>(),
        )
}

fn routes_of_logins<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .put(
            "/v1/targets/{name}/acl",
            set_acl::<M>,
            op("setAcl", "Says who may log in, and nobody else")
                .part::<IscsiName>("name")
                .body::<SetAcl>()
                .gives::<Target>()
                .keyed()
                .replaces()
                .refuses(&[Code::TargetNotFound]),
        )
        .post(
            "/v1/targets/{name}/acl/allow",
            allow::<M>,
            op("allowInitiator", "Lets an initiator log in as well")
                .part::<IscsiName>("name")
                .body::<AllowInitiator>()
                .gives::<Target>()
                .keyed()
                .tagged()
                .refuses(&[Code::TargetNotFound]),
        )
        .post(
            "/v1/targets/{name}/acl/remove",
            disallow::<M>,
            op("removeInitiator", "Takes that back")
                .part::<IscsiName>("name")
                .body::<RemoveInitiator>()
                .gives::<Target>()
                .keyed()
                .tagged()
                .refuses(&[Code::TargetNotFound, Code::InitiatorNotFound]),
        )
        .post(
            "/v1/targets/{name}/chap/set",
            set_chap::<M>,
            op(
                "setChap",
                "Gives initiators, or the target, a secret of CHAP",
            )
            .part::<IscsiName>("name")
            .body::<SetChap>()
            .gives::<Target>()
            .keyed()
            .tagged()
            .refuses(&[Code::TargetNotFound, Code::SecretReused]),
        )
        .post(
            "/v1/targets/{name}/chap/clear",
            clear_chap::<M>,
            op("clearChap", "Takes secrets back")
                .part::<IscsiName>("name")
                .body::<ClearChap>()
                .gives::<Target>()
                .keyed()
                .tagged()
                .refuses(&[Code::TargetNotFound, Code::ChapNotFound]),
        )
}

fn routes_of_discovery<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .get(
            "/v1/iscsi/discovery",
            discovery::<M>,
            op(
                "getDiscovery",
                "What discovery asks initiators for, without the secrets",
            )
            .gives::<DiscoveryChap>()
            .tagged(),
        )
        .post(
            "/v1/iscsi/discovery/chap/set",
            set_discovery_chap::<M>,
            op(
                "setDiscoveryChap",
                "Gives initiators a secret for discovery, or servers one to show",
            )
            .body::<SetChap>()
            .gives::<DiscoveryChap>()
            .keyed()
            .tagged()
            .refuses(&[Code::SecretReused]),
        )
        .post(
            "/v1/iscsi/discovery/chap/clear",
            clear_discovery_chap::<M>,
            op("clearDiscoveryChap", "Takes secrets of discovery back")
                .body::<ClearChap>()
                .gives::<DiscoveryChap>()
                .keyed()
                .tagged()
                .refuses(&[Code::ChapNotFound]),
        )
}

fn routes_of_reservations<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .get(
            "/v1/volumes/{name}/reservations",
            reservations::<M>,
            op(
                "getReservations",
                "The persistent reservations of a volume, with their version",
            )
            .gives::<VolumeReservations>()
            .refuses(&[Code::VolumeNotFound]),
        )
        .put(
            "/v1/volumes/{name}/reservations",
            replace_reservations::<M>,
            op(
                "replaceReservations",
                "Replaces them if they are of the version that was seen",
            )
            .body::<ReplaceReservations>()
            .gives::<VolumeReservations>()
            .keyed()
            .refuses(&Code::OF_VOLUME)
            .refuses(&[Code::ReservationsChanged]),
        )
}

async fn list<M: MetaStore>(
    State(api): Shared<M>,
    wanted: Wanted,
    QueryOf(query): QueryOf<NamedQuery>,
) -> Answer<Response> {
    watch::list::<Target, M>(&api, query.selection(), &wanted)
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
