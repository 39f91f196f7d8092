//! `/v1/whoami`, `/v1/users`, `/v1/keys`, `/v1/tokens`, `/v1/projects`, `/v1/audit`, and keys of volumes.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::{
    ApiKey, AuditEntry, CreateKey, CreateProject, CreateToken, CreateUser, KeyCreated, List,
    Nothing, Project, RevokedToken, SetQuota, SetUserRole, TokenCreated, User, VolumeKeySet,
    WhoAmI,
};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;

use super::auth::AccessCode;
use super::auth::Asks;
use super::extract::{JsonBody, PathPart, QueryOf};
use super::operation::op;
use super::problem::{Answer, Code};
use super::routes::Routes;
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
pub(super) fn routes<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .get(
            "/v1/whoami",
            whoami,
            op("whoAmI", "Who asks, as the conductor sees it").gives::<WhoAmI>(),
        )
        .get(
            "/v1/users",
            users::<M>,
            op("listUsers", "Lists users").gives::<List<User>>(),
        )
        .post(
            "/v1/users",
            create_user::<M>,
            op("createUser", "Makes a user")
                .body::<CreateUser>()
                .answers::<User>(StatusCode::CREATED, "it is made")
                .keyed()
                .refuses(&[
                    Code::Access(AccessCode::UserExists),
                    Code::Access(AccessCode::Invalid),
                ]),
        )
        .delete(
            "/v1/users/{name}",
            delete_user::<M>,
            op("deleteUser", "Removes a user, and the keys of that one")
                .done("it is gone")
                .keyed()
                .refuses(&[
                    Code::Access(AccessCode::UserNotFound),
                    Code::Access(AccessCode::LastAdmin),
                ]),
        )
        .post(
            "/v1/users/{name}/role",
            set_role::<M>,
            op("setUserRole", "Gives a user another role")
                .body::<SetUserRole>()
                .gives::<User>()
                .keyed()
                .refuses(&[
                    Code::Access(AccessCode::UserNotFound),
                    Code::Access(AccessCode::LastAdmin),
                    Code::Access(AccessCode::Invalid),
                ]),
        )
        .post(
            "/v1/users/{name}/deny",
            deny_user::<M>,
            op("denyUser", "Lets a user in no more")
                .body::<Nothing>()
                .gives::<User>()
                .keyed()
                .refuses(&[
                    Code::Access(AccessCode::UserNotFound),
                    Code::Access(AccessCode::LastAdmin),
                ]),
        )
        .post(
            "/v1/users/{name}/allow",
            allow_user::<M>,
            op("allowUser", "Lets a user in again")
                .body::<Nothing>()
                .gives::<User>()
                .keyed()
                .refuses(&[Code::Access(AccessCode::UserNotFound)]),
        )
        .post(
            "/v1/users/{name}/keys",
            create_key::<M>,
            op("createKey", "Makes a key of a user; it is shown this once")
                .body::<CreateKey>()
                .answers::<KeyCreated>(StatusCode::CREATED, "it is made")
                .refuses(&[
                    Code::Access(AccessCode::UserNotFound),
                    Code::Access(AccessCode::Invalid),
                ]),
        )
        .get(
            "/v1/keys",
            keys::<M>,
            op("listKeys", "Lists keys, without their secrets")
                .query::<KeysQuery>()
                .gives::<List<ApiKey>>(),
        )
        .post(
            "/v1/keys/{id}/revoke",
            revoke_key::<M>,
            op("revokeKey", "Makes a key good no more")
                .body::<Nothing>()
                .gives::<ApiKey>()
                .refuses(&[Code::Access(AccessCode::KeyNotFound)]),
        )
        .post(
            "/v1/tokens",
            create_token::<M>,
            op("createToken", "Makes a token of who asks, for some time")
                .body::<CreateToken>()
                .answers::<TokenCreated>(StatusCode::CREATED, "it is made")
                .refuses(&[
                    Code::Access(AccessCode::Invalid),
                    Code::Access(AccessCode::UserNotFound),
                ]),
        )
        .get(
            "/v1/tokens/revoked",
            revoked_tokens::<M>,
            op(
                "listRevokedTokens",
                "Lists the tokens that are good no more",
            )
            .gives::<List<RevokedToken>>(),
        )
        .post(
            "/v1/tokens/{id}/revoke",
            revoke_token::<M>,
            op("revokeToken", "Makes a token good no more")
                .body::<Nothing>()
                .gives::<RevokedToken>(),
        )
        .post(
            "/v1/tokens/rotate",
            rotate::<M>,
            op("rotateTokens", "Signs tokens with another key from now on")
                .body::<Rotate>()
                .done("it is done"),
        )
        .get(
            "/v1/projects",
            projects::<M>,
            op("listProjects", "Lists projects, and what they use").gives::<List<Project>>(),
        )
        .post(
            "/v1/projects",
            create_project::<M>,
            op("createProject", "Makes a project")
                .body::<CreateProject>()
                .answers::<Project>(StatusCode::CREATED, "it is made")
                .keyed()
                .refuses(&[
                    Code::Access(AccessCode::ProjectExists),
                    Code::Access(AccessCode::Invalid),
                ]),
        )
        .delete(
            "/v1/projects/{name}",
            delete_project::<M>,
            op("deleteProject", "Removes a project that has no volumes")
                .done("it is gone")
                .keyed()
                .refuses(&[
                    Code::Access(AccessCode::Invalid),
                    Code::Access(AccessCode::ProjectNotFound),
                    Code::Access(AccessCode::ProjectInUse),
                ]),
        )
        .post(
            "/v1/projects/{name}/quota",
            set_quota::<M>,
            op("setQuota", "Gives a project another quota")
                .body::<SetQuota>()
                .gives::<Project>()
                .keyed()
                .refuses(&[Code::Access(AccessCode::ProjectNotFound)]),
        )
        .post(
            "/v1/volumes/{name}/key/set",
            set_volume_key::<M>,
            op(
                "setVolumeKey",
                "Gives a volume a key that whoever attaches it has to show",
            )
            .body::<Nothing>()
            .gives::<VolumeKeySet>()
            .refuses(&[Code::VolumeNotFound]),
        )
        .post(
            "/v1/volumes/{name}/key/clear",
            clear_volume_key::<M>,
            op("clearVolumeKey", "Takes the key of a volume away")
                .body::<Nothing>()
                .done("it has none")
                .refuses(&[Code::VolumeNotFound]),
        )
        .get(
            "/v1/audit",
            audit::<M>,
            op("listAudit", "What was done of late, and by whom")
                .query::<AuditQuery>()
                .gives::<List<AuditEntry>>(),
        )
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
        .change_user(move |state| state.plan_user_create(&request, now));
    Ok((StatusCode::CREATED, Json(made.await?)))
}

async fn delete_user<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
) -> Answer<StatusCode> {
    let ended = api
        .cluster
        .end_once(move |state| state.plan_user_delete(&name));
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
        .change_user(move |state| state.plan_user_role(&name, &request));
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
        .change_user(move |state| state.plan_user_deny(&name, true, now));
    Ok(Json(changed.await?))
}

async fn allow_user<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    JsonBody(_): JsonBody<Nothing>,
) -> Answer<Json<User>> {
    let changed = api
        .cluster
        .change_user(move |state| state.plan_user_deny(&name, false, 0));
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

#[derive(Deserialize, JsonSchema)]
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

#[derive(Deserialize, JsonSchema)]
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
        .change_project(move |state| state.plan_project_create(&request));
    Ok((StatusCode::CREATED, Json(made.await?)))
}

async fn set_quota<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    JsonBody(request): JsonBody<SetQuota>,
) -> Answer<Json<Project>> {
    let changed = api
        .cluster
        .change_project(move |state| state.plan_project_quota(&name, &request));
    Ok(Json(changed.await?))
}

async fn delete_project<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
) -> Answer<StatusCode> {
    let ended = api
        .cluster
        .end_once(move |state| state.plan_project_delete(&name));
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

#[derive(Deserialize, JsonSchema)]
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
