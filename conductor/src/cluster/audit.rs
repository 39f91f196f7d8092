//! The audit log: an entry goes into the transaction of what it tells of.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::{AuditChange, AuditEntry};

use super::{Cluster, ClusterError, View};
use crate::audited::{self, Asked};
use crate::meta::{Change, Expect, MetaStore, Transaction};
use crate::state::Plan;

/// Entries of one answer.
pub(crate) const AUDIT_LISTED_MAX: usize = 1000;

impl<M: MetaStore> Cluster<M> {
    /// Adds the entry of a request to the transaction of its change; gives it.
    pub(super) async fn join_entry(
        &self,
        asked: &Asked,
        transaction: &mut Transaction,
    ) -> Result<Option<AuditEntry>, ClusterError> {
        let Some(entry) = asked.draft() else {
            return Ok(None);
        };
        let mut changes: Vec<AuditChange> = Vec::new();
        let (told, left_out) = audited::told(&transaction.changes);
        for change in told {
            let before = self.store.read(change.key()).await?;
            let before = before.as_ref().map(|row| row.value.as_slice());
            let after = match change {
                Change::Put { value, .. } => Some(value.as_slice()),
                Change::Delete { .. } => None,
            };
            changes.push(audited::difference(change.key(), before, after));
        }
        let mut entry = audited::done(entry, changes, left_out);
        self.read(|view| {
            let kept = view.state.keep_entry(&mut entry);
            let more = view.state.transaction(&[], kept);
            let expected: Vec<Expect> = more.expect;
            transaction.expect.extend(expected);
            transaction.changes.extend(more.changes);
        });
        Ok(Some(entry))
    }

    /// Keeps an entry of what changed nothing.
    pub(crate) async fn note(
        self: &Arc<Self>,
        entry: AuditEntry,
    ) -> Result<AuditEntry, ClusterError> {
        let plan = move |view: &View| {
            let mut entry = entry.clone();
            let changes = view.state.keep_entry(&mut entry);
            Ok(Plan {
                reads: Vec::new(),
                changes,
                answer: entry,
            })
        };
        Ok(self.transact(plan).await?.0)
    }

    /// Entries after a number, once there are any or the wait is over; the last ones for `None`.
    pub(crate) async fn audit(
        &self,
        after: Option<u64>,
        limit: usize,
        wait: Duration,
    ) -> Vec<AuditEntry> {
        let limit = limit.min(AUDIT_LISTED_MAX);
        let Some(after) = after else {
            return self.read(|view| view.state.audit_last(limit));
        };
        let found = |view: &View| {
            let list = view.state.audit_after(after, limit);
            (!list.is_empty()).then_some(list)
        };
        self.wait_for(wait, found).await.unwrap_or_default()
    }
}
