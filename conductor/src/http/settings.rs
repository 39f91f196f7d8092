//! `/v1/config`, `/v1/config/pools`, and where a volume would lie by its settings: `/v1/placement:explain`.

use ashlar_proto::api::{
    ChangePoolSettings, ChangeSettings, CreateVolume, ExplainedPlacement, List, PoolSettings,
    Settings,
};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

use super::extract::{JsonBody, PathPart, QueryOf};
use super::operation::op;
use super::problem::{Answer, Code};
use super::routes::Routes;
use super::{Api, Shared};
use crate::meta::MetaStore;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OfVolume {
    volume: Option<String>,
}

/// The routes.
pub(super) fn routes<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .get(
            "/v1/config",
            show::<M>,
            op(
                "getSettings",
                "The settings of the cluster, or of a volume, and where each comes from",
            )
            .query::<OfVolume>()
            .gives::<Settings>()
            .refuses(&[Code::VolumeNotFound]),
        )
        .post(
            "/v1/config",
            change::<M>,
            op(
                "changeSettings",
                "Changes settings of the cluster or of a volume",
            )
            .body::<ChangeSettings>()
            .gives::<Settings>()
            .keyed()
            .refuses(&[Code::VolumeNotFound]),
        )
        .get(
            "/v1/config/pools",
            pools::<M>,
            op(
                "listPools",
                "Lists the pools that have settings or volumes, and what is set for each",
            )
            .gives::<List<PoolSettings>>(),
        )
        .get(
            "/v1/config/pools/{pool}",
            show_pool::<M>,
            op(
                "getPoolSettings",
                "The settings of a pool, and where each comes from; it is named by its labels: NAME=VALUE, with \
                 commas between, in any order",
            )
            .gives::<Settings>()
            .tagged()
            .refuses(&[Code::Invalid]),
        )
        .post(
            "/v1/config/pools/{pool}",
            change_pool::<M>,
            op("changePoolSettings", "Changes settings of a pool")
                .body::<ChangePoolSettings>()
                .gives::<Settings>()
                .keyed()
                .tagged(),
        )
        .post(
            "/v1/placement:explain",
            explain::<M>,
            op(
                "explainPlacement",
                "Where a volume would lie, and why elsewhere not",
            )
            .body::<CreateVolume>()
            .gives::<ExplainedPlacement>()
            .refuses(&[Code::VolumeNotFound, Code::VolumeExists])
            .refuses(&Code::OF_PLACEMENT),
        )
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

async fn pools<M: MetaStore>(State(api): Shared<M>) -> Json<List<PoolSettings>> {
    api.cluster
        .read(|view| super::list(view.state.revision(), view.state.show_pools()))
}

async fn show_pool<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(pool): PathPart<String>,
) -> Answer<Json<Settings>> {
    Ok(Json(api.cluster.pool_settings(&pool)?))
}

async fn change_pool<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(pool): PathPart<String>,
    JsonBody(request): JsonBody<ChangePoolSettings>,
) -> Answer<Json<Settings>> {
    Ok(Json(api.cluster.change_pool_settings(pool, request).await?))
}
