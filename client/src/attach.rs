//! Attach and detach: the grant, the take-over of every shard, and the clean end.
//!
//! ```text
//! grant ─▶ open all of S ─▶ window ─▶ tails, copies ─▶ flush ─▶ commit who answered ─▶ settle ─▶ serve
//!              ▲                            │
//!              └────── a replica failed ────┘
//! ```
//!
//! Invariants: nothing is served, and no tail discarded, before the set of those who answered is
//! committed; no write uses the window before all of them have recorded it durably; a grant under
//! which nothing comes to be served is given back.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use ashlar_proto::api::{
    AttachRequest, Attachment, DetachRequest, DiskLocation, Shard as ShardMap, VolumeMap,
};
use ashlar_proto::limits::{BLOCK_BYTES, BLOCK_BYTES_U64, FRAME_DATA_BLOCKS_MAX, SLOTS_MAX};
use ashlar_proto::message::SetState;
use ashlar_proto::{Address, DiskId, Layer, ReplicaId, Seq, ShardIndex, Status, Window, lane_of};
use ashlar_reactor::future::join_all;
use ashlar_reactor::{Instant, Reactor};

use crate::beat;
use crate::block_device::{BlockError, Geometry};
use crate::budget::Budget;
use crate::candidate::Candidate;
use crate::catch_up;
use crate::flatten;
use crate::flush;
use crate::grant::Grant;
use crate::grow;
use crate::health::Counters;
use crate::hedge::HedgeBudget;
use crate::hold;
use crate::layers::{self, Layers};
use crate::map;
use crate::options::VolumeOptions;
use crate::origin::Origin;
use crate::peer::{LaneUser, Peer, PeerKey, PeerTimes};
use crate::quorum::{Mask, Quorum};
use crate::route::Route;
use crate::scrub::{self, ScrubPace};
use crate::shard::{Replica, Shard};
use crate::signal::{Promise, Signal};
use crate::snapshot::OpenSnapshotError;
use crate::source::{AnySource, ClusterSource, SourceError};
use crate::takeover::{Takeover, TakeoverError};
use crate::throttle::Throttle;
use crate::volume::{Core, Phase};
use crate::window::Seqs;
use crate::write_log::{AckOrder, WriteLog};

/// Longest read or write, in bytes.
pub(crate) const REQUEST_BYTES_MAX: u32 = 32 << 20;

const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The pause before a detach looks again whether every replica has every write.
const LAGGARD_PAUSE: Duration = Duration::from_millis(2);

/// Why a volume could not be attached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// The conductor did not grant it, or did not commit who answered.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Too few replicas of a shard answered in time to know every acknowledged write.
    #[error("shard {shard}: too few replicas answer to take the volume over")]
    Unavailable {
        /// The first such shard.
        shard: ShardIndex,
    },
    /// A replica failed on the way again and again, and too few others are there to go on without
    /// it.
    #[error(
        "shard {shard}: replica {replica} on disk {disk} of {address} fails the take-over \
         ({}), and the volume cannot be attached without it: {}, then attach again",
        told(*.problem), advice(*.problem)
    )]
    ReplicaFails {
        /// The first such shard.
        shard: ShardIndex,
        /// The replica.
        replica: ReplicaId,
        /// Its disk.
        disk: DiskId,
        /// Where the disk's store was reached.
        address: Address,
        /// What it answered; `None` where its session ended before it answered.
        problem: Option<Status>,
    },
    /// The snapshot that it is a clone of cannot be read.
    #[error("the snapshot that the volume is a clone of cannot be opened: {0}")]
    Origin(#[from] OpenSnapshotError),
    /// Another owner was granted the volume meanwhile.
    #[error("volume was attached elsewhere meanwhile")]
    Fenced,
    /// Damage on too many replicas: an acknowledged write may be on none of the others.
    #[error(
        "shard {shard}: too many of its replicas are damaged to be sure of every acknowledged \
         write, and it is not served with less: see `ashlar disk list` for the damage, and restore \
         the volume from a copy"
    )]
    Damaged {
        /// The shard.
        shard: ShardIndex,
    },
    /// The conductor's map of the volume does not hold together.
    #[error("the conductor's map of the volume is inconsistent: {what}")]
    Map {
        /// What is wrong.
        what: &'static str,
    },
}

fn told(problem: Option<Status>) -> &'static str {
    match problem {
        Some(Status::NoSpace) => "its disk is full",
        Some(Status::Device) => "its disk has failed",
        Some(_) => "it refuses what it is asked",
        None => "its session ends before it answers",
    }
}

fn advice(problem: Option<Status>) -> &'static str {
    match problem {
        Some(Status::NoSpace) => "make room there by deleting or trimming other volumes",
        Some(Status::Device) => "restart its store, or bring back the replicas that do not answer",
        _ => "see the log of its store",
    }
}

/// Asks for the next generation and takes every shard over.
pub(crate) async fn attach<C: ClusterSource>(
    reactor: &Reactor,
    source: C,
    name: &str,
    options: VolumeOptions,
) -> Result<Rc<Core>, AttachError> {
    let deadline = reactor.now() + options.attach_timeout;
    let taken = options.server.and_then(|server| server.take);
    let is_forced = options.force || taken.is_some();
    let source = Rc::new(source);
    let attachment = granted(reactor, &*source, name, &options, deadline).await?;
    let grant = Grant::new(reactor, Rc::clone(&source), name, &attachment.volume);
    match start(reactor, source, name, options, &attachment, deadline).await {
        Ok(core) => {
            grant.keep();
            Ok(core)
        }
        Err(error) => {
            // Taken from somebody, it may be served by the old owner still: it must not look detached.
            if is_forced {
                grant.keep();
            } else {
                grant.give_back().await;
            }
            Err(error)
        }
    }
}

/// Takes every shard over under a grant, and serves.
async fn start(
    reactor: &Reactor,
    source: Rc<dyn AnySource>,
    name: &str,
    options: VolumeOptions,
    grant: &Attachment,
    deadline: Instant,
) -> Result<Rc<Core>, AttachError> {
    let route = layout(grant)?;
    if !grant.volume.layers.is_sound() || grant.volume.head_layer == Layer::default() {
        let what = "layers";
        return Err(AttachError::Map { what });
    }
    let mut peers = BTreeMap::new();
    let candidates = candidates(reactor, grant, &options, &mut peers)?;
    let takeover = Takeover {
        reactor: reactor.clone(),
        source,
        name: name.to_owned(),
        volume: grant.volume.id,
        generation: grant.volume.generation,
        table: grant.volume.layers.clone(),
        window: None,
        patience: options.attach_patience,
        deadline,
        peers: peers.into_values().collect(),
    };
    let mut unserved = Unserved(takeover.peers.clone());
    let origin = match &grant.volume.origin {
        Some(info) => {
            let source = Rc::clone(&takeover.source);
            Some(Origin::open(reactor, source, info, &options).await?)
        }
        None => None,
    };
    let (candidates, window, may_have_lost) = take_over(&takeover, candidates, deadline).await?;
    unserved.0.clear();
    let core = serve(
        takeover,
        grant,
        options,
        route,
        candidates,
        window,
        may_have_lost,
    );
    // Before anybody asks it anything.
    core.origin.replace(origin.map(Rc::new));
    Ok(core)
}

/// Sessions that are closed when an attach fails, or is dropped before it ends.
pub(crate) struct Unserved(pub(crate) Vec<Rc<Peer>>);

impl Drop for Unserved {
    fn drop(&mut self) {
        for peer in &self.0 {
            peer.close();
        }
    }
}

async fn granted<C: ClusterSource>(
    reactor: &Reactor,
    source: &C,
    name: &str,
    options: &VolumeOptions,
    deadline: Instant,
) -> Result<Attachment, AttachError> {
    let request = AttachRequest {
        owner: options.owner.clone(),
        force: options.force,
        repair: options.repair,
        server: options.server,
        publication: options.publication,
    };
    let silent_until = deadline.min(reactor.now() + options.conductor_timeout);
    loop {
        // One that hangs is as good as one that is gone. An attach that it carries out later is of this
        // owner, who may ask for it again.
        let rest = silent_until.saturating_since(reactor.now());
        let asked = reactor.timeout(rest, source.attach(name, &request)).await;
        let error = match asked {
            Ok(Ok(grant)) => return Ok(grant),
            Ok(Err(error)) => error,
            Err(_) => SourceError::Unreachable,
        };
        let retry_until = match error {
            SourceError::Unreachable => silent_until,
            SourceError::NotReady => deadline,
            _ => return Err(error.into()),
        };
        if reactor.now() >= retry_until {
            return Err(error.into());
        }
        reactor.sleep(RETRY_PAUSE).await;
    }
}

/// The cut of the volume, checked against the map.
pub(crate) fn layout(grant: &Attachment) -> Result<Route, AttachError> {
    let volume = &grant.volume;
    let map = |what| AttachError::Map { what };
    let route = Route::new(volume.shard_bytes).ok_or(map("shard size"))?;
    let (size, shard_bytes) = (volume.size_bytes.get(), volume.shard_bytes.get());
    if size == 0 || !size.is_multiple_of(BLOCK_BYTES_U64) {
        return Err(map("volume size"));
    }
    if volume.shards.len() as u64 != size.div_ceil(shard_bytes) {
        return Err(map("number of shards"));
    }
    let in_order =
        |(position, shard): (usize, &ShardMap)| u64::from(shard.index.get()) == position as u64;
    if !volume.shards.iter().enumerate().all(in_order) {
        return Err(map("order of shards"));
    }
    Ok(route)
}

/// The replicas of every shard, the in-sync ones first, with the sessions that reach them.
pub(crate) fn candidates(
    reactor: &Reactor,
    grant: &Attachment,
    options: &VolumeOptions,
    peers: &mut BTreeMap<PeerKey, Rc<Peer>>,
) -> Result<Vec<Candidate>, AttachError> {
    let map = |what| AttachError::Map { what };
    let times = PeerTimes::of(options);
    let mut candidates = Vec::with_capacity(grant.volume.shards.len());
    for shard in &grant.volume.shards {
        let mut replicas = Vec::new();
        let in_sync = shard.replicas.iter().filter(|replica| replica.in_sync);
        let others = shard.replicas.iter().filter(|replica| !replica.in_sync);
        for replica in in_sync.clone().chain(others) {
            let location = grant.disks.iter().find(|disk| disk.disk == replica.disk);
            let location = location.ok_or(map("disk of a replica"))?;
            if location.lanes == 0 {
                return Err(map("lanes of a disk"));
            }
            let key = PeerKey {
                address: reached_at(location, options),
                node: location.node_name.clone(),
                disk: location.disk,
                lane: lane_of(grant.volume.id, shard.index, location.lanes),
            };
            let peer = peers
                .entry(key.clone())
                .or_insert_with(|| Peer::new(reactor, key, grant.cluster, times));
            replicas.push(Replica {
                id: replica.id,
                address: location.address.clone(),
                peer: Rc::clone(peer),
                table: Cell::new(0),
            });
        }
        let in_sync = in_sync.count();
        if in_sync == 0 || replicas.len() > SLOTS_MAX {
            return Err(map("in-sync replicas of a shard"));
        }
        let quorum = Quorum::new(grant.volume.ack, Mask::first(in_sync));
        candidates.push(Candidate::new(shard.index, shard.epoch, replicas, quorum));
    }
    Ok(candidates)
}

pub(crate) fn reached_at(location: &DiskLocation, options: &VolumeOptions) -> Address {
    let local = options
        .local
        .iter()
        .find(|(from, _)| *from == location.address);
    local.map_or_else(|| location.address.clone(), |(_, to)| to.clone())
}

/// Takes all shards over; from the start again where a replica failed on the way.
async fn take_over(
    takeover: &Takeover,
    mut candidates: Vec<Candidate>,
    deadline: Instant,
) -> Result<(Vec<Candidate>, Window, bool), AttachError> {
    loop {
        match takeover.run(&mut candidates).await {
            Ok((window, may_have_lost)) => return Ok((candidates, window, may_have_lost)),
            Err(TakeoverError::Fenced) => return Err(AttachError::Fenced),
            Err(TakeoverError::Damaged { shard }) => return Err(AttachError::Damaged { shard }),
            Err(TakeoverError::Source(error)) => return Err(error.into()),
            Err(TakeoverError::Failed { shard }) if takeover.reactor.now() >= deadline => {
                return Err(failure(&candidates, shard));
            }
            Err(TakeoverError::Failed { .. }) => {
                takeover.reactor.sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Why a shard could not be taken over in time.
fn failure(candidates: &[Candidate], shard: ShardIndex) -> AttachError {
    let candidate = candidates.iter().find(|c| c.index == shard);
    let failed = candidate.and_then(Candidate::failed_last);
    let Some((replica, problem)) = failed else {
        return AttachError::Unavailable { shard };
    };
    let key = replica.peer.key();
    AttachError::ReplicaFails {
        shard,
        replica: replica.id,
        disk: key.disk,
        address: key.address.clone(),
        problem,
    }
}

fn serve(
    takeover: Takeover,
    grant: &Attachment,
    options: VolumeOptions,
    route: Route,
    candidates: Vec<Candidate>,
    window: Window,
    may_have_lost: bool,
) -> Rc<Core> {
    let reactor = takeover.reactor.clone();
    let mut zeroes = reactor.buffer(usize::from(FRAME_DATA_BLOCKS_MAX) * BLOCK_BYTES);
    zeroes.fill(0);
    let published = grant.volume.publication.as_ref();
    let is_read_only = !options.repair && published.is_some_and(|one| one.read_only);
    let geometry = Geometry {
        size_bytes: grant.volume.size_bytes.get(),
        block_bytes_min: 512,
        block_bytes_preferred: 4096,
        request_bytes_max: REQUEST_BYTES_MAX,
        read_only: is_read_only,
    };
    let budget = Budget::new(options.in_flight_bytes, options.in_flight_requests);
    let scarce = Budget::new(options.scarce_bytes, options.in_flight_requests);
    let core = Rc::new(Core {
        reactor: reactor.clone(),
        options,
        source: takeover.source,
        name: takeover.name,
        cluster: grant.cluster,
        id: grant.volume.id,
        generation: grant.volume.generation,
        layers: Rc::new(Layers::new(&grant.volume, reactor.now())),
        hold: Rc::default(),
        geometry: Cell::new(geometry),
        growth: Rc::default(),
        origin: RefCell::default(),
        flatten: Rc::default(),
        route,
        replicas: grant.volume.replicas,
        peers: RefCell::new(takeover.peers),
        news: RefCell::new(Some(VolumeMap {
            volume: grant.volume.clone(),
            disks: grant.disks.clone(),
            revision: grant.revision,
        })),
        nodes: RefCell::new(grant.disks.iter().map(|at| (at.disk, at.node)).collect()),
        shards: RefCell::new(Rc::new([])),
        seqs: RefCell::new(Seqs::new(window)),
        first_window: window,
        lacking: Rc::default(),
        acked: Cell::new(AckOrder::NONE),
        flushed: Cell::new(AckOrder::NONE),
        locks: Rc::default(),
        budget,
        scarce,
        acks: Signal::default(),
        progress: Signal::default(),
        work: Rc::default(),
        listed: RefCell::default(),
        retained: Cell::new(0),
        phase: Cell::new(Phase::Serving),
        counters: Counters::default(),
        may_have_lost,
        repairs: Cell::new(0),
        repairing: RefCell::default(),
        hedges: HedgeBudget::full(),
        throttle: Throttle::default(),
        scrub_pace: ScrubPace::default(),
        zeroes: zeroes.freeze(),
    });
    core.flatten.note(&grant.volume);
    core.note_settings(&grant.volume.settings);
    let weak = Rc::downgrade(&core);
    take_in(&core, candidates, window.start());
    let background = flush::run_background(weak, Rc::clone(&core.work));
    drop(reactor.spawn(background));
    let following = map::follow(Rc::downgrade(&core), grant.revision);
    drop(reactor.spawn(following));
    drop(reactor.spawn(grow::run(Rc::downgrade(&core))));
    drop(reactor.spawn(layers::run(Rc::downgrade(&core))));
    drop(reactor.spawn(flatten::run(Rc::downgrade(&core))));
    drop(reactor.spawn(hold::run(Rc::downgrade(&core))));
    drop(reactor.spawn(beat::run(Rc::downgrade(&core))));
    drop(reactor.spawn(scrub::run(Rc::downgrade(&core))));
    let joins = catch_up::run(Rc::downgrade(&core), Rc::clone(&core.lacking));
    drop(reactor.spawn(joins));
    tracing::info!(volume = %core.name, generation = %core.generation, window = %window,
        may_have_lost, "volume attached");
    core
}

/// Serves shards that were taken over, behind those that are served already; every live replica of
/// theirs was told `stable`.
pub(crate) fn take_in(core: &Rc<Core>, candidates: Vec<Candidate>, stable: Seq) {
    let weak = Rc::downgrade(core);
    let mut shards = core.shards().to_vec();
    let mut behind = Vec::new();
    for candidate in candidates {
        let lost = candidate.lost_since();
        let shard = into_shard(&weak, candidate);
        assert_eq!(
            shard.index.get() as usize,
            shards.len(),
            "shards are taken in in order"
        );
        shard.told.set(stable);
        behind.extend(lost.slots().map(|slot| (Rc::clone(&shard), slot)));
        shards.push(shard);
    }
    core.shards.replace(shards.into());
    for (shard, slot) in behind {
        shard.set_behind(core, slot, false);
    }
}

fn into_shard(core: &Weak<Core>, candidate: Candidate) -> Rc<Shard> {
    let shard = Shard::new(
        Weak::clone(core),
        candidate.index,
        candidate.epoch,
        candidate.replicas,
        WriteLog::new(candidate.quorum),
    );
    for (slot, replica) in shard.replicas() {
        let user = Rc::downgrade(&shard) as Weak<dyn LaneUser>;
        replica.peer.add_user(user, slot);
    }
    shard
}

/// See [`crate::Volume::detach`].
pub(crate) async fn detach(core: &Rc<Core>) -> Result<(), BlockError> {
    core.check()?;
    core.phase.set(Phase::Detaching);
    let settled = drain_and_close(core).await;
    if core.phase.get() == Phase::Fenced {
        return Err(BlockError::Fenced);
    }
    let is_settled = settled.is_ok() && core.shards().iter().all(|shard| is_settled(core, shard));
    core.stop(Phase::Detached, BlockError::Detached);
    settled?;
    let request = DetachRequest {
        volume: core.id,
        generation: core.generation,
        served: true,
        settled: is_settled,
    };
    let deadline = core.reactor.now() + core.options.io_timeout;
    loop {
        match core.source.detach(&core.name, &request).await {
            Ok(()) | Err(SourceError::NotFound) => return Ok(()),
            Err(SourceError::Superseded) => return Err(BlockError::Fenced),
            Err(_) if core.reactor.now() >= deadline => return Err(BlockError::Unavailable),
            Err(_) => core.reactor.sleep(RETRY_PAUSE).await,
        }
    }
}

async fn drain_and_close(core: &Rc<Core>) -> Result<(), BlockError> {
    let has_unacked = |shard: &Rc<Shard>| shard.log.borrow().unacked().next().is_some();
    let drained = async {
        loop {
            let moment = core.acks.moment();
            let busy = core.listed.borrow().iter().any(has_unacked);
            if !busy || !core.is_running() {
                return;
            }
            core.acks.raised_since(moment).await;
        }
    };
    let in_time = core.reactor.timeout(core.options.io_timeout, drained).await;
    in_time.map_err(|_| BlockError::Unavailable)?;
    flush::flush_acknowledged(core).await?;
    await_laggards(core).await;
    flush::settle_all(core).await;
    if !core.is_running() {
        return Err(BlockError::Fenced);
    }
    for shards in core.shards().chunks(64) {
        join_all(shards.iter().map(|shard| close(core, shard))).await;
    }
    Ok(())
}

/// Waits, for as long as a replica may take to answer, until each that is live holds every write:
/// the next owner then finds nothing to make equal.
async fn await_laggards(core: &Rc<Core>) {
    let deadline = core.reactor.now() + core.options.request_timeout;
    let lags = |shard: &Rc<Shard>| shard.log.borrow().lags();
    while core.is_running() && core.reactor.now() < deadline {
        let moment = core.progress.moment();
        if !core.listed.borrow().iter().any(lags) {
            return;
        }
        let raised = core.progress.raised_since(moment);
        let _elapsed = core.reactor.timeout(LAGGARD_PAUSE, raised).await;
    }
}

/// Whether every replica of the set holds every write of the shard, durably.
fn is_settled(core: &Core, shard: &Shard) -> bool {
    let issued = core.seqs.borrow().last();
    let log = shard.log.borrow();
    log.is_empty() && log.quorum().proposed().is_none() && log.stable(issued) >= issued
}

async fn close(core: &Rc<Core>, shard: &Rc<Shard>) {
    let stamp = shard.stamp(core);
    let state = SetState {
        window: core.seqs.borrow().window(),
        stable: stamp.stable,
        settle: shard.log.borrow().is_empty(),
        caught_up: false,
    };
    let live = shard.log.borrow().live();
    let ask = |slot| shard.replica(slot).peer.ask(stamp.close(state));
    let asked: Vec<_> = live.slots().map(ask).collect();
    join_all(asked.iter().map(Promise::kept)).await;
}
