//! A snapshot as a read-only block device, for anybody, while the volume is written by its owner.
//!
//! What a snapshot shows never changes once it is ready, and every replica that was in sync since then
//! holds all of it. So a reader owns nothing, is fenced by nobody and holds no lease: it asks any
//! replica that the conductor's map calls in sync, naming that replica, and another where that one
//! cannot answer. Invariant: what is shown matches its checksums.
//!
//! ```text
//! map of the conductor ──▶ copies of each shard ──▶ ask the quickest ─▶ shown
//!        ▲                                              │ fails: the next one
//!        └──────────────── all have failed ◀────────────┘
//! ```

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use ashlar_proto::api::{
    DiskLocation, Origin as OriginInfo, Snapshot as SnapshotInfo, SnapshotMap, SnapshotState,
};
use ashlar_proto::limits::{BLOCK_BYTES, BLOCK_BYTES_U64, FRAME_DATA_BLOCKS_MAX};
use ashlar_proto::message::{Extent, SnapshotOf, decode_extents};
use ashlar_proto::{
    BlockCount, ByteCount, ClusterId, FrameHeader, FrameKind, Layer, ReplicaId, Seq, Status,
    VolumeId, lane_of,
};
use ashlar_reactor::future::join_all;
use ashlar_reactor::link::Frame;
use ashlar_reactor::{Buffer, Reactor, SharedBuffer};

use crate::attach::{REQUEST_BYTES_MAX, reached_at};
use crate::block_device::{BlockDevice, BlockError, Durability, Geometry, ZeroMode};
use crate::budget::Budget;
use crate::options::VolumeOptions;
use crate::origin::{Origin, assemble_over, push_over};
use crate::overlap::BlockRange;
use crate::peer::{Peer, PeerKey, PeerTimes};
use crate::range::{check_sized, touched_blocks};
use crate::read::{Shown, covers, cut, verify};
use crate::route::{Piece, Route};
use crate::source::{AnySource, ClusterSource, SourceError};
use crate::wire;
use crate::write::span_of;
use crate::write_log::Span;

/// How long a reader waits before it asks again, replicas or the conductor.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Why a snapshot could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenSnapshotError {
    /// The conductor does not give what it takes.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Writes of its layer are still on their way, and were for as long as may be waited.
    #[error(
        "the snapshot is not ready: some write before it is not on all in-sync replicas yet; see \
         `ashlar volume show` for the replicas, and try again"
    )]
    NotReady,
    /// The conductor's map does not hold together.
    #[error("the conductor's map of the snapshot is inconsistent: {what}")]
    Map {
        /// What is wrong.
        what: &'static str,
    },
}

/// One replica that holds the snapshot's part of a shard.
#[derive(Clone)]
struct Copy {
    id: ReplicaId,
    peer: Rc<Peer>,
}

/// What a copy came to when it was asked.
enum Told<T> {
    Shown(T),
    /// What it holds is bad.
    Bad,
    Failed,
}

struct Reader {
    reactor: Reactor,
    source: Rc<dyn AnySource>,
    options: VolumeOptions,
    cluster: ClusterId,
    info: SnapshotInfo,
    /// The volume and the name that it is asked for by.
    asked: (String, String),
    /// The conductor keeps it for as long as it is open: whatever is said, it is not gone.
    is_kept: bool,
    /// What it shows wherever its volume was not written up to it.
    origin: Option<Origin>,
    geometry: Geometry,
    route: Route,
    others: Vec<SnapshotInfo>,
    /// The layer that the volume was written in when it was opened.
    head: Layer,
    peers: RefCell<BTreeMap<PeerKey, Rc<Peer>>>,
    /// Of each shard.
    copies: RefCell<Vec<Vec<Copy>>>,
    is_gone: Cell<bool>,
    damage_seen: Cell<u64>,
    budget: Rc<Budget>,
    zeroes: SharedBuffer,
}

/// A snapshot that is open. Clones are handles on the same.
#[derive(Clone)]
pub struct Snapshot {
    reader: Rc<Reader>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("info", &self.reader.info)
            .finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Opens a snapshot of a volume, once it is ready.
    ///
    /// # Errors
    /// [`OpenSnapshotError`].
    pub async fn open<C: ClusterSource>(
        reactor: &Reactor,
        source: C,
        volume: &str,
        snapshot: &str,
        options: VolumeOptions,
    ) -> Result<Self, OpenSnapshotError> {
        let asked = (volume.to_owned(), snapshot.to_owned());
        Self::open_by(reactor, Rc::new(source), asked, false, options).await
    }

    /// Opens what something is a clone of, by its layer: the name may change.
    pub(crate) async fn open_origin(
        reactor: &Reactor,
        source: Rc<dyn AnySource>,
        origin: &OriginInfo,
        options: VolumeOptions,
    ) -> Result<Self, OpenSnapshotError> {
        let asked = (origin.volume_name.clone(), origin.snapshot_by_layer());
        let opened = Self::open_by(reactor, source, asked, true, options).await?;
        let info = opened.info();
        if (info.volume, info.layer) != (origin.volume, origin.layer) {
            let what = "origin";
            return Err(OpenSnapshotError::Map { what });
        }
        Ok(opened)
    }

    async fn open_by(
        reactor: &Reactor,
        source: Rc<dyn AnySource>,
        asked: (String, String),
        is_kept: bool,
        options: VolumeOptions,
    ) -> Result<Self, OpenSnapshotError> {
        let deadline = reactor.now() + options.attach_timeout;
        let map = loop {
            match source.snapshot(&asked.0, &asked.1).await {
                Ok(map) if map.snapshot.state == SnapshotState::Ready => break map,
                Ok(_) if reactor.now() >= deadline => return Err(OpenSnapshotError::NotReady),
                Err(SourceError::Unreachable) if reactor.now() < deadline => {}
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
            reactor.sleep(RETRY_PAUSE).await;
        };
        let mut reader = Reader::new(reactor, source, options, &map)?;
        (reader.asked, reader.is_kept) = (asked, is_kept);
        if let Some(origin) = &map.snapshot.origin {
            let source = Rc::clone(&reader.source);
            let origin = Origin::open(reactor, source, origin, &reader.options).await?;
            reader.origin = Some(origin);
        }
        reader.learn(&map);
        let reader = Rc::new(reader);
        Ok(Self { reader })
    }

    /// What the conductor says of it.
    #[must_use]
    pub fn info(&self) -> &SnapshotInfo {
        &self.reader.info
    }

    /// The other snapshots of its volume, as they were when it was opened.
    #[must_use]
    pub fn others(&self) -> &[SnapshotInfo] {
        &self.reader.others
    }

    /// Whether it was found to be deleted.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.reader.is_gone.get()
    }

    /// Blocks of which some replica had a bad copy, as far as reads have seen.
    #[must_use]
    pub fn damage_seen(&self) -> u64 {
        self.reader.damage_seen.get()
    }

    /// The kinds of the blocks from `offset` on that were written since the older snapshot of that
    /// layer; the others are absent. As [`BlockDevice::extents`] otherwise.
    ///
    /// # Errors
    /// As [`BlockDevice::extents`]; [`BlockError::Unavailable`] also where there is no such snapshot
    /// any more.
    pub async fn changed_since(
        &self,
        layer: Layer,
        offset: u64,
        len: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>, BlockError> {
        let layers = (layer, self.reader.info.layer);
        let extents = self.reader.extents(layers, None, offset, len, extents_max);
        extents.await
    }

    /// The kinds of blocks as it shows them.
    pub(crate) async fn all_extents(
        &self,
        offset: u64,
        len: u64,
    ) -> Result<Vec<Extent>, BlockError> {
        BlockDevice::extents(self, offset, len, usize::MAX).await
    }

    /// The layer that the volume was written in when the snapshot was opened.
    pub(crate) fn head_layer(&self) -> Layer {
        self.reader.head
    }

    /// The kinds of blocks as one layer shows them, of what lies above another; nothing of an origin.
    pub(crate) async fn runs(
        &self,
        above: Layer,
        layer: Layer,
        offset: u64,
        len: u64,
    ) -> Result<Vec<Extent>, BlockError> {
        let layers = (above, layer);
        let extents = self.reader.extents(layers, None, offset, len, usize::MAX);
        extents.await
    }
}

impl Reader {
    fn new(
        reactor: &Reactor,
        source: Rc<dyn AnySource>,
        options: VolumeOptions,
        map: &SnapshotMap,
    ) -> Result<Self, OpenSnapshotError> {
        let wrong = |what| OpenSnapshotError::Map { what };
        let route = Route::new(map.volume.shard_bytes).ok_or(wrong("shard size"))?;
        let size = map.snapshot.size_bytes;
        if size == ByteCount::new(0) || !size.get().is_multiple_of(BLOCK_BYTES_U64) {
            return Err(wrong("size"));
        }
        let shards = size.get().div_ceil(map.volume.shard_bytes.get());
        if (map.volume.shards.len() as u64) < shards {
            return Err(wrong("number of shards"));
        }
        if map.snapshot.layer == Layer::default() {
            return Err(wrong("layer"));
        }
        let mut zeroes = reactor.buffer(usize::from(FRAME_DATA_BLOCKS_MAX) * BLOCK_BYTES);
        zeroes.fill(0);
        Ok(Self {
            reactor: reactor.clone(),
            source,
            budget: Budget::new(options.in_flight_bytes, options.in_flight_requests),
            options,
            cluster: map.cluster,
            info: map.snapshot.clone(),
            asked: (map.volume.name.clone(), map.snapshot.name.clone()),
            is_kept: false,
            origin: None,
            geometry: Geometry {
                size_bytes: size.get(),
                block_bytes_min: 512,
                block_bytes_preferred: 4096,
                request_bytes_max: REQUEST_BYTES_MAX,
                read_only: true,
            },
            route,
            others: map.others.clone(),
            head: map.volume.head_layer,
            peers: RefCell::default(),
            copies: RefCell::default(),
            is_gone: Cell::new(false),
            damage_seen: Cell::new(0),
            zeroes: zeroes.freeze(),
        })
    }

    fn volume(&self) -> VolumeId {
        self.info.volume
    }

    /// Takes in who holds it now.
    fn learn(&self, map: &SnapshotMap) {
        let is_same = (map.volume.id, map.snapshot.layer) == (self.volume(), self.info.layer);
        if !is_same {
            self.is_gone.set(!self.is_kept);
            return;
        }
        let disks: BTreeMap<_, &DiskLocation> =
            map.disks.iter().map(|disk| (disk.disk, disk)).collect();
        let mut peers = self.peers.borrow_mut();
        let mut used = BTreeMap::new();
        let mut copies = Vec::with_capacity(map.volume.shards.len());
        for shard in &map.volume.shards {
            let in_sync = shard.replicas.iter().filter(|replica| replica.in_sync);
            let copy = |replica: &ashlar_proto::api::Replica| {
                let location = disks.get(&replica.disk).filter(|at| at.lanes > 0)?;
                let key = PeerKey {
                    address: reached_at(location, &self.options),
                    node: location.node_name.clone(),
                    disk: location.disk,
                    lane: lane_of(self.volume(), shard.index, location.lanes),
                };
                let made = || {
                    let times = PeerTimes::of(&self.options);
                    Peer::new(&self.reactor, key.clone(), self.cluster, times)
                };
                let known = used.get(&key).or_else(|| peers.get(&key)).cloned();
                let peer: Rc<Peer> = known.unwrap_or_else(made);
                used.insert(key, Rc::clone(&peer));
                let id = replica.id;
                Some(Copy { id, peer })
            };
            copies.push(in_sync.filter_map(copy).collect());
        }
        for (key, peer) in &*peers {
            if !used.contains_key(key) {
                peer.close();
            }
        }
        *peers = used;
        self.copies.replace(copies);
    }

    /// Asks the conductor who holds it now.
    async fn refresh(&self) {
        let asked = self.source.snapshot(&self.asked.0, &self.asked.1);
        let patience = self.options.connect_timeout;
        match self.reactor.timeout(patience, asked).await {
            Ok(Ok(map)) => self.learn(&map),
            Ok(Err(SourceError::NotFound)) => self.is_gone.set(!self.is_kept),
            Ok(Err(_)) | Err(_) => {}
        }
    }

    fn request(&self, kind: FrameKind, piece: &Piece) -> FrameHeader {
        let span = span_of(piece);
        FrameHeader {
            volume: self.volume(),
            shard: piece.shard,
            layer: self.info.layer,
            block: span.block,
            count: span.count,
            ..FrameHeader::request(kind, 0)
        }
    }

    /// Asks copies, one after another, until one shows what is asked for.
    async fn ask<T>(
        &self,
        header: FrameHeader,
        above: Layer,
        judge: impl Fn(Frame) -> Option<T>,
    ) -> Result<T, BlockError> {
        let deadline = self.reactor.now() + self.options.io_timeout;
        let shard = usize::try_from(header.shard.get()).unwrap_or(usize::MAX);
        loop {
            if self.is_gone.get() {
                return Err(BlockError::Detached);
            }
            let copies = self.copies.borrow().get(shard).cloned();
            let mut copies = copies.unwrap_or_default();
            copies.sort_by_cached_key(|copy| copy.peer.expected_read_ns());
            let mut bad = 0;
            for copy in &copies {
                match self.ask_one(copy, header, above, &judge).await {
                    Told::Shown(shown) => return Ok(shown),
                    Told::Bad => bad += 1,
                    Told::Failed => {}
                }
            }
            if bad > 0 && bad == copies.len() {
                return Err(BlockError::Corrupt);
            }
            if self.reactor.now() >= deadline {
                return Err(BlockError::Unavailable);
            }
            self.refresh().await;
            self.reactor.sleep(RETRY_PAUSE).await;
        }
    }

    async fn ask_one<T>(
        &self,
        copy: &Copy,
        header: FrameHeader,
        above: Layer,
        judge: &impl Fn(Frame) -> Option<T>,
    ) -> Told<T> {
        let replica = copy.id;
        let request = wire::frame(header, SnapshotOf { replica, above }.encode());
        let reply = match copy.peer.connect().await {
            Ok(()) => copy.peer.call(request).await,
            Err(lost) => Err(lost),
        };
        let Ok(reply) = reply else {
            return Told::Failed;
        };
        let told = match reply.header.status {
            Status::Ok => judge(reply).map_or(Told::Bad, Told::Shown),
            Status::Damaged | Status::BadChecksum | Status::Device => Told::Bad,
            _ => Told::Failed,
        };
        match told {
            Told::Bad => {
                self.damage_seen.set(self.damage_seen.get() + 1);
                tracing::warn!(volume = self.info.volume_name, snapshot = self.info.name,
                    shard = %header.shard, block = %header.block, %replica,
                    "replica shows a bad copy of a snapshot");
                copy.peer.note_read_refused();
            }
            Told::Failed => copy.peer.note_read_failed(),
            Told::Shown(_) => {}
        }
        told
    }

    async fn read_piece(&self, piece: &Piece) -> Result<Shown, BlockError> {
        let whole = self.read_span(piece).await;
        if whole.as_ref().err() != Some(&BlockError::Corrupt) || piece.count.get() == 1 {
            return whole;
        }
        // One bad block makes a replica refuse all of a read: another may have just that one.
        let (mut entries, mut data) = (Vec::new(), Vec::new());
        for at in 0..piece.count.get() {
            let Span { block, .. } = span_of(piece).skip(BlockCount::new(at));
            let one = Piece {
                block,
                count: BlockCount::new(1),
                ..*piece
            };
            let shown = self.read_span(&one).await?;
            entries.extend(shown.entries);
            data.extend(shown.data);
        }
        Ok(Shown { entries, data })
    }

    async fn read_span(&self, piece: &Piece) -> Result<Shown, BlockError> {
        let header = self.request(FrameKind::ReadSnapshot, piece);
        let judge = |reply| verify(reply, piece.count, Seq::MAX);
        self.ask(header, Layer::default(), judge).await
    }

    async fn read(&self, offset: u64, len: u32) -> Result<Vec<SharedBuffer>, BlockError> {
        check_sized(&self.geometry, offset, u64::from(len))?;
        let (first, end) = touched_blocks(offset, u64::from(len));
        let _permit = self.budget.acquire((end - first) * BLOCK_BYTES_U64).await;
        let range = BlockRange::new(first, end);
        let pieces: Vec<Piece> = self.route.data_pieces(range).collect();
        let read = pieces.iter().map(|piece| async move {
            let shown = self.read_piece(piece).await?;
            let at = range.first + piece.skip;
            assemble_over(self.origin.as_ref(), &self.zeroes, at, shown).await
        });
        let mut all = Vec::new();
        for bytes in join_all(read).await {
            all.extend(bytes?);
        }
        let skip = usize::try_from(offset % BLOCK_BYTES_U64).unwrap_or(0);
        Ok(cut(all, skip, usize::try_from(len).unwrap_or(usize::MAX)))
    }

    /// The kinds of blocks of what lies above a layer; an origin lies below all of them.
    async fn extents(
        &self,
        (above, layer): (Layer, Layer),
        origin: Option<&Origin>,
        offset: u64,
        len: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>, BlockError> {
        let size = self.geometry.size_bytes;
        if offset >= size || len == 0 || len > size - offset {
            return Err(BlockError::OutOfRange);
        }
        let (first, end) = touched_blocks(offset, len);
        let mut extents = Vec::new();
        let mut at = first;
        for piece in self.route.span_pieces(BlockRange::new(first, end)) {
            let mut span = span_of(&piece);
            while span.count.get() > 0 {
                let (block, count) = (span.block, span.count);
                let part = Piece {
                    block,
                    count,
                    ..piece
                };
                let header = FrameHeader {
                    layer,
                    ..self.request(FrameKind::SnapshotExtents, &part)
                };
                let judge = |reply: Frame| {
                    let runs = wire::meta_of(&reply).and_then(|meta| decode_extents(meta).ok());
                    runs.filter(|runs| covers(runs, span))
                };
                let runs = self.ask(header, above, judge).await?;
                let mut covered = 0;
                for run in runs {
                    covered += run.count.get();
                    let most = extents_max.max(1);
                    if !push_over(origin, &mut extents, most, at, run).await? {
                        return Ok(extents);
                    }
                    at += u64::from(run.count.get());
                }
                span = span.skip(BlockCount::new(covered));
            }
        }
        Ok(extents)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        for peer in self.peers.borrow().values() {
            peer.close();
        }
    }
}

impl BlockDevice for Snapshot {
    fn geometry(&self) -> Geometry {
        self.reader.geometry
    }

    async fn read(&self, offset: u64, len: u32) -> Result<Vec<SharedBuffer>, BlockError> {
        self.reader.read(offset, len).await
    }

    async fn write(&self, _: u64, _: Buffer, _: Durability) -> Result<(), BlockError> {
        Err(BlockError::ReadOnly)
    }

    async fn write_zeroes(
        &self,
        _: u64,
        _: u64,
        _: ZeroMode,
        _: Durability,
    ) -> Result<(), BlockError> {
        Err(BlockError::ReadOnly)
    }

    async fn trim(&self, _: u64, _: u64, _: Durability) -> Result<(), BlockError> {
        Err(BlockError::ReadOnly)
    }

    async fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    async fn extents(
        &self,
        offset: u64,
        len: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>, BlockError> {
        let layers = (Layer::default(), self.reader.info.layer);
        let origin = self.reader.origin.as_ref();
        let extents = self
            .reader
            .extents(layers, origin, offset, len, extents_max);
        extents.await
    }
}
