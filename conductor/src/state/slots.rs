//! How many fresh replicas are filled at a time: of one disk, and of the whole cluster.
//!
//! Invariant: who takes a slot only where one is free stays within [`DISK_FRESH_MAX`] and
//! [`NODE_FRESH_MAX`].

use std::collections::BTreeMap;

use ashlar_proto::DiskId;
use ashlar_proto::api::VolumeState;

use super::ClusterState;

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
}

impl Slots {
    /// All free.
    pub(super) fn free(state: &ClusterState) -> Self {
        Self {
            on: BTreeMap::new(),
            all: 0,
            all_max: NODE_FRESH_MAX * state.nodes_up().len(),
        }
    }

    /// As the fresh replicas of the state have taken them.
    pub(super) fn taken(state: &ClusterState) -> Self {
        let mut slots = Self::free(state);
        let is_ready = |volume| {
            let row = state.volumes.get(volume);
            row.is_some_and(|row| row.state == VolumeState::Ready)
        };
        let shards = state.shards.iter().filter(|(at, _)| is_ready(&at.0));
        for replica in shards.flat_map(|(_, row)| &row.replicas) {
            if replica.fresh {
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
            .is_none_or(|taken| *taken < DISK_FRESH_MAX)
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
