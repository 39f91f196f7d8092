//! `/v1/snapshots`, and the snapshots and layers of a volume.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ashlar_proto::api::{
    CreateSnapshot, List, ReportLayers, RollbackVolume, Snapshot, SnapshotMap, SnapshotState,
    Volume,
};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;

use super::auth::Asks;
use super::extract::{JsonBody, PathPart, QueryOf};
use super::problem::Answer;
use super::{Shared, unless_stopping};
use crate::meta::MetaStore;

/// How long create and rollback wait for an owner unless told otherwise.
pub(super) const OWNER_WAIT: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfVolumeQuery {
    volume: Option<String>,
    /// Those too that are deleted and wait for their clones to go.
    #[serde(default)]
    deleted: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeletedQuery {
    #[serde(default)]
    deleted: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteQuery {
    /// One with clones is out of sight at once, and goes with the last of them.
    #[serde(default)]
    when_unused: bool,
    wait_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    pub(super) wait_ms: Option<u64>,
}

pub(super) async fn list_all<M: MetaStore>(
    State(api): Shared<M>,
    Asks(caller): Asks,
    QueryOf(query): QueryOf<OfVolumeQuery>,
) -> Answer<Json<List<Snapshot>>> {
    let answer = api.cluster.read(|view| {
        let mut items = match &query.volume {
            Some(volume) => view.state.snapshots_of(volume, query.deleted)?,
            None => view.state.snapshots(query.deleted),
        };
        items.retain(|snapshot| caller.sees(&snapshot.volume_name));
        Ok::<_, crate::refusal::Refusal>(super::list(view.state.revision(), items))
    });
    Ok(answer?)
}

pub(super) async fn list<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(volume): PathPart<String>,
    asks: Asks,
    QueryOf(query): QueryOf<DeletedQuery>,
) -> Answer<Json<List<Snapshot>>> {
    let query = OfVolumeQuery {
        volume: Some(volume),
        deleted: query.deleted,
    };
    list_all(State(api), asks, QueryOf(query)).await
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
