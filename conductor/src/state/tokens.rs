//! The keys that tokens are signed with, and the tokens that are revoked.
//!
//! Invariants: what verifies a token stays for as long as one that it has signed may be good; what
//! revokes one, too.

use ashlar_proto::api::RevokedToken;

use super::{ClusterState, Plan};
use crate::meta::Change;
use crate::refusal::{AccessRefusal, InvalidRequest, Refusal};
use crate::row::{AnyRow, RevokedTokenRow, SigningKeyRow, revoked_token_key, signing_key_key};

/// Longest that a token is good for: 30 days.
pub(crate) const TOKEN_SECONDS_MAX: u64 = 30 * 24 * 3600;

/// How long a key signs before the next one does: 30 days.
const SIGNING_MS: u64 = 30 * 24 * 3600 * 1000;

/// How long a key verifies: until what it signed last has ended.
const VERIFYING_MS: u64 = SIGNING_MS + TOKEN_SECONDS_MAX * 1000;

/// Most revocations at a time.
const REVOKED_MAX: usize = 4096;

/// Revocations that are over and go when another is made.
const REVOKED_SWEPT: usize = 16;

/// Longest `jti`.
const TOKEN_ID_BYTES_MAX: usize = 128;

impl super::access::Access {
    /// The key of that id, for what it has signed.
    pub(crate) fn signing_key(&self, id: &str) -> Option<&SigningKeyRow> {
        self.signing.get(id)
    }

    /// Whether a token is let in no more.
    pub(crate) fn is_revoked(&self, id: &str) -> bool {
        self.revoked.contains_key(id)
    }

    /// The key that signs at that time.
    pub(crate) fn signs(&self, now_ms: u64) -> Option<&SigningKeyRow> {
        let newest = self.signing.values().max_by_key(|key| key.created_ms)?;
        (now_ms < newest.created_ms.saturating_add(SIGNING_MS)).then_some(newest)
    }
}

impl ClusterState {
    /// The key that signs now: the newest, or `fresh` where that has done so for long enough. Those that
    /// verify nothing any more go.
    pub(crate) fn plan_sign(&self, fresh: &SigningKeyRow, now_ms: u64) -> Plan<SigningKeyRow> {
        match self.access.signs(now_ms) {
            Some(key) => Plan::nothing(key.clone()),
            None => self.with_signing_key(fresh, |key| {
                key.created_ms.saturating_add(VERIFYING_MS) <= now_ms
            }),
        }
    }

    /// Has `fresh` sign from now on; with `forget`, what the others have signed is good no more.
    pub(crate) fn plan_rotate(&self, fresh: &SigningKeyRow, forget: bool) -> Plan<SigningKeyRow> {
        self.with_signing_key(fresh, |_| forget)
    }

    fn with_signing_key(
        &self,
        fresh: &SigningKeyRow,
        goes: impl Fn(&SigningKeyRow) -> bool,
    ) -> Plan<SigningKeyRow> {
        let gone = self.access.signing.values().filter(|key| goes(key));
        let mut changes: Vec<Change> = gone
            .map(|key| Change::Delete {
                key: signing_key_key(&key.id),
            })
            .collect();
        changes.push(AnyRow::SigningKey(fresh.clone()).put());
        Plan {
            reads: Vec::new(),
            changes,
            answer: fresh.clone(),
        }
    }

    /// Lets a token in no more.
    pub(crate) fn plan_token_revoke(
        &self,
        id: &str,
        now_ms: u64,
    ) -> Result<Plan<RevokedToken>, Refusal> {
        let is_id = (1..=TOKEN_ID_BYTES_MAX).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        if !is_id {
            let id = id.chars().take(80).collect();
            return Err(AccessRefusal::TokenId { id }.into());
        }
        if let Some(row) = self.access.revoked.get(id) {
            return Ok(Plan::nothing(row.show()));
        }
        let over = self.access.revoked.values();
        let over = over.filter(|row| row.until_ms <= now_ms);
        let mut changes: Vec<Change> = over
            .take(REVOKED_SWEPT)
            .map(|row| Change::Delete {
                key: revoked_token_key(&row.id),
            })
            .collect();
        if self.access.revoked.len() - changes.len() >= REVOKED_MAX {
            let (field, most) = ("revoked tokens", REVOKED_MAX);
            return Err(InvalidRequest::TooMany { field, most }.into());
        }
        let row = RevokedTokenRow {
            id: id.to_owned(),
            until_ms: now_ms.saturating_add(TOKEN_SECONDS_MAX * 1000),
        };
        let answer = row.show();
        changes.push(AnyRow::RevokedToken(row).put());
        Ok(Plan {
            reads: Vec::new(),
            changes,
            answer,
        })
    }

    /// The tokens that are let in no more.
    pub(crate) fn revoked_tokens(&self) -> Vec<RevokedToken> {
        let rows = self.access.revoked.values();
        rows.map(RevokedTokenRow::show).collect()
    }
}

impl RevokedTokenRow {
    fn show(&self) -> RevokedToken {
        RevokedToken {
            id: self.id.clone(),
            until_ms: self.until_ms,
        }
    }
}
