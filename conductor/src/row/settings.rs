//! The rows of settings: those of the cluster, and those of each pool and each volume that has any.

use ashlar_proto::VolumeId;
use serde::{Deserialize, Serialize};

use crate::meta::Key;
use crate::settings::Values;

/// Settings of the cluster, or of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SettingsRow {
    /// The volume that they are of; the cluster's if `None`.
    pub(crate) volume: Option<VolumeId>,
    /// As [`crate::settings`] writes them.
    pub(crate) values: Values,
}

/// The row of the cluster, or of a volume.
pub(crate) fn settings_key(volume: Option<VolumeId>) -> Key {
    match volume {
        None => Key::new("settings/cluster"),
        Some(volume) => Key::new(format!("settings/{volume}")),
    }
}

/// Where the rows of pools begin, after the kind.
const POOLS: &str = "pool/";

/// Settings of a pool.
///
/// Its fields are other ones than those of [`SettingsRow`]: a conductor that knows no settings of pools refuses
/// the row, and does not take it for the cluster's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PoolSettingsRow {
    /// Its labels, written as [`crate::settings`] writes them.
    pub(crate) pool: String,
    /// What is set for it: never nothing.
    pub(crate) set: Values,
}

/// The row of a pool.
pub(crate) fn pool_settings_key(pool: &str) -> Key {
    Key::new(format!("settings/{POOLS}{pool}"))
}

/// The pool of a row of settings whose key goes on so after the kind, if it is a pool's.
pub(crate) fn settings_pool(rest: &str) -> Option<&str> {
    rest.strip_prefix(POOLS)
}
