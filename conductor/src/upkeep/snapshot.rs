//! All rows of a store at one revision, while others change them.

use ashlar_proto::api::Revision;

use super::Rows;
use crate::meta::{Events, MetaError, MetaStore, PAGE_ROWS_MAX};

/// Events read at once.
const EVENTS_MAX: usize = 4096;

/// Times that it is begun anew because events were compacted away meanwhile.
const TRIES_MAX: usize = 8;

/// All rows at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision.
    pub revision: Revision,
    /// The rows.
    pub rows: Rows,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The store failed.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// Others changed more than the store keeps of its history, again and again.
    #[error("the metadata change faster than they can be read: try again")]
    TooFast,
}

/// Reads all rows, page by page, then applies the events since the first page: what comes out is a state
/// that there was.
///
/// # Errors
/// [`SnapshotError`].
pub async fn take(store: &impl MetaStore) -> Result<Snapshot, SnapshotError> {
    for _ in 0..TRIES_MAX {
        let (rows, first) = read_pages(store).await?;
        if let Some(snapshot) = catch_up(store, rows, first).await? {
            return Ok(snapshot);
        }
    }
    Err(SnapshotError::TooFast)
}

async fn read_pages(store: &impl MetaStore) -> Result<(Rows, Revision), MetaError> {
    let (mut rows, mut first, mut after) = (Rows::new(), None, None);
    loop {
        let page = store.scan("", after.as_ref(), PAGE_ROWS_MAX).await?;
        first.get_or_insert(page.revision);
        after = page.rows.last().map(|row| row.key.clone());
        rows.extend(page.rows.into_iter().map(|row| (row.key, row.value)));
        if !page.more {
            return Ok((rows, first.unwrap_or(page.revision)));
        }
    }
}

async fn catch_up(
    store: &impl MetaStore,
    mut rows: Rows,
    mut from: Revision,
) -> Result<Option<Snapshot>, MetaError> {
    loop {
        match store.events(from, EVENTS_MAX).await? {
            Events::Compacted => return Ok(None),
            Events::Read { up_to, .. } if up_to == from => {
                let revision = from;
                return Ok(Some(Snapshot { revision, rows }));
            }
            Events::Read { list, up_to } => {
                for event in list {
                    match event.value {
                        Some(value) => rows.insert(event.key, value),
                        None => rows.remove(&event.key),
                    };
                }
                from = up_to;
            }
        }
    }
}
