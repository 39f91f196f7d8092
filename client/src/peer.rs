//! The owner's session with one lane of one disk: tags, replies, acceptances, flushes.
//!
//! All shards of a volume that lie on the lane share it. Invariants: a write is counted only in
//! the session that it was sent in; acceptances are numbered in the order of the replies, and a
//! flush covers those numbered before it was sent; a changed incarnation uncounts, at all users at
//! once, what no flush had covered; an answer is taken only if it repeats what its request asked
//! for.
//!
//! ```text
//! Down ──connect, hello──▶ Up ──error · timeout · new incarnation──▶ Down
//! ```

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};
use std::time::Duration;

use ashlar_proto::frame::PROTOCOL_VERSION;
use ashlar_proto::limits::{BLOCK_BYTES_U64, REQUESTS_IN_FLIGHT_MAX};
use ashlar_proto::message::{Hello, HelloReply};
use ashlar_proto::{
    Address, ClusterId, DiskId, FrameHeader, FrameKind, Incarnation, LaneIndex, RoomHint, Seq,
    ShardIndex, Status, VolumeId,
};
use ashlar_reactor::link::{self, Frame, Link};
use ashlar_reactor::meters::{Operation, Stage, bytes_of};
use ashlar_reactor::{Instant, Reactor};
use slab::Slab;

use crate::options::VolumeOptions;
use crate::pulse::Pulse;
use crate::quorum::Slot;
use crate::read_health::ReadHealth;
use crate::signal::{Promise, Signal};
use crate::wire;
use crate::write_log::Acceptance;

/// Which lane of which disk, and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PeerKey {
    /// Where its store listens.
    pub(crate) address: Address,
    /// The name of its node, where that is known.
    pub(crate) node: Option<String>,
    /// The disk.
    pub(crate) disk: DiskId,
    /// The lane.
    pub(crate) lane: LaneIndex,
}

/// The session ended before the answer came, or could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store does not answer")]
pub(crate) struct PeerLost;

/// The answer to a write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    /// What it says.
    pub(crate) header: FrameHeader,
    /// Where in the lane's order it was accepted, if it was.
    pub(crate) acceptance: Acceptance,
    /// When the write was sent.
    pub(crate) sent_at: Instant,
}

/// What a shard learns from the lanes that hold its replicas.
pub(crate) trait LaneUser {
    /// A write was answered.
    fn write_answered(&self, lane: &Peer, slot: Slot, seq: Seq, answer: &Answer);
    /// The session ended: nothing more is answered in it.
    fn lane_lost(&self, lane: &Peer, slot: Slot);
    /// The lane restarted: what it accepted after `upto` may be gone.
    fn lane_restarted(&self, lane: &Peer, slot: Slot, upto: Acceptance);
    /// More is durable than before.
    fn lane_flushed(&self);
}

enum Waiting {
    Call(Promise<Result<Frame, PeerLost>>),
    Write {
        user: Rc<dyn LaneUser>,
        slot: Slot,
        seq: Seq,
    },
}

struct Request {
    waiting: Waiting,
    header: FrameHeader,
    sent_at: Instant,
}

/// One session.
struct Session {
    link: Link,
    number: u64,
}

/// Times that bound a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerTimes {
    /// To connect and be greeted.
    pub(crate) connect: Duration,
    /// To answer any of the requests that wait, as long as the store lives.
    pub(crate) request: Duration,
    /// To show that the store lives, while requests wait: longer where answers take long.
    pub(crate) silence: Duration,
}

impl PeerTimes {
    /// As the volume's options have them.
    pub(crate) fn of(options: &VolumeOptions) -> Self {
        Self {
            connect: options.connect_timeout,
            request: options.request_timeout,
            silence: options.silence_timeout,
        }
    }
}

/// Half of what a store takes at a time on one connection.
const DEEP_BYTES: u64 = 16 << 20;

/// A store that is so deep in work may be silent for at least this long.
const DEEP_SILENCE: Duration = Duration::from_secs(3);

/// How long a session may lie idle before the store is asked whether it lives.
const IDLE: Duration = Duration::from_secs(5);

/// How many times longer one request may wait while others are answered.
const STARVED: u32 = 4;

/// See the module.
pub(crate) struct Peer {
    reactor: Reactor,
    key: PeerKey,
    cluster: ClusterId,
    times: PeerTimes,
    session: RefCell<Option<Session>>,
    sessions: Cell<u64>,
    connecting: Cell<bool>,
    connected: Signal,
    incarnation: Cell<Option<Incarnation>>,
    volatile_cache: Cell<bool>,
    requests: RefCell<Slab<Request>>,
    /// Since when some request has waited without a break.
    waiting_since: Cell<Instant>,
    pulse: Cell<Pulse>,
    /// When it last answered a greeting, with a refusal or not.
    greeted_at: Cell<Instant>,
    outbox: RefCell<VecDeque<Frame>>,
    outbox_filled: Signal,
    users: RefCell<Vec<(Weak<dyn LaneUser>, Slot)>>,
    accepted: Cell<Acceptance>,
    durable: Cell<Acceptance>,
    flushing: Cell<bool>,
    flush_wanted: Cell<Acceptance>,
    /// Of which shards it said that the lane has little room for them: each has a hint of its own.
    rooms: RefCell<BTreeMap<(VolumeId, ShardIndex), RoomHint>>,
    read_health: Cell<ReadHealth>,
}

impl Peer {
    /// A session to be made.
    pub(crate) fn new(
        reactor: &Reactor,
        key: PeerKey,
        cluster: ClusterId,
        times: PeerTimes,
    ) -> Rc<Self> {
        Rc::new(Self {
            reactor: reactor.clone(),
            key,
            cluster,
            times,
            session: RefCell::new(None),
            sessions: Cell::new(0),
            connecting: Cell::new(false),
            connected: Signal::default(),
            incarnation: Cell::new(None),
            volatile_cache: Cell::new(true),
            requests: RefCell::new(Slab::new()),
            waiting_since: Cell::new(Instant::EPOCH),
            pulse: Cell::new(Pulse::NONE),
            greeted_at: Cell::new(Instant::EPOCH),
            outbox: RefCell::default(),
            outbox_filled: Signal::default(),
            users: RefCell::default(),
            accepted: Cell::new(Acceptance::DURABLE),
            durable: Cell::new(Acceptance::DURABLE),
            flushing: Cell::new(false),
            flush_wanted: Cell::new(Acceptance::NONE),
            rooms: RefCell::default(),
            read_health: Cell::new(ReadHealth::UNKNOWN),
        })
    }

    /// Tells `user` from now on what becomes of its replica in `slot`.
    pub(crate) fn add_user(&self, user: Weak<dyn LaneUser>, slot: Slot) {
        self.users.borrow_mut().push((user, slot));
    }

    /// Tells `user` nothing more of its replica in `slot`. Gives whether anybody is left.
    pub(crate) fn remove_user(&self, user: &Weak<dyn LaneUser>, slot: Slot) -> bool {
        let mut users = self.users.borrow_mut();
        users.retain(|(known, at)| !(*at == slot && Weak::ptr_eq(known, user)));
        !users.is_empty()
    }

    /// Whether anybody is told what becomes of it.
    pub(crate) fn has_users(&self) -> bool {
        !self.users.borrow().is_empty()
    }

    /// The lane, and where it is reached.
    pub(crate) fn key(&self) -> &PeerKey {
        &self.key
    }

    /// Whether there is a session.
    pub(crate) fn is_up(&self) -> bool {
        self.session.borrow().is_some()
    }

    /// Whether its store has answered anything since then.
    pub(crate) fn answered_since(&self, since: Instant) -> bool {
        self.greeted_at.get().max(self.pulse.get().last_reply) >= since
    }

    /// The lane's run that the last session was with.
    pub(crate) fn incarnation(&self) -> Option<Incarnation> {
        self.incarnation.get()
    }

    /// Whether completed writes need a flush to be durable.
    pub(crate) fn is_volatile(&self) -> bool {
        self.volatile_cache.get()
    }

    /// How full the lane said it was for a shard.
    pub(crate) fn room(&self, volume: VolumeId, shard: ShardIndex) -> RoomHint {
        let rooms = self.rooms.borrow();
        rooms.get(&(volume, shard)).copied().unwrap_or_default()
    }

    /// Whether it was heard within `within` and has said of no shard lately that there is little room.
    pub(crate) fn is_ample(&self, now: Instant, within: Duration) -> bool {
        now - self.pulse.get().last_answer < within && self.rooms.borrow().is_empty()
    }

    fn note_room(&self, header: &FrameHeader) {
        let shard = (header.volume, header.shard);
        let mut rooms = self.rooms.borrow_mut();
        match header.room {
            RoomHint::Ample if rooms.is_empty() => {}
            RoomHint::Ample => {
                rooms.remove(&shard);
            }
            little => {
                rooms.insert(shard, little);
            }
        }
    }

    /// Up to which acceptance a flush has made writes durable.
    pub(crate) fn durable(&self) -> Acceptance {
        self.durable.get()
    }

    /// What a read is expected to take.
    pub(crate) fn expected_read_ns(&self) -> u64 {
        let ahead = self.requests.borrow().len() as u64;
        let health = self.read_health.get();
        let now = self.reactor.now();
        let silent = self.pulse.get().silent_for(now, self.waiting_since());
        let silent_ns = u64::try_from(silent.as_nanos()).unwrap_or(u64::MAX);
        health.expected_ns(now, ahead).max(silent_ns)
    }

    /// How long nearly every read of it takes at most: then it is worth asking another.
    pub(crate) fn hedge_after(&self) -> Duration {
        self.read_health.get().hedge_after()
    }

    /// A read was refused for what its blocks are here. Once that is repaired it is over; where it
    /// is not the only one, others are better asked.
    pub(crate) fn note_read_refused(&self) {
        let mut health = self.read_health.get();
        health.note_refused(self.reactor.now());
        self.read_health.set(health);
    }

    /// A read failed for a reason that concerns more than its blocks: others are better asked.
    pub(crate) fn note_read_failed(&self) {
        let mut health = self.read_health.get();
        health.note_failed(self.reactor.now());
        self.read_health.set(health);
    }

    /// The device failed a read. Whether that is once too often.
    pub(crate) fn note_read_fault(&self) -> bool {
        let mut health = self.read_health.get();
        let is_too_often = health.note_fault(self.reactor.now());
        self.read_health.set(health);
        is_too_often
    }

    /// Makes a session unless there is one.
    pub(crate) async fn connect(self: &Rc<Self>) -> Result<(), PeerLost> {
        loop {
            if self.session.borrow().is_some() {
                return Ok(());
            }
            let moment = self.connected.moment();
            if !self.connecting.replace(true) {
                // In a task of its own: a caller that is dropped leaves no half-made session.
                let peer = Rc::clone(self);
                let done = Promise::new();
                let kept = done.clone();
                drop(self.reactor.spawn(async move {
                    let made = peer.reactor.timeout(peer.times.connect, peer.greet()).await;
                    peer.connecting.set(false);
                    peer.connected.raise();
                    kept.keep(made.unwrap_or(Err(PeerLost)));
                }));
                return done.kept().await;
            }
            self.connected.raised_since(moment).await;
            if self.session.borrow().is_none() {
                return Err(PeerLost);
            }
        }
    }

    async fn greet(self: &Rc<Self>) -> Result<(), PeerLost> {
        let node = self.key.node.as_deref();
        let link = link::connect_to(&self.reactor, &self.key.address, node).await;
        let link = link.map_err(|_| PeerLost)?;
        let hello = Hello {
            version_min: PROTOCOL_VERSION,
            version_max: PROTOCOL_VERSION,
            lane: self.key.lane,
            cluster: self.cluster,
            disk: self.key.disk,
        };
        let request = FrameHeader::request(FrameKind::Hello, 0);
        let sent = link.send(wire::frame(request, hello.encode())).await;
        sent.map_err(|_| PeerLost)?;
        let reply = link.recv().await.map_err(|_| PeerLost)?;
        let header = reply.header;
        // Who knows nothing of the disk, or of the protocol, is another one at this address.
        if !matches!(header.status, Status::NoSuchReplica | Status::Malformed) {
            self.greeted_at.set(self.reactor.now());
        }
        if header.kind != FrameKind::Hello || !header.is_reply || header.status != Status::Ok {
            tracing::warn!(store = %self.key.address, disk = %self.key.disk,
                status = ?header.status, "store refused the session");
            return Err(PeerLost);
        }
        let meta = wire::meta_of(&reply).ok_or(PeerLost)?;
        let greeting = HelloReply::decode(meta).map_err(|_| PeerLost)?;
        self.begin(link, header.incarnation(), greeting.volatile_cache);
        Ok(())
    }

    fn begin(self: &Rc<Self>, link: Link, incarnation: Incarnation, volatile_cache: bool) {
        let known = self.incarnation.replace(Some(incarnation));
        self.volatile_cache.set(volatile_cache);
        if known.is_some_and(|known| known != incarnation) {
            self.read_health.set(ReadHealth::UNKNOWN);
            let upto = self.durable.get();
            self.each_user(|user, slot| user.lane_restarted(self, slot, upto));
        }
        let number = self.sessions.get() + 1;
        self.sessions.set(number);
        let (receiver, sender) = (link.clone(), link.clone());
        self.session.replace(Some(Session { link, number }));
        let peer = Rc::downgrade(self);
        drop(self.reactor.spawn(async move {
            loop {
                let received = receiver.recv().await;
                let Some(peer) = peer.upgrade() else { break };
                let is_current = match received {
                    Ok(frame) => peer.deliver(number, frame),
                    Err(_) => false,
                };
                if !is_current {
                    peer.end(number);
                    break;
                }
            }
            receiver.close();
        }));
        let peer = Rc::downgrade(self);
        drop(self.reactor.spawn(run_sender(peer, sender, number)));
        let peer = Rc::downgrade(self);
        drop(self.reactor.spawn(run_watchdog(peer, number)));
    }

    fn is_session(&self, number: u64) -> bool {
        let session = self.session.borrow();
        session.as_ref().is_some_and(|s| s.number == number)
    }

    /// Ends the session, if it is still that one, and tells everybody who waits.
    fn end(&self, number: u64) {
        if self.is_session(number) {
            self.close();
        }
    }

    /// Ends the session: who waits is told, and nothing more is counted in it.
    pub(crate) fn close(&self) {
        let Some(session) = self.session.take() else {
            return;
        };
        session.link.close();
        self.outbox.borrow_mut().clear();
        self.outbox_filled.raise();
        self.flushing.set(false);
        self.flush_wanted.set(Acceptance::NONE);
        let requests = self.requests.take();
        self.each_user(|user, slot| user.lane_lost(self, slot));
        for (_, request) in requests {
            if let Waiting::Call(promise) = request.waiting {
                promise.keep(Err(PeerLost));
            }
        }
    }

    fn each_user(&self, tell: impl Fn(&dyn LaneUser, Slot)) {
        let users: Vec<_> = self.users.borrow().clone();
        for (user, slot) in users {
            if let Some(user) = user.upgrade() {
                tell(&*user, slot);
            }
        }
    }

    /// Sends a write whose answer goes to `user`; without a session it is dropped, and `user` has
    /// been told.
    pub(crate) fn post_write(&self, frame: Frame, user: Rc<dyn LaneUser>, slot: Slot) {
        let seq = frame.header.seq;
        self.post(frame, Waiting::Write { user, slot, seq });
    }

    /// Sends a request and awaits its answer.
    pub(crate) async fn call(&self, frame: Frame) -> Result<Frame, PeerLost> {
        self.ask(frame).kept().await
    }

    /// Sends a request; its answer is promised.
    pub(crate) fn ask(&self, frame: Frame) -> Promise<Result<Frame, PeerLost>> {
        let promise = Promise::new();
        if !self.post(frame, Waiting::Call(promise.clone())) {
            promise.keep(Err(PeerLost));
        }
        promise
    }

    fn post(&self, mut frame: Frame, waiting: Waiting) -> bool {
        if self.session.borrow().is_none() {
            return false;
        }
        let request = Request {
            waiting,
            header: frame.header,
            sent_at: self.reactor.now(),
        };
        let mut requests = self.requests.borrow_mut();
        if requests.is_empty() {
            self.waiting_since.set(request.sent_at);
        }
        let tag = requests.insert(request);
        drop(requests);
        frame.header.tag = u32::try_from(tag).unwrap_or(u32::MAX);
        self.outbox.borrow_mut().push_back(frame);
        self.outbox_filled.raise();
        true
    }

    /// Whether something that this lane accepted up to `upto` is not durable.
    pub(crate) fn lacks_flush(&self, upto: Acceptance) -> bool {
        self.durable.get() < upto.min(self.accepted.get())
    }

    /// Makes durable what the lane accepted up to `upto`; users are told when it is.
    pub(crate) fn flush(self: &Rc<Self>, upto: Acceptance) {
        // What another lane accepted, before the replica moved here, is no concern of this one.
        let upto = upto.min(self.accepted.get());
        if self.durable.get() >= upto || self.session.borrow().is_none() {
            return;
        }
        self.flush_wanted.set(upto.max(self.flush_wanted.get()));
        if !self.flushing.replace(true) {
            drop(self.reactor.spawn(run_flushes(Rc::clone(self))));
        }
    }

    fn deliver(&self, number: u64, frame: Frame) -> bool {
        if !self.is_session(number) {
            return false;
        }
        let header = frame.header;
        let tag = usize::try_from(header.tag).unwrap_or(usize::MAX);
        let known = self.requests.borrow_mut().try_remove(tag);
        let same_run = self.incarnation.get() == Some(header.incarnation());
        let Some(request) = known else {
            tracing::warn!(store = %self.key.address, disk = %self.key.disk, tag = header.tag,
                "store answered what nobody asked: its session is ended");
            return false;
        };
        if !wire::is_answer(&header, &request.header) {
            tracing::warn!(store = %self.key.address, disk = %self.key.disk,
                asked = %wire::place_of(&request.header), answered = %wire::place_of(&header),
                "store answered another request than it names: its session is ended");
            if let Waiting::Call(promise) = request.waiting {
                promise.keep(Err(PeerLost));
            }
            return false;
        }
        self.note_room(&header);
        let mut pulse = self.pulse.get();
        let now = self.reactor.now();
        pulse.note_reply(now, request.sent_at, header.kind);
        self.note_time(&request, now);
        self.pulse.set(pulse);
        match request.waiting {
            // Another run of the lane answers: what the session counted on is gone.
            Waiting::Call(promise) if !same_run => {
                promise.keep(Err(PeerLost));
                return false;
            }
            Waiting::Write { .. } if !same_run => return false,
            Waiting::Call(promise) => {
                let is_read = matches!(header.kind, FrameKind::Read | FrameKind::ReadSnapshot);
                if is_read && header.status == Status::Ok {
                    let mut health = self.read_health.get();
                    health.note_shown(self.reactor.now() - request.sent_at);
                    self.read_health.set(health);
                }
                promise.keep(Ok(frame));
            }
            Waiting::Write { user, slot, seq } => {
                let acceptance = if header.status != Status::Ok {
                    Acceptance::NONE
                } else if self.volatile_cache.get() {
                    let next = self.accepted.get().next();
                    self.accepted.set(next);
                    next
                } else {
                    Acceptance::DURABLE
                };
                let answer = Answer {
                    header,
                    acceptance,
                    sent_at: request.sent_at,
                };
                user.write_answered(self, slot, seq, &answer);
            }
        }
        true
    }

    /// Counts a request whose answer has come.
    fn note_time(&self, request: &Request, now: Instant) {
        let operation = Operation::from(request.header.kind);
        let (bytes, took) = (bytes_of(&request.header), now - request.sent_at);
        let meters = self.reactor.meters();
        meters.note(Stage::Link, operation, bytes, took);
    }

    /// Since when there has always been a request that waited, if there is one now.
    fn waiting_since(&self) -> Option<Instant> {
        let waits = !self.requests.borrow().is_empty();
        waits.then(|| self.waiting_since.get())
    }

    fn oldest_request(&self) -> Option<Instant> {
        let requests = self.requests.borrow();
        requests.iter().map(|(_, request)| request.sent_at).min()
    }

    /// Whether more waits than the store takes off the connection while its disk is slow.
    fn is_deep_in_work(&self) -> bool {
        let requests = self.requests.borrow();
        let blocks = |request: &Request| {
            let asked = match request.header.kind {
                FrameKind::Read | FrameKind::ReadSnapshot => request.header.count.get(),
                _ => 0,
            };
            u64::from(request.header.data_blocks) + u64::from(asked)
        };
        let blocks: u64 = requests.iter().map(|(_, request)| blocks(request)).sum();
        requests.len() >= REQUESTS_IN_FLIGHT_MAX / 2 || blocks * BLOCK_BYTES_U64 >= DEEP_BYTES
    }

    /// Asks whether the store lives: its session answers, whatever its disk does.
    fn ping(self: &Rc<Self>) {
        let peer = Rc::clone(self);
        drop(self.reactor.spawn(async move {
            let request = FrameHeader::request(FrameKind::Ping, 0);
            // The watchdog sees whether it was answered.
            let _ = peer.call(wire::frame(request, Vec::new())).await;
        }));
    }
}

/// Sends what is posted, in order; the link pushes back.
async fn run_sender(peer: Weak<Peer>, link: Link, number: u64) {
    loop {
        let Some(strong) = peer.upgrade() else { return };
        if !strong.is_session(number) {
            return;
        }
        let moment = strong.outbox_filled.moment();
        let next = strong.outbox.borrow_mut().pop_front();
        match next {
            Some(frame) => {
                if link.send(frame).await.is_err() {
                    strong.end(number);
                    return;
                }
            }
            None => strong.outbox_filled.raised_since(moment).await,
        }
    }
}

/// Ends a session whose store is silent while requests wait, even when asked whether it lives; that
/// lives and answers none of them; or that leaves one of them out for long. A slow disk with a long
/// queue is none of these.
async fn run_watchdog(peer: Weak<Peer>, number: u64) {
    let mut pinged_at = Instant::EPOCH;
    loop {
        let Some(strong) = peer.upgrade() else { return };
        if !strong.is_session(number) {
            return;
        }
        let now = strong.reactor.now();
        let Some(sent_at) = strong.oldest_request() else {
            // Whoever asks nothing is heard all the same, and hears in time that a store is gone.
            let moment = strong.outbox_filled.moment();
            let asked = strong.outbox_filled.raised_since(moment);
            if strong.reactor.timeout(IDLE, asked).await.is_err() && strong.is_session(number) {
                strong.ping();
            }
            continue;
        };
        let (pulse, request) = (strong.pulse.get(), strong.times.request);
        // A store takes so much at a time, and what asks whether it lives waits behind the rest.
        let silence = if strong.is_deep_in_work() {
            pulse.silence(strong.times).max(DEEP_SILENCE.min(request))
        } else {
            pulse.silence(strong.times)
        };
        let since = strong.waiting_since();
        let silent = pulse.silent_for(now, since);
        let unanswered = now - pulse.last_answer.max(since.unwrap_or(now));
        if silent >= silence || unanswered >= request || now - sent_at >= request * STARVED {
            tracing::warn!(store = %strong.key.address, disk = %strong.key.disk, ?silent,
                ?unanswered, "store does not answer: its session is ended");
            strong.end(number);
            return;
        }
        let is_asked = pinged_at > pulse.last_reply && now - pinged_at < silence;
        if silent >= silence / 2 && !is_asked {
            strong.ping();
            pinged_at = now;
        }
        let pause = strong.reactor.sleep(silence / 8);
        drop(strong);
        pause.await;
    }
}

/// Flushes until nothing that was asked for is left.
async fn run_flushes(peer: Rc<Peer>) {
    let number = peer.sessions.get();
    while peer.is_session(number) && peer.flush_wanted.get() > peer.durable.get() {
        let covers = peer.accepted.get();
        let request = FrameHeader::request(FrameKind::Flush, 0);
        let reply = peer.call(wire::frame(request, Vec::new())).await;
        if !peer.is_session(number) {
            return;
        }
        match reply {
            Ok(reply) if reply.header.status == Status::Ok => {
                peer.durable.set(covers);
                peer.each_user(|user, _| user.lane_flushed());
            }
            // A lane that cannot flush can promise nothing: its users stop counting on it.
            _ => {
                peer.end(number);
                return;
            }
        }
    }
    if peer.is_session(number) {
        peer.flushing.set(false);
    }
}
