//! The store's service: opens disks, recovers lanes, accepts owners, does what control tells it.
//!
//! Invariants: nothing is answered by a lane before it has recovered, nor by a disk that belongs
//! to no cluster or to another one; a disk that fails takes nothing else with it; memory per
//! connection that has not said hello is one link, for at most [`HELLO_WITHIN`].
//!
//! ```text
//! accept ─▶ hello ─▶ route (disk, lane) ─▶ worker of the lane ─▶ session
//! control ─▶ report │ inventory │ set cluster │ apply │ stop
//! ```

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::{
    Assignment, DiskReport, FoundReplica, OWNERS_SEEN_MAX, Observed, OwnerSeen, PeerTarget,
};
use ashlar_proto::frame::{PROTOCOL_VERSION, open_meta};
use ashlar_proto::message::{Hello, HelloReply};
use ashlar_proto::{
    Address, ByteCount, ClusterId, DiskId, FrameKind, Incarnation, LaneIndex, Status, lane_of,
};
use ashlar_reactor::channel::{Permit, Semaphore, remote};
use ashlar_reactor::future::join_all;
use ashlar_reactor::link::{self, Frame, Link, LinkError, LinkListener};
use ashlar_reactor::{DiskOptions, Instant, NetError, Reactor, Remote, Stopped, Task};

use crate::control::{Applied, Command, ControlError, Inventory, Refusal, Refused, StoreControl};
use crate::disk::DiskOpenError;
use crate::disks::{DiskEntry, open_disks};
use crate::heard::newest;
use crate::lane::LaneOptions;
use crate::map_budget::MapBudget;
use crate::peers::Peers;
use crate::place::Place;
use crate::session::Greeting;
use crate::worker::{Ended, LaneStart, Worker};

/// How long a new connection may take to say hello.
pub const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// How long owners may take to find a store again that has started.
const OWNERS_RETURN_WITHIN: Duration = Duration::from_secs(15);

/// Connections of a store, greeted or not. Further ones wait to be accepted.
pub const CONNECTIONS_MAX: usize = 1024;

/// What a store is made of.
#[derive(Clone, Debug, Default)]
pub struct StoreOptions {
    /// Its disks, formatted.
    pub disks: Vec<DiskOptions>,
    /// Where owners reach it.
    pub listen: Vec<Address>,
    /// Reactors on other threads that serve lanes beside the one that starts the store. Owners
    /// reach the lanes there through sockets only, not through [`Address::Local`].
    pub workers: Vec<Remote>,
    /// How each lane uses its machine.
    pub lane: LaneOptions,
    /// Memory for the maps of all lanes together; none: what `lane` says for each.
    pub maps: Option<MapBudget>,
}

/// A store could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartStoreError {
    /// None of its disks can be used.
    #[error("no disk can be used; the first: {first}")]
    NoDisk {
        /// What is wrong with the first one.
        first: DiskOpenError,
    },
    /// It was given no disk.
    #[error("a store needs at least one disk")]
    NoDisks,
    /// Two of its disks carry the same id: one is a copy of the other.
    #[error("disks {path} and {other} carry the same id {disk}: one is a copy of the other")]
    SameDisk {
        /// Their id.
        disk: DiskId,
        /// One.
        path: String,
        /// The other.
        other: String,
    },
    /// An address cannot be listened at.
    #[error(transparent)]
    Listen(#[from] NetError),
    /// A reactor that was to serve lanes has stopped.
    #[error("a reactor that was to serve lanes has stopped")]
    Worker(#[from] Stopped),
}

/// A running store.
#[derive(Debug)]
pub struct StoreHandle {
    control: StoreControl,
    addresses: Vec<Address>,
    unreadable: Vec<String>,
    running: Task<()>,
}

impl StoreHandle {
    /// The handle for its agent.
    #[must_use]
    pub fn control(&self) -> StoreControl {
        self.control.clone()
    }

    /// Where it listens, with the ports that were taken.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Disks that could not even be identified, and why: they are in no report.
    #[must_use]
    pub fn unreadable(&self) -> &[String] {
        &self.unreadable
    }

    /// Waits until it has been stopped.
    pub async fn stopped(self) {
        self.running.await;
    }
}

/// See the module.
pub struct StoreService {
    reactor: Reactor,
    disks: BTreeMap<DiskId, DiskEntry>,
    places: Vec<Place>,
    /// The places of connections that are being served.
    connections: RefCell<BTreeMap<u64, Permit>>,
    connections_made: Cell<u64>,
    connection_ended: remote::Sender<u64>,
    serving: RefCell<Vec<Task<()>>>,
    peers: Peers,
    started: Instant,
    /// Changes of clusters and assignments, one at a time.
    changes: Semaphore,
    stopping: Cell<bool>,
}

impl StoreService {
    /// Opens the disks, recovers their lanes, and serves. A disk that fails at any of it is
    /// reported; the others serve.
    ///
    /// # Errors
    /// [`StartStoreError`] when no disk can be identified, or an address not be listened at.
    pub async fn start(
        reactor: &Reactor,
        options: StoreOptions,
    ) -> Result<StoreHandle, StartStoreError> {
        let (disks, unreadable) = open_disks(reactor, &options.disks).await?;
        let mut places = vec![Place::Here(Worker::new(reactor))];
        for worker in &options.workers {
            places.push(Place::there(worker)?);
        }
        let (connection_ended, ended) = remote::bounded(CONNECTIONS_MAX);
        let service = Rc::new(Self {
            reactor: reactor.clone(),
            disks,
            places,
            connections: RefCell::default(),
            connections_made: Cell::new(0),
            connection_ended,
            serving: RefCell::default(),
            peers: Peers::new(reactor),
            started: reactor.now(),
            changes: Semaphore::new(1),
            stopping: Cell::new(false),
        });
        service.recover(&options.lane, options.maps).await;
        let noting = reactor.spawn(Rc::clone(&service).note_ended(ended));
        service.serving.borrow_mut().push(noting);
        let mut addresses = Vec::new();
        let room = Semaphore::new(CONNECTIONS_MAX);
        for address in &options.listen {
            let listener = link::listen(reactor, address).await?;
            addresses.push(listener.local_address());
            let accepting = Rc::clone(&service).accept(listener, room.clone());
            service.serving.borrow_mut().push(reactor.spawn(accepting));
        }
        let (control, commands) = StoreControl::new();
        let running = reactor.spawn(service.run(commands));
        Ok(StoreHandle {
            control,
            addresses,
            unreadable,
            running,
        })
    }

    async fn recover(&self, options: &LaneOptions, maps: Option<MapBudget>) {
        let mut lanes = Vec::new();
        let disks = self.disks.values().map(|entry| entry.size.get()).sum();
        let disks = ByteCount::new(disks);
        if let Some(maps) = maps {
            tracing::info!(
                bytes = maps.bytes(disks).get(),
                "memory for the maps of all disks"
            );
        }
        for entry in self.disks.values() {
            let mut options = options.clone();
            if let Some(maps) = maps {
                let lane = ByteCount::new(entry.size.get() / u64::from(entry.lanes.max(1)));
                maps.apply(&mut options, lane, disks);
            }
            for index in (0..entry.lanes).map(LaneIndex::new) {
                let place = &self.places[lanes.len() % self.places.len()];
                entry
                    .places
                    .borrow_mut()
                    .push(lanes.len() % self.places.len());
                lanes.push(self.recover_lane(entry, index, place, options.clone()));
            }
        }
        join_all(lanes).await;
    }

    async fn recover_lane(
        &self,
        entry: &DiskEntry,
        index: LaneIndex,
        place: &Place,
        options: LaneOptions,
    ) {
        let lane = entry.disk.borrow().as_ref().map(|disk| disk.lane(index));
        let Some(lane) = lane else { return };
        let started = place.start_lane(LaneStart {
            disk: entry.id,
            lane,
            options,
            health: Arc::clone(&entry.health),
        });
        if let Err(why) = started.await {
            entry.health.fail(why);
        }
    }

    fn place(&self, entry: &DiskEntry, lane: LaneIndex) -> &Place {
        &self.places[entry.places.borrow()[usize::from(lane.get())]]
    }

    // Owners.

    async fn accept(self: Rc<Self>, listener: LinkListener, room: Semaphore) {
        loop {
            let permit = room.acquire(1).await;
            match listener.accept().await {
                Ok(link) => {
                    let service = Rc::clone(&self);
                    drop(self.reactor.spawn(service.greet(link, permit)));
                }
                Err(error) => {
                    tracing::error!(address = %listener.local_address(), %error,
                        "the store accepts no more connections here");
                    return;
                }
            }
        }
    }

    /// Waits for the hello and passes the connection to its lane, or says why not.
    async fn greet(self: Rc<Self>, link: Link, permit: Permit) {
        let hello = self.reactor.timeout(HELLO_WITHIN, link.recv()).await;
        let frame = match hello {
            Ok(Ok(frame)) => frame,
            Ok(Err(error @ LinkError::Tls(_))) => {
                tracing::warn!(owner = link.peer(), %error, "connection refused");
                link.close();
                return;
            }
            _ => {
                link.close();
                return;
            }
        };
        let request = frame.header;
        match self.route(&frame, link.is_local()) {
            Ok((entry, lane, reply)) => {
                let greeting = Greeting { request, reply };
                let place = self.place(entry, lane);
                let ended = self.connection(permit);
                let key = (entry.id, lane);
                if let Err(error) = place.serve(key, link, greeting, ended).await {
                    tracing::debug!(%error, "connection ended before it was served");
                }
            }
            Err(status) => {
                tracing::warn!(owner = link.peer(), ?status, "connection refused");
                let refusal = request.reply(status, Incarnation::default());
                let sent = link.send(Frame::new(refusal, Vec::new(), Vec::new())).await;
                if sent.is_ok() {
                    link.drained().await;
                }
            }
        }
    }

    /// The lane that a hello names.
    fn route(
        &self,
        frame: &Frame,
        is_local: bool,
    ) -> Result<(&DiskEntry, LaneIndex, HelloReply), Status> {
        if self.stopping.get() {
            return Err(Status::Unavailable);
        }
        let header = &frame.header;
        if header.kind != FrameKind::Hello || header.is_reply || !frame.data.is_empty() {
            return Err(Status::Malformed);
        }
        let meta = open_meta(&frame.meta).map_err(|_| Status::Malformed)?;
        let hello = Hello::decode(meta).map_err(|_| Status::Malformed)?;
        if !(hello.version_min..=hello.version_max).contains(&PROTOCOL_VERSION) {
            return Err(Status::Malformed);
        }
        let entry = self.disks.get(&hello.disk);
        let entry = entry.filter(|entry| entry.cluster.get() == Some(hello.cluster));
        let entry = entry.ok_or(Status::NoSuchReplica)?;
        if hello.lane.get() >= entry.lanes {
            return Err(Status::NoSuchReplica);
        }
        if entry.health.has_failed() {
            return Err(Status::Device);
        }
        let reply = HelloReply {
            version: PROTOCOL_VERSION,
            volatile_cache: entry.volatile_cache,
        };
        if is_local && !self.place(entry, hello.lane).is_here() {
            // Frames that pass by pointer stay on their thread.
            return Err(Status::Unavailable);
        }
        Ok((entry, hello.lane, reply))
    }

    /// Keeps a connection's place until it has ended, on whatever thread.
    fn connection(&self, permit: Permit) -> Ended {
        let number = self.connections_made.get();
        self.connections_made.set(number + 1);
        self.connections.borrow_mut().insert(number, permit);
        Ended {
            number,
            ended: self.connection_ended.clone(),
        }
    }

    async fn note_ended(self: Rc<Self>, ended: remote::Receiver<u64>) {
        while let Some(number) = ended.recv().await {
            drop(self.connections.borrow_mut().remove(&number));
        }
    }

    // Control.

    async fn run(self: Rc<Self>, commands: remote::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            let service = Rc::clone(&self);
            match command {
                Command::Stop(answer) => {
                    service.stop().await;
                    let _ = answer.try_send(());
                    return;
                }
                Command::Report(answer) => {
                    drop(self.reactor.spawn(async move {
                        let _ = answer.try_send(service.report().await);
                    }));
                }
                Command::Observe(peers, answer) => {
                    drop(self.reactor.spawn(async move {
                        let _ = answer.try_send(service.observe(peers.as_deref()).await);
                    }));
                }
                Command::Inventory(answer) => {
                    drop(self.reactor.spawn(async move {
                        let _ = answer.try_send(service.inventory().await);
                    }));
                }
                // These wait for disks; reports go on meanwhile.
                Command::SetCluster(cluster, answer) => {
                    drop(self.reactor.spawn(async move {
                        let _ = answer.try_send(service.set_cluster(cluster).await);
                    }));
                }
                Command::Apply(replicas, answer) => {
                    drop(self.reactor.spawn(async move {
                        let _ = answer.try_send(service.apply(replicas).await);
                    }));
                }
            }
        }
        // Nobody can tell it anything any more: it serves on until its reactor ends.
        std::future::pending::<()>().await;
    }

    async fn report(&self) -> Vec<DiskReport> {
        let reports = join_all(self.places.iter().map(Place::report)).await;
        let lanes: Vec<_> = reports.into_iter().flatten().collect();
        let of_disk = |entry: &DiskEntry| {
            let of_disk = lanes.iter().filter(|((disk, _), _)| *disk == entry.id);
            let of_disk: Vec<_> = of_disk.map(|(_, lane)| lane.clone()).collect();
            entry.report(&of_disk, &self.reactor)
        };
        self.disks.values().map(of_disk).collect()
    }

    async fn observe(&self, targets: Option<&[PeerTarget]>) -> Observed {
        let mut clusters = self.disks.values().filter_map(|entry| entry.cluster.get());
        if let (Some(cluster), Some(targets)) = (clusters.next(), targets) {
            self.peers.watch(cluster, targets);
        }
        // Owners that it had before it was started again are on their way back.
        let is_young = self.reactor.now() - self.started < OWNERS_RETURN_WITHIN;
        let owners = join_all(self.places.iter().map(Place::owners)).await;
        let owners: Option<Vec<Vec<OwnerSeen>>> = owners.into_iter().collect();
        let owners = owners.map(|lists| newest(lists.into_iter().flatten()));
        Observed {
            peers: self.peers.seen(),
            owners: owners.filter(|list| list.len() <= OWNERS_SEEN_MAX && !is_young),
        }
    }

    /// What its disks hold, between two changes of the set of replicas. A disk without a cluster holds
    /// nothing, one that has failed is left out with all that lies there.
    async fn inventory(&self) -> Option<Inventory> {
        let _turn = self.changes.acquire(1).await;
        let found = join_all(self.places.iter().map(Place::inventory)).await;
        let found: Vec<Vec<FoundReplica>> = found.into_iter().collect::<Option<_>>()?;
        let owners = join_all(self.places.iter().map(Place::owners)).await;
        let owners: Vec<Vec<OwnerSeen>> = owners.into_iter().collect::<Option<_>>()?;
        let serving = self.disks.values();
        let serving = serving.filter(|entry| !entry.health.has_failed());
        let disks: Vec<DiskId> = serving.map(|entry| entry.id).collect();
        let replicas = found.into_iter().flatten();
        let replicas: Vec<_> = replicas.filter(|it| disks.contains(&it.disk)).collect();
        // Who was fenced here owns nothing, however long it stays connected.
        let is_owner = |owner: &OwnerSeen| {
            let mut own = replicas.iter().filter(|it| it.volume == owner.volume);
            own.all(|it| owner.generation >= it.generation)
        };
        let owners = newest(owners.into_iter().flatten());
        let owned = owners.iter().filter(|owner| is_owner(owner));
        Some(Inventory {
            owned: owned.map(|owner| owner.volume).collect(),
            replicas,
            disks,
        })
    }

    async fn set_cluster(&self, cluster: ClusterId) -> Result<(), ControlError> {
        let _turn = self.changes.acquire(1).await;
        let mut foreign = None;
        for entry in self.disks.values() {
            match entry.cluster.get() {
                Some(found) if found == cluster => {}
                Some(found) => {
                    let error = ControlError::OtherCluster {
                        disk: entry.id,
                        path: entry.path.clone(),
                        found,
                        expected: cluster,
                    };
                    entry.health.fail(error.to_string());
                    foreign.get_or_insert(error);
                }
                None => entry.join(cluster).await,
            }
        }
        foreign.map_or(Ok(()), Err)
    }

    async fn apply(&self, replicas: Vec<Assignment>) -> Applied {
        let _turn = self.changes.acquire(1).await;
        let mut applied = Applied::default();
        let mut wanted: BTreeMap<(DiskId, LaneIndex), Vec<Assignment>> = BTreeMap::new();
        for entry in self
            .disks
            .values()
            .filter(|entry| !entry.health.has_failed())
        {
            for index in 0..entry.lanes {
                wanted.insert((entry.id, LaneIndex::new(index)), Vec::new());
            }
        }
        for assignment in replicas {
            match self.lane_for(&assignment) {
                Ok(lane) => wanted.entry(lane).or_default().push(assignment),
                Err(refusal) => applied.refused.push(Refused {
                    assignment,
                    refusal,
                }),
            }
        }
        let changes = wanted.into_iter().map(|(lane, wanted)| async move {
            let outcome = match self.disks.get(&lane.0) {
                Some(entry) => self.place(entry, lane.1).apply(lane, wanted.clone()).await,
                None => Ok(()),
            };
            outcome.map_err(|error| {
                tracing::error!(disk = %lane.0, lane = %lane.1, %error,
                    "replicas could not be changed");
                wanted
            })
        });
        for failed in join_all(changes).await.into_iter().filter_map(Result::err) {
            applied
                .refused
                .extend(failed.into_iter().map(|assignment| Refused {
                    assignment,
                    refusal: Refusal::DiskFailed,
                }));
        }
        applied
    }

    fn lane_for(&self, assignment: &Assignment) -> Result<(DiskId, LaneIndex), Refusal> {
        let entry = self
            .disks
            .get(&assignment.disk)
            .ok_or(Refusal::NoSuchDisk)?;
        if entry.health.has_failed() {
            return Err(Refusal::DiskFailed);
        }
        if assignment.blocks == 0 {
            return Err(Refusal::Empty);
        }
        let lane = lane_of(assignment.volume, assignment.shard, entry.lanes);
        Ok((entry.id, lane))
    }

    async fn stop(&self) {
        self.stopping.set(true);
        self.peers.stop();
        for task in self.serving.take() {
            task.abort();
        }
        let _turn = self.changes.acquire(1).await;
        join_all(self.places.iter().map(Place::stop)).await;
        for entry in self.disks.values() {
            drop(entry.disk.take());
        }
    }
}

#[cfg(test)]
mod tests;
