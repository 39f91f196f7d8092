//! Layers of a shard: how its labels are cut into intervals.
//!
//! A label is the layer number that a write carries. Within one live interval the highest seq
//! wins; a read at a layer sees its interval first and then those below. Deleting a snapshot joins
//! its interval to the next one above, so that the log needs no change.

use std::collections::BTreeSet;

use ashlar_proto::{Layer, LayerRange, LayerTable};

use crate::codec::{Decoder, Encoder};

/// Bytes of one run of a table on the disk.
const RUN_BYTES: usize = 12;

/// Bytes that the runs of a table take on the disk, beside its head of 8 bytes.
pub(crate) fn table_bytes(table: &LayerTable) -> u64 {
    let runs = table.live.len() + table.dropped.len();
    (runs * RUN_BYTES) as u64
}

/// Puts a table as it stands on the disk.
pub(crate) fn encode_table(table: &LayerTable, out: &mut Encoder) {
    out.u32(table.version)
        .count(table.live.len() + table.dropped.len());
    for (runs, live) in [(&table.live, true), (&table.dropped, false)] {
        for run in runs {
            out.u32(run.low.get()).u32(run.high.get());
            out.u32(u32::from(live));
        }
    }
}

/// Reads a table; none where it does not hold together.
pub(crate) fn decode_table(input: &mut Decoder<'_>) -> Option<LayerTable> {
    let version = input.u32()?;
    let mut table = LayerTable {
        version,
        ..LayerTable::default()
    };
    for _ in 0..input.count(RUN_BYTES)? {
        let (low, high) = (Layer::new(input.u32()?), Layer::new(input.u32()?));
        let is_live = input.u32()? == 1;
        let runs = if is_live {
            &mut table.live
        } else {
            &mut table.dropped
        };
        runs.push(LayerRange::new(low, high));
    }
    table.is_sound().then_some(table)
}

/// A table, and the labels above it that writes have opened by themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layers {
    table: LayerTable,
    above: BTreeSet<Layer>,
}

impl Layers {
    pub(crate) fn table(&self) -> &LayerTable {
        &self.table
    }

    /// Takes a table if its version is higher.
    pub(crate) fn adopt(&mut self, table: LayerTable) -> bool {
        if table.version <= self.table.version {
            return false;
        }
        let top = table.top();
        self.table = table;
        self.above.retain(|&label| label > top);
        true
    }

    /// The highest label that is known here; 0 where none is.
    pub(crate) fn top(&self) -> Layer {
        let above = self.above.last().copied().unwrap_or_default();
        self.table.top().max(above)
    }

    /// Whether a write at this label is taken; one above the table opens its own interval.
    pub(crate) fn admits(&self, label: Layer) -> bool {
        self.interval_of(label).is_some()
    }

    /// Notes a label that was found in the log.
    pub(crate) fn note(&mut self, label: Layer) {
        if label > self.table.top() {
            self.above.insert(label);
        }
    }

    /// The live interval of a label. Labels within it that were dropped are no part of it.
    pub(crate) fn interval_of(&self, label: Layer) -> Option<(Layer, Layer)> {
        let found = self.table.interval_of(label);
        found
            .filter(|_| label.get() > 0)
            .map(|run| (run.low, run.high))
    }

    /// Whether a label was dropped.
    pub(crate) fn is_dropped(&self, label: Layer) -> bool {
        self.table.is_dropped(label)
    }

    /// Whether a read at this layer is served: at the top of a live interval, or above the table.
    /// Below the top of an interval that was joined, versions may have been collected.
    pub(crate) fn is_readable(&self, layer: Layer) -> bool {
        layer > self.table.top()
            || self
                .interval_of(layer)
                .is_some_and(|(_, high)| high == layer)
    }

    /// All live intervals, from the top. One in the common case: all writes are in it.
    pub(crate) fn all(&self) -> Vec<(Layer, Layer)> {
        let own = self.above.iter().rev().map(|&label| (label, label));
        let table = self.table.live.iter().rev();
        own.chain(table.map(|run| (run.low, run.high))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(raw: u32) -> Layer {
        Layer::new(raw)
    }

    fn run(low: u32, high: u32) -> LayerRange {
        LayerRange::new(layer(low), layer(high))
    }

    #[test]
    fn a_label_above_the_table_opens_its_own_interval() {
        let mut layers = Layers::default();
        assert!(layers.admits(layer(1)) && !layers.admits(layer(0)));
        layers.note(layer(1));
        layers.note(layer(3));
        assert_eq!(layers.all(), [(layer(3), layer(3)), (layer(1), layer(1))]);
    }

    #[test]
    fn tables_join_and_drop_and_only_grow() {
        let mut layers = Layers::default();
        layers.note(layer(1));
        layers.note(layer(5));
        let table = LayerTable {
            version: 2,
            live: vec![run(1, 2)],
            dropped: vec![run(3, 3)],
        };
        assert!(layers.adopt(table.clone()));
        assert!(!layers.adopt(table.clone()), "the same version again");
        assert_eq!(layers.interval_of(layer(1)), Some((layer(1), layer(2))));
        assert_eq!(layers.interval_of(layer(3)), None);
        assert!(!layers.admits(layer(3)));
        assert_eq!(layers.all(), [(layer(5), layer(5)), (layer(1), layer(2))]);
        let mut out = Encoder::new();
        encode_table(&table, &mut out);
        let bytes = out.finish();
        assert_eq!(bytes.len() as u64, 8 + table_bytes(&table));
        assert_eq!(table_bytes(&LayerTable::default()), 0);
        assert_eq!(decode_table(&mut Decoder::new(&bytes)), Some(table));
    }

    /// A snapshot at 2 was gone back to, which dropped 3 and 4, and then deleted.
    #[test]
    fn an_interval_reaches_over_what_was_dropped() {
        let mut layers = Layers::default();
        let table = LayerTable {
            version: 1,
            live: vec![run(1, 5)],
            dropped: vec![run(3, 4)],
        };
        layers.adopt(table);
        assert_eq!(layers.interval_of(layer(2)), Some((layer(1), layer(5))));
        assert_eq!(layers.interval_of(layer(3)), None);
        assert!(layers.is_readable(layer(5)) && !layers.is_readable(layer(2)));
        assert!(layers.admits(layer(2)) && !layers.admits(layer(4)));
    }
}
