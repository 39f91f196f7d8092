//! Plans for labels of volumes and disks, and the labels that a place has.
//!
//! Invariant: a place has the labels of its node and of its disk; of two of one name the disk's counts.

use std::borrow::Cow;
use std::collections::BTreeMap;

use ashlar_proto::api::{LabelDisk, LabelVolume, Replica, SetLabels};
use ashlar_proto::{DiskId, VolumeId};

use super::{ClusterState, Plan};
use crate::refusal::{Refusal, check_labels};
use crate::row::{AnyRow, DiskRow, NodeRow, VolumeRow};

type Labels = BTreeMap<String, String>;

impl ClusterState {
    /// Changes some labels of a volume.
    pub(crate) fn plan_label(
        &self,
        name: &str,
        request: &LabelVolume,
    ) -> Result<Plan<VolumeId>, Refusal> {
        let current = self.require(name)?;
        let mut labels = current.labels.clone();
        for label in &request.remove {
            labels.remove(label);
        }
        labels.extend(request.set.clone());
        labelled(current, labels)
    }

    /// Gives a volume other labels.
    pub(crate) fn plan_set_labels(
        &self,
        name: &str,
        request: &SetLabels,
    ) -> Result<Plan<VolumeId>, Refusal> {
        labelled(self.require(name)?, request.labels.clone())
    }

    /// Changes some labels of a disk. Replicas that lie there stay: labels count where a place is chosen.
    pub(crate) fn plan_label_disk(
        &self,
        disk: DiskId,
        request: &LabelDisk,
    ) -> Result<Plan<DiskId>, Refusal> {
        let current = self.require_disk(disk)?;
        let mut labels = current.labels.clone();
        for label in &request.remove {
            labels.remove(label);
        }
        labels.extend(request.set.clone());
        check_labels(&labels)?;
        if labels == current.labels {
            return Ok(Plan::nothing(disk));
        }
        let row = DiskRow {
            labels,
            ..current.clone()
        };
        Ok(Plan {
            reads: Vec::new(),
            answer: disk,
            changes: vec![AnyRow::Disk(row).put()],
        })
    }

    /// The labels of the place that a replica has; none where nothing is known of it.
    pub(super) fn labels_at(&self, replica: &Replica) -> Cow<'_, Labels> {
        let node = self.nodes.get(&self.node_of(replica));
        match (node, self.disks.get(&replica.disk)) {
            (Some(node), disk) => labels_of_place(node, disk),
            (None, Some(disk)) => Cow::Borrowed(&disk.labels),
            (None, None) => Cow::Owned(Labels::new()),
        }
    }
}

/// The labels of a node's disk.
pub(super) fn labels_of_place<'a>(node: &'a NodeRow, disk: Option<&DiskRow>) -> Cow<'a, Labels> {
    match disk.filter(|disk| !disk.labels.is_empty()) {
        None => Cow::Borrowed(&node.labels),
        Some(disk) => {
            let mut labels = node.labels.clone();
            labels.extend(disk.labels.clone());
            Cow::Owned(labels)
        }
    }
}

fn labelled(
    current: &VolumeRow,
    labels: BTreeMap<String, String>,
) -> Result<Plan<VolumeId>, Refusal> {
    check_labels(&labels)?;
    if labels == current.labels {
        return Ok(Plan::nothing(current.id));
    }
    let row = VolumeRow {
        labels,
        ..current.clone()
    };
    Ok(Plan {
        reads: Vec::new(),
        answer: row.id,
        changes: vec![AnyRow::Volume(row).put()],
    })
}
