//! The store's control interface: for the agent that talks with the conductor, on any thread.
//!
//! A [`StoreControl`] is a handle on the store's service. Its calls may be awaited on any
//! executor. The store knows nothing of conductors: it is told what to hold, and tells what it has.

use ashlar_proto::api::{Assignment, DiskReport, FoundReplica, Observed, PeerTarget};
use ashlar_proto::{ClusterId, DiskId, VolumeId};
use ashlar_reactor::channel::remote;

/// Commands that wait for the service.
pub(crate) const COMMANDS_MAX: usize = 64;

/// The store did not do what it was told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The service has stopped.
    #[error("the store has stopped")]
    Stopped,
    /// A disk was brought here from another cluster. It serves nothing and was left as it is.
    #[error(
        "disk {disk} at {path} belongs to cluster {found}, this node to {expected}: remove the \
         disk from this node, or format it anew to give up what it holds"
    )]
    OtherCluster {
        /// The disk.
        disk: DiskId,
        /// Its path.
        path: String,
        /// The cluster in its superblock.
        found: ClusterId,
        /// The node's.
        expected: ClusterId,
    },
}

/// Why a replica is not here although it was assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No disk of this id is here.
    #[error("no such disk on this node")]
    NoSuchDisk,
    /// The disk has failed.
    #[error("the disk has failed")]
    DiskFailed,
    /// A shard of no blocks.
    #[error("a replica has at least one block")]
    Empty,
}

/// An assignment that could not be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The assignment.
    pub assignment: Assignment,
    /// Why.
    pub refusal: Refusal,
}

/// What became of a list of assignments: all but the refused ones are durably here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Replicas that are not here.
    pub refused: Vec<Refused>,
}

/// What the disks of a store hold, all at about one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The disks that it is of: those that serve.
    pub disks: Vec<DiskId>,
    /// Volumes whose owners have sessions with the store.
    pub owned: Vec<VolumeId>,
    /// All that lies on the disks.
    pub replicas: Vec<FoundReplica>,
}

/// Where an answer goes.
pub(crate) type Answer<T> = remote::Sender<T>;

/// What the service is told to do.
#[derive(Debug)]
pub(crate) enum Command {
    Report(Answer<Vec<DiskReport>>),
    Observe(Option<Vec<PeerTarget>>, Answer<Observed>),
    Inventory(Answer<Option<Inventory>>),
    SetCluster(ClusterId, Answer<Result<(), ControlError>>),
    Apply(Vec<Assignment>, Answer<Applied>),
    Stop(Answer<()>),
}

/// A handle on a running store, for other threads.
#[derive(Clone, Debug)]
pub struct StoreControl {
    commands: remote::Sender<Command>,
}

impl StoreControl {
    pub(crate) fn new() -> (Self, remote::Receiver<Command>) {
        let (commands, receiver) = remote::bounded(COMMANDS_MAX);
        (Self { commands }, receiver)
    }

    /// How the disks stand, failed ones included.
    ///
    /// # Errors
    /// [`ControlError::Stopped`].
    pub async fn report(&self) -> Result<Vec<DiskReport>, ControlError> {
        call(&self.commands, Command::Report).await
    }

    /// Watches these other stores from now on, or the same as before, and says what is seen of those
    /// that were watched, and of owners; of these nothing just after the start.
    ///
    /// # Errors
    /// [`ControlError::Stopped`].
    pub async fn observe(&self, peers: Option<Vec<PeerTarget>>) -> Result<Observed, ControlError> {
        call(&self.commands, |answer| Command::Observe(peers, answer)).await
    }

    /// What the disks hold, and whose owners are connected. Nothing where a part of the store does not
    /// answer: half an inventory is none.
    ///
    /// # Errors
    /// [`ControlError::Stopped`].
    pub async fn inventory(&self) -> Result<Option<Inventory>, ControlError> {
        call(&self.commands, Command::Inventory).await
    }

    /// Gives the disks that belong to no cluster yet to this one, durably. Nothing is served
    /// before.
    ///
    /// # Errors
    /// [`ControlError::OtherCluster`] for the first disk of another cluster; the others are given
    /// to this one all the same.
    pub async fn set_cluster(&self, cluster: ClusterId) -> Result<(), ControlError> {
        call(&self.commands, |answer| {
            Command::SetCluster(cluster, answer)
        })
        .await?
    }

    /// Makes the replicas that the disks hold those of the list: removes what is beyond it and
    /// creates what is missing, durably. A replica that is here already stays as it is.
    ///
    /// # Errors
    /// [`ControlError::Stopped`].
    pub async fn apply(&self, replicas: Vec<Assignment>) -> Result<Applied, ControlError> {
        call(&self.commands, |answer| Command::Apply(replicas, answer)).await
    }

    /// Lets the requests that were begun end, checkpoints every lane and closes the disks.
    ///
    /// # Errors
    /// [`ControlError::Stopped`]: it had stopped before.
    pub async fn stop(&self) -> Result<(), ControlError> {
        call(&self.commands, Command::Stop).await
    }
}

/// Sends a command and waits for its answer.
pub(crate) async fn call<C: Send, T: Send>(
    commands: &remote::Sender<C>,
    command: impl FnOnce(Answer<T>) -> C,
) -> Result<T, ControlError> {
    let (answer, answers) = remote::bounded(1);
    let sent = commands.send(command(answer)).await;
    sent.map_err(|_| ControlError::Stopped)?;
    answers.recv().await.ok_or(ControlError::Stopped)
}
