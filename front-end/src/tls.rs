//! TLS over a stream: rustls keeps the state, the reactor moves the bytes.
//!
//! One receive and one send may be in flight at once, as on a plain stream. The state is borrowed
//! only between awaits. What TLS itself wants to say during a receive (key updates, alerts) goes
//! out with the next send.

use crate::transport::TransportError;
use ashlar_reactor::{Buffer, Reactor, SharedBuffer, Stream};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::rc::Rc;
use std::sync::Arc;

/// Ciphertext that one receive takes in: a few records of at most 16 KiB.
const CIPHER_BYTES: usize = 64 << 10;
/// Plaintext that is encrypted before its ciphertext is sent.
const PLAIN_BATCH_BYTES: usize = 256 << 10;

/// Why certificates make no TLS server.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// A certificate file is no PEM.
    #[error("no PEM certificates could be read: {0}")]
    Certificates(rustls::pki_types::pem::Error),
    /// The key file holds no PEM key.
    #[error("no PEM private key could be read: {0}")]
    Key(rustls::pki_types::pem::Error),
    /// The certificates of the clients' authority cannot be used.
    #[error("client authority cannot be used: {0}")]
    ClientAuthority(rustls::server::VerifierBuilderError),
    /// Certificate and key do not fit each other, or TLS does not take them.
    #[error("certificate and key cannot be used: {0}")]
    Refused(#[from] rustls::Error),
}

/// The configuration of a TLS 1.2 and 1.3 server from PEM texts. With a client authority, clients
/// must show a certificate that it signed.
///
/// # Errors
/// [`TlsConfigError`].
pub fn tls_config(
    certificates: &[u8],
    key: &[u8],
    client_authority: Option<&[u8]>,
) -> Result<Arc<ServerConfig>, TlsConfigError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match client_authority {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in read_certificates(pem)? {
                roots.add(certificate)?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(TlsConfigError::ClientAuthority)?)
        }
    };
    let key = PrivateKeyDer::from_pem_slice(key).map_err(TlsConfigError::Key)?;
    let config = builder.with_single_cert(read_certificates(certificates)?, key)?;
    Ok(Arc::new(config))
}

fn read_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(TlsConfigError::Certificates)?;
    if certificates.is_empty() {
        let error = rustls::pki_types::pem::Error::NoItemsFound;
        return Err(TlsConfigError::Certificates(error));
    }
    Ok(certificates)
}

/// An encrypted stream. Clones are handles on the same one.
#[derive(Clone)]
pub struct TlsStream {
    reactor: Reactor,
    stream: Stream,
    state: Rc<RefCell<State>>,
}

struct State {
    connection: ServerConnection,
    /// Ciphertext received and not yet decrypted: buffer, and the range within.
    cipher: Option<(SharedBuffer, usize)>,
}

impl TlsStream {
    /// Takes part in a TLS handshake to its end.
    pub async fn accept(
        reactor: &Reactor,
        stream: Stream,
        config: Arc<ServerConfig>,
    ) -> Result<Self, TransportError> {
        let mut connection = ServerConnection::new(config)?;
        connection.set_buffer_limit(None);
        let tls = Self {
            reactor: reactor.clone(),
            stream,
            state: Rc::new(RefCell::new(State {
                connection,
                cipher: None,
            })),
        };
        loop {
            // An alert about what was wrong goes out before the error comes up.
            let decrypted = tls.decrypt();
            tls.send_pending().await?;
            decrypted?;
            if !tls.state.borrow().connection.is_handshaking() {
                return Ok(tls);
            }
            if !tls.receive_cipher().await? {
                return Err(TransportError::Closed);
            }
        }
    }

    /// Receives plaintext into `buffer[from..]`; 0 is the end.
    pub async fn recv_at(
        &self,
        mut buffer: Buffer,
        from: usize,
    ) -> (Buffer, Result<usize, TransportError>) {
        loop {
            if let Err(error) = self.decrypt() {
                return (buffer, Err(error));
            }
            let read = {
                let mut state = self.state.borrow_mut();
                state.connection.reader().read(&mut buffer[from..])
            };
            match read {
                Ok(len) => return (buffer, Ok(len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return (buffer, Err(TransportError::Closed)),
            }
            match self.receive_cipher().await {
                Ok(true) => {}
                Ok(false) => return (buffer, Err(TransportError::Closed)),
                Err(error) => return (buffer, Err(error)),
            }
        }
    }

    /// Sends all bytes.
    ///
    /// # Errors
    /// [`TransportError`].
    pub async fn send(&self, pieces: Vec<SharedBuffer>) -> Result<(), TransportError> {
        let mut batch = 0;
        for piece in &pieces {
            let mut rest: &[u8] = piece;
            while !rest.is_empty() {
                let take = rest.len().min(PLAIN_BATCH_BYTES - batch);
                let written = {
                    let mut state = self.state.borrow_mut();
                    state.connection.writer().write_all(&rest[..take])
                };
                written.map_err(|_| TransportError::Closed)?;
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
        self.state.borrow_mut().connection.send_close_notify();
        let _ = self.send_pending().await;
        self.stream.shutdown();
    }

    /// Decrypts what has been received, as far as rustls takes it.
    fn decrypt(&self) -> Result<(), TransportError> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        while let Some((cipher, at)) = &mut state.cipher {
            let mut rest = &cipher[*at..];
            // It takes nothing while decrypted bytes wait to be read.
            let Ok(taken) = state.connection.read_tls(&mut rest) else {
                return Ok(());
            };
            if taken == 0 {
                return Ok(());
            }
            *at += taken;
            if *at == cipher.len() {
                state.cipher = None;
            }
            state.connection.process_new_packets()?;
        }
        Ok(())
    }

    /// Receives ciphertext; false at the end of the stream.
    async fn receive_cipher(&self) -> Result<bool, TransportError> {
        if self.state.borrow().cipher.is_some() {
            // rustls refused it for want of room, yet has nothing to read: it never will.
            return Err(TransportError::Closed);
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
    async fn send_pending(&self) -> Result<(), TransportError> {
        let mut cipher = Vec::new();
        {
            let mut state = self.state.borrow_mut();
            while state.connection.wants_write() {
                let written = state.connection.write_tls(&mut cipher);
                written.map_err(|_| TransportError::Closed)?;
            }
        }
        if cipher.is_empty() {
            return Ok(());
        }
        let mut buffer = self.reactor.buffer(cipher.len());
        buffer.copy_from_slice(&cipher);
        Ok(self.stream.send(vec![buffer.freeze()]).await?)
    }
}
