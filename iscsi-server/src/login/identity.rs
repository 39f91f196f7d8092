//! Who logs in to what: the keys of the first login request (RFC 7143 section 6.3).

use super::status::LoginStatus;
use crate::catalog::{Access, Authentication, CatalogError, TargetCatalog, TargetInfo};
use crate::pdu::LoginRequest;
use crate::session::Session;
use crate::sessions::Registry;
use crate::text::Pair;
use ashlar_proto::IscsiName;
use std::rc::Rc;

/// Keys that say who logs in, and are declared in the first request only.
pub(super) const KEYS: [&str; 4] = [
    "InitiatorName",
    "TargetName",
    "SessionType",
    "InitiatorAlias",
];

/// What an initiator says of itself, in normal form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) initiator: String,
    /// Of a normal session.
    pub(crate) target: Option<String>,
}

impl Claim {
    /// Reads it from the keys of a first request.
    ///
    /// # Errors
    /// [`LoginStatus`].
    pub(super) fn read(keys: &[Pair<'_>]) -> Result<Self, LoginStatus> {
        let initiator = value(keys, "InitiatorName")?.ok_or(LoginStatus::MissingParameter)?;
        let initiator = normal_name(initiator).ok_or(LoginStatus::InitiatorError)?;
        let target = value(keys, "TargetName")?;
        let target = match value(keys, "SessionType")? {
            Some("Discovery") => None,
            Some("Normal") | None => {
                let target = target.ok_or(LoginStatus::MissingParameter)?;
                Some(normal_name(target).ok_or(LoginStatus::NotFound)?)
            }
            Some(_) => return Err(LoginStatus::SessionType),
        };
        Ok(Self { initiator, target })
    }
}

/// A name in the form that names are compared in; none if it is no iSCSI name (RFC 7143 section
/// 4.2.7).
pub(crate) fn normal_name(name: &str) -> Option<String> {
    let name: IscsiName = name.parse().ok()?;
    Some(name.as_str().to_owned())
}

fn value<'a>(keys: &[Pair<'a>], key: &str) -> Result<Option<&'a str>, LoginStatus> {
    let mut values = keys.iter().filter(|(name, _)| *name == key);
    let value = values.next().map(|&(_, value)| value);
    match values.next() {
        Some(_) => Err(LoginStatus::InitiatorError),
        None => Ok(value),
    }
}

/// What the claim comes to.
pub(super) struct Identity<C: TargetCatalog> {
    pub(super) claim: Claim,
    /// Of a normal session.
    pub(super) target: Option<TargetInfo>,
    pub(super) secrets: Authentication,
    /// The session that a connection is added to.
    pub(super) session: Option<Rc<Session<C>>>,
}

impl<C: TargetCatalog> Identity<C> {
    /// Asks the catalog.
    ///
    /// # Errors
    /// [`LoginStatus`].
    pub(super) async fn look_up(
        registry: &Registry<C>,
        claim: Claim,
        request: &LoginRequest,
    ) -> Result<Self, LoginStatus> {
        let (target, access) = match &claim.target {
            None => (
                None,
                registry
                    .catalog
                    .discovery(&claim.initiator)
                    .await
                    .map_err(status)?,
            ),
            Some(name) => {
                let found = registry.catalog.target(name, &claim.initiator).await;
                let info = found.map_err(status)?;
                let access = info.access.clone();
                (Some(info), access)
            }
        };
        let Access::Granted(secrets) = access else {
            return Err(LoginStatus::Forbidden);
        };
        let session = match (&target, request.tsih) {
            (_, 0) => None,
            (None, _) => return Err(LoginStatus::NoSession),
            (Some(info), tsih) => {
                let session = registry.session(&info.name, &claim.initiator, request.isid);
                let session = session.filter(|session| session.tsih == tsih);
                Some(session.ok_or(LoginStatus::NoSession)?)
            }
        };
        Ok(Self {
            claim,
            target,
            secrets,
            session,
        })
    }
}

pub(super) fn status(error: CatalogError) -> LoginStatus {
    match error {
        CatalogError::Unknown => LoginStatus::NotFound,
        CatalogError::InUse | CatalogError::Unavailable => LoginStatus::Unavailable,
        CatalogError::Failed(error) => {
            tracing::warn!("iSCSI target cannot be looked up: {error}");
            LoginStatus::TargetError
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_and_needed() {
        let initiator = ("InitiatorName", "IQN.2001-04.com.example:host");
        let target = ("TargetName", "iqn.2001-04.com.example:Disk");
        let discovery = ("SessionType", "Discovery");
        let claim = Claim::read(&[initiator, target]).unwrap();
        assert_eq!(claim.initiator, "iqn.2001-04.com.example:host");
        assert_eq!(
            claim.target.as_deref(),
            Some("iqn.2001-04.com.example:disk")
        );
        assert_eq!(Claim::read(&[initiator, discovery]).unwrap().target, None);
        for (keys, status) in [
            (&[target][..], LoginStatus::MissingParameter),
            (&[initiator], LoginStatus::MissingParameter),
            (
                &[initiator, ("SessionType", "Other")],
                LoginStatus::SessionType,
            ),
            (&[initiator, initiator, target], LoginStatus::InitiatorError),
            (
                &[("InitiatorName", "me"), target],
                LoginStatus::InitiatorError,
            ),
            (&[initiator, ("TargetName", "disk")], LoginStatus::NotFound),
        ] {
            assert_eq!(Claim::read(keys), Err(status), "{keys:?}");
        }
    }
}
