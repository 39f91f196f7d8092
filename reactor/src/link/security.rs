//! Which links are encrypted, and whom they are made with.
//!
//! Invariant: a reactor that was given a [`LinkSecurity`] makes and accepts no link over TCP to or at an
//! address that other machines reach but over TLS with certificates of both sides; and takes no frame from a
//! peer that it knows to be let in no more.

use super::LinkError;
use super::wire::Wire;
use crate::tls::TlsStream;
use crate::{Reactor, Stream};
use ashlar_proto::Address;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, ServerConfig};
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

/// A name that is looked at by nobody: peers are known by their certificates.
const NAME: &str = "node.invalid";

/// Says whose certificate it is.
pub trait KnowsPeers: Send + Sync {
    /// Whether a certificate (DER), whose chain and role have been verified, is that of a node.
    fn is_of(&self, certificate: &[u8], node: &str) -> bool;

    /// How often it has changed who is let in.
    fn changes(&self) -> u64;

    /// Whether who has shown a certificate (DER) that was let in once is let in still.
    fn is_let_in(&self, certificate: &[u8]) -> bool;
}

/// Ends a link whose peer is let in no more: looked at whenever a frame has come, of which nobody hears then.
/// As long as nothing changes that costs a comparison.
pub(super) struct Watch {
    peers: Arc<dyn KnowsPeers>,
    /// The changes that the peer was judged after.
    judged: Cell<u64>,
}

impl Watch {
    /// For a link that is encrypted, on a reactor whose links are secured.
    pub(super) fn of(reactor: &Reactor, wire: &Wire) -> Option<Self> {
        let Wire::Tls(_) = wire else { return None };
        let security = reactor.link_security()?;
        Some(Self {
            peers: Arc::clone(&security.peers),
            judged: Cell::new(0),
        })
    }

    /// Refuses a frame of a peer that is let in no more.
    pub(super) fn judge(&self, wire: &Wire) -> Result<(), LinkError> {
        let changes = self.peers.changes();
        if changes == self.judged.get() {
            return Ok(());
        }
        let Wire::Tls(tls) = wire else { return Ok(()) };
        let certificate = tls.peer_certificate().unwrap_or_default();
        if !self.peers.is_let_in(&certificate) {
            return Err(LinkError::Tls(CertificateError::Revoked.into()));
        }
        self.judged.set(changes);
        Ok(())
    }
}

/// How links are secured. Cheap to clone, for all reactors of a process.
#[derive(Clone)]
pub struct LinkSecurity {
    /// For links that are accepted. It must demand and verify certificates.
    pub server: Arc<ServerConfig>,
    /// For links that are made.
    pub client: Arc<ClientConfig>,
    /// Who a peer is.
    pub peers: Arc<dyn KnowsPeers>,
    /// Whether links over loopback are secured as well.
    pub also_loopback: bool,
}

impl fmt::Debug for LinkSecurity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("LinkSecurity");
        shown.field("also_loopback", &self.also_loopback);
        shown.finish_non_exhaustive()
    }
}

impl LinkSecurity {
    /// Whether links at that address are secured.
    pub(super) fn covers(&self, address: &Address) -> bool {
        matches!(address, Address::Tcp(_)) && (self.also_loopback || !address.is_loopback())
    }

    /// The server's end of a link.
    pub(super) fn accept(&self, reactor: &Reactor, stream: Stream) -> Result<TlsStream, LinkError> {
        Ok(TlsStream::server(
            reactor,
            stream,
            Arc::clone(&self.server),
        )?)
    }

    /// The client's end of a link, with `node` if that was said.
    pub(super) async fn connect(
        &self,
        reactor: &Reactor,
        stream: Stream,
        node: Option<&str>,
    ) -> Result<TlsStream, LinkError> {
        let name = ServerName::try_from(NAME).map_err(|_| LinkError::Closed)?;
        let tls = TlsStream::connect(reactor, stream, Arc::clone(&self.client), name).await?;
        if let Some(node) = node {
            let certificate = tls.peer_certificate().unwrap_or_default();
            if !self.peers.is_of(&certificate, node) {
                tls.shutdown();
                return Err(LinkError::Tls(CertificateError::NotValidForName.into()));
            }
        }
        Ok(tls)
    }
}
