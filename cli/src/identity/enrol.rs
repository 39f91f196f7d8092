//! The first certificate of a node, with a join token.
//!
//! The key is kept before it is asked for: an answer that was lost is asked for again with the same one.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use ashlar_api_client::{ApiClient, ApiError};
use ashlar_identity::{Admission, Denied, IdentityDir, KeyAndRequest, first_contact_config};
use ashlar_proto::api::{Enrol, NodeRole, Secret};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::read_token;

/// How long to wait for a conductor that does not answer yet, before it is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// Gets a certificate for `name` and keeps it in `dir`. Waits for a conductor that does not answer.
pub(super) async fn enrol(
    dir: &IdentityDir,
    token_file: &Path,
    name: &str,
    conductor: &str,
) -> anyhow::Result<()> {
    let token = read_token(token_file)?;
    let made = match dir.key()? {
        Some(key) => KeyAndRequest::of(&key)?,
        None => KeyAndRequest::make()?,
    };
    dir.keep_key(&made.key_pem)?;
    let conductors = Admission {
        cluster: None,
        roles: vec![NodeRole::Conductor],
        denied: Denied::nobody(),
    };
    let config = first_contact_config(&token.fingerprint, conductors)?;
    let client = ApiClient::with_tls(conductor, config).context("--conductor")?;
    let request = Enrol {
        token: Secret::new(token.reveal()),
        name: name.to_owned(),
        request: made.request_pem,
    };
    let enrolled = loop {
        match client.enrol(&request).await {
            Err(error @ (ApiError::Unreachable { .. } | ApiError::NoAnswer { .. })) => {
                tracing::warn!("cannot enrol: {error}; trying again");
                tokio::time::sleep(PAUSE).await;
            }
            other => break other.context("the conductor gives this node no certificate")?,
        }
    };
    let authority = CertificateDer::from_pem_slice(enrolled.authority.as_bytes())?;
    anyhow::ensure!(
        token.is_of(&authority),
        "the conductor answered with another authority than the token names"
    );
    dir.keep_certificate(&enrolled.certificate, &enrolled.authority)?;
    tracing::info!(name, role = %enrolled.role, "enrolled");
    Ok(())
}
