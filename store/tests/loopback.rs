//! A store on real disks and sockets: several lanes, several threads, both engines.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use ashlar_proto::api::Assignment;
use ashlar_proto::crc::crc32c;
use ashlar_proto::frame::{PROTOCOL_VERSION, open_meta};
use ashlar_proto::message::{
    Hello, HelloReply, Open, SetState, ShardState, decode_read, encode_checksums,
};
use ashlar_proto::{
    Address, BLOCK_BYTES, BlockCount, BlockIndex, ByteCount, ClusterId, DiskId, Epoch, FrameHeader,
    FrameKind, Generation, LaneIndex, Layer, ReplicaId, Seq, ShardIndex, Status, VolumeId, Window,
    lane_of,
};
use ashlar_reactor::link::{self, Frame, Link};
use ashlar_reactor::{
    CachePolicy, DiskOptions, Engine, Reactor, Remote, RuntimeOptions, SharedBuffer, StartError,
    run,
};
use ashlar_store::disk::{FormatOptions, format_disk};
use ashlar_store::{Applied, StoreHandle, StoreOptions, StoreService};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

const CLUSTER: ClusterId = ClusterId::new(1);
const DISK: DiskId = DiskId::new(2);
const VOLUME: VolumeId = VolumeId::new(3);
const LANES: u16 = 4;
const SHARDS: u32 = 12;
const BLOCKS: u32 = 1 << 16;

/// A thread with a reactor on which a store serves lanes.
struct WorkerThread {
    remote: Remote,
    stop: ashlar_reactor::channel::remote::Sender<()>,
    thread: JoinHandle<()>,
}

impl WorkerThread {
    fn start(engine: Engine) -> Self {
        let (started, starting) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let ended = run(RuntimeOptions::new(engine), |reactor| async move {
                let (stop, stopping) = ashlar_reactor::channel::remote::bounded(1);
                started.send((reactor.remote(), stop)).unwrap();
                stopping.recv().await;
            });
            ended.unwrap();
        });
        let (remote, stop) = starting.recv().unwrap();
        Self {
            remote,
            stop,
            thread,
        }
    }

    fn stop(self) {
        drop(self.stop);
        self.thread.join().unwrap();
    }
}

/// Runs a test on a reactor, or says why not.
fn on_reactor<F: Future<Output = ()>>(engine: Engine, test: impl FnOnce(Reactor) -> F) {
    match run(RuntimeOptions::new(engine), test) {
        Ok(()) => {}
        Err(StartError::IoUring { error }) => eprintln!("skipped: no io_uring here ({error})"),
        Err(error) => panic!("{error}"),
    }
}

fn has_engine(engine: Engine) -> bool {
    run(RuntimeOptions::new(engine), |_| async {}).is_ok()
}

fn disk_options(path: &Path) -> DiskOptions {
    DiskOptions {
        cache: CachePolicy::WriteThrough,
        ..DiskOptions::new(path)
    }
}

async fn format(reactor: &Reactor, path: &Path, lanes: u16) {
    let bytes = u64::from(lanes) * (128 << 20) + (2 << 20);
    std::fs::File::create(path).unwrap().set_len(bytes).unwrap();
    let options = FormatOptions {
        lanes,
        segment: Some(ByteCount::new(1 << 20)),
        ..FormatOptions::new(DISK)
    };
    format_disk(reactor, disk_options(path), options)
        .await
        .unwrap();
}

async fn start(
    reactor: &Reactor,
    path: &Path,
    listen: Address,
    workers: Vec<Remote>,
) -> StoreHandle {
    let options = StoreOptions {
        disks: vec![disk_options(path)],
        listen: vec![listen],
        workers,
        ..StoreOptions::default()
    };
    let store = StoreService::start(reactor, options).await.unwrap();
    let control = store.control();
    control.set_cluster(CLUSTER).await.unwrap();
    let assignments = (0..SHARDS).map(|shard| Assignment {
        volume: VOLUME,
        shard: ShardIndex::new(shard),
        replica: ReplicaId::new(u64::from(shard)),
        disk: DISK,
        blocks: BLOCKS,
        reserve_blocks: 0,
        may_create: true,
    });
    let applied = control.apply(assignments.collect()).await.unwrap();
    assert_eq!(applied, Applied::default());
    store
}

/// One shard's owner, with a connection of its own.
struct Owner {
    reactor: Reactor,
    link: Link,
    shard: ShardIndex,
}

impl Owner {
    async fn attach(reactor: &Reactor, address: &Address, lanes: u16, shard: u32) -> Self {
        let link = link::connect(reactor, address).await.unwrap();
        let shard = ShardIndex::new(shard);
        let owner = Self {
            reactor: reactor.clone(),
            link,
            shard,
        };
        let hello = Hello {
            version_min: PROTOCOL_VERSION,
            version_max: PROTOCOL_VERSION,
            lane: lane_of(VOLUME, shard, lanes),
            cluster: CLUSTER,
            disk: DISK,
        };
        let request = FrameHeader::request(FrameKind::Hello, 0);
        let reply = owner
            .call(Frame::new(request, hello.encode(), vec![]))
            .await;
        assert_eq!(reply.header.status, Status::Ok);
        HelloReply::decode(open_meta(&reply.meta).unwrap()).unwrap();
        let replica = ReplicaId::new(u64::from(shard.get()));
        let open = Frame::new(
            owner.request(FrameKind::Open, 1),
            Open { replica }.encode(),
            vec![],
        );
        let state = owner.call(open).await;
        assert_eq!(state.header.status, Status::Ok);
        ShardState::decode(open_meta(&state.meta).unwrap()).unwrap();
        let set = SetState {
            window: Window::new(1),
            ..SetState::default()
        };
        let request = owner.request(FrameKind::SetState, 2);
        let set = owner.call(Frame::new(request, set.encode(), vec![])).await;
        assert_eq!(set.header.status, Status::Ok);
        owner
    }

    fn request(&self, kind: FrameKind, tag: u32) -> FrameHeader {
        FrameHeader {
            volume: VOLUME,
            shard: self.shard,
            layer: Layer::new(1),
            generation: Generation::new(1),
            epoch: Epoch::new(1),
            ..FrameHeader::request(kind, tag)
        }
    }

    async fn call(&self, frame: Frame) -> Frame {
        let tag = frame.header.tag;
        self.link.send(frame).await.unwrap();
        let reply = self.link.recv().await.unwrap();
        assert_eq!(reply.header.tag, tag);
        reply
    }

    fn write(&self, tag: u32, block: u32, data: SharedBuffer, crcs: &[u32]) -> Frame {
        let header = FrameHeader {
            block: BlockIndex::new(block),
            count: BlockCount::new(u32::try_from(crcs.len()).unwrap()),
            seq: Seq::from_raw(Window::new(1).start().get() + u64::from(tag)).unwrap(),
            ..self.request(FrameKind::Write, tag)
        };
        Frame::new(header, encode_checksums(crcs), vec![data])
    }

    fn content(&self, block: u32, blocks: u32) -> (SharedBuffer, Vec<u32>) {
        let mut buffer = self.reactor.buffer(blocks as usize * BLOCK_BYTES);
        let salt = self.shard.get() << 20;
        for (at, piece) in (block..).zip(buffer.chunks_exact_mut(BLOCK_BYTES)) {
            for (word, bytes) in (0u32..).zip(piece.chunks_exact_mut(4)) {
                bytes.copy_from_slice(&(salt ^ at.wrapping_mul(77) ^ word).to_le_bytes());
            }
        }
        let crcs = buffer.chunks_exact(BLOCK_BYTES).map(crc32c).collect();
        (buffer.freeze(), crcs)
    }

    /// Writes ranges of many sizes, all in flight at once, and reads them back.
    async fn exercise(&self) {
        let sizes = [1, 8, 1, 256, 3, 1, 64];
        let mut block = 0;
        let mut spans = Vec::new();
        for (tag, &count) in (10..).zip(sizes.iter().cycle().take(42)) {
            spans.push((tag, block, count));
            block += count;
        }
        let frames: Vec<Frame> = spans
            .iter()
            .map(|&(tag, block, count)| {
                let (data, crcs) = self.content(block, count);
                self.write(tag, block, data, &crcs)
            })
            .collect();
        let link = self.link.clone();
        let sending = self.reactor.spawn(async move {
            for frame in frames {
                link.send(frame).await.unwrap();
            }
        });
        let mut tags = BTreeSet::new();
        for _ in &spans {
            let reply = self.link.recv().await.unwrap();
            assert_eq!(reply.header.status, Status::Ok);
            tags.insert(reply.header.tag);
        }
        sending.await;
        assert_eq!(tags.len(), spans.len());
        let flush = FrameHeader::request(FrameKind::Flush, 3);
        let flushed = self.call(Frame::new(flush, vec![], vec![])).await;
        assert_eq!(flushed.header.status, Status::Ok);
        self.verify(&spans).await;
    }

    async fn verify(&self, spans: &[(u32, u32, u32)]) {
        for &(tag, block, count) in spans {
            let header = FrameHeader {
                block: BlockIndex::new(block),
                count: BlockCount::new(count),
                ..self.request(FrameKind::Read, tag)
            };
            let reply = self.call(Frame::new(header, vec![], vec![])).await;
            assert_eq!(reply.header.status, Status::Ok);
            let meta = open_meta(&reply.meta).unwrap();
            let entries = decode_read(meta, count as usize).unwrap();
            let (expected, crcs) = self.content(block, count);
            assert!(entries.iter().map(|entry| entry.crc).eq(crcs));
            let shown: Vec<u8> = reply.data.iter().flat_map(|p| p.iter().copied()).collect();
            assert!(shown[..] == expected[..], "blocks {block}+{count}");
        }
    }
}

/// Owners on one thread, the store on that and others.
fn exercise(engine: Engine, threads: usize, unix: bool) {
    if !has_engine(engine) {
        return on_reactor(engine, |_| async {});
    }
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("disk");
    let listen = if unix {
        Address::Unix(folder.path().join("store.sock"))
    } else {
        "127.0.0.1:0".parse().unwrap()
    };
    let workers: Vec<_> = (0..threads).map(|_| WorkerThread::start(engine)).collect();
    let remotes: Vec<_> = workers.iter().map(|worker| worker.remote.clone()).collect();
    on_reactor(engine, |reactor| async move {
        format(&reactor, &path, LANES).await;
        for round in 0..2 {
            let store = start(&reactor, &path, listen.clone(), remotes.clone()).await;
            let address = store.addresses()[0].clone();
            let lanes: BTreeSet<LaneIndex> = (0..SHARDS)
                .map(|shard| lane_of(VOLUME, ShardIndex::new(shard), LANES))
                .collect();
            assert_eq!(lanes.len(), usize::from(LANES), "every lane is used");
            let owners = (0..SHARDS).map(|shard| {
                let (reactor, address) = (reactor.clone(), address.clone());
                async move {
                    let owner = Owner::attach(&reactor, &address, LANES, shard).await;
                    owner.exercise().await;
                }
            });
            let all = ashlar_reactor::future::join_all(owners);
            reactor.timeout(Duration::from_secs(60), all).await.unwrap();
            let reports = store.control().report().await.unwrap();
            assert_eq!(reports.len(), 1);
            assert!(reports[0].failed.is_none() && reports[0].damage.is_empty());
            let written = u64::from(SHARDS) * 40 * 4096;
            assert!(reports[0].used_bytes.get() > written, "round {round}");
            store.control().stop().await.unwrap();
            store.stopped().await;
        }
    });
    for worker in workers {
        worker.stop();
    }
}

#[test]
fn uring_serves_from_one_thread() {
    exercise(Engine::IoUring, 0, false);
}

#[test]
fn uring_serves_lanes_from_several_threads() {
    exercise(Engine::IoUring, 2, false);
}

#[test]
fn aio_serves_lanes_from_several_threads() {
    exercise(Engine::Aio, 2, true);
}

#[test]
fn lanes_of_other_threads_are_not_reached_by_pointer() {
    if !has_engine(Engine::Aio) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let worker = WorkerThread::start(Engine::Aio);
    let remote = worker.remote.clone();
    on_reactor(Engine::Aio, |reactor| async move {
        format(&reactor, &path, 2).await;
        let address: Address = "local:store".parse().unwrap();
        let store = start(&reactor, &path, address.clone(), vec![remote]).await;
        for lane in 0..2 {
            let hello = Hello {
                version_min: PROTOCOL_VERSION,
                version_max: PROTOCOL_VERSION,
                lane: LaneIndex::new(lane),
                cluster: CLUSTER,
                disk: DISK,
            };
            let link = link::connect(&reactor, &address).await.unwrap();
            let request = FrameHeader::request(FrameKind::Hello, 0);
            link.send(Frame::new(request, hello.encode(), vec![]))
                .await
                .unwrap();
            let status = link.recv().await.unwrap().header.status;
            let expected = [Status::Ok, Status::Unavailable][usize::from(lane)];
            assert_eq!(status, expected);
        }
        store.control().stop().await.unwrap();
    });
    worker.stop();
}

/// Not a test of anything: shows what a request costs. Run with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_request() {
    for (engine, listen) in [
        (Engine::IoUring, "local:store"),
        (Engine::IoUring, "127.0.0.1:0"),
        (Engine::Aio, "local:store"),
        (Engine::Aio, "127.0.0.1:0"),
    ] {
        if !has_engine(engine) {
            continue;
        }
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = folder.path().join("disk");
        on_reactor(engine, |reactor| async move {
            format(&reactor, &path, 16).await;
            let store = start(&reactor, &path, listen.parse().unwrap(), vec![]).await;
            let address = store.addresses()[0].clone();
            let owner = Owner::attach(&reactor, &address, 16, 0).await;
            let (data, crcs) = owner.content(0, 1);
            let write = |tag: u32| {
                let block = tag.wrapping_mul(40_503) % 4096;
                owner.write(tag, block, data.clone(), &crcs)
            };
            let ping = |tag: u32| Frame::new(owner.request(FrameKind::Ping, tag), vec![], vec![]);
            for depth in [1, 32] {
                let tags = depth * 200_000..;
                let count = depth.min(10) * 10_000;
                println!("{engine} {address}");
                measure(
                    &owner,
                    "ping",
                    depth,
                    tags.clone().take(count as usize).map(ping),
                )
                .await;
                measure(&owner, "write", depth, tags.take(count as usize).map(write)).await;
            }
            store.control().stop().await.unwrap();
        });
    }
}

/// Keeps `depth` requests in flight and prints what one costs.
async fn measure(owner: &Owner, name: &str, depth: u32, requests: impl Iterator<Item = Frame>) {
    let (began, cpu) = (owner.reactor.now(), cpu_us());
    let (mut in_flight, mut count) = (0, 0);
    for request in requests {
        owner.link.send(request).await.unwrap();
        in_flight += 1;
        count += 1;
        while in_flight == depth {
            assert_eq!(owner.link.recv().await.unwrap().header.status, Status::Ok);
            in_flight -= 1;
        }
    }
    for _ in 0..in_flight {
        assert_eq!(owner.link.recv().await.unwrap().header.status, Status::Ok);
    }
    let (wall, cpu) = (owner.reactor.now() - began, cpu_us() - cpu);
    let wall_us = wall.as_secs_f64() * 1e6 / f64::from(count);
    let cpu_us = cpu / f64::from(count);
    println!("  {name} at depth {depth}: {wall_us:.2} us, {cpu_us:.2} us of processor");
}

/// Processor time of this process, user and system, in microseconds.
fn cpu_us() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks * 10_000.0
}
