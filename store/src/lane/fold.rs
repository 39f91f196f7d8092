//! Folding: all deltas and all labels of an interval become one new leaf at its top label.
//!
//! The inputs are dropped when the new leaf has completed. One fold per leaf at a time. Only
//! durable deltas are folded: a leaf must not name what power loss can take away.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use ashlar_proto::crc::crc32c;
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_proto::{BLOCK_BYTES, Handle, Layer, Lsn, Seq};
use ashlar_reactor::future::join_all;

use crate::lane::batch::{Body, Entry};
use crate::lane::core::{Core, CoreRc};
use crate::lane::leaf::Held;
use crate::lane::leaf_cache::Use;
use crate::lane::lookup::lies_under;
use crate::lane::overlay::{Delta, LeafKey, Replaced};
use crate::lane::page::{Kind, PAGE_ENTRIES, Page, PageEntry};
use crate::lane::planted::Bug;
use crate::lane::signal::Reply;
use crate::lane::state::State;
use crate::lane::stream::{Item, STREAMS, Stream};

/// Leaves that folds hold in memory at once, 1 MiB; beyond it go only those of one leaf's labels.
const HELD_MAX: usize = 256;

/// Deltas of one label that a fold takes in.
#[derive(Debug)]
struct Taken {
    key: LeafKey,
    whole: Option<Lsn>,
    singles: Vec<(u8, Lsn)>,
}

/// What one fold is made of, captured in one turn.
#[derive(Debug)]
struct Capture {
    handle: Handle,
    leaf: u32,
    top: Layer,
    /// What the root pages say of the leaf, label by label.
    inputs: Vec<(Layer, PageEntry)>,
    taken: Vec<Taken>,
    page: Page,
}

impl Capture {
    /// Addresses of the leaves that it takes the place of.
    fn replaced(&self) -> impl Iterator<Item = u64> + '_ {
        let leaves = self.inputs.iter().filter(|(_, entry)| entry.is_data());
        leaves.map(|(_, entry)| entry.address())
    }
}

/// Which queues of the streams something joins.
type Queues = fn(&mut State) -> &mut [VecDeque<Item>; STREAMS];

/// Keeps other folds away from a leaf.
struct Folding {
    core: CoreRc,
    key: (Handle, u32),
}

impl Drop for Folding {
    fn drop(&mut self) {
        self.core.state.borrow_mut().folding.remove(&self.key);
    }
}

/// The versions of a block that meet in a fold.
#[derive(Clone, Copy)]
struct Merged {
    entry: PageEntry,
    rank: (Seq, bool, Lsn),
}

impl State {
    /// Root entries of all labels of an interval that have anything of a leaf.
    fn fold_inputs(
        &self,
        handle: Handle,
        leaf: u32,
        interval: (Layer, Layer),
    ) -> Vec<(Layer, PageEntry)> {
        let Some(shard) = self.shards.get(handle) else {
            return Vec::new();
        };
        let labels = shard.labels_in(interval.0, interval.1);
        let entries = labels.map(|label| (label, shard.leaf_entry(label, leaf)));
        entries.filter(|(_, entry)| !entry.is_absent()).collect()
    }

    /// Captures a fold. `held` has every leaf that it needs; none: something changed meanwhile.
    fn capture(
        &self,
        handle: Handle,
        leaf: u32,
        label: Layer,
        held: &Held,
        core: &Core,
    ) -> Option<Capture> {
        let shard = self.shards.get(handle)?;
        let (low, top) = shard.interval_of(label)?;
        let inputs = self.fold_inputs(handle, leaf, (low, top));
        let mut merged: Vec<Option<Merged>> = vec![None; PAGE_ENTRIES];
        let mut taken = Vec::new();
        let durable = self.lsns.durable();
        let foldable = |d: &Delta| d.lsn <= durable || core.has_bug(Bug::FoldUndurable);
        for label in shard.labels_in(low, top) {
            let key = LeafKey {
                handle,
                label,
                leaf,
            };
            let root = shard.leaf_entry(label, leaf);
            let page = match root.kind() {
                Kind::Data => held.get(root)?.clone(),
                _ => None,
            };
            let deltas = self.overlay.get(&key);
            let whole = deltas.and_then(|d| d.whole()).filter(|d| foldable(d));
            let singles: Vec<Delta> = deltas
                .map(|d| {
                    d.singles()
                        .iter()
                        .filter(|d| foldable(d))
                        .copied()
                        .collect()
                })
                .unwrap_or_default();
            let is_any_left = deltas.is_some_and(|d| {
                let mut all = d.whole().into_iter().chain(d.singles().iter().copied());
                all.any(|delta| !foldable(&delta))
            });
            let mut below = merged.iter().flatten();
            if is_any_left && below.any(|version| version.entry.seq().is_burial()) {
                // As the top label's it would lie over what it must lie under.
                return None;
            }
            let mut next = singles.iter().peekable();
            for (offset, best) in merged.iter_mut().enumerate() {
                let old = match (root.kind(), &page) {
                    (Kind::Data, Some(page)) => page.get(offset),
                    (Kind::Data, None) => {
                        // Unreadable: every block is damaged, up to what was logged until now.
                        PageEntry::damaged(root.seq(), self.lsns.next(), root.check())
                    }
                    _ => root,
                };
                let single = next.next_if(|d| usize::from(d.offset) == offset);
                let winner = winner(old, whole, single.copied(), core);
                // Of equals the one at the higher label, as in a lookup: the other one is dead and
                // its segment may be another's by now.
                let is_lower_kept = best.is_some() && is_planted(Planted::MergeLower);
                let wins = |winner: &Merged| {
                    best.is_none_or(|best| {
                        best.rank <= winner.rank || lies_under(best.entry, winner.entry)
                    })
                };
                if let Some(winner) = winner
                    && wins(&winner)
                    && !is_lower_kept
                {
                    *best = Some(winner);
                }
            }
            taken.push(Taken {
                key,
                whole: whole.map(|d| d.lsn),
                singles: singles.iter().map(|d| (d.offset, d.lsn)).collect(),
            });
        }
        let mut page = Page::default();
        for (offset, merged) in merged.iter().enumerate() {
            page.set(offset, merged.map_or(PageEntry::ABSENT, |m| m.entry));
        }
        Some(Capture {
            handle,
            leaf,
            top,
            inputs,
            taken,
            page,
        })
    }

    /// Puts a new leaf in the place of what it was made of, unless that has changed.
    fn install(&mut self, capture: &Capture, entry: PageEntry, held: &Held) -> bool {
        let interval = self
            .shards
            .get(capture.handle)
            .and_then(|shard| shard.interval_of(capture.top));
        let Some((low, high)) = interval else {
            return false;
        };
        let inputs = self.fold_inputs(capture.handle, capture.leaf, (low, high));
        let unchanged = capture.inputs.iter().all(|input| inputs.contains(input));
        if high != capture.top || !unchanged {
            return false;
        }
        let (mut lost, mut gained) = (0, 0);
        for &(_, old) in &capture.inputs {
            if !old.is_data() {
                continue;
            }
            lost += 1;
            self.segments.leaf_loses(old.address());
            self.leaves.remove(old.address());
            self.bad_leaves.remove(&(old.address(), old.crc()));
            if let Some(Some(page)) = held.get(old) {
                for block in page.iter().filter(|entry| entry.is_data()) {
                    lost += 1;
                    self.segments.leaf_loses(block.address());
                }
            }
        }
        if entry.is_data() {
            gained += 1;
            self.segments.leaf_gains(entry.address());
            for block in capture.page.iter().filter(|entry| entry.is_data()) {
                gained += 1;
                self.segments.leaf_gains(block.address());
            }
        } else {
            assert!(capture.page.iter().all(|block| !block.is_data()));
        }
        let mut grown = 0;
        let key = (capture.handle, capture.leaf);
        if let Some(shard) = self.shards.get_mut(capture.handle) {
            for &(label, _) in &capture.inputs {
                if label != capture.top {
                    grown += shard.set_leaf_entry(label, capture.leaf, PageEntry::ABSENT);
                    self.strata.put(key, label, PageEntry::ABSENT, None);
                }
            }
            grown += shard.set_leaf_entry(capture.top, capture.leaf, entry);
            let page = entry.is_data().then_some(&capture.page);
            self.strata.put(key, capture.top, entry, page);
            shard.space.remap(lost, gained);
        }
        self.root_pages = self.root_pages.saturating_add_signed(grown);
        for taken in &capture.taken {
            let gone = self.overlay.remove(taken.key, taken.whole, &taken.singles);
            self.account(&Replaced { taken: false, gone }, None);
        }
        self.settle_reserve(capture.handle);
        self.dirty = true;
        true
    }
}

/// The best of what a label has of a block, as a fold sees it.
fn winner(
    old: PageEntry,
    whole: Option<Delta>,
    single: Option<Delta>,
    core: &Core,
) -> Option<Merged> {
    let best = match (whole, single) {
        (Some(whole), Some(single)) if single.beats(&whole, core.planted) => Some(single),
        (None, single) => single,
        (whole, _) => whole,
    };
    if let Some(delta) = best.filter(|delta| delta.beats_leaf(old, core.planted)) {
        return Some(Merged {
            entry: delta.entry,
            rank: (delta.entry.seq(), true, delta.lsn),
        });
    }
    (!old.is_absent()).then_some(Merged {
        entry: old,
        rank: (old.seq(), false, Lsn::new(0)),
    })
}

/// What a page becomes in its root page, when it need not be written.
fn without_page(page: &Page) -> Option<PageEntry> {
    let first = page.get(0);
    let uniform = page.iter().all(|entry| entry == first);
    (uniform && !first.is_data()).then_some(first)
}

impl Core {
    /// Folds every interval of a leaf.
    pub(crate) async fn fold_leaf(self: &CoreRc, handle: Handle, leaf: u32) {
        let labels: Vec<Layer> = {
            let state = self.state.borrow();
            let shard = state.shards.get(handle);
            shard.map_or_else(Vec::new, |shard| {
                let all = shard.layers.all();
                all.into_iter().map(|(_, high)| high).collect()
            })
        };
        for label in labels {
            self.fold_many(&[(handle, label, leaf)]).await;
        }
    }

    /// Folds leaves, each in the interval of its label. Returns how many were folded.
    pub(crate) async fn fold_many(self: &CoreRc, leaves: &[(Handle, Layer, u32)]) -> usize {
        self.fold_into(leaves, |state| &mut state.queues).await
    }

    /// The same for leaves that lie in a victim: they go first, and further into the reserve.
    pub(crate) async fn fold_urgently(self: &CoreRc, leaves: &[(Handle, Layer, u32)]) -> usize {
        self.fold_into(leaves, |state| &mut state.urgent).await
    }

    async fn fold_into(
        self: &CoreRc,
        mut leaves: &[(Handle, Layer, u32)],
        queues: Queues,
    ) -> usize {
        let mut folded = 0;
        while !leaves.is_empty() {
            let (some, count) = self.fold_part(leaves, queues).await;
            leaves = &leaves[some..];
            folded += count;
        }
        folded
    }

    /// Folds the first of these leaves, as many as may be held in memory at once. Returns how many
    /// were seen to and how many of these were folded.
    async fn fold_part(
        self: &CoreRc,
        leaves: &[(Handle, Layer, u32)],
        queues: Queues,
    ) -> (usize, usize) {
        let mut guards = Vec::new();
        let mut mine = Vec::new();
        let mut needs: Vec<PageEntry> = Vec::new();
        let mut seen = 0;
        for &(handle, label, leaf) in leaves {
            if needs.len() >= HELD_MAX {
                break;
            }
            seen += 1;
            let mut state = self.state.borrow_mut();
            let interval = state.shards.get(handle).and_then(|s| s.interval_of(label));
            let Some(interval) = interval else {
                continue;
            };
            if !state.folding.insert((handle, leaf)) {
                continue;
            }
            let inputs = state.fold_inputs(handle, leaf, interval);
            needs.extend(inputs.iter().map(|(_, e)| *e).filter(|e| e.is_data()));
            guards.push(Folding {
                core: self.clone(),
                key: (handle, leaf),
            });
            mine.push((handle, label, leaf));
        }
        let mut held = Held::by(Use::Last);
        self.load_leaves(needs, &mut held).await;
        let folds = mine
            .iter()
            .map(|&(handle, label, leaf)| self.fold_one(handle, label, leaf, &held, queues));
        let folded = join_all(folds).await;
        drop(guards);
        self.events.sweep_ended.raise();
        (seen, folded.into_iter().filter(|&done| done).count())
    }

    async fn fold_one(
        self: &CoreRc,
        handle: Handle,
        label: Layer,
        leaf: u32,
        held: &Held,
        queues: Queues,
    ) -> bool {
        let (capture, reply, waiter, place, page_crc) = {
            let mut state = self.state.borrow_mut();
            let Some(capture) = state.capture(handle, leaf, label, held, self) else {
                return false;
            };
            let nothing = capture.inputs.is_empty()
                && capture
                    .taken
                    .iter()
                    .all(|t| t.whole.is_none() && t.singles.is_empty());
            if nothing {
                return false;
            }
            if let Some(entry) = without_page(&capture.page) {
                return state.install(&capture, entry, held);
            }
            let (reply, waiter) = Reply::new();
            let mut block = self.reactor.buffer(BLOCK_BYTES);
            capture.page.encode(&mut block);
            let crc = crc32c(&block);
            drop(state);
            let place = Rc::new(Cell::new(0));
            let entry = Entry {
                handle,
                label: capture.top,
                first: leaf,
                count: 0,
                seq: capture.page.highest(),
                check: 0,
                body: Body::Leaf(crc),
            };
            let mut item = Item::new(entry, vec![block.freeze()], reply.part());
            item.place = Some(place.clone());
            queues(&mut self.state.borrow_mut())[Stream::Map.index()].push_back(item);
            (capture, reply, waiter, place, crc)
        };
        drop(reply);
        // All folds of one call queue their leaves first: one batch takes them.
        self.reactor.yield_now().await;
        self.pump(Stream::Map);
        if waiter.wait().await.is_err() {
            return false;
        }
        let mut state = self.state.borrow_mut();
        state.stats.leaves_written += 1;
        let entry = PageEntry::data(place.get(), page_crc, capture.page.highest(), 0);
        // It is kept as what it replaces was: writing makes a leaf neither hot nor cold.
        let by = state.leaves.use_of(capture.replaced());
        let installed = state.install(&capture, entry, held);
        if installed {
            let page = Rc::new(capture.page);
            state.leaves.insert(place.get(), page_crc, page, by);
            state.balance_map();
        }
        installed
    }
}
