//! What a request that is in the audit log changes, caught where it is committed.
//!
//! Invariants:
//! - the entry of a change is in the transaction of the change: neither is there without the other;
//! - a request has one entry, that of its first transaction: what others do of it later is not its own;
//! - no secret is in an entry: fields that hold one are left out by name.

use std::sync::{Arc, Mutex, PoisonError};

use ashlar_proto::api::{AuditChange, AuditEntry, AuditOutcome};
use serde_json::{Map, Value};

use crate::audit_file::AuditFile;
use crate::meta::{Change, Key};

/// Rows of one entry.
const ROWS_MAX: usize = 6;

/// Most bytes that one side of a change takes, and the body of a request.
const VALUE_BYTES_MAX: usize = 2048;

/// What stands for what is not shown.
const REDACTED: &str = "…";

/// Fields whose values are secrets, or as good as that.
const SECRET_FIELDS: [&str; 9] = [
    "hash",
    "key",
    "key_hash",
    "password",
    "private_key",
    "salt",
    "secret",
    "token",
    "volume_key",
];

/// Rows that say nothing of what was asked for: counters, shards, digests of requests, and entries
/// themselves.
const ROWS_LEFT_OUT: [&str; 5] = ["audit", "cluster", "name", "once", "shard"];

tokio::task_local! {
    /// The request that this task answers.
    static ASKED: Arc<Asked>;
}

/// A request that is in the audit log.
pub(crate) struct Asked {
    /// Until it has been written down.
    draft: Mutex<Option<AuditEntry>>,
    file: Option<AuditFile>,
}

impl Asked {
    /// A request, about which `entry` says who asks for what.
    pub(crate) fn new(entry: AuditEntry, file: Option<AuditFile>) -> Arc<Self> {
        let draft = Mutex::new(Some(entry));
        Arc::new(Self { draft, file })
    }

    /// Carries it out.
    pub(crate) async fn scope<F: Future>(self: &Arc<Self>, work: F) -> F::Output {
        ASKED.scope(Arc::clone(self), work).await
    }

    /// The request that this task answers, if it is one.
    pub(crate) fn current() -> Option<Arc<Self>> {
        ASKED.try_with(Arc::clone).ok()
    }

    /// What there is to be written down, if that has not been done.
    pub(crate) fn draft(&self) -> Option<AuditEntry> {
        let draft = self.draft.lock();
        draft.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds what the request does that is in no row.
    pub(crate) fn tell(&self, change: AuditChange) {
        self.amend(|entry| entry.changes.push(change));
    }

    /// It is known by now who asks.
    pub(crate) fn name(&self, who: String, means: &str) {
        self.amend(|entry| (entry.who, entry.means) = (who, means.to_owned()));
    }

    fn amend(&self, amend: impl FnOnce(&mut AuditEntry)) {
        let mut draft = self.draft.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = draft.as_mut() {
            amend(entry);
        }
    }

    /// It is in the metadata.
    pub(crate) fn kept(&self, entry: &AuditEntry) {
        let draft = self.draft.lock();
        *draft.unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(file) = &self.file {
            file.append(entry);
        }
    }
}

/// Whether a row is told of in an entry.
pub(crate) fn is_told(key: &Key) -> bool {
    let kind = key.as_str().split('/').next().unwrap_or_default();
    !ROWS_LEFT_OUT.contains(&kind)
}

/// The rows of a transaction that an entry tells of, and how many more it would tell of.
pub(crate) fn told(changes: &[Change]) -> (impl Iterator<Item = &Change>, u64) {
    let told = changes.iter().filter(|change| is_told(change.key()));
    let more = told.clone().skip(ROWS_MAX).count();
    (told.take(ROWS_MAX), u64::try_from(more).unwrap_or(u64::MAX))
}

/// What became of a row, from its bytes before and after.
pub(crate) fn difference(key: &Key, before: Option<&[u8]>, after: Option<&[u8]>) -> AuditChange {
    let (mut before, mut after) = (before.map(row_of), after.map(row_of));
    if let (Some(Value::Object(before)), Some(Value::Object(after))) = (&mut before, &mut after) {
        let same: Vec<String> = before
            .iter()
            .filter(|(name, value)| after.get(*name) == Some(value))
            .map(|(name, _)| name.clone())
            .collect();
        for name in same {
            before.remove(&name);
            after.remove(&name);
        }
    }
    AuditChange {
        row: key.to_string(),
        before: before.map(shown),
        after: after.map(shown),
    }
}

/// The row without its version.
fn row_of(bytes: &[u8]) -> Value {
    let mut value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    value["row"].take()
}

/// A value as it may be shown: without secrets, and not too long.
pub(crate) fn shown(mut value: Value) -> Value {
    redact(&mut value);
    let length = value.to_string().len();
    if length <= VALUE_BYTES_MAX {
        return value;
    }
    let mut short = Map::new();
    short.insert("left_out_bytes".to_owned(), length.into());
    Value::Object(short)
}

fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                if SECRET_FIELDS.contains(&name.as_str()) && !field.is_null() {
                    *field = REDACTED.into();
                } else {
                    redact(field);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        _ => {}
    }
}

/// The entry of a transaction that takes effect.
pub(crate) fn done(
    mut entry: AuditEntry,
    changes: Vec<AuditChange>,
    changes_left_out: u64,
) -> AuditEntry {
    entry.outcome = AuditOutcome::Done;
    entry.changes.extend(changes);
    entry.changes_left_out = changes_left_out;
    entry
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_differs_is_told() {
        let key = Key::new("volume/1");
        let before = json!({"version": 9, "row": {"name": "a", "size": 1, "key_hash": null}});
        let after = json!({"version": 10, "row": {"name": "a", "size": 2, "key_hash": "abc"}});
        let told = difference(
            &key,
            Some(before.to_string().as_bytes()),
            Some(after.to_string().as_bytes()),
        );
        assert_eq!(told.before, Some(json!({"size": 1, "key_hash": null})));
        assert_eq!(told.after, Some(json!({"size": 2, "key_hash": "…"})));
        let made = difference(&key, None, Some(after.to_string().as_bytes()));
        assert!(made.before.is_none() && made.after.unwrap()["name"] == "a");
    }

    #[test]
    fn no_secret_is_shown_however_deep_it_lies() {
        let body = json!({
            "user": "u", "secret": "correct horse",
            "chap": [{"user": "u", "secret": "correct horse"}],
            "mutual": {"deeper": {"private_key": "correct horse", "salt": "correct horse"}},
        });
        let text = shown(body).to_string();
        assert!(
            !text.contains("horse") && text.contains("\"user\":\"u\""),
            "{text}"
        );
        let long = json!({"text": "x".repeat(VALUE_BYTES_MAX)});
        assert!(shown(long).to_string().len() < 100);
    }

    #[test]
    fn counters_shards_and_entries_are_left_out() {
        for key in ["cluster", "shard/1/0", "name/a", "audit/1", "once/a"] {
            assert!(!is_told(&Key::new(key)), "{key}");
        }
        for key in ["volume/1", "user/a", "space"] {
            assert!(is_told(&Key::new(key)), "{key}");
        }
    }

    #[test]
    fn rows_beyond_those_told_are_counted() {
        let change = |number: usize| Change::Delete {
            key: Key::new(format!("api-key/{number}")),
        };
        let mut changes: Vec<Change> = (0..ROWS_MAX).map(change).collect();
        assert_eq!(told(&changes).1, 0);
        changes.extend((0..3).map(change));
        changes.push(Change::Delete {
            key: Key::new("shard/1/0"),
        });
        let (first, more) = told(&changes);
        assert_eq!((first.count(), more), (ROWS_MAX, 3));
    }
}
