//! Plans for nodes and disks that are to take no replicas, to lose theirs, or to go.
//!
//! Invariant: nothing that a replica lies on is removed, and nothing that is still served.

use ashlar_proto::api::Schedulable;
use ashlar_proto::{DiskId, NodeId};

use super::{ClusterState, Plan};
use crate::meta::Change;
use crate::refusal::{DiskRefusal, NodeRefusal, Refusal};
use crate::row::{AnyRow, DiskRow, NodeRow, disk_key, node_key};

impl ClusterState {
    /// The node of that name, else of that id.
    pub(super) fn require_node(&self, node: &str) -> Result<&NodeRow, NodeRefusal> {
        let named = self.nodes.values().find(|row| row.name == node);
        let by_id = || self.nodes.get(&NodeId::new(node.parse().ok()?));
        let found = named.or_else(by_id);
        found.ok_or_else(|| NodeRefusal::Unknown {
            node: node.chars().take(80).collect(),
        })
    }

    pub(super) fn require_disk(&self, disk: DiskId) -> Result<&DiskRow, DiskRefusal> {
        let row = self.disks.get(&disk);
        row.ok_or(DiskRefusal::NotFound { disk })
    }

    /// A node takes replicas from now on, or none, or loses those that it has.
    pub(crate) fn plan_schedule_node(
        &self,
        node: &str,
        schedulable: Schedulable,
    ) -> Result<Plan<NodeId>, Refusal> {
        let current = self.require_node(node)?;
        if current.schedulable == schedulable {
            return Ok(Plan::nothing(current.id));
        }
        let row = NodeRow {
            schedulable,
            ..current.clone()
        };
        Ok(Plan {
            reads: Vec::new(),
            answer: row.id,
            changes: vec![AnyRow::Node(row).put()],
        })
    }

    /// The same for one disk.
    pub(crate) fn plan_schedule_disk(
        &self,
        disk: DiskId,
        schedulable: Schedulable,
    ) -> Result<Plan<DiskId>, Refusal> {
        let current = self.require_disk(disk)?;
        if current.schedulable == schedulable {
            return Ok(Plan::nothing(disk));
        }
        let row = DiskRow {
            schedulable,
            ..current.clone()
        };
        Ok(Plan {
            reads: Vec::new(),
            changes: vec![AnyRow::Disk(row).put()],
            answer: disk,
        })
    }

    /// A node that is down and whose disks hold nothing is forgotten, and they are.
    pub(crate) fn plan_remove_node(&self, node: &str) -> Result<Plan<()>, Refusal> {
        let row = self.require_node(node)?;
        let name = row.name.clone();
        let disks = self.disks.iter().filter(|(_, disk)| disk.node == row.id);
        let disks: Vec<DiskId> = disks.map(|(disk, _)| *disk).collect();
        let replicas = disks.iter().map(|disk| self.replicas_on(*disk)).sum();
        if replicas > 0 {
            return Err(NodeRefusal::InUse { name, replicas }.into());
        }
        if row.up {
            return Err(NodeRefusal::IsUp { name }.into());
        }
        let keys = disks.into_iter().map(disk_key);
        let keys = keys.chain([node_key(row.id)]);
        Ok(Plan {
            reads: Vec::new(),
            changes: keys.map(|key| Change::Delete { key }).collect(),
            answer: (),
        })
    }

    /// A disk that its node does not serve any more and that holds nothing is forgotten.
    pub(crate) fn plan_remove_disk(&self, disk: DiskId) -> Result<Plan<()>, Refusal> {
        let row = self.require_disk(disk)?;
        let replicas = self.replicas_on(disk);
        if replicas > 0 {
            return Err(DiskRefusal::InUse { disk, replicas }.into());
        }
        let node = self.nodes.get(&row.node).filter(|node| node.up);
        if let Some(node) = node.filter(|_| !row.is_unreported()) {
            let node = node.name.clone();
            return Err(DiskRefusal::IsServed { disk, node }.into());
        }
        let key = disk_key(disk);
        Ok(Plan {
            // A store that reports it again meanwhile has it back.
            reads: vec![node_key(row.node)],
            changes: vec![Change::Delete { key }],
            answer: (),
        })
    }

    /// Replicas that a disk holds.
    pub(super) fn replicas_on(&self, disk: DiskId) -> usize {
        let held = self.holds.get(&disk);
        held.map_or(0, std::collections::BTreeMap::len)
    }
}
