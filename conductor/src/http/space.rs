//! `/v1/space`, `/v1/events`, and the reservations of volumes.

use std::time::Duration;

use ashlar_proto::api::{Events, ReserveVolume, SetSpace, Space, Volume};
use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::extract::{JsonBody, PathPart, QueryOf};
use super::problem::Answer;
use super::volumes::{STORES_WAIT, WaitQuery};
use super::{Shared, unless_stopping};
use crate::meta::MetaStore;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    #[serde(default)]
    after: u64,
    wait_ms: Option<u64>,
}

pub(super) async fn show<M: MetaStore>(State(api): Shared<M>) -> Json<Space> {
    let shown = api.cluster.read(|view| view.state.show_space(&view.live));
    Json(shown)
}

pub(super) async fn set<M: MetaStore>(
    State(api): Shared<M>,
    JsonBody(request): JsonBody<SetSpace>,
) -> Answer<Json<Space>> {
    Ok(Json(api.cluster.set_space(request).await?))
}

pub(super) async fn reserve<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    QueryOf(query): QueryOf<WaitQuery>,
    JsonBody(request): JsonBody<ReserveVolume>,
) -> Answer<Json<Volume>> {
    let wait = super::wait(query.wait_ms, STORES_WAIT);
    let work = async { Ok(api.cluster.reserve(name, request, wait).await?) };
    unless_stopping(&api, work).await.map(Json)
}

pub(super) async fn events<M: MetaStore>(
    State(api): Shared<M>,
    QueryOf(query): QueryOf<EventsQuery>,
) -> Answer<Json<Events>> {
    let wait = super::wait(query.wait_ms, Duration::ZERO);
    let work = async { Ok(api.cluster.events(query.after, wait).await) };
    let items = unless_stopping(&api, work).await?;
    Ok(Json(Events { items }))
}
