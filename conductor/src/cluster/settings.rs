//! Settings: shown, changed, and kept to by this conductor.

use std::sync::Arc;

use ashlar_proto::api::{
    ChangePoolSettings, ChangeSettings, CreateVolume, ExplainedPlacement, Settings,
};

use super::{Cluster, ClusterError, View};
use crate::meta::MetaStore;

impl<M: MetaStore> Cluster<M> {
    /// Every setting of the cluster, or every one that a volume has.
    ///
    /// # Errors
    /// [`ClusterError::Refused`]: there is no such volume.
    pub fn settings(&self, volume: Option<&str>) -> Result<Settings, ClusterError> {
        let shown = self.read(|view| view.state.show_settings(volume));
        Ok(shown?)
    }

    /// Changes settings, all of them or none; they hold on return, here, and soon wherever else they count.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn change_settings(
        self: &Arc<Self>,
        request: ChangeSettings,
    ) -> Result<Settings, ClusterError> {
        let volume = request.volume.clone();
        let plan = move |view: &View| view.state.plan_settings(&request);
        self.transact_once(plan).await?;
        self.keep_to_settings();
        self.settings(volume.as_deref())
    }

    /// Every setting that a pool can have.
    ///
    /// # Errors
    /// [`ClusterError::Refused`]: that is the name of no pool.
    pub fn pool_settings(&self, pool: &str) -> Result<Settings, ClusterError> {
        Ok(self.read(|view| view.state.show_pool(pool))?)
    }

    /// Changes settings of a pool, all of them or none; they hold on return, and soon wherever volumes of the
    /// pool are attached.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn change_pool_settings(
        self: &Arc<Self>,
        pool: String,
        request: ChangePoolSettings,
    ) -> Result<Settings, ClusterError> {
        let of = pool.clone();
        let plan = move |view: &View| view.state.plan_pool_settings(&of, &request);
        self.transact_once(plan).await?;
        self.pool_settings(&pool)
    }

    /// Where a volume would lie if it were created now; makes nothing.
    ///
    /// # Errors
    /// [`ClusterError::Refused`]: the request itself is wrong.
    pub fn explain(&self, request: &CreateVolume) -> Result<ExplainedPlacement, ClusterError> {
        let bytes = self.shard_bytes;
        let explained = self.read(|view| view.state.explain(&view.live, request, bytes));
        Ok(explained?)
    }

    /// Goes by the times that are set, or by those that this conductor was started with.
    pub(super) fn keep_to_settings(&self) {
        let timing = self.timing;
        self.change_live(|view| {
            let grace = view.state.time_set("rebuild-after");
            let silence = view.state.time_set("owner-silence");
            let live = &mut view.live;
            live.absence
                .set_grace(grace.unwrap_or(timing.rebuild_after));
            let silence = silence.unwrap_or(timing.owner_silence);
            live.evidence.set_owner_silence(silence);
        });
    }
}
