//! Who asks: known by the certificate that the connection was opened with, or trusted as of this machine.
//!
//! Invariant: a request that reaches a handler through [`admit`] may be asked by that peer; for whom it
//! may speak is looked at by [`Caller::may_speak_for`]. Denials hold from the next request on, on
//! connections that are open as well.

use std::net::SocketAddr;
use std::sync::Arc;

use ashlar_identity::Presented;
use ashlar_proto::api::NodeRole;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;

use super::gate::{Need, need};
use super::problem::{Answer, Refused};
use super::{Api, auth};
use crate::meta::MetaStore;
use crate::refusal::{IdentityRefusal, Refusal};

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    address: SocketAddr,
    is_encrypted: bool,
    presented: Option<Arc<Presented>>,
}

impl Peer {
    /// Where it is.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            is_encrypted: false,
            presented: None,
        }
    }

    /// One that has shown a certificate (DER) whose chain was verified, or none.
    pub(super) fn encrypted(address: SocketAddr, certificate: Option<impl AsRef<[u8]>>) -> Self {
        let read = certificate.and_then(|der| Presented::read(der.as_ref()).ok());
        Self {
            address,
            is_encrypted: true,
            presented: read.map(Arc::new),
        }
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Somebody on this machine, or anybody where the API is open to all.
    Trusted,
    /// Somebody who has shown no certificate.
    Anonymous,
    /// A node of the cluster.
    Node(Arc<Presented>),
}

impl Caller {
    /// Whether it may say something in the name of a store.
    pub(super) fn may_speak_for(&self, store: &str) -> Result<(), Refused> {
        match self {
            Self::Trusted => Ok(()),
            Self::Anonymous => Err(Refused::no_certificate()),
            Self::Node(presented) => {
                let identity = &presented.identity;
                if identity.role == NodeRole::Store && identity.name == store {
                    return Ok(());
                }
                Err(Refusal::from(IdentityRefusal::SpeaksForOther {
                    role: identity.role,
                    name: identity.name.clone(),
                    other: format!("store `{store}`"),
                })
                .into())
            }
        }
    }

    /// The node, where it has shown which.
    pub(super) fn node(&self) -> Answer<&Presented> {
        match self {
            Self::Node(presented) => Ok(presented),
            Self::Trusted | Self::Anonymous => Err(Refused::no_certificate()),
        }
    }

    fn meets(&self, need: Need) -> Result<(), Refused> {
        match (need, self) {
            (Need::Nothing, _) | (_, Self::Trusted) | (Need::Certificate, Self::Node(_)) => Ok(()),
            (_, Self::Anonymous) => Err(Refused::no_certificate()),
            (Need::Roles(roles), Self::Node(presented)) => {
                let role = presented.identity.role;
                if roles.contains(&role) {
                    Ok(())
                } else {
                    Err(Refused::wrong_role(role, roles))
                }
            }
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        let known = parts.extensions.get::<Self>().cloned();
        known.ok_or_else(Refused::no_certificate)
    }
}

/// Lets a request through that its peer may ask, and notes who that is.
pub(super) async fn admit<M: MetaStore>(
    State(api): State<Arc<Api<M>>>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = match who(&api, &request) {
        Ok(caller) => caller,
        Err(refused) => {
            let name = shown_by(&request);
            return auth::refuse_peer(&api, request, name, refused).await;
        }
    };
    let (method, path) = (request.method(), request.uri().path());
    let need = need(method, path);
    // Who shows a key or a token is asked by the next gate, which refuses one that is wrong.
    let is_for_next = matches!(caller, Caller::Anonymous)
        && api.gate.looks_at_credentials()
        && request.headers().contains_key(AUTHORIZATION)
        && need.is_met_by_credentials();
    if !is_for_next && let Err(refused) = caller.meets(need) {
        tracing::warn!(?caller, %method, path, code = refused.code(), "request refused");
        let name = shown_by(&request);
        return auth::refuse_peer(&api, request, name, refused).await;
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// The name in the certificate that the connection was opened with.
fn shown_by(request: &Request) -> Option<String> {
    let ConnectInfo(peer) = request.extensions().get::<ConnectInfo<Peer>>()?;
    let presented = peer.presented.as_ref()?;
    Some(presented.identity.name.clone())
}

fn who<M>(api: &Api<M>, request: &Request) -> Result<Caller, Refused> {
    let Some(tls) = &api.tls else {
        return Ok(Caller::Trusted);
    };
    let peer = request.extensions().get::<ConnectInfo<Peer>>();
    let Some(ConnectInfo(peer)) = peer else {
        return Ok(Caller::Anonymous);
    };
    let presented = peer.presented.as_ref().filter(|_| peer.is_encrypted);
    if let Some(presented) = presented
        && tls.denied.denies(presented)
    {
        let name = presented.identity.name.clone();
        tracing::warn!(peer = %peer.address, name, "request refused: the node is denied");
        return Err(Refusal::from(IdentityRefusal::Denied { name }).into());
    }
    let is_of_here = peer.address.ip().to_canonical().is_loopback();
    Ok(match presented {
        _ if is_of_here && !tls.also_loopback => Caller::Trusted,
        Some(presented) => Caller::Node(Arc::clone(presented)),
        None => Caller::Anonymous,
    })
}
