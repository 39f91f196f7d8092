//! A cluster and a CSI controller on this machine, and guests with a CSI node each: what a CO would do with
//! them, call by call.

use anyhow::{Context, Result, bail, ensure};
use ashlar_e2e::csi::{Driver, protocol as csi};
use ashlar_e2e::{Cluster, ClusterOptions, Guest};
use csi::controller_client::ControllerClient;
use csi::node_client::NodeClient;
use csi::volume_capability::access_mode::Mode;
use csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// How long a call may be repeated.
const LIMIT: Duration = Duration::from_secs(90);
/// How long one call may take: one that hangs is asked again, as by a CO.
const CALL_LIMIT: Duration = Duration::from_secs(45);
/// The names of the guests' nodes.
const NODES: [&str; 2] = ["guest-a", "guest-b"];

/// What does in a guest what it is asked to.
const AGENT: &str = env!("CARGO_BIN_EXE_guest-agent");

/// What is done with a volume on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Publish,
    Stage,
    NodePublish,
    NodeUnpublish,
    Unstage,
    Unpublish,
}

/// In the order of a volume's life, with the point where it is used after the first ones.
pub const UP: [Step; 3] = [Step::Publish, Step::Stage, Step::NodePublish];
pub const DOWN: [Step; 3] = [Step::NodeUnpublish, Step::Unstage, Step::Unpublish];

/// A volume, and where it is wanted in the guest.
#[derive(Clone, Debug)]
pub struct Volume {
    pub id: String,
    pub name: String,
    pub fs: &'static str,
    pub context: HashMap<String, String>,
    /// The number of its node.
    pub node: usize,
    /// What the controller said when it was published last, whichever call asked.
    published: Arc<Mutex<HashMap<String, String>>>,
}

impl Volume {
    /// The same for another node.
    pub fn on(&self, node: usize) -> Self {
        Self {
            node,
            published: Arc::default(),
            ..self.clone()
        }
    }

    fn publish_context(&self) -> HashMap<String, String> {
        let published = self.published.lock();
        published.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where the guest finds it.
    pub fn target(&self) -> String {
        format!("/var/csi/{}/target", self.name)
    }

    fn staging(&self) -> String {
        format!("/var/csi/{}/staging", self.name)
    }

    /// A file system, or, where none is named, a block device.
    fn capability(&self) -> Option<csi::VolumeCapability> {
        let mode = Mode::SingleNodeWriter.into();
        let access = if self.fs.is_empty() {
            AccessType::Block(BlockVolume {})
        } else {
            AccessType::Mount(MountVolume {
                fs_type: self.fs.to_owned(),
                ..MountVolume::default()
            })
        };
        Some(csi::VolumeCapability {
            access_type: Some(access),
            access_mode: Some(AccessMode { mode }),
        })
    }
}

/// What a new volume is made of.
pub type Source = csi::volume_content_source::Type;

/// Where the driver's two halves listen.
#[derive(Clone, Debug)]
pub struct Links {
    controller: PathBuf,
    nodes: Vec<u16>,
}

impl Links {
    async fn controller(&self) -> Result<ControllerClient<Channel>, Status> {
        let endpoint = format!("unix://{}", self.controller.display());
        connect(endpoint).await.map(ControllerClient::new)
    }

    async fn node(&self, number: usize) -> Result<NodeClient<Channel>, Status> {
        let endpoint = format!("http://127.0.0.1:{}", self.nodes[number]);
        connect(endpoint).await.map(NodeClient::new)
    }

    /// One call of a volume's life.
    pub async fn call(&self, step: Step, volume: &Volume) -> Result<(), Status> {
        let volume_id = volume.id.clone();
        let node_id = format!("ashlar/{}", NODES[volume.node]);
        let (staging_target_path, target_path) = (volume.staging(), volume.target());
        let volume_capability = volume.capability();
        let volume_context = volume.context.clone();
        let publish_context = volume.publish_context();
        match step {
            Step::Publish => {
                let request = csi::ControllerPublishVolumeRequest {
                    volume_id,
                    node_id,
                    volume_capability,
                    volume_context,
                    ..Default::default()
                };
                let mut controller = self.controller().await?;
                let published = controller.controller_publish_volume(request).await?;
                let mut known = volume
                    .published
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                *known = published.into_inner().publish_context;
            }
            Step::Stage => {
                let request = csi::NodeStageVolumeRequest {
                    volume_id,
                    staging_target_path,
                    volume_capability,
                    volume_context,
                    publish_context,
                    ..Default::default()
                };
                self.node(volume.node)
                    .await?
                    .node_stage_volume(request)
                    .await?;
            }
            Step::NodePublish => {
                let request = csi::NodePublishVolumeRequest {
                    volume_id,
                    staging_target_path,
                    target_path,
                    volume_capability,
                    volume_context,
                    publish_context,
                    ..Default::default()
                };
                self.node(volume.node)
                    .await?
                    .node_publish_volume(request)
                    .await?;
            }
            Step::NodeUnpublish => {
                let request = csi::NodeUnpublishVolumeRequest {
                    volume_id,
                    target_path,
                };
                self.node(volume.node)
                    .await?
                    .node_unpublish_volume(request)
                    .await?;
            }
            Step::Unstage => {
                let request = csi::NodeUnstageVolumeRequest {
                    volume_id,
                    staging_target_path,
                };
                self.node(volume.node)
                    .await?
                    .node_unstage_volume(request)
                    .await?;
            }
            Step::Unpublish => {
                let request = csi::ControllerUnpublishVolumeRequest {
                    volume_id,
                    node_id,
                    ..Default::default()
                };
                let mut controller = self.controller().await?;
                controller.controller_unpublish_volume(request).await?;
            }
        }
        Ok(())
    }
}

fn run_node(guest: &Guest, command: &str, name: &str) -> Result<()> {
    let script = format!("{command} --node-id {name} >>/tmp/csi.log 2>&1 & echo $! >/run/csi.pid");
    guest.sh(&script).map(drop)
}

async fn connect(endpoint: String) -> Result<Channel, Status> {
    let endpoint = Endpoint::from_shared(endpoint);
    let endpoint = endpoint.map_err(|error| Status::internal(error.to_string()))?;
    let channel = endpoint.connect().await;
    channel.map_err(|error| Status::unavailable(error.to_string()))
}

/// The guest goes first: its connections need the cluster to end well.
pub struct Bench {
    pub guest: Guest,
    pub other: Option<Guest>,
    pub cluster: Cluster,
    pub links: Links,
    pub runtime: Runtime,
    /// The command that runs a node, in its guest, but for the node's name.
    node_command: String,
    _controller: Driver,
}

impl Bench {
    /// A process for each role, and a guest whose node attaches so: arguments of `ashlar csi`.
    pub fn start(options: ClusterOptions, attacher: impl Fn(&Cluster) -> String) -> Result<Self> {
        let cluster = Cluster::start(ClusterOptions {
            separate: true,
            ..options
        })?;
        let controller = Driver::start_controller(&cluster)?;
        let guest = Guest::boot_with_agent(cluster.path(), Path::new(AGENT))?;
        let node_command = format!(
            "ASHLAR_INSECURE=1 ashlar csi --mode node --endpoint unix:///run/csi.sock --conductor \
             http://10.0.2.2:{} --state /run/ashlar-csi {}",
            cluster.api_port(),
            attacher(&cluster)
        );
        let builder = &mut tokio::runtime::Builder::new_multi_thread();
        let links = Links {
            controller: controller.socket(),
            nodes: vec![guest.csi_port()],
        };
        let this = Self {
            guest,
            other: None,
            cluster,
            links,
            runtime: builder.worker_threads(1).enable_all().build()?,
            node_command,
            _controller: controller,
        };
        this.start_node()?;
        Ok(this)
    }

    /// One more guest with a node.
    pub fn add_node(&mut self) -> Result<()> {
        let directory = self.cluster.path().join(NODES[1]);
        std::fs::create_dir_all(&directory)?;
        let guest = Guest::boot_with_agent(&directory, Path::new(AGENT))?;
        self.links.nodes.push(guest.csi_port());
        run_node(&guest, &self.node_command, NODES[1])?;
        self.other = Some(guest);
        Ok(())
    }

    /// The guest of a node.
    pub fn guest_of(&self, volume: &Volume) -> &Guest {
        match (&self.other, volume.node) {
            (Some(other), 1) => other,
            _ => &self.guest,
        }
    }

    /// Starts the first guest's node.
    pub fn start_node(&self) -> Result<()> {
        run_node(&self.guest, &self.node_command, NODES[0])
    }

    /// Kills it with SIGKILL.
    pub fn kill_node(&self) -> Result<()> {
        let script = "kill -9 $(cat /run/csi.pid); while kill -0 $(cat /run/csi.pid) 2>/dev/null; do usleep 10000; done; true";
        self.guest.sh(script).map(drop)
    }

    /// What the guest's node logged.
    pub fn node_log(&self) -> String {
        self.guest.sh("cat /tmp/csi.log").unwrap_or_default()
    }

    /// Repeats a call as a CO does, until it is answered with success.
    pub fn repeat<T, F: Future<Output = Result<T, Status>>>(
        &self,
        what: &str,
        mut call: impl FnMut() -> F,
    ) -> Result<T> {
        let end = Instant::now() + LIMIT;
        loop {
            let answer = self
                .runtime
                .block_on(async { tokio::time::timeout(CALL_LIMIT, call()).await });
            let status = match answer {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("the call hangs"),
            };
            let again = !matches!(status.code(), Code::InvalidArgument | Code::NotFound);
            if !again || Instant::now() >= end {
                bail!("{what}: {status:?}\n{}", self.node_log());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// One call of a volume's life, until it succeeds.
    pub fn step(&self, step: Step, volume: &Volume) -> Result<()> {
        let what = format!("{step:?} of {}", volume.name);
        self.repeat(&what, || self.links.call(step, volume))
    }

    /// All calls of a part of its life.
    pub fn steps(&self, steps: &[Step], volume: &Volume) -> Result<()> {
        steps.iter().try_for_each(|step| self.step(*step, volume))
    }

    /// Makes a volume with a file system, or, where none is named, for use as a device.
    pub fn create(
        &self,
        name: &str,
        bytes: i64,
        fs: &'static str,
        attach: &str,
        source: Option<Source>,
    ) -> Result<Volume> {
        let mut volume = Volume {
            id: String::new(),
            name: name.to_owned(),
            fs,
            context: HashMap::new(),
            node: 0,
            published: Arc::default(),
        };
        let source = source.map(|source| csi::VolumeContentSource {
            r#type: Some(source),
        });
        let request = csi::CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(csi::CapacityRange {
                required_bytes: bytes,
                limit_bytes: 0,
            }),
            volume_capabilities: volume.capability().into_iter().collect(),
            parameters: HashMap::from([("attach".to_owned(), attach.to_owned())]),
            volume_content_source: source,
            ..Default::default()
        };
        let made = self.repeat(name, || async {
            let mut controller = self.links.controller().await?;
            controller.create_volume(request.clone()).await
        })?;
        let made = made.into_inner().volume.context("no volume")?;
        (volume.id, volume.context) = (made.volume_id, made.volume_context);
        Ok(volume)
    }

    /// Makes a snapshot; gives its id.
    pub fn snapshot(&self, volume: &Volume, name: &str) -> Result<String> {
        let request = csi::CreateSnapshotRequest {
            source_volume_id: volume.id.clone(),
            name: name.to_owned(),
            ..Default::default()
        };
        let made = self.repeat(name, || async {
            let mut controller = self.links.controller().await?;
            controller.create_snapshot(request.clone()).await
        })?;
        let made = made.into_inner().snapshot.context("no snapshot")?;
        Ok(made.snapshot_id)
    }

    /// Makes a volume larger, and its device and file system in the guest.
    pub fn expand(&self, volume: &Volume, bytes: i64) -> Result<()> {
        let range = csi::CapacityRange {
            required_bytes: bytes,
            limit_bytes: 0,
        };
        let request = csi::ControllerExpandVolumeRequest {
            volume_id: volume.id.clone(),
            capacity_range: Some(range),
            ..Default::default()
        };
        self.repeat("expand", || async {
            let mut controller = self.links.controller().await?;
            controller.controller_expand_volume(request.clone()).await
        })?;
        let request = csi::NodeExpandVolumeRequest {
            volume_id: volume.id.clone(),
            volume_path: volume.target(),
            capacity_range: Some(range),
            staging_target_path: volume.staging(),
            volume_capability: volume.capability(),
            ..Default::default()
        };
        let grown = self.repeat("expand on the node", || async {
            let mut node = self.links.node(volume.node).await?;
            node.node_expand_volume(request.clone()).await
        })?;
        let grown = grown.into_inner().capacity_bytes;
        ensure!(grown == bytes, "the device has {grown} bytes");
        Ok(())
    }

    /// Fails if the guest has a mount or a device of ours.
    pub fn check_clean(&self) -> Result<()> {
        clean(&self.guest)
    }
}

/// Fails if a guest has a mount or a device of ours.
pub fn clean(guest: &Guest) -> Result<()> {
    let left = guest.sh(
            "grep /var/csi /proc/mounts; cat /sys/block/nbd*/backend 2>/dev/null; ls /sys/block | grep '^sd'; true",
        )?;
    ensure!(left.is_empty(), "left in the guest:\n{left}");
    Ok(())
}
