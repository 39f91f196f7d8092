//! Refusals about who may join the cluster.

use ashlar_proto::api::NodeRole;

/// A node is not given a certificate, or its token is not what was named.
#[expect(
    missing_docs,
    reason = "each message says what its variant and fields are"
)]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityRefusal {
    #[error("the join token is not known: `ashlar node token create` makes one")]
    TokenUnknown,
    #[error("join token {id} has expired: `ashlar node token create` makes another")]
    TokenExpired { id: String },
    #[error(
        "join token {id} was used by node `{name}`, and is good for one node: `ashlar node token \
         create` makes another"
    )]
    TokenUsed { id: String, name: String },
    #[error("join token {id} is for a node of the name `{expected}`, not for `{given}`")]
    TokenOfOther {
        id: String,
        expected: String,
        given: String,
    },
    #[error(
        "there is a {role} of the name `{name}` already, and the token is for any: `ashlar node token \
         create --role {role} --name {name}` makes one for that node, should it join anew"
    )]
    NameKnown { role: NodeRole, name: String },
    #[error("there is no join token {id}: see `ashlar node token list`")]
    TokenNotFound { id: String },
    #[error("node `{name}` is denied: `ashlar node allow {name}` lets it in again")]
    Denied { name: String },
    #[error("{what} is not denied: see `ashlar node denied`")]
    NotDenied { what: String },
    #[error("a token is good for 1 s to 30 days")]
    Ttl,
    #[error("`{given}` is no serial number: give its hexadecimal digits")]
    Serial { given: String },
    #[error("a {role} named `{name}` may not speak for {other}")]
    SpeaksForOther {
        role: NodeRole,
        name: String,
        other: String,
    },
}
