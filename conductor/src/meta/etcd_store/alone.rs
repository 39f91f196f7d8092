//! Having etcd's rows alone: for what is done with all of them while no conductor runs.
//!
//! Whoever has them so leads, as a conductor does, but has no API: so none that is started meanwhile changes
//! anything, and nobody is sent here.

use std::time::Duration;

use super::{EtcdError, EtcdOptions, EtcdStore};
use crate::meta::{Leadership, MetaError, MetaStore};

/// How much longer than its lease a conductor that was killed may count as the leader.
const SPARE: Duration = Duration::from_secs(6);

impl EtcdStore {
    /// Opens it, leading.
    ///
    /// # Errors
    /// [`EtcdError::Led`] while a conductor leads; [`MetaError`] as [`EtcdStore::open`].
    pub async fn open_alone(options: &EtcdOptions) -> Result<Self, MetaError> {
        let store = Self::open(options, Some(String::new())).await?;
        let mut leadership = store.leaderships();
        let leads = leadership.wait_for(|it| matches!(it, Leadership::Leads { .. }));
        let lease = Duration::from_secs(store.shared().lease_seconds.into());
        let is_alone = matches!(tokio::time::timeout(lease + SPARE, leads).await, Ok(Ok(_)));
        if is_alone {
            return Ok(store);
        }
        let leader = match store.leadership() {
            Leadership::Follows { leader } => leader.unwrap_or_default(),
            Leadership::Leads { .. } => return Ok(store),
        };
        Err(EtcdError::Led { leader }.into())
    }
}
