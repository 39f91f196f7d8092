//! What volumes there are, and where they are published.

use std::collections::HashMap;

use ashlar_proto::api::{Volume, VolumeState};
use tonic::Status;

use super::ControllerService;
use crate::handle::VolumeHandle;
use crate::node_id::NodeName;
use crate::pages::page;
use crate::protocol::{self as csi, controller_get_volume_response, list_volumes_response};
use crate::refusal;
use crate::sizes::to_wire;

impl ControllerService {
    /// The volumes by age; those that are being deleted are left out.
    pub(super) async fn list_volumes(
        &self,
        request: csi::ListVolumesRequest,
    ) -> Result<csi::ListVolumesResponse, Status> {
        let listed = self.api.volumes().await.map_err(refusal::of_api)?.items;
        let there = |volume: &Volume| volume.state != VolumeState::Deleting;
        let volumes: Vec<Volume> = listed.into_iter().filter(there).collect();
        let key = |volume: &Volume| (volume.id.get(), 0);
        let page = page(volumes, request.max_entries, &request.starting_token, key)?;
        let entries = page
            .items
            .iter()
            .map(|volume| list_volumes_response::Entry {
                volume: Some(to_protocol(volume)),
                status: Some(list_volumes_response::VolumeStatus {
                    published_node_ids: published_node_ids(volume),
                }),
            });
        Ok(csi::ListVolumesResponse {
            entries: entries.collect(),
            next_token: page.next,
        })
    }

    /// One volume.
    pub(super) async fn controller_get_volume(
        &self,
        request: csi::ControllerGetVolumeRequest,
    ) -> Result<csi::ControllerGetVolumeResponse, Status> {
        let volume = self.require(&request.volume_id).await?;
        Ok(csi::ControllerGetVolumeResponse {
            volume: Some(to_protocol(&volume)),
            status: Some(controller_get_volume_response::VolumeStatus {
                published_node_ids: published_node_ids(&volume),
            }),
        })
    }
}

/// Where a volume is published, unless that is no node of ours.
fn published_node_ids(volume: &Volume) -> Vec<String> {
    let published = volume.publication.iter();
    let nodes = published.filter_map(|one| one.node.parse::<NodeName>().ok());
    nodes.map(|node| node.to_id()).collect()
}

fn to_protocol(volume: &Volume) -> csi::Volume {
    csi::Volume {
        capacity_bytes: to_wire(volume.size_bytes),
        volume_id: VolumeHandle::of(volume).to_string(),
        volume_context: HashMap::new(),
        content_source: None,
        accessible_topology: Vec::new(),
    }
}
