//! Leaves on demand: from the cache or the device, checked against what their root page says.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use ashlar_proto::crc::crc32c;
use ashlar_reactor::future::join_all;

use crate::lane::core::{Core, CoreRc};
use crate::lane::page::{Page, PageEntry};
use crate::lane::segment::SegmentState;
use crate::lane::stats::DamageKind;

/// Pauses before each further attempt: a device may hide a block once.
const RETRY_PAUSES_MS: [u64; 2] = [1, 10];
/// Leaves that are loaded at once.
const LOADS_MAX: usize = 64;

/// Leaves that were loaded for one piece of work, by address and CRC; `None` for a damaged one.
pub(crate) type Held = HashMap<(u64, u32), Option<Rc<Page>>>;

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
            let loads = some.iter().map(|&entry| self.load_leaf(entry));
            let pages = join_all(loads).await;
            let keys = some.iter().map(|entry| (entry.address(), entry.crc()));
            held.extend(keys.zip(pages));
        }
        drop(pins);
    }

    /// Loads the leaf that an entry of a root page names; `None` when it is damaged.
    pub(crate) async fn load_leaf(self: &CoreRc, entry: PageEntry) -> Option<Rc<Page>> {
        let (address, crc) = (entry.address(), entry.crc());
        {
            let state = self.state.borrow();
            if let Some(page) = state.leaves.get(address, crc) {
                return Some(page);
            }
            if state.bad_leaves.contains(&address) {
                return None;
            }
        }
        let pin = self.pin(address);
        #[cfg(test)]
        self.pause(self.options.leaf_pause).await;
        let block = self.read_checked(address, crc).await;
        drop(pin);
        let mut state = self.state.borrow_mut();
        match block {
            Some(block) => {
                let page = Rc::new(Page::decode(&block));
                state.leaves.insert(address, crc, page.clone());
                Some(page)
            }
            None => {
                state.damage.note(DamageKind::Leaf, address);
                state.bad_leaves.insert(address);
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
}
