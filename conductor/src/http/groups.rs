//! `/v1/snapshot-groups`, and what owners say of holds.

use ashlar_proto::api::{
    CreateSnapshotGroup, HoldAnswer, ReportHold, SnapshotGroup, SnapshotState,
};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::extract::{JsonBody, PathPart, QueryOf};
use super::problem::Answer;
use super::snapshots::{OWNER_WAIT, WaitQuery, now_ms};
use super::{Shared, unless_stopping};
use crate::meta::MetaStore;

pub(super) async fn create<M: MetaStore>(
    State(api): Shared<M>,
    QueryOf(query): QueryOf<WaitQuery>,
    JsonBody(request): JsonBody<CreateSnapshotGroup>,
) -> Answer<(StatusCode, Json<SnapshotGroup>)> {
    let wait = super::wait(query.wait_ms, OWNER_WAIT);
    let create = api.cluster.create_group(request, now_ms(), wait);
    let group = unless_stopping(&api, async { Ok(create.await?) }).await?;
    let mut states = group.snapshots.iter().map(|snapshot| snapshot.state);
    let status = match states.all(|state| state == SnapshotState::Ready) {
        true => StatusCode::CREATED,
        false => StatusCode::ACCEPTED,
    };
    Ok((status, Json(group)))
}

pub(super) async fn report_hold<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(volume): PathPart<String>,
    JsonBody(request): JsonBody<ReportHold>,
) -> Answer<Json<HoldAnswer>> {
    let report = api.cluster.report_hold(volume, request);
    unless_stopping(&api, async { Ok(report.await?) })
        .await
        .map(Json)
}
