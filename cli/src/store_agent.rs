//! A store's side of the conductor: register, send heartbeats, carry assignments out.
//!
//! ```text
//!            ┌── backs off while nobody answers or the conductor refuses
//!            ▼
//!  register ──▶ set cluster ──▶ heartbeats ∥ assignments ∥ inventories, when asked ── any failure ──▶ register
//! ```
//!
//! What an assignment list says of volumes to repair goes to [`ashlar_client::RepairOwners`].
//!
//! Invariant: a list of assignments is carried out only if it is of the cluster that the disks
//! were given to. What is not on a list is removed, so a list of a stranger would be the end of
//! the data.

mod inventories;

use std::collections::BTreeMap;
use std::time::Duration;

use ashlar_client::RepairTasks;
use ashlar_proto::api::{
    Assignment, Assignments, DiskReport, Heartbeat, HeartbeatAnswer, Observed, PeerTarget,
    RegisterNode, Registered, Revision,
};
use ashlar_proto::{Address, ClusterId};
use ashlar_store::{Applied, ControlError, Inventory, Refused, StoreControl};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use ashlar_api_client::{ApiClient, ApiError};

/// How long to wait before the first repetition, and how long at most.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// How long one request for assignments waits for news.
const POLL: Duration = Duration::from_secs(30);

/// How often heartbeats are sent at most and at least, whatever the conductor says.
const BEAT_MIN: Duration = Duration::from_millis(50);
const BEAT_MAX: Duration = Duration::from_secs(60);

/// How a store presents itself.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The node's name.
    pub name: String,
    /// Where owners reach its data plane.
    pub address: Address,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// What the agent needs of a store.
pub trait Store: Clone + Send + Sync + 'static {
    /// How the disks stand.
    fn report(&self) -> impl Future<Output = Result<Vec<DiskReport>, ControlError>> + Send;

    /// Watches these other stores from now on, or the same as before, and says what is seen of those watched so far, and of
    /// owners.
    fn observe(
        &self,
        peers: Option<Vec<PeerTarget>>,
    ) -> impl Future<Output = Result<Observed, ControlError>> + Send;

    /// What the disks hold; nothing where that cannot be said.
    fn inventory(&self) -> impl Future<Output = Result<Option<Inventory>, ControlError>> + Send;

    /// Gives disks without a cluster to this one.
    fn set_cluster(
        &self,
        cluster: ClusterId,
    ) -> impl Future<Output = Result<(), ControlError>> + Send;

    /// Makes the replicas those of the list, durably; says of which it could not.
    fn apply(
        &self,
        replicas: Vec<Assignment>,
    ) -> impl Future<Output = Result<Applied, ControlError>> + Send;
}

impl Store for StoreControl {
    async fn report(&self) -> Result<Vec<DiskReport>, ControlError> {
        StoreControl::report(self).await
    }

    async fn observe(&self, peers: Option<Vec<PeerTarget>>) -> Result<Observed, ControlError> {
        StoreControl::observe(self, peers).await
    }

    async fn inventory(&self) -> Result<Option<Inventory>, ControlError> {
        StoreControl::inventory(self).await
    }

    async fn set_cluster(&self, cluster: ClusterId) -> Result<(), ControlError> {
        StoreControl::set_cluster(self, cluster).await
    }

    async fn apply(&self, replicas: Vec<Assignment>) -> Result<Applied, ControlError> {
        StoreControl::apply(self, replicas).await
    }
}

/// Why the exchange with the conductor was broken off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Store(#[from] ControlError),
    #[error("{replicas} replicas could not be made on disks that have not failed")]
    NotCarriedOut { replicas: usize },
    #[error("the conductor is of cluster {found} now, this store of {expected}")]
    OtherCluster {
        expected: ClusterId,
        found: ClusterId,
    },
}

/// The agent of one store, until it is stopped or dropped.
#[derive(Debug)]
pub struct StoreAgent {
    task: JoinHandle<()>,
    registered: watch::Receiver<bool>,
}

impl StoreAgent {
    /// Registers the store and serves it, on `runtime`; sends its repair tasks to `repairs`.
    pub fn start(
        runtime: &Handle,
        client: ApiClient,
        options: AgentOptions,
        store: impl Store,
        repairs: RepairTasks,
    ) -> Self {
        let (told, registered) = watch::channel(false);
        let agent = Agent {
            client,
            options,
            store,
            repairs,
            told,
        };
        Self {
            task: runtime.spawn(agent.run()),
            registered,
        }
    }

    /// Becomes true when the conductor has taken the store in for the first time.
    pub fn registered(&self) -> watch::Receiver<bool> {
        self.registered.clone()
    }

    /// Ends it. Call it before the store is stopped.
    pub async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for StoreAgent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Agent<S> {
    client: ApiClient,
    options: AgentOptions,
    store: S,
    repairs: RepairTasks,
    told: watch::Sender<bool>,
}

impl<S: Store> Agent<S> {
    async fn run(self) {
        let mut pause = RETRY_FIRST;
        loop {
            let broken = match self.register().await {
                Ok(registered) => {
                    tracing::info!(
                        node = %registered.node,
                        name = self.options.name,
                        cluster = %registered.cluster,
                        "registered with the conductor"
                    );
                    self.told.send_replace(true);
                    let since = tokio::time::Instant::now();
                    let broken = self.serve(registered).await;
                    if since.elapsed() > RETRY_LAST {
                        pause = RETRY_FIRST;
                    }
                    broken
                }
                Err(broken) => broken,
            };
            if let Broken::Store(ControlError::Stopped) = broken {
                return;
            }
            tracing::warn!(name = self.options.name, "{broken}; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_LAST);
        }
    }

    async fn register(&self) -> Result<Registered, Broken> {
        let request = RegisterNode {
            name: self.options.name.clone(),
            address: self.options.address.clone(),
            labels: self.options.labels.clone(),
            disks: self.store.report().await?,
        };
        let registered = self.client.register(&request).await?;
        match self.store.set_cluster(registered.cluster).await {
            // That disk serves nothing, and reports so; the others do.
            Err(error @ ControlError::OtherCluster { .. }) => tracing::error!("{error}"),
            other => other?,
        }
        Ok(registered)
    }

    /// Heartbeats and assignments, until either fails.
    async fn serve(&self, registered: Registered) -> Broken {
        let applied = watch::Sender::new(Revision(0));
        let (wanted, asked) = watch::channel(None);
        tokio::select! {
            broken = self.send_heartbeats(&registered, applied.subscribe(), &wanted) => broken,
            broken = inventories::tell(self, registered.node, asked) => broken,
            broken = self.follow_assignments(&registered, &applied) => broken,
        }
    }

    async fn send_heartbeats(
        &self,
        registered: &Registered,
        mut applied: watch::Receiver<Revision>,
        wanted: &watch::Sender<Option<u64>>,
    ) -> Broken {
        let period = Duration::from_millis(registered.heartbeat_ms).clamp(BEAT_MIN, BEAT_MAX);
        // What is watched stays, until the conductor says otherwise.
        let mut peers = None;
        loop {
            let carried_out = *applied.borrow_and_update();
            match self.send_heartbeat(registered, carried_out, peers).await {
                Ok(answer) => {
                    peers = Some(answer.peers);
                    inventories::want(wanted, answer.inventory);
                }
                Err(broken) => return broken,
            }
            // News are told at once: somebody waits for a volume. An error is the sender's end,
            // which this select does not outlive.
            let _ = tokio::time::timeout(period, applied.changed()).await;
        }
    }

    async fn send_heartbeat(
        &self,
        registered: &Registered,
        applied: Revision,
        peers: Option<Vec<PeerTarget>>,
    ) -> Result<HeartbeatAnswer, Broken> {
        let heartbeat = Heartbeat {
            disks: self.store.report().await?,
            applied,
            seen: self.store.observe(peers).await?,
        };
        Ok(self.client.heartbeat(registered.node, &heartbeat).await?)
    }

    async fn follow_assignments(
        &self,
        registered: &Registered,
        applied: &watch::Sender<Revision>,
    ) -> Broken {
        loop {
            let after = *applied.borrow();
            let answer = self.client.assignments(registered.node, after, POLL).await;
            let outcome = match answer {
                Ok(list) if list.revision == after && list.cluster == registered.cluster => Ok(()),
                Ok(list) => self.carry_out(registered, list, applied).await,
                Err(error) => Err(error.into()),
            };
            if let Err(broken) = outcome {
                return broken;
            }
        }
    }

    /// How many of the refused replicas should be on disks that have not failed. The conductor
    /// knows of the others by the reports, and counts on nothing there.
    async fn unexplained(&self, refused: &[Refused]) -> Result<usize, ControlError> {
        if refused.is_empty() {
            return Ok(0);
        }
        let reports = self.store.report().await?;
        let serves = |disk| reports.iter().any(|r| r.id == disk && r.failed.is_none());
        for Refused {
            assignment,
            refusal,
        } in refused
        {
            let Assignment {
                volume,
                shard,
                disk,
                ..
            } = assignment;
            tracing::error!(%volume, %shard, %disk, "a replica is not here: {refusal}");
        }
        Ok(refused
            .iter()
            .filter(|refused| serves(refused.assignment.disk))
            .count())
    }

    async fn carry_out(
        &self,
        registered: &Registered,
        list: Assignments,
        applied: &watch::Sender<Revision>,
    ) -> Result<(), Broken> {
        let (expected, found) = (registered.cluster, list.cluster);
        if found != expected {
            return Err(Broken::OtherCluster { expected, found });
        }
        // An end that is closed belongs to a store that stops.
        let _ = self.repairs.send(list.repairs).await;
        let refused = self.store.apply(list.replicas).await?.refused;
        let unexplained = self.unexplained(&refused).await?;
        if unexplained > 0 {
            return Err(Broken::NotCarriedOut {
                replicas: unexplained,
            });
        }
        applied.send_replace(list.revision);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
