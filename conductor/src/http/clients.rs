//! `/v1/clients`: who may attach no volume.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::{AllowClient, ClientDenied, DeniedClient, DenyClient, List};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use schemars::JsonSchema;
use serde::Deserialize;

use super::extract::{JsonBody, QueryOf};
use super::operation::op;
use super::page::NamedQuery;
use super::problem::{Answer, Code};
use super::routes::Routes;
use super::watch::{self, Wanted};
use super::{Api, Shared, unless_stopping};
use crate::meta::MetaStore;

/// How long a denial waits for the replicas unless told otherwise.
pub(super) const FENCE_WAIT: Duration = Duration::from_secs(30);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DenyQuery {
    /// How long to wait for the replicas of its volumes: milliseconds, 60000 at most.
    pub(super) wait_ms: Option<u64>,
}

/// The routes of this file.
pub(super) fn routes<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .get(
            "/v1/clients/denied",
            denied::<M>,
            op(
                "listDeniedClients",
                "Lists the clients that may attach no volume",
            )
            .query::<NamedQuery>()
            .answers::<List<DeniedClient>>(StatusCode::OK, "a page of them")
            .watched::<DeniedClient>(),
        )
        .post(
            "/v1/clients/deny",
            deny::<M>,
            op(
                "denyClient",
                "Denies a client its volumes, and takes those that it has from it",
            )
            .query::<DenyQuery>()
            .body::<DenyClient>()
            .gives::<ClientDenied>()
            .keyed(),
        )
        .post(
            "/v1/clients/allow",
            allow::<M>,
            op("allowClient", "Takes a denial back")
                .body::<AllowClient>()
                .done("it may attach again")
                .keyed()
                .refuses(&[Code::ClientNotDenied]),
        )
}

async fn denied<M: MetaStore>(
    State(api): Shared<M>,
    wanted: Wanted,
    QueryOf(query): QueryOf<NamedQuery>,
) -> Answer<Response> {
    watch::list::<DeniedClient, M>(&api, query.selection(), &wanted)
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
