//! Layers of a shard: how its labels are cut into intervals.
//!
//! A label is the layer number that a write carries. Within one live interval the highest seq
//! wins; a read at a layer sees its interval first and then those below. Deleting a snapshot joins
//! its interval to the next one above, so that the log needs no change.

use std::collections::BTreeSet;

use ashlar_proto::Layer;

use crate::codec::{Decoder, Encoder};

/// A run of labels that is read as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Its lowest label.
    pub low: Layer,
    /// Its highest label, at which it is read.
    pub high: Layer,
    /// Whether it is served; what a rollback dropped is not.
    pub live: bool,
}

/// The intervals of a shard, ascending, with the version that the conductor gave them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerTable {
    /// Raised at each change; a lower one is ignored.
    pub version: u32,
    /// Ascending and disjoint.
    pub intervals: Vec<Interval>,
}

impl LayerTable {
    /// Whether its intervals are ascending, disjoint and not empty ones.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let each = self.intervals.iter().all(|i| i.low <= i.high);
        let pairs = self.intervals.windows(2).all(|p| p[0].high < p[1].low);
        each && pairs
    }

    fn top(&self) -> Layer {
        self.intervals
            .last()
            .map_or(Layer::new(0), |last| last.high)
    }

    pub(crate) fn encode(&self, out: &mut Encoder) {
        out.u32(self.version).count(self.intervals.len());
        for interval in &self.intervals {
            out.u32(interval.low.get()).u32(interval.high.get());
            out.u32(u32::from(interval.live));
        }
    }

    pub(crate) fn decode(input: &mut Decoder<'_>) -> Option<Self> {
        let version = input.u32()?;
        let count = input.count(12)?;
        let mut intervals = Vec::with_capacity(count);
        for _ in 0..count {
            let (low, high) = (Layer::new(input.u32()?), Layer::new(input.u32()?));
            let live = input.u32()? == 1;
            intervals.push(Interval { low, high, live });
        }
        let table = Self { version, intervals };
        table.is_sound().then_some(table)
    }
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
        self.table = table;
        let top = self.table.top();
        self.above.retain(|&label| label > top);
        true
    }

    /// Whether a write at this label is taken; one above the table opens its own interval.
    pub(crate) fn admits(&self, label: Layer) -> bool {
        label.get() > 0 && (label > self.table.top() || self.interval_of(label).is_some())
    }

    /// Notes a label that was found in the log.
    pub(crate) fn note(&mut self, label: Layer) {
        if label > self.table.top() {
            self.above.insert(label);
        }
    }

    /// The live interval of a label.
    pub(crate) fn interval_of(&self, label: Layer) -> Option<(Layer, Layer)> {
        if label > self.table.top() {
            return (label.get() > 0).then_some((label, label));
        }
        let found = self
            .table
            .intervals
            .iter()
            .find(|i| i.low <= label && label <= i.high);
        found.filter(|i| i.live).map(|i| (i.low, i.high))
    }

    /// Whether a read at this layer is served: at the top of a live interval, or above the table.
    /// Below the top of an interval that was joined, versions may have been collected.
    pub(crate) fn is_readable(&self, layer: Layer) -> bool {
        layer > self.table.top()
            || self
                .interval_of(layer)
                .is_some_and(|(_, high)| high == layer)
    }

    /// The intervals that a read at `layer` looks through, from the top, each cut at `layer`.
    pub(crate) fn seen_from(&self, layer: Layer) -> Vec<(Layer, Layer)> {
        let above = self.above.range(..=layer).rev().map(|&l| (l, l));
        let table = self.table.intervals.iter().rev();
        let table = table.filter(|i| i.live && i.low <= layer);
        above
            .chain(table.map(|i| (i.low, i.high.min(layer))))
            .collect()
    }

    /// The one interval that all writes are in, when there is only one: the common case.
    pub(crate) fn all(&self) -> Vec<(Layer, Layer)> {
        self.seen_from(Layer::new(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(raw: u32) -> Layer {
        Layer::new(raw)
    }

    fn interval(low: u32, high: u32, live: bool) -> Interval {
        Interval {
            low: layer(low),
            high: layer(high),
            live,
        }
    }

    #[test]
    fn a_label_above_the_table_opens_its_own_interval() {
        let mut layers = Layers::default();
        assert!(layers.admits(layer(1)) && !layers.admits(layer(0)));
        layers.note(layer(1));
        layers.note(layer(3));
        assert_eq!(layers.seen_from(layer(2)), [(layer(1), layer(1))]);
        assert_eq!(layers.seen_from(layer(3)).len(), 2);
    }

    #[test]
    fn tables_join_and_drop_and_only_grow() {
        let mut layers = Layers::default();
        layers.note(layer(1));
        layers.note(layer(5));
        let table = LayerTable {
            version: 2,
            intervals: vec![interval(1, 2, true), interval(3, 3, false)],
        };
        assert!(layers.adopt(table.clone()));
        assert!(!layers.adopt(table.clone()), "the same version again");
        assert_eq!(layers.interval_of(layer(1)), Some((layer(1), layer(2))));
        assert_eq!(layers.interval_of(layer(3)), None);
        assert!(!layers.admits(layer(3)));
        let seen = layers.seen_from(layer(9));
        assert_eq!(seen, [(layer(5), layer(5)), (layer(1), layer(2))]);
        let mut out = Encoder::new();
        table.encode(&mut out);
        let bytes = out.finish();
        assert_eq!(LayerTable::decode(&mut Decoder::new(&bytes)), Some(table));
    }
}
