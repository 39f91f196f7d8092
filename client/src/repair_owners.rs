//! The repair owners of a store: volumes that nobody uses, attached to bring their replicas back.
//!
//! ```text
//!  store agent ── the tasks, whenever they change ──▶ crew ── one task each ──▶ owner
//!                                                               │   attach ─▶ leave it attached
//!                                                               │     ▲            │ fenced
//!                                                               │     └── pause ◀──┘
//!                                                               └ no longer a task: detach
//! ```
//!
//! Invariants: a volume is attached at most once, however often its task comes and goes; what
//! fails is tried again, ever more seldom, while the task stands; a store that stops lets go of all.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::rc::Rc;
use std::time::Duration;

use ashlar_proto::Address;
use ashlar_proto::api::{RepairTask, repair_owner};
use ashlar_reactor::Reactor;
use ashlar_reactor::channel::{Notify, remote};
use ashlar_reactor::future::{Either, race};

use crate::{AttachError, ClusterSource, Volume, VolumeOptions};

/// Lists of tasks on their way from the agent.
const LISTS_QUEUED_MAX: usize = 4;

/// The first pause after an attach that failed or did not last, and the longest.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(60);

/// How often to look whether an owner still has its volume.
const LOOK: Duration = Duration::from_secs(1);

/// An owner that has lasted this long begins with the first pause again.
const LASTED: Duration = Duration::from_secs(10);

/// How long a stop waits for volumes to be detached. One that is not can be taken all the same.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Where an agent sends the tasks of its node: all of them, at each change.
pub type RepairTasks = remote::Sender<Vec<RepairTask>>;

/// What the crew does with a volume.
trait Keeper: 'static {
    type Held;
    type Error: Display;

    async fn attach(&self, name: &str) -> Result<Self::Held, Self::Error>;

    /// Whether another owner has it.
    fn is_lost(&self, held: &Self::Held) -> bool;

    async fn detach(&self, held: Self::Held);
}

/// Attaches through the client library.
struct VolumeKeeper<C> {
    reactor: Reactor,
    source: Rc<C>,
    options: VolumeOptions,
}

impl<C: ClusterSource> Keeper for VolumeKeeper<C> {
    type Held = Volume;
    type Error = AttachError;

    async fn attach(&self, name: &str) -> Result<Volume, AttachError> {
        let (source, options) = (Rc::clone(&self.source), self.options.clone());
        Volume::attach(&self.reactor, source, name, options).await
    }

    fn is_lost(&self, volume: &Volume) -> bool {
        volume.health().fenced
    }

    async fn detach(&self, volume: Volume) {
        if let Err(error) = volume.detach().await {
            tracing::debug!(%error, "a repair owner was not detached cleanly");
        }
    }
}

/// The repair owners of one store, on its first reactor.
pub struct RepairOwners<C> {
    crew: Rc<Crew<VolumeKeeper<C>>>,
}

impl<C> std::fmt::Debug for RepairOwners<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tasks = self.crew.under_way.borrow();
        f.debug_struct("RepairOwners")
            .field("tasks", &tasks)
            .finish()
    }
}

impl<C: ClusterSource> RepairOwners<C> {
    /// Begins to carry out what is sent. `local` are stores of this process: the address by which
    /// the cluster knows them, and the one to reach them by.
    pub fn start(
        reactor: &Reactor,
        source: C,
        node_name: &str,
        local: Vec<(Address, Address)>,
    ) -> (Self, RepairTasks) {
        let mut options = VolumeOptions::new(repair_owner(node_name));
        options.repair = true;
        options.local = local;
        let keeper = VolumeKeeper {
            reactor: reactor.clone(),
            source: Rc::new(source),
            options,
        };
        let crew = Crew::new(reactor, keeper);
        let (tasks, lists) = remote::bounded(LISTS_QUEUED_MAX);
        let follower = Rc::clone(&crew);
        drop(reactor.spawn(async move { follower.follow(lists).await }));
        (Self { crew }, tasks)
    }

    /// Detaches all volumes. Call it before the store is stopped.
    pub async fn stop(self) {
        self.crew.stop().await;
    }
}

/// See the module.
struct Crew<K> {
    reactor: Reactor,
    keeper: K,
    wanted: RefCell<BTreeSet<RepairTask>>,
    /// Tasks that are looked after, the ones that are being let go of included.
    under_way: RefCell<BTreeSet<RepairTask>>,
    changed: Notify,
    is_stopping: Cell<bool>,
}

impl<K: Keeper> Crew<K> {
    fn new(reactor: &Reactor, keeper: K) -> Rc<Self> {
        Rc::new(Self {
            reactor: reactor.clone(),
            keeper,
            wanted: RefCell::default(),
            under_way: RefCell::default(),
            changed: Notify::new(),
            is_stopping: Cell::new(false),
        })
    }

    async fn follow(self: Rc<Self>, lists: remote::Receiver<Vec<RepairTask>>) {
        while let Some(tasks) = lists.recv().await {
            self.set(tasks);
        }
    }

    fn set(self: &Rc<Self>, tasks: Vec<RepairTask>) {
        // The agent may still send while the store stops.
        if self.is_stopping.get() {
            return;
        }
        self.wanted.replace(tasks.iter().cloned().collect());
        self.changed.notify_all();
        for task in tasks {
            if self.under_way.borrow_mut().insert(task.clone()) {
                let crew = Rc::clone(self);
                drop(
                    self.reactor
                        .spawn(async move { crew.look_after(task).await }),
                );
            }
        }
    }

    async fn stop(self: &Rc<Self>) {
        self.set(Vec::new());
        self.is_stopping.set(true);
        let ended = async {
            while !self.under_way.borrow().is_empty() {
                self.changed.notified().await;
            }
        };
        if self.reactor.timeout(STOP_WITHIN, ended).await.is_err() {
            tracing::warn!("volumes under repair are not detached yet: stopping without that");
        }
    }

    fn is_wanted(&self, task: &RepairTask) -> bool {
        self.wanted.borrow().contains(task)
    }

    /// Waits until the task is over.
    async fn over(&self, task: &RepairTask) {
        while self.is_wanted(task) {
            self.changed.notified().await;
        }
    }

    /// Sleeps, unless the task is over before.
    async fn pause(&self, task: &RepairTask, time: Duration) {
        race(self.reactor.sleep(time), self.over(task)).await;
    }

    async fn look_after(&self, task: RepairTask) {
        let mut pause = RETRY_FIRST;
        while self.is_wanted(&task) {
            let since = self.reactor.now();
            match race(self.keeper.attach(&task.name), self.over(&task)).await {
                Either::First(Ok(held)) => {
                    tracing::info!(volume = task.name, "attached to bring its replicas back");
                    self.hold(&task, held).await;
                }
                Either::First(Err(error)) => {
                    tracing::warn!(volume = task.name, %error, "cannot attach to repair");
                }
                Either::Second(()) => break,
            }
            if self.reactor.now() - since >= LASTED {
                pause = RETRY_FIRST;
            }
            self.pause(&task, pause).await;
            pause = (pause * 2).min(RETRY_LAST);
        }
        // No wait since the last look at what is wanted: a task that returns begins anew.
        self.under_way.borrow_mut().remove(&task);
        self.changed.notify_all();
    }

    /// Keeps a volume until its task is over or another owner has it; where it was only to be taken
    /// from a denied client, that is done.
    async fn hold(&self, task: &RepairTask, held: K::Held) {
        while !task.fence && self.is_wanted(task) && !self.keeper.is_lost(&held) {
            self.pause(task, LOOK).await;
        }
        self.keeper.detach(held).await;
        tracing::info!(volume = task.name, "let go after repair");
    }
}

#[cfg(test)]
mod tests;
