//! CHAP (RFC 7143 section 12.1.3): how initiators show who they are to a target, and the target to
//! them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::is_false;
use crate::iscsi::InitiatorPattern;

/// A secret of CHAP: text of [12](crate::limits::CHAP_SECRET_BYTES_MIN) to
/// [255](crate::limits::CHAP_SECRET_BYTES_MAX) bytes, which the conductor checks. It shows in JSON,
/// and nowhere else.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// A secret of that text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Its text.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A secret, and the name that goes with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChapLogin {
    /// `CHAP_N`: 1 to 255 bytes.
    pub user: String,
    /// The secret.
    pub secret: Secret,
}

/// What initiators have to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitiatorSecret {
    /// The name and the secret.
    #[serde(flatten)]
    pub login: ChapLogin,
    /// Whose it is; of all that have none of their own, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<InitiatorPattern>,
}

/// The name by which initiators show who they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChapUser {
    /// The name.
    pub user: String,
    /// As [`InitiatorSecret::initiator`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<InitiatorPattern>,
}

/// `POST /v1/targets/{name}/chap/set`: gives initiators, or the target, a secret; instead of the one
/// of the same name and initiator, or of the target's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetChap {
    /// The name: 1 to 255 bytes.
    pub user: String,
    /// The secret: 12 to 255 bytes.
    pub secret: Secret,
    /// Whose it is; of all that have none of their own, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<InitiatorPattern>,
    /// It is the target's, which shows it to all that ask for it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub mutual: bool,
}

/// `POST /v1/targets/{name}/chap/clear`: takes secrets back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ClearChap {
    /// That of one name.
    User {
        /// The name.
        user: String,
        /// Whose it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        initiator: Option<InitiatorPattern>,
    },
    /// The target's.
    Mutual,
    /// All of them.
    All,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_told_to_logs() {
        let set = SetChap {
            user: "u".to_owned(),
            secret: Secret::new("correct horse"),
            initiator: None,
            mutual: false,
        };
        assert!(!format!("{set:?}").contains("horse"));
        let text = serde_json::to_string(&set).unwrap();
        assert_eq!(text, r#"{"user":"u","secret":"correct horse"}"#);
    }

    #[test]
    fn what_is_cleared_is_a_word() {
        let read = serde_json::from_str::<ClearChap>;
        assert_eq!(read(r#"{"what":"all"}"#).unwrap(), ClearChap::All);
        let user = ClearChap::User {
            user: "u".to_owned(),
            initiator: None,
        };
        assert_eq!(read(r#"{"what":"user","user":"u"}"#).unwrap(), user);
        assert!(read("{}").is_err());
        assert!(read(r#"{"what":"user","user":"u","initator":"*"}"#).is_err());
    }
}
