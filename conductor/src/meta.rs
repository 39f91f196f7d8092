//! Where the cluster's metadata lies: ordered rows, compare-and-set transactions, events.
//!
//! Invariants:
//! - each transaction raises the store's revision, and what it changed bears the new one;
//! - a commit is durable before it is answered;
//! - events come in the order of their revisions, none twice and none left out, until they are
//!   compacted away.
//!
//! - of the conductors that share a store one leads, for a term; a transaction that names a term takes
//!   effect in that term only.
//!
//! The shape is that of etcd's v3 API: Range, Txn with mod-revision compares, Watch from a revision.

pub(crate) mod any_store;
pub(crate) mod etcd_store;
pub(crate) mod redb_store;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use ashlar_proto::api::Revision;
use tokio::sync::watch;

/// Most rows that one page of a scan carries.
pub const PAGE_ROWS_MAX: usize = 1024;

/// The name of a row. Rows are ordered by the bytes of their keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// The key of that text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A row as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub key: Key,
    /// Its bytes.
    pub value: Vec<u8>,
    /// The revision that made it.
    pub created: Revision,
    /// The revision that last changed it.
    pub modified: Revision,
}

/// What must hold for a transaction to take effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    /// The row.
    pub key: Key,
    /// The revision that last changed it; `None` where there must be no such row.
    pub modified: Option<Revision>,
}

/// What a transaction does to one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Makes or replaces it.
    Put {
        /// The row.
        key: Key,
        /// Its new bytes.
        value: Vec<u8>,
    },
    /// Removes it, if it is there.
    Delete {
        /// The row.
        key: Key,
    },
}

impl Change {
    /// The row that it is about.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    /// The bytes of what is put.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Put { value, .. } => value.len(),
            Self::Delete { .. } => 0,
        }
    }
}

/// A span of time in which one conductor leads. A later one has a higher number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// Whether this conductor leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// It does: all transactions of earlier terms are among the events.
    Leads {
        /// Its term.
        term: Term,
    },
    /// It does not.
    Follows {
        /// Where the API of who leads is, if anybody does.
        leader: Option<String>,
    },
}

/// All of its changes, or none where an expectation fails. No key may be changed twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// The term in which it must take effect, if at all; `None` for what needs no leader.
    pub term: Option<Term>,
    /// What must hold.
    pub expect: Vec<Expect>,
    /// What it does.
    pub changes: Vec<Change>,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect, durably, at this revision.
    Committed(Revision),
    /// Some row was not as expected: nothing was changed.
    Conflict,
    /// Its term is over: nothing was changed.
    Deposed,
}

/// A part of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The store's revision when the page was read.
    pub revision: Revision,
    /// The rows, by key.
    pub rows: Vec<Row>,
    /// Whether there are rows beyond the last.
    pub more: bool,
}

/// A change of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The revision of its transaction.
    pub revision: Revision,
    /// The row.
    pub key: Key,
    /// Its bytes from then on; `None` when it was removed.
    pub value: Option<Vec<u8>>,
    /// Its bytes until then; `None` when it was made.
    pub before: Option<Vec<u8>>,
}

/// Events after a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Events {
    /// All events up to `up_to`; whole transactions only, so that it is a state there was.
    Read {
        /// The events, in order.
        list: Vec<Event>,
        /// The revision reached.
        up_to: Revision,
    },
    /// Events after that revision are no longer kept, or it lies ahead: read the rows again.
    Compacted,
}

/// The store of metadata cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// The data directory cannot be made or opened.
    #[error("metadata directory {path}: {source}")]
    Directory {
        /// The directory.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("metadata in {path} is in use by another conductor: stop that one first")]
    InUse {
        /// The file.
        path: std::path::PathBuf,
    },
    /// It was written by a newer version.
    #[error("metadata has format {found}, this version reads up to {known}: upgrade ashlar")]
    Format {
        /// The format found.
        found: u64,
        /// The newest that this version knows.
        known: u64,
    },
    /// The database failed.
    #[error("metadata database: {0}")]
    Database(#[from] redb::Error),
    /// etcd failed.
    #[error(transparent)]
    Etcd(#[from] etcd_store::EtcdError),
    /// The system gives no random numbers.
    #[error("no randomness: {0}")]
    Random(getrandom::Error),
    /// The work was cut off by the end of the process.
    #[error("metadata work was cut off")]
    Stopped,
}

/// Ordered rows with compare-and-set transactions and a watch.
pub trait MetaStore: Send + Sync + 'static {
    /// The row, or `None`.
    fn read(&self, key: &Key) -> impl Future<Output = Result<Option<Row>, MetaError>> + Send;

    /// Up to `limit` rows (at most [`PAGE_ROWS_MAX`]) whose keys begin with `prefix` and lie
    /// beyond `after`.
    ///
    /// Two pages may be of different revisions: who needs one state reads all pages, then
    /// [`MetaStore::events`] after the revision of the first.
    fn scan(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> impl Future<Output = Result<Page, MetaError>> + Send;

    /// Carries out the transaction, or nothing of it. On return it is durable.
    fn commit(
        &self,
        transaction: Transaction,
    ) -> impl Future<Output = Result<Outcome, MetaError>> + Send;

    /// Events after `after`, as many whole transactions as fit about `limit` events.
    fn events(
        &self,
        after: Revision,
        limit: usize,
    ) -> impl Future<Output = Result<Events, MetaError>> + Send;

    /// The store's revision, now and at each change: the wake-up of a watch.
    fn revisions(&self) -> watch::Receiver<Revision>;

    /// Whether this conductor leads, now.
    fn leadership(&self) -> Leadership;

    /// The wake-up of who waits for that to change: it may lag behind [`MetaStore::leadership`].
    fn leaderships(&self) -> watch::Receiver<Leadership>;

    /// How old what it tells of events and of who leads may be at most. Where nobody else changes anything
    /// it is never old.
    fn age(&self) -> Duration;

    /// Leads no more, so that another may at once.
    fn resign(&self) -> impl Future<Output = ()> + Send;
}
