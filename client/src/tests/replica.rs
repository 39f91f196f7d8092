//! A store in memory that speaks the data plane, for the owner's tests: what it holds outlives its
//! processes, and it can be told to fail.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use ashlar_proto::crc::crc32c;
use ashlar_proto::frame::open_meta;
use ashlar_proto::message::{
    BlockKind, Extent, Hello, HelloReply, Open, ReadEntry, SetState, ShardState, TAIL_ENTRIES_MAX,
    TailEntry, TailKind, decode_above, decode_checksums, encode_extents, encode_read, encode_tail,
};
use ashlar_proto::{
    Address, BlockCount, BlockIndex, DiskId, FrameHeader, FrameKind, Incarnation, Layer, ReplicaId,
    RoomHint, Seq, ShardIndex, Status,
};
use ashlar_reactor::Reactor;
use ashlar_reactor::link::{self, Frame, Link};
use ashlar_reactor::sim::{Process, World};

/// A block's version: its content, or zeroes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) seq: Seq,
    pub(super) layer: Layer,
    pub(super) data: Option<Rc<[u8]>>,
}

type Versions = BTreeMap<(ShardIndex, BlockIndex), Version>;

#[derive(Clone, Copy, Default)]
struct Known {
    state: ShardState,
    replica: ReplicaId,
}

/// What the disk holds.
#[derive(Default)]
struct Media {
    cached: Versions,
    durable: Versions,
    known: BTreeMap<ShardIndex, Known>,
    incarnation: u32,
}

/// What is wrong with it.
#[derive(Default)]
pub(super) struct Faults {
    /// Every write is answered so.
    pub(super) writes: Cell<Option<Status>>,
    /// Every read is answered so.
    pub(super) reads: Cell<Option<Status>>,
    /// Blocks whose copy is damaged until they are written again.
    pub(super) damaged: RefCell<BTreeSet<(ShardIndex, BlockIndex)>>,
    /// What tails show of the damaged blocks: that they may have this seq.
    pub(super) damaged_upto: Cell<Option<Seq>>,
    /// Blocks whose payload is wrong on the way, as long as they are here.
    pub(super) corrupt: RefCell<BTreeSet<(ShardIndex, BlockIndex)>>,
    /// Requests are taken and never answered.
    pub(super) hangs: Cell<bool>,
    /// Requests are carried out and never answered.
    pub(super) mute: Cell<bool>,
    /// Reads are answered as if they had asked for the next block.
    pub(super) strays: Cell<bool>,
    /// Requests are taken one by one, each after this long.
    pub(super) slow: Cell<Duration>,
    /// What replies say of room.
    pub(super) room: Cell<RoomHint>,
}

/// See the module.
pub(super) struct FakeStore {
    pub(super) disk: DiskId,
    pub(super) host: IpAddr,
    pub(super) faults: Faults,
    pub(super) writes_seen: Cell<u64>,
    pub(super) reads_seen: Cell<u64>,
    /// Connections that were greeted and are open.
    pub(super) sessions: Cell<u64>,
    volatile_cache: bool,
    media: RefCell<Media>,
    process: RefCell<Option<Process>>,
}

impl FakeStore {
    /// A store on a host of its own, not running.
    pub(super) fn new(number: u8, volatile_cache: bool) -> Rc<Self> {
        Rc::new(Self {
            disk: DiskId::new(u128::from(number) + 100),
            host: IpAddr::from([10, 0, 1, number]),
            faults: Faults::default(),
            writes_seen: Cell::new(0),
            reads_seen: Cell::new(0),
            sessions: Cell::new(0),
            volatile_cache,
            media: RefCell::default(),
            process: RefCell::new(None),
        })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> Address {
        Address::Tcp((self.host, 7000).into())
    }

    /// Loses a block, and does not know it.
    pub(super) fn lose(&self, shard: ShardIndex, block: BlockIndex) {
        let mut media = self.media.borrow_mut();
        media.cached.remove(&(shard, block));
        media.durable.remove(&(shard, block));
    }

    /// Loses what says how far a shard is settled.
    pub(super) fn lose_horizon(&self, shard: ShardIndex) {
        let mut media = self.media.borrow_mut();
        let known = media.known.get_mut(&shard);
        known.expect("the shard is here").state.stable = Seq::NONE;
    }

    /// Makes a replica.
    pub(super) fn create(&self, shard: ShardIndex, replica: ReplicaId) {
        let known = Known {
            replica,
            ..Known::default()
        };
        self.media.borrow_mut().known.insert(shard, known);
    }

    /// Starts a process.
    pub(super) fn start(self: &Rc<Self>, world: &World) {
        self.media.borrow_mut().incarnation += 1;
        let process = world.process("store", self.host);
        let (store, reactor) = (Rc::clone(self), process.reactor().clone());
        drop(process.reactor().spawn(async move {
            let address = store.address();
            let listener = link::listen(&reactor, &address).await.unwrap();
            while let Ok(link) = listener.accept().await {
                let store = Rc::clone(&store);
                drop(reactor.spawn(store.serve(reactor.clone(), link)));
            }
        }));
        *self.process.borrow_mut() = Some(process);
    }

    /// Kills the process; what only a volatile cache held is lost too.
    pub(super) fn lose_power(&self) {
        self.kill();
        let mut media = self.media.borrow_mut();
        let media = &mut *media;
        if self.volatile_cache && media.cached != media.durable {
            media.cached = media.durable.clone();
            for known in media.known.values_mut() {
                known.state.may_have_lost = true;
            }
        }
    }

    /// Kills the process, and loses what it held of a block, which recovery finds out.
    pub(super) fn lose_block(&self, shard: u32, block: u32) {
        self.kill();
        let key = (ShardIndex::new(shard), BlockIndex::new(block));
        let mut media = self.media.borrow_mut();
        media.cached.remove(&key);
        media.durable.remove(&key);
        for known in media.known.values_mut() {
            known.state.damaged = true;
        }
    }

    /// Kills the process only.
    pub(super) fn kill(&self) {
        if let Some(process) = self.process.take() {
            process.crash();
        }
    }

    /// All it holds.
    pub(super) fn contents(&self) -> Versions {
        self.media.borrow().cached.clone()
    }

    /// What it knows of a shard.
    pub(super) fn state(&self, shard: u32) -> ShardState {
        self.media.borrow().known[&ShardIndex::new(shard)].state
    }

    async fn serve(self: Rc<Self>, reactor: Reactor, link: Link) {
        let Ok(hello) = link.recv().await else { return };
        let known = Hello::decode(open_meta(&hello.meta).unwrap()).unwrap();
        if known.disk != self.disk {
            let header = hello
                .header
                .reply(Status::NoSuchReplica, Incarnation::new(0));
            let _ = link.send(Frame::new(header, Vec::new(), Vec::new())).await;
            return;
        }
        let greeting = HelloReply {
            version: 1,
            volatile_cache: self.volatile_cache,
        };
        let reply = self.reply(&hello.header, Status::Ok, greeting.encode(), &reactor, &[]);
        if link.send(reply).await.is_err() {
            return;
        }
        self.sessions.set(self.sessions.get() + 1);
        while let Ok(frame) = link.recv().await {
            reactor.sleep(self.faults.slow.get()).await;
            let (store, link, handle) = (Rc::clone(&self), link.clone(), reactor.clone());
            drop(reactor.spawn(async move {
                let nanos = handle.random_u64() % 100_000;
                handle.sleep(Duration::from_nanos(nanos)).await;
                if store.faults.hangs.get() {
                    return;
                }
                let reply = store.answer(&frame, &handle);
                if store.faults.mute.get() {
                    return;
                }
                let _ = link.send(reply).await;
            }));
        }
        self.sessions.set(self.sessions.get() - 1);
    }

    fn reply(
        &self,
        header: &FrameHeader,
        status: Status,
        meta: Vec<u8>,
        reactor: &Reactor,
        data: &[u8],
    ) -> Frame {
        let run = Incarnation::new(self.media.borrow().incarnation);
        let mut reply = header.reply(status, run);
        reply.room = self.faults.room.get();
        if let Some(known) = self.media.borrow().known.get(&header.shard) {
            reply.generation = known.state.generation;
            reply.epoch = known.state.epoch;
        }
        let mut buffer = reactor.buffer(data.len());
        buffer.copy_from_slice(data);
        let data = if data.is_empty() {
            Vec::new()
        } else {
            vec![buffer.freeze()]
        };
        Frame::new(reply, meta, data)
    }

    fn answer(&self, frame: &Frame, reactor: &Reactor) -> Frame {
        let mut header = frame.header;
        if self.faults.strays.get() && header.kind == FrameKind::Read {
            header.block = header.block.checked_add(BlockCount::new(1)).unwrap();
        }
        let header = &header;
        let done = |status, meta| self.reply(header, status, meta, reactor, &[]);
        if matches!(header.kind, FrameKind::Flush | FrameKind::Ping) {
            let mut media = self.media.borrow_mut();
            media.durable = media.cached.clone();
            drop(media);
            return done(Status::Ok, Vec::new());
        }
        let Some(mut known) = self.media.borrow().known.get(&header.shard).copied() else {
            return done(Status::NoSuchReplica, Vec::new());
        };
        let state = &mut known.state;
        let is_open = header.kind == FrameKind::Open;
        if header.generation < state.generation
            || (header.generation > state.generation && !is_open)
        {
            return done(Status::Fenced, Vec::new());
        }
        if header.epoch < state.epoch {
            return done(Status::StaleEpoch, Vec::new());
        }
        if !is_open && header.stable.window() > state.window {
            return done(Status::SeqOutOfWindow, Vec::new());
        }
        state.epoch = header.epoch;
        state.stable = state.stable.max(header.stable);
        let meta = open_meta(&frame.meta).unwrap();
        match header.kind {
            FrameKind::Open => {
                if Open::decode(meta).unwrap().replica != known.replica {
                    return done(Status::NoSuchReplica, Vec::new());
                }
                state.generation = header.generation;
            }
            FrameKind::SetState | FrameKind::Close => {
                let set = SetState::decode(meta).unwrap();
                state.window = state.window.max(set.window);
                state.stable = state.stable.max(set.stable);
                state.may_have_lost &= !set.settle;
                state.damaged &= !set.settle;
            }
            _ => {}
        }
        let state = *state;
        self.media.borrow_mut().known.insert(header.shard, known);
        match header.kind {
            FrameKind::Open | FrameKind::SetState | FrameKind::Close => {
                let mut state = state;
                state.highest = self.highest(header.shard);
                done(Status::Ok, state.encode())
            }
            FrameKind::Tail => done(Status::Ok, encode_tail(0, &self.tail(header))),
            FrameKind::Write | FrameKind::Zeroes => done(self.store(frame, &state), Vec::new()),
            FrameKind::Read => match self.faults.reads.get() {
                Some(status) => done(status, Vec::new()),
                None => self.show(header, reactor),
            },
            FrameKind::Extents => {
                let above = decode_above(open_meta(&frame.meta).unwrap()).unwrap();
                done(Status::Ok, encode_extents(&self.extents(header, above)))
            }
            // It knows no other store.
            FrameKind::Pull => done(Status::Unavailable, Vec::new()),
            FrameKind::Renew | FrameKind::Verify => done(Status::Ok, Vec::new()),
            _ => done(Status::Malformed, Vec::new()),
        }
    }

    fn highest(&self, shard: ShardIndex) -> Seq {
        let media = self.media.borrow();
        let mine = media.cached.iter().filter(|((of, _), _)| *of == shard);
        mine.map(|(_, v)| v.seq).max().unwrap_or(Seq::NONE)
    }

    fn tail(&self, header: &FrameHeader) -> Vec<TailEntry> {
        let media = self.media.borrow();
        let from = if header.layer > Layer::new(1) {
            header.block.checked_add(BlockCount::new(1)).unwrap()
        } else {
            header.block
        };
        let range = media.cached.range((header.shard, from)..);
        range
            .filter(|((shard, _), version)| *shard == header.shard && version.seq > header.seq)
            .map(|(&(_, block), version)| {
                let damaged = self.faults.damaged_upto.get();
                let is_damaged = self
                    .faults
                    .damaged
                    .borrow()
                    .contains(&(header.shard, block));
                let (seq, kind) = match (damaged.filter(|_| is_damaged), &version.data) {
                    (Some(upto), _) => (upto, TailKind::Damaged),
                    (None, None) => (version.seq, TailKind::Zero),
                    (None, Some(_)) => (version.seq, TailKind::Data),
                };
                TailEntry {
                    block,
                    layer: Layer::new(1),
                    seq,
                    kind,
                }
            })
            .take(TAIL_ENTRIES_MAX)
            .collect()
    }

    fn store(&self, frame: &Frame, state: &ShardState) -> Status {
        let header = &frame.header;
        self.writes_seen.set(self.writes_seen.get() + 1);
        if let Some(status) = self.faults.writes.get() {
            return status;
        }
        let base = state.stable.max(header.seq.window().start());
        let is_new = header.seq.window() == state.window;
        if header.seq.window() > state.window || is_new && !header.seq.within_reach_of(base) {
            return Status::SeqOutOfWindow;
        }
        let bytes: Vec<u8> = frame.data.iter().flat_map(|piece| piece.to_vec()).collect();
        let is_write = header.kind == FrameKind::Write;
        let count = header.count.get();
        if is_write {
            let blocks = usize::try_from(count).unwrap();
            assert_eq!(bytes.len(), blocks * 4096, "payload of a write");
            let checksums = decode_checksums(open_meta(&frame.meta).unwrap(), blocks).unwrap();
            let computed: Vec<u32> = bytes.chunks(4096).map(crc32c).collect();
            assert_eq!(checksums, computed, "checksums of a write");
        }
        let mut media = self.media.borrow_mut();
        let media = &mut *media;
        for at in 0..count {
            let block = header.block.checked_add(BlockCount::new(at)).unwrap();
            let from = usize::try_from(at).unwrap() * 4096;
            let version = Version {
                seq: header.seq,
                layer: header.layer,
                data: is_write.then(|| bytes[from..from + 4096].into()),
            };
            let key = (header.shard, block);
            let held = media.cached.get(&key);
            let held_seq = held.map_or(Seq::NONE, |held| held.seq);
            if let Some(held) = held.filter(|held| held.seq == header.seq) {
                assert_eq!(*held, version, "one seq has one content");
            }
            if header.seq >= held_seq {
                self.faults.damaged.borrow_mut().remove(&key);
                media.cached.insert(key, version.clone());
                if !self.volatile_cache {
                    media.durable.insert(key, version);
                }
            }
        }
        Status::Ok
    }

    fn show(&self, header: &FrameHeader, reactor: &Reactor) -> Frame {
        self.reads_seen.set(self.reads_seen.get() + 1);
        let media = self.media.borrow();
        let (mut entries, mut data) = (Vec::new(), Vec::new());
        for at in 0..header.count.get() {
            let block = header.block.checked_add(BlockCount::new(at)).unwrap();
            let key = (header.shard, block);
            if self.faults.damaged.borrow().contains(&key) {
                drop(media);
                return self.reply(header, Status::Damaged, Vec::new(), reactor, &[]);
            }
            let version = media.cached.get(&key);
            let bytes = version.and_then(|version| version.data.as_ref());
            entries.push(ReadEntry {
                kind: match (version, bytes) {
                    (None, _) => BlockKind::Absent,
                    (Some(_), None) => BlockKind::Zero,
                    (Some(_), Some(_)) => BlockKind::Data,
                },
                seq: version.map_or(Seq::NONE, |version| version.seq),
                crc: bytes.map_or(0, |bytes| crc32c(bytes)),
            });
            if let Some(bytes) = bytes {
                let start = data.len();
                data.extend_from_slice(bytes);
                if self.faults.corrupt.borrow().contains(&key) {
                    data[start] ^= 1;
                }
            }
        }
        drop(media);
        self.reply(header, Status::Ok, encode_read(&entries), reactor, &data)
    }

    fn extents(&self, header: &FrameHeader, above: Layer) -> Vec<Extent> {
        let media = self.media.borrow();
        let mut extents = Vec::new();
        for at in 0..header.count.get() {
            let block = header.block.checked_add(BlockCount::new(at)).unwrap();
            let found = media.cached.get(&(header.shard, block));
            let kind = match found.filter(|version| version.layer > above) {
                None => BlockKind::Absent,
                Some(version) if version.data.is_none() => BlockKind::Zero,
                Some(_) => BlockKind::Data,
            };
            crate::range::push_run(&mut extents, 64, 1, kind);
        }
        extents
    }
}
