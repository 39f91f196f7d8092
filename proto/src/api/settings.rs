//! Settings of the cluster, of pools and of volumes: what may be set, what is, and what follows for an owner.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::ByteCount;

/// What a setting is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum SettingScope {
    /// The cluster alone.
    Cluster,
    /// A volume; set for a pool or for the cluster, it holds for all volumes there that do not say otherwise.
    Volume,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum SettingSource {
    /// Nobody has set it.
    Default,
    /// It is set for the cluster.
    Cluster,
    /// It is set for the pool.
    Pool,
    /// It is set for the volume.
    Volume,
}

/// A setting as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// What it is of.
    pub scope: SettingScope,
    /// The value that holds, as it is set: `5m`, `8MiB`, `90`.
    pub value: String,
    /// Where that comes from.
    pub source: SettingSource,
    /// The value that holds where nobody sets one.
    pub default: String,
    /// What it is counted in: `time`, `bytes`, `bytes per second`, `percent`, …
    pub unit: String,
    /// Which values are possible.
    pub range: String,
    /// What it does, and when a change of it does so.
    pub effect: String,
    /// Whether it can be set for a pool.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub of_pools: bool,
}

/// `GET /v1/config?volume=NAME`: every setting of the cluster, or every one that the volume has;
/// `GET /v1/config/pools/SELECTOR`: every one that a pool can have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Settings {
    /// By name.
    pub items: Vec<Setting>,
    /// The pool that they are of, or that the volume is in; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
}

/// `POST /v1/config/pools/SELECTOR`: changes settings of a pool, all of them or none. Answers with [`Settings`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ChangePoolSettings {
    /// Values by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Names of those that are as if nobody had set them for the pool from now on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unset: Vec<String>,
}

/// A pool that has settings or volumes: an item of `GET /v1/config/pools`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PoolSettings {
    /// Its labels, by name: `media=nvme,zone=a`.
    pub pool: String,
    /// What is set for it, by name.
    pub settings: BTreeMap<String, String>,
    /// How many volumes are in it.
    pub volumes: u64,
}

/// `POST /v1/config`: changes settings, all of them or none. Answers with [`Settings`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ChangeSettings {
    /// The volume that they are of; the cluster's if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// Values by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Names of those that are as if nobody had set them from now on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unset: Vec<String>,
}

/// What an owner does by the settings of its volume. What is absent is as the owner's process has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VolumeSettings {
    /// Requests a second that it takes at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u64>,
    /// Bytes a second that it takes at most, of reads and writes together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<ByteCount>,
    /// The pause before each scrub, in milliseconds; 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrub_interval_ms: Option<u64>,
    /// Bytes a second that each replica reads for a scrub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrub_bytes_per_second: Option<ByteCount>,
}

impl VolumeSettings {
    /// Whether all is as the owner's process has it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
