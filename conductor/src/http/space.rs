//! `/v1/space`, `/v1/events`, and the reservations of volumes.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::{Events, ReserveVolume, SetSpace, Space, Volume};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Deserialize;

use super::extract::{JsonBody, PathPart, QueryOf};
use super::operation::op;
use super::problem::{Answer, Code, Refused};
use super::routes::Routes;
use super::volumes::{STORES_WAIT, WaitQuery};
use super::{Api, Shared, unless_stopping};
use crate::meta::MetaStore;

/// Most events of one answer: as many as are kept.
const EVENTS_MAX: u16 = 1000;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// The number of the last event that is known.
    #[serde(default)]
    after: u64,
    /// Most events that are given; who wants more asks after the last one.
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<u16>,
    /// How long to wait where there is none: milliseconds, 60000 at most.
    wait_ms: Option<u64>,
}

/// The routes of this file.
pub(super) fn routes<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .get(
            "/v1/space",
            show::<M>,
            op(
                "getSpace",
                "The rules of space, and how the cluster stands by them",
            )
            .gives::<Space>()
            .tagged(),
        )
        .post(
            "/v1/space",
            set::<M>,
            op("setSpace", "Changes the rules; what is left out stays")
                .body::<SetSpace>()
                .gives::<Space>()
                .keyed()
                .tagged(),
        )
        .post(
            "/v1/volumes/{name}/reserve",
            reserve::<M>,
            op("reserveVolume", "Changes what is kept for a volume")
                .query::<WaitQuery>()
                .body::<ReserveVolume>()
                .gives::<Volume>()
                .keyed()
                .tagged()
                .refuses(&Code::OF_VOLUME)
                .refuses(&Code::OF_PLACEMENT),
        )
        .get(
            "/v1/events",
            events::<M>,
            op("listEvents", "What has happened of late, the oldest first")
                .query::<EventsQuery>()
                .gives::<Events>(),
        )
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
    let limit = query.limit.unwrap_or(EVENTS_MAX);
    if !(1..=EVENTS_MAX).contains(&limit) {
        return Err(Refused::malformed(format!("`limit` is 1 to {EVENTS_MAX}")));
    }
    let wait = super::wait(query.wait_ms, Duration::ZERO);
    let work = async { Ok(api.cluster.events(query.after, wait).await) };
    let mut items = unless_stopping(&api, work).await?;
    items.truncate(usize::from(limit));
    Ok(Json(Events { items }))
}
