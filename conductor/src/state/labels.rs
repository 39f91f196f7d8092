//! Plans for labels of volumes.

use std::collections::BTreeMap;

use ashlar_proto::VolumeId;
use ashlar_proto::api::{LabelVolume, SetLabels};

use super::{ClusterState, Plan};
use crate::refusal::{Refusal, check_labels};
use crate::row::{AnyRow, VolumeRow};

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
