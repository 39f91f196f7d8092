//! A store in a simulated world, spoken to in raw frames.

use super::*;
use crate::disk::{FormatOptions, format_disk};
use ashlar_proto::crc::crc32c;
use ashlar_proto::frame::seal_meta;
use ashlar_proto::message::{
    BlockKind, Open, SetState, ShardState, TailKind, decode_extents, decode_read, decode_tail,
    encode_checksums,
};
use ashlar_proto::{
    BLOCK_BYTES, BlockCount, BlockIndex, ByteCount, Epoch, FrameHeader, Generation, Layer,
    ReplicaId, RoomHint, Seq, ShardIndex, VolumeId, Window,
};
use ashlar_reactor::SharedBuffer;
use ashlar_reactor::sim::fault::FaultAccess;
use ashlar_reactor::sim::{DiskSpec, Process, World};
use std::net::{IpAddr, Ipv4Addr};

mod faults;
mod observed;
mod protocol;

const STORE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const OWNER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const LIMIT: Duration = Duration::from_secs(3600);
const CLUSTER: ClusterId = ClusterId::new(0xc1);
const VOLUME: VolumeId = VolumeId::new(0x77);
const BLOCKS: u32 = 4096;
const LANES: u16 = 2;

fn disk_id(number: u128) -> DiskId {
    DiskId::new(0xd0 + number)
}

fn path(number: u128) -> String {
    format!("/disk-{number}")
}

fn window(number: u32) -> Window {
    Window::new(number)
}

fn seq(number: u64) -> Seq {
    Seq::from_raw(window(1).start().get() + number).unwrap()
}

/// A simulated host with a store on it.
struct Site {
    world: World,
    disks: u128,
    process: Option<Process>,
    handle: Option<StoreHandle>,
}

impl Site {
    /// A store with formatted disks of the cluster, and one shard on each.
    fn new(seed: u64, disks: u128, spec: fn(u64) -> DiskSpec) -> Self {
        let world = World::new(seed);
        let mut site = Self {
            world,
            disks,
            process: None,
            handle: None,
        };
        for number in 0..disks {
            let size = u64::from(LANES) * (96 << 20) + (2 << 20);
            drop(site.world.add_disk(STORE, path(number), spec(size)));
            let process = site.world.process("format", STORE);
            let here = process.reactor().clone();
            let formatted = process.reactor().spawn(async move {
                let options = FormatOptions {
                    lanes: LANES,
                    segment: Some(ByteCount::new(256 << 10)),
                    ..FormatOptions::new(disk_id(number))
                };
                format_disk(&here, DiskOptions::new(path(number)), options).await
            });
            site.world.run(LIMIT, formatted).unwrap().unwrap();
            process.crash();
        }
        site.start();
        let control = site.control();
        let assignments = site.assignments();
        site.run(async move {
            control.set_cluster(CLUSTER).await.unwrap();
            let applied = control.apply(assignments).await.unwrap();
            assert_eq!(applied, Applied::default());
        });
        site
    }

    fn assignments(&self) -> Vec<Assignment> {
        let disks = 0..self.disks;
        let on_disk = |number: u128| Assignment {
            volume: VOLUME,
            shard: ShardIndex::new(u32::try_from(number).unwrap()),
            replica: ReplicaId::new(u64::try_from(number).unwrap() + 100),
            disk: disk_id(number),
            blocks: BLOCKS,
            reserve_blocks: 0,
            may_create: true,
        };
        disks.map(on_disk).collect()
    }

    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.world.run(LIMIT, future).unwrap()
    }

    fn control(&self) -> StoreControl {
        self.handle.as_ref().unwrap().control()
    }

    fn start(&mut self) {
        let process = self.world.process("store", STORE);
        let here = process.reactor().clone();
        let options = StoreOptions {
            disks: (0..self.disks).map(|n| DiskOptions::new(path(n))).collect(),
            listen: vec!["10.0.0.1:7000".parse().unwrap()],
            ..StoreOptions::default()
        };
        let starting = process
            .reactor()
            .spawn(async move { StoreService::start(&here, options).await });
        self.handle = Some(self.world.run(LIMIT, starting).unwrap().unwrap());
        self.process = Some(process);
    }

    fn crash(&mut self) {
        self.handle = None;
        self.process.take().unwrap().crash();
    }

    fn lose_power(&mut self) {
        self.handle = None;
        self.process = None;
        self.world.power_loss(STORE);
    }

    /// Runs an owner's script in a process of its own.
    fn owner<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        script: impl FnOnce(Reactor) -> F,
    ) -> T {
        let process = self.world.process("owner", OWNER);
        let script = script(process.reactor().clone());
        let result = self.run(process.reactor().spawn(script));
        process.crash();
        result
    }
}

/// An owner's connection to the lane of one disk's shard.
struct Owner {
    reactor: Reactor,
    link: Link,
    shard: ShardIndex,
    generation: Cell<u32>,
    epoch: Cell<u32>,
    stable: Cell<Seq>,
    tag: Cell<u32>,
    incarnation: Incarnation,
    volatile_cache: bool,
}

fn hello(disk: u128) -> Hello {
    let shard = ShardIndex::new(u32::try_from(disk).unwrap());
    Hello {
        version_min: PROTOCOL_VERSION,
        version_max: PROTOCOL_VERSION,
        lane: lane_of(VOLUME, shard, LANES),
        cluster: CLUSTER,
        disk: disk_id(disk),
    }
}

async fn greet(reactor: &Reactor, hello: Hello) -> (Link, Frame) {
    let address = "10.0.0.1:7000".parse().unwrap();
    let link = link::connect(reactor, &address).await.unwrap();
    let request = FrameHeader::request(FrameKind::Hello, 0);
    let frame = Frame::new(request, hello.encode(), Vec::new());
    link.send(frame).await.unwrap();
    let reply = link.recv().await.unwrap();
    (link, reply)
}

impl Owner {
    async fn connect(reactor: &Reactor, disk: u128) -> Self {
        let (link, reply) = greet(reactor, hello(disk)).await;
        assert_eq!(reply.header.status, Status::Ok);
        let greeting = HelloReply::decode(open_meta(&reply.meta).unwrap()).unwrap();
        Self {
            reactor: reactor.clone(),
            link,
            shard: ShardIndex::new(u32::try_from(disk).unwrap()),
            generation: Cell::new(1),
            epoch: Cell::new(1),
            stable: Cell::new(Seq::NONE),
            tag: Cell::new(0),
            incarnation: reply.header.incarnation(),
            volatile_cache: greeting.volatile_cache,
        }
    }

    /// Connected, opened at generation 1, with window 1 recorded.
    async fn attach(reactor: &Reactor, disk: u128) -> Self {
        let owner = Self::connect(reactor, disk).await;
        owner.open().await.unwrap();
        owner.set_window(1).await;
        owner
    }

    fn request(&self, kind: FrameKind) -> FrameHeader {
        self.tag.set(self.tag.get() + 1);
        FrameHeader {
            volume: VOLUME,
            shard: self.shard,
            layer: Layer::new(1),
            generation: Generation::new(self.generation.get()),
            epoch: Epoch::new(self.epoch.get()),
            stable: self.stable.get(),
            ..FrameHeader::request(kind, self.tag.get())
        }
    }

    async fn call(&self, header: FrameHeader, meta: Vec<u8>, data: Vec<SharedBuffer>) -> Frame {
        let tag = header.tag;
        let frame = Frame::new(header, meta, data);
        self.link.send(frame).await.unwrap();
        let reply = self.link.recv().await.unwrap();
        assert!(reply.header.is_reply && reply.header.tag == tag);
        reply
    }

    async fn open(&self) -> Result<ShardState, Status> {
        let replica = ReplicaId::new(u64::from(self.shard.get()) + 100);
        let header = self.request(FrameKind::Open);
        let reply = self.call(header, Open { replica }.encode(), vec![]).await;
        state_of(&reply)
    }

    async fn set_state(&self, set: SetState) -> Result<ShardState, Status> {
        let header = self.request(FrameKind::SetState);
        state_of(&self.call(header, set.encode(), vec![]).await)
    }

    async fn set_window(&self, number: u32) {
        let set = SetState {
            window: window(number),
            ..SetState::default()
        };
        self.set_state(set).await.unwrap();
    }

    fn write_frame(&self, block: u32, count: u32, seq: Seq, salt: u64) -> Frame {
        let data = content(&self.reactor, count, salt);
        let checksums: Vec<u32> = data.chunks_exact(BLOCK_BYTES).map(crc32c).collect();
        let header = FrameHeader {
            block: BlockIndex::new(block),
            count: BlockCount::new(count),
            seq,
            ..self.request(FrameKind::Write)
        };
        Frame::new(header, encode_checksums(&checksums), vec![data])
    }

    async fn write(&self, block: u32, count: u32, seq: Seq, salt: u64) -> Status {
        let Frame { header, meta, data } = self.write_frame(block, count, seq, salt);
        self.call(header, meta, data).await.header.status
    }

    async fn span(&self, kind: FrameKind, block: u32, count: u32, seq: Seq) -> Frame {
        let header = FrameHeader {
            block: BlockIndex::new(block),
            count: BlockCount::new(count),
            seq,
            ..self.request(kind)
        };
        self.call(header, vec![], vec![]).await
    }

    async fn read(&self, block: u32, count: u32) -> Frame {
        self.span(FrameKind::Read, block, count, Seq::NONE).await
    }

    async fn flush(&self) -> Status {
        let header = FrameHeader::request(FrameKind::Flush, self.request(FrameKind::Flush).tag);
        self.call(header, vec![], vec![]).await.header.status
    }

    /// The salts and seqs of blocks as a read shows them; checksums are compared.
    async fn contents(&self, block: u32, count: u32) -> Vec<(u64, Seq)> {
        let reply = self.read(block, count).await;
        assert_eq!(reply.header.status, Status::Ok);
        let meta = open_meta(&reply.meta).unwrap();
        let entries = decode_read(meta, count as usize).unwrap();
        let mut blocks = reply
            .data
            .iter()
            .flat_map(|piece| piece.chunks_exact(BLOCK_BYTES));
        let mut shown = Vec::new();
        for entry in entries {
            let salt = match entry.kind {
                BlockKind::Data => {
                    let block = blocks.next().unwrap();
                    assert_eq!(crc32c(block), entry.crc);
                    u64::from_le_bytes(block[..8].try_into().unwrap())
                }
                BlockKind::Zero | BlockKind::Absent => 0,
            };
            shown.push((salt, entry.seq));
        }
        assert!(blocks.next().is_none());
        shown
    }
}

fn state_of(reply: &Frame) -> Result<ShardState, Status> {
    match reply.header.status {
        Status::Ok => Ok(ShardState::decode(open_meta(&reply.meta).unwrap()).unwrap()),
        status => Err(status),
    }
}

/// Blocks whose first word is the salt.
fn content(reactor: &Reactor, count: u32, salt: u64) -> SharedBuffer {
    let mut buffer = reactor.buffer(count as usize * BLOCK_BYTES);
    for (word, bytes) in (0u64..).zip(buffer.chunks_exact_mut(8)) {
        bytes.copy_from_slice(&(salt ^ (word % 512)).to_le_bytes());
    }
    buffer.freeze()
}
