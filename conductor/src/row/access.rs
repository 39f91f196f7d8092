//! The rows of who may do what: users, keys, signing keys, revoked tokens, projects, the audit log.
//!
//! What is secret in them is never shown by `Debug`. Keys of users lie there hashed by Argon2id (RFC
//! 9106); the private halves of signing keys have to lie there as they are.

use std::fmt;

use ashlar_proto::ByteCount;
use ashlar_proto::api::{AuditEntry, Role};
use serde::{Deserialize, Serialize};

use crate::meta::Key;

/// Text that is shown to nobody but the metadata.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Hidden(pub(crate) String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(…)")
    }
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UserRow {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// In order, none twice; in all if `None`.
    pub(crate) projects: Option<Vec<String>>,
    pub(crate) denied: bool,
    pub(crate) created_ms: u64,
    /// Tokens that were issued earlier, in seconds since 1970, are none of this user's.
    pub(crate) tokens_since_s: u64,
}

/// A key of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ApiKeyRow {
    pub(crate) id: String,
    pub(crate) user: String,
    pub(crate) note: Option<String>,
    pub(crate) created_ms: u64,
    pub(crate) expires_ms: Option<u64>,
    pub(crate) revoked_ms: Option<u64>,
    pub(crate) hash: HashRow,
}

/// A hash by Argon2id, with what it was made by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HashRow {
    pub(crate) memory_kib: u32,
    pub(crate) passes: u32,
    pub(crate) lanes: u32,
    /// Hexadecimal.
    pub(crate) salt: Hidden,
    /// Hexadecimal.
    pub(crate) hash: Hidden,
}

/// A key that tokens are signed with: Ed25519 (RFC 8032).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SigningKeyRow {
    pub(crate) id: String,
    pub(crate) created_ms: u64,
    /// PKCS #8, hexadecimal.
    pub(crate) private_key: Hidden,
    /// The point, hexadecimal.
    pub(crate) public_key: String,
}

/// A token that is let in no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RevokedTokenRow {
    pub(crate) id: String,
    pub(crate) until_ms: u64,
}

/// A project; that of plain names has one only if it has quotas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProjectRow {
    pub(crate) name: String,
    pub(crate) quota_bytes: Option<ByteCount>,
    pub(crate) quota_volumes: Option<u64>,
}

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AuditRow {
    pub(crate) entry: AuditEntry,
}

// Whether two entries are the same is asked of values that hold no floating point numbers.
impl Eq for AuditRow {}

pub(crate) fn user_key(name: &str) -> Key {
    Key::new(format!("user/{name}"))
}

pub(crate) fn api_key_key(id: &str) -> Key {
    Key::new(format!("api-key/{id}"))
}

pub(crate) fn signing_key_key(id: &str) -> Key {
    Key::new(format!("signing-key/{id}"))
}

pub(crate) fn revoked_token_key(id: &str) -> Key {
    Key::new(format!("revoked-token/{id}"))
}

pub(crate) fn project_key(name: &str) -> Key {
    Key::new(format!("project/{name}"))
}

pub(crate) fn audit_key(id: u64) -> Key {
    Key::new(format!("audit/{id:016x}"))
}
