//! Calls about iSCSI targets and persistent reservations.

use std::time::Duration;

use ashlar_proto::api::{
    AllowInitiator, ClearChap, CreateTarget, DiscoveryChap, MapUnit, RemoveInitiator,
    ReplaceReservations, Revision, ServedTargets, SetChap, Target, VolumeReservations,
};
use ashlar_proto::{IscsiName, Lun};
use reqwest::Method;

use super::{ApiClient, ApiError, json, send};

impl ApiClient {
    /// `GET /v1/targets/{name}`.
    pub async fn target(&self, name: &IscsiName) -> Result<Target, ApiError> {
        self.get(&["targets", name.as_str()]).await
    }

    /// `POST /v1/targets`.
    pub async fn create_target(&self, request: &CreateTarget) -> Result<Target, ApiError> {
        self.post(&["targets"], request).await
    }

    /// `DELETE /v1/targets/{name}`.
    pub async fn delete_target(&self, name: &IscsiName) -> Result<(), ApiError> {
        let delete = self.request(Method::DELETE, &["targets", name.as_str()]);
        send(delete, &self.base).await.map(drop)
    }

    /// `POST /v1/targets/{name}/units`.
    pub async fn map_unit(&self, name: &IscsiName, request: &MapUnit) -> Result<Target, ApiError> {
        self.post(&["targets", name.as_str(), "units"], request)
            .await
    }

    /// `DELETE /v1/targets/{name}/units/{lun}`.
    pub async fn unmap_unit(&self, name: &IscsiName, lun: Lun) -> Result<Target, ApiError> {
        let path = ["targets", name.as_str(), "units", &lun.to_string()];
        let delete = self.request(Method::DELETE, &path);
        json(send(delete, &self.base).await?, &self.base).await
    }

    /// `POST /v1/targets/{name}/acl/allow`.
    pub async fn allow_initiator(
        &self,
        name: &IscsiName,
        request: &AllowInitiator,
    ) -> Result<Target, ApiError> {
        self.post(&["targets", name.as_str(), "acl", "allow"], request)
            .await
    }

    /// `POST /v1/targets/{name}/acl/remove`.
    pub async fn remove_initiator(
        &self,
        name: &IscsiName,
        request: &RemoveInitiator,
    ) -> Result<Target, ApiError> {
        self.post(&["targets", name.as_str(), "acl", "remove"], request)
            .await
    }

    /// `POST /v1/targets/{name}/chap/set`.
    pub async fn set_chap(&self, name: &IscsiName, request: &SetChap) -> Result<Target, ApiError> {
        self.post(&["targets", name.as_str(), "chap", "set"], request)
            .await
    }

    /// `POST /v1/targets/{name}/chap/clear`.
    pub async fn clear_chap(
        &self,
        name: &IscsiName,
        request: &ClearChap,
    ) -> Result<Target, ApiError> {
        self.post(&["targets", name.as_str(), "chap", "clear"], request)
            .await
    }

    /// `GET /v1/iscsi/discovery`.
    pub async fn discovery_chap(&self) -> Result<DiscoveryChap, ApiError> {
        self.get(&["iscsi", "discovery"]).await
    }

    /// `POST /v1/iscsi/discovery/chap/set`.
    pub async fn set_discovery_chap(&self, request: &SetChap) -> Result<DiscoveryChap, ApiError> {
        self.post(&["iscsi", "discovery", "chap", "set"], request)
            .await
    }

    /// `POST /v1/iscsi/discovery/chap/clear`.
    pub async fn clear_discovery_chap(
        &self,
        request: &ClearChap,
    ) -> Result<DiscoveryChap, ApiError> {
        self.post(&["iscsi", "discovery", "chap", "clear"], request)
            .await
    }

    /// `GET /v1/iscsi/targets`: waits up to `wait` for a change after `after`.
    pub async fn served_targets(
        &self,
        after: Revision,
        wait: Duration,
    ) -> Result<ServedTargets, ApiError> {
        self.poll(&["iscsi", "targets"], after, wait).await
    }

    /// `GET /v1/volumes/{name}/reservations`.
    pub async fn reservations(&self, volume: &str) -> Result<VolumeReservations, ApiError> {
        self.get(&["volumes", volume, "reservations"]).await
    }

    /// `PUT /v1/volumes/{name}/reservations`.
    pub async fn replace_reservations(
        &self,
        volume: &str,
        request: &ReplaceReservations,
    ) -> Result<VolumeReservations, ApiError> {
        let put = self.request(Method::PUT, &["volumes", volume, "reservations"]);
        json(send(put.json(request), &self.base).await?, &self.base).await
    }
}
