//! What is known of nodes only as long as the conductor runs: heartbeats, last reports, progress.
//!
//! Invariant: nothing here is a promise to anybody; after a restart the heartbeats bring it back.

use std::collections::BTreeMap;

use ashlar_proto::api::{DiskReport, Revision};
use ashlar_proto::{DiskId, Generation, NodeId, PortalGroup, VolumeId};

use crate::absence::Absence;
use crate::events::EventLog;
use crate::evidence::Evidence;
use crate::fills::Fills;
use crate::holds::Holds;
use crate::inventories::Inventories;
use crate::levels::Levels;
use crate::membership::{Membership, Moment};
use crate::row::DiskRow;
use crate::spell::Spell;
use crate::state::{Judgment, Turns};
use crate::tasks::TaskBook;

/// The volatile side of the cluster.
#[derive(Debug)]
pub(crate) struct Live {
    /// Who was heard when.
    pub(crate) membership: Membership,
    /// Which iSCSI servers were heard when.
    pub(crate) servers: Membership<PortalGroup>,
    /// The generation and the version of its reservations that who serves a volume has said it goes by.
    pub(crate) confirmed: BTreeMap<VolumeId, (Generation, u64)>,
    /// The revision of assignments that each node has carried out.
    pub(crate) applied: BTreeMap<NodeId, Revision>,
    /// The last report of each disk.
    pub(crate) reports: BTreeMap<DiskId, DiskReport>,
    /// What nodes and owners say of each other.
    pub(crate) evidence: Evidence,
    /// What followed from that at the last look.
    pub(crate) judgment: Judgment,
    /// Which disks do not serve, and for how long.
    pub(crate) absence: Absence,
    /// Which fresh replicas are filled, and for how long.
    pub(crate) fills: Fills,
    /// The revision at which nothing was amiss, if that is how it last was.
    pub(crate) calm: Option<Revision>,
    /// When each volume that needs repair was last given a task.
    pub(crate) turns: BTreeMap<VolumeId, Moment>,
    /// The spell of healing that is under way.
    pub(crate) spell: Spell,
    /// What owners have said of groups of snapshots in the making.
    pub(crate) holds: Holds,
    /// How full each disk was found to be.
    pub(crate) levels: Levels,
    /// More is promised than the rules of space allow.
    pub(crate) over_committed: bool,
    /// What has happened of late.
    pub(crate) events: EventLog,
    /// What is under way, and has ended of late.
    pub(crate) tasks: TaskBook,
    /// What stores tell of their disks, while somebody checks the metadata.
    pub(crate) inventories: Inventories,
}

impl Live {
    /// Nothing known yet.
    pub(crate) fn new(
        membership: Membership,
        absence: Absence,
        fills: Fills,
        evidence: Evidence,
    ) -> Self {
        Self {
            servers: Membership::new(membership.timeout(), Moment::default()),
            confirmed: BTreeMap::new(),
            membership,
            applied: BTreeMap::new(),
            reports: BTreeMap::new(),
            evidence,
            judgment: Judgment::default(),
            absence,
            fills,
            calm: None,
            turns: BTreeMap::new(),
            spell: Spell::default(),
            holds: Holds::default(),
            levels: Levels::default(),
            over_committed: false,
            events: EventLog::default(),
            tasks: TaskBook::default(),
            inventories: Inventories::default(),
        }
    }

    /// The last report of a disk; the stored one where none came since the start, and where the
    /// stored one says that its node lost it.
    pub(crate) fn report<'a>(&'a self, row: &'a DiskRow) -> &'a DiskReport {
        if row.report.failed.is_some() {
            return &row.report;
        }
        self.reports.get(&row.report.id).unwrap_or(&row.report)
    }

    /// Notes who was given a repair task, and who needs none any more.
    pub(crate) fn note_turns(&mut self, now: Moment, turns: &Turns) {
        for volume in &turns.over {
            self.turns.remove(volume);
        }
        for volume in &turns.given {
            self.turns.insert(*volume, now);
        }
    }

    /// The revision that a node has carried out.
    pub(crate) fn applied(&self, node: NodeId) -> Revision {
        self.applied.get(&node).copied().unwrap_or_default()
    }
}
