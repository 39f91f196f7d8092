//! Join tokens, and who is let in no more.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::{
    AllowIdentity, CreateJoinToken, DeniedIdentities, DenyIdentity, IdentityDenied, JoinToken,
    NodeRole, Revision,
};

use super::{Cluster, ClusterError, View};
use crate::meta::MetaStore;
use crate::state::TokenUse;

impl<M: MetaStore> Cluster<M> {
    /// Keeps a token that was made.
    pub(crate) async fn create_join_token(
        self: &Arc<Self>,
        request: CreateJoinToken,
        id: String,
        hash: String,
    ) -> Result<JoinToken, ClusterError> {
        let now_ms = self.runtime.wall_ms();
        let plan = move |view: &View| view.state.plan_create_token(&request, &id, &hash, now_ms);
        Ok(self.transact(plan).await?.0)
    }

    /// A token is good no more.
    pub(crate) async fn revoke_join_token(
        self: &Arc<Self>,
        id: String,
    ) -> Result<(), ClusterError> {
        let plan = move |view: &View| view.state.plan_revoke_token(&id);
        self.transact(plan).await?;
        Ok(())
    }

    /// Whether there is a token of that secret, good or not.
    pub(crate) fn knows_join_token(&self, shown: &TokenUse) -> bool {
        self.read(|view| view.state.knows_join_token(shown))
    }

    /// What a token would make of who shows it; uses nothing up.
    pub(crate) fn look_at_join_token(&self, shown: &TokenUse) -> Result<NodeRole, ClusterError> {
        let now_ms = self.runtime.wall_ms();
        let plan = self.read(|view| view.state.plan_use_token(shown, now_ms));
        Ok(plan?.answer)
    }

    /// A node uses a token.
    pub(crate) async fn use_join_token(
        self: &Arc<Self>,
        shown: TokenUse,
    ) -> Result<NodeRole, ClusterError> {
        let now_ms = self.runtime.wall_ms();
        let plan = move |view: &View| view.state.plan_use_token(&shown, now_ms);
        Ok(self.transact(plan).await?.0)
    }

    /// Who is denied; where that is no news to who knows it as of `after`, once it is, or after `wait`.
    pub(crate) async fn denied_identities(
        &self,
        after: Revision,
        wait: Duration,
    ) -> DeniedIdentities {
        let news = |view: &View| {
            let list = view.state.denied_identities();
            view.state.is_newer(list.revision, after).then_some(list)
        };
        match self.wait_for(wait, news).await {
            Some(list) => list,
            None => self.read(|view| view.state.denied_identities()),
        }
    }

    /// Lets a node or a certificate in no more, and takes its volumes from it. `on_denied` is called once that
    /// holds; then it waits up to `wait` until the replicas of these refuse it.
    pub(crate) async fn deny_identity(
        self: &Arc<Self>,
        request: DenyIdentity,
        wait: Duration,
        on_denied: impl FnOnce(),
    ) -> Result<IdentityDenied, ClusterError> {
        let plan = move |view: &View| view.state.plan_deny_identity(&request);
        let (volumes, _) = self.transact(plan).await?;
        on_denied();
        let taken = self.read(|view| view.state.names_of(&volumes));
        self.heal().await?;
        let unfenced = self.fenced(wait).await;
        Ok(IdentityDenied { taken, unfenced })
    }

    /// Lets it in again.
    pub(crate) async fn allow_identity(
        self: &Arc<Self>,
        request: AllowIdentity,
    ) -> Result<(), ClusterError> {
        let plan = move |view: &View| view.state.plan_allow_identity(&request.subject);
        self.transact(plan).await?;
        Ok(())
    }
}
