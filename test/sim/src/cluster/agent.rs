//! A simulated store's side of the conductor: what `cli/store_agent` does, on the store's reactor.
//!
//! Invariant: a list of assignments is carried out only if it is of the cluster that the disks were
//! given to.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use ashlar_client::RepairTasks;
use ashlar_proto::api::{
    Assignment, Assignments, DiskReport, Heartbeat, HeartbeatAnswer, Observed, PeerTarget,
    RegisterNode, Registered, Revision,
};
use ashlar_proto::{Address, ByteCount, ClusterId, DiskId};
use ashlar_reactor::channel::Notify;
use ashlar_reactor::future::{Either, race};
use ashlar_store::{ControlError, StoreControl};

use super::conductor::{ANSWER_MAX, CallError, Road, SimCluster};
use super::reference::Image;
use crate::workload::Record;

/// How long to wait before the first repetition, and how long at most.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// How long one request for assignments waits for news.
const POLL: Duration = Duration::from_secs(30);

/// What the agent speaks for.
pub enum Held {
    /// The real store.
    Real(StoreControl),
    /// The one written a second time.
    Reference(Rc<RefCell<Image>>),
}

/// Why the exchange with the conductor was broken off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Store(#[from] ControlError),
    #[error("replicas could not be made on disks that have not failed")]
    NotCarriedOut,
    #[error("the conductor is of another cluster now")]
    OtherCluster,
}

/// The agent of one store.
pub struct Agent {
    pub road: Road,
    pub name: String,
    pub address: Address,
    pub held: Held,
    /// What each disk is said to offer: the less it is, the more a replica matters.
    pub usable: Option<ByteCount>,
    /// Where it is told that a disk has damage although nothing was done to it, and the disk that
    /// something was done to.
    pub sound: (Record, Option<DiskId>),
    /// Where repair tasks go.
    pub repairs: Option<RepairTasks>,
}

/// Whether more is damaged than a slot that was being written when the power went.
fn is_damaged(disk: &DiskReport) -> bool {
    disk.damage.keys().any(|kind| kind != "slot")
}

/// The revision that is carried out, and who waits to tell.
#[derive(Default)]
struct Progress {
    applied: Cell<Revision>,
    changed: Notify,
}

impl Agent {
    /// Registers and serves, until the process or the store ends.
    pub async fn run(self) {
        let reactor = self.road.reactor.clone();
        let mut pause = RETRY_FIRST;
        loop {
            let since = reactor.now();
            let broken = match self.register().await {
                Ok(registered) => self.serve(&registered).await,
                Err(broken) => broken,
            };
            if let Broken::Store(ControlError::Stopped) = broken {
                return;
            }
            if reactor.now() - since > RETRY_LAST {
                pause = RETRY_FIRST;
            }
            tracing::info!(name = self.name, "{broken}; trying again");
            reactor.sleep(pause).await;
            pause = (pause * 2).min(RETRY_LAST);
        }
    }

    async fn report(&self) -> Result<Vec<DiskReport>, ControlError> {
        let mut disks = match &self.held {
            Held::Real(control) => control.report().await?,
            Held::Reference(image) => vec![image.borrow().report()],
        };
        let (record, victim) = &self.sound;
        let is_sound = |disk: &&DiskReport| Some(disk.id) != *victim;
        for disk in disks.iter().filter(is_sound) {
            if is_damaged(disk) {
                record.fail(format!(
                    "{}: a sound disk has damage: {:?}",
                    self.name, disk.damage
                ));
            }
        }
        for disk in &mut disks {
            let usable = self.usable.unwrap_or(disk.usable_bytes);
            disk.usable_bytes = disk.usable_bytes.min(usable).max(disk.used_bytes);
        }
        Ok(disks)
    }

    async fn register(&self) -> Result<Registered, Broken> {
        let request = RegisterNode {
            name: self.name.clone(),
            address: self.address.clone(),
            labels: BTreeMap::new(),
            disks: self.report().await?,
        };
        let deed = async move |cluster: SimCluster| cluster.register(request).await;
        let registered = self.road.ask(ANSWER_MAX, deed).await?;
        self.set_cluster(registered.cluster).await?;
        Ok(registered)
    }

    async fn set_cluster(&self, cluster: ClusterId) -> Result<(), ControlError> {
        let Held::Real(control) = &self.held else {
            return Ok(());
        };
        match control.set_cluster(cluster).await {
            Err(ControlError::OtherCluster { .. }) => Ok(()),
            other => other,
        }
    }

    /// Heartbeats and assignments, until either fails.
    async fn serve(&self, registered: &Registered) -> Broken {
        let progress = Progress::default();
        let beats = self.send_heartbeats(registered, &progress);
        match race(beats, self.follow_assignments(registered, &progress)).await {
            Either::First(broken) | Either::Second(broken) => broken,
        }
    }

    async fn send_heartbeats(&self, registered: &Registered, progress: &Progress) -> Broken {
        let period = Duration::from_millis(registered.heartbeat_ms);
        // What is watched stays, until the conductor says otherwise.
        let mut peers = None;
        loop {
            let told = progress.applied.get();
            match self.send_heartbeat(registered, told, peers).await {
                Ok(answer) => peers = Some(answer.peers),
                Err(broken) => return broken,
            }
            let news = async {
                while progress.applied.get() == told {
                    progress.changed.notified().await;
                }
            };
            // News are told at once: somebody waits for a volume.
            let _ = self.road.reactor.timeout(period, news).await;
        }
    }

    async fn send_heartbeat(
        &self,
        registered: &Registered,
        applied: Revision,
        peers: Option<Vec<PeerTarget>>,
    ) -> Result<HeartbeatAnswer, Broken> {
        let heartbeat = Heartbeat {
            disks: self.report().await?,
            applied,
            seen: match &self.held {
                Held::Real(control) => control.observe(peers).await?,
                Held::Reference(_) => Observed::default(),
            },
        };
        let node = registered.node;
        let deed = async move |cluster: SimCluster| cluster.heartbeat(node, heartbeat).await;
        Ok(self.road.ask(ANSWER_MAX, deed).await?)
    }

    async fn follow_assignments(&self, registered: &Registered, progress: &Progress) -> Broken {
        let node = registered.node;
        loop {
            let after = progress.applied.get();
            let deed =
                async move |cluster: SimCluster| cluster.assignments(node, after, POLL).await;
            let outcome = match self.road.ask(POLL + ANSWER_MAX, deed).await {
                Ok(list) if list.revision == after && list.cluster == registered.cluster => Ok(()),
                Ok(list) => self.carry_out(registered, list, progress).await,
                Err(error) => Err(error.into()),
            };
            if let Err(broken) = outcome {
                return broken;
            }
        }
    }

    async fn carry_out(
        &self,
        registered: &Registered,
        list: Assignments,
        progress: &Progress,
    ) -> Result<(), Broken> {
        if list.cluster != registered.cluster {
            return Err(Broken::OtherCluster);
        }
        if let Some(repairs) = &self.repairs {
            // An end that is closed belongs to a store that stops.
            let _ = repairs.send(list.repairs).await;
        }
        let refused = match &self.held {
            Held::Real(control) => {
                let applied = control.apply(list.replicas).await?;
                applied.refused.into_iter().map(|r| r.assignment).collect()
            }
            Held::Reference(image) => image.borrow_mut().apply(list.replicas),
        };
        if self.is_unexplained(&refused).await? {
            return Err(Broken::NotCarriedOut);
        }
        progress.applied.set(list.revision);
        progress.changed.notify_all();
        Ok(())
    }

    /// Whether some refused replica should be on a disk that has not failed.
    async fn is_unexplained(&self, refused: &[Assignment]) -> Result<bool, ControlError> {
        if refused.is_empty() {
            return Ok(false);
        }
        let reports = self.report().await?;
        let serves = |disk| reports.iter().any(|r| r.id == disk && r.failed.is_none());
        Ok(refused.iter().any(|assignment| serves(assignment.disk)))
    }
}
