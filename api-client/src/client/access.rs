//! Calls about users, keys, tokens, projects, keys of volumes, and the audit log.

use std::time::Duration;

use ashlar_proto::api::{
    ApiKey, AuditEntry, CreateKey, CreateProject, CreateToken, CreateUser, KeyCreated, List,
    Nothing, Project, RevokedToken, SetQuota, SetUserRole, TokenCreated, User, VolumeKeySet,
    WhoAmI,
};
use reqwest::Method;
use serde::Serialize;

use super::{ANSWER_MAX, ApiClient, ApiError, json, send};

#[derive(Serialize)]
struct Rotate {
    forget: bool,
}

impl ApiClient {
    /// `GET /v1/whoami`.
    pub async fn whoami(&self) -> Result<WhoAmI, ApiError> {
        self.get(&["whoami"]).await
    }

    /// `GET /v1/users`.
    pub async fn users(&self) -> Result<List<User>, ApiError> {
        self.get(&["users"]).await
    }

    /// `POST /v1/users`.
    pub async fn create_user(&self, request: &CreateUser) -> Result<User, ApiError> {
        self.post(&["users"], request).await
    }

    /// `DELETE /v1/users/{name}`.
    pub async fn delete_user(&self, name: &str) -> Result<(), ApiError> {
        let delete = self.request(Method::DELETE, &["users", name]);
        send(delete, &self.base).await.map(drop)
    }

    /// `POST /v1/users/{name}/role`.
    pub async fn set_user_role(&self, name: &str, request: &SetUserRole) -> Result<User, ApiError> {
        self.post(&["users", name, "role"], request).await
    }

    /// `POST /v1/users/{name}/deny`, or `…/allow`.
    pub async fn deny_user(&self, name: &str, denied: bool) -> Result<User, ApiError> {
        let verb = if denied { "deny" } else { "allow" };
        self.post(&["users", name, verb], &Nothing {}).await
    }

    /// `GET /v1/keys`, or those of one user.
    pub async fn keys(&self, user: Option<&str>) -> Result<List<ApiKey>, ApiError> {
        let get = self.request(Method::GET, &["keys"]);
        let get = match user {
            Some(user) => get.query(&[("user", user)]),
            None => get,
        };
        json(send(get, &self.base).await?, &self.base).await
    }

    /// `POST /v1/users/{name}/keys`.
    pub async fn create_key(
        &self,
        user: &str,
        request: &CreateKey,
    ) -> Result<KeyCreated, ApiError> {
        self.post(&["users", user, "keys"], request).await
    }

    /// `POST /v1/keys/{id}/revoke`.
    pub async fn revoke_key(&self, id: &str) -> Result<ApiKey, ApiError> {
        self.post(&["keys", id, "revoke"], &Nothing {}).await
    }

    /// `POST /v1/tokens`.
    pub async fn create_token(&self, request: &CreateToken) -> Result<TokenCreated, ApiError> {
        self.post(&["tokens"], request).await
    }

    /// `GET /v1/tokens/revoked`.
    pub async fn revoked_tokens(&self) -> Result<List<RevokedToken>, ApiError> {
        self.get(&["tokens", "revoked"]).await
    }

    /// `POST /v1/tokens/{id}/revoke`.
    pub async fn revoke_token(&self, id: &str) -> Result<RevokedToken, ApiError> {
        self.post(&["tokens", id, "revoke"], &Nothing {}).await
    }

    /// `POST /v1/tokens/rotate`.
    pub async fn rotate_signing_key(&self, forget: bool) -> Result<(), ApiError> {
        self.tell(&["tokens", "rotate"], &Rotate { forget }).await
    }

    /// `GET /v1/projects`.
    pub async fn projects(&self) -> Result<List<Project>, ApiError> {
        self.get(&["projects"]).await
    }

    /// `POST /v1/projects`.
    pub async fn create_project(&self, request: &CreateProject) -> Result<Project, ApiError> {
        self.post(&["projects"], request).await
    }

    /// `POST /v1/projects/{name}/quota`.
    pub async fn set_quota(&self, name: &str, request: &SetQuota) -> Result<Project, ApiError> {
        self.post(&["projects", name, "quota"], request).await
    }

    /// `DELETE /v1/projects/{name}`.
    pub async fn delete_project(&self, name: &str) -> Result<(), ApiError> {
        let delete = self.request(Method::DELETE, &["projects", name]);
        send(delete, &self.base).await.map(drop)
    }

    /// `POST /v1/volumes/{name}/key/set`.
    pub async fn set_volume_key(&self, name: &str) -> Result<VolumeKeySet, ApiError> {
        self.post(&["volumes", name, "key", "set"], &Nothing {})
            .await
    }

    /// `POST /v1/volumes/{name}/key/clear`.
    pub async fn clear_volume_key(&self, name: &str) -> Result<(), ApiError> {
        self.tell(&["volumes", name, "key", "clear"], &Nothing {})
            .await
    }

    /// `GET /v1/audit`: the last entries.
    pub async fn audit_last(&self, limit: usize) -> Result<List<AuditEntry>, ApiError> {
        let get = self.request(Method::GET, &["audit"]);
        let get = get.query(&[("limit", limit)]);
        json(send(get, &self.base).await?, &self.base).await
    }

    /// `GET /v1/audit`: those after a number, once there are any or the wait is over.
    pub async fn audit_after(
        &self,
        after: u64,
        wait: Duration,
    ) -> Result<List<AuditEntry>, ApiError> {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let get = self.request(Method::GET, &["audit"]);
        let get = get
            .query(&[("after", after), ("wait_ms", wait_ms)])
            .timeout(wait.saturating_add(ANSWER_MAX));
        json(send(get, &self.base).await?, &self.base).await
    }
}
