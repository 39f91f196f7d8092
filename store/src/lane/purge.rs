//! Purging: takes the maps of shards that left, and of labels that were dropped, apart; merges the
//! leaves of intervals that were joined.
//!
//! What they alone name is dead from the moment on which the record or the table is logged.
//! Purging only brings the counts of live blocks down, so that the collector sees which segments
//! are worth it, and the space can be given out again. A crash in the middle goes on from what the
//! last slot holds.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use ashlar_proto::{Handle, Layer};

use crate::lane::core::{Core, CoreRc};
use crate::lane::layers::table_bytes;
use crate::lane::leaf_cache::Use;
use crate::lane::page::PageEntry;
use crate::lane::state::State;

/// Leaves that are merged together.
const MERGES_TOGETHER: usize = 128;
/// Pause when none of them could be merged.
const PAUSE: Duration = Duration::from_millis(20);

impl State {
    /// Forgets labels that nothing carries any more: lookups would ask each of them. A write that
    /// comes late notes its label anew.
    fn forget_empty_labels(&mut self, handle: Handle) {
        let Some(shard) = self.shards.get(handle) else {
            return;
        };
        let newest = shard.labels.keys().next_back().copied();
        let empty = shard.labels.iter().filter(|(_, roots)| roots.0.is_empty());
        let mut empty: BTreeSet<Layer> = empty.map(|(&label, _)| label).collect();
        empty.retain(|label| Some(*label) != newest);
        if empty.is_empty() {
            return;
        }
        for key in self.overlay.keys_where(|key| key.handle == handle) {
            empty.remove(&key.label);
        }
        if let Some(shard) = self.shards.get_mut(handle) {
            shard.labels.retain(|label, _| !empty.contains(label));
        }
    }
}

impl Core {
    /// Purges for as long as the lane runs.
    pub(crate) async fn run_purge(self: Rc<Self>) {
        loop {
            let mark = self.events.purge_wanted.mark();
            if self.is_closing() {
                return;
            }
            let mut worked = false;
            let (handles, asked) = {
                let state = self.state.borrow();
                (state.shards.handles(), state.purges.0)
            };
            for &handle in &handles {
                worked |= self.purge_shard(handle).await;
            }
            for handle in handles {
                worked |= self.merge_shard(handle).await;
                self.state.borrow_mut().forget_empty_labels(handle);
            }
            if !self.is_closing() {
                self.state.borrow_mut().purges.1 = asked;
            }
            if worked {
                self.events.collect_wanted.raise();
            }
            self.events.purge_wanted.after(mark).await;
        }
    }

    /// Folds every leaf that more than one label of an interval has. Whether there was any.
    async fn merge_shard(self: &CoreRc, handle: Handle) -> bool {
        let mut worked = false;
        let mut after = None;
        loop {
            let split = {
                let state = self.state.borrow();
                let shard = state.shards.get(handle).filter(|s| !s.record.removed);
                let split = shard.map(|shard| shard.split_leaves(after, MERGES_TOGETHER));
                split.unwrap_or_default()
            };
            if self.is_closing() || split.is_empty() && after.is_none() {
                return worked;
            }
            worked = true;
            // From the first one again at the end: other folds may have had some in hand.
            after = split.last().copied();
            let leaves: Vec<(Handle, Layer, u32)> = split
                .into_iter()
                .map(|(label, leaf)| (handle, label, leaf))
                .collect();
            if self.fold_many(&leaves).await == 0 {
                self.reactor.sleep(PAUSE).await;
            }
        }
    }

    async fn purge_shard(self: &CoreRc, handle: Handle) -> bool {
        let mut worked = false;
        loop {
            if self.is_closing() {
                return worked;
            }
            let dead = {
                let mut state = self.state.borrow_mut();
                let Some(shard) = state.shards.get(handle) else {
                    return worked;
                };
                let dead = shard.next_dead_leaf();
                if dead.is_none() && shard.record.removed {
                    let table = table_bytes(shard.layers.table());
                    state.tables_bytes = state.tables_bytes.saturating_sub(table);
                    state.shards.forget(handle);
                    state.strata.forget(handle);
                    state.dirty = true;
                    return true;
                }
                dead
            };
            let Some((label, leaf, entry)) = dead else {
                return worked;
            };
            let page = if entry.is_data() {
                self.load_leaf(entry, Use::Last).await
            } else {
                None
            };
            worked = true;
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            let Some(shard) = state.shards.get_mut(handle) else {
                return worked;
            };
            if shard.leaf_entry(label, leaf) != entry {
                continue;
            }
            let grown = shard.set_leaf_entry(label, leaf, PageEntry::ABSENT);
            let key = (handle, leaf);
            state.strata.put(key, label, PageEntry::ABSENT, None);
            let named = page.iter().flat_map(|page| page.iter());
            let named = named.filter(|block| block.is_data()).count() as u64;
            shard.space.remap(named + u64::from(entry.is_data()), 0);
            state.settle_reserve(handle);
            state.root_pages = state.root_pages.saturating_add_signed(grown);
            state.dirty = true;
            if entry.is_data() {
                state.segments.leaf_loses(entry.address());
                state.leaves.remove(entry.address());
                state.bad_leaves.remove(&(entry.address(), entry.crc()));
            }
            for block in page.iter().flat_map(|page| page.iter()) {
                if block.is_data() {
                    state.segments.leaf_loses(block.address());
                }
            }
        }
    }
}
