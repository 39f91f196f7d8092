//! TLS with conductors: what they have to show, and what is shown to them.
//!
//! A process has one identity, so that is said once, with [`identify`]; whoever makes an
//! [`ApiClient`](crate::ApiClient) after that with an address `https://…` speaks with it.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::{ClientConfig, RootCertStore};

static OF_PROCESS: RwLock<Option<ClientConfig>> = RwLock::new(None);

/// All clients that are made from now on for `https://` go by this.
pub fn identify(config: ClientConfig) {
    *OF_PROCESS.write().unwrap_or_else(PoisonError::into_inner) = Some(config);
}

/// What clients for `https://` go by, once that was said.
pub(crate) fn of_process() -> Option<ClientConfig> {
    let known = OF_PROCESS.read();
    known.unwrap_or_else(PoisonError::into_inner).clone()
}

/// Trusts nobody: for clients that never speak TLS.
pub(crate) fn none() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth())
}
