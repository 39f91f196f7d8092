//! Listens, and serves each connection in a task of its own.

use crate::budget::Budget;
use crate::catalog::ExportCatalog;
use crate::handshake::{Handshake, HandshakeError};
use crate::options::NbdOptions;
use crate::session::{self, End, SessionError};
use crate::stop::Stop;
use crate::transport::TransportError;
use ashlar_proto::Address;
use ashlar_reactor::channel::Notify;
use ashlar_reactor::{Listener, NetError, Reactor, Stream};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// How long a good-bye to a client may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A running NBD server at one address. It stops when told to; dropping the handle leaves it
/// running as long as its reactor.
#[derive(Debug)]
pub struct NbdServer {
    address: Address,
    shared: Rc<Lifetime>,
}

/// What the server and its connections share.
struct Lifetime {
    stop: Stop,
    /// Connections, and the listener as one more.
    running: Cell<usize>,
    ended: Notify,
    budget: Budget,
}

impl std::fmt::Debug for Lifetime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} running", self.running.get())
    }
}

/// Counts a task among the running while it lives.
struct Running(Rc<Lifetime>);

impl Running {
    fn new(lifetime: &Rc<Lifetime>) -> Self {
        lifetime.running.set(lifetime.running.get() + 1);
        Self(Rc::clone(lifetime))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        self.0.ended.notify_all();
    }
}

struct Server<C> {
    reactor: Reactor,
    catalog: Rc<C>,
    options: NbdOptions,
    lifetime: Rc<Lifetime>,
}

impl NbdServer {
    /// Begins to listen at `address` and to serve the exports of `catalog`. Several servers may
    /// share a catalog.
    ///
    /// # Errors
    /// [`NetError::Listen`].
    pub async fn serve<C: ExportCatalog>(
        reactor: &Reactor,
        address: &Address,
        catalog: Rc<C>,
        options: NbdOptions,
    ) -> Result<Self, NetError> {
        let listener = reactor.listen(address).await?;
        let address = listener.local_address();
        let lifetime = Rc::new(Lifetime {
            stop: Stop::default(),
            running: Cell::new(0),
            ended: Notify::new(),
            budget: Budget::new(&options.limits),
        });
        let server = Rc::new(Server {
            reactor: reactor.clone(),
            catalog,
            options,
            lifetime: Rc::clone(&lifetime),
        });
        let running = Running::new(&lifetime);
        reactor.spawn(async move {
            server.accept(listener).await;
            drop(running);
        });
        Ok(Self {
            address,
            shared: lifetime,
        })
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

    /// Stops: no more connections, requests in flight end, others get `NBD_ESHUTDOWN`. Ends when
    /// all connections have ended, at the latest when [`crate::Limits::drain`] has passed.
    pub async fn stop(&self) {
        self.shared.stop.request();
        while self.shared.running.get() > 0 {
            self.shared.ended.notified().await;
        }
    }
}

impl<C: ExportCatalog> Server<C> {
    async fn accept(self: Rc<Self>, listener: Listener) {
        let stop = self.lifetime.stop.clone();
        loop {
            match stop.or(listener.accept()).await {
                None => return,
                Some(Ok(stream)) => self.take_on(stream),
                Some(Err(error)) => {
                    let address = listener.local_address();
                    tracing::error!(%address, "NBD server accepts no more connections: {error}");
                    return;
                }
            }
        }
    }

    fn take_on(self: &Rc<Self>, stream: Stream) {
        // The listener is one of the running.
        let connections = self.lifetime.running.get() - 1;
        if connections >= self.options.limits.connections_max {
            let peer = stream.peer();
            tracing::warn!(
                peer,
                connections,
                "NBD connection refused: the limit is reached"
            );
            stream.shutdown();
            return;
        }
        let server = Rc::clone(self);
        let running = Running::new(&self.lifetime);
        self.reactor.spawn(async move {
            server.connection(stream).await;
            drop(running);
        });
    }

    /// One connection from its greeting to its end.
    async fn connection(&self, stream: Stream) {
        let peer = stream.peer();
        let stop = &self.lifetime.stop;
        let handshake = Handshake::new(&self.reactor, &self.catalog, &self.options, stream.clone());
        let mut negotiated = match stop.or(handshake.run()).await {
            Some(Ok(Some(negotiated))) => negotiated,
            Some(Ok(None)) | None => return stream.shutdown(),
            Some(Err(HandshakeError::Transport(TransportError::Closed))) => {
                // Port scanners, health checks and clients that only looked.
                tracing::debug!(peer, "NBD client left during its handshake");
                return stream.shutdown();
            }
            Some(Err(error)) => {
                tracing::warn!(peer, "NBD handshake failed: {error}");
                return stream.shutdown();
            }
        };
        let export = negotiated.export.clone();
        tracing::info!(peer, export, "NBD client connected");
        let served = session::serve(
            &self.reactor,
            &mut negotiated,
            self.options.limits,
            &self.lifetime.budget,
            stop,
        );
        match served.await {
            Ok(End::Disconnected) => tracing::info!(peer, export, "NBD client disconnected"),
            Ok(End::Vanished) => tracing::info!(peer, export, "NBD client closed its connection"),
            Ok(End::Stopped) => tracing::info!(peer, export, "NBD connection closed: stopping"),
            Err(SessionError::Transport(TransportError::Closed)) => {
                tracing::warn!(peer, export, "NBD client left in the middle of a request");
            }
            Err(error) => tracing::warn!(peer, export, "NBD connection dropped: {error}"),
        }
        let transport = negotiated.input.transport().clone();
        let _ = self.reactor.timeout(CLOSE_TIMEOUT, transport.close()).await;
        stream.shutdown();
    }
}
