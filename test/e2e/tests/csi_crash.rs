//! The CSI driver is killed in the middle of each step of a volume's life. The call is repeated, as COs
//! do, and comes to the same end; nothing is left on the host or in the cluster.

use anyhow::{Result, bail, ensure};
use ashlar_e2e::Cluster;
use ashlar_e2e::csi::Driver;
use ashlar_e2e::csi::protocol as csi;
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
/// How long after the call begins the driver is killed.
const DELAYS_MS: [u64; 5] = [0, 10, 40, 120, 400];

/// What a volume's life is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    Publish,
    Stage,
    NodePublish,
    NodeUnpublish,
    Unstage,
    Unpublish,
    Delete,
}

const STEPS: [Step; 8] = [
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
struct Life {
    socket: PathBuf,
    name: String,
    staging: PathBuf,
    target: PathBuf,
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

    async fn call(&mut self, step: Step) -> Result<(), Status> {
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
    fn until_done(&mut self, runtime: &Runtime, step: Step) -> Result<()> {
        let end = Instant::now() + LIMIT;
        loop {
            match runtime.block_on(self.call(step)) {
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
                    std::thread::sleep(Duration::from_millis(200));
                }
                Err(status) => bail!("{step:?} of {}: {status:?}", self.name),
            }
        }
    }
}

/// A workload that writes where the volume is published.
fn write_mark(target: &Path, mark: &str) -> Result<()> {
    let file = target.join("mark");
    std::fs::write(&file, mark)?;
    std::fs::File::open(&file)?.sync_all()?;
    Ok(())
}

/// One that finds what was written.
fn check_mark(target: &Path, mark: &str) -> Result<()> {
    let found = std::fs::read_to_string(target.join("mark"))?;
    ensure!(found == mark, "{} holds {found:?}", target.display());
    Ok(())
}

#[test]
fn killed_in_any_step_the_driver_comes_to_the_same_end() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let cluster = Cluster::up()?;
    let mut driver = Driver::start(&cluster)?;
    for (round, delay_ms) in DELAYS_MS.into_iter().enumerate() {
        let mut life = Life {
            socket: driver.socket(),
            name: format!("life-{round}"),
            staging: driver.directory().join(format!("staging-{round}")),
            target: driver.directory().join(format!("target-{round}")),
            volume: None,
            publish_context: HashMap::new(),
        };
        for step in STEPS {
            if step == Step::NodeUnpublish {
                write_mark(&life.target, &life.name)?;
            }
            let mut first = life.clone();
            let call = runtime.spawn(async move { first.call(step).await });
            std::thread::sleep(Duration::from_millis(delay_ms));
            driver.kill_and_restart()?;
            let _ = runtime.block_on(call);
            life.until_done(&runtime, step)?;
            // Once more changes nothing.
            life.until_done(&runtime, step)?;
            if step == Step::Unstage {
                for again in [Step::Stage, Step::NodePublish] {
                    life.until_done(&runtime, again)?;
                }
                check_mark(&life.target, &life.name)?;
                for again in [Step::NodeUnpublish, Step::Unstage] {
                    life.until_done(&runtime, again)?;
                }
            }
        }
        driver.check_clean()?;
    }
    let volumes = cluster.json(["volume", "list"])?;
    let left = volumes.to_string().contains("life-");
    ensure!(!left, "left in the cluster: {volumes}");
    Ok(())
}
