//! Serves each iSCSI connection, from its login to its end. Portals share one registry of targets
//! and sessions: a session's connections may come in through any of them.

use crate::catalog::TargetCatalog;
use crate::connection::{Connection, ConnectionError, End, LoggedIn};
use crate::discovery::{self, Asking};
use crate::framing::FramingError;
use crate::login::{Admitted, Claim, Login, LoginError};
use crate::options::IscsiOptions;
use crate::sessions::Registry;
use ashlar_front_end::{Input, Server, Service, Shared, Transport, TransportError};
use ashlar_proto::Address;
use ashlar_reactor::future::join_all;
use ashlar_reactor::{NetError, Reactor, Stream};
use std::rc::Rc;

/// A running iSCSI server at one or several addresses. It stops when told to; dropping the handle
/// leaves it running as long as its reactor.
#[derive(Debug)]
pub struct IscsiServer {
    portals: Vec<Server>,
}

impl IscsiServer {
    /// Begins to listen at `addresses` and to serve the targets of `catalog`. The limits hold for
    /// each address.
    ///
    /// # Errors
    /// [`NetError::Listen`]: of the first address that cannot be listened at; then none is.
    pub async fn serve<C: TargetCatalog>(
        reactor: &Reactor,
        addresses: &[Address],
        catalog: Rc<C>,
        options: IscsiOptions,
    ) -> Result<Self, NetError> {
        let limits = options.limits;
        let registry = Registry::new(reactor, catalog, options);
        let mut server = Self {
            portals: Vec::new(),
        };
        for address in addresses {
            let service = Rc::new(Iscsi {
                registry: Rc::clone(&registry),
            });
            match Server::start(reactor, address, service, &limits).await {
                Ok(portal) => server.portals.push(portal),
                Err(error) => {
                    server.stop().await;
                    return Err(error);
                }
            }
        }
        Ok(server)
    }

    /// Where it listens; with the ports that were taken where 0 was asked for.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<Address> {
        self.portals.iter().map(Server::local_address).collect()
    }

    /// Connections that are open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.portals.iter().map(Server::connections).sum()
    }

    /// Stops: no more connections; initiators are asked to log out, commands in flight end. Ends
    /// when all connections have ended, at the latest when [`crate::Limits::drain`] has passed
    /// twice.
    pub async fn stop(&self) {
        join_all(self.portals.iter().map(Server::stop)).await;
    }
}

struct Iscsi<C: TargetCatalog> {
    registry: Rc<Registry<C>>,
}

impl<C: TargetCatalog> Service for Iscsi<C> {
    const PROTOCOL: &'static str = "iSCSI";

    async fn connection(&self, stream: Stream, shared: &Shared) {
        let transport = Transport::Plain(stream.clone());
        let mut input = Input::new(&self.registry.reactor, transport);
        let portal = stream
            .local_address()
            .unwrap_or_else(|| shared.address.clone())
            .to_string();
        let mut login = Login::new(&self.registry, &mut input, &portal);
        let logged_in = shared.stop.or(login.run()).await;
        let claim = std::mem::take(&mut login.claim);
        match logged_in {
            None => {}
            Some(Err(error)) => tell_login(&stream.peer(), &claim, &error),
            Some(Ok(Admitted::Normal(made))) => {
                self.normal(&mut input, made, shared, &stream.peer()).await;
            }
            Some(Ok(Admitted::Discovery {
                parameters,
                stat_sn,
                cmd_sn,
            })) => {
                let asking = Asking {
                    initiator: &claim.initiator,
                    target: None,
                    portal: &portal,
                };
                let numbers = (parameters, stat_sn, cmd_sn);
                let discovering = discovery::discover(&self.registry, &mut input, asking, numbers);
                if let Some(Err(error)) = shared.stop.or(discovering).await {
                    let (peer, initiator) = (stream.peer(), &claim.initiator);
                    tracing::warn!(peer, initiator, "iSCSI discovery session dropped: {error}");
                }
            }
        }
        stream.shutdown();
    }
}

impl<C: TargetCatalog> Iscsi<C> {
    async fn normal(&self, input: &mut Input, made: LoggedIn<C>, shared: &Shared, peer: &str) {
        let (initiator, target) = (
            made.session.nexus.initiator.clone(),
            made.session.nexus.target.clone(),
        );
        let cid = made.link.cid;
        tracing::info!(peer, initiator, target, cid, "iSCSI initiator logged in");
        let connection = Connection::new(&self.registry, &shared.budget, made);
        let served = connection.serve(input, &shared.budget, &shared.stop).await;
        match served {
            Ok(End::LoggedOut) => {
                tracing::info!(peer, initiator, target, cid, "iSCSI initiator logged out");
            }
            Ok(End::Vanished) => {
                tracing::info!(peer, initiator, target, cid, "iSCSI initiator went away");
            }
            Ok(End::Stopped) => {
                tracing::info!(
                    peer,
                    initiator,
                    target,
                    cid,
                    "iSCSI connection closed: stopping"
                );
            }
            Ok(End::Closed(why)) => {
                tracing::info!(
                    peer,
                    initiator,
                    target,
                    cid,
                    ?why,
                    "iSCSI connection closed"
                );
            }
            Err(ConnectionError::Framing(FramingError::Transport(TransportError::Closed))) => {
                tracing::warn!(
                    peer,
                    initiator,
                    target,
                    cid,
                    "iSCSI initiator left within a PDU"
                );
            }
            Err(error) => {
                tracing::warn!(
                    peer,
                    initiator,
                    target,
                    cid,
                    "iSCSI session dropped: {error}"
                );
            }
        }
    }
}

fn tell_login(peer: &str, claim: &Claim, error: &LoginError) {
    let initiator = &claim.initiator;
    let target = claim.target.as_deref().unwrap_or("discovery");
    match error {
        // Port scanners, health checks and initiators that only looked.
        LoginError::Transport(TransportError::Closed) => {
            tracing::debug!(
                peer,
                initiator,
                target,
                "iSCSI initiator left during its login"
            );
        }
        error => tracing::warn!(peer, initiator, target, "iSCSI login failed: {error}"),
    }
}
