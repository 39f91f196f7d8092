//! Do the in-sync replicas of a shard hold the same? Read from their disks, past all sessions.

use ashlar_proto::BLOCK_BYTES;
use ashlar_proto::api::Replica;
use ashlar_proto::crc::crc32c;
use ashlar_proto::message::{BlockKind, ReadEntry};

use super::Cluster;
use super::stores::store_of;
use crate::history::SECTORS_PER_BLOCK;

impl Cluster {
    /// Compares each shard over the disks that are in sync for it. The volume was detached
    /// cleanly, so even a loss of power must not make a difference.
    pub(super) async fn compare_replicas(&mut self) -> Result<(), String> {
        for store in &mut self.stores {
            if self.rng.chance(500_000) {
                store.power_loss(&self.world);
            } else {
                store.crash();
            }
        }
        let shards = self.shards();
        let mut layers = self.layers.clone();
        let archive = self.conductor.archive();
        layers.push(archive.ledger(|ledger| ledger.head_layer()));
        for shard in &shards {
            // One replica may have room for a growth already.
            let start = u64::from(shard.index.get()) * self.shape.shard_sectors;
            let blocks = (self.sectors() - start) / SECTORS_PER_BLOCK;
            let mut first: Option<(usize, Vec<ReadEntry>)> = None;
            let is_sound = |r: &&Replica| r.in_sync && !self.spoilt.borrow().contains(&r.disk);
            let disks = shard.replicas.iter().filter(is_sound).map(|r| r.disk);
            for disk in disks.collect::<Vec<_>>() {
                let number = store_of(disk);
                let store = &self.stores[number];
                let entries =
                    store.entries(&self.world, disk, (shard.index, blocks), layers.clone());
                let entries = entries.await;
                let entries = entries.map_err(|error| format!("store {number}: {error}"))?;
                let Some((other, expected)) = &first else {
                    first = Some((number, entries));
                    continue;
                };
                let differs = |&at: &usize| !are_alike(&expected[at], &entries[at]);
                if let Some(at) = (0..expected.len()).find(differs) {
                    return Err(format!(
                        "shard {} entry {at} of layers {layers:?}: store {other} holds {:?}, store \
                         {number} {:?}",
                        shard.index, expected[at], entries[at]
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Whether two replicas show the same version of a block. Where an orphan was buried, the same
/// content lies under the last seq of its window: zeroes as data, and nothing as a void.
fn are_alike(one: &ReadEntry, other: &ReadEntry) -> bool {
    let content = |entry: &ReadEntry| match entry.kind {
        BlockKind::Data => Some(entry.crc),
        BlockKind::Zero => Some(crc32c(&[0; BLOCK_BYTES])),
        BlockKind::Absent => None,
    };
    let (lower, higher) = if one.seq <= other.seq {
        (one, other)
    } else {
        (other, one)
    };
    let is_burial = higher.seq == higher.seq.window().burial();
    one == other || is_burial && lower.seq < higher.seq && content(one) == content(other)
}
