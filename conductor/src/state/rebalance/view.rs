//! Rebalance as the API shows it: what it is about, what moves, and what would.

use ashlar_proto::api::{
    DiskFill, DiskPlace, PlannedMove, Rebalance, RebalanceMove, RebalancePlan, RebalanceState,
    RebalanceSummary,
};
use ashlar_proto::{ByteCount, DiskId, ReplicaId};

use super::planner::{Bin, Planner};
use super::{Move, START, STOP};
use crate::live::Live;
use crate::row::ShardRow;
use crate::state::{At, ClusterState, Outlook};

/// Moves that a plan names.
const MOVES_SHOWN_MAX: usize = 1000;

impl ClusterState {
    /// Rebalance in one line; `outlook` is what healing has found.
    pub(crate) fn rebalance_summary(&self, live: &Live, outlook: &Outlook) -> RebalanceSummary {
        let mut planner = Planner::new(self, live);
        let to_come = if self.rebalance.paused {
            Vec::new()
        } else {
            self.moves_to_come(&mut planner)
        };
        let moving: Vec<&ShardRow> = self.moving().collect();
        let state = if self.rebalance.paused {
            RebalanceState::Paused
        } else if moving.is_empty() && to_come.is_empty() {
            RebalanceState::Idle
        } else if moving.is_empty() && outlook.queued > 0 {
            RebalanceState::Waiting
        } else {
            RebalanceState::Moving
        };
        let under_way = moving.iter().map(|row| (row.volume, row.index));
        let under_way = under_way.map(|at| self.replica_bytes(at).get());
        let bytes = under_way.chain(to_come.iter().map(|next| next.bytes.get()));
        RebalanceSummary {
            state,
            moving: count(moving.len()),
            to_come: count(to_come.len()),
            bytes_left: ByteCount::new(bytes.fold(0, u64::saturating_add)),
        }
    }

    /// What it is about, and what is under way.
    pub(crate) fn show_rebalance(&self, live: &Live) -> Rebalance {
        let outlook = self.plan_healing(live).answer;
        let planner = Planner::new(self, live);
        Rebalance {
            summary: self.rebalance_summary(live, &outlook),
            start_permille: START.permille(),
            stop_permille: STOP.permille(),
            spread_permille: planner.spread_before().permille(),
            disks: self.disk_fills(&planner),
            moves: self
                .moving()
                .filter_map(|row| self.show_move(row))
                .collect(),
            revision: self.revision,
        }
    }

    /// What would move.
    pub(crate) fn show_rebalance_plan(&self, live: &Live) -> RebalancePlan {
        let mut planner = Planner::new(self, live);
        let moves = self.moves_to_come(&mut planner);
        let bytes = moves.iter().map(|next| next.bytes.get());
        RebalancePlan {
            complete: moves.len() < MOVES_SHOWN_MAX,
            bytes: ByteCount::new(bytes.fold(0, u64::saturating_add)),
            moves: moves.iter().map(|next| self.show_planned(next)).collect(),
            disks: self.disk_fills(&planner),
            revision: self.revision,
        }
    }

    fn moves_to_come(&self, planner: &mut Planner<'_>) -> Vec<Move> {
        let mut moves = Vec::new();
        while let Some(next) = planner.relieve().filter(|_| moves.len() < MOVES_SHOWN_MAX) {
            moves.push(next);
        }
        let relieving = moves.len();
        while moves.len() < MOVES_SHOWN_MAX {
            match planner.next(self.threshold(moves.len() == relieving)) {
                Some(next) => moves.push(next),
                None => break,
            }
        }
        moves
    }

    fn disk_fills(&self, planner: &Planner<'_>) -> Vec<DiskFill> {
        let fill = |bin: &Bin| DiskFill {
            place: self.place(bin.candidate.disk),
            usable_bytes: bin.before.usable,
            used_bytes: bin.before.used,
            promised_bytes: bin.before.promised,
            fill_permille: bin.before.fill().permille(),
            fill_permille_after: bin.candidate.load.fill().permille(),
        };
        planner.bins().iter().map(fill).collect()
    }

    fn place(&self, disk: DiskId) -> DiskPlace {
        let node = self
            .disks
            .get(&disk)
            .map(|row| row.node)
            .unwrap_or_default();
        let row = self.nodes.get(&node);
        DiskPlace {
            disk,
            node,
            node_name: row.map(|row| row.name.clone()).unwrap_or_default(),
        }
    }

    /// A move that is under way; its successor is the last of the row.
    fn show_move(&self, row: &ShardRow) -> Option<RebalanceMove> {
        let leaving = row.replicas.iter().find(|r| r.leaving)?;
        let successor = row.replicas.last()?;
        let at = (row.volume, row.index);
        Some(self.describe(at, leaving.id, (leaving.disk, successor.disk)))
    }

    fn show_planned(&self, next: &Move) -> PlannedMove {
        PlannedMove {
            what: self.describe(next.at, next.replica, (next.from.1, next.to.1)),
            from_permille: next.why.from.permille(),
            from_permille_after: next.why.from_after.permille(),
            to_permille: next.why.to.permille(),
            to_permille_after: next.why.to_after.permille(),
        }
    }

    fn describe(&self, at: At, replica: ReplicaId, (from, to): (DiskId, DiskId)) -> RebalanceMove {
        let volume = self.volumes.get(&at.0);
        RebalanceMove {
            volume: at.0,
            volume_name: volume.map(|row| row.name.clone()).unwrap_or_default(),
            shard: at.1,
            bytes: self.replica_bytes(at),
            replica,
            from: self.place(from),
            to: self.place(to),
        }
    }
}

fn count(items: usize) -> u32 {
    u32::try_from(items).unwrap_or(u32::MAX)
}
