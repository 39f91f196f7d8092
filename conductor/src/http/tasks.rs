//! `/v1/tasks`: long operations.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::{CancelTask, List, Task};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use super::extract::{JsonBody, PathPart, QueryOf};
use super::operation::op;
use super::page::{self, TasksQuery};
use super::problem::{Answer, Code};
use super::routes::Routes;
use super::{Api, Shared, unless_stopping};
use crate::meta::MetaStore;

/// The routes of this file.
pub(super) fn routes<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .get(
            "/v1/tasks",
            list::<M>,
            op(
                "listTasks",
                "Lists what is under way, and what has ended of late",
            )
            .query::<TasksQuery>()
            .answers::<List<Task>>(StatusCode::OK, "a page of them"),
        )
        .get(
            "/v1/tasks/{id}",
            show::<M>,
            op("getTask", "One of them; waits for its end")
                .query::<WaitQuery>()
                .gives::<Task>()
                .refuses(&[Code::TaskNotFound]),
        )
        .post(
            "/v1/tasks/{id}/cancel",
            cancel::<M>,
            op("cancelTask", "Calls a task off")
                .body::<CancelTask>()
                .gives::<Task>()
                .keyed()
                .refuses(&Code::OF_VOLUME)
                .refuses(&Code::OF_PLACEMENT)
                .refuses(&[
                    Code::TaskNotFound,
                    Code::TaskNotCancelable,
                    Code::NodeNotFound,
                    Code::DiskNotFound,
                ]),
        )
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WaitQuery {
    /// How long to wait for its end: milliseconds, 60000 at most.
    wait_ms: Option<u64>,
}

async fn list<M: MetaStore>(
    State(api): Shared<M>,
    QueryOf(query): QueryOf<TasksQuery>,
) -> Answer<Json<List<Task>>> {
    api.cluster.look_at_tasks();
    page::page(&api, &query.selection())
}

async fn show<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(id): PathPart<String>,
    QueryOf(query): QueryOf<WaitQuery>,
) -> Answer<Json<Task>> {
    let wait = super::wait(query.wait_ms, Duration::ZERO);
    let work = async { Ok(api.cluster.task(id, wait).await?) };
    unless_stopping(&api, work).await.map(Json)
}

async fn cancel<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(id): PathPart<String>,
    JsonBody(CancelTask {}): JsonBody<CancelTask>,
) -> Answer<Json<Task>> {
    Ok(Json(api.cluster.cancel_task(id).await?))
}
