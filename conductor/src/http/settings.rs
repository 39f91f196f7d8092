//! `/v1/config`, and where a volume would lie by its settings: `/v1/placement:explain`.

use ashlar_proto::api::{ChangeSettings, CreateVolume, ExplainedPlacement, Settings};
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use std::sync::Arc;

use super::extract::{JsonBody, QueryOf};
use super::problem::Answer;
use super::{Api, Shared};
use crate::meta::MetaStore;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfVolume {
    volume: Option<String>,
}

/// The routes.
pub(super) fn routes<M: MetaStore>() -> Router<Arc<Api<M>>> {
    Router::new()
        .route("/v1/config", get(show::<M>).post(change::<M>))
        .route("/v1/placement:explain", post(explain::<M>))
}

async fn explain<M: MetaStore>(
    State(api): Shared<M>,
    JsonBody(request): JsonBody<CreateVolume>,
) -> Answer<Json<ExplainedPlacement>> {
    Ok(Json(api.cluster.explain(&request)?))
}

async fn show<M: MetaStore>(
    State(api): Shared<M>,
    QueryOf(query): QueryOf<OfVolume>,
) -> Answer<Json<Settings>> {
    Ok(Json(api.cluster.settings(query.volume.as_deref())?))
}

async fn change<M: MetaStore>(
    State(api): Shared<M>,
    JsonBody(request): JsonBody<ChangeSettings>,
) -> Answer<Json<Settings>> {
    Ok(Json(api.cluster.change_settings(request).await?))
}
