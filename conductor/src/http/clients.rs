//! `/v1/clients`: who may attach no volume.

use std::time::Duration;

use ashlar_proto::api::{AllowClient, ClientDenied, DeniedClient, DenyClient, List};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;

use super::extract::{JsonBody, QueryOf};
use super::problem::Answer;
use super::{Shared, unless_stopping};
use crate::meta::MetaStore;

/// How long a denial waits for the replicas unless told otherwise.
const FENCE_WAIT: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DenyQuery {
    wait_ms: Option<u64>,
}

pub(super) async fn denied<M: MetaStore>(State(api): Shared<M>) -> Json<List<DeniedClient>> {
    api.cluster
        .read(|view| super::list(view.state.revision(), view.state.denied()))
}

pub(super) async fn deny<M: MetaStore>(
    State(api): Shared<M>,
    QueryOf(query): QueryOf<DenyQuery>,
    JsonBody(request): JsonBody<DenyClient>,
) -> Answer<Json<ClientDenied>> {
    let wait = super::wait(query.wait_ms, FENCE_WAIT);
    let work = async { Ok(api.cluster.deny(request, wait).await?) };
    unless_stopping(&api, work).await.map(Json)
}

pub(super) async fn allow<M: MetaStore>(
    State(api): Shared<M>,
    JsonBody(request): JsonBody<AllowClient>,
) -> Answer<StatusCode> {
    api.cluster.allow(request).await?;
    Ok(StatusCode::NO_CONTENT)
}
