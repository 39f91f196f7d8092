//! The rows of snapshots by volume, layer and name.
//!
//! Invariant: a name is that of exactly one layer of its volume; a volume without snapshots has no
//! entry.

use std::collections::BTreeMap;
use std::ops::Bound;

use ashlar_proto::{Layer, VolumeId};

use crate::row::SnapshotRow;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::state) struct SnapshotIndex(BTreeMap<VolumeId, OfVolume>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OfVolume {
    rows: BTreeMap<Layer, SnapshotRow>,
    names: BTreeMap<String, Layer>,
}

impl SnapshotIndex {
    /// Takes a row in.
    pub(in crate::state) fn put(&mut self, row: SnapshotRow) {
        let of_volume = self.0.entry(row.volume).or_default();
        let (layer, name) = (row.layer, row.name.clone());
        if let Some(before) = of_volume.rows.insert(layer, row) {
            of_volume.names.remove(&before.name);
        }
        of_volume.names.insert(name, layer);
    }

    /// Takes a row out.
    pub(in crate::state) fn remove(&mut self, volume: VolumeId, layer: Layer) {
        let Some(of_volume) = self.0.get_mut(&volume) else {
            return;
        };
        if let Some(row) = of_volume.rows.remove(&layer) {
            of_volume.names.remove(&row.name);
        }
        if of_volume.rows.is_empty() {
            self.0.remove(&volume);
        }
    }

    /// Those of a volume, by layer.
    pub(in crate::state) fn of(&self, volume: VolumeId) -> impl Iterator<Item = &SnapshotRow> {
        let rows = self.0.get(&volume).into_iter();
        rows.flat_map(|of_volume| of_volume.rows.values())
    }

    /// Those of a volume above a layer, by layer.
    pub(in crate::state) fn above(
        &self,
        volume: VolumeId,
        layer: Layer,
    ) -> impl Iterator<Item = &SnapshotRow> {
        let above = (Bound::Excluded(layer), Bound::Unbounded);
        let rows = self.0.get(&volume).into_iter();
        rows.flat_map(move |of_volume| of_volume.rows.range(above).map(|(_, row)| row))
    }

    /// How many a volume has.
    pub(in crate::state) fn count(&self, volume: VolumeId) -> usize {
        self.0
            .get(&volume)
            .map_or(0, |of_volume| of_volume.rows.len())
    }

    /// The one of a layer.
    pub(in crate::state) fn at(&self, volume: VolumeId, layer: Layer) -> Option<&SnapshotRow> {
        self.0.get(&volume)?.rows.get(&layer)
    }

    /// The one of a name.
    pub(in crate::state) fn named(&self, volume: VolumeId, name: &str) -> Option<&SnapshotRow> {
        let of_volume = self.0.get(&volume)?;
        of_volume.rows.get(of_volume.names.get(name)?)
    }

    /// All rows.
    #[cfg(test)]
    pub(in crate::state) fn all(&self) -> impl Iterator<Item = &SnapshotRow> {
        self.0
            .values()
            .flat_map(|of_volume| of_volume.rows.values())
    }
}
