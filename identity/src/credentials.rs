//! What a process shows of itself in handshakes: certificate and key, replaced while it runs.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::presented::{Presented, PresentedError};

/// Certificate and key cannot be shown to anybody.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// They are not PEM.
    #[error("certificate or key is no PEM: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// They do not fit each other, or TLS does not take them.
    #[error("certificate and key cannot be used: {0}")]
    Refused(#[from] rustls::Error),
    /// The certificate is none of a node.
    #[error("the certificate cannot be used: {0}")]
    Strange(#[from] PresentedError),
}

struct Current {
    shown: Arc<CertifiedKey>,
    says: Presented,
}

/// See the module. Clones share what is shown.
#[derive(Clone)]
pub struct Credentials {
    current: Arc<RwLock<Current>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.presented().identity)
    }
}

impl Credentials {
    /// Those of a certificate, its key, and the authority that is shown behind it; all PEM.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn load(certificate: &str, key: &str, authority: &str) -> Result<Self, CredentialsError> {
        let current = read(certificate, key, authority)?;
        Ok(Self {
            current: Arc::new(RwLock::new(current)),
        })
    }

    /// Shows these from the next handshake on.
    ///
    /// # Errors
    /// [`CredentialsError`]: what was shown stays.
    pub fn replace(
        &self,
        certificate: &str,
        key: &str,
        authority: &str,
    ) -> Result<(), CredentialsError> {
        let fresh = read(certificate, key, authority)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// What the certificate says.
    #[must_use]
    pub fn presented(&self) -> Presented {
        let current = self.current.read();
        current.unwrap_or_else(PoisonError::into_inner).says.clone()
    }

    fn shown(&self) -> Arc<CertifiedKey> {
        let current = self.current.read();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner).shown)
    }
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.shown())
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.shown())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn read(certificate: &str, key: &str, authority: &str) -> Result<Current, CredentialsError> {
    let leaf = CertificateDer::from_pem_slice(certificate.as_bytes())?;
    let says = Presented::read(&leaf)?;
    let chain = vec![leaf, CertificateDer::from_pem_slice(authority.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let shown = Arc::new(CertifiedKey::from_der(chain, key, &provider)?);
    Ok(Current { shown, says })
}
