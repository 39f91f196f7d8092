//! What csi-sanity does not ask of the CSI driver: copies outlive what they were made of, a volume is one
//! node's, data is never formatted over, each file system works.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::Cluster;
use ashlar_e2e::csi::{Driver, protocol as csi};
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::process::wait_for;
use csi::controller_client::ControllerClient;
use csi::node_client::NodeClient;
use csi::volume_capability::access_mode::Mode;
use csi::volume_capability::{AccessMode, AccessType, MountVolume};
use csi::volume_content_source::{Type, VolumeSource};
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

const LIMIT: Duration = Duration::from_secs(120);

/// The driver goes before the cluster: its mounts need that to end.
struct Bench {
    driver: Driver,
    cluster: Cluster,
    runtime: Runtime,
    controller: ControllerClient<Channel>,
    node: NodeClient<Channel>,
}

fn capability(fs_type: &str) -> Option<csi::VolumeCapability> {
    let mode = Mode::SingleNodeWriter.into();
    let mount = MountVolume {
        fs_type: fs_type.to_owned(),
        ..MountVolume::default()
    };
    Some(csi::VolumeCapability {
        access_type: Some(AccessType::Mount(mount)),
        access_mode: Some(AccessMode { mode }),
    })
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

impl Bench {
    fn start() -> Result<Self> {
        let cluster = Cluster::up()?;
        let driver = Driver::start(&cluster)?;
        Self::of(cluster, driver)
    }

    fn of(cluster: Cluster, driver: Driver) -> Result<Self> {
        let builder = &mut tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build()?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", driver.socket().display()))?;
        let channel = runtime.block_on(endpoint.connect())?;
        Ok(Self {
            driver,
            cluster,
            runtime,
            controller: ControllerClient::new(channel.clone()),
            node: NodeClient::new(channel),
        })
    }

    fn create(&mut self, name: &str, source: Option<&csi::Volume>) -> Result<csi::Volume> {
        let source = source.map(|source| csi::VolumeContentSource {
            r#type: Some(Type::Volume(VolumeSource {
                volume_id: source.volume_id.clone(),
            })),
        });
        let request = csi::CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(csi::CapacityRange {
                required_bytes: 512 << 20,
                limit_bytes: 0,
            }),
            volume_capabilities: capability("").into_iter().collect(),
            volume_content_source: source,
            ..Default::default()
        };
        let made = self
            .runtime
            .block_on(self.controller.create_volume(request))?;
        made.into_inner().volume.context("no volume in the answer")
    }

    fn delete(&mut self, volume: &csi::Volume) -> Result<(), tonic::Status> {
        let request = csi::DeleteVolumeRequest {
            volume_id: volume.volume_id.clone(),
            ..Default::default()
        };
        let deleted = self
            .runtime
            .block_on(self.controller.delete_volume(request));
        deleted.map(drop)
    }

    /// Publishes it to this node, and stages it.
    fn stage(&mut self, volume: &csi::Volume, at: &Path, fs: &str) -> Result<(), tonic::Status> {
        let publish_context = self.publish(volume, "node-a")?;
        let request = csi::NodeStageVolumeRequest {
            volume_id: volume.volume_id.clone(),
            staging_target_path: text(at),
            volume_capability: capability(fs),
            publish_context,
            ..Default::default()
        };
        let staged = self.runtime.block_on(self.node.node_stage_volume(request));
        staged.map(drop)
    }

    fn unstage(&mut self, volume: &csi::Volume, at: &Path) -> Result<()> {
        let request = csi::NodeUnstageVolumeRequest {
            volume_id: volume.volume_id.clone(),
            staging_target_path: text(at),
        };
        self.runtime
            .block_on(self.node.node_unstage_volume(request))?;
        let request = csi::ControllerUnpublishVolumeRequest {
            volume_id: volume.volume_id.clone(),
            node_id: "ashlar/node-a".to_owned(),
            ..Default::default()
        };
        let call = self.controller.controller_unpublish_volume(request);
        self.runtime.block_on(call)?;
        Ok(())
    }

    fn publish(
        &mut self,
        volume: &csi::Volume,
        node: &str,
    ) -> Result<HashMap<String, String>, tonic::Status> {
        let request = csi::ControllerPublishVolumeRequest {
            volume_id: volume.volume_id.clone(),
            node_id: format!("ashlar/{node}"),
            volume_capability: capability(""),
            ..Default::default()
        };
        let call = self.controller.controller_publish_volume(request);
        let published = self.runtime.block_on(call)?.into_inner();
        Ok(published.publish_context)
    }
}

#[test]
fn a_copy_outlives_what_it_was_made_of() -> Result<()> {
    let mut bench = Bench::start()?;
    let place = bench.driver.directory().join("staging");
    let source = bench.create("source", None)?;
    bench.stage(&source, &place, "ext4")?;
    std::fs::write(place.join("mark"), "of the source")?;
    bench.unstage(&source, &place)?;
    let copy = bench.create("copy", Some(&source))?;
    ensure!(
        bench.create("copy", Some(&source))?.volume_id == copy.volume_id,
        "once more: the same"
    );
    let first = bench.delete(&source);
    ensure!(
        first
            .as_ref()
            .is_err_and(|status| status.code() == Code::FailedPrecondition),
        "the source went before the copy was independent: {first:?}"
    );
    wait_for("the source's end", LIMIT, || Ok(bench.delete(&source)?))?;
    bench.stage(&copy, &place, "ext4")?;
    let found = std::fs::read_to_string(place.join("mark"))?;
    ensure!(found == "of the source", "the copy holds {found:?}");
    bench.unstage(&copy, &place)?;
    bench.delete(&copy)?;
    bench.driver.check_clean()
}

#[test]
fn a_volume_is_published_to_one_node_at_a_time() -> Result<()> {
    let mut bench = Bench::start()?;
    let volume = bench.create("v", None)?;
    let context = bench.publish(&volume, "node-a")?;
    // Its memory is the cluster's.
    bench.driver.kill_and_restart()?;
    let again = wait_for(
        "the driver",
        LIMIT,
        || Ok(bench.publish(&volume, "node-a")?),
    )?;
    ensure!(again == context, "the same again: {again:?}");
    let second = bench
        .publish(&volume, "node-b")
        .err()
        .map(|status| status.code());
    ensure!(second == Some(Code::FailedPrecondition), "{second:?}");
    let deleted = bench.delete(&volume).err().map(|status| status.code());
    ensure!(deleted == Some(Code::FailedPrecondition), "{deleted:?}");
    Ok(())
}

#[test]
fn data_that_is_no_file_system_is_not_formatted_over() -> Result<()> {
    let mut bench = Bench::start()?;
    let place = bench.driver.directory().join("staging");
    let volume = bench.create("v", None)?;
    let data = vec![0x5a; 4096];
    let end = (512 << 20) - 4096;
    let mut client = NbdClient::connect(bench.cluster.nbd_port(), "v")?;
    ensure!(client.call(Command::Write, end, 4096, &data)? == 0);
    client.disconnect()?;
    let staged = bench
        .stage(&volume, &place, "ext4")
        .err()
        .map(|status| status.code());
    ensure!(staged == Some(Code::FailedPrecondition), "{staged:?}");
    bench.unstage(&volume, &place)?;
    let mut client = NbdClient::connect(bench.cluster.nbd_port(), "v")?;
    ensure!(client.read(end, 4096)? == data, "the data is gone");
    bench.driver.check_clean()
}

#[test]
fn each_file_system_keeps_its_files_and_is_no_other() -> Result<()> {
    let mut bench = Bench::start()?;
    let place = bench.driver.directory().join("staging");
    for (fs, other) in [("ext4", "xfs"), ("xfs", "btrfs"), ("btrfs", "ext4")] {
        let volume = bench.create(fs, None)?;
        bench.stage(&volume, &place, fs)?;
        std::fs::write(place.join("mark"), fs)?;
        bench.stage(&volume, &place, fs)?;
        bench.unstage(&volume, &place)?;
        let refused = bench
            .stage(&volume, &place, other)
            .err()
            .map(|status| status.code());
        ensure!(
            refused == Some(Code::FailedPrecondition),
            "{fs} as {other}: {refused:?}"
        );
        bench.stage(&volume, &place, fs)?;
        ensure!(std::fs::read_to_string(place.join("mark"))? == fs);
        bench.unstage(&volume, &place)?;
    }
    bench.driver.check_clean()
}

/// The disks, by the zones that they are said to be in here.
fn label_disks(cluster: &Cluster, zones: [&str; 3]) -> Result<Vec<String>> {
    let disks = cluster.json(["disk", "list"])?;
    let disks = disks.as_array().context("no disks")?.iter();
    let disks: Vec<String> = disks
        .map(|disk| disk["id"].as_str().unwrap_or_default().to_owned())
        .collect();
    ensure!(disks.len() == zones.len(), "{disks:?}");
    for (disk, zone) in disks.iter().zip(zones) {
        let label = format!("zone={zone}");
        cluster.ashlar(["disk", "label", disk, &label]).check()?;
    }
    Ok(disks)
}

#[test]
fn a_class_may_keep_a_replica_near_the_node_that_uses_it() -> Result<()> {
    let cluster = Cluster::up()?;
    let disks = label_disks(&cluster, ["a", "b", "c"])?;
    let driver = Driver::start_as(&cluster, &["--topology=zone=b"])?;
    let mut bench = Bench::of(cluster, driver)?;
    let info = bench.node.node_get_info(csi::NodeGetInfoRequest {});
    let info = bench.runtime.block_on(info)?.into_inner();
    let here = info.accessible_topology.context("no topology")?;
    let expected = [
        ("topology.csi.ashlar.io/host", "node-a"),
        ("topology.csi.ashlar.io/zone", "b"),
    ];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
    ensure!(here.segments == HashMap::from(expected), "{here:?}");

    let mut create = |name: &str, near: &str, at: Option<&csi::Topology>| {
        let parameters = [("near", near), ("replicas", "1")];
        let parameters = parameters.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let request = csi::CreateVolumeRequest {
            name: name.to_owned(),
            volume_capabilities: capability("").into_iter().collect(),
            parameters: parameters.into(),
            accessibility_requirements: at.map(|at| csi::TopologyRequirement {
                requisite: vec![at.clone()],
                preferred: vec![at.clone()],
            }),
            ..Default::default()
        };
        let made = bench.controller.create_volume(request);
        bench.runtime.block_on(made).map(drop)
    };
    for name in ["one", "two", "three"] {
        create(name, "zone", Some(&here))?;
        // The same call again is the same volume.
        create(name, "zone", Some(&here))?;
    }
    for (near, at) in [("zone", None), ("rack", Some(&here)), ("a b", Some(&here))] {
        let refused = create("none", near, at).err().map(|status| status.code());
        ensure!(
            refused == Some(Code::InvalidArgument),
            "{near}: {refused:?}"
        );
    }
    for name in ["one", "two", "three"] {
        let shown = bench.cluster.json(["volume", "show", name])?.to_string();
        let lies_on = |disk: &String| shown.contains(disk.as_str());
        ensure!(
            lies_on(&disks[1]) && !lies_on(&disks[0]) && !lies_on(&disks[2]),
            "{name} is not near: {shown}"
        );
    }
    bench.driver.check_clean()
}
