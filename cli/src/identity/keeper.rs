//! Keeps an identity good while its process runs: renews the certificate, and follows who is denied.

use std::time::{Duration, SystemTime};

use ashlar_api_client::ApiError;
use ashlar_identity::{CredentialsError, DirectoryError, KeyAndRequest, RequestError};
use ashlar_proto::api::{RenewCertificate, Revision};
use tokio::runtime::Handle;

use super::Known;

/// How long a question for news of the denied waits.
const POLL: Duration = Duration::from_secs(30);

/// The pause after one that failed.
const DENIED_PAUSE: Duration = Duration::from_secs(2);

/// How often the clock is looked at: it may be set.
const LOOK: Duration = Duration::from_secs(60);

/// The pause after a renewal that failed: this part of the certificate's life, within bounds.
const RETRY_PART: u32 = 30;
pub(super) const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// A certificate was not renewed.
#[derive(Debug, thiserror::Error)]
enum NotRenewed {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error("its key is gone")]
    NoKey,
}

/// Begins to keep it.
pub(super) fn start(known: Known, conductor: String, runtime: &Handle) {
    runtime.spawn(keep_renewed(known.clone(), conductor.clone()));
    runtime.spawn(follow_denied(known, conductor));
}

/// How long until a certificate is to be replaced.
pub(super) fn until_due(known: &Known) -> Duration {
    let due = known.credentials.presented().renew_at();
    due.duration_since(SystemTime::now()).unwrap_or_default()
}

/// The pause after a renewal that failed.
pub(super) fn retry_pause(known: &Known) -> Duration {
    let presented = known.credentials.presented();
    let life = presented.not_after.duration_since(presented.not_before);
    (life.unwrap_or_default() / RETRY_PART).clamp(RETRY_MIN, RETRY_MAX)
}

/// Waits until a certificate is to be replaced.
pub(super) async fn due(known: &Known) {
    loop {
        let wait = until_due(known);
        if wait.is_zero() {
            return;
        }
        tokio::time::sleep(wait.min(LOOK)).await;
    }
}

async fn keep_renewed(known: Known, conductor: String) {
    loop {
        due(&known).await;
        match renew(&known, &conductor).await {
            Ok(()) => {
                let presented = known.credentials.presented();
                tracing::info!(serial = presented.serial, "certificate renewed");
                // One that is due at once, by a clock that is far off, is not asked for again and again.
                tokio::time::sleep(RETRY_MIN).await;
            }
            Err(error) => {
                tracing::warn!("the certificate is not renewed: {error}; trying again");
                tokio::time::sleep(retry_pause(&known)).await;
            }
        }
    }
}

async fn renew(known: &Known, conductor: &str) -> Result<(), NotRenewed> {
    let key = known.dir.key()?.ok_or(NotRenewed::NoKey)?;
    let made = KeyAndRequest::of(&key)?;
    let request = RenewCertificate {
        request: made.request_pem,
    };
    // A client of its own: its connection shows the certificate that there is now.
    let renewed = crate::credentials::client(conductor)?
        .renew_certificate(&request)
        .await?;
    known
        .credentials
        .replace(&renewed.certificate, &key, &known.authority_pem)?;
    known
        .dir
        .keep_certificate(&renewed.certificate, &known.authority_pem)?;
    Ok(())
}

async fn follow_denied(known: Known, conductor: String) {
    let client = match crate::credentials::client(&conductor) {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "who is denied is not followed");
            return;
        }
    };
    let mut after = Revision(0);
    loop {
        match client.denied_identities(after, POLL).await {
            Ok(list) => {
                after = list.revision;
                let subjects = list.items.into_iter().map(|one| one.subject);
                if known.denied.replace(subjects) {
                    tracing::info!("the list of those who are denied has changed");
                }
                // A list of no revision is answered at once.
                if after == Revision(0) {
                    tokio::time::sleep(DENIED_PAUSE).await;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "who is denied is not known");
                tokio::time::sleep(DENIED_PAUSE).await;
            }
        }
    }
}
