//! TLS of a server of a block protocol, from the certificates or pre-shared keys that it is given.

use crate::psk::{PskServer, PskStream};
use crate::transport::{Transport, TransportError};
use ashlar_reactor::tls::TlsStream;
use ashlar_reactor::{Reactor, Stream};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::sync::Arc;

/// By what a server encrypts, and knows its clients.
#[derive(Clone, Debug)]
pub enum TlsServer {
    /// Its certificate; and theirs, if it asks for them.
    Certificates(Arc<ServerConfig>),
    /// Keys that it shares with them.
    PreSharedKeys(Arc<PskServer>),
}

impl From<Arc<ServerConfig>> for TlsServer {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self::Certificates(config)
    }
}

impl TlsServer {
    /// Takes part in a handshake on `stream`, to its end.
    ///
    /// # Errors
    /// [`TransportError`]: the connection failed, or the client is not let in.
    pub async fn accept(
        &self,
        reactor: &Reactor,
        stream: Stream,
    ) -> Result<Transport, TransportError> {
        Ok(match self {
            Self::Certificates(config) => {
                Transport::Tls(TlsStream::accept(reactor, stream, Arc::clone(config)).await?)
            }
            Self::PreSharedKeys(server) => {
                Transport::Psk(PskStream::accept(reactor, stream, server).await?)
            }
        })
    }
}

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
