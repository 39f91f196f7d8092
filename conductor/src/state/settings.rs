//! Settings as they stand, and how they change.

use std::collections::BTreeMap;
use std::time::Duration;

use ashlar_proto::VolumeId;
use ashlar_proto::api::{
    ChangeSettings, Revision, Setting, SettingScope, SettingSource, Settings, VolumeSettings,
};

mod pools;

use super::{ClusterState, Plan};
use crate::meta::Change;
use crate::placement::Rules;
use crate::refusal::{InvalidRequest, Refusal};
#[cfg(test)]
use crate::row::PoolSettingsRow;
use crate::row::{AnyRow, SettingsRow, settings_key, volume_key};
use crate::settings::{
    Applying, Definition, LIMITS, POOL, TABLE, UP_TO_THE_PROCESS, Values, definition, number_of,
    pool_of, time_of,
};
use pools::Pool;

/// All settings.
#[derive(Clone, Debug, Default)]
pub(super) struct AllSettings {
    cluster: Values,
    /// The revision that last changed those of the cluster.
    changed: Revision,
    /// Of pools, by their labels as [`crate::settings::pool_named`] writes them.
    pools: BTreeMap<String, Pool>,
    volumes: BTreeMap<VolumeId, Values>,
}

#[cfg(test)]
impl AllSettings {
    /// The rows that they are read from, but for those of the cluster where these were never set.
    pub(super) fn rows(&self) -> Vec<AnyRow> {
        let cluster = SettingsRow {
            volume: None,
            values: self.cluster.clone(),
        };
        let cluster = (self.changed > Revision::default()).then_some(cluster);
        let volumes = self.volumes.iter().map(|(volume, values)| SettingsRow {
            volume: Some(*volume),
            values: values.clone(),
        });
        let pools = self.pools.iter().map(|(pool, set)| PoolSettingsRow {
            pool: pool.clone(),
            set: set.values.clone(),
        });
        let plain = cluster.into_iter().chain(volumes).map(AnyRow::Settings);
        plain.chain(pools.map(AnyRow::PoolSettings)).collect()
    }
}

/// Whose settings are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Cluster,
    Pool,
    Volume,
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
        self.applying(self.settings.volumes.get(&volume))
            .of_volume()
    }

    /// Where the replicas of a volume may lie.
    pub(super) fn placement_rules(&self, volume: VolumeId) -> Rules {
        self.applying(self.settings.volumes.get(&volume)).rules()
    }

    /// All that holds for a volume that has these settings of its own.
    fn applying<'a>(&'a self, own: Option<&'a Values>) -> Applying<'a> {
        let cluster = &self.settings.cluster;
        let pool = pool_of(own, cluster).and_then(|pool| self.settings.pools.get(pool));
        Applying {
            volume: own,
            pool: pool.map(|pool| &pool.values),
            cluster,
        }
    }

    /// What a clone of a volume has from the start: the limits that are set for the volume itself, and its
    /// pool. What is set for the pool or the cluster holds for the clone as for the volume.
    pub(super) fn settings_of_clone(&self, volume: VolumeId) -> Values {
        let own = self.settings.volumes.get(&volume).into_iter().flatten();
        let kept = own.filter(|(name, _)| LIMITS.contains(&name.as_str()) || *name == POOL);
        kept.map(|(name, text)| (name.clone(), text.clone()))
            .collect()
    }

    /// The settings of a volume that is to be made, as they are stored, and what they mean for its place.
    pub(super) fn settings_of_new(&self, asked: &Values) -> Result<(Values, Rules), Refusal> {
        let mut values = Values::new();
        for (name, text) in asked {
            values.insert(name.clone(), checked(name, text, Whose::Volume)?);
        }
        let rules = self.applying(Some(&values)).rules();
        Ok((values, rules))
    }

    /// The revision that last changed what is set for the cluster or for the pool of a volume: what its map
    /// says depends on them.
    pub(super) fn settings_changed(&self, volume: VolumeId) -> Revision {
        let AllSettings { changed, .. } = self.settings;
        let own = self.settings.volumes.get(&volume);
        let pool = pool_of(own, &self.settings.cluster);
        let pool = pool.and_then(|pool| self.settings.pools.get(pool));
        pool.map_or(changed, |pool| changed.max(pool.changed))
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
        let applying = match volume {
            Some(_) => self.applying(own),
            None => self.applying_to_all(),
        };
        let shown = TABLE
            .iter()
            .filter(|d| volume.is_none() || d.scope == SettingScope::Volume);
        let pool = volume.and_then(|_| pool_of(own, &self.settings.cluster));
        Ok(Settings {
            items: shown.map(|d| show(d, applying)).collect(),
            pool: pool.map(str::to_owned),
        })
    }

    /// What holds where nothing nearer is set.
    fn applying_to_all(&self) -> Applying<'_> {
        Applying {
            volume: None,
            pool: None,
            cluster: &self.settings.cluster,
        }
    }

    /// Changes settings, all of them or none.
    pub(crate) fn plan_settings(&self, request: &ChangeSettings) -> Result<Plan<()>, Refusal> {
        let volume = match &request.volume {
            Some(name) => Some(self.require_ready(name)?.id),
            None => None,
        };
        let (before, whose) = match volume {
            Some(volume) => (self.settings.volumes.get(&volume), Whose::Volume),
            None => (Some(&self.settings.cluster), Whose::Cluster),
        };
        let Some(values) = changed(before, (&request.set, &request.unset), whose)? else {
            return Ok(Plan::nothing(()));
        };
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

/// A setting as it holds.
fn show(definition: &Definition, applying: Applying<'_>) -> Setting {
    let default = definition.default.unwrap_or(UP_TO_THE_PROCESS);
    let found = applying.find(definition.name);
    let (value, source) = found.unwrap_or((default, SettingSource::Default));
    Setting {
        name: definition.name.to_owned(),
        scope: definition.scope,
        value: value.to_owned(),
        source,
        default: default.to_owned(),
        unit: definition.kind.unit().to_owned(),
        range: definition.kind.range(),
        effect: definition.effect.to_owned(),
        of_pools: definition.is_of_pools(),
    }
}

/// The values as they are asked to be; nothing where they are so.
fn changed(
    before: Option<&Values>,
    (set, unset): (&Values, &[String]),
    whose: Whose,
) -> Result<Option<Values>, Refusal> {
    let mut values = before.cloned().unwrap_or_default();
    for name in unset {
        known(name, whose)?;
        values.remove(name);
    }
    for (name, text) in set {
        values.insert(name.clone(), checked(name, text, whose)?);
    }
    let is_same = before.unwrap_or(&Values::new()) == &values;
    Ok((!is_same).then_some(values))
}

/// A value as it is stored.
fn checked(name: &str, text: &str, whose: Whose) -> Result<String, Refusal> {
    let value = known(name, whose)?.kind.read(text);
    let value = value.map_err(|problem| InvalidRequest::Setting {
        name: name.to_owned(),
        problem: problem.to_string(),
    })?;
    Ok(value.to_string())
}

/// The setting of a name, if it can be set for that.
fn known(name: &str, whose: Whose) -> Result<&'static Definition, Refusal> {
    let definition = definition(name);
    let Some(definition) = definition else {
        let name = name.chars().take(64).collect();
        return Err(InvalidRequest::NoSetting { name }.into());
    };
    let name = definition.name.to_owned();
    match whose {
        Whose::Volume if definition.scope == SettingScope::Cluster => {
            Err(InvalidRequest::NotOfVolumes { name }.into())
        }
        Whose::Pool if !definition.is_of_pools() => Err(InvalidRequest::NotOfPools { name }.into()),
        _ => Ok(definition),
    }
}
