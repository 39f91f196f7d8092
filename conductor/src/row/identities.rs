//! The rows of join tokens, and of nodes and certificates that are let in no more.

use ashlar_proto::api::{IdentitySubject, NodeRole};
use serde::{Deserialize, Serialize};

use crate::meta::Key;

/// A join token, until it is revoked or some time after it has expired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JoinTokenRow {
    pub(crate) id: String,
    /// SHA-256 of its secret, in hexadecimal digits.
    pub(crate) hash: String,
    pub(crate) role: NodeRole,
    /// The only name that the node may have.
    pub(crate) name: Option<String>,
    /// Milliseconds since 1970-01-01 UTC.
    pub(crate) expires_ms: u64,
    pub(crate) used: Option<UsedRow>,
}

/// Who has used a join token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UsedRow {
    pub(crate) name: String,
    /// SHA-256 of the node's certificate request: the same one may be sent again.
    pub(crate) request: String,
}

/// A node or a certificate that is let in no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeniedIdentityRow {
    pub(crate) subject: IdentitySubject,
    pub(crate) reason: Option<String>,
}

pub(crate) fn join_token_key(id: &str) -> Key {
    Key::new(format!("join-token/{id}"))
}

pub(crate) fn denied_identity_key(subject: &IdentitySubject) -> Key {
    let text = match subject {
        IdentitySubject::Node(name) => format!("node/{name}"),
        IdentitySubject::Serial(serial) => format!("serial/{serial}"),
    };
    Key::new(format!("denied-identity/{text}"))
}

/// The subject of a row, from its key without the kind.
pub(crate) fn denied_subject(rest: &str) -> Option<IdentitySubject> {
    match rest.split_once('/')? {
        ("node", name) => Some(IdentitySubject::Node(name.to_owned())),
        ("serial", serial) => Some(IdentitySubject::Serial(serial.to_owned())),
        _ => None,
    }
}
