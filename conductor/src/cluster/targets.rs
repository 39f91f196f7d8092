//! iSCSI targets, and the persistent reservations of volumes: one method a request.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::IscsiName;
use ashlar_proto::api::{
    DiscoveryChap, ReplaceReservations, Revision, ServedTargets, Target, VolumeReservations,
};

use super::{Cluster, ClusterError, View};
use crate::meta::MetaStore;
use crate::refusal::Refusal;
use crate::state::{ClusterState, Plan};

impl<M: MetaStore> Cluster<M> {
    /// Changes a target, or makes one; gives it as it then stands.
    pub(crate) async fn change_target(
        self: &Arc<Self>,
        plan: impl Fn(&ClusterState) -> Result<Plan<IscsiName>, Refusal> + Send + 'static,
    ) -> Result<Target, ClusterError> {
        let plan = move |view: &View| plan(&view.state);
        let name = self.transact_once(plan).await?;
        let target = self.read(|view| view.state.target(&name));
        target.map_err(|refusal| Refusal::from(refusal).into())
    }

    /// Ends a target.
    pub(crate) async fn delete_target(
        self: &Arc<Self>,
        name: IscsiName,
    ) -> Result<(), ClusterError> {
        let plan = move |view: &View| view.state.plan_target_delete(&name);
        self.transact_once(plan).await
    }

    /// Changes what discovery asks for; gives it as it then stands, without the secrets.
    pub(crate) async fn change_discovery(
        self: &Arc<Self>,
        plan: impl Fn(&ClusterState) -> Result<Plan<()>, Refusal> + Send + 'static,
    ) -> Result<DiscoveryChap, ClusterError> {
        let plan = move |view: &View| plan(&view.state);
        self.transact_once(plan).await?;
        Ok(self.read(|view| view.state.discovery_chap()))
    }

    /// All targets with their secrets, once they have changed since `after` or the wait is over.
    pub(crate) async fn served_targets(&self, after: Revision, wait: Duration) -> ServedTargets {
        let changed = |view: &View| (view.state.targets_changed() != after).then_some(());
        self.wait_for(wait, changed).await;
        self.read(|view| view.state.served_targets())
    }

    /// Replaces the persistent reservations of a volume, unless they have changed since they were
    /// seen; gives them with their version. They are durable on return.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn replace_reservations(
        self: &Arc<Self>,
        volume: String,
        request: ReplaceReservations,
    ) -> Result<VolumeReservations, ClusterError> {
        let plan = move |view: &View| view.state.plan_reservations(&volume, &request);
        self.transact_once(plan).await
    }
}
