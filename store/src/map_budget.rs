//! How much memory the maps of a store's disks may take, and how its lanes divide it.

use ashlar_proto::ByteCount;
use ashlar_proto::limits::BLOCK_BYTES_U64;

use crate::lane::LaneOptions;

/// Bytes of a leaf for each block that it maps.
const ENTRY_BYTES: u64 = 16;
/// The least that a lane gets: 2 MiB of overlay are some ten thousand changed leaves between two
/// passes of the sweep, and 1 MiB of leaves, the least that the overlay leaves them, is more than
/// the folds and lookups in flight hold at once.
pub const LANE_MAP_BYTES_MIN: u64 = 4 << 20;
/// The least that a store takes by itself: twice what all leaves of an 8 GiB disk need.
const AUTO_BYTES_MIN: u64 = 64 << 20;
/// The part of the machine's memory that a store takes by itself at most: one in so many. Beside
/// the maps' budget there are root pages, requests in flight, and other processes.
const AUTO_MEMORY_PART: u64 = 4;

/// How much memory the maps of all disks of a store may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapBudget {
    /// So much.
    Fixed(ByteCount),
    /// By the size of the disks and this memory of the machine, or the store's part of it.
    Auto(ByteCount),
}

impl MapBudget {
    /// The budget of a store whose disks have so many bytes.
    ///
    /// A leaf has 16 bytes for each block of 4 KiB, so all leaves of full disks take 1/256 of the
    /// disks. The overlay may take as much as the leaves: 1/128. That, but no more than a quarter
    /// of the memory, and no less than 64 MiB.
    #[must_use]
    pub fn bytes(self, disks: ByteCount) -> ByteCount {
        match self {
            Self::Fixed(bytes) => bytes,
            Self::Auto(memory) => {
                let whole = disks.get() / (BLOCK_BYTES_U64 / ENTRY_BYTES) * 2;
                let most = memory.get() / AUTO_MEMORY_PART;
                ByteCount::new(whole.min(most).max(AUTO_BYTES_MIN))
            }
        }
    }

    /// What a lane of `lane` bytes gets of it: as much of the budget as it has of the disks.
    pub(crate) fn apply(self, options: &mut LaneOptions, lane: ByteCount, disks: ByteCount) {
        let all = u128::from(self.bytes(disks).get());
        let part = all * u128::from(lane.get()) / u128::from(disks.get().max(1));
        let part = u64::try_from(part).unwrap_or(u64::MAX);
        options.map_bytes = crate::codec::to_usize(part.max(LANE_MAP_BYTES_MIN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    fn auto(memory: u64, disks: u64) -> u64 {
        let budget = MapBudget::Auto(ByteCount::new(memory));
        budget.bytes(ByteCount::new(disks)).get()
    }

    #[test]
    fn a_store_takes_what_its_disks_need_within_what_the_machine_has() {
        assert_eq!(auto(16 * GIB, 100 * GIB), 800 * MIB);
        assert_eq!(auto(16 * GIB, 4096 * GIB), 4 * GIB);
        assert_eq!(auto(16 * GIB, GIB), 64 * MIB);
        assert_eq!(auto(0, 4096 * GIB), 64 * MIB);
    }

    #[test]
    fn lanes_divide_it_by_their_size_and_none_gets_too_little() {
        let part = |lane: u64, disks: u64| {
            let mut options = LaneOptions::default();
            let budget = MapBudget::Fixed(ByteCount::new(64 * MIB));
            budget.apply(&mut options, ByteCount::new(lane), ByteCount::new(disks));
            options.map_bytes as u64
        };
        assert_eq!(part(GIB, 4 * GIB), 16 * MIB);
        assert_eq!(part(GIB, 1024 * GIB), LANE_MAP_BYTES_MIN);
        assert_eq!(part(0, 0), LANE_MAP_BYTES_MIN);
    }
}
