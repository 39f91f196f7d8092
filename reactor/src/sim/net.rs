//! The simulated network: hosts, listeners and streams, with delay, jitter, resets and partitions.
//!
//! Invariants: the bytes of a stream arrive in order, each once, or the stream is reset. A cut
//! between two hosts (one way or both) holds bytes back, as retransmission does, and lets them go
//! when it heals. What a dead process sent before still arrives; then its peer is reset. A host
//! without power resets nobody until it is back and hears from them.
//!
//! The network has no clock and no tasks: each call may leave events for the world to deliver
//! later, and names the ends whose waiting requests should be tried again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ashlar_proto::Address;

use super::fault::NetFaults;
use super::rng::Rng;

/// Bytes that a stream holds between its two ends before a sender waits.
const WINDOWS: [usize; 3] = [16 << 10, 128 << 10, 1 << 20];
/// Nanoseconds that a KiB takes on the wire: 10 Gbit/s.
const WIRE_NS_PER_KIB: u64 = 820;
/// What waits for a lost packet waits this long, and a cut connection is tried again so often.
const RETRANSMIT: Duration = Duration::from_secs(1);
/// Connection attempts into a cut before they time out.
const CONNECT_ATTEMPTS: u32 = 10;
/// Of a million transfers, how many are cut short.
const SHORT_PER_MILLION: u32 = 100_000;
/// Connections that a listener holds before they are accepted.
const BACKLOG_MAX: usize = 128;

/// One host: what shares an IP address, a power supply and its loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Host(pub IpAddr);

/// One end of a stream.
pub(super) type EndId = u64;
/// One listener.
pub(super) type ListenerId = u64;
/// One attempt to connect.
pub(super) type AttemptId = u64;

/// What happens later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NetEvent {
    /// Bytes may have reached this end.
    Arrive(EndId),
    /// Word of a reset reaches this end.
    Reset(EndId),
    /// A request to connect reaches the listener's host.
    Connect(AttemptId),
}

/// Who should look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// Requests that wait at an end.
    End(EndId),
    /// Accepts that wait at a listener.
    Listener(ListenerId),
    /// An attempt was decided.
    Attempt(AttemptId),
}

/// How a request on a stream failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamError {
    /// The stream was reset, or never was.
    Reset,
    /// This end was shut down.
    Closed,
    /// Nobody listens there.
    Refused,
    /// No answer.
    TimedOut,
    /// Somebody listens there already.
    AddressInUse,
}

struct Piece {
    bytes: Vec<u8>,
    arrives_ns: u64,
    last: bool,
}

struct End {
    host: Host,
    peer_host: Host,
    peer: EndId,
    label: String,
    window: usize,
    /// On the wire to this end.
    pipe: VecDeque<Piece>,
    /// Arrived here, not yet received.
    ready: VecDeque<Vec<u8>>,
    taken: usize,
    unread: usize,
    ended: bool,
    reset: bool,
    shut: bool,
}

struct Listener {
    host: Host,
    address: Address,
    backlog: VecDeque<EndId>,
}

struct Attempt {
    from: Host,
    target: Address,
    tries: u32,
    outcome: Option<Result<EndId, StreamError>>,
}

/// All hosts, listeners and streams.
#[derive(Default)]
pub(super) struct Network {
    pub faults: NetFaults,
    cut: BTreeSet<(Host, Host)>,
    dark: BTreeSet<Host>,
    listeners: BTreeMap<ListenerId, Listener>,
    ends: BTreeMap<EndId, End>,
    attempts: BTreeMap<AttemptId, Attempt>,
    next_id: u64,
    next_port: u16,
    later: Vec<(u64, NetEvent)>,
    wakes: Vec<Wake>,
}

impl Network {
    /// The events that the last calls left for later, with their times.
    pub fn take_events(&mut self) -> Vec<(u64, NetEvent)> {
        std::mem::take(&mut self.later)
    }

    /// Who should look again after the last calls.
    pub fn take_wakes(&mut self) -> Vec<Wake> {
        std::mem::take(&mut self.wakes)
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    // Listeners and connections.

    pub fn listen(
        &mut self,
        host: Host,
        address: &Address,
    ) -> Result<(ListenerId, Address), StreamError> {
        let mut address = address.clone();
        if let Address::Tcp(socket) = &mut address
            && socket.port() == 0
        {
            self.next_port = self.next_port.wrapping_add(1) % 20_000;
            socket.set_port(30_000 + self.next_port);
        }
        if self.find_listener(host, &address).is_some() {
            return Err(StreamError::AddressInUse);
        }
        let id = self.id();
        let backlog = VecDeque::new();
        let listener = Listener {
            host,
            address: address.clone(),
            backlog,
        };
        self.listeners.insert(id, listener);
        Ok((id, address))
    }

    pub fn accept(&mut self, listener: ListenerId) -> Option<EndId> {
        self.listeners.get_mut(&listener)?.backlog.pop_front()
    }

    pub fn stop_listening(&mut self, listener: ListenerId, now_ns: u64) {
        let waiting = self.listeners.remove(&listener);
        for end in waiting.into_iter().flat_map(|l| l.backlog) {
            self.drop_end(end, now_ns);
        }
    }

    pub fn connect(
        &mut self,
        from: Host,
        target: &Address,
        now_ns: u64,
        rng: &mut Rng,
    ) -> AttemptId {
        let id = self.id();
        let attempt = Attempt {
            from,
            target: target.clone(),
            tries: 0,
            outcome: None,
        };
        self.attempts.insert(id, attempt);
        let at = now_ns + self.travel_ns(rng);
        self.later.push((at, NetEvent::Connect(id)));
        id
    }

    /// The outcome of an attempt, once there is one; asking takes it.
    pub fn connected(&mut self, attempt: AttemptId) -> Option<Result<EndId, StreamError>> {
        let outcome = self.attempts.get(&attempt)?.outcome?;
        self.attempts.remove(&attempt);
        Some(outcome)
    }

    pub fn give_up(&mut self, attempt: AttemptId, now_ns: u64) {
        if let Some(Attempt {
            outcome: Some(Ok(end)),
            ..
        }) = self.attempts.remove(&attempt)
        {
            self.drop_end(end, now_ns);
        }
    }

    fn find_listener(&self, from: Host, address: &Address) -> Option<ListenerId> {
        let same = |listener: &Listener| match (&listener.address, address) {
            (Address::Tcp(bound), Address::Tcp(wanted)) => {
                bound.port() == wanted.port()
                    && listener.host == host_of(from, wanted)
                    && (bound.ip().is_unspecified()
                        || wanted.ip().is_unspecified()
                        || bound.ip() == wanted.ip())
            }
            (bound, wanted) => listener.host == from && bound == wanted,
        };
        let found = self.listeners.iter().find(|(_, listener)| same(listener));
        found.map(|(&id, _)| id)
    }

    fn try_connect(&mut self, id: AttemptId, now_ns: u64, rng: &mut Rng) {
        let Some(attempt) = self.attempts.get_mut(&id) else {
            return;
        };
        attempt.tries += 1;
        let (from, target, tries) = (attempt.from, attempt.target.clone(), attempt.tries);
        let to = match &target {
            Address::Tcp(socket) => host_of(from, socket),
            Address::Unix(_) | Address::Local(_) => from,
        };
        if self.is_cut(from, to) || self.is_cut(to, from) || self.dark.contains(&to) {
            if tries < CONNECT_ATTEMPTS {
                self.later
                    .push((now_ns + nanos(RETRANSMIT), NetEvent::Connect(id)));
            } else {
                self.decide(id, Err(StreamError::TimedOut));
            }
            return;
        }
        let refused = rng.chance(self.faults.refuse_per_million);
        let Some(listener) = self.find_listener(from, &target).filter(|_| !refused) else {
            return self.decide(id, Err(StreamError::Refused));
        };
        if self.listeners[&listener].backlog.len() >= BACKLOG_MAX {
            return self.decide(id, Err(StreamError::Refused));
        }
        let (near, far) = self.pair(from, to, &target, rng);
        if let Some(listener) = self.listeners.get_mut(&listener) {
            listener.backlog.push_back(far);
        }
        self.wakes.push(Wake::Listener(listener));
        self.decide(id, Ok(near));
    }

    fn decide(&mut self, id: AttemptId, outcome: Result<EndId, StreamError>) {
        if let Some(attempt) = self.attempts.get_mut(&id) {
            attempt.outcome = Some(outcome);
            self.wakes.push(Wake::Attempt(id));
        }
    }

    fn pair(&mut self, from: Host, to: Host, target: &Address, rng: &mut Rng) -> (EndId, EndId) {
        let window = WINDOWS[rng.index(WINDOWS.len())];
        let (near, far) = (self.id(), self.id());
        let end = |host, peer_host, peer, label| End {
            host,
            peer_host,
            peer,
            label,
            window,
            pipe: VecDeque::new(),
            ready: VecDeque::new(),
            taken: 0,
            unread: 0,
            ended: false,
            reset: false,
            shut: false,
        };
        self.ends
            .insert(near, end(from, to, far, target.to_string()));
        self.ends
            .insert(far, end(to, from, near, format!("{}#{near}", from.0)));
        (near, far)
    }

    // Streams.

    pub fn peer_name(&self, end: EndId) -> String {
        self.ends
            .get(&end)
            .map_or_else(String::new, |end| end.label.clone())
    }

    /// Takes bytes that have arrived; `Ok(Some(0))` is the end, `Ok(None)` means wait.
    pub fn receive(
        &mut self,
        id: EndId,
        target: &mut [u8],
        now_ns: u64,
        rng: &mut Rng,
    ) -> Result<Option<usize>, StreamError> {
        self.settle(id, now_ns);
        let end = self.ends.get_mut(&id).ok_or(StreamError::Reset)?;
        if end.shut {
            return Err(StreamError::Closed);
        }
        if end.unread == 0 || target.is_empty() {
            return match (end.reset, end.ended) {
                (true, _) => Err(StreamError::Reset),
                (false, true) => Ok(Some(0)),
                (false, false) => Ok(None),
            };
        }
        let most = short(end.unread.min(target.len()), rng);
        let mut filled = 0;
        while let Some(piece) = end.ready.front().filter(|_| filled < most) {
            let rest = &piece[end.taken..];
            let len = rest.len().min(most - filled);
            target[filled..filled + len].copy_from_slice(&rest[..len]);
            filled += len;
            end.taken += len;
            if end.taken == piece.len() {
                end.ready.pop_front();
                end.taken = 0;
            }
        }
        end.unread -= filled;
        let peer = end.peer;
        self.wakes.push(Wake::End(peer));
        Ok(Some(filled))
    }

    /// Sends what fits; `Ok(None)` means wait for room.
    pub fn send(
        &mut self,
        id: EndId,
        bytes: &[u8],
        now_ns: u64,
        rng: &mut Rng,
    ) -> Result<Option<usize>, StreamError> {
        let end = self.ends.get(&id).ok_or(StreamError::Reset)?;
        let (peer_id, window) = (end.peer, end.window);
        match end {
            End { shut: true, .. } => return Err(StreamError::Closed),
            End { reset: true, .. } => return Err(StreamError::Reset),
            _ => {}
        }
        if rng.chance(self.faults.reset_per_million) {
            self.reset_both(id, now_ns, rng);
            return Err(StreamError::Reset);
        }
        let Some(peer) = self.ends.get(&peer_id) else {
            // The other end is gone: its host, if it runs, says so.
            let at = now_ns + self.travel_ns(rng);
            self.later.push((at, NetEvent::Reset(id)));
            return Ok(Some(bytes.len()));
        };
        let held: usize = peer.pipe.iter().map(|piece| piece.bytes.len()).sum();
        let room = window.saturating_sub(held + peer.unread);
        if room == 0 && !bytes.is_empty() {
            return Ok(None);
        }
        let len = short(room.min(bytes.len()), rng);
        self.put_on_wire(peer_id, bytes[..len].to_vec(), false, now_ns, rng);
        Ok(Some(len))
    }

    /// Ends a stream from this side: the peer reads what was sent, then the end.
    pub fn shut(&mut self, id: EndId, now_ns: u64, rng: &mut Rng) {
        let Some(end) = self.ends.get_mut(&id).filter(|end| !end.shut) else {
            return;
        };
        end.shut = true;
        let peer = end.peer;
        self.wakes.push(Wake::End(id));
        if self.ends.contains_key(&peer) {
            self.put_on_wire(peer, Vec::new(), true, now_ns, rng);
        }
    }

    /// Forgets an end that nobody holds any more; its peer learns it.
    pub fn close(&mut self, id: EndId, now_ns: u64, rng: &mut Rng) {
        let unread = self
            .ends
            .get(&id)
            .is_some_and(|end| end.unread > 0 || !end.pipe.is_empty());
        if unread {
            self.drop_end(id, now_ns);
        } else {
            self.shut(id, now_ns, rng);
            self.ends.remove(&id);
        }
    }

    /// Forgets an end at once: its peer is reset.
    pub fn drop_end(&mut self, id: EndId, now_ns: u64) {
        if let Some(end) = self.ends.remove(&id) {
            let at = self.arrival_floor(end.peer, now_ns);
            self.later.push((at, NetEvent::Reset(end.peer)));
        }
    }

    /// Forgets an end whose host has lost power: its peer hears nothing.
    pub fn lose_end(&mut self, id: EndId) {
        self.ends.remove(&id);
    }

    fn reset_both(&mut self, id: EndId, now_ns: u64, rng: &mut Rng) {
        let at = now_ns + self.travel_ns(rng);
        let Some(end) = self.ends.get_mut(&id) else {
            return;
        };
        end.reset = true;
        let peer = end.peer;
        self.wakes.push(Wake::End(id));
        if let Some(peer) = self.ends.get_mut(&peer) {
            peer.pipe.clear();
        }
        self.later.push((at, NetEvent::Reset(peer)));
    }

    fn put_on_wire(&mut self, to: EndId, bytes: Vec<u8>, last: bool, now_ns: u64, rng: &mut Rng) {
        let mut arrives_ns = now_ns + self.travel_ns(rng);
        if rng.chance(self.faults.stall_per_million) {
            arrives_ns += nanos(RETRANSMIT);
        }
        arrives_ns += u64::try_from(bytes.len()).unwrap_or(0) * WIRE_NS_PER_KIB / 1024;
        arrives_ns = arrives_ns.max(self.arrival_floor(to, now_ns));
        if let Some(end) = self.ends.get_mut(&to) {
            end.pipe.push_back(Piece {
                bytes,
                arrives_ns,
                last,
            });
            self.later.push((arrives_ns, NetEvent::Arrive(to)));
        }
    }

    /// When everything that is on the wire to this end will be there.
    fn arrival_floor(&self, to: EndId, now_ns: u64) -> u64 {
        let last = self.ends.get(&to).and_then(|end| end.pipe.back());
        last.map_or(now_ns, |piece| piece.arrives_ns.max(now_ns))
    }

    /// Moves what has arrived off the wire.
    fn settle(&mut self, id: EndId, now_ns: u64) {
        let Some(end) = self.ends.get(&id) else {
            return;
        };
        if self.is_cut(end.peer_host, end.host) {
            return;
        }
        let Some(end) = self.ends.get_mut(&id) else {
            return;
        };
        while end
            .pipe
            .front()
            .is_some_and(|piece| piece.arrives_ns <= now_ns)
        {
            let Some(piece) = end.pipe.pop_front() else {
                break;
            };
            end.ended |= piece.last;
            end.unread += piece.bytes.len();
            if !piece.bytes.is_empty() {
                end.ready.push_back(piece.bytes);
            }
        }
    }

    // Time and trouble.

    /// An event's time has come.
    pub fn handle(&mut self, event: NetEvent, now_ns: u64, rng: &mut Rng) {
        match event {
            NetEvent::Arrive(end) => {
                self.settle(end, now_ns);
                self.wakes.push(Wake::End(end));
            }
            NetEvent::Connect(attempt) => self.try_connect(attempt, now_ns, rng),
            NetEvent::Reset(id) => {
                let Some(end) = self.ends.get(&id) else {
                    return;
                };
                let silent =
                    self.is_cut(end.peer_host, end.host) || self.dark.contains(&end.peer_host);
                if silent {
                    self.later.push((now_ns + nanos(RETRANSMIT), event));
                    return;
                }
                self.settle(id, now_ns);
                if let Some(end) = self.ends.get_mut(&id) {
                    end.reset = true;
                }
                self.wakes.push(Wake::End(id));
            }
        }
    }

    /// Bytes from `from` to `to` stop, or go again.
    pub fn set_cut(&mut self, from: Host, to: Host, cut: bool, now_ns: u64) {
        if cut {
            self.cut.insert((from, to));
            return;
        }
        self.cut.remove(&(from, to));
        let waiting = self
            .ends
            .iter()
            .filter(|(_, end)| end.host == to && end.peer_host == from);
        let events: Vec<_> = waiting
            .map(|(&id, _)| (now_ns, NetEvent::Arrive(id)))
            .collect();
        self.later.extend(events);
    }

    /// All cuts heal.
    pub fn heal(&mut self, now_ns: u64) {
        for (from, to) in std::mem::take(&mut self.cut) {
            self.cut.insert((from, to));
            self.set_cut(from, to, false, now_ns);
        }
    }

    /// A host without power answers nobody.
    pub fn set_dark(&mut self, host: Host, dark: bool) {
        if dark {
            self.dark.insert(host);
        } else {
            self.dark.remove(&host);
        }
    }

    fn is_cut(&self, from: Host, to: Host) -> bool {
        from != to && self.cut.contains(&(from, to))
    }

    fn travel_ns(&self, rng: &mut Rng) -> u64 {
        nanos(self.faults.delay) + rng.between(0, nanos(self.faults.jitter))
    }
}

fn host_of(from: Host, target: &SocketAddr) -> Host {
    if target.ip().is_loopback() || target.ip().is_unspecified() {
        from
    } else {
        Host(target.ip())
    }
}

fn short(len: usize, rng: &mut Rng) -> usize {
    if len > 1 && rng.chance(SHORT_PER_MILLION) {
        1 + rng.index(len)
    } else {
        len
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "net/tests.rs"]
mod tests;
