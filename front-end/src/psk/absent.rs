//! Stands in for TLS with pre-shared keys where the program is built without it: a server of it can
//! be asked for, and is refused.

use super::{PskError, PskSource};
use ashlar_reactor::{Buffer, Reactor, SharedBuffer, Stream};
use std::convert::Infallible;
use std::sync::Arc;

/// Is never there.
#[derive(Debug)]
pub struct PskServer(Infallible);

impl PskServer {
    /// Does not make it.
    ///
    /// # Errors
    /// [`PskError::NotBuilt`], always.
    pub fn new(_source: Arc<dyn PskSource>) -> Result<Self, PskError> {
        Err(PskError::NotBuilt)
    }
}

/// Is never there.
#[derive(Clone)]
pub struct PskStream(Infallible);

impl PskStream {
    pub(crate) async fn accept(
        _reactor: &Reactor,
        _stream: Stream,
        server: &PskServer,
    ) -> Result<Self, PskError> {
        match server.0 {}
    }

    pub(crate) fn client(&self) -> &str {
        match self.0 {}
    }

    pub(crate) async fn recv_at(
        &self,
        _buffer: Buffer,
        _from: usize,
    ) -> (Buffer, Result<usize, PskError>) {
        match self.0 {}
    }

    pub(crate) async fn send(&self, _pieces: Vec<SharedBuffer>) -> Result<(), PskError> {
        match self.0 {}
    }

    pub(crate) async fn close(&self) {
        match self.0 {}
    }
}
