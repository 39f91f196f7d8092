//! A store written a second time, as plainly as can be: maps in memory, one for what is accepted
//! and one for what is durable.
//!
//! It speaks the same frames as the real store and keeps nothing but the protocol's promises. Two
//! uses: owners are tried against it without the log underneath, and rules of a store are left out
//! here ([`StoreBug`]) to prove that the checkers would see it. What it "has on disk" belongs to
//! the run, not to its process, so that it survives crashes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use ashlar_proto::api::{Assignment, DiskReport};
use ashlar_proto::crc::crc32c;
use ashlar_proto::frame::open_meta;
use ashlar_proto::message::{
    BlockKind, Extent, Hello, HelloReply, Open, ReadEntry, SetState, ShardState, TAIL_ENTRIES_MAX,
    TailEntry, TailKind, decode_checksums, encode_extents, encode_read, encode_tail,
};
use ashlar_proto::{
    Address, BlockCount, BlockIndex, ByteCount, DiskId, FrameHeader, FrameKind, Generation,
    Incarnation, Layer, ReplicaId, Seq, ShardIndex, Status,
};
use ashlar_reactor::link::{self, Frame, Link};
use ashlar_reactor::sim::Rng;
use ashlar_reactor::{Reactor, SharedBuffer};

use super::stores::LANES;

const BLOCK_BYTES: usize = 4096;
/// Longest that a request takes.
const WORK_US_MAX: u64 = 800;

/// One rule of a store left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreBug {
    /// Requests of an older generation are served.
    NoFence,
    /// The generation is not durable: a restart forgets it.
    ForgetGeneration,
    /// A flush is answered and nothing was made durable.
    LoseFlushed,
    /// Every other entry of a tail is left out.
    ShortTail,
    /// The write that arrives last wins, whatever its seq.
    LastComeWins,
    /// One write of a hundred is acknowledged and not kept.
    DropWrites,
    /// One read of twenty shows the version before.
    StaleReads,
    /// A restart after a loss of power does not say so: the incarnation stays.
    SameIncarnation,
    /// Zeroes leave the blocks absent and forget their seq.
    ForgetZeroes,
}

impl StoreBug {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::NoFence,
        Self::ForgetGeneration,
        Self::LoseFlushed,
        Self::ShortTail,
        Self::LastComeWins,
        Self::DropWrites,
        Self::StaleReads,
        Self::SameIncarnation,
        Self::ForgetZeroes,
    ];
}

#[derive(Clone, Debug, PartialEq)]
struct Version {
    seq: Seq,
    /// None: zeroes.
    data: Option<Rc<[u8]>>,
}

#[derive(Clone, Debug)]
struct Replica {
    id: ReplicaId,
    blocks: BlockCount,
    state: ShardState,
    accepted: BTreeMap<u32, Version>,
    durable: BTreeMap<u32, Version>,
    before: BTreeMap<u32, Version>,
}

/// What lies on the disk of one reference store.
pub struct Image {
    disk: DiskId,
    volatile: bool,
    bug: Option<StoreBug>,
    incarnation: u32,
    replicas: BTreeMap<ShardIndex, Replica>,
    rng: Rng,
}

impl Image {
    pub fn new(disk: DiskId, volatile: bool, bug: Option<StoreBug>, rng: Rng) -> Self {
        Self {
            disk,
            volatile,
            bug,
            incarnation: 0,
            replicas: BTreeMap::new(),
            rng,
        }
    }

    /// The disk as a store would report it.
    pub fn report(&self) -> DiskReport {
        DiskReport {
            id: self.disk,
            path: "reference".to_owned(),
            lanes: LANES,
            usable_bytes: ByteCount::new(1 << 30),
            used_bytes: ByteCount::new(0),
            volatile_cache: self.volatile,
            damage: BTreeMap::new(),
            failed: None,
            ailing: None,
            missing: Vec::new(),
            map: None,
            ..DiskReport::default()
        }
    }

    /// Makes the replicas those of the list; gives those that are not there and may not be made.
    pub fn apply(&mut self, list: Vec<Assignment>) -> Vec<Assignment> {
        let is_listed = |id| list.iter().any(|wanted| wanted.replica == id);
        self.replicas.retain(|_, replica| is_listed(replica.id));
        let (make, refused): (Vec<_>, Vec<_>) = list
            .into_iter()
            .filter(|wanted| !self.replicas.contains_key(&wanted.shard))
            .partition(|wanted| wanted.may_create);
        for wanted in make {
            self.create(wanted.shard, wanted.replica, BlockCount::new(wanted.blocks));
        }
        refused
    }

    fn create(&mut self, shard: ShardIndex, id: ReplicaId, blocks: BlockCount) {
        let replica = Replica {
            id,
            blocks,
            state: ShardState::default(),
            accepted: BTreeMap::new(),
            durable: BTreeMap::new(),
            before: BTreeMap::new(),
        };
        self.replicas.insert(shard, replica);
    }

    /// Power fails: of what was not flushed any subset survives.
    pub fn power_loss(&mut self) {
        if !self.volatile {
            return;
        }
        let keep = [0, 300_000, 700_000, 1_000_000][self.rng.index(4)];
        for replica in self.replicas.values_mut() {
            let mut survived = replica.durable.clone();
            for (block, version) in &replica.accepted {
                if self.rng.chance(keep) {
                    survived.insert(*block, version.clone());
                }
            }
            replica.accepted = survived;
        }
    }

    fn recover(&mut self) {
        if self.bug != Some(StoreBug::SameIncarnation) || self.incarnation == 0 {
            self.incarnation += 1;
        }
        for replica in self.replicas.values_mut() {
            replica.state.may_have_lost |= self.volatile;
            replica.durable = replica.accepted.clone();
            if self.bug == Some(StoreBug::ForgetGeneration) {
                replica.state.generation = Generation::new(0);
            }
        }
    }

    /// What a replica holds, as a comparison of replicas wants it.
    pub fn entries(&self, shard: ShardIndex) -> Option<Vec<ReadEntry>> {
        let replica = self.replicas.get(&shard)?;
        Some(
            (0..replica.blocks.get())
                .map(|block| replica.entry(block))
                .collect(),
        )
    }
}

impl Replica {
    fn entry(&self, block: u32) -> ReadEntry {
        match self.accepted.get(&block) {
            None => ReadEntry {
                kind: BlockKind::Absent,
                seq: Seq::NONE,
                crc: 0,
            },
            Some(Version { seq, data: None }) => ReadEntry {
                kind: BlockKind::Zero,
                seq: *seq,
                crc: 0,
            },
            Some(Version {
                seq,
                data: Some(data),
            }) => ReadEntry {
                kind: BlockKind::Data,
                seq: *seq,
                crc: crc32c(data),
            },
        }
    }

    /// A flush that began when these were accepted has ended; one that began later may have before.
    fn note_durable(&mut self, accepted: BTreeMap<u32, Version>) {
        for (block, version) in accepted {
            let held = self.durable.get(&block);
            if held.is_none_or(|held| held.seq <= version.seq) {
                self.durable.insert(block, version);
            }
        }
    }

    fn put(&mut self, block: u32, version: Version, last_come_wins: bool) {
        self.state.highest = self.state.highest.max(version.seq);
        let newer = self
            .accepted
            .get(&block)
            .is_none_or(|held| held.seq <= version.seq);
        if (newer || last_come_wins)
            && let Some(old) = self.accepted.insert(block, version)
        {
            self.before.insert(block, old);
        }
    }
}

/// A running reference store: hold it as long as the process lives.
struct Server {
    reactor: Reactor,
    image: Rc<RefCell<Image>>,
}

/// Serves the image at some addresses until the process ends.
pub async fn serve(reactor: Reactor, image: Rc<RefCell<Image>>, addresses: [Address; 2]) {
    image.borrow_mut().recover();
    let server = Rc::new(Server {
        reactor: reactor.clone(),
        image,
    });
    for address in addresses {
        let listener = match link::listen(&reactor, &address).await {
            Ok(listener) => listener,
            Err(error) => panic!("the simulated store cannot listen: {error}"),
        };
        let server = Rc::clone(&server);
        drop(reactor.spawn(async move {
            while let Ok(link) = listener.accept().await {
                drop(server.reactor.spawn(Rc::clone(&server).session(link)));
            }
        }));
    }
}

impl Server {
    async fn session(self: Rc<Self>, link: Link) {
        while let Ok(frame) = link.recv().await {
            let (server, link) = (Rc::clone(&self), link.clone());
            drop(self.reactor.spawn(async move {
                let pause = server.image.borrow_mut().rng.between(1, WORK_US_MAX);
                server.reactor.sleep(Duration::from_micros(pause)).await;
                let reply = server.answer(&frame).await;
                let _ = link.send(reply).await;
            }));
        }
    }

    async fn answer(&self, frame: &Frame) -> Frame {
        let header = &frame.header;
        match header.kind {
            FrameKind::Hello => self.greet(frame),
            FrameKind::Ping => self.reply(header, Status::Ok, Vec::new(), Vec::new()),
            FrameKind::Flush => self.flush(header).await,
            _ => match self.on_shard(frame) {
                Ok((meta, data)) => self.reply(header, Status::Ok, meta, data),
                Err(status) => self.reply(header, status, Vec::new(), Vec::new()),
            },
        }
    }

    fn reply(
        &self,
        request: &FrameHeader,
        status: Status,
        meta: Vec<u8>,
        data: Vec<SharedBuffer>,
    ) -> Frame {
        let image = self.image.borrow();
        let mut header = request.reply(status, Incarnation::new(image.incarnation));
        if let Some(replica) = image.replicas.get(&request.shard) {
            header.generation = replica.state.generation;
            header.epoch = replica.state.epoch;
        }
        Frame::new(header, meta, data)
    }

    fn greet(&self, frame: &Frame) -> Frame {
        let hello = open_meta(&frame.meta)
            .ok()
            .and_then(|meta| Hello::decode(meta).ok());
        let (disk, volatile_cache) = {
            let image = self.image.borrow();
            (image.disk, image.volatile)
        };
        let version = ashlar_proto::frame::PROTOCOL_VERSION;
        match hello {
            Some(hello) if hello.disk == disk => {
                let meta = HelloReply {
                    version,
                    volatile_cache,
                };
                self.reply(&frame.header, Status::Ok, meta.encode(), Vec::new())
            }
            _ => self.reply(&frame.header, Status::NoSuchReplica, Vec::new(), Vec::new()),
        }
    }

    /// Covers what was accepted before it began.
    async fn flush(&self, header: &FrameHeader) -> Frame {
        let accepted: Vec<_> = {
            let image = self.image.borrow();
            let replicas = image.replicas.iter();
            replicas
                .map(|(shard, replica)| (*shard, replica.accepted.clone()))
                .collect()
        };
        let pause = self.image.borrow_mut().rng.between(1, 2 * WORK_US_MAX);
        self.reactor.sleep(Duration::from_micros(pause)).await;
        let loses = self.image.borrow().bug == Some(StoreBug::LoseFlushed);
        for (shard, accepted) in accepted.into_iter().filter(|_| !loses) {
            if let Some(replica) = self.image.borrow_mut().replicas.get_mut(&shard) {
                replica.note_durable(accepted);
            }
        }
        self.reply(header, Status::Ok, Vec::new(), Vec::new())
    }

    fn on_shard(&self, frame: &Frame) -> Result<(Vec<u8>, Vec<SharedBuffer>), Status> {
        let mut image = self.image.borrow_mut();
        let Image {
            bug,
            replicas,
            rng,
            volatile,
            ..
        } = &mut *image;
        let (header, bug) = (&frame.header, *bug);
        let replica = replicas
            .get_mut(&header.shard)
            .ok_or(Status::NoSuchReplica)?;
        let meta = open_meta(&frame.meta).map_err(|_| Status::Malformed)?;
        let fenced = header.generation < replica.state.generation;
        if fenced && bug != Some(StoreBug::NoFence) {
            return Err(Status::Fenced);
        }
        if header.kind == FrameKind::Open {
            let open = Open::decode(meta).map_err(|_| Status::Malformed)?;
            if open.replica != replica.id {
                return Err(Status::NoSuchReplica);
            }
            replica.state.generation = replica.state.generation.max(header.generation);
            replica.state.epoch = replica.state.epoch.max(header.epoch);
            return Ok((replica.state.encode(), Vec::new()));
        }
        if header.generation > replica.state.generation && bug != Some(StoreBug::ForgetGeneration) {
            return Err(Status::Fenced);
        }
        if header.epoch < replica.state.epoch {
            return Err(Status::StaleEpoch);
        }
        replica.state.epoch = header.epoch;
        if header.stable > replica.state.stable {
            replica.state.stable = header.stable;
        }
        let nothing = (Vec::new(), Vec::new());
        match header.kind {
            FrameKind::Renew | FrameKind::Verify => Ok(nothing),
            FrameKind::Tail => Ok((replica.tail(header, bug), Vec::new())),
            FrameKind::SetState | FrameKind::Close => {
                let set = SetState::decode(meta).map_err(|_| Status::Malformed)?;
                replica.state.window = replica.state.window.max(set.window);
                replica.state.stable = replica.state.stable.max(set.stable);
                replica.state.may_have_lost &= !set.settle;
                Ok((replica.state.encode(), Vec::new()))
            }
            FrameKind::Write => {
                let drops = bug == Some(StoreBug::DropWrites) && rng.chance(10_000);
                if drops {
                    return Ok(nothing);
                }
                replica.write(frame, meta, bug)?;
                replica.harden(*volatile);
                Ok(nothing)
            }
            FrameKind::Zeroes => {
                for block in header.block.get()..header.block.get() + header.count.get() {
                    if bug == Some(StoreBug::ForgetZeroes) {
                        replica.accepted.remove(&block);
                        continue;
                    }
                    let version = Version {
                        seq: header.seq,
                        data: None,
                    };
                    replica.put(block, version, bug == Some(StoreBug::LastComeWins));
                }
                replica.harden(*volatile);
                Ok(nothing)
            }
            FrameKind::Read => {
                let stale = bug == Some(StoreBug::StaleReads) && rng.chance(50_000);
                Ok(replica.read(&self.reactor, header, stale))
            }
            FrameKind::Extents => Ok((replica.extents(header), Vec::new())),
            _ => Err(Status::Malformed),
        }
    }
}

impl Replica {
    fn harden(&mut self, volatile: bool) {
        if !volatile {
            self.durable.clone_from(&self.accepted);
        }
    }

    fn tail(&self, header: &FrameHeader, bug: Option<StoreBug>) -> Vec<u8> {
        let above = |(_, version): &(&u32, &Version)| version.seq > header.seq;
        let entries = self.accepted.range(header.block.get()..).filter(above);
        let entries = entries.map(|(&block, version)| TailEntry {
            block: BlockIndex::new(block),
            layer: Layer::new(1),
            seq: version.seq,
            kind: if version.data.is_none() {
                TailKind::Zero
            } else {
                TailKind::Data
            },
        });
        let short = bug == Some(StoreBug::ShortTail);
        let entries = entries.enumerate().filter(|(at, _)| !short || at % 2 == 0);
        let entries: Vec<_> = entries
            .map(|(_, entry)| entry)
            .take(TAIL_ENTRIES_MAX)
            .collect();
        encode_tail(0, &entries)
    }

    fn write(&mut self, frame: &Frame, meta: &[u8], bug: Option<StoreBug>) -> Result<(), Status> {
        let header = &frame.header;
        let blocks = usize::from(header.data_blocks);
        let checksums = decode_checksums(meta, blocks).map_err(|_| Status::Malformed)?;
        let mut data = Vec::with_capacity(blocks * BLOCK_BYTES);
        for piece in &frame.data {
            data.extend_from_slice(piece);
        }
        if data
            .chunks(BLOCK_BYTES)
            .zip(&checksums)
            .any(|(bytes, &crc)| crc32c(bytes) != crc)
        {
            return Err(Status::BadChecksum);
        }
        for (block, bytes) in (header.block.get()..).zip(data.chunks(BLOCK_BYTES)) {
            let version = Version {
                seq: header.seq,
                data: Some(bytes.into()),
            };
            self.put(block, version, bug == Some(StoreBug::LastComeWins));
        }
        Ok(())
    }

    fn read(
        &self,
        reactor: &Reactor,
        header: &FrameHeader,
        stale: bool,
    ) -> (Vec<u8>, Vec<SharedBuffer>) {
        let (mut entries, mut pieces) = (Vec::new(), Vec::new());
        for block in header.block.get()..header.block.get() + header.count.get() {
            let old = self.before.get(&block).filter(|_| stale);
            let version = old.or_else(|| self.accepted.get(&block));
            let mut entry = self.entry(block);
            if let Some(version) = version {
                entry.seq = version.seq;
                entry.kind = BlockKind::Zero;
                entry.crc = 0;
                if let Some(data) = &version.data {
                    entry.kind = BlockKind::Data;
                    entry.crc = crc32c(data);
                    let mut buffer = reactor.buffer(BLOCK_BYTES);
                    buffer.copy_from_slice(data);
                    pieces.push(buffer.freeze());
                }
            }
            entries.push(entry);
        }
        (encode_read(&entries), pieces)
    }

    fn extents(&self, header: &FrameHeader) -> Vec<u8> {
        let mut extents: Vec<Extent> = Vec::new();
        for block in header.block.get()..header.block.get() + header.count.get() {
            let kind = self.entry(block).kind;
            match extents.last_mut() {
                Some(last) if last.kind == kind => last.count = last.count.next(),
                _ => extents.push(Extent {
                    count: BlockCount::new(1),
                    kind,
                }),
            }
        }
        encode_extents(&extents)
    }
}
