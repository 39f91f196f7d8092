//! CHAP (RFC 7143 section 12.1.3): how initiators show who they are to a target, and the target to
//! them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::is_false;
use crate::iscsi::{InitiatorPattern, IscsiName};

/// A secret of CHAP: text of [12](crate::limits::CHAP_SECRET_BYTES_MIN) to
/// [255](crate::limits::CHAP_SECRET_BYTES_MAX) bytes, which the conductor checks. It shows in JSON,
/// and nowhere else.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ChapLogin {
    /// `CHAP_N`: 1 to 255 bytes.
    pub user: String,
    /// The secret.
    pub secret: Secret,
}

/// What initiators have to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ChapUser {
    /// The name.
    pub user: String,
    /// As [`InitiatorSecret::initiator`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<InitiatorPattern>,
}

/// `GET /v1/iscsi/discovery`: what initiators have to show in discovery sessions, of all targets
/// together, without the secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DiscoveryChap {
    /// The names by which initiators show who they are. Where there are any, an initiator that has
    /// none of them is told nothing.
    pub chap: Vec<ChapUser>,
    /// The name by which servers show initiators who they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mutual: Option<String>,
}

/// The same with the secrets, for front ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DiscoverySecrets {
    /// What initiators have to know.
    pub chap: Vec<InitiatorSecret>,
    /// What servers show them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mutual: Option<ChapLogin>,
}

impl DiscoverySecrets {
    /// What `initiator` has to know to be told of targets: one of these, or nothing if there are none;
    /// `None` if it is told nothing whatever it knows.
    #[must_use]
    pub fn admits(&self, initiator: &IscsiName) -> Option<Vec<&ChapLogin>> {
        logins_of(&self.chap, initiator)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.chap.is_empty() && self.mutual.is_none()
    }
}

/// The secrets that count for an initiator: its own where there are any, else those of all; `None` if
/// others need one and it has none.
pub(super) fn logins_of<'a>(
    secrets: &'a [InitiatorSecret],
    initiator: &IscsiName,
) -> Option<Vec<&'a ChapLogin>> {
    let is_own = |secret: &&InitiatorSecret| {
        let of = secret.initiator.as_ref();
        of.is_some_and(|of| of.matches(initiator))
    };
    let login = |secret: &'a InitiatorSecret| &secret.login;
    let mut logins: Vec<&ChapLogin> = secrets.iter().filter(is_own).map(login).collect();
    if logins.is_empty() {
        let of_all = secrets.iter().filter(|some| some.initiator.is_none());
        logins = of_all.map(login).collect();
    }
    (!logins.is_empty() || secrets.is_empty()).then_some(logins)
}

/// `POST /v1/targets/{name}/chap/set` and `POST /v1/iscsi/discovery/chap/set`: gives initiators, or the
/// target, a secret; instead of the one of the same name and initiator, or of the target's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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

/// `POST /v1/targets/{name}/chap/clear` and `POST /v1/iscsi/discovery/chap/clear`: takes secrets back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    fn discovery_asks_for_secrets_as_targets_do() {
        let host: IscsiName = "iqn.1994-05.com.redhat:host".parse().unwrap();
        let other: IscsiName = "iqn.1994-05.com.redhat:other".parse().unwrap();
        let secret = |user: &str, of: Option<&str>| InitiatorSecret {
            login: ChapLogin {
                user: user.to_owned(),
                secret: Secret::new("correct horse"),
            },
            initiator: of.map(|of| of.parse().unwrap()),
        };
        let users = |secrets: &DiscoverySecrets, initiator: &IscsiName| {
            let logins = secrets.admits(initiator)?;
            Some(logins.iter().map(|login| login.user.clone()).collect())
        };
        let mut secrets = DiscoverySecrets::default();
        assert!(secrets.is_empty());
        assert_eq!(users(&secrets, &host), Some(Vec::new()));
        secrets.chap = vec![secret("own", Some(host.as_str()))];
        assert_eq!(users(&secrets, &host), Some(vec!["own".to_owned()]));
        assert_eq!(users(&secrets, &other), None);
        secrets.chap.push(secret("all", None));
        assert_eq!(users(&secrets, &host), Some(vec!["own".to_owned()]));
        assert_eq!(users(&secrets, &other), Some(vec!["all".to_owned()]));
        assert!(!secrets.is_empty());
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
