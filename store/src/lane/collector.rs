//! The collector: moves what lives in nearly dead segments, so that they can be opened again.
//!
//! Victims are sealed and lie wholly below the durable slot's `from`, so that recovery never needs
//! their batches. Counts of live blocks choose them; the map decides what lives. A segment is
//! collected when a second look, after its moves have completed, finds nothing. Leaves may name
//! its blocks for some time yet, until what moved or superseded them is folded: the deltas hide
//! that, and the segment's row counts it apart.

use std::cmp::Reverse;
use std::rc::Rc;
use std::time::Duration;

use ashlar_proto::crc::crc32c;
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_proto::{BLOCK_BYTES, Handle, Layer};
use ashlar_reactor::SharedBuffer;
use ashlar_reactor::future::{join_all, race};

use crate::lane::batch::{Batch, Body, Entry};
use crate::lane::core::{Core, CoreRc};
use crate::lane::leaf_cache::Use;
use crate::lane::lookup::{LeafRange, Trust, View};
use crate::lane::overlay::LeafKey;
use crate::lane::page::PageEntry;
use crate::lane::planted::Bug;
use crate::lane::read::leaf_ranges;
use crate::lane::scan::{Device, SegmentFound};
use crate::lane::segment::SegmentState;
use crate::lane::signal::{Reply, Waiter};
use crate::lane::state::RESERVE_SEGMENTS;
use crate::lane::stats::DamageKind;
use crate::lane::stream::{Item, Stream};
use crate::lane::sweep::Swept;

/// Victims between two checkpoints: their space comes back two slots later.
const VICTIMS_TOGETHER: usize = 64;
/// Segments' worth of live blocks that are moved between two checkpoints.
const MOVES_TOGETHER: u64 = 8;
/// Pause when nothing can be gained.
const PAUSE: Duration = Duration::from_millis(50);
/// Blocks that are read at once.
const READ_BLOCKS_MAX: usize = 256;
/// Runs that are read beside each other.
const READS_TOGETHER: usize = 64;
/// Entries that are looked up beside each other: their leaves are loaded at once.
const LOOKUPS_TOGETHER: usize = 64;

/// A block that lives in a victim.
#[derive(Clone, Copy, Debug)]
struct LiveBlock {
    handle: Handle,
    /// Top label of its interval.
    label: Layer,
    block: u32,
    entry: PageEntry,
}

/// What lives in a victim.
#[derive(Debug, Default)]
struct Live {
    blocks: Vec<LiveBlock>,
    leaves: Vec<(Handle, Layer, u32)>,
    roots: Vec<(Handle, Layer, u32)>,
}

impl Live {
    fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.leaves.is_empty() && self.roots.is_empty()
    }
}

impl Core {
    /// Collects when segments are short, for as long as the lane runs.
    pub(crate) async fn run_collector(self: Rc<Self>) {
        let mut tried_at = u64::MAX;
        loop {
            let mark = self.events.collect_wanted.mark();
            if self.is_closing() {
                return;
            }
            if !self.is_short() {
                self.events.collect_wanted.after(mark).await;
                continue;
            }
            let before = self.state.borrow().segments.free_soon_count();
            let collected = self.collect_some().await;
            if collected > 0 && self.state.borrow().segments.free_soon_count() > before {
                tried_at = u64::MAX;
                continue;
            }
            // Nothing can be collected as things are: move `from` on, if anything was logged.
            let logged = self.state.borrow().log_blocks;
            if logged == tried_at {
                let wanted = self.events.collect_wanted.after(mark);
                race(wanted, self.reactor.sleep(PAUSE)).await;
                self.reactor.sleep(PAUSE / 10).await;
                continue;
            }
            let target = self.state.borrow().lsns.next();
            // The sweep may itself wait for segments: not for longer than it gets on.
            while self.fold_some_below(target).await == Swept::Some {}
            self.take_two_slots().await;
            tried_at = self.state.borrow().log_blocks;
            self.reactor.yield_now().await;
        }
    }

    /// What was collected is free in the first one and can be opened with the second one.
    async fn take_two_slots(self: &CoreRc) {
        for _ in 0..2 {
            if self.checkpoint(false).await.is_err() {
                self.reactor.sleep(PAUSE).await;
            }
        }
    }

    /// Collects one victim whether it is needed or not.
    #[cfg(test)]
    pub(crate) async fn collect_one(self: &CoreRc) {
        if let Some(&victim) = self.choose_victims().first() {
            self.collect(victim).await;
        }
    }

    /// Whether fewer segments are free, or on the way to it, than the lane wants to have.
    fn is_short(&self) -> bool {
        let state = self.state.borrow();
        // Half of what is never given out, at most: more than that no collecting would bring.
        let segments = state.segments.len() as usize;
        let slack = (segments / 32).max(6);
        let slack = slack.min((segments - RESERVE_SEGMENTS) / 20).max(1);
        state.segments.free_soon_count() < RESERVE_SEGMENTS + slack
            || state.segments.free_count() < RESERVE_SEGMENTS + slack / 2
    }

    /// Collects some victims, and has two slots taken when it brought anything.
    async fn collect_some(self: &CoreRc) -> usize {
        if self.state.borrow().is_short_for_moves() {
            self.take_two_slots().await;
        }
        let victims = self.choose_victims();
        let most = MOVES_TOGETHER * self.layout.dense_blocks();
        let (mut collected, mut moved) = (0, 0);
        // Those that cannot be collected now do not keep it from the others.
        for &victim in &victims {
            if collected >= VICTIMS_TOGETHER || moved >= most {
                break;
            }
            let live = {
                let state = self.state.borrow();
                if !state.is_collectable(victim, self.has_bug(Bug::CollectInWindow)) {
                    continue;
                }
                let live = state.segments.row(victim).live();
                if live > 0 && state.is_short_for_moves() {
                    continue;
                }
                u64::from(live)
            };
            if self.collect(victim).await {
                collected += 1;
                moved += live;
            }
        }
        let waiting = {
            let state = self.state.borrow();
            state.segments.free_soon_count() > state.segments.free_count()
        };
        if !victims.is_empty() || waiting {
            self.take_two_slots().await;
        }
        collected
    }

    /// The best first, by cost and benefit: what would be gained, times age, for what must be read
    /// and written. When what can be opened may not do for the moves, only what has none.
    fn choose_victims(&self) -> Vec<u32> {
        let state = self.state.borrow();
        let short = state.is_short_for_moves();
        let dense = self.layout.dense_blocks();
        let in_window = self.has_bug(Bug::CollectInWindow);
        let mut victims = Vec::new();
        for segment in 0..state.segments.len() {
            if !state.is_collectable(segment, in_window) {
                continue;
            }
            let row = state.segments.row(segment);
            let live = u64::from(row.live()).min(dense);
            let age = state.segments.next_order - row.order;
            let score = (dense - live) * 1024 / (dense + live) * age;
            // Moving a full segment gains nothing.
            if (dense - live) * 50 > dense && (live == 0 || !short) {
                victims.push((score, segment));
            }
        }
        victims.sort_unstable_by_key(|&(score, segment)| (Reverse(score), segment));
        victims.into_iter().map(|(_, segment)| segment).collect()
    }

    /// Collects one segment. Whether nothing in it lives any more.
    async fn collect(self: &CoreRc, segment: u32) -> bool {
        let (nonce, order, summarised) = {
            let state = self.state.borrow();
            let row = state.segments.row(segment);
            (row.nonce, row.order, row.summarised)
        };
        // Held like any that is read: what is found bad in it is logged as lost.
        let _held = self.pin(self.layout.segment_address(segment));
        let device = Device {
            reactor: self.reactor.clone(),
            disk: self.disk.clone(),
            layout: self.layout,
        };
        let found = device.segment(segment, nonce, false).await;
        let bad_summary = summarised && !found.from_summary;
        if bad_summary && self.is_sealed(segment, order) {
            let mut state = self.state.borrow_mut();
            state.damage.note(DamageKind::Summary, u64::from(segment));
        }
        let live = self.live_in(&found.batches).await;
        if self.may_hide_something(segment, &found, &live) {
            return false;
        }
        let moved = self.move_live(&live).await;
        if !moved && !self.has_bug(Bug::FreeBeforeMovesDone) {
            return false;
        }
        let left = self.live_in(&found.batches).await;
        let same = self.is_sealed(segment, order);
        let mut state = self.state.borrow_mut();
        if !same || (!left.is_empty() && !self.has_bug(Bug::FreeBeforeMovesDone)) {
            return false;
        }
        let next_lsn = state.lsns.next();
        let row = state.segments.row_mut(segment);
        row.state = SegmentState::Collected;
        row.end_life(next_lsn);
        state.stats.segments_collected += 1;
        state.dirty = true;
        true
    }

    /// Whether a segment is still in the life that a victim was chosen in.
    fn is_sealed(&self, segment: u32, order: u64) -> bool {
        let state = self.state.borrow();
        let row = state.segments.row(segment);
        row.order == order && row.state == SegmentState::Sealed
    }

    /// A header that cannot be read hides its entries: while the counts say that more lives in
    /// the segment than was found, it is left alone.
    fn may_hide_something(&self, segment: u32, found: &SegmentFound, live: &Live) -> bool {
        if found.from_summary {
            return false;
        }
        let mut next = self.layout.segment_address(segment) + 1;
        let mut whole = true;
        for batch in &found.batches {
            whole &= batch.address == next;
            next = batch.address + u64::from(batch.total_blocks());
        }
        let state = self.state.borrow();
        let counted = state.segments.row(segment).leaf_live as usize;
        let seen = live.blocks.len() + live.leaves.len();
        let end = self.layout.segment_address(segment + 1);
        (!whole || next + 16 < end) && seen < counted
    }

    /// What of these batches lives: the map decides.
    async fn live_in(self: &CoreRc, batches: &[Batch]) -> Live {
        let mut live = Live::default();
        let mut ranges: Vec<(Layer, LeafRange, u64)> = Vec::new();
        for batch in batches {
            for (entry, address) in batch.placed() {
                match entry.body {
                    Body::Data(_) => {
                        let mut at = address;
                        for range in leaf_ranges(entry.handle, entry.first, entry.count) {
                            ranges.push((entry.label, range, at));
                            at += range.count as u64;
                        }
                    }
                    Body::Leaf(_) if self.is_leaf_at(entry, address) => {
                        live.leaves.push((entry.handle, entry.label, entry.first));
                    }
                    Body::Root(_) if self.is_root_at(entry, address) => {
                        live.roots.push((entry.handle, entry.label, entry.first));
                    }
                    _ => {}
                }
            }
        }
        for some in ranges.chunks(LOOKUPS_TOGETHER) {
            let lookups = some
                .iter()
                .map(|&(label, range, at)| self.live_data(label, range, at));
            live.blocks
                .extend(join_all(lookups).await.into_iter().flatten());
        }
        live
    }

    /// Whether the map has a leaf at this address.
    fn is_leaf_at(&self, entry: &Entry, address: u64) -> bool {
        let state = self.state.borrow();
        let shard = state.shards.get(entry.handle);
        let named = shard.map(|shard| shard.leaf_entry(entry.label, entry.first));
        named.is_some_and(|leaf| leaf.is_data() && leaf.address() == address)
    }

    /// Whether a root page was last written at this address.
    fn is_root_at(&self, entry: &Entry, address: u64) -> bool {
        let state = self.state.borrow();
        let shard = state.shards.get(entry.handle);
        let roots = shard.and_then(|shard| shard.labels.get(&entry.label));
        let root = roots.and_then(|roots| roots.0.get(&entry.first));
        let place = root.and_then(|root| root.place);
        place.is_some_and(|place| place.address == address)
    }

    /// What lives of a run of blocks, the first of which lies at `address`.
    async fn live_data(
        self: &CoreRc,
        label: Layer,
        range: LeafRange,
        address: u64,
    ) -> Vec<LiveBlock> {
        if self.is_unmapped(label, &range) {
            return Vec::new();
        }
        let view = if is_planted(Planted::CollectorForgetsSnapshots) {
            View::Layer(Layer::new(u32::MAX))
        } else {
            View::Interval(label)
        };
        let found = self.resolve(range, view, Trust::All, Use::Scan, |found| {
            let top = self.interval_of(range.handle, label)?.1;
            Some((top, found))
        });
        let Ok(Some((top, found))) = found.await else {
            // The shard has left, or the label was dropped.
            return Vec::new();
        };
        let lives =
            |(at, (_, entry)): &(u64, (u32, PageEntry))| entry.is_data() && entry.address() == *at;
        (address..)
            .zip((first_block(&range)..).zip(found))
            .filter(lives)
            .map(|(_, (block, entry))| LiveBlock {
                handle: range.handle,
                label: top,
                block,
                entry,
            })
            .collect()
    }

    /// Whether no leaf and no delta names anything there, so that nothing of it can live.
    fn is_unmapped(&self, label: Layer, range: &LeafRange) -> bool {
        let Some((low, high)) = self.interval_of(range.handle, label) else {
            return true;
        };
        let state = self.state.borrow();
        let key = LeafKey {
            handle: range.handle,
            label: high,
            leaf: range.leaf,
        };
        let in_leaf = state.shards.get(range.handle).map(|shard| {
            let root = shard.leaf_entry(high, range.leaf);
            state.overlay.get(&key).is_none() && !root.is_data()
        });
        low == high && in_leaf == Some(true)
    }

    /// Moves data, folds leaves anew, has root pages written again. Whether all of it succeeded.
    async fn move_live(self: &CoreRc, live: &Live) -> bool {
        let (reply, waiter): (Reply, Waiter) = Reply::new();
        let runs: Vec<&[LiveBlock]> = runs(&live.blocks).collect();
        for some in runs.chunks(READS_TOGETHER) {
            // All runs first, then one pump: full batches waste no blocks on headers.
            let items = join_all(some.iter().map(|run| self.move_run(run, &reply))).await;
            let mut state = self.state.borrow_mut();
            state.queues[Stream::Moves.index()].extend(items.into_iter().flatten());
        }
        drop(reply);
        self.pump(Stream::Moves);
        if self.has_bug(Bug::FreeBeforeMovesDone) {
            return true;
        }
        let moved = waiter.wait().await.is_ok();
        for leaves in live.leaves.chunks(READ_BLOCKS_MAX) {
            self.fold_urgently(leaves).await;
        }
        let mut state = self.state.borrow_mut();
        for (handle, label, index) in &live.roots {
            let shard = state.shards.get_mut(*handle);
            let labels = shard.and_then(|shard| shard.labels.get_mut(label));
            if let Some(root) = labels.and_then(|roots| roots.0.get_mut(index)) {
                root.dirty = true;
            }
        }
        moved
    }

    /// Reads a run of neighbouring blocks, to be logged again.
    async fn move_run(self: &CoreRc, run: &[LiveBlock], reply: &Reply) -> Vec<Item> {
        let data = self.read_blocks(run[0].entry.address(), run.len()).await;
        let data = data.map(ashlar_reactor::Buffer::freeze);
        let mut items = Vec::new();
        let mut whole = Vec::new();
        for (at, live) in run.iter().enumerate() {
            let read = data
                .as_ref()
                .map(|data| data.slice(at * BLOCK_BYTES..(at + 1) * BLOCK_BYTES));
            match self.checked(live, read).await {
                Some(block) => whole.push((*live, block)),
                None => {
                    self.state
                        .borrow_mut()
                        .damage
                        .note(DamageKind::Data, live.entry.address());
                    let entry = entry_of(&[(*live, None)], Body::Damaged);
                    items.push(Item::new(entry, Vec::new(), reply.part()));
                }
            }
        }
        for group in whole.chunk_by(|(a, _), (b, _)| {
            let seqs = a.entry.seq() == b.entry.seq() && a.entry.check() == b.entry.check();
            seqs && a.handle == b.handle && a.label == b.label && a.block + 1 == b.block
        }) {
            let crcs = group.iter().map(|(live, _)| live.entry.crc()).collect();
            let blocks: Vec<(LiveBlock, Option<()>)> =
                group.iter().map(|(live, _)| (*live, None)).collect();
            let entry = entry_of(&blocks, Body::Data(crcs));
            let pieces = group.iter().map(|(_, block)| block.clone()).collect();
            let mut item = Item::new(entry, pieces, reply.part());
            item.moved = true;
            items.push(item);
        }
        let moved = items.iter().filter(|item| item.moved);
        let blocks: u64 = moved.map(|item| u64::from(item.entry.count)).sum();
        self.state.borrow_mut().stats.blocks_moved += blocks;
        items
    }

    /// The block with its CRC checked, read again where it was wrong.
    async fn checked(
        self: &CoreRc,
        live: &LiveBlock,
        read: Option<SharedBuffer>,
    ) -> Option<SharedBuffer> {
        if let Some(block) = read.filter(|block| crc32c(block) == live.entry.crc()) {
            return Some(block);
        }
        let again = self.read_checked(live.entry.address(), live.entry.crc());
        again.await.map(ashlar_reactor::Buffer::freeze)
    }
}

fn first_block(range: &LeafRange) -> u32 {
    range.leaf * 256 + u32::try_from(range.first).unwrap_or(0)
}

fn entry_of(blocks: &[(LiveBlock, Option<()>)], body: Body) -> Entry {
    let first = &blocks[0].0;
    Entry {
        handle: first.handle,
        label: first.label,
        first: first.block,
        count: u32::try_from(blocks.len()).unwrap_or(1),
        seq: first.entry.seq(),
        check: first.entry.check(),
        body,
    }
}

/// Cuts live blocks into runs of neighbouring addresses.
fn runs(blocks: &[LiveBlock]) -> impl Iterator<Item = &[LiveBlock]> {
    blocks
        .chunk_by(|a, b| a.entry.address() + 1 == b.entry.address())
        .flat_map(|run| run.chunks(READ_BLOCKS_MAX))
}
