//! Where a request comes from, and who that is by its certificate: the one place where the gate learns of
//! the connection.

use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::http::request::Parts;
use axum::serve::IncomingStream;

use crate::access::gate::Peer;
use crate::http::listener::BoundedListener;

impl Connected<IncomingStream<'_, BoundedListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, BoundedListener>) -> Self {
        Self {
            address: Some(*stream.remote_addr()),
            certificate: None,
        }
    }
}

/// The peer of a request; nobody who is known, where its connection says nothing.
pub(super) fn of(parts: &Parts) -> Peer {
    let peer = parts.extensions.get::<ConnectInfo<Peer>>();
    peer.map(|info| info.0.clone()).unwrap_or_default()
}
