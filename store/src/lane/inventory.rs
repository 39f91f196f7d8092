//! What a lane holds, for an inventory of its disk: each replica, and what is durably known of it.

use ashlar_proto::DiskId;
use ashlar_proto::api::{FoundReplica, INVENTORY_RUNS_MAX};

use crate::lane::handle::Lane;
use crate::lane::shards::{Shard, ShardKey};

impl Lane {
    /// The shards that it holds as its part of an inventory of the disk, in order; tables of more runs
    /// than are told are left out.
    #[must_use]
    pub fn inventory(&self, disk: DiskId) -> Vec<FoundReplica> {
        let state = self.core().state.borrow();
        let found = |(key, _, shard): (ShardKey, _, &Shard)| {
            let (known, table) = (shard.record.state(), shard.layers.table());
            let is_told = table.live.len() + table.dropped.len() <= INVENTORY_RUNS_MAX;
            FoundReplica {
                disk,
                volume: key.volume,
                shard: key.shard,
                replica: shard.record.replica,
                blocks: shard.record.blocks,
                generation: known.generation,
                epoch: known.epoch,
                window: known.window,
                stable: known.stable.get(),
                highest: known.highest.get(),
                doubtful: known.may_have_lost || known.damaged || known.suspect,
                top: shard.layers.top(),
                layers: is_told.then(|| table.clone()),
            }
        };
        state.shards.present().map(found).collect()
    }
}
