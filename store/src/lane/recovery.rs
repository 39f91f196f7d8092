//! Recovery: from the newest slot and the log behind it to the memory of a lane.
//!
//! ```text
//! found                               up to `durable`      above: the tail
//! batch valid                         apply                verify payload, apply
//! batch torn, missing, bad CRC        damage               absent; its LSN becomes a gap
//! blocks that cannot be read          damage if an LSN    damage: it may have been durable
//!                                     is missing
//! stale nonce, foreign, LSN in a gap  ignore               ignore
//! summary bad                         scan the headers
//! root page bad                       damage of its blocks
//! names a slot newer than found       one newer: go on; more: the lane is lost
//! ```
//!
//! `durable` is the highest that any batch or slot names. What was absent never returns: new LSNs
//! start 2²⁰ above the highest seen, and what lies between is a gap; handles start above the highest
//! in any entry.

use std::collections::{BTreeMap, HashSet, VecDeque};

use ashlar_proto::crc::crc32c;
use ashlar_proto::limits::BLOCK_BYTES_U64;
use ashlar_proto::planted::{Planted as Rule, is_planted};
use ashlar_proto::{LaneIndex, Lsn};
use ashlar_reactor::future::join_all;

use crate::lane::batch::{Batch, Body};
use crate::lane::error::RecoveryError;
use crate::lane::layers::table_bytes;
use crate::lane::leaf_cache::LeafCache;
use crate::lane::lsn::{Gap, LsnTracker};
use crate::lane::options::LaneOptions;
use crate::lane::overlay::Overlay;
use crate::lane::page::{Page, PageEntry};
use crate::lane::planted::{Bug, Planted};
use crate::lane::scan::{Device, Hole, SegmentFound, SlotFound, Wholeness};
use crate::lane::segment::{Segment, SegmentState};
use crate::lane::shards::{CHECK_MAX, Place, Root, Shard, Shards};
use crate::lane::slot::{RootRef, Slot};
use crate::lane::state::State;
use crate::lane::stats::{DamageBook, DamageKind, LaneStats};
use crate::lane::strata::StrataCache;
use crate::lane::stream::STREAMS;
use crate::lane::table::SegmentTable;

/// More than can be in flight or unflushed.
const LSN_LEAP: u64 = 1 << 20;
/// Reads at once.
const READS_MAX: usize = 32;
/// Missing LSNs that are counted one by one.
const MISSING_COUNTED_MAX: usize = 1000;

/// What is known once the log has been read.
struct Log {
    /// Batches to apply, by LSN.
    batches: BTreeMap<u64, Batch>,
    durable: u64,
    /// Highest LSN seen.
    highest: u64,
    /// Highest handle seen.
    highest_handle: u32,
    /// What was durable is missing, or may be.
    is_damaged: bool,
    /// LSNs that are not there, damage among them.
    missing: Vec<Gap>,
    /// Segments that were read: their first LSN and blocks.
    segments: Vec<(u64, u64)>,
}

/// Recovers one lane into memory; writes nothing.
pub(crate) struct Recovery<'a> {
    pub(crate) device: Device,
    pub(crate) index: LaneIndex,
    pub(crate) options: &'a LaneOptions,
    pub(crate) volatile: bool,
    damage: DamageBook,
}

impl<'a> Recovery<'a> {
    pub(crate) fn new(
        device: Device,
        index: LaneIndex,
        options: &'a LaneOptions,
        volatile: bool,
    ) -> Self {
        Self {
            device,
            index,
            options,
            volatile,
            damage: DamageBook::default(),
        }
    }

    fn planted(&self) -> Planted {
        self.options.planted()
    }

    /// Reads everything and builds the memory of the lane.
    pub(crate) async fn run(mut self) -> Result<State, RecoveryError> {
        let (slot, other_valid) = self.newest_slot().await?;
        let mut rows = slot.segments.clone();
        let found = self.read_segments(&slot, &mut rows, other_valid).await;
        let log = self.judge(&slot, found).await?;
        Ok(self.build(slot, rows, log).await)
    }

    /// The newest valid slot, and whether the other place holds a valid one as well.
    pub(crate) async fn newest_slot(&mut self) -> Result<(Slot, bool), RecoveryError> {
        let mut valid = Vec::new();
        for place in 0..2 {
            match self.device.slot(place).await {
                SlotFound::Valid(slot) => valid.push(*slot),
                SlotFound::Empty => {}
                SlotFound::Damaged => self.damage.note(DamageKind::Slot, place as u64),
            }
        }
        let both = valid.len() == 2;
        valid.sort_by_key(|slot| slot.number);
        let lane = self.index.get();
        let newest = valid.pop().ok_or(RecoveryError::NoSlot { lane })?;
        Ok((newest, both))
    }

    /// Finds which segments may hold what must be replayed, and reads them.
    async fn read_segments(
        &mut self,
        slot: &Slot,
        rows: &mut [Segment],
        other_valid: bool,
    ) -> Vec<SegmentFound> {
        let named: HashSet<u32> = slot.named.iter().copied().collect();
        let mut opened = Vec::new();
        for (segment, row) in (0..self.device.layout.segments).zip(rows.iter()) {
            let free = matches!(row.state, SegmentState::Free(_));
            let all = !other_valid || self.planted() != Planted::NONE;
            if free && (all || named.contains(&segment)) {
                opened.push(segment);
            }
        }
        let mut adopted = Vec::new();
        for some in opened.chunks(READS_MAX) {
            let starts = some.iter().map(|&s| self.device.segment_start(s));
            for (&segment, start) in some.iter().zip(join_all(starts).await) {
                let row = &mut rows[segment as usize];
                let header = start.header.filter(|h| h.order >= slot.next_order);
                // A header that does not survive, for a bit that flips, takes no batches with it.
                let makes_up = !self.planted().has(Bug::HeaderInFlight);
                let batch = start.batch.filter(|b| makes_up && is_after(slot, b));
                row.nonce = match (header, batch) {
                    (Some(header), _) => header.nonce,
                    (None, Some(batch)) => batch.nonce,
                    (None, None) if start.is_readable => continue,
                    // What it hides nobody knows: the scan will tell of it.
                    (None, None) => 0,
                };
                row.state = SegmentState::Open;
                row.filled |= start.is_readable;
                row.summarised = false;
                match header {
                    Some(header) => row.order = header.order,
                    None => adopted.push(segment),
                }
            }
        }
        let orders = rows.iter().map(|row| row.order).max().unwrap_or(0);
        for (segment, order) in adopted.into_iter().zip(slot.next_order.max(orders + 1)..) {
            rows[segment as usize].order = order;
        }
        let mut wanted = Vec::new();
        for (segment, row) in (0..self.device.layout.segments).zip(rows.iter_mut()) {
            match row.state {
                SegmentState::Open => {
                    row.state = SegmentState::Sealed;
                    wanted.push((segment, row.nonce, None));
                }
                SegmentState::Sealed if row.lsn_max >= slot.from => {
                    wanted.push((segment, row.nonce, Some(row.lsn_max)));
                }
                _ => {}
            }
        }
        let mut all = Vec::new();
        let stop = self.planted().has(Bug::StopAtTorn);
        for some in wanted.chunks(READS_MAX / 2) {
            let reads = some
                .iter()
                .map(|&(segment, nonce, _)| self.device.segment(segment, nonce, stop));
            for (&(segment, _, last), mut found) in some.iter().zip(join_all(reads).await) {
                found.last = last;
                let row = &mut rows[segment as usize];
                if row.summarised && !found.from_summary {
                    self.damage.note(DamageKind::Summary, u64::from(segment));
                }
                row.lsn_max = row.lsn_max.max(found.lsn_max());
                all.push(found);
            }
        }
        all
    }

    /// A device that hides some of what was not durable yet, this once.
    #[cfg(test)]
    fn hide_some(&self, mut found: Vec<SegmentFound>) -> Vec<SegmentFound> {
        if let Some((above, flushed)) = &self.options.hide_above {
            let random = || self.device.reactor.random_u64();
            for segment in &mut found {
                let kept = |lsn: Lsn| lsn <= *above || flushed.contains(&lsn.get());
                let seen = |batch: &Batch| kept(batch.lsn) || random() % 100 >= 15;
                segment.batches.retain(seen);
            }
        }
        found
    }

    /// Applies the table: which batches count, what is damage, what is a gap.
    async fn judge(&mut self, slot: &Slot, found: Vec<SegmentFound>) -> Result<Log, RecoveryError> {
        #[cfg(test)]
        let found = self.hide_some(found);
        let every = || found.iter().flat_map(|segment| &segment.batches);
        let named = every().map(|batch| batch.slot).max().unwrap_or(0);
        if named > slot.number + 1 {
            return Err(RecoveryError::SlotsLost {
                lane: self.index.get(),
                found: slot.number,
                named,
            });
        }
        let durable = every().map(|batch| batch.durable.get()).max().unwrap_or(0);
        // What lies below `from` was settled and flushed before the slot was written, whatever
        // the slot's own `durable`, which is from before that flush.
        let durable = durable.max(slot.durable.get()).max(slot.from.get() - 1);
        // Torn ones count: below a later `durable` their payload is not looked at again, so their
        // LSNs must not be given twice (a crash in recovery, after its first batch was torn).
        let seen = every().map(|batch| batch.lsn.get()).max().unwrap_or(0);
        // The record that gave a handle out may be among what is lost. Given out again, the handle
        // would make the entries that are left those of another shard.
        let handles = every().flat_map(|batch| batch.entries.iter().map(|e| e.handle.get()));
        let highest_handle = handles.max().unwrap_or(0);
        let mut segments: Vec<(u64, u64)> = found
            .iter()
            .filter_map(|segment| {
                let first = segment.batches.iter().map(|b| b.lsn.get()).min()?;
                let blocks = segment.batches.iter().map(|b| u64::from(b.total_blocks()));
                Some((first, blocks.sum()))
            })
            .collect();
        segments.sort_unstable();
        let holes: Vec<Hole> = found
            .iter()
            .filter(|segment| segment.last.is_none_or(|last| last.get() > durable))
            .flat_map(|segment| segment.holes.iter().copied())
            .collect();
        let candidates = found.into_iter().flat_map(|segment| segment.batches);
        let mut batches = BTreeMap::new();
        let mut tail = Vec::new();
        for batch in candidates {
            let lsn = batch.lsn.get();
            if !is_after(slot, &batch) {
                continue;
            }
            if lsn > durable {
                tail.push(batch);
            } else if batches.insert(lsn, batch).is_some() {
                self.damage.note(DamageKind::Batch, lsn);
            }
        }
        let mut is_any_hidden = false;
        for some in tail.chunks(READS_MAX) {
            let checks = some.iter().map(|batch| self.device.wholeness(batch));
            for (batch, whole) in some.iter().zip(join_all(checks).await) {
                let lsn = batch.lsn.get();
                match whole {
                    Wholeness::Whole => {
                        if batches.insert(lsn, batch.clone()).is_some() {
                            self.damage.note(DamageKind::Batch, lsn);
                        }
                    }
                    Wholeness::Torn => {}
                    // No crash does that: it may have been flushed.
                    Wholeness::Unreadable => {
                        self.damage.note(DamageKind::Batch, lsn);
                        is_any_hidden = true;
                    }
                }
            }
        }
        let highest = seen.max(slot.next_lsn.get() - 1).max(durable);
        let missing = missing_between(
            slot.from.get(),
            highest,
            batches.keys().copied(),
            &slot.gaps,
        );
        let damage: Vec<Gap> = missing
            .iter()
            .filter(|gap| gap.first <= durable)
            .map(|gap| Gap {
                first: gap.first,
                last: gap.last.min(durable),
            })
            .collect();
        for gap in &damage {
            for lsn in (gap.first..=gap.last).take(MISSING_COUNTED_MAX) {
                self.damage.note(DamageKind::Batch, lsn);
            }
        }
        // Above `durable` a missing LSN may be one that never completed. Where the device cannot
        // read the place, it may as well be one that was flushed.
        for hole in &holes {
            let before = hole.before.map_or(0, Lsn::get);
            let hides = |after: Lsn| {
                let mut gaps = missing.iter();
                gaps.any(|gap| gap.first < after.get() && gap.last > before.max(durable))
            };
            if hole.after.is_none_or(hides) {
                self.damage.note(DamageKind::Batch, hole.address);
                is_any_hidden = true;
            }
        }
        tracing::debug!(lane = %self.index, slot = slot.number, from = slot.from.get(), durable,
            highest, batches = batches.len(), missing = missing.len(), "log read");
        Ok(Log {
            batches,
            durable,
            highest,
            highest_handle,
            is_damaged: is_any_hidden || !damage.is_empty(),
            missing,
            segments,
        })
    }

    async fn build(mut self, slot: Slot, mut rows: Vec<Segment>, log: Log) -> State {
        let leap = if self.planted().has(Bug::LsnReuse) {
            0
        } else {
            LSN_LEAP
        };
        let next = Lsn::new(log.highest + leap + 1);
        let next_handle = slot.next_handle.max(log.highest_handle.saturating_add(1));
        let mut shards = Shards::start(next_handle);
        for (handle, record, table) in &slot.shards {
            shards.adopt(*handle, record.clone());
            if let Some(shard) = shards.get_mut(*handle) {
                shard.layers.adopt(table.clone());
            }
        }
        let root_pages = self.load_roots(&slot, next, &mut shards).await;
        self.load_spaces(&slot, &mut shards).await;
        let mut unrecorded = log.missing;
        if leap > 0 {
            unrecorded.push(Gap {
                first: log.highest + 1,
                last: log.highest + leap,
            });
        }
        let above = log.batches.keys().copied().filter(|&l| l > log.durable);
        let lsns = LsnTracker::start(
            next,
            Lsn::new(log.durable),
            above.collect::<Vec<_>>(),
            slot.gaps.clone(),
            unrecorded,
        );
        let orders = rows.iter().map(|row| row.order).max().unwrap_or(0);
        let next_order = slot.next_order.max(orders + 1);
        let layout = self.device.layout;
        for row in &mut rows {
            row.stale_until = next;
        }
        let mut segments = SegmentTable::start(
            layout,
            rows.clone(),
            next_order,
            slot.number,
            self.planted(),
        );
        segments.slot_is_durable(slot.number, &rows, &slot.named);
        let mut log_blocks = 0;
        let mut history = VecDeque::new();
        for &(first, blocks) in &log.segments {
            history.push_back((Lsn::new(first), log_blocks));
            log_blocks += blocks;
        }
        let mut state = State {
            incarnation: if is_planted(Rule::SameIncarnation) && slot.incarnation.get() > 0 {
                slot.incarnation
            } else {
                slot.incarnation.next()
            },
            slot_number: slot.number,
            slot_from: slot.from,
            lsns,
            segments,
            streams: [const { None }; STREAMS],
            queues: [const { VecDeque::new() }; STREAMS],
            urgent: [const { VecDeque::new() }; STREAMS],
            in_flight: [0; STREAMS],
            shards,
            overlay: Overlay::default(),
            leaves: LeafCache::with_room(self.options.leaves_max),
            map_bytes: self.options.map_bytes,
            strata: StrataCache::new(self.options.planted()),
            bad_leaves: HashSet::new(),
            folding: HashSet::new(),
            root_pages,
            room_max: self.options.room_bytes_max / BLOCK_BYTES_U64,
            admitted: 0,
            unfilled: 0,
            log_blocks,
            checkpoint_at: log_blocks,
            history,
            // A crash may have cut purging short.
            purges: (1, 0),
            tables_bytes: slot
                .shards
                .iter()
                .map(|(_, _, table)| table_bytes(table))
                .sum(),
            dirty: true,
            closing: false,
            flush_failed: false,
            durable_logged: Lsn::new(0),
            damage: std::mem::take(&mut self.damage),
            stats: LaneStats::default(),
        };
        self.replay(&mut state, &log.batches);
        for handle in state.shards.handles() {
            state.settle_reserve(handle);
        }
        self.mark_shards(&mut state, &slot, log.is_damaged);
        state
    }

    /// Records and tables first: they say which handles and labels mean anything.
    fn replay(&self, state: &mut State, batches: &BTreeMap<u64, Batch>) {
        let is_record = |body: &Body| matches!(body, Body::Shard(_) | Body::Layers(_));
        for records in [true, false] {
            for batch in batches.values() {
                let any = batch.entries.iter().any(|e| is_record(&e.body) == records);
                if any && (!records || batch.entries.iter().any(|e| is_record(&e.body))) {
                    let mut part = batch.clone();
                    if records {
                        part.entries.retain(|e| is_record(&e.body));
                        state.apply(&part, false, true, self.planted());
                    } else {
                        state.apply(batch, false, true, self.planted());
                    }
                }
            }
        }
    }

    fn mark_shards(&self, state: &mut State, slot: &Slot, lsn_missing: bool) {
        let incarnation = state.incarnation;
        for handle in state.shards.handles() {
            let Some(shard) = state.shards.get_mut(handle) else {
                continue;
            };
            if self.volatile && !slot.clean {
                shard.record.lost_in = incarnation;
            }
            if lsn_missing {
                shard.record.damaged_in = incarnation;
                shard.record.check = (shard.record.check + 1).min(CHECK_MAX);
            }
        }
    }

    /// Reads all root pages. A bad one damages its blocks, up to what is logged from now on.
    async fn load_roots(&mut self, slot: &Slot, cut: Lsn, shards: &mut Shards) -> u64 {
        let mut count = 0;
        for some in slot.roots.chunks(2 * READS_MAX) {
            let reads = some.iter().map(|root| read_root(&self.device, root));
            for (root, page) in some.iter().zip(join_all(reads).await) {
                let Some(shard) = shards.get_mut(root.handle) else {
                    continue;
                };
                let loaded = if let Some(page) = page {
                    Root::loaded(page, Some(root.place))
                } else {
                    self.damage.note(DamageKind::Root, root.place.address);
                    let check = shard.record.check;
                    let damaged = PageEntry::damaged(root.highest, cut, check);
                    Root::loaded(Page::filled(damaged), None)
                };
                shard.put_root(root.label, root.index, loaded);
                count += 1;
            }
        }
        count
    }
}

impl Recovery<'_> {
    /// What each shard takes, and what is kept for it. A slot of a build that counted no shards by
    /// themselves says nothing of it: then all leaves are read, once.
    async fn load_spaces(&self, slot: &Slot, shards: &mut Shards) {
        for known in &slot.spaces {
            if let Some(shard) = shards.get_mut(known.handle) {
                shard.space.mapped = known.mapped;
                shard.space.reserve = known.reserve;
            }
        }
        if !slot.spaces.is_empty() {
            return;
        }
        for handle in shards.handles() {
            let leaves = shards.get(handle).map(Shard::leaf_places);
            let mut mapped = 0;
            for some in leaves.unwrap_or_default().chunks(2 * READS_MAX) {
                let reads = some.iter().map(|place| read_page(&self.device, place));
                for page in join_all(reads).await {
                    let data = page.iter().flat_map(|page| page.iter());
                    mapped += 1 + data.filter(|entry| entry.is_data()).count() as u64;
                }
            }
            if let Some(shard) = shards.get_mut(handle) {
                shard.space.mapped = mapped;
            }
        }
    }
}

/// Reads a root page; `None` when it is damaged.
pub(crate) async fn read_root(device: &Device, root: &RootRef) -> Option<Page> {
    read_page(device, &root.place).await
}

async fn read_page(device: &Device, place: &Place) -> Option<Page> {
    for _ in 0..3 {
        device.layout.segment_of(place.address)?;
        if let Some(block) = device.read(place.address, 1).await
            && crc32c(&block) == place.crc
        {
            return Some(Page::decode(&block));
        }
    }
    None
}

/// Whether a batch belongs to what is replayed behind a slot.
fn is_after(slot: &Slot, batch: &Batch) -> bool {
    let lsn = batch.lsn.get();
    lsn >= slot.from.get() && !slot.gaps.iter().any(|gap| gap.holds(lsn))
}

/// Ranges between two LSNs that are neither there nor in a gap.
fn missing_between(from: u64, to: u64, have: impl Iterator<Item = u64>, gaps: &[Gap]) -> Vec<Gap> {
    let mut covered: Vec<Gap> = have
        .map(|lsn| Gap {
            first: lsn,
            last: lsn,
        })
        .chain(gaps.iter().copied())
        .collect();
    covered.sort_by_key(|gap| gap.first);
    let mut missing = Vec::new();
    let mut next = from;
    for gap in covered {
        if gap.first > to {
            break;
        }
        if gap.first > next {
            missing.push(Gap {
                first: next,
                last: gap.first - 1,
            });
        }
        next = next.max(gap.last + 1);
    }
    if next <= to {
        missing.push(Gap {
            first: next,
            last: to,
        });
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_lsns_are_what_no_batch_and_no_gap_covers() {
        let gap = |first, last| Gap { first, last };
        let gaps = [gap(8, 20)];
        let missing = missing_between(3, 30, [3, 4, 6, 21, 25].into_iter(), &gaps);
        assert_eq!(missing, [gap(5, 5), gap(7, 7), gap(22, 24), gap(26, 30)]);
        assert!(missing_between(3, 2, [].into_iter(), &[]).is_empty());
    }
}
