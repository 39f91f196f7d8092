//! Calls about iSCSI servers, and what they tell each other.

use std::time::Duration;

use ashlar_proto::PortalGroup;
use ashlar_proto::api::{
    ConfirmReservations, HandOver, RegisterServer, ReservationsConfirmed, ServerHeartbeat,
    ServerRegistered,
};
use reqwest::Method;

use super::{ANSWER_MAX, ApiClient, ApiError, json, send};

impl ApiClient {
    /// `POST /v1/iscsi/servers`.
    pub async fn register_server(
        &self,
        request: &RegisterServer,
    ) -> Result<ServerRegistered, ApiError> {
        self.post(&["iscsi", "servers"], request).await
    }

    /// `POST /v1/iscsi/servers/{group}/heartbeat`.
    pub async fn server_heartbeat(
        &self,
        group: PortalGroup,
        heartbeat: &ServerHeartbeat,
    ) -> Result<(), ApiError> {
        let path = ["iscsi", "servers", &group.to_string(), "heartbeat"];
        self.tell(&path, heartbeat).await
    }

    /// `DELETE /v1/iscsi/servers/{name}`.
    pub async fn forget_server(&self, name: &str) -> Result<(), ApiError> {
        let delete = self.request(Method::DELETE, &["iscsi", "servers", name]);
        send(delete, &self.base).await.map(drop)
    }

    /// `POST /v1/volumes/{name}/hand-over`.
    pub async fn hand_over(&self, volume: &str, request: &HandOver) -> Result<(), ApiError> {
        self.tell(&["volumes", volume, "hand-over"], request).await
    }

    /// `POST /v1/volumes/{name}/reservations/confirm`.
    pub async fn confirm_reservations(
        &self,
        volume: &str,
        request: &ConfirmReservations,
    ) -> Result<(), ApiError> {
        let path = ["volumes", volume, "reservations", "confirm"];
        self.tell(&path, request).await
    }

    /// `GET /v1/volumes/{name}/reservations/confirmed`: waits up to `wait` for it.
    pub async fn reservations_confirmed(
        &self,
        volume: &str,
        version: u64,
        wait: Duration,
    ) -> Result<ReservationsConfirmed, ApiError> {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let path = ["volumes", volume, "reservations", "confirmed"];
        let get = self
            .request(Method::GET, &path)
            .query(&[("version", version), ("wait_ms", wait_ms)])
            .timeout(wait.saturating_add(ANSWER_MAX));
        json(send(get, &self.base).await?, &self.base).await
    }
}
