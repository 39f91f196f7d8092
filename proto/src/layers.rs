//! How the layers of a volume are read: which labels are one interval, which were dropped.
//!
//! A label is the layer number that a write carries. The labels of one live interval are read as one:
//! of a block the highest seq wins. Deleting a snapshot joins its interval to the next live one; a
//! rollback drops all labels above the one that it goes back to. The log is untouched by both. A
//! label above the table is an interval of its own: a new snapshot needs no new table.
//!
//! ```text
//! labels    1 2 3 4 5 6 7 8      snapshots at 2 and 5, a rollback to 2 dropped 3 and 4
//! live     └─┬─┘     └─┬─┘ ...   1..2 is read at 2; 5 at 5 over 1..2; 6, 7, 8 each for itself
//! dropped       └─┬─┘
//! ```

use serde::{Deserialize, Serialize};

use crate::ids::Layer;

/// Live intervals of a volume at most: its snapshots, the head, and what clones stand on.
pub const INTERVALS_MAX: usize = 8192;

/// Runs of dropped labels of a volume at most. Each rollback adds one where it does not extend one.
pub const DROPPED_MAX: usize = 4096;

/// A run of labels, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LayerRange {
    /// The lowest.
    pub low: Layer,
    /// The highest.
    pub high: Layer,
}

impl LayerRange {
    /// From a label to another.
    #[must_use]
    pub const fn new(low: Layer, high: Layer) -> Self {
        Self { low, high }
    }

    /// Whether a label is one of the run.
    #[must_use]
    pub fn contains(&self, label: Layer) -> bool {
        self.low <= label && label <= self.high
    }
}

/// The intervals of a volume, as the conductor gives them. Of two tables the one with the higher
/// version holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LayerTable {
    /// Raised at each change; 0 before the first.
    pub version: u32,
    /// The live intervals, ascending and disjoint; each is read at its highest label.
    pub live: Vec<LayerRange>,
    /// Labels that are served no more, ascending and disjoint. They may lie within a live interval.
    pub dropped: Vec<LayerRange>,
}

impl LayerTable {
    /// Whether its runs are ascending, disjoint, not empty and not too many, and no label is 0.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let is_run = |runs: &[LayerRange]| {
            let each = runs
                .iter()
                .all(|run| run.low.get() > 0 && run.low <= run.high);
            each && runs.windows(2).all(|pair| pair[0].high < pair[1].low)
        };
        let is_small = self.live.len() <= INTERVALS_MAX && self.dropped.len() <= DROPPED_MAX;
        is_small && is_run(&self.live) && is_run(&self.dropped)
    }

    /// The highest label that it speaks of; 0 where it speaks of none.
    #[must_use]
    pub fn top(&self) -> Layer {
        let highest = |runs: &[LayerRange]| runs.last().map(|run| run.high);
        let top = highest(&self.live).max(highest(&self.dropped));
        top.unwrap_or_default()
    }

    /// Whether the label was dropped.
    #[must_use]
    pub fn is_dropped(&self, label: Layer) -> bool {
        run_of(&self.dropped, label).is_some()
    }

    /// The live interval of a label that was not dropped; one above the table is its own.
    #[must_use]
    pub fn interval_of(&self, label: Layer) -> Option<LayerRange> {
        if label > self.top() {
            return Some(LayerRange::new(label, label));
        }
        if self.is_dropped(label) {
            return None;
        }
        run_of(&self.live, label)
    }

    /// The layer that a write of this label leaves as it is: the highest one that is read below the
    /// label's interval; 0 where there is none.
    #[must_use]
    pub fn below(&self, label: Layer) -> Layer {
        let interval = self.interval_of(label);
        let mut low = interval.map_or(label, |interval| interval.low);
        loop {
            let below = Layer::new(low.get().saturating_sub(1));
            match run_of(&self.dropped, below) {
                Some(dropped) => low = dropped.low,
                None => return below,
            }
        }
    }
}

fn run_of(runs: &[LayerRange], label: Layer) -> Option<LayerRange> {
    let at = runs.partition_point(|run| run.high < label);
    runs.get(at).copied().filter(|run| run.contains(label))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(low: u32, high: u32) -> LayerRange {
        LayerRange::new(Layer::new(low), Layer::new(high))
    }

    #[test]
    fn dropped_labels_may_lie_within_an_interval() {
        let table = LayerTable {
            version: 3,
            live: vec![run(1, 2), run(3, 8)],
            dropped: vec![run(4, 5)],
        };
        assert!(table.is_sound());
        let interval = |label| table.interval_of(Layer::new(label));
        assert_eq!(interval(2), Some(run(1, 2)));
        assert_eq!(interval(3), Some(run(3, 8)));
        assert_eq!((interval(4), interval(5)), (None, None));
        assert_eq!(interval(6), Some(run(3, 8)));
        assert_eq!(interval(9), Some(run(9, 9)));
        assert_eq!(table.top(), Layer::new(8));
        assert_eq!(
            LayerTable::default().interval_of(Layer::new(1)),
            Some(run(1, 1))
        );
    }

    #[test]
    fn what_a_write_leaves_as_it_is_lies_below_its_interval() {
        let below = |table: &LayerTable, label| table.below(Layer::new(label)).get();
        let table = LayerTable::default();
        assert_eq!((below(&table, 1), below(&table, 7)), (0, 6));
        // Snapshots at 2 and 5, a rollback to 2 that dropped 3 and 4, another one to 5.
        let table = LayerTable {
            version: 4,
            live: vec![run(1, 2), run(5, 5)],
            dropped: vec![run(3, 4), run(6, 7)],
        };
        assert_eq!((below(&table, 2), below(&table, 5)), (0, 2));
        assert_eq!((below(&table, 8), below(&table, 9)), (5, 8));
        // The snapshot at 8 was deleted while the head was 9.
        let table = LayerTable {
            live: vec![run(1, 2), run(5, 5), run(8, 9)],
            ..table
        };
        assert_eq!((below(&table, 9), below(&table, 10)), (5, 9));
    }

    #[test]
    fn tables_that_do_not_hold_together_are_seen() {
        let table = |live: &[LayerRange], dropped: &[LayerRange]| LayerTable {
            version: 1,
            live: live.to_vec(),
            dropped: dropped.to_vec(),
        };
        assert!(!table(&[run(0, 1)], &[]).is_sound());
        assert!(!table(&[run(2, 1)], &[]).is_sound());
        assert!(!table(&[run(1, 3), run(3, 4)], &[]).is_sound());
        assert!(!table(&[], &[run(5, 6), run(1, 2)]).is_sound());
        assert!(table(&[run(1, 1)], &[run(2, 9)]).is_sound());
    }
}
