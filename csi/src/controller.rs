//! The controller service: volumes and snapshots by the conductor's API.
//!
//! Each file below is one family of calls; this one is who they share and the table of calls.

mod capacity;
mod change;
mod create;
mod delete;
mod health;
mod list;
mod publish;
mod snapshots;
mod source;

pub(crate) use create::checked_name;
pub(crate) use snapshots::{time, to_protocol as snapshot_to_protocol};

use ashlar_api_client::ApiClient;
use ashlar_proto::api::{Snapshot, Volume, VolumeState};
use tonic::{Request, Response, Status};

use crate::handle::{SnapshotHandle, VolumeHandle};
use crate::in_progress::{Hold, InProgress};
use crate::protocol as csi;
use crate::protocol::controller_server::Controller;
use crate::protocol::controller_service_capability::rpc::Type as Ability;
use crate::protocol::controller_service_capability::{Rpc, Type};
use crate::refusal;

/// What the controller can do.
const ABILITIES: [Ability; 16] = [
    Ability::CreateDeleteVolume,
    Ability::PublishUnpublishVolume,
    Ability::ListVolumes,
    Ability::GetCapacity,
    Ability::CreateDeleteSnapshot,
    Ability::ListSnapshots,
    Ability::CloneVolume,
    Ability::PublishReadonly,
    Ability::ExpandVolume,
    Ability::ListVolumesPublishedNodes,
    Ability::GetVolume,
    Ability::SingleNodeMultiWriter,
    Ability::ModifyVolume,
    Ability::GetSnapshot,
    Ability::GetVolumeHealth,
    Ability::ListVolumeHealth,
];

/// The service.
#[derive(Debug)]
pub(crate) struct ControllerService {
    api: ApiClient,
    pending: InProgress,
}

impl ControllerService {
    /// The service over a conductor.
    pub fn new(api: ApiClient) -> Self {
        Self {
            api,
            pending: InProgress::default(),
        }
    }

    /// The conductor.
    pub(crate) fn api(&self) -> &ApiClient {
        &self.api
    }

    /// Begins to make or delete snapshots of that name.
    pub(crate) fn begin_snapshot(&self, name: &str, what: &'static str) -> Result<Hold, Status> {
        self.pending.begin(format!("snapshot {name}"), what)
    }

    /// Begins a change of the volume of that name.
    fn begin(&self, volume: &str, what: &'static str) -> Result<Hold, Status> {
        self.pending.begin(format!("volume {volume}"), what)
    }

    /// The volume of a handle, if it is there; one that is being deleted is, too.
    async fn find(&self, handle: &VolumeHandle) -> Result<Option<Volume>, Status> {
        let found = self.find_named(&handle.name).await?;
        Ok(found.filter(|volume| volume.id == handle.id))
    }

    /// The volume that has a name.
    async fn find_named(&self, name: &str) -> Result<Option<Volume>, Status> {
        match self.api.volume(name).await {
            Ok(volume) => Ok(Some(volume)),
            Err(error) if error.http_status() == Some(404) => Ok(None),
            // A name that no volume can have.
            Err(error) if error.http_status() == Some(422) => Ok(None),
            Err(error) => Err(refusal::of_api(error)),
        }
    }

    /// The volume that a request names.
    pub(crate) async fn require(&self, text: &str) -> Result<Volume, Status> {
        let text = refusal::required("volume_id", text)?;
        let handle = VolumeHandle::parse(text).ok_or_else(|| refusal::no_volume(text))?;
        let volume = self.find(&handle).await?;
        volume
            .filter(|volume| volume.state != VolumeState::Deleting)
            .ok_or_else(|| refusal::no_volume(text))
    }

    /// The snapshot of a handle, if it is there and not deleted.
    pub(crate) async fn find_snapshot(
        &self,
        handle: &SnapshotHandle,
    ) -> Result<Option<Snapshot>, Status> {
        let listed = self.api.snapshots(Some(&handle.volume.name), false).await;
        let listed = match listed {
            Ok(listed) => listed.items,
            Err(error) if matches!(error.http_status(), Some(404 | 422)) => return Ok(None),
            Err(error) => return Err(refusal::of_api(error)),
        };
        let wanted = |snapshot: &Snapshot| {
            snapshot.layer == handle.layer && snapshot.volume == handle.volume.id
        };
        Ok(listed.into_iter().find(wanted))
    }

    /// All snapshots that are not deleted.
    pub(crate) async fn all_snapshots(&self) -> Result<Vec<Snapshot>, Status> {
        let listed = self.api.snapshots(None, false).await;
        Ok(listed.map_err(refusal::of_api)?.items)
    }
}

/// Passes a call on to the method of the same name, and its answer back.
macro_rules! calls {
    ($($name:ident($request:ident) -> $answer:ident;)*) => {
        #[tonic::async_trait]
        impl Controller for ControllerService {
            $(
                async fn $name(
                    &self,
                    request: Request<csi::$request>,
                ) -> Result<Response<csi::$answer>, Status> {
                    let answer = ControllerService::$name(self, request.into_inner()).await;
                    answer.map(Response::new).inspect_err(log_refusal)
                }
            )*

            async fn controller_get_capabilities(
                &self,
                _: Request<csi::ControllerGetCapabilitiesRequest>,
            ) -> Result<Response<csi::ControllerGetCapabilitiesResponse>, Status> {
                let capabilities = ABILITIES.into_iter().map(|ability| {
                    let rpc = Rpc { r#type: ability.into() };
                    csi::ControllerServiceCapability { r#type: Some(Type::Rpc(rpc)) }
                });
                Ok(Response::new(csi::ControllerGetCapabilitiesResponse {
                    capabilities: capabilities.collect(),
                }))
            }
        }
    };
}

calls! {
    create_volume(CreateVolumeRequest) -> CreateVolumeResponse;
    delete_volume(DeleteVolumeRequest) -> DeleteVolumeResponse;
    controller_publish_volume(ControllerPublishVolumeRequest) -> ControllerPublishVolumeResponse;
    controller_unpublish_volume(ControllerUnpublishVolumeRequest) -> ControllerUnpublishVolumeResponse;
    validate_volume_capabilities(ValidateVolumeCapabilitiesRequest) -> ValidateVolumeCapabilitiesResponse;
    list_volumes(ListVolumesRequest) -> ListVolumesResponse;
    controller_list_volume_health(ControllerListVolumeHealthRequest) -> ControllerListVolumeHealthResponse;
    controller_get_volume_health(ControllerGetVolumeHealthRequest) -> ControllerGetVolumeHealthResponse;
    get_capacity(GetCapacityRequest) -> GetCapacityResponse;
    create_snapshot(CreateSnapshotRequest) -> CreateSnapshotResponse;
    delete_snapshot(DeleteSnapshotRequest) -> DeleteSnapshotResponse;
    list_snapshots(ListSnapshotsRequest) -> ListSnapshotsResponse;
    get_snapshot(GetSnapshotRequest) -> GetSnapshotResponse;
    controller_expand_volume(ControllerExpandVolumeRequest) -> ControllerExpandVolumeResponse;
    controller_get_volume(ControllerGetVolumeRequest) -> ControllerGetVolumeResponse;
    controller_modify_volume(ControllerModifyVolumeRequest) -> ControllerModifyVolumeResponse;
}

/// Refusals are the caller's to act on; what went wrong here is also logged.
fn log_refusal(status: &Status) {
    if status.code() == tonic::Code::Internal {
        tracing::warn!(error = status.message(), "a CSI call failed");
    } else {
        tracing::debug!(code = ?status.code(), reason = status.message(), "a CSI call was refused");
    }
}
