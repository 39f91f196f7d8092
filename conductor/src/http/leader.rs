//! Who leads: what only the leader can answer is sent on to it.
//!
//! A follower answers reads of rows and watches, as long as it hears what there is: who is shut out
//! meanwhile must not go on reading at one that is cut off. What changes something, and what is read from the
//! leader's memory (reports of stores, events, moves), it answers with 307 and the leader's address, or
//! with 503 while there is none.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use super::problem::Refused;
use super::{Api, Shared};
use crate::cluster::ClusterError;
use crate::meta::MetaStore;

/// What is read from the leader's memory; and what is to be in the audit log, which the leader alone writes.
const OF_LEADER: [&str; 6] = [
    "/v1/events",
    "/v1/metadata/backup",
    "/v1/tasks",
    "/v1/space",
    "/v1/rebalance",
    "/v1/rebalance/plan",
];

/// What is read of a volume from there, or must not be of a moment ago: who goes by old reservations lets
/// in whom somebody has shut out.
const OF_LEADER_BY_VOLUME: [&str; 2] = ["/reservations", "/reservations/confirmed"];

/// A store removes what is not on its list of assignments, so a list of a moment ago would cost it the
/// replicas that it has made since.
const OF_LEADER_BY_NODE: &str = "/assignments";

/// How old what a follower answers may be.
const AGE_MAX: Duration = Duration::from_secs(15);

/// What is asked with a body, and changes nothing.
const QUESTIONS: [&str; 1] = ["/v1/maps"];

/// `GET /v1/leader`.
#[derive(Serialize, JsonSchema)]
pub(super) struct LeaderShown {
    /// Whether it is the conductor that was asked.
    leads: bool,
    /// The term in which that one leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    term: Option<u64>,
    /// Where the API of another one is that leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<String>,
}

pub(super) async fn show<M: MetaStore>(State(api): Shared<M>) -> Json<LeaderShown> {
    let term = api.cluster.leads();
    let leader = match &term {
        Err(ClusterError::NotLeader { leader }) => leader.clone(),
        _ => None,
    };
    Json(LeaderShown {
        leads: term.is_ok(),
        term: term.ok().map(|term| term.0),
        leader,
    })
}

/// Lets through what this conductor can answer.
pub(super) async fn send_on<M: MetaStore>(
    State(api): State<Arc<Api<M>>>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let is_answered = is_answered_by_all(request.method(), path);
    match api.cluster.leads() {
        Ok(_) => next.run(request).await,
        Err(_) if is_answered => {
            let age = api.cluster.age();
            if age <= AGE_MAX || tells_of_itself(path) {
                return next.run(request).await;
            }
            Refused::stale(age).into_response()
        }
        Err(ClusterError::NotLeader {
            leader: Some(leader),
        }) => {
            let rest = request.uri().path_and_query();
            let rest = rest.map_or(path, |rest| rest.as_str());
            point_to(&leader, rest)
        }
        Err(_) => Refused::no_leader().into_response(),
    }
}

/// Whether it is the process that is asked about, and not the metadata.
fn tells_of_itself(path: &str) -> bool {
    matches!(path, "/v1/leader" | "/v1/openapi.json") || !path.starts_with("/v1/")
}

fn is_answered_by_all(method: &Method, path: &str) -> bool {
    if QUESTIONS.contains(&path) || !path.starts_with("/v1/") {
        return true;
    }
    let is_of_leader = OF_LEADER.contains(&path)
        || path.starts_with("/v1/tasks/")
        || OF_LEADER_BY_VOLUME.iter().any(|end| path.ends_with(end))
        || path.ends_with(OF_LEADER_BY_NODE);
    matches!(*method, Method::GET | Method::HEAD) && !is_of_leader
}

fn point_to(leader: &str, rest: &str) -> Response {
    let mut response = Refused::not_leader(leader).into_response();
    let location = format!("{}{rest}", leader.trim_end_matches('/'));
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reads_of_rows_are_answered_by_all() {
        let get = |path| is_answered_by_all(&Method::GET, path);
        let post = |path| is_answered_by_all(&Method::POST, path);
        assert!(get("/v1/volumes") && get("/v1/leader") && get("/healthz") && post("/v1/maps"));
        assert!(!get("/v1/metadata/backup") && !get("/v1/tasks/1"));
        assert!(!get("/v1/events") && !get("/v1/space") && !get("/v1/rebalance/plan"));
        assert!(!get("/v1/volumes/v/reservations") && get("/v1/volumes/v"));
        assert!(!post("/v1/volumes") && !post("/v1/nodes/1/heartbeat"));
        assert!(tells_of_itself("/healthz") && tells_of_itself("/v1/leader"));
        assert!(!tells_of_itself("/v1/volumes") && !tells_of_itself("/v1/maps"));
        assert!(!get("/v1/nodes/1/assignments") && get("/v1/nodes"));
        assert!(!is_answered_by_all(&Method::DELETE, "/v1/volumes/a"));
    }

    #[test]
    fn a_request_is_sent_on_whole() {
        let response = point_to("http://10.0.0.2:7100/", "/v1/volumes/a%20b?force=true");
        assert_eq!(response.status(), 307);
        let location = &response.headers()[header::LOCATION];
        assert_eq!(location, "http://10.0.0.2:7100/v1/volumes/a%20b?force=true");
    }
}
