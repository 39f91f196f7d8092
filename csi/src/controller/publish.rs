//! ControllerPublishVolume and its end: which node may have a volume.

use std::collections::HashMap;

use ashlar_proto::api::VolumeState;
use tonic::Status;

use super::ControllerService;
use crate::capability::Capability;
use crate::handle::VolumeHandle;
use crate::node_id::NodeName;
use crate::protocol::{
    ControllerPublishVolumeRequest, ControllerPublishVolumeResponse,
    ControllerUnpublishVolumeRequest, ControllerUnpublishVolumeResponse,
};
use crate::publications::Publication;
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
        self.publications
            .publish(volume.id, Publication { node, read_only })?;
        let context = [("export", volume.name), ("readonly", read_only.to_string())];
        let context = context
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value));
        Ok(ControllerPublishVolumeResponse {
            publish_context: context.collect::<HashMap<_, _>>(),
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
        self.publications.unpublish(handle.id, node.as_ref());
        Ok(done)
    }
}
