//! Plans for the secrets of iSCSI targets, and for those of discovery.
//!
//! Invariant: no initiator has a secret that a target, or a server in discovery, shows. Else who hears a
//! challenge answered could log in with the answer (RFC 7143 section 9.2.1).

use ashlar_proto::IscsiName;
use ashlar_proto::api::{
    ChapLogin, ChapUser, ClearChap, DiscoveryChap, InitiatorSecret, Secret, SetChap,
};
use ashlar_proto::limits::TARGET_SECRETS_MAX;

use super::targets::{store_if_other, too_many};
use super::{ClusterState, Plan};
use crate::refusal::{InvalidRequest, InvalidTarget, Refusal, TargetRefusal, check_chap};
use crate::row::{AnyRow, DiscoveryRow, discovery_key, target_key};

impl ClusterState {
    /// Gives initiators, or the target, a secret. Repeating it changes nothing.
    pub(crate) fn plan_set_chap(
        &self,
        name: &IscsiName,
        request: &SetChap,
    ) -> Result<Plan<IscsiName>, Refusal> {
        let current = self.require_target(name)?;
        let mut row = current.clone();
        set(&mut row.chap, &mut row.mutual, request)?;
        if is_reused(&row.chap, row.mutual.as_ref()) {
            return Err(TargetRefusal::SecretReused { name: row.name }.into());
        }
        let discovery = &self.discovery;
        if is_reused(&row.chap, discovery.mutual.as_ref())
            || is_reused(&discovery.chap, row.mutual.as_ref())
        {
            return Err(TargetRefusal::DiscoverySecretReused.into());
        }
        let mut plan = store_if_other(current, row);
        plan.reads.push(discovery_key());
        Ok(plan)
    }

    /// Takes secrets back.
    pub(crate) fn plan_clear_chap(
        &self,
        name: &IscsiName,
        request: &ClearChap,
    ) -> Result<Plan<IscsiName>, Refusal> {
        let current = self.require_target(name)?;
        let mut row = current.clone();
        clear(&mut row.chap, &mut row.mutual, request);
        if row == *current && *request != ClearChap::All {
            return Err(TargetRefusal::NoChap { name: row.name }.into());
        }
        Ok(store_if_other(current, row))
    }

    /// What discovery asks for, without the secrets.
    pub(crate) fn discovery_chap(&self) -> DiscoveryChap {
        let row = &self.discovery;
        DiscoveryChap {
            chap: row.chap.iter().map(chap_user).collect(),
            mutual: row.mutual.as_ref().map(|login| login.user.clone()),
        }
    }

    /// Gives initiators a secret for discovery, or servers one to show. Repeating it changes nothing.
    pub(crate) fn plan_set_discovery_chap(&self, request: &SetChap) -> Result<Plan<()>, Refusal> {
        let mut row = self.discovery.clone();
        set(&mut row.chap, &mut row.mutual, request)?;
        let is_of_target = self.targets.values().any(|target| {
            is_reused(&target.chap, row.mutual.as_ref())
                || is_reused(&row.chap, target.mutual.as_ref())
        });
        if is_of_target || is_reused(&row.chap, row.mutual.as_ref()) {
            return Err(TargetRefusal::DiscoverySecretReused.into());
        }
        Ok(self.store_discovery(row))
    }

    /// Takes secrets of discovery back.
    pub(crate) fn plan_clear_discovery_chap(
        &self,
        request: &ClearChap,
    ) -> Result<Plan<()>, Refusal> {
        let mut row = self.discovery.clone();
        clear(&mut row.chap, &mut row.mutual, request);
        if row == self.discovery && *request != ClearChap::All {
            return Err(TargetRefusal::NoDiscoveryChap.into());
        }
        Ok(self.store_discovery(row))
    }

    fn store_discovery(&self, row: DiscoveryRow) -> Plan<()> {
        if row == self.discovery {
            return Plan::nothing(());
        }
        Plan {
            // Nobody gives a target meanwhile what is refused here.
            reads: self.targets.keys().map(target_key).collect(),
            changes: vec![AnyRow::Discovery(row).put()],
            answer: (),
        }
    }
}

/// The name that goes with a secret, and whose it is.
pub(super) fn chap_user(secret: &InitiatorSecret) -> ChapUser {
    ChapUser {
        user: secret.login.user.clone(),
        initiator: secret.initiator.clone(),
    }
}

fn set(
    chap: &mut Vec<InitiatorSecret>,
    mutual: &mut Option<ChapLogin>,
    request: &SetChap,
) -> Result<(), Refusal> {
    let login = ChapLogin {
        user: request.user.clone(),
        secret: request.secret.clone(),
    };
    check_chap(&login).map_err(InvalidRequest::from)?;
    let initiator = request.initiator.clone();
    if !request.mutual {
        return put_secret(chap, InitiatorSecret { login, initiator });
    }
    if initiator.is_some() {
        return Err(InvalidRequest::from(InvalidTarget::MutualOfOne).into());
    }
    *mutual = Some(login);
    Ok(())
}

fn clear(chap: &mut Vec<InitiatorSecret>, mutual: &mut Option<ChapLogin>, request: &ClearChap) {
    match request {
        ClearChap::User { user, initiator } => {
            chap.retain(|some| some.login.user != *user || some.initiator != *initiator);
        }
        ClearChap::Mutual => *mutual = None,
        ClearChap::All => {
            chap.clear();
            *mutual = None;
        }
    }
}

/// Puts a secret in the place of the one of the same name and initiator, or adds it.
fn put_secret(chap: &mut Vec<InitiatorSecret>, secret: InitiatorSecret) -> Result<(), Refusal> {
    let is_same = |some: &&mut InitiatorSecret| {
        some.login.user == secret.login.user && some.initiator == secret.initiator
    };
    if let Some(there) = chap.iter_mut().find(is_same) {
        *there = secret;
    } else if chap.len() < TARGET_SECRETS_MAX {
        chap.push(secret);
    } else {
        return Err(too_many("chap", TARGET_SECRETS_MAX));
    }
    Ok(())
}

/// Whether an initiator has the secret that is shown to it.
fn is_reused(chap: &[InitiatorSecret], shown: Option<&ChapLogin>) -> bool {
    let is = |secret: &Secret| chap.iter().any(|some| some.login.secret == *secret);
    shown.is_some_and(|login| is(&login.secret))
}
