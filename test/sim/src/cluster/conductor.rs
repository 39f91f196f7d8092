//! The conductors of a simulated cluster: the real ones, in processes that crash, stall and return to
//! what their metadata say. There is one, or several of which one leads ([`super::seat`]).
//!
//! ```text
//!  owner, store ── Road: delays, losses, cuts ──▶ a task in the conductor's process ──▶ Cluster
//!        ▲                                                    │                            │
//!        └── answer, or none that tells: lost, too late, dead ┘              SimStore over Archive
//! ```

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
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
use super::seat::{LifeId, Standing, keep_leases};

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

/// The pause of who was told that another one leads.
const SENT_ON: Duration = Duration::from_millis(50);
/// Of a million requests, how many go to whichever conductor, whoever answered last.
const ASTRAY_PER_MILLION: u32 = 50_000;

/// The conductors, over all their lives.
pub struct Conductor {
    archive: Archive,
    options: ClusterOptions,
    rng: RefCell<Rng>,
    /// What is wrong with the roads.
    pub roads: RefCell<Roads>,
    lives: RefCell<Vec<Option<Life>>>,
    lives_begun: Cell<u64>,
    /// Which one each host asks first.
    first: RefCell<BTreeMap<IpAddr, usize>>,
    /// Keeps the leases, where there are several.
    etcd: Option<Process>,
}

/// One life of it.
#[derive(Clone)]
struct Life {
    process: Process,
    runtime: Arc<SimRuntime>,
    /// What it knows of the others, if there are any.
    standing: Option<Arc<Standing>>,
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
    /// One.
    pub fn new(archive: Archive, options: ClusterOptions, rng: Rng) -> Rc<Self> {
        Self::several(archive, options, rng, 1, None)
    }

    /// So many; where there are more than one, the process keeps their leases.
    pub fn several(
        archive: Archive,
        options: ClusterOptions,
        rng: Rng,
        count: usize,
        etcd: Option<Process>,
    ) -> Rc<Self> {
        if let Some(etcd) = &etcd {
            archive.have_several();
            let reactor = etcd.reactor().clone();
            drop(reactor.spawn(keep_leases(archive.clone(), reactor.clone())));
        }
        Rc::new(Self {
            archive,
            options,
            rng: RefCell::new(rng),
            roads: RefCell::default(),
            lives: RefCell::new(vec![None; count.max(1)]),
            lives_begun: Cell::default(),
            first: RefCell::default(),
            etcd,
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lives.borrow().len()
    }

    fn are_several(&self) -> bool {
        self.etcd.is_some()
    }

    fn life(&self, index: usize) -> Option<Life> {
        self.lives.borrow()[index].clone()
    }

    /// The one that leads; the only one where there is one.
    pub fn leading(&self) -> Option<usize> {
        if !self.are_several() {
            return Some(0);
        }
        let leads = self.archive.seat(|seat| seat.leads());
        let of = |life: &Option<Life>| {
            let standing = life.as_ref().and_then(|life| life.standing.as_ref());
            standing.map(|standing| standing.life)
        };
        let lives = self.lives.borrow();
        lives
            .iter()
            .position(|life| leads.is_some() && of(life) == leads)
    }

    /// The one that a host asks.
    fn asked_by(&self, host: IpAddr) -> usize {
        let count = self.count();
        if self.are_several() {
            let mut rng = self.rng.borrow_mut();
            if rng.chance(ASTRAY_PER_MILLION) {
                return rng.index(count);
            }
        }
        self.first.borrow().get(&host).copied().unwrap_or(0)
    }

    /// That host asks another one next time: the one that leads, or just the next.
    fn pass_over(&self, host: IpAddr, index: usize, leader: Option<usize>) {
        let next = leader.unwrap_or((index + 1) % self.count());
        self.first.borrow_mut().insert(host, next);
    }

    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    pub fn is_alive(&self, index: usize) -> bool {
        self.life(index).is_some_and(|life| life.process.is_alive())
    }

    /// Begins a new life of one in that process.
    pub fn start(&self, index: usize, process: Process) {
        if !self.are_several() {
            self.archive.crash();
        }
        let runtime = Arc::new(SimRuntime::default());
        self.lives_begun.set(self.lives_begun.get() + 1);
        let begun = LifeId(self.lives_begun.get());
        let standing = || Arc::new(Standing::new(begun, self.archive.revision()));
        let life = Life {
            process,
            runtime: Arc::clone(&runtime),
            standing: self.are_several().then(standing),
            cluster: Rc::default(),
        };
        let reactor = life.process.reactor().clone();
        drop(reactor.spawn(Arc::clone(&runtime).drive(reactor.clone())));
        if let Some(standing) = &life.standing {
            let standing = Arc::clone(standing).stand(self.archive.clone(), reactor.clone());
            drop(reactor.spawn(standing));
        }
        let opening = open(
            self.archive.clone(),
            Surroundings {
                runtime: Arc::clone(&runtime),
                standing: life.standing.clone(),
                reactor: reactor.clone(),
            },
            self.options,
            Rc::clone(&life.cluster),
        );
        drop(reactor.spawn(runtime.on_time(reactor.clone(), opening)));
        self.lives.borrow_mut()[index] = Some(life);
    }

    pub fn crash(&self, index: usize) {
        let life = self.lives.borrow_mut()[index].take();
        if let Some(life) = life {
            life.process.crash();
        }
    }

    /// Its process does nothing for a while; its clock goes on.
    pub fn stall(&self, index: usize, time: Duration) {
        if let Some(life) = self.life(index) {
            life.process.stall(time);
        }
    }

    /// It gives up the lead, if it has it, in the middle of whatever it does.
    pub fn resign(&self, index: usize) {
        if let Some(standing) = self.life(index).and_then(|life| life.standing) {
            standing.resign(&self.archive);
        }
    }

    /// Has it do something after a while, whoever asked; nobody waits for that.
    pub fn tell<F>(&self, after: Duration, deed: impl FnOnce(SimCluster) -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        let leading = self.leading().and_then(|index| self.serving(index));
        if let Some((life, cluster)) = leading {
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

    fn serving(&self, index: usize) -> Option<(Life, SimCluster)> {
        let life = self.life(index)?;
        let cluster = life.cluster.borrow().clone()?;
        life.process.is_alive().then_some((life, cluster))
    }
}

/// What a life has around it.
struct Surroundings {
    runtime: Arc<SimRuntime>,
    standing: Option<Arc<Standing>>,
    reactor: Reactor,
}

/// Reads the metadata, then keeps time.
async fn open(
    archive: Archive,
    around: Surroundings,
    options: ClusterOptions,
    slot: Rc<RefCell<Option<SimCluster>>>,
) {
    let Surroundings {
        runtime,
        standing,
        reactor,
    } = around;
    let cluster = loop {
        let store = SimStore::new(archive.clone(), Arc::clone(&runtime), standing.clone());
        match Cluster::open(store, Arc::<SimRuntime>::clone(&runtime), options).await {
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
        let index = self.conductor.asked_by(self.host);
        let Some((life, cluster)) = self.conductor.serving(index) else {
            // Nobody listens there: that is known at once.
            self.conductor.pass_over(self.host, index, None);
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
            self.conductor.pass_over(self.host, index, None);
            return Err(CallError::Unreachable);
        };
        request.is_dropped.set(false);
        self.reactor.sleep(fate.back).await;
        if fate.is_lost_back || self.is_cut() {
            return self.hear_nothing().await;
        }
        if let Err(ClusterError::NotLeader { .. }) = outcome {
            // A client is sent on, and asks again.
            let leader = self.conductor.leading();
            self.conductor.pass_over(self.host, index, leader);
            self.reactor.sleep(SENT_ON).await;
            return Err(CallError::Unreachable);
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
