//! Which replica moves next, if all moves before it were done: a simulation, one move at a time.
//!
//! Invariants: the same state and reports give the same moves; no shard moves twice; a move keeps
//! the rules of placement, and leaves both disks between where the two were, so that the fullest
//! disks become less full until no move helps.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use ashlar_proto::api::{Replica, VolumeState};
use ashlar_proto::limits::USES_REPORTED_MAX;
use ashlar_proto::{ByteCount, DiskId, ReplicaId};

use super::{Move, Why};
use crate::live::Live;
use crate::placement::{Candidate, Fill, Load, Written};
use crate::row::ShardRow;
use crate::state::{At, ClusterState};

/// The fullest disks that a move is looked for from, and the emptiest to: where none helps, all
/// pairs of them are tried.
const DISKS_LOOKED_AT_MAX: usize = 32;

/// A disk that takes part.
pub(super) struct Bin {
    /// The disk, with its load as simulated.
    pub(super) candidate: Candidate,
    /// Its load as reported.
    pub(super) before: Load,
}

impl Bin {
    fn disk(&self) -> DiskId {
        self.candidate.disk
    }

    fn fill(&self) -> Fill {
        self.candidate.load.fill()
    }
}

/// The replicas of a disk: by length, for how much a move helps depends on nothing else; those of one
/// length in the order of their ids.
type Held = BTreeMap<ByteCount, BTreeMap<ReplicaId, At>>;

/// A replica that may move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Piece {
    pub(super) replica: ReplicaId,
    pub(super) at: At,
    /// Its length.
    pub(super) bytes: ByteCount,
    /// What of it is written, as far as can be told.
    pub(super) written: Written,
}

/// What a store says of the replicas of a disk.
struct Told {
    /// Those that take the most.
    pieces: Vec<Piece>,
    /// Their ids.
    replicas: BTreeSet<ReplicaId>,
    /// The others take no more than this.
    others: ByteCount,
}

/// The simulation.
pub(super) struct Planner<'a> {
    state: &'a ClusterState,
    live: &'a Live,
    bins: Vec<Bin>,
    /// Shards that have moved here.
    moved: BTreeSet<At>,
    /// What lies on the disks that were looked at.
    held: BTreeMap<DiskId, Held>,
    /// What their stores say of it.
    told: BTreeMap<DiskId, Told>,
    /// Bytes that are on their way off disks, and to them, as far as stores have told of the replicas.
    off: BTreeMap<DiskId, u64>,
    on: BTreeMap<DiskId, u64>,
}

impl<'a> Planner<'a> {
    /// Begins where all that is under way is done.
    pub(super) fn new(state: &'a ClusterState, live: &'a Live) -> Self {
        let bins = state.candidates(live).into_iter().map(|candidate| Bin {
            before: candidate.load,
            candidate,
        });
        let mut planner = Self {
            state,
            live,
            bins: bins.collect(),
            moved: BTreeSet::new(),
            held: BTreeMap::new(),
            told: BTreeMap::new(),
            off: BTreeMap::new(),
            on: BTreeMap::new(),
        };
        for row in state.unsettled_shards() {
            planner.count_under_way(row);
            planner.finish(row);
        }
        planner
    }

    pub(super) fn state(&self) -> &'a ClusterState {
        self.state
    }

    pub(super) fn live(&self) -> &'a Live {
        self.live
    }

    /// Bytes that are on their way off a disk.
    pub(super) fn leaving(&self, disk: DiskId) -> u64 {
        self.off.get(&disk).copied().unwrap_or(0)
    }

    /// Bytes that are on their way to a disk.
    pub(super) fn coming(&self, disk: DiskId) -> u64 {
        self.on.get(&disk).copied().unwrap_or(0)
    }

    /// So much is on its way from one disk to another from now on.
    pub(super) fn note_under_way(&mut self, from: DiskId, to: DiskId, bytes: u64) {
        *self.off.entry(from).or_default() += bytes;
        *self.on.entry(to).or_default() += bytes;
    }

    /// A shard has moved.
    pub(super) fn note_moved(&mut self, at: At) {
        self.moved.insert(at);
    }

    /// Counts what of a shard is under way: all of it, for what has been copied of it is not known.
    fn count_under_way(&mut self, row: &ShardRow) {
        if !row.replicas.iter().any(|r| r.fresh || r.leaving) {
            return;
        }
        let used = self.likely(row).get();
        for replica in &row.replicas {
            if replica.fresh {
                *self.on.entry(replica.disk).or_default() += used;
            } else if replica.leaving {
                *self.off.entry(replica.disk).or_default() += used;
            }
        }
    }

    /// How much of a replica of a shard is written: what a store says, else what is likely.
    fn likely(&self, row: &ShardRow) -> ByteCount {
        let full = || row.replicas.iter().filter(|r| !r.fresh);
        let told = full().filter_map(|r| self.state.used_by(self.live, r));
        if let Some(used) = told.max() {
            return ByteCount::new(used);
        }
        let bytes = self.state.replica_bytes((row.volume, row.index));
        let loads = full().filter_map(|r| self.bins.iter().find(|bin| bin.disk() == r.disk));
        let written = loads.map(|bin| bin.before.written(bytes).likely).max();
        written.unwrap_or(bytes)
    }

    /// The disks that take part.
    pub(super) fn bins(&self) -> &[Bin] {
        &self.bins
    }

    /// How far the fullest disk lies from the emptiest.
    pub(super) fn spread_before(&self) -> Fill {
        let fills = self.bins.iter().map(|bin| bin.before.fill());
        let (least, most) = (fills.clone().min(), fills.max());
        most.unwrap_or_default().above(least.unwrap_or_default())
    }

    /// The next move between disks that lie further apart than that, done here.
    pub(super) fn next(&mut self, apart: Fill) -> Option<Move> {
        let mut order: Vec<usize> = (0..self.bins.len()).collect();
        order.sort_by_cached_key(|&bin| (Reverse(self.bins[bin].fill()), self.bins[bin].disk()));
        for &from in order.iter().take(DISKS_LOOKED_AT_MAX) {
            for &to in order.iter().rev().take(DISKS_LOOKED_AT_MAX) {
                if self.bins[from].fill().above(self.bins[to].fill()) <= apart {
                    break;
                }
                if let Some(next) = self.best(from, to) {
                    self.moved.insert(next.at);
                    return Some(self.carry_out(from, to, next));
                }
            }
        }
        None
    }

    /// The replica whose move makes two disks the most alike; of several the oldest.
    fn best(&mut self, from: usize, to: usize) -> Option<Piece> {
        let disk = self.bins[from].disk();
        if !self.held.contains_key(&disk) {
            self.held.insert(disk, self.held_by(disk));
            self.told.insert(disk, self.told_of(disk));
        }
        let (held, told) = (self.held.get(&disk)?, self.told.get(&disk)?);
        let (source, target) = (self.bins[from].candidate.load, &self.bins[to].candidate);
        let apart = |bytes, written: Written| {
            let apart = apart_after(source, target.load, bytes, written)?;
            // A disk that takes a replica is not to become one that has to give some away for that.
            let is_full = target.load.with(bytes, written.likely).is_above_soft();
            (!is_full).then_some(apart)
        };
        let fits = |replica: ReplicaId, at: At| {
            let has_room = target.load.has_room(self.state.want_of(at));
            has_room && self.may_move(replica, at, target)
        };
        let told_of = told.pieces.iter().filter_map(|piece| {
            let apart = apart(piece.bytes, piece.written)?;
            fits(piece.replica, piece.at).then_some((apart, *piece))
        });
        let others = held.iter().filter_map(|(&bytes, held)| {
            let written = source.written(bytes).at_most(told.others);
            let apart = apart(bytes, written)?;
            let mut untold = held.iter().filter(|(id, _)| !told.replicas.contains(id));
            let (&replica, &at) = untold.find(|&(id, at)| fits(*id, *at))?;
            let piece = Piece {
                replica,
                at,
                bytes,
                written,
            };
            Some((apart, piece))
        });
        told_of.chain(others).min().map(|(_, piece)| piece)
    }

    fn told_of(&self, disk: DiskId) -> Told {
        let pieces = self.largest_of(disk);
        // Who is missing in a list that is not full has come since.
        let least = pieces.get(USES_REPORTED_MAX - 1).map(|it| it.written.most);
        Told {
            replicas: pieces.iter().map(|piece| piece.replica).collect(),
            pieces,
            others: least.unwrap_or(ByteCount::new(u64::MAX)),
        }
    }

    fn held_by(&self, disk: DiskId) -> Held {
        let mut all = Held::new();
        for (at, held) in self.state.holds.get(&disk).into_iter().flatten() {
            let of_length = all.entry(self.state.replica_bytes(*at)).or_default();
            of_length.insert(held.replica, *at);
        }
        all
    }

    /// Whether a replica may move to a disk, how much it helps aside.
    pub(super) fn may_move(&self, replica: ReplicaId, at: At, target: &Candidate) -> bool {
        let Some(row) = self.state.shards.get(&at) else {
            return false;
        };
        let is_met = |r: &Replica| r.id != replica && self.state.node_of(r) == target.node;
        if row.replicas.iter().any(is_met) || self.moved.contains(&at) || !self.is_whole(row) {
            return false;
        }
        let labels = |r: &Replica| self.state.labels_at(r);
        let (own, others): (Vec<_>, Vec<_>) = row.replicas.iter().partition(|r| r.id == replica);
        let own = own.into_iter().map(labels).next();
        let others: Vec<_> = others.into_iter().map(labels).collect();
        let others: Vec<_> = others.iter().map(AsRef::as_ref).collect();
        let rules = self.state.placement_rules(at.0);
        let overlap = |labels| rules.overlap(labels, &others);
        rules.check(&target.labels, &others).is_ok()
            && own
                .as_deref()
                .is_some_and(|own| overlap(&target.labels) <= overlap(own))
    }

    pub(super) fn carry_out(&mut self, from: usize, to: usize, piece: Piece) -> Move {
        let Piece {
            replica, at, bytes, ..
        } = piece;
        let written = piece.written.likely;
        let place = |bin: &Bin| (bin.candidate.node, bin.candidate.disk);
        let (source, target) = (&self.bins[from], &self.bins[to]);
        let source_load = source.candidate.load.without(bytes, written);
        let target_load = target.candidate.load.with(bytes, written);
        let next = Move {
            at,
            replica,
            bytes,
            from: place(source),
            to: place(target),
            why: Why {
                from: source.fill(),
                from_after: source_load.fill(),
                to: target.fill(),
                to_after: target_load.fill(),
            },
        };
        self.bins[from].candidate.load = source_load;
        self.bins[to].candidate.load = target_load;
        next
    }

    /// Whether all replicas of a shard are in sync, serve and stay where they are.
    fn is_whole(&self, row: &ShardRow) -> bool {
        let volume = self.state.volumes.get(&row.volume);
        let is_good = |r: &Replica| {
            r.in_sync
                && !r.leaving
                && self.state.serves(r.disk)
                && !self.state.is_missing(self.live, r)
        };
        volume.is_some_and(|volume| {
            volume.state == VolumeState::Ready
                && row.replicas.len() == usize::from(volume.replicas)
                && row.replicas.iter().all(is_good)
        })
    }

    /// What of a shard is under way is done here: who leaves has gone, who is fresh is filled.
    fn finish(&mut self, row: &ShardRow) {
        let fresh = row.replicas.iter().filter(|r| r.fresh);
        let leaving = row.replicas.iter().filter(|r| r.leaving);
        let changing: Vec<(&Replica, bool)> = fresh
            .map(|r| (r, true))
            .chain(leaving.map(|r| (r, false)))
            .collect();
        if changing.is_empty() {
            return;
        }
        let bytes = self.state.replica_bytes((row.volume, row.index));
        let written = self.likely(row);
        for (replica, comes) in changing {
            let is_here = |bin: &&mut Bin| bin.disk() == replica.disk;
            let Some(bin) = self.bins.iter_mut().find(is_here) else {
                continue;
            };
            let load = bin.candidate.load;
            bin.candidate.load = if comes {
                // What has been copied already counts twice: rather too full than too empty.
                let used = load.used.get().saturating_add(written.get());
                let used = used.min(load.promised.get()).max(load.used.get());
                Load {
                    used: ByteCount::new(used),
                    ..load
                }
            } else {
                load.without(bytes, written)
            };
        }
    }
}

/// How far apart two disks are after a move from the one to the other, if it helps: both come to lie
/// between where they were, and if the target is then the fuller one, at most half as far apart as
/// before. That holds however much of the replica is written, as far as can be told.
fn apart_after(source: Load, target: Load, bytes: ByteCount, written: Written) -> Option<Fill> {
    let (from, to) = (source.fill(), target.fill());
    let after = |written: ByteCount| {
        let from_after = source.without(bytes, written).fill();
        let to_after = target.with(bytes, written).fill();
        let is_between = |fill: Fill| fill > to && fill < from;
        let too_far = to_after.above(from_after) > from.above(to).half();
        let apart = from_after.above(to_after).max(to_after.above(from_after));
        (is_between(from_after) && is_between(to_after) && !too_far).then_some(apart)
    };
    after(written.least)?;
    after(written.most)?;
    after(written.likely)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(used: u64, promised: u64) -> Load {
        Load {
            usable: ByteCount::new(1000),
            used: ByteCount::new(used),
            promised: ByteCount::new(promised),
            ..Load::default()
        }
    }

    fn apart_by_bounds(source: Load, target: Load, bytes: u64) -> Option<Fill> {
        let bytes = ByteCount::new(bytes);
        apart_after(source, target, bytes, source.written(bytes))
    }

    #[test]
    fn a_move_that_only_swaps_the_two_does_not_help() {
        assert_eq!(apart_by_bounds(load(400, 400), load(0, 0), 400), None);
        assert!(apart_by_bounds(load(800, 800), load(0, 0), 400).is_some());
        assert!(apart_by_bounds(load(500, 500), load(0, 0), 400).is_none());
    }

    #[test]
    fn a_move_that_helps_only_if_the_replica_is_empty_is_not_made() {
        // Of the two, either may hold all that is written.
        assert!(apart_by_bounds(load(0, 600), load(0, 0), 300).is_some());
        assert!(apart_by_bounds(load(300, 600), load(150, 150), 300).is_none());
    }

    #[test]
    fn what_a_store_says_of_a_replica_decides() {
        // Seven and five replicas of 64 on disks of 893: were one of the seven full, its move would only
        // turn things round.
        let of = |used, promised| Load {
            usable: ByteCount::new(893),
            ..load(used, promised)
        };
        let (source, target) = (of(186, 448), of(194, 320));
        assert!(apart_by_bounds(source, target, 64).is_none());
        let told = |used| {
            let written = Written::exactly(ByteCount::new(used));
            apart_after(source, target, ByteCount::new(64), written)
        };
        assert!(told(27).is_some() && told(0).is_some());
        assert!(told(64).is_none());
    }
}
