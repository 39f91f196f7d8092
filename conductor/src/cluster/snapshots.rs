//! What the API asks about snapshots, one method a request.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::VolumeId;
use ashlar_proto::api::{
    CreateSnapshot, ReportLayers, RollbackVolume, Snapshot, SnapshotMap, SnapshotState, Volume,
};
use ashlar_proto::limits::HOLD_MAX;

use super::{Cluster, ClusterError, View};
use crate::meta::MetaStore;
use crate::refusal::{Refusal, SnapshotRefusal, VolumeRefusal};

impl<M: MetaStore> Cluster<M> {
    /// Makes a snapshot, asked for at `now_ms` since 1970-01-01 UTC, and waits up to `wait` until it
    /// is ready; gives it as it then stands.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn create_snapshot(
        self: &Arc<Self>,
        volume: String,
        request: CreateSnapshot,
        now_ms: u64,
        wait: Duration,
    ) -> Result<Snapshot, ClusterError> {
        let not_found = SnapshotRefusal::NotFound {
            volume: volume.clone(),
            snapshot: request.name.clone(),
        };
        let free = |view: &View| (!view.state.is_held(&volume)).then_some(());
        self.wait_for(HOLD_MAX, free).await;
        let plan = move |view: &View| view.state.plan_snapshot_create(&volume, &request, now_ms);
        let (volume, layer) = self.transact_once(plan).await?;
        self.bring_on_layers(volume).await?;
        let settled = |view: &View| {
            let snapshot = view.state.snapshot_at(volume, layer);
            let is_sealing = snapshot.is_some_and(|s| s.state == SnapshotState::Sealing);
            (!is_sealing).then_some(())
        };
        self.wait_for(wait, settled).await;
        let snapshot = self.read(|view| view.state.snapshot_at(volume, layer));
        snapshot.ok_or_else(|| Refusal::from(not_found).into())
    }

    /// Deletes a snapshot, and waits up to `wait` until all in-sync replicas go by that. With
    /// `when_unused` one that has clones is out of sight at once, and goes with the last of them.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn delete_snapshot(
        self: &Arc<Self>,
        volume: String,
        snapshot: String,
        when_unused: bool,
        wait: Duration,
    ) -> Result<(), ClusterError> {
        let plan = move |view: &View| {
            let state = &view.state;
            state.plan_snapshot_delete(&volume, &snapshot, when_unused)
        };
        let change = self.transact_once(plan).await?;
        self.bring_on_layers(change.volume).await?;
        let applied = |view: &View| view.state.is_applied(change).then_some(());
        self.wait_for(wait, applied).await;
        Ok(())
    }

    /// Makes a volume what it was at a snapshot, and waits up to `wait` until all in-sync replicas go
    /// by that; gives it, with its shards and layers, as it then stands.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn rollback(
        self: &Arc<Self>,
        volume: String,
        snapshot: String,
        request: RollbackVolume,
        wait: Duration,
    ) -> Result<Volume, ClusterError> {
        let name = volume.clone();
        let plan = move |view: &View| view.state.plan_rollback(&volume, &snapshot, request);
        let change = self.transact_once(plan).await?;
        self.bring_on_layers(change.volume).await?;
        let applied = |view: &View| view.state.is_applied(change).then_some(());
        self.wait_for(wait, applied).await;
        let volume = self.read(|view| view.state.volume_with_shards(change.volume));
        volume.ok_or_else(|| Refusal::from(VolumeRefusal::NotFound { name }).into())
    }

    /// Takes over how far an owner has brought the replicas of its volume.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn report_layers(
        self: &Arc<Self>,
        volume: String,
        request: ReportLayers,
    ) -> Result<(), ClusterError> {
        let plan = move |view: &View| view.state.plan_report_layers(&volume, &request);
        self.transact(plan).await.map(|_| ())
    }

    /// What a reader of a snapshot needs.
    ///
    /// # Errors
    /// [`ClusterError::Refused`].
    pub fn snapshot_map(&self, volume: &str, snapshot: &str) -> Result<SnapshotMap, ClusterError> {
        Ok(self.read(|view| view.state.snapshot_map(volume, snapshot))?)
    }

    /// A snapshot.
    ///
    /// # Errors
    /// [`ClusterError::Refused`].
    pub fn snapshot(&self, volume: &str, snapshot: &str) -> Result<Snapshot, ClusterError> {
        Ok(self.read(|view| view.state.snapshot(volume, snapshot))?)
    }

    /// The snapshots of a volume, by layer; those that are deleted only where asked for.
    ///
    /// # Errors
    /// [`ClusterError::Refused`].
    pub fn snapshots(&self, volume: &str, deleted: bool) -> Result<Vec<Snapshot>, ClusterError> {
        Ok(self.read(|view| view.state.snapshots_of(volume, deleted))?)
    }

    /// A volume that nobody has attached is given to a repair owner now, not at the next look.
    pub(super) async fn bring_on_layers(
        self: &Arc<Self>,
        volume: VolumeId,
    ) -> Result<(), ClusterError> {
        if self.read(|view| view.state.waits_for_owner(volume)) {
            self.heal().await?;
        }
        Ok(())
    }
}
