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
    Ok(known_as(presented, is_of_here && !tls.also_loopback))
}

/// A certificate that is shown counts wherever it is shown: a node on this machine is that node, which renews
/// it and may do what such nodes may.
fn known_as(presented: Option<&Arc<Presented>>, is_trusted: bool) -> Caller {
    match presented {
        Some(presented) => Caller::Node(Arc::clone(presented)),
        None if is_trusted => Caller::Trusted,
        None => Caller::Anonymous,
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use ashlar_identity::Identity;
    use ashlar_proto::ClusterId;

    use super::*;

    #[test]
    fn a_certificate_counts_on_this_machine_as_elsewhere() {
        let front = Arc::new(Presented {
            identity: Identity {
                cluster: ClusterId::new(1),
                role: NodeRole::FrontEnd,
                name: "front-1".to_owned(),
            },
            serial: "1".to_owned(),
            hosts: Vec::new(),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
        });
        for is_trusted in [true, false] {
            let caller = known_as(Some(&front), is_trusted);
            assert!(caller.node().is_ok(), "it renews its certificate");
            assert!(caller.may_speak_for("store-1").is_err());
            assert!(
                caller
                    .meets(need(&axum::http::Method::POST, "/v1/users"))
                    .is_err()
            );
        }
        assert!(matches!(known_as(None, true), Caller::Trusted));
        assert!(matches!(known_as(None, false), Caller::Anonymous));
    }
}
