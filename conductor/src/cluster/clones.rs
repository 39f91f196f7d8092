//! What the API asks about clones, one method a request, and the end of origins that nobody needs.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::{CloneSnapshot, FlattenVolume, ReportFlatten, Volume};

use super::{Cluster, ClusterError, View};
use crate::meta::MetaStore;
use crate::refusal::{Refusal, VolumeRefusal};

impl<M: MetaStore> Cluster<M> {
    /// Makes a volume with what a snapshot shows and waits for its stores, up to `wait`; gives it as it
    /// then stands.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn clone_snapshot(
        self: &Arc<Self>,
        volume: String,
        snapshot: String,
        request: CloneSnapshot,
        wait: Duration,
    ) -> Result<Volume, ClusterError> {
        let name = request.name.clone();
        let shard_bytes = self.shard_bytes;
        let plan = move |view: &View| {
            let state = &view.state;
            state.plan_clone(&view.live, &volume, &snapshot, &request, shard_bytes)
        };
        let id = self.transact_once(plan).await?;
        self.created(id, name, wait).await
    }

    /// Has a volume's owner copy what it shows of its origin, or stop that, and waits up to `wait` until
    /// that is done; gives it as it then stands.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn flatten(
        self: &Arc<Self>,
        name: String,
        request: FlattenVolume,
        wait: Duration,
    ) -> Result<Volume, ClusterError> {
        let not_found = VolumeRefusal::NotFound { name: name.clone() };
        let plan = move |view: &View| view.state.plan_flatten(&name, request);
        let id = self.transact_once(plan).await?;
        self.bring_on_layers(id).await?;
        let is_over = |view: &View| {
            let volume = view.state.volume(id);
            let goes_on = volume.is_some_and(|volume| volume.flattening.is_some());
            (!goes_on).then_some(())
        };
        self.wait_for(wait, is_over).await;
        let volume = self.read(|view| view.state.volume_with_shards(id));
        volume.ok_or_else(|| Refusal::from(not_found).into())
    }

    /// Takes over how far an owner has come with that.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn report_flatten(
        self: &Arc<Self>,
        volume: String,
        request: ReportFlatten,
    ) -> Result<(), ClusterError> {
        let plan = move |view: &View| view.state.plan_report_flatten(&volume, &request);
        self.transact(plan).await.map(|_| ())
    }

    /// Ends the layers of snapshots that were deleted and have no clones any more.
    pub(super) async fn reap(self: &Arc<Self>) -> Result<(), ClusterError> {
        while self.read(|view| view.state.has_unused()) {
            let (reaped, _) = self.transact(|view| Ok(view.state.plan_reaping())).await?;
            if reaped.is_empty() {
                break;
            }
        }
        Ok(())
    }
}
