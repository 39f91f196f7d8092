//! The API's listener: as it comes, or TLS.
//!
//! Invariants: a handshake takes [`HANDSHAKE_MAX`] at most and holds up no other connection; one that is
//! not over counts among the connections, so that their number is bounded as always.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::listener::{BoundedListener, BoundedStream};
use super::peer::Peer;

/// Longest that a handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Connections whose handshake is over and that are not served yet.
const READY_MAX: usize = 64;

/// A connection of the API.
pub(crate) enum Connection {
    /// As it comes.
    Plain(BoundedStream),
    /// Encrypted.
    Tls(Box<TlsStream<BoundedStream>>),
}

/// See the module.
pub(crate) enum ApiListener {
    /// As they come.
    Plain(BoundedListener),
    /// Those whose handshake is over.
    Tls {
        ready: mpsc::Receiver<(Connection, SocketAddr)>,
        address: SocketAddr,
    },
}

impl ApiListener {
    /// TLS over the connections of `listener`. To be called in a tokio runtime.
    pub(crate) fn tls(listener: BoundedListener, config: Arc<ServerConfig>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(READY_MAX);
        tokio::spawn(accept(listener, TlsAcceptor::from(config), sender));
        Ok(Self::Tls { ready, address })
    }
}

/// Accepts until nobody takes the connections any more.
async fn accept(
    mut listener: BoundedListener,
    acceptor: TlsAcceptor,
    ready: mpsc::Sender<(Connection, SocketAddr)>,
) {
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ready.closed() => return,
        };
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tokio::spawn(async move {
            let handshake = acceptor.accept(stream);
            match tokio::time::timeout(HANDSHAKE_MAX, handshake).await {
                Ok(Ok(stream)) => {
                    // Nobody takes it: the conductor stops.
                    let _ = ready.send((Connection::Tls(Box::new(stream)), peer)).await;
                }
                Ok(Err(error)) => tracing::warn!(%peer, "TLS refused: {error}"),
                Err(_) => tracing::warn!(%peer, "TLS refused: the handshake took too long"),
            }
        });
    }
}

impl Listener for ApiListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self {
            Self::Plain(listener) => {
                let (stream, peer) = listener.accept().await;
                (Connection::Plain(stream), peer)
            }
            Self::Tls { ready, .. } => match ready.recv().await {
                Some(accepted) => accepted,
                // The task that accepts ends after this one.
                None => std::future::pending().await,
            },
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Plain(listener) => listener.local_addr(),
            Self::Tls { address, .. } => Ok(*address),
        }
    }
}

impl Connection {
    /// Who is at its other end.
    pub(crate) fn peer(&self, address: SocketAddr) -> Peer {
        match self {
            Self::Plain(_) => Peer::plain(address),
            Self::Tls(tls) => {
                let (_, connection) = tls.get_ref();
                let shown = connection.peer_certificates();
                Peer::encrypted(address, shown.and_then(|chain| chain.first()))
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
