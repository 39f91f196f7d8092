//! The metadata compared with what stores hold: what differs, and the rows that put it right.
//!
//! Pure. Invariants:
//! - a replica becomes a member of an in-sync set only if it is shown to hold every write that any disk
//!   knows of, see [`trust`]; who cannot be told from one that was replaced is left out, and where that
//!   leaves nobody the shard is left as it is;
//! - a set in a row stands unless a disk has seen a newer epoch than the row: the row then is of before a
//!   change of the set;
//! - a restored row stands only if each member of its set was looked at, or every disk that there is: who
//!   knows of a newer set may be on one that was not;
//! - after a repair generation and epoch are above all that any disk has seen, so that whoever owned the
//!   volume before is fenced by the next owner, and proposes nothing; also of volumes that are given up;
//! - of a volume that something is undecided of, no row is changed.
//!
//! ```text
//! rows ─┐                 ┌─ findings, each with a code and what to do
//!       ├─▶ compare ──────┤
//! disks ┘                 └─ rows to put: sets, generations, layers, volumes, counters
//! ```

mod code;
mod shard;
#[cfg(test)]
mod tests;
mod trust;
mod volume;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use ashlar_proto::api::{FindingKind, FoundReplica, MetadataFinding};
use ashlar_proto::{DiskId, NodeId, ShardIndex, VolumeId};

use crate::row::{AnyRow, ClusterRow, RecoveryRow, ShardRow, SnapshotRow, VolumeRow};
use code::Code;

/// Ids that are skipped where some are in use that the counters know nothing of: there may be others.
pub(crate) const IDS_SKIPPED: u64 = 1 << 20;

/// Generations that are skipped beyond the highest that was seen: some may have been given out that no
/// replica has heard of.
pub(crate) const GENERATIONS_SKIPPED: u32 = 4096;

/// Epochs that are skipped likewise.
pub(crate) const EPOCHS_SKIPPED: u32 = 1 << 16;

/// What the metadata say.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) cluster: ClusterRow,
    pub(crate) volumes: BTreeMap<VolumeId, VolumeRow>,
    pub(crate) names: BTreeMap<String, VolumeId>,
    pub(crate) shards: BTreeMap<(VolumeId, ShardIndex), ShardRow>,
    pub(crate) snapshots: Vec<SnapshotRow>,
    pub(crate) disks: BTreeMap<DiskId, NodeId>,
    pub(crate) recovery: Option<RecoveryRow>,
}

/// What stores say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// The disks that were told of, whole.
    pub(crate) disks: BTreeSet<DiskId>,
    /// Disks that were told of, but that are none of the node's by its row.
    pub(crate) unregistered: BTreeSet<DiskId>,
    /// Disks that somebody says are gone for good.
    pub(crate) gone: BTreeSet<DiskId>,
    /// Somebody vouches that there are no disks but those that the metadata know.
    pub(crate) all_disks: bool,
    /// Volumes whose owners are connected to a store.
    pub(crate) owned: BTreeSet<VolumeId>,
    /// All that lies on the disks.
    pub(crate) replicas: Vec<FoundReplica>,
    /// Volumes that somebody vouches for.
    pub(crate) accepted: BTreeSet<VolumeId>,
}

/// What comes of a comparison.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Everything that differs.
    pub(crate) findings: Vec<MetadataFinding>,
    /// The rows that put right what is repairable, by volume.
    pub(crate) puts: BTreeMap<VolumeId, Vec<AnyRow>>,
    /// The rows that a volume needs as it is, so that no generation and no epoch is given out twice.
    pub(crate) guards: BTreeMap<VolumeId, Vec<AnyRow>>,
    /// The counters of ids, where they are behind.
    pub(crate) counters: Option<ClusterRow>,
    /// Volumes of which something is undecided.
    pub(crate) undecided: BTreeSet<VolumeId>,
    /// Every disk that the metadata know was told of, or is gone.
    pub(crate) all_heard: bool,
    /// That, and there are no others.
    pub(crate) complete: bool,
    /// The rows are put.
    pub(crate) mended: bool,
}

impl Outcome {
    fn find(&mut self, code: Code, volume: Option<VolumeId>, shard: Option<ShardIndex>) {
        if let (FindingKind::Undecided, Some(volume)) = (code.kind(), volume) {
            self.undecided.insert(volume);
        }
        self.findings.push(code.finding(volume, shard));
    }

    /// The recovery as it goes on once the rows are put; nothing where it is over.
    pub(crate) fn recovery_after(&self, before: &RecoveryRow) -> Option<RecoveryRow> {
        let is_over = self.complete && self.undecided.is_empty();
        (!is_over).then(|| RecoveryRow {
            compared: true,
            undecided: self.undecided.clone(),
            ..before.clone()
        })
    }
}

/// Compares.
pub(crate) fn compare(known: &Known, found: &Found) -> Outcome {
    let mut outcome = disks(known, found);
    let mut by_volume: BTreeMap<VolumeId, Vec<&FoundReplica>> = BTreeMap::new();
    for volume in known
        .volumes
        .keys()
        .chain(known.shards.keys().map(|at| &at.0))
    {
        by_volume.entry(*volume).or_default();
    }
    // Of a disk that no row knows nothing can be said: its store has yet to register it.
    let told = found.replicas.iter();
    for replica in told.filter(|it| known.disks.contains_key(&it.disk)) {
        by_volume.entry(replica.volume).or_default().push(replica);
    }
    for (volume, replicas) in by_volume {
        volume::compare(known, found, volume, &replicas, &mut outcome);
    }
    outcome.counters = counters(known, found, &mut outcome.findings);
    outcome
        .findings
        .sort_by_key(|finding| Reverse(finding.kind));
    outcome
}

/// Which disks were looked at, and whether there are others.
fn disks(known: &Known, found: &Found) -> Outcome {
    let disks = known.disks.keys().copied();
    let unheard = disks.filter(|disk| !found.disks.contains(disk) && !found.gone.contains(disk));
    let unheard: Vec<DiskId> = unheard.collect();
    let told = found.disks.iter().chain(&found.unregistered);
    let unknown = told.filter(|disk| !known.disks.contains_key(disk));
    let unknown: BTreeSet<DiskId> = unknown.copied().collect();
    let all_heard = unheard.is_empty() && unknown.is_empty();
    let mut outcome = Outcome {
        all_heard,
        complete: all_heard && found.all_disks,
        ..Outcome::default()
    };
    let recovering = known.recovery.is_some();
    for disk in unheard {
        outcome.find(Code::DiskUnheard { disk, recovering }, None, None);
    }
    for disk in unknown {
        outcome.find(Code::DiskUnregistered { disk, recovering }, None, None);
    }
    if recovering && outcome.all_heard && !outcome.complete {
        let count = known.disks.len();
        outcome.find(Code::DisksNotVouched { count }, None, None);
    }
    outcome
}

/// No id is given out that a disk has a replica of.
fn counters(
    known: &Known,
    found: &Found,
    findings: &mut Vec<MetadataFinding>,
) -> Option<ClusterRow> {
    let mut row = known.cluster.clone();
    let volumes = found.replicas.iter().map(|it| it.volume.get()).max();
    let replicas = found.replicas.iter().map(|it| it.replica.get()).max();
    let counters = [
        ("volumes", &mut row.next_volume, volumes),
        ("replicas", &mut row.next_replica, replicas),
    ];
    let mut is_behind = false;
    for (what, next, used) in counters {
        if let Some(used) = used.filter(|used| *used >= *next) {
            let next_id = *next;
            let behind = Code::CounterBehind {
                what,
                next: next_id,
                used,
            };
            findings.push(behind.finding(None, None));
            *next = used.saturating_add(1 + IDS_SKIPPED);
            is_behind = true;
        }
    }
    is_behind.then_some(row)
}
