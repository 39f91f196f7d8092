//! The shards of a lane: their handles, what is durably known of each, and their root pages.
//!
//! A handle is one stay of one shard on this lane and is never used again, so that an entry of a
//! dead handle is dead wherever it lies. All of a record's fields only grow: records of one shard
//! merge in any order.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use ashlar_proto::message::ShardState;
use ashlar_proto::{
    BlockCount, Epoch, Generation, Handle, Incarnation, Layer, ReplicaId, Seq, ShardIndex,
    VolumeId, Window,
};

use crate::codec::{Decoder, Encoder};
use crate::lane::layers::Layers;
use crate::lane::leaf_index::{LeafIndex, SharedPage};
use crate::lane::overlay::KeyMap;
use crate::lane::page::{Page, PageEntry};
use crate::lane::reserve::ShardSpace;

/// Leaves of a root page.
const LEAVES: u32 = 256;

/// Names a shard of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardKey {
    /// The volume.
    pub volume: VolumeId,
    /// Its shard.
    pub shard: ShardIndex,
}

/// What is to be raised in a shard's state; each field only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateChange {
    /// The generation that an owner opened it with.
    pub generation: Option<Generation>,
    /// The epoch of its in-sync set.
    pub epoch: Option<Epoch>,
    /// The window that an owner is about to use.
    pub window: Option<Window>,
    /// The new horizon.
    pub stable: Option<Seq>,
    /// Clears the marks of a restart that may have cost unflushed writes, and of damage that may
    /// have cost others.
    pub settle: bool,
    /// Every block has been compared with a replica in sync.
    pub caught_up: bool,
}

/// What is durably known of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShardRecord {
    pub(crate) key: ShardKey,
    pub(crate) replica: ReplicaId,
    pub(crate) blocks: BlockCount,
    pub(crate) generation: Generation,
    pub(crate) epoch: Epoch,
    pub(crate) window: Window,
    pub(crate) stable: Seq,
    pub(crate) highest: Seq,
    /// The incarnation that began with a restart which may have cost unflushed writes.
    pub(crate) lost_in: Incarnation,
    /// The incarnation that found an LSN of the lane missing: what it wrote may be gone.
    pub(crate) damaged_in: Incarnation,
    /// The incarnation up to which an owner has settled both.
    pub(crate) settled_in: Incarnation,
    /// Trust epoch: raised when an LSN of the lane was found missing. Only entries that carry it
    /// are served.
    pub(crate) check: u8,
    /// The trust epoch in which all blocks were compared with a replica in sync: what has no entry
    /// is absent, also if an LSN is missing that was before.
    pub(crate) caught_up: u8,
    /// The shard has left; its map is being taken apart.
    pub(crate) removed: bool,
}

/// The highest trust epoch: a shard that reaches it is not served any more.
pub(crate) const CHECK_MAX: u8 = 15;

impl ShardRecord {
    pub(crate) fn new(key: ShardKey, replica: ReplicaId, blocks: BlockCount) -> Self {
        Self {
            key,
            replica,
            blocks,
            generation: Generation::default(),
            epoch: Epoch::default(),
            window: Window::default(),
            stable: Seq::NONE,
            highest: Seq::NONE,
            lost_in: Incarnation::default(),
            damaged_in: Incarnation::default(),
            settled_in: Incarnation::default(),
            check: 0,
            caught_up: 0,
            removed: false,
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.blocks = self.blocks.max(other.blocks);
        self.generation = self.generation.max(other.generation);
        self.epoch = self.epoch.max(other.epoch);
        self.window = self.window.max(other.window);
        self.stable = self.stable.max(other.stable);
        self.highest = self.highest.max(other.highest);
        self.lost_in = self.lost_in.max(other.lost_in);
        self.damaged_in = self.damaged_in.max(other.damaged_in);
        self.settled_in = self.settled_in.max(other.settled_in);
        self.check = self.check.max(other.check);
        self.caught_up = self.caught_up.max(other.caught_up);
        self.removed |= other.removed;
    }

    pub(crate) fn changed_by(&self, change: &StateChange, incarnation: Incarnation) -> Self {
        let mut next = self.clone();
        next.generation = next.generation.max(change.generation.unwrap_or_default());
        next.epoch = next.epoch.max(change.epoch.unwrap_or_default());
        next.window = next.window.max(change.window.unwrap_or_default());
        next.stable = next.stable.max(change.stable.unwrap_or_default());
        if change.settle {
            next.settled_in = next.settled_in.max(incarnation);
        }
        if change.caught_up {
            next.caught_up = next.check;
        }
        next
    }

    pub(crate) fn state(&self) -> ShardState {
        ShardState {
            generation: self.generation,
            epoch: self.epoch,
            window: self.window,
            stable: self.stable,
            highest: self.highest,
            may_have_lost: self.lost_in > self.settled_in,
            damaged: self.damaged_in > self.settled_in,
            suspect: self.check > self.caught_up,
        }
    }

    pub(crate) fn encode(&self, out: &mut Encoder) {
        out.u64(self.key.volume.get()).u32(self.key.shard.get());
        out.u64(self.replica.get()).u32(self.blocks.get());
        out.u32(self.generation.get())
            .u32(self.epoch.get())
            .u32(self.window.get());
        out.u32(self.lost_in.get())
            .u32(self.damaged_in.get())
            .u32(self.settled_in.get());
        out.u8(self.check).u8(u8::from(self.removed));
        out.u8(self.caught_up).u8(0);
        out.u64(self.stable.get()).u64(self.highest.get());
    }

    pub(crate) fn decode(input: &mut Decoder<'_>) -> Option<Self> {
        let volume = VolumeId::new(input.u64()?);
        let shard = ShardIndex::new(input.u32()?);
        let replica = ReplicaId::new(input.u64()?);
        let blocks = BlockCount::new(input.u32()?);
        let mut record = Self::new(ShardKey { volume, shard }, replica, blocks);
        record.generation = Generation::new(input.u32()?);
        record.epoch = Epoch::new(input.u32()?);
        record.window = Window::new(input.u32()?);
        record.lost_in = Incarnation::new(input.u32()?);
        record.damaged_in = Incarnation::new(input.u32()?);
        record.settled_in = Incarnation::new(input.u32()?);
        record.check = input.u8()?.min(CHECK_MAX);
        record.removed = input.u8()? == 1;
        record.caught_up = input.u8()?.min(CHECK_MAX);
        input.u8()?;
        record.stable = Seq::from_raw(input.u64()?)?;
        record.highest = Seq::from_raw(input.u64()?)?;
        Some(record)
    }

    pub(crate) fn encoded(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        self.encode(&mut out);
        out.finish()
    }
}

/// Where a page lies on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) address: u64,
    pub(crate) crc: u32,
}

/// A root page in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Root {
    /// Its entries, shared with the index of leaves.
    pub(crate) page: SharedPage,
    /// Where it was last written.
    pub(crate) place: Option<Place>,
    /// It changed since.
    pub(crate) dirty: bool,
    /// Leaves it names, zero ones included.
    used: u32,
}

impl Root {
    /// A root page as it was read from the disk.
    pub(crate) fn loaded(page: Page, place: Option<Place>) -> Self {
        let used = page.iter().filter(|entry| !entry.is_absent()).count();
        Self {
            page: Rc::new(RefCell::new(page)),
            place,
            dirty: place.is_none(),
            used: u32::try_from(used).unwrap_or(LEAVES),
        }
    }
}

/// The root pages of one label, by index.
#[derive(Debug, Default)]
pub(crate) struct LabelRoots(pub(crate) BTreeMap<u32, Box<Root>>);

/// A shard in memory.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) record: ShardRecord,
    pub(crate) layers: Layers,
    /// Every label that has a delta or a leaf.
    pub(crate) labels: BTreeMap<Layer, LabelRoots>,
    /// Which of them have which leaves.
    index: LeafIndex,
    /// It changed since the last checkpoint, beyond what the log holds.
    pub(crate) dirty: bool,
    /// What it takes of the lane, and what is kept for it.
    pub(crate) space: ShardSpace,
}

impl Shard {
    pub(crate) fn new(record: ShardRecord) -> Self {
        Self {
            record,
            layers: Layers::default(),
            labels: BTreeMap::new(),
            index: LeafIndex::default(),
            dirty: false,
            space: ShardSpace::default(),
        }
    }

    /// Leaves that its blocks take.
    pub(crate) fn leaves(&self) -> u32 {
        self.record.blocks.get().div_ceil(LEAVES)
    }

    /// The live interval of a label, none when the shard has left.
    pub(crate) fn interval_of(&self, label: Layer) -> Option<(Layer, Layer)> {
        if self.record.removed {
            return None;
        }
        self.layers.interval_of(label)
    }

    /// What the root pages say of a leaf.
    pub(crate) fn leaf_entry(&self, label: Layer, leaf: u32) -> PageEntry {
        let found = self.index.entries(leaf, (label, label)).next();
        found.map_or(PageEntry::ABSENT, |(_, entry)| entry)
    }

    /// Changes what the root pages say of a leaf. Returns by how much the number of root pages
    /// grew (1, 0 or -1).
    pub(crate) fn set_leaf_entry(&mut self, label: Layer, leaf: u32, entry: PageEntry) -> i64 {
        let roots = &mut self.labels.entry(label).or_default().0;
        let index = leaf / LEAVES;
        if entry.is_absent() && !roots.contains_key(&index) {
            return 0;
        }
        let before = roots.len();
        let root = roots.entry(index).or_default();
        let at = (leaf % LEAVES) as usize;
        let old = root.page.borrow().get(at);
        root.page.borrow_mut().set(at, entry);
        root.dirty = true;
        root.used += u32::from(!entry.is_absent());
        root.used -= u32::from(!old.is_absent());
        if entry.is_absent() != old.is_absent() {
            let is_there = !entry.is_absent();
            self.index.note(label, leaf, is_there, &root.page);
        }
        if root.used == 0 {
            roots.remove(&index);
        }
        let grown = i64::try_from(roots.len()).unwrap_or(0) - i64::try_from(before).unwrap_or(0);
        self.space.roots = self.space.roots.saturating_add_signed(grown);
        if self.record.removed && roots.is_empty() {
            self.labels.remove(&label);
        }
        grown
    }

    /// Takes a root page in that was read from the disk.
    pub(crate) fn put_root(&mut self, label: Layer, index: u32, root: Root) {
        self.layers.note(label);
        self.index.note_page(label, index, &root.page);
        let of_label = self.labels.entry(label).or_default();
        if of_label.0.insert(index, Box::new(root)).is_none() {
            self.space.roots += 1;
        }
    }

    /// Where all its leaves lie.
    pub(crate) fn leaf_places(&self) -> Vec<Place> {
        let roots = self.labels.values().flat_map(|label| label.0.values());
        let mut places = Vec::new();
        for root in roots {
            let page = root.page.borrow();
            let leaves = page.iter().filter(|entry| entry.is_data());
            places.extend(leaves.map(|leaf| Place {
                address: leaf.address(),
                crc: leaf.crc(),
            }));
        }
        places
    }

    /// Labels between two that have a leaf, from the top, and what their root pages say of it;
    /// those that were dropped are among them.
    pub(crate) fn leaf_entries(
        &self,
        leaf: u32,
        bounds: (Layer, Layer),
    ) -> impl Iterator<Item = (Layer, PageEntry)> + '_ {
        self.index.entries(leaf, bounds)
    }

    /// Labels between two that have anything, but for those that were dropped.
    pub(crate) fn labels_in(&self, low: Layer, high: Layer) -> impl Iterator<Item = Layer> + '_ {
        let labels = self.labels.range(low..=high).map(|(&label, _)| label);
        labels.filter(|label| !self.layers.is_dropped(*label))
    }

    /// The next leaf, from `start` on, that a dead label or a shard that has left still names.
    pub(crate) fn next_dead_leaf(&self) -> Option<(Layer, u32, PageEntry)> {
        for (&label, roots) in &self.labels {
            if self.interval_of(label).is_some() {
                continue;
            }
            if let Some((&index, root)) = roots.0.first_key_value() {
                let page = root.page.borrow();
                let found = page.iter().enumerate().find(|(_, e)| !e.is_absent());
                if let Some((at, entry)) = found {
                    let leaf = index * LEAVES + u32::try_from(at).unwrap_or(0);
                    return Some((label, leaf, entry));
                }
            }
        }
        None
    }

    /// Leaves that more than one label of a live interval has, each with the interval's top label:
    /// in order, those behind `after`, `most` of them at most.
    pub(crate) fn split_leaves(
        &self,
        after: Option<(Layer, u32)>,
        most: usize,
    ) -> Vec<(Layer, u32)> {
        let mut split = Vec::new();
        for (low, high) in self.layers.all().into_iter().rev() {
            let start = match after {
                Some((label, _)) if high < label => continue,
                Some((label, leaf)) if high == label => leaf + 1,
                _ => 0,
            };
            let labels = self.labels_in(low, high);
            let labels = labels.filter_map(|label| self.labels.get(&label));
            let labels: Vec<&LabelRoots> = labels.filter(|label| !label.0.is_empty()).collect();
            let leaves = split_leaves_of(&labels, start).take(most - split.len());
            split.extend(leaves.map(|leaf| (high, leaf)));
        }
        split
    }
}

/// Leaves from `start` on that more than one of these labels has.
fn split_leaves_of(labels: &[&LabelRoots], start: u32) -> impl Iterator<Item = u32> {
    let mut pages: BTreeMap<u32, Vec<&SharedPage>> = BTreeMap::new();
    for label in labels.iter().filter(|_| labels.len() > 1) {
        for (&index, root) in label.0.range(start / LEAVES..) {
            pages.entry(index).or_default().push(&root.page);
        }
    }
    pages.into_iter().flat_map(move |(index, pages)| {
        let has = |page: &&&SharedPage, at| !page.borrow().get(at as usize).is_absent();
        let several = move |&at: &u32| pages.iter().filter(|page| has(page, at)).count() > 1;
        let leaves = (0..LEAVES)
            .filter(several)
            .map(move |at| index * LEAVES + at);
        leaves.filter(move |&leaf| leaf >= start)
    })
}

/// All shards of a lane.
#[derive(Debug, Default)]
pub(crate) struct Shards {
    by_key: BTreeMap<ShardKey, Handle>,
    by_handle: KeyMap<Handle, Shard>,
    next_handle: u32,
}

impl Shards {
    pub(crate) fn start(next_handle: u32) -> Self {
        Self {
            next_handle,
            ..Self::default()
        }
    }

    pub(crate) fn next_handle(&self) -> u32 {
        self.next_handle
    }

    pub(crate) fn allocate(&mut self) -> Handle {
        let handle = Handle::new(self.next_handle);
        self.next_handle += 1;
        handle
    }

    pub(crate) fn handle_of(&self, key: ShardKey) -> Option<Handle> {
        self.by_key.get(&key).copied()
    }

    pub(crate) fn get(&self, handle: Handle) -> Option<&Shard> {
        self.by_handle.get(&handle)
    }

    pub(crate) fn get_mut(&mut self, handle: Handle) -> Option<&mut Shard> {
        self.by_handle.get_mut(&handle)
    }

    /// Every shard that is here to stay, in the order of keys.
    pub(crate) fn present(&self) -> impl Iterator<Item = (ShardKey, Handle, &Shard)> {
        self.by_key.iter().filter_map(|(&key, &handle)| {
            self.by_handle
                .get(&handle)
                .map(|shard| (key, handle, shard))
        })
    }

    /// Every handle, of shards that are leaving too, ascending.
    pub(crate) fn handles(&self) -> Vec<Handle> {
        let mut handles: Vec<Handle> = self.by_handle.keys().copied().collect();
        handles.sort_unstable();
        handles
    }

    /// Takes in a record, from the log or from a slot.
    pub(crate) fn adopt(&mut self, handle: Handle, record: ShardRecord) {
        self.next_handle = self.next_handle.max(handle.get() + 1);
        let key = record.key;
        let shard = self
            .by_handle
            .entry(handle)
            .and_modify(|shard| shard.record.merge(&record))
            .or_insert_with(|| Shard::new(record));
        if shard.record.removed {
            if self.by_key.get(&key) == Some(&handle) {
                self.by_key.remove(&key);
            }
        } else {
            let newest = self.by_key.entry(key).or_insert(handle);
            *newest = (*newest).max(handle);
        }
    }

    /// Forgets a shard that has left and whose map is gone.
    pub(crate) fn forget(&mut self, handle: Handle) {
        self.by_handle.remove(&handle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_proto::{LayerRange, LayerTable};

    fn record(volume: u64) -> ShardRecord {
        let key = ShardKey {
            volume: VolumeId::new(volume),
            shard: ShardIndex::new(2),
        };
        ShardRecord::new(key, ReplicaId::new(7), BlockCount::new(1024))
    }

    #[test]
    fn records_survive_the_disk_and_merge_in_any_order() {
        let mut a = record(1);
        a.generation = Generation::new(5);
        a.stable = Seq::from_raw(9).unwrap();
        a.lost_in = Incarnation::new(3);
        let bytes = a.encoded();
        assert_eq!(
            ShardRecord::decode(&mut Decoder::new(&bytes)),
            Some(a.clone())
        );
        assert!(a.state().may_have_lost);
        let mut b = record(1);
        b.settled_in = Incarnation::new(3);
        b.epoch = Epoch::new(4);
        let (mut ab, mut ba) = (a.clone(), b.clone());
        ab.merge(&b);
        ba.merge(&a);
        assert_eq!(ab, ba);
        assert!(!ab.state().may_have_lost);
        assert_eq!(ab.state().generation, Generation::new(5));
    }

    #[test]
    fn a_shard_that_returns_has_a_new_handle() {
        let mut shards = Shards::start(1);
        let first = shards.allocate();
        shards.adopt(first, record(1));
        let mut gone = record(1);
        gone.removed = true;
        shards.adopt(first, gone);
        let second = shards.allocate();
        shards.adopt(second, record(1));
        assert_eq!(shards.handle_of(record(1).key), Some(second));
        assert_eq!(shards.present().count(), 1);
        shards.adopt(first, record(1));
        assert_eq!(shards.handle_of(record(1).key), Some(second));
    }

    #[test]
    fn root_pages_come_and_go_with_their_leaves() {
        let mut shard = Shard::new(record(1));
        let (label, seq) = (Layer::new(1), Seq::from_raw(4).unwrap());
        assert_eq!(shard.set_leaf_entry(label, 300, PageEntry::ABSENT), 0);
        assert_eq!(shard.set_leaf_entry(label, 300, PageEntry::zero(seq, 0)), 1);
        assert_eq!(shard.set_leaf_entry(label, 301, PageEntry::zero(seq, 0)), 0);
        assert_eq!(shard.leaf_entry(label, 300).seq(), seq);
        assert_eq!(shard.set_leaf_entry(label, 301, PageEntry::ABSENT), 0);
        assert_eq!(shard.set_leaf_entry(label, 300, PageEntry::ABSENT), -1);
    }

    #[test]
    fn leaves_of_joined_labels_are_split_until_they_are_merged() {
        let mut shard = Shard::new(record(1));
        let zero = PageEntry::zero(Seq::from_raw(4).unwrap(), 0);
        let leaves = [(1, 0), (1, 300), (2, 300), (2, 301), (3, 301), (4, 9)];
        for (label, leaf) in leaves {
            shard.layers.note(Layer::new(label));
            shard.set_leaf_entry(Layer::new(label), leaf, zero);
        }
        assert_eq!(shard.split_leaves(None, 9), [], "each label is an interval");
        let run = |low, high| LayerRange::new(Layer::new(low), Layer::new(high));
        let table = LayerTable {
            version: 1,
            live: vec![run(1, 3), run(4, 4)],
            dropped: Vec::new(),
        };
        shard.layers.adopt(table);
        let top = Layer::new(3);
        assert_eq!(shard.split_leaves(None, 9), [(top, 300), (top, 301)]);
        assert_eq!(shard.split_leaves(None, 1), [(top, 300)]);
        assert_eq!(shard.split_leaves(Some((top, 300)), 9), [(top, 301)]);
        shard.set_leaf_entry(Layer::new(1), 300, PageEntry::ABSENT);
        assert_eq!(shard.split_leaves(None, 9), [(top, 301)]);
    }
}
