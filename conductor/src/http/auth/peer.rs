//! Where a request comes from, as its connection says.

use axum::extract::connect_info::Connected;
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
