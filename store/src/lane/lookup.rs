//! What the map says of a block: the best of overlay and leaves over an interval, then the
//! interval below. Pure: leaves that are needed and not in memory are asked for.

use ashlar_proto::{Handle, Layer, Lsn, Seq};

use crate::lane::error::LaneError;
use crate::lane::leaf::Held;
use crate::lane::overlay::{LeafDeltas, LeafKey};
use crate::lane::page::{Kind, Page, PageEntry};
use crate::lane::planted::{Bug, Planted};
use crate::lane::shards::CHECK_MAX;
use crate::lane::state::State;

/// Blocks of one leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeafRange {
    pub(crate) handle: Handle,
    pub(crate) leaf: u32,
    /// First block within the leaf, and how many.
    pub(crate) first: usize,
    pub(crate) count: usize,
}

/// What a lookup looks through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// Everything that is seen at a layer.
    Layer(Layer),
    /// What of that lies above another layer.
    Between(Layer, Layer),
    /// The interval of a label.
    Interval(Layer),
}

/// Which entries a lookup shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Those that may be served; the others are `Damaged`.
    Served,
    /// All: the collector moves what is not to be served, too.
    All,
}

/// The answer of a lookup.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// These leaves first.
    Needs(Vec<PageEntry>),
    /// One entry a block; what is not to be trusted is `Damaged`.
    Found(Vec<PageEntry>),
}

/// A candidate, with what decides among those of equal seq: the overlay, then the later LSN.
#[derive(Clone, Copy)]
struct Candidate {
    entry: PageEntry,
    rank: (Seq, bool, Lsn),
}

/// What one label has of a leaf.
struct LabelView<'a> {
    deltas: Option<&'a LeafDeltas>,
    root: PageEntry,
    page: Option<std::rc::Rc<Page>>,
}

impl LabelView<'_> {
    fn leaf_entry(&self, offset: usize) -> PageEntry {
        match self.root.kind() {
            Kind::Absent | Kind::Zero => self.root,
            Kind::Damaged => self.root,
            Kind::Data => match &self.page {
                Some(page) => page.get(offset),
                // Unreadable: nothing but a delta that is known to be newer replaces it.
                None => PageEntry::damaged(self.root.seq(), Lsn::new(u64::MAX), 0),
            },
        }
    }

    fn candidate(&self, offset: usize, planted: Planted) -> Option<Candidate> {
        let leaf = self.leaf_entry(offset);
        let narrow = u8::try_from(offset).unwrap_or(u8::MAX);
        let delta = self.deltas.and_then(|deltas| deltas.get(narrow));
        if let Some(delta) = delta.filter(|delta| delta.beats_leaf(leaf, planted)) {
            let rank = (delta.entry.seq(), true, delta.lsn);
            return Some(Candidate {
                entry: delta.entry,
                rank,
            });
        }
        (!leaf.is_absent()).then_some(Candidate {
            entry: leaf,
            rank: (leaf.seq(), false, Lsn::new(0)),
        })
    }

    /// Whether the leaf must be read to decide these blocks.
    fn needs_page(&self, first: usize, count: usize, open: &[bool], planted: Planted) -> bool {
        if !self.root.is_data() {
            return false;
        }
        let Some(deltas) = self.deltas else {
            return open.iter().any(|&open| open);
        };
        let tie_early = planted.has(Bug::TieEarly);
        (0..count).any(|at| {
            let offset = u8::try_from(first + at).unwrap_or(u8::MAX);
            let decided = deltas
                .get(offset)
                .is_some_and(|d| d.entry.seq() >= self.root.seq() && !tie_early);
            open[at] && !decided
        })
    }
}

impl State {
    /// The intervals of a view, as they are in this turn. A lookup that waited for a leaf must ask
    /// again: with a shard that left, or a label that was dropped, go the deltas that hid what
    /// leaves name in vain, and the blocks there may be others by now.
    pub(crate) fn intervals(
        &self,
        handle: Handle,
        view: View,
    ) -> Result<Vec<(Layer, Layer)>, LaneError> {
        let shard = self.shards.get(handle).ok_or(LaneError::NoSuchShard)?;
        if shard.record.removed {
            return Err(LaneError::NoSuchShard);
        }
        match view {
            View::Layer(layer) if shard.layers.is_readable(layer) => {
                Ok(shard.layers.seen_from(layer))
            }
            View::Interval(label) if shard.interval_of(label).is_some() => {
                Ok(shard.interval_of(label).into_iter().collect())
            }
            View::Between(above, layer)
                if shard.layers.is_readable(layer)
                    && (above == Layer::default() || shard.layers.is_readable(above)) =>
            {
                Ok(shard.layers.seen_between(above, layer))
            }
            View::Layer(layer) | View::Interval(layer) | View::Between(_, layer) => {
                Err(LaneError::LayerDropped(layer))
            }
        }
    }

    /// Looks blocks of one leaf up, through these intervals from the top.
    pub(crate) fn lookup(
        &self,
        range: LeafRange,
        intervals: &[(Layer, Layer)],
        held: &Held,
        trust: Trust,
        planted: Planted,
    ) -> Lookup {
        let Some(shard) = self.shards.get(range.handle) else {
            return Lookup::Found(vec![PageEntry::ABSENT; range.count]);
        };
        let mut found: Vec<Option<PageEntry>> = vec![None; range.count];
        let mut open = vec![true; range.count];
        let mut needs = Vec::new();
        for &(low, high) in intervals {
            let mut views = Vec::new();
            for label in shard.labels_in(low, high) {
                let key = LeafKey {
                    handle: range.handle,
                    label,
                    leaf: range.leaf,
                };
                let mut view = LabelView {
                    deltas: self.overlay.get(&key),
                    root: shard.leaf_entry(label, range.leaf),
                    page: None,
                };
                if view.needs_page(range.first, range.count, &open, planted) {
                    match self.held(view.root, held) {
                        Some(page) => view.page = page,
                        None => needs.push(view.root),
                    }
                }
                if view.deltas.is_some() || !view.root.is_absent() {
                    views.push(view);
                }
            }
            if !needs.is_empty() || views.is_empty() {
                continue;
            }
            for at in 0..range.count {
                if !open[at] {
                    continue;
                }
                let candidates = views
                    .iter()
                    .filter_map(|view| view.candidate(range.first + at, planted));
                if let Some(best) = candidates.max_by_key(|candidate| candidate.rank) {
                    found[at] = Some(best.entry);
                    open[at] = false;
                }
            }
            if !open.contains(&true) {
                break;
            }
        }
        if !needs.is_empty() {
            return Lookup::Needs(needs);
        }
        let check = shard.record.check;
        let is_absence_sure = shard.record.caught_up == check;
        let trusted = |entry: Option<PageEntry>| match entry {
            Some(entry) if trust == Trust::All => entry,
            // The count of missing LSNs stands still there: it tells old from new no more.
            Some(entry) if check == CHECK_MAX => {
                PageEntry::damaged(entry.seq(), Lsn::new(0), check)
            }
            Some(entry) if entry.check() == check => entry,
            Some(entry) if entry.kind() == Kind::Damaged => entry,
            None if trust == Trust::All || is_absence_sure && check < CHECK_MAX => {
                PageEntry::ABSENT
            }
            // An LSN is missing that may have changed it: until it is written again, unknown.
            Some(entry) => PageEntry::damaged(entry.seq(), Lsn::new(0), check),
            None => PageEntry::damaged(Seq::NONE, Lsn::new(0), check),
        };
        Lookup::Found(found.into_iter().map(trusted).collect())
    }

    /// A leaf in memory: `Some(None)` for one that was found damaged.
    fn held(&self, root: PageEntry, held: &Held) -> Option<Option<std::rc::Rc<Page>>> {
        if let Some(found) = held.get(root) {
            return Some(found.clone());
        }
        let found = self.leaves.get(root.address(), root.crc(), held.used_by());
        found.map(Some)
    }
}
