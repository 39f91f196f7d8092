//! iSCSI targets: what is offered under which name, and to whom.
//!
//! A [`Target`] is what people see. A [`ServedTarget`] has the secrets of CHAP as well: only front
//! ends, which check them, ask for it.

use serde::{Deserialize, Serialize};

use super::Revision;
use super::chap::{ChapLogin, ChapUser, DiscoverySecrets, InitiatorSecret, logins_of};
use super::servers::IscsiServer;
use crate::ids::{ClusterId, VolumeId};
use crate::iscsi::{InitiatorPattern, IscsiName, Lun};

/// A logical unit of a target: a volume under a number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TargetUnit {
    /// Its number; no other unit of the target has it.
    pub lun: Lun,
    /// The volume; no other unit of the target is the same one.
    pub volume: VolumeId,
    /// That volume's name.
    pub volume_name: String,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// A target, without its secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Target {
    /// Its iSCSI name.
    pub name: IscsiName,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Its logical units, by number.
    pub units: Vec<TargetUnit>,
    /// Who may log in; nobody else may.
    pub initiators: Vec<InitiatorPattern>,
    /// The names by which initiators show who they are. Where there are any, an initiator that has
    /// none of them may not log in.
    pub chap: Vec<ChapUser>,
    /// The name by which the target shows initiators who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mutual: Option<String>,
}

/// `POST /v1/targets`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateTarget {
    /// Its iSCSI name.
    pub name: IscsiName,
    /// For people: 1 to 255 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Who may log in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub initiators: Vec<InitiatorPattern>,
}

/// `POST /v1/targets/{name}/units`: offers a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MapUnit {
    /// The volume's name.
    pub volume: String,
    /// Its number; if none is given the lowest from 1 on that is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lun: Option<Lun>,
    /// Refuse writes.
    #[serde(default)]
    pub read_only: bool,
}

/// `PUT /v1/targets/{name}/acl`: who may log in, instead of those who may now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetAcl {
    /// Who may.
    pub initiators: Vec<InitiatorPattern>,
}

/// `POST /v1/targets/{name}/acl/allow`: these may log in as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AllowInitiator {
    /// Who may.
    pub initiator: InitiatorPattern,
}

/// `POST /v1/targets/{name}/acl/remove`: takes an [`AllowInitiator`] of the same text back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RemoveInitiator {
    /// The text that was allowed.
    pub initiator: InitiatorPattern,
}

/// A target as front ends need it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ServedTarget {
    /// As [`Target::name`].
    pub name: IscsiName,
    /// As [`Target::alias`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// As [`Target::units`].
    pub units: Vec<TargetUnit>,
    /// As [`Target::initiators`].
    pub initiators: Vec<InitiatorPattern>,
    /// What initiators have to know.
    pub chap: Vec<InitiatorSecret>,
    /// What the target shows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mutual: Option<ChapLogin>,
}

/// `GET /v1/iscsi/targets?after=R&wait_ms=N`: all targets with their secrets, and all servers. Waits until
/// one of these has changed since `after`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ServedTargets {
    /// When one of them last changed, or later: what to give as `after`.
    pub revision: Revision,
    /// The cluster, of which the identifiers of logical units are made.
    pub cluster: ClusterId,
    /// The targets, by name.
    pub targets: Vec<ServedTarget>,
    /// What initiators have to know to be told of them.
    #[serde(default, skip_serializing_if = "DiscoverySecrets::is_empty")]
    pub discovery: DiscoverySecrets,
    /// All servers, by portal group.
    #[serde(default)]
    pub servers: Vec<IscsiServer>,
}

impl ServedTarget {
    /// What `initiator` has to know to log in: one of these, or nothing if there are none; `None` if
    /// it may not log in whatever it knows.
    ///
    /// Secrets that are its own come before those of more initiators: where there are any, only they
    /// count. Where others need one and it has none, it may not.
    #[must_use]
    pub fn admits(&self, initiator: &IscsiName) -> Option<Vec<&ChapLogin>> {
        if !self.initiators.iter().any(|some| some.matches(initiator)) {
            return None;
        }
        logins_of(&self.chap, initiator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Secret;

    fn secret(user: &str, initiator: Option<&str>) -> InitiatorSecret {
        InitiatorSecret {
            login: ChapLogin {
                user: user.to_owned(),
                secret: Secret::new("a secret of some length"),
            },
            initiator: initiator.map(|text| text.parse().unwrap()),
        }
    }

    fn target(initiators: &[&str], chap: Vec<InitiatorSecret>) -> ServedTarget {
        ServedTarget {
            name: "iqn.2026-11.io.ashlar:a".parse().unwrap(),
            alias: None,
            units: Vec::new(),
            initiators: initiators.iter().map(|i| i.parse().unwrap()).collect(),
            chap,
            mutual: None,
        }
    }

    /// The names that it may show.
    fn admitted(target: &ServedTarget, initiator: &str) -> Option<Vec<String>> {
        let logins = target.admits(&initiator.parse().unwrap())?;
        Some(logins.iter().map(|login| login.user.clone()).collect())
    }

    const A: &str = "iqn.1994-05.com.redhat:a";
    const B: &str = "iqn.1994-05.com.redhat:b";

    #[test]
    fn who_is_not_on_the_list_may_not_log_in_whatever_it_knows() {
        assert_eq!(admitted(&target(&[], Vec::new()), A), None);
        assert_eq!(admitted(&target(&[B], vec![secret("u", None)]), A), None);
        assert_eq!(admitted(&target(&[A], Vec::new()), A), Some(Vec::new()));
        assert_eq!(admitted(&target(&["*"], Vec::new()), A), Some(Vec::new()));
    }

    #[test]
    fn an_initiators_own_secrets_come_before_those_of_all() {
        let both = vec![secret("all", None), secret("own", Some(A))];
        let target = target(&["*"], both);
        assert_eq!(admitted(&target, A), Some(vec!["own".to_owned()]));
        assert_eq!(admitted(&target, B), Some(vec!["all".to_owned()]));
    }

    #[test]
    fn who_has_no_secret_where_others_need_one_may_not_log_in() {
        let target = target(&["*"], vec![secret("own", Some(A))]);
        assert_eq!(admitted(&target, B), None);
    }
}
