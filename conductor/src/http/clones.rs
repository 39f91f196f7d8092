//! Clones of snapshots, and what becomes of their origins.

use std::time::Duration;

use ashlar_proto::api::{CloneSnapshot, FlattenVolume, ReportFlatten, Volume, VolumeState};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;

use super::extract::{JsonBody, PathPart, QueryOf};
use super::problem::Answer;
use super::{Shared, unless_stopping};
use crate::meta::MetaStore;

/// How long a clone waits for its stores unless told otherwise.
const STORES_WAIT: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    wait_ms: Option<u64>,
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
