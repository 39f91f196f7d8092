//! Looking at a lane offline, without changing its disk: recovery in memory only.

use ashlar_proto::crc::crc32c;
use ashlar_proto::message::BlockKind;
use ashlar_proto::{
    BLOCK_BYTES, BlockCount, BlockIndex, Generation, Handle, Incarnation, Layer, Lsn, ReplicaId,
    Seq,
};

use crate::lane::error::RecoveryError;
use crate::lane::leaf::Held;
use crate::lane::leaf_cache::Use;
use crate::lane::lookup::{LeafRange, Lookup, Trust};
use crate::lane::options::LaneOptions;
use crate::lane::page::{Kind, PAGE_ENTRIES, PAGE_ENTRIES_U32, Page, PageEntry};
use crate::lane::planted::Planted;
use crate::lane::recovery::Recovery;
use crate::lane::scan::{Device, SlotFound};
use crate::lane::segment::SegmentState;
use crate::lane::shards::ShardKey;
use crate::lane::start::UnrecoveredLane;
use crate::lane::state::State;
use crate::lane::stats::DamageCounts;

/// What is in one place for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotReport {
    /// Nothing was ever written there.
    Empty,
    /// It cannot be read, or its checksum is wrong.
    Damaged,
    /// A checkpoint.
    Valid {
        /// Its number: the higher is the newer.
        number: u64,
        /// The lowest LSN that recovery replays.
        from: Lsn,
        /// The incarnation that took it.
        incarnation: Incarnation,
        /// The lane was closed with it.
        clean: bool,
        /// Shards in it.
        shards: usize,
        /// Root pages in it.
        roots: usize,
    },
}

/// What a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentReportState {
    /// To be opened again.
    Free,
    /// Holds batches.
    Used,
}

/// One segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    /// Its position in the lane.
    pub index: u32,
    /// What it is.
    pub state: SegmentReportState,
    /// Counts the openings of the lane.
    pub order: u64,
    /// Highest LSN in it.
    pub lsn_max: Lsn,
    /// Blocks thought to live in it.
    pub live: BlockCount,
}

/// One shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardReport {
    /// Which shard.
    pub key: ShardKey,
    /// Which replica of it.
    pub replica: ReplicaId,
    /// Its length.
    pub blocks: BlockCount,
    /// The highest generation seen.
    pub generation: Generation,
    /// Up to here it is complete and settled.
    pub stable: Seq,
    /// The highest seq of any of its blocks.
    pub highest: Seq,
}

/// One block of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockReport {
    /// The block.
    pub block: BlockIndex,
    /// Its seq.
    pub seq: Seq,
    /// What it is; none when its place in the map is damaged.
    pub kind: Option<BlockKind>,
    /// CRC32C of its payload, where it has one.
    pub crc: u32,
    /// Byte offset of its payload on the disk, where it has one.
    pub offset: u64,
}

/// What a check of every CRC found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Blocks of data whose CRC is right.
    pub data_good: u64,
    /// Leaves of the map that were read.
    pub leaves_good: u64,
    /// Damage of whatever kind.
    pub damage: DamageCounts,
    /// The damaged blocks, and those under damaged pages.
    pub damaged_blocks: Vec<(ShardKey, BlockIndex)>,
}

/// A lane as recovery finds it, in memory only.
#[derive(Debug)]
pub struct LaneReport {
    device: Device,
    state: State,
    slots: [SlotReport; 2],
}

impl UnrecoveredLane {
    /// Recovers the lane in memory, without writing to its disk.
    ///
    /// # Errors
    /// [`RecoveryError`].
    pub async fn inspect(self) -> Result<LaneReport, RecoveryError> {
        let slots = [
            slot_report(&self.device.slot(0).await),
            slot_report(&self.device.slot(1).await),
        ];
        let options = LaneOptions::default();
        let recovery = Recovery::new(self.device.clone(), self.index, &options, false);
        Ok(LaneReport {
            state: recovery.run().await?,
            device: self.device,
            slots,
        })
    }
}

fn slot_report(found: &SlotFound) -> SlotReport {
    match found {
        SlotFound::Empty => SlotReport::Empty,
        SlotFound::Damaged => SlotReport::Damaged,
        SlotFound::Valid(slot) => SlotReport::Valid {
            number: slot.number,
            from: slot.from,
            incarnation: slot.incarnation,
            clean: slot.clean,
            shards: slot.shards.len(),
            roots: slot.roots.len(),
        },
    }
}

impl LaneReport {
    /// Both places for slots.
    #[must_use]
    pub fn slots(&self) -> [SlotReport; 2] {
        self.slots
    }

    /// Damage that recovery found.
    #[must_use]
    pub fn damage(&self) -> DamageCounts {
        self.state.damage.counts()
    }

    /// All segments, in order.
    pub fn segments(&self) -> impl Iterator<Item = SegmentReport> + '_ {
        (0..self.state.segments.len()).map(|index| {
            let row = self.state.segments.row(index);
            SegmentReport {
                index,
                state: match row.state {
                    SegmentState::Free(_) => SegmentReportState::Free,
                    _ => SegmentReportState::Used,
                },
                order: row.order,
                lsn_max: row.lsn_max,
                live: BlockCount::new(row.live()),
            }
        })
    }

    /// All shards, in order.
    #[must_use]
    pub fn shards(&self) -> Vec<ShardReport> {
        let present = self.state.shards.present();
        present
            .map(|(key, _, shard)| ShardReport {
                key,
                replica: shard.record.replica,
                blocks: shard.record.blocks,
                generation: shard.record.generation,
                stable: shard.record.stable,
                highest: shard.record.highest,
            })
            .collect()
    }

    /// The map of a shard as seen at a layer: every block that was ever written, in order, leaf
    /// by leaf. The payload is not read.
    pub async fn map(&mut self, key: ShardKey, layer: Layer, mut each: impl FnMut(BlockReport)) {
        let Some(handle) = self.state.shards.handle_of(key) else {
            return;
        };
        let Some(shard) = self.state.shards.get(handle) else {
            return;
        };
        let (leaves, blocks) = (shard.leaves(), shard.record.blocks.get());
        if !shard.layers.is_readable(layer) {
            return;
        }
        let bounds = (Layer::default(), layer);
        for leaf in 0..leaves {
            let entries = self.leaf(handle, leaf, bounds).await;
            for (block, entry) in (leaf * PAGE_ENTRIES_U32..blocks).zip(entries) {
                if !entry.is_absent() {
                    each(block_report(block, entry));
                }
            }
        }
    }

    async fn leaf(&mut self, handle: Handle, leaf: u32, bounds: (Layer, Layer)) -> Vec<PageEntry> {
        let range = LeafRange {
            handle,
            leaf,
            first: 0,
            count: PAGE_ENTRIES,
        };
        let mut held = Held::by(Use::Scan);
        loop {
            let lookup = self
                .state
                .lookup(range, bounds, &held, Trust::Served, Planted::NONE);
            match lookup {
                Lookup::Found { entries, .. } => return entries,
                Lookup::Needs(pages) => {
                    for root in pages {
                        let page = self.page(root).await;
                        held.insert(root, page.map(std::rc::Rc::new));
                    }
                }
            }
        }
    }

    async fn page(&self, root: PageEntry) -> Option<Page> {
        let block = self.device.read(root.address(), 1).await?;
        (crc32c(&block) == root.crc()).then(|| Page::decode(&block))
    }

    /// Reads every leaf and every block of data that the map names, and checks it.
    pub async fn verify(&mut self) -> VerifyReport {
        let mut report = VerifyReport {
            damage: self.damage(),
            ..VerifyReport::default()
        };
        let present = self.state.shards.present();
        let shards: Vec<_> = present
            .map(|(key, handle, shard)| (key, handle, shard.leaves(), shard.layers.all()))
            .collect();
        for (key, handle, leaves, intervals) in shards {
            for leaf in 0..leaves {
                self.verify_pages(handle, leaf, &mut report).await;
                for &interval in &intervals {
                    let entries = self.leaf(handle, leaf, interval).await;
                    self.verify_data(key, leaf, &entries, &mut report).await;
                }
            }
        }
        report
    }

    async fn verify_pages(&self, handle: Handle, leaf: u32, report: &mut VerifyReport) {
        let Some(shard) = self.state.shards.get(handle) else {
            return;
        };
        for label in shard.labels.keys() {
            let root = shard.leaf_entry(*label, leaf);
            if !root.is_data() {
                continue;
            }
            match self.page(root).await {
                Some(_) => report.leaves_good += 1,
                None => report.damage.leaf += 1,
            }
        }
    }

    async fn verify_data(
        &self,
        key: ShardKey,
        leaf: u32,
        entries: &[PageEntry],
        report: &mut VerifyReport,
    ) {
        for (block, entry) in (leaf * PAGE_ENTRIES_U32..).zip(entries) {
            let good = match entry.kind() {
                Kind::Absent | Kind::Zero => continue,
                Kind::Damaged => false,
                Kind::Data => {
                    let read = self.device.read(entry.address(), 1).await;
                    let good = read.is_some_and(|block| crc32c(&block) == entry.crc());
                    report.damage.data += u64::from(!good);
                    good
                }
            };
            if good {
                report.data_good += 1;
            } else {
                report.damaged_blocks.push((key, BlockIndex::new(block)));
            }
        }
    }
}

fn block_report(block: u32, entry: PageEntry) -> BlockReport {
    let kind = match entry.kind() {
        Kind::Absent => Some(BlockKind::Absent),
        Kind::Zero => Some(BlockKind::Zero),
        Kind::Data => Some(BlockKind::Data),
        Kind::Damaged => None,
    };
    let data = entry.is_data();
    BlockReport {
        block: BlockIndex::new(block),
        seq: entry.seq(),
        kind,
        crc: if data { entry.crc() } else { 0 },
        offset: if data {
            entry.address() * BLOCK_BYTES as u64
        } else {
            0
        },
    }
}
