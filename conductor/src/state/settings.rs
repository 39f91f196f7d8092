//! Settings as they stand, and how they change.

use std::collections::BTreeMap;
use std::time::Duration;

use ashlar_proto::VolumeId;
use ashlar_proto::api::{
    ChangeSettings, Revision, Setting, SettingScope, SettingSource, Settings, VolumeSettings,
};

use super::{ClusterState, Plan};
use crate::meta::Change;
use crate::placement::Rules;
use crate::refusal::{InvalidRequest, Refusal};
use crate::row::{AnyRow, SettingsRow, settings_key, volume_key};
use crate::settings::{
    Definition, LIMITS, TABLE, UP_TO_THE_PROCESS, Values, definition, number_of, of_volume,
    rules_of, time_of,
};

/// All settings.
#[derive(Clone, Debug, Default)]
pub(super) struct AllSettings {
    cluster: Values,
    /// The revision that last changed those of the cluster.
    changed: Revision,
    volumes: BTreeMap<VolumeId, Values>,
}

/// New replicas that are filled at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RebuildLimits {
    /// On one disk.
    pub(crate) per_disk: usize,
    /// In the cluster, times the nodes that are up.
    pub(crate) per_node: usize,
}

impl ClusterState {
    /// What an owner does by the settings of its volume.
    pub(super) fn volume_settings(&self, volume: VolumeId) -> VolumeSettings {
        let own = self.settings.volumes.get(&volume);
        of_volume(own, &self.settings.cluster)
    }

    /// Where the replicas of a volume may lie.
    pub(super) fn placement_rules(&self, volume: VolumeId) -> Rules {
        let own = self.settings.volumes.get(&volume);
        rules_of(own, &self.settings.cluster)
    }

    /// What bounds the requests of a volume's clients, where that is set for it.
    pub(super) fn limits_of(&self, volume: VolumeId) -> Values {
        let own = self.settings.volumes.get(&volume).into_iter().flatten();
        let limits = own.filter(|(name, _)| LIMITS.contains(&name.as_str()));
        limits
            .map(|(name, text)| (name.clone(), text.clone()))
            .collect()
    }

    /// The settings of a volume that is to be made, as they are stored, and what they mean for its place.
    pub(super) fn settings_of_new(&self, asked: &Values) -> Result<(Values, Rules), Refusal> {
        let mut values = Values::new();
        for (name, text) in asked {
            values.insert(name.clone(), checked(name, text, true)?);
        }
        let rules = rules_of(Some(&values), &self.settings.cluster);
        Ok((values, rules))
    }

    /// The revision that last changed the settings of the cluster: what every map says depends on them.
    pub(super) fn settings_changed(&self) -> Revision {
        self.settings.changed
    }

    /// A time that is set for the cluster.
    pub(crate) fn time_set(&self, name: &str) -> Option<Duration> {
        time_of(&self.settings.cluster, name)
    }

    /// How much is rebuilt at a time.
    pub(crate) fn rebuild_limits(&self) -> RebuildLimits {
        use super::slots::{DISK_FRESH_MAX, NODE_FRESH_MAX};
        let limit = |name, usual: usize| {
            let is_set = self.settings.cluster.contains_key(name);
            let number = number_of(&self.settings.cluster, name);
            match number {
                Some(number) => usize::try_from(number).unwrap_or(usize::MAX),
                None if is_set => usize::MAX,
                None => usual,
            }
        };
        RebuildLimits {
            per_disk: limit("rebuilds-per-disk", DISK_FRESH_MAX),
            per_node: limit("rebuilds-per-node", NODE_FRESH_MAX),
        }
    }

    pub(super) fn put_settings(&mut self, revision: Revision, row: SettingsRow) {
        match row.volume {
            Some(volume) => {
                self.settings.volumes.insert(volume, row.values);
                self.remap(volume, revision);
            }
            None => {
                self.settings.cluster = row.values;
                self.settings.changed = revision;
            }
        }
    }

    pub(super) fn remove_settings(&mut self, revision: Revision, volume: Option<VolumeId>) {
        match volume {
            Some(volume) => {
                self.settings.volumes.remove(&volume);
                // One that goes with them has no map.
                if self.has_volume(volume) {
                    self.remap(volume, revision);
                }
            }
            None => self.put_settings(revision, SettingsRow::default()),
        }
    }

    /// The change that removes the settings of a volume that goes, if it has any.
    pub(super) fn settings_gone(&self, volume: VolumeId) -> Option<Change> {
        let has_any = self.settings.volumes.contains_key(&volume);
        has_any.then(|| Change::Delete {
            key: settings_key(Some(volume)),
        })
    }

    /// Every setting of the cluster, or every one that a volume has.
    pub(crate) fn show_settings(&self, volume: Option<&str>) -> Result<Settings, Refusal> {
        let own = match volume {
            Some(name) => self.settings.volumes.get(&self.require(name)?.id),
            None => None,
        };
        let shown = TABLE
            .iter()
            .filter(|d| volume.is_none() || d.scope == SettingScope::Volume);
        let items = shown.map(|d| self.show_setting(d, own)).collect();
        Ok(Settings { items })
    }

    fn show_setting(&self, definition: &Definition, own: Option<&Values>) -> Setting {
        let default = definition.default.unwrap_or(UP_TO_THE_PROCESS);
        let of_own = own.and_then(|own| own.get(definition.name));
        let of_cluster = self.settings.cluster.get(definition.name);
        let (value, source) = match (of_own, of_cluster) {
            (Some(value), _) => (value.as_str(), SettingSource::Volume),
            (None, Some(value)) => (value.as_str(), SettingSource::Cluster),
            (None, None) => (default, SettingSource::Default),
        };
        Setting {
            name: definition.name.to_owned(),
            scope: definition.scope,
            value: value.to_owned(),
            source,
            default: default.to_owned(),
            unit: definition.kind.unit().to_owned(),
            range: definition.kind.range(),
            effect: definition.effect.to_owned(),
        }
    }

    /// Changes settings, all of them or none.
    pub(crate) fn plan_settings(&self, request: &ChangeSettings) -> Result<Plan<()>, Refusal> {
        let volume = match &request.volume {
            Some(name) => Some(self.require_ready(name)?.id),
            None => None,
        };
        let before = match volume {
            Some(volume) => self.settings.volumes.get(&volume),
            None => Some(&self.settings.cluster),
        };
        let mut values = before.cloned().unwrap_or_default();
        for name in &request.unset {
            known(name, volume.is_some())?;
            values.remove(name);
        }
        for (name, text) in &request.set {
            values.insert(name.clone(), checked(name, text, volume.is_some())?);
        }
        if before.unwrap_or(&Values::new()) == &values {
            return Ok(Plan::nothing(()));
        }
        let change = match (volume, values.is_empty()) {
            (Some(volume), true) => Change::Delete {
                key: settings_key(Some(volume)),
            },
            _ => AnyRow::Settings(SettingsRow { volume, values }).put(),
        };
        Ok(Plan {
            // A volume that goes meanwhile leaves no settings behind.
            reads: volume.map(volume_key).into_iter().collect(),
            changes: vec![change],
            answer: (),
        })
    }
}

/// A value as it is stored.
fn checked(name: &str, text: &str, of_volume: bool) -> Result<String, Refusal> {
    let value = known(name, of_volume)?.kind.read(text);
    let value = value.map_err(|problem| InvalidRequest::Setting {
        name: name.to_owned(),
        problem: problem.to_string(),
    })?;
    Ok(value.to_string())
}

/// The setting of a name, if it can be set for that.
fn known(name: &str, of_volume: bool) -> Result<&'static Definition, Refusal> {
    let definition = definition(name);
    let Some(definition) = definition else {
        let name = name.chars().take(64).collect();
        return Err(InvalidRequest::NoSetting { name }.into());
    };
    if of_volume && definition.scope == SettingScope::Cluster {
        let name = definition.name.to_owned();
        return Err(InvalidRequest::NotOfVolumes { name }.into());
    }
    Ok(definition)
}
