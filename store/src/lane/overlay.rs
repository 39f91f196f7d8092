//! The overlay: what changed since the leaves were written, one delta of 32 bytes a block.
//!
//! Deltas of one leaf are kept together; zeroes that cover a whole leaf are one delta, so that
//! discarding a large range is cheap. Leaves are also ordered by the LSN of their oldest delta:
//! the first is what a checkpoint must replay from, and what the sweep folds next.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use ashlar_proto::{Handle, Layer, Lsn, Seq};

use crate::lane::page::{Kind, PAGE_ENTRIES_U32, PageEntry};
use crate::lane::planted::{Bug, Planted};

/// A leaf of one label of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LeafKey {
    pub(crate) handle: Handle,
    pub(crate) label: Layer,
    pub(crate) leaf: u32,
}

impl LeafKey {
    /// The leaf of a block, and the block's place in it.
    pub(crate) fn of(handle: Handle, label: Layer, block: u32) -> (Self, u8) {
        let leaf = block / PAGE_ENTRIES_U32;
        let offset = u8::try_from(block % PAGE_ENTRIES_U32).unwrap_or(0);
        let key = Self {
            handle,
            label,
            leaf,
        };
        (key, offset)
    }
}

/// A hasher for small fixed keys: the map is looked up for every block.
#[derive(Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(23) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A map with small fixed keys.
pub(crate) type KeyMap<K, V> = HashMap<K, V, BuildHasherDefault<KeyHasher>>;

/// One change of one block, or of a whole leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delta {
    pub(crate) entry: PageEntry,
    pub(crate) lsn: Lsn,
    pub(crate) offset: u8,
    /// It may take a block that the leaf does not count yet.
    pub(crate) grows: bool,
}

const _: () = assert!(size_of::<Delta>() == 32);

impl Delta {
    fn rank(&self) -> (Seq, Lsn) {
        (self.entry.seq(), self.lsn)
    }

    /// Whether it replaces `other`: the higher seq, at equal seq the later LSN; a repair replaces
    /// damage whose seq is not known.
    pub(crate) fn beats(&self, other: &Self, planted: Planted) -> bool {
        if planted.has(Bug::TieEarly) {
            return self.entry.seq() > other.entry.seq();
        }
        self.rank() > other.rank()
    }

    /// Whether it wins over what a leaf says. The overlay wins ties.
    pub(crate) fn beats_leaf(&self, leaf: PageEntry, planted: Planted) -> bool {
        if planted.has(Bug::TieEarly) {
            return self.entry.seq() > leaf.seq() || leaf.is_absent();
        }
        let newer = self.entry.seq() >= leaf.seq();
        newer || leaf.kind() == Kind::Damaged && self.lsn > leaf.cut()
    }
}

/// All deltas of one leaf.
#[derive(Clone, Debug, Default)]
pub(crate) struct LeafDeltas {
    whole: Option<Delta>,
    deltas: Vec<Delta>,
    oldest: Lsn,
}

impl LeafDeltas {
    /// The best delta of a block.
    pub(crate) fn get(&self, offset: u8) -> Option<Delta> {
        let found = self.deltas.binary_search_by_key(&offset, |d| d.offset);
        let single = found.ok().map(|position| self.deltas[position]);
        match (single, self.whole) {
            (Some(single), Some(whole)) if whole.rank() > single.rank() => Some(whole),
            (None, whole) => whole,
            (single, _) => single,
        }
    }

    /// The delta that covers the whole leaf.
    pub(crate) fn whole(&self) -> Option<Delta> {
        self.whole
    }

    /// Deltas of single blocks, by offset.
    pub(crate) fn singles(&self) -> &[Delta] {
        &self.deltas
    }

    fn is_empty(&self) -> bool {
        self.whole.is_none() && self.deltas.is_empty()
    }

    /// Gives the memory of deltas that are gone back, if it is much. Returns for how many it was.
    fn give_back(&mut self) -> usize {
        let slots = self.deltas.capacity();
        if self.deltas.len() <= slots / 4 {
            self.deltas.shrink_to_fit();
        }
        slots - self.deltas.capacity()
    }

    fn all(&self) -> impl Iterator<Item = &Delta> {
        self.whole.iter().chain(&self.deltas)
    }
}

/// The deltas of a leaf, of each label that has any, ascending.
type LabelDeltas = Vec<(Layer, LeafDeltas)>;

/// Memory that a leaf takes beside its deltas: a row of the table at its mean load (two thirds), an
/// allocation.
const LEAF_BYTES: usize = size_of::<((Handle, u32), LabelDeltas)>() * 3 / 2 + 16;
/// Memory that each label of it takes: its place, one in the order of age (24 bytes in nodes that
/// are three quarters full), an allocation.
const LABEL_BYTES: usize = size_of::<(Layer, LeafDeltas)>() + 32 + 16;

/// What an insertion or a removal changed, for the counts of live blocks.
#[derive(Debug, Default)]
pub(crate) struct Replaced {
    /// Whether the new delta was taken.
    pub(crate) taken: bool,
    /// Deltas that are gone.
    pub(crate) gone: Vec<Delta>,
}

/// The overlay of a lane.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    leaves: KeyMap<(Handle, u32), LabelDeltas>,
    /// Leaves held, each label's by itself.
    labels: usize,
    by_age: BTreeSet<(Lsn, LeafKey)>,
    /// Deltas that there is memory for: those held, and what vectors keep in advance.
    slots: usize,
    /// Deltas that may take a new block.
    grows: u64,
    /// The same of each shard; those without any are left out.
    grows_of: KeyMap<Handle, u64>,
}

impl Overlay {
    pub(crate) fn get(&self, key: &LeafKey) -> Option<&LeafDeltas> {
        let labels = self.of_leaf(key.handle, key.leaf);
        let at = labels.binary_search_by_key(&key.label, |(label, _)| *label);
        Some(&labels[at.ok()?].1)
    }

    /// The deltas of a leaf, of each label that has any, ascending.
    pub(crate) fn of_leaf(&self, handle: Handle, leaf: u32) -> &[(Layer, LeafDeltas)] {
        let labels = self.leaves.get(&(handle, leaf));
        labels.map_or(&[], Vec::as_slice)
    }

    /// Bytes of memory that it takes, roughly.
    pub(crate) fn bytes(&self) -> usize {
        self.slots * size_of::<Delta>() + self.leaves.len() * LEAF_BYTES + self.labels * LABEL_BYTES
    }

    /// Blocks that it may add to what the leaves count.
    pub(crate) fn grows(&self) -> u64 {
        self.grows
    }

    /// Blocks that it may add to what the leaves of a shard count.
    pub(crate) fn grows_of(&self, handle: Handle) -> u64 {
        self.grows_of.get(&handle).copied().unwrap_or(0)
    }

    /// Leaves that it may still have written, each label's by itself.
    pub(crate) fn labels(&self) -> u64 {
        self.labels as u64
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.leaves.is_empty()
    }

    /// The lowest LSN in it: what a checkpoint taken now must replay from.
    pub(crate) fn oldest(&self) -> Option<Lsn> {
        self.by_age.first().map(|(lsn, _)| *lsn)
    }

    /// Leaves from the one with the oldest delta on.
    pub(crate) fn by_age(&self) -> impl Iterator<Item = (Lsn, LeafKey)> + '_ {
        self.by_age.iter().copied()
    }

    fn entry(&mut self, key: LeafKey, lsn: Lsn) -> &mut LeafDeltas {
        let labels = self.leaves.entry((key.handle, key.leaf)).or_default();
        let at = match labels.binary_search_by_key(&key.label, |(label, _)| *label) {
            Ok(at) => at,
            Err(at) => {
                if labels.is_empty() {
                    labels.reserve_exact(1);
                }
                labels.insert(at, (key.label, LeafDeltas::default()));
                self.labels += 1;
                at
            }
        };
        let leaf = &mut labels[at].1;
        if leaf.is_empty() {
            leaf.oldest = lsn;
            self.by_age.insert((lsn, key));
        } else if lsn < leaf.oldest {
            self.by_age.remove(&(leaf.oldest, key));
            leaf.oldest = lsn;
            self.by_age.insert((lsn, key));
        }
        leaf
    }

    fn forget_if_empty(&mut self, key: LeafKey) {
        if self.get(&key).is_some_and(LeafDeltas::is_empty) {
            self.take(key);
        }
    }

    /// Takes the deltas of a leaf of a label out, with its place in the order of age.
    fn take(&mut self, key: LeafKey) -> Option<LeafDeltas> {
        let labels = self.leaves.get_mut(&(key.handle, key.leaf))?;
        let at = labels.binary_search_by_key(&key.label, |(label, _)| *label);
        let (_, leaf) = labels.remove(at.ok()?);
        if labels.is_empty() {
            self.leaves.remove(&(key.handle, key.leaf));
        }
        self.labels -= 1;
        self.by_age.remove(&(leaf.oldest, key));
        Some(leaf)
    }

    fn account_gone(&mut self, handle: Handle, gone: &[Delta]) {
        let less = gone.iter().filter(|d| d.grows).count() as u64;
        if less == 0 {
            return;
        }
        self.grows -= less;
        if let Some(of_shard) = self.grows_of.get_mut(&handle) {
            *of_shard -= less;
            if *of_shard == 0 {
                self.grows_of.remove(&handle);
            }
        }
    }

    /// Enters the delta of one block, unless a better one is there.
    pub(crate) fn insert(&mut self, key: LeafKey, delta: Delta, planted: Planted) -> Replaced {
        let leaf = self.entry(key, delta.lsn);
        let covered = leaf
            .whole
            .is_some_and(|whole| !delta.beats(&whole, planted));
        let slots = leaf.deltas.capacity();
        let position = leaf
            .deltas
            .binary_search_by_key(&delta.offset, |d| d.offset);
        let mut replaced = Replaced::default();
        match position {
            _ if covered => {}
            Ok(at) if delta.beats(&leaf.deltas[at], planted) => {
                replaced
                    .gone
                    .push(std::mem::replace(&mut leaf.deltas[at], delta));
                replaced.taken = true;
            }
            Ok(_) => {}
            Err(at) => {
                if leaf.deltas.is_empty() {
                    // Of most leaves one block changes: not room for four.
                    leaf.deltas.reserve_exact(1);
                }
                leaf.deltas.insert(at, delta);
                replaced.taken = true;
            }
        }
        self.slots += leaf.deltas.capacity() - slots;
        if replaced.taken && delta.grows {
            self.grows += 1;
            *self.grows_of.entry(key.handle).or_default() += 1;
        }
        self.account_gone(key.handle, &replaced.gone);
        self.forget_if_empty(key);
        replaced
    }

    /// Enters zeroes for a whole leaf; drops what they cover.
    pub(crate) fn insert_whole(
        &mut self,
        key: LeafKey,
        delta: Delta,
        planted: Planted,
    ) -> Replaced {
        let leaf = self.entry(key, delta.lsn);
        let mut replaced = Replaced::default();
        if leaf.whole.is_none_or(|whole| delta.beats(&whole, planted)) {
            replaced.gone.extend(leaf.whole.replace(delta));
            let covered = |single: &Delta| delta.beats(single, planted);
            replaced
                .gone
                .extend(leaf.deltas.iter().filter(|d| covered(d)));
            leaf.deltas.retain(|single| !covered(single));
            self.slots -= leaf.give_back();
            replaced.taken = true;
        }
        self.account_gone(key.handle, &replaced.gone);
        self.forget_if_empty(key);
        replaced
    }

    /// Removes the deltas that a fold took in, if they are still the same.
    pub(crate) fn remove(
        &mut self,
        key: LeafKey,
        whole: Option<Lsn>,
        singles: &[(u8, Lsn)],
    ) -> Vec<Delta> {
        let labels = self.leaves.get_mut(&(key.handle, key.leaf));
        let mut labels = labels.into_iter().flatten();
        let Some((_, leaf)) = labels.find(|(label, _)| *label == key.label) else {
            return Vec::new();
        };
        let mut gone = Vec::new();
        gone.extend(leaf.whole.take_if(|delta| Some(delta.lsn) == whole));
        let taken = |d: &Delta| {
            let found = singles.binary_search_by_key(&d.offset, |(offset, _)| *offset);
            found.is_ok_and(|at| singles[at].1 == d.lsn)
        };
        gone.extend(leaf.deltas.iter().filter(|d| taken(d)));
        leaf.deltas.retain(|d| !taken(d));
        self.slots -= leaf.give_back();
        if !leaf.is_empty() {
            let oldest = leaf.all().map(|d| d.lsn).min().unwrap_or(leaf.oldest);
            if oldest != leaf.oldest {
                self.by_age.remove(&(leaf.oldest, key));
                leaf.oldest = oldest;
                self.by_age.insert((oldest, key));
            }
        }
        self.account_gone(key.handle, &gone);
        self.forget_if_empty(key);
        gone
    }

    /// Drops a leaf of a label that is dead.
    pub(crate) fn drop_leaf(&mut self, key: LeafKey) -> Vec<Delta> {
        let Some(leaf) = self.take(key) else {
            return Vec::new();
        };
        self.slots -= leaf.deltas.capacity();
        let gone: Vec<Delta> = leaf.all().copied().collect();
        self.account_gone(key.handle, &gone);
        gone
    }

    /// Keys of all leaves that match.
    pub(crate) fn keys_where(&self, matches: impl Fn(&LeafKey) -> bool) -> Vec<LeafKey> {
        let keys = self.leaves.iter().flat_map(|(&(handle, leaf), labels)| {
            labels.iter().map(move |&(label, _)| LeafKey {
                handle,
                label,
                leaf,
            })
        });
        let mut keys: Vec<LeafKey> = keys.filter(|key| matches(key)).collect();
        keys.sort_unstable();
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seq(raw: u64) -> Seq {
        Seq::from_raw(raw).unwrap()
    }

    fn data(offset: u8, raw: u64, lsn: u64) -> Delta {
        Delta {
            entry: PageEntry::data(lsn, 0, seq(raw), 0),
            lsn: Lsn::new(lsn),
            offset,
            grows: true,
        }
    }

    fn key() -> LeafKey {
        LeafKey::of(Handle::new(1), Layer::new(1), 300).0
    }

    #[test]
    fn higher_seq_wins_then_later_lsn_in_any_order() {
        let deltas = [
            data(4, 7, 10),
            data(4, 9, 11),
            data(4, 9, 14),
            data(4, 8, 15),
        ];
        for first in 0..deltas.len() {
            let mut overlay = Overlay::default();
            for at in 0..deltas.len() {
                let delta = deltas[(first + at) % deltas.len()];
                overlay.insert(key(), delta, Planted::NONE);
            }
            assert_eq!(overlay.get(&key()).unwrap().get(4), Some(deltas[2]));
            assert_eq!((overlay.slots, overlay.grows()), (1, 1));
        }
    }

    #[test]
    fn whole_leaf_of_zeroes_is_one_delta() {
        let mut overlay = Overlay::default();
        for offset in 0..=255 {
            overlay.insert(key(), data(offset, u64::from(offset), 5), Planted::NONE);
        }
        let whole = Delta {
            entry: PageEntry::zero(seq(100), 0),
            lsn: Lsn::new(6),
            offset: 0,
            grows: false,
        };
        let replaced = overlay.insert_whole(key(), whole, Planted::NONE);
        assert_eq!(replaced.gone.len(), 101);
        let leaf = overlay.get(&key()).unwrap();
        assert_eq!(leaf.get(3), Some(whole));
        assert_eq!(leaf.get(200), Some(data(200, 200, 5)));
        assert!(!overlay.insert(key(), data(3, 99, 9), Planted::NONE).taken);
        assert!(overlay.insert(key(), data(3, 101, 9), Planted::NONE).taken);
    }

    #[test]
    fn oldest_follows_what_is_left() {
        let mut overlay = Overlay::default();
        assert_eq!(overlay.oldest(), None);
        overlay.insert(key(), data(1, 1, 10), Planted::NONE);
        overlay.insert(key(), data(2, 2, 7), Planted::NONE);
        assert_eq!(overlay.oldest(), Some(Lsn::new(7)));
        let gone = overlay.remove(key(), None, &[(2, Lsn::new(7))]);
        assert_eq!(gone.len(), 1);
        assert_eq!(overlay.oldest(), Some(Lsn::new(10)));
        overlay.remove(key(), None, &[(1, Lsn::new(9))]);
        assert_eq!(overlay.oldest(), Some(Lsn::new(10)), "a newer delta stays");
        overlay.drop_leaf(key());
        assert!(overlay.is_empty() && overlay.oldest().is_none());
        assert_eq!(overlay.bytes(), 0);
    }
}
