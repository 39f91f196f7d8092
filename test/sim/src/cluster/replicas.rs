//! Do the in-sync replicas of a shard hold the same? Read from their disks, past all sessions.

use ashlar_proto::message::ReadEntry;

use super::Cluster;

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
        let shards = self.metadata.borrow().shards().to_vec();
        for shard in &shards {
            let mut first: Option<(usize, Vec<ReadEntry>)> = None;
            for number in 0..self.stores.len() {
                let disk = self.stores[number].location().disk;
                if self.victim == Some(number) {
                    continue;
                }
                if !shard.replicas.iter().any(|r| r.in_sync && r.disk == disk) {
                    continue;
                }
                let entries = self.stores[number].entries(&self.world, shard.index).await;
                let entries = entries.map_err(|error| format!("store {number}: {error}"))?;
                let Some((other, expected)) = &first else {
                    first = Some((number, entries));
                    continue;
                };
                if let Some(at) = (0..expected.len()).find(|&at| expected[at] != entries[at]) {
                    return Err(format!(
                        "shard {} block {at}: store {other} holds {:?}, store {number} {:?}",
                        shard.index, expected[at], entries[at]
                    ));
                }
            }
        }
        Ok(())
    }
}
