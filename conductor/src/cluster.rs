//! The cluster as a service: plans become commits, commits become state, state wakes who waits.
//!
//! Invariants:
//! - one change at a time, and each is durable before anybody sees it;
//! - a change that has begun is finished even when its caller goes away;
//! - only a conductor that leads changes anything (`leading`); the others follow.

mod access;
mod audit;
mod clients;
mod clones;
mod groups;
mod healing;
mod identities;
mod labels;
mod leading;
mod once;
mod publications;
mod rebalance;
mod recovery;
mod requests;
mod schedule;
mod servers;
mod settings;
mod snapshots;
mod space;
mod targets;
mod tasks;

use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ashlar_proto::api::Revision;
use ashlar_proto::limits::SHARD_BYTES_DEFAULT;
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_proto::{ByteCount, ClusterId, GroupId};
use tokio::sync::{Mutex, Notify, oneshot, watch};

use crate::audited::Asked;
use crate::bells::Bells;
use crate::gauges::Tallies;
use crate::live::Live;
use crate::membership::Moment;
use crate::meta::{Events, MetaError, MetaStore, Outcome, PAGE_ROWS_MAX, Term, Transaction};
use crate::refusal::Refusal;
use crate::row::RowError;
use crate::runtime::Runtime;
use crate::state::{ClusterState, Plan};
pub(crate) use access::NotMade;
use leading::fresh_live;

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
    /// The silence after which an owner that no store hears either is gone.
    pub owner_silence: Duration,
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
            owner_silence: Duration::from_secs(30),
            bookmark: Duration::from_secs(10),
            rebuild_after: Duration::from_secs(300),
        }
    }
}

/// What a cluster is opened with, beside its store.
#[derive(Clone, Copy, Debug)]
pub struct ClusterOptions {
    /// The id of a new cluster; one that is there keeps its own.
    pub fresh: ClusterId,
    /// How it keeps time.
    pub timing: Timing,
    /// Bytes of each shard of the volumes that are made from now on: whole blocks.
    pub shard_bytes: ByteCount,
}

impl ClusterOptions {
    /// With the usual times and lengths.
    #[must_use]
    pub fn new(fresh: ClusterId) -> Self {
        Self {
            fresh,
            timing: Timing::default(),
            shard_bytes: ByteCount::new(SHARD_BYTES_DEFAULT),
        }
    }
}

/// A request was not carried out; but for [`ClusterError::Refused`], as far as is known.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// As things stand it is not possible.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed.
    #[error("the metadata cannot be changed or read: {0}")]
    Meta(#[from] MetaError),
    /// The store holds what cannot be understood.
    #[error(transparent)]
    Row(#[from] RowError),
    /// Others were faster, again and again.
    #[error("other conductors changed the same rows too often: try again")]
    Contended,
    /// Another conductor leads, or none does yet.
    #[error("{}", not_leading(leader.as_deref()))]
    NotLeader {
        /// Where its API is, if that is known.
        leader: Option<String>,
    },
    /// The work was cut off.
    #[error("the conductor is stopping")]
    Stopping,
}

fn not_leading(leader: Option<&str>) -> String {
    match leader {
        Some(leader) => format!("this conductor does not lead: ask {leader}"),
        None => "no conductor leads at the moment: try again".to_owned(),
    }
}

/// What plans are made from.
pub(crate) struct View {
    pub(crate) state: ClusterState,
    pub(crate) live: Live,
    /// Since when this conductor leads, if it does.
    reign: Option<Reign>,
}

/// The time in which this conductor leads.
#[derive(Clone, Copy, Debug)]
struct Reign {
    term: Term,
    since: Moment,
    /// The first group of snapshots that is not of an earlier leader.
    first_group: GroupId,
}

impl View {
    /// Whether this conductor has begun to lead in that term, and not ended.
    fn leads_in(&self, term: Term) -> bool {
        self.reign.is_some_and(|reign| reign.term == term)
    }

    /// Whether it follows, and has not come as far as that yet. To who leads a revision ahead is of other
    /// metadata.
    fn is_behind(&self, revision: Revision) -> bool {
        self.reign.is_none() && revision > self.state.revision()
    }

    /// Weighs what was said. Whether that says anything else than before.
    fn weigh(&mut self, now: Moment) -> bool {
        let state = &self.state;
        let evidence = &mut self.live.evidence;
        evidence.look(now);
        evidence.tidy(now, |volume| state.has_volume(volume));
        for (volume, generation) in state.attached() {
            evidence.expect(now, volume, generation);
        }
        let judgment = self.state.judge(&self.live.evidence, now);
        let is_news = judgment != self.live.judgment;
        self.live.judgment = judgment;
        if is_news {
            self.live.calm = None;
        }
        is_news
    }
}

/// The cluster behind the API.
pub struct Cluster<M> {
    store: M,
    runtime: Arc<dyn Runtime>,
    view: RwLock<View>,
    /// Held from plan to apply.
    turn: Mutex<()>,
    /// One check of the metadata at a time.
    checking: Mutex<()>,
    revision: watch::Sender<Revision>,
    bells: Bells,
    started: Duration,
    timing: Timing,
    shard_bytes: ByteCount,
    tallies: Tallies,
}

impl<M: MetaStore> Cluster<M> {
    /// Reads the state from the store; makes a new cluster in an empty one. It keeps time only
    /// while [`Cluster::keep_time`] runs.
    ///
    /// # Errors
    /// [`ClusterError::Meta`], [`ClusterError::Row`]; [`ClusterError::Contended`] where another
    /// conductor changes things meanwhile.
    pub async fn open(
        store: M,
        runtime: Arc<dyn Runtime>,
        options: ClusterOptions,
    ) -> Result<Arc<Self>, ClusterError> {
        let ClusterOptions {
            fresh,
            timing,
            shard_bytes,
        } = options;
        let mut state = load(&store).await?;
        if state.is_empty() {
            let plan = ClusterState::found(fresh);
            let transaction = state.transaction(&plan.reads, plan.changes);
            // Where another conductor was faster, the cluster is as that one made it.
            store.commit(transaction).await?;
            state = load(&store).await?;
        }
        if state.cluster() == ClusterId::default() {
            return Err(RowError::NoCluster.into());
        }
        state.renew_assignments();
        let revision = watch::Sender::new(state.revision());
        let live = fresh_live(&state, timing, Moment::default());
        let reign = None;
        let view = RwLock::new(View { state, live, reign });
        let (turn, started) = (Mutex::new(()), runtime.elapsed());
        let cluster = Arc::new(Self {
            store,
            runtime,
            view,
            turn,
            checking: Mutex::new(()),
            revision,
            bells: Bells::default(),
            started,
            timing,
            shard_bytes,
            tallies: Tallies::default(),
        });
        cluster.attend().await?;
        Ok(cluster)
    }

    /// The cluster's id.
    pub(crate) fn id(&self) -> ClusterId {
        self.read(|view| view.state.cluster())
    }

    /// The moment that it is now.
    pub(crate) fn now(&self) -> Moment {
        Moment::after_start(self.uptime())
    }

    /// Milliseconds since 1970-01-01 UTC.
    pub(crate) fn wall_ms(&self) -> u64 {
        self.runtime.wall_ms()
    }

    /// What it counts.
    pub(crate) fn tallies(&self) -> &Tallies {
        &self.tallies
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.runtime.elapsed().saturating_sub(self.started)
    }

    /// How it keeps time.
    pub(crate) fn timing(&self) -> Timing {
        self.timing
    }

    /// How old the state may be at most, where another conductor leads.
    pub(crate) fn age(&self) -> Duration {
        self.store.age()
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
        let (answer, answered) = oneshot::channel();
        let asked = Asked::current();
        self.runtime.spawn(Box::pin(async move {
            let _ = answer.send(cluster.transact_here(plan, asked.as_deref()).await);
        }));
        answered.await.map_err(|_| ClusterError::Stopping)?
    }

    async fn transact_here<T>(
        &self,
        mut plan: impl FnMut(&View) -> Result<Plan<T>, Refusal>,
        asked: Option<&Asked>,
    ) -> Result<(T, Revision), ClusterError> {
        let _turn = self.turn.lock().await;
        let term = self.leads()?;
        for _ in 0..CONFLICTS_MAX {
            let (planned, mut transaction, at) = self.read(|view| {
                let mut planned = plan(view)?;
                let changes = std::mem::take(&mut planned.changes);
                let transaction = view.state.transaction(&planned.reads, changes);
                Ok::<_, Refusal>((planned, transaction, view.state.revision()))
            })?;
            if transaction.changes.is_empty() {
                return Ok((planned.answer, at));
            }
            transaction.term = (!is_planted(Planted::WriteUnfenced)).then_some(term);
            let entry = match asked {
                Some(asked) => self.join_entry(asked, &mut transaction).await?,
                None => None,
            };
            match self.commit(transaction).await? {
                Outcome::Committed(revision) => {
                    if let (Some(asked), Some(entry)) = (asked, &entry) {
                        asked.kept(entry);
                    }
                    self.follow().await?;
                    return Ok((planned.answer, revision));
                }
                Outcome::Conflict => self.follow().await?,
                Outcome::Deposed => return Err(ClusterError::NotLeader { leader: None }),
            }
        }
        Err(ClusterError::Contended)
    }

    /// Commits, and counts how long that takes.
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, MetaError> {
        let began = self.uptime();
        let outcome = self.store.commit(transaction).await;
        let is_done = matches!(outcome, Ok(Outcome::Committed(_) | Outcome::Conflict));
        let took = self.uptime().saturating_sub(began);
        self.tallies.note_commit(took, is_done);
        outcome
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
                    self.tell(revision);
                    self.bells.ring_everybody();
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
            self.tell(up_to);
        }
    }

    fn tell(&self, revision: Revision) {
        self.revision.send_replace(revision);
        let reassigned = self.change_live(|view| view.state.take_reassigned());
        self.bells.ring_nodes(reassigned);
        self.bells.ring();
    }

    /// Waits until `done` gives an answer or the time is up.
    pub(crate) async fn wait_for<T>(
        &self,
        wait: Duration,
        done: impl FnMut(&View) -> Option<T>,
    ) -> Option<T> {
        self.wait_at(self.bells.of_all(), wait, done).await
    }

    /// The same, looking only when that bell rings.
    async fn wait_at<T>(
        &self,
        bell: &Notify,
        wait: Duration,
        mut done: impl FnMut(&View) -> Option<T>,
    ) -> Option<T> {
        let mut over = None;
        loop {
            let mut changed = pin!(bell.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if let Some(answer) = self.read(&mut done) {
                return Some(answer);
            }
            let over = over.get_or_insert_with(|| self.runtime.sleep(wait));
            tokio::select! {
                biased;
                () = changed => {}
                () = over => return None,
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
