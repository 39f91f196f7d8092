//! Plans for groups: snapshots of several volumes that are all of one moment, or none of them.
//!
//! ```text
//!  hold ──▶ all owners hold ──▶ seal ──▶ all owners have kept still ──▶ confirm ──▶ (snapshots)
//!    │ not all in time            │ one did not, or was replaced
//!    └──────────▶ (gone) ◀────────┴─ its snapshots are deleted
//! ```
//!
//! The row of a group lives from hold to confirm or failure, and owners see it in the maps of their
//! volumes. What they answer is kept in memory only ([`Holds`]): a conductor that dies takes it along,
//! and the next one fails the groups that it finds.
//!
//! Invariants: a volume is in one group at a time; its head is sealed for nothing else while its owner
//! holds; a snapshot whose group has a row is not ready; a group is confirmed only if each owner that
//! was asked to hold has said, in the generation that was asked, that it kept still; nobody could write
//! to the volumes that no owner was asked about.

use std::collections::BTreeSet;

use ashlar_proto::api::{
    CreateSnapshotGroup, HoldAnswer, HoldOutcome, HoldWord, ReportHold, Revision, Snapshot,
    VolumeHold,
};
use ashlar_proto::limits::GROUP_VOLUMES_MAX;
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_proto::{GroupId, Layer, VolumeId};

use super::owners::stale_generation;
use super::snapshots::TableChange;
use super::{ClusterState, Plan};
use crate::holds::Holds;
use crate::meta::Change;
use crate::refusal::{GroupRefusal, InvalidRequest, Refusal, check_name};
use crate::row::{
    AnyRow, ClusterRow, GroupRow, MemberRow, SnapshotRow, VolumeRow, group_key, snapshot_key,
    volume_key,
};

/// How far a group has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Some owner has yet to answer.
    Waiting,
    /// All have said what the next step needs.
    Complete,
    /// It cannot come about any more.
    Failed(GroupRefusal),
}

impl ClusterState {
    /// Begins a group: its owners are asked to hold.
    pub(crate) fn plan_group_hold(
        &self,
        request: &CreateSnapshotGroup,
    ) -> Result<Plan<GroupId>, Refusal> {
        check_name(&request.name)?;
        let count = request.volumes.len();
        if !(2..=GROUP_VOLUMES_MAX).contains(&count) {
            return Err(InvalidRequest::GroupSize { count }.into());
        }
        let mut known = BTreeSet::new();
        let mut members = Vec::with_capacity(count);
        for name in &request.volumes {
            let current = self.require_ready(name)?;
            let volume = || name.clone();
            if !known.insert(current.id) {
                return Err(GroupRefusal::Twice { volume: volume() }.into());
            }
            if self.grouped.contains_key(&current.id) {
                return Err(GroupRefusal::InProgress { volume: volume() }.into());
            }
            if current.unfenced {
                return Err(GroupRefusal::Unfenced { volume: volume() }.into());
            }
            // What the seal would refuse is refused before anybody holds.
            self.sealed(current, &request.name, 0, None)?;
            members.push(MemberRow {
                volume: current.id,
                generation: current.generation,
                holds: has_writer(current),
                sealed: None,
            });
        }
        let id = GroupId::new(self.cluster.next_group);
        let cluster = ClusterRow {
            next_group: id.next().get(),
            ..self.cluster.clone()
        };
        let row = GroupRow {
            id,
            name: request.name.clone(),
            members,
        };
        Ok(Plan {
            reads: known.into_iter().map(volume_key).collect(),
            changes: vec![AnyRow::Cluster(cluster).put(), AnyRow::Group(row).put()],
            answer: id,
        })
    }

    /// Seals all heads at once, if all owners hold and everything is as it was when they were asked to.
    pub(crate) fn plan_group_seal(
        &self,
        holds: &Holds,
        id: GroupId,
        now_ms: u64,
    ) -> Result<Plan<()>, Refusal> {
        let group = self.require_group(id)?;
        match self.group_progress(holds, id) {
            Progress::Complete => {}
            Progress::Waiting => return Err(self.group_silent(holds, id).into()),
            Progress::Failed(refusal) => return Err(refusal.into()),
        }
        let mut row = group.clone();
        let mut changes = Vec::with_capacity(2 * row.members.len() + 1);
        for member in &mut row.members {
            let current = self.require_unchanged(member)?;
            let (snapshot, volume) = self.sealed(current, &group.name, now_ms, Some(id))?;
            member.sealed = Some(snapshot.layer);
            changes.push(AnyRow::Snapshot(snapshot).put());
            changes.push(AnyRow::Volume(volume).put());
        }
        changes.push(AnyRow::Group(row).put());
        Ok(Plan {
            reads: Vec::new(),
            changes,
            answer: (),
        })
    }

    /// Ends a group as good: its snapshots are ready once their layers are settled.
    pub(crate) fn plan_group_confirm(
        &self,
        holds: &Holds,
        id: GroupId,
    ) -> Result<Plan<()>, Refusal> {
        let group = self.require_group(id)?;
        match self.group_progress(holds, id) {
            Progress::Complete => {}
            Progress::Waiting => return Err(self.group_silent(holds, id).into()),
            Progress::Failed(refusal) => return Err(refusal.into()),
        }
        let sealed = group.members.iter().filter_map(|member| {
            let layer = member.sealed?;
            Some(snapshot_key(member.volume, layer))
        });
        Ok(Plan {
            reads: sealed.collect(),
            changes: vec![Change::Delete { key: group_key(id) }],
            answer: (),
        })
    }

    /// Ends a group as failed: none of its snapshots is left. Gives the tables that are to be brought to
    /// replicas for that. A group that is gone is left alone.
    pub(crate) fn plan_group_fail(&self, id: GroupId) -> Plan<Vec<TableChange>> {
        let Some(group) = self.groups.get(&id) else {
            return Plan::nothing(Vec::new());
        };
        let mut changes = vec![Change::Delete { key: group_key(id) }];
        let mut answer = Vec::new();
        for member in &group.members {
            let Some((current, layer)) = self.volumes.get(&member.volume).zip(member.sealed) else {
                continue;
            };
            // What is deleted or gone back has taken its snapshot along, or will.
            if !self.has_sealed(group, member) || self.require_ready(&current.name).is_err() {
                continue;
            }
            let row = self.without(current, layer);
            answer.push(TableChange {
                volume: row.id,
                version: row.layers.version,
            });
            let key = snapshot_key(row.id, layer);
            changes.push(Change::Delete { key });
            changes.push(AnyRow::Volume(row).put());
        }
        Plan {
            reads: Vec::new(),
            changes,
            answer,
        }
    }

    /// How far a group has come with what its owners have said.
    pub(crate) fn group_progress(&self, holds: &Holds, id: GroupId) -> Progress {
        let Some(group) = self.groups.get(&id) else {
            return Progress::Failed(GroupRefusal::Over);
        };
        let mut progress = Progress::Complete;
        for member in &group.members {
            let word = holds.word(id, member.volume);
            let is_said = match member.sealed {
                _ if word == Some(HoldWord::Broken) => {
                    let volume = self.name_of(member.volume);
                    return Progress::Failed(GroupRefusal::Broken { volume });
                }
                None => !member.holds || word == Some(HoldWord::Held),
                Some(_) => !member.holds || word == Some(HoldWord::Kept),
            };
            let is_unchanged = match member.sealed {
                None => self.require_unchanged(member).is_ok(),
                // Who has said that it kept still may go.
                Some(_) => {
                    let is_there = is_said || self.require_unchanged(member).is_ok();
                    is_there && self.has_sealed(group, member)
                }
            };
            if !is_unchanged {
                let volume = self.name_of(member.volume);
                return Progress::Failed(GroupRefusal::Changed { volume });
            }
            let is_excused = member.sealed.is_some() && is_planted(Planted::GroupUnconfirmed);
            if !is_said && !is_excused {
                progress = Progress::Waiting;
            }
        }
        progress
    }

    /// Whose owners have not said what the next step needs.
    pub(crate) fn group_silent(&self, holds: &Holds, id: GroupId) -> GroupRefusal {
        let Some(group) = self.groups.get(&id) else {
            return GroupRefusal::Over;
        };
        let lacks = |member: &&MemberRow| {
            let word = holds.word(id, member.volume);
            let wanted = member.sealed.map_or(HoldWord::Held, |_| HoldWord::Kept);
            member.holds && word != Some(wanted)
        };
        let silent = group.members.iter().filter(lacks).map(|member| {
            let current = self.volumes.get(&member.volume);
            let owner = current.and_then(|row| row.attached_by.clone());
            (self.name_of(member.volume), owner.unwrap_or_default())
        });
        GroupRefusal::Silent {
            members: silent.collect(),
        }
    }

    /// The snapshots that were sealed for a group, of these volumes.
    pub(crate) fn snapshots_of_group(&self, id: GroupId, volumes: &[VolumeId]) -> Vec<Snapshot> {
        let of_volume = |volume: &VolumeId| {
            let row = self.snapshots.of(*volume).find(|s| s.group == Some(id))?;
            self.snapshot_at(*volume, row.layer)
        };
        volumes.iter().filter_map(of_volume).collect()
    }

    /// The volumes of a group in the making.
    pub(crate) fn group_volumes(&self, id: GroupId) -> Vec<VolumeId> {
        let members = self.groups.get(&id).map(|group| &group.members);
        let members = members.into_iter().flatten();
        members.map(|member| member.volume).collect()
    }

    /// The groups in the making.
    pub(crate) fn groups(&self) -> impl Iterator<Item = GroupId> {
        self.groups.keys().copied()
    }

    /// The id that the next group gets.
    pub(crate) fn next_group(&self) -> GroupId {
        GroupId::new(self.cluster.next_group)
    }

    /// Whether what an owner says of a hold is to be taken.
    pub(crate) fn check_hold(&self, volume: &str, request: &ReportHold) -> Result<(), Refusal> {
        let current = self.require_same(volume, request.volume)?;
        if current.generation != request.generation || current.attached_by.is_none() {
            return Err(stale_generation(current, request.generation).into());
        }
        let group = self.require_group(request.group)?;
        let is_asked = |member: &MemberRow| {
            (member.volume, member.generation) == (request.volume, request.generation)
                && member.holds
        };
        if !group.members.iter().any(is_asked) {
            return Err(GroupRefusal::Over.into());
        }
        Ok(())
    }

    /// What an owner is answered.
    pub(crate) fn hold_answer(&self, request: &ReportHold) -> HoldAnswer {
        let group = self.groups.get(&request.group);
        let of_volume = |member: &&MemberRow| member.volume == request.volume;
        let member = group.and_then(|group| group.members.iter().find(of_volume));
        let head = self.volumes.get(&request.volume).map(|row| row.head_layer);
        HoldAnswer {
            outcome: match member.map(|member| member.sealed) {
                None => HoldOutcome::Over,
                Some(None) => HoldOutcome::Waiting,
                Some(Some(_)) => HoldOutcome::Sealed,
            },
            head_layer: head.unwrap_or_default(),
        }
    }

    /// What the owner of a volume is asked.
    pub(super) fn hold_of(&self, volume: &VolumeRow) -> Option<VolumeHold> {
        let member = self.member(volume.id)?;
        let is_asked = member.holds && member.generation == volume.generation;
        is_asked.then(|| VolumeHold {
            group: self.grouped[&volume.id],
            sealed: member.sealed,
        })
    }

    /// Whether the head of the volume of that name is kept for a group.
    pub(crate) fn is_held(&self, volume: &str) -> bool {
        let current = self.volume_named(volume);
        current.is_some_and(|row| self.refuse_held(row).is_err())
    }

    /// The head of a volume whose owner holds is sealed for the group and for nothing else.
    pub(super) fn refuse_held(&self, volume: &VolumeRow) -> Result<(), GroupRefusal> {
        match self.member(volume.id) {
            Some(member) if member.sealed.is_none() => Err(in_progress(volume)),
            _ => Ok(()),
        }
    }

    /// A snapshot of a group in the making stands and falls with it.
    pub(super) fn refuse_unconfirmed(
        &self,
        volume: &VolumeRow,
        row: &SnapshotRow,
    ) -> Result<(), GroupRefusal> {
        if self.is_unconfirmed(row) {
            return Err(in_progress(volume));
        }
        Ok(())
    }

    /// Whether the group of a snapshot is still in the making.
    pub(super) fn is_unconfirmed(&self, row: &SnapshotRow) -> bool {
        row.group.is_some_and(|id| self.groups.contains_key(&id))
    }

    pub(super) fn put_group(&mut self, revision: Revision, row: GroupRow) {
        let volumes: Vec<VolumeId> = row.members.iter().map(|member| member.volume).collect();
        for volume in volumes {
            self.grouped.insert(volume, row.id);
            self.remap(volume, revision);
        }
        self.groups.insert(row.id, row);
    }

    pub(super) fn remove_group(&mut self, revision: Revision, id: GroupId) {
        let before = self.groups.remove(&id);
        for member in before.into_iter().flat_map(|row| row.members) {
            self.grouped.remove(&member.volume);
            if self.volumes.contains_key(&member.volume) {
                self.remap(member.volume, revision);
            }
        }
    }

    fn require_group(&self, id: GroupId) -> Result<&GroupRow, GroupRefusal> {
        self.groups.get(&id).ok_or(GroupRefusal::Over)
    }

    fn member(&self, volume: VolumeId) -> Option<&MemberRow> {
        let group = self.groups.get(self.grouped.get(&volume)?)?;
        group.members.iter().find(|member| member.volume == volume)
    }

    /// The volume of a member, if it is attached or not as it was when the group began.
    fn require_unchanged(&self, member: &MemberRow) -> Result<&VolumeRow, Refusal> {
        let name = self.name_of(member.volume);
        let current = self.require_ready(&name)?;
        if current.generation != member.generation || has_writer(current) != member.holds {
            return Err(GroupRefusal::Changed { volume: name }.into());
        }
        Ok(current)
    }

    /// Whether the snapshot that was sealed for a member is there.
    fn has_sealed(&self, group: &GroupRow, member: &MemberRow) -> bool {
        let row = |layer: Layer| self.snapshots.at(member.volume, layer);
        let row = member.sealed.and_then(row);
        row.is_some_and(|row| row.group == Some(group.id))
    }

    fn name_of(&self, volume: VolumeId) -> String {
        let row = self.volumes.get(&volume);
        row.map_or_else(|| volume.to_string(), |row| row.name.clone())
    }
}

/// Whether somebody has a volume attached who may write to it.
fn has_writer(volume: &VolumeRow) -> bool {
    volume.attached_by.is_some() && !volume.attached_for_repair
}

fn in_progress(volume: &VolumeRow) -> GroupRefusal {
    let volume = volume.name.clone();
    GroupRefusal::InProgress { volume }
}
