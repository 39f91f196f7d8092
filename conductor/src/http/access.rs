//! `/v1/whoami`, `/v1/users`, `/v1/keys`, `/v1/tokens`, `/v1/projects`, `/v1/audit`, and keys of volumes.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::{
    ApiKey, AuditEntry, CreateKey, CreateProject, CreateToken, CreateUser, KeyCreated, List,
    Nothing, Project, RevokedToken, SetQuota, SetUserRole, TokenCreated, User, VolumeKeySet,
    WhoAmI,
};
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;

use super::auth::Asks;
use super::extract::{JsonBody, PathPart, QueryOf};
use super::problem::Answer;
use super::{Api, Shared, unless_stopping};
use crate::access::gate::now_ms;
use crate::meta::MetaStore;

/// Entries of an answer unless told otherwise.
const AUDIT_LISTED: usize = 100;

/// Whoever keeps answers is not to keep this one: there is a secret in it.
const NOT_STORED: [(HeaderName, HeaderValue); 1] =
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];

type Told<T> = ([(HeaderName, HeaderValue); 1], Json<T>);

/// The routes of this file.
pub(super) fn routes<M: MetaStore>() -> Router<Arc<Api<M>>> {
    Router::new()
        .route("/v1/whoami", get(whoami))
        .route("/v1/users", get(users::<M>).post(create_user::<M>))
        .route("/v1/users/{name}", delete(delete_user::<M>))
        .route("/v1/users/{name}/role", post(set_role::<M>))
        .route("/v1/users/{name}/deny", post(deny_user::<M>))
        .route("/v1/users/{name}/allow", post(allow_user::<M>))
        .route("/v1/users/{name}/keys", post(create_key::<M>))
        .route("/v1/keys", get(keys::<M>))
        .route("/v1/keys/{id}/revoke", post(revoke_key::<M>))
        .route("/v1/tokens", post(create_token::<M>))
        .route("/v1/tokens/revoked", get(revoked_tokens::<M>))
        .route("/v1/tokens/{id}/revoke", post(revoke_token::<M>))
        .route("/v1/tokens/rotate", post(rotate::<M>))
        .route("/v1/projects", get(projects::<M>).post(create_project::<M>))
        .route("/v1/projects/{name}", delete(delete_project::<M>))
        .route("/v1/projects/{name}/quota", post(set_quota::<M>))
        .route("/v1/volumes/{name}/key/set", post(set_volume_key::<M>))
        .route("/v1/volumes/{name}/key/clear", post(clear_volume_key::<M>))
        .route("/v1/audit", get(audit::<M>))
}

async fn whoami(Asks(caller): Asks) -> Json<WhoAmI> {
    Json(caller.show())
}

async fn users<M: MetaStore>(State(api): Shared<M>) -> Json<List<User>> {
    api.cluster
        .read(|view| super::list(view.state.revision(), view.state.users()))
}

async fn create_user<M: MetaStore>(
    State(api): Shared<M>,
    JsonBody(request): JsonBody<CreateUser>,
) -> Answer<(StatusCode, Json<User>)> {
    let now = now_ms();
    let made = api
        .cluster
        .change_access(move |state| state.plan_user_create(&request, now));
    Ok((StatusCode::CREATED, Json(made.await?)))
}

async fn delete_user<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
) -> Answer<StatusCode> {
    let ended = api
        .cluster
        .change_access(move |state| state.plan_user_delete(&name));
    ended.await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn set_role<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    JsonBody(request): JsonBody<SetUserRole>,
) -> Answer<Json<User>> {
    let changed = api
        .cluster
        .change_access(move |state| state.plan_user_role(&name, &request));
    Ok(Json(changed.await?))
}

async fn deny_user<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    JsonBody(_): JsonBody<Nothing>,
) -> Answer<Json<User>> {
    let now = now_ms();
    let changed = api
        .cluster
        .change_access(move |state| state.plan_user_deny(&name, true, now));
    Ok(Json(changed.await?))
}

async fn allow_user<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    JsonBody(_): JsonBody<Nothing>,
) -> Answer<Json<User>> {
    let changed = api
        .cluster
        .change_access(move |state| state.plan_user_deny(&name, false, 0));
    Ok(Json(changed.await?))
}

async fn create_key<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(user): PathPart<String>,
    JsonBody(request): JsonBody<CreateKey>,
) -> Answer<(StatusCode, Told<KeyCreated>)> {
    let made = api.cluster.create_key(user, request).await?;
    Ok((StatusCode::CREATED, (NOT_STORED, Json(made))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysQuery {
    user: Option<String>,
}

async fn keys<M: MetaStore>(
    State(api): Shared<M>,
    QueryOf(query): QueryOf<KeysQuery>,
) -> Json<List<ApiKey>> {
    api.cluster.read(|view| {
        let keys = view.state.api_keys(query.user.as_deref());
        super::list(view.state.revision(), keys)
    })
}

async fn revoke_key<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(id): PathPart<String>,
    JsonBody(_): JsonBody<Nothing>,
) -> Answer<Json<ApiKey>> {
    let now = now_ms();
    let revoked = api
        .cluster
        .change_access(move |state| state.plan_key_revoke(&id, now));
    Ok(Json(revoked.await?))
}

async fn create_token<M: MetaStore>(
    State(api): Shared<M>,
    Asks(caller): Asks,
    JsonBody(request): JsonBody<CreateToken>,
) -> Answer<(StatusCode, Told<TokenCreated>)> {
    let made = api.cluster.create_token(&caller, &request).await?;
    Ok((StatusCode::CREATED, (NOT_STORED, Json(made))))
}

async fn revoked_tokens<M: MetaStore>(State(api): Shared<M>) -> Json<List<RevokedToken>> {
    api.cluster
        .read(|view| super::list(view.state.revision(), view.state.revoked_tokens()))
}

async fn revoke_token<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(id): PathPart<String>,
    JsonBody(_): JsonBody<Nothing>,
) -> Answer<Json<RevokedToken>> {
    let now = now_ms();
    let revoked = api
        .cluster
        .change_access(move |state| state.plan_token_revoke(&id, now));
    Ok(Json(revoked.await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotate {
    /// What older keys have signed is good no more.
    #[serde(default)]
    forget: bool,
}

async fn rotate<M: MetaStore>(
    State(api): Shared<M>,
    JsonBody(request): JsonBody<Rotate>,
) -> Answer<StatusCode> {
    api.cluster.rotate_signing_key(request.forget).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn projects<M: MetaStore>(State(api): Shared<M>, Asks(caller): Asks) -> Json<List<Project>> {
    api.cluster.read(|view| {
        let mut projects = view.state.projects();
        projects.retain(|project| caller.sees_project(&project.name));
        super::list(view.state.revision(), projects)
    })
}

async fn create_project<M: MetaStore>(
    State(api): Shared<M>,
    JsonBody(request): JsonBody<CreateProject>,
) -> Answer<(StatusCode, Json<Project>)> {
    let made = api
        .cluster
        .change_access(move |state| state.plan_project_create(&request));
    Ok((StatusCode::CREATED, Json(made.await?)))
}

async fn set_quota<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    JsonBody(request): JsonBody<SetQuota>,
) -> Answer<Json<Project>> {
    let changed = api
        .cluster
        .change_access(move |state| state.plan_project_quota(&name, &request));
    Ok(Json(changed.await?))
}

async fn delete_project<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
) -> Answer<StatusCode> {
    let ended = api
        .cluster
        .change_access(move |state| state.plan_project_delete(&name));
    ended.await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn set_volume_key<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    JsonBody(_): JsonBody<Nothing>,
) -> Answer<Told<VolumeKeySet>> {
    let set = api.cluster.set_volume_key(name).await?;
    Ok((NOT_STORED, Json(set)))
}

async fn clear_volume_key<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    JsonBody(_): JsonBody<Nothing>,
) -> Answer<StatusCode> {
    let cleared = api
        .cluster
        .change_access(move |state| state.plan_volume_key(&name, None));
    cleared.await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditQuery {
    after: Option<u64>,
    limit: Option<usize>,
    wait_ms: Option<u64>,
}

async fn audit<M: MetaStore>(
    State(api): Shared<M>,
    QueryOf(query): QueryOf<AuditQuery>,
) -> Answer<Json<List<AuditEntry>>> {
    let wait = super::wait(query.wait_ms, Duration::ZERO);
    let limit = query.limit.unwrap_or(AUDIT_LISTED);
    let work = async { Ok(api.cluster.audit(query.after, limit, wait).await) };
    let items = unless_stopping(&api, work).await?;
    let revision = api.cluster.read(|view| view.state.revision());
    Ok(super::list(revision, items))
}
