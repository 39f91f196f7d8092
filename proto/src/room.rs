//! What a reservation takes of a disk, beside the data that it is for.

use crate::ids::BlockCount;
use crate::limits::LEAF_BLOCKS;

/// Blocks that are kept for a replica of `shard` blocks of which `reserve` are reserved: with the
/// pages of the map that they need at most, wherever they are written. None if none are reserved.
#[must_use]
pub fn reserved_blocks(reserve: BlockCount, shard: BlockCount) -> u64 {
    let (reserve, shard) = (u64::from(reserve.get()), u64::from(shard.get()));
    if reserve == 0 {
        return 0;
    }
    let leaves = shard.div_ceil(LEAF_BLOCKS);
    let roots = leaves.div_ceil(LEAF_BLOCKS);
    reserve + leaves.min(reserve) + roots.min(reserve)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_counts_its_map() {
        let of = |reserve, shard| reserved_blocks(BlockCount::new(reserve), BlockCount::new(shard));
        assert_eq!(of(0, 1 << 20), 0);
        // Each of a few blocks may lie in a leaf of its own.
        assert_eq!(of(8, 1 << 20), 24);
        // All of 4 GiB: 4,096 leaves, and 16 root pages.
        assert_eq!(of(1 << 20, 1 << 20), (1 << 20) + 4096 + 16);
        assert_eq!(of(256, 256), 258);
    }
}
