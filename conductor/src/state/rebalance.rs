//! Plans that even out disks: replicas move from fuller ones to emptier ones.
//!
//! ```text
//!          a move between disks that lie [`START`] apart
//!   idle ─────────────────────────────────────────────────▶ active: moves between any that lie
//!    ▲                                                        │      [`STOP`] apart begin
//!    └──────── none is left, and all reports are in ──────────┘
//! ```
//!
//! Disks that are fuller than the hard threshold give replicas away before that (`relief`).
//!
//! A move is that of a drain: a fresh replica beside one that leaves. How full a disk is, is the
//! measure of placement. Invariants: moves begin only in shards of which every replica is in sync
//! and serves, in slots that healing and drains leave free; one that begins makes the two disks more
//! alike, whatever is written of the replica, so that none is ever worth its way back; what is being
//! copied is called off where a lost replica waits for a slot; paused, none begins.

mod planner;
mod relief;
mod view;

use ashlar_proto::api::{Schedulable, VolumeState};
use ashlar_proto::{ByteCount, DiskId, NodeId, ReplicaId};

use super::healing::{call_off, fresh_replica};
use super::slots::Slots;
use super::{At, ClusterState, Outlook, Plan, shard_bytes};
use crate::live::Live;
use crate::meta::Change;
use crate::placement::Fill;
use crate::row::{AnyRow, ClusterRow, RebalanceRow, ShardRow, volume_key};
use planner::Planner;

/// Moves begin when the disks of one lie further apart than this.
pub(crate) const START: Fill = Fill::percent(10);

/// Once begun they go on as long as the disks of one lie further apart than this.
pub(crate) const STOP: Fill = Fill::percent(3);

/// Moves that are looked at in one plan for some that can begin.
const LOOK_AHEAD_MAX: usize = 256;

/// The move of one replica, and how full its disks are before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) at: At,
    pub(crate) replica: ReplicaId,
    pub(crate) bytes: ByteCount,
    pub(crate) from: (NodeId, DiskId),
    pub(crate) to: (NodeId, DiskId),
    pub(crate) why: Why,
}

/// How full the two disks of a move are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Why {
    pub(crate) from: Fill,
    pub(crate) from_after: Fill,
    pub(crate) to: Fill,
    pub(crate) to_after: Fill,
}

/// What a plan does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rebalancing {
    /// The moves that begin.
    pub(crate) begun: Vec<Move>,
    /// Moves that are called off.
    pub(crate) called_off: u32,
    /// Moves wait for a slot or for a report: look again soon.
    pub(crate) is_waiting: bool,
}

impl ClusterState {
    /// Moves begin or are not to begin.
    pub(crate) fn plan_pause(&self, paused: bool) -> Plan<()> {
        if self.rebalance.paused == paused {
            return Plan::nothing(());
        }
        let row = RebalanceRow {
            paused,
            ..self.rebalance
        };
        Plan {
            reads: Vec::new(),
            changes: vec![AnyRow::Rebalance(row).put()],
            answer: (),
        }
    }

    /// Begins moves, as far as is admitted at a time; `outlook` is what healing has just found.
    pub(crate) fn plan_rebalance(&self, live: &Live, outlook: &Outlook) -> Plan<Rebalancing> {
        if outlook.urgent > 0 {
            return self.plan_call_off();
        }
        let RebalanceRow { paused, active } = self.rebalance;
        if paused || outlook.queued > 0 {
            return Plan::nothing(Rebalancing {
                is_waiting: active && !paused,
                ..Rebalancing::default()
            });
        }
        let mut planner = Planner::new(self, live);
        let mut slots = Slots::taken(self, live);
        let mut answer = Rebalancing::default();
        for _ in 0..LOOK_AHEAD_MAX {
            let next = planner.relieve().filter(|_| slots.is_any_free());
            let Some(next) = next else { break };
            self.begin(live, next, &mut slots, &mut answer);
        }
        let relieving = answer.begun.len();
        let mut looked_at = 0;
        while looked_at < LOOK_AHEAD_MAX && slots.is_any_free() {
            let first = looked_at == 0;
            let Some(next) = planner.next(self.threshold(first)) else {
                break;
            };
            looked_at += 1;
            self.begin(live, next, &mut slots, &mut answer);
        }
        let is_over = looked_at == 0 && slots.is_any_free();
        if active && is_over {
            answer.is_waiting |= !self.has_settled(live);
        }
        let row = RebalanceRow {
            paused,
            active: answer.begun.len() > relieving
                || active && !(is_over && self.has_settled(live)),
        };
        self.with_moves(row, answer)
    }

    /// Begins a move if its slot is free and what is known of its disks is of now; else it waits.
    fn begin(&self, live: &Live, next: Move, slots: &mut Slots, answer: &mut Rebalancing) {
        let (from, to) = (next.from.0, next.to.0);
        let is_known = self.has_reported(live, from) && self.has_reported(live, to);
        if is_known && slots.is_free_on(next.to.1) {
            slots.take(next.to.1);
            answer.begun.push(next);
        } else {
            answer.is_waiting = true;
        }
    }

    /// How far apart disks must lie for the next move.
    fn threshold(&self, is_first: bool) -> Fill {
        if self.rebalance.active || !is_first {
            STOP
        } else {
            START
        }
    }

    /// Whether a node has carried out what it was last assigned: only then does its report say what
    /// is written on its disks.
    fn has_reported(&self, live: &Live, node: NodeId) -> bool {
        let assigned = self.assigned(node);
        assigned.is_some_and(|assigned| live.applied(node) >= assigned)
    }

    /// Whether no move is under way, every node has told what came of those before, and no disk that
    /// takes part is waited for.
    fn has_settled(&self, live: &Live) -> bool {
        let is_awaited = |disk: &DiskId| {
            self.schedulable(*disk) == Schedulable::Open && !live.absence.is_over(*disk)
        };
        let mut up = self.nodes_up().into_iter();
        self.moving().next().is_none()
            && up.all(|node| self.has_reported(live, node))
            && !self.disks_away(live).iter().any(is_awaited)
    }

    /// The shards of which a replica moves to even out disks.
    fn moving(&self) -> impl Iterator<Item = &ShardRow> {
        let is_ready = |volume| {
            let row = self.volumes.get(volume);
            row.is_some_and(|row| row.state == VolumeState::Ready)
        };
        let shards = self.unsettled_shards().filter(|row| row.rebalancing);
        shards.filter(move |row| is_ready(&row.volume))
    }

    /// The changes that begin the moves.
    fn with_moves(&self, rebalance: RebalanceRow, answer: Rebalancing) -> Plan<Rebalancing> {
        let mut next_replica = self.cluster.next_replica;
        let mut changes = Vec::new();
        for next in &answer.begun {
            let Some(row) = self.shards.get(&next.at) else {
                continue;
            };
            let mut row = ShardRow {
                rebalancing: true,
                ..row.clone()
            };
            for replica in &mut row.replicas {
                replica.leaving = replica.id == next.replica;
            }
            let (node, disk) = next.to;
            row.replicas.push(fresh_replica(next_replica, node, disk));
            next_replica += 1;
            changes.push(AnyRow::Shard(row).put());
        }
        if next_replica != self.cluster.next_replica {
            let row = ClusterRow {
                next_replica,
                ..self.cluster.clone()
            };
            changes.push(AnyRow::Cluster(row).put());
        }
        if rebalance != self.rebalance {
            changes.push(AnyRow::Rebalance(rebalance).put());
        }
        let volumes = answer.begun.iter().map(|next| volume_key(next.at.0));
        Plan {
            reads: volumes.collect(),
            changes,
            answer,
        }
    }

    /// Frees the slots of all moves whose successor is not in sync yet.
    fn plan_call_off(&self) -> Plan<Rebalancing> {
        let off = self.moving().filter_map(|row| {
            let successor = row.replicas.last().filter(|r| r.fresh)?.id;
            let mut row = row.clone();
            call_off(&mut row, Some(successor));
            Some(AnyRow::Shard(row).put())
        });
        let changes: Vec<Change> = off.collect();
        let volumes = self.moving().map(|row| volume_key(row.volume));
        Plan {
            reads: volumes.collect(),
            answer: Rebalancing {
                begun: Vec::new(),
                called_off: u32::try_from(changes.len()).unwrap_or(u32::MAX),
                is_waiting: self.rebalance.active,
            },
            changes,
        }
    }

    /// Bytes of one replica of a shard.
    fn replica_bytes(&self, at: At) -> ByteCount {
        let volume = self.volumes.get(&at.0);
        ByteCount::new(volume.map_or(0, |row| shard_bytes(row, at.1)))
    }
}
