//! Volumes that change their size.

use serde::{Deserialize, Serialize};

use crate::ids::{ByteCount, Generation};

/// `POST /v1/volumes/{name}/resize`: makes a volume larger, attached or not, or smaller while nobody
/// has it attached.
///
/// The present size ends a growth that has not come to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ResizeVolume {
    /// The size that it is to have: a multiple of 4 KiB, from 1 MiB to 4 PiB.
    pub size_bytes: ByteCount,
    /// A size below the present one is meant: what lies beyond it is cut off.
    #[serde(default, skip_serializing_if = "super::is_false")]
    pub shrink: bool,
    /// The generation of the last attach, if that is the condition: nobody has attached the volume
    /// since. A smaller size needs it: who has found, or made, that nothing lies beyond it was the last
    /// to have the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
}
