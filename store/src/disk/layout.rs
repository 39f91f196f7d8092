//! How a disk is cut: superblocks, lanes, slots, segments. Pure arithmetic.
//!
//! ```text
//! | superblock, 1 MiB | lane 0                          | lane 1 … | superblock, 1 MiB |
//!                     | slot A | slot B | segment 0 | 1 | 2 …  |
//! ```

use ashlar_proto::limits::BLOCK_BYTES_U64;

/// Bytes that each copy of the superblock has to itself.
pub(crate) const SUPERBLOCK_AREA_BYTES: u64 = 1 << 20;
/// Largest segment, in bytes.
const SEGMENT_BYTES_MAX: u64 = 32 << 20;
/// Smallest segment that the planner chooses, in bytes.
const SEGMENT_BYTES_MIN: u64 = 1 << 20;
/// Smallest segment that may be asked for, in bytes: tests want many on a small disk.
const SEGMENT_BYTES_LEAST: u64 = 64 << 10;
/// Segments that the planner aims at in a lane.
const SEGMENTS_AIM: u64 = 1024;
/// Fewest segments a lane works with: its reserve of 24 and as much again to serve from.
pub(crate) const SEGMENTS_MIN: u64 = 48;
/// Most segments a lane may have, so that its table stays small (32 B each in a slot).
const SEGMENTS_MAX: u64 = 1 << 20;
/// Bytes of a segment's record in a slot.
const SEGMENT_RECORD_BYTES: u64 = 32;
/// Smallest slot, in bytes.
const SLOT_BYTES_MIN: u64 = 256 << 10;
/// Lanes a disk may have.
const LANES_MAX: u16 = 256;

/// How one disk is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) size_bytes: u64,
    pub(crate) lane_bytes: u64,
    pub(crate) slot_bytes: u64,
    pub(crate) segment_blocks: u32,
    pub(crate) segments: u32,
    pub(crate) lanes: u16,
    /// Drawn at each format: what an earlier format left on the disk does not carry it.
    pub(crate) format: u64,
}

impl Layout {
    /// Cuts a disk of `size_bytes` into `lanes`; `None` when it is too small for them.
    pub(crate) fn plan(
        size_bytes: u64,
        lanes: u16,
        segment_bytes: Option<u64>,
        format: u64,
    ) -> Option<Self> {
        let size_bytes = size_bytes / BLOCK_BYTES_U64 * BLOCK_BYTES_U64;
        let area = size_bytes.checked_sub(2 * SUPERBLOCK_AREA_BYTES)?;
        let lane_bytes = area.checked_div(u64::from(lanes))? / BLOCK_BYTES_U64 * BLOCK_BYTES_U64;
        let segment_bytes = segment_bytes.unwrap_or_else(|| Self::segment_bytes(lane_bytes));
        let segments_most = lane_bytes / segment_bytes.max(1);
        // Root references (32 B for 256 MiB mapped, sparse volumes need more) and the table.
        let slot_bytes = (lane_bytes / 2048 + segments_most * SEGMENT_RECORD_BYTES)
            .max(SLOT_BYTES_MIN)
            .next_multiple_of(BLOCK_BYTES_U64);
        let segments = lane_bytes.checked_sub(2 * slot_bytes)? / segment_bytes;
        let layout = Self {
            size_bytes,
            lane_bytes,
            slot_bytes,
            segment_blocks: u32::try_from(segment_bytes / BLOCK_BYTES_U64).ok()?,
            segments: u32::try_from(segments).ok()?,
            lanes,
            format,
        };
        layout.is_sound().then_some(layout)
    }

    fn segment_bytes(lane_bytes: u64) -> u64 {
        let fit = (lane_bytes / SEGMENTS_AIM).max(1);
        let power = 1u64 << fit.ilog2();
        power.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
    }

    /// Whether all parts fit: checked on every layout that was read from a disk.
    pub(crate) fn is_sound(&self) -> bool {
        let segment_bytes = self.segment_bytes_each();
        let segments = u64::from(self.segments);
        let parts = [
            self.slot_bytes.checked_mul(2),
            segment_bytes.checked_mul(segments),
        ];
        let Some(used) = parts
            .into_iter()
            .try_fold(0u64, |sum, part| sum.checked_add(part?))
        else {
            return false;
        };
        let lanes = self.lane_bytes.checked_mul(u64::from(self.lanes));
        let whole = lanes.and_then(|bytes| bytes.checked_add(2 * SUPERBLOCK_AREA_BYTES));
        let aligned = [self.size_bytes, self.lane_bytes, self.slot_bytes]
            .iter()
            .all(|bytes| bytes % BLOCK_BYTES_U64 == 0);
        aligned
            && (1..=LANES_MAX).contains(&self.lanes)
            && (SEGMENT_BYTES_LEAST..=SEGMENT_BYTES_MAX).contains(&segment_bytes)
            && (SEGMENTS_MIN..=SEGMENTS_MAX).contains(&segments)
            && self.slot_bytes >= 4 * BLOCK_BYTES_U64
            && used <= self.lane_bytes
            && whole.is_some_and(|bytes| bytes <= self.size_bytes)
            && self.size_bytes / BLOCK_BYTES_U64 <= 1 << 40
    }

    /// Bytes of one segment.
    pub(crate) fn segment_bytes_each(&self) -> u64 {
        u64::from(self.segment_blocks) * BLOCK_BYTES_U64
    }

    /// Where the second copy of the superblock lies.
    pub(crate) fn superblock_copy_offset(&self) -> u64 {
        self.size_bytes - SUPERBLOCK_AREA_BYTES
    }

    /// The part of one lane.
    pub(crate) fn lane(&self, lane: u16) -> LaneLayout {
        assert!(
            lane < self.lanes,
            "lane {lane} is beyond the disk's {}",
            self.lanes
        );
        let start = SUPERBLOCK_AREA_BYTES + u64::from(lane) * self.lane_bytes;
        LaneLayout {
            slot_offsets: [start, start + self.slot_bytes],
            slot_bytes: self.slot_bytes,
            first_block: (start + 2 * self.slot_bytes) / BLOCK_BYTES_U64,
            segment_blocks: self.segment_blocks,
            segments: self.segments,
            lane_bytes: self.lane_bytes,
            format: self.format,
        }
    }
}

/// Where one lane's parts lie on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaneLayout {
    pub(crate) slot_offsets: [u64; 2],
    pub(crate) slot_bytes: u64,
    /// Address (block of the disk) of segment 0.
    pub(crate) first_block: u64,
    pub(crate) segment_blocks: u32,
    pub(crate) segments: u32,
    pub(crate) lane_bytes: u64,
    pub(crate) format: u64,
}

impl LaneLayout {
    /// Address of the first block of a segment.
    pub(crate) fn segment_address(&self, segment: u32) -> u64 {
        self.first_block + u64::from(segment) * u64::from(self.segment_blocks)
    }

    /// The segment that holds an address, or `None` outside the lane.
    pub(crate) fn segment_of(&self, address: u64) -> Option<u32> {
        let within = address.checked_sub(self.first_block)?;
        let segment = u32::try_from(within / u64::from(self.segment_blocks)).ok()?;
        (segment < self.segments).then_some(segment)
    }

    /// Blocks of data that a segment holds at best: what headers (64 bytes, 28 more for a block)
    /// and the summary (as much again, and its head) leave.
    pub(crate) fn dense_blocks(&self) -> u64 {
        let headers = (u64::from(self.segment_blocks) * 28).div_ceil(BLOCK_BYTES_U64);
        u64::from(self.segment_blocks).saturating_sub(2 + 2 * headers)
    }

    /// Blocks of a segment that can hold batches.
    pub(crate) fn payload_blocks(&self) -> u64 {
        u64::from(self.segment_blocks) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_follow_the_size_of_the_lane() {
        let blocks = |gib: u64, lanes| {
            Layout::plan(gib << 30, lanes, None, 7)
                .unwrap()
                .segment_blocks
        };
        assert_eq!(blocks(1, 1), 256);
        assert_eq!(blocks(64, 1), 8192);
        assert_eq!(blocks(4096, 4), 8192);
        assert!(Layout::plan(2 << 20, 1, None, 7).is_none());
        assert!(Layout::plan(1 << 30, 0, None, 7).is_none());
    }

    #[test]
    fn parts_of_lanes_do_not_overlap() {
        let layout = Layout::plan(3 << 30, 3, None, 7).unwrap();
        for lane in 0..3 {
            let part = layout.lane(lane);
            let end = part.segment_address(part.segments) * BLOCK_BYTES_U64;
            assert!(part.slot_offsets[1] + part.slot_bytes <= part.first_block * BLOCK_BYTES_U64);
            assert!(end <= SUPERBLOCK_AREA_BYTES + u64::from(lane + 1) * layout.lane_bytes);
            assert_eq!(
                part.segment_of(part.segment_address(5) + 7),
                Some(5),
                "addresses lead back"
            );
            assert_eq!(part.segment_of(part.segment_address(part.segments)), None);
        }
        assert!(layout.lane(2).segment_address(layout.segments) * 4096 <= layout.size_bytes);
    }
}
