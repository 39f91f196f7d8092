//! Where a request comes from, and who that is by its certificate: the one place where the gate learns of
//! the connection.

use ashlar_proto::api::{NodeRole, Role};
use axum::extract::connect_info::ConnectInfo;
use axum::http::request::Parts;

use crate::access::caller::Caller;
use crate::access::gate::Peer;
use crate::http::peer as connection;

/// The peer of a request; nobody who is known, where its connection says nothing.
pub(super) fn of(parts: &Parts) -> Peer {
    let from = parts.extensions.get::<ConnectInfo<connection::Peer>>();
    let certificate = match parts.extensions.get::<connection::Caller>() {
        Some(connection::Caller::Node(shown)) => {
            let identity = &shown.identity;
            Some(Caller::node(identity.name.clone(), role_of(identity.role)))
        }
        Some(connection::Caller::Trusted | connection::Caller::Anonymous) | None => None,
    };
    Peer {
        address: from.map(|info| info.0.address()),
        certificate,
    }
}

/// What a node of that role may do. Other conductors only look.
fn role_of(role: NodeRole) -> Role {
    match role {
        NodeRole::Store => Role::Store,
        NodeRole::FrontEnd => Role::FrontEnd,
        NodeRole::Conductor => Role::Viewer,
        NodeRole::Client => Role::Admin,
    }
}
