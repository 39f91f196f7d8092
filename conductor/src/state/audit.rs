//! The audit log as the metadata keep it: bounded by count and by age.

use std::collections::BTreeMap;

use ashlar_proto::api::AuditEntry;

use super::ClusterState;
use crate::meta::Change;
use crate::row::{AnyRow, AuditRow, audit_key};

/// Entries that are kept.
pub(crate) const AUDIT_KEPT_MAX: usize = 8192;

/// How long they are: 90 days.
const AUDIT_AGE_MS_MAX: u64 = 90 * 24 * 3600 * 1000;

/// Old entries that go with each new one, so that a transaction stays small.
const SWEPT_MAX: usize = 4;

/// Numbers for each millisecond, so that they grow also where all entries have gone.
const IDS_PER_MS: u64 = 1000;

/// The last entries, by number.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuditLog(BTreeMap<u64, AuditEntry>);

impl AuditLog {
    pub(super) fn put(&mut self, row: AuditRow) {
        self.0.insert(row.entry.id, row.entry);
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.0.remove(&id);
    }

    fn next_id(&self, now_ms: u64) -> u64 {
        let last = self.0.last_key_value().map_or(0, |(id, _)| *id);
        now_ms.saturating_mul(IDS_PER_MS).max(last + 1)
    }
}

impl ClusterState {
    /// Those after a number, the oldest first.
    pub(crate) fn audit_after(&self, id: u64, limit: usize) -> Vec<AuditEntry> {
        let later = self.audit.0.range(id.saturating_add(1)..);
        later.take(limit).map(|(_, entry)| entry.clone()).collect()
    }

    /// The last ones, the oldest of them first.
    pub(crate) fn audit_last(&self, limit: usize) -> Vec<AuditEntry> {
        let last = self.audit.0.values().rev().take(limit);
        let mut last: Vec<AuditEntry> = last.cloned().collect();
        last.reverse();
        last
    }

    /// The changes that keep an entry, to which its number is given here; the oldest go where there are
    /// enough.
    pub(crate) fn keep_entry(&self, entry: &mut AuditEntry) -> Vec<Change> {
        entry.id = self.audit.next_id(entry.time_ms);
        let kept = self.audit.0.len();
        let is_old =
            |other: &AuditEntry| other.time_ms.saturating_add(AUDIT_AGE_MS_MAX) <= entry.time_ms;
        let oldest = self.audit.0.values().enumerate();
        let swept = oldest
            .take(SWEPT_MAX)
            .filter(|(index, other)| kept - index >= AUDIT_KEPT_MAX || is_old(other));
        let mut changes: Vec<Change> = swept
            .map(|(_, other)| Change::Delete {
                key: audit_key(other.id),
            })
            .collect();
        let entry = entry.clone();
        changes.push(AnyRow::Audit(AuditRow { entry }).put());
        changes
    }
}

#[cfg(test)]
mod tests {
    use ashlar_proto::api::{AuditOutcome, Revision};

    use super::*;

    fn entry(time_ms: u64) -> AuditEntry {
        AuditEntry {
            id: 0,
            time_ms,
            who: "ada".to_owned(),
            means: "open".to_owned(),
            from: String::new(),
            what: "POST /".to_owned(),
            request: None,
            outcome: AuditOutcome::Done,
            code: None,
            changes: Vec::new(),
            left_out: 0,
        }
    }

    fn keep(state: &mut ClusterState, time_ms: u64) -> u64 {
        let mut entry = entry(time_ms);
        let revision = Revision(state.revision().0 + 1);
        for change in state.keep_entry(&mut entry) {
            let (key, value) = match change {
                Change::Put { key, value } => (key, Some(value)),
                Change::Delete { key } => (key, None),
            };
            state.apply(revision, &key, value.as_deref()).unwrap();
        }
        entry.id
    }

    #[test]
    fn the_log_is_bounded_by_count_and_by_age_and_its_numbers_grow() {
        let mut state = ClusterState::empty();
        let mut last = 0;
        for _ in 0..AUDIT_KEPT_MAX + 10 {
            let id = keep(&mut state, 5);
            assert!(id > last);
            last = id;
        }
        assert_eq!(state.audit.0.len(), AUDIT_KEPT_MAX);
        assert_eq!(state.audit_last(1)[0].id, last);
        assert_eq!(state.audit_after(last - 3, 2).len(), 2);
        let later = 5 + AUDIT_AGE_MS_MAX;
        keep(&mut state, later);
        assert_eq!(state.audit.0.len(), AUDIT_KEPT_MAX + 1 - SWEPT_MAX);
        for _ in 0..AUDIT_KEPT_MAX / 3 + 2 {
            keep(&mut state, later);
        }
        assert!(state.audit.0.values().all(|entry| entry.time_ms == later));
    }
}
