//! What a link's bytes pass over: a stream as it comes, or TLS.

use super::LinkError;
use crate::tls::{DetachedTls, TlsError, TlsStream};
use crate::{Buffer, DetachedStream, Reactor, SharedBuffer, Stream};

/// See the module. Clones are handles on the same one.
#[derive(Clone)]
pub(super) enum Wire {
    Plain(Stream),
    Tls(TlsStream),
}

impl Wire {
    /// Receives at least one byte into `buffer[from..]`; 0 is the end.
    pub(super) async fn recv_at(
        &self,
        buffer: Buffer,
        from: usize,
    ) -> (Buffer, Result<usize, LinkError>) {
        match self {
            Self::Plain(stream) => {
                let (buffer, received) = stream.recv_at(buffer, from).await;
                (buffer, received.map_err(LinkError::from))
            }
            Self::Tls(tls) => {
                let (buffer, received) = tls.recv_at(buffer, from).await;
                (buffer, received.map_err(LinkError::from))
            }
        }
    }

    /// Sends all bytes.
    pub(super) async fn send(&self, pieces: Vec<SharedBuffer>) -> Result<(), LinkError> {
        match self {
            Self::Plain(stream) => Ok(stream.send(pieces).await?),
            Self::Tls(tls) => Ok(tls.send(pieces).await?),
        }
    }

    /// Ends both directions; what was sent still reaches the peer.
    pub(super) fn shutdown(&self) {
        match self {
            Self::Plain(stream) => stream.shutdown(),
            Self::Tls(tls) => tls.shutdown(),
        }
    }

    /// The other end, for people.
    pub(super) fn peer(&self) -> String {
        match self {
            Self::Plain(stream) => stream.peer(),
            Self::Tls(tls) => tls.peer(),
        }
    }

    /// Takes it off this reactor.
    pub(super) fn detach(self) -> DetachedWire {
        match self {
            Self::Plain(stream) => DetachedWire::Plain(stream.detach()),
            Self::Tls(tls) => DetachedWire::Tls(Box::new(tls.detach())),
        }
    }

    /// Takes on one that another reactor detached.
    pub(super) fn adopt(reactor: &Reactor, wire: DetachedWire) -> Self {
        match wire {
            DetachedWire::Plain(stream) => Self::Plain(reactor.adopt(stream)),
            DetachedWire::Tls(tls) => Self::Tls(TlsStream::adopt(reactor, *tls)),
        }
    }
}

/// One on its way between reactors.
#[derive(Debug)]
pub(super) enum DetachedWire {
    Plain(DetachedStream),
    Tls(Box<DetachedTls>),
}

impl From<TlsError> for LinkError {
    fn from(error: TlsError) -> Self {
        match error {
            TlsError::Closed => Self::Closed,
            TlsError::Net(error) => error.into(),
            TlsError::Tls(error) => Self::Tls(error),
        }
    }
}
