//! Either place of metadata, as one type: all that stands on a store is compiled once, not once for each.

use std::time::Duration;

use ashlar_proto::api::Revision;
use tokio::sync::watch;

use super::etcd_store::EtcdStore;
use super::redb_store::RedbStore;
use super::{Events, Key, Leadership, MetaError, MetaStore, Outcome, Page, Row, Transaction};

/// Where the metadata lie.
#[derive(Clone)]
pub(crate) enum AnyStore {
    /// In a file.
    File(RedbStore),
    /// In etcd.
    Etcd(EtcdStore),
}

/// Asks whichever it is.
macro_rules! ask {
    ($store:expr, $method:ident ( $($argument:expr),* )) => {
        match $store {
            AnyStore::File(store) => store.$method($($argument),*),
            AnyStore::Etcd(store) => store.$method($($argument),*),
        }
    };
    ($store:expr, await $method:ident ( $($argument:expr),* )) => {
        match $store {
            AnyStore::File(store) => store.$method($($argument),*).await,
            AnyStore::Etcd(store) => store.$method($($argument),*).await,
        }
    };
}

impl MetaStore for AnyStore {
    async fn read(&self, key: &Key) -> Result<Option<Row>, MetaError> {
        ask!(self, await read(key))
    }

    async fn scan(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page, MetaError> {
        ask!(self, await scan(prefix, after, limit))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, MetaError> {
        ask!(self, await commit(transaction))
    }

    async fn events(&self, after: Revision, limit: usize) -> Result<Events, MetaError> {
        ask!(self, await events(after, limit))
    }

    fn revisions(&self) -> watch::Receiver<Revision> {
        ask!(self, revisions())
    }

    fn leadership(&self) -> Leadership {
        ask!(self, leadership())
    }

    fn leaderships(&self) -> watch::Receiver<Leadership> {
        ask!(self, leaderships())
    }

    fn age(&self) -> Duration {
        ask!(self, age())
    }

    async fn resign(&self) {
        ask!(self, await resign())
    }
}
