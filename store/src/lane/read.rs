//! Reads: look up, pin, read runs of neighbouring addresses at once, check every CRC.

use ashlar_proto::crc::crc32c;
use ashlar_proto::message::{BlockKind, Extent, ReadEntry, TailEntry, TailKind};
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_proto::{BLOCK_BYTES, BlockCount, BlockIndex, Handle, Layer, Seq};
use ashlar_reactor::SharedBuffer;
use ashlar_reactor::future::join_all;

use crate::lane::core::{Core, CoreRc};
use crate::lane::error::LaneError;
use crate::lane::leaf::{Held, Pin};
use crate::lane::leaf_cache::Use;
use crate::lane::lookup::{LeafRange, Lookup, Trust, View};
use crate::lane::overlay::LeafKey;
use crate::lane::page::{Kind, PAGE_ENTRIES, PAGE_ENTRIES_U32, PageEntry};
use crate::lane::planted::Bug;
use crate::lane::stats::DamageKind;
use crate::lane::strata::BLOCKS_MAX;

/// Blocks whose payload lies in one piece.
struct Run {
    first: u32,
    address: u64,
    crcs: Vec<u32>,
    _pin: Option<Pin>,
}

/// Cuts a range of blocks into parts of one leaf each.
pub(crate) fn leaf_ranges(
    handle: Handle,
    first: u32,
    count: u32,
) -> impl Iterator<Item = LeafRange> {
    let end = first + count;
    let mut block = first;
    std::iter::from_fn(move || {
        if block >= end {
            return None;
        }
        let leaf = block / PAGE_ENTRIES_U32;
        let within = block % PAGE_ENTRIES_U32;
        let count = (PAGE_ENTRIES_U32 - within).min(end - block);
        block += count;
        Some(LeafRange {
            handle,
            leaf,
            first: within as usize,
            count: count as usize,
        })
    })
}

fn block_of(range: &LeafRange, at: usize) -> u32 {
    let within = u32::try_from(range.first + at).unwrap_or(PAGE_ENTRIES_U32);
    range.leaf * PAGE_ENTRIES_U32 + within
}

fn extent_kind(entry: PageEntry) -> BlockKind {
    match entry.shown() {
        Kind::Absent => BlockKind::Absent,
        Kind::Zero => BlockKind::Zero,
        // Of damaged blocks it is known that something was written.
        Kind::Data | Kind::Damaged => BlockKind::Data,
    }
}

impl Core {
    /// Looks blocks of one leaf up, loading what it takes. `take` sees the outcome in the turn
    /// that found it, so that it can pin what the entries name.
    pub(crate) async fn resolve<T>(
        self: &CoreRc,
        range: LeafRange,
        view: View,
        trust: Trust,
        by: Use,
        take: impl FnOnce(Vec<PageEntry>) -> T,
    ) -> Result<T, LaneError> {
        let mut held = Held::by(by);
        loop {
            let lookup = {
                let state = self.state.borrow();
                let bounds = state.bounds(range.handle, view)?;
                state.lookup(range, bounds, &held, trust, self.planted)
            };
            match lookup {
                Lookup::Found { entries, labels } => {
                    let taken = take(entries);
                    let is_deep = labels >= self.options.strata_labels_min;
                    if by == Use::Request && is_deep && range.count <= BLOCKS_MAX {
                        self.want_strata(range.handle, range.leaf);
                    }
                    return Ok(taken);
                }
                Lookup::Needs(leaves) => self.load_leaves(leaves, &mut held).await,
            }
            self.heal(range, &held);
        }
    }

    /// A leaf was found damaged: folding it anew confines the damage to its blocks.
    fn heal(self: &CoreRc, range: LeafRange, held: &Held) {
        if held.has_damaged() {
            let core = self.clone();
            drop(self.reactor.spawn(async move {
                core.fold_leaf(range.handle, range.leaf).await;
            }));
        }
    }

    /// Reads every version of some blocks that any layer shows, one layer after another. Gives how
    /// many there are.
    pub(crate) async fn verify_range(
        self: &CoreRc,
        handle: Handle,
        first: u32,
        count: u32,
    ) -> Result<u32, LaneError> {
        let mut versions = 0;
        for (low, high) in self.all_intervals(handle)? {
            let mut ranges = leaf_ranges(handle, first, count);
            if !ranges.any(|range| self.may_be_above(&range, (low, high), Seq::NONE)) {
                continue;
            }
            let view = View::Interval(high);
            let entries = match self
                .read_range(handle, view, (first, count), Use::Scan)
                .await
            {
                // Dropped meanwhile.
                Err(LaneError::LayerDropped(_)) => continue,
                read => read?.0,
            };
            let is_data = |entry: &&ReadEntry| entry.kind == BlockKind::Data;
            let data = entries.iter().filter(is_data).count();
            versions += u32::try_from(data).unwrap_or(u32::MAX);
        }
        Ok(versions)
    }

    /// Reads blocks as a view shows them.
    pub(crate) async fn read_range(
        self: &CoreRc,
        handle: Handle,
        view: View,
        (first, count): (u32, u32),
        by: Use,
    ) -> Result<(Vec<ReadEntry>, Vec<SharedBuffer>), LaneError> {
        let mut entries = Vec::with_capacity(count as usize);
        let mut runs: Vec<Run> = Vec::new();
        for range in leaf_ranges(handle, first, count) {
            let found = self.resolve(range, view, Trust::Served, by, |found| {
                self.pin_runs(&range, &found, &mut runs);
                found
            });
            for (at, entry) in found.await?.into_iter().enumerate() {
                entries.push(read_entry(entry, block_of(&range, at))?);
            }
        }
        #[cfg(test)]
        self.pause(self.options.read_pause).await;
        let pieces = join_all(runs.into_iter().map(|run| self.read_run(run))).await;
        let data = pieces.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok((entries, data))
    }

    fn pin_runs(self: &CoreRc, range: &LeafRange, found: &[PageEntry], runs: &mut Vec<Run>) {
        let segment = |address| self.layout.segment_of(address);
        for (at, entry) in found.iter().enumerate() {
            if !entry.is_data() {
                continue;
            }
            let (block, address) = (block_of(range, at), entry.address());
            if let Some(run) = runs.last_mut() {
                let length = run.crcs.len() as u64;
                let next_block = u64::from(run.first) + length == u64::from(block);
                let next_address = run.address + length == address;
                if next_block && next_address && segment(run.address) == segment(address) {
                    run.crcs.push(entry.crc());
                    continue;
                }
            }
            let pin = (!self.has_bug(Bug::NoPin)).then(|| self.pin(address));
            runs.push(Run {
                first: block,
                address,
                crcs: vec![entry.crc()],
                _pin: pin,
            });
        }
    }

    async fn read_run(self: &CoreRc, run: Run) -> Result<SharedBuffer, LaneError> {
        let read = self.read_blocks(run.address, run.crcs.len()).await;
        if let Some(buffer) = read {
            let blocks = buffer.chunks_exact(BLOCK_BYTES);
            if blocks
                .zip(&run.crcs)
                .all(|(block, &crc)| crc32c(block) == crc || is_planted(Planted::NoChecksums))
            {
                return Ok(buffer.freeze());
            }
        }
        self.read_run_by_block(&run).await
    }

    /// Something of the run was wrong: block by block, a few times each.
    async fn read_run_by_block(self: &CoreRc, run: &Run) -> Result<SharedBuffer, LaneError> {
        let mut whole = self.reactor.buffer(run.crcs.len() * BLOCK_BYTES);
        for (at, &crc) in run.crcs.iter().enumerate() {
            let address = run.address + at as u64;
            let Some(block) = self.read_checked(address, crc).await else {
                let mut state = self.state.borrow_mut();
                state.damage.note(DamageKind::Data, address);
                let at = u32::try_from(at).unwrap_or(0);
                return Err(LaneError::Damaged(BlockIndex::new(run.first + at)));
            };
            whole[at * BLOCK_BYTES..(at + 1) * BLOCK_BYTES].copy_from_slice(&block);
        }
        Ok(whole.freeze())
    }

    /// Runs of equal kind, from the start of a range, `most` of them.
    pub(crate) async fn extents_of(
        self: &CoreRc,
        handle: Handle,
        view: View,
        first: u32,
        count: u32,
        most: usize,
    ) -> Result<Vec<Extent>, LaneError> {
        let mut extents: Vec<(BlockKind, u32)> = Vec::new();
        for range in leaf_ranges(handle, first, count) {
            let found = self
                .resolve(range, view, Trust::Served, Use::Scan, |found| found)
                .await?;
            for entry in found {
                let kind = extent_kind(entry);
                if let Some((last, count)) = extents.last_mut()
                    && *last == kind
                {
                    *count += 1;
                } else if extents.len() == most {
                    return Ok(finish_extents(&extents));
                } else {
                    extents.push((kind, 1));
                }
            }
        }
        Ok(finish_extents(&extents))
    }

    /// The version of a shard's layer table.
    pub(crate) fn table_version(&self, handle: Handle) -> Result<u32, LaneError> {
        let state = self.state.borrow();
        let shard = state.shards.get(handle).ok_or(LaneError::NoSuchShard)?;
        Ok(shard.layers.table().version)
    }

    /// Every version above a seq, ordered by block and layer, `most` of them; of `count` blocks, or
    /// all where that is 0.
    pub(crate) async fn tail_of(
        self: &CoreRc,
        handle: Handle,
        above: Seq,
        from: (u32, Layer),
        count: u32,
        most: usize,
    ) -> Result<Vec<TailEntry>, LaneError> {
        let blocks = self.shard_blocks(handle);
        let end = match count {
            0 => blocks,
            count => blocks.min(from.0.saturating_add(count)),
        };
        let leaves = end.div_ceil(PAGE_ENTRIES_U32);
        let mut tail: Vec<TailEntry> = Vec::new();
        for leaf in from.0 / PAGE_ENTRIES_U32..leaves {
            let range = LeafRange {
                handle,
                leaf,
                first: 0,
                count: PAGE_ENTRIES,
            };
            let mut of_leaf = Vec::new();
            let intervals = self.all_intervals(handle)?;
            for (low, high) in intervals {
                if !self.may_be_above(&range, (low, high), above) {
                    continue;
                }
                let view = View::Interval(high);
                let found = self.resolve(range, view, Trust::Served, Use::Scan, |found| found);
                let found = match found.await {
                    Err(LaneError::LayerDropped(_)) => continue,
                    found => found?,
                };
                if self
                    .interval_of(handle, high)
                    .is_none_or(|now| now.1 != high)
                {
                    // Joined meanwhile to the next one, which shows all of both.
                    continue;
                }
                let entries = found.iter().enumerate();
                of_leaf.extend(entries.filter(|(_, e)| e.seq() > above).map(|(at, entry)| {
                    TailEntry {
                        block: BlockIndex::new(block_of(&range, at)),
                        layer: high,
                        seq: entry.seq(),
                        kind: match entry.kind() {
                            Kind::Zero => TailKind::Zero,
                            Kind::Damaged => TailKind::Damaged,
                            Kind::Absent | Kind::Data => TailKind::Data,
                        },
                    }
                }));
            }
            of_leaf.retain(|e| (e.block.get(), e.layer) >= from);
            of_leaf.sort_unstable();
            tail.append(&mut of_leaf);
            if tail.len() >= most {
                break;
            }
        }
        tail.retain(|entry| entry.block.get() < end);
        tail.truncate(most);
        Ok(tail)
    }

    fn all_intervals(&self, handle: Handle) -> Result<Vec<(Layer, Layer)>, LaneError> {
        let state = self.state.borrow();
        let shard = state.shards.get(handle).ok_or(LaneError::NoSuchShard)?;
        Ok(shard.layers.all())
    }

    /// The live interval of a label, as it is in this turn.
    pub(crate) fn interval_of(&self, handle: Handle, label: Layer) -> Option<(Layer, Layer)> {
        let state = self.state.borrow();
        state.shards.get(handle)?.interval_of(label)
    }

    fn shard_blocks(&self, handle: Handle) -> u32 {
        let state = self.state.borrow();
        let shard = state.shards.get(handle);
        shard.map_or(0, |shard| shard.record.blocks.get())
    }

    /// Whether a leaf may hold anything above a seq: without reading it.
    fn may_be_above(&self, range: &LeafRange, interval: (Layer, Layer), above: Seq) -> bool {
        let state = self.state.borrow();
        let Some(shard) = state.shards.get(range.handle) else {
            return false;
        };
        shard.labels_in(interval.0, interval.1).any(|label| {
            let key = LeafKey {
                handle: range.handle,
                label,
                leaf: range.leaf,
            };
            shard.leaf_entry(label, range.leaf).seq() > above || state.overlay.get(&key).is_some()
        })
    }
}

fn finish_extents(extents: &[(BlockKind, u32)]) -> Vec<Extent> {
    let extent = |&(kind, count): &(BlockKind, u32)| Extent {
        kind,
        count: BlockCount::new(count),
    };
    extents.iter().map(extent).collect()
}

fn read_entry(entry: PageEntry, block: u32) -> Result<ReadEntry, LaneError> {
    let (kind, crc) = match entry.shown() {
        Kind::Absent => (BlockKind::Absent, 0),
        Kind::Zero => (BlockKind::Zero, 0),
        Kind::Data => (BlockKind::Data, entry.crc()),
        Kind::Damaged => return Err(LaneError::Damaged(BlockIndex::new(block))),
    };
    Ok(ReadEntry {
        kind,
        seq: entry.seq(),
        crc,
    })
}
