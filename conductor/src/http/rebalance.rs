//! `/v1/rebalance`.

use std::sync::Arc;

use ashlar_proto::api::{Rebalance, RebalancePlan, SetRebalance};
use axum::Json;
use axum::extract::State;

use super::extract::JsonBody;
use super::operation::op;
use super::problem::Answer;
use super::routes::Routes;
use super::{Api, Shared};
use crate::meta::MetaStore;

/// The routes of this file.
pub(super) fn routes<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .get(
            "/v1/rebalance",
            show::<M>,
            op(
                "getRebalance",
                "How full each disk is, and what moves to even them out",
            )
            .gives::<Rebalance>(),
        )
        .get(
            "/v1/rebalance/plan",
            plan::<M>,
            op(
                "getRebalancePlan",
                "Each move that would begin if nothing else changed",
            )
            .gives::<RebalancePlan>(),
        )
        .post(
            "/v1/rebalance/pause",
            pause::<M>,
            op("pauseRebalance", "Lets no moves begin")
                .body::<SetRebalance>()
                .gives::<Rebalance>()
                .keyed(),
        )
        .post(
            "/v1/rebalance/resume",
            resume::<M>,
            op("resumeRebalance", "Lets moves begin again")
                .body::<SetRebalance>()
                .gives::<Rebalance>()
                .keyed(),
        )
}

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
