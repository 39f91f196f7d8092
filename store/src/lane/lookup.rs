//! What the map says of a block: the best of overlay and leaves over an interval, then the
//! interval below. Pure: leaves that are needed and not in memory are asked for.
//!
//! The best has the highest seq. But a grave, which has the last seq of its window, lies over what its
//! own label and those below have of that window, and under what those above have: the window may
//! have gone on in the layers above.

use ashlar_proto::{Handle, Layer, Lsn, Seq, Window};

use crate::lane::error::LaneError;
use crate::lane::leaf::Held;
use crate::lane::overlay::LeafDeltas;
use crate::lane::page::{Kind, Page, PageEntry};
use crate::lane::planted::{Bug, Planted};
use crate::lane::shards::{CHECK_MAX, Shard, ShardRecord};
use crate::lane::state::State;
use crate::lane::strata::Strata;

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
    Found {
        /// One entry a block; what is not to be trusted is `Damaged`.
        entries: Vec<PageEntry>,
        /// How many labels it took.
        labels: usize,
    },
}

/// A candidate, with what decides among those of equal seq: the overlay, then the later LSN.
#[derive(Clone, Copy)]
struct Candidate {
    entry: PageEntry,
    rank: (Seq, bool, Lsn),
}

/// What one label has of a leaf.
struct LabelView<'a> {
    label: Layer,
    deltas: Option<&'a LeafDeltas>,
    root: PageEntry,
    page: Option<std::rc::Rc<Page>>,
    /// What tells of its leaf in place of the two.
    strata: Option<&'a Strata>,
}

impl LabelView<'_> {
    fn leaf_entry(&self, offset: usize) -> PageEntry {
        if let Some(strata) = self.strata {
            return strata.get(offset, self.label);
        }
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
        if !self.root.is_data() || self.strata.is_some() {
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

/// A lookup under way.
struct Search {
    range: LeafRange,
    planted: Planted,
    found: Vec<Option<PageEntry>>,
    /// Blocks of which nothing was found yet.
    open: Vec<bool>,
    /// Leaves that must be read first.
    needs: Vec<PageEntry>,
}

impl Search {
    fn new(range: LeafRange, planted: Planted) -> Self {
        Self {
            range,
            planted,
            found: vec![None; range.count],
            open: vec![true; range.count],
            needs: Vec::new(),
        }
    }

    fn needs_page(&self, view: &LabelView<'_>) -> bool {
        let (first, count) = (self.range.first, self.range.count);
        view.needs_page(first, count, &self.open, self.planted)
    }

    /// Takes what the labels of an interval, given from the top, have of the open blocks. Whether
    /// none is open any more.
    fn settle(&mut self, interval: &[LabelView<'_>]) -> bool {
        let mut is_done = true;
        for at in 0..self.range.count {
            if !self.open[at] {
                continue;
            }
            let offset = self.range.first + at;
            let views = interval.iter();
            let candidates = views.filter_map(|view| view.candidate(offset, self.planted));
            if let Some(best) = best_of(candidates) {
                self.found[at] = Some(best);
                self.open[at] = false;
            } else {
                is_done = false;
            }
        }
        is_done
    }
}

/// The best of what the labels of an interval have of a block, given from the top.
fn best_of(candidates: impl Iterator<Item = Candidate>) -> Option<PageEntry> {
    let mut best: Option<Candidate> = None;
    let mut buried: Vec<Window> = Vec::new();
    for candidate in candidates {
        let seq = candidate.entry.seq();
        let is_buried = buried.contains(&seq.window());
        if seq.is_burial() {
            buried.push(seq.window());
        }
        let wins = match &best {
            None => true,
            // Of equals the one of the higher label.
            Some(best) => candidate.rank > best.rank && !lies_under(candidate.entry, best.entry),
        };
        if wins && !is_buried {
            best = Some(candidate);
        }
    }
    best.map(|best| best.entry)
}

/// Whether a version lies under one of a higher label whatever their seqs: it is a grave of the same
/// window.
pub(crate) fn lies_under(version: PageEntry, above: PageEntry) -> bool {
    let (seq, above) = (version.seq(), above.seq());
    seq.is_burial() && seq.window() == above.window()
}

/// An entry as it may be shown: what is not to be trusted is `Damaged`.
fn trusted(record: &ShardRecord, trust: Trust, entry: Option<PageEntry>) -> PageEntry {
    let check = record.check;
    let is_absence_sure = record.caught_up == check;
    match entry {
        Some(entry) if trust == Trust::All => entry,
        // The count of missing LSNs stands still there: it tells old from new no more.
        Some(entry) if check == CHECK_MAX => PageEntry::damaged(entry.seq(), Lsn::new(0), check),
        Some(entry) if entry.check() == check => entry,
        Some(entry) if entry.kind() == Kind::Damaged => entry,
        None if trust == Trust::All || is_absence_sure && check < CHECK_MAX => PageEntry::ABSENT,
        // An LSN is missing that may have changed it: until it is written again, unknown.
        Some(entry) => PageEntry::damaged(entry.seq(), Lsn::new(0), check),
        None => PageEntry::damaged(Seq::NONE, Lsn::new(0), check),
    }
}

impl State {
    /// The labels that a view looks through, lowest and highest, as they are in this turn; of those
    /// between them the live ones count. A lookup that waited for a leaf must ask again: with a
    /// shard that left, or a label that was dropped, go the deltas that hid what leaves name in
    /// vain, and the blocks there may be others by now.
    ///
    /// What a layer shows begins and ends with a live interval: no interval lies partly between.
    pub(crate) fn bounds(&self, handle: Handle, view: View) -> Result<(Layer, Layer), LaneError> {
        let shard = self.shards.get(handle).ok_or(LaneError::NoSuchShard)?;
        if shard.record.removed {
            return Err(LaneError::NoSuchShard);
        }
        let layers = &shard.layers;
        let found = match view {
            View::Layer(layer) => layers
                .is_readable(layer)
                .then_some((Layer::default(), layer)),
            View::Interval(label) => shard.interval_of(label),
            View::Between(above, layer) => {
                let is_end = above == Layer::default() || layers.is_readable(above);
                let low = Layer::new(above.get().saturating_add(1));
                (is_end && layers.is_readable(layer)).then_some((low, layer))
            }
        };
        let (View::Layer(layer) | View::Interval(layer) | View::Between(_, layer)) = view;
        found.ok_or(LaneError::LayerDropped(layer))
    }

    /// What the labels between two have of a leaf, from the top. Labels without any of it cost
    /// nothing: a volume may have a thousand. Where there are strata, only labels with some of these
    /// blocks are given.
    fn views<'a>(
        &'a self,
        shard: &'a Shard,
        range: &LeafRange,
        bounds: (Layer, Layer),
    ) -> impl Iterator<Item = LabelView<'a>> {
        let leaf = range.leaf;
        let is_within = move |label: Layer| (bounds.0..=bounds.1).contains(&label);
        let strata = self.strata.of(range.handle, leaf, range.count);
        let labels = strata.map(|strata| strata.labels(range.first, range.count));
        let labels = labels.into_iter().flatten().filter(move |l| is_within(*l));
        let leaves = strata.is_none().then(|| shard.leaf_entries(leaf, bounds));
        let leaves = leaves.into_iter().flatten();
        let mut rooted = labels
            .map(|label| (label, PageEntry::ABSENT))
            .chain(leaves)
            .peekable();
        let changed = self.overlay.of_leaf(range.handle, leaf).iter().rev();
        let mut changed = changed.filter(move |(l, _)| is_within(*l)).peekable();
        std::iter::from_fn(move || {
            let changed_next = changed.peek().map(|(label, _)| *label);
            let rooted_next = rooted.peek().map(|(label, _)| *label);
            let label = rooted_next.max(changed_next)?;
            let root = rooted.next_if(|(rooted, _)| *rooted == label);
            let deltas = changed.next_if(|(changed, _)| *changed == label);
            Some(LabelView {
                label,
                deltas: deltas.map(|(_, deltas)| deltas),
                root: root.map_or(PageEntry::ABSENT, |(_, entry)| entry),
                page: None,
                strata,
            })
        })
    }

    /// Looks blocks of one leaf up, through the live intervals between two labels from the top.
    pub(crate) fn lookup(
        &self,
        range: LeafRange,
        bounds: (Layer, Layer),
        held: &Held,
        trust: Trust,
        planted: Planted,
    ) -> Lookup {
        let Some(shard) = self.shards.get(range.handle) else {
            return Lookup::Found {
                entries: vec![PageEntry::ABSENT; range.count],
                labels: 0,
            };
        };
        let mut search = Search::new(range, planted);
        let mut interval = Vec::new();
        let mut labels = 0;
        let mut views = self.views(shard, &range, bounds).peekable();
        while let Some(first) = views.next() {
            let Some((low, _)) = shard.layers.interval_of(first.label) else {
                continue;
            };
            interval.clear();
            interval.push(first);
            while let Some(view) = views.next_if(|view| view.label >= low) {
                if !shard.layers.is_dropped(view.label) {
                    interval.push(view);
                }
            }
            labels += interval.len();
            for view in &mut interval {
                if !search.needs_page(view) {
                    continue;
                }
                match self.held(view.root, held) {
                    Some(page) => view.page = page,
                    None => search.needs.push(view.root),
                }
            }
            if search.needs.is_empty() && search.settle(&interval) {
                break;
            }
        }
        if !search.needs.is_empty() {
            return Lookup::Needs(search.needs);
        }
        let trusted = |entry| trusted(&shard.record, trust, entry);
        let entries = search.found.into_iter().map(trusted).collect();
        Lookup::Found { entries, labels }
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
