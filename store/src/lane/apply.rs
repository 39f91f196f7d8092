//! What a batch that has completed, or that recovery found, changes in memory.
//!
//! Entries apply in any order: within an interval the highest seq wins, at equal seq the later
//! LSN, and records only grow.

use ashlar_proto::{Handle, Lsn};

use crate::codec::Decoder;
use crate::lane::batch::{Batch, Body, Entry};
use crate::lane::layers::{decode_table, table_bytes};
use crate::lane::overlay::{Delta, LeafKey, Replaced};
use crate::lane::page::{Kind, PAGE_ENTRIES_U32, PageEntry};
use crate::lane::planted::{Bug, Planted};
use crate::lane::shards::ShardRecord;
use crate::lane::state::State;

impl State {
    /// Takes in a batch. `moved`: its data takes the place of blocks that are counted already.
    pub(crate) fn apply(&mut self, batch: &Batch, moved: bool, replay: bool, planted: Planted) {
        for (entry, address) in batch.placed() {
            match &entry.body {
                Body::Data(crcs) => {
                    if !replay && !moved {
                        self.stats.blocks_written += u64::from(entry.count);
                    }
                    self.apply_data(entry, crcs, address, batch.lsn, moved, planted);
                }
                Body::Zero => self.apply_zero(entry, batch.lsn, planted),
                Body::Damaged => {
                    let damaged = PageEntry::damaged(entry.seq, batch.lsn, entry.check);
                    self.apply_each(entry, batch.lsn, planted, |_| damaged);
                }
                Body::Leaf(_) | Body::Root(_) => {}
                Body::Shard(bytes) => self.apply_record(entry.handle, bytes),
                Body::Layers(bytes) => self.apply_layers(entry.handle, bytes),
            }
            self.settle_reserve(entry.handle);
        }
        self.balance_map();
    }

    /// Whether entries of this handle and label still mean anything; notes label and seq.
    fn note_entry(&mut self, entry: &Entry) -> bool {
        let Some(shard) = self.shards.get_mut(entry.handle) else {
            return false;
        };
        let fits = entry
            .first
            .checked_add(entry.count)
            .is_some_and(|end| end <= shard.record.blocks.get());
        if !fits || shard.interval_of(entry.label).is_none() {
            return false;
        }
        shard.layers.note(entry.label);
        shard.labels.entry(entry.label).or_default();
        shard.record.highest = shard.record.highest.max(entry.seq);
        true
    }

    fn apply_data(
        &mut self,
        entry: &Entry,
        crcs: &[u32],
        address: u64,
        lsn: Lsn,
        moved: bool,
        planted: Planted,
    ) {
        if !self.note_entry(entry) {
            return;
        }
        let mut block = entry.first;
        let end = entry.first + entry.count;
        while block < end {
            let (key, _) = LeafKey::of(entry.handle, entry.label, block);
            let leaf_end = end.min((key.leaf + 1).saturating_mul(PAGE_ENTRIES_U32));
            let leaf = self.known_leaf(key);
            while block < leaf_end {
                let index = (block - entry.first) as usize;
                let (_, offset) = LeafKey::of(entry.handle, entry.label, block);
                let place = address + u64::from(block - entry.first);
                let counted = leaf
                    .as_ref()
                    .is_some_and(|page| page.get(usize::from(offset)).is_data());
                let delta = Delta {
                    entry: PageEntry::data(place, crcs[index], entry.seq, entry.check),
                    lsn,
                    offset,
                    grows: !moved && !counted,
                };
                let replaced = self.overlay.insert(key, delta, planted);
                self.account(&replaced, Some(place));
                block += 1;
            }
        }
    }

    /// The leaf of a key if it is in memory.
    fn known_leaf(&self, key: LeafKey) -> Option<std::rc::Rc<crate::lane::page::Page>> {
        let shard = self.shards.get(key.handle)?;
        let entry = shard.leaf_entry(key.label, key.leaf);
        if !entry.is_data() {
            return None;
        }
        self.leaves.peek(entry.address(), entry.crc()).cloned()
    }

    fn apply_each(
        &mut self,
        entry: &Entry,
        lsn: Lsn,
        planted: Planted,
        make: impl Fn(u32) -> PageEntry,
    ) {
        if !self.note_entry(entry) {
            return;
        }
        for block in entry.first..entry.first + entry.count {
            self.apply_single(entry, block, make(block), lsn, planted);
        }
    }

    fn apply_single(
        &mut self,
        entry: &Entry,
        block: u32,
        page_entry: PageEntry,
        lsn: Lsn,
        planted: Planted,
    ) {
        let (key, offset) = LeafKey::of(entry.handle, entry.label, block);
        let delta = Delta {
            entry: page_entry,
            lsn,
            offset,
            grows: false,
        };
        let replaced = self.overlay.insert(key, delta, planted);
        self.account(&replaced, None);
    }

    fn apply_zero(&mut self, entry: &Entry, lsn: Lsn, planted: Planted) {
        if !self.note_entry(entry) {
            return;
        }
        let zero = PageEntry::zero(entry.seq, entry.check);
        if planted.has(Bug::ForgetZero) {
            return self.forget_zero(entry);
        }
        let mut block = entry.first;
        let end = entry.first + entry.count;
        while block < end {
            let (key, _) = LeafKey::of(entry.handle, entry.label, block);
            let leaf_start = key.leaf * PAGE_ENTRIES_U32;
            let leaf_end = leaf_start.saturating_add(PAGE_ENTRIES_U32);
            // Of the last leaf no more than the shard has now: what it grows by was never zeroed.
            if block == leaf_start && end >= leaf_end {
                let delta = Delta {
                    entry: zero,
                    lsn,
                    offset: 0,
                    grows: false,
                };
                let replaced = self.overlay.insert_whole(key, delta, planted);
                self.account(&replaced, None);
                block = leaf_end.min(end);
            } else {
                self.apply_single(entry, block, zero, lsn, planted);
                block += 1;
            }
        }
    }

    /// The planted bug: zeroes are dropped with what they cover.
    fn forget_zero(&mut self, entry: &Entry) {
        for block in entry.first..entry.first + entry.count {
            let (key, offset) = LeafKey::of(entry.handle, entry.label, block);
            let found = self.overlay.get(&key).and_then(|leaf| leaf.get(offset));
            if let Some(delta) = found {
                let gone = self.overlay.remove(key, None, &[(offset, delta.lsn)]);
                let replaced = Replaced { taken: false, gone };
                self.account(&replaced, None);
            }
        }
    }

    /// Keeps the counts of live blocks.
    pub(crate) fn account(&mut self, replaced: &Replaced, gained: Option<u64>) {
        if let Some(address) = gained.filter(|_| replaced.taken) {
            self.segments.row_at(address).overlay_live += 1;
        }
        for delta in &replaced.gone {
            if delta.entry.kind() == Kind::Data {
                let row = self.segments.row_at(delta.entry.address());
                row.overlay_live = row.overlay_live.saturating_sub(1);
            }
        }
    }

    fn apply_record(&mut self, handle: Handle, bytes: &[u8]) {
        let Some(record) = ShardRecord::decode(&mut Decoder::new(bytes)) else {
            return;
        };
        self.shards.adopt(handle, record);
        let removed = self
            .shards
            .get(handle)
            .is_some_and(|shard| shard.record.removed);
        if removed {
            self.purges.0 += 1;
            self.drop_dead_deltas(handle);
        }
    }

    fn apply_layers(&mut self, handle: Handle, bytes: &[u8]) {
        let table = decode_table(&mut Decoder::new(bytes));
        let (Some(table), Some(shard)) = (table, self.shards.get_mut(handle)) else {
            return;
        };
        let before = table_bytes(shard.layers.table());
        let after = table_bytes(&table);
        if shard.layers.adopt(table) {
            self.tables_bytes = (self.tables_bytes + after).saturating_sub(before);
            self.purges.0 += 1;
            self.drop_dead_deltas(handle);
        }
    }

    /// Drops the deltas of labels that are not served any more.
    pub(crate) fn drop_dead_deltas(&mut self, handle: Handle) {
        let Some(shard) = self.shards.get(handle) else {
            return;
        };
        let dead = |key: &LeafKey| key.handle == handle && shard.interval_of(key.label).is_none();
        for key in self.overlay.keys_where(dead) {
            let gone = self.overlay.drop_leaf(key);
            let replaced = Replaced { taken: false, gone };
            self.account(&replaced, None);
        }
    }
}
