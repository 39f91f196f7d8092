//! The segment table of a lane: which segments may be opened, and what lives where.

use std::collections::{HashSet, VecDeque};

use ashlar_proto::Lsn;

use crate::disk::layout::LaneLayout;
use crate::lane::planted::{Bug, Planted};
use crate::lane::segment::{Segment, SegmentState};

/// Segments that a slot names to be opened next.
const NAMED_MAX: usize = 256;

/// All segments of a lane.
#[derive(Debug)]
pub(crate) struct SegmentTable {
    rows: Vec<Segment>,
    layout: LaneLayout,
    planted: Planted,
    /// Named by the newest durable slot and not opened yet.
    named: VecDeque<u32>,
    /// Opened, header written, waiting for a stream.
    pub(crate) ready: VecDeque<u32>,
    pub(crate) next_order: u64,
    /// The newest durable slot.
    pub(crate) slot_durable: u64,
    /// Blocks that leaves name: the sum over all rows.
    mapped: u64,
}

impl SegmentTable {
    pub(crate) fn start(
        layout: LaneLayout,
        rows: Vec<Segment>,
        next_order: u64,
        slot_durable: u64,
        planted: Planted,
    ) -> Self {
        let mapped = rows
            .iter()
            .map(|row| u64::from(row.named_by_leaves()))
            .sum();
        Self {
            rows,
            layout,
            planted,
            named: VecDeque::new(),
            ready: VecDeque::new(),
            next_order,
            slot_durable,
            mapped,
        }
    }

    pub(crate) fn layout(&self) -> &LaneLayout {
        &self.layout
    }

    pub(crate) fn len(&self) -> u32 {
        self.layout.segments
    }

    pub(crate) fn row(&self, segment: u32) -> &Segment {
        &self.rows[segment as usize]
    }

    pub(crate) fn row_mut(&mut self, segment: u32) -> &mut Segment {
        &mut self.rows[segment as usize]
    }

    pub(crate) fn rows(&self) -> &[Segment] {
        &self.rows
    }

    /// Blocks that leaves of the map name, and the leaves themselves.
    pub(crate) fn mapped(&self) -> u64 {
        self.mapped
    }

    /// The row of an address that the map names.
    pub(crate) fn row_at(&mut self, address: u64) -> &mut Segment {
        let segment = self.layout.segment_of(address);
        &mut self.rows[segment.expect("the map names addresses of its lane") as usize]
    }

    pub(crate) fn leaf_gains(&mut self, address: u64) {
        self.mapped += 1;
        self.row_at(address).leaf_live += 1;
    }

    pub(crate) fn leaf_loses(&mut self, address: u64) {
        let row = self.row_at(address);
        // What is named of an earlier life is older than what is named of this one: it goes first.
        let count = if row.stale > 0 {
            &mut row.stale
        } else {
            &mut row.leaf_live
        };
        if let Some(less) = count.checked_sub(1) {
            *count = less;
            self.mapped -= 1;
        }
    }

    /// Everything below this LSN has been folded. What is still counted as stale was named by
    /// leaves that were lost to damage.
    pub(crate) fn forget_stale(&mut self, folded: Lsn) {
        for row in &mut self.rows {
            if row.stale > 0 && row.stale_until <= folded {
                self.mapped -= u64::from(row.stale);
                row.stale = 0;
            }
        }
    }

    fn is_free(&self, row: &Segment) -> bool {
        match row.state {
            SegmentState::Free(0) => true,
            SegmentState::Free(slot) if self.planted.has(Bug::OneSlotReuse) => {
                self.slot_durable >= slot
            }
            SegmentState::Free(slot) => self.slot_durable > slot,
            SegmentState::Collected => self.planted.has(Bug::ReuseEarly),
            SegmentState::Open | SegmentState::Sealed => false,
        }
    }

    fn is_reusable(&self, segment: u32) -> bool {
        let row = self.row(segment);
        let unread = row.reads == 0 || self.planted.has(Bug::NoPin);
        self.is_free(row) && unread && !row.discard_pending && row.writes == 0
    }

    /// Segments that may be opened, now or as soon as reads and discards end.
    pub(crate) fn free_count(&self) -> usize {
        let free = self.rows.iter().filter(|row| self.is_free(row)).count();
        free + self.ready.len()
    }

    /// Segments that some slot calls free, and those that the next one will.
    pub(crate) fn free_soon_count(&self) -> usize {
        let soon =
            |row: &&Segment| matches!(row.state, SegmentState::Free(_) | SegmentState::Collected);
        self.rows.iter().filter(soon).count() + self.ready.len()
    }

    /// Segments that can be opened before another slot is durable.
    pub(crate) fn openable_count(&self) -> usize {
        let named = self.named.iter().filter(|&&s| self.is_reusable(s));
        named.count() + self.ready.len()
    }

    /// Whether the next slots can bring more segments to open: some are not named yet, or wait for
    /// their discard.
    pub(crate) fn slots_bring_more(&self) -> bool {
        let named: HashSet<u32> = self.named.iter().chain(&self.ready).copied().collect();
        (0..self.layout.segments).any(|segment| {
            let row = self.row(segment);
            match row.state {
                SegmentState::Free(_) if named.contains(&segment) => {
                    row.discard_pending && row.reads == 0
                }
                SegmentState::Free(_) | SegmentState::Collected => true,
                SegmentState::Open | SegmentState::Sealed => false,
            }
        })
    }

    /// Takes the next segment to open, of those that the durable slot names.
    pub(crate) fn take_named(&mut self) -> Option<u32> {
        if self.planted.has(Bug::ReuseEarly) {
            let all = 0..self.layout.segments;
            let early = |&s: &u32| self.row(s).state == SegmentState::Collected;
            if let Some(found) = all.into_iter().filter(early).find(|&s| self.is_reusable(s)) {
                self.named.retain(|&named| named != found);
                return Some(found);
            }
        }
        let position = self.named.iter().position(|&s| self.is_reusable(s))?;
        self.named.remove(position)
    }

    /// The list that a slot of this number gets: what is left of the last one first.
    pub(crate) fn names_for_slot(&self, number: u64) -> Vec<u32> {
        let mut names: Vec<u32> = self.named.iter().copied().collect();
        let mut taken = vec![false; self.rows.len()];
        for &name in &names {
            taken[name as usize] = true;
        }
        // Least used first: a file's segments then wear evenly and old ones stay to look at.
        let free_by_then = |row: &Segment| match row.state {
            SegmentState::Free(slot) => {
                slot < number || slot == 0 || self.planted.has(Bug::OneSlotReuse)
            }
            _ => false,
        };
        let mut more: Vec<u32> = (0..self.layout.segments)
            .filter(|&s| !taken[s as usize] && free_by_then(self.row(s)))
            .collect();
        more.sort_by_key(|&s| self.row(s).order);
        names.extend(more);
        names.truncate(NAMED_MAX.max(self.named.len()));
        names
    }

    /// A slot is durable: what it calls free is free in it, what it names may be opened.
    /// Returns the segments that may be discarded now.
    pub(crate) fn slot_is_durable(
        &mut self,
        number: u64,
        rows: &[Segment],
        named: &[u32],
    ) -> Vec<u32> {
        for (row, recorded) in self.rows.iter_mut().zip(rows) {
            let same = row.order == recorded.order && recorded.state == SegmentState::Collected;
            if row.state == SegmentState::Collected && same {
                row.state = SegmentState::Free(number);
                row.discard_pending = true;
            }
        }
        self.slot_durable = number;
        let still_free = |&&s: &&u32| matches!(self.row(s).state, SegmentState::Free(_));
        self.named = named.iter().filter(still_free).copied().collect();
        let discard = |&s: &u32| {
            let row = self.row(s);
            row.discard_pending && row.reads == 0 && self.is_free(row)
        };
        (0..self.layout.segments).filter(discard).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Decoder, Encoder};
    use crate::disk::layout::Layout;

    fn table() -> SegmentTable {
        let layout = Layout::plan(128 << 20, 1, None, 7).unwrap().lane(0);
        let rows = vec![Segment::NEVER_USED; layout.segments as usize];
        SegmentTable::start(layout, rows, 1, 1, Planted::NONE)
    }

    #[test]
    fn only_named_segments_are_opened() {
        let mut table = table();
        assert_eq!(table.take_named(), None);
        let names = table.names_for_slot(2);
        let rows = table.rows().to_vec();
        table.slot_is_durable(2, &rows, &names);
        assert_eq!(table.take_named(), Some(0));
    }

    #[test]
    fn a_collected_segment_comes_back_two_slots_later() {
        let mut table = table();
        table.row_mut(3).state = SegmentState::Collected;
        table.row_mut(3).order = 9;
        for (slot, named) in [(2, false), (3, true)] {
            let rows = table.rows().to_vec();
            let names = table.names_for_slot(slot);
            assert_eq!(names.contains(&3), named, "slot {slot}");
            let discards = table.slot_is_durable(slot, &rows, &names);
            assert_eq!(discards.contains(&3), named, "slot {slot}");
        }
        assert!(!table.is_reusable(3), "its discard is in flight");
        table.row_mut(3).discard_pending = false;
        assert!(table.is_reusable(3));
        table.row_mut(3).reads = 1;
        assert!(!table.is_reusable(3));
    }

    /// Moved blocks are named at their old place until their leaves are folded. Once the segment
    /// was collected, that must not be taken from the count of whoever uses it next.
    #[test]
    fn what_leaves_name_of_an_earlier_life_is_counted_apart() {
        let mut table = table();
        let address = table.layout().segment_address(3);
        for at in 0..5 {
            table.leaf_gains(address + at);
        }
        table.row_mut(3).end_life(Lsn::new(50));
        assert_eq!((table.row(3).leaf_live, table.mapped()), (0, 5));
        table.leaf_gains(address);
        table.leaf_loses(address + 1);
        assert_eq!((table.row(3).leaf_live, table.mapped()), (1, 5));
        let mut out = Encoder::new();
        table.row(3).encode(9, &mut out);
        let recorded = Segment::decode(&mut Decoder::new(&out.finish())).unwrap();
        assert_eq!(recorded.named_by_leaves(), 5);
        // The others were in a leaf that was lost.
        table.forget_stale(Lsn::new(49));
        assert_eq!(table.mapped(), 5);
        table.forget_stale(Lsn::new(50));
        assert_eq!((table.row(3).leaf_live, table.mapped()), (1, 1));
    }
}
