//! The state of a simulated world: clock, events, disks, network, and what each process waits for.
//!
//! Invariants: time never goes back; an event takes effect when it is handled, never when it is
//! scheduled; nothing here runs a task. Each waiting request of a living process completes once;
//! those of a dead one are forgotten with it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use ashlar_proto::Address;

use super::clock::Clock;
use super::disk::DiskSlot;
use super::net::{AttemptId, EndId, Host, ListenerId, NetEvent, Network, StreamError, Wake};
use super::rng::Rng;
use super::trace::Trace;
use crate::driver::{Completion, Connected, Outcome, SocketHandle, Token};
use crate::{Buffer, NetError, OsError, SharedBuffer};

/// The position of a process in its world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ProcessId(pub usize);

/// What happens at a given time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Something on the network.
    Net(NetEvent),
    /// A disk has done a request.
    Disk { disk: usize, request: u64 },
    /// Nothing: time passes.
    Tick,
}

/// An event in the queue: by time, then by a drawn number, then by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scheduled {
    at_ns: u64,
    tie: u32,
    age: u64,
    event: Event,
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ns, self.tie, self.age).cmp(&(other.at_ns, other.tie, other.age))
    }
}

/// A send that has not passed all its bytes on.
struct Sending {
    token: Token,
    buffers: VecDeque<SharedBuffer>,
    sent: usize,
}

/// What a process holds of one stream.
pub(super) struct Socket {
    pub end: EndId,
    receives: VecDeque<(Token, Buffer, usize)>,
    sends: VecDeque<Sending>,
}

/// What a process holds of one listener.
pub(super) struct Listening {
    pub id: ListenerId,
    accepts: VecDeque<Token>,
}

/// One life of a simulated process.
pub(super) struct ProcessState {
    pub name: String,
    pub host: Host,
    pub clock: Clock,
    pub alive: bool,
    /// Its tasks do not run before.
    pub stalled_until_ns: u64,
    pub completions: Vec<Completion>,
    pub sockets: BTreeMap<u32, Socket>,
    pub listeners: BTreeMap<u32, Listening>,
    connects: BTreeMap<AttemptId, (Token, Address)>,
    next_handle: u32,
}

impl ProcessState {
    pub fn new(name: &str, host: Host, clock: Clock) -> Self {
        Self {
            name: name.to_owned(),
            host,
            clock,
            alive: true,
            stalled_until_ns: 0,
            completions: Vec::new(),
            sockets: BTreeMap::new(),
            listeners: BTreeMap::new(),
            connects: BTreeMap::new(),
            next_handle: 0,
        }
    }

    pub fn handle(&mut self) -> u32 {
        self.next_handle += 1;
        self.next_handle
    }

    fn complete(&mut self, token: Token, outcome: Outcome) {
        self.completions.push(Completion { token, outcome });
    }
}

/// All of it.
pub(super) struct State {
    pub now_ns: u64,
    /// How far clocks of new processes may drift.
    pub drift_ppm_max: u32,
    pub rng: Rng,
    pub trace: Trace,
    pub net: Network,
    pub disks: Vec<DiskSlot>,
    pub processes: Vec<ProcessState>,
    pub requests: u64,
    events: BinaryHeap<Reverse<Scheduled>>,
    age: u64,
    ends: BTreeMap<EndId, (ProcessId, u32)>,
    listeners: BTreeMap<ListenerId, (ProcessId, u32)>,
    attempts: BTreeMap<AttemptId, ProcessId>,
}

impl State {
    pub fn new(rng: Rng, trace: Trace) -> Self {
        Self {
            now_ns: 0,
            drift_ppm_max: 0,
            rng,
            trace,
            net: Network::default(),
            disks: Vec::new(),
            processes: Vec::new(),
            requests: 0,
            events: BinaryHeap::new(),
            age: 0,
            ends: BTreeMap::new(),
            listeners: BTreeMap::new(),
            attempts: BTreeMap::new(),
        }
    }

    // Time.

    pub fn schedule(&mut self, at_ns: u64, event: Event) {
        self.age += 1;
        let tie = u32::try_from(self.rng.below(1 << 32)).unwrap_or(0);
        self.events.push(Reverse(Scheduled {
            at_ns,
            tie,
            age: self.age,
            event,
        }));
    }

    pub fn next_event_ns(&self) -> Option<u64> {
        self.events.peek().map(|Reverse(scheduled)| scheduled.at_ns)
    }

    /// Takes the next event, moves the clock to its time and lets it take effect.
    pub fn handle_next_event(&mut self) -> Option<Event> {
        let Reverse(scheduled) = self.events.pop()?;
        self.now_ns = self.now_ns.max(scheduled.at_ns);
        match scheduled.event {
            Event::Net(event) => {
                let figures = match event {
                    NetEvent::Arrive(end) => [0, end, 0],
                    NetEvent::Reset(end) => [1, end, 0],
                    NetEvent::Connect(attempt) => [2, attempt, 0],
                };
                self.trace.event(self.now_ns, "net", figures);
                self.net.handle(event, self.now_ns, &mut self.rng);
                self.settle_net();
            }
            Event::Disk { disk, request } => self.finish_disk_request(disk, request),
            Event::Tick => {}
        }
        Some(scheduled.event)
    }

    pub fn process(&mut self, id: ProcessId) -> &mut ProcessState {
        &mut self.processes[id.0]
    }

    // Network requests.

    /// Schedules what the network left for later and retries the requests that it woke.
    pub fn settle_net(&mut self) {
        loop {
            for (at_ns, event) in self.net.take_events() {
                self.schedule(at_ns, Event::Net(event));
            }
            let wakes = self.net.take_wakes();
            if wakes.is_empty() {
                return;
            }
            for wake in wakes {
                match wake {
                    Wake::End(end) => self.retry_end(end),
                    Wake::Listener(listener) => self.retry_accepts(listener),
                    Wake::Attempt(attempt) => self.retry_connect(attempt),
                }
            }
        }
    }

    pub fn add_socket(&mut self, process: ProcessId, end: EndId) -> SocketHandle {
        let handle = self.process(process).handle();
        let socket = Socket {
            end,
            receives: VecDeque::new(),
            sends: VecDeque::new(),
        };
        self.process(process).sockets.insert(handle, socket);
        self.ends.insert(end, (process, handle));
        SocketHandle(handle)
    }

    pub fn add_listener(&mut self, process: ProcessId, id: ListenerId) -> u32 {
        let handle = self.process(process).handle();
        let accepts = VecDeque::new();
        let listening = Listening { id, accepts };
        self.process(process).listeners.insert(handle, listening);
        self.listeners.insert(id, (process, handle));
        handle
    }

    pub fn accept(&mut self, process: ProcessId, handle: u32, token: Token) {
        let state = self.process(process);
        let Some(listening) = state.listeners.get_mut(&handle) else {
            return state.complete(token, Outcome::Connected(Err(NetError::Shutdown)));
        };
        listening.accepts.push_back(token);
        let id = listening.id;
        self.retry_accepts(id);
        self.settle_net();
    }

    fn retry_accepts(&mut self, listener: ListenerId) {
        let Some(&(process, handle)) = self.listeners.get(&listener) else {
            return;
        };
        while let Some(listening) = self.processes[process.0].listeners.get_mut(&handle) {
            if listening.accepts.is_empty() {
                return;
            }
            let Some(end) = self.net.accept(listener) else {
                return;
            };
            let token = listening.accepts.pop_front();
            let socket = self.add_socket(process, end);
            let peer = self.net.peer_name(end);
            if let Some(token) = token {
                let connected = Outcome::Connected(Ok(Connected { socket, peer }));
                self.process(process).complete(token, connected);
            }
        }
    }

    pub fn connect(&mut self, process: ProcessId, token: Token, address: Address) {
        let host = self.process(process).host;
        let now_ns = self.now_ns;
        let attempt = self.net.connect(host, &address, now_ns, &mut self.rng);
        self.process(process)
            .connects
            .insert(attempt, (token, address));
        self.attempts.insert(attempt, process);
        self.settle_net();
    }

    fn retry_connect(&mut self, attempt: AttemptId) {
        let Some(&process) = self.attempts.get(&attempt) else {
            self.net.give_up(attempt, self.now_ns);
            return;
        };
        let Some(outcome) = self.net.connected(attempt) else {
            return;
        };
        self.attempts.remove(&attempt);
        let Some((token, address)) = self.process(process).connects.remove(&attempt) else {
            return;
        };
        let result = match outcome {
            Ok(end) => {
                let peer = self.net.peer_name(end);
                let socket = self.add_socket(process, end);
                Ok(Connected { socket, peer })
            }
            Err(error) => Err(NetError::Connect {
                address,
                error: os_error(error),
            }),
        };
        self.process(process)
            .complete(token, Outcome::Connected(result));
    }

    pub fn receive(
        &mut self,
        process: ProcessId,
        handle: u32,
        token: Token,
        buffer: Buffer,
        from: usize,
    ) {
        let state = self.process(process);
        let Some(socket) = state.sockets.get_mut(&handle) else {
            return state.complete(token, Outcome::Recv(buffer, Err(NetError::Shutdown)));
        };
        socket.receives.push_back((token, buffer, from));
        let end = socket.end;
        self.retry_end(end);
        self.settle_net();
    }

    pub fn send(
        &mut self,
        process: ProcessId,
        handle: u32,
        token: Token,
        buffers: Vec<SharedBuffer>,
    ) {
        let state = self.process(process);
        let Some(socket) = state.sockets.get_mut(&handle) else {
            return state.complete(token, Outcome::Sent(Err(NetError::Shutdown)));
        };
        socket.sends.push_back(Sending {
            token,
            buffers: buffers.into(),
            sent: 0,
        });
        let end = socket.end;
        self.retry_end(end);
        self.settle_net();
    }

    fn retry_end(&mut self, end: EndId) {
        let Some(&(process, handle)) = self.ends.get(&end) else {
            return;
        };
        let state = &mut self.processes[process.0];
        let Some(socket) = state.sockets.get_mut(&handle) else {
            return;
        };
        while let Some((_, buffer, from)) = socket.receives.front_mut() {
            let from = (*from).min(buffer.len());
            let target = &mut buffer[from..];
            let got = self.net.receive(end, target, self.now_ns, &mut self.rng);
            let result = match got {
                Ok(None) => break,
                Ok(Some(len)) => Ok(len),
                Err(error) => Err(net_error(error)),
            };
            let len = u64::try_from(*result.as_ref().unwrap_or(&0)).unwrap_or(0);
            self.trace.event(self.now_ns, "receive", [end, len, 0]);
            if let Some((token, buffer, _)) = socket.receives.pop_front() {
                let outcome = Outcome::Recv(buffer, result);
                state.completions.push(Completion { token, outcome });
            }
        }
        while let Some(sending) = socket.sends.front_mut() {
            let result = loop {
                let Some(piece) = sending.buffers.front() else {
                    break Some(Ok(()));
                };
                if sending.sent == piece.len() {
                    sending.buffers.pop_front();
                    sending.sent = 0;
                    continue;
                }
                let rest = &piece[sending.sent..];
                match self.net.send(end, rest, self.now_ns, &mut self.rng) {
                    Ok(Some(len)) => sending.sent += len,
                    Ok(None) => break None,
                    Err(error) => break Some(Err(net_error(error))),
                }
            };
            let Some(result) = result else { break };
            self.trace
                .event(self.now_ns, "sent", [end, u64::from(result.is_ok()), 0]);
            if let Some(sending) = socket.sends.pop_front() {
                let (token, outcome) = (sending.token, Outcome::Sent(result));
                state.completions.push(Completion { token, outcome });
            }
        }
    }

    /// Ends a receive, an accept or a connect early; other requests run their course.
    pub fn cancel(&mut self, process: ProcessId, token: Token) {
        let state = &mut self.processes[process.0];
        for socket in state.sockets.values_mut() {
            if let Some(at) = socket.receives.iter().position(|(t, _, _)| *t == token) {
                if let Some((token, buffer, _)) = socket.receives.remove(at) {
                    let outcome = Outcome::Recv(buffer, Err(NetError::Shutdown));
                    state.completions.push(Completion { token, outcome });
                }
                return;
            }
        }
        for listening in state.listeners.values_mut() {
            if let Some(at) = listening.accepts.iter().position(|t| *t == token) {
                listening.accepts.remove(at);
                let outcome = Outcome::Connected(Err(NetError::Shutdown));
                state.completions.push(Completion { token, outcome });
                return;
            }
        }
        let attempt = state.connects.iter().find(|(_, (t, _))| *t == token);
        if let Some(attempt) = attempt.map(|(&attempt, _)| attempt) {
            state.connects.remove(&attempt);
            state.complete(token, Outcome::Connected(Err(NetError::Shutdown)));
            self.attempts.remove(&attempt);
            self.net.give_up(attempt, self.now_ns);
            self.settle_net();
        }
    }

    pub fn close_listener(&mut self, process: ProcessId, handle: u32) {
        let Some(listening) = self.process(process).listeners.remove(&handle) else {
            return;
        };
        for token in listening.accepts {
            let closed = Outcome::Connected(Err(NetError::Shutdown));
            self.process(process).complete(token, closed);
        }
        self.listeners.remove(&listening.id);
        self.net.stop_listening(listening.id, self.now_ns);
        self.settle_net();
    }

    pub fn shut_socket(&mut self, process: ProcessId, handle: u32) {
        if let Some(socket) = self.process(process).sockets.get(&handle) {
            let end = socket.end;
            self.net.shut(end, self.now_ns, &mut self.rng);
            self.settle_net();
        }
    }

    /// Takes a socket away from its process, its waiting requests ended.
    pub fn take_socket(&mut self, process: ProcessId, handle: u32) -> Option<EndId> {
        let state = self.process(process);
        let socket = state.sockets.remove(&handle)?;
        for (token, buffer, _) in socket.receives {
            state.complete(token, Outcome::Recv(buffer, Err(NetError::Shutdown)));
        }
        for sending in socket.sends {
            state.complete(sending.token, Outcome::Sent(Err(NetError::Shutdown)));
        }
        self.ends.remove(&socket.end);
        Some(socket.end)
    }

    pub fn close_socket(&mut self, process: ProcessId, handle: u32) {
        if let Some(end) = self.take_socket(process, handle) {
            self.net.close(end, self.now_ns, &mut self.rng);
            self.settle_net();
        }
    }

    /// A process is gone: its peers are reset, or hear nothing where the whole host is dark.
    pub fn bury(&mut self, process: ProcessId, dark: bool) {
        let state = self.process(process);
        state.alive = false;
        state.completions.clear();
        let sockets = std::mem::take(&mut state.sockets);
        let listeners = std::mem::take(&mut state.listeners);
        let connects = std::mem::take(&mut state.connects);
        for listening in listeners.into_values() {
            self.listeners.remove(&listening.id);
            self.net.stop_listening(listening.id, self.now_ns);
        }
        for socket in sockets.into_values() {
            self.ends.remove(&socket.end);
            if dark {
                self.net.lose_end(socket.end);
            } else {
                self.net.drop_end(socket.end, self.now_ns);
            }
        }
        for attempt in connects.into_keys() {
            self.attempts.remove(&attempt);
            self.net.give_up(attempt, self.now_ns);
        }
        self.settle_net();
        self.abandon_disk_requests(process);
    }
}

pub(super) fn os_error(error: StreamError) -> OsError {
    OsError::from_errno(match error {
        StreamError::Refused => libc::ECONNREFUSED,
        StreamError::TimedOut => libc::ETIMEDOUT,
        StreamError::AddressInUse => libc::EADDRINUSE,
        StreamError::Reset => libc::ECONNRESET,
        StreamError::Closed => libc::ESHUTDOWN,
    })
}

fn net_error(error: StreamError) -> NetError {
    match error {
        StreamError::Reset => NetError::Reset,
        StreamError::Closed => NetError::Shutdown,
        other => NetError::Io(os_error(other)),
    }
}
