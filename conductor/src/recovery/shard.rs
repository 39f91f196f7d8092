//! One shard: whether its row stands, and what it is to be if not.

use std::collections::{BTreeMap, BTreeSet};

use ashlar_proto::api::{FoundReplica, Replica};
use ashlar_proto::{DiskId, Epoch, NodeId, ShardIndex, VolumeId};

use super::code::Code;
use super::trust::{Around, members};
use super::{EPOCHS_SKIPPED, Known};
use crate::row::ShardRow;

/// A shard to be looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'a> {
    pub(super) known: &'a Known,
    /// The disks that were looked at.
    pub(super) heard: &'a BTreeSet<DiskId>,
    pub(super) volume: VolumeId,
    pub(super) index: ShardIndex,
    /// All replicas of it that were found.
    pub(super) found: &'a [&'a FoundReplica],
    /// By how much its epoch was raised since the row was written.
    pub(super) skipped: u32,
    /// The row is of a backup, and was not compared yet.
    pub(super) restored: bool,
    pub(super) around: Around,
}

/// What comes of it.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    /// What was found, beside what is undecided.
    pub(super) codes: Vec<Code>,
    /// The row as it is to be; nothing where it is undecided.
    pub(super) row: Option<ShardRow>,
    /// Its set is another one than in its row.
    pub(super) is_rebuilt: bool,
}

impl Look<'_> {
    /// Looks at it.
    ///
    /// # Errors
    /// What is undecided.
    pub(super) fn judge(self) -> Result<Judged, Code> {
        let seen = self.found.iter().map(|it| it.epoch).max();
        let seen = seen.unwrap_or_default();
        let row = self.known.shards.get(&(self.volume, self.index));
        let Some(row) = row else {
            if self.found.is_empty() {
                return Err(Code::ShardLost);
            }
            let row = self.rebuilt(seen, Epoch::default())?;
            let members = row.replicas.len();
            return Ok(self.judged(row, vec![Code::ShardRowLost { members }], true));
        };
        let said = Epoch::new(row.epoch.get().saturating_sub(self.skipped));
        if seen <= said {
            return self.standing(row);
        }
        let row = self.rebuilt(seen, row.epoch)?;
        let members = row.replicas.len();
        let behind = Code::ShardBehind {
            said,
            seen,
            members,
        };
        Ok(self.judged(row, vec![behind], true))
    }

    fn judged(self, row: ShardRow, mut codes: Vec<Code>, is_rebuilt: bool) -> Judged {
        let is_named =
            |it: &FoundReplica| row.replicas.iter().any(|member| member.id == it.replica);
        let unnamed = self.found.iter().filter(|it| !is_named(it));
        codes.extend(unnamed.map(|it| Code::ReplicaUnnamed {
            replica: it.replica,
            disk: it.disk,
        }));
        Judged {
            codes,
            row: Some(row),
            is_rebuilt,
        }
    }

    /// A row whose set is as new as any disk knows.
    fn standing(self, row: &ShardRow) -> Result<Judged, Code> {
        let mut row = row.clone();
        let mut codes = Vec::new();
        let places: BTreeMap<_, DiskId> =
            self.found.iter().map(|it| (it.replica, it.disk)).collect();
        let taken: Vec<DiskId> = row.replicas.iter().map(|it| it.disk).collect();
        for it in &mut row.replicas {
            let (replica, said) = (it.id, it.disk);
            match places.get(&replica) {
                Some(&found) if found != said && !taken.contains(&found) => {
                    codes.push(Code::ReplicaElsewhere {
                        replica,
                        said,
                        found,
                    });
                    it.disk = found;
                    it.node = self.node(found);
                }
                Some(_) => {}
                None if !it.fresh && self.is_heard(said) => {
                    let disk = said;
                    codes.push(Code::ReplicaNotHeld { replica, disk });
                }
                None => {}
            }
        }
        let is_there = |it: &Replica| places.contains_key(&it.id) || !self.is_heard(it.disk);
        let is_new = row.replicas.iter().all(|it| it.fresh);
        if !is_new && !row.replicas.iter().any(|it| it.in_sync && is_there(it)) {
            return Err(Code::NoMemberHeld);
        }
        let members = row.replicas.iter().filter(|it| it.in_sync);
        let held = members.clone().filter(|it| places.contains_key(&it.id));
        let (members, held) = (members.count(), held.count());
        // Whoever stayed in the set has heard of its change, if any did stay.
        if self.restored && held < members && !self.around.complete {
            return Err(Code::Unwitnessed { held, members });
        }
        Ok(self.judged(row, codes, false))
    }

    /// A row of the members, of an epoch above any that was seen or given out.
    fn rebuilt(self, seen: Epoch, said: Epoch) -> Result<ShardRow, Code> {
        let members = members(self.found, self.around)?;
        let replica = |it: &&FoundReplica| Replica {
            id: it.replica,
            node: self.node(it.disk),
            disk: it.disk,
            in_sync: true,
            fresh: false,
            leaving: false,
        };
        Ok(ShardRow {
            volume: self.volume,
            index: self.index,
            // Also above all for who takes the skip of the restore off it.
            epoch: epoch_above(Epoch::new(seen.get().saturating_add(self.skipped))).max(said),
            replicas: members.iter().map(replica).collect(),
            made: Vec::new(),
            rebalancing: false,
        })
    }

    /// The row as it is, of an epoch above any that was seen, if it is not.
    pub(super) fn guarded(self) -> Option<ShardRow> {
        let seen = self.found.iter().map(|it| it.epoch).max()?;
        let row = self.known.shards.get(&(self.volume, self.index))?;
        (seen > row.epoch).then(|| ShardRow {
            epoch: epoch_above(seen),
            ..row.clone()
        })
    }

    fn node(self, disk: DiskId) -> NodeId {
        // Only replicas on disks that the metadata know are looked at.
        self.known.disks.get(&disk).copied().unwrap_or_default()
    }

    fn is_heard(self, disk: DiskId) -> bool {
        self.heard.contains(&disk)
    }
}

fn epoch_above(seen: Epoch) -> Epoch {
    Epoch::new(seen.get().saturating_add(EPOCHS_SKIPPED))
}
