//! The identity of a conductor: where the authority's key is, it gives itself its certificates.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use ashlar_conductor::ConductorTls;
use ashlar_identity::{Authority, IdentityDir, KeyAndRequest, Subject};
use ashlar_proto::api::NodeRole;

use super::{Known, keeper};
use crate::args::IdentityArgs;

/// What a conductor goes by, and what keeps that good.
pub struct Conducting {
    /// For its listener.
    pub tls: ConductorTls,
    known: Known,
}

/// Loads the identity of a conductor, if one is given.
///
/// # Errors
/// It cannot be read, is none of a conductor, or has expired and the authority's key is not there.
pub fn conduct(
    args: &IdentityArgs,
    certificate_ttl: Duration,
) -> anyhow::Result<Option<Conducting>> {
    let Some(dir) = &args.identity_dir else {
        return Ok(None);
    };
    let dir = IdentityDir::at(dir);
    let known = Known::load(&dir)?;
    let known = known.with_context(|| {
        format!(
            "there is no identity in {}: `ashlar cluster init` makes one",
            dir.path().display()
        )
    })?;
    let identity = known.credentials.presented().identity;
    ensure!(
        identity.role == NodeRole::Conductor,
        "{} has the identity of a {}, not of a conductor",
        dir.path().display(),
        identity.role
    );
    let authority = dir.authority()?.map(Arc::new);
    let tls = ConductorTls {
        cluster: known.cluster,
        credentials: known.credentials.clone(),
        authority_pem: known.authority_pem.clone(),
        authority,
        certificate_ttl,
        also_loopback: args.tls_loopback,
        denied: known.denied.clone(),
    };
    let conducting = Conducting { tls, known };
    if keeper::until_due(&conducting.known).is_zero()
        && let Err(error) = conducting.renew()
    {
        let error = error.context("this conductor's certificate is not renewed");
        if conducting.known.is_expired() {
            return Err(error);
        }
        tracing::warn!("{error:#}");
    }
    Ok(Some(conducting))
}

impl Conducting {
    /// Renews the certificate whenever it is time.
    pub async fn keep(self) {
        loop {
            keeper::due(&self.known).await;
            match self.renew() {
                Ok(()) => {
                    tracing::info!("the conductor's certificate is renewed");
                    tokio::time::sleep(keeper::RETRY_MIN).await;
                }
                Err(error) => {
                    tracing::warn!("the conductor's certificate is not renewed: {error:#}");
                    tokio::time::sleep(keeper::retry_pause(&self.known)).await;
                }
            }
        }
    }

    fn renew(&self) -> anyhow::Result<()> {
        let authority: &Authority = self
            .tls
            .authority
            .as_deref()
            .context("the authority's key is not here: put ca-key.pem into --identity-dir")?;
        let presented = self.known.credentials.presented();
        let subject = Subject {
            identity: presented.identity,
            hosts: presented.hosts,
            ttl: self.tls.certificate_ttl,
        };
        let key = self.known.dir.key()?.context("its key is gone")?;
        let request = KeyAndRequest::of(&key)?.request_pem;
        let certificate = authority.sign(&request, &subject, SystemTime::now())?;
        let authority_pem = &self.known.authority_pem;
        self.known
            .credentials
            .replace(&certificate, &key, authority_pem)?;
        Ok(self
            .known
            .dir
            .keep_certificate(&certificate, authority_pem)?)
    }
}

#[cfg(test)]
mod tests;
