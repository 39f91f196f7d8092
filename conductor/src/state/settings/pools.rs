//! Settings of pools: shown, and how they change.
//!
//! A pool is the disks that have some labels; its name is these labels. It is there without a row: what it has
//! is what is set for it, and the volumes whose setting `pool` names it.
//!
//! Invariant: the maps of a pool's volumes count as changed when its settings do, also when these go and the
//! conductor starts again: the row of the cluster, which never goes, is put with their removal.

use std::collections::BTreeMap;

use ashlar_proto::api::{ChangePoolSettings, PoolSettings, Revision, Settings};

use super::{Applying, Whose, changed, show};
use crate::meta::Change;
use crate::refusal::{InvalidRequest, Refusal};
use crate::row::{AnyRow, PoolSettingsRow, SettingsRow, pool_settings_key};
use crate::settings::{TABLE, Values, pool_named, pool_of};
use crate::state::{ClusterState, Plan};

/// Most pools that have settings.
const POOLS_MAX: usize = 1024;

/// What is set for a pool.
#[derive(Clone, Debug, Default)]
pub(super) struct Pool {
    pub(super) values: Values,
    /// The revision that last changed them.
    pub(super) changed: Revision,
}

impl ClusterState {
    pub(in crate::state) fn put_pool_settings(&mut self, revision: Revision, row: PoolSettingsRow) {
        let pool = Pool {
            values: row.set,
            changed: revision,
        };
        self.settings.pools.insert(row.pool, pool);
    }

    pub(in crate::state) fn remove_pool_settings(&mut self, revision: Revision, pool: &str) {
        self.settings.pools.remove(pool);
        self.settings.changed = revision.max(self.settings.changed);
    }

    /// Every setting that a pool can have, as it holds for the volumes of the pool that do not say otherwise.
    pub(crate) fn show_pool(&self, pool: &str) -> Result<Settings, Refusal> {
        let pool = named(pool)?;
        let own = self.settings.pools.get(&pool);
        let applying = Applying {
            pool: own.map(|pool| &pool.values),
            ..self.applying_to_all()
        };
        let shown = TABLE.iter().filter(|definition| definition.is_of_pools());
        Ok(Settings {
            items: shown.map(|definition| show(definition, applying)).collect(),
            pool: Some(pool),
        })
    }

    /// The pools that have settings or volumes, by name.
    pub(crate) fn show_pools(&self) -> Vec<PoolSettings> {
        let set = self.settings.pools.iter();
        let mut pools: BTreeMap<&str, (Option<&Values>, u64)> = set
            .map(|(name, pool)| (name.as_str(), (Some(&pool.values), 0)))
            .collect();
        for volume in self.volumes.keys() {
            let own = self.settings.volumes.get(volume);
            if let Some(pool) = pool_of(own, &self.settings.cluster) {
                pools.entry(pool).or_default().1 += 1;
            }
        }
        let shown = pools
            .into_iter()
            .map(|(pool, (values, volumes))| PoolSettings {
                pool: pool.to_owned(),
                settings: values.cloned().unwrap_or_default(),
                volumes,
            });
        shown.collect()
    }

    /// Changes settings of a pool, all of them or none.
    pub(crate) fn plan_pool_settings(
        &self,
        pool: &str,
        request: &ChangePoolSettings,
    ) -> Result<Plan<()>, Refusal> {
        let pool = named(pool)?;
        let before = self.settings.pools.get(&pool);
        let before = before.map(|pool| &pool.values);
        let Some(set) = changed(before, (&request.set, &request.unset), Whose::Pool)? else {
            return Ok(Plan::nothing(()));
        };
        let most = POOLS_MAX;
        if before.is_none() && self.settings.pools.len() >= most {
            return Err(InvalidRequest::TooManyPools { most }.into());
        }
        let changes = if set.is_empty() {
            let cluster = SettingsRow {
                volume: None,
                values: self.settings.cluster.clone(),
            };
            let key = pool_settings_key(&pool);
            vec![Change::Delete { key }, AnyRow::Settings(cluster).put()]
        } else {
            vec![AnyRow::PoolSettings(PoolSettingsRow { pool, set }).put()]
        };
        Ok(Plan {
            reads: Vec::new(),
            changes,
            answer: (),
        })
    }
}

fn named(pool: &str) -> Result<String, Refusal> {
    pool_named(pool).map_err(|problem| {
        let problem = problem.to_string();
        InvalidRequest::Pool { problem }.into()
    })
}
