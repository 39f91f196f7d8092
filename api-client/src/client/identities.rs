//! Join tokens, certificates, and who is let in no more.

use std::time::Duration;

use ashlar_proto::api::{
    AllowIdentity, CreateJoinToken, DeniedIdentities, DenyIdentity, Enrol, Enrolled,
    IdentityDenied, IdentitySubject, JoinToken, JoinTokenCreated, List, RenewCertificate, Revision,
};
use reqwest::Method;

use super::{ApiClient, ApiError, STORES_MAX, json, send};

impl ApiClient {
    /// `GET /v1/join-tokens`.
    pub async fn join_tokens(&self) -> Result<List<JoinToken>, ApiError> {
        self.get(&["join-tokens"]).await
    }

    /// `POST /v1/join-tokens`.
    pub async fn create_join_token(
        &self,
        request: &CreateJoinToken,
    ) -> Result<JoinTokenCreated, ApiError> {
        self.post(&["join-tokens"], request).await
    }

    /// `DELETE /v1/join-tokens/{id}`.
    pub async fn revoke_join_token(&self, id: &str) -> Result<(), ApiError> {
        let delete = self.request(Method::DELETE, &["join-tokens", id]);
        send(delete, &self.base).await.map(drop)
    }

    /// `POST /v1/enrol`.
    pub async fn enrol(&self, request: &Enrol) -> Result<Enrolled, ApiError> {
        self.post(&["enrol"], request).await
    }

    /// `POST /v1/enrol/renew`.
    pub async fn renew_certificate(
        &self,
        request: &RenewCertificate,
    ) -> Result<Enrolled, ApiError> {
        self.post(&["enrol", "renew"], request).await
    }

    /// `GET /v1/identities/denied`: waits up to `wait` for what is newer than `after`.
    pub async fn denied_identities(
        &self,
        after: Revision,
        wait: Duration,
    ) -> Result<DeniedIdentities, ApiError> {
        self.poll(&["identities", "denied"], after, wait).await
    }

    /// `POST /v1/identities/deny`: returns when the replicas of its volumes refuse it, or after 30 s.
    pub async fn deny_identity(&self, request: &DenyIdentity) -> Result<IdentityDenied, ApiError> {
        let post = self.request(Method::POST, &["identities", "deny"]);
        let sent = send(post.json(request).timeout(STORES_MAX), &self.base);
        json(sent.await?, &self.base).await
    }

    /// `POST /v1/identities/allow`.
    pub async fn allow_identity(&self, subject: IdentitySubject) -> Result<(), ApiError> {
        let request = AllowIdentity { subject };
        self.tell(&["identities", "allow"], &request).await
    }
}
