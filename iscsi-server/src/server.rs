//! Serves iSCSI connections.

use std::rc::Rc;

use ashlar_front_end::{Server, Service, Shared};
use ashlar_proto::Address;
use ashlar_reactor::{NetError, Reactor, Stream};

use crate::catalog::TargetCatalog;
use crate::options::IscsiOptions;

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
    /// [`NetError::Listen`]: of the first address that cannot be listened at.
    pub async fn serve<C: TargetCatalog>(
        reactor: &Reactor,
        addresses: &[Address],
        catalog: Rc<C>,
        options: IscsiOptions,
    ) -> Result<Self, NetError> {
        let mut portals = Vec::new();
        for address in addresses {
            let service = Rc::new(Closing {
                _catalog: Rc::clone(&catalog),
            });
            portals.push(Server::start(reactor, address, service, &options.limits).await?);
        }
        Ok(Self { portals })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<Address> {
        self.portals.iter().map(Server::local_address).collect()
    }

    /// Stops.
    pub async fn stop(&self) {
        for portal in &self.portals {
            portal.stop().await;
        }
    }
}

/// Closes each connection as soon as it is made.
struct Closing<C> {
    _catalog: Rc<C>,
}

impl<C: TargetCatalog> Service for Closing<C> {
    const PROTOCOL: &'static str = "iSCSI";

    async fn connection(&self, stream: Stream, _shared: &Shared) {
        stream.shutdown();
    }
}
