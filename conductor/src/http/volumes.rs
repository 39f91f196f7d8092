//! `/v1/volumes`.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::{
    AskMaps, AttachRequest, Attachment, CreateVolume, DetachRequest, InSyncCommitted, List,
    ProposeInSync, ResizeVolume, VOLUME_KEY_HEADER, Volume, VolumeMap, VolumeMaps, VolumeState,
};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Deserialize;

use super::auth::{AccessCode, Asks};
use super::extract::{JsonBody, PathPart, QueryOf};
use super::operation::op;
use super::page::LabelledQuery;
use super::peer::Caller as Peer;
use super::problem::{Answer, Code, Refused};
use super::routes::Routes;
use super::watch::{self, Wanted};
use super::{AfterQuery, Api, Shared, unless_stopping};
use crate::access::caller::Means;
use crate::access::keys::volume_key_hash;
use crate::access::routes::Need;
use crate::meta::MetaStore;
use crate::refusal::Refusal;
use crate::row::AttachedAs;
use crate::settings::is_of_place;
use crate::state::Attacher;

/// How long create, resize and delete wait for the stores unless told otherwise.
pub(super) const STORES_WAIT: Duration = Duration::from_secs(30);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteQuery {
    /// Though it is attached or mapped in a target, and with its snapshots.
    #[serde(default)]
    force: bool,
    /// How long to wait for its stores: milliseconds, 60000 at most.
    wait_ms: Option<u64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    /// How long to wait until it is done: milliseconds, 60000 at most.
    pub(super) wait_ms: Option<u64>,
}

const OK: StatusCode = StatusCode::OK;
const CREATED: StatusCode = StatusCode::CREATED;
const ACCEPTED: StatusCode = StatusCode::ACCEPTED;

/// The routes of this file.
pub(super) fn routes<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    routes_of_people().with(routes_of_owners())
}

fn routes_of_people<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .get(
            "/v1/volumes",
            list::<M>,
            op("listVolumes", "Lists volumes, without their shards")
                .query::<LabelledQuery>()
                .answers::<List<Volume>>(OK, "a page of them")
                .watched::<Volume>(),
        )
        .post(
            "/v1/volumes",
            create::<M>,
            op("createVolume", "Places and makes a volume")
                .query::<WaitQuery>()
                .body::<CreateVolume>()
                .answers::<Volume>(CREATED, "it is ready")
                .answers::<Volume>(ACCEPTED, "it is still being made")
                .keyed()
                .refuses(&[Code::VolumeExists, Code::VolumeNotFound])
                .refuses(&Code::OF_PLACEMENT),
        )
        .get(
            "/v1/volumes/{name}",
            show::<M>,
            op("getVolume", "One volume, with its shards and replicas")
                .gives::<Volume>()
                .tagged()
                .refuses(&[Code::VolumeNotFound]),
        )
        .delete(
            "/v1/volumes/{name}",
            delete::<M>,
            op("deleteVolume", "Removes its replicas, then the volume")
                .query::<DeleteQuery>()
                .done("it is gone")
                .answers::<Volume>(ACCEPTED, "it is still being removed")
                .keyed()
                .tagged()
                .refuses(&Code::OF_VOLUME)
                .refuses(&[
                    Code::VolumeHasSnapshots,
                    Code::SnapshotHasClones,
                    Code::VolumeMapped,
                ]),
        )
        .post(
            "/v1/volumes/{name}/resize",
            resize::<M>,
            op("resizeVolume", "Gives it another size")
                .query::<WaitQuery>()
                .body::<ResizeVolume>()
                .answers::<Volume>(OK, "it is as large as asked")
                .answers::<Volume>(ACCEPTED, "it still grows")
                .keyed()
                .tagged()
                .refuses(&Code::OF_VOLUME)
                .refuses(&Code::OF_PLACEMENT)
                .refuses(&[
                    Code::VolumeLarger,
                    Code::VolumeUnseen,
                    Code::VolumeHasSnapshots,
                    Code::SnapshotHasClones,
                ]),
        )
}

fn routes_of_owners<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .get(
            "/v1/volumes/{name}/map",
            map::<M>,
            op(
                "getVolumeMap",
                "What the owner of an attached volume follows",
            )
            .query::<AfterQuery>()
            .gives::<VolumeMap>()
            .refuses(&[Code::VolumeNotFound, Code::MetadataRecovering]),
        )
        .post(
            "/v1/maps",
            maps::<M>,
            op(
                "getMaps",
                "The same for all volumes that one process has attached",
            )
            .query::<WaitQuery>()
            .body::<AskMaps>()
            .gives::<VolumeMaps>(),
        )
        .post(
            "/v1/volumes/{name}/attach",
            attach::<M>,
            op("attachVolume", "Grants the next generation to an owner")
                .body::<AttachRequest>()
                .gives::<Attachment>()
                .refuses(&Code::OF_VOLUME)
                .refuses(&[
                    Code::ClientDenied,
                    Code::ServerNotFound,
                    Code::ServerReplaced,
                    Code::Access(AccessCode::VolumeKeyNeeded),
                ]),
        )
        .post(
            "/v1/volumes/{name}/detach",
            detach::<M>,
            op("detachVolume", "Ends the attach of a generation")
                .body::<DetachRequest>()
                .done("it is over")
                .refuses(&Code::OF_VOLUME),
        )
        .post(
            "/v1/volumes/{name}/in-sync",
            in_sync::<M>,
            op("proposeInSync", "Commits a shard's next in-sync set")
                .body::<ProposeInSync>()
                .gives::<InSyncCommitted>()
                .refuses(&Code::OF_VOLUME)
                .refuses(&[Code::StaleEpoch, Code::ShardNotFound, Code::ReplicaGone]),
        )
}

pub(super) async fn list<M: MetaStore>(
    State(api): Shared<M>,
    Asks(caller): Asks,
    wanted: Wanted,
    QueryOf(query): QueryOf<LabelledQuery>,
) -> Answer<Response> {
    watch::list::<Volume, M>(&api, query.selection()?.seen_by(caller), &wanted)
}

pub(super) async fn create<M: MetaStore>(
    State(api): Shared<M>,
    Asks(caller): Asks,
    QueryOf(query): QueryOf<WaitQuery>,
    JsonBody(request): JsonBody<CreateVolume>,
) -> Answer<(StatusCode, Json<Volume>)> {
    // As whoever changes them does; where a volume lies is up to who makes it.
    if !request.settings.keys().all(|name| is_of_place(name)) {
        let may = caller.require(Need::Administer);
        may.and_then(|()| caller.require_whole())
            .map_err(Refusal::from)?;
    }
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
    Asks(caller): Asks,
    peer: Peer,
    headers: HeaderMap,
    PathPart(name): PathPart<String>,
    JsonBody(request): JsonBody<AttachRequest>,
) -> Answer<Json<Attachment>> {
    let key = headers.get(VOLUME_KEY_HEADER);
    let presented = peer.node().ok();
    let shown = AttachedAs {
        node: presented.map(|presented| presented.identity.name.clone()),
        serial: presented.map(|presented| presented.serial.clone()),
        user: matches!(caller.means, Means::Key(_) | Means::Token(_)).then(|| caller.name.clone()),
    };
    let by = Attacher {
        shown: shown.known(),
        is_certified: caller.means == Means::Certificate,
        who: caller.name,
        role: caller.role,
        key: key.and_then(|key| key.to_str().ok()).map(volume_key_hash),
    };
    Ok(Json(api.cluster.attach_by(name, request, by).await?))
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
