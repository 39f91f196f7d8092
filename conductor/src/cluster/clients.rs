//! Clients that may attach no volume: denied, and allowed again.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::{AllowClient, ClientDenied, DeniedClient, DenyClient};

use super::{Cluster, ClusterError, View};
use crate::meta::MetaStore;

impl<M: MetaStore> Cluster<M> {
    /// Denies a client, takes its volumes from it, and waits up to `wait` until the replicas of all
    /// these refuse it.
    pub(crate) async fn deny(
        self: &Arc<Self>,
        request: DenyClient,
        wait: Duration,
    ) -> Result<ClientDenied, ClusterError> {
        let denied = DeniedClient {
            client: request.client.clone(),
            reason: request.reason.clone(),
        };
        let plan = move |view: &View| view.state.plan_deny(&request);
        let volumes = self.transact_once(plan).await?;
        if !volumes.is_empty() {
            tracing::warn!(
                client = denied.client,
                volumes = volumes.len(),
                "a client is denied: the volumes that it has are taken from it"
            );
        }
        let taken = self.read(|view| view.state.names_of(&volumes));
        self.heal().await?;
        let unfenced = self.fenced(wait).await;
        Ok(ClientDenied {
            denied,
            taken,
            unfenced,
        })
    }

    /// Waits up to `wait` until the replicas of all volumes that were taken from somebody refuse that one; gives
    /// those whose replicas may not yet. Those that an earlier call took are as unsafe as those of this one.
    pub(super) async fn fenced(&self, wait: Duration) -> Vec<String> {
        let fenced = |view: &View| view.state.unfenced().is_empty().then_some(());
        self.wait_for(wait, fenced).await;
        self.read(|view| view.state.unfenced())
    }

    /// Lets a client attach again.
    pub(crate) async fn allow(self: &Arc<Self>, request: AllowClient) -> Result<(), ClusterError> {
        let plan = move |view: &View| view.state.plan_allow(&request);
        self.transact_once(plan).await
    }
}
