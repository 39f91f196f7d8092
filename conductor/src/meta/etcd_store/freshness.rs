//! How old what was followed may be: a majority is asked again and again what there is, and the watch has
//! to have brought that.
//!
//! A member that is cut off from the others goes on serving a watch, and nothing comes on it any more. Who
//! follows there would believe for ever what was so; here it finds that out, and has the watch go elsewhere.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::LAG_MAX;
use super::error::Fault;
use super::shared::Shared;
use super::transaction::revision;

/// The pause between two questions.
const EVERY: Duration = Duration::from_secs(2);

/// Longest wait for an answer.
const ASK_MAX: Duration = Duration::from_secs(5);

/// Asks until it is dropped.
pub(super) async fn keep(shared: Arc<Shared>) {
    loop {
        let asked = Instant::now();
        match timeout(ASK_MAX, is_up_to_date(&shared)).await {
            Ok(Ok(true)) => shared.note_fresh(asked),
            Ok(Ok(false)) => shared.kick.notify_one(),
            Ok(Err(fault)) => tracing::debug!(?fault, "no majority of etcd tells what there is"),
            Err(_) => tracing::debug!("no majority of etcd tells in time what there is"),
        }
        sleep(EVERY).await;
    }
}

/// Whether the watch has brought all that there was when this was called.
async fn is_up_to_date(shared: &Shared) -> Result<bool, Fault> {
    // No serializable read: a member that is cut off answers it not.
    let glance = shared.glance().await?;
    let head = revision(glance.head.map_or(0, |head| head.mod_revision));
    let mut reached = shared.reached.subscribe();
    let come = reached.wait_for(|reached| *reached >= head);
    Ok(matches!(timeout(LAG_MAX, come).await, Ok(Ok(_))))
}

impl Shared {
    /// Everything up to that moment was followed.
    fn note_fresh(&self, at: Instant) {
        *self.fresh.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// For how long it is not known whether there is anything new.
    pub(super) fn age(&self) -> Duration {
        let fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.elapsed()
    }
}
