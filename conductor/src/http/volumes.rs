//! `/v1/volumes`.

use std::time::Duration;

use ashlar_proto::api::{
    AskMaps, AttachRequest, Attachment, CreateVolume, DetachRequest, InSyncCommitted,
    ProposeInSync, ResizeVolume, Volume, VolumeMap, VolumeMaps, VolumeState,
};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::auth::Asks;
use super::extract::{JsonBody, PathPart, QueryOf};
use super::problem::{Answer, Refused};
use super::watch::{self, ListQuery};
use super::{AfterQuery, Shared, unless_stopping};
use crate::meta::MetaStore;

/// How long create, resize and delete wait for the stores unless told otherwise.
pub(super) const STORES_WAIT: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteQuery {
    #[serde(default)]
    force: bool,
    wait_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    pub(super) wait_ms: Option<u64>,
}

pub(super) async fn list<M: MetaStore>(
    State(api): Shared<M>,
    Asks(caller): Asks,
    QueryOf(query): QueryOf<ListQuery>,
) -> Answer<Response> {
    if query.watch {
        return watch::volumes(&api, query.after, caller);
    }
    let (revision, mut volumes) = api
        .cluster
        .read(|view| (view.state.revision(), view.state.volumes()));
    volumes.retain(|volume| caller.sees(&volume.name));
    Ok(super::list(revision, volumes).into_response())
}

pub(super) async fn create<M: MetaStore>(
    State(api): Shared<M>,
    QueryOf(query): QueryOf<WaitQuery>,
    JsonBody(request): JsonBody<CreateVolume>,
) -> Answer<(StatusCode, Json<Volume>)> {
    let wait = super::wait(query.wait_ms, STORES_WAIT);
    let work = async { Ok(api.cluster.create(request, wait).await?) };
    let volume = unless_stopping(&api, work).await?;
    let made = volume.state == VolumeState::Ready;
    Ok((
        if made {
            StatusCode::CREATED
        } else {
            StatusCode::ACCEPTED
        },
        Json(volume),
    ))
}

pub(super) async fn show<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
) -> Answer<Json<Volume>> {
    let volume = api.cluster.read(|view| view.state.volume_by_name(&name));
    volume.map(Json).ok_or_else(|| Refused::no_volume(&name))
}

pub(super) async fn map<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    QueryOf(query): QueryOf<AfterQuery>,
) -> Answer<Json<VolumeMap>> {
    let wait = super::wait(query.wait_ms, Duration::ZERO);
    let work = async { Ok(api.cluster.map(name, query.after, wait).await?) };
    unless_stopping(&api, work).await.map(Json)
}

pub(super) async fn maps<M: MetaStore>(
    State(api): Shared<M>,
    QueryOf(query): QueryOf<WaitQuery>,
    JsonBody(request): JsonBody<AskMaps>,
) -> Answer<Json<VolumeMaps>> {
    let wait = super::wait(query.wait_ms, Duration::ZERO);
    let work = async { Ok(api.cluster.maps(request, wait).await?) };
    unless_stopping(&api, work).await.map(Json)
}

pub(super) async fn delete<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    QueryOf(query): QueryOf<DeleteQuery>,
) -> Answer<Response> {
    let wait = super::wait(query.wait_ms, STORES_WAIT);
    let work = async { Ok(api.cluster.delete(name, query.force, wait).await?) };
    match unless_stopping(&api, work).await? {
        None => Ok(StatusCode::NO_CONTENT.into_response()),
        Some(volume) => Ok((StatusCode::ACCEPTED, Json(volume)).into_response()),
    }
}

pub(super) async fn resize<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    QueryOf(query): QueryOf<WaitQuery>,
    JsonBody(request): JsonBody<ResizeVolume>,
) -> Answer<(StatusCode, Json<Volume>)> {
    let wait = super::wait(query.wait_ms, STORES_WAIT);
    let work = async { Ok(api.cluster.resize(name, request, wait).await?) };
    let volume = unless_stopping(&api, work).await?;
    let status = match volume.grows_to {
        None => StatusCode::OK,
        Some(_) => StatusCode::ACCEPTED,
    };
    Ok((status, Json(volume)))
}

pub(super) async fn attach<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    JsonBody(request): JsonBody<AttachRequest>,
) -> Answer<Json<Attachment>> {
    Ok(Json(api.cluster.attach(name, request).await?))
}

pub(super) async fn detach<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    JsonBody(request): JsonBody<DetachRequest>,
) -> Answer<StatusCode> {
    api.cluster.detach(name, request).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn in_sync<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    JsonBody(request): JsonBody<ProposeInSync>,
) -> Answer<Json<InSyncCommitted>> {
    Ok(Json(api.cluster.propose(name, request).await?))
}
