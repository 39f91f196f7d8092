//! `/v1/snapshot-groups`, and what owners say of holds.

use std::sync::Arc;

use ashlar_proto::api::{
    CreateSnapshotGroup, HoldAnswer, ReportHold, SnapshotGroup, SnapshotState,
};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::extract::{JsonBody, PathPart, QueryOf};
use super::operation::op;
use super::problem::{Answer, Code};
use super::routes::Routes;
use super::snapshots::{OWNER_WAIT, WaitQuery, now_ms};
use super::{Api, Shared, unless_stopping};
use crate::meta::MetaStore;

/// The routes of this file.
pub(super) fn routes<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .post(
            "/v1/snapshot-groups",
            create::<M>,
            op(
                "createSnapshotGroup",
                "Keeps some volumes as they are at one moment",
            )
            .query::<WaitQuery>()
            .body::<CreateSnapshotGroup>()
            .answers::<SnapshotGroup>(StatusCode::CREATED, "all are ready")
            .answers::<SnapshotGroup>(StatusCode::ACCEPTED, "some are still sealing")
            .keyed()
            .refuses(&Code::OF_VOLUME)
            .refuses(&[
                Code::SnapshotExists,
                Code::SnapshotNotFound,
                Code::TooManySnapshots,
                Code::LayersExhausted,
                Code::GroupNotHeld,
                Code::GroupFailed,
                Code::GroupOver,
            ]),
        )
        .post(
            "/v1/volumes/{name}/hold",
            report_hold::<M>,
            op(
                "reportHold",
                "An owner says that it holds back writes, or whether it did",
            )
            .body::<ReportHold>()
            .gives::<HoldAnswer>()
            .refuses(&Code::OF_VOLUME)
            .refuses(&[Code::GroupOver]),
        )
}

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
