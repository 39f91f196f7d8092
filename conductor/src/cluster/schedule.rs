//! What people ask of nodes and disks: to take no replicas, to lose theirs, to go.

use std::sync::Arc;

use ashlar_proto::DiskId;
use ashlar_proto::api::{Disk, LabelDisk, Node, Schedulable};

use super::{Cluster, ClusterError};
use crate::meta::MetaStore;
use crate::refusal::{DiskRefusal, NodeRefusal, Refusal};

impl<M: MetaStore> Cluster<M> {
    /// A node, by name or id, takes replicas from now on, or none, or loses those that it has.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn schedule_node(
        self: &Arc<Self>,
        node: String,
        schedulable: Schedulable,
    ) -> Result<Node, ClusterError> {
        let plan = move |view: &super::View| view.state.plan_schedule_node(&node, schedulable);
        let id = self.transact_once(plan).await?;
        self.heal().await?;
        let now = self.now();
        let node = self.read(|view| view.state.node(id, &view.live, now));
        node.ok_or_else(|| Refusal::from(NodeRefusal::NotFound { node: id }).into())
    }

    /// The same for one disk.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn schedule_disk(
        self: &Arc<Self>,
        disk: DiskId,
        schedulable: Schedulable,
    ) -> Result<Disk, ClusterError> {
        let plan = move |view: &super::View| view.state.plan_schedule_disk(disk, schedulable);
        self.transact_once(plan).await?;
        self.heal().await?;
        let found = self.read(|view| view.state.disk(disk, &view.live));
        found.ok_or_else(|| Refusal::from(DiskRefusal::NotFound { disk }).into())
    }

    /// A disk that ails is used all the same, until it does so again.
    pub(crate) async fn clear_disk(self: &Arc<Self>, disk: DiskId) -> Result<Disk, ClusterError> {
        let plan = move |view: &super::View| view.state.plan_clear_disk(disk);
        self.transact_once(plan).await?;
        self.heal().await?;
        let found = self.read(|view| view.state.disk(disk, &view.live));
        found.ok_or_else(|| Refusal::from(DiskRefusal::NotFound { disk }).into())
    }

    /// Changes some labels of a disk; what waits for such a place gets it.
    pub(crate) async fn label_disk(
        self: &Arc<Self>,
        disk: DiskId,
        request: LabelDisk,
    ) -> Result<Disk, ClusterError> {
        let plan = move |view: &super::View| view.state.plan_label_disk(disk, &request);
        self.transact_once(plan).await?;
        self.heal().await?;
        let found = self.read(|view| view.state.disk(disk, &view.live));
        found.ok_or_else(|| Refusal::from(DiskRefusal::NotFound { disk }).into())
    }

    /// Forgets a node and its disks.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn remove_node(self: &Arc<Self>, node: String) -> Result<(), ClusterError> {
        let plan = move |view: &super::View| view.state.plan_remove_node(&node);
        self.transact_once(plan).await
    }

    /// Forgets a disk.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn remove_disk(self: &Arc<Self>, disk: DiskId) -> Result<(), ClusterError> {
        let plan = move |view: &super::View| view.state.plan_remove_disk(disk);
        self.transact_once(plan).await
    }
}
