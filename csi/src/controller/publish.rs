//! ControllerPublishVolume and its end: which node may have a volume. The conductor knows, and fences the node
//! that has it no more.

use ashlar_proto::api::{PublishVolume, UnpublishVolume, VolumeState};
use tonic::Status;

use super::ControllerService;
use crate::capability::Capability;
use crate::handle::VolumeHandle;
use crate::node_id::NodeName;
use crate::protocol::{
    ControllerPublishVolumeRequest, ControllerPublishVolumeResponse,
    ControllerUnpublishVolumeRequest, ControllerUnpublishVolumeResponse,
};
use crate::publish_context::PublishContext;
use crate::refusal;

impl ControllerService {
    /// Publishes the volume to a node.
    pub(super) async fn controller_publish_volume(
        &self,
        request: ControllerPublishVolumeRequest,
    ) -> Result<ControllerPublishVolumeResponse, Status> {
        refusal::required("volume_id", &request.volume_id)?;
        let node_id = refusal::required("node_id", &request.node_id)?;
        let capability = Capability::of(request.volume_capability.as_ref())?;
        let volume = self.require(&request.volume_id).await?;
        let node = NodeName::of_id(node_id)
            .ok_or_else(|| Status::not_found(format!("there is no node `{node_id}`")))?;
        let _hold = self.begin(&volume.name, "ControllerPublishVolume")?;
        if volume.state != VolumeState::Ready {
            return Err(Status::aborted(format!(
                "volume `{}` is still being made: try again",
                volume.name
            )));
        }
        let read_only = request.readonly || capability.read_only;
        let publish = PublishVolume {
            volume: volume.id,
            node: node.to_string(),
            read_only,
        };
        let published = self.api.publish_volume(&volume.name, &publish).await;
        let published = published.map_err(refusal::of_api)?;
        let publication = published.publication;
        let Some(publication) = publication.filter(|one| one.node == publish.node) else {
            return Err(Status::aborted(format!(
                "volume `{}` was unpublished meanwhile: try again",
                volume.name
            )));
        };
        Ok(ControllerPublishVolumeResponse {
            publish_context: PublishContext::new(publication.id, read_only).to_map(),
        })
    }

    /// Takes the volume from a node, or from all where none is named. What is not there, or not
    /// published, is done.
    pub(super) async fn controller_unpublish_volume(
        &self,
        request: ControllerUnpublishVolumeRequest,
    ) -> Result<ControllerUnpublishVolumeResponse, Status> {
        let text = refusal::required("volume_id", &request.volume_id)?;
        let done = ControllerUnpublishVolumeResponse {};
        let Some(handle) = VolumeHandle::parse(text) else {
            return Ok(done);
        };
        let node = NodeName::of_id(&request.node_id);
        if node.is_none() && !request.node_id.is_empty() {
            return Ok(done);
        }
        let _hold = self.begin(&handle.name, "ControllerUnpublishVolume")?;
        let unpublish = UnpublishVolume {
            volume: handle.id,
            node: node.map(|node| node.to_string()),
        };
        match self.api.unpublish_volume(&handle.name, &unpublish).await {
            Ok(_) => Ok(done),
            Err(error) => match error.problem().map(|problem| problem.code.as_str()) {
                // It is gone, and its name may be another volume's.
                Some("volume-not-found" | "stale-generation") => Ok(done),
                _ => Err(refusal::of_api(error)),
            },
        }
    }
}
