//! Plans for iSCSI targets: which volumes they offer, to whom, and what initiators have to know.
//!
//! Invariants: what a target has as a unit is a volume that is ready: mapping a volume changes its
//! row, so that nobody deletes it meanwhile, and a volume that is deleted is unmapped in the same
//! transaction; a target has no number and no volume twice; no initiator has the secret that the
//! target itself shows.

use ashlar_proto::api::{
    CreateTarget, DiscoverySecrets, MapUnit, Revision, ServedTarget, ServedTargets, SetAcl, Target,
    TargetUnit,
};
use ashlar_proto::limits::{TARGET_INITIATORS_MAX, TARGET_UNITS_MAX, TARGETS_MAX};
use ashlar_proto::{InitiatorPattern, IscsiName, Lun};

use super::chap::chap_user;
use super::{ClusterState, Plan};
use crate::meta::Change;
use crate::refusal::{InvalidRequest, Refusal, TargetRefusal, check_alias};
use crate::row::{AnyRow, TargetRow, UnitRow, VolumeRow, target_key};

/// Targets that a refusal names.
const TARGETS_NAMED_MAX: usize = 5;

impl ClusterState {
    /// All targets, by name.
    pub(crate) fn targets(&self) -> Vec<Target> {
        self.targets
            .values()
            .map(|row| self.show_target(row))
            .collect()
    }

    /// One of them.
    pub(crate) fn target(&self, name: &IscsiName) -> Result<Target, TargetRefusal> {
        self.require_target(name).map(|row| self.show_target(row))
    }

    /// When one of them last changed, or later.
    pub(crate) fn targets_changed(&self) -> Revision {
        self.targets_changed
    }

    /// All targets with their secrets, and all servers.
    pub(crate) fn served_targets(&self) -> ServedTargets {
        let served = |row: &TargetRow| ServedTarget {
            name: row.name.clone(),
            alias: row.alias.clone(),
            units: self.show_units(row),
            initiators: row.initiators.clone(),
            chap: row.chap.clone(),
            mutual: row.mutual.clone(),
        };
        ServedTargets {
            revision: self.targets_changed,
            cluster: self.cluster(),
            targets: self.targets.values().map(served).collect(),
            discovery: DiscoverySecrets {
                chap: self.discovery.chap.clone(),
                mutual: self.discovery.mutual.clone(),
            },
            servers: self.servers(),
        }
    }

    /// A new target.
    pub(crate) fn plan_target_create(
        &self,
        request: &CreateTarget,
    ) -> Result<Plan<IscsiName>, Refusal> {
        if let Some(alias) = &request.alias {
            check_alias(alias).map_err(InvalidRequest::from)?;
        }
        let name = request.name.clone();
        if self.targets.contains_key(&name) {
            return Err(TargetRefusal::Exists { name }.into());
        }
        if self.targets.len() >= TARGETS_MAX {
            return Err(too_many("targets", TARGETS_MAX));
        }
        let row = TargetRow {
            name,
            alias: request.alias.clone(),
            units: Vec::new(),
            initiators: once_each(&request.initiators)?,
            chap: Vec::new(),
            mutual: None,
        };
        Ok(store(row))
    }

    /// The end of a target; front ends end its sessions when they hear of it.
    pub(crate) fn plan_target_delete(&self, name: &IscsiName) -> Result<Plan<()>, Refusal> {
        let row = self.require_target(name)?;
        let key = target_key(&row.name);
        Ok(Plan {
            reads: Vec::new(),
            changes: vec![Change::Delete { key }],
            answer: (),
        })
    }

    /// A volume becomes a logical unit. Repeating it changes nothing.
    pub(crate) fn plan_map_unit(
        &self,
        name: &IscsiName,
        request: &MapUnit,
    ) -> Result<Plan<IscsiName>, Refusal> {
        let mut row = self.require_target(name)?.clone();
        let volume = self.require_ready(&request.volume)?;
        let read_only = request.read_only;
        if let Some(unit) = row.units.iter().find(|unit| unit.volume == volume.id) {
            let is_same = request.lun.is_none_or(|lun| lun == unit.lun);
            if is_same && unit.read_only == read_only {
                return Ok(Plan::nothing(row.name));
            }
            let (lun, volume) = (unit.lun, volume.name.clone());
            let name = row.name;
            return Err(TargetRefusal::Mapped { name, lun, volume }.into());
        }
        // What decides conflicts of reservations is known by unit: a second one would not see them.
        let elsewhere = self.targets.values().find_map(|target| {
            let unit = target.units.iter().find(|unit| unit.volume == volume.id)?;
            Some((target.name.clone(), unit.lun))
        });
        if let Some((name, lun)) = elsewhere {
            let volume = volume.name.clone();
            return Err(TargetRefusal::Mapped { name, lun, volume }.into());
        }
        if row.units.len() >= TARGET_UNITS_MAX {
            return Err(too_many("units", TARGET_UNITS_MAX));
        }
        let lun = match request.lun {
            Some(lun) => lun,
            None => first_free(&row.units).ok_or_else(|| too_many("units", TARGET_UNITS_MAX))?,
        };
        let at = match row.units.binary_search_by_key(&lun, |unit| unit.lun) {
            Err(at) => at,
            Ok(at) => {
                let volume = self.name_of_unit(row.units[at]);
                let name = row.name;
                return Err(TargetRefusal::LunTaken { name, lun, volume }.into());
            }
        };
        let unit = UnitRow {
            lun,
            volume: volume.id,
            read_only,
        };
        row.units.insert(at, unit);
        let mut plan = store(row);
        plan.changes.push(AnyRow::Volume(volume.clone()).put());
        Ok(plan)
    }

    /// A target offers a number no more.
    pub(crate) fn plan_unmap_unit(
        &self,
        name: &IscsiName,
        lun: Lun,
    ) -> Result<Plan<IscsiName>, Refusal> {
        let mut row = self.require_target(name)?.clone();
        let Ok(at) = row.units.binary_search_by_key(&lun, |unit| unit.lun) else {
            let name = row.name;
            return Err(TargetRefusal::NoUnit { name, lun }.into());
        };
        row.units.remove(at);
        Ok(store(row))
    }

    /// These may log in, and nobody else.
    pub(crate) fn plan_set_acl(
        &self,
        name: &IscsiName,
        request: &SetAcl,
    ) -> Result<Plan<IscsiName>, Refusal> {
        let current = self.require_target(name)?;
        let row = TargetRow {
            initiators: once_each(&request.initiators)?,
            ..current.clone()
        };
        Ok(store_if_other(current, row))
    }

    /// These may log in, too. Repeating it changes nothing.
    pub(crate) fn plan_allow_initiator(
        &self,
        name: &IscsiName,
        initiator: &InitiatorPattern,
    ) -> Result<Plan<IscsiName>, Refusal> {
        let current = self.require_target(name)?;
        let mut row = current.clone();
        if !row.initiators.contains(initiator) {
            if row.initiators.len() >= TARGET_INITIATORS_MAX {
                return Err(too_many("initiators", TARGET_INITIATORS_MAX));
            }
            row.initiators.push(initiator.clone());
        }
        Ok(store_if_other(current, row))
    }

    /// These may not log in any more, unless another entry lets them.
    pub(crate) fn plan_remove_initiator(
        &self,
        name: &IscsiName,
        initiator: &InitiatorPattern,
    ) -> Result<Plan<IscsiName>, Refusal> {
        let mut row = self.require_target(name)?.clone();
        let Some(at) = row.initiators.iter().position(|some| some == initiator) else {
            let (name, initiator) = (row.name, initiator.clone());
            return Err(TargetRefusal::NotAllowed { name, initiator }.into());
        };
        row.initiators.remove(at);
        Ok(store(row))
    }

    /// The rows of the targets that offer a volume, without it; refused, unless forced, where there
    /// are any.
    pub(super) fn unmapped_everywhere(
        &self,
        volume: &VolumeRow,
        force: bool,
    ) -> Result<Vec<Change>, TargetRefusal> {
        let offers = |row: &&TargetRow| row.units.iter().any(|unit| unit.volume == volume.id);
        let offering: Vec<&TargetRow> = self.targets.values().filter(offers).collect();
        if !offering.is_empty() && !force {
            let names = offering.iter().map(|row| row.name.to_string());
            return Err(TargetRefusal::VolumeMapped {
                volume: volume.name.clone(),
                targets: names.take(TARGETS_NAMED_MAX).collect(),
                count: offering.len(),
            });
        }
        let without = |row: &TargetRow| {
            let mut row = row.clone();
            row.units.retain(|unit| unit.volume != volume.id);
            AnyRow::Target(row).put()
        };
        Ok(offering.into_iter().map(without).collect())
    }

    pub(super) fn require_target(&self, name: &IscsiName) -> Result<&TargetRow, TargetRefusal> {
        let found = self.targets.get(name);
        found.ok_or_else(|| TargetRefusal::NotFound { name: name.clone() })
    }

    /// A target, without its secrets.
    pub(crate) fn show_target(&self, row: &TargetRow) -> Target {
        Target {
            name: row.name.clone(),
            alias: row.alias.clone(),
            units: self.show_units(row),
            initiators: row.initiators.clone(),
            chap: row.chap.iter().map(chap_user).collect(),
            mutual: row.mutual.as_ref().map(|login| login.user.clone()),
        }
    }

    fn show_units(&self, row: &TargetRow) -> Vec<TargetUnit> {
        let show = |unit: &UnitRow| TargetUnit {
            lun: unit.lun,
            volume: unit.volume,
            volume_name: self.name_of_unit(*unit),
            read_only: unit.read_only,
        };
        row.units.iter().map(show).collect()
    }

    fn name_of_unit(&self, unit: UnitRow) -> String {
        let volume = self.volumes.get(&unit.volume);
        volume.map_or_else(|| "?".to_owned(), |row| row.name.clone())
    }
}

/// A plan that stores a target.
fn store(row: TargetRow) -> Plan<IscsiName> {
    let answer = row.name.clone();
    Plan {
        reads: Vec::new(),
        changes: vec![AnyRow::Target(row).put()],
        answer,
    }
}

/// A plan that stores a target if that changes it.
pub(super) fn store_if_other(current: &TargetRow, row: TargetRow) -> Plan<IscsiName> {
    if *current == row {
        Plan::nothing(row.name)
    } else {
        store(row)
    }
}

pub(super) fn too_many(field: &'static str, most: usize) -> Refusal {
    InvalidRequest::TooMany { field, most }.into()
}

/// The lowest number from 1 on that no unit has; units are by number.
fn first_free(units: &[UnitRow]) -> Option<Lun> {
    let mut free = Lun::FIRST;
    for unit in units {
        if unit.lun == free {
            free = Lun::new(free.get().checked_add(1)?).ok()?;
        }
    }
    Some(free)
}

/// The list without those that are in it before.
fn once_each(initiators: &[InitiatorPattern]) -> Result<Vec<InitiatorPattern>, Refusal> {
    if initiators.len() > TARGET_INITIATORS_MAX {
        return Err(too_many("initiators", TARGET_INITIATORS_MAX));
    }
    let mut list: Vec<InitiatorPattern> = Vec::with_capacity(initiators.len());
    for initiator in initiators {
        if !list.contains(initiator) {
            list.push(initiator.clone());
        }
    }
    Ok(list)
}
