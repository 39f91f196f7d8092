//! Disks are evened out, if nobody has asked that they are not.

use std::sync::Arc;

use ashlar_proto::api::Rebalance;

use super::{Cluster, ClusterError, View};
use crate::meta::MetaStore;
use crate::state::Outlook;

impl<M: MetaStore> Cluster<M> {
    /// Begins moves, as far as is admitted at a time; tells whether some wait for what no revision
    /// tells of.
    pub(super) async fn rebalance(
        self: &Arc<Self>,
        outlook: Outlook,
    ) -> Result<bool, ClusterError> {
        let plan = move |view: &View| Ok(view.state.plan_rebalance(&view.live, &outlook));
        let (rebalancing, _) = self.transact(plan).await?;
        for next in &rebalancing.begun {
            tracing::info!(
                volume = %next.at.0,
                shard = %next.at.1,
                from = %next.from.1,
                from_permille = next.why.from.permille(),
                to = %next.to.1,
                to_permille = next.why.to.permille(),
                "a replica moves from a fuller disk to an emptier one"
            );
        }
        if rebalancing.called_off > 0 {
            tracing::info!(
                moves = rebalancing.called_off,
                "moves between disks are called off: lost replicas come first"
            );
        }
        Ok(rebalancing.is_waiting)
    }

    /// Moves begin from now on, or none do.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn pause_rebalance(
        self: &Arc<Self>,
        paused: bool,
    ) -> Result<Rebalance, ClusterError> {
        let plan = move |view: &View| Ok(view.state.plan_pause(paused));
        self.transact_once(plan).await?;
        self.heal().await?;
        Ok(self.read(|view| view.state.show_rebalance(&view.live)))
    }
}
