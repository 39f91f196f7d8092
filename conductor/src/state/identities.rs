//! Join tokens, and nodes and certificates that are let in no more.
//!
//! Invariants: a token is good for one node, until it expires; of its secret only a hash is kept. The time
//! is that of the conductor's clock when the plan is made.

use ashlar_proto::api::{
    CreateJoinToken, DeniedIdentities, DeniedIdentity, DenyIdentity, IdentitySubject, JoinToken,
    NodeRole,
};

use ashlar_proto::VolumeId;

use super::clients::taken_away;
use super::{ClusterState, Plan};
use crate::meta::Change;
use crate::refusal::{IdentityRefusal, InvalidRequest, Refusal, check_name, check_text};
use crate::row::{
    AnyRow, DeniedIdentityRow, JoinTokenRow, UsedRow, VolumeRow, denied_identity_key,
    join_token_key,
};

/// Tokens at a time; expired ones go when another is made.
const TOKENS_MAX: usize = 1024;
/// Denials at a time.
const DENIED_MAX: usize = 1024;
/// The longest that a token is good: 30 days.
const TTL_MS_MAX: u64 = 30 * 24 * 3600 * 1000;
/// The shortest.
const TTL_MS_MIN: u64 = 1000;
/// Hexadecimal digits of a serial number (RFC 5280 section 4.1.2.2: 20 bytes).
const SERIAL_DIGITS_MAX: usize = 40;

/// What a node shows to get its first certificate.
#[derive(Clone, Debug)]
pub(crate) struct TokenUse {
    /// The token's id.
    pub(crate) id: String,
    /// The SHA-256 of its secret.
    pub(crate) hash: String,
    /// The node's name.
    pub(crate) name: String,
    /// The SHA-256 of its request.
    pub(crate) request: String,
}

impl JoinTokenRow {
    fn show(&self) -> JoinToken {
        JoinToken {
            id: self.id.clone(),
            role: self.role,
            name: self.name.clone(),
            expires_ms: self.expires_ms,
            used_by: self.used.as_ref().map(|used| used.name.clone()),
        }
    }
}

impl ClusterState {
    /// All tokens, by their ids.
    pub(crate) fn join_tokens(&self) -> Vec<JoinToken> {
        self.join_tokens.values().map(JoinTokenRow::show).collect()
    }

    /// Keeps a token that was made: its id, and the hash of its secret. Those that have expired go.
    pub(crate) fn plan_create_token(
        &self,
        request: &CreateJoinToken,
        id: &str,
        hash: &str,
        now_ms: u64,
    ) -> Result<Plan<JoinToken>, Refusal> {
        if let Some(name) = &request.name {
            check_name(name)?;
        }
        if !(TTL_MS_MIN..=TTL_MS_MAX).contains(&request.ttl_ms) {
            return Err(IdentityRefusal::Ttl.into());
        }
        let expired = self.join_tokens.values();
        let expired: Vec<&JoinTokenRow> = expired.filter(|row| row.expires_ms <= now_ms).collect();
        if self.join_tokens.len() - expired.len() >= TOKENS_MAX {
            let (field, most) = ("tokens", TOKENS_MAX);
            return Err(InvalidRequest::TooMany { field, most }.into());
        }
        let row = JoinTokenRow {
            id: id.to_owned(),
            hash: hash.to_owned(),
            role: request.role,
            name: request.name.clone(),
            expires_ms: now_ms.saturating_add(request.ttl_ms),
            used: None,
        };
        let gone = |row: &&JoinTokenRow| Change::Delete {
            key: join_token_key(&row.id),
        };
        let mut changes: Vec<Change> = expired.iter().map(gone).collect();
        let answer = row.show();
        changes.push(AnyRow::JoinToken(row).put());
        Ok(Plan {
            reads: Vec::new(),
            changes,
            answer,
        })
    }

    /// A token is good no more.
    pub(crate) fn plan_revoke_token(&self, id: &str) -> Result<Plan<()>, Refusal> {
        if !self.join_tokens.contains_key(id) {
            let id = id.chars().take(80).collect();
            return Err(IdentityRefusal::TokenNotFound { id }.into());
        }
        Ok(Plan {
            reads: Vec::new(),
            changes: vec![Change::Delete {
                key: join_token_key(id),
            }],
            answer: (),
        })
    }

    /// Whether there is a token of that secret, good or not.
    pub(crate) fn knows_join_token(&self, shown: &TokenUse) -> bool {
        let row = self.join_tokens.get(&shown.id);
        row.is_some_and(|row| row.hash == shown.hash)
    }

    /// A node uses a token; gives the role that it is for. The same node may do so again with the same
    /// request: the answer may have been lost.
    pub(crate) fn plan_use_token(
        &self,
        shown: &TokenUse,
        now_ms: u64,
    ) -> Result<Plan<NodeRole>, Refusal> {
        check_name(&shown.name)?;
        let row = self.join_tokens.get(&shown.id);
        // Both are hashes: how long the comparison takes says nothing of the secret.
        let row = row.filter(|row| row.hash == shown.hash);
        let row = row.ok_or(IdentityRefusal::TokenUnknown)?;
        let id = row.id.clone();
        if row.expires_ms <= now_ms {
            return Err(IdentityRefusal::TokenExpired { id }.into());
        }
        if let Some(expected) = row.name.clone().filter(|name| *name != shown.name) {
            let given = shown.name.clone();
            return Err(IdentityRefusal::TokenOfOther {
                id,
                expected,
                given,
            }
            .into());
        }
        self.refuse_denied_node(&shown.name)?;
        if row.name.is_none() && row.used.is_none() {
            self.refuse_known_name(row.role, &shown.name)?;
        }
        let used = UsedRow {
            name: shown.name.clone(),
            request: shown.request.clone(),
        };
        match &row.used {
            Some(before) if *before == used => Ok(Plan::nothing(row.role)),
            Some(before) => {
                let name = before.name.clone();
                Err(IdentityRefusal::TokenUsed { id, name }.into())
            }
            None => Ok(Plan {
                reads: vec![denied_identity_key(&IdentitySubject::Node(
                    shown.name.clone(),
                ))],
                changes: vec![
                    AnyRow::JoinToken(JoinTokenRow {
                        used: Some(used),
                        ..row.clone()
                    })
                    .put(),
                ],
                answer: row.role,
            }),
        }
    }

    /// Refuses the name of a node that is known already to who has a token for any name: it could speak for
    /// that node.
    fn refuse_known_name(&self, role: NodeRole, name: &str) -> Result<(), IdentityRefusal> {
        let is_known = match role {
            NodeRole::Store => self.nodes.values().any(|node| node.name == name),
            NodeRole::FrontEnd => self.servers.values().any(|server| server.name == name),
            NodeRole::Conductor | NodeRole::Client => false,
        };
        if is_known {
            let name = name.to_owned();
            return Err(IdentityRefusal::NameKnown { role, name });
        }
        Ok(())
    }

    /// Refuses a certificate to a node that is denied.
    pub(crate) fn refuse_denied_node(&self, name: &str) -> Result<(), IdentityRefusal> {
        if self.is_denied_node(name) {
            let name = name.to_owned();
            return Err(IdentityRefusal::Denied { name });
        }
        Ok(())
    }

    /// Whether a node is let in no more, by its name.
    pub(super) fn is_denied_node(&self, name: &str) -> bool {
        let subject = IdentitySubject::Node(name.to_owned());
        self.denied_identities.contains_key(&subject)
    }

    /// All that are denied, and since when that holds.
    pub(crate) fn denied_identities(&self) -> DeniedIdentities {
        let show = |row: &DeniedIdentityRow| DeniedIdentity {
            subject: row.subject.clone(),
            reason: row.reason.clone(),
        };
        DeniedIdentities {
            revision: self.identities_changed,
            items: self.denied_identities.values().map(show).collect(),
        }
    }

    /// Lets a node or a certificate in no more; gives the volumes that this takes from it, as from a denied
    /// client. A repair owner's are among them.
    pub(crate) fn plan_deny_identity(
        &self,
        request: &DenyIdentity,
    ) -> Result<Plan<Vec<VolumeId>>, Refusal> {
        check_subject(&request.subject)?;
        if let Some(reason) = &request.reason {
            check_text("reason", reason)?;
        }
        let row = DeniedIdentityRow {
            subject: request.subject.clone(),
            reason: request.reason.clone(),
        };
        let known = self.denied_identities.get(&row.subject);
        if known.is_none() && self.denied_identities.len() >= DENIED_MAX {
            let (field, most) = ("subject", DENIED_MAX);
            return Err(InvalidRequest::TooMany { field, most }.into());
        }
        let is_its = |volume: &&VolumeRow| {
            let shown = volume.attached_as.as_ref();
            volume.attached_by.is_some() && shown.is_some_and(|shown| shown.is_of(&row.subject))
        };
        let taken: Vec<&VolumeRow> = self.volumes.values().filter(is_its).collect();
        let mut changes: Vec<Change> = taken.iter().map(|volume| taken_away(volume)).collect();
        if known != Some(&row) {
            changes.push(AnyRow::DeniedIdentity(row.clone()).put());
        }
        Ok(Plan {
            reads: Vec::new(),
            changes,
            answer: taken.iter().map(|volume| volume.id).collect(),
        })
    }

    /// Lets it in again.
    pub(crate) fn plan_allow_identity(
        &self,
        subject: &IdentitySubject,
    ) -> Result<Plan<()>, Refusal> {
        if !self.denied_identities.contains_key(subject) {
            let what = match subject {
                IdentitySubject::Node(name) => format!("node `{name}`"),
                IdentitySubject::Serial(serial) => format!("certificate {serial}"),
            };
            let what = what.chars().take(120).collect();
            return Err(IdentityRefusal::NotDenied { what }.into());
        }
        Ok(Plan {
            reads: Vec::new(),
            changes: vec![Change::Delete {
                key: denied_identity_key(subject),
            }],
            answer: (),
        })
    }
}

fn check_subject(subject: &IdentitySubject) -> Result<(), Refusal> {
    match subject {
        IdentitySubject::Node(name) => Ok(check_name(name)?),
        IdentitySubject::Serial(serial) => {
            let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
            let fits = (1..=SERIAL_DIGITS_MAX).contains(&serial.len());
            if fits && serial.bytes().all(is_digit) && !serial.starts_with('0') {
                return Ok(());
            }
            let given = serial.chars().take(80).collect();
            Err(IdentityRefusal::Serial { given }.into())
        }
    }
}
