//! What all labels have of a leaf's blocks, side by side: so that a read in a volume with hundreds of
//! snapshots looks at the versions of its block, and not at a leaf of each label.
//!
//! ```text
//! leaves:  label 9 [..a.....]    strata:  block 2: 9 a, 7 b, 1 c
//!          label 7 [..b..d..]             block 5: 7 d, 1 e
//!          label 1 [..c..e..]
//! ```
//!
//! Made of a leaf when a request has looked through many labels for it, and kept up with every fold
//! from then on. A leaf with more versions than are kept is known to be dense: its labels' leaves say
//! so much each that they are worth their memory.
//!
//! Invariant: the strata of a leaf hold exactly what the leaves that its root pages name hold.

use std::collections::{HashSet, VecDeque};

use ashlar_proto::{Handle, Layer};

use crate::lane::overlay::KeyMap;
use crate::lane::page::{PAGE_ENTRIES, Page, PageEntry};
use crate::lane::planted::{Bug, Planted};

/// Blocks of the longest lookup that uses them: longer ones need most of the leaves anyway.
pub(crate) const BLOCKS_MAX: usize = 32;
/// Versions that are kept of a leaf: 96 KiB. A thousand labels with a few blocks each.
const VERSIONS_MAX: usize = 4096;
/// Bytes of a version, at a vector's worst slack.
const VERSION_BYTES: usize = 2 * (8 + 16);
/// What strata take beside their versions: a row of the map at its worst load, a place in the queue.
const STRATA_BYTES: usize = 256;
/// Leaves of which strata are being made at a time.
const MAKING_MAX: usize = 4;

/// The strata of one leaf.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Strata {
    /// Labels that say the same of every block, from the top.
    uniform: Vec<(Layer, PageEntry)>,
    /// Block and label of each version: ascending blocks, of each the labels from the top.
    keys: Vec<u64>,
    entries: Vec<PageEntry>,
    is_dense: bool,
}

fn key(offset: usize, label: Layer) -> u64 {
    (offset as u64) << 32 | u64::from(!label.get())
}

fn label_of(key: u64) -> Layer {
    let low = u32::try_from(key & u64::from(u32::MAX)).unwrap_or(0);
    Layer::new(!low)
}

impl Strata {
    /// Of what labels have, each once: what a root page says, and the leaf if there is one.
    pub(crate) fn new<'a>(
        labels: impl Iterator<Item = (Layer, PageEntry, Option<&'a Page>)>,
    ) -> Self {
        let mut strata = Self::default();
        let mut versions: Vec<(u64, PageEntry)> = Vec::new();
        for (label, root, page) in labels {
            match page {
                Some(page) => {
                    let there = page
                        .iter()
                        .enumerate()
                        .filter(|(_, entry)| !entry.is_absent());
                    versions.extend(there.map(|(offset, entry)| (key(offset, label), entry)));
                }
                None if root.is_absent() => {}
                None => strata.uniform.push((label, root)),
            }
            if versions.len() > VERSIONS_MAX {
                return Self {
                    is_dense: true,
                    ..Self::default()
                };
            }
        }
        strata
            .uniform
            .sort_unstable_by_key(|(label, _)| std::cmp::Reverse(*label));
        versions.sort_unstable_by_key(|(key, _)| *key);
        (strata.keys, strata.entries) = versions.into_iter().unzip();
        strata
    }

    /// A label has another leaf now, or none.
    fn put(&mut self, label: Layer, root: PageEntry, page: Option<&Page>) {
        if self.is_dense {
            return;
        }
        let known = self.keys.iter().copied().zip(self.entries.iter().copied());
        let mut versions: Vec<(u64, PageEntry)> =
            known.filter(|(key, _)| label_of(*key) != label).collect();
        self.uniform.retain(|(other, _)| *other != label);
        let changed = Self::new(std::iter::once((label, root, page)));
        self.uniform.extend(changed.uniform);
        self.uniform
            .sort_unstable_by_key(|(label, _)| std::cmp::Reverse(*label));
        versions.extend(changed.keys.into_iter().zip(changed.entries));
        versions.sort_unstable_by_key(|(key, _)| *key);
        if versions.len() > VERSIONS_MAX {
            *self = Self {
                is_dense: true,
                ..Self::default()
            };
            return;
        }
        (self.keys, self.entries) = versions.into_iter().unzip();
    }

    fn of_block(&self, offset: usize) -> std::ops::Range<usize> {
        let start = self
            .keys
            .partition_point(|&known| known < (offset as u64) << 32);
        let len = self.keys[start..].partition_point(|&known| known >> 32 == offset as u64);
        start..start + len
    }

    /// The labels that have anything of some blocks, from the top, each once.
    pub(crate) fn labels(&self, first: usize, count: usize) -> Vec<Layer> {
        assert!(first + count <= PAGE_ENTRIES);
        let start = self
            .keys
            .partition_point(|&known| known < (first as u64) << 32);
        let end = (first + count) as u64;
        let len = self.keys[start..].partition_point(|&known| known >> 32 < end);
        let own = self.keys[start..start + len]
            .iter()
            .map(|&key| label_of(key));
        let uniform = self.uniform.iter().map(|(label, _)| *label);
        let mut labels: Vec<Layer> = own.chain(uniform).collect();
        if count > 1 || !self.uniform.is_empty() {
            labels.sort_unstable_by_key(|label| std::cmp::Reverse(*label));
            labels.dedup();
        }
        labels
    }

    /// What a label's leaf has of a block.
    pub(crate) fn get(&self, offset: usize, label: Layer) -> PageEntry {
        let range = self.of_block(offset);
        let wanted = key(offset, label);
        if let Ok(at) = self.keys[range.clone()].binary_search(&wanted) {
            return self.entries[range.start + at];
        }
        let mut uniform = self.uniform.iter();
        let found = uniform.find(|(other, _)| *other == label);
        found.map_or(PageEntry::ABSENT, |(_, root)| *root)
    }

    fn bytes(&self) -> usize {
        STRATA_BYTES + (self.keys.len() + self.uniform.len()) * VERSION_BYTES
    }
}

/// The strata of a lane, as many as there is memory for: first in, first out.
#[derive(Debug, Default)]
pub(crate) struct StrataCache {
    rows: KeyMap<(Handle, u32), Strata>,
    order: VecDeque<(Handle, u32)>,
    bytes: usize,
    /// Of these leaves they are being made.
    making: HashSet<(Handle, u32)>,
    planted: Planted,
}

impl StrataCache {
    pub(crate) fn new(planted: Planted) -> Self {
        Self {
            planted,
            ..Self::default()
        }
    }

    /// Those of a leaf, for a lookup of so many blocks.
    pub(crate) fn of(&self, handle: Handle, leaf: u32, count: usize) -> Option<&Strata> {
        if count > BLOCKS_MAX || self.rows.is_empty() {
            return None;
        }
        self.rows
            .get(&(handle, leaf))
            .filter(|strata| !strata.is_dense)
    }

    /// Bytes of memory that they take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether somebody may begin to make those of a leaf: then he must end it.
    pub(crate) fn begin(&mut self, handle: Handle, leaf: u32) -> bool {
        let key = (handle, leaf);
        let is_wanted = !self.rows.contains_key(&key) && self.making.len() < MAKING_MAX;
        is_wanted && self.making.insert(key)
    }

    /// They are made, or could not be.
    pub(crate) fn end(&mut self, handle: Handle, leaf: u32, made: Option<Strata>) {
        let key = (handle, leaf);
        self.making.remove(&key);
        let Some(strata) = made else { return };
        self.bytes += strata.bytes();
        if let Some(old) = self.rows.insert(key, strata) {
            self.bytes -= old.bytes();
        } else {
            self.order.push_back(key);
        }
    }

    /// A label's leaf has changed.
    pub(crate) fn put(
        &mut self,
        (handle, leaf): (Handle, u32),
        label: Layer,
        root: PageEntry,
        page: Option<&Page>,
    ) {
        if self.planted.has(Bug::StrataStay) {
            return;
        }
        if let Some(strata) = self.rows.get_mut(&(handle, leaf)) {
            self.bytes -= strata.bytes();
            strata.put(label, root, page);
            self.bytes += strata.bytes();
        }
    }

    /// Those of a shard that is gone.
    pub(crate) fn forget(&mut self, handle: Handle) {
        self.order.retain(|key| key.0 != handle);
        let bytes = &mut self.bytes;
        self.rows.retain(|key, strata| {
            let stays = key.0 != handle;
            *bytes -= if stays { 0 } else { strata.bytes() };
            stays
        });
    }

    /// Lets the oldest go until no more than so many bytes are taken.
    pub(crate) fn trim(&mut self, most: usize) {
        while self.bytes > most {
            let oldest = self.order.pop_front();
            let oldest = oldest.expect("every row has a place in the queue");
            if let Some(strata) = self.rows.remove(&oldest) {
                self.bytes -= strata.bytes();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_proto::Seq;
    use proptest::prelude::*;

    fn layer(raw: u32) -> Layer {
        Layer::new(raw)
    }

    fn entry(raw: u64) -> PageEntry {
        PageEntry::data(raw, 7, Seq::from_raw(raw).unwrap(), 0)
    }

    fn page(blocks: &[(usize, u64)]) -> Page {
        let mut page = Page::default();
        for &(offset, raw) in blocks {
            page.set(offset, entry(raw));
        }
        page
    }

    #[test]
    fn a_block_has_the_labels_that_wrote_it_from_the_top() {
        let (one, seven, nine) = (page(&[(2, 1), (5, 2)]), page(&[(2, 3)]), page(&[(2, 4)]));
        let zero = PageEntry::zero(Seq::from_raw(9).unwrap(), 0);
        let strata = Strata::new(
            [
                (layer(9), entry(100), Some(&nine)),
                (layer(8), zero, None),
                (layer(7), entry(101), Some(&seven)),
                (layer(1), entry(102), Some(&one)),
            ]
            .into_iter(),
        );
        assert_eq!(strata.labels(2, 1), [9, 8, 7, 1].map(layer));
        assert_eq!(strata.labels(5, 1), [8, 1].map(layer));
        assert_eq!(strata.labels(6, 9), [8].map(layer));
        assert_eq!(strata.labels(2, 4), [9, 8, 7, 1].map(layer));
        assert_eq!(strata.get(2, layer(7)), entry(3));
        assert_eq!(strata.get(5, layer(7)), PageEntry::ABSENT);
        assert_eq!(strata.get(200, layer(8)), zero);
    }

    #[test]
    fn what_is_too_much_is_dense_and_not_used() {
        let full = Page::filled(entry(1));
        let labels = || (1..=17).map(|label| (layer(label), entry(9), Some(&full)));
        let mut cache = StrataCache::default();
        let handle = Handle::new(1);
        assert!(cache.begin(handle, 3));
        assert!(!cache.begin(handle, 3), "it is under way");
        cache.end(handle, 3, Some(Strata::new(labels())));
        assert!(cache.of(handle, 3, 1).is_none());
        assert!(!cache.begin(handle, 3), "it is known to be dense");
        cache.end(handle, 4, Some(Strata::new(labels().take(16))));
        assert!(cache.of(handle, 4, 1).is_some() && cache.of(handle, 4, 33).is_none());
        cache.put((handle, 4), layer(17), entry(9), Some(&full));
        assert!(cache.of(handle, 4, 1).is_none());
        cache.trim(STRATA_BYTES);
        assert!(cache.bytes() <= STRATA_BYTES && cache.begin(handle, 3));
        cache.forget(handle);
        assert_eq!((cache.bytes(), cache.order.len()), (0, 0));
    }

    proptest! {
        /// Kept up with changes they are what they would be if they were made anew.
        #[test]
        fn strata_that_are_kept_up_are_those_that_are_made(
            changes in proptest::collection::vec(
                (1u32..12, proptest::collection::vec((0usize..20, 1u64..99), 0..6), 0u8..4), 1..40)
        ) {
            let mut kept = Strata::default();
            let mut now: std::collections::BTreeMap<u32, (PageEntry, Option<Page>)> =
                std::collections::BTreeMap::new();
            for (label, blocks, kind) in changes {
                let (root, new) = match kind {
                    0 => (PageEntry::ABSENT, None),
                    1 => (PageEntry::zero(Seq::from_raw(5).unwrap(), 0), None),
                    _ => (entry(50), Some(page(&blocks))),
                };
                kept.put(layer(label), root, new.as_ref());
                now.insert(label, (root, new));
                let labels = now.iter().map(|(l, (root, page))| (layer(*l), *root, page.as_ref()));
                prop_assert_eq!(&kept, &Strata::new(labels));
            }
        }
    }
}
