//! The node service: devices, file systems and mounts of this host.
//!
//! ```text
//! stage:    attach ── find or make the file system ── mount at the staging path
//! publish:  bind mount of the staging path, or of the device for a block volume, at the target path
//! ```
//!
//! Each step looks at what is there and does what is missing; what is remembered is that
//! a device is being formatted, so that a driver which died between two steps goes on where it was.

mod formatting;
mod mounts;
mod publish;
mod stage;
mod usage;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::attacher::Attacher;
use crate::handle::VolumeHandle;
use crate::in_progress::{Hold, InProgress};
use crate::node_id::NodeName;
use crate::protocol as csi;
use crate::protocol::node_server::Node;
use crate::protocol::node_service_capability::rpc::Type as Ability;
use crate::protocol::node_service_capability::{Rpc, Type};
use crate::refusal;
use crate::server::NodeOptions;
use crate::topology::NodeTopology;

/// What the node can do.
const ABILITIES: [Ability; 4] = [
    Ability::StageUnstageVolume,
    Ability::GetVolumeStats,
    Ability::ExpandVolume,
    Ability::SingleNodeMultiWriter,
];

/// The service.
#[derive(Debug)]
pub(crate) struct NodeService {
    name: NodeName,
    attacher: Arc<dyn Attacher>,
    topology: NodeTopology,
    state: PathBuf,
    pending: InProgress,
}

impl NodeService {
    /// The service of a host.
    pub fn new(host: NodeOptions) -> Self {
        Self {
            name: host.name,
            attacher: host.attacher,
            topology: host.topology,
            state: host.state,
            pending: InProgress::default(),
        }
    }

    /// Begins a change of a volume on this host.
    fn begin(&self, volume: &VolumeHandle, what: &'static str) -> Result<Hold, Status> {
        self.pending.begin(format!("volume {volume}"), what)
    }
}

/// The volume that a request names; one whose handle cannot be read is none.
fn volume_of(text: &str) -> Result<VolumeHandle, Status> {
    let text = refusal::required("volume_id", text)?;
    VolumeHandle::parse(text).ok_or_else(|| refusal::no_volume(text))
}

/// A path that a request must give.
fn path_of<'a>(field: &str, text: &'a str) -> Result<&'a Path, Status> {
    let path = Path::new(refusal::required(field, text)?);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(Status::invalid_argument(format!(
            "`{field}` is `{text}`: give an absolute path"
        )))
    }
}

/// Passes a call on to the method of the same name, and its answer back.
macro_rules! calls {
    ($($name:ident($request:ident) -> $answer:ident;)*) => {
        #[tonic::async_trait]
        impl Node for NodeService {
            $(
                async fn $name(
                    &self,
                    request: Request<csi::$request>,
                ) -> Result<Response<csi::$answer>, Status> {
                    let answer = NodeService::$name(self, request.into_inner()).await;
                    answer.map(Response::new).inspect_err(|status| {
                        tracing::info!(code = ?status.code(), reason = status.message(),
                            concat!(stringify!($name), " was refused"));
                    })
                }
            )*

            async fn node_get_info(
                &self,
                _: Request<csi::NodeGetInfoRequest>,
            ) -> Result<Response<csi::NodeGetInfoResponse>, Status> {
                Ok(Response::new(csi::NodeGetInfoResponse {
                    node_id: self.name.to_id(),
                    max_volumes_per_node: 0,
                    accessible_topology: Some(self.topology.segments(&self.name).await?),
                }))
            }

            async fn node_get_capabilities(
                &self,
                _: Request<csi::NodeGetCapabilitiesRequest>,
            ) -> Result<Response<csi::NodeGetCapabilitiesResponse>, Status> {
                let capabilities = ABILITIES.into_iter().map(|ability| {
                    let rpc = Rpc { r#type: ability.into() };
                    csi::NodeServiceCapability { r#type: Some(Type::Rpc(rpc)) }
                });
                Ok(Response::new(csi::NodeGetCapabilitiesResponse {
                    capabilities: capabilities.collect(),
                }))
            }

            async fn node_get_volume_health(
                &self,
                _: Request<csi::NodeGetVolumeHealthRequest>,
            ) -> Result<Response<csi::NodeGetVolumeHealthResponse>, Status> {
                Err(Status::unimplemented("nodes do not say how volumes are: ask the controller"))
            }

            async fn node_get_storage_health(
                &self,
                _: Request<csi::NodeGetStorageHealthRequest>,
            ) -> Result<Response<csi::NodeGetStorageHealthResponse>, Status> {
                Err(Status::unimplemented("nodes do not say how the cluster is"))
            }
        }
    };
}

calls! {
    node_stage_volume(NodeStageVolumeRequest) -> NodeStageVolumeResponse;
    node_unstage_volume(NodeUnstageVolumeRequest) -> NodeUnstageVolumeResponse;
    node_publish_volume(NodePublishVolumeRequest) -> NodePublishVolumeResponse;
    node_unpublish_volume(NodeUnpublishVolumeRequest) -> NodeUnpublishVolumeResponse;
    node_get_volume_stats(NodeGetVolumeStatsRequest) -> NodeGetVolumeStatsResponse;
    node_expand_volume(NodeExpandVolumeRequest) -> NodeExpandVolumeResponse;
}
