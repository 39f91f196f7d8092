//! What is known of nodes only as long as the conductor runs: heartbeats, last reports, progress.
//!
//! Invariant: nothing here is a promise to anybody; after a restart the heartbeats bring it back.

use std::collections::BTreeMap;

use ashlar_proto::api::{DiskReport, Revision};
use ashlar_proto::{DiskId, NodeId};

use crate::membership::Membership;
use crate::row::DiskRow;

/// The volatile side of the cluster.
#[derive(Debug)]
pub(crate) struct Live {
    /// Who was heard when.
    pub(crate) membership: Membership,
    /// The revision of assignments that each node has carried out.
    pub(crate) applied: BTreeMap<NodeId, Revision>,
    /// The last report of each disk.
    pub(crate) reports: BTreeMap<DiskId, DiskReport>,
}

impl Live {
    /// Nothing known yet.
    pub(crate) fn new(membership: Membership) -> Self {
        Self {
            membership,
            applied: BTreeMap::new(),
            reports: BTreeMap::new(),
        }
    }

    /// The last report of a disk; the stored one where none came since the start, and where the
    /// stored one says that its node lost it.
    pub(crate) fn report<'a>(&'a self, row: &'a DiskRow) -> &'a DiskReport {
        if row.report.failed.is_some() {
            return &row.report;
        }
        self.reports.get(&row.report.id).unwrap_or(&row.report)
    }

    /// The revision that a node has carried out.
    pub(crate) fn applied(&self, node: NodeId) -> Revision {
        self.applied.get(&node).copied().unwrap_or_default()
    }
}
