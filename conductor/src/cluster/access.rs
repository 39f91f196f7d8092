//! Users, keys, tokens, projects and keys of volumes: one method a request.

use std::sync::Arc;

use ashlar_proto::api::{
    AuditChange, CreateKey, CreateToken, KeyCreated, Project, Secret, TokenCreated, User,
    VolumeKeySet,
};
use serde_json::json;

use super::{Cluster, ClusterError, View};
use crate::access::caller::{Caller, Means};
use crate::access::gate::{Known, now_ms};
use crate::access::keys::{self, NoKey};
use crate::access::routes::Need;
use crate::access::tokens::{self, Claims};
use crate::audited::Asked;
use crate::meta::MetaStore;
use crate::refusal::{AccessRefusal, Refusal};
use crate::row::Hidden;
use crate::state::{ClusterState, Plan, TOKEN_SECONDS_MAX};

impl<M: MetaStore> Known for Cluster<M> {
    fn look<T>(&self, look: impl FnOnce(&ClusterState) -> T) -> T {
        self.read(|view| look(&view.state))
    }
}

/// A key or a token was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotMade {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Key(#[from] NoKey),
}

impl From<AccessRefusal> for NotMade {
    fn from(refusal: AccessRefusal) -> Self {
        Self::Cluster(Refusal::from(refusal).into())
    }
}

/// What is found again by its name.
trait Named: Sized {
    fn name(&self) -> &str;

    /// It as it stands.
    fn find(state: &ClusterState, name: &str) -> Result<Self, AccessRefusal>;
}

impl Named for User {
    fn name(&self) -> &str {
        &self.name
    }

    fn find(state: &ClusterState, name: &str) -> Result<Self, AccessRefusal> {
        state.show_user(name)
    }
}

impl Named for Project {
    fn name(&self) -> &str {
        &self.name
    }

    fn find(state: &ClusterState, name: &str) -> Result<Self, AccessRefusal> {
        state.show_project(name)
    }
}

/// Has the entry of the request tell which token is made, so that it can be revoked by who has not got it.
fn tell_of_token(claims: &Claims) {
    let Some(asked) = Asked::current() else {
        return;
    };
    asked.tell(AuditChange {
        row: format!("token/{}", claims.jti),
        before: None,
        after: Some(json!({
            "user": claims.sub,
            "made_with": claims.key,
            "expires_ms": claims.exp.saturating_mul(1000),
        })),
    });
}

impl<M: MetaStore> Cluster<M> {
    /// Changes who may do what, by a plan that needs the state alone.
    pub(crate) async fn change_access<T: Send + 'static>(
        self: &Arc<Self>,
        plan: impl Fn(&ClusterState) -> Result<Plan<T>, Refusal> + Send + 'static,
    ) -> Result<T, ClusterError> {
        let plan = move |view: &View| plan(&view.state);
        Ok(self.transact(plan).await?.0)
    }

    /// The same once for a request, by a plan whose answer is a user, or a project: gives that one as it stands
    /// then, hence not what an earlier request of the same key was told.
    async fn change_named<T: Named + Send + 'static>(
        self: &Arc<Self>,
        plan: impl Fn(&ClusterState) -> Result<Plan<T>, Refusal> + Send + 'static,
    ) -> Result<T, ClusterError> {
        let plan = move |view: &View| {
            let planned = plan(&view.state)?;
            Ok(Plan {
                reads: planned.reads,
                changes: planned.changes,
                answer: planned.answer.name().to_owned(),
            })
        };
        let name = self.transact_once(plan).await?;
        let found = self.read(|view| T::find(&view.state, &name));
        Ok(found.map_err(Refusal::from)?)
    }

    /// Changes a user once for a request.
    pub(crate) async fn change_user(
        self: &Arc<Self>,
        plan: impl Fn(&ClusterState) -> Result<Plan<User>, Refusal> + Send + 'static,
    ) -> Result<User, ClusterError> {
        self.change_named(plan).await
    }

    /// Changes a project once for a request.
    pub(crate) async fn change_project(
        self: &Arc<Self>,
        plan: impl Fn(&ClusterState) -> Result<Plan<Project>, Refusal> + Send + 'static,
    ) -> Result<Project, ClusterError> {
        self.change_named(plan).await
    }

    /// Ends a user or a project once for a request.
    pub(crate) async fn end_once(
        self: &Arc<Self>,
        plan: impl Fn(&ClusterState) -> Result<Plan<()>, Refusal> + Send + 'static,
    ) -> Result<(), ClusterError> {
        self.transact_once(move |view: &View| plan(&view.state))
            .await
    }

    /// Makes a key of a user: the answer alone has its secret.
    pub(crate) async fn create_key(
        self: &Arc<Self>,
        user: String,
        request: CreateKey,
    ) -> Result<KeyCreated, NotMade> {
        let made = tokio::task::spawn_blocking(keys::generate).await;
        let fresh = made.map_err(|_| ClusterError::Stopping)??;
        let (id, hash, now) = (fresh.id, fresh.hash, now_ms());
        let key = self
            .change_access(move |state| state.plan_key_create(&user, &request, &id, &hash, now));
        Ok(KeyCreated {
            key: key.await?,
            secret: fresh.secret,
        })
    }

    /// Signs a token for who asks, or for whom an admin names.
    pub(crate) async fn create_token(
        self: &Arc<Self>,
        caller: &Caller,
        request: &CreateToken,
    ) -> Result<TokenCreated, NotMade> {
        let ttl = request.ttl_seconds;
        if !(1..=TOKEN_SECONDS_MAX).contains(&ttl) {
            let (given, most) = (ttl, TOKEN_SECONDS_MAX);
            return Err(AccessRefusal::TokenTime { given, most }.into());
        }
        if matches!(caller.means, Means::Token(_)) {
            return Err(AccessRefusal::TokenByToken.into());
        }
        let is_user = matches!(caller.means, Means::Key(_));
        let own = is_user.then(|| caller.name.clone());
        let user = match &request.user {
            Some(user) if own.as_ref() != Some(user) => {
                caller.require(Need::Administer)?;
                caller.require_whole()?;
                user.clone()
            }
            _ => own.ok_or(AccessRefusal::TokenOfNobody)?,
        };
        if self.read(|view| view.state.access().user(&user).is_none()) {
            return Err(AccessRefusal::NoUser { user }.into());
        }
        let now = now_ms();
        let claims = self.claims(caller, &user, now / 1000, ttl)?;
        tell_of_token(&claims);
        let fresh = tokens::fresh_key(now)?;
        let key = self.change_access(move |state| Ok(state.plan_sign(&fresh, now)));
        let token = tokens::sign(&key.await?, &claims)?;
        Ok(TokenCreated {
            token: Secret::new(token),
            id: claims.jti,
            user,
            expires_ms: claims.exp.saturating_mul(1000),
        })
    }

    /// What a token of a user is to say that a caller makes: it ends with the key by which that one is
    /// known.
    fn claims(
        &self,
        caller: &Caller,
        user: &str,
        now_s: u64,
        ttl_s: u64,
    ) -> Result<Claims, NotMade> {
        let (cluster, made_by) = self.read(|view| {
            let made_by = match &caller.means {
                Means::Key(id) => Some(view.state.access().key(id).cloned()),
                _ => None,
            };
            (view.state.cluster(), made_by)
        });
        let made_by = match made_by {
            // Gone since it was looked at.
            Some(None) => return Err(AccessRefusal::Revoked.into()),
            Some(key) => key,
            None => None,
        };
        Ok(Claims::new(cluster, user, made_by.as_ref(), now_s, ttl_s)?)
    }

    /// Has a new key sign tokens; with `forget`, those of older ones are good no more.
    pub(crate) async fn rotate_signing_key(self: &Arc<Self>, forget: bool) -> Result<(), NotMade> {
        let fresh = tokens::fresh_key(now_ms())?;
        let rotated = self.change_access(move |state| Ok(state.plan_rotate(&fresh, forget)));
        rotated.await?;
        Ok(())
    }

    /// Gives a volume a key: the answer alone has it.
    pub(crate) async fn set_volume_key(
        self: &Arc<Self>,
        volume: String,
    ) -> Result<VolumeKeySet, NotMade> {
        let (key, hash) = keys::volume_key()?;
        let name = volume.clone();
        let set = self.change_access(move |state| state.plan_volume_key(&name, Some(hash.clone())));
        set.await?;
        Ok(VolumeKeySet { volume, key })
    }

    /// Refuses who does not give the key of a volume that has one.
    pub(crate) fn check_volume_key(
        &self,
        volume: &str,
        given: Option<&str>,
    ) -> Result<(), AccessRefusal> {
        let given: Option<Hidden> = given.map(keys::volume_key_hash);
        self.read(|view| view.state.check_volume_key(volume, given.as_ref()))
    }
}
