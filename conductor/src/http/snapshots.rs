//! `/v1/snapshots`, and the snapshots and layers of a volume.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ashlar_proto::api::{
    CreateSnapshot, List, ReportLayers, RollbackVolume, Snapshot, SnapshotMap, SnapshotState,
    Volume,
};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use schemars::JsonSchema;
use serde::Deserialize;

use super::auth::{AccessCode, Asks};
use super::extract::{JsonBody, PathPart, QueryOf};
use super::operation::op;
use super::page::{Selection, SnapshotsQuery};
use super::problem::{Answer, Code, Refused};
use super::routes::Routes;
use super::watch::{self, Wanted};
use super::{Api, Shared, unless_stopping};
use crate::meta::MetaStore;
use crate::refusal::Refusal;

/// How long create and rollback wait for an owner unless told otherwise.
pub(super) const OWNER_WAIT: Duration = Duration::from_secs(30);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteQuery {
    /// One with clones is out of sight at once, and goes with the last of them.
    #[serde(default)]
    when_unused: bool,
    /// How long to wait until all in-sync replicas go by it: milliseconds, 60000 at most.
    wait_ms: Option<u64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    /// How long to wait until it is done: milliseconds, 60000 at most.
    pub(super) wait_ms: Option<u64>,
}

/// The routes of this file.
pub(super) fn routes<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    routes_of_lists().with(routes_of_one())
}

fn routes_of_lists<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .get(
            "/v1/snapshots",
            list_all::<M>,
            op(
                "listSnapshots",
                "Lists the snapshots of all volumes, or of one",
            )
            .query::<SnapshotsQuery>()
            .answers::<List<Snapshot>>(StatusCode::OK, "a page of them")
            .watched::<Snapshot>()
            .refuses(&[Code::VolumeNotFound]),
        )
        .get(
            "/v1/volumes/{name}/snapshots",
            list::<M>,
            op(
                "listSnapshotsOfVolume",
                "Lists those of one volume, by layer",
            )
            .query::<SnapshotsQuery>()
            .answers::<List<Snapshot>>(StatusCode::OK, "a page of them")
            .watched::<Snapshot>()
            .refuses(&[Code::VolumeNotFound]),
        )
        .post(
            "/v1/volumes/{name}/snapshots",
            create::<M>,
            op(
                "createSnapshot",
                "Keeps the volume as it is now under a name",
            )
            .query::<WaitQuery>()
            .body::<CreateSnapshot>()
            .answers::<Snapshot>(StatusCode::CREATED, "it is ready")
            .answers::<Snapshot>(
                StatusCode::ACCEPTED,
                "its last writes are still on their way",
            )
            .keyed()
            .tagged()
            .refuses(&Code::OF_VOLUME)
            .refuses(&[
                Code::SnapshotExists,
                Code::SnapshotNotFound,
                Code::TooManySnapshots,
                Code::LayersExhausted,
            ]),
        )
        .post(
            "/v1/volumes/{name}/layers",
            report::<M>,
            op(
                "reportLayers",
                "An owner says how far it has brought its replicas",
            )
            .body::<ReportLayers>()
            .done("it is noted")
            .refuses(&Code::OF_VOLUME),
        )
}

fn routes_of_one<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .get(
            "/v1/volumes/{name}/snapshots/{snapshot}",
            show::<M>,
            op("getSnapshot", "One snapshot")
                .gives::<Snapshot>()
                .tagged()
                .refuses(&[Code::VolumeNotFound, Code::SnapshotNotFound]),
        )
        .delete(
            "/v1/volumes/{name}/snapshots/{snapshot}",
            delete::<M>,
            op("deleteSnapshot", "Deletes a snapshot")
                .query::<DeleteQuery>()
                .done("it is deleted, whether the wait was long enough or not")
                .keyed()
                .tagged()
                .refuses(&Code::OF_VOLUME)
                .refuses(&[Code::SnapshotNotFound, Code::SnapshotHasClones]),
        )
        .get(
            "/v1/volumes/{name}/snapshots/{snapshot}/map",
            map::<M>,
            op("getSnapshotMap", "What a reader of a snapshot needs")
                .gives::<SnapshotMap>()
                .refuses(&[
                    Code::VolumeNotFound,
                    Code::SnapshotNotFound,
                    Code::Access(AccessCode::VolumeKeyNeeded),
                ]),
        )
        .post(
            "/v1/volumes/{name}/snapshots/{snapshot}/rollback",
            rollback::<M>,
            op("rollBack", "Makes the volume what it was at the snapshot")
                .query::<WaitQuery>()
                .body::<RollbackVolume>()
                .answers::<Volume>(StatusCode::OK, "all in-sync replicas go by it")
                .answers::<Volume>(StatusCode::ACCEPTED, "not all do yet")
                .keyed()
                .tagged()
                .refuses(&Code::OF_VOLUME)
                .refuses(&[
                    Code::SnapshotNotFound,
                    Code::SnapshotNotReady,
                    Code::SnapshotNotNewest,
                    Code::SnapshotHasClones,
                    Code::LayersExhausted,
                ]),
        )
}

pub(super) async fn list_all<M: MetaStore>(
    State(api): Shared<M>,
    Asks(caller): Asks,
    wanted: Wanted,
    QueryOf(query): QueryOf<SnapshotsQuery>,
) -> Answer<Response> {
    let selection = query.selection(None);
    if let Some(volume) = &selection.filter.volume {
        // Whether there is one in a project of others is none of its business.
        caller.require_volume(volume).map_err(Refusal::from)?;
    }
    selected(&api, selection.seen_by(caller), &wanted)
}

pub(super) async fn list<M: MetaStore>(
    State(api): Shared<M>,
    Asks(caller): Asks,
    wanted: Wanted,
    PathPart(volume): PathPart<String>,
    QueryOf(query): QueryOf<SnapshotsQuery>,
) -> Answer<Response> {
    selected(&api, query.selection(Some(volume)).seen_by(caller), &wanted)
}

fn selected<M: MetaStore>(
    api: &Arc<Api<M>>,
    selection: Selection,
    wanted: &Wanted,
) -> Answer<Response> {
    selection.require_volume().map_err(Refusal::from)?;
    if let Some(volume) = &selection.filter.volume {
        let id = api.cluster.read(|view| view.state.id_of(volume));
        id.ok_or_else(|| Refused::no_volume(volume))?;
    }
    watch::list::<Snapshot, M>(api, selection, wanted)
}

pub(super) async fn create<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(volume): PathPart<String>,
    QueryOf(query): QueryOf<WaitQuery>,
    JsonBody(request): JsonBody<CreateSnapshot>,
) -> Answer<(StatusCode, Json<Snapshot>)> {
    let wait = super::wait(query.wait_ms, OWNER_WAIT);
    let create = api.cluster.create_snapshot(volume, request, now_ms(), wait);
    let snapshot = unless_stopping(&api, async { Ok(create.await?) }).await?;
    let status = match snapshot.state {
        SnapshotState::Ready => StatusCode::CREATED,
        SnapshotState::Sealing => StatusCode::ACCEPTED,
    };
    Ok((status, Json(snapshot)))
}

pub(super) async fn show<M: MetaStore>(
    State(api): Shared<M>,
    PathPart((volume, snapshot)): PathPart<(String, String)>,
) -> Answer<Json<Snapshot>> {
    Ok(Json(api.cluster.snapshot(&volume, &snapshot)?))
}

pub(super) async fn map<M: MetaStore>(
    State(api): Shared<M>,
    PathPart((volume, snapshot)): PathPart<(String, String)>,
) -> Answer<Json<SnapshotMap>> {
    Ok(Json(api.cluster.snapshot_map(&volume, &snapshot)?))
}

pub(super) async fn delete<M: MetaStore>(
    State(api): Shared<M>,
    PathPart((volume, snapshot)): PathPart<(String, String)>,
    QueryOf(query): QueryOf<DeleteQuery>,
) -> Answer<StatusCode> {
    let wait = super::wait(query.wait_ms, Duration::ZERO);
    let unused = query.when_unused;
    let delete = api.cluster.delete_snapshot(volume, snapshot, unused, wait);
    unless_stopping(&api, async { Ok(delete.await?) }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn rollback<M: MetaStore>(
    State(api): Shared<M>,
    PathPart((volume, snapshot)): PathPart<(String, String)>,
    QueryOf(query): QueryOf<WaitQuery>,
    JsonBody(request): JsonBody<RollbackVolume>,
) -> Answer<(StatusCode, Json<Volume>)> {
    let wait = super::wait(query.wait_ms, OWNER_WAIT);
    let rollback = api.cluster.rollback(volume, snapshot, request, wait);
    let volume = unless_stopping(&api, async { Ok(rollback.await?) }).await?;
    let is_applied = volume.layers_applied >= volume.layers.version;
    let status = if is_applied {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    Ok((status, Json(volume)))
}

pub(super) async fn report<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(volume): PathPart<String>,
    JsonBody(request): JsonBody<ReportLayers>,
) -> Answer<StatusCode> {
    api.cluster.report_layers(volume, request).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Milliseconds since 1970-01-01 UTC; 0 where the clock says that it is earlier.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
