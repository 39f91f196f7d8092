//! The metadata compared with what stores hold: what differs, and the rows that put it right.
//!
//! Pure. Invariants:
//! - a replica becomes a member of an in-sync set only if it is shown to hold every write that any disk
//!   knows of, see [`trust`]; who cannot be told from one that was replaced is left out, and where that
//!   leaves nobody the shard is left as it is;
//! - a set in a row stands unless a disk has seen a newer epoch than the row: the row then is of before a
//!   change of the set;
//! - after a repair generation and epoch are above all that any disk has seen, so that whoever owned the
//!   volume before is fenced by the next owner, and proposes nothing;
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
/// replica has heard of. A generation is one of 2^24.
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
    /// Volumes whose owners are connected to a store.
    pub(crate) owned: BTreeSet<VolumeId>,
    /// All that lies on the disks.
    pub(crate) replicas: Vec<FoundReplica>,
    /// Volumes whose replicas somebody vouches for where all of them agree.
    pub(crate) accepted: BTreeSet<VolumeId>,
}

/// What comes of a comparison.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Everything that differs.
    pub(crate) findings: Vec<MetadataFinding>,
    /// The rows that put right what is repairable.
    pub(crate) puts: Vec<AnyRow>,
    /// Volumes of which something is undecided.
    pub(crate) undecided: BTreeSet<VolumeId>,
    /// Every disk that the metadata know was told of.
    pub(crate) all_heard: bool,
    /// The rows are put.
    pub(crate) mended: bool,
}

impl Outcome {
    fn find(&mut self, code: Code, volume: Option<VolumeId>, shard: Option<ShardIndex>) {
        let kind = code.kind();
        if let (FindingKind::Undecided, Some(volume)) = (kind, volume) {
            self.undecided.insert(volume);
        }
        self.findings.push(MetadataFinding {
            code: code.word().to_owned(),
            kind,
            volume,
            shard,
            detail: code.to_string(),
        });
    }

    /// The recovery as it goes on once the rows are put; nothing where it is over.
    pub(crate) fn recovery_after(&self, before: &RecoveryRow) -> Option<RecoveryRow> {
        let is_over = self.all_heard && self.undecided.is_empty();
        (!is_over).then(|| RecoveryRow {
            compared: true,
            undecided: self.undecided.clone(),
            ..before.clone()
        })
    }
}

/// Compares.
pub(crate) fn compare(known: &Known, found: &Found) -> Outcome {
    let disks = known.disks.keys().copied();
    let unheard: Vec<DiskId> = disks.filter(|disk| !found.disks.contains(disk)).collect();
    let mut outcome = Outcome {
        all_heard: unheard.is_empty(),
        ..Outcome::default()
    };
    let recovering = known.recovery.is_some();
    for disk in unheard {
        outcome.find(Code::DiskUnheard { disk, recovering }, None, None);
    }
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
    counters(known, found, &mut outcome);
    outcome
        .findings
        .sort_by_key(|finding| Reverse(finding.kind));
    outcome
}

/// No id is given out that a disk has a replica of.
fn counters(known: &Known, found: &Found, outcome: &mut Outcome) {
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
            outcome.find(
                Code::CounterBehind {
                    what,
                    next: *next,
                    used,
                },
                None,
                None,
            );
            *next = used.saturating_add(1 + IDS_SKIPPED);
            is_behind = true;
        }
    }
    if is_behind {
        outcome.puts.push(AnyRow::Cluster(row));
    }
}
