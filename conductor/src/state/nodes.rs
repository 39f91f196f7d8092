//! Plans for nodes and disks: register, report, go up and down.
//!
//! Invariants: a node is known by its name, a disk by its id; a disk belongs to the node that
//! reported it last, and never to two that are up.

use std::collections::{BTreeMap, BTreeSet};

use ashlar_proto::api::{DiskReport, RegisterNode, Schedulable};
use ashlar_proto::limits::{MISSING_REPORTED_MAX, USES_REPORTED_MAX};
use ashlar_proto::{DiskId, NodeId};

use super::{ClusterState, Plan};
use crate::meta::{Change, Key};
use crate::refusal::{
    InvalidRequest, MAP_ENTRIES_MAX, NODE_DISKS_MAX, NodeRefusal, Refusal, check_labels,
    check_name, check_text,
};
use crate::row::{AnyRow, DiskRow, NodeRow, disk_key, node_key};

/// Usage is stored when it has moved by this part of the disk; between, it is only in memory.
const USED_STEP: u64 = 64;

/// What a disk is marked with when its node no longer names it.
const NOT_REPORTED: &str = "its node no longer reports it";

impl ClusterState {
    /// A store says that it is there.
    pub(crate) fn plan_register(&self, request: &RegisterNode) -> Result<Plan<NodeId>, Refusal> {
        check_registration(request)?;
        let mut changes = Vec::new();
        let known = self.nodes.values().find(|node| node.name == request.name);
        if let Some(node) = known {
            self.refuse_impostor(node, request)?;
        }
        let id = known.map_or(NodeId::new(self.cluster.next_node), |node| node.id);
        let row = NodeRow {
            id,
            name: request.name.clone(),
            address: request.address.clone(),
            labels: request.labels.clone(),
            up: true,
            schedulable: known.map(|node| node.schedulable).unwrap_or_default(),
        };
        if known.is_none() {
            let mut cluster = self.cluster.clone();
            cluster.next_node += 1;
            changes.push(AnyRow::Cluster(cluster).put());
        }
        if known != Some(&row) {
            changes.push(AnyRow::Node(row).put());
        }
        let reads = self.report_changes(id, &request.disks, &mut changes)?;
        Ok(Plan {
            reads,
            changes,
            answer: id,
        })
    }

    /// A heartbeat: the node is up, and its disks are as it says.
    pub(crate) fn plan_heartbeat(
        &self,
        node: NodeId,
        disks: &[DiskReport],
    ) -> Result<Plan<()>, Refusal> {
        check_reports(disks)?;
        let Some(row) = self.nodes.get(&node) else {
            return Err(NodeRefusal::NotFound { node }.into());
        };
        let mut changes = Vec::new();
        if !row.up {
            changes.push(
                AnyRow::Node(NodeRow {
                    up: true,
                    ..row.clone()
                })
                .put(),
            );
        }
        let reads = self.report_changes(node, disks, &mut changes)?;
        Ok(Plan {
            reads,
            changes,
            answer: (),
        })
    }

    /// Nodes that have fallen silent are down.
    pub(crate) fn plan_silence(&self, silent: &[NodeId]) -> Plan<Vec<String>> {
        let rows = silent
            .iter()
            .filter_map(|id| self.nodes.get(id))
            .filter(|node| node.up);
        let rows: Vec<&NodeRow> = rows.collect();
        let down = |row: &&NodeRow| {
            AnyRow::Node(NodeRow {
                up: false,
                ..(*row).clone()
            })
            .put()
        };
        let changes = rows.iter().map(down).collect();
        let answer = rows.iter().map(|row| row.name.clone()).collect();
        Plan {
            reads: Vec::new(),
            changes,
            answer,
        }
    }

    /// The name of a node.
    pub(crate) fn name_of_node(&self, node: NodeId) -> Option<String> {
        self.nodes.get(&node).map(|row| row.name.clone())
    }

    /// The nodes that are up.
    pub(crate) fn nodes_up(&self) -> Vec<NodeId> {
        self.nodes
            .values()
            .filter(|node| node.up)
            .map(|node| node.id)
            .collect()
    }

    /// The nodes of a volume that are up.
    pub(crate) fn nodes_up_of(&self, name: &str) -> impl Iterator<Item = NodeId> {
        let volume = self.volume_named(name);
        let nodes = volume
            .into_iter()
            .flat_map(|volume| self.nodes_of(volume.id));
        nodes.filter(|node| node.up).map(|node| node.id)
    }

    /// Another store under the name of one that is up, with other disks at another place.
    fn refuse_impostor(&self, node: &NodeRow, request: &RegisterNode) -> Result<(), NodeRefusal> {
        let mut own = self
            .disks
            .values()
            .filter(|disk| disk.node == node.id)
            .peekable();
        let is_other = node.up
            && node.address != request.address
            && own.peek().is_some()
            && !own.any(|disk| {
                request
                    .disks
                    .iter()
                    .any(|report| report.id == disk.report.id)
            });
        if is_other {
            let (name, address) = (node.name.clone(), node.address.clone());
            return Err(NodeRefusal::NameTaken { name, address });
        }
        Ok(())
    }

    /// Adds the changes that a node's reports make; gives the rows that this rests on.
    fn report_changes(
        &self,
        node: NodeId,
        reports: &[DiskReport],
        changes: &mut Vec<Change>,
    ) -> Result<Vec<Key>, NodeRefusal> {
        let mut reads = Vec::new();
        for report in reports {
            let current = self.disks.get(&report.id);
            if let Some(other) = current.filter(|disk| disk.node != node) {
                let owner = self.nodes.get(&other.node);
                if let Some(owner) = owner.filter(|owner| owner.up) {
                    let (disk, node) = (report.id, owner.name.clone());
                    return Err(NodeRefusal::DiskElsewhere { disk, node });
                }
                reads.push(node_key(other.node));
            }
            if current.is_none_or(|disk| disk.node != node || is_news(&disk.report, report)) {
                reads.push(disk_key(report.id));
                let row = DiskRow {
                    node,
                    report: report.clone(),
                    schedulable: Schedulable::default(),
                    ailing: None,
                    cleared: None,
                    labels: BTreeMap::new(),
                };
                changes.push(AnyRow::Disk(DiskRow::with_report(current, row)).put());
            }
        }
        let named: BTreeSet<DiskId> = reports.iter().map(|report| report.id).collect();
        for disk in self.disks.values().filter(|disk| disk.node == node) {
            let gone = Some(NOT_REPORTED.to_owned());
            if !named.contains(&disk.report.id) && disk.report.failed != gone {
                let report = DiskReport {
                    failed: gone,
                    ..disk.report.clone()
                };
                let row = DiskRow {
                    report,
                    ..disk.clone()
                };
                changes.push(AnyRow::Disk(row).put());
            }
        }
        // A row that is changed is checked anyway.
        reads.retain(|key| changes.iter().all(|change| change.key() != key));
        Ok(reads)
    }
}

impl DiskRow {
    /// Whether its node is up without it.
    pub(super) fn is_unreported(&self) -> bool {
        self.report.failed.as_deref() == Some(NOT_REPORTED)
    }
}

/// Whether a report differs from the stored one by more than a little usage, how it is spread, what its
/// map has done and what was written: that changes all the time, and the last report is shown anyway.
fn is_news(stored: &DiskReport, report: &DiskReport) -> bool {
    let step = (stored.usable_bytes.get() / USED_STEP).max(1);
    let moved = stored.used_bytes.get().abs_diff(report.used_bytes.get());
    let same_use = DiskReport {
        used_bytes: stored.used_bytes,
        unfilled_bytes: stored.unfilled_bytes,
        refused_writes: stored.refused_writes,
        full: stored.full,
        largest: stored.largest.clone(),
        map: stored.map,
        writes: stored.writes,
        ..report.clone()
    };
    moved >= step || same_use != *stored
}

fn check_registration(request: &RegisterNode) -> Result<(), InvalidRequest> {
    check_name(&request.name)?;
    check_labels(&request.labels)?;
    check_reports(&request.disks)
}

/// Checks what a node says of its disks.
fn check_reports(reports: &[DiskReport]) -> Result<(), InvalidRequest> {
    if reports.len() > NODE_DISKS_MAX {
        return Err(InvalidRequest::TooMany {
            field: "disks",
            most: NODE_DISKS_MAX,
        });
    }
    let mut seen = BTreeSet::new();
    for report in reports {
        if report.lanes == 0 || report.id == DiskId::default() || !seen.insert(report.id) {
            return Err(InvalidRequest::Disk { disk: report.id });
        }
        check_text("path", &report.path)?;
        if report.damage.len() > MAP_ENTRIES_MAX {
            return Err(InvalidRequest::TooMany {
                field: "damage",
                most: MAP_ENTRIES_MAX,
            });
        }
        for kind in report.damage.keys() {
            check_text("damage", kind)?;
        }
        if report.largest.len() > USES_REPORTED_MAX {
            return Err(InvalidRequest::TooMany {
                field: "largest",
                most: USES_REPORTED_MAX,
            });
        }
        if report.missing.len() > MISSING_REPORTED_MAX {
            return Err(InvalidRequest::TooMany {
                field: "missing",
                most: MISSING_REPORTED_MAX,
            });
        }
        if let Some(reason) = &report.failed {
            check_text("failed", reason)?;
        }
        if let Some(ailing) = &report.ailing {
            check_text("ailing", &ailing.reason)?;
        }
    }
    Ok(())
}
