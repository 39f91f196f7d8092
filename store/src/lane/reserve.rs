//! Reservations: room of the lane that only one shard may take.
//!
//! What a shard takes counts its blocks in all layers, its leaves and root pages, and what its deltas
//! may add: summed over all shards that is what the lane counts as used. What is reserved and not
//! taken yet is its unfilled part; writes of other shards leave the sum of these free.
//!
//! ```text
//!  0 ─────── used, admitted ──────▶│◀─── free ───▶│◀── unfilled ──▶│ usable
//!                                       anybody     its shard alone
//! ```
//!
//! Invariants: the sum of all unfilled parts is kept right at each change of one; what leaves name
//! of a shard, and its reservation, are in every slot, so both are as durable as the map. A leaf or
//! root page that was lost to damage leaves its blocks counted until the shard goes.

use std::cmp::Reverse;

use ashlar_proto::limits::BLOCK_BYTES_U64;
use ashlar_proto::{BlockCount, ByteCount, Handle, ReplicaId, RoomHint, reserved_blocks};

use crate::lane::error::LaneError;
use crate::lane::handle::Lane;
use crate::lane::shards::ShardKey;
use crate::lane::state::State;

/// Pages that the first block of a leaf may need: the leaf, and a root page.
const PAGES_EACH: u64 = 2;

/// What a shard takes of the lane, but for its deltas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ShardSpace {
    /// Blocks of data that its leaves name, and the leaves.
    pub(crate) mapped: u64,
    /// Its root pages.
    pub(crate) roots: u64,
    /// Blocks of its writes that were admitted and have not completed.
    pub(crate) admitted: u64,
    /// Blocks of data that are kept for it.
    pub(crate) reserve: BlockCount,
    /// What it has not taken of its reservation, as the lane's sum counts it.
    unfilled: u64,
}

impl ShardSpace {
    /// Leaves name other blocks now.
    pub(crate) fn remap(&mut self, lost: u64, gained: u64) {
        self.mapped = self.mapped.saturating_sub(lost) + gained;
    }
}

/// A shard's part of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpaceRecord {
    pub(crate) handle: Handle,
    pub(crate) reserve: BlockCount,
    pub(crate) mapped: u64,
}

impl State {
    /// Blocks that a shard takes: data, pages of its map, and what its deltas may add.
    pub(crate) fn taken_by(&self, handle: Handle) -> u64 {
        let space = self.shards.get(handle).map(|shard| shard.space);
        let space = space.unwrap_or_default();
        space.mapped + space.roots + self.overlay.grows_of(handle)
    }

    /// Puts the unfilled part of a shard right, after any change of what it takes or reserves.
    pub(crate) fn settle_reserve(&mut self, handle: Handle) {
        let space = self.shards.get(handle).map(|shard| shard.space);
        let keeps = |space: &ShardSpace| space.reserve.get() > 0 || space.unfilled > 0;
        if !space.as_ref().is_some_and(keeps) {
            return;
        }
        let taken = self.taken_by(handle);
        let Some(shard) = self.shards.get_mut(handle) else {
            return;
        };
        let reserved = shard.reserved();
        let unfilled = reserved.saturating_sub(taken + shard.space.admitted);
        let before = std::mem::replace(&mut shard.space.unfilled, unfilled);
        self.unfilled = self.unfilled + unfilled - before;
    }

    /// The unfilled parts of a shard's reservation, and of all others.
    fn unfilled(&self, handle: Option<Handle>) -> (u64, u64) {
        let shard = handle.and_then(|handle| self.shards.get(handle));
        let own = shard.map_or(0, |shard| shard.space.unfilled);
        (own, self.unfilled - own)
    }

    /// Whether a write of so many new blocks of a shard fits: within its reservation as long as there
    /// is room, beyond it only into what nobody has reserved. There the pages count as well that it
    /// and those before it may still need: they come later, and would be taken from what is reserved.
    pub(crate) fn has_room_of(&self, handle: Handle, blocks: u64) -> bool {
        let (own, others) = self.unfilled(Some(handle));
        if blocks <= own || others == 0 {
            return self.has_room_for(blocks);
        }
        let scattered = self.overlay.labels() + self.admitted + blocks;
        self.has_room_for(blocks + others + PAGES_EACH * scattered)
    }

    /// How full the lane is for a shard; for one without a reservation where none is given.
    pub(crate) fn room_of(&self, handle: Option<Handle>) -> RoomHint {
        let (own, others) = self.unfilled(handle);
        let kept = if own > 0 { 0 } else { others };
        match self.room_beside(kept) {
            // In flight beyond its reservation it may take what lies between soft and full.
            RoomHint::Scarce | RoomHint::Soft if own > 0 => RoomHint::Ample,
            room => room,
        }
    }

    /// Notes that a write was admitted.
    pub(crate) fn admit(&mut self, handle: Handle, blocks: u64) {
        self.admitted += blocks;
        if let Some(shard) = self.shards.get_mut(handle) {
            shard.space.admitted += blocks;
        }
        self.settle_reserve(handle);
    }

    /// Notes that a write that was admitted has completed, or is given up.
    pub(crate) fn admission_over(&mut self, handle: Handle, blocks: u64) {
        self.admitted -= blocks;
        if let Some(shard) = self.shards.get_mut(handle) {
            shard.space.admitted = shard.space.admitted.saturating_sub(blocks);
        }
        self.settle_reserve(handle);
    }

    /// What is reserved, and what of that is not taken yet.
    pub(crate) fn reservations(&self) -> (u64, u64) {
        let reserved = self.shards.present().map(|(_, _, shard)| shard.reserved());
        (reserved.sum(), self.unfilled)
    }
}

impl Lane {
    /// How full it is for a shard, as replies about that shard say it.
    #[must_use]
    pub fn room_of(&self, key: ShardKey) -> RoomHint {
        let state = self.core().state.borrow();
        state.room_of(state.shards.handle_of(key))
    }

    /// The shards with reservations, and how many blocks of data are kept for each.
    #[must_use]
    pub fn reserves(&self) -> Vec<(ShardKey, BlockCount)> {
        let state = self.core().state.borrow();
        let present = state.shards.present();
        let reserves = present.map(|(key, _, shard)| (key, shard.space.reserve));
        reserves
            .filter(|(_, reserve)| *reserve != BlockCount::default())
            .collect()
    }

    /// Keeps so many blocks for each of these shards from now on, and no others; none to keep nothing.
    /// Durable on return.
    ///
    /// # Errors
    /// [`LaneError`] when a shard is not here or the device fails.
    pub async fn reserve_shards(
        &self,
        reserves: &[(ShardKey, BlockCount)],
    ) -> Result<(), LaneError> {
        if reserves.is_empty() {
            return Ok(());
        }
        {
            let mut state = self.core().state.borrow_mut();
            for &(key, reserve) in reserves {
                let handle = state.shards.handle_of(key).ok_or(LaneError::NoSuchShard)?;
                if let Some(shard) = state.shards.get_mut(handle) {
                    shard.space.reserve = reserve;
                }
                state.settle_reserve(handle);
            }
            state.dirty = true;
        }
        self.checkpoint().await
    }

    /// What replicas take of it, those that take the most first, `most` of them at most.
    #[must_use]
    pub fn largest(&self, most: usize) -> Vec<(ReplicaId, ByteCount)> {
        let state = self.core().state.borrow();
        let present = state.shards.present();
        let mut all: Vec<(u64, ReplicaId)> = present
            .map(|(_, handle, shard)| (state.taken_by(handle), shard.record.replica))
            .collect();
        all.sort_unstable_by_key(|&(taken, replica)| (Reverse(taken), replica));
        all.truncate(most);
        let bytes = |taken: u64| ByteCount::new(taken * BLOCK_BYTES_U64);
        all.into_iter()
            .map(|(taken, replica)| (replica, bytes(taken)))
            .collect()
    }
}

impl crate::lane::shards::Shard {
    /// Blocks that are kept for it, those of its map included.
    pub(crate) fn reserved(&self) -> u64 {
        if self.record.removed {
            return 0;
        }
        reserved_blocks(self.space.reserve, self.record.blocks)
    }
}
