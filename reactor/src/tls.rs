//! TLS over a stream: rustls keeps the state, the reactor moves the bytes.
//!
//! One receive and one send may be in flight at once, as on a plain stream. The state is borrowed
//! only between awaits. What TLS itself wants to say during a receive (key updates, alerts) goes
//! out with the next send; but for the handshake, during which nobody else may send.
//!
//! What is sent is copied once into records and encrypted there, and once into the buffer that the
//! kernel takes; what is received is decrypted where rustls keeps it and copied to where it stays.

use crate::{Buffer, DetachedStream, NetError, Reactor, SharedBuffer, Stream};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::rc::Rc;
use std::sync::Arc;

/// Ciphertext that one receive takes in: a few records of at most 16 KiB.
const CIPHER_BYTES: usize = 64 << 10;
/// Plaintext that is encrypted before its ciphertext is sent. With what its records add it fits into
/// a buffer of 256 KiB.
const PLAIN_BATCH_BYTES: usize = 240 << 10;
/// What records of so much plaintext may add: 22 bytes each of at most 16 KiB, and a short one for
/// each piece; more goes into another buffer.
const RECORDS_BYTES: usize = 16 << 10;

const _: () = assert!(PLAIN_BATCH_BYTES + RECORDS_BYTES == 256 << 10);

/// Why no more bytes come or go.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TlsError {
    /// The peer is gone without a good-bye.
    #[error("the peer closed the connection")]
    Closed,
    /// The network failed.
    #[error(transparent)]
    Net(#[from] NetError),
    /// TLS failed, or the peer's certificate is not good enough.
    #[error("TLS failed: {0}")]
    Tls(#[from] rustls::Error),
}

/// An encrypted stream. Clones are handles on the same one.
#[derive(Clone)]
pub struct TlsStream {
    reactor: Reactor,
    stream: Stream,
    state: Rc<RefCell<State>>,
}

struct State {
    /// Gone when the stream is detached.
    connection: Option<Connection>,
    /// Ciphertext received and not yet decrypted: buffer, and the range within.
    cipher: Option<(SharedBuffer, usize)>,
}

impl State {
    fn connection(&mut self) -> Result<&mut Connection, TlsError> {
        self.connection.as_mut().ok_or(TlsError::Closed)
    }

    fn is_handshaking(&self) -> bool {
        let connection = self.connection.as_ref();
        connection.is_some_and(|connection| connection.is_handshaking())
    }
}

impl TlsStream {
    /// The server's end, whose handshake is taken part in by the first receive.
    ///
    /// # Errors
    /// [`TlsError::Tls`]: the configuration is of no use.
    pub fn server(
        reactor: &Reactor,
        stream: Stream,
        config: Arc<ServerConfig>,
    ) -> Result<Self, TlsError> {
        let mut connection = ServerConnection::new(config)?;
        connection.set_buffer_limit(None);
        Ok(Self::new(reactor, stream, connection.into(), None))
    }

    /// Takes part in a handshake as the server, to its end.
    ///
    /// # Errors
    /// [`TlsError`].
    pub async fn accept(
        reactor: &Reactor,
        stream: Stream,
        config: Arc<ServerConfig>,
    ) -> Result<Self, TlsError> {
        let tls = Self::server(reactor, stream, config)?;
        tls.shake_hands().await?;
        Ok(tls)
    }

    /// Takes part in a handshake as the client, to its end. `name` is sent to nobody where the
    /// configuration sends none.
    ///
    /// # Errors
    /// [`TlsError`].
    pub async fn connect(
        reactor: &Reactor,
        stream: Stream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, TlsError> {
        let mut connection = ClientConnection::new(config, name)?;
        connection.set_buffer_limit(None);
        let tls = Self::new(reactor, stream, connection.into(), None);
        tls.shake_hands().await?;
        Ok(tls)
    }

    fn new(
        reactor: &Reactor,
        stream: Stream,
        connection: Connection,
        cipher: Option<(SharedBuffer, usize)>,
    ) -> Self {
        Self {
            reactor: reactor.clone(),
            stream,
            state: Rc::new(RefCell::new(State {
                connection: Some(connection),
                cipher,
            })),
        }
    }

    async fn shake_hands(&self) -> Result<(), TlsError> {
        loop {
            // An alert about what was wrong goes out before the error comes up.
            let decrypted = self.decrypt();
            self.send_pending().await?;
            decrypted?;
            if !self.state.borrow().is_handshaking() {
                return Ok(());
            }
            if !self.receive_cipher().await? {
                return Err(TlsError::Closed);
            }
        }
    }

    /// The certificate (DER) that the peer has shown.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<Vec<u8>> {
        let state = self.state.borrow();
        let chain = state.connection.as_ref()?.peer_certificates()?;
        Some(chain.first()?.to_vec())
    }

    /// The other end, for people.
    #[must_use]
    pub fn peer(&self) -> String {
        self.stream.peer()
    }

    /// Receives plaintext into `buffer[from..]`; 0 is the end.
    ///
    /// # Errors
    /// [`TlsError`].
    pub async fn recv_at(
        &self,
        mut buffer: Buffer,
        from: usize,
    ) -> (Buffer, Result<usize, TlsError>) {
        loop {
            let was_handshaking = self.state.borrow().is_handshaking();
            let decrypted = self.decrypt();
            if was_handshaking && let Err(error) = self.send_pending().await {
                return (buffer, Err(decrypted.err().unwrap_or(error)));
            }
            if let Err(error) = decrypted {
                return (buffer, Err(error));
            }
            match self.read(&mut buffer[from..]) {
                Ok(Some(len)) => return (buffer, Ok(len)),
                Ok(None) => {}
                Err(error) => return (buffer, Err(error)),
            }
            match self.receive_cipher().await {
                Ok(true) => {}
                Ok(false) => return (buffer, Err(TlsError::Closed)),
                Err(error) => return (buffer, Err(error)),
            }
        }
    }

    /// Plaintext that is there; `None` where none is.
    fn read(&self, target: &mut [u8]) -> Result<Option<usize>, TlsError> {
        let mut state = self.state.borrow_mut();
        match state.connection()?.reader().read(target) {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(_) => Err(TlsError::Closed),
        }
    }

    /// Sends all bytes.
    ///
    /// # Errors
    /// [`TlsError`].
    pub async fn send(&self, pieces: Vec<SharedBuffer>) -> Result<(), TlsError> {
        let mut batch = 0;
        for piece in &pieces {
            let mut rest: &[u8] = piece;
            while !rest.is_empty() {
                let take = rest.len().min(PLAIN_BATCH_BYTES - batch);
                let written = {
                    let mut state = self.state.borrow_mut();
                    state.connection()?.writer().write_all(&rest[..take])
                };
                written.map_err(|_| TlsError::Closed)?;
                rest = &rest[take..];
                batch += take;
                if batch == PLAIN_BATCH_BYTES {
                    self.send_pending().await?;
                    batch = 0;
                }
            }
        }
        self.send_pending().await
    }

    /// Says good-bye and closes.
    pub async fn close(&self) {
        if let Ok(connection) = self.state.borrow_mut().connection() {
            connection.send_close_notify();
        }
        let _ = self.send_pending().await;
        self.stream.shutdown();
    }

    /// Closes without a good-bye: what was sent still reaches the peer.
    pub fn shutdown(&self) {
        self.stream.shutdown();
    }

    /// Takes the stream off this reactor, to be adopted by another. Nothing may be in flight; other
    /// handles on it see [`TlsError::Closed`].
    ///
    /// # Panics
    /// If it is a pipe within the reactor.
    #[must_use]
    pub fn detach(self) -> DetachedTls {
        let (connection, cipher) = {
            let mut state = self.state.borrow_mut();
            (state.connection.take(), state.cipher.take())
        };
        DetachedTls {
            stream: self.stream.detach(),
            connection,
            cipher: cipher.map_or_else(Vec::new, |(buffer, at)| buffer[at..].to_vec()),
        }
    }

    /// Takes on a stream that another reactor detached.
    #[must_use]
    pub fn adopt(reactor: &Reactor, detached: DetachedTls) -> Self {
        let DetachedTls {
            stream,
            connection,
            cipher,
        } = detached;
        let cipher = (!cipher.is_empty()).then(|| {
            let mut buffer = reactor.buffer(cipher.len());
            buffer.copy_from_slice(&cipher);
            (buffer.freeze(), 0)
        });
        Self {
            reactor: reactor.clone(),
            stream: reactor.adopt(stream),
            state: Rc::new(RefCell::new(State { connection, cipher })),
        }
    }

    /// Decrypts what has been received, as far as rustls takes it.
    fn decrypt(&self) -> Result<(), TlsError> {
        let mut state = self.state.borrow_mut();
        let State { connection, cipher } = &mut *state;
        let connection = connection.as_mut().ok_or(TlsError::Closed)?;
        while let Some((bytes, at)) = cipher {
            let mut rest = &bytes[*at..];
            // It takes nothing while decrypted bytes wait to be read.
            let Ok(taken) = connection.read_tls(&mut rest) else {
                return Ok(());
            };
            if taken == 0 {
                return Ok(());
            }
            *at += taken;
            if *at == bytes.len() {
                *cipher = None;
            }
            connection.process_new_packets()?;
        }
        Ok(())
    }

    /// Receives ciphertext; false at the end of the stream.
    async fn receive_cipher(&self) -> Result<bool, TlsError> {
        if self.state.borrow().cipher.is_some() {
            // rustls refused it for want of room, yet has nothing to read: it never will.
            return Err(TlsError::Closed);
        }
        let (mut buffer, received) = self.stream.recv(self.reactor.buffer(CIPHER_BYTES)).await;
        let received = received?;
        if received == 0 {
            return Ok(false);
        }
        buffer.truncate(received);
        self.state.borrow_mut().cipher = Some((buffer.freeze(), 0));
        Ok(true)
    }

    /// Sends the ciphertext that rustls holds.
    async fn send_pending(&self) -> Result<(), TlsError> {
        let mut pieces = Vec::new();
        {
            let mut state = self.state.borrow_mut();
            let connection = state.connection()?;
            while connection.wants_write() {
                let mut records = Records::new(&self.reactor);
                let written = connection.write_tls(&mut records);
                written.map_err(|_| TlsError::Closed)?;
                pieces.push(records.finish());
            }
        }
        if pieces.is_empty() {
            return Ok(());
        }
        Ok(self.stream.send(pieces).await?)
    }
}

/// A stream on its way between reactors. Dropping it closes it.
pub struct DetachedTls {
    stream: DetachedStream,
    connection: Option<Connection>,
    cipher: Vec<u8>,
}

impl std::fmt::Debug for DetachedTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DetachedTls({:?})", self.stream)
    }
}

/// Takes records as they are given out, as far as they fit.
struct Records<'a> {
    reactor: &'a Reactor,
    buffer: Option<Buffer>,
    used: usize,
}

impl<'a> Records<'a> {
    fn new(reactor: &'a Reactor) -> Self {
        Self {
            reactor,
            buffer: None,
            used: 0,
        }
    }

    /// Begins with room for `wanted` bytes, or as many as fit into one batch.
    fn buffer(&mut self, wanted: usize) -> &mut Buffer {
        let bytes = wanted.clamp(1, PLAIN_BATCH_BYTES + RECORDS_BYTES);
        let reactor = self.reactor;
        self.buffer.get_or_insert_with(|| reactor.buffer(bytes))
    }

    fn finish(self) -> SharedBuffer {
        let mut buffer = self.buffer.unwrap_or_else(|| self.reactor.buffer(1));
        buffer.truncate(self.used);
        buffer.freeze()
    }

    fn take(&mut self, bytes: &[u8], wanted: usize) -> usize {
        let used = self.used;
        let buffer = self.buffer(wanted);
        let take = bytes.len().min(buffer.len() - used);
        buffer[used..used + take].copy_from_slice(&bytes[..take]);
        self.used += take;
        take
    }
}

impl Write for Records<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.take(bytes, bytes.len()))
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let wanted = slices.iter().map(|slice| slice.len()).sum();
        let mut done = 0;
        for slice in slices {
            let taken = self.take(slice, wanted);
            done += taken;
            if taken < slice.len() {
                break;
            }
        }
        Ok(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
