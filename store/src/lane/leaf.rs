//! Leaves on demand: from the cache or the device, checked against what their root page says.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use ashlar_proto::crc::crc32c;
use ashlar_proto::{Handle, Layer};
use ashlar_reactor::future::join_all;

use crate::lane::core::{Core, CoreRc};
use crate::lane::leaf_cache::Use;
use crate::lane::page::{Page, PageEntry};
use crate::lane::segment::SegmentState;
use crate::lane::stats::DamageKind;
use crate::lane::strata::Strata;

/// Pauses before each further attempt: a device may hide a block once.
const RETRY_PAUSES_MS: [u64; 2] = [1, 10];
/// From the lowest label to the highest.
const ALL_LABELS: (Layer, Layer) = (Layer::new(0), Layer::new(u32::MAX));
/// Leaves that are loaded at once.
const LOADS_MAX: usize = 64;

/// Leaves that were loaded for one piece of work.
#[derive(Debug)]
pub(crate) struct Held {
    by: Use,
    /// By address and CRC; `None` for a damaged one.
    pages: HashMap<(u64, u32), Option<Rc<Page>>>,
}

impl Held {
    /// None yet, for such work.
    pub(crate) fn by(by: Use) -> Self {
        Self {
            by,
            pages: HashMap::new(),
        }
    }

    /// Whom they are for.
    pub(crate) fn used_by(&self) -> Use {
        self.by
    }

    /// The leaf that an entry of a root page names, if it was loaded.
    pub(crate) fn get(&self, entry: PageEntry) -> Option<&Option<Rc<Page>>> {
        self.pages.get(&(entry.address(), entry.crc()))
    }

    pub(crate) fn insert(&mut self, entry: PageEntry, page: Option<Rc<Page>>) {
        self.pages.insert((entry.address(), entry.crc()), page);
    }

    /// Whether one of them is damaged.
    pub(crate) fn has_damaged(&self) -> bool {
        self.pages.values().any(Option::is_none)
    }
}

/// Keeps a segment from being opened again while something in it is read.
#[derive(Debug)]
pub(crate) struct Pin {
    core: CoreRc,
    segment: u32,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.core.state.borrow_mut();
        let row = state.segments.row_mut(self.segment);
        row.reads -= 1;
        if row.reads == 0 && matches!(row.state, SegmentState::Free(_)) {
            self.core.events.segment_wanted.raise();
        }
    }
}

impl Core {
    /// Pins the segment of an address, in the turn that looked the address up.
    pub(crate) fn pin(self: &CoreRc, address: u64) -> Pin {
        let segment = self.layout.segment_of(address);
        let segment = segment.expect("the map names addresses of its lane");
        self.state.borrow_mut().segments.row_mut(segment).reads += 1;
        Pin {
            core: self.clone(),
            segment,
        }
    }

    /// Loads leaves that a lookup asked for, all at once.
    pub(crate) async fn load_leaves(self: &CoreRc, wanted: Vec<PageEntry>, held: &mut Held) {
        // Held from the turn that looked them up, those too that are loaded later.
        let pins: Vec<Pin> = wanted
            .iter()
            .map(|entry| self.pin(entry.address()))
            .collect();
        for some in wanted.chunks(LOADS_MAX) {
            let by = held.by;
            let loads = some.iter().map(|&entry| self.load_leaf(entry, by));
            let pages = join_all(loads).await;
            for (&entry, page) in some.iter().zip(pages) {
                held.insert(entry, page);
            }
        }
        drop(pins);
    }

    /// Loads the leaf that an entry of a root page names; `None` when it is damaged.
    pub(crate) async fn load_leaf(self: &CoreRc, entry: PageEntry, by: Use) -> Option<Rc<Page>> {
        let (address, crc) = (entry.address(), entry.crc());
        {
            let state = self.state.borrow();
            // Another one may have loaded it since it was asked for.
            if let Some(page) = state.leaves.peek(address, crc) {
                return Some(page.clone());
            }
            if state.bad_leaves.contains(&(address, crc)) {
                return None;
            }
        }
        let pin = self.pin(address);
        #[cfg(test)]
        self.pause(self.options.leaf_pause).await;
        let since = self.reactor.now();
        let block = self.read_checked(address, crc).await;
        let took = self.reactor.now() - since;
        drop(pin);
        let mut state = self.state.borrow_mut();
        let map = &mut state.stats.map;
        map.load_nanos += u64::try_from(took.as_nanos()).unwrap_or(0);
        match by {
            Use::Request => map.misses += 1,
            Use::Scan | Use::Last => map.scanned += 1,
        }
        match block {
            Some(block) => {
                let page = Rc::new(Page::decode(&block));
                state.leaves.insert(address, crc, page.clone(), by);
                state.balance_map();
                Some(page)
            }
            None => {
                state.damage.note(DamageKind::Leaf, address);
                state.bad_leaves.insert((address, crc));
                None
            }
        }
    }

    /// Reads one block until its CRC is right, a few times at most.
    pub(crate) async fn read_checked(
        self: &CoreRc,
        address: u64,
        crc: u32,
    ) -> Option<ashlar_reactor::Buffer> {
        let mut pauses = RETRY_PAUSES_MS.iter();
        loop {
            if let Some(block) = self.read_blocks(address, 1).await
                && crc32c(&block) == crc
            {
                return Some(block);
            }
            let pause = pauses.next()?;
            self.reactor.sleep(Duration::from_millis(*pause)).await;
        }
    }

    /// Has the strata of a leaf made, if nobody does and they are not there.
    pub(crate) fn want_strata(self: &CoreRc, handle: Handle, leaf: u32) {
        if !self.state.borrow_mut().strata.begin(handle, leaf) {
            return;
        }
        let core = self.clone();
        drop(self.reactor.spawn(async move {
            core.make_strata(handle, leaf).await;
            core.state.borrow_mut().balance_map();
        }));
    }

    /// Reads what all labels have of a leaf. Folds go on meanwhile: it is made of what is there in the
    /// turn that has all of it.
    async fn make_strata(self: &CoreRc, handle: Handle, leaf: u32) {
        let mut held = Held::by(Use::Scan);
        loop {
            let wanted = {
                let mut state = self.state.borrow_mut();
                let state = &mut *state;
                let roots: Vec<(Layer, PageEntry)> = match state.shards.get(handle) {
                    Some(shard) => shard.leaf_entries(leaf, ALL_LABELS).collect(),
                    None => return state.strata.end(handle, leaf, None),
                };
                let missing = roots.iter().map(|(_, root)| *root);
                let missing = missing.filter(|root| root.is_data() && held.get(*root).is_none());
                let wanted: Vec<PageEntry> = missing.collect();
                if wanted.is_empty() {
                    // A leaf that cannot be read is damage in all its blocks, until it is folded.
                    let is_good = !held.has_damaged();
                    let labels = roots.into_iter().map(|(label, root)| {
                        let page = held.get(root).and_then(Option::as_deref);
                        (label, root, page.filter(|_| root.is_data()))
                    });
                    let made = is_good.then(|| Strata::new(labels));
                    return state.strata.end(handle, leaf, made);
                }
                wanted
            };
            self.load_leaves(wanted, &mut held).await;
        }
    }
}
