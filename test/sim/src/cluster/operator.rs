//! The operator of a simulated cluster: drains and cordons nodes and disks, stops and resumes
//! rebalance, makes the volume larger, at random.

use std::time::Duration;

use ashlar_conductor::ClusterError;
use ashlar_proto::api::{ResizeVolume, Schedulable};
use ashlar_proto::limits::BLOCK_BYTES_U64;
use ashlar_proto::{ByteCount, DiskId};

use super::conductor::SimCluster;
use super::{Cluster, VOLUME_NAME};

/// Shards that the volume may come to have.
const SHARDS_MAX: u64 = 6;

/// Something that an operator asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Command {
    /// Of the node of a store.
    Node(usize, Schedulable),
    /// Of a disk.
    Disk(DiskId, Schedulable),
    /// Whether rebalance pauses.
    Pause(bool),
    /// The size that the volume is to have.
    Grow(ByteCount),
}

impl Cluster {
    /// A command, about that store if about any.
    pub(super) fn draw_command(&mut self, store: usize) -> Command {
        let schedulable = match self.rng.below(10) {
            0..5 => Schedulable::Draining,
            5 => Schedulable::Cordoned,
            _ => Schedulable::Open,
        };
        match self.rng.below(10) {
            0 => Command::Pause(self.rng.chance(400_000)),
            1..6 => Command::Node(store, schedulable),
            _ => Command::Disk(self.draw_disk(store), schedulable),
        }
    }

    /// Sectors that the volume may come to have.
    pub(super) fn sectors_most(&self) -> u64 {
        if self.grows {
            SHARDS_MAX * self.shape.shard_sectors
        } else {
            self.shape.sectors
        }
    }

    /// A larger size, unless the volume is as large as it may become: some blocks more, or some shards.
    pub(super) fn draw_growth(&mut self) -> Option<Command> {
        let shard = self.shape.shard_sectors * 512;
        let most = SHARDS_MAX * shard;
        let size = self
            .conductor
            .archive()
            .ledger(|ledger| ledger.size_to_be().get());
        if size >= most {
            return None;
        }
        let by = if self.rng.chance(500_000) {
            self.rng.between(1, 8) * BLOCK_BYTES_U64
        } else {
            self.rng.between(1, 2 * shard / BLOCK_BYTES_U64) * BLOCK_BYTES_U64
        };
        Some(Command::Grow(ByteCount::new((size + by).min(most))))
    }

    /// Gives a command. Whether it is carried out nobody knows, if the conductor is in trouble.
    pub(super) fn command(&self, command: Command) {
        match command {
            Command::Node(store, schedulable) => {
                let name = self.stores[store].name();
                self.order(async move |cluster| {
                    cluster.schedule_node(name, schedulable).await.map(drop)
                });
            }
            Command::Disk(disk, schedulable) => {
                self.order(async move |cluster| {
                    cluster.schedule_disk(disk, schedulable).await.map(drop)
                });
            }
            Command::Grow(size_bytes) => {
                let request = ResizeVolume {
                    size_bytes,
                    shrink: false,
                    generation: None,
                };
                self.order(async move |cluster| {
                    let volume = VOLUME_NAME.to_owned();
                    let grown = cluster.resize(volume, request, Duration::ZERO);
                    grown.await.map(drop)
                });
            }
            Command::Pause(pauses) => {
                self.order(async move |cluster| cluster.pause_rebalance(pauses).await.map(drop));
            }
        }
    }

    /// Every node and disk takes replicas again, and disks are evened out.
    pub(super) fn undo_commands(&self) {
        for store in 0..self.stores.len() {
            self.command(Command::Node(store, Schedulable::Open));
            for disk in self.stores[store].disks() {
                self.command(Command::Disk(disk, Schedulable::Open));
            }
        }
        self.command(Command::Pause(false));
    }

    fn order<F>(&self, deed: impl FnOnce(SimCluster) -> F + 'static)
    where
        F: Future<Output = Result<(), ClusterError>> + 'static,
    {
        self.conductor.tell(Duration::ZERO, async move |cluster| {
            if let Err(error) = deed(cluster).await {
                tracing::info!(%error, "a command is not carried out");
            }
        });
    }
}
