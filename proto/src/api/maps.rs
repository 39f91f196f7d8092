//! The maps of many volumes, asked for at once.

use serde::{Deserialize, Serialize};

use super::{Revision, VolumeMap};

/// One of the volumes of [`AskMaps`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AskedMap {
    /// The volume's name.
    pub name: String,
    /// The revision of the map that is known.
    pub after: Revision,
}

/// `POST /v1/maps?wait_ms=N`: for the maps of all volumes that one process has attached. Answers at
/// once when some have changed, each after its revision, or are gone, else when one does or the
/// wait ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AskMaps {
    /// The volumes, at most [`crate::limits::MAPS_ASKED_MAX`].
    pub volumes: Vec<AskedMap>,
}

/// The answer to [`AskMaps`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VolumeMaps {
    /// Of those that have changed the first, at most [`crate::limits::MAPS_ANSWERED_MAX`].
    pub maps: Vec<VolumeMap>,
    /// The names that no volume has.
    pub gone: Vec<String>,
}
