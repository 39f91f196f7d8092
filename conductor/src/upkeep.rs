//! What is done with the metadata as a whole: backup, restore, check, repair, moving between stores.
//!
//! ```text
//! MetaStore ── snapshot: all rows at one revision ──▶ Rows ── backup ──▶ file
//!     ▲                                                │  ▲                │
//!     └────── restore: all rows, the cluster's last ───┘  └──── read ──────┘
//!                                                      └── check, repair (pure)
//! ```

pub mod backup;
pub mod check;
pub mod held;
pub mod repair;
pub mod restore;
pub mod snapshot;

use std::collections::BTreeMap;

use ashlar_proto::ClusterId;

use crate::meta::Key;
use crate::row::{AnyRow, RowError, cluster_key};

/// Rows, by their keys.
pub type Rows = BTreeMap<Key, Vec<u8>>;

/// The cluster that rows are of.
///
/// # Errors
/// [`RowError`] where the row that says so is missing or cannot be read.
pub fn cluster_of(rows: &Rows) -> Result<ClusterId, RowError> {
    let key = cluster_key();
    let value = rows.get(&key).ok_or(RowError::NoCluster)?;
    match AnyRow::decode(&key, value)? {
        AnyRow::Cluster(row) => Ok(row.id),
        _ => Err(RowError::NoCluster),
    }
}

#[cfg(test)]
mod tests;
