//! Volumes are given to nodes, and taken from them.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::{PublishVolume, UnpublishVolume, Volume};
use ashlar_proto::{PublicationId, VolumeId};

use super::{Cluster, ClusterError, View};
use crate::meta::MetaStore;
use crate::refusal::{Refusal, VolumeRefusal};

/// How long a node's front end may take to let go by itself of a volume that it is to lose: it does some
/// moments after the node's last use of it. After that it is fenced.
const PATIENCE: Duration = Duration::from_secs(1);

impl<M: MetaStore> Cluster<M> {
    /// Gives a volume to a node, under this id unless it has it already; gives the volume as it then stands.
    pub(crate) async fn publish(
        self: &Arc<Self>,
        name: String,
        request: PublishVolume,
        id: PublicationId,
    ) -> Result<Volume, ClusterError> {
        let of = name.clone();
        let plan = move |view: &View| view.state.plan_publish(&of, &request, id);
        let volume = self.transact_once(plan).await?;
        self.published(name, volume)
    }

    /// Takes a volume from a node; gives the volume as it then stands. Whoever had it attached there changes
    /// nothing of it from then on that a later owner has not taken over.
    pub(crate) async fn unpublish(
        self: &Arc<Self>,
        name: String,
        request: UnpublishVolume,
    ) -> Result<Volume, ClusterError> {
        let let_go = |view: &View| (!view.state.is_used_there(&name, &request)).then_some(());
        self.wait_for(PATIENCE, let_go).await;
        let of = name.clone();
        let plan = move |view: &View| view.state.plan_unpublish(&of, &request);
        let volume = self.transact_once(plan).await?;
        self.published(name, volume)
    }

    fn published(&self, name: String, id: VolumeId) -> Result<Volume, ClusterError> {
        let volume = self.read(|view| view.state.volume_with_shards(id));
        volume.ok_or_else(|| Refusal::from(VolumeRefusal::NotFound { name }).into())
    }
}
