//! Labels of volumes and disks: names and values of people's own. By those of volumes lists are narrowed,
//! by those of disks places are chosen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `POST /v1/volumes/{name}/label`: changes some labels; the others stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LabelVolume {
    /// Labels that it gets, or that get another value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Names of labels that it loses; none that it must have had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

/// `PUT /v1/volumes/{name}/labels`: these labels, and no others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetLabels {
    /// The labels.
    pub labels: BTreeMap<String, String>,
}

/// `POST /v1/disks/{id}/label`: changes some labels of a disk; the others stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LabelDisk {
    /// Labels that it gets, or that get another value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Names of labels that it loses; none that it must have had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}
