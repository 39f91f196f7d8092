//! One simulated disk: its media, its volatile cache, and everything that may go wrong with them.
//!
//! Invariants: reads see every applied write, flushed or not (faults apart). A journal holds the
//! page before each unflushed write, oldest first; a flush drops what was applied before it was
//! issued, a power loss lets any subset of the rest survive, cut at sectors or by whole requests.
//! The device has no clock: the world applies a request when its latency has passed.

use std::collections::{BTreeMap, VecDeque};

use super::fault::{DiskFaults, FaultAccess};
use super::media::{Media, PAGE_BYTES, Page};
use super::rng::Rng;

/// Of a million page writes that a power loss met, how many survive: one of these each time.
const SURVIVAL_PER_MILLION: [u32; 5] = [0, 300_000, 600_000, 900_000, 1_000_000];
/// Of a million surviving page writes, how many are torn within the page.
const TORN_PER_MILLION: u32 = 100_000;

/// Requests that survive alone at most, where the newest do.
const NEWEST_MAX: u64 = 3;

/// What a simulated disk has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters {
    /// Requests that read.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Requests that wrote.
    pub writes: u64,
    /// Of these, to places that held something: in a log, its slots.
    pub rewrites: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Flushes that were asked for, complete or not.
    pub flushes_begun: u64,
    /// Bytes discarded.
    pub discard_bytes: u64,
    /// Requests that met an injected fault.
    pub faults: u64,
}

/// The device failed a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MediaError;

struct Undo {
    /// The request that wrote it.
    request: u64,
    page: u64,
    old: Page,
}

/// A disk's state, and no more: requests in flight are the world's.
#[derive(Default)]
pub(super) struct Device {
    volatile: bool,
    media: Media,
    journal: VecDeque<Undo>,
    /// Requests that changed anything.
    requests: u64,
    /// Page writes ever journalled: the number behind the newest entry.
    journalled: u64,
    hidden: BTreeMap<u64, Page>,
    pub faults: DiskFaults,
    pub counters: DiskCounters,
}

impl Device {
    pub fn new(volatile: bool) -> Self {
        Self {
            volatile,
            ..Self::default()
        }
    }

    pub fn read(
        &mut self,
        offset: u64,
        target: &mut [u8],
        rng: &mut Rng,
    ) -> Result<(), MediaError> {
        self.counters.reads += 1;
        self.counters.read_bytes += wide(target.len());
        let range = offset..offset + wide(target.len());
        if self.faults.fails(FaultAccess::Read, &range, rng) {
            self.counters.faults += 1;
            return Err(MediaError);
        }
        let mut page_bytes = [0; PAGE_BYTES];
        let mut at = offset;
        let mut rest = target;
        while !rest.is_empty() {
            let (index, within) = (at / wide(PAGE_BYTES), narrow(at % wide(PAGE_BYTES)));
            let len = rest.len().min(PAGE_BYTES - within);
            let (head, tail) = rest.split_at_mut(len);
            let page = match self.hidden.remove(&index) {
                Some(old) => {
                    self.counters.faults += 1;
                    old
                }
                None => self.media.page(index),
            };
            if len == PAGE_BYTES {
                page.unpack(head);
            } else {
                page.unpack(&mut page_bytes);
                head.copy_from_slice(&page_bytes[within..within + len]);
            }
            at += wide(len);
            rest = tail;
        }
        Ok(())
    }

    /// Applies a whole write; it is acknowledged unless this fails.
    pub fn write(&mut self, offset: u64, pages: &[Page], rng: &mut Rng) -> Result<(), MediaError> {
        self.counters.writes += 1;
        self.counters.write_bytes += bytes_of(pages);
        let is_rewrite = self.media.page(offset / wide(PAGE_BYTES)) != Page::Zero;
        self.counters.rewrites += u64::from(is_rewrite);
        let range = offset..offset + bytes_of(pages);
        if self.faults.fails(FaultAccess::Write, &range, rng) {
            self.counters.faults += 1;
            self.tear(offset, pages, rng);
            return Err(MediaError);
        }
        if self.faults.loses(rng) {
            self.counters.faults += 1;
            return Ok(());
        }
        let target = self.faults.misdirects(offset, rng).unwrap_or(offset);
        if target != offset {
            self.counters.faults += 1;
        }
        self.store(target, pages, || u8::MAX);
        Ok(())
    }

    /// Lets a random part of a write that nobody saw complete reach the cache.
    pub fn tear(&mut self, offset: u64, pages: &[Page], rng: &mut Rng) {
        let survival = draw_survival(rng);
        self.store(offset, pages, || draw_sectors(survival, rng));
    }

    /// A flush was asked for.
    pub fn note_flush_begun(&mut self) {
        self.counters.flushes_begun += 1;
    }

    /// What a flush that is issued now will cover: give it to [`Device::flushed`].
    pub fn flush_mark(&self) -> u64 {
        self.journalled
    }

    /// A flush completed: what was applied before its mark is durable.
    pub fn flushed(&mut self, mark: u64, rng: &mut Rng) -> Result<(), MediaError> {
        self.counters.flushes += 1;
        if self.faults.fails(FaultAccess::Write, &(0..0), rng) {
            self.counters.faults += 1;
            return Err(MediaError);
        }
        while self.journalled - wide(self.journal.len()) < mark
            && self.journal.pop_front().is_some()
        {}
        Ok(())
    }

    /// Discarded pages read as zeroes or as before, as the device pleases.
    pub fn discard(&mut self, offset: u64, len: u64, rng: &mut Rng) {
        self.counters.discard_bytes += len;
        self.requests += 1;
        let first = offset.div_ceil(wide(PAGE_BYTES));
        for page in first..(offset + len) / wide(PAGE_BYTES) {
            if rng.chance(500_000) && self.media.page(page) != Page::Zero {
                self.put(page, Page::Zero);
            }
        }
    }

    /// Power fails: of what was not flushed any subset survives, torn at sectors; or, as often, each
    /// request whole or not at all; or only the newest of them.
    ///
    /// A few survivors hide: the first read after the power is back still shows the old page.
    pub fn power_loss(&mut self, rng: &mut Rng) {
        let survival = draw_survival(rng);
        let mut fates = BTreeMap::new();
        let mode = rng.index(3);
        let newest = self.requests.saturating_sub(rng.below(NEWEST_MAX));
        let journal = std::mem::take(&mut self.journal);
        let mut results: BTreeMap<u64, (Page, Page)> = BTreeMap::new();
        let mut news: Vec<Page> = Vec::with_capacity(journal.len());
        let mut after: BTreeMap<u64, Page> = BTreeMap::new();
        for entry in journal.iter().rev() {
            let new = after.insert(entry.page, entry.old.clone());
            news.push(new.unwrap_or_else(|| self.media.page(entry.page)));
        }
        for (entry, new) in journal.into_iter().zip(news.into_iter().rev()) {
            let first = || (entry.old.clone(), entry.old.clone());
            let (_, survived) = results.entry(entry.page).or_insert_with(first);
            let whole = |survives| if survives { u8::MAX } else { 0 };
            let sectors = match mode {
                0 => draw_sectors(survival, rng),
                1 => *fates
                    .entry(entry.request)
                    .or_insert_with(|| whole(rng.chance(survival))),
                _ => whole(entry.request >= newest),
            };
            *survived = survived.merged(&new, sectors);
        }
        for (page, (durable, survived)) in results {
            if survived != durable && rng.chance(self.faults.hide_per_million) {
                self.hidden.insert(page, durable);
            }
            self.media.replace(page, survived);
        }
    }

    /// Flips one bit of what lies on the media.
    pub fn flip(&mut self, offset: u64, bit: usize) {
        let page = offset / wide(PAGE_BYTES);
        let within = narrow(offset % wide(PAGE_BYTES)) * 8 + bit;
        let flipped = self.media.page(page).flipped(within);
        self.media.replace(page, flipped);
    }

    /// The next read of the page at `offset` shows what it held before its unflushed writes.
    ///
    /// Says whether there was an older content to show.
    pub fn hide_once(&mut self, offset: u64) -> bool {
        let page = offset / wide(PAGE_BYTES);
        let older = self.journal.iter().find(|entry| entry.page == page);
        let Some(old) = older.map(|entry| entry.old.clone()) else {
            return false;
        };
        self.hidden.insert(page, old);
        true
    }

    /// What lies at `offset`, past all faults: for checkers.
    pub fn peek(&self, offset: u64, target: &mut [u8]) {
        for (at, piece) in (offset / wide(PAGE_BYTES)..).zip(target.chunks_mut(PAGE_BYTES)) {
            let mut bytes = [0; PAGE_BYTES];
            self.media.page(at).unpack(&mut bytes);
            piece.copy_from_slice(&bytes[..piece.len()]);
        }
    }

    /// Replaces whole pages on the media, past cache and faults.
    pub fn poke(&mut self, offset: u64, bytes: &[u8]) {
        assert_eq!(bytes.len() % PAGE_BYTES, 0, "pages are replaced whole");
        for (at, piece) in (offset / wide(PAGE_BYTES)..).zip(bytes.chunks(PAGE_BYTES)) {
            self.media.replace(at, Page::pack(piece));
        }
    }

    /// Page writes that a power loss now could undo.
    pub fn unflushed_pages(&self) -> usize {
        self.journal.len()
    }

    fn store(&mut self, offset: u64, pages: &[Page], mut sectors: impl FnMut() -> u8) {
        self.requests += 1;
        for (at, page) in (offset / wide(PAGE_BYTES)..).zip(pages) {
            match sectors() {
                0 => {}
                u8::MAX => self.put(at, page.clone()),
                some => {
                    let torn = self.media.page(at).merged(page, some);
                    self.put(at, torn);
                }
            }
        }
    }

    fn put(&mut self, page: u64, new: Page) {
        let old = self.media.replace(page, new);
        self.hidden.remove(&page);
        if self.volatile {
            let request = self.requests;
            self.journal.push_back(Undo { request, page, old });
            self.journalled += 1;
        }
    }
}

fn draw_survival(rng: &mut Rng) -> u32 {
    SURVIVAL_PER_MILLION[rng.index(SURVIVAL_PER_MILLION.len())]
}

fn draw_sectors(survival: u32, rng: &mut Rng) -> u8 {
    if !rng.chance(survival) {
        0
    } else if rng.chance(TORN_PER_MILLION) {
        rng.next_u64().to_le_bytes()[0]
    } else {
        u8::MAX
    }
}

fn bytes_of(pages: &[Page]) -> u64 {
    wide(pages.len()) * wide(PAGE_BYTES)
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn narrow(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOLATILE: bool = true;

    fn page(byte: u8) -> Page {
        Page::pack(&[byte; PAGE_BYTES])
    }

    fn byte_at(device: &Device, page: u64) -> u8 {
        let mut bytes = [0; PAGE_BYTES];
        device.peek(page * wide(PAGE_BYTES), &mut bytes);
        bytes[0]
    }

    #[test]
    fn flushed_pages_survive_and_the_rest_is_any_subset() {
        let (mut kept, mut lost) = (0, 0);
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let mut device = Device::new(VOLATILE);
            device.write(0, &[page(1)], &mut rng).unwrap();
            let mark = device.flush_mark();
            device.write(0, &[page(2)], &mut rng).unwrap();
            device.write(4096, &[page(3)], &mut rng).unwrap();
            device.flushed(mark, &mut rng).unwrap();
            device.power_loss(&mut rng);
            assert!([1, 2].contains(&byte_at(&device, 0)));
            match byte_at(&device, 1) {
                3 => kept += 1,
                _ => lost += 1,
            }
        }
        assert!(kept > 20 && lost > 20, "{kept} kept, {lost} lost");
    }

    #[test]
    fn a_request_may_survive_whole_beside_one_that_is_lost() {
        let mut whole = 0;
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let mut device = Device::new(VOLATILE);
            let (one, other) = (vec![page(1); 32], vec![page(2); 32]);
            device.write(0, &one, &mut rng).unwrap();
            device.write(32 * 4096, &other, &mut rng).unwrap();
            device.power_loss(&mut rng);
            let kept: Vec<bool> = (0..64).map(|at| byte_at(&device, at) != 0).collect();
            whole += u32::from(!kept[..32].contains(&true) && !kept[32..].contains(&false));
        }
        assert!(whole > 5, "{whole}");
    }

    #[test]
    fn write_through_loses_nothing() {
        let mut rng = Rng::new(3);
        let mut device = Device::new(!VOLATILE);
        device.write(8192, &[page(7), page(8)], &mut rng).unwrap();
        device.power_loss(&mut rng);
        assert_eq!((byte_at(&device, 2), byte_at(&device, 3)), (7, 8));
    }

    #[test]
    fn a_middle_version_can_survive() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..300 {
            let mut rng = Rng::new(seed);
            let mut device = Device::new(VOLATILE);
            for byte in 1..=3 {
                device.write(0, &[page(byte)], &mut rng).unwrap();
            }
            device.power_loss(&mut rng);
            seen.insert(byte_at(&device, 0));
        }
        assert!(seen.is_superset(&[0, 1, 2, 3].into()), "{seen:?}");
    }

    #[test]
    fn injected_faults_do_as_they_say() {
        let mut rng = Rng::new(5);
        let mut device = Device::new(VOLATILE);
        let mut bytes = [0; PAGE_BYTES];
        device.write(0, &[page(1)], &mut rng).unwrap();
        assert!(device.hide_once(0));
        device.read(0, &mut bytes, &mut rng).unwrap();
        assert_eq!(bytes[0], 0);
        device.read(0, &mut bytes, &mut rng).unwrap();
        assert_eq!(bytes[0], 1);
        device.flip(1, 3);
        device.read(0, &mut bytes, &mut rng).unwrap();
        assert_eq!(bytes[1], 1 ^ 8);
        device.faults.fail(FaultAccess::Read, 4096..8192);
        assert_eq!(device.read(4096, &mut bytes, &mut rng), Err(MediaError));
        device.read(8192, &mut bytes, &mut rng).unwrap();
        device.faults.lose_writes(1);
        device.write(8192, &[page(9)], &mut rng).unwrap();
        assert_eq!(byte_at(&device, 2), 0);
        device.faults.misdirect_next(12288);
        device.write(8192, &[page(9)], &mut rng).unwrap();
        assert_eq!((byte_at(&device, 2), byte_at(&device, 3)), (0, 9));
    }
}
