//! Frames between owner and replica: over a stream socket, or by pointer within a reactor.
//!
//! Invariants:
//!
//! - Whatever the peer sends, memory stays bounded: one frame is received at a time, none before
//!   the last one was taken; what is to be sent waits in a queue of bounded bytes.
//! - A stream that shows a bad header, bad metadata or a cut frame is never read again: the link
//!   is closed and every later call gives the first error.
//! - A peer that stops in the middle of a frame, or that stops reading, is given up after
//!   [`STALL_MAX`]; between frames a link may be idle for ever.
//! - Payload arrives in page-aligned memory, and leaves from where it lies.
//!
//! ```text
//! send ─▶ queue ─▶ writer task ─ one gathered send ─▶ stream ─▶ stage 64 KiB ─▶ recv
//!                                                        └─ rest of a payload ──▲
//! ```

mod receive;
mod security;
mod send;
mod wire;

use crate::channel::{Receiver, Sender};
use crate::local::{self, LocalChannel, LocalListener};
use crate::{Listener, NetError, PAGE_BYTES, Reactor, SharedBuffer, Stream};
use ashlar_proto::{Address, FrameError, FrameHeader};
use receive::Inbound;
use send::Outbound;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;
use wire::{DetachedWire, Wire};

pub use security::{KnowsPeers, LinkSecurity};

/// How long a peer may take over the rest of a frame, or to take what is sent to it.
pub const STALL_MAX: Duration = Duration::from_secs(30);

/// One message of the data plane.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The header; its lengths are those of `meta` and `data`.
    pub header: FrameHeader,
    /// The sealed metadata: see [`ashlar_proto::frame::seal_meta`].
    pub meta: Vec<u8>,
    /// The blocks: page-aligned pieces, in order.
    pub data: Vec<SharedBuffer>,
}

impl Frame {
    /// A frame whose header carries the lengths of `meta` and `data`.
    ///
    /// # Panics
    /// If either is too long for a frame or not of whole words or blocks.
    #[must_use]
    pub fn new(header: FrameHeader, meta: Vec<u8>, data: Vec<SharedBuffer>) -> Self {
        let data_bytes: usize = data.iter().map(|piece| piece.len()).sum();
        let frame = Self {
            header: FrameHeader {
                meta_words: u16::try_from(meta.len() / 4).unwrap_or(u16::MAX),
                data_blocks: u16::try_from(data_bytes / PAGE_BYTES).unwrap_or(u16::MAX),
                ..header
            },
            meta,
            data,
        };
        frame.assert_sound();
        frame
    }

    /// Bytes that it takes in a queue.
    fn bytes(&self) -> usize {
        ashlar_proto::FRAME_HEADER_BYTES + self.meta.len() + self.header.data_bytes()
    }

    fn assert_sound(&self) {
        let data_bytes: usize = self.data.iter().map(|piece| piece.len()).sum();
        assert!(
            self.meta.len() == self.header.meta_bytes() && data_bytes == self.header.data_bytes(),
            "frame lengths {} and {data_bytes} differ from its header's",
            self.meta.len()
        );
        assert!(
            self.header.data_blocks <= ashlar_proto::limits::FRAME_DATA_BLOCKS_MAX,
            "frame of {} blocks",
            self.header.data_blocks
        );
        assert!(
            self.data.iter().all(SharedBuffer::is_aligned),
            "payload of a frame must be page-aligned"
        );
    }
}

/// Why a link came to its end.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LinkError {
    /// The peer closed it, between two frames.
    #[error("the peer closed the link")]
    Closed,
    /// This end closed it.
    #[error("the link was closed at this end")]
    Shutdown,
    /// The peer closed it in the middle of a frame.
    #[error("the link ended in the middle of a frame")]
    Truncated,
    /// The peer sent no frame, or one that cannot be trusted.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The peer neither went on with a frame nor took one for [`STALL_MAX`].
    #[error("the peer has stalled for {} s", STALL_MAX.as_secs())]
    Stalled,
    /// TLS failed, or the peer is not who it should be.
    #[error("TLS failed: {0}")]
    Tls(rustls::Error),
    /// The network failed.
    #[error(transparent)]
    Net(NetError),
}

impl From<NetError> for LinkError {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Shutdown => Self::Shutdown,
            error => Self::Net(error),
        }
    }
}

/// A connection that carries frames. Clones are handles on the same one: any number may send,
/// one may receive. What was sent before the last handle goes is still delivered.
#[derive(Clone)]
pub struct Link {
    inner: Rc<Inner>,
}

struct Inner {
    transport: Transport,
    peer: String,
}

enum Transport {
    Stream {
        outbound: Rc<Outbound>,
        inbound: Inbound,
    },
    Local {
        sender: Sender<Frame>,
        receiver: Receiver<Frame>,
        failure: Failure,
    },
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Transport::Stream { outbound, .. } = &self.transport {
            outbound.finish();
        }
    }
}

impl Link {
    /// A link over a connected stream.
    #[must_use]
    pub fn over(reactor: &Reactor, stream: Stream) -> Self {
        Self::with_staged(reactor, Wire::Plain(stream), &[])
    }

    fn with_staged(reactor: &Reactor, wire: Wire, staged: &[u8]) -> Self {
        let failure = Failure::default();
        let peer = wire.peer();
        let inbound = Inbound::new(reactor, wire.clone(), failure.clone(), staged);
        let outbound = Outbound::start(reactor, wire, failure);
        Self {
            inner: Rc::new(Inner {
                transport: Transport::Stream { outbound, inbound },
                peer,
            }),
        }
    }

    fn over_local(channel: LocalChannel<Frame>, peer: String) -> Self {
        Self {
            inner: Rc::new(Inner {
                transport: Transport::Local {
                    sender: channel.sender,
                    receiver: channel.receiver,
                    failure: Failure::default(),
                },
                peer,
            }),
        }
    }

    /// Queues a frame, as soon as there is room for it. Queued is not sent: a link that fails
    /// later drops it.
    ///
    /// # Errors
    /// [`LinkError`]: the link has come to its end.
    ///
    /// # Panics
    /// If the header's lengths are not those of metadata and data, or a piece of data is not
    /// page-aligned.
    pub async fn send(&self, frame: Frame) -> Result<(), LinkError> {
        frame.assert_sound();
        match &self.inner.transport {
            Transport::Stream { outbound, .. } => outbound.send(frame).await,
            Transport::Local {
                sender, failure, ..
            } => {
                let sent = sender.send(frame).await;
                sent.map_err(|_| failure.first_or(LinkError::Closed))
            }
        }
    }

    /// The next frame. Its header and metadata are whole; its data is not yet compared with the
    /// checksums. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`LinkError`]: the link has come to its end.
    pub async fn recv(&self) -> Result<Frame, LinkError> {
        match &self.inner.transport {
            Transport::Stream { inbound, .. } => inbound.recv().await,
            Transport::Local {
                receiver, failure, ..
            } => {
                let frame = receiver.recv().await;
                frame.ok_or_else(|| failure.first_or(LinkError::Closed))
            }
        }
    }

    /// Waits until all that was queued is in the system's hands, or the link has failed.
    pub async fn drained(&self) {
        if let Transport::Stream { outbound, .. } = &self.inner.transport {
            outbound.drained().await;
        }
    }

    /// Ends it at once: calls that wait end with [`LinkError::Shutdown`], queued frames are
    /// dropped.
    pub fn close(&self) {
        match &self.inner.transport {
            Transport::Stream { outbound, .. } => outbound.fail(LinkError::Shutdown),
            Transport::Local {
                sender,
                receiver,
                failure,
            } => {
                failure.first_or(LinkError::Shutdown);
                sender.close();
                receiver.close();
                while receiver.try_recv().is_some() {}
            }
        }
    }

    /// Whether frames pass by pointer within the reactor.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(self.inner.transport, Transport::Local { .. })
    }

    /// The other end, for people.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.inner.peer
    }

    /// Takes the link off this reactor, to be adopted by another. What it has received in advance
    /// goes with it. For one that has sent nothing yet and whose receiver has just been given a
    /// frame: nothing may be in flight. Other handles on it see [`LinkError::Shutdown`].
    ///
    /// # Errors
    /// [`LinkError`]: the link has come to its end.
    ///
    /// # Panics
    /// If frames pass by pointer ([`Link::is_local`]), or a receive or a send is in flight.
    pub fn detach(self) -> Result<DetachedLink, LinkError> {
        let Transport::Stream { outbound, inbound } = &self.inner.transport else {
            panic!("a local link cannot leave its reactor");
        };
        let staged = inbound.take_staged()?;
        let wire = outbound.take_wire();
        Ok(DetachedLink {
            wire: wire.detach(),
            staged,
        })
    }

    /// Takes on a link that another reactor detached.
    #[must_use]
    pub fn adopt(reactor: &Reactor, link: DetachedLink) -> Self {
        Self::with_staged(reactor, Wire::adopt(reactor, link.wire), &link.staged)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.inner.peer)
    }
}

/// A link on its way between reactors. Dropping it closes it.
#[derive(Debug)]
pub struct DetachedLink {
    wire: DetachedWire,
    staged: Vec<u8>,
}

/// Accepts links at an address. Stops listening when dropped.
#[derive(Debug)]
pub struct LinkListener {
    reactor: Reactor,
    kind: ListenerKind,
    address: Address,
}

#[derive(Debug)]
enum ListenerKind {
    Socket(Listener),
    Local(LocalListener<Frame>),
}

impl LinkListener {
    /// The next link. Where links are secured, its first receive takes part in the handshake.
    ///
    /// # Errors
    /// [`NetError`]: this listener is of no more use.
    pub async fn accept(&self) -> Result<Link, NetError> {
        match &self.kind {
            ListenerKind::Socket(listener) => loop {
                let stream = listener.accept().await?;
                match secured(&self.reactor, &self.address, stream) {
                    Ok(wire) => return Ok(Link::with_staged(&self.reactor, wire, &[])),
                    Err(error) => tracing::error!(%error, "TLS cannot be set up"),
                }
            },
            ListenerKind::Local(listener) => {
                let channel = listener.accept().await.ok_or(NetError::Shutdown)?;
                Ok(Link::over_local(channel, self.address.to_string()))
            }
        }
    }

    /// Where it listens; with the port that was taken if 0 was asked for.
    #[must_use]
    pub fn local_address(&self) -> Address {
        self.address.clone()
    }
}

/// Listens for links at `address`.
///
/// # Errors
/// [`NetError::Listen`].
pub async fn listen(reactor: &Reactor, address: &Address) -> Result<LinkListener, NetError> {
    let (kind, address) = if let Address::Local(name) = address {
        let listener = local::listen(reactor, name)?;
        (ListenerKind::Local(listener), address.clone())
    } else {
        let listener = reactor.listen(address).await?;
        let bound = listener.local_address();
        (ListenerKind::Socket(listener), bound)
    };
    Ok(LinkListener {
        reactor: reactor.clone(),
        kind,
        address,
    })
}

/// The server's end of a connection to a listener at `address`.
fn secured(reactor: &Reactor, address: &Address, stream: Stream) -> Result<Wire, LinkError> {
    match reactor.link_security() {
        Some(security) if security.covers(address) => {
            Ok(Wire::Tls(security.accept(reactor, stream)?))
        }
        _ => Ok(Wire::Plain(stream)),
    }
}

/// Connects to `address`; [`Address::Local`] reaches listeners on this reactor only. There is no
/// time limit of its own.
///
/// # Errors
/// [`LinkError::Net`]; [`LinkError::Tls`] where links are secured and the peer is not let in.
pub async fn connect(reactor: &Reactor, address: &Address) -> Result<Link, LinkError> {
    connect_to(reactor, address, None).await
}

/// The same; where links are secured, the peer must be the node of that name.
///
/// # Errors
/// As [`connect`].
pub async fn connect_to(
    reactor: &Reactor,
    address: &Address,
    node: Option<&str>,
) -> Result<Link, LinkError> {
    if let Address::Local(name) = address {
        let channel = local::connect(reactor, name)?;
        return Ok(Link::over_local(channel, address.to_string()));
    }
    let stream = reactor.connect(address).await?;
    let security = reactor.link_security();
    let Some(security) = security.filter(|security| security.covers(address)) else {
        return Ok(Link::over(reactor, stream));
    };
    let made = security.connect(reactor, stream, node).await;
    let tls = made.inspect_err(|error| {
        tracing::warn!(peer = %address, node, %error, "no secured link could be made");
    })?;
    Ok(Link::with_staged(reactor, Wire::Tls(tls), &[]))
}

/// Why a link ended: the first reason counts.
#[derive(Clone, Default)]
struct Failure {
    first: Rc<RefCell<Option<LinkError>>>,
}

impl Failure {
    /// The first reason, which is `error` if there was none.
    fn first_or(&self, error: LinkError) -> LinkError {
        self.first.borrow_mut().get_or_insert(error).clone()
    }

    fn get(&self) -> Option<LinkError> {
        self.first.borrow().clone()
    }

    fn is_set(&self) -> bool {
        self.first.borrow().is_some()
    }
}

#[cfg(test)]
mod tests;
