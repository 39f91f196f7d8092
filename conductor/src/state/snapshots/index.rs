//! The rows of snapshots by volume, layer and name.
//!
//! Invariant: a name is that of exactly one layer of its volume; a volume without snapshots has no
//! entry.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use ashlar_proto::{Layer, VolumeId};

use crate::row::SnapshotRow;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::state) struct SnapshotIndex {
    volumes: BTreeMap<VolumeId, OfVolume>,
    /// Those that go with the last of their clones.
    deleted: BTreeSet<(VolumeId, Layer)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OfVolume {
    rows: BTreeMap<Layer, SnapshotRow>,
    names: BTreeMap<String, Layer>,
}

impl SnapshotIndex {
    /// Takes a row in; gives the one that was there.
    pub(in crate::state) fn put(&mut self, row: SnapshotRow) -> Option<SnapshotRow> {
        if row.deleted {
            self.deleted.insert((row.volume, row.layer));
        }
        let of_volume = self.volumes.entry(row.volume).or_default();
        let (layer, name) = (row.layer, row.name.clone());
        let before = of_volume.rows.insert(layer, row);
        if let Some(before) = &before {
            of_volume.names.remove(&before.name);
        }
        of_volume.names.insert(name, layer);
        before
    }

    /// Takes a row out, and gives it.
    pub(in crate::state) fn remove(
        &mut self,
        volume: VolumeId,
        layer: Layer,
    ) -> Option<SnapshotRow> {
        self.deleted.remove(&(volume, layer));
        let of_volume = self.volumes.get_mut(&volume)?;
        let row = of_volume.rows.remove(&layer);
        if let Some(row) = &row {
            of_volume.names.remove(&row.name);
        }
        if of_volume.rows.is_empty() {
            self.volumes.remove(&volume);
        }
        row
    }

    /// Those that go with the last of their clones.
    pub(in crate::state) fn deleted(&self) -> impl Iterator<Item = (VolumeId, Layer)> + '_ {
        self.deleted.iter().copied()
    }

    /// How many a volume has that are in sight.
    pub(in crate::state) fn count_visible(&self, volume: VolumeId) -> usize {
        let all = (volume, Layer::default())..=(volume, Layer::new(u32::MAX));
        self.count(volume) - self.deleted.range(all).count()
    }

    /// Those of a volume, by layer.
    pub(in crate::state) fn of(&self, volume: VolumeId) -> impl Iterator<Item = &SnapshotRow> {
        let rows = self.volumes.get(&volume).into_iter();
        rows.flat_map(|of_volume| of_volume.rows.values())
    }

    /// Those of a volume above a layer, by layer.
    pub(in crate::state) fn above(
        &self,
        volume: VolumeId,
        layer: Layer,
    ) -> impl Iterator<Item = &SnapshotRow> {
        let above = (Bound::Excluded(layer), Bound::Unbounded);
        let rows = self.volumes.get(&volume).into_iter();
        rows.flat_map(move |of_volume| of_volume.rows.range(above).map(|(_, row)| row))
    }

    /// How many a volume has.
    pub(in crate::state) fn count(&self, volume: VolumeId) -> usize {
        self.volumes
            .get(&volume)
            .map_or(0, |of_volume| of_volume.rows.len())
    }

    /// The one of a layer.
    pub(in crate::state) fn at(&self, volume: VolumeId, layer: Layer) -> Option<&SnapshotRow> {
        self.volumes.get(&volume)?.rows.get(&layer)
    }

    /// The one of a name.
    pub(in crate::state) fn named(&self, volume: VolumeId, name: &str) -> Option<&SnapshotRow> {
        let of_volume = self.volumes.get(&volume)?;
        of_volume.rows.get(of_volume.names.get(name)?)
    }

    /// All rows.
    pub(in crate::state) fn all(&self) -> impl Iterator<Item = &SnapshotRow> {
        self.volumes
            .values()
            .flat_map(|of_volume| of_volume.rows.values())
    }
}
