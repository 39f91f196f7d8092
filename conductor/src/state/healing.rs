//! Plans that make shards whole again: replicas lost for good are made elsewhere, others move away
//! from disks that are drained.
//!
//! ```text
//!   not in sync, its disk gone for the grace time ──▶ replaced by a fresh one elsewhere
//!   in sync, on a draining disk ──▶ leaving, beside a fresh one ──owner──▶ fresh one in sync
//!                                      │ uncordoned                          │ owner
//!                                      ▼                                     ▼
//!                          stays, the fresh one goes            the leaving one is dropped
//! ```
//!
//! Moves that even out disks (`rebalance`) go the same way. They are called off where they can no
//! longer end, and count as nothing amiss.
//!
//! Invariants: a replica that is in sync is never removed or replaced here, only an owner's proposal
//! takes one out of the set; no epoch changes, for no in-sync set does; a shard has at most one
//! replica more than its volume asks for, and at most one that is leaving; no two replicas of a
//! shard come to lie on one node, but for one that moves to another disk of its node, whose successor
//! takes its place in the set in one step; what is admitted stays within [`Slots`].

use std::collections::{BTreeMap, BTreeSet};

use ashlar_proto::api::{DiskLevel, Replica, Schedulable, VolumeState};
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_proto::{DiskId, NodeId, ReplicaId};

use super::slots::Slots;
use super::space::want;
use super::{At, ClusterState, Plan};
use crate::live::Live;
use crate::placement::{Candidate, Neighbour, Want, place_beside};
use crate::row::{AnyRow, ClusterRow, ShardRow, VolumeRow, volume_key};

/// What is amiss, of all volumes that are ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// Replicas that are not in sync.
    pub(crate) out_of_sync: u32,
    /// Of these, fresh ones on disks that serve.
    pub(crate) rebuilding: u32,
    /// Replicas to be made elsewhere that wait for their turn.
    pub(crate) queued: u32,
    /// Of these, ones in the place of lost replicas.
    pub(crate) urgent: u32,
    /// Replicas to be made elsewhere for which no disk is eligible.
    pub(crate) without_place: u32,
    /// In-sync replicas on draining disks whose successor is yet to be made.
    pub(crate) draining: u32,
    /// In-sync replicas whose disks do not serve.
    pub(crate) away: u32,
    /// Replicas that this plan makes.
    pub(crate) admitted: u32,
}

impl Outlook {
    /// Replicas that are to come in sync.
    pub(crate) fn left(&self) -> u32 {
        self.out_of_sync.saturating_add(self.draining)
    }

    fn count_queued(&mut self, deed: Deed) {
        self.queued += 1;
        self.urgent += u32::from(deed == Deed::Replace);
    }
}

impl ClusterState {
    /// Replicas that have come in sync since the rows were first read.
    pub(crate) fn joined(&self) -> u64 {
        self.joined
    }

    /// Whether a disk is to take replicas, as somebody has asked of it or of its node.
    pub(super) fn asked_of(&self, disk: DiskId) -> Schedulable {
        let Some(row) = self.disks.get(&disk) else {
            return Schedulable::Draining;
        };
        let node = self.nodes.get(&row.node);
        node.map_or(row.schedulable, |node| {
            row.schedulable.max(node.schedulable)
        })
    }

    /// The node of a replica: where its disk is now.
    pub(super) fn node_of(&self, replica: &Replica) -> NodeId {
        let row = self.disks.get(&replica.disk);
        row.map_or(replica.node, |row| row.node)
    }

    /// Whether a replica was made once and is not on its disk any more, as its store says.
    pub(super) fn is_missing(&self, live: &Live, replica: &Replica) -> bool {
        let row = self.disks.get(&replica.disk);
        row.is_some_and(|row| live.report(row).missing.contains(&replica.id))
    }

    /// Whether a replica's disk is not waited for any more.
    pub(super) fn is_gone(&self, live: &Live, replica: &Replica) -> bool {
        let is_away = !self.serves(replica.disk) || self.is_missed(live, replica.disk);
        let away = is_away && live.absence.is_over(replica.disk);
        away || !self.disks.contains_key(&replica.disk) || self.is_missing(live, replica)
    }

    /// In-sync replicas of a shard whose disks serve.
    pub(super) fn live_in_sync(&self, row: &ShardRow) -> usize {
        let in_sync = row.replicas.iter().filter(|r| r.in_sync);
        in_sync.filter(|r| self.serves(r.disk)).count()
    }

    /// Whether an owner can take the shard over as it stands: with n − a + 1 of the set it can
    /// propose the rest away and serve.
    pub(super) fn can_be_taken_over(&self, volume: &VolumeRow, row: &ShardRow) -> bool {
        let in_sync = row.replicas.iter().filter(|r| r.in_sync).count();
        let needed = (in_sync + 1).saturating_sub(volume.ack.ack_count(in_sync));
        self.live_in_sync(row) >= needed.max(1)
    }

    /// Makes shards whole, as far as is admitted at a time.
    pub(crate) fn plan_healing(&self, live: &Live) -> Plan<Outlook> {
        self.plan_healing_of(live, &self.notable_shards(live))
    }

    /// Makes shards whole, of these.
    pub(super) fn plan_healing_of(&self, live: &Live, shards: &BTreeSet<At>) -> Plan<Outlook> {
        let mut healer = Healer::new(self, live);
        let mut due = Vec::new();
        let rows = shards.iter().filter_map(|at| self.shards.get(at));
        for row in rows {
            let volume = self.volumes.get(&row.volume);
            if let Some(volume) = volume.filter(|volume| volume.state == VolumeState::Ready) {
                healer.look_at(volume, row, &mut due);
            }
        }
        due.sort_unstable();
        for step in due {
            healer.take(&step);
        }
        healer.into_plan()
    }
}

/// What is to be done for a replica; the most urgent is the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    /// Another takes its place.
    Replace,
    /// Another is made beside it, then it leaves.
    Move,
}

/// One replica's turn; the least comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Step {
    deed: Deed,
    /// In-sync replicas of the shard that serve: the fewer, the sooner.
    live: usize,
    at: At,
    replica: ReplicaId,
}

/// A plan in the making.
struct Healer<'a> {
    state: &'a ClusterState,
    live: &'a Live,
    /// Disks that serve and take replicas, with what this plan has promised.
    candidates: Vec<Candidate>,
    slots: Slots,
    next_replica: u64,
    changed: BTreeMap<At, ShardRow>,
    outlook: Outlook,
}

impl<'a> Healer<'a> {
    fn new(state: &'a ClusterState, live: &'a Live) -> Self {
        Self {
            state,
            live,
            candidates: state.candidates(live),
            slots: Slots::free(state),
            next_replica: state.cluster.next_replica,
            changed: BTreeMap::new(),
            outlook: Outlook::default(),
        }
    }

    /// Ends moves that are over or were called off, counts, and notes what is due.
    fn look_at(&mut self, volume: &VolumeRow, row: &ShardRow, due: &mut Vec<Step>) {
        let tidied = self.tidied(volume, row);
        let row = tidied.as_ref().unwrap_or(row);
        let at = (row.volume, row.index);
        let live = self.state.live_in_sync(row);
        let can_be_taken_over = self.state.can_be_taken_over(volume, row);
        let evens_out = self.evens_out(row);
        for replica in &row.replicas {
            if can_be_taken_over && self.has_slot(replica) {
                self.slots.take(replica.disk);
            }
            if !(replica.in_sync || replica.fresh && evens_out) {
                self.outlook.out_of_sync += 1;
                let is_rebuilt = replica.fresh && self.state.serves(replica.disk);
                self.outlook.rebuilding += u32::from(is_rebuilt);
            }
            let is_away = replica.in_sync && !self.state.serves(replica.disk);
            self.outlook.away += u32::from(is_away);
            let is_to_move = replica.in_sync && !replica.leaving && self.is_draining(replica);
            self.outlook.draining += u32::from(is_to_move);
            let deed = if is_to_move {
                Deed::Move
            } else if (!replica.in_sync || is_planted(Planted::ReplaceInSync))
                && self.is_to_be_replaced(replica)
            {
                Deed::Replace
            } else {
                continue;
            };
            // Of one that nobody can take over, nothing can be rebuilt.
            if can_be_taken_over {
                due.push(Step {
                    deed,
                    live,
                    at,
                    replica: replica.id,
                });
            }
        }
        if let Some(row) = tidied {
            self.changed.insert(at, row);
        }
    }

    /// Whether a fresh replica holds a slot, if its shard can be taken over.
    fn has_slot(&self, replica: &Replica) -> bool {
        replica.fresh && !self.live.fills.is_over(replica.id)
    }

    fn is_draining(&self, replica: &Replica) -> bool {
        self.state.schedulable(replica.disk) == Schedulable::Draining
    }

    /// Whether a replica moves only to even out disks.
    fn evens_out(&self, row: &ShardRow) -> bool {
        let mut leaving = row.replicas.iter().filter(|r| r.leaving);
        row.rebalancing && leaving.all(|r| !self.is_draining(r))
    }

    /// One that is out of sync for a moment on a disk that only ails is caught up, which costs less
    /// than another copy, and then moves. On a full disk it cannot be.
    fn is_to_be_replaced(&self, replica: &Replica) -> bool {
        let is_asked = self.state.asked_of(replica.disk) == Schedulable::Draining;
        let is_stuck = self.live.levels.of(replica.disk) == DiskLevel::Full;
        replica.leaving || is_asked || is_stuck || self.state.is_gone(self.live, replica)
    }

    /// The shard without a move that is over or was called off, if there is such a one.
    fn tidied(&self, volume: &VolumeRow, row: &ShardRow) -> Option<ShardRow> {
        let leaving = row.replicas.iter().find(|r| r.leaving)?;
        let successor = successor_of(volume, row).map(|(_, successor)| successor);
        let is_off = if self.evens_out(row) {
            let is_lost = |r: &Replica| !r.in_sync && self.is_to_be_replaced(r);
            successor.is_none_or(is_lost)
        } else {
            !self.is_draining(leaving)
        };
        let mut tidied = row.clone();
        // A successor that is in sync already stays, and the move goes on. One that was may be needed
        // where the others do not serve.
        let is_spare =
            |r: &Replica| r.fresh || !r.in_sync && self.state.can_be_taken_over(volume, row);
        if is_off && successor.is_none_or(is_spare) {
            call_off(&mut tidied, successor.map(|r| r.id));
        } else if successor.is_some() && (!leaving.in_sync || is_planted(Planted::DropLeaving)) {
            let leaving = leaving.id;
            tidied.replicas.retain(|r| r.id != leaving);
            forget_gone(&mut tidied);
        } else {
            return None;
        }
        Some(tidied)
    }

    /// Takes a step, if it is admitted and a disk is eligible.
    fn take(&mut self, step: &Step) {
        let Some(volume) = self.state.volumes.get(&step.at.0) else {
            return;
        };
        let Some(row) = self
            .changed
            .get(&step.at)
            .or(self.state.shards.get(&step.at))
        else {
            return;
        };
        let mut row = row.clone();
        let Some(position) = row.replicas.iter().position(|r| r.id == step.replica) else {
            return;
        };
        let old = row.replicas[position].clone();
        let is_busy = row.replicas.len() > usize::from(volume.replicas)
            || row.replicas.iter().any(|r| r.leaving);
        if step.deed == Deed::Move && is_busy {
            return;
        }
        // One fresh replica in the slot of another makes no more of them.
        let takes_slot_over = step.deed == Deed::Replace && self.has_slot(&old);
        if !takes_slot_over && !self.slots.is_any_free() {
            self.outlook.count_queued(step.deed);
            return;
        }
        let want = want(volume, step.at.1);
        let Some((node, disk)) = self.find_place(step, &row, &old, want) else {
            return;
        };
        let fresh = fresh_replica(self.next_replica, node, disk);
        self.next_replica += 1;
        let replaces_fresh = step.deed == Deed::Replace && old.fresh;
        if takes_slot_over {
            self.slots.give_back(old.disk);
        }
        self.count_in(&old, replaces_fresh, disk, want);
        match step.deed {
            Deed::Replace => row.replicas[position] = fresh,
            Deed::Move => {
                row.replicas[position].leaving = true;
                row.replicas.push(fresh);
                self.outlook.draining -= 1;
                self.outlook.out_of_sync += 1;
            }
        }
        forget_gone(&mut row);
        self.changed.insert(step.at, row);
    }

    fn count_in(&mut self, old: &Replica, replaces_fresh: bool, disk: DiskId, want: Want) {
        if replaces_fresh {
            let was_rebuilt = self.state.serves(old.disk);
            self.outlook.rebuilding -= u32::from(was_rebuilt);
        }
        self.slots.take(disk);
        for candidate in self.candidates.iter_mut().filter(|c| c.disk == disk) {
            candidate.load = candidate.load.with_want(want);
        }
        self.outlook.admitted += 1;
        self.outlook.rebuilding += 1;
    }

    /// A disk for one more replica; counts where there is none, or none for now.
    fn find_place(
        &mut self,
        step: &Step,
        row: &ShardRow,
        old: &Replica,
        want: Want,
    ) -> Option<(NodeId, DiskId)> {
        let (volume, shard) = step.at;
        let rules = self.state.placement_rules(volume);
        let place = |apart: &[Neighbour], candidates: &[&Candidate]| {
            place_beside(&rules, volume, shard, want, apart, candidates)
        };
        // Who leaves is not met again: its successor may come to lie on another disk of its node.
        let left = successor_of(self.state.volumes.get(&volume)?, row)
            .filter(|(_, successor)| successor.id == old.id)
            .map(|(leaving, _)| leaving.id);
        let stays = |r: &&Replica| r.id != old.id && Some(r.id) != left;
        let others = row.replicas.iter().filter(stays);
        let others: Vec<Neighbour> = others.map(|r| self.neighbour(r)).collect();
        // The disk that one was lost from comes last; that of one that leaves is out of the question.
        let is_left = |disk| row.replicas.iter().any(|r| r.leaving && r.disk == disk);
        let open = self.candidates.iter().filter(|c| !is_left(c.disk));
        let all: Vec<&Candidate> = open.collect();
        let elsewhere = all.iter().copied().filter(|c| c.disk != old.disk);
        let has_turn = |c: &&Candidate| self.slots.is_free_on(c.disk);
        for candidates in [elsewhere.collect(), all.clone()] {
            if place(&others, &candidates).is_some() {
                let free: Vec<&Candidate> = candidates.into_iter().filter(has_turn).collect();
                let found = place(&others, &free);
                if found.is_none() {
                    self.outlook.count_queued(step.deed);
                }
                return found;
            }
        }
        self.outlook.without_place += 1;
        None
    }

    fn neighbour(&self, replica: &Replica) -> Neighbour {
        Neighbour {
            node: self.state.node_of(replica),
            labels: self.state.labels_at(replica).into_owned(),
        }
    }

    fn into_plan(self) -> Plan<Outlook> {
        let volumes: BTreeSet<_> = self.changed.keys().map(|(volume, _)| *volume).collect();
        let rows = self.changed.into_values();
        let mut changes: Vec<_> = rows.map(|row| AnyRow::Shard(row).put()).collect();
        if self.next_replica != self.state.cluster.next_replica {
            let row = ClusterRow {
                next_replica: self.next_replica,
                ..self.state.cluster.clone()
            };
            changes.push(AnyRow::Cluster(row).put());
        }
        Plan {
            reads: volumes.into_iter().map(volume_key).collect(),
            changes,
            answer: self.outlook,
        }
    }
}

/// The replica of a shard that leaves, and the one that is made in its place: the last that came.
fn successor_of<'a>(volume: &VolumeRow, row: &'a ShardRow) -> Option<(&'a Replica, &'a Replica)> {
    let leaving = row.replicas.iter().find(|r| r.leaving)?;
    let last = row.replicas.last().filter(|r| r.id != leaving.id)?;
    (row.replicas.len() > usize::from(volume.replicas)).then_some((leaving, last))
}

/// A replica that its store is to make.
pub(super) fn fresh_replica(id: u64, node: NodeId, disk: DiskId) -> Replica {
    Replica {
        id: ReplicaId::new(id),
        node,
        disk,
        in_sync: false,
        fresh: true,
        leaving: false,
    }
}

/// Calls the move of a shard off: its successor goes, if it is still there, and none leaves.
pub(super) fn call_off(row: &mut ShardRow, successor: Option<ReplicaId>) {
    row.replicas.retain(|r| Some(r.id) != successor);
    for replica in &mut row.replicas {
        replica.leaving = false;
    }
    forget_gone(row);
}

/// Forgets of replicas that are not fresh or not there any more that they were made, and of moves
/// that they were.
pub(super) fn forget_gone(row: &mut ShardRow) {
    let replicas = &row.replicas;
    let is_fresh = |id: &ReplicaId| replicas.iter().any(|r| r.id == *id && r.fresh);
    row.made.retain(is_fresh);
    row.rebalancing &= replicas.iter().any(|r| r.leaving);
}
