//! Changes of a volume that exists: its size, what is kept for it; and what it could be used for.

use std::collections::BTreeMap;

use ashlar_proto::api::{ChangeSettings, ReserveVolume, ResizeVolume, Volume};
use tonic::Status;

use super::ControllerService;
use crate::capability::{Capability, Shape};
use crate::parameters::{Mutable, Parameters, fs_of_context};
use crate::protocol::validate_volume_capabilities_response::Confirmed;
use crate::protocol::{
    ControllerExpandVolumeRequest, ControllerExpandVolumeResponse, ControllerModifyVolumeRequest,
    ControllerModifyVolumeResponse, ValidateVolumeCapabilitiesRequest,
    ValidateVolumeCapabilitiesResponse,
};
use crate::refusal;
use crate::sizes::{SizeRange, to_wire};

impl ControllerService {
    /// Grows the volume, attached or not. One that is as large already stays as it is.
    pub(super) async fn controller_expand_volume(
        &self,
        request: ControllerExpandVolumeRequest,
    ) -> Result<ControllerExpandVolumeResponse, Status> {
        refusal::required("volume_id", &request.volume_id)?;
        let asked = request.capacity_range.as_ref();
        let sizes = SizeRange::of(Some(
            asked.ok_or_else(|| refusal::missing("capacity_range"))?,
        ))?;
        let capability = request.volume_capability.as_ref();
        let capability = capability
            .map(|one| Capability::of(Some(one)))
            .transpose()?;
        let volume = self.require(&request.volume_id).await?;
        let _hold = self.begin(&volume.name, "ControllerExpandVolume")?;
        let wanted = sizes.choose(Some(volume.size_bytes))?;
        let grown = if wanted == volume.size_bytes && volume.grows_to.is_none() {
            volume
        } else {
            let request = ResizeVolume {
                size_bytes: wanted.max(volume.grows_to.unwrap_or_default()),
                shrink: false,
                generation: None,
            };
            let grown = self.api.resize_volume(&volume.name, &request).await;
            grown.map_err(refusal::of_api)?
        };
        if grown.size_bytes < wanted {
            return Err(Status::unavailable(format!(
                "volume `{}` is still growing: a store that holds it in sync has not answered; try again",
                grown.name
            )));
        }
        let is_block = capability.is_some_and(|one| one.shape == Shape::Block);
        Ok(ControllerExpandVolumeResponse {
            capacity_bytes: to_wire(grown.size_bytes),
            node_expansion_required: !is_block,
        })
    }

    /// Changes what a VolumeAttributesClass can say.
    pub(super) async fn controller_modify_volume(
        &self,
        request: ControllerModifyVolumeRequest,
    ) -> Result<ControllerModifyVolumeResponse, Status> {
        let volume = self.require(&request.volume_id).await?;
        let changes = Mutable::of(&request.mutable_parameters)?;
        let _hold = self.begin(&volume.name, "ControllerModifyVolume")?;
        if let Some(reserve) = changes.reserve {
            let request = ReserveVolume { reserve };
            let changed = self.api.reserve_volume(&volume.name, &request).await;
            changed.map_err(refusal::of_api)?;
        }
        self.limit(&volume, &changes.limits).await?;
        Ok(ControllerModifyVolumeResponse {})
    }

    /// Gives the volume these limits; others that it has stay.
    pub(super) async fn limit(
        &self,
        volume: &Volume,
        limits: &BTreeMap<String, String>,
    ) -> Result<(), Status> {
        if limits.is_empty() {
            return Ok(());
        }
        let request = ChangeSettings {
            volume: Some(volume.name.clone()),
            set: limits.clone(),
            unset: Vec::new(),
        };
        let changed = self.api.change_settings(&request).await;
        changed.map(drop).map_err(refusal::of_api)
    }

    /// Says whether the volume can be used so. What no volume can is no error, but not confirmed.
    pub(super) async fn validate_volume_capabilities(
        &self,
        request: ValidateVolumeCapabilitiesRequest,
    ) -> Result<ValidateVolumeCapabilitiesResponse, Status> {
        refusal::required("volume_id", &request.volume_id)?;
        if request.volume_capabilities.is_empty() {
            return Err(refusal::missing("volume_capabilities"));
        }
        let volume = self.require(&request.volume_id).await?;
        let checked = || {
            Capability::all(&request.volume_capabilities)?;
            fs_of_context(&request.volume_context)?;
            let parameters = Parameters::of(&request.parameters, &request.mutable_parameters)?;
            if parameters.fit(&volume) {
                Ok(())
            } else {
                Err(Status::invalid_argument("the volume has other parameters"))
            }
        };
        Ok(match checked() {
            Ok(()) => ValidateVolumeCapabilitiesResponse {
                confirmed: Some(Confirmed {
                    volume_context: request.volume_context,
                    volume_capabilities: request.volume_capabilities,
                    parameters: request.parameters,
                    mutable_parameters: request.mutable_parameters,
                }),
                message: String::new(),
            },
            Err(refused) => ValidateVolumeCapabilitiesResponse {
                confirmed: None,
                message: refused.message().to_owned(),
            },
        })
    }
}
