//! Clones of snapshots, and what becomes of their origins.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::{CloneSnapshot, FlattenVolume, ReportFlatten, Volume, VolumeState};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use super::extract::{JsonBody, PathPart, QueryOf};
use super::operation::op;
use super::problem::{Answer, Code};
use super::routes::Routes;
use super::{Api, Shared, unless_stopping};
use crate::meta::MetaStore;

/// How long a clone waits for its stores unless told otherwise.
const STORES_WAIT: Duration = Duration::from_secs(30);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    /// How long to wait until it is done: milliseconds, 60000 at most.
    wait_ms: Option<u64>,
}

/// The routes of this file.
pub(super) fn routes<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .post(
            "/v1/volumes/{name}/snapshots/{snapshot}/clone",
            clone::<M>,
            op("cloneSnapshot", "Makes a volume that shows the snapshot")
                .query::<WaitQuery>()
                .body::<CloneSnapshot>()
                .answers::<Volume>(StatusCode::CREATED, "it is ready")
                .answers::<Volume>(StatusCode::ACCEPTED, "it is still being made")
                .keyed()
                .refuses(&Code::OF_VOLUME)
                .refuses(&Code::OF_PLACEMENT)
                .refuses(&[
                    Code::VolumeExists,
                    Code::SnapshotNotFound,
                    Code::SnapshotNotReady,
                    Code::CloneChainTooLong,
                ]),
        )
        .post(
            "/v1/volumes/{name}/flatten",
            flatten::<M>,
            op(
                "flattenVolume",
                "Has its owner copy what it shows of its origin, or stop that",
            )
            .query::<WaitQuery>()
            .body::<FlattenVolume>()
            .answers::<Volume>(StatusCode::OK, "it needs no origin")
            .answers::<Volume>(StatusCode::ACCEPTED, "it is under way")
            .keyed()
            .tagged()
            .refuses(&Code::OF_VOLUME),
        )
        .post(
            "/v1/volumes/{name}/flattened",
            report::<M>,
            op(
                "reportFlatten",
                "An owner says how far it has come with that",
            )
            .body::<ReportFlatten>()
            .done("it is noted")
            .refuses(&Code::OF_VOLUME),
        )
}

pub(super) async fn clone<M: MetaStore>(
    State(api): Shared<M>,
    PathPart((volume, snapshot)): PathPart<(String, String)>,
    QueryOf(query): QueryOf<WaitQuery>,
    JsonBody(request): JsonBody<CloneSnapshot>,
) -> Answer<(StatusCode, Json<Volume>)> {
    let wait = super::wait(query.wait_ms, STORES_WAIT);
    let clone = api.cluster.clone_snapshot(volume, snapshot, request, wait);
    let volume = unless_stopping(&api, async { Ok(clone.await?) }).await?;
    let status = if volume.state == VolumeState::Ready {
        StatusCode::CREATED
    } else {
        StatusCode::ACCEPTED
    };
    Ok((status, Json(volume)))
}

pub(super) async fn flatten<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    QueryOf(query): QueryOf<WaitQuery>,
    JsonBody(request): JsonBody<FlattenVolume>,
) -> Answer<(StatusCode, Json<Volume>)> {
    let wait = super::wait(query.wait_ms, Duration::ZERO);
    let flatten = api.cluster.flatten(name, request, wait);
    let volume = unless_stopping(&api, async { Ok(flatten.await?) }).await?;
    let status = match volume.flattening {
        None => StatusCode::OK,
        Some(_) => StatusCode::ACCEPTED,
    };
    Ok((status, Json(volume)))
}

pub(super) async fn report<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(volume): PathPart<String>,
    JsonBody(request): JsonBody<ReportFlatten>,
) -> Answer<StatusCode> {
    api.cluster.report_flatten(volume, request).await?;
    Ok(StatusCode::NO_CONTENT)
}
