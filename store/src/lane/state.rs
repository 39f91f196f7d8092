//! All that a lane holds in memory, changed in single turns of its thread, never across an await.

use std::collections::{HashSet, VecDeque};

use ashlar_proto::limits::BLOCK_BYTES_U64;
use ashlar_proto::{Handle, Incarnation, Lsn, RoomHint};

use crate::lane::leaf_cache::{LEAF_BYTES, LeafCache};
use crate::lane::lsn::LsnTracker;
use crate::lane::overlay::Overlay;
use crate::lane::segment::SegmentState;
use crate::lane::shards::Shards;
use crate::lane::stats::{DamageBook, LaneStats, MapCounts};
use crate::lane::strata::StrataCache;
use crate::lane::stream::{Item, OpenSegment, STREAMS};
use crate::lane::table::SegmentTable;

/// Segments that fresh writes leave: 9 for what ten victims at 90 % hold, 9 for its leaves, open
/// streams, spare. Trims and the sweep leave half of it, the collector none.
pub(crate) const RESERVE_SEGMENTS: usize = 24;
/// Segments for the root pages of one checkpoint, at most: of those that a slot names the rest
/// goes to others.
const CHECKPOINT_SEGMENTS_MAX: u64 = 64;

/// So near the soft mark room is scarce, in blocks: what some owners at once have in flight, 64 MiB each
/// at most. On large lanes it is a sixty-fourth of them, for there may be many; on small ones no more
/// than a quarter.
const SCARCE_BLOCKS_MIN: u64 = (256 << 20) / BLOCK_BYTES_U64;

/// Memory that a root page takes: its 4,096 bytes, what is known of it, its places in the trees.
const ROOT_BYTES: u64 = 4096 + 16 + 112 + 96;

/// The memory of a lane.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) incarnation: Incarnation,
    /// Number of the slot last begun.
    pub(crate) slot_number: u64,
    /// `from` of the newest durable slot.
    pub(crate) slot_from: Lsn,
    pub(crate) lsns: LsnTracker,
    pub(crate) segments: SegmentTable,
    pub(crate) streams: [Option<OpenSegment>; STREAMS],
    pub(crate) queues: [VecDeque<Item>; STREAMS],
    /// What goes first in its stream, and further into the reserve: trims, records and tables;
    /// root pages, and leaves out of a victim.
    pub(crate) urgent: [VecDeque<Item>; STREAMS],
    pub(crate) in_flight: [usize; STREAMS],
    pub(crate) shards: Shards,
    pub(crate) overlay: Overlay,
    pub(crate) leaves: LeafCache,
    /// What all labels have of some leaves, side by side.
    pub(crate) strata: StrataCache,
    /// Memory for overlay, leaves and strata together.
    pub(crate) map_bytes: usize,
    /// Leaves that were found damaged, by address and CRC, until they are folded anew.
    pub(crate) bad_leaves: HashSet<(u64, u32)>,
    /// Leaves that are being folded.
    pub(crate) folding: HashSet<(Handle, u32)>,
    pub(crate) root_pages: u64,
    /// Most blocks that are given out.
    pub(crate) room_max: u64,
    /// Blocks of writes that were admitted and have not completed.
    pub(crate) admitted: u64,
    /// Blocks that are reserved for shards which have not taken them yet.
    pub(crate) unfilled: u64,
    /// Blocks logged since the lane started, and when the last checkpoint was taken.
    pub(crate) log_blocks: u64,
    pub(crate) checkpoint_at: u64,
    /// Next LSN when so many blocks were logged: to tell the age of deltas.
    pub(crate) history: VecDeque<(Lsn, u64)>,
    /// Shards that left and tables that changed, ever; and how many of them purging has seen to.
    pub(crate) purges: (u64, u64),
    /// Bytes of the layer tables of all shards.
    pub(crate) tables_bytes: u64,
    /// Something changed that no checkpoint holds.
    pub(crate) dirty: bool,
    pub(crate) closing: bool,
    /// A flush failed: nothing is known to be durable from then on.
    pub(crate) flush_failed: bool,
    /// `durable` of the last batch.
    pub(crate) durable_logged: Lsn,
    pub(crate) damage: DamageBook,
    pub(crate) stats: LaneStats,
}

impl State {
    /// Blocks of payload that the lane can hold, beside its reserve.
    fn capacity(&self) -> u64 {
        let segments = u64::from(self.segments.len()).saturating_sub(RESERVE_SEGMENTS as u64);
        segments * self.segments.layout().payload_blocks()
    }

    /// Blocks that are given out: at most 90 % of the capacity.
    pub(crate) fn usable(&self) -> u64 {
        self.room_max.min(self.capacity() * 9 / 10)
    }

    /// Blocks taken: live data, pages of the map, and what the overlay may add.
    pub(crate) fn used(&self) -> u64 {
        self.segments.mapped() + self.overlay.grows() + self.root_pages
    }

    /// Whether writes of so many new blocks would still fit.
    pub(crate) fn has_room_for(&self, blocks: u64) -> bool {
        self.used() + self.admitted + blocks <= self.usable()
    }

    /// How full the lane is for shards without a reservation.
    pub(crate) fn room(&self) -> RoomHint {
        self.room_of(None)
    }

    /// How full it is if so many blocks are kept for others.
    pub(crate) fn room_beside(&self, kept: u64) -> RoomHint {
        let taken = self.used() + self.admitted + kept;
        let soft = self.room_max.min(self.capacity() * 88 / 100);
        let scarce = SCARCE_BLOCKS_MIN.max(self.capacity() / 64);
        let scarce = soft.saturating_sub(scarce.min(self.capacity() / 4));
        if taken >= self.usable() {
            RoomHint::Full
        } else if taken >= soft {
            RoomHint::Soft
        } else if taken >= scarce {
            RoomHint::Scarce
        } else {
            RoomHint::Ample
        }
    }

    /// The lowest LSN that recovery would need if a slot were taken now.
    pub(crate) fn replay_from(&self) -> Lsn {
        let overlay = self.overlay.oldest().unwrap_or(self.lsns.next());
        let in_flight = self.lsns.oldest_in_flight().unwrap_or(self.lsns.next());
        overlay.min(in_flight)
    }

    /// Segments that the root pages of the next checkpoint may take.
    pub(crate) fn checkpoint_segments(&self) -> usize {
        let each = self.segments.layout().payload_blocks() / 2;
        let needed = 1 + self.root_pages.div_ceil(each);
        crate::codec::to_usize(needed.min(CHECKPOINT_SEGMENTS_MAX))
    }

    /// Takes dead names off the counts that can only be those of leaves lost to damage.
    pub(crate) fn forget_stale(&mut self) {
        let (asked, done) = self.purges;
        if asked == done {
            let folded = self.replay_from();
            self.segments.forget_stale(folded);
        }
    }

    /// The LSN that was next when `blocks` fewer had been logged.
    pub(crate) fn lsn_before(&self, blocks: u64) -> Lsn {
        let Some(at) = self.log_blocks.checked_sub(blocks) else {
            return Lsn::new(0);
        };
        let older = self.history.partition_point(|(_, logged)| *logged <= at);
        let found = older.checked_sub(1).and_then(|i| self.history.get(i));
        found.map_or(Lsn::new(0), |(lsn, _)| *lsn)
    }

    /// Notes the present for [`Self::lsn_before`], and forgets what is older than `keep` blocks.
    pub(crate) fn note_history(&mut self, keep: u64) {
        self.history.push_back((self.lsns.next(), self.log_blocks));
        let horizon = self.log_blocks.saturating_sub(keep);
        while self.history.get(1).is_some_and(|(_, at)| *at <= horizon) {
            self.history.pop_front();
        }
    }

    /// Whether the collector may take a segment: sealed, quiet, and wholly below the durable
    /// slot's `from`.
    pub(crate) fn is_collectable(&self, segment: u32, in_window: bool) -> bool {
        let row = self.segments.row(segment);
        row.state == SegmentState::Sealed
            && row.writes == 0
            && (row.lsn_max < self.slot_from || in_window)
    }

    /// Whether the overlay holds more than its half of the map's memory: the sweep is due.
    pub(crate) fn is_overlay_large(&self) -> bool {
        self.overlay.bytes() > self.map_bytes / 2
    }

    /// Whether writes must wait for the sweep: only what was admitted before is still added.
    pub(crate) fn is_overlay_full(&self) -> bool {
        self.overlay.bytes() > self.map_bytes / 4 * 3
    }

    /// Keeps leaves and strata to what the overlay leaves them of the map's memory, the latter to half
    /// of that. It is a quarter at least: beyond three the overlay grows only by what was admitted
    /// before writes had to wait.
    pub(crate) fn balance_map(&mut self) {
        let left = self.map_bytes.saturating_sub(self.overlay.bytes());
        let left = left.max(self.map_bytes / 4);
        self.strata.trim(left / 2);
        self.leaves.trim((left - self.strata.bytes()) / LEAF_BYTES);
    }

    fn map_counts(&self) -> MapCounts {
        let cache = self.leaves.counts();
        MapCounts {
            budget_bytes: self.map_bytes as u64,
            leaf_bytes: (self.leaves.bytes() + self.strata.bytes()) as u64,
            overlay_bytes: self.overlay.bytes() as u64,
            root_bytes: self.root_pages * ROOT_BYTES,
            hits: cache.hits,
            evictions: cache.evictions,
            ..self.stats.map
        }
    }

    /// The counts as they stand.
    pub(crate) fn snapshot(&self) -> LaneStats {
        LaneStats {
            damage: self.damage.counts(),
            segments_free: self.segments.free_count() as u64,
            segments: u64::from(self.segments.len()),
            map: self.map_counts(),
            ..self.stats
        }
    }
}
