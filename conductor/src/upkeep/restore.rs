//! Rows into a store: all of a backup, or all of another store.
//!
//! Invariants:
//! - the row of the cluster is removed first and written last, so no conductor starts on half of it;
//! - every transaction names the term in which this process leads, so no conductor changes anything
//!   meanwhile;
//! - what was written is read again and compared before it is called done.
//!
//! A backup is of a moment that is over. What was given out since then must not be given out again: so
//! [`set_apart`] skips ids, generations and epochs that may be in use.

use ashlar_proto::{Epoch, Generation};

use super::Rows;
use super::snapshot::{self, SnapshotError};
use crate::meta::{Change, Key, Leadership, MetaError, MetaStore, Outcome, Term, Transaction};
use crate::recovery::{EPOCHS_SKIPPED, GENERATIONS_SKIPPED, IDS_SKIPPED};
use crate::row::{AnyRow, RecoveryCause, RecoveryRow, RowError, cluster_key};

/// Rows and bytes of one transaction: well below what any store takes.
const ROWS_MAX: usize = 500;
const BYTES_MAX: usize = 512 << 10;

/// Rows were not put into a store.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The store failed.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// It cannot be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A row cannot be read.
    #[error(transparent)]
    Row(#[from] RowError),
    /// There are rows in the store already.
    #[error("the store has {rows} rows already: give --force to replace all of them")]
    NotEmpty {
        /// How many.
        rows: usize,
    },
    /// Another process leads.
    #[error("another process changes the metadata: stop all conductors first")]
    InUse,
    /// What was written is not what is there.
    #[error("row {key} is not as it was written: restore again")]
    Differs {
        /// The first such row.
        key: Key,
    },
}

/// Makes the rows those of the store, and no others; verifies each. On return they are durable.
///
/// # Errors
/// [`RestoreError`]. Where it is [`RestoreError::NotEmpty`] or [`RestoreError::InUse`] nothing was changed;
/// otherwise the store may hold a part, which no conductor starts on.
pub async fn fill(store: &impl MetaStore, rows: &Rows, force: bool) -> Result<(), RestoreError> {
    let Leadership::Leads { term } = store.leadership() else {
        return Err(RestoreError::InUse);
    };
    let found = snapshot::take(store).await?.rows;
    if !found.is_empty() && !force {
        let rows = found.len();
        return Err(RestoreError::NotEmpty { rows });
    }
    let delete = |key: &Key| Change::Delete { key: key.clone() };
    let put = |(key, value): (&Key, &Vec<u8>)| Change::Put {
        key: key.clone(),
        value: value.clone(),
    };
    let cluster = cluster_key();
    let mut changes: Vec<Change> = found
        .get_key_value(&cluster)
        .map(|it| delete(it.0))
        .into_iter()
        .collect();
    commit_all(store, term, std::mem::take(&mut changes)).await?;
    let gone = found.keys().filter(|key| !rows.contains_key(key));
    changes.extend(gone.filter(|key| **key != cluster).map(delete));
    let is_other = |row: &(&Key, &Vec<u8>)| *row.0 != cluster && found.get(row.0) != Some(row.1);
    changes.extend(rows.iter().filter(is_other).map(put));
    commit_all(store, term, changes).await?;
    commit_all(
        store,
        term,
        rows.get_key_value(&cluster).map(put).into_iter().collect(),
    )
    .await?;
    verify(&snapshot::take(store).await?.rows, rows)
}

/// Commits some changes to rows that are there.
///
/// # Errors
/// [`RestoreError`]: then some of them may have been committed.
pub async fn apply(store: &impl MetaStore, changes: Vec<Change>) -> Result<(), RestoreError> {
    let Leadership::Leads { term } = store.leadership() else {
        return Err(RestoreError::InUse);
    };
    commit_all(store, term, changes).await
}

/// Compares row by row.
///
/// # Errors
/// [`RestoreError::Differs`].
pub fn verify(found: &Rows, expected: &Rows) -> Result<(), RestoreError> {
    let keys = found.keys().chain(expected.keys());
    match keys
        .into_iter()
        .find(|key| found.get(*key) != expected.get(*key))
    {
        Some(key) => Err(RestoreError::Differs { key: key.clone() }),
        None => Ok(()),
    }
}

async fn commit_all(
    store: &impl MetaStore,
    term: Term,
    changes: Vec<Change>,
) -> Result<(), RestoreError> {
    let (mut part, mut bytes) = (Vec::new(), 0);
    for change in changes {
        let more = bytes_of(&change);
        if !part.is_empty() && (part.len() == ROWS_MAX || bytes + more > BYTES_MAX) {
            commit(store, term, std::mem::take(&mut part)).await?;
            bytes = 0;
        }
        bytes += more;
        part.push(change);
    }
    if part.is_empty() {
        return Ok(());
    }
    commit(store, term, part).await
}

async fn commit(
    store: &impl MetaStore,
    term: Term,
    changes: Vec<Change>,
) -> Result<(), RestoreError> {
    let transaction = Transaction {
        term: Some(term),
        expect: Vec::new(),
        changes,
    };
    match store.commit(transaction).await? {
        Outcome::Committed(_) => Ok(()),
        Outcome::Conflict | Outcome::Deposed => Err(RestoreError::InUse),
    }
}

fn bytes_of(change: &Change) -> usize {
    let value = match change {
        Change::Put { value, .. } => value.len(),
        Change::Delete { .. } => 0,
    };
    change.key().as_str().len() + value
}

/// The rows of a backup as a cluster may go on with them although it went on after the backup: no id,
/// generation or epoch that was given out since is given out again, and no volume counts as attached, or
/// as detached cleanly. A recovery begins with them: nothing is removed and nobody gets a volume before
/// the rows were compared with what stores hold.
///
/// # Errors
/// [`RowError`] where a row cannot be read.
pub fn set_apart(rows: &Rows) -> Result<Rows, RowError> {
    let mut apart = Rows::new();
    let mut recovery = RecoveryRow::begun(RecoveryCause::Restored, EPOCHS_SKIPPED);
    for (key, value) in rows {
        let row = match AnyRow::decode(key, value)? {
            AnyRow::Cluster(mut row) => {
                row.next_volume = row.next_volume.saturating_add(IDS_SKIPPED);
                row.next_replica = row.next_replica.saturating_add(IDS_SKIPPED);
                row.next_node = row.next_node.saturating_add(IDS_SKIPPED);
                row.next_group = row.next_group.saturating_add(IDS_SKIPPED);
                AnyRow::Cluster(row)
            }
            AnyRow::Volume(mut row) => {
                let generation = row.generation.get().saturating_add(GENERATIONS_SKIPPED);
                row.generation = Generation::new(generation);
                row.attached_by = None;
                row.attached_as = None;
                row.attached_under = None;
                // Another node may have had it since.
                row.publication = None;
                row.attached_for_repair = false;
                row.served_by = None;
                row.settled = false;
                AnyRow::Volume(row)
            }
            AnyRow::Shard(mut row) => {
                row.epoch = Epoch::new(row.epoch.get().saturating_add(EPOCHS_SKIPPED));
                AnyRow::Shard(row)
            }
            // A backup of metadata that were recovering is further behind.
            AnyRow::Recovery(row) => {
                recovery.epochs_skipped =
                    recovery.epochs_skipped.saturating_add(row.epochs_skipped);
                continue;
            }
            _ => {
                apart.insert(key.clone(), value.clone());
                continue;
            }
        };
        if let Change::Put { key, value } = row.put() {
            apart.insert(key, value);
        }
    }
    if let Change::Put { key, value } = AnyRow::Recovery(recovery).put() {
        apart.insert(key, value);
    }
    Ok(apart)
}
