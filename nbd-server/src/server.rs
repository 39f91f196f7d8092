//! Serves each NBD connection, from its greeting to its end.

use crate::catalog::ExportCatalog;
use crate::handshake::{Handshake, HandshakeError};
use crate::options::NbdOptions;
use crate::session::{self, End, SessionError};
use ashlar_front_end::{Server, Service, Shared, TransportError};
use ashlar_proto::Address;
use ashlar_reactor::{NetError, Reactor, Stream};
use std::rc::Rc;
use std::time::Duration;

/// How long a good-bye to a client may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A running NBD server at one address. It stops when told to; dropping the handle leaves it
/// running as long as its reactor.
#[derive(Debug)]
pub struct NbdServer(Server);

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
        let limits = options.limits;
        let service = Rc::new(Nbd {
            reactor: reactor.clone(),
            catalog,
            options,
        });
        let started = Server::start(reactor, address, service, &limits).await;
        started.map(Self)
    }

    /// Where it listens; with the port that was taken if 0 was asked for.
    #[must_use]
    pub fn local_address(&self) -> Address {
        self.0.local_address()
    }

    /// Connections that are open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.connections()
    }

    /// Stops: no more connections, requests in flight end, others get `NBD_ESHUTDOWN`. Ends when
    /// all connections have ended, at the latest when [`crate::Limits::drain`] has passed.
    pub async fn stop(&self) {
        self.0.stop().await;
    }
}

struct Nbd<C> {
    reactor: Reactor,
    catalog: Rc<C>,
    options: NbdOptions,
}

impl<C: ExportCatalog> Service for Nbd<C> {
    const PROTOCOL: &'static str = "NBD";

    async fn connection(&self, stream: Stream, shared: &Shared) {
        let peer = stream.peer();
        let stop = &shared.stop;
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
        let client = negotiated.input.transport().client().map(str::to_owned);
        tracing::info!(peer, client, export, "NBD client connected");
        let (limits, budget) = (self.options.limits, &shared.budget);
        let served = session::serve(&self.reactor, &mut negotiated, limits, budget, stop);
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
