//! The rows of settings: those of the cluster, and those of each volume that has any.

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
