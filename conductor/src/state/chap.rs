//! Plans for the secrets of iSCSI targets.
//!
//! Invariant: no initiator has the secret that the target shows. Else who hears the target answer a
//! challenge could log in with the answer (RFC 7143 section 9.2.1).

use ashlar_proto::IscsiName;
use ashlar_proto::api::{ChapLogin, ClearChap, InitiatorSecret, SetChap};
use ashlar_proto::limits::TARGET_SECRETS_MAX;

use super::targets::{store_if_other, too_many};
use super::{ClusterState, Plan};
use crate::refusal::{InvalidRequest, InvalidTarget, Refusal, TargetRefusal, check_chap};
use crate::row::TargetRow;

impl ClusterState {
    /// Gives initiators, or the target, a secret. Repeating it changes nothing.
    pub(crate) fn plan_set_chap(
        &self,
        name: &IscsiName,
        request: &SetChap,
    ) -> Result<Plan<IscsiName>, Refusal> {
        let current = self.require_target(name)?;
        let login = ChapLogin {
            user: request.user.clone(),
            secret: request.secret.clone(),
        };
        check_chap(&login).map_err(InvalidRequest::from)?;
        let mut row = current.clone();
        if request.mutual {
            if request.initiator.is_some() {
                return Err(InvalidRequest::from(InvalidTarget::MutualOfOne).into());
            }
            row.mutual = Some(login);
        } else {
            let initiator = request.initiator.clone();
            put_secret(&mut row, InitiatorSecret { login, initiator })?;
        }
        if is_reused(&row) {
            return Err(TargetRefusal::SecretReused { name: row.name }.into());
        }
        Ok(store_if_other(current, row))
    }

    /// Takes secrets back.
    pub(crate) fn plan_clear_chap(
        &self,
        name: &IscsiName,
        request: &ClearChap,
    ) -> Result<Plan<IscsiName>, Refusal> {
        let current = self.require_target(name)?;
        let mut row = current.clone();
        match request {
            ClearChap::User { user, initiator } => row
                .chap
                .retain(|some| some.login.user != *user || some.initiator != *initiator),
            ClearChap::Mutual => row.mutual = None,
            ClearChap::All => {
                row.chap.clear();
                row.mutual = None;
            }
        }
        if row == *current && *request != ClearChap::All {
            return Err(TargetRefusal::NoChap { name: row.name }.into());
        }
        Ok(store_if_other(current, row))
    }
}

/// Puts a secret in the place of the one of the same name and initiator, or adds it.
fn put_secret(row: &mut TargetRow, secret: InitiatorSecret) -> Result<(), Refusal> {
    let is_same = |some: &&mut InitiatorSecret| {
        some.login.user == secret.login.user && some.initiator == secret.initiator
    };
    if let Some(there) = row.chap.iter_mut().find(is_same) {
        *there = secret;
    } else if row.chap.len() < TARGET_SECRETS_MAX {
        row.chap.push(secret);
    } else {
        return Err(too_many("chap", TARGET_SECRETS_MAX));
    }
    Ok(())
}

fn is_reused(row: &TargetRow) -> bool {
    row.mutual.as_ref().is_some_and(|mutual| {
        let mut secrets = row.chap.iter().map(|some| &some.login.secret);
        secrets.any(|secret| *secret == mutual.secret)
    })
}
