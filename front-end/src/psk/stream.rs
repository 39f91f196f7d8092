//! A stream that is encrypted with a pre-shared key: OpenSSL keeps the state, the reactor moves the
//! bytes.
//!
//! One receive and one send may be in flight at once, as on a plain stream. The state is borrowed
//! only between awaits. What TLS itself wants to say during a receive goes out with the next send;
//! but for the handshake, during which nobody else may send.

use super::{PskError, PskKeys, PskSource};
use ashlar_reactor::{Buffer, Reactor, SharedBuffer, Stream};
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{
    Error, ErrorCode, Ssl, SslContext, SslMethod, SslOptions, SslRef, SslSessionCacheMode,
    SslStream, SslVerifyMode, SslVersion,
};
use std::cell::RefCell;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::rc::Rc;
use std::sync::Arc;

/// Ciphertext that one receive takes in: a few records of at most 16 KiB.
const CIPHER_BYTES: usize = 64 << 10;
/// Plaintext that is encrypted before its ciphertext is sent.
const PLAIN_BATCH_BYTES: usize = 240 << 10;
/// Ciphertext that is sent from one buffer.
const PIECE_BYTES: usize = 256 << 10;
/// A pre-shared key by OpenSSL's callback goes with SHA-256 (RFC 8446 section 4.2.11 has that as the
/// default), and so must the cipher.
const CIPHERS: &str = "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256";

/// The server's side of all connections.
pub struct PskServer {
    context: SslContext,
    source: Arc<dyn PskSource>,
    asking: Index<Ssl, Asking>,
}

impl fmt::Debug for PskServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PskServer")
    }
}

/// What belongs to one handshake.
struct Asking {
    keys: Arc<PskKeys>,
    /// Who the client says it is, and whether that one has a key.
    claim: Option<(Vec<u8>, bool)>,
}

impl PskServer {
    /// Lets in whom `source` has a key of.
    ///
    /// # Errors
    /// [`PskError::SetUp`].
    pub fn new(source: Arc<dyn PskSource>) -> Result<Self, PskError> {
        Self::set_up(source).map_err(|error| PskError::SetUp(reason_of(&error)))
    }

    fn set_up(source: Arc<dyn PskSource>) -> Result<Self, ErrorStack> {
        let asking = Ssl::new_ex_index::<Asking>()?;
        let mut decoy = [0; 32];
        openssl::rand::rand_bytes(&mut decoy)?;
        let mut context = SslContext::builder(SslMethod::tls_server())?;
        context.set_min_proto_version(Some(SslVersion::TLS1_3))?;
        context.set_ciphersuites(CIPHERS)?;
        // Nobody comes back by a ticket: each connection shows that its client has the key of now.
        context.set_options(SslOptions::NO_TICKET);
        context.set_num_tickets(0)?;
        context.set_session_cache_mode(SslSessionCacheMode::OFF);
        context.set_verify(SslVerifyMode::NONE);
        context.set_psk_server_callback(move |ssl, name, room| {
            Ok(name.map_or(0, |name| find_key(ssl, asking, &decoy, name, room)))
        });
        Ok(Self {
            context: context.build(),
            source,
            asking,
        })
    }

    fn begin(&self) -> Result<SslStream<Wire>, ErrorStack> {
        let mut ssl = Ssl::new(&self.context)?;
        let asking = Asking {
            keys: self.source.keys(),
            claim: None,
        };
        ssl.set_ex_data(self.asking, asking);
        SslStream::new(ssl, Wire::default())
    }
}

/// Puts the key of a client into `room`; of one that is not known a key that nobody has, made as long
/// as that takes in either case. Gives its length.
fn find_key(
    ssl: &mut SslRef,
    asking: Index<Ssl, Asking>,
    decoy: &[u8; 32],
    name: &[u8],
    room: &mut [u8],
) -> usize {
    let decoy = openssl::sha::sha256(&[decoy, name].concat());
    let Some(asking) = ssl.ex_data_mut(asking) else {
        return 0;
    };
    let key = asking.keys.key_of(name);
    asking.claim = Some((name.to_vec(), key.is_some()));
    let key = key.unwrap_or(&decoy);
    let Some(room) = room.get_mut(..key.len()) else {
        return 0;
    };
    room.copy_from_slice(key);
    key.len()
}

/// What has come and OpenSSL has not taken, and what it wants to have sent.
#[derive(Default)]
struct Wire {
    incoming: Option<(SharedBuffer, usize)>,
    outgoing: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let Some((bytes, at)) = &mut self.incoming else {
            return Err(ErrorKind::WouldBlock.into());
        };
        let take = target.len().min(bytes.len() - *at);
        target[..take].copy_from_slice(&bytes[*at..*at + take]);
        *at += take;
        if *at == bytes.len() {
            self.incoming = None;
        }
        Ok(take)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An encrypted stream. Clones are handles on the same one.
#[derive(Clone)]
pub struct PskStream {
    reactor: Reactor,
    stream: Stream,
    state: Rc<RefCell<SslStream<Wire>>>,
    client: Rc<str>,
}

impl PskStream {
    /// Takes part in a handshake as the server, to its end.
    pub(crate) async fn accept(
        reactor: &Reactor,
        stream: Stream,
        server: &PskServer,
    ) -> Result<Self, PskError> {
        let begun = server.begin();
        let begun = begun.map_err(|error| PskError::SetUp(reason_of(&error)))?;
        let mut tls = Self {
            reactor: reactor.clone(),
            stream,
            state: Rc::new(RefCell::new(begun)),
            client: Rc::from(""),
        };
        loop {
            let step = tls.state.borrow_mut().accept();
            // An alert about what was wrong goes out before the error comes up.
            let sent = tls.send_pending().await;
            match step {
                Ok(()) => break,
                Err(error) if error.code() == ErrorCode::WANT_READ => sent?,
                Err(error) => return Err(tls.refusal(server, &error)),
            }
            tls.receive_cipher().await?;
        }
        tls.client = tls
            .claim(server)
            .map_or_else(|| "".into(), |(name, _)| name.into());
        Ok(tls)
    }

    /// Who the client says it is, for people; and whether that one has a key.
    fn claim(&self, server: &PskServer) -> Option<(String, bool)> {
        let state = self.state.borrow();
        let (name, is_known) = state.ssl().ex_data(server.asking)?.claim.as_ref()?;
        let name = String::from_utf8_lossy(name).escape_debug().to_string();
        Some((name, *is_known))
    }

    fn refusal(&self, server: &PskServer, error: &Error) -> PskError {
        let reason = reason_of_error(error);
        match self.claim(server) {
            Some((client, false)) => PskError::UnknownClient { client },
            Some((client, true)) if reason.contains("binder") => PskError::WrongKey { client },
            _ => PskError::Handshake(reason),
        }
    }

    /// The name that belongs to the key, escaped.
    pub(crate) fn client(&self) -> &str {
        &self.client
    }

    /// Receives plaintext into `buffer[from..]`; 0 is the end.
    pub(crate) async fn recv_at(
        &self,
        mut buffer: Buffer,
        from: usize,
    ) -> (Buffer, Result<usize, PskError>) {
        loop {
            match self.read(&mut buffer[from..]) {
                Ok(Some(len)) => return (buffer, Ok(len)),
                Ok(None) => {}
                Err(error) => return (buffer, Err(error)),
            }
            if let Err(error) = self.receive_cipher().await {
                return (buffer, Err(error));
            }
        }
    }

    /// Plaintext of as many records as are there and fit; `None` where none is, 0 at the end.
    fn read(&self, target: &mut [u8]) -> Result<Option<usize>, PskError> {
        let mut state = self.state.borrow_mut();
        let mut done = 0;
        while done < target.len() {
            match state.ssl_read(&mut target[done..]) {
                Ok(len) => done += len,
                // The end, or an error, comes up again with the next one.
                Err(_) if done > 0 => break,
                Err(error) if error.code() == ErrorCode::WANT_READ => return Ok(None),
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => return Ok(Some(0)),
                Err(error) => return Err(PskError::Broken(reason_of_error(&error))),
            }
        }
        Ok(Some(done))
    }

    /// Sends all bytes.
    pub(crate) async fn send(&self, pieces: Vec<SharedBuffer>) -> Result<(), PskError> {
        let mut batch = 0;
        for piece in &pieces {
            let mut rest: &[u8] = piece;
            while !rest.is_empty() {
                let take = rest.len().min(PLAIN_BATCH_BYTES - batch);
                let written = self.state.borrow_mut().ssl_write(&rest[..take]);
                let written = written.map_err(|e| PskError::Broken(reason_of_error(&e)))?;
                rest = &rest[written..];
                batch += written;
                if batch == PLAIN_BATCH_BYTES {
                    self.send_pending().await?;
                    batch = 0;
                }
            }
        }
        self.send_pending().await
    }

    /// Says good-bye and closes.
    pub(crate) async fn close(&self) {
        let _ = self.state.borrow_mut().shutdown();
        let _ = self.send_pending().await;
        self.stream.shutdown();
    }

    /// Receives ciphertext.
    async fn receive_cipher(&self) -> Result<(), PskError> {
        if self.state.borrow().get_ref().incoming.is_some() {
            // It asks for more and leaves what there is: it never will take it.
            return Err(PskError::Broken(
                "bytes are left that OpenSSL does not take",
            ));
        }
        let (mut buffer, received) = self.stream.recv(self.reactor.buffer(CIPHER_BYTES)).await;
        let received = received?;
        if received == 0 {
            return Err(PskError::Closed);
        }
        buffer.truncate(received);
        self.state.borrow_mut().get_mut().incoming = Some((buffer.freeze(), 0));
        Ok(())
    }

    /// Sends the ciphertext that OpenSSL has given out.
    async fn send_pending(&self) -> Result<(), PskError> {
        let mut pieces = Vec::new();
        {
            let mut state = self.state.borrow_mut();
            let outgoing = &mut state.get_mut().outgoing;
            for bytes in outgoing.chunks(PIECE_BYTES) {
                let mut piece = self.reactor.buffer(bytes.len());
                piece.copy_from_slice(bytes);
                pieces.push(piece.freeze());
            }
            outgoing.clear();
            outgoing.shrink_to(PIECE_BYTES);
        }
        if pieces.is_empty() {
            return Ok(());
        }
        Ok(self.stream.send(pieces).await?)
    }
}

fn reason_of_error(error: &Error) -> &'static str {
    error.ssl_error().map_or("unknown", reason_of)
}

/// Why, in OpenSSL's words.
fn reason_of(error: &ErrorStack) -> &'static str {
    let reason = error
        .errors()
        .first()
        .and_then(openssl::error::Error::reason);
    reason.unwrap_or("unknown")
}
