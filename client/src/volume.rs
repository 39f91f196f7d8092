//! The owner of a volume: it orders its writes, sends each to all in-sync replicas in one hop, and
//! checks what it reads.
//!
//! Invariants: it lives on one reactor; it serves from the moment that every shard is taken over
//! until it is detached or fenced, and a fenced owner never serves again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::pin::pin;
use std::rc::Rc;

use ashlar_proto::api::{VolumeMap, VolumeSettings};
use ashlar_proto::message::Extent;
use ashlar_proto::{BlockIndex, ClusterId, Generation, Layer, ShardIndex, VolumeId, Window};
use ashlar_reactor::meters::{Measure, Operation, Stage};
use ashlar_reactor::{Buffer, Reactor, SharedBuffer};

use crate::attach::{self, AttachError};
use crate::beat::Nodes;
use crate::block_device::{BlockDevice, BlockError, Durability, Geometry, ZeroMode};
use crate::budget::Budget;
use crate::flatten::Flatten;
use crate::grow::Growth;
use crate::health::{Counters, VolumeHealth};
use crate::hedge::HedgeBudget;
use crate::hold::Hold;
use crate::layers::Layers;
use crate::locks::Locks;
use crate::membership;
use crate::options::VolumeOptions;
use crate::origin::Origin;
use crate::peer::Peer;
use crate::quorum::Slot;
use crate::route::Route;
use crate::scrub::ScrubPace;
use crate::shard::Shard;
use crate::signal::Signal;
use crate::source::{AnySource, ClusterSource};
use crate::throttle::Throttle;
use crate::window::Seqs;
use crate::write_log::AckOrder;
use crate::{flush, read, write, zero};

/// How often a writer that waits for room looks whether a replica lags.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(50);

/// Where an owner is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Serving,
    Detaching,
    Detached,
    Fenced,
}

/// What the handles of one owner share.
pub(crate) struct Core {
    pub(crate) reactor: Reactor,
    pub(crate) options: VolumeOptions,
    pub(crate) source: Rc<dyn AnySource>,
    pub(crate) name: String,
    pub(crate) cluster: ClusterId,
    pub(crate) id: VolumeId,
    pub(crate) generation: Generation,
    pub(crate) layers: Rc<Layers>,
    pub(crate) hold: Rc<Hold>,
    /// Its size only grows.
    pub(crate) geometry: Cell<Geometry>,
    pub(crate) growth: Rc<Growth>,
    /// What it shows wherever nothing was written to it.
    pub(crate) origin: RefCell<Option<Rc<Origin>>>,
    pub(crate) flatten: Rc<Flatten>,
    pub(crate) route: Route,
    pub(crate) replicas: u8,
    pub(crate) peers: RefCell<Vec<Rc<Peer>>>,
    /// They only become more.
    pub(crate) shards: RefCell<Rc<[Rc<Shard>]>>,
    pub(crate) seqs: RefCell<Seqs>,
    /// The first window of this generation.
    pub(crate) first_window: Window,
    /// The last acknowledgement given.
    pub(crate) acked: Cell<AckOrder>,
    /// The last that a completed flush covers.
    pub(crate) flushed: Cell<AckOrder>,
    pub(crate) locks: Rc<Locks>,
    pub(crate) budget: Rc<Budget>,
    /// Writes in flight that may take room, where that is scarce.
    pub(crate) scarce: Rc<Budget>,
    /// Raised at each acknowledgement.
    pub(crate) acks: Signal,
    /// Raised when more is durable, sets have changed, or the phase has.
    pub(crate) progress: Signal,
    /// Raised when a shard is listed, or enough bytes wait for a flush.
    pub(crate) work: Rc<Signal>,
    /// Raised when a replica has left a set, or the map has changed: it is to be brought back.
    pub(crate) lacking: Rc<Signal>,
    /// Where its disks are, as last told.
    pub(crate) nodes: RefCell<Nodes>,
    /// A map of the conductor that has not been looked at yet.
    pub(crate) news: RefCell<Option<VolumeMap>>,
    /// The shards that have had writes since they were last settled and told.
    pub(crate) listed: RefCell<Vec<Rc<Shard>>>,
    pub(crate) retained: Cell<u64>,
    pub(crate) phase: Cell<Phase>,
    pub(crate) counters: Counters,
    pub(crate) may_have_lost: bool,
    pub(crate) repairs: Cell<usize>,
    /// The copies that are being repaired.
    pub(crate) repairing: RefCell<BTreeSet<(ShardIndex, BlockIndex, Slot)>>,
    pub(crate) hedges: HedgeBudget,
    pub(crate) throttle: Throttle,
    pub(crate) scrub_pace: ScrubPace,
    /// A frame's worth of zeroes.
    pub(crate) zeroes: SharedBuffer,
}

impl Drop for Core {
    fn drop(&mut self) {
        self.phase.set(Phase::Detached);
        self.throttle.limit(None, None);
        self.scrub_pace.raise();
        self.work.raise();
        self.lacking.raise();
        self.hold.raise();
        for peer in self.peers.borrow().iter() {
            peer.close();
        }
    }
}

impl Core {
    /// Its shards as they are now, in order.
    pub(crate) fn shards(&self) -> Rc<[Rc<Shard>]> {
        Rc::clone(&self.shards.borrow())
    }

    /// One of them.
    pub(crate) fn shard(&self, index: ShardIndex) -> Option<Rc<Shard>> {
        let index = usize::try_from(index.get()).ok()?;
        self.shards.borrow().get(index).cloned()
    }

    /// What it shows wherever nothing was written to it, if it is a clone.
    pub(crate) fn origin(&self) -> Option<Rc<Origin>> {
        self.origin.borrow().clone()
    }

    /// Whether replicas are still looked after.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.phase.get(), Phase::Serving | Phase::Detaching)
    }

    /// Whether requests are taken.
    pub(crate) fn check(&self) -> Result<(), BlockError> {
        match self.phase.get() {
            Phase::Serving => Ok(()),
            Phase::Fenced => Err(BlockError::Fenced),
            Phase::Detaching | Phase::Detached => Err(BlockError::Detached),
        }
    }

    /// Another owner has the volume: this one can do nothing more.
    pub(crate) fn fence(&self) {
        if self.is_running() {
            tracing::warn!(volume = %self.name, generation = %self.generation,
                "volume was attached elsewhere: this owner is fenced");
            self.stop(Phase::Fenced, BlockError::Fenced);
        }
    }

    /// Waits until a request of so many bytes of a client is within the volume's limits.
    pub(crate) async fn admit(&self, bytes: u64) -> Result<(), BlockError> {
        if !self.throttle.is_open() {
            self.throttle.pass(&self.reactor, bytes).await;
            self.check()?;
        }
        Ok(())
    }

    /// Goes by the settings of the volume from now on.
    pub(crate) fn note_settings(&self, settings: &VolumeSettings) {
        let bytes = settings.bytes_per_second.map(|bytes| bytes.get());
        self.throttle.limit(settings.requests_per_second, bytes);
        self.scrub_pace.note(&self.options, settings);
    }

    /// Ends everything that runs or waits.
    pub(crate) fn stop(&self, phase: Phase, error: BlockError) {
        self.phase.set(phase);
        for shard in self.shards().iter() {
            shard.abandon(error);
        }
        let peers = self.peers.borrow().clone();
        for peer in &peers {
            peer.close();
        }
        self.throttle.limit(None, None);
        self.scrub_pace.raise();
        self.acks.raise();
        self.progress.raise();
        self.work.raise();
        self.lacking.raise();
        self.hold.raise();
    }

    /// Counts bytes kept for writes of `shard`.
    pub(crate) fn note_retained(&self, shard: &Shard, bytes: u64) {
        let retained = self.retained.get() + bytes;
        self.retained.set(retained);
        self.list(shard);
        let crosses =
            retained >= self.options.flush_bytes && retained - bytes < self.options.flush_bytes;
        if crosses {
            self.work.raise();
        }
    }

    /// Puts a shard on the list of those that are to be settled and told.
    pub(crate) fn list(&self, shard: &Shard) {
        if let Some(this) = shard.this.upgrade()
            && !shard.listed.replace(true)
        {
            self.listed.borrow_mut().push(this);
            self.work.raise();
        }
    }

    /// Counts bytes no longer kept.
    pub(crate) fn note_freed(&self, bytes: u64) {
        let before = self.retained.get();
        self.retained.set(before - bytes);
        if before >= self.options.retained_bytes_max {
            self.progress.raise();
        }
    }

    /// Awaits `future` for as long as a request may wait; costs no timer where it is ready.
    pub(crate) async fn bounded<T>(
        &self,
        future: impl Future<Output = T>,
    ) -> Result<T, BlockError> {
        let mut future = pin!(future);
        let ready = std::future::poll_fn(|context| {
            std::task::Poll::Ready(match future.as_mut().poll(context) {
                std::task::Poll::Ready(value) => Some(value),
                std::task::Poll::Pending => None,
            })
        });
        if let Some(value) = ready.await {
            return Ok(value);
        }
        let waited = self.reactor.timeout(self.options.io_timeout, future).await;
        self.check()?;
        waited.map_err(|_| BlockError::Unavailable)
    }

    /// Waits until writes may be given seqs: memory and window permitting, and no hold.
    pub(crate) async fn admit_writes(self: &Rc<Self>) -> Result<(), BlockError> {
        self.check()?;
        self.ask_for_window();
        if self.may_write() {
            return Ok(());
        }
        self.bounded(self.make_way()).await?
    }

    fn may_write(&self) -> bool {
        self.seqs.borrow().is_available()
            && !self.is_full()
            && !self.hold.is_held(self.reactor.now())
    }

    fn is_full(&self) -> bool {
        self.retained.get() >= self.options.retained_bytes_max
    }

    fn ask_for_window(self: &Rc<Self>) {
        if let Some(window) = self.seqs.borrow_mut().ask() {
            let core = Rc::clone(self);
            drop(self.reactor.spawn(membership::record_window(core, window)));
        }
    }

    /// Waits for the next window, and for the end of a hold. Where too much is kept: flushes what waits for a flush, and
    /// gives up on who lags.
    async fn make_way(self: &Rc<Self>) -> Result<(), BlockError> {
        loop {
            self.check()?;
            let moment = self.progress.moment();
            if self.may_write() {
                return Ok(());
            }
            self.ask_for_window();
            if self.is_full() {
                self.relieve();
            }
            let raised = self.progress.raised_since(moment);
            // What is looked at also depends on the clock: look again before long.
            let _elapsed = self.reactor.timeout(LOOK_AGAIN, raised).await;
        }
    }

    fn relieve(self: &Rc<Self>) {
        let shards = self.listed.borrow().clone();
        for shard in shards {
            let wanted = shard.log.borrow().undurable(&shard.durable());
            shard.flush_up_to(&wanted);
            let (behind, live) = {
                let log = shard.log.borrow();
                let behind = log.quorum().targets().minus(log.live()).minus(log.lost());
                (behind, log.live())
            };
            for slot in behind.slots() {
                membership::give_up_on(self, &shard, slot);
            }
            let joining = shard.log.borrow().joining();
            for slot in joining.slots() {
                let missing = shard.log.borrow().missing_bytes(slot);
                if missing >= self.options.retained_bytes_max / 4 {
                    shard.stop_joining(self, slot);
                }
            }
            if behind.is_empty() {
                let lags = |slot: &Slot| {
                    let missing = shard.log.borrow().missing_bytes(*slot);
                    missing >= self.options.retained_bytes_max / 4
                };
                if let Some(slot) = live.slots().find(lags)
                    && membership::give_up_on(self, &shard, slot)
                {
                    shard.set_behind(self, slot, true);
                }
            }
            shard.settle(self);
        }
    }
}

/// An attached volume. Clones are handles on the same attachment.
#[derive(Clone)]
pub struct Volume {
    pub(crate) core: Rc<Core>,
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume")
            .field("name", &self.core.name)
            .field("generation", &self.core.generation)
            .field("phase", &self.core.phase.get())
            .finish_non_exhaustive()
    }
}

impl Volume {
    /// Attaches a volume: asks for a generation, takes every shard over, and serves.
    ///
    /// On return no older owner can change or acknowledge anything, and every write that one of
    /// them acknowledged and flushed is here.
    ///
    /// # Errors
    /// [`AttachError`]: nothing is served; the older owner is fenced where it was reached. What the
    /// conductor granted is given back, in so far as it answers within seconds; also where this
    /// future is dropped.
    pub async fn attach<C: ClusterSource>(
        reactor: &Reactor,
        source: C,
        name: &str,
        options: VolumeOptions,
    ) -> Result<Self, AttachError> {
        let core = attach::attach(reactor, source, name, options).await?;
        Ok(Self { core })
    }

    /// Drains, flushes, leaves every replica settled, and gives the volume back.
    ///
    /// Requests made from here on fail with [`BlockError::Detached`].
    ///
    /// # Errors
    /// [`BlockError::Fenced`]: another owner has it. [`BlockError::Unavailable`]: the volume is
    /// given up without being settled, or the conductor could not be told.
    pub async fn detach(&self) -> Result<(), BlockError> {
        attach::detach(&self.core).await
    }

    /// The volume's id.
    #[must_use]
    pub fn id(&self) -> VolumeId {
        self.core.id
    }

    /// The layer that it is read at and that its writes carry: above all of its snapshots.
    #[must_use]
    pub fn head_layer(&self) -> Layer {
        self.core.layers.head()
    }

    /// The kinds of the blocks from `offset` on that were written since the snapshot of that layer; the
    /// others are absent. As [`BlockDevice::extents`] otherwise.
    ///
    /// # Errors
    /// As [`BlockDevice::extents`]; [`BlockError::Unavailable`] also where there is no such snapshot
    /// any more.
    pub async fn changed_since(
        &self,
        layer: Layer,
        offset: u64,
        len: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>, BlockError> {
        read::extents(&self.core, layer, offset, len, extents_max).await
    }

    /// The generation of this attachment.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.core.generation
    }

    /// How the volume fares.
    #[must_use]
    pub fn health(&self) -> VolumeHealth {
        let core = &self.core;
        let mut health = VolumeHealth {
            shards: core.shards().len() as u64,
            replicas_dropped: core.counters.replicas_dropped.get(),
            damage_seen: core.counters.damage_seen.get(),
            blocks_repaired: core.counters.blocks_repaired.get(),
            reads_retried: core.counters.reads_retried.get(),
            reads_hedged: core.counters.reads_hedged.get(),
            may_have_lost: core.may_have_lost,
            fenced: core.phase.get() == Phase::Fenced,
            ..VolumeHealth::default()
        };
        for shard in core.shards().iter() {
            let log = shard.log.borrow();
            let live = log.live().and(log.quorum().in_sync());
            health.shards_degraded += u64::from(live.len() < usize::from(core.replicas));
            health.shards_unavailable += u64::from(!log.quorum().acknowledged_by(live));
        }
        health
    }
}

impl Volume {
    fn measure(&self, operation: Operation, bytes: u64) -> Measure<'_> {
        self.core.reactor.measure(Stage::Owner, operation, bytes)
    }
}

impl BlockDevice for Volume {
    fn geometry(&self) -> Geometry {
        self.core.geometry.get()
    }

    async fn read(&self, offset: u64, len: u32) -> Result<Vec<SharedBuffer>, BlockError> {
        let measure = self.measure(Operation::Read, u64::from(len));
        let work = async {
            self.core.admit(u64::from(len)).await?;
            read::read(&self.core, offset, len).await
        };
        measure.end(work.await)
    }

    async fn write(
        &self,
        offset: u64,
        data: Buffer,
        durability: Durability,
    ) -> Result<(), BlockError> {
        let measure = self.measure(Operation::Write, data.len() as u64);
        let work = async {
            self.core.admit(data.len() as u64).await?;
            write::write(&self.core, offset, data).await?;
            flush::after_write(&self.core, durability).await
        };
        measure.end(work.await)
    }

    async fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        mode: ZeroMode,
        durability: Durability,
    ) -> Result<(), BlockError> {
        let measure = self.measure(Operation::Discard, len);
        let work = async {
            self.core.admit(0).await?;
            zero::write_zeroes(&self.core, offset, len, mode).await?;
            flush::after_write(&self.core, durability).await
        };
        measure.end(work.await)
    }

    async fn trim(&self, offset: u64, len: u64, durability: Durability) -> Result<(), BlockError> {
        let measure = self.measure(Operation::Discard, len);
        let work = async {
            self.core.admit(0).await?;
            zero::trim(&self.core, offset, len).await?;
            flush::after_write(&self.core, durability).await
        };
        measure.end(work.await)
    }

    async fn flush(&self) -> Result<(), BlockError> {
        let measure = self.measure(Operation::Flush, 0);
        measure.end(flush::flush(&self.core).await)
    }

    async fn extents(
        &self,
        offset: u64,
        len: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>, BlockError> {
        read::extents(&self.core, Layer::default(), offset, len, extents_max).await
    }
}
