//! The conductor of a simulated cluster: the real one, in a process that crashes, stalls and
//! returns to what its metadata say.
//!
//! ```text
//!  owner, store ── Road: delays, losses, cuts ──▶ a task in the conductor's process ──▶ Cluster
//!        ▲                                                    │                            │
//!        └── answer, or none that tells: lost, too late, dead ┘              SimStore over Archive
//! ```

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ashlar_conductor::{Cluster, ClusterError, ClusterOptions};
use ashlar_reactor::channel::oneshot;
use ashlar_reactor::sim::{Process, Rng};
use ashlar_reactor::{Reactor, Task};

use super::metadata::{Archive, SimStore};
use super::runtime::SimRuntime;

/// Pause after a start that failed.
const RETRY: Duration = Duration::from_millis(200);
/// How long an answer may take that waits for nobody.
pub const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long a caller without an answer takes to see that it has none.
const SILENCE: Duration = Duration::from_secs(1);
/// How long a request under way takes at most, in µs, and one that is held up.
const TRAVEL_US_MAX: u64 = 3_000;
const HELD_UP_US_MAX: u64 = 8_000_000;
/// After this time nothing is under way any more that was held up.
pub const HELD_UP_MAX: Duration = Duration::from_micros(HELD_UP_US_MAX + TRAVEL_US_MAX);

/// The conductor's own code, over the metadata of the simulation.
pub type SimCluster = Arc<Cluster<SimStore>>;

/// What befalls those who call.
#[derive(Clone, Debug, Default)]
pub struct Roads {
    /// Of a million requests, and of a million answers, how many are lost.
    pub lost_per_million: u32,
    /// Of a million requests, how many arrive when their caller has given up.
    pub late_per_million: u32,
    /// Of a million proposals, how many arrive once more, later.
    pub echoes_per_million: u32,
    /// Hosts that do not reach the conductor.
    pub cut_off: BTreeSet<IpAddr>,
}

/// The conductor, over all its lives.
pub struct Conductor {
    archive: Archive,
    options: ClusterOptions,
    rng: RefCell<Rng>,
    /// What is wrong with the roads.
    pub roads: RefCell<Roads>,
    life: RefCell<Option<Life>>,
}

/// One life of it.
#[derive(Clone)]
struct Life {
    process: Process,
    runtime: Arc<SimRuntime>,
    /// Once it has read its metadata.
    cluster: Rc<RefCell<Option<SimCluster>>>,
}

/// Why a caller has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It may or may not have been done.
    #[error("the conductor does not answer")]
    Unreachable,
    /// It was not done.
    #[error(transparent)]
    Refused(ClusterError),
}

impl Conductor {
    pub fn new(archive: Archive, options: ClusterOptions, rng: Rng) -> Rc<Self> {
        Rc::new(Self {
            archive,
            options,
            rng: RefCell::new(rng),
            roads: RefCell::default(),
            life: RefCell::default(),
        })
    }

    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    pub fn is_alive(&self) -> bool {
        let life = self.life.borrow();
        life.as_ref().is_some_and(|life| life.process.is_alive())
    }

    /// Begins a new life in that process.
    pub fn start(&self, process: Process) {
        self.archive.crash();
        let runtime = Arc::new(SimRuntime::default());
        let life = Life {
            process,
            runtime: Arc::clone(&runtime),
            cluster: Rc::default(),
        };
        let reactor = life.process.reactor().clone();
        drop(reactor.spawn(Arc::clone(&runtime).drive(reactor.clone())));
        let opening = open(
            self.archive.clone(),
            Arc::clone(&runtime),
            self.options,
            reactor.clone(),
            Rc::clone(&life.cluster),
        );
        drop(reactor.spawn(runtime.on_time(reactor.clone(), opening)));
        self.life.replace(Some(life));
    }

    pub fn crash(&self) {
        if let Some(life) = self.life.take() {
            life.process.crash();
        }
    }

    /// Its process does nothing for a while; its clock goes on.
    pub fn stall(&self, time: Duration) {
        if let Some(life) = &*self.life.borrow() {
            life.process.stall(time);
        }
    }

    /// Has it do something after a while, whoever asked; nobody waits for that.
    pub fn tell<F>(&self, after: Duration, deed: impl FnOnce(SimCluster) -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        if let Some((life, cluster)) = self.serving() {
            let (reactor, deed) = (life.process.reactor().clone(), deed(cluster));
            let clock = reactor.clone();
            let work = life.runtime.on_time(reactor.clone(), async move {
                clock.sleep(after).await;
                deed.await;
            });
            drop(reactor.spawn(work));
        }
    }

    /// Whether a proposal arrives a second time, and how much later.
    pub fn draw_echo(&self) -> Option<Duration> {
        let mut rng = self.rng.borrow_mut();
        let is_echoed = rng.chance(self.roads.borrow().echoes_per_million);
        is_echoed.then(|| Duration::from_micros(rng.below(HELD_UP_US_MAX)))
    }

    fn serving(&self) -> Option<(Life, SimCluster)> {
        let life = self.life.borrow().clone()?;
        let cluster = life.cluster.borrow().clone()?;
        life.process.is_alive().then_some((life, cluster))
    }
}

/// Reads the metadata, then keeps time.
async fn open(
    archive: Archive,
    runtime: Arc<SimRuntime>,
    options: ClusterOptions,
    reactor: Reactor,
    slot: Rc<RefCell<Option<SimCluster>>>,
) {
    let cluster = loop {
        let store = SimStore::new(archive.clone(), Arc::clone(&runtime));
        let surroundings = Arc::clone(&runtime);
        match Cluster::open(store, surroundings, options).await {
            Ok(cluster) => break cluster,
            Err(error) => tracing::info!(%error, "the conductor cannot start yet"),
        }
        reactor.sleep(RETRY).await;
    };
    slot.replace(Some(Arc::clone(&cluster)));
    cluster.keep_time().await;
}

/// How one request fares.
struct Fate {
    there: Duration,
    back: Duration,
    is_lost_there: bool,
    is_lost_back: bool,
    /// It arrives so much later, and nobody waits for the answer.
    late: Option<Duration>,
    /// Whether the conductor drops what a caller no longer waits for.
    is_dropped_with_caller: bool,
}

/// The way from a process to the conductor.
#[derive(Clone)]
pub struct Road {
    /// The caller's process.
    pub reactor: Reactor,
    /// Its host.
    pub host: IpAddr,
    /// The conductor.
    pub conductor: Rc<Conductor>,
}

impl Road {
    fn draw(&self) -> Fate {
        let mut rng = self.conductor.rng.borrow_mut();
        let roads = self.conductor.roads.borrow();
        Fate {
            there: Duration::from_micros(rng.below(TRAVEL_US_MAX)),
            back: Duration::from_micros(rng.below(TRAVEL_US_MAX)),
            is_lost_there: rng.chance(roads.lost_per_million),
            is_lost_back: rng.chance(roads.lost_per_million),
            late: rng
                .chance(roads.late_per_million)
                .then(|| Duration::from_micros(rng.below(HELD_UP_US_MAX))),
            is_dropped_with_caller: rng.chance(500_000),
        }
    }

    fn is_cut(&self) -> bool {
        self.conductor.roads.borrow().cut_off.contains(&self.host)
    }

    /// Has the conductor do something, and waits for the answer.
    pub async fn ask<T, F>(
        &self,
        patience: Duration,
        deed: impl FnOnce(SimCluster) -> F,
    ) -> Result<T, CallError>
    where
        T: 'static,
        F: Future<Output = Result<T, ClusterError>> + 'static,
    {
        let fate = self.draw();
        self.reactor.sleep(fate.there).await;
        if fate.is_lost_there || self.is_cut() {
            return self.hear_nothing().await;
        }
        let Some((life, cluster)) = self.conductor.serving() else {
            // Nobody listens there: that is known at once.
            return Err(CallError::Unreachable);
        };
        let (answer, answered) = oneshot();
        let (deed, late) = (deed(cluster), fate.late);
        let reactor = life.process.reactor().clone();
        let clock = reactor.clone();
        let work = life.runtime.on_time(reactor.clone(), async move {
            if let Some(late) = late {
                clock.sleep(late).await;
            }
            let _ = answer.send(deed.await);
        });
        let request = Request {
            task: reactor.spawn(work),
            is_dropped: Cell::new(fate.is_dropped_with_caller && late.is_none()),
        };
        if late.is_some() {
            return self.hear_nothing().await;
        }
        let heard = self.reactor.timeout(patience, answered).await;
        let Ok(Ok(outcome)) = heard else {
            return Err(CallError::Unreachable);
        };
        request.is_dropped.set(false);
        self.reactor.sleep(fate.back).await;
        if fate.is_lost_back || self.is_cut() {
            return self.hear_nothing().await;
        }
        outcome.map_err(CallError::Refused)
    }

    async fn hear_nothing<T>(&self) -> Result<T, CallError> {
        self.reactor.sleep(SILENCE).await;
        Err(CallError::Unreachable)
    }
}

/// A request that is being carried out. A server may notice that its client has hung up.
struct Request {
    task: Task<()>,
    is_dropped: Cell<bool>,
}

impl Drop for Request {
    fn drop(&mut self) {
        if self.is_dropped.get() {
            self.task.abort();
        }
    }
}
