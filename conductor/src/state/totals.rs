//! Sums that are kept as rows come and go, so that a volume is made in the same time however many there are.
//!
//! Invariant: each is what [`ClusterState::summed_anew`] finds by looking at all rows.

use std::collections::{BTreeMap, BTreeSet};

use ashlar_proto::api::VolumeState;
use ashlar_proto::{DiskId, ShardIndex, VolumeId};

use super::resize::space;
use super::space::reserved_bytes;
use super::{At, ClusterState, shard_bytes};
use crate::row::VolumeRow;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Bytes of all volumes times their replicas, what they grow to included.
    provisioned: u128,
    /// Of each disk that holds anything.
    disks: BTreeMap<DiskId, Weight>,
    /// The volumes that are not ready: their stores have yet to do their part.
    unsettled: BTreeSet<VolumeId>,
}

/// What the replicas on a disk add up to, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Weight {
    /// All of them, written or not.
    promised: u128,
    /// What is kept for them.
    reserved: u128,
}

impl Weight {
    /// Of one replica.
    fn of(volume: &VolumeRow, shard: ShardIndex) -> Self {
        let is_kept = volume.state != VolumeState::Deleting;
        let reserved = if is_kept {
            reserved_bytes(volume, shard).get()
        } else {
            0
        };
        Self {
            promised: shard_bytes(volume, shard).into(),
            reserved: reserved.into(),
        }
    }
}

fn provisioned(volume: &VolumeRow) -> u128 {
    u128::from(space(volume).get()) * u128::from(volume.replicas)
}

fn clamped(bytes: u128) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

impl Totals {
    /// Bytes of all volumes times their replicas, what they grow to included.
    pub(super) fn provisioned(&self) -> u64 {
        clamped(self.provisioned)
    }

    /// Bytes of all replicas on a disk, written or not.
    pub(super) fn promised(&self, disk: DiskId) -> u64 {
        self.disks.get(&disk).map_or(0, |one| clamped(one.promised))
    }

    /// Bytes that are kept on a disk for all its replicas.
    pub(super) fn reserved(&self, disk: DiskId) -> u64 {
        self.disks.get(&disk).map_or(0, |one| clamped(one.reserved))
    }

    /// The volumes that are not ready.
    pub(super) fn unsettled(&self) -> impl Iterator<Item = VolumeId> {
        self.unsettled.iter().copied()
    }

    /// Whether there are any.
    pub(super) fn is_any_unsettled(&self) -> bool {
        !self.unsettled.is_empty()
    }

    /// A replica comes to lie on a disk.
    pub(super) fn lay(&mut self, disk: DiskId, volume: &VolumeRow, shard: ShardIndex) {
        let weight = Weight::of(volume, shard);
        let sum = self.disks.entry(disk).or_default();
        sum.promised += weight.promised;
        sum.reserved += weight.reserved;
        self.forget_if_empty(disk);
    }

    /// It lies there no more.
    pub(super) fn lift(&mut self, disk: DiskId, volume: &VolumeRow, shard: ShardIndex) {
        let weight = Weight::of(volume, shard);
        let Some(sum) = self.disks.get_mut(&disk) else {
            return;
        };
        sum.promised = sum.promised.saturating_sub(weight.promised);
        sum.reserved = sum.reserved.saturating_sub(weight.reserved);
        self.forget_if_empty(disk);
    }

    fn forget_if_empty(&mut self, disk: DiskId) {
        if self.disks.get(&disk) == Some(&Weight::default()) {
            self.disks.remove(&disk);
        }
    }

    /// A volume is there, is another, or goes; what lies on disks is not looked at.
    fn count(&mut self, before: Option<&VolumeRow>, after: Option<&VolumeRow>) {
        if let Some(before) = before {
            self.provisioned = self.provisioned.saturating_sub(provisioned(before));
            self.unsettled.remove(&before.id);
        }
        if let Some(after) = after {
            self.provisioned += provisioned(after);
            if after.state != VolumeState::Ready {
                self.unsettled.insert(after.id);
            }
        }
    }
}

impl ClusterState {
    /// A volume is there, is another, or goes. Its shards are as they were.
    pub(super) fn count_volume(
        &mut self,
        id: VolumeId,
        before: Option<&VolumeRow>,
        after: Option<&VolumeRow>,
    ) {
        self.totals.count(before, after);
        let weighs_the_same = |before: &VolumeRow, after: &VolumeRow| {
            let of = |row: &VolumeRow| {
                let is_leaving = row.state == VolumeState::Deleting;
                (space(row), row.shard_bytes, row.reserve, is_leaving)
            };
            of(before) == of(after)
        };
        if let (Some(before), Some(after)) = (before, after)
            && weighs_the_same(before, after)
        {
            return;
        }
        for (disk, at) in self.places_of(id) {
            if let Some(before) = before {
                self.totals.lift(disk, before, at.1);
            }
            if let Some(after) = after {
                self.totals.lay(disk, after, at.1);
            }
        }
    }

    /// Where the replicas of a volume lie.
    fn places_of(&self, volume: VolumeId) -> BTreeSet<(DiskId, At)> {
        let shards = self.shards_of(volume);
        let places = shards.flat_map(|row| {
            let at = (volume, row.index);
            row.replicas.iter().map(move |replica| (replica.disk, at))
        });
        let is_held = |(disk, at): &(DiskId, At)| {
            let held = self.holds.get(disk);
            held.is_some_and(|held| held.contains_key(at))
        };
        places.filter(is_held).collect()
    }

    /// The sums, by a look at all rows.
    #[cfg(test)]
    pub(super) fn summed_anew(&self) -> Totals {
        let mut totals = Totals::default();
        for volume in self.volumes.values() {
            totals.count(None, Some(volume));
        }
        for (disk, held) in &self.holds {
            for (volume, shard) in held.keys() {
                if let Some(volume) = self.volumes.get(volume) {
                    totals.lay(*disk, volume, *shard);
                }
            }
        }
        totals
    }
}
