//! `/v1/rebalance`.

use ashlar_proto::api::{Rebalance, RebalancePlan, SetRebalance};
use axum::Json;
use axum::extract::State;

use super::Shared;
use super::extract::JsonBody;
use super::problem::Answer;
use crate::meta::MetaStore;

pub(super) async fn show<M: MetaStore>(State(api): Shared<M>) -> Json<Rebalance> {
    let shown = api
        .cluster
        .read(|view| view.state.show_rebalance(&view.live));
    Json(shown)
}

pub(super) async fn plan<M: MetaStore>(State(api): Shared<M>) -> Json<RebalancePlan> {
    let plan = api
        .cluster
        .read(|view| view.state.show_rebalance_plan(&view.live));
    Json(plan)
}

pub(super) async fn pause<M: MetaStore>(
    State(api): Shared<M>,
    JsonBody(SetRebalance {}): JsonBody<SetRebalance>,
) -> Answer<Json<Rebalance>> {
    Ok(Json(api.cluster.pause_rebalance(true).await?))
}

pub(super) async fn resume<M: MetaStore>(
    State(api): Shared<M>,
    JsonBody(SetRebalance {}): JsonBody<SetRebalance>,
) -> Answer<Json<Rebalance>> {
    Ok(Json(api.cluster.pause_rebalance(false).await?))
}
