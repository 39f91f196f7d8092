//! TLS by the certificates of a cluster, for servers and for clients. TLS 1.3 only, no resumption: every
//! connection shows its certificate anew.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::credentials::Credentials;
use crate::verify::{Admission, Anchor, Clients, Servers};

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The authority's certificate is no PEM.
    #[error("the authority's certificate is no PEM: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// It cannot be used.
    #[error("the authority's certificate cannot be used: {0}")]
    Authority(#[from] rustls::server::VerifierBuilderError),
    /// TLS does not take it.
    #[error("TLS cannot be set up: {0}")]
    Refused(#[from] rustls::Error),
}

/// A server that shows `credentials` and lets `admission` in. Clients without a certificate are let in,
/// too, unless it is `mandatory`: what they may do is for others to say.
///
/// # Errors
/// [`ConfigError`].
pub fn server_config(
    credentials: &Credentials,
    authority_pem: &str,
    admission: Admission,
    mandatory: bool,
) -> Result<Arc<ServerConfig>, ConfigError> {
    let (provider, roots) = (provider(), roots(authority_pem)?);
    let clients = Clients::new(roots, admission, mandatory, Arc::clone(&provider))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(clients))
        .with_cert_resolver(Arc::new(credentials.clone()));
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// A client that accepts `admission` as servers, and shows `credentials` if there are any.
///
/// # Errors
/// [`ConfigError`].
pub fn client_config(
    credentials: Option<&Credentials>,
    authority_pem: &str,
    admission: Admission,
) -> Result<ClientConfig, ConfigError> {
    let anchor = Anchor::Authority(roots(authority_pem)?);
    client(anchor, admission, credentials)
}

/// A client without a certificate that knows the authority by the SHA-256 of its certificate alone
/// (hexadecimal digits), as a join token has it.
///
/// # Errors
/// [`ConfigError`].
pub fn first_contact_config(
    fingerprint: &str,
    admission: Admission,
) -> Result<ClientConfig, ConfigError> {
    client(Anchor::Fingerprint(fingerprint.to_owned()), admission, None)
}

fn client(
    anchor: Anchor,
    admission: Admission,
    credentials: Option<&Credentials>,
) -> Result<ClientConfig, ConfigError> {
    let provider = provider();
    let servers = Servers::new(anchor, admission, Arc::clone(&provider));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(servers));
    let mut config = match credentials {
        Some(credentials) => builder.with_client_cert_resolver(Arc::new(credentials.clone())),
        None => builder.with_no_client_auth(),
    };
    config.resumption = rustls::client::Resumption::disabled();
    // The name is not looked at, and says where nobody need know.
    config.enable_sni = false;
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn roots(authority_pem: &str) -> Result<Arc<RootCertStore>, ConfigError> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority_pem.as_bytes())?)?;
    Ok(Arc::new(roots))
}

#[cfg(test)]
mod tests;
