//! Layer tables as they follow from what is done to snapshots. Pure.
//!
//! Invariants: a table covers all labels up to its top; each live interval ends at a snapshot's layer
//! or at the head of its time; what was dropped stays dropped; neither a snapshot's layer nor the head
//! is ever dropped, so no live interval is dropped as a whole.

use ashlar_proto::layers::{DROPPED_MAX, INTERVALS_MAX};
use ashlar_proto::{Layer, LayerRange, LayerTable};

use super::snapshots::SNAPSHOTS_MAX;
use crate::row::VolumeRow;

// An interval for each snapshot and one for the head.
const _: () = assert!(SNAPSHOTS_MAX < INTERVALS_MAX);

/// The highest layer of a volume that takes no new writes: the one below its head.
pub(super) fn sealed_top(volume: &VolumeRow) -> Layer {
    // The first head is 1.
    Layer::new(volume.head_layer.get().saturating_sub(1))
}

/// The table after a snapshot was deleted: the intervals end at `tops`, ascending, which are the
/// layers of the snapshots that are left and the head.
pub(super) fn joined(table: &LayerTable, tops: impl Iterator<Item = Layer>) -> LayerTable {
    checked(LayerTable {
        version: next_version(table),
        live: intervals(tops),
        dropped: table.dropped.clone(),
    })
}

/// The table after a volume has gone back to its layer `to`: the labels above it up to `head` are
/// dropped. `tops` are the layers of the snapshots that are left, none above `to`. None where there
/// are too many dropped runs.
pub(super) fn gone_back(
    table: &LayerTable,
    tops: impl Iterator<Item = Layer>,
    to: Layer,
    head: Layer,
) -> Option<LayerTable> {
    assert!(to < head, "a snapshot lies below the head");
    assert!(!table.is_dropped(to), "a snapshot's layer is not dropped");
    // What was dropped above it is within what is dropped now.
    let kept = table.dropped.iter().filter(|run| run.high < to);
    let mut dropped: Vec<LayerRange> = kept.copied().collect();
    dropped.push(LayerRange::new(to.next(), head));
    if dropped.len() > DROPPED_MAX {
        return None;
    }
    Some(checked(LayerTable {
        version: next_version(table),
        live: intervals(tops),
        dropped,
    }))
}

/// Each version has a deleted snapshot or a rollback behind it, and each of these a layer of its own:
/// layers run out first.
fn next_version(table: &LayerTable) -> u32 {
    table.version + 1
}

/// Adjacent intervals from label 1 on, that end at these.
fn intervals(tops: impl Iterator<Item = Layer>) -> Vec<LayerRange> {
    let mut below = Layer::new(0);
    let interval = |top: Layer| {
        let run = LayerRange::new(below.next(), top);
        below = top;
        run
    };
    tops.map(interval).collect()
}

fn checked(table: LayerTable) -> LayerTable {
    assert!(table.is_sound(), "{table:?}");
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(raw: &[u32]) -> impl Iterator<Item = Layer> {
        raw.iter().copied().map(Layer::new)
    }

    fn runs(raw: &[(u32, u32)]) -> Vec<LayerRange> {
        let run = |&(low, high): &(u32, u32)| LayerRange::new(Layer::new(low), Layer::new(high));
        raw.iter().map(run).collect()
    }

    fn back(table: &LayerTable, tops: &[u32], to: u32, head: u32) -> LayerTable {
        gone_back(table, layers(tops), Layer::new(to), Layer::new(head)).unwrap()
    }

    #[test]
    fn intervals_reach_from_snapshot_to_snapshot() {
        let table = joined(&LayerTable::default(), layers(&[2, 5, 9]));
        assert_eq!(table.version, 1);
        assert_eq!(table.live, runs(&[(1, 2), (3, 5), (6, 9)]));
        assert_eq!(table.dropped, []);
        assert_eq!(joined(&table, layers(&[9])).live, runs(&[(1, 9)]));
    }

    #[test]
    fn a_rollback_drops_what_lies_above_and_what_was_dropped_there() {
        let table = back(&LayerTable::default(), &[2, 5], 5, 7);
        assert_eq!(table.dropped, runs(&[(6, 7)]));
        let table = back(&table, &[2, 5], 5, 8);
        assert_eq!(table.dropped, runs(&[(6, 8)]));
        let table = back(&table, &[2], 2, 11);
        assert_eq!((table.version, table.dropped), (3, runs(&[(3, 11)])));
        assert_eq!(table.live, runs(&[(1, 2)]));
    }

    #[test]
    fn dropped_labels_stay_dropped_within_a_joined_interval() {
        let table = back(&LayerTable::default(), &[2], 2, 8);
        let table = joined(&table, layers(&[2, 10]));
        assert_eq!(table.live, runs(&[(1, 2), (3, 10)]));
        assert_eq!(table.dropped, runs(&[(3, 8)]));
        let table = back(&joined(&table, layers(&[10])), &[10], 10, 12);
        assert_eq!(table.dropped, runs(&[(3, 8), (11, 12)]));
    }

    #[test]
    fn dropped_runs_are_counted() {
        let most = u32::try_from(DROPPED_MAX).unwrap();
        let dropped: Vec<_> = (0..most).map(|n| (2 * n + 2, 2 * n + 2)).collect();
        let top = 2 * most + 1;
        let table = LayerTable {
            version: 9,
            live: runs(&[(1, top)]),
            dropped: runs(&dropped),
        };
        let (to, head) = (Layer::new(top), Layer::new(top + 1));
        assert_eq!(gone_back(&table, layers(&[top]), to, head), None);
        // One that takes the place of others is possible.
        let table = back(&table, &[3], 3, top + 1);
        assert_eq!(table.dropped, runs(&[(2, 2), (4, top + 1)]));
    }
}
