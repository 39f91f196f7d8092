//! What a container orchestrator does with a volume, call by call, as often as it takes.

use crate::csi::protocol as csi;
use anyhow::{Result, bail};
use csi::controller_client::ControllerClient;
use csi::node_client::NodeClient;
use csi::volume_capability::access_mode::Mode;
use csi::volume_capability::{AccessMode, AccessType, MountVolume};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// How long a call may be repeated.
const LIMIT: Duration = Duration::from_secs(120);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// What a volume's life is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the call of that name")]
pub enum Step {
    Create,
    Publish,
    Stage,
    NodePublish,
    NodeUnpublish,
    Unstage,
    Unpublish,
    Delete,
}

/// In order.
pub const STEPS: [Step; 8] = [
    Step::Create,
    Step::Publish,
    Step::Stage,
    Step::NodePublish,
    Step::NodeUnpublish,
    Step::Unstage,
    Step::Unpublish,
    Step::Delete,
];

/// What a CO knows of a volume, and where it wants it.
#[derive(Clone, Debug)]
pub struct Life {
    /// The driver's.
    pub socket: PathBuf,
    /// The volume's name.
    pub name: String,
    /// Where it is staged.
    pub staging: PathBuf,
    /// Where a workload finds it.
    pub target: PathBuf,
    volume: Option<csi::Volume>,
    publish_context: HashMap<String, String>,
}

fn capability() -> Option<csi::VolumeCapability> {
    let mode = Mode::SingleNodeWriter.into();
    Some(csi::VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume::default())),
        access_mode: Some(AccessMode { mode }),
    })
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

impl Life {
    /// Of a volume that is not made yet, below a directory.
    #[must_use]
    pub fn new(socket: PathBuf, directory: &Path, name: &str) -> Self {
        Self {
            socket,
            name: name.to_owned(),
            staging: directory.join(format!("staging-{name}")),
            target: directory.join(format!("target-{name}")),
            volume: None,
            publish_context: HashMap::new(),
        }
    }

    async fn channel(&self) -> Result<Channel, Status> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.socket.display()));
        let endpoint = endpoint.map_err(|error| Status::internal(error.to_string()))?;
        let channel = endpoint.connect().await;
        channel.map_err(|error| Status::unavailable(error.to_string()))
    }

    fn id(&self) -> String {
        self.volume
            .as_ref()
            .map(|volume| volume.volume_id.clone())
            .unwrap_or_default()
    }

    /// One call.
    ///
    /// # Errors
    ///
    /// The status that it ends with.
    pub async fn call(&mut self, step: Step) -> Result<(), Status> {
        let channel = self.channel().await?;
        let mut controller = ControllerClient::new(channel.clone());
        let mut node = NodeClient::new(channel);
        let (volume_id, node_id) = (self.id(), "ashlar/node-a".to_owned());
        match step {
            Step::Create => {
                let range = csi::CapacityRange {
                    required_bytes: 64 << 20,
                    limit_bytes: 0,
                };
                let request = csi::CreateVolumeRequest {
                    name: self.name.clone(),
                    capacity_range: Some(range),
                    volume_capabilities: capability().into_iter().collect(),
                    ..Default::default()
                };
                self.volume = controller.create_volume(request).await?.into_inner().volume;
            }
            Step::Publish => {
                let request = csi::ControllerPublishVolumeRequest {
                    volume_id,
                    node_id,
                    volume_capability: capability(),
                    ..Default::default()
                };
                let published = controller.controller_publish_volume(request).await?;
                self.publish_context = published.into_inner().publish_context;
            }
            Step::Stage => {
                let request = csi::NodeStageVolumeRequest {
                    volume_id,
                    staging_target_path: text(&self.staging),
                    volume_capability: capability(),
                    publish_context: self.publish_context.clone(),
                    ..Default::default()
                };
                node.node_stage_volume(request).await?;
            }
            Step::NodePublish => {
                let request = csi::NodePublishVolumeRequest {
                    volume_id,
                    staging_target_path: text(&self.staging),
                    target_path: text(&self.target),
                    volume_capability: capability(),
                    publish_context: self.publish_context.clone(),
                    ..Default::default()
                };
                node.node_publish_volume(request).await?;
            }
            Step::NodeUnpublish => {
                let target_path = text(&self.target);
                let request = csi::NodeUnpublishVolumeRequest {
                    volume_id,
                    target_path,
                };
                node.node_unpublish_volume(request).await?;
            }
            Step::Unstage => {
                let staging_target_path = text(&self.staging);
                let request = csi::NodeUnstageVolumeRequest {
                    volume_id,
                    staging_target_path,
                };
                node.node_unstage_volume(request).await?;
            }
            Step::Unpublish => {
                let request = csi::ControllerUnpublishVolumeRequest {
                    volume_id,
                    node_id,
                    ..Default::default()
                };
                controller.controller_unpublish_volume(request).await?;
            }
            Step::Delete => {
                let request = csi::DeleteVolumeRequest {
                    volume_id,
                    ..Default::default()
                };
                controller.delete_volume(request).await?;
            }
        }
        Ok(())
    }

    /// Repeats a call as a CO does, until it is answered with success.
    ///
    /// # Errors
    ///
    /// If it is refused for good, or for too long.
    pub fn until_done(&mut self, runtime: &Runtime, step: Step) -> Result<()> {
        runtime.block_on(self.repeat(step))
    }

    /// The same within a task.
    ///
    /// # Errors
    ///
    /// As [`Life::until_done`].
    pub async fn repeat(&mut self, step: Step) -> Result<()> {
        let end = Instant::now() + LIMIT;
        loop {
            match self.call(step).await {
                Ok(()) => return Ok(()),
                // What a CO takes for "again": the call may be under way, or something not over yet.
                Err(status)
                    if Instant::now() < end
                        && matches!(
                            status.code(),
                            Code::Aborted
                                | Code::Unavailable
                                | Code::FailedPrecondition
                                | Code::Internal
                                | Code::Cancelled
                                | Code::Unknown
                        ) =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(status) => bail!("{step:?} of {}: {status:?}", self.name),
            }
        }
    }
}
