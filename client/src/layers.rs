//! The layers of an attached volume: which one writes carry, which are sealed, and how replicas read
//! them.
//!
//! ```text
//! the conductor seals n:  head told n+1 ─▶ writes carry n+1
//!                              ─▶ every write of n stable ─▶ the conductor is told: n is ready
//! a snapshot is deleted:  a new table ─▶ told to all of each set ─▶ the conductor is told
//! ```
//!
//! Invariants: nothing waits for a snapshot, neither writes nor reads; per block the writes of a higher
//! layer have higher seqs, and what is buried in a layer lies under those of the layers above, though
//! it has the last seq of its window; all replicas that are compared go by one table, so a new one waits
//! for a catch-up to end, for a while.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use ashlar_proto::api::{ReportLayers, Volume as VolumeInfo};
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_proto::{Layer, LayerTable, Seq, Status};
use ashlar_reactor::Instant;
use ashlar_reactor::future::join_all;

use crate::quorum::{Mask, Slot};
use crate::shard::{Replica, Shard};
use crate::signal::Signal;
use crate::source::SourceError;
use crate::volume::Core;

/// The pause before something that is under way is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The longest pause before a conductor that does not answer is told again.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How long a new table waits for replicas that catch up, before they must begin again.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(120);

/// Shards that are told of a table at once.
const SHARDS_AT_ONCE: usize = 64;

/// See the module.
pub(crate) struct Layers {
    /// What writes carry.
    head: Cell<Layer>,
    /// The head that the conductor has told last.
    told: Cell<Layer>,
    /// The last write that carries a layer below the head has this seq, or a lower one.
    sealed_at: Cell<Seq>,
    /// The table that replicas are to go by, and since when it is known.
    table: RefCell<(Rc<LayerTable>, Instant)>,
    /// What the conductor knows: the layer up to which all is settled, the version of the table.
    reported: Cell<(Layer, u32)>,
    /// Raised when there is something to do.
    wanted: Signal,
}

impl Layers {
    /// As a grant says; whoever was taken over goes by its table.
    pub(crate) fn new(volume: &VolumeInfo, now: Instant) -> Self {
        Self {
            head: Cell::new(volume.head_layer),
            told: Cell::new(volume.head_layer),
            sealed_at: Cell::new(Seq::NONE),
            table: RefCell::new((Rc::new(volume.layers.clone()), now)),
            reported: Cell::new((volume.settled_layer, volume.layers_applied)),
            wanted: Signal::default(),
        }
    }

    /// The layer at which the volume is read.
    pub(crate) fn head(&self) -> Layer {
        self.head.get()
    }

    /// The layer that a new write carries.
    pub(crate) fn stamp(&self) -> Layer {
        if is_planted(Planted::SealForgotten) && self.head.get() > Layer::new(1) {
            return self.sealed();
        }
        self.head.get()
    }

    /// The layer that writes leave as it is: that of the newest snapshot; 0 where there is none.
    pub(crate) fn below_head(&self) -> Layer {
        self.table.borrow().0.below(self.head())
    }

    /// Whether blocks may lie in layers below the head.
    pub(crate) fn has_sealed(&self) -> bool {
        self.head.get() > Layer::new(1)
    }

    /// The table that replicas are to go by.
    pub(crate) fn table(&self) -> Rc<LayerTable> {
        Rc::clone(&self.table.borrow().0)
    }

    /// Takes in what the conductor says of a volume.
    pub(crate) fn note(&self, volume: &VolumeInfo, now: Instant) {
        self.told.set(self.told.get().max(volume.head_layer));
        let (settled, table) = self.reported.get();
        let settled = settled.max(volume.settled_layer);
        self.reported
            .set((settled, table.max(volume.layers_applied)));
        if volume.layers.version > self.table.borrow().0.version {
            self.table.replace((Rc::new(volume.layers.clone()), now));
        }
        if self.is_any_due() {
            self.wanted.raise();
        }
    }

    /// Takes in a head that the conductor has told of.
    pub(crate) fn hear(&self, head: Layer) {
        self.told.set(self.told.get().max(head));
        if self.is_any_due() {
            self.wanted.raise();
        }
    }

    /// Has writes carry the head that was told last, if they do not yet. In one turn: what has a lower
    /// seq has a layer below.
    pub(crate) fn begin(&self, core: &Core) {
        if self.told.get() > self.head.get() {
            self.sealed_at.set(core.seqs.borrow().last());
            self.head.set(self.told.get());
            self.wanted.raise();
            tracing::info!(volume = %core.name, layer = %self.head.get(), "layer begins");
        }
    }

    /// The highest layer that no write carries any more.
    fn sealed(&self) -> Layer {
        Layer::new(self.head.get().get() - 1)
    }

    fn is_any_due(&self) -> bool {
        let (settled, table) = self.reported.get();
        let is_sealing = self.told.get() > self.head.get();
        is_sealing || self.sealed() > settled || self.table.borrow().0.version > table
    }
}

/// Looks after the layers of a volume for as long as it is attached.
pub(crate) async fn run(core: Weak<Core>) {
    let mut pause = LOOK_AGAIN;
    loop {
        let Some(strong) = core.upgrade().filter(|core| core.is_running()) else {
            return;
        };
        let (reactor, layers) = (strong.reactor.clone(), Rc::clone(&strong.layers));
        let moment = layers.wanted.moment();
        if !layers.is_any_due() {
            drop(strong);
            layers.wanted.raised_since(moment).await;
            pause = LOOK_AGAIN;
            continue;
        }
        let is_done = advance(&strong).await;
        drop(strong);
        if is_done {
            pause = LOOK_AGAIN;
            continue;
        }
        let _elapsed = reactor
            .timeout(pause, layers.wanted.raised_since(moment))
            .await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// One round; whether all that was due is done.
async fn advance(core: &Rc<Core>) -> bool {
    let layers = &core.layers;
    layers.begin(core);
    let table = tell_all(core).await;
    let is_settled = settle(core).await && layers.told.get() == layers.head.get();
    let (settled_before, table_before) = layers.reported.get();
    let settled = if is_settled {
        layers.sealed().max(settled_before)
    } else {
        settled_before
    };
    if settled == settled_before && table <= table_before {
        return false;
    }
    report(core, settled, table.max(table_before)).await && is_settled
}

/// Whether every write of the sealed layers is on all replicas of the sets, durably. Has them flush
/// what lacks.
async fn settle(core: &Rc<Core>) -> bool {
    let sealed_at = core.layers.sealed_at.get();
    let is_settled = |shard: &Rc<Shard>| {
        let issued = core.seqs.borrow().last();
        let log = shard.log.borrow();
        if is_planted(Planted::SnapshotReadyEarly) {
            let oldest = log.unacked().next();
            return oldest.is_none_or(|entry| entry.seq > sealed_at);
        }
        log.stable(issued) >= sealed_at
    };
    let deadline = core.reactor.now() + LOOK_AGAIN * 10;
    loop {
        let moment = core.progress.moment();
        let shards = core.shards();
        let late: Vec<_> = shards.iter().filter(|s| !is_settled(s)).collect();
        if late.is_empty() {
            return true;
        }
        for shard in late {
            let durable = shard.durable();
            let wanted = shard.log.borrow().undurable(&durable);
            shard.flush_up_to(&wanted);
            shard.settle(core);
        }
        let now = core.reactor.now();
        if now >= deadline || !core.is_running() {
            return false;
        }
        let raised = core.progress.raised_since(moment);
        let _elapsed = core.reactor.timeout(LOOK_AGAIN, raised).await;
    }
}

/// Tells every shard of the table; gives the version that all of all sets go by.
async fn tell_all(core: &Rc<Core>) -> u32 {
    let (table, since) = core.layers.table.borrow().clone();
    let (_, known) = core.layers.reported.get();
    if table.version <= known {
        return known;
    }
    let is_patient = core.reactor.now() - since < CATCH_UP_PATIENCE;
    let mut all = true;
    for some in core.shards().chunks(SHARDS_AT_ONCE) {
        let told = some.iter().map(|shard| async {
            let joining = shard.log.borrow().joining();
            if !joining.is_empty() && is_patient {
                return false;
            }
            for slot in joining.slots() {
                shard.stop_joining(core, slot);
            }
            tell(core, shard, &table).await
        });
        all &= join_all(told).await.into_iter().all(|told| told);
    }
    if all { table.version } else { known }
}

/// Tells the replicas of a shard's sets of a table; whether all of them go by it.
pub(crate) async fn tell(core: &Rc<Core>, shard: &Rc<Shard>, table: &Rc<LayerTable>) -> bool {
    let targets = shard.log.borrow().quorum().targets();
    let lacks = |slot: &Slot| shard.replica(*slot).table.get() < table.version;
    let late: Mask = targets.slots().filter(lacks).collect();
    let told = late.slots().map(|slot| async move {
        if !shard.log.borrow().live().has(slot) {
            return None;
        }
        let replica = shard.replica(slot);
        let problem = tell_one(core, shard, &replica, table).await;
        (problem == Some(Status::NoSpace)).then_some(slot)
    });
    let refused: Mask = join_all(told).await.into_iter().flatten().collect();
    let targets = shard.log.borrow().quorum().targets();
    // Who has no room for it leaves where others have; where nobody has, all stay as they are.
    if targets.slots().any(|slot| !lacks(&slot)) {
        for slot in refused.and(targets).slots() {
            shard.set_behind(core, slot, true);
        }
    }
    !targets.slots().any(|slot| lacks(&slot))
}

/// Tells one replica of a table, unless it goes by it already. Gives what it answered, if that was not
/// what was hoped for.
pub(crate) async fn tell_one(
    core: &Core,
    shard: &Shard,
    replica: &Replica,
    table: &LayerTable,
) -> Option<Status> {
    if replica.table.get() >= table.version {
        return None;
    }
    let stamp = shard.stamp(core).without_stable();
    let Ok(reply) = replica.peer.call(stamp.set_layers(table)).await else {
        return Some(Status::Unavailable);
    };
    let status = reply.header.status;
    if status == Status::Ok {
        replica.table.set(replica.table.get().max(table.version));
        return None;
    }
    tracing::warn!(volume = %core.name, shard = %shard.index, replica = %replica.id, ?status,
        "replica does not take a layer table");
    Some(status)
}

/// Tells the conductor; whether it has heard.
async fn report(core: &Rc<Core>, settled: Layer, table: u32) -> bool {
    let report = ReportLayers {
        volume: core.id,
        generation: core.generation,
        settled,
        table,
    };
    match core.source.report_layers(&core.name, &report).await {
        Ok(()) => {
            core.layers.reported.set((settled, table));
            true
        }
        Err(SourceError::Superseded | SourceError::NotFound) => {
            core.fence();
            false
        }
        Err(error) => {
            if error != SourceError::Unreachable {
                tracing::warn!(volume = %core.name, %error,
                    "the conductor does not take what is said of a volume's layers");
            }
            false
        }
    }
}
