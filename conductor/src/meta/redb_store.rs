//! [`MetaStore`] in one file by redb: for a single conductor.
//!
//! Invariant: every commit is a two-barrier durable commit of redb (`Durability::Immediate`), so
//! rows, events and revision of a transaction reach the disk together or not at all.
//!
//! ```text
//! rows      key                → (created, modified, value)
//! events    (revision, number) → (key, value, before)      the last EVENT_REVISIONS_KEPT revisions
//! counters  "format", "revision", "compacted"
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::Revision;
use redb::{Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::watch;

use super::{
    Change, Event, Events, Key, Leadership, MetaError, MetaStore, Outcome, PAGE_ROWS_MAX, Page,
    Row, Term, Transaction,
};

type RowValue<'a> = (u64, u64, &'a [u8]);
type EventValue<'a> = (&'a str, Option<&'a [u8]>, Option<&'a [u8]>);

const ROWS: TableDefinition<'_, &str, RowValue<'_>> = TableDefinition::new("rows");
const EVENTS: TableDefinition<'_, (u64, u32), EventValue<'_>> = TableDefinition::new("events");
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");

const FORMAT: &str = "format";
const REVISION: &str = "revision";
const COMPACTED: &str = "compacted";

/// The layout above.
const FORMAT_CURRENT: u64 = 1;

/// Revisions whose events are kept for those who resume a watch.
const EVENT_REVISIONS_KEPT: u64 = 4096;

/// Bytes that redb may keep in memory: metadata are small, and a laptop runs this too.
const CACHE_BYTES: usize = 16 << 20;

/// The file in the data directory.
const FILE_NAME: &str = "metadata.redb";

/// Rows in a redb file. The file is closed, and free for others, when the last clone is dropped
/// and with it the sender behind [`MetaStore::revisions`].
#[derive(Clone)]
pub struct RedbStore(Arc<Opened>);

struct Opened {
    // Dropped before the sender: whoever sees that end finds the file closed.
    database: Database,
    revision: watch::Sender<Revision>,
    leadership: watch::Sender<Leadership>,
}

/// Whoever has the file open leads: the lock on it sees to that.
const TERM: Term = Term(1);
const LEADS: Leadership = Leadership::Leads { term: TERM };

impl RedbStore {
    /// Opens the metadata in `directory`, making both where they are missing.
    ///
    /// # Errors
    /// [`MetaError`] when it is in use, of a newer format, or cannot be read.
    pub async fn open(directory: PathBuf) -> Result<Self, MetaError> {
        blocking(move || Self::open_blocking(&directory)).await
    }

    fn open_blocking(directory: &Path) -> Result<Self, MetaError> {
        let refused = |source| MetaError::Directory {
            path: directory.to_path_buf(),
            source,
        };
        make_private(directory).map_err(refused)?;
        let path = directory.join(FILE_NAME);
        keep_private(&path).map_err(|source| MetaError::Directory {
            path: path.clone(),
            source,
        })?;
        let opened = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(&path);
        let database = opened.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => MetaError::InUse { path },
            other => MetaError::Database(other.into()),
        })?;
        // The file's name must survive a power loss as its bytes do.
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(refused)?;
        let revision = prepare(&database)?;
        Ok(Self(Arc::new(Opened {
            database,
            revision: watch::Sender::new(revision),
            leadership: watch::Sender::new(LEADS),
        })))
    }
}

/// Makes the directory where it is missing, for its owner alone: the rows have secrets.
fn make_private(directory: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory)
}

/// Makes the file where it is missing, and takes from others what they may do with one that is there.
fn keep_private(path: &Path) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let file = options.mode(0o600).open(path)?;
    let metadata = file.metadata()?;
    let mode = metadata.permissions().mode();
    if metadata.is_file() && mode & 0o077 != 0 {
        let path = path.display();
        tracing::warn!(%path, "others could read the metadata, secrets with them: now its owner alone can");
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

impl RedbStore {
    /// Goes on after `revision` at the least: who knows rows of another store at that revision must not
    /// take those of this one for older ones.
    ///
    /// # Errors
    /// [`MetaError::Database`].
    pub async fn go_on_after(&self, revision: Revision) -> Result<(), MetaError> {
        let store = self.clone();
        blocking(move || Ok(store.go_on_after_blocking(revision)?)).await
    }

    fn go_on_after_blocking(&self, revision: Revision) -> Result<(), redb::Error> {
        let mut transaction = self.0.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut counters = transaction.open_table(COUNTERS)?;
            if counter(&counters, REVISION)? >= revision.0 {
                return Ok(());
            }
            let mut events = transaction.open_table(EVENTS)?;
            events.retain(|_, _| false)?;
            counters.insert(REVISION, revision.0)?;
            counters.insert(COMPACTED, revision.0)?;
        }
        transaction.commit()?;
        self.0.revision.send_replace(revision);
        Ok(())
    }
}

/// Makes the tables of a new file, or checks those of an old one. Gives its revision.
fn prepare(database: &Database) -> Result<Revision, MetaError> {
    let transaction = database.begin_write().map_err(redb::Error::from)?;
    let mut revision = 0;
    {
        transaction.open_table(ROWS).map_err(redb::Error::from)?;
        transaction.open_table(EVENTS).map_err(redb::Error::from)?;
        let mut counters = transaction
            .open_table(COUNTERS)
            .map_err(redb::Error::from)?;
        let found = counter(&counters, FORMAT)?;
        if found == 0 {
            counters
                .insert(FORMAT, FORMAT_CURRENT)
                .map_err(redb::Error::from)?;
        } else if found != FORMAT_CURRENT {
            return Err(MetaError::Format {
                found,
                known: FORMAT_CURRENT,
            });
        } else {
            revision = counter(&counters, REVISION)?;
        }
    }
    transaction.commit().map_err(redb::Error::from)?;
    Ok(Revision(revision))
}

fn counter(
    counters: &impl ReadableTable<&'static str, u64>,
    name: &str,
) -> Result<u64, redb::Error> {
    Ok(counters.get(name)?.map_or(0, |guard| guard.value()))
}

fn row_of(key: &str, (created, modified, value): RowValue<'_>) -> Row {
    Row {
        key: Key::new(key),
        value: value.to_vec(),
        created: Revision(created),
        modified: Revision(modified),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MetaError> + Send + 'static,
) -> Result<T, MetaError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| MetaError::Stopped)?
}

impl RedbStore {
    fn read_blocking(&self, key: &Key) -> Result<Option<Row>, redb::Error> {
        let transaction = self.0.database.begin_read()?;
        let rows = transaction.open_table(ROWS)?;
        Ok(rows
            .get(key.as_str())?
            .map(|guard| row_of(key.as_str(), guard.value())))
    }

    fn scan_blocking(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page, redb::Error> {
        let limit = limit.clamp(1, PAGE_ROWS_MAX);
        let transaction = self.0.database.begin_read()?;
        let revision = Revision(counter(&transaction.open_table(COUNTERS)?, REVISION)?);
        let table = transaction.open_table(ROWS)?;
        let start = after.map_or(prefix, |key| key.as_str().max(prefix));
        let (mut rows, mut more) = (Vec::new(), false);
        for entry in table.range(start..)? {
            let (key, value) = entry?;
            let key = key.value();
            if after.is_some_and(|after| key <= after.as_str()) {
                continue;
            }
            if !key.starts_with(prefix) {
                break;
            }
            if rows.len() == limit {
                more = true;
                break;
            }
            rows.push(row_of(key, value.value()));
        }
        Ok(Page {
            revision,
            rows,
            more,
        })
    }

    fn commit_blocking(&self, work: &Transaction) -> Result<Outcome, redb::Error> {
        if work.term.is_some_and(|term| term != TERM) {
            return Ok(Outcome::Deposed);
        }
        let mut transaction = self.0.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        if !holds(&transaction, work)? {
            transaction.abort()?;
            return Ok(Outcome::Conflict);
        }
        let revision = apply(&transaction, work)?;
        transaction.commit()?;
        self.0.revision.send_replace(revision);
        Ok(Outcome::Committed(revision))
    }

    fn events_blocking(&self, after: Revision, limit: usize) -> Result<Events, redb::Error> {
        let transaction = self.0.database.begin_read()?;
        let counters = transaction.open_table(COUNTERS)?;
        let current = counter(&counters, REVISION)?;
        if after.0 < counter(&counters, COMPACTED)? || after.0 > current {
            return Ok(Events::Compacted);
        }
        let table = transaction.open_table(EVENTS)?;
        let mut list: Vec<Event> = Vec::new();
        for entry in table.range((after.0 + 1, 0)..)? {
            let (at, value) = entry?;
            let revision = Revision(at.value().0);
            let last = list.last().map(|event| event.revision);
            if list.len() >= limit.max(1) && last.is_some_and(|last| last != revision) {
                return Ok(Events::Read {
                    up_to: last.unwrap_or(after),
                    list,
                });
            }
            let (key, value, before) = value.value();
            list.push(Event {
                revision,
                key: Key::new(key),
                value: value.map(<[u8]>::to_vec),
                before: before.map(<[u8]>::to_vec),
            });
        }
        Ok(Events::Read {
            list,
            up_to: Revision(current),
        })
    }
}

/// Whether all rows are as the transaction expects.
fn holds(transaction: &redb::WriteTransaction, work: &Transaction) -> Result<bool, redb::Error> {
    let rows = transaction.open_table(ROWS)?;
    for expect in &work.expect {
        let modified = rows
            .get(expect.key.as_str())?
            .map(|guard| Revision(guard.value().1));
        if modified != expect.modified {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Carries out the changes at the next revision.
fn apply(
    transaction: &redb::WriteTransaction,
    work: &Transaction,
) -> Result<Revision, redb::Error> {
    let mut counters = transaction.open_table(COUNTERS)?;
    let mut rows = transaction.open_table(ROWS)?;
    let mut events = transaction.open_table(EVENTS)?;
    let revision = counter(&counters, REVISION)? + 1;
    let mut number = 0;
    for change in &work.changes {
        let key = change.key().as_str();
        let before = rows.get(key)?.map(|guard| row_of(key, guard.value()));
        let value = match change {
            Change::Put { value, .. } => {
                let created = before.as_ref().map_or(revision, |row| row.created.0);
                rows.insert(key, (created, revision, value.as_slice()))?;
                Some(value.as_slice())
            }
            Change::Delete { .. } if before.is_none() => continue,
            Change::Delete { .. } => {
                rows.remove(key)?;
                None
            }
        };
        let before = before.as_ref().map(|row| row.value.as_slice());
        events.insert((revision, number), (key, value, before))?;
        number += 1;
    }
    let compacted = revision.saturating_sub(EVENT_REVISIONS_KEPT);
    if compacted > counter(&counters, COMPACTED)? {
        events.retain_in(..(compacted + 1, 0), |_, _| false)?;
        counters.insert(COMPACTED, compacted)?;
    }
    counters.insert(REVISION, revision)?;
    Ok(Revision(revision))
}

impl MetaStore for RedbStore {
    async fn read(&self, key: &Key) -> Result<Option<Row>, MetaError> {
        let (store, key) = (self.clone(), key.clone());
        blocking(move || Ok(store.read_blocking(&key)?)).await
    }

    async fn scan(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page, MetaError> {
        let (store, prefix, after) = (self.clone(), prefix.to_owned(), after.cloned());
        blocking(move || Ok(store.scan_blocking(&prefix, after.as_ref(), limit)?)).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, MetaError> {
        let store = self.clone();
        blocking(move || Ok(store.commit_blocking(&transaction)?)).await
    }

    async fn events(&self, after: Revision, limit: usize) -> Result<Events, MetaError> {
        let store = self.clone();
        blocking(move || Ok(store.events_blocking(after, limit)?)).await
    }

    fn revisions(&self) -> watch::Receiver<Revision> {
        self.0.revision.subscribe()
    }

    fn leadership(&self) -> Leadership {
        LEADS
    }

    fn leaderships(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.subscribe()
    }

    /// Nobody else changes anything.
    fn age(&self) -> Duration {
        Duration::ZERO
    }

    /// There is no other to lead.
    async fn resign(&self) {}
}
