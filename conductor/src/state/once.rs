//! What was done for requests that may be sent again: kept with the change, for a time.
//!
//! Invariants: a key that is kept is never given to another change; at most [`ONCE_KEPT_MAX`] are kept, and
//! each that is older than [`ONCE_AGE_MAX`] goes when others come.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::ClusterState;
use crate::meta::Change;
use crate::row::{AnyRow, OnceRow, once_key};

/// Requests that are remembered.
pub(crate) const ONCE_KEPT_MAX: usize = 8192;

/// How long they are, if there are not too many.
pub(crate) const ONCE_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Most that are forgotten with one change.
const FORGOTTEN_MAX: usize = 8;

/// The rows by key and by age.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OnceIndex {
    rows: BTreeMap<String, OnceRow>,
    by_age: BTreeSet<(u64, String)>,
}

impl OnceIndex {
    /// Takes a row in.
    pub(super) fn put(&mut self, row: OnceRow) {
        self.remove(&row.key.clone());
        self.by_age.insert((row.at_ms, row.key.clone()));
        self.rows.insert(row.key.clone(), row);
    }

    /// Takes a row out.
    pub(super) fn remove(&mut self, key: &str) {
        if let Some(row) = self.rows.remove(key) {
            self.by_age.remove(&(row.at_ms, row.key));
        }
    }

    /// The oldest that are to go when one more comes.
    fn over(&self, now_ms: u64) -> impl Iterator<Item = &str> {
        let age_max = u64::try_from(ONCE_AGE_MAX.as_millis()).unwrap_or(u64::MAX);
        let too_many = (self.rows.len() + 1).saturating_sub(ONCE_KEPT_MAX);
        let oldest = self.by_age.iter().take(FORGOTTEN_MAX).enumerate();
        let over = oldest.filter(move |(index, (at_ms, _))| {
            *index < too_many || now_ms.saturating_sub(*at_ms) > age_max
        });
        over.map(|(_, (_, key))| key.as_str())
    }
}

impl ClusterState {
    /// What was done for the request of that key.
    pub(crate) fn done_once(&self, key: &str) -> Option<&OnceRow> {
        self.once.rows.get(key)
    }

    /// The changes that remember a request, and forget others.
    pub(crate) fn remember(&self, row: OnceRow) -> Vec<Change> {
        let over = self.once.over(row.at_ms);
        let forgotten = over.map(|key| Change::Delete { key: once_key(key) });
        let mut changes: Vec<Change> = forgotten.collect();
        changes.push(AnyRow::Once(row).put());
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, at_ms: u64) -> OnceRow {
        OnceRow {
            key: key.to_owned(),
            request: String::new(),
            at_ms,
            answer: serde_json::Value::Null,
        }
    }

    #[test]
    fn the_old_go_when_others_come() {
        let mut index = OnceIndex::default();
        index.put(row("a", 1000));
        index.put(row("b", 2000));
        let age_max = u64::try_from(ONCE_AGE_MAX.as_millis()).unwrap();
        assert_eq!(index.over(1000 + age_max).count(), 0);
        let over: Vec<&str> = index.over(1001 + age_max).collect();
        assert_eq!(over, ["a"]);
        index.remove("a");
        assert_eq!(index.over(1001 + age_max).count(), 0);
        assert_eq!(index.by_age.len(), 1);
    }

    #[test]
    fn there_are_never_too_many() {
        let mut index = OnceIndex::default();
        for number in 0..ONCE_KEPT_MAX + 20 {
            let row = row(&number.to_string(), number as u64);
            let over: Vec<String> = index.over(row.at_ms).map(str::to_owned).collect();
            for key in over {
                index.remove(&key);
            }
            index.put(row);
        }
        assert_eq!(index.rows.len(), ONCE_KEPT_MAX);
        assert_eq!(index.by_age.len(), ONCE_KEPT_MAX);
        assert!(!index.rows.contains_key("19") && index.rows.contains_key("20"));
    }
}
