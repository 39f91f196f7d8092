//! How volumes are, as the conductor sees them.

use ashlar_proto::api::{Health, Volume, VolumeState};
use tonic::Status;

use super::ControllerService;
use crate::handle::VolumeHandle;
use crate::pages::page;
use crate::protocol::volume_health::VolumeHealthEntry;
use crate::protocol::{
    ControllerGetVolumeHealthRequest, ControllerGetVolumeHealthResponse,
    ControllerListVolumeHealthRequest, ControllerListVolumeHealthResponse, VolumeHealth,
    VolumeHealthErrorType,
};
use crate::refusal;

impl ControllerService {
    /// How one volume is.
    pub(super) async fn controller_get_volume_health(
        &self,
        request: ControllerGetVolumeHealthRequest,
    ) -> Result<ControllerGetVolumeHealthResponse, Status> {
        let volume = self.require(&request.volume_id).await?;
        Ok(ControllerGetVolumeHealthResponse {
            volume_health: Some(of(&volume)),
        })
    }

    /// The volumes that are not well, by age.
    pub(super) async fn controller_list_volume_health(
        &self,
        request: ControllerListVolumeHealthRequest,
    ) -> Result<ControllerListVolumeHealthResponse, Status> {
        let volumes = self.api.volumes().await.map_err(refusal::of_api)?.items;
        let ill = |volume: &Volume| {
            volume.state == VolumeState::Ready && volume.health != Health::Healthy
        };
        let ill: Vec<Volume> = volumes.into_iter().filter(ill).collect();
        let key = |volume: &Volume| (volume.id.get(), 0);
        let page = page(ill, request.max_entries, &request.starting_token, key)?;
        Ok(ControllerListVolumeHealthResponse {
            entries: page.items.iter().map(of).collect(),
            next_token: page.next,
        })
    }
}

fn of(volume: &Volume) -> VolumeHealth {
    let entry = |status: VolumeHealthErrorType, reason: &str, message: &str| VolumeHealthEntry {
        status: status.into(),
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    let statuses = match volume.health {
        Health::Healthy => Vec::new(),
        Health::Degraded => vec![entry(
            VolumeHealthErrorType::Degraded,
            "ReplicasOutOfSync",
            "some replicas are not in sync or their disks do not serve; IO goes on",
        )],
        Health::Unavailable => vec![entry(
            VolumeHealthErrorType::Inaccessible,
            "TooFewReplicas",
            "a part of the volume has fewer live in-sync replicas than its rule needs: IO waits until \
             they are back",
        )],
    };
    VolumeHealth {
        volume_id: VolumeHandle::of(volume).to_string(),
        health_statuses: statuses,
    }
}
