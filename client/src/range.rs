//! Byte ranges of a device and the blocks that they cover: checks and rounding, all pure.

use ashlar_proto::BlockCount;
use ashlar_proto::limits::BLOCK_BYTES_U64;
use ashlar_proto::message::{BlockKind, Extent};

use crate::block_device::{BlockError, Geometry};

/// Bytes of a sector: offsets and lengths are multiples of it.
pub(crate) const SECTOR_BYTES: u64 = 512;

/// Longest run that one extent can name: the largest multiple that a `u32` holds with room.
const RUN_BLOCKS_MAX: u64 = 1 << 31;

/// Checks alignment and bounds; a range of no bytes is not a range.
pub(crate) fn check_range(geometry: &Geometry, offset: u64, len: u64) -> Result<(), BlockError> {
    let sector = u64::from(geometry.block_bytes_min).max(1);
    if len == 0 || !offset.is_multiple_of(sector) || !len.is_multiple_of(sector) {
        return Err(BlockError::Unaligned);
    }
    match offset.checked_add(len) {
        Some(end) if end <= geometry.size_bytes => Ok(()),
        _ => Err(BlockError::OutOfRange),
    }
}

/// [`check_range`], and the longest request too.
pub(crate) fn check_sized(geometry: &Geometry, offset: u64, len: u64) -> Result<(), BlockError> {
    check_range(geometry, offset, len)?;
    if len > u64::from(geometry.request_bytes_max) {
        return Err(BlockError::OutOfRange);
    }
    Ok(())
}

/// The blocks that lie wholly in the range: first, and one past the last (not above first if none).
pub(crate) fn whole_blocks(offset: u64, len: u64) -> (u64, u64) {
    (
        offset.div_ceil(BLOCK_BYTES_U64),
        (offset + len) / BLOCK_BYTES_U64,
    )
}

/// The blocks that the range touches: first, and one past the last.
pub(crate) fn touched_blocks(offset: u64, len: u64) -> (u64, u64) {
    (
        offset / BLOCK_BYTES_U64,
        (offset + len).div_ceil(BLOCK_BYTES_U64),
    )
}

/// Adds `count` blocks of `kind`, joined with the last run where it is of that kind; false when
/// there was no room for all of them.
pub(crate) fn push_run(
    extents: &mut Vec<Extent>,
    extents_max: usize,
    count: u64,
    kind: BlockKind,
) -> bool {
    let mut rest = count;
    while rest > 0 {
        let has_room = extents.len() < extents_max;
        let joinable = extents
            .last_mut()
            .filter(|last| last.kind == kind && u64::from(last.count.get()) < RUN_BLOCKS_MAX);
        let held = joinable
            .as_ref()
            .map_or(0, |last| u64::from(last.count.get()));
        let take = rest.min(RUN_BLOCKS_MAX - held);
        let count = BlockCount::new(u32::try_from(held + take).unwrap_or(u32::MAX));
        match joinable {
            Some(last) => last.count = count,
            None if has_room => extents.push(Extent { count, kind }),
            None => return false,
        }
        rest -= take;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry = Geometry {
        size_bytes: 1 << 20,
        block_bytes_min: 512,
        block_bytes_preferred: 4096,
        request_bytes_max: 1 << 16,
        read_only: false,
    };

    #[test]
    fn ranges_are_checked() {
        assert_eq!(check_range(&GEOMETRY, 0, 1 << 20), Ok(()));
        assert_eq!(check_range(&GEOMETRY, 0, 0), Err(BlockError::Unaligned));
        assert_eq!(check_range(&GEOMETRY, 100, 512), Err(BlockError::Unaligned));
        assert_eq!(
            check_range(&GEOMETRY, 512, 1 << 20),
            Err(BlockError::OutOfRange)
        );
        let far = u64::MAX - 511;
        assert_eq!(
            check_range(&GEOMETRY, far, 512),
            Err(BlockError::OutOfRange)
        );
        assert_eq!(
            check_sized(&GEOMETRY, 0, 1 << 17),
            Err(BlockError::OutOfRange)
        );
    }

    #[test]
    fn rounding_keeps_to_blocks() {
        assert_eq!(whole_blocks(512, 8192), (1, 2));
        assert_eq!(touched_blocks(512, 8192), (0, 3));
        let (first, end) = whole_blocks(512, 1024);
        assert!(first >= end);
    }

    #[test]
    fn runs_join_and_stop_at_their_limit() {
        let mut extents = Vec::new();
        assert!(push_run(&mut extents, 2, 3, BlockKind::Data));
        assert!(push_run(&mut extents, 2, 2, BlockKind::Data));
        assert!(push_run(&mut extents, 2, 1, BlockKind::Zero));
        assert!(!push_run(&mut extents, 2, 1, BlockKind::Data));
        let counts: Vec<u32> = extents.iter().map(|e| e.count.get()).collect();
        assert_eq!(counts, [5, 1]);
    }
}
