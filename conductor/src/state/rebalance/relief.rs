//! Moves off disks that are fuller than the hard threshold, or refuse writes.
//!
//! Stores say what the largest replicas take, so these moves go by what is written and not by what is
//! promised. Invariants: nothing moves to a disk that would come to lie above the soft threshold by
//! it, with all that is on its way there; nor from one that what is on its way off it brings below
//! that. So no disk that took a replica has to give one away for it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use ashlar_proto::api::DiskLevel;
use ashlar_proto::{ByteCount, DiskId, ReplicaId};

use super::Move;
use super::planner::{Piece, Planner};
use crate::placement::Written;

impl Planner<'_> {
    /// The next move off a disk that is too full, done here.
    pub(super) fn relieve(&mut self) -> Option<Move> {
        let mut full: Vec<usize> = (0..self.bins().len())
            .filter(|&bin| self.bins()[bin].before.level >= DiskLevel::Hard)
            .collect();
        full.sort_by_key(|&bin| (Reverse(self.used_percent(bin)), self.disk_of(bin)));
        full.into_iter().find_map(|from| self.relieve_one(from))
    }

    fn relieve_one(&mut self, from: usize) -> Option<Move> {
        let load = self.bins()[from].before;
        let disk = self.disk_of(from);
        let off = self.leaving(disk);
        let too_much = load.taken().saturating_sub(load.soft()).saturating_sub(off);
        // Of several lanes one may be full where the disk is not.
        if too_much == 0 && (load.level < DiskLevel::Full || off > 0) {
            return None;
        }
        let mut targets: Vec<usize> = (0..self.bins().len())
            .filter(|&bin| self.bins()[bin].before.level == DiskLevel::Ample)
            .collect();
        targets.sort_by_key(|&bin| (self.used_percent(bin), self.disk_of(bin)));
        for piece in self.largest_of(disk) {
            let Piece { replica, at, .. } = piece;
            let want = self.state().want_of(at);
            // What is kept for it, it will take.
            let takes = piece.written.most.get().max(want.reserve.get());
            let fits = |&to: &usize| {
                let target = &self.bins()[to];
                let after = target.before.taken() + self.coming(target.candidate.disk) + takes;
                after < target.before.soft()
                    && target.candidate.load.has_room(want)
                    && self.may_move(replica, at, &target.candidate)
            };
            if let Some(to) = targets.iter().copied().find(fits) {
                self.note_moved(at);
                self.note_under_way(disk, self.disk_of(to), takes);
                return Some(self.carry_out(from, to, piece));
            }
        }
        None
    }

    /// The replicas of a disk whose store says what they take, those that take the most first.
    pub(super) fn largest_of(&self, disk: DiskId) -> Vec<Piece> {
        let state = self.state();
        let Some(row) = state.disks.get(&disk) else {
            return Vec::new();
        };
        let largest = self.live().report(row).largest.iter();
        let uses: BTreeMap<ReplicaId, ByteCount> =
            largest.map(|of| (of.replica, of.used_bytes)).collect();
        let held = state.holds.get(&disk).into_iter().flatten();
        let mut pieces: Vec<Piece> = held
            .filter_map(|(at, held)| {
                let used = uses.get(&held.replica)?;
                Some(Piece {
                    replica: held.replica,
                    at: *at,
                    bytes: state.replica_bytes(*at),
                    written: Written::exactly(*used),
                })
            })
            .collect();
        pieces.sort_unstable_by_key(|piece| (Reverse(piece.written.most), piece.replica));
        pieces
    }

    fn disk_of(&self, bin: usize) -> DiskId {
        self.bins()[bin].candidate.disk
    }

    fn used_percent(&self, bin: usize) -> u128 {
        let load = self.bins()[bin].before;
        let taken = u128::from(load.taken()) + u128::from(self.coming(self.disk_of(bin)));
        taken * 1000 / u128::from(load.usable.max(ByteCount::new(1)).get())
    }
}
