//! The audit log as the metadata keep it: bounded by count and by age.
//!
//! Invariant: entries of one kind never push out those of another, so that nobody who may do nothing makes
//! what others did be forgotten.

use std::collections::{BTreeMap, BTreeSet};

use ashlar_proto::api::{AuditEntry, AuditOutcome};

use super::ClusterState;
use crate::meta::Change;
use crate::row::{AnyRow, AuditRow, audit_key};

/// Entries of changes that are kept.
pub(crate) const AUDIT_KEPT_MAX: usize = 8192;

/// Entries that are kept of each other kind.
const OTHERS_KEPT_MAX: usize = 1024;

/// How long they are: 90 days.
const AUDIT_AGE_MS_MAX: u64 = 90 * 24 * 3600 * 1000;

/// Old entries that go with each new one, so that a transaction stays small.
const SWEPT_MAX: usize = 4;

/// Numbers for each millisecond, so that they grow also where all entries have gone.
const IDS_PER_MS: u64 = 1000;

/// What an entry tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Something was changed.
    Changed,
    /// It was done, and no row is another: a certificate was renewed, a backup taken.
    Done,
    /// Somebody known was refused, or failed.
    Refused,
    /// Somebody unknown was.
    Unknown,
}

impl Kind {
    fn of(entry: &AuditEntry) -> Self {
        match entry.outcome {
            AuditOutcome::Done if entry.changes.is_empty() => Self::Done,
            AuditOutcome::Done => Self::Changed,
            _ if entry.who.is_empty() => Self::Unknown,
            _ => Self::Refused,
        }
    }

    fn kept_max(self) -> usize {
        match self {
            Self::Changed => AUDIT_KEPT_MAX,
            Self::Done | Self::Refused | Self::Unknown => OTHERS_KEPT_MAX,
        }
    }
}

/// The last entries, by number, and the numbers of each kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuditLog {
    all: BTreeMap<u64, AuditEntry>,
    kinds: BTreeMap<Kind, BTreeSet<u64>>,
}

impl AuditLog {
    pub(super) fn put(&mut self, row: AuditRow) {
        self.remove(row.entry.id);
        let kind = Kind::of(&row.entry);
        self.kinds.entry(kind).or_default().insert(row.entry.id);
        self.all.insert(row.entry.id, row.entry);
    }

    pub(super) fn remove(&mut self, id: u64) {
        let Some(entry) = self.all.remove(&id) else {
            return;
        };
        if let Some(ids) = self.kinds.get_mut(&Kind::of(&entry)) {
            ids.remove(&id);
        }
    }

    /// Those that go when one of that kind and time comes: the oldest of its kind, and the oldest of all
    /// that are too old.
    fn swept(&self, kind: Kind, now_ms: u64) -> BTreeSet<u64> {
        let none = BTreeSet::new();
        let kept = self.kinds.get(&kind).unwrap_or(&none);
        let over = (kept.len() + 1).saturating_sub(kind.kept_max());
        let is_old = |entry: &&AuditEntry| entry.time_ms.saturating_add(AUDIT_AGE_MS_MAX) <= now_ms;
        let old = self.all.values().take(SWEPT_MAX).filter(is_old);
        let over = kept.iter().copied().take(over.min(SWEPT_MAX));
        over.chain(old.map(|entry| entry.id)).collect()
    }

    fn next_id(&self, now_ms: u64) -> u64 {
        let last = self.all.last_key_value().map_or(0, |(id, _)| *id);
        now_ms.saturating_mul(IDS_PER_MS).max(last + 1)
    }
}

impl ClusterState {
    /// Those after a number, the oldest first.
    pub(crate) fn audit_after(&self, id: u64, limit: usize) -> Vec<AuditEntry> {
        let later = self.audit.all.range(id.saturating_add(1)..);
        later.take(limit).map(|(_, entry)| entry.clone()).collect()
    }

    /// The last ones, the oldest of them first.
    pub(crate) fn audit_last(&self, limit: usize) -> Vec<AuditEntry> {
        let last = self.audit.all.values().rev().take(limit);
        let mut last: Vec<AuditEntry> = last.cloned().collect();
        last.reverse();
        last
    }

    /// The changes that keep an entry, to which its number is given here; the oldest go where there are
    /// enough.
    pub(crate) fn keep_entry(&self, entry: &mut AuditEntry) -> Vec<Change> {
        entry.id = self.audit.next_id(entry.time_ms);
        let swept = self.audit.swept(Kind::of(entry), entry.time_ms);
        let gone = swept.iter().map(|id| audit_key(*id));
        let mut changes: Vec<Change> = gone.map(|key| Change::Delete { key }).collect();
        let entry = entry.clone();
        changes.push(AnyRow::Audit(AuditRow { entry }).put());
        changes
    }
}

#[cfg(test)]
mod tests {
    use ashlar_proto::api::{AuditChange, Revision};

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
            changes: vec![AuditChange {
                row: "volume/1".to_owned(),
                before: None,
                after: None,
            }],
            changes_left_out: 0,
            left_out: 0,
        }
    }

    fn keep(state: &mut ClusterState, time_ms: u64) -> u64 {
        keep_one(state, entry(time_ms))
    }

    fn keep_one(state: &mut ClusterState, mut entry: AuditEntry) -> u64 {
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
        assert_eq!(state.audit.all.len(), AUDIT_KEPT_MAX);
        assert_eq!(state.audit_last(1)[0].id, last);
        assert_eq!(state.audit_after(last - 3, 2).len(), 2);
        let later = 5 + AUDIT_AGE_MS_MAX;
        keep(&mut state, later);
        assert_eq!(state.audit.all.len(), AUDIT_KEPT_MAX + 1 - SWEPT_MAX);
        for _ in 0..AUDIT_KEPT_MAX / 3 + 2 {
            keep(&mut state, later);
        }
        assert!(state.audit.all.values().all(|entry| entry.time_ms == later));
    }

    #[test]
    fn who_is_refused_makes_nothing_forgotten_that_was_done() {
        let mut state = ClusterState::empty();
        let (done, shown) = (keep(&mut state, 5), keep_looked(&mut state));
        for number in 0..AUDIT_KEPT_MAX + OTHERS_KEPT_MAX {
            let who = ["", "eve"][number % 2].to_owned();
            let refused = AuditEntry {
                who,
                outcome: AuditOutcome::Refused,
                changes: Vec::new(),
                ..entry(6)
            };
            keep_one(&mut state, refused);
        }
        let log = &state.audit;
        assert!(log.all.contains_key(&done) && log.all.contains_key(&shown));
        assert_eq!(log.all.len(), 2 + 2 * OTHERS_KEPT_MAX);
        assert_eq!(log.kinds[&Kind::Unknown].len(), OTHERS_KEPT_MAX);
        assert_eq!(log.kinds[&Kind::Refused].len(), OTHERS_KEPT_MAX);
    }

    fn keep_looked(state: &mut ClusterState) -> u64 {
        let changes = Vec::new();
        keep_one(
            state,
            AuditEntry {
                changes,
                ..entry(5)
            },
        )
    }
}
