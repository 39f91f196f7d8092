//! Leaves in memory: those that requests use stay, those that a scan reads pass through.
//!
//! ```text
//! request ─▶ hot:  a clock; who was used since the hand last passed gets another round
//!             ▲
//!             │ used by a request
//! scan ────▶ cold: first in, first out, an eighth of the room
//! ```
//!
//! A scrub, a tail or the collector reads every leaf of a shard once: it can displace no more than
//! the cold eighth.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::lane::overlay::KeyMap;
use crate::lane::page::Page;

/// Memory that a leaf takes here: its 4,096 bytes and their allocation, the counted pointer's 40,
/// a row of the map at its worst load (2.3 rows of 48), a place in a queue (16, at most twice).
pub(crate) const LEAF_BYTES: usize = 4096 + 16 + 40 + 112 + 32;
/// The part of the room that is for scans: one in so many.
const COLD_PART: usize = 8;

/// Who wants a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// A request for some blocks: it may come again.
    Request,
    /// What passes over many leaves once: scrub, tail, extents, the collector.
    Scan,
    /// What takes a leaf out of the map: folds, purging. It is not kept.
    Last,
}

/// What the cache counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CacheCounts {
    /// Leaves that requests found here.
    pub(crate) hits: u64,
    /// Leaves that were displaced by others.
    pub(crate) evictions: u64,
}

#[derive(Debug)]
struct Row {
    crc: u32,
    is_hot: bool,
    is_used: Cell<bool>,
    /// Tells its place in a queue from those of earlier leaves at its address.
    stamp: u64,
    page: Rc<Page>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct LeafCache {
    rows: KeyMap<u64, Row>,
    hot: VecDeque<(u64, u64)>,
    cold: VecDeque<(u64, u64)>,
    cold_count: usize,
    stamps: u64,
    most: usize,
    hits: Cell<u64>,
    evictions: u64,
}

impl LeafCache {
    /// Room for so many leaves at most.
    pub(crate) fn with_room(most: usize) -> Self {
        Self {
            most,
            ..Self::default()
        }
    }

    pub(crate) fn counts(&self) -> CacheCounts {
        CacheCounts {
            hits: self.hits.get(),
            evictions: self.evictions,
        }
    }

    /// Bytes of memory that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.rows.len() * LEAF_BYTES
    }

    /// The leaf that lies at an address with this CRC: an older one of a reused address is none.
    pub(crate) fn get(&self, address: u64, crc: u32, by: Use) -> Option<Rc<Page>> {
        let row = self.rows.get(&address).filter(|row| row.crc == crc)?;
        if by == Use::Request {
            row.is_used.set(true);
            self.hits.set(self.hits.get() + 1);
        }
        Some(row.page.clone())
    }

    /// The same without leaving a trace.
    pub(crate) fn peek(&self, address: u64, crc: u32) -> Option<&Rc<Page>> {
        let row = self.rows.get(&address).filter(|row| row.crc == crc)?;
        Some(&row.page)
    }

    /// Whom the leaves at some addresses are for, so that what replaces them is kept alike.
    pub(crate) fn use_of(&self, addresses: impl IntoIterator<Item = u64>) -> Use {
        let rows = addresses.into_iter().filter_map(|a| self.rows.get(&a));
        let mut hot = rows.filter(|row| row.is_hot || row.is_used.get());
        hot.next().map_or(Use::Scan, |_| Use::Request)
    }

    /// Keeps a leaf; [`Self::trim`] makes room for it.
    pub(crate) fn insert(&mut self, address: u64, crc: u32, page: Rc<Page>, by: Use) {
        if by == Use::Last {
            return;
        }
        self.remove(address);
        self.stamps += 1;
        let row = Row {
            crc,
            is_hot: by == Use::Request,
            is_used: Cell::new(false),
            stamp: self.stamps,
            page,
        };
        if row.is_hot {
            self.hot.push_back((address, row.stamp));
        } else {
            self.cold.push_back((address, row.stamp));
            self.cold_count += 1;
        }
        self.rows.insert(address, row);
    }

    pub(crate) fn remove(&mut self, address: u64) {
        let Some(row) = self.rows.remove(&address) else {
            return;
        };
        self.cold_count -= usize::from(!row.is_hot);
        if self.hot.len() + self.cold.len() > 2 * self.rows.len() + 64 {
            let rows = &self.rows;
            let lives = |place: &(u64, u64)| {
                let row = rows.get(&place.0);
                row.is_some_and(|row| row.stamp == place.1)
            };
            self.hot.retain(lives);
            self.cold.retain(lives);
        }
    }

    /// Displaces leaves until so many are left.
    pub(crate) fn trim(&mut self, room: usize) {
        let room = room.min(self.most);
        while self.rows.len() > room {
            let is_cold_full = self.cold_count > room / COLD_PART;
            if is_cold_full || self.cold_count == self.rows.len() {
                self.pass_cold();
            } else {
                self.pass_hot();
            }
        }
    }

    /// The oldest of the cold ones leaves, or becomes hot if a request has used it.
    fn pass_cold(&mut self) {
        let oldest = self.cold.pop_front();
        let (address, stamp) = oldest.expect("every cold leaf has a place in its queue");
        let Some(row) = self.rows.get_mut(&address).filter(|r| r.stamp == stamp) else {
            return;
        };
        self.cold_count -= 1;
        if row.is_used.replace(false) {
            row.is_hot = true;
            self.hot.push_back((address, stamp));
        } else {
            self.rows.remove(&address);
            self.evictions += 1;
        }
    }

    /// The oldest of the hot ones leaves, or goes round again if it was used.
    fn pass_hot(&mut self) {
        let oldest = self.hot.pop_front();
        let (address, stamp) = oldest.expect("every hot leaf has a place in its queue");
        let Some(row) = self.rows.get(&address).filter(|r| r.stamp == stamp) else {
            return;
        };
        if row.is_used.replace(false) {
            self.hot.push_back((address, stamp));
        } else {
            self.rows.remove(&address);
            self.evictions += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(cache: &mut LeafCache, address: u64, by: Use) {
        cache.insert(address, 1, Rc::new(Page::default()), by);
        cache.trim(usize::MAX);
    }

    fn has(cache: &LeafCache, address: u64) -> bool {
        cache.peek(address, 1).is_some()
    }

    #[test]
    fn a_scan_displaces_no_more_than_its_part() {
        let mut cache = LeafCache::with_room(64);
        for address in 0..64 {
            put(&mut cache, address, Use::Request);
            assert!(cache.get(address, 1, Use::Request).is_some());
        }
        for address in 1000..3000 {
            put(&mut cache, address, Use::Scan);
            assert!(cache.get(address, 1, Use::Scan).is_some());
        }
        let kept = (0..64).filter(|&address| has(&cache, address)).count();
        assert_eq!(kept, 56);
        assert_eq!(cache.counts().hits, 64);
        assert_eq!(cache.counts().evictions, 2000);
        assert_eq!(cache.bytes(), 64 * LEAF_BYTES);
    }

    #[test]
    fn what_a_request_uses_stays_and_what_a_scan_found_first_is_promoted() {
        let mut cache = LeafCache::with_room(8);
        put(&mut cache, 500, Use::Scan);
        for address in 0..1000 {
            put(&mut cache, address + 1000, Use::Request);
            assert!(cache.get(500, 1, Use::Request).is_some(), "{address}");
        }
        for address in 0..8 {
            put(&mut cache, address + 5000, Use::Scan);
        }
        assert!(has(&cache, 500));
    }

    #[test]
    fn an_address_that_is_reused_names_the_new_leaf_only() {
        let mut cache = LeafCache::with_room(2);
        put(&mut cache, 1, Use::Request);
        cache.insert(1, 2, Rc::new(Page::default()), Use::Scan);
        assert!(cache.get(1, 1, Use::Request).is_none());
        assert!(cache.get(1, 2, Use::Request).is_some());
        for _ in 0..1000 {
            cache.remove(1);
            put(&mut cache, 1, Use::Scan);
        }
        assert!(cache.hot.len() + cache.cold.len() < 100);
        put(&mut cache, 3, Use::Last);
        assert!(
            !has(&cache, 3),
            "what is read for the last time is not kept"
        );
    }

    #[test]
    fn no_room_keeps_nothing() {
        let mut cache = LeafCache::with_room(0);
        put(&mut cache, 1, Use::Request);
        put(&mut cache, 2, Use::Scan);
        assert_eq!((cache.bytes(), cache.cold_count), (0, 0));
    }
}
