//! Listens, and serves each connection in a task of its own.

use std::cell::Cell;
use std::rc::Rc;

use ashlar_proto::Address;
use ashlar_reactor::channel::Notify;
use ashlar_reactor::{Listener, NetError, Reactor, Stream};

use crate::budget::Budget;
use crate::limits::Limits;
use crate::stop::Stop;

/// What speaks a protocol with those who connect.
#[expect(
    async_fn_in_trait,
    reason = "servers live on one thread: no Send bound is wanted"
)]
pub trait Service: 'static {
    /// The protocol's name, for the log.
    const PROTOCOL: &'static str;

    /// Serves one connection to its end, and shuts it down.
    async fn connection(&self, stream: Stream, shared: &Shared);
}

/// What the connections of a server share.
pub struct Shared {
    /// Where the server listens; with the port that was taken if 0 was asked for.
    pub address: Address,
    /// The word that the server is to stop.
    pub stop: Stop,
    /// The memory of all requests.
    pub budget: Budget,
    /// Connections, and the listener as one more.
    running: Cell<usize>,
    ended: Notify,
}

/// A server that listens at one address. It stops when told to; dropping the handle leaves it
/// running as long as its reactor.
pub struct Server {
    address: Address,
    shared: Rc<Shared>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let running = self.shared.running.get();
        write!(f, "Server at {}, {running} running", self.address)
    }
}

/// Counts a task among the running while it lives.
struct Running(Rc<Shared>);

impl Running {
    fn new(shared: &Rc<Shared>) -> Self {
        shared.running.set(shared.running.get() + 1);
        Self(Rc::clone(shared))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        self.0.ended.notify_all();
    }
}

impl Server {
    /// Begins to listen at `address` and to serve those who connect.
    ///
    /// # Errors
    /// [`NetError::Listen`].
    pub async fn start<S: Service>(
        reactor: &Reactor,
        address: &Address,
        service: Rc<S>,
        limits: &Limits,
    ) -> Result<Self, NetError> {
        let listener = reactor.listen(address).await?;
        let address = listener.local_address();
        let shared = Rc::new(Shared {
            address: address.clone(),
            stop: Stop::default(),
            budget: Budget::new(limits),
            running: Cell::new(0),
            ended: Notify::new(),
        });
        let accepting = Accepting {
            reactor: reactor.clone(),
            service,
            connections_max: limits.connections_max,
            shared: Rc::clone(&shared),
        };
        let running = Running::new(&shared);
        reactor.spawn(async move {
            accepting.accept(listener).await;
            drop(running);
        });
        Ok(Self { address, shared })
    }

    /// Where it listens; with the port that was taken if 0 was asked for.
    #[must_use]
    pub fn local_address(&self) -> Address {
        self.address.clone()
    }

    /// Connections that are open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        let listening = usize::from(!self.shared.stop.is_requested());
        self.shared.running.get().saturating_sub(listening)
    }

    /// Stops: no more connections, and those there are are told. Ends when all have ended.
    pub async fn stop(&self) {
        self.shared.stop.request();
        while self.shared.running.get() > 0 {
            self.shared.ended.notified().await;
        }
    }
}

/// The task that takes connections.
struct Accepting<S> {
    reactor: Reactor,
    service: Rc<S>,
    connections_max: usize,
    shared: Rc<Shared>,
}

impl<S: Service> Accepting<S> {
    async fn accept(self, listener: Listener) {
        let stop = self.shared.stop.clone();
        loop {
            match stop.or(listener.accept()).await {
                None => return,
                Some(Ok(stream)) => self.take_on(stream),
                Some(Err(error)) => {
                    let (address, protocol) = (listener.local_address(), S::PROTOCOL);
                    tracing::error!(
                        %address,
                        "{protocol} server accepts no more connections: {error}"
                    );
                    return;
                }
            }
        }
    }

    fn take_on(&self, stream: Stream) {
        // The listener is one of the running.
        let connections = self.shared.running.get() - 1;
        if connections >= self.connections_max {
            let (peer, protocol) = (stream.peer(), S::PROTOCOL);
            tracing::warn!(
                peer,
                connections,
                "{protocol} connection refused: the limit is reached"
            );
            self.reactor.meters().note_turned_away();
            stream.shutdown();
            return;
        }
        let running = Running::new(&self.shared);
        let (service, shared) = (Rc::clone(&self.service), Rc::clone(&self.shared));
        let reactor = self.reactor.clone();
        self.reactor.spawn(async move {
            reactor.meters().note_connected();
            service.connection(stream, &shared).await;
            reactor.meters().note_disconnected();
            drop(running);
        });
    }
}
