//! The operator of a simulated cluster: drains and cordons nodes and disks, stops and resumes
//! rebalance, at random.

use std::time::Duration;

use ashlar_conductor::ClusterError;
use ashlar_proto::DiskId;
use ashlar_proto::api::Schedulable;

use super::Cluster;
use super::conductor::SimCluster;

/// Something that an operator asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Command {
    /// Of the node of a store.
    Node(usize, Schedulable),
    /// Of a disk.
    Disk(DiskId, Schedulable),
    /// Whether rebalance pauses.
    Pause(bool),
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
