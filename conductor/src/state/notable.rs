//! What a look at the cluster has to see: volumes and shards of which something may be to be done, or told.
//! All others are at rest: whole, as asked for, and on disks that serve. They are passed by, so that a look
//! costs what is amiss, not what there is.
//!
//! Invariants: [`Notable`] is what [`ClusterState::noted_anew`] finds by looking at all rows. Whoever looks at
//! what is notable finds what a look at everything finds.

use std::collections::BTreeSet;

use ashlar_proto::api::{DiskLevel, Schedulable, VolumeState};
use ashlar_proto::{DiskId, VolumeId};

use super::{At, ClusterState};
use crate::live::Live;
use crate::row::{ShardRow, VolumeRow};

/// What is notable by the rows alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Notable {
    /// Volumes that somebody has yet to do something for, by their own rows or those of their snapshots.
    volumes: BTreeSet<VolumeId>,
    /// Shards whose replicas are not all settled and in sync, or not as many as they should be.
    shards: BTreeSet<At>,
    /// Volumes that are attached, by whomever.
    attached: BTreeSet<VolumeId>,
}

fn set<T: Ord>(all: &mut BTreeSet<T>, one: T, is_in: bool) {
    if is_in {
        all.insert(one);
    } else {
        all.remove(&one);
    }
}

/// Whether all replicas of a shard are there to stay, in sync, and as many as its volume asks for.
fn is_whole(volume: &VolumeRow, row: &ShardRow) -> bool {
    row.replicas.len() == usize::from(volume.replicas)
        && !row.rebalancing
        && row
            .replicas
            .iter()
            .all(|replica| replica.in_sync && !replica.fresh && !replica.leaving)
}

impl ClusterState {
    /// A volume or one of its snapshots is there, is another, or is gone.
    pub(super) fn note_volume(&mut self, id: VolumeId) {
        let row = self.volumes.get(&id);
        let is_notable = row.is_some_and(|row| self.has_work(row));
        let is_attached = row.is_some_and(|row| row.attached_by.is_some());
        set(&mut self.notable.volumes, id, is_notable);
        set(&mut self.notable.attached, id, is_attached);
    }

    /// All shards of a volume that is new, or has gone.
    pub(super) fn note_shards_of(&mut self, volume: VolumeId) {
        let all: Vec<At> = self
            .shards_of(volume)
            .map(|row| (row.volume, row.index))
            .collect();
        for at in all {
            self.note_shard(at);
        }
    }

    /// A shard is there, is another, or is gone.
    pub(super) fn note_shard(&mut self, at: At) {
        let is_notable = self.shards.get(&at).is_some_and(|row| {
            let volume = self.volumes.get(&at.0);
            volume.is_some_and(|volume| !is_whole(volume, row))
        });
        set(&mut self.notable.shards, at, is_notable);
    }

    /// Whether there is anything to do for a volume, beside keeping its replicas.
    fn has_work(&self, row: &VolumeRow) -> bool {
        row.state != VolumeState::Ready
            || row.grows_to.is_some()
            || row.unfenced
            || row.repairer.is_some()
            || self.has_owners_work(row)
    }

    /// The volumes that somebody has yet to do something for, those with a repair task among them.
    pub(super) fn volumes_to_do(&self) -> impl Iterator<Item = &VolumeRow> {
        let ids = self.notable.volumes.iter();
        ids.filter_map(|id| self.volumes.get(id))
    }

    /// The volumes that are attached, by whomever.
    pub(super) fn attached_volumes(&self) -> impl Iterator<Item = &VolumeRow> {
        let ids = self.notable.attached.iter();
        ids.filter_map(|id| self.volumes.get(id))
    }

    /// The shards whose replicas are not all settled and in sync, by volume and index.
    pub(super) fn unsettled_shards(&self) -> impl Iterator<Item = &ShardRow> {
        let all = self.notable.shards.iter();
        all.filter_map(|at| self.shards.get(at))
    }

    /// The volumes with work or with such shards, wherever these lie.
    pub(super) fn volumes_with_work(&self) -> BTreeSet<VolumeId> {
        let of_shards = self.notable.shards.iter().map(|at| at.0);
        of_shards
            .chain(self.notable.volumes.iter().copied())
            .collect()
    }

    /// Every shard that may need something or lack something: those, and what lies on disks that do not
    /// serve, are to be emptied or have lost what they held.
    pub(super) fn notable_shards(&self, live: &Live) -> BTreeSet<At> {
        let mut found = self.notable.shards.clone();
        for (disk, held) in &self.holds {
            if !self.is_quiet(live, *disk) {
                found.extend(held.keys());
            }
        }
        found
    }

    /// Every volume with such a shard or with work.
    pub(super) fn notable_volumes(&self, live: &Live) -> BTreeSet<VolumeId> {
        let of_shards = self.notable_shards(live).into_iter().map(|at| at.0);
        of_shards
            .chain(self.notable.volumes.iter().copied())
            .collect()
    }

    /// Whether a disk serves, is to serve on, and has what it should.
    fn is_quiet(&self, live: &Live, disk: DiskId) -> bool {
        let row = self.disks.get(&disk);
        self.serves(disk)
            && !self.is_missed(live, disk)
            && self.schedulable(disk) != Schedulable::Draining
            && live.levels.of(disk) != DiskLevel::Full
            && row.is_some_and(|row| live.report(row).missing.is_empty())
    }

    /// What is notable by the rows, by a look at all of them.
    #[cfg(test)]
    pub(super) fn noted_anew(&self) -> Notable {
        let mut state = self.clone();
        state.notable = Notable::default();
        for volume in self.volumes.keys() {
            state.note_volume(*volume);
        }
        for at in self.shards.keys() {
            state.note_shard(*at);
        }
        state.notable
    }
}
