//! The rows of what was done for requests that may be sent again.

use serde::{Deserialize, Serialize};

use crate::meta::Key;

/// What a request with an idempotency key has done. It is stored with the change itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OnceRow {
    /// The key that the request had.
    pub(crate) key: String,
    /// SHA-256 of its method, path, query and body, in hexadecimal digits.
    pub(crate) request: String,
    /// When: milliseconds since 1970-01-01 UTC.
    pub(crate) at_ms: u64,
    /// What the change has made, for who answers the request again.
    pub(crate) answer: serde_json::Value,
}

pub(crate) fn once_key(key: &str) -> Key {
    Key::new(format!("once/{key}"))
}
