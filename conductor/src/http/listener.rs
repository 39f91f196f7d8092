//! Connections with limits: how many, and how long one may make no progress.
//!
//! Invariant: a connection on which no byte moves either way for [`IDLE_MAX`], or whose peer takes
//! nothing for [`WRITE_STALL_MAX`], ends. Long polls and watches move bytes more often than that.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, Sleep, sleep};

/// What the connections of a conductor are bounded by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections at a time; more wait to be accepted.
    pub connections: usize,
    /// Connections at a time of one address; more are closed as they come. What is on the conductor's machine is
    /// told apart by no address, and is bounded by the whole number alone.
    pub of_address: usize,
    /// How long after its connection was made, or the last answer on it had gone, a request's head may take. A
    /// connection on which nothing is asked for so long ends, too.
    pub head: Duration,
}

impl Default for ConnectionLimits {
    /// Room for a cluster of thousands of stores, each of which has two or three connections; a quarter of that
    /// for one address.
    fn default() -> Self {
        Self {
            connections: 16_384,
            of_address: 1024,
            head: Duration::from_secs(60),
        }
    }
}

impl ConnectionLimits {
    /// The same, or fewer connections, where the process may open `files` files: some are for metadata and logs.
    #[must_use]
    pub fn within_files(self, files: u64) -> Self {
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        let connections = files.saturating_sub(FILES_KEPT).max(CONNECTIONS_MIN);
        Self {
            connections: self.connections.min(connections),
            ..self
        }
    }
}

/// Files that a conductor needs beside its connections.
const FILES_KEPT: usize = 128;

/// Connections that it takes however few files it may open.
const CONNECTIONS_MIN: usize = 16;

/// Longest silence of a connection.
const IDLE_MAX: Duration = Duration::from_secs(120);

/// Longest that a peer may take nothing of what it is sent.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);

/// Pause after a failed accept, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A TCP listener with limits.
pub(crate) struct BoundedListener {
    listener: TcpListener,
    slots: Arc<Semaphore>,
    of_address: usize,
    addresses: Addresses,
    cut: watch::Receiver<bool>,
}

impl BoundedListener {
    /// Accepts from `listener`; all connections end once `cut` is true.
    pub(crate) fn new(
        listener: TcpListener,
        limits: ConnectionLimits,
        cut: watch::Receiver<bool>,
    ) -> Self {
        let connections = limits.connections.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            listener,
            slots: Arc::new(Semaphore::new(connections)),
            of_address: limits.of_address,
            addresses: Addresses::default(),
            cut,
        }
    }
}

impl Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedStream, SocketAddr) {
        loop {
            let slot = Arc::clone(&self.slots).acquire_owned().await.ok();
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let Some(place) = self.addresses.take(peer.ip(), self.of_address) else {
                        tracing::debug!(%peer, "connection closed: its address has too many");
                        continue;
                    };
                    // Answers are small and awaited: no reason to wait for more.
                    let _ = stream.set_nodelay(true);
                    let held = (slot, place);
                    return (BoundedStream::new(stream, held, self.cut.clone()), peer);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// How many connections each address has.
#[derive(Clone, Debug, Default)]
struct Addresses(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Addresses {
    /// A place for one more, unless the address has `most`.
    fn take(&self, address: IpAddr, most: usize) -> Option<Place> {
        let address = address.to_canonical();
        if address.is_loopback() {
            return Some(Place(None));
        }
        let mut counts = self.lock();
        let count = counts.get(&address).copied().unwrap_or_default();
        if count >= most {
            return None;
        }
        counts.insert(address, count + 1);
        Some(Place(Some((self.clone(), address))))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection in the count of its address, as long as it is there.
#[derive(Debug)]
struct Place(Option<(Addresses, IpAddr)>);

impl Drop for Place {
    fn drop(&mut self) {
        let Some((addresses, address)) = self.0.take() else {
            return;
        };
        let mut counts = addresses.lock();
        if let Some(count) = counts.get_mut(&address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&address);
            }
        }
    }
}

/// A connection that ends when it makes no progress.
pub(crate) struct BoundedStream {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    stall: Option<Pin<Box<Sleep>>>,
    /// Ends when connections are to end; `None` from then on.
    cut: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _held: Held,
}

/// A connection's place among all, and among those of its address.
type Held = (Option<OwnedSemaphorePermit>, Place);

impl BoundedStream {
    fn new(stream: TcpStream, held: Held, mut cut: watch::Receiver<bool>) -> Self {
        // The sender's end is the conductor's end, too.
        let cut = async move { drop(cut.wait_for(|cut| *cut).await) };
        Self {
            stream,
            idle: Box::pin(sleep(IDLE_MAX)),
            stall: None,
            cut: Some(Box::pin(cut)),
            _held: held,
        }
    }

    fn progressed(&mut self) {
        self.stall = None;
        self.idle.as_mut().reset(Instant::now() + IDLE_MAX);
    }

    fn is_cut(&mut self, context: &mut Context<'_>) -> bool {
        let cut = self.cut.as_mut();
        if cut.is_some_and(|cut| cut.as_mut().poll(context).is_ready()) {
            self.cut = None;
        }
        self.cut.is_none()
    }

    fn stalled<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if self.is_cut(context) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let stall = self
            .stall
            .get_or_insert_with(|| Box::pin(sleep(WRITE_STALL_MAX)));
        stall
            .as_mut()
            .poll(context)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(outcome) => {
                self.idle.as_mut().reset(Instant::now() + IDLE_MAX);
                Poll::Ready(outcome)
            }
            Poll::Pending if self.is_cut(context) => {
                Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
            }
            Poll::Pending => self
                .idle
                .as_mut()
                .poll(context)
                .map(|()| Err(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Ready(outcome) => {
                self.progressed();
                Poll::Ready(outcome)
            }
            Poll::Pending => self.stalled(context),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write_vectored(context, parts) {
            Poll::Ready(outcome) => {
                self.progressed();
                Poll::Ready(outcome)
            }
            Poll::Pending => self.stalled(context),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_places_for_others() {
        let addresses = Addresses::default();
        let (one, mapped) = (
            "10.0.0.1".parse().unwrap(),
            "::ffff:10.0.0.1".parse().unwrap(),
        );
        let mut places: Vec<_> = (0..3).filter_map(|_| addresses.take(one, 3)).collect();
        assert_eq!(places.len(), 3);
        assert!(addresses.take(one, 3).is_none() && addresses.take(mapped, 3).is_none());
        assert!(addresses.take("10.0.0.2".parse().unwrap(), 3).is_some());
        let here = (0..99).map_while(|_| addresses.take("127.0.0.1".parse().unwrap(), 3));
        assert_eq!(here.count(), 99);
        places.pop();
        assert!(addresses.take(mapped, 3).is_some());
        places.clear();
        assert!(addresses.lock().is_empty());
        assert!(addresses.take(one, 0).is_none());
        assert!(addresses.lock().is_empty());
    }

    #[test]
    fn connections_leave_files_for_the_metadata() {
        let limits = ConnectionLimits::default();
        assert_eq!(limits.within_files(1 << 20), limits);
        assert_eq!(limits.within_files(20_000), limits);
        assert_eq!(limits.within_files(1024).connections, 1024 - 128);
        assert_eq!(limits.within_files(10).connections, 16);
        assert_eq!(limits.within_files(u64::MAX), limits);
    }
}
