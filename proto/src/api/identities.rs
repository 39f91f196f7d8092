//! Who may be in a cluster: roles of nodes, join tokens, certificates, and who is denied.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Revision, Secret};

/// Longest certificate request that is taken, in bytes of PEM.
pub const CERTIFICATE_REQUEST_BYTES_MAX: usize = 8 << 10;

/// What a node of the cluster is; its certificate names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum NodeRole {
    /// Keeps replicas; also an owner, for repairs.
    Store,
    /// Attaches volumes: NBD, iSCSI.
    FrontEnd,
    /// Answers the API.
    Conductor,
    /// Administers the cluster, or makes volumes for others.
    Client,
}

impl NodeRole {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Store, Self::FrontEnd, Self::Conductor, Self::Client];

    /// Its word: `store`, `front-end`, `conductor` or `client`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::FrontEnd => "front-end",
            Self::Conductor => "conductor",
            Self::Client => "client",
        }
    }
}

impl fmt::Display for NodeRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The text was no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such role: give store, front-end, conductor or client")]
pub struct ParseNodeRoleError;

impl FromStr for NodeRole {
    type Err = ParseNodeRoleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is = |role: &Self| role.word() == text;
        Self::ALL.into_iter().find(is).ok_or(ParseNodeRoleError)
    }
}

/// A token with which one node may get its first certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct JoinToken {
    /// Its id: not secret.
    pub id: String,
    /// What the node becomes.
    pub role: NodeRole,
    /// The only name that the node may have, if it was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Until when it is good: milliseconds since 1970-01-01 UTC.
    pub expires_ms: u64,
    /// The node that has used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
}

/// `POST /v1/join-tokens`: makes a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateJoinToken {
    /// What the node becomes.
    pub role: NodeRole,
    /// The only name that the node may have.
    #[serde(default)]
    pub name: Option<String>,
    /// How long it is good, in milliseconds.
    pub ttl_ms: u64,
}

/// The answer to [`CreateJoinToken`]: the only time that the token itself is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct JoinTokenCreated {
    /// What it is.
    #[serde(flatten)]
    pub described: JoinToken,
    /// The token, as nodes are given it: with the fingerprint of the authority's certificate.
    pub token: Secret,
}

/// `POST /v1/enrol`: the first certificate of a node. Repeating it with the same key gives another one as
/// long as the token has not expired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Enrol {
    /// The token, as it was shown.
    pub token: Secret,
    /// The node's name.
    pub name: String,
    /// A PKCS #10 request in PEM, signed with the node's key. Only its public key is looked at.
    pub request: String,
}

/// `POST /v1/enrol/renew`, with the certificate that is to be replaced: another one for the same role and
/// name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RenewCertificate {
    /// As [`Enrol::request`].
    pub request: String,
}

/// A certificate was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Enrolled {
    /// The role in it.
    pub role: NodeRole,
    /// The certificate, PEM.
    pub certificate: String,
    /// The authority's, PEM.
    pub authority: String,
}

/// A node or a certificate that is let in no more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum IdentitySubject {
    /// All certificates of a node, whatever its role.
    Node(String),
    /// One certificate, by the hexadecimal digits of its serial number.
    Serial(String),
}

/// One that is denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeniedIdentity {
    /// Who.
    pub subject: IdentitySubject,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `POST /v1/identities/deny`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DenyIdentity {
    /// Who.
    pub subject: IdentitySubject,
    /// Why, for people.
    #[serde(default)]
    pub reason: Option<String>,
}

/// The answer to [`DenyIdentity`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct IdentityDenied {
    /// The names of the volumes that it had attached, and that were taken from it.
    pub taken: Vec<String>,
    /// Volumes taken from somebody whose replicas may still take that one's writes: too few of them, or no
    /// store, could be asked yet. It goes on.
    pub unfenced: Vec<String>,
}

/// `POST /v1/identities/allow`: takes a [`DenyIdentity`] back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AllowIdentity {
    /// Who.
    pub subject: IdentitySubject,
}

/// `GET /v1/identities/denied`: all that are denied. With `after` and `wait_ms` it waits for news.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeniedIdentities {
    /// The revision at which the list last changed, or a later one.
    pub revision: Revision,
    /// The list.
    pub items: Vec<DeniedIdentity>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_said_in_words() {
        for role in NodeRole::ALL {
            assert_eq!(role.word().parse(), Ok(role));
            let json = serde_json::to_string(&role).unwrap();
            assert_eq!(json, format!("\"{role}\""));
        }
        assert_eq!("admin".parse::<NodeRole>(), Err(ParseNodeRoleError));
    }

    #[test]
    fn a_token_is_not_shown_by_debug() {
        let enrol = Enrol {
            token: Secret::new("very-secret"),
            name: "a".to_owned(),
            request: String::new(),
        };
        assert!(!format!("{enrol:?}").contains("very-secret"));
    }
}
