//! Plans for repair tasks: which node attaches which detached volume, to bring its replicas back, to
//! fence a denied client that had it, to have its snapshots and its layer table reach all of them, or to
//! copy what it shows of its origin.
//!
//! Invariants: a volume that a user has attached is given to nobody; a task stays with its node
//! while that is up and the volume needs it; no node has more than [`NODE_REPAIRS_MAX`]. A task
//! under which the volume does not come to be attached gives way to those that wait, after
//! [`TURN`], and has its next turn after them: what cannot be repaired holds nobody up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ashlar_proto::api::{VolumeState, repair_owner};
use ashlar_proto::{NodeId, VolumeId};

use super::{ClusterState, Plan};
use crate::live::Live;
use crate::membership::Moment;
use crate::row::{AnyRow, ShardRow, VolumeRow};

/// Repair tasks of one node at a time, beside those that fence a denied client.
pub(crate) const NODE_REPAIRS_MAX: usize = 4;

/// How long a volume with a task may take to be attached while others wait for theirs.
pub(crate) const TURN: Duration = Duration::from_secs(180);

/// What a plan changes in who has had a task when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turns {
    /// Volumes that are given a task.
    pub(crate) given: Vec<VolumeId>,
    /// Volumes that need none any more.
    pub(crate) over: Vec<VolumeId>,
}

impl ClusterState {
    /// Gives repair tasks out and takes back those that are over.
    pub(crate) fn plan_repairs(&self, live: &Live, now: Moment) -> Plan<Turns> {
        let mut volumes = self.notable_volumes(live);
        volumes.extend(live.turns.keys());
        self.plan_repairs_of(live, now, &volumes)
    }

    /// The same, of these volumes.
    pub(super) fn plan_repairs_of(
        &self,
        live: &Live,
        now: Moment,
        volumes: &BTreeSet<VolumeId>,
    ) -> Plan<Turns> {
        let rows = || volumes.iter().filter_map(|id| self.volumes.get(id));
        let mut load: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut changed: BTreeMap<VolumeId, Option<NodeId>> = BTreeMap::new();
        let (mut waiting, mut turns) = (Vec::new(), Turns::default());
        let needy = |row: &&VolumeRow| self.needs_repair(live, now, row);
        let is_any_waiting = rows()
            .filter(|row| row.repairer.is_none())
            .any(|row| needy(&row));
        let is_stuck = |row: &VolumeRow| {
            let since = live.turns.get(&row.id).copied().unwrap_or_default();
            !row.attached_for_repair && now.since(since) >= TURN
        };
        for volume in rows() {
            let needs = needy(&volume);
            let last_turn = live.turns.get(&volume.id).copied();
            if !needs && last_turn.is_some() {
                turns.over.push(volume.id);
            }
            if needs && volume.repairer.is_some() && is_any_waiting && is_stuck(volume) {
                changed.insert(volume.id, None);
                continue;
            }
            match volume.repairer.filter(|node| self.is_up(*node)) {
                Some(node) if needs => *load.entry(node).or_default() += 1,
                // Who was denied must not write on until others are repaired.
                _ if needs => {
                    let urgency = (!volume.unfenced, last_turn, self.live_least(volume));
                    waiting.push((urgency, volume.id));
                }
                _ => {}
            }
            if volume
                .repairer
                .is_some_and(|node| !needs || !self.is_up(node))
            {
                changed.insert(volume.id, None);
            }
        }
        waiting.sort_unstable();
        for (_, id) in waiting {
            let Some(volume) = self.volumes.get(&id) else {
                continue;
            };
            if let Some(node) = self.repairer_for(live, volume, &load) {
                *load.entry(node).or_default() += 1;
                changed.insert(id, Some(node));
                turns.given.push(id);
            }
        }
        let rows = changed.into_iter().filter_map(|(id, repairer)| {
            let row = self.volumes.get(&id)?.clone();
            Some(VolumeRow { repairer, ..row })
        });
        Plan {
            reads: Vec::new(),
            changes: rows.map(|row| AnyRow::Volume(row).put()).collect(),
            answer: turns,
        }
    }

    /// Whether any node has a repair task.
    pub(crate) fn has_repairs(&self) -> bool {
        self.volumes_to_do().any(|row| row.repairer.is_some())
    }

    pub(super) fn is_up(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|row| row.up)
    }

    /// Whether who says that it is the repair owner of a node is on one that is up.
    pub(super) fn is_repair_owner_up(&self, owner: &str) -> bool {
        let mut up = self.nodes.values().filter(|node| node.up);
        up.any(|node| repair_owner(&node.name) == owner)
    }

    /// Whether a repair owner could do something for a volume.
    fn needs_repair(&self, live: &Live, now: Moment, volume: &VolumeRow) -> bool {
        let is_used = volume.attached_by.is_some()
            && !volume.attached_for_repair
            && !self.is_orphaned(live, now, volume);
        if volume.state != VolumeState::Ready || is_used {
            return false;
        }
        let mut shards = self.served_shards(volume);
        let is_for_all = volume.unfenced || self.has_owners_work(volume);
        (is_for_all || shards.any(|row| self.lacks(live, volume, row)))
            && self
                .shards_of(volume.id)
                .all(|row| self.can_be_taken_over(volume, row))
    }

    /// Whether an owner could bring a replica of the shard in, or must propose one away.
    fn lacks(&self, live: &Live, volume: &VolumeRow, row: &ShardRow) -> bool {
        let in_sync = row.replicas.iter().filter(|r| r.in_sync).count();
        row.replicas.iter().any(|replica| {
            if !replica.in_sync {
                let is_there = self.serves(replica.disk)
                    && !self.is_missing(live, replica)
                    && !self.unmade.contains_key(&replica.id);
                return is_there && !replica.leaving;
            }
            let may_leave = replica.leaving && in_sync > usize::from(volume.replicas);
            may_leave || self.is_gone(live, replica)
        })
    }

    /// The fewest in-sync replicas that serve, of all its shards.
    fn live_least(&self, volume: &VolumeRow) -> usize {
        let live = self.served_shards(volume).map(|row| self.live_in_sync(row));
        live.min().unwrap_or_default()
    }

    /// The node to repair a volume: who holds it as its repair owner, else one that has in sync what
    /// others lack, else any; of these one with few tasks.
    fn repairer_for(
        &self,
        live: &Live,
        volume: &VolumeRow,
        load: &BTreeMap<NodeId, usize>,
    ) -> Option<NodeId> {
        let lacking = self.served_shards(volume);
        let lacking = lacking.filter(|row| self.lacks(live, volume, row));
        let in_sync = lacking.flat_map(|row| &row.replicas);
        let in_sync = in_sync.filter(|r| r.in_sync && self.serves(r.disk));
        let near: BTreeSet<NodeId> = in_sync.map(|r| self.node_of(r)).collect();
        let tasks = |node: NodeId| load.get(&node).copied().unwrap_or_default();
        // One that cannot reach the others could bring nothing back.
        let is_missed = |node: NodeId| live.judgment.is_missed(node);
        let free = self.nodes.values();
        let free = free.filter(|node| node.up && !is_missed(node.id));
        // One that is let in no more may still count as up.
        let free = free.filter(|node| !self.is_denied_node(&node.name));
        let free = free.filter(|node| volume.unfenced || tasks(node.id) < NODE_REPAIRS_MAX);
        let best = free.min_by_key(|node| {
            let owner = repair_owner(&node.name);
            let holds = volume.attached_for_repair && volume.attached_by == Some(owner);
            // Equal nodes take turns.
            let turn = node.id.get().wrapping_sub(volume.id.get()) % self.nodes.len() as u64;
            (!holds, !near.contains(&node.id), tasks(node.id), turn)
        });
        best.map(|node| node.id)
    }
}
