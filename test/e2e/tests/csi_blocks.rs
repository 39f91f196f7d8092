//! Changed blocks by the CSI driver: a backup that reads only what a snapshot holds is the whole snapshot, and
//! with what was written since it is the next one.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::Cluster;
use ashlar_e2e::csi::{Driver, protocol as csi};
use ashlar_e2e::nbd::{Command, NbdClient};
use csi::controller_client::ControllerClient;
use csi::snapshot_metadata_client::SnapshotMetadataClient;
use csi::volume_capability::access_mode::Mode;
use csi::volume_capability::{AccessMode, AccessType, BlockVolume};
use std::time::Duration;
use tokio::runtime::Runtime;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;
const BLOCK: u64 = 4096;
/// In a message: small, so that there are many.
const RANGES_MAX: i32 = 3;

type Range = (u64, u64);

struct Bench {
    /// It goes before the cluster.
    _driver: Driver,
    cluster: Cluster,
    runtime: Runtime,
    controller: ControllerClient<Channel>,
    metadata: SnapshotMetadataClient<Channel>,
}

impl Bench {
    fn start() -> Result<Self> {
        let cluster = Cluster::up()?;
        let driver = Driver::start_controller(&cluster)?;
        let builder = &mut tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build()?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", driver.socket().display()))?;
        let channel = runtime.block_on(endpoint.connect())?;
        Ok(Self {
            _driver: driver,
            cluster,
            runtime,
            controller: ControllerClient::new(channel.clone()),
            metadata: SnapshotMetadataClient::new(channel),
        })
    }

    fn create(&mut self, name: &str) -> Result<String> {
        let capability = csi::VolumeCapability {
            access_type: Some(AccessType::Block(BlockVolume {})),
            access_mode: Some(AccessMode {
                mode: Mode::SingleNodeWriter.into(),
            }),
        };
        let request = csi::CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(csi::CapacityRange {
                required_bytes: i64::try_from(SIZE)?,
                limit_bytes: 0,
            }),
            volume_capabilities: vec![capability],
            ..Default::default()
        };
        let made = self.controller.create_volume(request);
        let made = self.runtime.block_on(made)?.into_inner();
        Ok(made.volume.context("no volume in the answer")?.volume_id)
    }

    /// Keeps the volume as it is; waits until that is ready.
    fn snapshot(&mut self, volume: &str, name: &str) -> Result<String> {
        for _ in 0..100 {
            let request = csi::CreateSnapshotRequest {
                source_volume_id: volume.to_owned(),
                name: name.to_owned(),
                ..Default::default()
            };
            let made = self.controller.create_snapshot(request);
            let made = self.runtime.block_on(made)?.into_inner();
            let made = made.snapshot.context("no snapshot in the answer")?;
            if made.ready_to_use {
                return Ok(made.snapshot_id);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        anyhow::bail!("snapshot {name} does not become ready")
    }

    fn delete_snapshot(&mut self, id: &str) -> Result<()> {
        let request = csi::DeleteSnapshotRequest {
            snapshot_id: id.to_owned(),
            ..Default::default()
        };
        let deleted = self.controller.delete_snapshot(request);
        self.runtime.block_on(deleted)?;
        Ok(())
    }

    fn client(&self, export: &str) -> Result<NbdClient> {
        NbdClient::connect(self.cluster.nbd_port(), export)
    }

    /// The ranges of a snapshot that hold data, from a byte on.
    fn allocated(&mut self, id: &str, start: u64) -> Result<Vec<Range>, tonic::Status> {
        let request = csi::GetMetadataAllocatedRequest {
            snapshot_id: id.to_owned(),
            starting_offset: i64::try_from(start).unwrap_or(-1),
            max_results: RANGES_MAX,
            ..Default::default()
        };
        let metadata = &mut self.metadata;
        self.runtime.block_on(async {
            let mut stream = metadata.get_metadata_allocated(request).await?.into_inner();
            let mut told = Vec::new();
            while let Some(one) = stream.message().await? {
                told.push((one.volume_capacity_bytes, one.block_metadata));
            }
            Ok(ranges(told))
        })
    }

    /// The ranges that were written between two snapshots.
    fn delta(&mut self, base: &str, target: &str, start: u64) -> Result<Vec<Range>, tonic::Status> {
        let request = csi::GetMetadataDeltaRequest {
            base_snapshot_id: base.to_owned(),
            target_snapshot_id: target.to_owned(),
            starting_offset: i64::try_from(start).unwrap_or(-1),
            max_results: RANGES_MAX,
            ..Default::default()
        };
        let metadata = &mut self.metadata;
        self.runtime.block_on(async {
            let mut stream = metadata.get_metadata_delta(request).await?.into_inner();
            let mut told = Vec::new();
            while let Some(one) = stream.message().await? {
                told.push((one.volume_capacity_bytes, one.block_metadata));
            }
            Ok(ranges(told))
        })
    }
}

/// The ranges of all messages, each of which must keep to what was asked.
fn ranges(messages: Vec<(i64, Vec<csi::BlockMetadata>)>) -> Vec<Range> {
    assert!(!messages.is_empty(), "not even the capacity is told");
    let mut all: Vec<Range> = Vec::new();
    for (capacity, message) in messages {
        assert_eq!(capacity, SIZE.cast_signed());
        assert!(message.len() <= RANGES_MAX.unsigned_abs() as usize);
        for one in message {
            let (offset, len) = (
                one.byte_offset.unsigned_abs(),
                one.size_bytes.unsigned_abs(),
            );
            let end = all.last().map_or(0, |last| last.0 + last.1);
            assert!(len > 0 && offset >= end && offset + len <= SIZE, "{one:?}");
            all.push((offset, len));
        }
    }
    all
}

fn write(client: &mut NbdClient, offset: u64, len: u64, byte: u8) -> Result<()> {
    let data = vec![byte; usize::try_from(len)?];
    let error = client.call(Command::Write, offset, u32::try_from(len)?, &data)?;
    ensure!(error == 0, "write at {offset}: {error}");
    Ok(())
}

/// Reads ranges of an export into a copy.
fn copy(client: &mut NbdClient, ranges: &[Range], into: &mut [u8]) -> Result<()> {
    for &(offset, len) in ranges {
        let read = client.read(offset, usize::try_from(len)?)?;
        let at = usize::try_from(offset)?;
        into[at..at + read.len()].copy_from_slice(&read);
    }
    Ok(())
}

#[test]
fn backups_of_changed_blocks_are_whole() -> Result<()> {
    let mut bench = Bench::start()?;
    let volume = bench.create("data")?;
    let mut client = bench.client("data")?;
    let empty = bench.snapshot(&volume, "empty")?;
    // Many ranges, over more than one shard's map where shards are small.
    let first: Vec<Range> = (0..10)
        .map(|i| (i * 5 * MIB, (i + 1) * 2 * BLOCK))
        .collect();
    for (&(offset, len), byte) in first.iter().zip(1..) {
        write(&mut client, offset, len, byte)?;
    }
    let monday = bench.snapshot(&volume, "monday")?;
    write(&mut client, 0, BLOCK, 77)?;
    write(&mut client, 33 * MIB, 3 * BLOCK, 78)?;
    // What is thrown away is a change.
    let len = u32::try_from(2 * BLOCK)?;
    ensure!(client.call(Command::Trim, 5 * MIB, len, &[])? == 0);
    let tuesday = bench.snapshot(&volume, "tuesday")?;
    write(&mut client, 60 * MIB, BLOCK, 99)?;

    assert_eq!(bench.allocated(&empty, 0)?, []);
    assert_eq!(bench.allocated(&monday, 0)?, first);
    // An interrupted call goes on where it was.
    assert_eq!(bench.allocated(&monday, 5 * MIB)?, first[1..]);
    assert_eq!(bench.allocated(&monday, SIZE)?, []);
    let changed = [(0, BLOCK), (5 * MIB, 2 * BLOCK), (33 * MIB, 3 * BLOCK)];
    assert_eq!(bench.delta(&monday, &tuesday, 0)?, changed);
    assert_eq!(bench.delta(&monday, &tuesday, 5 * MIB)?, changed[1..]);
    assert_eq!(bench.delta(&monday, &monday, 0)?, []);

    let mut backup = vec![0; usize::try_from(SIZE)?];
    for (snapshot, ranges) in [
        ("monday", bench.allocated(&monday, 0)?),
        ("tuesday", bench.delta(&monday, &tuesday, 0)?),
    ] {
        let mut export = bench.client(&format!("data@{snapshot}"))?;
        copy(&mut export, &ranges, &mut backup)?;
        let mut whole = vec![0; backup.len()];
        let all: Vec<Range> = (0..SIZE / MIB).map(|i| (i * MIB, MIB)).collect();
        copy(&mut export, &all, &mut whole)?;
        ensure!(backup == whole, "the backup of {snapshot} is another");
    }

    let other = bench.create("other")?;
    let of_other = bench.snapshot(&other, "sunday")?;
    let code = |refused: Result<Vec<Range>, tonic::Status>| refused.map_err(|error| error.code());
    for (base, target, start, expected) in [
        (&tuesday, &monday, 0, Code::InvalidArgument),
        (&of_other, &tuesday, 0, Code::InvalidArgument),
        (&monday, &tuesday, SIZE + 1, Code::OutOfRange),
        (&monday, &String::new(), 0, Code::InvalidArgument),
        (&"data:1:7".to_owned(), &tuesday, 0, Code::NotFound),
    ] {
        assert_eq!(
            code(bench.delta(base, target, start)),
            Err(expected),
            "{base}"
        );
    }
    assert_eq!(code(bench.allocated("", 0)), Err(Code::InvalidArgument));
    bench.delete_snapshot(&monday)?;
    assert_eq!(code(bench.allocated(&monday, 0)), Err(Code::NotFound));
    assert_eq!(code(bench.delta(&monday, &tuesday, 0)), Err(Code::NotFound));
    // Another of its name is another one.
    let again = bench.snapshot(&volume, "monday")?;
    assert_eq!(code(bench.allocated(&monday, 0)), Err(Code::NotFound));
    assert_eq!(bench.delta(&tuesday, &again, 0)?, [(60 * MIB, BLOCK)]);

    drop(client);
    Ok(())
}
