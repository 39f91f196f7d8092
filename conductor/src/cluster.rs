//! The cluster as a service: plans become commits, commits become state, state wakes who waits.
//!
//! Invariants:
//! - one change at a time, and each is durable before anybody sees it;
//! - a change that has begun is finished even when its caller goes away.

mod clients;
mod healing;
mod rebalance;
mod requests;
mod schedule;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ashlar_proto::ClusterId;
use ashlar_proto::api::Revision;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::absence::Absence;
use crate::fills::Fills;
use crate::live::Live;
use crate::membership::{Membership, Moment};
use crate::meta::{Events, MetaError, MetaStore, Outcome, PAGE_ROWS_MAX};
use crate::refusal::Refusal;
use crate::row::RowError;
use crate::state::{ClusterState, Plan};

/// Times that a change is planned anew because another conductor was faster.
const CONFLICTS_MAX: usize = 16;

/// Events read at once.
pub(crate) const EVENTS_MAX: usize = 1024;

/// How a conductor keeps time.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How often stores are told to send heartbeats.
    pub heartbeat: Duration,
    /// The silence after which a node is down.
    pub silence: Duration,
    /// The longest time between two lines of a watch.
    pub bookmark: Duration,
    /// How long a disk that does not serve is waited for before its replicas are made elsewhere.
    pub rebuild_after: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            silence: Duration::from_secs(5),
            bookmark: Duration::from_secs(10),
            rebuild_after: Duration::from_secs(300),
        }
    }
}

/// A request was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the metadata cannot be changed or read: {0}")]
    Meta(#[from] MetaError),
    #[error(transparent)]
    Row(#[from] RowError),
    #[error("other conductors changed the same rows too often: try again")]
    Contended,
    #[error("the conductor is stopping")]
    Stopping,
}

/// What plans are made from.
pub(crate) struct View {
    pub(crate) state: ClusterState,
    pub(crate) live: Live,
}

/// The cluster behind the API.
pub(crate) struct Cluster<M> {
    store: M,
    view: RwLock<View>,
    /// Held from plan to apply.
    turn: Mutex<()>,
    revision: watch::Sender<Revision>,
    started: Instant,
    timing: Timing,
}

impl<M: MetaStore> Cluster<M> {
    /// Reads the state from the store; makes a new cluster of id `fresh` in an empty one.
    pub(crate) async fn open(
        store: M,
        timing: Timing,
        fresh: ClusterId,
    ) -> Result<Arc<Self>, ClusterError> {
        let mut state = load(&store).await?;
        if state.is_empty() {
            let plan = ClusterState::found(fresh);
            let transaction = state.transaction(&plan.reads, plan.changes);
            if store.commit(transaction).await? == Outcome::Conflict {
                return Err(ClusterError::Contended);
            }
            state = load(&store).await?;
        }
        if state.cluster() == ClusterId::default() {
            return Err(RowError::NoCluster.into());
        }
        state.renew_assignments();
        let start = Moment::default();
        let absence = Absence::new(timing.rebuild_after, timing.silence, start);
        let mut membership = Membership::new(timing.silence, start);
        for node in state.nodes_up() {
            membership.expect(node, start);
        }
        let revision = watch::Sender::new(state.revision());
        let view = RwLock::new(View {
            state,
            live: Live::new(membership, absence, Fills::new(timing.silence, start)),
        });
        let (turn, started) = (Mutex::new(()), Instant::now());
        Ok(Arc::new(Self {
            store,
            view,
            turn,
            revision,
            started,
            timing,
        }))
    }

    /// The moment that it is now.
    pub(crate) fn now(&self) -> Moment {
        Moment::after_start(self.started.elapsed())
    }

    /// How it keeps time.
    pub(crate) fn timing(&self) -> Timing {
        self.timing
    }

    /// The store, for its events.
    pub(crate) fn store(&self) -> &M {
        &self.store
    }

    /// The revision of the state, now and at each change.
    pub(crate) fn revisions(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// Looks at the state.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change_live<T>(&self, change: impl FnOnce(&mut View) -> T) -> T {
        change(&mut self.view.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Plans, commits and applies; gives the answer and the revision at which it holds.
    async fn transact<T: Send + 'static>(
        self: &Arc<Self>,
        plan: impl FnMut(&View) -> Result<Plan<T>, Refusal> + Send + 'static,
    ) -> Result<(T, Revision), ClusterError> {
        let cluster = Arc::clone(self);
        let work = tokio::spawn(async move { cluster.transact_here(plan).await });
        work.await.map_err(|_| ClusterError::Stopping)?
    }

    async fn transact_here<T>(
        &self,
        mut plan: impl FnMut(&View) -> Result<Plan<T>, Refusal>,
    ) -> Result<(T, Revision), ClusterError> {
        let _turn = self.turn.lock().await;
        for _ in 0..CONFLICTS_MAX {
            let (planned, transaction, at) = self.read(|view| {
                let mut planned = plan(view)?;
                let changes = std::mem::take(&mut planned.changes);
                let transaction = view.state.transaction(&planned.reads, changes);
                Ok::<_, Refusal>((planned, transaction, view.state.revision()))
            })?;
            if transaction.changes.is_empty() {
                return Ok((planned.answer, at));
            }
            match self.store.commit(transaction).await? {
                Outcome::Committed(revision) => {
                    self.follow().await?;
                    return Ok((planned.answer, revision));
                }
                Outcome::Conflict => self.follow().await?,
            }
        }
        Err(ClusterError::Contended)
    }

    /// Applies what the store has committed beyond the state.
    async fn follow(&self) -> Result<(), ClusterError> {
        loop {
            let from = self.read(|view| view.state.revision());
            let (list, up_to) = match self.store.events(from, EVENTS_MAX).await? {
                Events::Read { list, up_to } => (list, up_to),
                Events::Compacted => {
                    let state = load(&self.store).await?;
                    let revision = state.revision();
                    self.change_live(|view| {
                        view.state = state;
                        view.state.renew_assignments();
                    });
                    self.revision.send_replace(revision);
                    return Ok(());
                }
            };
            let caught_up = up_to == from;
            self.change_live(|view| {
                for event in list {
                    view.state
                        .apply(event.revision, &event.key, event.value.as_deref())?;
                }
                view.state.reached(up_to);
                Ok::<_, RowError>(())
            })?;
            if caught_up {
                return Ok(());
            }
            self.revision.send_replace(up_to);
        }
    }

    /// Waits until `done` gives an answer or the time is up.
    pub(crate) async fn wait_for<T>(
        &self,
        wait: Duration,
        mut done: impl FnMut(&View) -> Option<T>,
    ) -> Option<T> {
        let mut revisions = self.revision.subscribe();
        let until = Instant::now() + wait;
        loop {
            revisions.mark_unchanged();
            if let Some(answer) = self.read(&mut done) {
                return Some(answer);
            }
            match tokio::time::timeout_at(until, revisions.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return None,
            }
        }
    }
}

/// The state as the store has it, at one revision.
async fn load<M: MetaStore>(store: &M) -> Result<ClusterState, ClusterError> {
    let mut state = ClusterState::empty();
    let (mut after, mut first) = (None, None);
    loop {
        let page = store.scan("", after.as_ref(), PAGE_ROWS_MAX).await?;
        let first = *first.get_or_insert(page.revision);
        for row in &page.rows {
            state.apply(row.modified, &row.key, Some(&row.value))?;
        }
        if page.more {
            after = page.rows.into_iter().last().map(|row| row.key);
            continue;
        }
        state.reached(first);
        return catch_up(store, state, first).await;
    }
}

/// Applies the events since the first page of a load.
async fn catch_up<M: MetaStore>(
    store: &M,
    mut state: ClusterState,
    mut from: Revision,
) -> Result<ClusterState, ClusterError> {
    loop {
        match store.events(from, EVENTS_MAX).await? {
            Events::Read { up_to, .. } if up_to == from => return Ok(state),
            Events::Read { list, up_to } => {
                for event in list {
                    state.apply(event.revision, &event.key, event.value.as_deref())?;
                }
                state.reached(up_to);
                from = up_to;
            }
            Events::Compacted => return Err(ClusterError::Contended),
        }
    }
}
