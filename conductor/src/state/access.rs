//! Users and their keys, and plans for them.
//!
//! Invariants: a key is of a user that there is; while there are users that are no admins, one admin at
//! least is let in.

use std::collections::BTreeMap;

use ashlar_proto::api::{ApiKey, CreateKey, CreateUser, Role, SetUserRole, User};

use super::{ClusterState, Plan};
use crate::meta::Change;
use crate::refusal::{AccessRefusal, InvalidRequest, Refusal, check_name, check_text};
use crate::row::{
    AnyRow, ApiKeyRow, HashRow, RevokedTokenRow, SigningKeyRow, UserRow, api_key_key, user_key,
};

/// Most users.
pub(crate) const USERS_MAX: usize = 4096;

/// Most keys of one user, revoked ones not counted: those go when another is made.
pub(crate) const KEYS_OF_USER_MAX: usize = 32;

/// Most projects that a user is bound to.
const PROJECTS_OF_USER_MAX: usize = 256;

/// The rows of who may do what.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    pub(super) users: BTreeMap<String, UserRow>,
    pub(super) keys: BTreeMap<String, ApiKeyRow>,
    pub(super) signing: BTreeMap<String, SigningKeyRow>,
    pub(super) revoked: BTreeMap<String, RevokedTokenRow>,
}

impl Access {
    /// Applies a row; others than those of this struct are none of its concern.
    pub(super) fn put(&mut self, row: AnyRow) {
        match row {
            AnyRow::User(row) => drop(self.users.insert(row.name.clone(), row)),
            AnyRow::ApiKey(row) => drop(self.keys.insert(row.id.clone(), row)),
            AnyRow::SigningKey(row) => drop(self.signing.insert(row.id.clone(), row)),
            AnyRow::RevokedToken(row) => drop(self.revoked.insert(row.id.clone(), row)),
            _ => {}
        }
    }

    /// Applies the end of a row.
    pub(super) fn remove(&mut self, kind: &str, name: &str) {
        match kind {
            "user" => drop(self.users.remove(name)),
            "api-key" => drop(self.keys.remove(name)),
            "signing-key" => drop(self.signing.remove(name)),
            _ => drop(self.revoked.remove(name)),
        }
    }

    /// The user of that name.
    pub(crate) fn user(&self, name: &str) -> Option<&UserRow> {
        self.users.get(name)
    }

    /// The key of that id.
    pub(crate) fn key(&self, id: &str) -> Option<&ApiKeyRow> {
        self.keys.get(id)
    }
}

impl UserRow {
    fn show(&self) -> User {
        User {
            name: self.name.clone(),
            role: self.role,
            projects: self.projects.clone(),
            denied: self.denied,
            created_ms: self.created_ms,
        }
    }

    /// Whether this one can let others in.
    fn is_full_admin(&self) -> bool {
        self.role == Role::Admin && self.projects.is_none() && !self.denied
    }
}

impl ApiKeyRow {
    fn show(&self) -> ApiKey {
        ApiKey {
            id: self.id.clone(),
            user: self.user.clone(),
            note: self.note.clone(),
            created_ms: self.created_ms,
            expires_ms: self.expires_ms,
            revoked_ms: self.revoked_ms,
        }
    }

    fn is_over(&self, now_ms: u64) -> bool {
        self.revoked_ms.is_some() || self.expires_ms.is_some_and(|end| end <= now_ms)
    }
}

impl ClusterState {
    /// Who may do what.
    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// All users, by name.
    pub(crate) fn users(&self) -> Vec<User> {
        self.access.users.values().map(UserRow::show).collect()
    }

    /// All keys, without their secrets; or those of one user.
    pub(crate) fn api_keys(&self, user: Option<&str>) -> Vec<ApiKey> {
        let keys = self.access.keys.values();
        let of = keys.filter(|row| user.is_none_or(|user| row.user == user));
        of.map(ApiKeyRow::show).collect()
    }

    /// The user of that name.
    pub(crate) fn show_user(&self, name: &str) -> Result<User, AccessRefusal> {
        Ok(self.require_user(name)?.show())
    }

    fn require_user(&self, name: &str) -> Result<&UserRow, AccessRefusal> {
        let user = || name.chars().take(80).collect();
        let row = self.access.users.get(name);
        row.ok_or_else(|| AccessRefusal::NoUser { user: user() })
    }

    /// A new user.
    pub(crate) fn plan_user_create(
        &self,
        request: &CreateUser,
        now_ms: u64,
    ) -> Result<Plan<User>, Refusal> {
        check_name(&request.name)?;
        let projects = checked_projects(request.projects.as_deref())?;
        if self.access.users.contains_key(&request.name) {
            let user = request.name.clone();
            return Err(AccessRefusal::UserExists { user }.into());
        }
        if self.access.users.len() >= USERS_MAX {
            let (field, most) = ("users", USERS_MAX);
            return Err(InvalidRequest::TooMany { field, most }.into());
        }
        Ok(put_user(UserRow {
            name: request.name.clone(),
            role: request.role,
            projects,
            denied: false,
            created_ms: now_ms,
            tokens_since_s: now_ms / 1000,
        }))
    }

    /// Another role, or other projects.
    pub(crate) fn plan_user_role(
        &self,
        name: &str,
        request: &SetUserRole,
    ) -> Result<Plan<User>, Refusal> {
        let row = UserRow {
            role: request.role,
            projects: checked_projects(request.projects.as_deref())?,
            ..self.require_user(name)?.clone()
        };
        self.change_user(row)
    }

    /// Lets nothing in in a user's name, or lets it again. Tokens from before a denial stay out.
    pub(crate) fn plan_user_deny(
        &self,
        name: &str,
        denied: bool,
        now_ms: u64,
    ) -> Result<Plan<User>, Refusal> {
        let current = self.require_user(name)?;
        let tokens_since_s = match denied {
            true => now_ms / 1000 + 1,
            false => current.tokens_since_s,
        };
        self.change_user(UserRow {
            denied,
            tokens_since_s,
            ..current.clone()
        })
    }

    fn change_user(&self, row: UserRow) -> Result<Plan<User>, Refusal> {
        let current = self.require_user(&row.name)?;
        if *current == row {
            return Ok(Plan::nothing(row.show()));
        }
        if !row.is_full_admin() {
            self.refuse_last_admin(current)?;
        }
        let mut plan = put_user(row);
        plan.reads = self.other_users(&plan.answer.name);
        Ok(plan)
    }

    /// Ends a user and its keys.
    pub(crate) fn plan_user_delete(&self, name: &str) -> Result<Plan<()>, Refusal> {
        let current = self.require_user(name)?;
        self.refuse_last_admin(current)?;
        let keys = self.access.keys.values().filter(|key| key.user == name);
        let keys = keys.map(|key| api_key_key(&key.id));
        // The user first: an entry tells of the first few rows.
        let gone = std::iter::once(user_key(name)).chain(keys);
        let changes = gone.map(|key| Change::Delete { key }).collect();
        Ok(Plan {
            reads: self.other_users(name),
            changes,
            answer: (),
        })
    }

    /// Who must not change while nobody is left who can let others in: the admins.
    fn other_users(&self, name: &str) -> Vec<crate::meta::Key> {
        let admins = self.access.users.values();
        let admins = admins.filter(|user| user.is_full_admin() && user.name != name);
        admins.take(1).map(|user| user_key(&user.name)).collect()
    }

    fn refuse_last_admin(&self, current: &UserRow) -> Result<(), AccessRefusal> {
        let mut others = self.access.users.values();
        let is_other = |user: &&UserRow| user.name != current.name;
        let is_alone = !others.clone().any(|user| is_other(&user));
        if !current.is_full_admin()
            || is_alone
            || others.any(|user| is_other(&user) && user.is_full_admin())
        {
            return Ok(());
        }
        let user = current.name.clone();
        Err(AccessRefusal::LastAdmin { user })
    }

    /// A new key of a user, whose secret only its maker has seen. Those of the user that are over go.
    pub(crate) fn plan_key_create(
        &self,
        user: &str,
        request: &CreateKey,
        id: &str,
        hash: &HashRow,
        now_ms: u64,
    ) -> Result<Plan<ApiKey>, Refusal> {
        if let Some(note) = &request.note {
            check_text("note", note)?;
        }
        self.require_user(user)?;
        let (over, live): (Vec<&ApiKeyRow>, Vec<_>) = self
            .access
            .keys
            .values()
            .filter(|key| key.user == user)
            .partition(|key| key.is_over(now_ms));
        if live.len() >= KEYS_OF_USER_MAX {
            let (field, most) = ("keys", KEYS_OF_USER_MAX);
            return Err(InvalidRequest::TooMany { field, most }.into());
        }
        // The last few that are over stay, so that who still uses one is told why it is refused.
        let old = over.len().saturating_sub(KEYS_OF_USER_MAX);
        let mut changes: Vec<Change> = over[..old]
            .iter()
            .map(|key| Change::Delete {
                key: api_key_key(&key.id),
            })
            .collect();
        let ttl = request.ttl_seconds;
        let row = ApiKeyRow {
            id: id.to_owned(),
            user: user.to_owned(),
            note: request.note.clone(),
            created_ms: now_ms,
            expires_ms: ttl.map(|ttl| now_ms.saturating_add(ttl.saturating_mul(1000))),
            revoked_ms: None,
            hash: hash.clone(),
        };
        let answer = row.show();
        changes.push(AnyRow::ApiKey(row).put());
        Ok(Plan {
            reads: vec![user_key(user)],
            changes,
            answer,
        })
    }

    /// Lets a key in no more.
    pub(crate) fn plan_key_revoke(&self, id: &str, now_ms: u64) -> Result<Plan<ApiKey>, Refusal> {
        let Some(current) = self.access.keys.get(id) else {
            let id = id.chars().take(80).collect();
            return Err(AccessRefusal::NoKey { id }.into());
        };
        if current.revoked_ms.is_some() {
            return Ok(Plan::nothing(current.show()));
        }
        let row = ApiKeyRow {
            revoked_ms: Some(now_ms),
            ..current.clone()
        };
        let answer = row.show();
        Ok(Plan {
            reads: Vec::new(),
            changes: vec![AnyRow::ApiKey(row).put()],
            answer,
        })
    }
}

fn put_user(row: UserRow) -> Plan<User> {
    let answer = row.show();
    Plan {
        reads: Vec::new(),
        changes: vec![AnyRow::User(row).put()],
        answer,
    }
}

/// In order, none twice.
fn checked_projects(projects: Option<&[String]>) -> Result<Option<Vec<String>>, InvalidRequest> {
    let Some(projects) = projects else {
        return Ok(None);
    };
    if projects.len() > PROJECTS_OF_USER_MAX {
        let (field, most) = ("projects", PROJECTS_OF_USER_MAX);
        return Err(InvalidRequest::TooMany { field, most });
    }
    projects.iter().try_for_each(|name| check_name(name))?;
    let mut projects = projects.to_vec();
    projects.sort();
    projects.dedup();
    Ok(Some(projects))
}

#[cfg(test)]
mod tests;
