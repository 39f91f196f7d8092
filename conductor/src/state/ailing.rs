//! Disks that ail: what becomes of each, and the word of a person that clears one.
//!
//! A disk ails when its store says so, and then until somebody clears that incident: neither a
//! restart of the store nor one of the conductor heals a disk, and one that is empty is quiet because
//! nobody uses it. Invariants: what is done costs no redundancy, for a replica leaves only when its
//! successor is in sync (`healing`); and no more disks are emptied at a time than [`EMPTIED_PART`] of
//! all, none at all where so many ail that the cause may be another one. One that finds no place for
//! a replica keeps it.
//!
//! ```text
//!          store: ails          its turn           no replicas left
//!   none ──────────────▶ waiting ─────▶ moving ───────────────────▶ done
//!     ▲                     │  ▲ half of all disks or fewer ail
//!     │ removed             ▼  │
//!   cleared ◀── person   withheld
//! ```

use ashlar_proto::DiskId;
use ashlar_proto::api::{DiskReport, Evacuation, Schedulable};

use super::{ClusterState, Plan};
use crate::refusal::Refusal;
use crate::row::{AnyRow, DiskRow};

/// Of all disks, one in this many is emptied at a time, but always one.
pub(crate) const EMPTIED_PART: usize = 4;

/// Nothing is done where more than one disk in this many ails.
pub(crate) const PANIC_PART: usize = 2;

impl DiskRow {
    /// The row of a disk with its next report: its labels stay, and that it ails, unless this is the
    /// incident that somebody has cleared.
    pub(super) fn with_report(before: Option<&Self>, next: Self) -> Self {
        let cleared = before.and_then(|before| before.cleared);
        let said = next.report.ailing.clone();
        let said = said.filter(|ailing| Some(ailing.incident) != cleared);
        let known = || before.and_then(|before| before.ailing.clone());
        Self {
            schedulable: before.map(|before| before.schedulable).unwrap_or_default(),
            ailing: said.or_else(known),
            cleared,
            labels: before
                .map(|before| before.labels.clone())
                .unwrap_or_default(),
            ..next
        }
    }

    /// Whether it serves as far as it can tell, but ails.
    pub(super) fn ails(&self) -> bool {
        self.ailing.is_some() && self.report.failed.is_none()
    }

    /// A report of it as people see it: with why it ails, even if its store has forgotten.
    pub(super) fn shown(&self, report: &DiskReport) -> DiskReport {
        DiskReport {
            ailing: self.ailing.clone().or_else(|| report.ailing.clone()),
            ..report.clone()
        }
    }
}

impl ClusterState {
    /// What becomes of a disk because it ails.
    pub(super) fn evacuation(&self, disk: DiskId) -> Evacuation {
        let Some(row) = self.disks.get(&disk) else {
            return Evacuation::None;
        };
        if !self.ailing.contains(&disk) {
            let said = row.report.ailing.as_ref();
            let is_cleared = said.is_some_and(|said| Some(said.incident) == row.cleared);
            return if is_cleared {
                Evacuation::Cleared
            } else {
                Evacuation::None
            };
        }
        // One that was emptied is not filled again because others ail as well.
        if self.replicas_on(disk) == 0 {
            return Evacuation::Done;
        }
        if self.ailing.len() * PANIC_PART > self.disks.len() {
            return Evacuation::Withheld;
        }
        let before = self.ailing.range(..disk);
        let before = before.filter(|other| self.replicas_on(**other) > 0).count();
        if before < (self.disks.len() / EMPTIED_PART).max(1) {
            Evacuation::Moving
        } else {
            Evacuation::Waiting
        }
    }

    /// Whether a disk takes replicas: as somebody has asked of it or its node, and because it ails.
    pub(super) fn schedulable(&self, disk: DiskId) -> Schedulable {
        let by_itself = match self.evacuation(disk) {
            Evacuation::None | Evacuation::Withheld | Evacuation::Cleared => Schedulable::Open,
            Evacuation::Waiting | Evacuation::Done => Schedulable::Cordoned,
            Evacuation::Moving => Schedulable::Draining,
        };
        self.asked_of(disk).max(by_itself)
    }

    /// Somebody says that a disk is to be used although it ails; the next incident counts again.
    pub(crate) fn plan_clear_disk(&self, disk: DiskId) -> Result<Plan<DiskId>, Refusal> {
        let current = self.require_disk(disk)?;
        let known = current.ailing.as_ref().or(current.report.ailing.as_ref());
        let cleared = known.map(|ailing| ailing.incident).or(current.cleared);
        let row = DiskRow {
            ailing: None,
            cleared,
            ..current.clone()
        };
        if row == *current {
            return Ok(Plan::nothing(disk));
        }
        Ok(Plan {
            reads: Vec::new(),
            changes: vec![AnyRow::Disk(row).put()],
            answer: disk,
        })
    }
}
