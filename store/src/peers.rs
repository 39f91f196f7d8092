//! Other stores that this one watches over the data connections, as the conductor says.
//!
//! Each is asked once in a while whether it lives. A refusal will do as well, unless it shows that
//! somebody else is at that address: what counts is that the two reach each other where owners would.
//! Invariant: nothing is said of a peer before there was time enough to reach it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use ashlar_proto::api::{PEERS_WATCHED_MAX, PeerSeen, PeerTarget};
use ashlar_proto::frame::PROTOCOL_VERSION;
use ashlar_proto::message::Hello;
use ashlar_proto::{ClusterId, FrameHeader, FrameKind, LaneIndex, NodeId, Status};
use ashlar_reactor::link::{self, Frame, Link};
use ashlar_reactor::{Instant, Reactor, Task};

/// How often a peer is asked.
const PERIOD: Duration = Duration::from_secs(1);

/// How long to wait after a refusal.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);

/// The silence after which a peer is not reached.
const SILENCE: Duration = Duration::from_secs(3);

/// The same for one that refuses: longer than it is asked apart.
const REFUSED_SILENCE: Duration = Duration::from_secs(15);

/// A peer, and the task that asks it.
struct Watched {
    target: PeerTarget,
    since: Instant,
    heard: Rc<Cell<Heard>>,
    task: Task<()>,
}

/// What the last greeting or question came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Heard {
    /// No answer yet.
    #[default]
    Nothing,
    /// The peer lives; the answer shows it until then.
    Until(Instant),
    /// Somebody answers, but knows nothing of the disk: another store has the address, or this one
    /// does not know its cluster yet.
    Stranger,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The peers that are watched.
pub(crate) struct Peers {
    reactor: Reactor,
    watched: RefCell<BTreeMap<NodeId, Watched>>,
}

impl Peers {
    /// None yet.
    pub(crate) fn new(reactor: &Reactor) -> Self {
        Self {
            reactor: reactor.clone(),
            watched: RefCell::default(),
        }
    }

    /// Watches these from now on, and no others.
    pub(crate) fn watch(&self, cluster: ClusterId, targets: &[PeerTarget]) {
        let targets = &targets[..targets.len().min(PEERS_WATCHED_MAX)];
        let mut watched = self.watched.borrow_mut();
        watched.retain(|_, known| targets.contains(&known.target));
        for target in targets {
            watched.entry(target.node).or_insert_with(|| {
                let heard = Rc::new(Cell::new(Heard::Nothing));
                let watcher = Watcher {
                    reactor: self.reactor.clone(),
                    cluster,
                    target: target.clone(),
                    heard: Rc::clone(&heard),
                };
                Watched {
                    target: target.clone(),
                    since: self.reactor.now(),
                    heard,
                    task: self.reactor.spawn(watcher.run()),
                }
            });
        }
    }

    /// Watches none any more.
    pub(crate) fn stop(&self) {
        self.watched.borrow_mut().clear();
    }

    /// Which of them are reached, as far as can be said.
    pub(crate) fn seen(&self) -> Vec<PeerSeen> {
        let now = self.reactor.now();
        let watched = self.watched.borrow();
        let seen = watched.iter().filter_map(|(&node, peer)| {
            let heard = peer.heard.get();
            let reached = matches!(heard, Heard::Until(until) if now < until);
            let is_known = reached || heard != Heard::Stranger && now - peer.since >= SILENCE;
            is_known.then_some(PeerSeen { node, reached })
        });
        seen.collect()
    }
}

/// Asks one peer, for as long as it is watched.
struct Watcher {
    reactor: Reactor,
    cluster: ClusterId,
    target: PeerTarget,
    heard: Rc<Cell<Heard>>,
}

/// What came of a greeting.
enum Greeted {
    Granted(Link),
    Refused,
    Silent,
}

impl Watcher {
    async fn run(self) {
        loop {
            let greeting = self.reactor.timeout(SILENCE, self.greet()).await;
            match greeting.unwrap_or(Greeted::Silent) {
                Greeted::Granted(link) => {
                    self.reactor.sleep(PERIOD).await;
                    let mut tag = 0;
                    while self.is_answered(&link, &mut tag).await {
                        self.reactor.sleep(PERIOD).await;
                    }
                    link.close();
                    self.reactor.sleep(PERIOD).await;
                }
                Greeted::Refused => self.reactor.sleep(REFUSED_PAUSE).await,
                Greeted::Silent => {
                    if self.heard.get() == Heard::Stranger {
                        self.heard.set(Heard::Nothing);
                    }
                    self.reactor.sleep(PERIOD).await;
                }
            }
        }
    }

    /// Asks for a session.
    async fn greet(&self) -> Greeted {
        let Some((link, reply)) = self.hello().await else {
            return Greeted::Silent;
        };
        let status = reply.header.status;
        if status == Status::Ok {
            self.note_heard(SILENCE);
            return Greeted::Granted(link);
        }
        link.close();
        // Who knows nothing of the disk, or of the protocol, is not the peer.
        let is_it = reply.header.is_reply && reply.header.kind == FrameKind::Hello;
        if is_it && !matches!(status, Status::NoSuchReplica | Status::Malformed) {
            self.note_heard(REFUSED_SILENCE);
        } else {
            self.heard.set(Heard::Stranger);
        }
        Greeted::Refused
    }

    fn note_heard(&self, lasts: Duration) {
        self.heard.set(Heard::Until(self.reactor.now() + lasts));
    }

    async fn hello(&self) -> Option<(Link, Frame)> {
        let node = self.target.node_name.as_deref();
        let link = link::connect_to(&self.reactor, &self.target.address, node).await;
        let link = link.ok()?;
        let hello = Hello {
            version_min: PROTOCOL_VERSION,
            version_max: PROTOCOL_VERSION,
            lane: LaneIndex::new(0),
            cluster: self.cluster,
            disk: self.target.disk,
        };
        let header = FrameHeader::request(FrameKind::Hello, 0);
        let hello = Frame::new(header, hello.encode(), Vec::new());
        link.send(hello).await.ok()?;
        let reply = link.recv().await.ok()?;
        Some((link, reply))
    }

    async fn is_answered(&self, link: &Link, tag: &mut u32) -> bool {
        *tag = tag.wrapping_add(1);
        let asked = async {
            let ping = FrameHeader::request(FrameKind::Ping, *tag);
            link.send(Frame::new(ping, Vec::new(), Vec::new()))
                .await
                .ok()?;
            let reply = link.recv().await.ok()?;
            (reply.header.is_reply && reply.header.tag == *tag).then_some(())
        };
        let is_answered = matches!(self.reactor.timeout(SILENCE, asked).await, Ok(Some(())));
        if is_answered {
            self.note_heard(SILENCE);
        }
        is_answered
    }
}
