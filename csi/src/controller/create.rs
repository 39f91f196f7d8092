//! CreateVolume: the same name is the same volume, whatever became of the call before.

use ashlar_proto::api::{CreateVolume, Reserve, ReserveVolume, Volume, VolumeState};
use tonic::Status;

use super::ControllerService;
use super::source::Source;
use crate::capability::{Capability, Shape};
use crate::handle::VolumeHandle;
use crate::parameters::{Parameters, REPLICAS_DEFAULT};
use crate::protocol::{self as csi, CreateVolumeRequest, CreateVolumeResponse};
use crate::refusal;
use crate::sizes::{SizeRange, to_wire};
use crate::{names, topology};

/// The longest name, in bytes (the specification's size limits).
const CO_NAME_BYTES_MAX: usize = 128;

impl ControllerService {
    /// Makes the volume, or finds it made.
    pub(super) async fn create_volume(
        &self,
        request: CreateVolumeRequest,
    ) -> Result<CreateVolumeResponse, Status> {
        let name = checked_name(&request.name)?;
        let capabilities = Capability::all(&request.volume_capabilities)?;
        let parameters = Parameters::of(&request.parameters, &request.mutable_parameters)?;
        check_file_systems(&capabilities, &parameters)?;
        let sizes = SizeRange::of(request.capacity_range.as_ref())?;
        let near = parameters.near.as_deref();
        let near =
            near.map(|label| topology::near(request.accessibility_requirements.as_ref(), label));
        let near = near.transpose()?;
        let near = near.as_deref();
        let _hold = self.begin(&name, "CreateVolume")?;

        let asked = request.volume_content_source;
        let source = self.source(&name, asked.as_ref()).await?;
        let volume = match self.find_named(&name).await? {
            Some(volume) => {
                check_same(&volume, sizes, &parameters, source.as_ref())?;
                check_ready(volume)?
            }
            None => {
                self.make(&name, sizes, (&parameters, near), source.as_ref())
                    .await?
            }
        };
        if let Some(source) = &source {
            self.drop_copy_snapshot(source).await?;
            // It is made without them.
            let settings = parameters.settings_of_copy(near);
            self.limit(&volume, &settings).await?;
        }
        let volume = self
            .keep_reserve(volume, parameters.mutable.reserve)
            .await?;
        Ok(CreateVolumeResponse {
            volume: Some(csi::Volume {
                capacity_bytes: to_wire(volume.size_bytes),
                volume_id: VolumeHandle::of(&volume).to_string(),
                volume_context: parameters.context(),
                content_source: asked,
                accessible_topology: Vec::new(),
            }),
        })
    }

    async fn make(
        &self,
        name: &str,
        sizes: SizeRange,
        (parameters, near): (&Parameters, Option<&str>),
        source: Option<&Source>,
    ) -> Result<Volume, Status> {
        let made = match source {
            None => {
                let request = CreateVolume {
                    settings: parameters.settings(near),
                    name: name.to_owned(),
                    size_bytes: sizes.choose(None)?,
                    replicas: parameters.replicas.unwrap_or(REPLICAS_DEFAULT),
                    ack: parameters.ack.unwrap_or_default(),
                    reserve: parameters.mutable.reserve.unwrap_or_default(),
                    labels: std::collections::BTreeMap::new(),
                };
                let made = self.api.create_volume(&request).await;
                made.map_err(refusal::of_making)?
            }
            Some(source) => self.clone_from(name, sizes, parameters, source).await?,
        };
        check_ready(made)
    }

    /// Gives the volume the reserve that was asked for; a clone is made without.
    async fn keep_reserve(
        &self,
        volume: Volume,
        reserve: Option<Reserve>,
    ) -> Result<Volume, Status> {
        match reserve {
            Some(reserve) if reserve != volume.reserve => {
                let request = ReserveVolume { reserve };
                let kept = self.api.reserve_volume(&volume.name, &request).await;
                kept.map_err(refusal::of_api)
            }
            _ => Ok(volume),
        }
    }
}

/// The volume, if its stores hold its replicas. The calls that make one have waited for that.
fn check_ready(volume: Volume) -> Result<Volume, Status> {
    match volume.state {
        VolumeState::Ready => Ok(volume),
        VolumeState::Creating => Err(Status::unavailable(format!(
            "volume `{}` is still being made: its stores have not said that they hold it; try again",
            volume.name
        ))),
        VolumeState::Deleting => Err(Status::aborted(format!(
            "volume `{}` is being deleted: try again",
            volume.name
        ))),
    }
}

/// The cluster's name for what a CO wants to call `name`.
///
/// # Errors
/// INVALID_ARGUMENT for none, or one that is longer than the specification allows.
pub(crate) fn checked_name(name: &str) -> Result<String, Status> {
    let name = refusal::required("name", name)?;
    if name.len() > CO_NAME_BYTES_MAX {
        return Err(Status::invalid_argument(format!(
            "a name of {} bytes is given, and {CO_NAME_BYTES_MAX} are possible",
            name.len()
        )));
    }
    Ok(names::of(name))
}

/// A file system that a capability names is the one that the parameters name, if both do.
fn check_file_systems(capabilities: &[Capability], parameters: &Parameters) -> Result<(), Status> {
    for capability in capabilities {
        if let Shape::Mount {
            fs: Some(asked), ..
        } = capability.shape
            && let Some(given) = parameters.fs
            && asked != given
        {
            return Err(Status::invalid_argument(format!(
                "the capability asks for {asked}, the parameter `fsType` for {given}"
            )));
        }
    }
    Ok(())
}

/// What has the name is what is asked for.
fn check_same(
    volume: &Volume,
    sizes: SizeRange,
    parameters: &Parameters,
    source: Option<&Source>,
) -> Result<(), Status> {
    let size = volume.grows_to.unwrap_or(volume.size_bytes);
    let differs = if !sizes.holds(size) {
        format!("of {size} bytes")
    } else if !parameters.fit(volume) {
        format!(
            "with {} replicas and another rule of acknowledgement",
            volume.replicas
        )
    } else if !Source::is_of(source, volume) {
        "with another source".to_owned()
    } else {
        return Ok(());
    };
    Err(Status::already_exists(format!(
        "there is a volume `{}` {differs}: choose another name, or delete it first",
        volume.name
    )))
}
