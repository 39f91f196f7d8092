//! How many fresh replicas are filled at a time: of one disk, and of the whole cluster.
//!
//! One that nobody can fill, since nobody could take its shard over, holds no slot, nor does one that
//! has had its time ([`crate::fills`]): it stays and is filled all the same, but those that wait for a
//! slot wait no longer for it. Invariant: who takes a slot only where one is free stays within the limits
//! that are set, [`DISK_FRESH_MAX`] and [`NODE_FRESH_MAX`] unless told otherwise.

use std::collections::BTreeMap;

use ashlar_proto::api::{Replica, VolumeState};
use ashlar_proto::{ByteCount, DiskId, ReplicaId};

use super::{ClusterState, shard_bytes};
use crate::live::Live;
use crate::row::{ShardRow, VolumeRow};

/// Fresh replicas that one disk takes at a time.
pub(crate) const DISK_FRESH_MAX: usize = 2;

/// Fresh replicas at a time in the whole cluster, for each node that is up.
pub(crate) const NODE_FRESH_MAX: usize = 4;

/// The slots that are taken.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    on: BTreeMap<DiskId, usize>,
    all: usize,
    all_max: usize,
    disk_max: usize,
}

impl Slots {
    /// All free.
    pub(super) fn free(state: &ClusterState) -> Self {
        let limits = state.rebuild_limits();
        Self {
            on: BTreeMap::new(),
            all: 0,
            all_max: limits.per_node.saturating_mul(state.nodes_up().len()),
            disk_max: limits.per_disk,
        }
    }

    /// As the fresh replicas of the state have taken them.
    pub(super) fn taken(state: &ClusterState, live: &Live) -> Self {
        let mut slots = Self::free(state);
        for (_, _, replica) in state.filled() {
            if !live.fills.is_over(replica.id) {
                slots.take(replica.disk);
            }
        }
        slots
    }

    /// Whether any is free in the cluster.
    pub(super) fn is_any_free(&self) -> bool {
        self.all < self.all_max
    }

    /// Whether a disk has one that is free.
    pub(super) fn is_free_on(&self, disk: DiskId) -> bool {
        self.on
            .get(&disk)
            .is_none_or(|taken| *taken < self.disk_max)
    }

    /// A fresh replica is on that disk.
    pub(super) fn take(&mut self, disk: DiskId) {
        self.all += 1;
        *self.on.entry(disk).or_default() += 1;
    }

    /// It is no more.
    pub(super) fn give_back(&mut self, disk: DiskId) {
        self.all -= 1;
        self.on.entry(disk).and_modify(|taken| *taken -= 1);
    }
}

impl ClusterState {
    /// The fresh replicas that somebody can fill.
    fn filled(&self) -> impl Iterator<Item = (&VolumeRow, &ShardRow, &Replica)> {
        let shards = self.unsettled_shards().filter_map(|row| {
            let volume = self.volumes.get(&row.volume)?;
            (volume.state == VolumeState::Ready).then_some((volume, row))
        });
        let fresh = shards.flat_map(|(volume, row)| {
            let fresh = row.replicas.iter().filter(|r| r.fresh);
            fresh.map(move |replica| (volume, row, replica))
        });
        fresh.filter(|(volume, row, _)| self.can_be_taken_over(volume, row))
    }

    /// These replicas, and the bytes of each.
    pub(crate) fn fills(&self) -> BTreeMap<ReplicaId, ByteCount> {
        let bytes = |volume, row: &ShardRow| ByteCount::new(shard_bytes(volume, row.index));
        let filled = self.filled();
        filled
            .map(|(volume, row, replica)| (replica.id, bytes(volume, row)))
            .collect()
    }
}
