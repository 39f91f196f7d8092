//! A lane on a simulated disk, with what tests need to drive it.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ashlar_proto::crc::crc32c;
use ashlar_proto::message::BlockKind;
use ashlar_proto::{
    BLOCK_BYTES, BlockCount, BlockIndex, ByteCount, DiskId, LaneIndex, Layer, LayerRange,
    LayerTable, ReplicaId, Seq, ShardIndex, VolumeId,
};
use ashlar_reactor::DiskOptions;
use ashlar_reactor::sim::{DiskSpec, Process, SimDisk, World, pattern, pattern_of};

use crate::disk::{FormatOptions, format_disk, open_disk};
use crate::lane::leaf_cache::Use;
use crate::lane::lookup::{Trust, View};
use crate::lane::read::leaf_ranges;
use crate::lane::{Lane, LaneError, LaneOptions, ShardKey};

pub(super) const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
pub(super) const PATH: &str = "/dev/disk";
const LIMIT: Duration = Duration::from_secs(4 * 3600);

/// A world with one disk, and the process that serves its lane.
pub(super) struct Bench {
    pub(super) world: World,
    pub(super) disk: SimDisk,
    pub(super) process: Process,
    pub(super) options: LaneOptions,
}

pub(super) fn key(volume: u64) -> ShardKey {
    ShardKey {
        volume: VolumeId::new(volume),
        shard: ShardIndex::new(0),
    }
}

pub(super) fn seq(raw: u64) -> Seq {
    Seq::from_raw(raw).unwrap()
}

pub(super) fn layer(raw: u32) -> Layer {
    Layer::new(raw)
}

/// A table of one live interval.
pub(super) fn joined(low: u32, high: u32) -> LayerTable {
    LayerTable {
        version: 1,
        live: vec![LayerRange::new(layer(low), layer(high))],
        dropped: Vec::new(),
    }
}

impl Bench {
    /// Formats a disk; `segment`: its size in bytes.
    pub(super) fn new(seed: u64, spec: DiskSpec, segment: Option<u64>) -> Self {
        let world = World::new(seed);
        let disk = world.add_disk(HOST, PATH, spec);
        let process = world.process("format", HOST);
        let reactor = process.reactor().clone();
        let options = FormatOptions {
            segment: segment.map(ByteCount::new),
            ..FormatOptions::new(DiskId::new(1))
        };
        let formatted = format_disk(&reactor, DiskOptions::new(PATH), options);
        world.run(LIMIT, formatted).unwrap().unwrap();
        process.crash();
        let process = world.process("store", HOST);
        Self {
            world,
            disk,
            process,
            options: LaneOptions::default(),
        }
    }

    pub(super) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.world.run(LIMIT, future).unwrap()
    }

    /// Opens the disk and recovers the lane.
    pub(super) fn start(&self) -> Lane {
        let reactor = self.process.reactor().clone();
        let options = self.options.clone();
        self.run(async move {
            let disk = open_disk(&reactor, DiskOptions::new(PATH)).await.unwrap();
            let lane = disk.lane(LaneIndex::new(0));
            lane.recover_with(options).await.unwrap()
        })
    }

    /// Kills the process and starts another; the lane must have been dropped.
    pub(super) fn restart(&mut self, power: bool) -> Lane {
        self.stop(power);
        self.start()
    }

    pub(super) fn stop(&mut self, power: bool) {
        if power {
            self.world.power_loss(HOST);
        } else {
            self.process.crash();
        }
        self.process = self.world.process("store", HOST);
    }

    pub(super) fn create(&self, lane: &Lane, volume: u64, blocks: u32) -> ShardKey {
        let shard = (key(volume), ReplicaId::new(volume), BlockCount::new(blocks));
        self.run(lane.create_shards(&[shard])).unwrap();
        key(volume)
    }

    /// Writes blocks whose content follows from shard, block and seq.
    pub(super) fn write(
        &self,
        lane: &Lane,
        key: ShardKey,
        block: u32,
        count: u32,
        raw: u64,
    ) -> impl Future<Output = Result<(), LaneError>> + use<> {
        self.write_at(lane, key, 1, (block, count), raw)
    }

    /// The same at a label.
    pub(super) fn write_at(
        &self,
        lane: &Lane,
        key: ShardKey,
        label: u32,
        (block, count): (u32, u32),
        raw: u64,
    ) -> impl Future<Output = Result<(), LaneError>> + use<> {
        let mut buffer = self.process.reactor().buffer(count as usize * BLOCK_BYTES);
        let mut crcs = Vec::new();
        for (at, piece) in (block..).zip(buffer.chunks_exact_mut(BLOCK_BYTES)) {
            pattern(piece, content(key, at), raw);
            crcs.push(crc32c(piece));
        }
        let lane = lane.clone();
        let data = vec![buffer.freeze()];
        async move {
            let block = BlockIndex::new(block);
            lane.write(key, layer(label), block, seq(raw), data, &crcs)
                .await
        }
    }

    /// Where the payload of a block lies, as it is seen at a label.
    pub(super) fn data_offset(&self, lane: &Lane, label: u32, block: u32) -> u64 {
        let core = lane.core().clone();
        let handle = core.state.borrow().shards.handle_of(key(1)).unwrap();
        let range = leaf_ranges(handle, block, 1).next().unwrap();
        let view = View::Layer(layer(label));
        let found = core.resolve(range, view, Trust::Served, Use::Request, |found| found);
        self.run(found).unwrap()[0].address() * BLOCK_BYTES as u64
    }

    /// What each block of a range shows: none, or its seq and whether it is zeroes. Checks that
    /// the content belongs to block and seq.
    pub(super) async fn read(
        lane: &Lane,
        key: ShardKey,
        block: u32,
        count: u32,
    ) -> Result<Vec<Option<(u64, bool)>>, LaneError> {
        let first = BlockIndex::new(block);
        let (entries, data) = lane
            .read(key, layer(u32::MAX), first, BlockCount::new(count))
            .await?;
        let bytes: Vec<u8> = data
            .iter()
            .flat_map(|piece| piece.iter().copied())
            .collect();
        let mut payload = bytes.chunks_exact(BLOCK_BYTES);
        let mut shown = Vec::new();
        for (at, entry) in (block..).zip(entries) {
            shown.push(match entry.kind {
                BlockKind::Absent => None,
                BlockKind::Zero => Some((entry.seq.get(), true)),
                BlockKind::Data => {
                    let piece = payload.next().unwrap();
                    assert_eq!(crc32c(piece), entry.crc);
                    let expected = Some((content(key, at), entry.seq.get()));
                    assert_eq!(pattern_of(piece), expected, "block {at}");
                    Some((entry.seq.get(), false))
                }
            });
        }
        assert_eq!(payload.next(), None);
        Ok(shown)
    }
}

/// What a block's content starts from.
pub(super) fn content(key: ShardKey, block: u32) -> u64 {
    key.volume.get() << 32 | u64::from(block)
}

/// How the lane stands, for a run that does not end.
pub(super) fn describe(lane: &Lane) -> String {
    let core = lane.core();
    let state = core.state.borrow();
    let rows = state.segments.rows().iter().enumerate();
    let rows: Vec<String> = rows
        .map(|(at, row)| {
            let live = (row.leaf_live, row.stale, row.overlay_live);
            let users = (row.reads, row.writes);
            format!("{at} {:?} {} {live:?} {users:?}", row.state, row.lsn_max)
        })
        .collect();
    let queues = state.queues.iter().map(std::collections::VecDeque::len);
    format!(
        "slot {} from {} next {} durable {} queues {:?} urgent {:?} in flight {:?} ready {:?} \
         free {} openable {} oldest {:?} checkpoint {} {:?} roots {}\n{}",
        state.segments.slot_durable,
        state.slot_from,
        state.lsns.next(),
        state.lsns.durable(),
        queues.collect::<Vec<_>>(),
        state.urgent.each_ref().map(std::collections::VecDeque::len),
        state.in_flight,
        state.segments.ready,
        state.segments.free_count(),
        state.segments.openable_count(),
        state.overlay.oldest(),
        core.checkpoints.is_held(),
        state.stats,
        state.root_pages,
        rows.join("\n")
    )
}
