//! Who may do what: users, their keys and tokens, projects with quotas, and the audit log.
//!
//! A secret shows in the one answer that makes it, and in no other.

use serde::{Deserialize, Serialize};

use super::Secret;
use crate::ids::ByteCount;

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Everything, and who else may do what.
    Admin,
    /// Volumes, snapshots, targets, drains: all but who may do what and what holds for everybody.
    Operator,
    /// Reads, and changes nothing.
    Viewer,
    /// A store: says what its disks are, and attaches volumes to repair them.
    Store,
    /// A front end: attaches volumes for clients.
    FrontEnd,
}

impl Role {
    /// Its name, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
            Self::Store => "store",
            Self::FrontEnd => "front-end",
        }
    }
}

/// Somebody who may do something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct User {
    /// The name: 1 to 63 of `a-z 0-9 . _ -`, beginning with a letter or digit.
    pub name: String,
    /// What the user may do.
    pub role: Role,
    /// In which projects; in all, and to what belongs to none, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projects: Option<Vec<String>>,
    /// Whether nothing is let in in this user's name.
    #[serde(default)]
    pub denied: bool,
    /// When it was made: milliseconds since 1970-01-01 UTC.
    pub created_ms: u64,
}

/// `POST /v1/users`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    /// As [`User::name`].
    pub name: String,
    /// As [`User::role`].
    pub role: Role,
    /// As [`User::projects`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projects: Option<Vec<String>>,
}

/// `POST /v1/users/{name}/role`: another role or other projects, from now on, for the keys and tokens
/// too that the user has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetUserRole {
    /// As [`User::role`].
    pub role: Role,
    /// As [`User::projects`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projects: Option<Vec<String>>,
}

/// `POST /v1/users/{name}/deny`, `…/allow` and others that say all in their path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// A key of a user, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ApiKey {
    /// What it is found by: 16 hexadecimal digits, no secret.
    pub id: String,
    /// Whose it is.
    pub user: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// When it was made: milliseconds since 1970-01-01 UTC.
    pub created_ms: u64,
    /// When it ends, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// When it was revoked, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_ms: Option<u64>,
}

/// `POST /v1/users/{name}/keys`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// As [`ApiKey::note`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// How long it is good for, in seconds; until it is revoked if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
}

/// The answer to [`CreateKey`]: the only one with the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct KeyCreated {
    /// The key.
    pub key: ApiKey,
    /// What to give as `Authorization: Bearer …`.
    pub secret: Secret,
}

/// `POST /v1/tokens`: a token that shows who asks for it, or, asked by an admin, another user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// Whose; who asks, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// How long it is good for, in seconds.
    pub ttl_seconds: u64,
}

/// The answer to [`CreateToken`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TokenCreated {
    /// What to give as `Authorization: Bearer …`: a JWT (RFC 7519).
    pub token: Secret,
    /// Its `jti`, by which it is revoked.
    pub id: String,
    /// Whose it is.
    pub user: String,
    /// When it ends: milliseconds since 1970-01-01 UTC.
    pub expires_ms: u64,
}

/// A token that is not let in any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RevokedToken {
    /// Its `jti`.
    pub id: String,
    /// When it may be forgotten, since it has ended by then: milliseconds since 1970-01-01 UTC.
    pub until_ms: u64,
}

/// `GET /v1/whoami`: who the conductor takes the caller for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WhoAmI {
    /// The name.
    pub name: String,
    /// By what: `loopback`, `open`, `process`, `key ID`, `token ID`, `certificate`.
    pub means: String,
    /// What it may do.
    pub role: Role,
    /// As [`User::projects`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projects: Option<Vec<String>>,
}

/// A project: volumes whose names begin with its own and a `/`. Those of `default` have plain names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Project {
    /// The name: 1 to 63 of `a-z 0-9 . _ -`, beginning with a letter or digit.
    pub name: String,
    /// Most bytes that the sizes of its volumes may add up to; no bound if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<ByteCount>,
    /// Most volumes; no bound if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_volumes: Option<u64>,
    /// Bytes that the sizes of its volumes add up to.
    pub bytes: ByteCount,
    /// Its volumes.
    pub volumes: u64,
}

/// `POST /v1/projects`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateProject {
    /// As [`Project::name`].
    pub name: String,
    /// As [`Project::quota_bytes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<ByteCount>,
    /// As [`Project::quota_volumes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_volumes: Option<u64>,
}

/// `POST /v1/projects/{name}/quota`: other quotas. What is there already stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetQuota {
    /// As [`Project::quota_bytes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<ByteCount>,
    /// As [`Project::quota_volumes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_volumes: Option<u64>,
}

/// `POST /v1/volumes/{name}/key/set`: the only answer with the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VolumeKeySet {
    /// The volume.
    pub volume: String,
    /// What whoever attaches it gives as `Volume-Key`.
    pub key: Secret,
}

/// The header by which who attaches a volume gives its key.
pub const VOLUME_KEY_HEADER: &str = "volume-key";

/// How a request of the audit log ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum AuditOutcome {
    /// It took effect.
    Done,
    /// It did not: see `code`.
    Refused,
    /// It failed half way, or nobody knows.
    Failed,
}

/// What became of one row of the metadata. Only fields that differ are there; secrets are not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AuditChange {
    /// The row.
    pub row: String,
    /// What it said before; nothing if it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<serde_json::Value>,
    /// What it says now; nothing if it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<serde_json::Value>,
}

/// One entry of the audit log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AuditEntry {
    /// Its number; later ones have higher ones. 0 in the file of a conductor that did not lead.
    pub id: u64,
    /// When: milliseconds since 1970-01-01 UTC, by the conductor's clock.
    pub time_ms: u64,
    /// Who; empty if that is not known.
    pub who: String,
    /// As [`WhoAmI::means`].
    pub means: String,
    /// From which address.
    pub from: String,
    /// The method and the path of the request.
    pub what: String,
    /// Its body, without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<serde_json::Value>,
    /// How it ended.
    pub outcome: AuditOutcome,
    /// The code of the problem, if it was refused or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What it changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<AuditChange>,
    /// Changed rows beyond those.
    #[serde(default, skip_serializing_if = "super::is_no_count")]
    pub changes_left_out: u64,
    /// Refused requests before this one that have no entry, for there were too many at once.
    #[serde(default, skip_serializing_if = "super::is_no_count")]
    pub left_out: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_shown_by_json_alone() {
        let made = TokenCreated {
            token: Secret::new("correct horse"),
            id: "1".to_owned(),
            user: "ada".to_owned(),
            expires_ms: 1,
        };
        assert!(!format!("{made:?}").contains("horse"));
        let set = VolumeKeySet {
            volume: "v".to_owned(),
            key: Secret::new("correct horse"),
        };
        assert!(!format!("{set:?}").contains("horse"));
        assert!(serde_json::to_string(&set).unwrap().contains("horse"));
    }

    #[test]
    fn roles_are_called_in_json_as_by_name() {
        for role in [
            Role::Admin,
            Role::Operator,
            Role::Viewer,
            Role::Store,
            Role::FrontEnd,
        ] {
            let text = serde_json::to_string(&role).unwrap();
            assert_eq!(text, format!("\"{}\"", role.name()));
        }
    }
}
