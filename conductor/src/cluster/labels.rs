//! Labels of volumes.

use std::sync::Arc;

use ashlar_proto::VolumeId;
use ashlar_proto::api::{LabelVolume, SetLabels, Volume};

use super::{Cluster, ClusterError};
use crate::meta::MetaStore;
use crate::refusal::{Refusal, VolumeRefusal};
use crate::state::{ClusterState, Plan};

impl<M: MetaStore> Cluster<M> {
    /// Changes some labels of a volume; gives it as it then stands.
    pub(crate) async fn label(
        self: &Arc<Self>,
        name: String,
        request: LabelVolume,
    ) -> Result<Volume, ClusterError> {
        let of = name.clone();
        self.relabel(name, move |state| state.plan_label(&of, &request))
            .await
    }

    /// Gives a volume other labels; gives it as it then stands.
    pub(crate) async fn set_labels(
        self: &Arc<Self>,
        name: String,
        request: SetLabels,
    ) -> Result<Volume, ClusterError> {
        let of = name.clone();
        self.relabel(name, move |state| state.plan_set_labels(&of, &request))
            .await
    }

    async fn relabel(
        self: &Arc<Self>,
        name: String,
        plan: impl Fn(&ClusterState) -> Result<Plan<VolumeId>, Refusal> + Send + 'static,
    ) -> Result<Volume, ClusterError> {
        let id = self.transact_once(move |view| plan(&view.state)).await?;
        let volume = self.read(|view| view.state.volume_with_shards(id));
        volume.ok_or_else(|| Refusal::from(VolumeRefusal::NotFound { name }).into())
    }
}
