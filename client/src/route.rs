//! Where the blocks of a volume lie: which shard, which block of it, in pieces that fit a frame.
//!
//! Pure.

use ashlar_proto::limits::{BLOCK_BYTES_U64, FRAME_DATA_BLOCKS_MAX, ZERO_BLOCKS_MAX};
use ashlar_proto::{BlockCount, BlockIndex, ByteCount, ShardIndex};

use crate::overlap::BlockRange;

/// Blocks that one frame carries.
const FRAME_BLOCKS: u64 = FRAME_DATA_BLOCKS_MAX as u64;

/// Blocks that one zeroing or extents frame names.
const SPAN_BLOCKS: u64 = ZERO_BLOCKS_MAX as u64;

/// The part of a range that one frame is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The shard.
    pub(crate) shard: ShardIndex,
    /// Its first block in the shard.
    pub(crate) block: BlockIndex,
    /// Its blocks.
    pub(crate) count: BlockCount,
    /// Blocks from the start of the range to the piece.
    pub(crate) skip: u64,
}

/// How a volume is cut into shards.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    shard_blocks: u64,
}

impl Route {
    /// The cut of a volume with shards of `shard_bytes`; `None` where that is not a number of
    /// blocks that a block index can name.
    pub(crate) fn new(shard_bytes: ByteCount) -> Option<Self> {
        let bytes = shard_bytes.get();
        let shard_blocks = bytes / BLOCK_BYTES_U64;
        let fits = shard_blocks > 0 && shard_blocks <= u64::from(u32::MAX);
        (fits && bytes.is_multiple_of(BLOCK_BYTES_U64)).then_some(Self { shard_blocks })
    }

    /// Blocks of one shard of a volume of `size_bytes`.
    pub(crate) fn blocks_of(self, size_bytes: u64, shard: ShardIndex) -> u32 {
        let blocks = size_bytes / BLOCK_BYTES_U64;
        let start = u64::from(shard.get()).saturating_mul(self.shard_blocks);
        let blocks = blocks.saturating_sub(start).min(self.shard_blocks);
        u32::try_from(blocks).unwrap_or(u32::MAX)
    }

    /// Pieces that frames with payload carry.
    pub(crate) fn data_pieces(self, range: BlockRange) -> impl Iterator<Item = Piece> {
        self.pieces(range, FRAME_BLOCKS)
    }

    /// Pieces that frames without payload name.
    pub(crate) fn span_pieces(self, range: BlockRange) -> impl Iterator<Item = Piece> {
        self.pieces(range, SPAN_BLOCKS)
    }

    fn pieces(self, range: BlockRange, blocks_max: u64) -> impl Iterator<Item = Piece> {
        let mut at = range.first;
        std::iter::from_fn(move || {
            if at >= range.end {
                return None;
            }
            let (shard, block) = (at / self.shard_blocks, at % self.shard_blocks);
            let take = (range.end - at)
                .min(self.shard_blocks - block)
                .min(blocks_max);
            let piece = Piece {
                shard: ShardIndex::new(u32::try_from(shard).unwrap_or(u32::MAX)),
                block: BlockIndex::new(u32::try_from(block).unwrap_or(u32::MAX)),
                count: BlockCount::new(u32::try_from(take).unwrap_or(u32::MAX)),
                skip: at - range.first,
            };
            at += take;
            Some(piece)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pieces_end_at_shards_and_frames() {
        let route = Route::new(ByteCount::new(300 * 4096)).unwrap();
        let pieces: Vec<(u32, u32, u32, u64)> = route
            .data_pieces(BlockRange::new(290, 600))
            .map(|p| (p.shard.get(), p.block.get(), p.count.get(), p.skip))
            .collect();
        assert_eq!(
            pieces,
            [(0, 290, 10, 0), (1, 0, 256, 10), (1, 256, 44, 266)]
        );
        let spans = route.span_pieces(BlockRange::new(0, 600)).count();
        assert_eq!(spans, 2);
        assert!(Route::new(ByteCount::new(0)).is_none());
        assert!(Route::new(ByteCount::new(4097)).is_none());
    }

    proptest! {
        #[test]
        fn pieces_cover_the_range_once(first in 0u64..5000, len in 1u64..5000, shard in 1u64..700) {
            let route = Route::new(ByteCount::new(shard * 4096)).unwrap();
            let mut at = first;
            for piece in route.data_pieces(BlockRange::new(first, first + len)) {
                let block = u64::from(piece.block.get());
                let count = u64::from(piece.count.get());
                prop_assert_eq!(u64::from(piece.shard.get()) * shard + block, at);
                prop_assert_eq!(piece.skip, at - first);
                prop_assert!((1..=256).contains(&count) && block + count <= shard);
                at += count;
            }
            prop_assert_eq!(at, first + len);
        }
    }
}
