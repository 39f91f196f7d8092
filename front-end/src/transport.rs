//! What a connection runs over: a plain stream or TLS, one receive and one send at a time.

use crate::psk::{PskError, PskStream};
use ashlar_reactor::tls::{TlsError, TlsStream};
use ashlar_reactor::{Buffer, NetError, SharedBuffer, Stream};

/// Why no more bytes come or go.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The client is gone.
    #[error("client closed the connection")]
    Closed,
    /// The network failed.
    #[error(transparent)]
    Net(#[from] NetError),
    /// TLS failed.
    #[error("TLS failed: {0}")]
    Tls(#[from] rustls::Error),
    /// TLS with a pre-shared key failed.
    #[error("TLS failed: {0}")]
    Psk(PskError),
}

impl From<PskError> for TransportError {
    fn from(error: PskError) -> Self {
        match error {
            PskError::Closed => Self::Closed,
            PskError::Net(error) => Self::Net(error),
            error => Self::Psk(error),
        }
    }
}

impl From<TlsError> for TransportError {
    fn from(error: TlsError) -> Self {
        match error {
            TlsError::Closed => Self::Closed,
            TlsError::Net(error) => Self::Net(error),
            TlsError::Tls(error) => Self::Tls(error),
        }
    }
}

/// A connection's two ways. Clones are handles on the same ones.
#[derive(Clone)]
pub enum Transport {
    /// As it comes.
    Plain(Stream),
    /// Encrypted, by certificates.
    Tls(TlsStream),
    /// Encrypted, by a pre-shared key.
    Psk(PskStream),
}

impl Transport {
    /// Receives at least one byte into `buffer[from..]`; 0 is the end.
    pub async fn recv_at(
        &self,
        buffer: Buffer,
        from: usize,
    ) -> (Buffer, Result<usize, TransportError>) {
        match self {
            Self::Plain(stream) => {
                let (buffer, received) = stream.recv_at(buffer, from).await;
                (buffer, received.map_err(TransportError::from))
            }
            Self::Tls(tls) => {
                let (buffer, received) = tls.recv_at(buffer, from).await;
                (buffer, received.map_err(TransportError::from))
            }
            Self::Psk(tls) => {
                let (buffer, received) = tls.recv_at(buffer, from).await;
                (buffer, received.map_err(TransportError::from))
            }
        }
    }

    /// Sends all bytes.
    pub async fn send(&self, pieces: Vec<SharedBuffer>) -> Result<(), TransportError> {
        match self {
            Self::Plain(stream) => Ok(stream.send(pieces).await?),
            Self::Tls(tls) => Ok(tls.send(pieces).await?),
            Self::Psk(tls) => Ok(tls.send(pieces).await?),
        }
    }

    /// Ends both directions, after a good-bye where TLS has one.
    pub async fn close(&self) {
        match self {
            Self::Plain(stream) => stream.shutdown(),
            Self::Tls(tls) => tls.close().await,
            Self::Psk(tls) => tls.close().await,
        }
    }

    /// Whether nobody can listen in.
    pub fn is_encrypted(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// The name that the client has shown to be its own, for people; `None` where it had not to.
    pub fn client(&self) -> Option<&str> {
        match self {
            Self::Psk(tls) => Some(tls.client()),
            Self::Plain(_) | Self::Tls(_) => None,
        }
    }
}
