//! What a snapshot takes: how much it shows, and how much only it holds.
//!
//! Counted from the maps of one replica of each shard, while the volume is written: the numbers are
//! those of a moment, and of blocks.

use ashlar_proto::ByteCount;
use ashlar_proto::limits::BLOCK_BYTES_U64;
use ashlar_proto::message::{BlockKind, Extent};

use crate::block_device::BlockError;
use crate::snapshot::Snapshot;

/// Bytes that are looked at together: the answers for them are held in memory.
const PART_BYTES: u64 = 64 << 20;

/// What a snapshot takes on each replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotUsage {
    /// Bytes of data that it shows.
    pub shown: ByteCount,
    /// Of these, bytes that nothing else shows: what its deletion gives back.
    pub exclusive: ByteCount,
}

impl Snapshot {
    /// Looks at the maps of the snapshot and of its neighbours.
    ///
    /// # Errors
    /// As [`crate::BlockDevice::extents`].
    pub async fn usage(&self) -> Result<SnapshotUsage, BlockError> {
        let own = self.info().layer;
        let layers = || self.others().iter().map(|other| other.layer);
        let below = layers().filter(|other| *other < own).max();
        let below = below.unwrap_or_default();
        let above = layers().filter(|other| *other > own).min();
        let above = above.unwrap_or(self.head_layer());
        let size = self.info().size_bytes.get();
        let mut usage = SnapshotUsage::default();
        let mut at = 0;
        while at < size {
            let len = PART_BYTES.min(size - at);
            let shown = self.all_extents(at, len).await?;
            let written = self.runs(below, own, at, len).await?;
            let replaced = self.runs(own, above, at, len).await?;
            usage.shown = add(
                usage.shown,
                blocks_where(&shown, |kind| kind == BlockKind::Data),
            );
            usage.exclusive = add(usage.exclusive, overlap(&written, &replaced));
            at += len;
        }
        Ok(usage)
    }
}

fn add(bytes: ByteCount, blocks: u64) -> ByteCount {
    ByteCount::new(bytes.get() + blocks * BLOCK_BYTES_U64)
}

fn blocks_where(runs: &[Extent], is_counted: impl Fn(BlockKind) -> bool) -> u64 {
    let counted = runs.iter().filter(|run| is_counted(run.kind));
    counted.map(|run| u64::from(run.count.get())).sum()
}

/// Blocks of data in `written` that are there in `replaced`, as whatever.
fn overlap(written: &[Extent], replaced: &[Extent]) -> u64 {
    let (mut a, mut b) = (Cursor::new(written), Cursor::new(replaced));
    let mut blocks = 0;
    while let (Some((one, left)), Some((other, right))) = (a.here(), b.here()) {
        let both = left.min(right);
        if one == BlockKind::Data && other != BlockKind::Absent {
            blocks += both;
        }
        a.skip(both);
        b.skip(both);
    }
    blocks
}

/// A place in runs.
struct Cursor<'a> {
    runs: &'a [Extent],
    done: u64,
}

impl<'a> Cursor<'a> {
    fn new(runs: &'a [Extent]) -> Self {
        Self { runs, done: 0 }
    }

    /// The kind of the blocks here, and how many are left of the run.
    fn here(&self) -> Option<(BlockKind, u64)> {
        let run = self.runs.first()?;
        Some((run.kind, u64::from(run.count.get()) - self.done))
    }

    fn skip(&mut self, blocks: u64) {
        self.done += blocks;
        if self.here().is_some_and(|(_, left)| left == 0) {
            self.runs = &self.runs[1..];
            self.done = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_proto::BlockCount;

    fn runs(runs: &[(BlockKind, u32)]) -> Vec<Extent> {
        let extent = |&(kind, count): &(BlockKind, u32)| Extent {
            kind,
            count: BlockCount::new(count),
        };
        runs.iter().map(extent).collect()
    }

    #[test]
    fn only_what_the_next_layer_replaces_is_exclusive() {
        use BlockKind::{Absent, Data, Zero};
        let written = runs(&[(Data, 4), (Absent, 4), (Zero, 2), (Data, 6)]);
        let replaced = runs(&[(Absent, 2), (Data, 5), (Zero, 5), (Absent, 4)]);
        assert_eq!(overlap(&written, &replaced), 2 + 2);
        assert_eq!(overlap(&written, &runs(&[(Absent, 16)])), 0);
        assert_eq!(overlap(&written, &runs(&[(Zero, 16)])), 10);
    }
}
